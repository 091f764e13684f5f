//! Claims of a user that only their readers can read: encrypted under a data key
//! like a body, and carried inside the user's token. SPEC.md, ENV-113.

use std::fmt;

use bulla_identity::WorkloadId;
use bulla_keyring::{CipherSuite, DataKeyId, NONCE_LEN, NonceError, TAG_LEN, Tag};

use crate::data_key::{KeyReference, OpeningKey, SealingKey};
use crate::writer;
use crate::{Epoch, OpenError, RecipientSet};

/// Longest encrypted claims in bytes, with the tag of the AEAD.
pub const MAX_PRIVATE_CLAIMS: usize = 4 * 1024;

/// Encrypted claims, and what finds their key.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateClaims {
    /// The suite.
    pub suite: CipherSuite,
    /// The workload that encrypted them.
    pub sender: WorkloadId,
    /// The epoch of its process.
    pub epoch: Epoch,
    /// Names the data key, and commits to it and to the sender.
    pub data_key: DataKeyId,
    /// Which keys it is wrapped to.
    pub recipients: RecipientSet,
    /// The nonce.
    pub nonce: [u8; NONCE_LEN],
    /// The ciphertext and its tag.
    pub ciphertext: Vec<u8>,
}

/// Shows what finds their key and how long they are.
impl fmt::Debug for PrivateClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateClaims")
            .field("suite", &self.suite)
            .field("sender", &self.sender)
            .field("epoch", &self.epoch)
            .field("data_key", &self.data_key)
            .field("recipients", &self.recipients)
            .field("ciphertext_len", &self.ciphertext.len())
            .finish_non_exhaustive()
    }
}

/// Of which token they are: they mean nothing in another.
#[derive(Debug, Clone, Copy)]
pub struct ClaimsOf<'a> {
    /// The id of the call chain.
    pub txn: &'a str,
    /// The user.
    pub principal: &'a str,
}

impl PrivateClaims {
    /// Encrypts claims, a JSON object's bytes, under a data key of this process.
    /// `sender` is the workload that the key was made for.
    ///
    /// # Errors
    /// [`NonceError`] if the key can seal no more, or belongs to another process.
    pub fn seal(
        key: &SealingKey,
        process: u32,
        sender: &WorkloadId,
        of: ClaimsOf<'_>,
        claims: &[u8],
    ) -> Result<Self, NonceError> {
        let nonce = key.take_nonce(process)?;
        let mut sealed = Self {
            suite: key.suite(),
            sender: sender.clone(),
            epoch: key.epoch(),
            data_key: key.id(),
            recipients: key.recipients(),
            nonce: *nonce.as_bytes(),
            ciphertext: claims.to_vec(),
        };
        let aad = sealed.additional_data(of);
        let tag = key.encrypt(nonce, &aad, &mut sealed.ciphertext);
        sealed.ciphertext.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// What finds their key.
    #[must_use]
    pub fn key_reference(&self) -> KeyReference {
        KeyReference {
            suite: self.suite,
            sender: self.sender.clone(),
            epoch: self.epoch,
            data_key: self.data_key,
            recipients: self.recipients,
        }
    }

    /// The claims in the clear.
    ///
    /// # Errors
    /// [`OpenError::WrongKey`] or [`OpenError::BadCiphertext`].
    pub fn open(&self, key: &OpeningKey, of: ClaimsOf<'_>) -> Result<Vec<u8>, OpenError> {
        if *key.reference() != self.key_reference() {
            return Err(OpenError::WrongKey);
        }
        let (ciphertext, tag) = self
            .ciphertext
            .split_last_chunk::<TAG_LEN>()
            .ok_or(OpenError::BadCiphertext)?;
        let mut claims = ciphertext.to_vec();
        key.decrypt(&self.nonce, &self.additional_data(of), &mut claims, tag)
            .map_err(|_| OpenError::BadCiphertext)?;
        Ok(claims)
    }

    fn additional_data(&self, of: ClaimsOf<'_>) -> Vec<u8> {
        let mut out = Tag::PrivateClaims.as_bytes().to_vec();
        writer::array(&mut out, 7);
        writer::uint(&mut out, u64::from(self.suite.code()));
        writer::string(&mut out, self.sender.as_str());
        writer::bin(&mut out, self.epoch.as_bytes());
        writer::bin(&mut out, &self.data_key.0);
        writer::bin(&mut out, &self.recipients.0);
        writer::string(&mut out, of.txn);
        writer::string(&mut out, of.principal);
        out
    }
}
