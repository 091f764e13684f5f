//! With which KEM data keys are wrapped, and the lengths that go with it.

use std::fmt;

/// Ciphertext of a data key: 32 bytes and the tag.
const WRAPPED_KEY_LEN: usize = 48;

/// With which KEM data keys are wrapped. The greater is the stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KemSuite {
    /// DHKEM(X25519, HKDF-SHA256): classical.
    X25519,
    /// X-Wing: X25519 and ML-KEM-768.
    XWing,
}

impl KemSuite {
    /// Every suite, the weakest first.
    pub const ALL: [Self; 2] = [Self::X25519, Self::XWing];

    /// The suite's number in headers and hashes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::XWing => 1,
            Self::X25519 => 2,
        }
    }

    /// The suite with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::XWing),
            2 => Some(Self::X25519),
            _ => None,
        }
    }

    /// As policies write it: `xwing`, `x25519`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::XWing => "xwing",
            Self::X25519 => "x25519",
        }
    }

    /// Length of a public key, in bytes.
    #[must_use]
    pub const fn public_len(self) -> usize {
        match self {
            Self::XWing => 1216,
            Self::X25519 => 32,
        }
    }

    /// Length of an encapsulated key (`enc`), in bytes.
    #[must_use]
    pub const fn enc_len(self) -> usize {
        match self {
            Self::XWing => 1120,
            Self::X25519 => 32,
        }
    }

    /// Length of a wrapped data key, in bytes.
    #[must_use]
    pub const fn wrap_len(self) -> usize {
        self.enc_len() + WRAPPED_KEY_LEN
    }
}

impl fmt::Display for KemSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
