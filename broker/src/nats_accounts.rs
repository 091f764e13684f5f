//! The accounts as JWTs, for a nats-server in operator mode.
//!
//! ```text
//! operator ── signs ──► AUTH   asks the callout about who shows no JWT (the sentinel)
//!                       SYS    brokers
//!                       JS     brokers and operators; exports to APP, by token
//!                       APP    workloads; its signing key signs the callout's answers
//! ```
//!
//! Exports are private, though all accounts are one operator's: with an operator that
//! others share, any of his accounts could import what is public.
//!
//! What is signed by APP's signing key comes in without being asked about. It is the
//! crown jewel of this mode, and lies where the callout answers.

use std::collections::BTreeSet;

use bulla_identity::{Nkey, SubjectPattern, UnixMillis};
use bulla_keyring::NkeySeed;
use serde_json::{Value, json};

use crate::nats_config::{operator_publishes, operator_subscribes};
use crate::nats_jwt::Statement;

/// What `APP` sees of `JS` as it is told.
pub(crate) const STREAMS: [&str; 2] = ["$BULLA.NEWS.>", "$BULLA.KV.>"];

/// What `APP` may ask of `JS`: whether several messages answer, and under which name,
/// where it is another one.
pub(crate) const SERVICES: [(&str, bool, Option<&str>); 12] = [
    ("$JS.API.DIRECT.GET.>", true, None),
    ("$BULLA.BROKER.>", false, None),
    ("$BULLA.KEYS.>", false, None),
    ("$BULLA.CLAIMS.>", false, None),
    ("$BULLA.AUDIT.>", false, None),
    ("$BULLA.TAKEN.>", false, None),
    ("$BULLA.STATUS.>", false, None),
    ("$KV.>", false, None),
    ("$JS.API.CONSUMER.MSG.NEXT.>", true, None),
    ("$JS.ACK.>", false, None),
    (
        "$JS.API.CONSUMER.INFO.>",
        false,
        Some("$BULLA.CONSUMER.INFO.>"),
    ),
    ("$JS.API.STREAM.INFO.>", false, Some("$BULLA.STREAM.INFO.>")),
];

/// Everybody who signs something, and what is said.
pub(crate) struct Accounts<'a> {
    /// Signs accounts: the operator's key, or a signing key of his.
    pub(crate) operator: &'a NkeySeed,
    pub(crate) auth: &'a NkeySeed,
    pub(crate) js: &'a NkeySeed,
    pub(crate) app: Nkey,
    /// What signs the callout's answers: one, or the old one and the new one.
    pub(crate) issuers: &'a [Nkey],
    pub(crate) xkey: Nkey,
    /// The brokers' users in `AUTH`.
    pub(crate) answering: &'a [Nkey],
    /// What the policy's streams store.
    pub(crate) stored: &'a [SubjectPattern],
}

impl Accounts<'_> {
    /// `AUTH`: whoever is not one of these is asked about, and may come into `APP`.
    pub(crate) fn auth(&self, held: Option<&str>, now: UnixMillis) -> String {
        let users: Vec<String> = self.answering.iter().map(Nkey::to_string).collect();
        let mut account = account(&limits(false));
        insert(
            &mut account,
            "authorization",
            json!({
                "auth_users": users,
                "allowed_accounts": [self.app.to_string()],
                "xkey": self.xkey.to_string(),
            }),
        );
        self.signed(self.auth.public(), "AUTH", account, held, now)
    }

    /// `JS`: all streams.
    pub(crate) fn js(&self, held: Option<&str>, now: UnixMillis) -> String {
        let mut exports = Vec::new();
        for subject in STREAMS {
            exports.push(json!({
                "name": subject, "subject": subject, "type": "stream", "token_req": true,
            }));
        }
        for (subject, streams, _) in self.services() {
            let kind = if streams { "Stream" } else { "Singleton" };
            exports.push(json!({
                "name": subject, "subject": subject, "type": "service",
                "response_type": kind, "token_req": true,
            }));
        }
        let mut account = account(&limits(true));
        insert(&mut account, "exports", exports.into());
        self.signed(self.js.public(), "JS", account, held, now)
    }

    /// `APP`: workloads.
    pub(crate) fn app(&self, held: Option<&str>, now: UnixMillis) -> String {
        let mut imports = Vec::new();
        for subject in STREAMS {
            imports.push(json!({
                "name": subject, "subject": subject, "type": "stream",
                "account": self.js.public().to_string(),
                "token": self.activation(subject, "stream"),
            }));
        }
        for (subject, _, local) in self.services() {
            let local = local.unwrap_or(&subject);
            imports.push(json!({
                "name": subject, "subject": subject, "type": "service",
                "account": self.js.public().to_string(),
                "local_subject": local,
                "token": self.activation(&subject, "service"),
            }));
        }
        let mut limits = limits(false);
        // Nobody of theirs is let in by a JWT that everybody could copy.
        insert(&mut limits, "disallow_bearer", true.into());
        let mut account = account(&limits);
        let issuers: Vec<String> = self.issuers.iter().map(Nkey::to_string).collect();
        insert(&mut account, "signing_keys", json!(issuers));
        insert(&mut account, "imports", imports.into());
        self.signed(self.app, "APP", account, held, now)
    }

    /// That `APP` may import this of `JS`.
    fn activation(&self, subject: &str, kind: &str) -> String {
        let statement = Statement {
            subject: self.app,
            name: subject,
            nats: json!({
                "subject": subject, "kind": kind, "type": "activation", "version": 2,
            }),
        };
        statement.signed_for_ever_by(self.js)
    }

    fn services(&self) -> impl Iterator<Item = (String, bool, Option<&'static str>)> {
        let fixed = SERVICES.map(|(subject, streams, local)| (subject.to_owned(), streams, local));
        let stored: BTreeSet<String> = self.stored.iter().map(|s| s.to_nats()).collect();
        let stored = stored.into_iter().map(|subject| (subject, false, None));
        fixed.into_iter().chain(stored)
    }

    fn signed(
        &self,
        subject: Nkey,
        name: &str,
        nats: Value,
        held: Option<&str>,
        now: UnixMillis,
    ) -> String {
        let statement = Statement {
            subject,
            name,
            nats,
        };
        statement.signed_by(self.operator, held, now)
    }
}

/// The operator's own JWT: which keys sign accounts for him, and which account is the
/// system's.
pub(crate) fn operator(
    operator: &NkeySeed,
    signing: &[Nkey],
    system: Nkey,
    held: Option<&str>,
    now: UnixMillis,
) -> String {
    let signing: Vec<String> = signing.iter().map(ToString::to_string).collect();
    let statement = Statement {
        subject: operator.public(),
        name: "bulla",
        nats: json!({
            "signing_keys": signing,
            "system_account": system.to_string(),
            "type": "operator",
            "version": 2,
        }),
    };
    statement.signed_by(operator, held, now)
}

/// The account `SYS`.
pub(crate) fn system(
    signer: &NkeySeed,
    system: Nkey,
    held: Option<&str>,
    now: UnixMillis,
) -> String {
    let statement = Statement {
        subject: system,
        name: "SYS",
        nats: account(&limits(false)),
    };
    statement.signed_by(signer, held, now)
}

/// A broker's user in the account whose key this is.
pub(crate) fn broker_user(
    account: &NkeySeed,
    user: Nkey,
    name: &str,
    held: Option<&str>,
    now: UnixMillis,
) -> String {
    let statement = Statement {
        subject: user,
        name,
        nats: self::user(json!({}), json!({})),
    };
    statement.signed_by(account, held, now)
}

/// An operator's user in the account `JS`.
pub(crate) fn operator_user(
    js: &NkeySeed,
    user: Nkey,
    held: Option<&str>,
    now: UnixMillis,
) -> String {
    let statement = Statement {
        subject: user,
        name: "operator",
        nats: self::user(
            json!({ "allow": operator_publishes(&user) }),
            json!({ "allow": operator_subscribes(&user) }),
        ),
    };
    statement.signed_by(js, held, now)
}

/// The user of `AUTH` for whom whoever shows no JWT is taken. Everybody may be him, so he
/// may do nothing: who names a broker's public nkey is let in as him, unasked.
pub(crate) fn sentinel(auth: &NkeySeed, user: Nkey, held: Option<&str>, now: UnixMillis) -> String {
    let nothing = json!({ "deny": [">"] });
    let mut nats = self::user(nothing.clone(), nothing);
    insert(&mut nats, "bearer_token", true.into());
    let statement = Statement {
        subject: user,
        name: "sentinel",
        nats,
    };
    statement.signed_by(auth, held, now)
}

fn user(publish: Value, subscribe: Value) -> Value {
    json!({
        "pub": publish, "sub": subscribe, "subs": -1, "data": -1, "payload": -1,
        "type": "user", "version": 2,
    })
}

fn account(limits: &Value) -> Value {
    json!({ "limits": limits, "type": "account", "version": 2 })
}

/// No limits but that no leaf nodes come; JetStream where all streams are.
fn limits(jetstream: bool) -> Value {
    let mut limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": 0,
    });
    if jetstream {
        for key in [
            "mem_storage",
            "disk_storage",
            "streams",
            "consumer",
            "max_ack_pending",
        ] {
            insert(&mut limits, key, (-1).into());
        }
    }
    limits
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(object) = object {
        object.insert(key.to_owned(), value);
    }
}
