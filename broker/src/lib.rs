//! The authorizing plugin for nats-server, and the operator's command line.
