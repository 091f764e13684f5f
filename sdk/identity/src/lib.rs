//! Names and proofs: trust domains, workloads, subjects, claims. Pure.
