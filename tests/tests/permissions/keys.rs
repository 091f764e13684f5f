//! The same for keys of buckets: of each the engine's answer and the server's.

use bulla_identity::{SubjectPattern, reserved};
use bulla_policy::Verb;

use crate::client::{Client, NOW, pattern, publication, subject};
use crate::dice::{patterns, subjects};
use crate::differential::Case;

/// Every key that is tried.
pub(crate) fn all_keys() -> Vec<String> {
    subjects(3)
}

impl Case<'_> {
    pub(crate) fn may_key(&self, verb: Verb, key: &str) -> bool {
        self.may(&[verb], &subject(&format!("B.{key}")))
    }

    /// Writing and reading, key by key; and a question for a pattern, which the
    /// server answers with the newest of it, only if all of it may be read.
    pub(crate) fn keys(&self, client: &mut Client) {
        let keys = all_keys();
        let write = |key: &str| reserved::bucket_key("B", key);
        let read = |key: &str| reserved::bucket_direct_get("B", key);
        for key in &keys {
            client.post(&publication(&write(key)));
            client.post(&publication(&read(key)));
        }
        for key in &keys {
            for verb in [Verb::Write, Verb::Read] {
                let accepted = client.hear().errors.is_empty();
                let want = self.may_key(verb, key);
                assert_eq!(accepted, want, "{} {verb} {key}\n{}", self.name, self.rules);
            }
        }
        for on in patterns().iter().map(|p| pattern(p)) {
            if client.publish(&read(on.as_str())) {
                self.reads_all_of(&on);
            }
        }
        if client.publish(&reserved::bucket_direct_gets("B")) {
            self.reads_all_of(&pattern(">"));
        }
        for on in [
            "$JS.API.DIRECT.GET.KV_BB.$KV.B.a",
            "$JS.API.DIRECT.GET.KV_B.$KV.C.a",
            "$JS.API.STREAM.MSG.GET.KV_B",
            "$JS.API.STREAM.PURGE.KV_B",
            "$JS.API.CONSUMER.CREATE.KV_B",
            "$JS.API.CONSUMER.CREATE.KV_B.x.$KV.B.a",
            "$KV.B",
            "$KV.C.a",
            "$BULLA.KV.B.a",
        ] {
            assert!(!client.publish(on), "{} publishes to {on}", self.name);
        }
    }

    fn reads_all_of(&self, on: &SubjectPattern) {
        let mut within = all_keys();
        within.retain(|key| on.matches_str(key));
        // Deeper than any rule is written, and a token that none names.
        within.extend(["c.c.c.c", "a.c.c.c.c"].map(str::to_owned));
        for key in within.iter().filter(|key| on.matches_str(key)) {
            let may = self.may_key(Verb::Read, key);
            assert!(
                may,
                "{} asks for {on} and gets {key}\n{}",
                self.name, self.rules
            );
        }
    }

    pub(crate) fn manages(&self, client: &mut Client) {
        let consumes = |name: &str| self.may(&[Verb::Consume], &subject(&format!("S.{name}")));
        let names = ["c0", "c1", "c2"];
        let manages = |store: &str| self.may(&[Verb::Manage], &subject(store));
        let granted = |name: &str| self.full.consumers().iter().any(|c| c.name() == name);
        let mut asked = vec![
            (reserved::stream_info("KV_B"), manages("B")),
            (
                reserved::stream_info("S"),
                manages("S") || names.iter().any(|n| consumes(n)),
            ),
        ];
        for name in names {
            let want = consumes(name) || (manages("S") && granted(name));
            asked.push((reserved::consumer_info("S", name), want));
        }
        asked.extend(
            [
                "$BULLA.STREAM.INFO.OTHER",
                "$BULLA.STREAM.INFO.*",
                "$BULLA.STREAM.INFO.>",
                "$BULLA.CONSUMER.INFO.S.*",
                "$BULLA.CONSUMER.INFO.S.>",
                "$JS.API.STREAM.INFO.S",
                "$JS.API.STREAM.UPDATE.S",
            ]
            .map(|on| (on.to_owned(), false)),
        );
        for (on, want) in asked {
            let accepted = client.publish(&on);
            assert_eq!(accepted, want, "{} asks {on}\n{}", self.name, self.rules);
        }
    }

    /// What is heard of a key's changes is what may be read.
    pub(crate) fn news(&self, client: &mut Client, root: &mut Client) {
        let mut wanted = patterns();
        wanted.retain(|p| p.split('.').count() < 3 || p.starts_with('a'));
        for on in wanted.iter().map(|p| pattern(p)) {
            let news = reserved::bucket_news("B", on.as_str());
            let allowed = pattern(&format!("B.{on}"));
            let allowed = self
                .policy
                .may_listen(&self.workload, Verb::Read, &allowed, NOW)
                .is_ok();
            let Some(sid) = client.subscribe(&news, "") else {
                assert!(!allowed, "{} cannot hear {news}\n{}", self.name, self.rules);
                continue;
            };
            let flood: Vec<String> = all_keys()
                .iter()
                .map(|key| publication(&reserved::bucket_news("B", key)))
                .collect();
            assert!(root.send(&flood.join("\r\n")).errors.is_empty());
            let got = client.send(&format!("UNSUB {sid}")).messages;
            let mut got: Vec<String> = got.into_iter().map(|m| m.subject).collect();
            got.sort();
            let mut want: Vec<String> = all_keys()
                .into_iter()
                .filter(|key| on.matches_str(key) && self.may_key(Verb::Read, key))
                .map(|key| reserved::bucket_news("B", &key))
                .collect();
            want.sort();
            assert_eq!(got, want, "{} hears {news}\n{}", self.name, self.rules);
        }
        for (on, group) in [("$BULLA.KV.>", ""), ("$BULLA.KV.*.a", ""), ("$KV.>", "")] {
            assert_eq!(
                client.subscribe(on, group),
                None,
                "{} hears {on}",
                self.name
            );
        }
    }
}
