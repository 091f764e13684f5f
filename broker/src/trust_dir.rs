//! The operator's directory: root, policy key, trust bundle, signed policy, and
//! how one key follows another.
//!
//! ```text
//! trust.toml              which keys sign, and where they are; no secret
//! root-1.key policy-1.key 0600, unless a command holds them elsewhere
//! issuing/<broker>/1.key  0600: this directory goes to that broker
//! root.pub                what SDKs and brokers pin
//! bundle policy           signed; these go to any one broker
//! ```
//!
//! Every operation makes one new version of the bundle, and writes nothing that
//! receivers would refuse. Key files are created, never overwritten, and never
//! deleted: what is not needed any more is named.

mod error;
mod key_files;
mod manifest;
mod signer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_envelope::{
    FormerRoot, IssuingKey, MAX_BUNDLE_KEYS, MAX_FORMER_ROOTS, MAX_ISSUING_LIFE, RevocationError,
    RevocationList, SignedPolicy, TrustBundle, TrustError,
};
use bulla_identity::{TrustDomain, UnixMillis, Verified};
use bulla_keyring::{AuthorityKey, AuthorityRole, Tag, VerifyingKey};
use bulla_policy::{LONGEST_STREAM_MAX_AGE, Policy};

use crate::provision::{read_if_there, write};
pub use error::TrustDirError;
pub use key_files::create_key;
use key_files::{key_files, make_dir, new_issuing_key, new_key};
use manifest::Manifest;
pub use manifest::ManifestError;
pub use signer::{SignCommand, Signer, SignerError, parse_public};

/// An operator's directory.
#[derive(Debug)]
pub struct TrustDir {
    dir: PathBuf,
    manifest: Manifest,
    /// How long a signing command may take.
    limit: Duration,
}

/// Where a new key comes from.
#[derive(Debug, Clone)]
pub enum NewKey {
    /// A fresh one, into a new file.
    File,
    /// One that a command holds, with its public half.
    Command {
        /// The command line.
        command: String,
        /// The public half.
        public: Box<AuthorityKey>,
    },
}

/// What a new directory is for.
#[derive(Debug, Clone)]
pub struct Init {
    /// The trust domain.
    pub domain: TrustDomain,
    /// The root.
    pub root: NewKey,
    /// The policy key.
    pub policy: NewKey,
    /// The first broker's name.
    pub broker: String,
    /// For how long the bundle is valid.
    pub life: Duration,
}

/// What an operation made.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The bundle that is in the directory now.
    pub bundle: Verified<TrustBundle>,
    /// Files that were created.
    pub created: Vec<PathBuf>,
    /// Files that are not needed any more once all have taken this bundle.
    pub obsolete: Vec<PathBuf>,
    /// The policy's revision, if it was signed again.
    pub policy_revision: Option<u64>,
}

/// What lies in the directory.
#[derive(Debug)]
pub struct State {
    /// The bundle, whether it has expired or not.
    pub bundle: Verified<TrustBundle>,
    /// The policy's revision, when it was signed and by which key. Nothing if
    /// there is none.
    pub policy: Option<PolicyState>,
    /// The broker of each issuing key that is the newest one of a broker.
    pub brokers: BTreeMap<String, AuthorityKey>,
}

/// The signed policy in the directory.
#[derive(Debug, Clone)]
pub struct PolicyState {
    /// Its number.
    pub revision: u64,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// Whether the bundle names its key.
    pub is_vouched: bool,
}

impl TrustDir {
    /// Makes the keys and the first bundle. The directory is created for its
    /// owner alone; nothing in it is overwritten.
    ///
    /// # Errors
    /// [`TrustDirError`]; [`TrustDirError::Exists`] if there is a `trust.toml`.
    pub fn init(
        dir: &Path,
        init: &Init,
        limit: Duration,
        now: UnixMillis,
    ) -> Result<(Self, Outcome), TrustDirError> {
        make_dir(dir)?;
        if dir.join(manifest::FILE).exists() {
            return Err(TrustDirError::Exists {
                dir: dir.to_owned(),
            });
        }
        let mut created = Vec::new();
        let root = new_key(dir, AuthorityRole::Root, &init.root, &mut created)?;
        let policy = new_key(dir, AuthorityRole::Policy, &init.policy, &mut created)?;
        let issuing = new_issuing_key(dir, &init.broker, &mut created)?;
        let this = Self {
            dir: dir.to_owned(),
            manifest: Manifest {
                domain: init.domain.clone(),
                root,
                policy,
                issuing: BTreeMap::from([(init.broker.clone(), issuing)]),
            },
            limit,
        };
        let bundle = TrustBundle {
            trust_domain: init.domain.clone(),
            version: 1,
            issued_at: now,
            expires_at: now.saturating_add(init.life),
            root: *this.manifest.root.public.verifying_key(),
            former_roots: Vec::new(),
            issuing: Vec::new(),
            policy_keys: vec![*this.manifest.policy.public.verifying_key()],
        };
        let outcome = this.publish(bundle, created, &[])?;
        Ok((this, outcome))
    }

    /// Opens a directory. A signing command may take `limit`.
    ///
    /// # Errors
    /// If there is no usable `trust.toml`.
    pub fn open(dir: &Path, limit: Duration) -> Result<Self, TrustDirError> {
        Ok(Self {
            dir: dir.to_owned(),
            manifest: Manifest::read(dir)?,
            limit,
        })
    }

    /// The trust domain.
    #[must_use]
    pub const fn domain(&self) -> &TrustDomain {
        &self.manifest.domain
    }

    /// Who signs with the policy key.
    ///
    /// # Errors
    /// If its file cannot be used.
    pub fn policy_signer(&self) -> Result<Signer, TrustDirError> {
        Ok(self.manifest.policy.signer(&self.dir, self.limit)?)
    }

    /// A file of the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What lies in it, proven by `root.pub`.
    ///
    /// # Errors
    /// If the bundle cannot be read or does not hold; its age does not matter.
    pub fn state(&self, now: UnixMillis) -> Result<State, TrustDirError> {
        let bundle = self.bundle(now)?;
        let policy = self.signed_policy()?.map(|(signed, key)| PolicyState {
            revision: signed.revision,
            issued_at: signed.issued_at,
            is_vouched: bundle.policy_keys.contains(&key),
        });
        Ok(State {
            bundle,
            policy,
            brokers: self.manifest.issuing.clone(),
        })
    }

    /// The next version: the same keys, with new times. Issuing keys that have
    /// ended stay for as long as a stream may hold what was stored under them,
    /// and then leave.
    ///
    /// # Errors
    /// [`TrustDirError`].
    pub fn sign(&self, life: Duration, now: UnixMillis) -> Result<Outcome, TrustDirError> {
        let bundle = self.next(life, now)?;
        self.publish(bundle, Vec::new(), &[])
    }

    /// The next version without these issuing keys, at once: what they issued
    /// counts no more, not even for what streams stored before.
    ///
    /// # Errors
    /// [`TrustDirError::Unnamed`] if the bundle does not name one of them.
    pub fn drop_issuers(
        &mut self,
        keys: &[AuthorityKey],
        life: Duration,
        now: UnixMillis,
    ) -> Result<Outcome, TrustDirError> {
        let mut bundle = self.next(life, now)?;
        for key in keys {
            let before = bundle.issuing.len();
            bundle
                .issuing
                .retain(|named| named.key != *key.verifying_key());
            if bundle.issuing.len() == before {
                return Err(TrustDirError::Unnamed {
                    key: key.to_string(),
                });
            }
        }
        self.manifest.issuing.retain(|_, key| !keys.contains(key));
        self.publish(bundle, Vec::new(), &[])
    }

    /// A new issuing key for a broker, beside the old one, which issues until its
    /// own time is over and is named for what streams stored until then. `public`
    /// is one that the broker made itself; otherwise a file is made.
    ///
    /// # Errors
    /// [`TrustDirError`].
    pub fn rotate_issuer(
        &mut self,
        broker: &str,
        public: Option<AuthorityKey>,
        life: Duration,
        now: UnixMillis,
    ) -> Result<Outcome, TrustDirError> {
        let mut created = Vec::new();
        let key = match public {
            Some(key) => key,
            None => new_issuing_key(&self.dir, broker, &mut created)?,
        };
        // The old one, no broker's newest any more, keeps the time that it has.
        self.manifest.issuing.insert(broker.to_owned(), key);
        let bundle = self.next(life, now)?;
        self.publish(bundle, created, &[])
    }

    /// A new policy key beside the old one, and the policy signed by it, as its
    /// next revision. Once every enforcer has them, [`finish_policy_key`] lets
    /// the old one go.
    ///
    /// [`finish_policy_key`]: Self::finish_policy_key
    ///
    /// # Errors
    /// [`TrustDirError`].
    pub fn rotate_policy_key(
        &mut self,
        new: &NewKey,
        life: Duration,
        now: UnixMillis,
    ) -> Result<Outcome, TrustDirError> {
        let mut bundle = self.next(life, now)?;
        let mut created = Vec::new();
        let key = new_key(&self.dir, AuthorityRole::Policy, new, &mut created)?;
        let public = *key.public.verifying_key();
        if bundle.policy_keys.contains(&public) {
            return Err(TrustDirError::SameKey);
        }
        bundle.policy_keys.push(public);
        let held = self.signed_policy()?;
        self.manifest.policy = key;
        let mut outcome = self.publish(bundle, created, &[])?;
        if let Some((held, _)) = held {
            outcome.policy_revision = Some(self.sign_revision(held.revision, held.text, now)?);
        }
        Ok(outcome)
    }

    /// The next version names the newest policy key alone.
    ///
    /// # Errors
    /// [`TrustDirError::PolicyByOldKey`] if the policy here is by another key:
    /// no enforcer could go by it.
    pub fn finish_policy_key(
        &mut self,
        life: Duration,
        now: UnixMillis,
    ) -> Result<Outcome, TrustDirError> {
        let mut bundle = self.next(life, now)?;
        let public = *self.manifest.policy.public.verifying_key();
        let before = std::mem::replace(&mut bundle.policy_keys, vec![public]);
        if let Some((_, key)) = self.signed_policy()?
            && key != public
        {
            return Err(TrustDirError::PolicyByOldKey);
        }
        let dropped: Vec<_> = before.into_iter().filter(|key| *key != public).collect();
        self.publish(bundle, Vec::new(), &dropped)
    }

    /// A new root: the old one vouches for it, and the new one signs the next
    /// version. `root.pub` pins both. Once everybody pins the new one,
    /// [`finish_root`](Self::finish_root) lets the old one go.
    ///
    /// # Errors
    /// [`TrustDirError`].
    pub fn rotate_root(
        &mut self,
        new: &NewKey,
        life: Duration,
        now: UnixMillis,
    ) -> Result<Outcome, TrustDirError> {
        let mut bundle = self.next(life, now)?;
        if bundle.former_roots.len() >= MAX_FORMER_ROOTS {
            return Err(TrustDirError::TooManyRoots);
        }
        let mut created = Vec::new();
        let old = self.manifest.root.clone();
        let key = new_key(&self.dir, AuthorityRole::Root, new, &mut created)?;
        let public = *key.public.verifying_key();
        if bundle.is_under(&public) {
            return Err(TrustDirError::SameKey);
        }
        let (domain, former) = (&self.manifest.domain, old.public.verifying_key());
        let word = old.signer(&self.dir, self.limit)?.sign(
            Tag::RootSuccession,
            &FormerRoot::to_sign(domain, former, &public),
        )?;
        let word = FormerRoot::vouched(domain, former, &public, word)?;
        bundle.former_roots.push(word);
        bundle.root = public;
        self.manifest.root = key;
        self.publish(bundle, created, &[])
    }

    /// The next version names no former root, and `root.pub` pins the newest
    /// alone: whoever still pins an older one does not start any more.
    ///
    /// # Errors
    /// [`TrustDirError`].
    pub fn finish_root(
        &mut self,
        life: Duration,
        now: UnixMillis,
    ) -> Result<Outcome, TrustDirError> {
        let mut bundle = self.next(life, now)?;
        let former = std::mem::take(&mut bundle.former_roots);
        let dropped: Vec<_> = former.iter().map(|former| *former.key()).collect();
        self.publish(bundle, Vec::new(), &dropped)
    }

    /// Signs a policy as the next revision, unless the last one has this text
    /// already. Gives the policy and its revision.
    ///
    /// # Errors
    /// If the policy does not load, is of another trust domain, or the bundle
    /// does not name the policy key.
    pub fn sign_policy(
        &self,
        name: &str,
        text: &str,
        now: UnixMillis,
    ) -> Result<(Policy, u64), TrustDirError> {
        let policy = Policy::parse(name, text)?;
        if *policy.trust_domain() != self.manifest.domain {
            return Err(TrustDirError::PolicyDomain {
                domain: self.manifest.domain.clone(),
            });
        }
        let bundle = self.bundle(now)?;
        let public = *self.manifest.policy.public.verifying_key();
        if !bundle.policy_keys.contains(&public) {
            return Err(TrustDirError::Unnamed {
                key: self.manifest.policy.public.to_string(),
            });
        }
        let last = match self.signed_policy()? {
            Some((last, key)) if last.text == text && key == public => {
                return Ok((policy, last.revision));
            }
            Some((last, _)) => last.revision,
            None => 0,
        };
        let revision = self.sign_revision(last, text.to_owned(), now)?;
        Ok((policy, revision))
    }

    fn sign_revision(
        &self,
        last: u64,
        text: String,
        now: UnixMillis,
    ) -> Result<u64, TrustDirError> {
        let signer = self.manifest.policy.signer(&self.dir, self.limit)?;
        let signed = SignedPolicy {
            trust_domain: self.manifest.domain.clone(),
            revision: last.saturating_add(1),
            issued_at: now,
            comment: String::new(),
            text,
        };
        let public = self.manifest.policy.public;
        let message = signed.to_sign(public.verifying_key());
        let signature = signer.sign(Tag::Policy, &message)?;
        let bytes = signed.signed(public.verifying_key(), &signature)?;
        write(&self.path(POLICY), &bytes)?;
        Ok(signed.revision)
    }

    /// The next version with the present keys.
    fn next(&self, life: Duration, now: UnixMillis) -> Result<TrustBundle, TrustDirError> {
        let mut bundle = self.bundle(now)?.into_inner();
        if bundle.root != *self.manifest.root.public.verifying_key() {
            return Err(TrustDirError::OtherRoot);
        }
        bundle.version = bundle.version.saturating_add(1);
        bundle.issued_at = now;
        bundle.expires_at = now.saturating_add(life);
        // Nothing new counts under one that has ended: no credential outlives its key.
        bundle
            .issuing
            .retain(|issuing| issuing.expires_at.saturating_add(NAMED_AFTER_END) > now);
        Ok(bundle)
    }

    /// Signs a bundle and writes everything. The newest issuing keys are trusted
    /// for as long as may be.
    fn publish(
        &self,
        mut bundle: TrustBundle,
        mut created: Vec<PathBuf>,
        dropped: &[VerifyingKey],
    ) -> Result<Outcome, TrustDirError> {
        let until = bundle
            .issued_at
            .saturating_add(MAX_ISSUING_LIFE)
            .min(bundle.expires_at);
        for key in self.manifest.issuing.values() {
            let key = *key.verifying_key();
            bundle.issuing.retain(|issuing| issuing.key != key);
            bundle.issuing.push(IssuingKey {
                key,
                expires_at: until,
            });
        }
        if bundle.issuing.len() > MAX_BUNDLE_KEYS {
            return Err(TrustDirError::TooManyKeys);
        }
        let signer = self.manifest.root.signer(&self.dir, self.limit)?;
        let signature = signer.sign(Tag::TrustBundle, &bundle.to_sign()?)?;
        let bytes = bundle.signed(&signature)?;
        let opened = TrustBundle::open(
            &bytes,
            &[bundle.root],
            &self.manifest.domain,
            bundle.issued_at,
            Duration::ZERO,
        )?;

        self.check_revocations(&opened)?;

        // Pins first: they may name more than is needed, never less.
        let pins = self.pins(&opened, dropped);
        if !self.path(BUNDLE).exists() {
            created.extend([BUNDLE, ROOTS, manifest::FILE].map(|name| self.path(name)));
        }
        write(&self.path(ROOTS), pins.as_bytes())?;
        write(
            &self.path(manifest::FILE),
            self.manifest.render().as_bytes(),
        )?;
        write(&self.path(BUNDLE), &bytes)?;
        Ok(Outcome {
            obsolete: self.obsolete(&opened, dropped)?,
            bundle: opened,
            created,
            policy_revision: None,
        })
    }

    /// A revocation list that was published from here is by a key that the bundle
    /// names: otherwise no process could start.
    fn check_revocations(&self, bundle: &Verified<TrustBundle>) -> Result<(), TrustDirError> {
        let Some(bytes) = read_if_there(&self.path(REVOCATIONS))? else {
            return Ok(());
        };
        match RevocationList::open(&bytes, bundle, bundle.issued_at, ANY_AGE) {
            Err(RevocationError::Statement(TrustError::UnknownKey)) => {
                Err(TrustDirError::RevocationsByOldKey)
            }
            _ => Ok(()),
        }
    }

    fn pins(&self, bundle: &TrustBundle, dropped: &[VerifyingKey]) -> String {
        let mut text = format!("{}\n", self.manifest.root.public);
        let former = bundle.former_roots.iter().rev().map(FormerRoot::key);
        for key in former.filter(|key| !dropped.contains(key)) {
            if let Ok(key) = AuthorityKey::from_bytes(AuthorityRole::Root, key.as_bytes()) {
                text.push_str(&format!("# Until everybody pins the one above:\n{key}\n"));
            }
        }
        text
    }

    /// Key files here of keys that were dropped, or of issuing keys that have
    /// ended or that the bundle does not name.
    fn obsolete(
        &self,
        bundle: &TrustBundle,
        dropped: &[VerifyingKey],
    ) -> Result<Vec<PathBuf>, TrustDirError> {
        let mut obsolete = Vec::new();
        for (role, dir) in [
            (AuthorityRole::Root, self.dir.clone()),
            (AuthorityRole::Policy, self.dir.clone()),
        ] {
            for (path, key) in key_files(&dir, role)? {
                if dropped.contains(key.verifying_key()) {
                    obsolete.push(path);
                }
            }
        }
        let brokers = self.dir.join(ISSUING);
        let listed = std::fs::read_dir(&brokers).map_err(|source| TrustDirError::Directory {
            path: brokers.clone(),
            source,
        });
        for broker in listed?.flatten() {
            for (path, key) in key_files(&broker.path(), AuthorityRole::Issuing)? {
                let may_issue = bundle.issuing.iter().any(|named| {
                    named.key == *key.verifying_key() && named.expires_at > bundle.issued_at
                });
                if !may_issue {
                    obsolete.push(path);
                }
            }
        }
        Ok(obsolete)
    }

    /// The bundle in the directory, at whatever age.
    fn bundle(&self, now: UnixMillis) -> Result<Verified<TrustBundle>, TrustDirError> {
        let path = self.path(BUNDLE);
        let bytes = read_if_there(&path)?.ok_or(TrustDirError::Missing { path })?;
        let path = self.path(ROOTS);
        let text = read_if_there(&path)?.ok_or(TrustDirError::Missing { path })?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let roots = AuthorityKey::parse_list(AuthorityRole::Root, &text)
            .map_err(|source| TrustDirError::Signer(SignerError::Public(source)))?;
        let roots: Vec<_> = roots.iter().map(|root| *root.verifying_key()).collect();
        let bundle = TrustBundle::open(&bytes, &roots, &self.manifest.domain, now, ANY_AGE);
        Ok(bundle?)
    }

    /// The signed policy, if there is one, and its key.
    fn signed_policy(&self) -> Result<Option<(SignedPolicy, VerifyingKey)>, TrustDirError> {
        let Some(bytes) = read_if_there(&self.path(POLICY))? else {
            return Ok(None);
        };
        let domain = &self.manifest.domain;
        Ok(Some(SignedPolicy::danger_open_by_its_own_key(
            &bytes, domain,
        )?))
    }
}

/// How long a bundle names an issuing key after its end: as long as a stream may
/// hold what is judged as of then, and a day for what clocks differ by and for a
/// message that was sealed a while after the record of its data key.
const NAMED_AFTER_END: Duration =
    LONGEST_STREAM_MAX_AGE.saturating_add(Duration::from_secs(24 * 60 * 60));

const ROOTS: &str = "root.pub";
const BUNDLE: &str = "bundle";
const POLICY: &str = "policy";
const ISSUING: &str = "issuing";
/// What `bulla revoke` published last.
const REVOCATIONS: &str = "revocations";

/// However old it is: what counts here is what it says.
const ANY_AGE: Duration = Duration::from_secs(u32::MAX as u64);

#[cfg(test)]
mod tests;
