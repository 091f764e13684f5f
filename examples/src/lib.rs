//! Runnable services on Bulla.
