//! Whose keys sign heads.

use std::time::Duration;

use bulla_envelope::{Credential, CredentialDecodeError, CredentialError, TrustBundle, TrustError};
use bulla_identity::{TrustDomain, UnixMillis, Verified};
use bulla_keyring::{Anchors, KeyError, VerifyingKey};
use bulla_policy::Policy;
use data_encoding::{BASE64, HEXLOWER};

use crate::entry::{Writer, WriterKind};
use crate::event::Key;

/// What the keys of an audit log are proven by: pinned roots, the bundles that they
/// signed, and policies, which name workloads' nkeys.
#[derive(Debug)]
pub struct Trust {
    roots: Vec<VerifyingKey>,
    domain: TrustDomain,
    bundles: Vec<Verified<TrustBundle>>,
    policies: Vec<Policy>,
}

/// Why a key does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not a key.
    #[error("it is not a key")]
    Key(#[from] KeyError),
    /// Not base64 or hexadecimal of the right length.
    #[error("it is not written as a key is")]
    Encoding,
    /// Not a credential.
    #[error("it is not a credential")]
    Credential(#[from] CredentialDecodeError),
    /// A credential of another workload.
    #[error("its credential is another workload's: `{0}`")]
    OtherWorkload(String),
    /// A workload's chain and a broker's key, or the other way round.
    #[error("a key of another kind of process")]
    OtherKind,
    /// No bundle of that time names the broker's key.
    #[error("no trust bundle of that time names this issuing key")]
    NoBundle,
    /// No policy that is known names an nkey of the workload.
    #[error("no policy that was given names the workload `{0}`")]
    NoPolicy(String),
    /// The credential does not verify.
    #[error("the credential does not verify")]
    Unproven(#[source] CredentialError),
}

impl KeyFault {
    /// A short stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Key(_) | Self::Encoding => "key_malformed",
            Self::Credential(_) => "key_credential",
            Self::OtherWorkload(_) => "key_of_another",
            Self::OtherKind => "key_of_another_kind",
            Self::NoBundle => "key_without_bundle",
            Self::NoPolicy(_) => "key_without_policy",
            Self::Unproven(error) => error.code(),
        }
    }
}

/// A key that a chain names, not proven yet.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    /// What heads call it.
    pub(crate) name: [u8; 32],
    pub(crate) key: VerifyingKey,
    /// The short name of its workload, or nothing of a broker.
    pub(crate) workload: Option<String>,
    credential: Option<Box<Credential>>,
}

impl Claimed {
    /// Reads it; it must be a key of this kind of writer, and of this workload.
    pub(crate) fn read(key: &Key, writer: &Writer) -> Result<Self, KeyFault> {
        match (key, writer.kind()) {
            (Key::Credential(text), WriterKind::Workload(tag)) => {
                let bytes = BASE64
                    .decode(text.as_bytes())
                    .map_err(|_| KeyFault::Encoding)?;
                let credential = Credential::decode(&bytes)?;
                let workload = credential.claimed_workload();
                if workload.tag() != tag {
                    return Err(KeyFault::OtherWorkload(workload.path().to_owned()));
                }
                Ok(Self {
                    name: *credential.hash(),
                    key: *credential.request().signing_key(),
                    workload: Some(workload.path().to_owned()),
                    credential: Some(Box::new(credential)),
                })
            }
            (Key::Issuing(text), WriterKind::Broker) => {
                let bytes = HEXLOWER
                    .decode(text.as_bytes())
                    .map_err(|_| KeyFault::Encoding)?;
                let name = bytes.try_into().map_err(|_| KeyFault::Encoding)?;
                Ok(Self {
                    name,
                    key: VerifyingKey::from_bytes(&name)?,
                    workload: None,
                    credential: None,
                })
            }
            _ => Err(KeyFault::OtherKind),
        }
    }
}

impl Trust {
    /// Pins roots.
    #[must_use]
    pub const fn new(roots: Vec<VerifyingKey>, domain: TrustDomain) -> Self {
        Self {
            roots,
            domain,
            bundles: Vec::new(),
            policies: Vec::new(),
        }
    }

    /// Adds a bundle, whenever it was valid: what it vouches for is judged as of
    /// its own time.
    ///
    /// # Errors
    /// [`TrustError`] if no pinned root, or root after it, signed it.
    pub fn add_bundle(&mut self, record: &[u8]) -> Result<(), TrustError> {
        let (ever, at_all) = (UnixMillis::default(), Duration::MAX);
        let bundle = TrustBundle::open(record, &self.roots, &self.domain, ever, at_all)?;
        let is_known = self
            .bundles
            .iter()
            .any(|known| known.version == bundle.version && known.issued_at == bundle.issued_at);
        if !is_known {
            self.bundles.push(bundle);
        }
        Ok(())
    }

    /// Adds a policy: the nkeys in it vouch for credentials.
    pub fn add_policy(&mut self, policy: Policy) {
        self.policies.push(policy);
    }

    /// Whether this key could sign heads at that time.
    pub(crate) fn prove(&self, claimed: &Claimed, at: UnixMillis) -> Result<(), KeyFault> {
        let of_time = || {
            self.bundles.iter().filter(|bundle| {
                bundle.issued_at <= at.saturating_add(SKEW)
                    && at <= bundle.expires_at.saturating_add(SKEW)
            })
        };
        let Some(credential) = &claimed.credential else {
            let named = of_time().any(|bundle| {
                let mut keys = bundle.issuing.iter();
                keys.any(|issuing| {
                    issuing.key == claimed.key && at <= issuing.expires_at.saturating_add(SKEW)
                })
            });
            return if named {
                Ok(())
            } else {
                Err(KeyFault::NoBundle)
            };
        };
        let workload = credential.claimed_workload();
        let (mut nkeys, mut authorities) = (Vec::new(), Vec::new());
        let mut brokers = false;
        for policy in &self.policies {
            if let Some(named) = policy.workload_by_id(workload) {
                let anchors = named.anchors();
                nkeys.extend_from_slice(anchors.nkeys);
                authorities.extend_from_slice(anchors.authorities);
                brokers |= anchors.brokers;
            }
        }
        let anchors = Anchors {
            nkeys: &nkeys,
            authorities: &authorities,
            brokers,
        };
        if anchors.is_empty() {
            return Err(KeyFault::NoPolicy(workload.path().to_owned()));
        }
        let mut fault = KeyFault::NoBundle;
        for bundle in of_time() {
            match Credential::clone(credential).verify(bundle, anchors, at, SKEW) {
                Ok(_) => return Ok(()),
                Err(error) => fault = KeyFault::Unproven(error),
            }
        }
        Err(fault)
    }
}

/// How far clocks may differ, and how long a head may wait to be written.
const SKEW: Duration = Duration::from_secs(120);
