//! The policy: language, compiler, decisions. Pure.
