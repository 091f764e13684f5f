//! X25519 boxes as NATS uses them for the auth callout (xkey, version `xkv1`):
//! `"xkv1" ‖ 24-byte nonce ‖ NaCl box (X25519, XSalsa20-Poly1305)`.

use std::fmt;

use crypto_box::aead::Aead as _;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use zeroize::Zeroizing;

use bulla_identity::{Nkey, NkeyKind};

use crate::SecretString;
use crate::montgomery::is_small_order;
use crate::seed_text::{self, SecretBytes, SeedError};

/// A secret xkey, `SX…`.
///
/// The library's key is made for each use and not kept: crypto_box 0.9 leaves
/// the secret's bytes behind when its key is dropped. What two keys share may be
/// kept, see [`CurveSeed::shared_with`].
pub struct CurveSeed {
    seed: SecretBytes,
    public: Nkey,
}

/// What a secret xkey and one peer's public one share: it seals to that peer and
/// opens what the peer sealed, without the curve. Both peers have the same, so a box
/// does not tell which of the two made it. Wiped on drop.
pub struct CurveBox {
    // On the heap, so that moving it leaves no copy behind.
    shared: Box<SalsaBox>,
    peer: Nkey,
}

/// Why a box was not made or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// The peer's nkey is not an `X…` key.
    #[error("the peer's key is not an `X…` nkey")]
    NotCurve,
    /// A point of small order: anybody could read such a box.
    #[error("the peer's key is of small order")]
    SmallOrder,
    /// Another version, damaged, or not from this sender to this key.
    #[error("the box does not open")]
    DoesNotOpen,
}

impl CurveSeed {
    /// The seed of 32 random bytes.
    #[must_use]
    pub fn from_random(random: &[u8; 32]) -> Self {
        let mut seed: SecretBytes = Box::default();
        **seed = *random;
        Self::new(seed)
    }

    /// Reads the textual form, `SX…`.
    ///
    /// # Errors
    /// [`SeedError`]; the text is never repeated.
    pub fn parse(text: &str) -> Result<Self, SeedError> {
        match seed_text::parse(text)? {
            (Some(NkeyKind::Curve), seed) => Ok(Self::new(seed)),
            _ => Err(SeedError::WrongKind {
                expected: "a curve seed (`SX…`)",
            }),
        }
    }

    fn new(seed: SecretBytes) -> Self {
        let public = SecretKey::from_bytes(**seed).public_key();
        let public = Nkey::from_bytes(NkeyKind::Curve, *public.as_bytes());
        Self { seed, public }
    }

    /// The public nkey, `X…`.
    #[must_use]
    pub const fn public(&self) -> Nkey {
        self.public
    }

    /// What this key shares with a peer's: one multiplication on the curve, for any
    /// number of boxes.
    ///
    /// # Errors
    /// [`BoxError::NotCurve`], [`BoxError::SmallOrder`] for an unusable peer.
    ///
    /// # Security
    /// It opens all boxes between the two, for as long as it is kept. The seed does
    /// so too, and more: whoever holds the one may hold the other.
    pub fn shared_with(&self, peer: &Nkey) -> Result<CurveBox, BoxError> {
        if peer.kind() != NkeyKind::Curve {
            return Err(BoxError::NotCurve);
        }
        if is_small_order(peer.bytes()) {
            return Err(BoxError::SmallOrder);
        }
        let secret = SecretKey::from_bytes(**self.seed);
        let public = PublicKey::from(*peer.bytes());
        Ok(CurveBox {
            shared: Box::new(SalsaBox::new(&public, &secret)),
            peer: *peer,
        })
    }

    /// Seals `plain` to a peer.
    ///
    /// # Errors
    /// As [`CurveSeed::shared_with`].
    ///
    /// # Security
    /// As [`CurveBox::seal`].
    pub fn seal(&self, plain: &[u8], to: &Nkey, nonce: [u8; 24]) -> Result<Vec<u8>, BoxError> {
        self.shared_with(to)?.seal(plain, nonce)
    }

    /// Opens a box that a peer sealed to this key.
    ///
    /// # Errors
    /// [`BoxError`] if it was not sealed by `from` to this key, or was changed.
    pub fn open(&self, sealed: &[u8], from: &Nkey) -> Result<Zeroizing<Vec<u8>>, BoxError> {
        self.shared_with(from)?.open(sealed)
    }

    /// The seed's text, for a key file.
    ///
    /// # Security
    /// This is the secret itself.
    #[must_use]
    pub fn to_seed_text(&self) -> SecretString {
        seed_text::format(NkeyKind::Curve, &self.seed)
    }
}

impl fmt::Debug for CurveSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurveSeed(of {})", self.public)
    }
}

impl CurveBox {
    /// Whose key it is shared with.
    #[must_use]
    pub const fn peer(&self) -> Nkey {
        self.peer
    }

    /// Seals `plain` to the peer.
    ///
    /// # Errors
    /// None that a plain text of less than 256 GiB can cause.
    ///
    /// # Security
    /// `nonce` must be random or otherwise never used before between these two
    /// keys, by either of them.
    pub fn seal(&self, plain: &[u8], nonce: [u8; 24]) -> Result<Vec<u8>, BoxError> {
        let sealed = self.shared.encrypt(&nonce.into(), plain);
        let sealed = sealed.map_err(|_| BoxError::DoesNotOpen)?;
        let mut whole = Vec::with_capacity(VERSION.len() + nonce.len() + sealed.len());
        whole.extend_from_slice(VERSION);
        whole.extend_from_slice(&nonce);
        whole.extend_from_slice(&sealed);
        Ok(whole)
    }

    /// Opens a box of the two.
    ///
    /// # Errors
    /// [`BoxError::DoesNotOpen`] if neither of them made it, or it was changed.
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, BoxError> {
        let (nonce, sealed) = sealed
            .strip_prefix(VERSION)
            .and_then(|rest| rest.split_first_chunk::<24>())
            .ok_or(BoxError::DoesNotOpen)?;
        self.shared
            .decrypt(nonce.into(), sealed)
            .map(Zeroizing::new)
            .map_err(|_| BoxError::DoesNotOpen)
    }
}

impl fmt::Debug for CurveBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurveBox(with {})", self.peer)
    }
}

/// The version of such boxes, which begins each.
const VERSION: &[u8] = b"xkv1";

#[cfg(test)]
mod tests {
    use nkeys::XKey;

    use super::*;
    use crate::montgomery::SMALL_ORDER_U;

    fn pair() -> (CurveSeed, CurveSeed) {
        (
            CurveSeed::from_random(&[1; 32]),
            CurveSeed::from_random(&[2; 32]),
        )
    }

    #[test]
    fn box_opens_for_the_right_pair_only() {
        let (a, b) = pair();
        let c = CurveSeed::from_random(&[3; 32]);
        let sealed = a.seal(b"callout", &b.public(), [7; 24]).unwrap();
        assert_eq!(*b.open(&sealed, &a.public()).unwrap(), b"callout");
        assert_eq!(b.open(&sealed, &c.public()), Err(BoxError::DoesNotOpen));
        assert_eq!(c.open(&sealed, &a.public()), Err(BoxError::DoesNotOpen));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(b.open(&flipped, &a.public()).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(b.open(&sealed[..len], &a.public()).is_err());
        }
    }

    /// A hundred boxes by one multiplication, the same as by a hundred.
    #[test]
    fn what_is_shared_makes_and_opens_the_same_boxes() {
        let (a, b) = pair();
        let (ours, theirs) = (
            a.shared_with(&b.public()).unwrap(),
            b.shared_with(&a.public()).unwrap(),
        );
        assert_eq!(ours.peer(), b.public());
        for nonce in 0..100 {
            let sealed = ours.seal(b"callout", [nonce; 24]).unwrap();
            assert_eq!(
                a.seal(b"callout", &b.public(), [nonce; 24]),
                Ok(sealed.clone())
            );
            assert_eq!(*theirs.open(&sealed).unwrap(), b"callout");
            assert_eq!(*b.open(&sealed, &a.public()).unwrap(), b"callout");
        }
        let c = CurveSeed::from_random(&[3; 32]);
        let sealed = c.seal(b"callout", &b.public(), [7; 24]).unwrap();
        assert_eq!(theirs.open(&sealed), Err(BoxError::DoesNotOpen));
    }

    /// A box made by the Go nkeys library, which nats-server uses: we open it,
    /// and with its nonce we make the same bytes.
    #[test]
    fn boxes_are_those_of_go() {
        let parse = |seed| CurveSeed::parse(seed).unwrap();
        let receiver = parse("SXAHGC56LJFTSRXFC653AT7XZU6WGYIXU4XFPMCT62GGHFLUCSPVYP764M");
        let sender = parse("SXAKIYZX2POLIHZ5W5YZEWVTH24NLEUETBW3TKIVYRSS3GNHFXO5D4JJZM");
        assert_eq!(
            sender.public().to_string(),
            "XBUJMZHVOPQ2SK5VD3TY4VNBPVU2YFGRLK6EFPEPSMVDUYEBSROWZCEA"
        );
        let sealed = data_encoding::HEXLOWER
            .decode(
                b"786b7631\
                  467698f98703502f4241b7a734729800929f6d094b06c6e3\
                  4a78de499ee7debbac9477556f3fbbe90ffd678b\
                  c629e5b7cc7c57404d923846cf010226",
            )
            .unwrap();
        let plain = receiver.open(&sealed, &sender.public()).unwrap();
        assert_eq!(*plain, b"this is super secret");
        let nonce = sealed[4..28].try_into().unwrap();
        assert_eq!(sender.seal(&plain, &receiver.public(), nonce), Ok(sealed));
    }

    #[test]
    fn text_is_what_the_nkeys_library_writes() {
        let theirs = XKey::new();
        let ours = CurveSeed::parse(&theirs.seed().unwrap()).unwrap();
        assert_eq!(&*ours.to_seed_text(), theirs.seed().unwrap());
        assert_eq!(ours.public().to_string(), theirs.public_key());
        let user = nkeys::KeyPair::new_user().seed().unwrap();
        assert!(matches!(
            CurveSeed::parse(&user),
            Err(SeedError::WrongKind { .. })
        ));
    }

    #[test]
    fn useless_peers_are_refused() {
        let (a, b) = pair();
        let user = Nkey::from_bytes(NkeyKind::User, *b.public().bytes());
        assert_eq!(a.seal(b"", &user, [0; 24]), Err(BoxError::NotCurve));
        for mut u in SMALL_ORDER_U {
            for top in [0, 0x80] {
                u[31] = (u[31] & 0x7f) | top;
                let weak = Nkey::from_bytes(NkeyKind::Curve, u);
                assert_eq!(a.seal(b"", &weak, [0; 24]), Err(BoxError::SmallOrder));
                assert_eq!(a.open(&[0; 64], &weak), Err(BoxError::SmallOrder));
            }
        }
    }
}
