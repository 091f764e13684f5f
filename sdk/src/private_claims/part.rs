//! Encrypted claims as a token writes them down.

use bulla_envelope::{Epoch, MAX_PRIVATE_CLAIMS, PrivateClaims, RecipientSet};
use bulla_identity::WorkloadId;
use bulla_keyring::{CipherSuite, DataKeyId};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

/// [`PrivateClaims`] as a token writes them down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    suite: u8,
    by: String,
    epoch: String,
    key: String,
    readers: String,
    nonce: String,
    claims: String,
}

impl Part {
    pub(super) fn of(sealed: &PrivateClaims) -> Self {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        Self {
            suite: sealed.suite.code(),
            by: sealed.sender.as_str().to_owned(),
            epoch: text(sealed.epoch.as_bytes()),
            key: text(&sealed.data_key.0),
            readers: text(&sealed.recipients.0),
            nonce: text(&sealed.nonce),
            claims: text(&sealed.ciphertext),
        }
    }

    pub(super) fn read(&self) -> Option<PrivateClaims> {
        fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
            let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
            bytes.try_into().ok()
        }
        let ciphertext = BASE64URL_NOPAD.decode(self.claims.as_bytes()).ok()?;
        Some(PrivateClaims {
            suite: CipherSuite::from_code(self.suite)?,
            sender: WorkloadId::parse(&self.by).ok()?,
            epoch: Epoch(bytes(&self.epoch)?),
            data_key: DataKeyId(bytes(&self.key)?),
            recipients: RecipientSet(bytes(&self.readers)?),
            nonce: bytes(&self.nonce)?,
            ciphertext,
        })
        .filter(|sealed| sealed.ciphertext.len() <= MAX_PRIVATE_CLAIMS)
    }
}
