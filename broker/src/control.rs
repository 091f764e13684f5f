//! Control plane.
mod challenge;
mod stream;
