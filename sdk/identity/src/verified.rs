//! The mark of something that was checked.

use std::fmt;
use std::ops::Deref;

/// A value whose origin was proven by cryptography.
///
/// There is one way in, [`Verified::danger_assert`], and it is called only at
/// the end of a check that succeeded: in bulla-envelope after the signature,
/// in bulla-token after the token's signature and times. A function that asks
/// for `Verified<T>` cannot be reached by code that skipped the check.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Asserts that `value` was just proven.
    ///
    /// # Security
    /// Calling this without a proof forges one. Every call in this workspace
    /// follows a signature verification; a reviewer searches for the name.
    #[must_use]
    pub fn danger_assert(value: T) -> Self {
        Self(value)
    }

    /// Gives the mark up and returns the value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.0).finish()
    }
}
