//! Every setting of `broker.toml` by its key: what it is, where that comes from, and
//! how the environment replaces it.
//!
//! The variable of `admin.address` is `BULLA_BROKER_ADMIN__ADDRESS`: the key in capitals,
//! with two underscores in the place of the dot. No variable holds a secret; keys are
//! files, and a variable names one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::raw::{Raw, RawAdmin, RawExchange, RawOperatorMode};

/// What a variable of a broker's settings begins with.
pub(super) const PREFIX: &str = "BULLA_BROKER_";

/// Variables that begin so and are options of the command line.
const OF_OPTIONS: [&str; 1] = ["CONFIG"];

/// A setting as it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key, for example `admin.address`.
    pub key: &'static str,
    /// Its value; empty if there is none.
    pub value: String,
    /// Who says so.
    pub origin: Origin,
}

/// Where a setting's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has said anything else.
    Default,
    /// The configuration file.
    File,
    /// The environment.
    Environment,
}

impl Origin {
    /// A short stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
        }
    }
}

struct Key {
    name: &'static str,
    get: fn(&Raw) -> String,
    set: fn(&mut Raw, &str) -> Result<(), String>,
}

/// Puts what the environment says in the place of what the file says, and tells what
/// counts. What cannot be used is told in `problems`.
pub(super) fn replace(
    raw: &mut Raw,
    file: &toml::Table,
    variables: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Vec<String>,
) -> Vec<Setting> {
    let mut given = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if OF_OPTIONS.contains(&name) {
            continue;
        }
        match value.into_string() {
            Ok(value) => {
                given.insert(name.to_owned(), value);
            }
            Err(_) => problems.push(format!("`{PREFIX}{name}`: is no text")),
        }
    }
    let mut settings = Vec::with_capacity(KEYS.len());
    for key in &KEYS {
        let variable = key.name.to_ascii_uppercase().replace('.', "__");
        let mut origin = if is_in(file, key.name) {
            Origin::File
        } else {
            Origin::Default
        };
        if let Some(value) = given.remove(&variable) {
            origin = Origin::Environment;
            if let Err(problem) = (key.set)(raw, &value) {
                problems.push(format!("`{PREFIX}{variable}`: {problem}"));
            }
        }
        settings.push(Setting {
            key: key.name,
            value: (key.get)(raw),
            origin,
        });
    }
    // A word that is misspelt would change nothing, and nobody would notice.
    for name in given.keys() {
        problems.push(format!("`{PREFIX}{name}`: there is no such setting"));
    }
    settings
}

fn is_in(file: &toml::Table, key: &str) -> bool {
    match key.split_once('.') {
        None => file.contains_key(key),
        Some((section, key)) => file
            .get(section)
            .and_then(toml::Value::as_table)
            .is_some_and(|section| section.contains_key(key)),
    }
}

fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no number that fits"))
}

fn exchange(raw: &mut Raw) -> &mut RawExchange {
    raw.exchange.get_or_insert_with(|| RawExchange {
        workload: String::new(),
        seed_file: PathBuf::new(),
    })
}

fn operator_mode(raw: &mut Raw) -> &mut RawOperatorMode {
    raw.operator_mode.get_or_insert_with(|| RawOperatorMode {
        account: String::new(),
        on_change: "reauthorise".to_owned(),
    })
}

/// A key whose value is a text.
macro_rules! text {
    ($name:literal, $($field:ident).+) => {
        Key {
            name: $name,
            get: |raw| raw.$($field).+.clone(),
            set: |raw, value| {
                value.clone_into(&mut raw.$($field).+);
                Ok(())
            },
        }
    };
}

/// A key whose value is a path.
macro_rules! path {
    ($name:literal, $($field:ident).+) => {
        Key {
            name: $name,
            get: |raw| shown(&raw.$($field).+),
            set: |raw, value| {
                raw.$($field).+ = PathBuf::from(value);
                Ok(())
            },
        }
    };
}

/// A key whose value is a path, or nothing.
macro_rules! optional_path {
    ($name:literal, $($field:ident).+) => {
        Key {
            name: $name,
            get: |raw| raw.$($field).+.as_deref().map_or_else(String::new, shown),
            set: |raw, value| {
                raw.$($field).+ = Some(PathBuf::from(value));
                Ok(())
            },
        }
    };
}

const KEYS: [Key; 27] = [
    Key {
        name: "nats_url",
        // Whatever stands before an `@` may be a password.
        get: |raw| match raw.nats_url.rsplit_once('@') {
            Some((_, host)) => format!("…@{host}"),
            None => raw.nats_url.clone(),
        },
        set: |raw, value| {
            value.clone_into(&mut raw.nats_url);
            Ok(())
        },
    },
    text!("group", group),
    text!("credential_lifetime", credential_lifetime),
    text!("state_max_age", state_max_age),
    path!("keys.issuer", keys.issuer),
    path!("keys.xkey", keys.xkey),
    path!("keys.auth", keys.auth),
    path!("keys.js", keys.js),
    path!("keys.sys", keys.sys),
    path!("keys.issuing", keys.issuing),
    text!("trust.domain", trust.domain),
    path!("trust.root", trust.root),
    path!("trust.bundle", trust.bundle),
    path!("trust.policy", trust.policy),
    optional_path!("trust.revocations", trust.revocations),
    optional_path!("tls.ca", tls.ca),
    optional_path!("tls.certificate", tls.certificate),
    optional_path!("tls.key", tls.key),
    Key {
        name: "exchange.workload",
        get: |raw| {
            let exchange = raw.exchange.as_ref();
            exchange.map_or_else(String::new, |e| e.workload.clone())
        },
        set: |raw, value| {
            value.clone_into(&mut exchange(raw).workload);
            Ok(())
        },
    },
    Key {
        name: "exchange.seed_file",
        get: |raw| {
            let exchange = raw.exchange.as_ref();
            exchange.map_or_else(String::new, |e| shown(&e.seed_file))
        },
        set: |raw, value| {
            exchange(raw).seed_file = PathBuf::from(value);
            Ok(())
        },
    },
    Key {
        name: "operator_mode.account",
        get: |raw| {
            let mode = raw.operator_mode.as_ref();
            mode.map_or_else(String::new, |mode| mode.account.clone())
        },
        set: |raw, value| {
            value.clone_into(&mut operator_mode(raw).account);
            Ok(())
        },
    },
    Key {
        name: "operator_mode.on_change",
        get: |raw| {
            let mode = raw.operator_mode.as_ref();
            mode.map_or_else(String::new, |mode| mode.on_change.clone())
        },
        set: |raw, value| {
            value.clone_into(&mut operator_mode(raw).on_change);
            Ok(())
        },
    },
    text!("audit.keep", audit.keep),
    Key {
        name: "audit.max_mebibytes",
        get: |raw| raw.audit.max_mebibytes.to_string(),
        set: |raw, value| {
            raw.audit.max_mebibytes = number(value)?;
            Ok(())
        },
    },
    Key {
        name: "audit.workload_percent",
        get: |raw| raw.audit.workload_percent.to_string(),
        set: |raw, value| {
            raw.audit.workload_percent = number(value)?;
            Ok(())
        },
    },
    Key {
        name: "streams.replicas",
        get: |raw| raw.streams.replicas.to_string(),
        set: |raw, value| {
            raw.streams.replicas = number(value)?;
            Ok(())
        },
    },
    Key {
        name: "admin.address",
        get: |raw| {
            let admin = raw.admin.as_ref();
            admin.map_or_else(String::new, |admin| admin.address.to_string())
        },
        set: |raw, value| {
            let address = value
                .parse()
                .map_err(|_| format!("`{value}` is no address such as `127.0.0.1:9465`"))?;
            raw.admin = Some(RawAdmin { address });
            Ok(())
        },
    },
];
