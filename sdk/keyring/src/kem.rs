//! Wrapping of data keys: HPKE ([RFC 9180]) in base mode, single shot.
//!
//! ```text
//! suite     KEM                                     enc    public key
//! xwing     0x647a X-Wing (X25519 + ML-KEM-768)     1120   1216
//! x25519    0x0020 DHKEM(X25519, HKDF-SHA256)         32     32
//! both      KDF 0x0001 HKDF-SHA256, AEAD 0x0003 ChaCha20Poly1305, aad empty
//! wrapped = enc ‖ ciphertext of the 32-byte data key (48 bytes)
//! ```
//!
//! X-Wing is an Internet-Draft (draft-connolly-cfrg-xwing-kem): it holds as long
//! as one of X25519 and ML-KEM-768 does.
//!
//! [RFC 9180]: https://www.rfc-editor.org/rfc/rfc9180

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use crate::montgomery::{is_canonical, is_small_order};
use crate::seed_text::SecretBytes;
use crate::{Cipher, DataKey, KemKeyId, KemSuite, Tag, sha256};

/// Longest `info` of a wrap, in bytes. HPKE itself would take 64 KiB.
pub const MAX_WRAP_INFO_LEN: usize = 16 * 1024;

/// A KEM public key, checked, with its id. Cheap to clone.
#[derive(Clone)]
pub struct KemPublic(Arc<Public>);

struct Public {
    key: PublicKey,
    bytes: Box<[u8]>,
    id: KemKeyId,
}

enum PublicKey {
    X25519(<X25519HkdfSha256 as Kem>::PublicKey),
    XWing(Box<<XWing as Kem>::PublicKey>),
}

/// A KEM secret key. On the heap, wiped on drop; moving it leaves no copy.
pub struct KemSecret {
    key: SecretKey,
    public: KemPublic,
}

enum SecretKey {
    X25519(Box<<X25519HkdfSha256 as Kem>::PrivateKey>),
    XWing(Box<<XWing as Kem>::PrivateKey>),
}

/// Why bytes are no usable KEM public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KemKeyError {
    /// Not as long as a key of this suite.
    #[error("a KEM public key of suite `{}` has {expected} bytes, this has {actual}", suite.as_str())]
    Length {
        /// The suite.
        suite: KemSuite,
        /// [`KemSuite::public_len`].
        expected: usize,
        /// What came.
        actual: usize,
    },
    /// A coefficient of the ML-KEM part is not below the modulus
    /// ([FIPS 203 §7.2]).
    ///
    /// [FIPS 203 §7.2]: https://doi.org/10.6028/NIST.FIPS.203
    #[error("the ML-KEM part of the KEM public key is malformed")]
    MlKem,
    /// The X25519 part is not canonically encoded.
    #[error("the X25519 part of the KEM public key is not canonically encoded")]
    NotCanonical,
    /// The X25519 part is of small order: it would contribute nothing.
    #[error("the X25519 part of the KEM public key is of small order")]
    SmallOrder,
}

/// Why a data key was not wrapped or not unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// More `info` than is taken.
    #[error("the context of a wrap has {actual} bytes, more than {limit}")]
    InfoTooLong {
        /// [`MAX_WRAP_INFO_LEN`].
        limit: usize,
        /// What came.
        actual: usize,
    },
    /// Not as long as a wrap of this suite.
    #[error("a wrap has {expected} bytes, this has {actual}")]
    Length {
        /// [`KemSuite::wrap_len`].
        expected: usize,
        /// What came.
        actual: usize,
    },
    /// The X25519 part of the encapsulation is not canonical or of small order.
    #[error("the encapsulated key is unsound")]
    UnsoundEncapsulation,
    /// The KEM did not encapsulate.
    #[error("the data key could not be wrapped")]
    Encapsulation,
    /// Not made for this key and context, or changed.
    #[error("the wrap does not open")]
    DoesNotOpen,
}

impl KemPublic {
    /// Checks and unpacks a public key.
    ///
    /// # Errors
    /// [`KemKeyError`] for a wrong length, a malformed ML-KEM part
    /// ([FIPS 203 §7.2]), an X25519 part that is not canonical or of small order.
    ///
    /// [FIPS 203 §7.2]: https://doi.org/10.6028/NIST.FIPS.203
    pub fn from_bytes(suite: KemSuite, bytes: &[u8]) -> Result<Self, KemKeyError> {
        if bytes.len() != suite.public_len() {
            return Err(KemKeyError::Length {
                suite,
                expected: suite.public_len(),
                actual: bytes.len(),
            });
        }
        check_x25519_part(bytes)?;
        let key = match suite {
            KemSuite::X25519 => Deserializable::from_bytes(bytes).map(PublicKey::X25519),
            KemSuite::XWing => Deserializable::from_bytes(bytes)
                .map(Box::new)
                .map(PublicKey::XWing),
        };
        Ok(Self::new(key.map_err(|_| KemKeyError::MlKem)?, bytes))
    }

    fn new(key: PublicKey, bytes: &[u8]) -> Self {
        let suite = key.suite().code();
        let hash = sha256(&[Tag::KemKey.as_bytes(), &[suite], bytes]);
        Self(Arc::new(Public {
            key,
            bytes: bytes.into(),
            id: KemKeyId::from_hash(&hash),
        }))
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> KemSuite {
        self.0.key.suite()
    }

    /// The bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KemKeyId {
        self.0.id
    }

    /// Wraps a data key to the holder of the secret key, bound to `info`.
    ///
    /// All randomness of the encapsulation comes from `random`: X-Wing takes
    /// its 64 bytes (ML-KEM's message, X25519's ephemeral key), X25519 the first
    /// 32 as `ikmE` of [RFC 9180 §7.1.3].
    ///
    /// # Errors
    /// [`WrapError::InfoTooLong`].
    ///
    /// # Security
    /// `random` is secret, uniformly random and used for one wrap only: two
    /// wraps to one key with the same bytes and `info` share a key and a nonce.
    ///
    /// [RFC 9180 §7.1.3]: https://www.rfc-editor.org/rfc/rfc9180#section-7.1.3
    pub fn wrap(
        &self,
        info: &[u8],
        key: &DataKey,
        random: &[u8; 64],
    ) -> Result<Vec<u8>, WrapError> {
        match &self.0.key {
            PublicKey::X25519(to) => seal::<X25519HkdfSha256>(to, info, key.secret(), b"", random),
            PublicKey::XWing(to) => seal::<XWing>(to, info, key.secret(), b"", random),
        }
    }
}

impl PublicKey {
    const fn suite(&self) -> KemSuite {
        match self {
            Self::X25519(_) => KemSuite::X25519,
            Self::XWing(_) => KemSuite::XWing,
        }
    }
}

/// The last 32 bytes of a public key or an encapsulated key of either suite.
fn check_x25519_part(bytes: &[u8]) -> Result<(), KemKeyError> {
    let part = bytes.last_chunk().ok_or(KemKeyError::NotCanonical)?;
    if is_small_order(part) {
        return Err(KemKeyError::SmallOrder);
    }
    if !is_canonical(part) {
        return Err(KemKeyError::NotCanonical);
    }
    Ok(())
}

impl PartialEq for KemPublic {
    fn eq(&self, other: &Self) -> bool {
        self.suite() == other.suite() && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for KemPublic {}

impl fmt::Debug for KemPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KemPublic({} {})", self.suite(), self.id())
    }
}

impl KemSecret {
    /// The key of a 32-byte seed: X-Wing's decapsulation key, or the X25519
    /// private key.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "32 bytes are a private key of both KEMs"
    )]
    pub fn from_seed(suite: KemSuite, seed: &[u8; 32]) -> Self {
        match suite {
            KemSuite::X25519 => {
                let key = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(seed);
                let key = Box::new(key.expect("32 bytes"));
                let public = X25519HkdfSha256::sk_to_pk(&key);
                let bytes = public.to_bytes();
                Self {
                    key: SecretKey::X25519(key),
                    public: KemPublic::new(PublicKey::X25519(public), &bytes),
                }
            }
            KemSuite::XWing => {
                let key = <XWing as Kem>::PrivateKey::from_bytes(seed);
                let key = Box::new(key.expect("32 bytes"));
                let public = XWing::sk_to_pk(&key);
                let bytes = public.to_bytes();
                Self {
                    key: SecretKey::XWing(key),
                    public: KemPublic::new(PublicKey::XWing(Box::new(public)), &bytes),
                }
            }
        }
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> KemSuite {
        self.public.suite()
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &KemPublic {
        &self.public
    }

    /// Unwraps a data key of that cipher that was wrapped to this key with the same `info`,
    /// which names the cipher.
    ///
    /// # Errors
    /// [`WrapError`].
    ///
    /// # Security
    /// Anybody can wrap to a public key: who did is for the envelope around it
    /// to prove, and the data key's id for the caller to recompute.
    pub fn unwrap(
        &self,
        cipher: Cipher,
        info: &[u8],
        wrapped: &[u8],
    ) -> Result<DataKey, WrapError> {
        let suite = self.suite();
        let secret = match &self.key {
            SecretKey::X25519(key) => open::<X25519HkdfSha256>(suite, key, info, wrapped),
            SecretKey::XWing(key) => open::<XWing>(suite, key, info, wrapped),
        };
        secret.map(|secret| DataKey::new(cipher, secret))
    }
}

impl fmt::Debug for KemSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KemSecret(of {:?})", self.public)
    }
}

fn check_info(info: &[u8]) -> Result<(), WrapError> {
    if info.len() > MAX_WRAP_INFO_LEN {
        return Err(WrapError::InfoTooLong {
            limit: MAX_WRAP_INFO_LEN,
            actual: info.len(),
        });
    }
    Ok(())
}

fn seal<K: Kem>(
    to: &K::PublicKey,
    info: &[u8],
    plain: &[u8],
    aad: &[u8],
    random: &[u8],
) -> Result<Vec<u8>, WrapError> {
    check_info(info)?;
    let mut random = OneShot::new(random);
    let mut text = Zeroizing::new(plain.to_vec());
    let (enc, tag) =
        hpke::single_shot_seal_inout_detached_with_rng::<ChaCha20Poly1305, HkdfSha256, K>(
            &OpModeS::Base,
            to,
            info,
            InOutBuf::from(text.as_mut_slice()),
            aad,
            &mut random,
        )
        .map_err(|_| WrapError::Encapsulation)?;
    if random.ran_out {
        return Err(WrapError::Encapsulation);
    }
    Ok([&*enc.to_bytes(), &text, &*tag.to_bytes()].concat())
}

fn open<K: Kem>(
    suite: KemSuite,
    key: &K::PrivateKey,
    info: &[u8],
    wrapped: &[u8],
) -> Result<SecretBytes, WrapError> {
    check_info(info)?;
    let wrong_length = WrapError::Length {
        expected: suite.wrap_len(),
        actual: wrapped.len(),
    };
    if wrapped.len() != suite.wrap_len() {
        return Err(wrong_length);
    }
    let (enc, text) = wrapped
        .split_at_checked(suite.enc_len())
        .ok_or(wrong_length)?;
    let mut secret = Box::new(Zeroizing::new([0; 32]));
    open_into::<K>(key, enc, info, text, b"", secret.as_mut_slice())?;
    Ok(secret)
}

/// Opens `text` (ciphertext ‖ tag) into `plain`, which is 16 bytes shorter.
fn open_into<K: Kem>(
    key: &K::PrivateKey,
    enc: &[u8],
    info: &[u8],
    text: &[u8],
    aad: &[u8],
    plain: &mut [u8],
) -> Result<(), WrapError> {
    // HPKE refuses a zero exchange for X25519; X-Wing leaves it open, and no
    // honest sender makes one.
    check_x25519_part(enc).map_err(|_| WrapError::UnsoundEncapsulation)?;
    let enc = K::EncappedKey::from_bytes(enc).map_err(|_| WrapError::DoesNotOpen)?;
    let (text, tag) = text
        .split_last_chunk::<16>()
        .ok_or(WrapError::DoesNotOpen)?;
    let tag = AeadTag::from_bytes(tag).map_err(|_| WrapError::DoesNotOpen)?;
    let buffer = InOutBuf::new(text, plain).map_err(|_| WrapError::DoesNotOpen)?;
    hpke::single_shot_open_inout_detached::<ChaCha20Poly1305, HkdfSha256, K>(
        &OpModeR::Base,
        key,
        &enc,
        info,
        buffer,
        aad,
        &tag,
    )
    .map_err(|_| WrapError::DoesNotOpen)
}

impl KemKeyError {
    /// A stable name for metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "kem_key_length",
            Self::MlKem => "kem_key_malformed",
            Self::NotCanonical => "kem_key_not_canonical",
            Self::SmallOrder => "kem_key_small_order",
        }
    }
}

impl WrapError {
    /// A stable name for metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InfoTooLong { .. } => "wrap_info_too_long",
            Self::Length { .. } => "wrap_length",
            Self::UnsoundEncapsulation => "wrap_unsound",
            Self::Encapsulation => "wrap_failed",
            Self::DoesNotOpen => "wrap_does_not_open",
        }
    }
}

/// Gives out the caller's random bytes once, as the generator that HPKE wants.
/// When they are used up it gives zeros and says so, and nothing is wrapped.
struct OneShot<'a> {
    rest: &'a [u8],
    ran_out: bool,
}

impl<'a> OneShot<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            ran_out: false,
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    fn fill(&mut self, out: &mut [u8]) {
        if let Some((taken, rest)) = self.rest.split_at_checked(out.len()) {
            out.copy_from_slice(taken);
            self.rest = rest;
        } else {
            out.fill(0);
            self.ran_out = true;
        }
    }
}

impl TryRng for OneShot<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.take()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.take()))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for OneShot<'_> {}

#[cfg(test)]
#[path = "kem_tests.rs"]
mod tests;
