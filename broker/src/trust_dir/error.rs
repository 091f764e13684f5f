//! Why an operation on the operator's directory did nothing.

use std::path::PathBuf;

use bulla_envelope::{MAX_BUNDLE_KEYS, MAX_FORMER_ROOTS, TrustError};
use bulla_identity::TrustDomain;
use bulla_policy::PolicyErrors;
use bulla_process::SecretFileError;

use super::manifest::ManifestError;
use super::signer::SignerError;
use crate::provision::ProvisionError;

/// Why an operation on the directory did nothing, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum TrustDirError {
    /// There is a `trust.toml` already.
    #[error("`{}` has a `trust.toml` already: nothing in it is overwritten", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// A file that must be there is not.
    #[error("`{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// `trust.toml` cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Nothing could be signed.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// What would be made, or what is there, does not hold.
    #[error("the trust bundle or the policy does not hold")]
    Trust(#[from] TrustError),
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] ProvisionError),
    /// A key file cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The policy does not load.
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
    /// The policy is of another trust domain.
    #[error("the policy is not for the trust domain `{domain}`")]
    PolicyDomain {
        /// The directory's.
        domain: TrustDomain,
    },
    /// A directory cannot be used.
    #[error("cannot use the directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Not a broker's name.
    #[error("`{name}` is no broker's name: letters, digits, `-` and `_`, at most 63")]
    BrokerName {
        /// What was given.
        name: String,
    },
    /// A new key that is an old one.
    #[error("the new key is in the trust bundle already")]
    SameKey,
    /// A key that the bundle does not name.
    #[error("the trust bundle does not name {key}")]
    Unnamed {
        /// The key.
        key: String,
    },
    /// Too many former roots.
    #[error(
        "the trust bundle has {MAX_FORMER_ROOTS} former roots: finish the earlier rotations with `rotate-root --finish`"
    )]
    TooManyRoots,
    /// Too many issuing keys.
    #[error(
        "the trust bundle would name more than {MAX_BUNDLE_KEYS} issuing keys: drop those that ended first with `bulla trust sign --drop`, and what streams stored under them counts no more"
    )]
    TooManyKeys,
    /// The bundle and `trust.toml` name different roots.
    #[error(
        "the trust bundle is by another root than `trust.toml` names: a rotation was broken off; put the key of the bundle's root there"
    )]
    OtherRoot,
    /// The policy is by a key that would not count any more.
    #[error(
        "the policy here is signed by an older policy key: sign it again with `bulla policy sign`, and let every enforcer take it first"
    )]
    PolicyByOldKey,
    /// The revocation list is by a key that would not count any more.
    #[error(
        "the revocation list is signed by an older policy key: sign it again with `bulla revoke resign --trust-dir`, and let every enforcer take it first"
    )]
    RevocationsByOldKey,
    /// No random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}
