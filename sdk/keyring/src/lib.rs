//! Keys: the only importer of signature and encryption primitives. Pure.
