//! The sealed envelope: wire format, seal, open, batch signatures, replay windows. Pure.
