//! Conditions on the user's claims.

use std::cmp::Ordering;
use std::fmt;

use bulla_identity::{Claims, PatternToken, Subject, SubjectPattern};
use serde_json::Value;

/// Every test must hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) tests: Box<[ClaimTest]>,
}

/// One claim and what it has to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClaimTest {
    pub(crate) claim: Box<str>,
    pub(crate) test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    /// All of these are in the space-separated `scope` claim.
    Scopes(Box<[Box<str>]>),
    Equals(Operand),
    /// The claim, or one element of the claim's list, equals one of these.
    Any(Box<[Operand]>),
    /// Each of these equals the claim or an element of the claim's list.
    All(Box<[Operand]>),
    Prefix(Box<str>),
    /// Bounds are inclusive.
    Range {
        min: Option<Number>,
        max: Option<Number>,
    },
    Present(bool),
}

/// A value that a policy compares a claim with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Text(Box<str>),
    Number(Number),
    Bool(bool),
    /// The token of the subject that the rule's pattern captured.
    Capture(Box<str>),
}

/// A finite number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

/// What one test says of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestOutcome {
    /// It holds.
    Holds,
    /// The claim is there, of the right type, and says something else.
    Differs,
    /// The claim, or the whole user, is absent.
    Missing,
    /// The claim is of a type that the test cannot be asked of: an allow rule
    /// does not apply, a deny rule does.
    WrongType,
}

/// Where a condition is evaluated: captures are tokens of `subject`.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) user: Option<&'a Claims>,
    pub(crate) pattern: &'a SubjectPattern,
    pub(crate) subject: &'a Subject,
}

impl<'a> Scene<'a> {
    fn capture(&self, name: &str) -> Option<&'a str> {
        let at = self
            .pattern
            .tokens()
            .iter()
            .position(|t| matches!(t, PatternToken::Capture(n) if **n == *name))?;
        self.subject.tokens().nth(at)
    }
}

impl Condition {
    /// Whether an allow rule with this condition applies.
    pub(crate) fn permits(&self, scene: Scene<'_>) -> bool {
        self.tests
            .iter()
            .all(|t| t.outcome(scene) == TestOutcome::Holds)
    }

    /// Whether a deny rule with this condition applies: also when one of its
    /// tests cannot be evaluated (POL-44).
    pub(crate) fn denies(&self, scene: Scene<'_>) -> bool {
        let mut all_hold = true;
        for test in &self.tests {
            match test.outcome(scene) {
                TestOutcome::Holds => {}
                TestOutcome::WrongType => return true,
                TestOutcome::Differs | TestOutcome::Missing => all_hold = false,
            }
        }
        all_hold
    }

    /// How many tests do not hold.
    pub(crate) fn failures(&self, scene: Scene<'_>) -> usize {
        self.tests
            .iter()
            .filter(|t| t.outcome(scene) != TestOutcome::Holds)
            .count()
    }

    /// The first test that does not hold, by its place, for an explanation.
    pub(crate) fn first_failure(&self, scene: Scene<'_>) -> Option<(u32, TestOutcome)> {
        let tests = (0u32..).zip(&self.tests);
        tests
            .map(|(at, test)| (at, test.outcome(scene)))
            .find(|(_, outcome)| *outcome != TestOutcome::Holds)
    }
}

impl ClaimTest {
    pub(crate) fn outcome(&self, scene: Scene<'_>) -> TestOutcome {
        let value = scene.user.and_then(|u| u.get(&self.claim));
        self.test.outcome(value, |name| scene.capture(name))
    }
}

impl Test {
    /// What it says of a claim's value; `None`: there is no such claim. `capture`
    /// knows what the pattern captured.
    pub(crate) fn outcome<'a>(
        &self,
        value: Option<&Value>,
        capture: impl Fn(&str) -> Option<&'a str> + Copy,
    ) -> TestOutcome {
        let Some(value) = value else {
            return match self {
                Self::Present(false) => TestOutcome::Holds,
                _ => TestOutcome::Missing,
            };
        };
        match self {
            // A null is neither a value nor an absence that anybody stated.
            _ if value.is_null() => TestOutcome::WrongType,
            Self::Present(wanted) => told(*wanted),
            Self::Scopes(wanted) => match value {
                Value::String(given) => told(
                    wanted
                        .iter()
                        .all(|w| given.split(' ').any(|g| *g == **w && !g.is_empty())),
                ),
                _ => TestOutcome::WrongType,
            },
            Self::Equals(operand) => operand.compare(value, capture),
            Self::Any(operands) => any_of(operands, value, capture),
            Self::All(operands) => operands
                .iter()
                .map(|o| any_of(std::slice::from_ref(o), value, capture))
                .fold(TestOutcome::Holds, worse),
            Self::Prefix(prefix) => match value {
                Value::String(text) => told(text.starts_with(&**prefix)),
                _ => TestOutcome::WrongType,
            },
            Self::Range { min, max } => match value {
                Value::Number(given) => {
                    let above = min.is_none_or(|m| order(given, m).is_some_and(Ordering::is_ge));
                    let below = max.is_none_or(|m| order(given, m).is_some_and(Ordering::is_le));
                    told(above && below)
                }
                _ => TestOutcome::WrongType,
            },
        }
    }
}

/// Whether `value`, or one element of it, equals one of `operands`.
fn any_of<'a>(
    operands: &[Operand],
    value: &Value,
    capture: impl Fn(&str) -> Option<&'a str> + Copy,
) -> TestOutcome {
    let elements = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut odd = false;
    for element in elements {
        let mut comparable = false;
        for operand in operands {
            match operand.compare(element, capture) {
                TestOutcome::Holds => return TestOutcome::Holds,
                TestOutcome::Differs | TestOutcome::Missing => comparable = true,
                TestOutcome::WrongType => {}
            }
        }
        odd |= !comparable;
    }
    if odd {
        TestOutcome::WrongType
    } else {
        TestOutcome::Differs
    }
}

impl Operand {
    fn compare<'a>(&self, value: &Value, capture: impl Fn(&str) -> Option<&'a str>) -> TestOutcome {
        match (self, value) {
            (Self::Text(want), Value::String(have)) => told(**want == **have),
            (Self::Bool(want), Value::Bool(have)) => told(want == have),
            (Self::Number(want), Value::Number(have)) => {
                told(order(have, *want) == Some(Ordering::Equal))
            }
            (Self::Capture(name), Value::String(have)) => match capture(name) {
                Some(token) => told(token == have),
                // Loading checked that every pattern of the rule has the capture.
                None => TestOutcome::WrongType,
            },
            _ => TestOutcome::WrongType,
        }
    }
}

const fn told(holds: bool) -> TestOutcome {
    if holds {
        TestOutcome::Holds
    } else {
        TestOutcome::Differs
    }
}

fn worse(a: TestOutcome, b: TestOutcome) -> TestOutcome {
    match (a, b) {
        (TestOutcome::WrongType, _) | (_, TestOutcome::WrongType) => TestOutcome::WrongType,
        (TestOutcome::Holds, b) => b,
        (a, _) => a,
    }
}

/// How a claim's number relates to a policy's. Exact between integers; a
/// comparison with a fraction goes through `f64`.
fn order(have: &serde_json::Number, want: Number) -> Option<Ordering> {
    match want {
        Number::Int(want) => {
            if let Some(have) = have.as_i64() {
                Some(have.cmp(&want))
            } else if have.is_u64() {
                // Larger than any i64.
                Some(Ordering::Greater)
            } else {
                have.as_f64()?.partial_cmp(&Number::Int(want).to_f64())
            }
        }
        Number::Float(want) => have.as_f64()?.partial_cmp(&want),
    }
}

impl Number {
    /// The nearest fraction.
    #[expect(
        clippy::cast_precision_loss,
        reason = "documented: fractions compare as f64"
    )]
    pub(crate) const fn to_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

impl fmt::Display for ClaimTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = &self.claim;
        match &self.test {
            Test::Scopes(scopes) => {
                write!(f, "{claim} holds ")?;
                list(f, scopes.iter().map(|s| Quoted(s)), " and ")
            }
            Test::Equals(operand) => write!(f, "{claim} = {operand}"),
            Test::Any(operands) => {
                write!(f, "{claim} is one of ")?;
                list(f, operands.iter(), ", ")
            }
            Test::All(operands) => {
                write!(f, "{claim} holds all of ")?;
                list(f, operands.iter(), ", ")
            }
            Test::Prefix(prefix) => write!(f, "{claim} starts with {}", Quoted(prefix)),
            Test::Range { min, max } => match (min, max) {
                (Some(min), Some(max)) => write!(f, "{min} ≤ {claim} ≤ {max}"),
                (Some(min), None) => write!(f, "{claim} ≥ {min}"),
                (None, Some(max)) => write!(f, "{claim} ≤ {max}"),
                (None, None) => f.write_str(claim),
            },
            Test::Present(true) => write!(f, "{claim} is present"),
            Test::Present(false) => write!(f, "{claim} is absent"),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Capture(name) => write!(f, "{{{name}}}"),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => int.fmt(f),
            Self::Float(float) => float.fmt(f),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_debug())
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = impl fmt::Display>,
    between: &str,
) -> fmt::Result {
    for (i, item) in items.enumerate() {
        if i > 0 {
            f.write_str(between)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(t: &str) -> Operand {
        Operand::Text(t.into())
    }

    fn outcome(test: Test, claims: Value) -> TestOutcome {
        let claims = match claims {
            Value::Object(map) => Some(Claims::from_map(map)),
            _ => None,
        };
        let pattern = SubjectPattern::parse("orders.{tenant}.create").unwrap();
        let subject = Subject::parse("orders.acme.create").unwrap();
        let claim = if matches!(test, Test::Scopes(_)) {
            "scope"
        } else {
            "c"
        };
        ClaimTest {
            claim: claim.into(),
            test,
        }
        .outcome(Scene {
            user: claims.as_ref(),
            pattern: &pattern,
            subject: &subject,
        })
    }

    #[test]
    fn pol_41_each_test_means_what_it_says() {
        use TestOutcome::{Differs, Holds, Missing, WrongType};
        let scopes = |list: &[&str]| Test::Scopes(list.iter().map(|s| (*s).into()).collect());
        let any = |list: &[&str]| Test::Any(list.iter().map(|s| text(s)).collect());
        let all = |list: &[&str]| Test::All(list.iter().map(|s| text(s)).collect());
        let int = |i| Some(Number::Int(i));
        for (test, claims, want) in [
            (scopes(&["a", "b"]), json!({"scope": "b a"}), Holds),
            (scopes(&["a", "b"]), json!({"scope": "a"}), Differs),
            (scopes(&["a"]), json!({"scope": "ab"}), Differs),
            (scopes(&["a"]), json!({"scope": ["a"]}), WrongType),
            (scopes(&["a"]), json!({}), Missing),
            (scopes(&["a"]), json!(null), Missing),
            (Test::Equals(text("x")), json!({"c": "x"}), Holds),
            (Test::Equals(text("x")), json!({"c": "X"}), Differs),
            (Test::Equals(text("x")), json!({"c": ["x"]}), WrongType),
            (Test::Equals(text("1")), json!({"c": 1}), WrongType),
            (Test::Equals(text("x")), json!({"c": null}), WrongType),
            (Test::Equals(Operand::Bool(true)), json!({"c": true}), Holds),
            (
                Test::Equals(Operand::Bool(true)),
                json!({"c": "true"}),
                WrongType,
            ),
            (
                Test::Equals(Operand::Number(Number::Int(1))),
                json!({"c": 1.0}),
                Holds,
            ),
            (
                Test::Equals(Operand::Capture("tenant".into())),
                json!({"c": "acme"}),
                Holds,
            ),
            (
                Test::Equals(Operand::Capture("tenant".into())),
                json!({"c": "evil"}),
                Differs,
            ),
            (
                Test::Equals(Operand::Capture("tenant".into())),
                json!({"c": "*"}),
                Differs,
            ),
            (any(&["x", "y"]), json!({"c": "y"}), Holds),
            (any(&["x", "y"]), json!({"c": ["z", "y"]}), Holds),
            (any(&["x", "y"]), json!({"c": ["z"]}), Differs),
            (any(&["x"]), json!({"c": []}), Differs),
            (any(&["x"]), json!({"c": [1]}), WrongType),
            (any(&["x"]), json!({"c": {"x": 1}}), WrongType),
            (all(&["x", "y"]), json!({"c": ["y", "x", "z"]}), Holds),
            (all(&["x", "y"]), json!({"c": ["x"]}), Differs),
            (all(&["x"]), json!({"c": "x"}), Holds),
            (all(&["x"]), json!({"c": [["x"]]}), WrongType),
            (Test::Prefix("eu-".into()), json!({"c": "eu-1"}), Holds),
            (Test::Prefix("eu-".into()), json!({"c": "us"}), Differs),
            (Test::Prefix("eu-".into()), json!({"c": 3}), WrongType),
            (
                Test::Range {
                    min: int(1),
                    max: int(3),
                },
                json!({"c": 3}),
                Holds,
            ),
            (
                Test::Range {
                    min: int(1),
                    max: int(3),
                },
                json!({"c": 3.5}),
                Differs,
            ),
            (
                Test::Range {
                    min: int(1),
                    max: None,
                },
                json!({"c": u64::MAX}),
                Holds,
            ),
            (
                Test::Range {
                    min: int(1),
                    max: None,
                },
                json!({"c": "2"}),
                WrongType,
            ),
            (Test::Present(true), json!({"c": false}), Holds),
            (Test::Present(true), json!({}), Missing),
            (Test::Present(false), json!({}), Holds),
            (Test::Present(false), json!(null), Holds),
            (Test::Present(false), json!({"c": 1}), Differs),
            (Test::Present(false), json!({"c": null}), WrongType),
        ] {
            assert_eq!(
                outcome(test.clone(), claims.clone()),
                want,
                "{test:?} {claims}"
            );
        }
    }

    #[test]
    fn large_integers_do_not_round() {
        let big = i64::MAX - 1;
        let test = Test::Equals(Operand::Number(Number::Int(big)));
        assert_eq!(outcome(test.clone(), json!({"c": big})), TestOutcome::Holds);
        assert_eq!(outcome(test, json!({"c": i64::MAX})), TestOutcome::Differs);
    }

    #[test]
    fn pol_44_a_deny_that_cannot_be_evaluated_applies() {
        let condition = Condition {
            tests: Box::new([
                ClaimTest {
                    claim: "a".into(),
                    test: Test::Equals(text("x")),
                },
                ClaimTest {
                    claim: "b".into(),
                    test: Test::Range {
                        min: Some(Number::Int(5)),
                        max: None,
                    },
                },
            ]),
        };
        let pattern = SubjectPattern::parse("s").unwrap();
        let subject = Subject::parse("s").unwrap();
        for (claims, permits, denies) in [
            (json!({"a": "x", "b": 5}), true, true),
            (json!({"a": "x", "b": 4}), false, false),
            (json!({"a": "x"}), false, false),
            (json!({"a": "x", "b": "5"}), false, true),
            (json!({"a": "other", "b": "5"}), false, true),
        ] {
            let claims = Claims::from_map(claims.as_object().unwrap().clone());
            let scene = Scene {
                user: Some(&claims),
                pattern: &pattern,
                subject: &subject,
            };
            assert_eq!(condition.permits(scene), permits, "{claims:?}");
            assert_eq!(condition.denies(scene), denies, "{claims:?}");
        }
    }
}
