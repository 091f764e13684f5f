//! End-to-end tests on a real nats-server, and their harness.
