//! Public nkeys: the textual names of Ed25519 and X25519 public keys in NATS.

use std::fmt;

use data_encoding::BASE32_NOPAD;

/// What an nkey is for, told by its first letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NkeyKind {
    /// `U…`: a user; here a workload that proves itself at connect.
    User,
    /// `A…`: an account; here the callout's issuer.
    Account,
    /// `N…`: a nats-server.
    Server,
    /// `O…`: an operator.
    Operator,
    /// `X…`: an X25519 key for encryption (xkey).
    Curve,
}

impl NkeyKind {
    /// The prefix byte before the key in an nkey's binary form.
    const fn prefix(self) -> u8 {
        match self {
            Self::User => 20 << 3,
            Self::Account => 0,
            Self::Server => 13 << 3,
            Self::Operator => 14 << 3,
            Self::Curve => 23 << 3,
        }
    }

    fn from_prefix(prefix: u8) -> Option<Self> {
        [
            Self::User,
            Self::Account,
            Self::Server,
            Self::Operator,
            Self::Curve,
        ]
        .into_iter()
        .find(|kind| kind.prefix() == prefix)
    }
}

/// A public nkey: kind and 32 key bytes, printed as NATS prints it (`UB…`).
///
/// Parsing checks the alphabet, the length, the CRC-16 and the kind; it does
/// not check that the bytes are a sound curve point (bulla-keyring does, when
/// it verifies with it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nkey {
    kind: NkeyKind,
    bytes: [u8; 32],
}

/// Why a text is not a public nkey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NkeyError {
    /// Not 56 characters of base32.
    #[error("a public nkey is 56 characters of base32, like `UB…`")]
    Malformed,
    /// The checksum at the end does not fit.
    #[error("the nkey's checksum is wrong: a character was changed or lost")]
    Checksum,
    /// A seed (`S…`) where a public key belongs.
    #[error(
        "this is a secret seed, not a public nkey: keep it in its file and name the public key here"
    )]
    Seed,
    /// A kind that Bulla has no use for.
    #[error("this nkey is of an unknown kind")]
    UnknownKind,
}

impl Nkey {
    /// Reads the textual form, for example `UB…`.
    ///
    /// # Errors
    /// [`NkeyError`] says which rule is broken. The text is never repeated in
    /// the error: it might be a seed that was pasted by mistake.
    pub fn parse(text: &str) -> Result<Self, NkeyError> {
        if text.starts_with('S') {
            return Err(NkeyError::Seed);
        }
        if text.len() != 56 {
            return Err(NkeyError::Malformed);
        }
        let raw = BASE32_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| NkeyError::Malformed)?;
        let (body, crc) = raw.split_last_chunk::<2>().ok_or(NkeyError::Malformed)?;
        if crc16_xmodem(body).to_le_bytes() != *crc {
            return Err(NkeyError::Checksum);
        }
        let raw = body;
        let (prefix, rest) = raw.split_first().ok_or(NkeyError::Malformed)?;
        let kind = NkeyKind::from_prefix(*prefix).ok_or(NkeyError::UnknownKind)?;
        let bytes = rest.first_chunk::<32>().ok_or(NkeyError::Malformed)?;
        Ok(Self {
            kind,
            bytes: *bytes,
        })
    }

    /// The nkey that names these 32 bytes.
    #[must_use]
    pub const fn from_bytes(kind: NkeyKind, bytes: [u8; 32]) -> Self {
        Self { kind, bytes }
    }

    /// What the key is for.
    #[must_use]
    pub const fn kind(&self) -> NkeyKind {
        self.kind
    }

    /// The raw public key: Ed25519 ([RFC 8032]), or X25519 for [`NkeyKind::Curve`].
    ///
    /// [RFC 8032]: https://www.rfc-editor.org/rfc/rfc8032
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Display for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = [0u8; 35];
        let (head, crc) = raw.split_at_mut(33);
        if let Some((prefix, key)) = head.split_first_mut() {
            *prefix = self.kind.prefix();
            key.copy_from_slice(&self.bytes);
        }
        crc.copy_from_slice(&crc16_xmodem(head).to_le_bytes());
        f.write_str(&BASE32_NOPAD.encode(&raw))
    }
}

impl fmt::Debug for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// CRC-16/XMODEM, as nkeys append it (polynomial 0x1021, initial value 0).
fn crc16_xmodem(data: &[u8]) -> u16 {
    data.iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_for_every_kind() {
        for pair in [
            nkeys::KeyPair::new_user(),
            nkeys::KeyPair::new_account(),
            nkeys::KeyPair::new_server(),
            nkeys::KeyPair::new_operator(),
        ] {
            let text = pair.public_key();
            let key = Nkey::parse(&text).unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(Nkey::from_bytes(key.kind(), *key.bytes()), key);
        }
        let text = nkeys::XKey::new().public_key();
        assert_eq!(Nkey::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn damage_is_refused() {
        let text = nkeys::KeyPair::new_user().public_key();
        let mut swapped = text.clone().into_bytes();
        swapped[20] = if swapped[20] == b'A' { b'B' } else { b'A' };
        assert_eq!(
            Nkey::parse(std::str::from_utf8(&swapped).unwrap()),
            Err(NkeyError::Checksum)
        );
        assert_eq!(Nkey::parse(&text[1..]), Err(NkeyError::Malformed));
        assert_eq!(Nkey::parse(&text.to_lowercase()), Err(NkeyError::Malformed));
        assert_eq!(Nkey::parse(""), Err(NkeyError::Malformed));
        assert_eq!(
            Nkey::parse(&nkeys::KeyPair::new_user().seed().unwrap()),
            Err(NkeyError::Seed)
        );
    }
}
