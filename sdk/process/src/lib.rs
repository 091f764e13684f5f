//! Process plumbing shared by broker and gateway: signals, drain, readiness, logs.
