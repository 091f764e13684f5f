//! A whole deployment on one machine, for development.

mod child;
mod instance_lock;
mod issuer;
mod ports;
mod screen;
