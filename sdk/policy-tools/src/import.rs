//! From nats-server's `authorization` to a policy.
//!
//! What the policy allows the source allowed: whatever cannot be said exactly is
//! left out and named, never widened.

mod config;
mod left_out;
mod translate;
mod users;

use bulla_identity::{Nkey, TrustDomain, WorkloadName};

use config::{Map, Value};
use users::User;

pub use config::ConfigError;
pub use left_out::{LeftOut, Why};

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The trust domain of the policy.
    pub trust_domain: TrustDomain,
    /// The account to import, where the source has several with users.
    pub account: Option<String>,
    /// First tokens that stand in for a leading wildcard, beside those that the
    /// source names itself.
    pub roots: Vec<String>,
}

/// A policy and what it does not say.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The policy's text, formatted; it loads.
    pub policy: String,
    /// By line of the source.
    pub left_out: Vec<LeftOut>,
    /// The workloads, each with the user that it was and the nkey that it has, if
    /// the source named one: the others have a placeholder.
    pub workloads: Vec<(WorkloadName, String, Option<Nkey>)>,
}

/// Why nothing could be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// No configuration of nats-server.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody to make workloads of.
    #[error(
        "there are no users in it: a policy is made of the users of `authorization` or of an account"
    )]
    NoUsers,
    /// Accounts are worlds of their own: one policy is one of them.
    #[error("several accounts have users, and each is a world of its own: choose one of {}", .0.join(", "))]
    SeveralAccounts(Vec<String>),
    /// The account is not there, or has no users.
    #[error("there is no account `{name}` with users; there is {}", .known.join(", "))]
    NoSuchAccount {
        /// The name asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// Wildcards and what stands for them make more rules than a policy holds.
    #[error("it makes more than {limit} patterns: name fewer first tokens, or import fewer users")]
    TooLarge {
        /// The most patterns.
        limit: usize,
    },
    /// What was made of it does not load: a defect of the import.
    #[error("the imported policy would not load: {message}; please report it")]
    DoesNotLoad {
        /// The first error.
        message: String,
    },
}

impl ImportError {
    /// A stable name for the kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::NoUsers => "no_users",
            Self::SeveralAccounts(_) => "several_accounts",
            Self::NoSuchAccount { .. } => "no_such_account",
            Self::TooLarge { .. } => "too_large",
            Self::DoesNotLoad { .. } => "does_not_load",
        }
    }
}

/// Makes a policy of a configuration of nats-server (POL-147).
///
/// ```
/// # use bulla_identity::TrustDomain;
/// # use bulla_policy_tools::{ImportOptions, import};
/// let source = r#"authorization { users = [
///     { user: shop, password: x, permissions: { publish: "orders.created" } }
/// ] }"#;
/// let options = ImportOptions {
///     trust_domain: TrustDomain::parse("acme.example")?,
///     account: None,
///     roots: Vec::new(),
/// };
/// let imported = import(source, &options)?;
/// assert!(imported.policy.contains("on = [\"orders.created\"]"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ImportError`] if there is nobody in it, or it cannot be read.
pub fn import(source: &str, options: &ImportOptions) -> Result<Imported, ImportError> {
    let map = config::parse(source)?;
    let mut left_out = Vec::new();
    notes(&map, None, &mut left_out);
    let users = choose(&map, options, &mut left_out)?;
    translate::translate(users, options, left_out)
}

/// The users of the one block that has any, or of the account that was asked for.
fn choose(
    map: &Map,
    options: &ImportOptions,
    left_out: &mut Vec<LeftOut>,
) -> Result<Vec<User>, ImportError> {
    let mut blocks: Vec<(String, Vec<User>, Vec<LeftOut>)> = Vec::new();
    let mut add = |name: &str, block: &Map| {
        let mut notes_here = Vec::new();
        notes(block, Some(name), &mut notes_here);
        let users = users::users(block, &mut notes_here);
        if !users.is_empty() {
            blocks.push((name.to_owned(), users, notes_here));
        }
    };
    if let Some(node) = map.find(&["authorization"])
        && let Value::Map(block) = &node.value
    {
        add("authorization", block);
    } else {
        // A piece of a configuration, as documentation shows it.
        add("authorization", map);
    }
    if let Some(node) = map.find(&["accounts"])
        && let Value::Map(accounts) = &node.value
    {
        for (name, node) in &accounts.0 {
            if let Value::Map(block) = &node.value {
                add(name, block);
            }
        }
    }
    let known: Vec<String> = blocks.iter().map(|(name, ..)| name.clone()).collect();
    let at = match (&options.account, known.as_slice()) {
        (_, []) => return Err(ImportError::NoUsers),
        (Some(name), _) => known
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| ImportError::NoSuchAccount {
                name: name.clone(),
                known: known.clone(),
            })?,
        (None, [_]) => 0,
        (None, _) => return Err(ImportError::SeveralAccounts(known)),
    };
    let (_, users, notes) = blocks.swap_remove(at);
    left_out.extend(notes);
    Ok(users)
}

/// What stands beside users and is no part of a policy.
fn notes(block: &Map, account: Option<&str>, out: &mut Vec<LeftOut>) {
    for (key, node) in &block.0 {
        let why = match (key.as_str(), &node.value) {
            (_, Value::Include(_)) => Why::Include,
            ("exports" | "imports" | "mappings", _) if account.is_some() => Why::AccountLink,
            ("cluster" | "gateway" | "leafnodes", Value::Map(map))
                if account.is_none() && map.find(&["permissions", "authorization"]).is_some() =>
            {
                Why::Routes
            }
            _ => continue,
        };
        let what = match &node.value {
            Value::Include(file) => format!("include {file}"),
            _ => key.clone(),
        };
        out.push(LeftOut::new(node.line, None, &what, why));
    }
}

#[cfg(test)]
mod tests;
