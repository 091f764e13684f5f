//! Sealed messages for NATS: what a service links.
