//! Hashes, key ids and comparison in constant time.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of the concatenated parts.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
#[must_use]
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Defines an id: some bytes of a hash, written in lower-case hexadecimal.
macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The id that belongs to a full hash: its first bytes.
            #[must_use]
            pub fn from_hash(hash: &[u8; 32]) -> Self {
                let mut id = [0; $len];
                for (to, from) in id.iter_mut().zip(hash) {
                    *to = *from;
                }
                Self(id)
            }

            /// Reads the lower-case hexadecimal digits that `Display` writes.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
                Some(Self(bytes.try_into().ok()?))
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Two lower-case hexadecimal digits for each byte.
            #[must_use]
            pub fn to_hex(self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

hash_id! {
    /// Names a message credential on the wire: the first 16 bytes of SHA-256 of
    /// its bytes. Signatures bind the whole hash.
    KeyId, 16
}

hash_id! {
    /// Names a KEM public key: the first 16 bytes of SHA-256([`Tag::KemKey`] ‖
    /// suite code ‖ public key).
    ///
    /// [`Tag::KemKey`]: crate::Tag::KemKey
    KemKeyId, 16
}

hash_id! {
    /// Names a data key, and commits to it: SHA-256([`Tag::DataKey`] ‖ key ‖
    /// length of the sender's workload id (2 bytes, big endian) ‖ sender's
    /// workload id ‖ epoch).
    ///
    /// [`Tag::DataKey`]: crate::Tag::DataKey
    DataKeyId, 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_id_is_the_start_of_the_hash() {
        let hash = sha256(&[b"ab", b"c"]);
        let id = KeyId::from_hash(&hash);
        // SHA-256("abc"), FIPS 180-4 example.
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(KeyId::parse(&id.to_hex()), Some(id));
        assert_eq!(KeyId::parse("ba"), None);
        assert_eq!(KeyId::parse(&id.to_hex().to_uppercase()), None);
    }

    #[test]
    fn ids_say_what_they_name() {
        let hash = sha256(&[b"abc"]);
        assert_eq!(
            format!("{:?}", KemKeyId::from_hash(&hash)),
            "KemKeyId(ba7816bf8f01cfea414140de5dae2223)"
        );
        let id = DataKeyId::from_hash(&hash);
        assert_eq!(id.as_bytes(), &hash);
        assert_eq!(DataKeyId::parse(&id.to_hex()), Some(id));
    }

    #[test]
    fn equality_sees_every_byte_and_the_length() {
        assert!(constant_time_eq(b"same", b"same"));
        assert!(!constant_time_eq(b"same", b"sama"));
        assert!(!constant_time_eq(b"same", b"samee"));
        assert!(constant_time_eq(b"", b""));
    }
}
