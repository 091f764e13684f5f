//! The HTTP edge: north-south requests become sealed messages.
