//! What another list of permissions means for a connection that has the old one.

use sha2::{Digest, Sha256};

use crate::permissions::Permissions;

/// How permissions differ from those that a connection was admitted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdmissionChange {
    /// Not at all.
    Same,
    /// Everything that was permitted still is: the connection may stay until it
    /// is convenient.
    Gains,
    /// Something that was permitted is so no more, or may not be: the connection
    /// has to end at once.
    Loses,
}

impl Permissions {
    /// Names these lists, for connections that have them: equal lists have equal
    /// names, and others do not. 8 bytes, because a name is no proof and nobody
    /// but a broker gives it.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 8] {
        let mut hash = Sha256::new();
        for list in [
            &self.publish_allow,
            &self.publish_deny,
            &self.subscribe_allow,
            &self.subscribe_deny,
        ] {
            hash.update(u64::try_from(list.len()).unwrap_or(u64::MAX).to_be_bytes());
            for entry in list {
                hash.update(u64::try_from(entry.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(entry);
            }
        }
        let hash: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        [a, b, c, d, e, f, g, h]
    }

    /// What these mean for a connection that has `old` (POL-162). Where it cannot
    /// be told entry by entry that nothing is lost, something is.
    #[must_use]
    pub fn change_from(&self, old: &Self) -> AdmissionChange {
        if self == old {
            return AdmissionChange::Same;
        }
        let keeps = covers(&self.publish_allow, &old.publish_allow)
            && covers(&self.subscribe_allow, &old.subscribe_allow)
            && covers(&old.publish_deny, &self.publish_deny)
            && covers(&old.subscribe_deny, &self.subscribe_deny);
        if keeps {
            AdmissionChange::Gains
        } else {
            AdmissionChange::Loses
        }
    }
}

/// Whether each entry of `narrow` lies within one of `wide`.
fn covers(wide: &[String], narrow: &[String]) -> bool {
    narrow.iter().all(|entry| {
        // Both are sorted, and mostly the same.
        wide.binary_search(entry).is_ok() || wide.iter().any(|other| contains(other, entry))
    })
}

/// Whether one entry, a pattern and perhaps a queue group, contains another.
fn contains(wide: &str, narrow: &str) -> bool {
    let (wide, wide_queue) = parts(wide);
    let (narrow, narrow_queue) = parts(narrow);
    if wide_queue != narrow_queue {
        return false;
    }
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (">", Some(_)) => return true,
            ("*", Some(other)) if other != ">" => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

fn parts(entry: &str) -> (&str, &str) {
    entry.split_once(' ').unwrap_or((entry, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(publish: &[&str], denied: &[&str], subscribe: &[&str]) -> Permissions {
        let owned = |list: &[&str]| {
            let mut list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            list.sort();
            list
        };
        Permissions {
            publish_allow: owned(publish),
            publish_deny: owned(denied),
            subscribe_allow: owned(subscribe),
            subscribe_deny: Vec::new(),
        }
    }

    #[test]
    fn more_is_a_gain_and_anything_less_a_loss() {
        use AdmissionChange::{Gains, Loses, Same};
        let old = lists(&["a.b", "c.*"], &["c.x"], &["in.>", "in.> q"]);
        for (new, want) in [
            (old.clone(), Same),
            (
                lists(&["a.b", "c.*", "d"], &["c.x"], &["in.>", "in.> q"]),
                Gains,
            ),
            (lists(&["a.*", "c.>"], &["c.x"], &["in.>", "in.> q"]), Gains),
            (lists(&["a.b", "c.*"], &[], &["in.>", "in.> q"]), Gains),
            (lists(&["a.b"], &["c.x"], &["in.>", "in.> q"]), Loses),
            (lists(&["a.b", "c.y"], &["c.x"], &["in.>", "in.> q"]), Loses),
            (lists(&["a.b", "c.*"], &["c.*"], &["in.>", "in.> q"]), Loses),
            (lists(&["a.b", "c.*"], &["c.x"], &["in.>"]), Loses),
            (lists(&["a.b", "c.*"], &["c.x"], &["in.*", "in.> q"]), Loses),
            (
                lists(&["a.b", "c.*"], &["c.x"], &["in.> q", "in.> r", "x"]),
                Loses,
            ),
        ] {
            assert_eq!(new.change_from(&old), want, "{new:?}");
            assert_eq!(new.fingerprint() == old.fingerprint(), want == Same);
        }
    }

    #[test]
    fn a_pattern_contains_what_it_matches() {
        for (wide, narrow, want) in [
            (">", "a.b", true),
            ("a.>", "a", false),
            ("a.>", "a.>", true),
            ("a.*", "a.>", false),
            ("a.*", "a.*", true),
            ("a.*", "a.b.c", false),
            ("a.b", "a.*", false),
            ("a q", "a q", true),
            ("a", "a q", false),
        ] {
            assert_eq!(contains(wide, narrow), want, "{wide} {narrow}");
        }
    }

    #[test]
    fn where_an_entry_ends_is_part_of_the_name() {
        let one = lists(&["ab", "c"], &[], &[]);
        let other = lists(&["a", "bc"], &[], &[]);
        assert_ne!(one.fingerprint(), other.fingerprint());
    }
}
