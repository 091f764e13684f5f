//! NATS's textual form of seeds: base32 of two prefix bytes, 32 key bytes and
//! a CRC-16 (little endian), as the nkeys libraries write it.

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use bulla_identity::NkeyKind;

use crate::SecretString;

/// Length of a seed's text.
const TEXT_LEN: usize = 58;
/// Length of what the text encodes.
const RAW_LEN: usize = 36;
/// `S`: the kind's prefix follows in the next five bits.
const SEED_PREFIX: u8 = 18 << 3;

/// A 32-byte secret in one place on the heap, wiped on drop.
pub(crate) type SecretBytes = Box<Zeroizing<[u8; 32]>>;

/// Why a text is not the expected seed. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Not 58 characters of base32 that begin with `S`.
    #[error("a seed is 58 characters of base32 that begin with `S`")]
    Malformed,
    /// The checksum does not fit.
    #[error("the seed's checksum is wrong: a character was changed or lost")]
    Checksum,
    /// A public key where a seed belongs.
    #[error("this is a public nkey, not a seed")]
    Public,
    /// A seed of another kind than this place needs.
    #[error("this seed is of the wrong kind: expected {expected}")]
    WrongKind {
        /// What would fit.
        expected: &'static str,
    },
}

const fn prefix(kind: NkeyKind) -> u8 {
    match kind {
        NkeyKind::User => 20 << 3,
        NkeyKind::Account => 0,
        NkeyKind::Server => 13 << 3,
        NkeyKind::Operator => 14 << 3,
        NkeyKind::Curve => 23 << 3,
    }
}

/// Kind and secret of a seed's text; `None` for kinds without a use here.
pub(crate) fn parse(text: &str) -> Result<(Option<NkeyKind>, SecretBytes), SeedError> {
    if text.len() == 56 && !text.starts_with('S') {
        return Err(SeedError::Public);
    }
    if text.len() != TEXT_LEN || !text.starts_with('S') {
        return Err(SeedError::Malformed);
    }
    let mut raw = Zeroizing::new([0u8; RAW_LEN]);
    let written = BASE32_NOPAD
        .decode_mut(text.as_bytes(), raw.as_mut_slice())
        .map_err(|_| SeedError::Malformed)?;
    if written != RAW_LEN {
        return Err(SeedError::Malformed);
    }
    let (body, crc) = raw.split_last_chunk::<2>().ok_or(SeedError::Malformed)?;
    if crc16(body) != u16::from_le_bytes(*crc) {
        return Err(SeedError::Checksum);
    }
    let ([first, second], secret) = body.split_first_chunk::<2>().ok_or(SeedError::Malformed)?;
    if first & 0xf8 != SEED_PREFIX || second & 0x07 != 0 {
        return Err(SeedError::Malformed);
    }
    let kind_prefix = (first & 0x07) << 5 | second >> 3;
    let kind = [
        NkeyKind::User,
        NkeyKind::Account,
        NkeyKind::Server,
        NkeyKind::Operator,
        NkeyKind::Curve,
    ]
    .into_iter()
    .find(|kind| prefix(*kind) == kind_prefix);
    let mut boxed = Box::new(Zeroizing::new([0u8; 32]));
    for (to, from) in boxed.iter_mut().zip(secret) {
        *to = *from;
    }
    Ok((kind, boxed))
}

pub(crate) fn format(kind: NkeyKind, secret: &[u8; 32]) -> SecretString {
    let kind = prefix(kind);
    let mut raw = Zeroizing::new([0u8; RAW_LEN]);
    let body = [SEED_PREFIX | kind >> 5, (kind & 0x1f) << 3]
        .into_iter()
        .chain(secret.iter().copied());
    for (to, from) in raw.iter_mut().zip(body) {
        *to = from;
    }
    if let Some((body, crc)) = raw.split_last_chunk_mut::<2>() {
        *crc = crc16(body).to_le_bytes();
    }
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
    BASE32_NOPAD.encode_append(raw.as_slice(), &mut text);
    SecretString::new(text)
}

/// CRC-16/XMODEM (polynomial 0x1021, initial value 0).
fn crc16(data: &[u8]) -> u16 {
    data.iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            }
        })
    })
}
