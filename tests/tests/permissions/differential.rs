//! Random policies: the engine and a live nats-server must agree.

use bulla_identity::{Subject, SubjectPattern, WorkloadId};
use bulla_policy::{Permissions, Policy, Verb};

use crate::client::{Client, HERE, NOW, Server, id, pattern, policy_text, publication, subject};
use crate::dice::{Dice, NAMES, Policies, patterns, subjects};

const POLICIES: usize = 300;

pub(crate) struct Case<'a> {
    /// What the server is told about.
    pub(crate) full: &'a Policy,
    /// What of it counts now.
    pub(crate) policy: &'a Policy,
    pub(crate) workload: WorkloadId,
    pub(crate) name: &'a str,
    pub(crate) rules: &'a str,
    universe: &'a [Subject],
}

impl Case<'_> {
    pub(crate) fn may(&self, verbs: &[Verb], on: &Subject) -> bool {
        verbs
            .iter()
            .any(|v| self.policy.may_ever(&self.workload, *v, on))
    }

    fn publishes(&self, client: &mut Client) {
        for on in self.universe {
            client.post(&publication(on.as_str()));
        }
        for on in self.universe {
            let accepted = client.hear().errors.is_empty();
            let want = self.may(&[Verb::Publish, Verb::Request, Verb::Append], on);
            assert_eq!(
                accepted, want,
                "{} publishes to {on}\n{}",
                self.name, self.rules
            );
        }
    }

    /// Exactly what consuming as a granted consumer takes, and for no other.
    fn consumes(&self, client: &mut Client) {
        for name in ["c0", "c1", "c2"] {
            let want = self.may(&[Verb::Consume], &subject(&format!("S.{name}")));
            for on in [
                format!("$JS.API.CONSUMER.MSG.NEXT.S.{name}"),
                format!("$JS.ACK.S.{name}.1.2.3.4.5"),
            ] {
                let what = || format!("{} consumes with {on}\n{}", self.name, self.rules);
                assert_eq!(client.publish(&on), want, "{}", what());
            }
            for on in [
                format!("$JS.API.CONSUMER.CREATE.S.{name}"),
                format!("$JS.API.CONSUMER.DELETE.S.{name}"),
                format!("$JS.API.CONSUMER.INFO.S.{name}"),
                format!("$JS.ACK.T.{name}.1.2.3.4.5"),
            ] {
                assert!(!client.publish(&on), "{} publishes to {on}", self.name);
            }
        }
        for on in [
            "$JS.API.STREAM.DELETE.S",
            "$JS.API.STREAM.PURGE.S",
            "$JS.API.STREAM.MSG.GET.S",
        ] {
            assert!(!client.publish(on), "{} publishes to {on}", self.name);
        }
    }

    fn listens(&self, client: &mut Client, root: &mut Client, on: &SubjectPattern, group: &str) {
        let verbs: &[Verb] = match group {
            "" => &[Verb::Subscribe],
            _ => &[Verb::Subscribe, Verb::Serve],
        };
        let what = || format!("{} `SUB {on} {group}`\n{}", self.name, self.rules);
        let allowed = verbs
            .iter()
            .any(|v| self.policy.may_listen(&self.workload, *v, on, NOW).is_ok());
        let sid = client.subscribe(on.as_str(), group);
        if allowed {
            assert!(sid.is_some(), "refused: {}", what());
        }
        let Some(sid) = sid else { return };
        if on.is_literal() {
            assert!(allowed, "accepted: {}", what());
        }
        let flood: Vec<String> = self
            .universe
            .iter()
            .map(|s| publication(s.as_str()))
            .collect();
        assert!(root.send(&flood.join("\r\n")).errors.is_empty());
        let got = client.send(&format!("UNSUB {sid}"));
        let mut got: Vec<String> = got.messages.into_iter().map(|m| m.subject).collect();
        got.sort();
        let mut want: Vec<String> = self
            .universe
            .iter()
            .filter(|s| on.matches(s) && self.may(verbs, s))
            .map(ToString::to_string)
            .collect();
        want.sort();
        if allowed {
            assert_eq!(got, want, "delivered: {}", what());
        } else {
            assert!(
                got.iter().all(|s| want.contains(s)),
                "delivered {got:?}: {}",
                what()
            );
        }
    }
}

#[tokio::test]
async fn the_server_lets_through_what_the_engine_allows_and_nothing_else() {
    let mut dice = Dice::new(0x0B11_1AB0_111A_5EED, NOW);
    let cases: Vec<Policies> = (0..POLICIES)
        .map(|_| dice.policies(|rules| policy_text(&NAMES, rules)))
        .collect();
    let lists = |pick: fn(&Permissions) -> bool| {
        let all = cases
            .iter()
            .flat_map(|case| NAMES.map(|name| case.full.permissions(&id(name), &HERE).unwrap()));
        all.filter(pick).count()
    };
    // The cases are worth the trouble: both kinds of deny occur.
    assert!(lists(|p| !p.publish_deny.is_empty()) > 5);
    assert!(lists(|p| !p.subscribe_deny.is_empty()) > 20);
    let consumes = |p: &Permissions| p.publish_allow.iter().any(|s| s.starts_with("$JS.ACK."));
    assert!(lists(consumes) > 20);
    let reads = |p: &Permissions| p.publish_allow.iter().any(|s| s.contains("KV_B.$KV"));
    assert!(lists(reads) > 40);
    assert!(lists(|p| p.publish_deny.iter().any(|s| s.starts_with("$KV."))) > 3);
    assert!(lists(|p| p.publish_deny.iter().any(|s| s.starts_with("s."))) > 2);
    assert!(lists(|p| p.publish_deny.iter().any(|s| !s.starts_with("s."))) > 2);

    let policies: Vec<&Policy> = cases.iter().map(|case| &case.full).collect();
    let server = Server::start(&policies).await;
    let stored = subjects(2).into_iter().map(|s| format!("s.{s}"));
    let universe: Vec<Subject> = subjects(4)
        .into_iter()
        .chain(stored)
        .map(|s| subject(&s))
        .collect();
    let mut wanted = patterns();
    wanted.extend(["s.>", "s.*", "s.a", "s.a.*"].map(str::to_owned));
    let wanted: Vec<SubjectPattern> = wanted.iter().map(|p| pattern(p)).collect();

    for (i, drawn) in cases.iter().enumerate() {
        let rules = &drawn.rules;
        let mut root = server.connect(i, "root");
        for name in NAMES {
            let case = Case {
                full: &drawn.full,
                policy: &drawn.counting,
                workload: id(name),
                name,
                rules,
                universe: &universe,
            };
            let mut client = server.connect(i, name);
            case.publishes(&mut client);
            case.consumes(&mut client);
            case.keys(&mut client);
            case.manages(&mut client);
            case.news(&mut client, &mut root);
            for on in &wanted {
                case.listens(&mut client, &mut root, on, "");
                case.listens(&mut client, &mut root, on, name);
                for foreign in NAMES.iter().filter(|n| **n != name) {
                    let accepted = client.subscribe(on.as_str(), foreign);
                    assert_eq!(accepted, None, "{name} joined {foreign} on {on}\n{rules}");
                }
            }
        }
    }
}
