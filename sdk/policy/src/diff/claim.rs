//! A value of one claim, of which some tests are true and others are not.
//!
//! The search is complete: if there is such a value, one is found. For texts,
//! numbers and booleans the values that the tests name, one between each two of
//! them and one beyond stand for all others. Of a list only the set of its
//! elements counts, and of two lists whose elements are of the same types the
//! longer one meets what the shorter one meets, as long as neither has an element
//! that it must not have: so the longest of each kind is tried, and then made
//! short.

use serde_json::{Value, json};

use super::world::Tokens;
use crate::condition::{Number, Operand, Test, TestOutcome};

/// What is asked of the claim.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    /// A test of a condition.
    Test(&'a Test),
    /// That it is a list that has this text.
    Reaches(&'a str),
}

/// One thing that has to be so of the claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) ask: Ask<'a>,
    /// What the outcome is to be, or not to be.
    pub(super) outcome: TestOutcome,
    pub(super) is: bool,
}

impl Ask<'_> {
    pub(super) fn outcome(self, value: Option<&Value>, tokens: &Tokens) -> TestOutcome {
        match self {
            Self::Test(test) => test.outcome(value, |name| tokens.token(name)),
            Self::Reaches(name) => {
                let list = value.and_then(Value::as_array);
                if list.is_some_and(|list| list.iter().any(|v| v.as_str() == Some(name))) {
                    TestOutcome::Holds
                } else {
                    TestOutcome::Differs
                }
            }
        }
    }
}

/// A value of which all of this is so; `Some(None)`: that there is none.
pub(super) fn value(wanted: &[Wanted<'_>], tokens: &Tokens) -> Option<Option<Value>> {
    let meets = |value: Option<&Value>| {
        wanted
            .iter()
            .all(|w| (w.ask.outcome(value, tokens) == w.outcome) == w.is)
    };
    if meets(None) {
        return Some(None);
    }
    let named = Named::of(wanted, tokens);
    let mut singles = named.values.clone();
    singles.extend(named.texts(wanted));
    singles.extend(named.numbers());
    singles.extend([json!(true), json!(false)]);
    let found = singles.into_iter().find(|value| meets(Some(value)));
    let found = found.or_else(|| list(wanted, &named, tokens, &meets));
    let last = || {
        // What only a test for presence holds of, and what none does.
        let odd = [json!({}), Value::Null];
        odd.into_iter().find(|value| meets(Some(value)))
    };
    found.or_else(last).map(Some)
}

/// What the tests name.
#[derive(Default)]
struct Named {
    /// In their order.
    values: Vec<Value>,
    texts: Vec<String>,
    prefixes: Vec<String>,
    numbers: Vec<Number>,
}

impl Named {
    fn of(wanted: &[Wanted<'_>], tokens: &Tokens) -> Self {
        let mut out = Self::default();
        for w in wanted {
            match w.ask {
                Ask::Reaches(name) => out.operand(&Operand::Text(name.into()), tokens),
                Ask::Test(Test::Equals(operand)) => out.operand(operand, tokens),
                Ask::Test(Test::Any(operands) | Test::All(operands)) => {
                    for operand in operands {
                        out.operand(operand, tokens);
                    }
                }
                Ask::Test(Test::Prefix(prefix)) => out.prefixes.push(prefix.to_string()),
                Ask::Test(Test::Range { min, max }) => {
                    out.numbers.extend(min.iter().chain(max));
                }
                Ask::Test(Test::Scopes(_) | Test::Present(_)) => {}
            }
        }
        out
    }

    fn operand(&mut self, operand: &Operand, tokens: &Tokens) {
        let value = match operand {
            Operand::Text(text) => json!(text),
            Operand::Bool(value) => json!(value),
            Operand::Number(n) => {
                self.numbers.push(*n);
                number(*n)
            }
            Operand::Capture(name) => match tokens.token(name) {
                Some(token) => json!(token),
                None => return,
            },
        };
        if let Value::String(text) = &value {
            self.texts.push(text.clone());
        }
        if !self.values.contains(&value) {
            self.values.push(value);
        }
    }

    /// Texts that the tests can tell apart, beside those that they name.
    fn texts(&self, wanted: &[Wanted<'_>]) -> Vec<Value> {
        let scopes = wanted.iter().filter_map(|w| match w.ask {
            Ask::Test(Test::Scopes(words)) if w.is && w.outcome == TestOutcome::Holds => {
                Some(words.iter().map(|word| &**word))
            }
            _ => None,
        });
        let scopes: Vec<&str> = scopes.flatten().collect();
        let mut out = Vec::new();
        if !scopes.is_empty() {
            out.push(json!(scopes.join(" ")));
        }
        for prefix in self.prefixes.iter().map(String::as_str).chain([""]) {
            let after = after(prefix, &self.texts, &self.prefixes);
            out.extend(after.map(Value::String));
            if !prefix.is_empty() {
                out.push(json!(prefix));
            }
        }
        out
    }

    /// Numbers that the tests can tell apart, beside those that they name.
    fn numbers(&self) -> Vec<Value> {
        let mut out = Vec::new();
        if self.numbers.is_empty() {
            return vec![json!(0)];
        }
        out.extend(self.numbers.iter().map(|n| number(*n)));
        let mut places: Vec<f64> = self.numbers.iter().map(|n| n.to_f64()).collect();
        places.sort_by(f64::total_cmp);
        for n in &self.numbers {
            match n {
                // Its neighbours, which as fractions may be the same number.
                Number::Int(int) => {
                    out.push(json!(int.saturating_add(1)));
                    out.push(json!(int.saturating_sub(1)));
                }
                Number::Float(float) => {
                    let whole = float.trunc();
                    out.extend([whole - 1.0, whole, whole + 1.0].map(|n| json!(n)));
                }
            }
        }
        for pair in places.windows(2) {
            if let [low, high] = pair {
                out.push(json!(low + (high - low) / 2.0));
            }
        }
        out.extend(places.iter().map(|n| json!(n + 0.5)));
        out.extend([json!(f64::MAX), json!(f64::MIN), json!(u64::MAX)]);
        // JSON knows no infinity.
        out.retain(|value| !value.is_null());
        out
    }
}

/// A text that begins with `prefix`, and neither is one of `texts` nor begins
/// with a longer one of `prefixes`.
pub(super) fn after(prefix: &str, texts: &[String], prefixes: &[String]) -> Option<String> {
    let longer = |text: &str| {
        let mut all = prefixes.iter().filter(|p| p.len() > prefix.len());
        all.any(|p| text.starts_with(p.as_str()))
    };
    let mut next = "xyz~".chars().chain('0'..='9').chain('a'..='w');
    let found = next.find_map(|c| {
        let text = format!("{prefix}{c}");
        (!longer(&text) && !texts.contains(&text)).then_some(text)
    });
    found.or_else(|| {
        let mut rare = '\u{100}'..='\u{ffff}';
        rare.find_map(|c| {
            let text = format!("{prefix}{c}");
            (!longer(&text) && !texts.contains(&text)).then_some(text)
        })
    })
}

fn list(
    wanted: &[Wanted<'_>],
    named: &Named,
    tokens: &Tokens,
    meets: &impl Fn(Option<&Value>) -> bool,
) -> Option<Value> {
    let empty = Value::Array(Vec::new());
    if meets(Some(&empty)) {
        return Some(empty);
    }
    let top = named.numbers.iter().map(|n| n.to_f64().abs());
    let top = top.fold(0.0, f64::max);
    let mut all = named.values.clone();
    all.extend(after("", &named.texts, &[]).map(Value::String));
    all.extend([json!(top + 1.0), json!(true), json!(false), Value::Null]);
    // An element that makes something hold which must not.
    all.retain(|element| {
        let one = Value::Array(vec![element.clone()]);
        wanted.iter().all(|w| {
            let holds_not = w.is != (w.outcome == TestOutcome::Holds);
            !holds_not || w.ask.outcome(Some(&one), tokens) != TestOutcome::Holds
        })
    });
    // By the types of its elements, the fewest first.
    (1u32..16).find_map(|kinds| {
        let of = |value: &&Value| {
            let kind = match value {
                Value::String(_) => 1,
                Value::Number(_) => 2,
                Value::Bool(_) => 4,
                Value::Null | Value::Array(_) | Value::Object(_) => 8,
            };
            kinds & kind != 0
        };
        let mut list: Vec<Value> = all.iter().filter(of).cloned().collect();
        if !meets(Some(&Value::Array(list.clone()))) {
            return None;
        }
        let mut at = list.len();
        while at > 0 {
            at -= 1;
            let mut shorter = list.clone();
            shorter.remove(at);
            if meets(Some(&Value::Array(shorter.clone()))) {
                list = shorter;
            }
        }
        Some(Value::Array(list))
    })
}

fn number(number: Number) -> Value {
    match number {
        Number::Int(int) => json!(int),
        Number::Float(float) => json!(float),
    }
}
