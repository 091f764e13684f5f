//! Random policies: the engine and a live nats-server must agree.

use bulla_identity::{Subject, SubjectPattern, WorkloadId};
use bulla_policy::{Permissions, Policy, Verb};

use crate::client::{Client, Server, id, pattern, policy_text, publication, rule, subject};

const NAMES: [&str; 3] = ["w0", "w1", "w2"];
const POLICIES: usize = 80;

/// One stream, of everything under `s`.
const STORED: &str = "[stream.S]\nsubjects = [\"s.>\"]\n\
    [subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n";

/// A small generator with a fixed seed (xorshift64*): the same cases each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pattern(&mut self) -> String {
        let mut tokens = vec![["a", "b"][self.below(2) as usize]];
        for _ in 0..self.below(3) {
            tokens.push(["a", "b", "*"][self.below(3) as usize]);
        }
        if self.one_in(4) {
            tokens.push(">");
        }
        tokens.join(".")
    }

    /// Under `s` lies what a stream stores, so that it can be appended to.
    fn stored_pattern(&mut self) -> String {
        let rest = self.pattern();
        format!("s.{}", rest.split_once('.').map_or("a", |(_, rest)| rest))
    }

    fn rules(&mut self) -> String {
        let mut text = String::from(STORED);
        let stored = [Verb::Append, Verb::Publish, Verb::Subscribe];
        for i in 0..1 + self.below(3) {
            let who = NAMES[self.below(3) as usize];
            let may: Vec<&str> = stored
                .iter()
                .filter(|_| self.one_in(2))
                .map(|v| v.as_str())
                .collect();
            let on = self.stored_pattern();
            if !may.is_empty() {
                text.push_str(&rule("allow", &format!("s{i}"), who, &may, &[&on]));
            }
        }
        if self.one_in(2) {
            let who = NAMES[self.below(3) as usize];
            let on = self.stored_pattern();
            text.push_str(&rule("deny", "t", who, &stored.map(Verb::as_str), &[&on]));
        }
        for (i, name) in NAMES.iter().enumerate() {
            if self.one_in(2) {
                let on = format!("S.c{}", self.below(3));
                text.push_str(&rule("allow", &format!("c{i}"), name, &["consume"], &[&on]));
            }
            if self.one_in(4) {
                let on = ["S.*", "*.c1"][self.below(2) as usize];
                text.push_str(&rule("deny", &format!("d{i}"), name, &["consume"], &[on]));
            }
        }
        for i in 0..4 + self.below(6) {
            let effect = if self.one_in(4) { "deny" } else { "allow" };
            let who = NAMES[self.below(3) as usize];
            let may: Vec<&str> = Verb::ALL[..4]
                .iter()
                .filter(|_| self.one_in(2))
                .map(|v| v.as_str())
                .collect();
            let on: Vec<String> = (0..1 + self.below(2)).map(|_| self.pattern()).collect();
            let on: Vec<&str> = on.iter().map(String::as_str).collect();
            if !may.is_empty() {
                text.push_str(&rule(effect, &format!("r{i}"), who, &may, &on));
            }
        }
        text
    }

    /// A policy that loads, and its rules.
    fn policy(&mut self) -> (Policy, String) {
        loop {
            let rules = self.rules();
            if let Ok(policy) = Policy::parse("random.toml", &policy_text(&NAMES, &rules)) {
                return (policy, rules);
            }
        }
    }
}

/// Every literal subject of up to `depth` tokens.
fn subjects(depth: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut level = vec![String::new()];
    for _ in 0..depth {
        level = level
            .iter()
            .flat_map(|t| {
                ["a", "b", "c"].map(|x| {
                    if t.is_empty() {
                        x.to_owned()
                    } else {
                        format!("{t}.{x}")
                    }
                })
            })
            .collect();
        all.extend(level.iter().cloned());
    }
    all
}

/// Every pattern of up to three tokens over `a`, `b`, `*`, and `>` at the end.
fn patterns() -> Vec<String> {
    let mut all = Vec::new();
    let mut level = vec![String::new()];
    for _ in 0..3 {
        let join = |t: &String, x: &str| {
            if t.is_empty() {
                x.to_owned()
            } else {
                format!("{t}.{x}")
            }
        };
        all.extend(level.iter().map(|t| join(t, ">")));
        level = level
            .iter()
            .flat_map(|t| ["a", "b", "*"].map(|x| join(t, x)))
            .collect();
        all.extend(level.iter().cloned());
    }
    all
}

struct Case<'a> {
    policy: &'a Policy,
    workload: WorkloadId,
    name: &'a str,
    rules: &'a str,
    universe: &'a [Subject],
}

impl Case<'_> {
    fn may(&self, verbs: &[Verb], on: &Subject) -> bool {
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
                format!("$BULLA.CONSUMER.INFO.S.{name}"),
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
            .any(|v| self.policy.may_listen(&self.workload, *v, on).is_ok());
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
        let mut got: Vec<String> = got.messages.into_iter().map(|(_, s)| s).collect();
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
    let mut dice = Dice(0x0B11_1AB0_111A_5EED);
    let cases: Vec<(Policy, String)> = (0..POLICIES).map(|_| dice.policy()).collect();
    let lists = |pick: fn(&Permissions) -> bool| {
        let all = cases
            .iter()
            .flat_map(|(policy, _)| NAMES.map(|name| policy.permissions(&id(name)).unwrap()));
        all.filter(pick).count()
    };
    // The cases are worth the trouble: both kinds of deny occur.
    assert!(lists(|p| !p.publish_deny.is_empty()) > 5);
    assert!(lists(|p| !p.subscribe_deny.is_empty()) > 20);
    let consumes = |p: &Permissions| p.publish_allow.iter().any(|s| s.starts_with("$JS.ACK."));
    assert!(lists(consumes) > 20);
    assert!(lists(|p| p.publish_deny.iter().any(|s| s.starts_with("s."))) > 2);
    assert!(lists(|p| p.publish_deny.iter().any(|s| !s.starts_with("s."))) > 2);

    let policies: Vec<&Policy> = cases.iter().map(|(policy, _)| policy).collect();
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

    for (i, (policy, rules)) in cases.iter().enumerate() {
        let mut root = server.connect(i, "root");
        for name in NAMES {
            let case = Case {
                policy,
                workload: id(name),
                name,
                rules,
                universe: &universe,
            };
            let mut client = server.connect(i, name);
            case.publishes(&mut client);
            case.consumes(&mut client);
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
