//! Random policies on a whole bus: connections that the real callout admits, and
//! JetStream behind the account's imports. Whatever the engine denies is neither
//! accepted nor delivered, and whatever it allows *works*: the answer comes.
//!
//! `BULLA_LIVE_POLICIES` says how many policies are tried, `BULLA_LIVE_SEED` with
//! which to begin; a failure names both.

use std::collections::BTreeSet;

use bulla_identity::{SubjectPattern, reserved};
use bulla_keyring::NkeySeed;
use bulla_policy::{Policy, Verb};
use bulla_tests::Bus;

use crate::client::{Client, Delivered, NOW, pattern, publication, question, subject};
use crate::dice::{Dice, NAMES, STORED, patterns, subjects};
use crate::keys::all_keys;

/// How many policies are tried where nothing else is said: about 20 s.
const POLICIES: u64 = 100;
const SEED: u64 = 0x0B11_1AB0_0C0F_FEE5;

/// Patterns that each workload listens to under each policy, of all that there are.
const LISTENED: usize = 10;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// A policy whose workloads have keys of the bus; `root` may send and write
/// everything, and nobody listens to it.
fn text(round: u64, rules: &str) -> String {
    let mut text = String::from("version = 1\ntrust_domain = \"live.example\"\n");
    for name in NAMES.iter().chain(&["root"]) {
        text.push_str(&format!(
            "workload.{name}.attest = [{{ nkey = \"@{name}@\" }}]\n"
        ));
    }
    text.push_str(rules);
    text.push_str(&format!(
        "[[allow]]\nid = \"root-sends\"\nwho = [\"root\"]\nmay = [\"publish\"]\n\
         on = [\"a\", \"a.>\", \"b\", \"b.>\", \"c\", \"c.>\", \"s.>\", \"probe.n{round}\"]\n\
         [[allow]]\nid = \"root-writes\"\nwho = [\"root\"]\nmay = [\"write\"]\non = [\"B.>\"]\n"
    ));
    text
}

struct Live<'b> {
    bus: &'b Bus,
    full: &'b Policy,
    /// What of it counts now.
    policy: &'b Policy,
    /// What a failure has to say.
    context: String,
    root: Option<Client>,
    universe: Vec<String>,
}

struct Seeds([(&'static str, NkeySeed); 4]);

impl Seeds {
    fn of(bus: &Bus) -> Self {
        Self(["w0", "w1", "w2", "root"].map(|name| (name, bus.seed(name))))
    }

    fn connect(&self, bus: &Bus, name: &str) -> Client {
        let (_, seed) = self.0.iter().find(|(n, _)| *n == name).unwrap();
        Client::workload(bus.nats_url(), seed)
    }
}

impl Live<'_> {
    fn may(&self, name: &str, verbs: &[Verb], on: &str) -> bool {
        let workload = self.bus.workload(name);
        let on = subject(on);
        verbs
            .iter()
            .any(|v| self.policy.may_ever(&workload, *v, &on))
    }

    fn inbox(&self, name: &str) -> String {
        reserved::inbox_server(self.bus.workload(name).tag())
    }

    /// Asks each question; the answers by the question's number. What is not
    /// wanted must be refused, what is wanted must be answered.
    fn ask(
        &self,
        name: &str,
        client: &mut Client,
        asked: &[(String, String, bool)],
    ) -> Vec<Option<Delivered>> {
        let inbox = self.inbox(name);
        let sid = client.subscribe(&format!("{inbox}.>"), "").unwrap();
        let mut early = Vec::new();
        for (n, (on, body, _)) in asked.iter().enumerate() {
            client.post(&question(on, &format!("{inbox}.q.{n}"), body));
        }
        for (on, _, want) in asked {
            let heard = client.hear();
            let accepted = heard.errors.is_empty();
            assert_eq!(
                accepted, *want,
                "{name} asks {on}: {heard:?}\n{}",
                self.context
            );
            early.extend(heard.messages);
        }
        let place = |m: &Delivered| {
            // A consumer's message keeps its own subject.
            if m.sid == sid && asked.len() == 1 {
                return Some(0);
            }
            let n = m.subject.strip_prefix(&inbox)?.strip_prefix(".q.")?;
            (m.sid == sid).then(|| n.parse::<usize>().unwrap())
        };
        let wanted = asked.iter().filter(|(.., want)| *want).count();
        let answered = |all: &[Delivered]| {
            let places: BTreeSet<usize> = early.iter().chain(all).filter_map(place).collect();
            places.len() >= wanted
        };
        let late = client.until(answered);
        let mut out = vec![None; asked.len()];
        for message in early.iter().chain(&late) {
            if let Some(n) = place(message) {
                out[n].get_or_insert_with(|| message.clone());
            }
        }
        for ((on, _, want), answer) in asked.iter().zip(&out) {
            let is_there = answer.is_some();
            assert_eq!(
                is_there, *want,
                "{name} asks {on}: the answer\n{}",
                self.context
            );
        }
        client.send(&format!("UNSUB {sid}"));
        out
    }

    /// Every key gets a value of this round.
    fn fill(&mut self, round: u64) {
        let asked: Vec<_> = all_keys()
            .into_iter()
            .map(|key| {
                let on = reserved::bucket_key("B", &key);
                (on, format!("{key}={round}"), true)
            })
            .collect();
        let Some(mut root) = self.root.take() else {
            panic!("root is there but while it is used");
        };
        for answer in self.ask("root", &mut root, &asked) {
            let answer = answer.unwrap();
            assert!(answer.text.contains("\"KV_B\""), "{answer:?}");
        }
        self.root = Some(root);
    }

    fn sends(&self, name: &str, client: &mut Client) {
        let verbs = [Verb::Publish, Verb::Request, Verb::Append];
        for on in &self.universe {
            client.post(&publication(on));
        }
        for on in &self.universe {
            let accepted = client.hear().errors.is_empty();
            let want = self.may(name, &verbs, on);
            assert_eq!(accepted, want, "{name} sends to {on}\n{}", self.context);
        }
        // What a stream stores is acknowledged by it.
        let stored: Vec<_> = self
            .universe
            .iter()
            .filter(|on| on.starts_with("s."))
            .map(|on| (on.clone(), "x".to_owned(), self.may(name, &verbs, on)))
            .collect();
        for answer in self.ask(name, client, &stored).into_iter().flatten() {
            assert!(answer.text.contains("\"stream\":\"S\""), "{answer:?}");
        }
    }

    fn keys(&self, name: &str, client: &mut Client, round: u64) {
        let keys = all_keys();
        let reads: Vec<_> = keys
            .iter()
            .map(|key| {
                let may = self.may(name, &[Verb::Read], &format!("B.{key}"));
                (reserved::bucket_direct_get("B", key), String::new(), may)
            })
            .collect();
        for (key, answer) in keys.iter().zip(self.ask(name, client, &reads)) {
            if let Some(answer) = answer {
                let value = answer.body().to_owned();
                assert_eq!(value, format!("{key}={round}"), "{}", self.context);
            }
        }
        // Questions for more than one key: nothing comes that may not be read.
        let inbox = self.inbox(name);
        let sid = client.subscribe(&format!("{inbox}.>"), "").unwrap();
        let mut asked: Vec<(String, &str)> = patterns()
            .iter()
            .map(|p| (reserved::bucket_direct_get("B", p), ""))
            .collect();
        let all = reserved::bucket_direct_gets("B");
        for body in [
            r#"{"multi_last":["$KV.B.>"]}"#,
            r#"{"seq":1,"batch":64,"next_by_subj":"$KV.B.>"}"#,
            r#"{"seq":1,"batch":64}"#,
            r#"{"last_by_subj":"$KV.B.>"}"#,
        ] {
            asked.push((all.clone(), body));
            asked.push((reserved::bucket_direct_get("B", "a"), body));
        }
        for (on, body) in &asked {
            client.post(&question(on, &format!("{inbox}.more"), body));
        }
        let mut accepted = 0;
        let mut got: Vec<Delivered> = Vec::new();
        for _ in &asked {
            let heard = client.hear();
            accepted += usize::from(heard.errors.is_empty());
            got.extend(heard.messages);
        }
        let before = got.len();
        got.extend(client.until(|later| before + later.len() >= accepted));
        for answer in got.iter().filter(|m| m.sid == sid) {
            if let Some(of) = answer.header("Nats-Subject") {
                let key = of.strip_prefix("$KV.").unwrap();
                let may = self.may(name, &[Verb::Read], key);
                assert!(may, "{name} was given {key}\n{}", self.context);
            }
        }
        client.send(&format!("UNSUB {sid}"));
        // Writing comes last: what it changes is written again.
        let writes: Vec<_> = keys
            .iter()
            .map(|key| {
                let may = self.may(name, &[Verb::Write], &format!("B.{key}"));
                (
                    reserved::bucket_key("B", key),
                    format!("{key} by {name}"),
                    may,
                )
            })
            .collect();
        for answer in self.ask(name, client, &writes).into_iter().flatten() {
            assert!(answer.text.contains("\"seq\""), "{answer:?}");
            assert!(!answer.text.contains("error"), "{answer:?}");
        }
    }

    /// Pulling, looking, and what nobody may ask.
    fn asks(&self, name: &str, client: &mut Client) {
        let consumes = |c: &str| self.may(name, &[Verb::Consume], &format!("S.{c}"));
        let manages = |store: &str| self.may(name, &[Verb::Manage], store);
        let consumers = ["c0", "c1", "c2"];
        let granted = |c: &str| self.full.consumers().iter().any(|g| g.name() == c);
        let none = String::new;
        let mut asked = Vec::new();
        for c in consumers {
            let pull = r#"{"batch":1,"no_wait":true}"#.to_owned();
            let next = (reserved::consumer_next("S", c), pull, consumes(c));
            for pulled in self.ask(name, client, &[next]).into_iter().flatten() {
                let is_it = pulled.subject.starts_with("s.") || pulled.text.contains("404");
                assert!(is_it, "{pulled:?}\n{}", self.context);
            }
            let may = consumes(c) || (manages("S") && granted(c));
            asked.push((reserved::consumer_info("S", c), none(), may));
        }
        let looks = manages("S") || consumers.iter().any(|c| consumes(c));
        asked.push((reserved::stream_info("S"), none(), looks));
        asked.push((reserved::stream_info("KV_B"), none(), manages("B")));
        for on in [
            "$SYS.REQ.USER.INFO",
            "$SYS.REQ.SERVER.PING",
            "$JS.API.INFO",
            "$JS.API.STREAM.DELETE.S",
            "$JS.API.STREAM.PURGE.KV_B",
            "$JS.API.CONSUMER.CREATE.S.x",
            "$JS.API.CONSUMER.CREATE.KV_B.x.$KV.B.>",
            "$JS.API.CONSUMER.MSG.NEXT.KV_B.x",
            "$JS.API.DIRECT.GET.S.s.a",
            "$JS.API.DIRECT.GET.BULLA_CTL",
            "$BULLA.STREAM.INFO.BULLA_CTL",
            "$BULLA.CTL.POLICY",
            "$KV.OTHER.a",
        ] {
            asked.push((on.to_owned(), none(), false));
        }
        self.ask(name, client, &asked);
    }

    /// Answers go into the peers' half of the inbox of those who may ask, and
    /// nowhere else.
    fn answers(&self, name: &str, client: &mut Client, connect: impl Fn(&str) -> Client) {
        for other in NAMES {
            let tag = self.bus.workload(other).tag();
            let serves = |on: &String| {
                // From where and when others ask is not known.
                let asker = self.bus.workload(other);
                self.may(name, &[Verb::Serve], on)
                    && self.full.may_ever(&asker, Verb::Request, &subject(on))
            };
            // As deep as the common part of two patterns can be.
            let deep = subjects(4);
            let may = deep.iter().any(serves);
            let mut asker = connect(other);
            asker
                .subscribe(&format!("{}.>", reserved::inbox_peers(tag)), "")
                .unwrap();
            asker
                .subscribe(&format!("{}.>", reserved::inbox_server(tag)), "")
                .unwrap();
            let to = format!("{}.r.1", reserved::inbox_peers(tag));
            let accepted = client.publish(&to);
            assert_eq!(accepted, may, "{name} answers {other}\n{}", self.context);
            let server_half = format!("{}.r.1", reserved::inbox_server(tag));
            assert!(
                !client.publish(&server_half),
                "{name} as the server to {other}"
            );
            let want: Vec<String> = may.then_some(to).into_iter().collect();
            assert_eq!(
                asker.received(),
                want,
                "{name} answers {other}\n{}",
                self.context
            );
            // The whole way, where there is one.
            let asks = |on: &&String| serves(on) && self.may(other, &[Verb::Request], on);
            if let Some(on) = deep.iter().find(asks) {
                let sid = client.subscribe(on, name).unwrap();
                let reply = format!("{}.q.7", reserved::inbox_peers(tag));
                assert!(asker.send(&question(on, &reply, "?")).errors.is_empty());
                let got = client.until(|all| !all.is_empty());
                assert_eq!(got[0].subject, *on, "{}", self.context);
                assert!(client.publish(&reply));
                assert_eq!(asker.received(), [reply], "{}", self.context);
                client.send(&format!("UNSUB {sid}"));
            }
        }
    }

    /// What a subscription is given, plain and in the own queue group, of subjects
    /// and of keys' news; and that no other group is joined.
    fn hears(&mut self, name: &str, client: &mut Client, dice: &mut Dice, round: u64) {
        let workload = self.bus.workload(name);
        let mut all = patterns();
        all.extend(["s.>", "s.*", "s.a", "s.a.*"].map(str::to_owned));
        for _ in 0..LISTENED {
            let on = pattern(&all[dice.below(all.len() as u64) as usize]);
            let group = ["", name][dice.below(2) as usize];
            let verbs: &[Verb] = match group {
                "" => &[Verb::Subscribe],
                _ => &[Verb::Subscribe, Verb::Serve],
            };
            let allowed = verbs
                .iter()
                .any(|v| self.policy.may_listen(&workload, *v, &on, NOW).is_ok());
            let may = |s: &String| self.may(name, verbs, s);
            let flood = self.universe.clone();
            let want: Vec<String> = flood
                .iter()
                .filter(|s| on.matches_str(s) && may(s))
                .cloned()
                .collect();
            self.hear(name, client, on.as_str(), group, allowed, want, |live| {
                let lines: Vec<String> = flood.iter().map(|s| publication(s)).collect();
                let root = live.root.as_mut().unwrap();
                assert!(root.send(&lines.join("\r\n")).errors.is_empty());
            });
            let other = NAMES[dice.below(3) as usize];
            if other != name {
                let joined = client.subscribe(on.as_str(), other);
                assert_eq!(
                    joined, None,
                    "{name} joined {other} on {on}\n{}",
                    self.context
                );
            }
        }
        for _ in 0..LISTENED / 3 {
            let on = pattern(&patterns()[dice.below(patterns().len() as u64) as usize]);
            self.hears_of_keys(name, client, &on, round);
        }
    }

    fn hears_of_keys(&mut self, name: &str, client: &mut Client, on: &SubjectPattern, round: u64) {
        let workload = self.bus.workload(name);
        let keys = pattern(&format!("B.{on}"));
        let allowed = self
            .policy
            .may_listen(&workload, Verb::Read, &keys, NOW)
            .is_ok();
        let may = |key: &String| self.may(name, &[Verb::Read], &format!("B.{key}"));
        let want: Vec<String> = all_keys()
            .into_iter()
            .filter(|key| on.matches_str(key) && may(key))
            .map(|key| reserved::bucket_news("B", &key))
            .collect();
        let news = reserved::bucket_news("B", on.as_str());
        self.hear(name, client, &news, "", allowed, want, |live| {
            live.fill(round)
        });
    }

    #[allow(clippy::too_many_arguments, reason = "one question, spelt out")]
    fn hear(
        &mut self,
        name: &str,
        client: &mut Client,
        on: &str,
        group: &str,
        allowed: bool,
        mut want: Vec<String>,
        flood: impl FnOnce(&mut Self),
    ) {
        let what = format!("{name} `SUB {on} {group}`\n{}", self.context);
        let Some(sid) = client.subscribe(on, group) else {
            assert!(!allowed, "refused: {what}");
            return;
        };
        flood(self);
        let enough = if allowed { want.len() } else { 0 };
        let got = client.until(|all| all.len() >= enough);
        let mut got: Vec<String> = got
            .into_iter()
            .filter(|m| m.sid == sid)
            .map(|m| m.subject)
            .collect();
        client.send(&format!("UNSUB {sid}"));
        got.sort();
        want.sort();
        if allowed {
            assert_eq!(got, want, "delivered: {what}");
        } else {
            assert!(
                got.iter().all(|s| want.contains(s)),
                "delivered {got:?}: {what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_engine_allows_works_and_nothing_else() {
    let seed = number("BULLA_LIVE_SEED", SEED);
    let mut dice = Dice::new(seed, bulla_tests::now());
    let consumers = "[[allow]]\nid = \"c\"\nwho = [\"root\"]\nmay = [\"consume\"]\n\
                     on = [\"S.c0\", \"S.c1\", \"S.c2\"]\n";
    // The first policy makes what the others only share out.
    let bus = Bus::start(&text(0, &format!("{STORED}{consumers}"))).await;
    let seeds = Seeds::of(&bus);
    let mut universe = subjects(3);
    universe.extend(subjects(2).into_iter().map(|s| format!("s.{s}")));

    for round in 1..=number("BULLA_LIVE_POLICIES", POLICIES) {
        let drawn = dice.policies(|rules| bus.with_nkeys(&text(round, rules)));
        let rules = &drawn.rules;
        bus.publish_policy(&text(round, rules)).await;
        let probe = format!("probe.n{round}");
        let root = loop {
            let mut root = seeds.connect(&bus, "root");
            if root.publish_if_open(&probe) {
                break root;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        let context = format!("policy {round} of BULLA_LIVE_SEED={seed}:\n{rules}");
        let mut live = Live {
            bus: &bus,
            full: &drawn.full,
            policy: &drawn.counting,
            context,
            root: Some(root),
            universe: universe.clone(),
        };
        for name in NAMES {
            let mut client = seeds.connect(&bus, name);
            live.fill(round);
            live.sends(name, &mut client);
            live.keys(name, &mut client, round);
            live.asks(name, &mut client);
            live.answers(name, &mut client, |other| seeds.connect(&bus, other));
            live.hears(name, &mut client, &mut dice, round);
        }
    }
}
