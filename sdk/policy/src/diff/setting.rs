//! What is stated by name, before and after.

use std::collections::{BTreeMap, BTreeSet};

use bulla_identity::{UnixMillis, WorkloadName};
use sha2::{Digest, Sha256};

use super::demand::duration;
use super::{KeyChange, PermissionChange, PolicyDiff, SettingChange};
use crate::bucket::Bucket;
use crate::circumstances::Circumstances;
use crate::permissions::Permissions;
use crate::policy::{Policy, Workload};
use crate::stream::Stream;

/// Everything but rights and requirements.
pub(super) fn compare(before: &Policy, after: &Policy, now: UnixMillis) -> PolicyDiff {
    let names = |policy: &Policy| -> BTreeSet<WorkloadName> {
        let workloads = policy.workloads().iter();
        workloads.map(|w| w.name().clone()).collect()
    };
    let (old, new) = (names(before), names(after));
    let mut changes = Changes::default();
    changes.note(
        "policy",
        "",
        "trust_domain",
        before.trust_domain().to_string(),
        after.trust_domain().to_string(),
    );
    changes.tables("workload", workloads(before), workloads(after));
    changes.tables("stream", streams(before), streams(after));
    changes.tables("bucket", buckets(before), buckets(after));
    changes.tables("claims", claims(before), claims(after));
    changes.tables("rule", flags(before), flags(after));
    let mut permissions = Vec::new();
    for name in old.intersection(&new) {
        permissions.extend(permission_change(before, after, name, now));
    }
    PolicyDiff {
        added: new.difference(&old).cloned().collect(),
        removed: old.difference(&new).cloned().collect(),
        settings: changes.out,
        permissions,
        ..PolicyDiff::default()
    }
}

/// The keys of one table with their values, by the table's name.
type Tables = BTreeMap<String, Vec<(&'static str, String)>>;

#[derive(Default)]
struct Changes {
    out: Vec<SettingChange>,
}

impl Changes {
    fn note(
        &mut self,
        table: &'static str,
        name: &str,
        key: &'static str,
        before: String,
        after: String,
    ) {
        if before != after {
            self.out.push(SettingChange {
                table,
                name: name.to_owned(),
                change: KeyChange { key, before, after },
            });
        }
    }

    fn tables(&mut self, table: &'static str, before: Tables, mut after: Tables) {
        for (name, old) in before {
            let mut new = after.remove(&name).unwrap_or_default();
            for (key, value) in old {
                let at = new.iter().position(|(k, _)| *k == key);
                let now = at.map(|at| new.swap_remove(at).1).unwrap_or_default();
                self.note(table, &name, key, value, now);
            }
            for (key, value) in new {
                self.note(table, &name, key, String::new(), value);
            }
        }
        for (name, new) in after {
            for (key, value) in new {
                self.note(table, &name, key, String::new(), value);
            }
        }
        self.out.sort();
    }
}

fn workloads(policy: &Policy) -> Tables {
    let workloads = policy.workloads().iter();
    workloads
        .map(|w| (w.name().to_string(), workload(w)))
        .collect()
}

fn workload(workload: &Workload) -> Vec<(&'static str, String)> {
    let nkeys = workload.nkeys().iter().map(ToString::to_string);
    let starts = workload.starts().map(|starts| {
        let users: Vec<String> = starts.users().collect();
        let scopes: Vec<&str> = starts.scopes().collect();
        let reach: Vec<&str> = starts.reach().collect();
        let claims = serde_json::Value::Object(starts.claims().clone());
        format!(
            "users {}; scope {}; reach {}; claims {claims}",
            users.join(", "),
            scopes.join(" "),
            reach.join(", ")
        )
    });
    let reach = match (workload.mints(), workload.reach()) {
        (false, _) => String::new(),
        (true, None) => "everything".to_owned(),
        (true, Some([])) => "nothing".to_owned(),
        (true, Some(names)) => sorted(names.iter().map(ToString::to_string)),
    };
    let anchors = workload.anchors();
    let authorities = anchors.authorities.iter().flat_map(|a| a.certificates());
    let vouching = anchors.nkeys.iter().map(ToString::to_string);
    let vouching = vouching.chain(authorities.map(fingerprint));
    let vouching = vouching.chain(anchors.brokers.then(|| "brokers".to_owned()));
    let tokens = workload.tokens().iter().map(|token| {
        let issuer = token.issuer();
        let claims: Vec<String> = token.claims().map(|(k, v)| format!("{k}={v}")).collect();
        format!(
            "token of {} for {} as {} {} {:?} {:?}",
            issuer.issuer(),
            issuer.audience(),
            token.subject(),
            claims.join(" "),
            issuer.keys(),
            (
                issuer.algorithms().collect::<Vec<_>>(),
                issuer.max_life(),
                issuer.ca()
            )
        )
    });
    let nkeys = nkeys.chain(tokens);
    let protocols = workload.protocols();
    let protocols = [(protocols.nats, "nats"), (protocols.websocket, "websocket")];
    let protocols = protocols.iter().filter(|(is, _)| *is);
    vec![
        ("attest", sorted(nkeys)),
        ("vouching", sorted(vouching)),
        (
            "network",
            workload
                .networks()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        (
            "protocol",
            sorted(protocols.map(|(_, name)| (*name).to_owned())),
        ),
        ("mints", workload.mints().to_string()),
        ("reach", reach),
        ("exchanges", workload.exchanges().to_string()),
        ("starts", starts.unwrap_or_default()),
        ("discoverable", workload.discoverable().to_string()),
        ("discovers", workload.discovers().to_string()),
    ]
}

fn streams(policy: &Policy) -> Tables {
    let streams = policy.streams().iter();
    streams.map(|s| (s.name().to_owned(), stream(s))).collect()
}

fn stream(stream: &Stream) -> Vec<(&'static str, String)> {
    let subjects = stream.subjects().iter().map(|p| p.to_nats());
    vec![
        ("subjects", sorted(subjects)),
        ("mirror", stream.mirror().unwrap_or_default().to_owned()),
        ("retention", stream.retention().as_str().to_owned()),
        ("max_age", duration(stream.max_age())),
        ("duplicates", duration(stream.duplicates())),
        (
            "max_bytes",
            stream
                .max_bytes()
                .map(|b| b.to_string())
                .unwrap_or_default(),
        ),
        ("replicas", stream.replicas().to_string()),
    ]
}

fn buckets(policy: &Policy) -> Tables {
    let bucket = |bucket: &Bucket| {
        let number = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
        vec![
            ("history", bucket.history().to_string()),
            ("ttl", bucket.ttl().map(duration).unwrap_or_default()),
            ("max_age", bucket.max_age.map(duration).unwrap_or_default()),
            ("max_bytes", number(bucket.max_bytes())),
            ("replicas", bucket.replicas().to_string()),
        ]
    };
    let buckets = policy.buckets().iter();
    buckets.map(|b| (b.name().to_owned(), bucket(b))).collect()
}

fn claims(policy: &Policy) -> Tables {
    let private = policy.private_claims();
    private
        .map(|(claim, readers)| {
            let readers = readers.map(|w| w.name().to_string());
            (claim.to_owned(), vec![("readers", sorted(readers))])
        })
        .collect()
}

/// What a rule is beside what it says.
fn flags(policy: &Policy) -> Tables {
    let mut out = Tables::new();
    for rule in policy.rules() {
        let mut flags = Vec::new();
        if rule.is_shadow() {
            flags.push(("shadow", "true".to_owned()));
        }
        if rule.is_break_glass() {
            flags.push(("break_glass", "true".to_owned()));
        }
        if !flags.is_empty() {
            out.insert(rule.id().to_owned(), flags);
        }
    }
    out
}

/// A certificate by the first half of its SHA-256.
fn fingerprint(certificate: &[u8]) -> String {
    let hash = Sha256::digest(certificate);
    let half = hash.iter().take(16).map(|byte| format!("{byte:02x}"));
    format!("certificate {}", half.collect::<String>())
}

fn sorted(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.sort_unstable();
    words.join(", ")
}

fn permission_change(
    before: &Policy,
    after: &Policy,
    name: &WorkloadName,
    now: UnixMillis,
) -> Option<PermissionChange> {
    let here = Circumstances { now, client: None };
    let entries = |policy: &Policy| -> Option<BTreeSet<String>> {
        let workload = policy.workload(name)?;
        let Permissions {
            publish_allow,
            publish_deny,
            subscribe_allow,
            subscribe_deny,
        } = policy.permissions(workload.id(), &here).ok()?;
        let lists = [
            ("publish", publish_allow),
            ("deny publish", publish_deny),
            ("subscribe", subscribe_allow),
            ("deny subscribe", subscribe_deny),
        ];
        let lists = lists.into_iter();
        Some(
            lists
                .flat_map(|(what, list)| list.into_iter().map(move |e| format!("{what} {e}")))
                .collect(),
        )
    };
    let (old, new) = (entries(before)?, entries(after)?);
    (old != new).then(|| PermissionChange {
        workload: name.clone(),
        added: new.difference(&old).cloned().collect(),
        removed: old.difference(&new).cloned().collect(),
    })
}
