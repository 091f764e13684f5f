//! JWT validation, JWKS sets and transaction tokens. Pure.
