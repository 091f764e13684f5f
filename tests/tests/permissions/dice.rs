//! Random policies, and everything that is asked of them.

use bulla_policy::{Policy, Verb};

use crate::client::{policy_text, rule};

pub(crate) const NAMES: [&str; 3] = ["w0", "w1", "w2"];
/// One stream, of everything under `s`, and one bucket.
pub(crate) const STORED: &str = "[bucket.B]\n[stream.S]\nsubjects = [\"s.>\"]\n\
    [subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n";

/// A small generator with a fixed seed (xorshift64*): the same cases each run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
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

    pub(crate) fn rules(&mut self) -> String {
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
        self.key_rules(&mut text);
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

    /// Rules about keys of the bucket, and about looking after it and the stream.
    fn key_rules(&mut self, text: &mut String) {
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
            text.push_str(&rule("allow", &format!("k{i}"), who, may, &[&on]));
        }
        if self.one_in(2) {
            let who = NAMES[self.below(3) as usize];
            let on = format!("{}.{}", ["B", "*"][self.below(2) as usize], self.pattern());
            let may: &[&str] =
                [&["write"][..], &["write"], &["read", "write"]][self.below(3) as usize];
            text.push_str(&rule("deny", "l", who, may, &[&on]));
        }
        if self.one_in(3) {
            let who = NAMES[self.below(3) as usize];
            text.push_str(&rule(
                "allow",
                "m",
                who,
                &["manage"],
                [&["B"][..], &["S"], &["S", "B"]][self.below(3) as usize],
            ));
            if self.one_in(3) {
                text.push_str(&rule(
                    "deny",
                    "n",
                    who,
                    &["manage"],
                    &[["B", "*"][self.below(2) as usize]],
                ));
            }
        }
    }

    /// A policy that loads, and its rules.
    pub(crate) fn policy(&mut self) -> (Policy, String) {
        loop {
            let rules = self.rules();
            if let Ok(policy) = Policy::parse("random.toml", &policy_text(&NAMES, &rules)) {
                return (policy, rules);
            }
        }
    }
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
