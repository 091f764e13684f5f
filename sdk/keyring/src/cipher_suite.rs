//! With which cipher bodies are encrypted, and what goes together.

use std::fmt;

use crate::KemSuite;

/// With which cipher bodies are encrypted. Both take keys of 32 bytes and nonces of 12,
/// make tags of 16, and protect as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cipher {
    /// ChaCha20-Poly1305 ([RFC 8439]): as fast on every processor.
    ///
    /// [RFC 8439]: https://www.rfc-editor.org/rfc/rfc8439
    ChaCha20Poly1305,
    /// AES-256-GCM ([NIST SP 800-38D]): faster where the processor has instructions for it.
    ///
    /// [NIST SP 800-38D]: https://doi.org/10.6028/NIST.SP.800-38D
    Aes256Gcm,
}

impl Cipher {
    /// Every cipher.
    pub const ALL: [Self; 2] = [Self::ChaCha20Poly1305, Self::Aes256Gcm];

    /// As policies write it: `chacha20-poly1305`, `aes-256-gcm`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }

    /// The faster one on this processor: AES-256-GCM if it has instructions both for AES
    /// and for multiplication without carries, which GCM's tag is made by. Without
    /// them AES takes several times as long as ChaCha20.
    #[must_use]
    pub fn fastest_here() -> Self {
        if has_aes_instructions() {
            Self::Aes256Gcm
        } else {
            Self::ChaCha20Poly1305
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes_instructions() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes_instructions() -> bool {
    // On this architecture `aes` stands for both.
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes_instructions() -> bool {
    false
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an encrypted envelope is made with: a KEM for its data key, and a cipher for
/// its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CipherSuite {
    /// With which KEM the data key is wrapped.
    pub kem: KemSuite,
    /// With which cipher the body is encrypted under it.
    pub cipher: Cipher,
}

impl CipherSuite {
    /// Every suite, in the order of their codes.
    pub const ALL: [Self; 4] = [
        Self::new(KemSuite::XWing, Cipher::ChaCha20Poly1305),
        Self::new(KemSuite::X25519, Cipher::ChaCha20Poly1305),
        Self::new(KemSuite::XWing, Cipher::Aes256Gcm),
        Self::new(KemSuite::X25519, Cipher::Aes256Gcm),
    ];

    /// These two together.
    #[must_use]
    pub const fn new(kem: KemSuite, cipher: Cipher) -> Self {
        Self { kem, cipher }
    }

    /// The suite's number in headers and wraps.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self.cipher {
            Cipher::ChaCha20Poly1305 => self.kem.code(),
            Cipher::Aes256Gcm => self.kem.code() + 2,
        }
    }

    /// The suite with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code.checked_sub(1)?)).copied()
    }

    /// The suite's name: of a suite with ChaCha20-Poly1305 its KEM's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match (self.kem, self.cipher) {
            (kem, Cipher::ChaCha20Poly1305) => kem.as_str(),
            (KemSuite::XWing, Cipher::Aes256Gcm) => "xwing-aes-256-gcm",
            (KemSuite::X25519, Cipher::Aes256Gcm) => "x25519-aes-256-gcm",
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_one_to_one() {
        let codes = CipherSuite::ALL.map(CipherSuite::code);
        assert_eq!(codes, [1, 2, 3, 4]);
        let names = CipherSuite::ALL.map(|suite| suite.to_string());
        assert_eq!(
            names,
            ["xwing", "x25519", "xwing-aes-256-gcm", "x25519-aes-256-gcm"]
        );
        for suite in CipherSuite::ALL {
            assert_eq!(CipherSuite::from_code(suite.code()), Some(suite));
        }
        for code in [0, 5, 255] {
            assert_eq!(CipherSuite::from_code(code), None);
        }
    }

    #[test]
    fn the_fastest_is_what_the_processor_says() {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        if flags.is_empty() {
            return;
        }
        let is_aes = has("aes") && (has("pclmulqdq") || has("pmull"));
        assert_eq!(Cipher::fastest_here() == Cipher::Aes256Gcm, is_aes);
    }
}
