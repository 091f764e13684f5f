//! API keys: who has one is the user that it was made for.
//!
//! ```text
//! bk_<16 hex digits: its id>_<43 characters: 256 random bits>     what the client has
//! id, SHA-256 of the whole key, user, scopes, times               what the file has
//! ```
//!
//! The file is read again within half a second of any change, so a key that is revoked
//! there is refused everywhere that the file reaches. A file that cannot be read makes no
//! key good. A key is random and long, so a plain hash of it cannot be turned round.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bulla_identity::{Claims, UnixMillis};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// Where a client brings its key.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-api-key");
/// The `idp` of users who brought a key.
pub(crate) const ISSUER: &str = "urn:bulla:api-keys";
/// What every key begins with, so that people and scanners know it for one.
const PREFIX: &str = "bk_";
const ID_DIGITS: usize = 16;
/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_millis(500);

/// The `[api_keys]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeysConfig {
    /// The file that has them.
    pub file: PathBuf,
}

/// The file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    pub(crate) keys: Vec<KeyRecord>,
}

/// What is known of a key, which is not the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) id: String,
    /// SHA-256 of the key, in hex.
    pub(crate) hash: String,
    /// Who has it.
    pub(crate) user: String,
    /// What he may, scopes with spaces between.
    #[serde(default)]
    pub(crate) scope: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) comment: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<u64>,
}

/// Why the file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("cannot use `{}`", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no list of keys.
    #[error("`{}` is no list of API keys", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A record is none, or there twice.
    #[error("`{}` has a record that is none: `{id}`", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// Whose.
        id: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl KeyFile {
    pub(crate) fn read(file: &Path) -> Result<Self, KeyFileError> {
        let bytes = std::fs::read(file).map_err(|source| KeyFileError::File {
            file: file.to_owned(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| KeyFileError::Malformed {
            file: file.to_owned(),
            source,
        })
    }

    /// Replaces the file in one step: whoever reads it meanwhile reads the old or the new.
    pub(crate) fn write(&self, file: &Path) -> Result<(), KeyFileError> {
        let failed = |source| KeyFileError::File {
            file: file.to_owned(),
            source,
        };
        let text = serde_json::to_string_pretty(self).map_err(|e| failed(e.into()))?;
        let beside = beside(file, ".new");
        let mut new = File::create(&beside).map_err(failed)?;
        new.write_all(text.as_bytes()).map_err(failed)?;
        new.write_all(b"\n").map_err(failed)?;
        // A key that was revoked must not come back after a crash.
        new.sync_all().map_err(failed)?;
        std::fs::rename(&beside, file).map_err(failed)
    }

    /// Keeps other commands from the file until what it gives is dropped: whoever reads
    /// it to write it again would lose what somebody else wrote in between, a revocation
    /// too.
    pub(crate) fn lock(file: &Path) -> Result<File, KeyFileError> {
        let failed = |source| KeyFileError::File {
            file: file.to_owned(),
            source,
        };
        let lock = File::create(beside(file, ".lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(lock)
    }

    /// The usable keys by their ids.
    fn good(self, file: &Path) -> Result<HashMap<String, Arc<ApiKey>>, KeyFileError> {
        let mut keys = HashMap::new();
        for record in self.keys {
            let id = record.id.clone();
            let wrong = || KeyFileError::Record {
                file: file.to_owned(),
                id: id.clone(),
            };
            let key = ApiKey::of(record).ok_or_else(wrong)?;
            if keys.insert(id.clone(), Arc::new(key)).is_some() {
                return Err(wrong());
            }
        }
        Ok(keys)
    }
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// A key of the file, as a user.
#[derive(Debug)]
pub(crate) struct ApiKey {
    hash: [u8; 32],
    is_revoked: bool,
    expires: Option<UnixMillis>,
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) claims: Claims,
}

impl ApiKey {
    fn of(record: KeyRecord) -> Option<Self> {
        let hash = HEXLOWER.decode(record.hash.as_bytes()).ok()?;
        let is_name = |t: &str| (1..=512).contains(&t.len()) && !t.chars().any(char::is_control);
        let is_scope = record.scope.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !is_id(&record.id) || !is_name(&record.user) || !is_scope {
            return None;
        }
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(record.user));
        claims.insert("scope".to_owned(), json!(record.scope));
        claims.insert("client_id".to_owned(), json!(record.id));
        Some(Self {
            hash: hash.try_into().ok()?,
            is_revoked: record.revoked.is_some(),
            expires: record.expires.map(UnixMillis::from_secs),
            id: record.id,
            user: record.user,
            claims: Claims::from_map(claims),
        })
    }

    /// When it ends by itself.
    pub(crate) fn ends(&self) -> Option<UnixMillis> {
        self.expires
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A new key: the record of it, and the key itself, which nobody keeps.
pub(crate) fn make(
    (user, scope, comment): (&str, &str, &str),
    now: UnixMillis,
    life: Option<Duration>,
) -> Result<(KeyRecord, String), KeyFileError> {
    let (mut id, mut secret) = ([0; ID_DIGITS / 2], [0; 32]);
    getrandom::fill(&mut id).map_err(|_| KeyFileError::Random)?;
    getrandom::fill(&mut secret).map_err(|_| KeyFileError::Random)?;
    let id = HEXLOWER.encode(&id);
    let key = format!("{PREFIX}{id}_{}", BASE64URL_NOPAD.encode(&secret));
    let record = KeyRecord {
        hash: HEXLOWER.encode(&Sha256::digest(key.as_bytes())),
        id,
        user: user.to_owned(),
        scope: scope.to_owned(),
        comment: comment.to_owned(),
        created: now.as_secs(),
        expires: life.map(|life| now.saturating_add(life).as_secs()),
        revoked: None,
    };
    Ok((record, key))
}

/// Why a request has no key that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyError {
    Missing,
    Repeated,
    Malformed,
    Unknown,
    Wrong,
    Revoked,
    Expired,
    /// The file cannot be read.
    Unavailable,
}

impl KeyError {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Missing => "no_api_key",
            Self::Repeated => "repeated_api_key",
            Self::Malformed => "api_key_malformed",
            Self::Unknown => "api_key_unknown",
            Self::Wrong => "api_key_wrong",
            Self::Revoked => "api_key_revoked",
            Self::Expired => "api_key_expired",
            Self::Unavailable => "api_keys_unavailable",
        }
    }
}

/// All keys, as the file has them at this moment.
pub(crate) struct ApiKeys {
    file: PathBuf,
    /// None while the file cannot be read.
    current: ArcSwap<Option<HashMap<String, Arc<ApiKey>>>>,
    /// The file as it was when it was read.
    seen: Mutex<Option<Stamp>>,
}

impl ApiKeys {
    pub(crate) fn new(config: &ApiKeysConfig) -> Self {
        let keys = Self {
            file: config.file.clone(),
            current: ArcSwap::from_pointee(None),
            seen: Mutex::default(),
        };
        keys.read();
        keys
    }

    pub(crate) fn is_of(&self, config: &ApiKeysConfig) -> bool {
        self.file == config.file
    }

    fn read(&self) {
        // Before it is read: what is written meanwhile is read again.
        *self.seen.lock() = stamp(&self.file);
        let read = KeyFile::read(&self.file).and_then(|file| file.good(&self.file));
        match read {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "the API keys were read");
                self.current.store(Arc::new(Some(keys)));
            }
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(error, "no API key is good");
                self.current.store(Arc::new(None));
            }
        }
    }

    /// Reads the file whenever it has changed, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let seen = *self.seen.lock();
            if stamp(&self.file) != seen {
                let this = Arc::clone(&self);
                let _ = tokio::task::spawn_blocking(move || this.read()).await;
            }
        }
    }

    /// The user of the key that a request brings.
    pub(crate) fn user(
        &self,
        headers: &HeaderMap,
        now: UnixMillis,
    ) -> Result<Arc<ApiKey>, KeyError> {
        let mut values = headers.get_all(HEADER).iter();
        let value = values.next().ok_or(KeyError::Missing)?;
        if values.next().is_some() {
            return Err(KeyError::Repeated);
        }
        let text = value.to_str().map_err(|_| KeyError::Malformed)?;
        let rest = text.strip_prefix(PREFIX).ok_or(KeyError::Malformed)?;
        let (id, _) = rest.split_once('_').ok_or(KeyError::Malformed)?;
        if !is_id(id) || text.len() > 128 {
            return Err(KeyError::Malformed);
        }
        let key = self.find(id)?;
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if !bool::from(hash.ct_eq(&key.hash)) {
            return Err(KeyError::Wrong);
        }
        self.check(&key, now)?;
        Ok(key)
    }

    /// Whether a key that was good still is.
    pub(crate) fn is_good(&self, id: &str, now: UnixMillis) -> bool {
        self.find(id).is_ok_and(|key| self.check(&key, now).is_ok())
    }

    fn find(&self, id: &str) -> Result<Arc<ApiKey>, KeyError> {
        let keys = self.current.load();
        let keys = keys.as_ref().as_ref().ok_or(KeyError::Unavailable)?;
        keys.get(id).map(Arc::clone).ok_or(KeyError::Unknown)
    }

    #[expect(clippy::unused_self, reason = "what counts is asked of the keys")]
    fn check(&self, key: &ApiKey, now: UnixMillis) -> Result<(), KeyError> {
        if key.is_revoked {
            return Err(KeyError::Revoked);
        }
        match key.expires {
            Some(end) if now >= end => Err(KeyError::Expired),
            _ => Ok(()),
        }
    }
}

type Stamp = (SystemTime, u64, u64);

/// What changes when a file does.
fn stamp(file: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_id_and_proven_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        let now = UnixMillis::from_secs(1_000);
        let (good, text) = make(("alice", "a b", ""), now, None).unwrap();
        let life = Some(Duration::from_secs(10));
        let (ends, ending) = make(("bob", "", ""), now, life).unwrap();
        let (mut gone, revoked) = make(("eve", "", ""), now, None).unwrap();
        gone.revoked = Some(1_000);
        let all = KeyFile {
            keys: vec![good, ends, gone],
        };
        all.write(&file).unwrap();
        assert!(!std::fs::read_to_string(&file).unwrap().contains(&text));
        let keys = ApiKeys::new(&ApiKeysConfig { file });
        let with = |values: &[&str], at: u64| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            let user = keys.user(&headers, UnixMillis::from_secs(at));
            user.map(|key| key.user.clone())
        };
        assert_eq!(with(&[&text], 1_000), Ok("alice".into()));
        assert_eq!(with(&[&ending], 1_009), Ok("bob".into()));
        assert_eq!(with(&[&ending], 1_010), Err(KeyError::Expired));
        assert_eq!(with(&[&revoked], 1_000), Err(KeyError::Revoked));
        assert_eq!(with(&[], 1_000), Err(KeyError::Missing));
        assert_eq!(with(&[&text, &text], 1_000), Err(KeyError::Repeated));
        // One key's id with another's secret, and anything else.
        let (id, secret) = (&text[..19], &ending[19..]);
        assert_eq!(
            with(&[&format!("{id}{secret}")], 1_000),
            Err(KeyError::Wrong)
        );
        assert_eq!(
            with(&[&text[..text.len() - 1]], 1_000),
            Err(KeyError::Wrong)
        );
        let other = format!("bk_{}_x", "0".repeat(16));
        assert_eq!(with(&[&other], 1_000), Err(KeyError::Unknown));
        for bad in ["", "x", "bk_", "bk_zz_x", "bk_00000000000000000_x"] {
            assert_eq!(with(&[bad], 1_000), Err(KeyError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_none_makes_no_key_good() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        let (record, text) = make(("a", "", ""), UnixMillis::from_secs(1), None).unwrap();
        let twice = KeyFile {
            keys: vec![record.clone(), record],
        };
        let twice = serde_json::to_string(&twice).unwrap();
        for bad in ["", "{}", "{\"keys\":[{}]}", "{\"keys\":[],\"x\":1}", &twice] {
            std::fs::write(&file, bad).unwrap();
            let keys = ApiKeys::new(&ApiKeysConfig { file: file.clone() });
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, text.parse().unwrap());
            let user = keys.user(&headers, UnixMillis::from_secs(2));
            assert_eq!(user.err(), Some(KeyError::Unavailable), "{bad}");
        }
    }
}
