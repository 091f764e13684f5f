//! What the commands of `bulla policy` read alike: policies, names, claims, the clock.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bulla_identity::{Claims, UnixMillis, WorkloadId, WorkloadName};
use bulla_policy::{MAX_POLICY_BYTES, Policy, Verb, join_sources};
use serde_json::Value;

use super::Failure;

/// More claims than any token holds.
const MAX_CLAIMS_BYTES: u64 = 1 << 20;

pub(super) fn load(path: &Path) -> Result<Policy, Failure> {
    let text = read(path)?;
    Policy::parse(&path.display().to_string(), &text).map_err(Failure::Policy)
}

/// The text of a policy: of one file, or of every `*.toml` of a directory put
/// together (POL-8).
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    if !path.is_dir() {
        return read_file(path);
    }
    let mut parts = Vec::new();
    let mut left = MAX_POLICY_BYTES;
    for file in files(path)? {
        let text = read_file(&file)?;
        left = left
            .checked_sub(text.len())
            .ok_or_else(|| Failure::TooLarge(path.to_owned()))?;
        let name = file.file_name().and_then(|name| name.to_str());
        parts.push((name.unwrap_or_default().to_owned(), text));
    }
    let files: Vec<(&str, &str)> = parts.iter().map(|(n, t)| (&**n, &**t)).collect();
    join_sources(&files).map_err(Failure::Policy)
}

/// The text of one file.
pub(super) fn read_file(path: &Path) -> Result<String, Failure> {
    let file = std::fs::File::open(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })?;
    let bytes = bounded(file).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })?;
    text(path, bytes)
}

/// Standard input, whole.
pub(super) fn read_input() -> Result<String, Failure> {
    text(
        Path::new("-"),
        bounded(std::io::stdin()).map_err(Failure::Input)?,
    )
}

/// A little more than a policy may have, so that too much is noticed.
fn bounded(from: impl Read) -> std::io::Result<Vec<u8>> {
    let limit = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.len() > MAX_POLICY_BYTES {
        return Err(Failure::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|e| Failure::NotText {
        path: path.to_owned(),
        at: e.utf8_error().valid_up_to(),
    })
}

/// A time of the command line, as RFC 3339 writes it.
pub(super) fn time(text: &str) -> Result<UnixMillis, String> {
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "write it as 2027-01-31T18:00:00Z".to_owned())?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Ok(UnixMillis::from_millis(millis))
}

/// The files of a policy: itself, or every `*.toml` of a directory, by name.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |source| Failure::Read {
        path: path.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        // Hidden files are editors' and deployments' own.
        let name = file.file_name().and_then(|name| name.to_str());
        let is_part = file.extension().is_some_and(|e| e == "toml")
            && name.is_some_and(|name| !name.starts_with('.'));
        if is_part && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Failure::EmptyDirectory(path.to_owned()));
    }
    files.sort();
    Ok(files)
}

pub(super) fn workload(policy: &Policy, name: &str) -> Result<WorkloadId, Failure> {
    let parsed = if name.starts_with("spiffe://") {
        WorkloadId::parse(name)
    } else {
        WorkloadName::parse(name).map(|n| WorkloadId::new(policy.trust_domain(), &n))
    };
    parsed.map_err(|source| Failure::Workload {
        name: name.to_owned(),
        source,
    })
}

pub(super) fn read_claims(path: &Path) -> Result<Claims, Failure> {
    let failed = |source| Failure::ReadClaims {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    input
        .take(MAX_CLAIMS_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Claims::from_map(map)),
        _ => Err(Failure::Claims(path.to_owned())),
    }
}

pub(super) fn verb(word: &str) -> Result<Verb, String> {
    Verb::parse(word).ok_or_else(|| {
        "the verbs are publish, subscribe, request, serve, append, consume, read, write, manage"
            .to_owned()
    })
}

pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
