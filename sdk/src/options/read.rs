//! The same from the environment and from a file.
//!
//! Both have one vocabulary: what a variable calls `BULLA_SEED_FILE` is `seed_file`
//! in the file. A variable that is set comes before the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::WorkloadId;

use super::{ConnectOptions, variables};
use crate::audit::{AuditOptions, RecordUsers};

/// What a value of the file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Beside the file, if it is relative.
    Path,
    Whole,
}

/// What the file may say.
const KEYS: [(&str, Kind); 18] = [
    (variables::NATS_URL, Kind::Text),
    (variables::WORKLOAD, Kind::Text),
    (variables::SEED_FILE, Kind::Path),
    (variables::TRUST_ROOT_FILE, Kind::Path),
    (variables::TRUST_ROOT, Kind::Text),
    (variables::TLS_CA_FILE, Kind::Path),
    (variables::CERTIFICATE_FILE, Kind::Path),
    (variables::CERTIFICATE_KEY_FILE, Kind::Path),
    (variables::TOKEN_FILE, Kind::Path),
    (variables::STATE_DIR, Kind::Path),
    (variables::KEM_VERSION, Kind::Whole),
    (variables::REVOCATIONS_BOUND, Kind::Whole),
    (variables::POLICY_BOUND, Kind::Whole),
    (variables::AUDIT_SAMPLE, Kind::Whole),
    (variables::AUDIT_USERS, Kind::Text),
    (variables::REQUEST_TIMEOUT, Kind::Whole),
    (variables::CONNECT_TIMEOUT, Kind::Whole),
    (variables::MAX_IN_FLIGHT, Kind::Whole),
];

/// How a variable is called in the file.
fn key_of(variable: &str) -> String {
    let key = variable.strip_prefix("BULLA_").unwrap_or(variable);
    key.to_ascii_lowercase()
}

impl ConnectOptions {
    /// Reads the variables named in [`variables`], and the file that
    /// [`variables::CONFIG`] names, if it is set.
    ///
    /// # Errors
    /// [`OptionsError`] lists everything that is missing or malformed at once.
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::read(None, true)
    }

    /// Reads this file, or the one that the environment names, and the environment.
    pub(crate) fn read(file: Option<&Path>, needs_url: bool) -> Result<Self, OptionsError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let named = || lookup(variables::CONFIG).filter(|path| !path.is_empty());
        let file = match file {
            Some(path) => Some(File::read(path)?),
            None => named()
                .map(|path| File::read(Path::new(&path)))
                .transpose()?,
        };
        Self::from_sources(lookup, file.as_ref(), needs_url)
    }

    /// Reads a TOML file, and the variables named in [`variables`], which come before
    /// it. Its keys are those variables without `BULLA_`, in small letters; relative
    /// paths are beside the file.
    ///
    /// ```toml
    /// nats_url = "tls://bus.acme.example"
    /// workload = "spiffe://acme.example/orders"
    /// seed_file = "orders.nk"          # mode 0600
    /// trust_root_file = "root.pub"
    /// request_timeout_seconds = 5
    /// ```
    ///
    /// # Errors
    /// [`OptionsError`] lists everything that is missing or malformed at once.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, OptionsError> {
        Self::read(Some(path.as_ref()), true)
    }

    #[cfg(test)]
    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        Self::from_sources(lookup, None, true)
    }

    fn from_sources(
        env: impl Fn(&str) -> Option<String>,
        file: Option<&File>,
        needs_url: bool,
    ) -> Result<Self, OptionsError> {
        let is_set = |text: &String| !text.trim().is_empty();
        let lookup = |name: &str| {
            let set = env(name).filter(is_set);
            set.or_else(|| file?.values.get(name).cloned().filter(is_set))
        };
        // The root is one thing that two variables say.
        let lookup = |name: &str| {
            let other = match name {
                variables::TRUST_ROOT => variables::TRUST_ROOT_FILE,
                variables::TRUST_ROOT_FILE => variables::TRUST_ROOT,
                _ => return lookup(name),
            };
            let overruled =
                env(name).filter(is_set).is_none() && env(other).filter(is_set).is_some();
            lookup(name).filter(|_| !overruled)
        };
        let called = |name: &str| match file {
            None => format!("`{name}`"),
            Some(file) => format!("`{}` of {} (or `{name}`)", key_of(name), file.name),
        };
        let mut problems = file.map(|file| file.problems.clone()).unwrap_or_default();
        let mut required = |name: &'static str| {
            lookup(name).filter(|v| !v.is_empty()).unwrap_or_else(|| {
                problems.push(format!("{} is not set", called(name)));
                String::new()
            })
        };
        let nats_url = if needs_url {
            required(variables::NATS_URL)
        } else {
            lookup(variables::NATS_URL).unwrap_or_default()
        };
        let workload = required(variables::WORKLOAD);
        // Something has to prove it; an nkey is what is asked for.
        let has_other = [variables::TOKEN_FILE, variables::CERTIFICATE_FILE]
            .iter()
            .any(|name| lookup(name).is_some());
        let seed_file = if has_other {
            lookup(variables::SEED_FILE).unwrap_or_default()
        } else {
            required(variables::SEED_FILE)
        };
        let trust_root = lookup(variables::TRUST_ROOT).filter(|keys| !keys.trim().is_empty());
        let trust_root_file = match &trust_root {
            Some(_) => String::new(),
            None => required(variables::TRUST_ROOT_FILE),
        };
        let workload = match WorkloadId::parse(&workload) {
            Ok(id) => Some(id),
            Err(_) if workload.is_empty() => None,
            Err(e) => {
                problems.push(format!("{}: {e}", called(variables::WORKLOAD)));
                None
            }
        };
        let kem_version = match lookup(variables::KEM_VERSION) {
            Some(text) if !text.is_empty() => {
                text.parse().ok().filter(|v| *v >= 1).unwrap_or_else(|| {
                    let name = called(variables::KEM_VERSION);
                    problems.push(format!("{name} is not a whole number from 1"));
                    1
                })
            }
            _ => 1,
        };
        let mut whole = |name: &'static str| -> Option<u64> {
            let text = lookup(name)?;
            let number = text.parse().ok().filter(|number| *number >= 1);
            if number.is_none() {
                let name = called(name);
                problems.push(format!("{name} is not a whole number from 1"));
            }
            number
        };
        let (revocations, policy) = (
            whole(variables::REVOCATIONS_BOUND).map(Duration::from_secs),
            whole(variables::POLICY_BOUND).map(Duration::from_secs),
        );
        let (request_timeout, connect_timeout) = (
            whole(variables::REQUEST_TIMEOUT).map(Duration::from_secs),
            whole(variables::CONNECT_TIMEOUT).map(Duration::from_secs),
        );
        let max_in_flight = whole(variables::MAX_IN_FLIGHT);
        let path = |name: &str| {
            lookup(name)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        let (chain, key) = (
            path(variables::CERTIFICATE_FILE),
            path(variables::CERTIFICATE_KEY_FILE),
        );
        if chain.is_some() != key.is_some() {
            problems.push(format!(
                "{} and {} come together",
                called(variables::CERTIFICATE_FILE),
                called(variables::CERTIFICATE_KEY_FILE)
            ));
        }
        let mut audit = AuditOptions::default();
        match lookup(variables::AUDIT_SAMPLE).as_deref() {
            None | Some("") => {}
            Some(text) => match text.parse() {
                Ok(every) if every >= 1 => audit = audit.sample(every),
                _ => problems.push(format!(
                    "{} is not a whole number from 1",
                    called(variables::AUDIT_SAMPLE)
                )),
            },
        }
        match lookup(variables::AUDIT_USERS).as_deref() {
            None | Some("" | "pseudonyms") => {}
            Some("names") => audit = audit.users(RecordUsers::Names),
            Some("nothing") => audit = audit.users(RecordUsers::Nothing),
            Some(_) => problems.push(format!(
                "{} is none of `names`, `pseudonyms` and `nothing`",
                called(variables::AUDIT_USERS)
            )),
        }
        match workload {
            Some(workload) if problems.is_empty() => {
                let mut options = Self::new(nats_url, workload, seed_file, trust_root_file);
                options.seed_file = options.seed_file.filter(|p| !p.as_os_str().is_empty());
                options.token_file = path(variables::TOKEN_FILE);
                options.tls_ca_file = lookup(variables::TLS_CA_FILE)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from);
                options.state_dir = lookup(variables::STATE_DIR)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from);
                options.trust_root =
                    trust_root.map(|keys| keys.split_whitespace().collect::<Vec<_>>().join("\n"));
                options.kem_version = kem_version;
                if let (Some(chain), Some(key)) = (chain, key) {
                    options = options.certificate(chain, key);
                }
                options.audit = audit;
                if let Some(bound) = revocations {
                    options = options.revocations_bound(bound);
                }
                if let Some(bound) = policy {
                    options = options.policy_bound(bound);
                }
                if let Some(timeout) = request_timeout {
                    options = options.request_timeout(timeout);
                }
                if let Some(timeout) = connect_timeout {
                    options = options.connect_timeout(timeout);
                }
                if let Some(count) = max_in_flight {
                    options = options.max_in_flight(usize::try_from(count).unwrap_or(usize::MAX));
                }
                Ok(options)
            }
            _ => Err(OptionsError { problems }),
        }
    }
}

/// A file of settings, as far as it could be read.
struct File {
    name: String,
    /// By variable.
    values: BTreeMap<&'static str, String>,
    problems: Vec<String>,
}

impl File {
    fn read(path: &Path) -> Result<Self, OptionsError> {
        let name = format!("`{}`", path.display());
        let one = |problem: String| OptionsError {
            problems: vec![problem],
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| one(format!("{name} cannot be read: {error}")))?;
        // What it says beyond its first line quotes the file.
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            one(format!("{name} is no TOML: {}", error.message()))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
        for (key, value) in &table {
            let known = KEYS.iter().find(|(variable, _)| key_of(variable) == *key);
            let Some((variable, kind)) = known else {
                problems.push(format!("{name} knows no `{key}`{}", meant(key)));
                continue;
            };
            let value = match (kind, value) {
                (Kind::Text, toml::Value::String(text)) => text.clone(),
                (Kind::Text, toml::Value::Array(lines)) if *variable == variables::TRUST_ROOT => {
                    let lines = lines.iter().filter_map(toml::Value::as_str);
                    lines.collect::<Vec<_>>().join("\n")
                }
                (Kind::Path, toml::Value::String(text)) => folder.join(text).display().to_string(),
                (Kind::Whole, toml::Value::Integer(number)) => number.to_string(),
                (kind, _) => {
                    let wanted = match kind {
                        Kind::Text => "a string",
                        Kind::Path => "a path, as a string",
                        Kind::Whole => "a whole number",
                    };
                    problems.push(format!("`{key}` of {name} must be {wanted}"));
                    continue;
                }
            };
            values.insert(*variable, value);
        }
        Ok(Self {
            name,
            values,
            problems,
        })
    }
}

/// What an unknown key may have been meant for.
fn meant(key: &str) -> String {
    if key == "seed" || key == "token" || key == "password" {
        return ": secrets are named by file, `seed_file`".to_owned();
    }
    let known: Vec<String> = KEYS.iter().map(|(variable, _)| key_of(variable)).collect();
    format!(": it may say {}", known.join(", "))
}

/// Everything that is wrong with the settings, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionsError {
    problems: Vec<String>,
}

impl OptionsError {
    /// Each thing that is wrong, with its place.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the settings do not say how to connect: {}",
            self.problems.join("; ")
        )
    }
}

impl std::error::Error for OptionsError {}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::variables;
    use super::*;

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let error = ConnectOptions::from_lookup(|name| {
            (name == variables::WORKLOAD).then(|| "orders".to_owned())
        })
        .unwrap_err()
        .to_string();
        for name in [
            variables::NATS_URL,
            variables::WORKLOAD,
            variables::SEED_FILE,
            variables::TRUST_ROOT_FILE,
        ] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn roots_are_pinned_by_file_or_by_value() {
        let options = ConnectOptions::from_lookup(|name| match name {
            variables::WORKLOAD => Some("spiffe://acme.example/orders".to_owned()),
            variables::TRUST_ROOT => Some(" one two\nthree ".to_owned()),
            variables::NATS_URL | variables::SEED_FILE => Some("x".to_owned()),
            _ => None,
        });
        assert_eq!(options.unwrap().trust_root.unwrap(), "one\ntwo\nthree");
    }

    #[test]
    fn a_certificate_comes_with_its_key() {
        let error = ConnectOptions::from_lookup(|name| match name {
            variables::WORKLOAD => Some("spiffe://acme.example/orders".to_owned()),
            variables::CERTIFICATE_KEY_FILE => None,
            _ => Some("x".to_owned()),
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(variables::CERTIFICATE_KEY_FILE), "{error}");
    }

    #[test]
    fn a_complete_environment_is_taken() {
        let options = ConnectOptions::from_lookup(|name| {
            Some(match name {
                variables::WORKLOAD => "spiffe://acme.example/orders".to_owned(),
                variables::KEM_VERSION => "3".to_owned(),
                variables::TRUST_ROOT => String::new(),
                variables::REVOCATIONS_BOUND => "7".to_owned(),
                variables::POLICY_BOUND => "8".to_owned(),
                variables::AUDIT_SAMPLE => "10".to_owned(),
                variables::AUDIT_USERS => "names".to_owned(),
                variables::REQUEST_TIMEOUT
                | variables::CONNECT_TIMEOUT
                | variables::MAX_IN_FLIGHT => "9".to_owned(),
                other => format!("value-of-{other}"),
            })
        })
        .unwrap();
        assert_eq!(options.workload.path(), "orders");
        assert_eq!(options.kem_version, 3);
        assert_eq!(options.audit.sample, 10);
        assert_eq!(options.audit.users, RecordUsers::Names);
        assert_eq!(options.bounds.revocations, Duration::from_secs(7));
        assert_eq!(options.bounds.policy, Duration::from_secs(8));
        let seed_file = PathBuf::from("value-of-BULLA_SEED_FILE");
        assert_eq!(options.seed_file, Some(seed_file));
        let token_file = PathBuf::from("value-of-BULLA_TOKEN_FILE");
        assert_eq!(options.token_file, Some(token_file));
        let certificate = options.certificate.unwrap();
        assert_eq!(
            certificate.key,
            PathBuf::from("value-of-BULLA_CERTIFICATE_KEY_FILE")
        );
    }

    fn file(text: &str) -> Result<(tempfile::TempDir, File), OptionsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.toml");
        std::fs::write(&path, text).unwrap();
        File::read(&path).map(|file| (dir, file))
    }

    const COMPLETE: &str = r#"
        nats_url = "nats://127.0.0.1:4222"
        workload = "spiffe://acme.example/orders"
        seed_file = "orders.nk"
        trust_root = ["one", "two"]
        request_timeout_seconds = 3
        max_in_flight = 7
    "#;

    #[test]
    fn a_file_says_what_the_environment_does_not() {
        let (dir, file) = file(COMPLETE).unwrap();
        let options = ConnectOptions::from_sources(|_| None, Some(&file), true).unwrap();
        assert_eq!(options.seed_file, Some(dir.path().join("orders.nk")));
        assert_eq!(options.trust_root.unwrap(), "one\ntwo");
        assert_eq!(options.request_timeout, Duration::from_secs(3));
        assert_eq!(options.max_in_flight, 7);
        let env = |name: &str| match name {
            variables::NATS_URL => Some("tls://elsewhere".to_owned()),
            variables::TRUST_ROOT_FILE => Some("pins".to_owned()),
            _ => None,
        };
        let options = ConnectOptions::from_sources(env, Some(&file), true).unwrap();
        assert_eq!(options.nats_url, "tls://elsewhere");
        assert_eq!(options.trust_root_file, PathBuf::from("pins"));
        assert_eq!(options.trust_root, None);
    }

    #[test]
    fn everything_that_is_wrong_with_a_file_is_said_at_once() {
        let (_dir, wrong) = file(
            "nats_url = 7\nseed = \"SUA…\"\nworkload = \"orders\"\nstorage = 1\nkem_version = 0\n",
        )
        .unwrap();
        let error = ConnectOptions::from_sources(|_| None, Some(&wrong), true).unwrap_err();
        let text = error.to_string();
        for part in [
            "`nats_url` of `",
            "must be a string",
            "knows no `seed`: secrets are named by file",
            "knows no `storage`: it may say",
            "`workload` of `",
            "`seed_file` of `",
            "(or `BULLA_TRUST_ROOT_FILE`) is not set",
            "`kem_version` of `",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains("SUA"), "{text}");
        let error = file("nats_url = ").err().unwrap().to_string();
        assert!(error.contains("is no TOML"), "{error}");
        let error = File::read(Path::new("/nowhere/x.toml")).err().unwrap();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}
