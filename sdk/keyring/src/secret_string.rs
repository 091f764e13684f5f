//! Texts of secrets.

use std::fmt;
use std::ops::Deref;

use zeroize::Zeroizing;

/// A text that is a secret: wiped from memory when it is dropped, and not shown
/// by `Debug`.
#[derive(Clone)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes a text, which should not have grown since it was allocated: each
    /// time a `String` grows it leaves a copy behind.
    pub(crate) const fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl Deref for SecretString {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(…)")
    }
}
