//! Permissions as they are kept. Of ten thousand workloads most lists are the same but
//! for the workload's own names, so an entry is kept once for all of them, with those
//! names left out.

use std::collections::HashSet;
use std::sync::Arc;

use bulla_identity::{WorkloadName, WorkloadTag};
use bulla_policy::{Permissions, Workload};

/// The lists of one workload. [`Kept::permissions`] gives them back as they were.
#[derive(Debug)]
pub(super) struct Kept {
    tag: WorkloadTag,
    name: WorkloadName,
    publish_allow: List,
    publish_deny: List,
    subscribe_allow: List,
    subscribe_deny: List,
}

type List = Box<[Arc<str>]>;

/// Every entry that was kept so far. It is needed only until all lists are kept.
#[derive(Debug, Default)]
pub(super) struct Entries(HashSet<Arc<str>>);

impl Entries {
    /// Keeps the lists of a workload.
    pub(super) fn keep(&mut self, permissions: &Permissions, workload: &Workload) -> Kept {
        let (tag, name) = (workload.tag().to_hex(), workload.name().as_str());
        let mut list = |entries: &[String]| {
            let entries = entries.iter();
            entries
                .map(|entry| self.one(without_names(entry, &tag, name)))
                .collect()
        };
        Kept {
            tag: workload.tag(),
            name: workload.name().clone(),
            publish_allow: list(&permissions.publish_allow),
            publish_deny: list(&permissions.publish_deny),
            subscribe_allow: list(&permissions.subscribe_allow),
            subscribe_deny: list(&permissions.subscribe_deny),
        }
    }

    fn one(&mut self, entry: String) -> Arc<str> {
        if let Some(known) = self.0.get(entry.as_str()) {
            return Arc::clone(known);
        }
        let entry: Arc<str> = entry.into();
        self.0.insert(Arc::clone(&entry));
        entry
    }
}

impl Kept {
    /// The lists, as they were.
    pub(super) fn permissions(&self) -> Permissions {
        let tag = self.tag.to_hex();
        let list = |kept: &List| {
            let kept = kept.iter();
            kept.map(|entry| with_names(entry, &tag, self.name.as_str()))
                .collect()
        };
        Permissions {
            publish_allow: list(&self.publish_allow),
            publish_deny: list(&self.publish_deny),
            subscribe_allow: list(&self.subscribe_allow),
            subscribe_deny: list(&self.subscribe_deny),
        }
    }
}

/// Stands for the workload's tag. No subject holds such a character.
const TAG: char = '\t';
/// Stands for its name, as a queue group.
const NAME: char = '\n';
/// Begins what is kept as it is, since it holds one of the three nevertheless.
const AS_IT_IS: char = '\0';

fn without_names(entry: &str, tag: &str, name: &str) -> String {
    if entry.contains([TAG, NAME, AS_IT_IS]) {
        return format!("{AS_IT_IS}{entry}");
    }
    let general = entry.replace(tag, TAG.encode_utf8(&mut [0; 4]));
    match general.rsplit_once(' ') {
        Some((subject, queue)) if queue == name => format!("{subject} {NAME}"),
        _ => general,
    }
}

fn with_names(kept: &str, tag: &str, name: &str) -> String {
    if let Some(entry) = kept.strip_prefix(AS_IT_IS) {
        return entry.to_owned();
    }
    let mut entry = String::with_capacity(kept.len() + tag.len() + name.len());
    for character in kept.chars() {
        match character {
            TAG => entry.push_str(tag),
            NAME => entry.push_str(name),
            other => entry.push(other),
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use bulla_identity::{NkeyKind, UnixMillis};
    use bulla_keyring::NkeySeed;
    use bulla_policy::{Circumstances, Policy};

    use super::*;

    const RULES: &str = r#"
        [[allow]]
        id = "asks"
        who = ["b", "edge"]
        may = ["request", "subscribe"]
        on = ["a.*.b", "b.>"]
        [[allow]]
        id = "serves"
        who = ["a", "b"]
        may = ["serve"]
        on = ["a.*.b"]
        [[deny]]
        id = "not-that"
        who = ["b"]
        may = ["subscribe"]
        on = ["b.a"]
    "#;

    #[test]
    fn every_list_comes_back_as_it_was() {
        let nkey = |n| {
            let seed = NkeySeed::from_random(NkeyKind::User, &[n; 32]);
            seed.unwrap().public()
        };
        let text = format!(
            "version = 1\ntrust_domain = \"acme.example\"\n[workload]\n\
             a = {{ attest = [{{ nkey = \"{}\" }}], discoverable = true }}\n\
             b = {{ attest = [{{ nkey = \"{}\" }}], discovers = true }}\n\
             edge = {{ attest = [{{ nkey = \"{}\" }}], mints = true }}\n{RULES}",
            nkey(1),
            nkey(2),
            nkey(3)
        );
        let policy = Policy::parse("p.toml", &text).unwrap_or_else(|e| panic!("{e}"));
        let at = Circumstances::at(UnixMillis::default());
        let mut entries = Entries::default();
        let mut all = 0;
        for workload in policy.workloads() {
            let permissions = policy.permissions(workload.id(), &at).unwrap();
            let kept = entries.keep(&permissions, workload);
            assert_eq!(kept.permissions(), permissions);
            all += permissions.publish_allow.len() + permissions.subscribe_allow.len();
        }
        assert!(
            entries.0.len() < all * 2 / 3,
            "{} of {all}",
            entries.0.len()
        );
    }

    #[test]
    fn no_entry_is_taken_for_another() {
        let tag = "0".repeat(32);
        for entry in [
            "a",
            "a a",
            "a.a a",
            "a q",
            &format!("x.{tag}.{tag} a"),
            &format!("{tag}a a a"),
            "\t",
            "x \n",
            "\0",
            "",
            " a",
        ] {
            let kept = without_names(entry, &tag, "a");
            assert_eq!(with_names(&kept, &tag, "a"), entry);
        }
    }
}
