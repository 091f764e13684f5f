//! Benchmarks beside raw NATS.
