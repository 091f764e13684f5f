//! A workload's keys for encryption, vouched for by its own nkey. SPEC.md, ENV-77.
//!
//! ```text
//! record    = [ statement, [ nkey (32), signature (64) ] ]
//! statement = [ 1, workload, version, X-Wing public (1216), X25519 public (32) ]
//! ```
//!
//! The keys are derived from the nkey's seed and the version, so that every
//! replica with that seed has them and makes the same record, byte by byte.

use bulla_identity::{Nkey, Verified, WorkloadId};
use bulla_keyring::{KemPublic, KemSuite, NkeySeed, Tag};

use crate::countersignature::{CountersignatureError, NkeySignature};
use crate::reader::Reader;
use crate::request::{self, CredentialDecodeError, MAX_WORKLOAD_ID, VERSION};
use crate::writer;

/// A record that was decoded; [`KemRecord::verify`] proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KemRecord {
    statement: Vec<u8>,
    workload: WorkloadId,
    version: u64,
    xwing: KemPublic,
    x25519: KemPublic,
    countersignature: NkeySignature,
}

impl KemRecord {
    /// Derives the keys of this version from the workload's seed, and signs
    /// their public halves.
    #[must_use]
    pub fn sign(seed: &NkeySeed, workload: &WorkloadId, version: u64) -> Vec<u8> {
        let public = |suite| {
            let secret = seed.kem_secret(suite, version, workload);
            secret.public().clone()
        };
        let mut statement = Vec::with_capacity(1_400 + workload.as_str().len());
        writer::array(&mut statement, 5);
        writer::uint(&mut statement, VERSION);
        writer::string(&mut statement, workload.as_str());
        writer::uint(&mut statement, version);
        writer::bin(&mut statement, public(KemSuite::XWing).as_bytes());
        writer::bin(&mut statement, public(KemSuite::X25519).as_bytes());
        let countersignature = NkeySignature::by(seed, Tag::KemRecord, &statement);
        let mut out = Vec::with_capacity(statement.len() + 128);
        writer::array(&mut out, 2);
        writer::bin(&mut out, &statement);
        countersignature.write(&mut out);
        out
    }

    /// Decodes strictly what [`KemRecord::sign`] made.
    ///
    /// # Errors
    /// [`CredentialDecodeError`] names the first rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialDecodeError> {
        let mut reader = request::bounded(bytes, MAX_KEM_RECORD)?;
        reader.array_of(2)?;
        let statement = reader.bin(MAX_KEM_RECORD)?.of(bytes);
        let countersignature = NkeySignature::read(&mut reader)?
            .ok_or(CredentialDecodeError::CountersignatureMissing)?;
        reader.finish()?;
        let mut reader = Reader::new(statement);
        reader.array_of(5)?;
        request::version(&mut reader)?;
        let (_, workload) = reader.string(MAX_WORKLOAD_ID)?;
        let record = Self {
            workload: WorkloadId::parse(workload).map_err(|_| CredentialDecodeError::Workload)?,
            version: reader.uint()?,
            xwing: request::kem_key(&mut reader, statement, KemSuite::XWing)?,
            x25519: request::kem_key(&mut reader, statement, KemSuite::X25519)?,
            statement: statement.to_vec(),
            countersignature,
        };
        reader.finish()?;
        Ok(record)
    }

    /// Proves that one of the workload's own nkeys vouches for the keys.
    ///
    /// `anchors` are the nkeys of `workload` in the policy.
    ///
    /// # Errors
    /// [`CountersignatureError`]; [`CountersignatureError::ForeignNkey`] for a
    /// record of another workload too.
    pub fn verify(
        self,
        workload: &WorkloadId,
        anchors: &[Nkey],
    ) -> Result<Verified<Self>, CountersignatureError> {
        if self.workload != *workload {
            return Err(CountersignatureError::ForeignNkey);
        }
        if anchors.is_empty() {
            return Err(CountersignatureError::NoAnchor);
        }
        self.countersignature
            .verify(Tag::KemRecord, &self.statement, anchors)?;
        Ok(Verified::danger_assert(self))
    }

    /// The workload that it claims to be of. Proves nothing.
    #[must_use]
    pub const fn claimed_workload(&self) -> &WorkloadId {
        &self.workload
    }

    /// Higher is newer; it never goes back.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The nkey that vouches, whose seed the keys are derived from.
    #[must_use]
    pub const fn nkey(&self) -> &Nkey {
        self.countersignature.nkey()
    }

    /// The key for this suite.
    #[must_use]
    pub const fn key(&self, suite: KemSuite) -> &KemPublic {
        match suite {
            KemSuite::XWing => &self.xwing,
            KemSuite::X25519 => &self.x25519,
        }
    }
}

/// Longest record in bytes.
const MAX_KEM_RECORD: usize = 4 * 1024;
