//! Claims of a user that only their readers can read.
//!
//! The edge encrypts them under data keys like those of messages, one for each set
//! of readers, and puts the ciphertext into the token. The wrapped keys lie on the
//! stream of data keys, so that a token stays small however many readers there are
//! and whatever their keys weigh. A reader opens them once for each token.

mod part;

use std::collections::BTreeMap;
use std::sync::Arc;

use bulla_envelope::{ClaimsOf, MAX_PRIVATE_CLAIMS, PrivateClaims};
use bulla_identity::{UnixMillis, WorkloadId};
use bulla_keyring::{Cipher, CipherSuite, KemSuite};
use bulla_policy::Workload;
use bulla_token::TransactionToken;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::clock;
use crate::process;
use crate::unlock::{UnlockError, Unlocker};
use crate::vault::EncryptError;

use part::Part;

/// How they are encrypted. By reference, the larger KEM costs a token nothing; and no
/// subject's policy says which cipher their readers are to have.
const SUITE: CipherSuite = CipherSuite::new(KemSuite::XWing, Cipher::ChaCha20Poly1305);

/// The most sets of readers of one token.
const MAX_PARTS: usize = 8;

/// What some workloads are to read.
struct ForReaders {
    readers: Vec<Workload>,
    claims: Map<String, Value>,
}

/// What a process could read of a token's private claims.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) claims: Map<String, Value>,
    /// Why some of it could not be read, though it may be for this workload.
    pub(crate) fault: Option<&'static str>,
    /// Whether trying again may help.
    pub(crate) is_passing: bool,
}

/// Reads what is for this workload.
pub(crate) async fn open(unlocker: &Arc<Unlocker>, token: &TransactionToken) -> Opened {
    let mut opened = Opened::default();
    let Some(private) = token.private() else {
        return opened;
    };
    let Ok(parts) = Vec::<Part>::deserialize(private) else {
        opened.fault = Some("private_claims_malformed");
        return opened;
    };
    let of = ClaimsOf {
        txn: token.txn(),
        principal: token.principal(),
    };
    for part in parts.iter().take(MAX_PARTS) {
        match open_part(unlocker, part, of).await {
            Ok(Some(claims)) => opened.claims.extend(claims),
            Ok(None) => {}
            Err((fault, is_passing)) => {
                opened.fault = Some(fault);
                opened.is_passing |= is_passing;
            }
        }
    }
    opened
}

/// Nothing if it is for others.
async fn open_part(
    unlocker: &Arc<Unlocker>,
    part: &Part,
    of: ClaimsOf<'_>,
) -> Result<Option<Map<String, Value>>, (&'static str, bool)> {
    let sealed = part.read().ok_or(("private_claims_malformed", false))?;
    let key = match unlocker.key(sealed.key_reference()).await {
        Ok(key) => key,
        Err(error) if error.is_for_others() => return Ok(None),
        Err(error) => {
            let is_passing = matches!(
                error,
                UnlockError::NoRecord
                    | UnlockError::Unreachable(_)
                    | UnlockError::Refused
                    | UnlockError::RecordCredential(_)
            );
            return Err((error.code(), is_passing));
        }
    };
    let claims = sealed.open(&key, of).map_err(|e| (e.code(), false))?;
    let claims = serde_json::from_slice(&claims);
    claims
        .map(Some)
        .map_err(|_| ("private_claims_malformed", false))
}

impl Client {
    /// Takes the claims that the policy calls private out of `claims`, and gives
    /// them encrypted to their readers, for [`TransactionClaims::private`]: for the
    /// edge that mints a token of `txn` for `user`. None if there is none.
    ///
    /// A claim whose readers have all published no key is taken out and given to
    /// nobody; the sender counts it (`recipients_without_key`). It never stays in
    /// the clear.
    ///
    /// [`TransactionClaims::private`]: bulla_token::TransactionClaims::private
    ///
    /// # Errors
    /// [`EncryptError`]; `claims` have lost the private ones then, too.
    pub async fn hide_claims(
        &self,
        txn: &str,
        user: &str,
        claims: &mut Map<String, Value>,
    ) -> Result<Option<Value>, EncryptError> {
        let policy = self.policy();
        let policy = policy.policy();
        let mut by_readers: BTreeMap<Vec<WorkloadId>, ForReaders> = BTreeMap::new();
        let hidden = claims
            .keys()
            .filter(|name| policy.readers_of(name).is_some());
        for name in hidden.cloned().collect::<Vec<_>>() {
            let (Some(readers), Some(value)) = (policy.readers_of(&name), claims.remove(&name))
            else {
                continue;
            };
            let readers: Vec<Workload> = readers.cloned().collect();
            let ids = readers.iter().map(|reader| reader.id().clone()).collect();
            let set = by_readers.entry(ids).or_insert_with(|| ForReaders {
                readers,
                claims: Map::new(),
            });
            set.claims.insert(name, value);
        }
        let now = clock::now();
        let mut parts = Vec::new();
        for ForReaders { readers, claims } in by_readers.into_values() {
            // On the heap: most tokens hide nothing.
            let sealed = Box::pin(self.hide(readers, txn, user, &claims, now)).await?;
            parts.extend(sealed.as_ref().map(Part::of));
        }
        if parts.len() > MAX_PARTS {
            return Err(EncryptError::TooMany { limit: MAX_PARTS });
        }
        if parts.is_empty() {
            return Ok(None);
        }
        Ok(serde_json::to_value(parts).ok())
    }

    async fn hide(
        &self,
        readers: Vec<Workload>,
        txn: &str,
        user: &str,
        claims: &Map<String, Value>,
        now: UnixMillis,
    ) -> Result<Option<PrivateClaims>, EncryptError> {
        let shared = self.shared();
        let key = shared.vault.key_for_readers(readers, SUITE, now).await?;
        let Some(key) = key else { return Ok(None) };
        let text = Value::Object(claims.clone()).to_string();
        let of = ClaimsOf {
            txn,
            principal: user,
        };
        let process = process::id();
        let sealed = PrivateClaims::seal(&key.key, process, self.workload(), of, text.as_bytes());
        let sealed = sealed.map_err(bulla_envelope::DataKeyError::from)?;
        if sealed.ciphertext.len() > MAX_PRIVATE_CLAIMS {
            return Err(EncryptError::TooLarge {
                limit: MAX_PRIVATE_CLAIMS,
                actual: sealed.ciphertext.len(),
            });
        }
        Ok(Some(sealed))
    }
}

#[cfg(test)]
mod tests {
    use bulla_envelope::{Epoch, RecipientSet};
    use bulla_keyring::DataKeyId;
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    #[test]
    fn a_part_is_read_as_it_was_written_and_nothing_else() {
        let sealed = PrivateClaims {
            suite: CipherSuite::new(KemSuite::X25519, Cipher::Aes256Gcm),
            sender: WorkloadId::parse("spiffe://acme.example/edge").unwrap(),
            epoch: Epoch([1; 8]),
            data_key: DataKeyId([2; 32]),
            recipients: RecipientSet([3; 32]),
            nonce: [4; 12],
            ciphertext: vec![5; 40],
        };
        let written = serde_json::to_value(Part::of(&sealed)).unwrap();
        let read = |value: &Value| Part::deserialize(value).ok().and_then(|part| part.read());
        assert_eq!(read(&written), Some(sealed));
        for (name, value) in [
            ("suite", Value::from(0)),
            ("suite", Value::from(9)),
            ("by", "edge".into()),
            ("epoch", "AQ".into()),
            ("key", "****".into()),
            ("readers", "".into()),
            ("nonce", "BAQEBA".into()),
            (
                "claims",
                BASE64URL_NOPAD
                    .encode(&vec![0; MAX_PRIVATE_CLAIMS + 1])
                    .into(),
            ),
            ("more", Value::from(1)),
        ] {
            let mut changed = written.clone();
            changed[name] = value;
            assert_eq!(read(&changed), None, "{name}");
        }
    }
}
