//! How a host that holds nothing yet comes to a key of its own: an invitation, signed
//! by the policy key, good for one workload, once, for a while.
//!
//! ```text
//! operator ── invitation: workload, one-time key, until; signed by the policy key ──► host
//! host     ── connects by the one-time key (nonce) and the invitation, hands in:
//!             invitation ‖ its new nkey, signed by the one-time key and by the new one ─► broker
//! broker   ── lays it down under the one-time key, where nothing lies yet: used
//! operator ── proves all of it again, and writes the new nkey into the policy
//! ```
//!
//! The seed of the new key never leaves the host, that of the one-time key never
//! leaves the invitation's file. So a broker, or who reads the bus, can take no
//! invitation for himself: what is laid down counts by its signatures, and the policy
//! alone says which keys a workload has.

use bulla_identity::{Nkey, NkeyKind, TrustDomain, UnixMillis, WorkloadName};
use bulla_keyring::{NkeySeed, Signature, Tag, VerifyingKey};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

/// What every invitation begins with, so that it is never taken for a token.
pub(crate) const PREFIX: &str = "bulla-join-1.";

/// Who is invited, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    pub(crate) domain: TrustDomain,
    pub(crate) workload: WorkloadName,
    /// Whoever holds its seed may join, once.
    pub(crate) key: Nkey,
    pub(crate) until: UnixMillis,
}

/// An invitation as it is shown: text whose signature was not looked at yet.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Shown(String);

/// What a host hands in, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) invitation: Invitation,
    /// Its key from now on.
    pub(crate) nkey: Nkey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    v: u8,
    domain: String,
    workload: String,
    key: String,
    until: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HandedIn {
    invitation: String,
    nkey: String,
    /// By the one-time key.
    invited: String,
    /// By the new key.
    own: String,
}

impl Invitation {
    /// What the policy key signs, its tag first, and the statement in it.
    pub(crate) fn to_sign(&self) -> (Vec<u8>, Vec<u8>) {
        let statement = Statement {
            v: VERSION,
            domain: self.domain.as_str().to_owned(),
            workload: self.workload.as_str().to_owned(),
            key: self.key.to_string(),
            until: self.until.as_millis(),
        };
        // Texts and numbers: nothing that could not be written.
        let statement = serde_json::to_vec(&statement).unwrap_or_default();
        (Tag::Invitation.message(&[&statement]), statement)
    }
}

impl Shown {
    /// A signed invitation.
    pub(crate) fn new(statement: &[u8], signature: &Signature) -> Self {
        let mut text = PREFIX.to_owned();
        BASE64URL_NOPAD.encode_append(statement, &mut text);
        text.push('.');
        BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut text);
        Self(text)
    }

    /// Whether a text is one, sound or not.
    pub(crate) fn is_one(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// A text that is one.
    pub(crate) fn parse(text: &str) -> Result<Self, InvitationError> {
        if text.len() > MAX_INVITATION || !Self::is_one(text) {
            return Err(InvitationError::Malformed);
        }
        Ok(Self(text.to_owned()))
    }

    /// Proves that a policy key signed it for this trust domain. Whether its time is
    /// over is for whoever goes by it.
    pub(crate) fn open(
        &self,
        keys: &[VerifyingKey],
        domain: &TrustDomain,
    ) -> Result<Invitation, InvitationError> {
        let malformed = || InvitationError::Malformed;
        let rest = self.0.strip_prefix(PREFIX).ok_or_else(malformed)?;
        let (statement, signature) = rest.split_once('.').ok_or_else(malformed)?;
        let statement = decode(statement)?;
        let signature = read_signature(signature)?;
        let is_signed = keys.iter().any(|key| {
            key.verify(Tag::Invitation, &[&statement], &signature)
                .is_ok()
        });
        if !is_signed {
            return Err(InvitationError::Foreign);
        }
        let read: Statement = serde_json::from_slice(&statement).map_err(|_| malformed())?;
        if read.v != VERSION {
            return Err(malformed());
        }
        if read.domain != domain.as_str() {
            return Err(InvitationError::Foreign);
        }
        Ok(Invitation {
            domain: domain.clone(),
            workload: WorkloadName::parse(&read.workload).map_err(|_| malformed())?,
            key: user_key(&read.key)?,
            until: UnixMillis::from_millis(read.until),
        })
    }

    /// Whom it says that it is for, and where. Nothing of it is proven: for the host
    /// that joins, which asks a broker.
    pub(crate) fn claimed(&self) -> Result<(TrustDomain, WorkloadName), InvitationError> {
        let malformed = || InvitationError::Malformed;
        let rest = self.0.strip_prefix(PREFIX).ok_or_else(malformed)?;
        let (statement, _) = rest.split_once('.').ok_or_else(malformed)?;
        let read: Statement =
            serde_json::from_slice(&decode(statement)?).map_err(|_| malformed())?;
        let domain = TrustDomain::parse(&read.domain).map_err(|_| malformed())?;
        let name = WorkloadName::parse(&read.workload).map_err(|_| malformed())?;
        Ok((domain, name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a host hands in: its new key, proven by itself and by the one-time key.
pub(crate) fn hand_in(shown: &Shown, one_time: &NkeySeed, own: &NkeySeed) -> Vec<u8> {
    let nkey = own.public();
    let sign = |seed: &NkeySeed| {
        let signature = seed.sign(Tag::Joining, &[nkey.bytes(), shown.0.as_bytes()]);
        BASE64URL_NOPAD.encode(signature.as_bytes())
    };
    let handed_in = HandedIn {
        invitation: shown.0.clone(),
        nkey: nkey.to_string(),
        invited: sign(one_time),
        own: sign(own),
    };
    serde_json::to_vec(&handed_in).unwrap_or_default()
}

/// Proves what a host handed in.
pub(crate) fn open(
    bytes: &[u8],
    keys: &[VerifyingKey],
    domain: &TrustDomain,
) -> Result<Joined, InvitationError> {
    let malformed = || InvitationError::Malformed;
    if bytes.len() > MAX_INVITATION * 2 {
        return Err(malformed());
    }
    let read: HandedIn = serde_json::from_slice(bytes).map_err(|_| malformed())?;
    let shown = Shown::parse(&read.invitation)?;
    let invitation = shown.open(keys, domain)?;
    let nkey = user_key(&read.nkey)?;
    if nkey == invitation.key {
        // Whoever has seen the invitation's file would have the workload's key.
        return Err(InvitationError::SameKey);
    }
    let proves = |key: &Nkey, signature: &str| {
        let signature = read_signature(signature)?;
        VerifyingKey::from_nkey(key)
            .map_err(|_| malformed())?
            .verify(
                Tag::Joining,
                &[nkey.bytes(), shown.0.as_bytes()],
                &signature,
            )
            .map_err(|_| InvitationError::NotHeld)
    };
    proves(&invitation.key, &read.invited)?;
    proves(&nkey, &read.own)?;
    Ok(Joined { invitation, nkey })
}

fn user_key(text: &str) -> Result<Nkey, InvitationError> {
    Nkey::parse(text)
        .ok()
        .filter(|nkey| nkey.kind() == NkeyKind::User)
        .ok_or(InvitationError::Malformed)
}

fn decode(text: &str) -> Result<Vec<u8>, InvitationError> {
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| InvitationError::Malformed)
}

fn read_signature(text: &str) -> Result<Signature, InvitationError> {
    let bytes = decode(text)?.try_into();
    bytes
        .map(Signature::from_bytes)
        .map_err(|_| InvitationError::Malformed)
}

/// Why nobody joins by an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvitationError {
    #[error("it is no invitation")]
    Malformed,
    #[error("no policy key in force here signed it for this trust domain")]
    Foreign,
    #[error("its time is over")]
    Expired,
    #[error("it was used already")]
    Used,
    #[error("it is for another workload")]
    OtherWorkload,
    #[error("whoever shows it does not hold its key, or the new one")]
    NotHeld,
    #[error("the new key is the invitation's own")]
    SameKey,
}

impl InvitationError {
    /// A short stable name.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "invitation_malformed",
            Self::Foreign => "invitation_foreign",
            Self::Expired => "invitation_expired",
            Self::Used => "invitation_used",
            Self::OtherWorkload => "invitation_of_another",
            Self::NotHeld => "invitation_not_held",
            Self::SameKey => "invitation_same_key",
        }
    }
}

const VERSION: u8 = 1;

/// Names and keys have bounds; there is room for nothing else.
const MAX_INVITATION: usize = 2 * 1024;

#[cfg(test)]
mod tests {
    use bulla_keyring::SigningKey;

    use super::*;

    fn seed(byte: u8) -> NkeySeed {
        NkeySeed::from_random(NkeyKind::User, &[byte; 32]).unwrap()
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("acme.example").unwrap()
    }

    fn invited(policy: &SigningKey) -> (Invitation, Shown) {
        let invitation = Invitation {
            domain: domain(),
            workload: WorkloadName::parse("orders").unwrap(),
            key: seed(1).public(),
            until: UnixMillis::from_secs(1_800_000_000),
        };
        let (_, statement) = invitation.to_sign();
        let signature = policy.sign(Tag::Invitation, &[&statement]);
        (invitation, Shown::new(&statement, &signature))
    }

    #[test]
    fn who_is_invited_joins_with_a_key_of_his_own() {
        let policy = SigningKey::from_seed(&[7; 32]);
        let (invitation, shown) = invited(&policy);
        let keys = [*policy.verifying_key()];
        let handed_in = hand_in(&shown, &seed(1), &seed(2));
        let joined = open(&handed_in, &keys, &domain()).unwrap();
        assert_eq!(joined.invitation, invitation);
        assert_eq!(joined.nkey, seed(2).public());
    }

    #[test]
    fn nobody_joins_by_what_is_not_his() {
        let policy = SigningKey::from_seed(&[7; 32]);
        let (_, shown) = invited(&policy);
        let keys = [*policy.verifying_key()];
        let other = [*SigningKey::from_seed(&[8; 32]).verifying_key()];
        let open_by = |bytes: &[u8], keys: &[VerifyingKey]| open(bytes, keys, &domain());
        let good = hand_in(&shown, &seed(1), &seed(2));
        assert_eq!(open_by(&good, &other), Err(InvitationError::Foreign));
        let elsewhere = TrustDomain::parse("other.example").unwrap();
        assert_eq!(
            open(&good, &keys, &elsewhere),
            Err(InvitationError::Foreign)
        );
        // Another key under the same invitation, by who has seen it on its way.
        let stolen = hand_in(&shown, &seed(3), &seed(3));
        assert_eq!(open_by(&stolen, &keys), Err(InvitationError::NotHeld));
        let same = hand_in(&shown, &seed(1), &seed(1));
        assert_eq!(open_by(&same, &keys), Err(InvitationError::SameKey));
        // Each field of the other's.
        let mut mixed: HandedIn = serde_json::from_slice(&good).unwrap();
        mixed.nkey = seed(4).public().to_string();
        let mixed = serde_json::to_vec(&mixed).unwrap();
        assert_eq!(open_by(&mixed, &keys), Err(InvitationError::NotHeld));
        for bytes in [&b"{}"[..], b"", b"\xff", &vec![b'a'; 5_000]] {
            assert_eq!(open_by(bytes, &keys), Err(InvitationError::Malformed));
        }
        // Whatever is changed in it, nobody signed that.
        for at in PREFIX.len()..shown.0.len() {
            let mut text = shown.0.clone().into_bytes();
            text[at] = if text[at] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(text).unwrap();
            let opened = Shown::parse(&text).and_then(|shown| shown.open(&keys, &domain()));
            assert!(opened.is_err(), "{at}");
        }
    }
}
