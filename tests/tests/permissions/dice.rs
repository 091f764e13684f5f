//! Random policies, and everything that is asked of them.

use bulla_identity::UnixMillis;
use bulla_policy::{Policy, Verb};

use crate::client::rule;

pub(crate) const NAMES: [&str; 3] = ["w0", "w1", "w2"];
/// One stream, of everything under `s`, and one bucket.
pub(crate) const STORED: &str = "[bucket.B]\n[stream.S]\nsubjects = [\"s.>\"]\n\
    [subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n";

/// Rules, all of them and those that count now.
pub(crate) struct Drawn {
    full: String,
    counting: String,
}

/// A small generator (xorshift64*): the same cases for the same seed.
pub(crate) struct Dice {
    state: u64,
    /// What time it is for the rules.
    now: UnixMillis,
}

impl Dice {
    pub(crate) fn new(seed: u64, now: UnixMillis) -> Self {
        Self { state: seed, now }
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
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

    pub(crate) fn rules(&mut self) -> Drawn {
        let mut drawn = Drawn {
            full: STORED.to_owned(),
            counting: STORED.to_owned(),
        };
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
                self.add(
                    &mut drawn,
                    &rule("allow", &format!("s{i}"), who, &may, &[&on]),
                );
            }
        }
        if self.one_in(2) {
            let who = NAMES[self.below(3) as usize];
            let on = self.stored_pattern();
            self.add(
                &mut drawn,
                &rule("deny", "t", who, &stored.map(Verb::as_str), &[&on]),
            );
        }
        for (i, name) in NAMES.iter().enumerate() {
            if self.one_in(2) {
                let on = format!("S.c{}", self.below(3));
                self.add(
                    &mut drawn,
                    &rule("allow", &format!("c{i}"), name, &["consume"], &[&on]),
                );
            }
            if self.one_in(4) {
                let on = ["S.*", "*.c1"][self.below(2) as usize];
                self.add(
                    &mut drawn,
                    &rule("deny", &format!("d{i}"), name, &["consume"], &[on]),
                );
            }
        }
        self.key_rules(&mut drawn);
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
                self.add(&mut drawn, &rule(effect, &format!("r{i}"), who, &may, &on));
            }
        }
        drawn
    }

    /// Adds a rule, which now and then counts under some circumstances only.
    fn add(&mut self, drawn: &mut Drawn, rule: &str) {
        let (line, counts) = match self.below(20) {
            0 => ("expires = 2020-01-01T00:00:00Z\n".to_owned(), false),
            1 => ("expires = 2099-01-01T00:00:00Z\n".to_owned(), true),
            2 => (
                "network = [\"127.0.0.0/8\", \"2001:db8::/32\"]\n".to_owned(),
                true,
            ),
            3 => ("network = [\"10.0.0.0/8\"]\n".to_owned(), false),
            4 => (self.hours(-1, 2), true),
            5 => (self.hours(2, 4), false),
            6 => ("shadow = true\n".to_owned(), false),
            _ => (String::new(), true),
        };
        drawn.full.push_str(rule);
        drawn.full.push_str(&line);
        if counts {
            drawn.counting.push_str(rule);
        }
    }

    /// A window of hours around now, which may reach over midnight.
    fn hours(&self, from: i64, to: i64) -> String {
        let hour = i64::try_from(self.now.as_secs() / 3600).unwrap();
        let at = |offset: i64| (hour + offset).rem_euclid(24);
        format!(
            "time = {{ from = \"{:02}:00\", to = \"{:02}:00\" }}\n",
            at(from),
            at(to)
        )
    }

    /// Rules about keys of the bucket, and about looking after it and the stream.
    fn key_rules(&mut self, drawn: &mut Drawn) {
        for i in 0..2 + self.below(3) {
            let who = NAMES[self.below(3) as usize];
            let may: &[&str] =
                [&["read"][..], &["write"], &["read", "write"]][self.below(3) as usize];
            let mut on = format!("B.{}", self.pattern());
            // Most that may be read does not end in a `*`, or would not load.
            if may.contains(&"read") && on.ends_with('*') && !self.one_in(4) {
                on.truncate(on.len() - 1);
                on.push_str(["a", ">"][self.below(2) as usize]);
            }
            self.add(drawn, &rule("allow", &format!("k{i}"), who, may, &[&on]));
        }
        if self.one_in(2) {
            let who = NAMES[self.below(3) as usize];
            let on = format!("{}.{}", ["B", "*"][self.below(2) as usize], self.pattern());
            let may: &[&str] =
                [&["write"][..], &["write"], &["read", "write"]][self.below(3) as usize];
            self.add(drawn, &rule("deny", "l", who, may, &[&on]));
        }
        if self.one_in(3) {
            let who = NAMES[self.below(3) as usize];
            let on = [&["B"][..], &["S"], &["S", "B"]][self.below(3) as usize];
            self.add(drawn, &rule("allow", "m", who, &["manage"], on));
            if self.one_in(3) {
                let on = [["B", "*"][self.below(2) as usize]];
                self.add(drawn, &rule("deny", "n", who, &["manage"], &on));
            }
        }
    }

    /// Rules that load behind `head`, with what they mean now.
    pub(crate) fn policies(&mut self, head: impl Fn(&str) -> String) -> Policies {
        loop {
            let rules = self.rules();
            let Ok(full) = Policy::parse("random.toml", &head(&rules.full)) else {
                continue;
            };
            // What loads for every moment loads for each (POL-106).
            let counting = Policy::parse("counting.toml", &head(&rules.counting))
                .unwrap_or_else(|e| panic!("{e}\n{}", rules.full));
            return Policies {
                full,
                counting,
                rules: rules.full,
            };
        }
    }
}

/// A random policy.
pub(crate) struct Policies {
    pub(crate) full: Policy,
    /// The policy of those rules alone that count now, for connections from here.
    pub(crate) counting: Policy,
    /// The full one's rules.
    pub(crate) rules: String,
}

/// Every literal subject of up to `depth` tokens.
pub(crate) fn subjects(depth: usize) -> Vec<String> {
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
pub(crate) fn patterns() -> Vec<String> {
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
