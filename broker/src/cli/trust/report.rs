//! What `bulla trust` prints.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use bulla_envelope::{FormerRoot, IssuingKey};
use bulla_identity::{TrustDomain, UnixMillis};
use bulla_keyring::{AuthorityKey, AuthorityRole, VerifyingKey};
use serde_json::{Value, json};

use super::Failure;
use crate::trust_dir::{Outcome, State, TrustDir};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Prints a line; a reader that went away needs no answer.
macro_rules! say {
    ($($arg:tt)*) => {{
        let _ = writeln!(anstream::stdout(), $($arg)*);
    }};
}

/// What comes after an operation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    Init,
    Bundle,
    Root,
    Issuer,
    PolicyKey,
}

impl Next {
    const fn text(self) -> &'static str {
        match self {
            Self::Init => {
                "Keep root and policy key off the brokers. Give `root.pub` to every service and broker,\n\
                 `issuing/` to its broker, and sign a policy: bulla policy sign policy.toml"
            }
            Self::Bundle => "Give `bundle` to any one broker.",
            Self::Root => {
                "Give `bundle` to any one broker, then `root.pub` to every service and broker.\n\
                 When all have it: bulla trust rotate-root --finish"
            }
            Self::Issuer => "Give the new key to its broker and `bundle` to any one broker.",
            Self::PolicyKey => {
                "Give `bundle` and `policy` to any one broker. If something is revoked, sign that\n\
                 list by the new key too: bulla revoke resign\n\
                 When every enforcer has them: bulla trust rotate-policy-key --finish"
            }
        }
    }
}

/// Tells what an operation made.
pub(super) fn outcome(dir: &TrustDir, outcome: &Outcome, json: bool, next: Next) {
    let bundle = &outcome.bundle;
    let path = |path: &Path| path.display().to_string();
    if json {
        print_json(&json!({
            "ok": true,
            "trust_domain": bundle.trust_domain.as_str(),
            "version": bundle.version,
            "expires_at": rfc3339(bundle.expires_at),
            "bundle": path(&dir.path("bundle")),
            "root_pub": path(&dir.path("root.pub")),
            "policy_revision": outcome.policy_revision,
            "created": outcome.created.iter().map(|p| path(p)).collect::<Vec<_>>(),
            "obsolete": outcome.obsolete.iter().map(|p| path(p)).collect::<Vec<_>>(),
        }));
        return;
    }
    say!(
        "{GOOD}signed{GOOD:#} version {} of the trust bundle of {}, valid until {}",
        bundle.version,
        bundle.trust_domain,
        rfc3339(bundle.expires_at)
    );
    if let Some(revision) = outcome.policy_revision {
        say!("{GOOD}signed{GOOD:#} revision {revision} of the policy");
    }
    for created in &outcome.created {
        say!("  created   {}", created.display());
    }
    for obsolete in &outcome.obsolete {
        say!(
            "  obsolete  {} {DIM}(destroy it){DIM:#}",
            obsolete.display()
        );
    }
    say!("{}", next.text());
}

/// Tells the public half of a key that was made.
pub(super) fn key(json: bool, path: &Path, public: AuthorityKey) {
    if json {
        print_json(&json!({
            "ok": true,
            "file": path.display().to_string(),
            "public": public.to_string(),
        }));
    } else {
        say!("{public}");
    }
}

/// Tells why nothing was done.
pub(super) fn fail(json: bool, failure: &Failure) {
    let text = super::super::chain(failure);
    if json {
        print_json(&json!({ "ok": false, "error": text }));
    } else {
        let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
    }
}

/// What a directory holds, and what is wrong with it.
pub(super) struct Summary {
    value: Value,
    rows: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Summary {
    pub(super) fn of(
        domain: &TrustDomain,
        state: State,
        now: UnixMillis,
        within: Duration,
    ) -> Self {
        let bundle = &state.bundle;
        let mut this = Self {
            value: Value::Null,
            rows: Vec::new(),
            warnings: Vec::new(),
        };
        let soon = now.saturating_add(within);
        this.row("trust domain", domain.to_string());
        this.row("version", bundle.version.to_string());
        this.row("issued", rfc3339(bundle.issued_at));
        this.row("expires", rfc3339(bundle.expires_at));
        if bundle.expires_at <= soon {
            this.warn("the bundle", bundle.expires_at, now, "bulla trust sign");
        }
        let root = text(AuthorityRole::Root, &bundle.root);
        this.row("root", root.clone());
        let former: Vec<String> = bundle
            .former_roots
            .iter()
            .map(FormerRoot::key)
            .map(|key| text(AuthorityRole::Root, key))
            .collect();
        for key in &former {
            this.row("former root", key.clone());
        }
        let mut issuing = Vec::new();
        for named in &bundle.issuing {
            let broker = state.brokers.iter();
            let mut broker = broker.filter(|(_, key)| *key.verifying_key() == named.key);
            let broker = broker.next().map(|(broker, _)| broker.clone());
            let key = text(AuthorityRole::Issuing, &named.key);
            let until = rfc3339(named.expires_at);
            let of = broker.as_deref().unwrap_or("earlier");
            let said = if named.expires_at <= now {
                format!("{key} ended {until} ({of}; for what streams stored before)")
            } else {
                format!("{key} until {until} ({of})")
            };
            this.row("issuing", said);
            // An earlier one ends as it should.
            if named.expires_at <= soon && broker.is_some() {
                let what = format!("the issuing key of `{of}`");
                this.warn(&what, named.expires_at, now, "bulla trust sign");
            }
            issuing.push(json!({
                "key": key,
                "expires_at": until,
                "broker": broker,
            }));
        }
        let newest = |named: &IssuingKey| {
            let mut keys = state.brokers.values();
            keys.any(|key| *key.verifying_key() == named.key)
        };
        let mut issuing_now = bundle.issuing.iter();
        if !issuing_now.any(|named| named.expires_at > now || newest(named)) {
            this.warnings.push(
                "no broker may issue credentials: bulla trust rotate-issuer --broker NAME"
                    .to_owned(),
            );
        }
        let keys: Vec<String> = bundle
            .policy_keys
            .iter()
            .map(|key| text(AuthorityRole::Policy, key))
            .collect();
        for key in &keys {
            this.row("policy key", key.clone());
        }
        let policy = state.policy.as_ref().map(|policy| {
            let signed = rfc3339(policy.issued_at);
            this.row(
                "policy",
                format!("revision {}, signed {signed}", policy.revision),
            );
            if !policy.is_vouched {
                this.warnings.push(
                    "the policy is by a key that the bundle does not name: bulla policy sign"
                        .to_owned(),
                );
            }
            json!({
                "revision": policy.revision,
                "issued_at": signed,
                "is_vouched": policy.is_vouched,
            })
        });
        this.value = json!({
            "ok": this.warnings.is_empty(),
            "trust_domain": domain.as_str(),
            "version": bundle.version,
            "issued_at": rfc3339(bundle.issued_at),
            "expires_at": rfc3339(bundle.expires_at),
            "root": root,
            "former_roots": former,
            "issuing": issuing,
            "policy_keys": keys,
            "policy": policy,
            "warnings": this.warnings,
        });
        this
    }

    pub(super) fn is_good(&self) -> bool {
        self.warnings.is_empty()
    }

    pub(super) fn print(&self, json: bool) {
        if json {
            print_json(&self.value);
            return;
        }
        for (name, value) in &self.rows {
            say!("{DIM}{name:<13}{DIM:#} {value}");
        }
        for warning in &self.warnings {
            say!("{WARN}warning:{WARN:#} {warning}");
        }
    }

    fn row(&mut self, name: &str, value: String) {
        self.rows.push((name.to_owned(), value));
    }

    fn warn(&mut self, what: &str, end: UnixMillis, now: UnixMillis, remedy: &str) {
        let left = end.saturating_since(now);
        let when = if left.is_zero() {
            "has ended".to_owned()
        } else {
            let left = Duration::from_secs(left.as_secs());
            format!("ends in {}", humantime::format_duration(left))
        };
        self.warnings.push(format!("{what} {when}: {remedy}"));
    }
}

fn text(role: AuthorityRole, key: &VerifyingKey) -> String {
    // A sound key has a text.
    AuthorityKey::from_bytes(role, key.as_bytes())
        .map_or_else(|_| String::new(), |key| key.to_string())
}

fn rfc3339(time: UnixMillis) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(time.as_millis()));
    let time = time.unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn print_json(value: &Value) {
    say!("{value:#}");
}
