//! What tests of one claim say of each other.

use crate::condition::{Number, Operand, Test};

/// What a literal says of the value of a claim.
pub(super) struct Valued<'a> {
    pub(super) claim: &'a str,
    pub(super) says: Says<'a>,
    pub(super) wrong_type: bool,
}

/// What it says.
pub(super) enum Says<'a> {
    /// That a test holds, or cannot be asked.
    Test(&'a Test),
    /// That it is a list, with some element.
    List,
}

impl Valued<'_> {
    /// The type of the value, if it can have only one.
    fn kind(&self) -> Option<Kind> {
        match self.says {
            Says::Test(test) => kind(test),
            Says::List => Some(Kind::List),
        }
    }

    /// Whether this can meet a value of the wrong type where `holding` holds.
    pub(super) fn may_be_odd_beside(&self, holding: &Self) -> bool {
        match (&self.says, &holding.says) {
            (Says::Test(test), Says::Test(holding)) => may_be_odd(test, holding),
            // A list has elements of any type, and is none of the others.
            (Says::Test(Test::Present(_)), Says::List) | (Says::List, _) => false,
            (Says::Test(_), Says::List) => true,
        }
    }

    /// Whether it always does.
    pub(super) fn is_odd_beside(&self, holding: &Self) -> bool {
        let single = |test: &Test| !matches!(test, Test::Any(_) | Test::All(_) | Test::Present(_));
        match (&self.says, &holding.says) {
            (Says::Test(test), Says::List) => single(test),
            _ => holding.kind().is_some() && self.may_be_odd_beside(holding),
        }
    }

    /// Whether both can never hold of one value.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (&self.says, &other.says) {
            (Says::Test(x), Says::Test(y)) => exclude(x, y),
            (Says::List, Says::List) => false,
            (Says::List, Says::Test(test)) | (Says::Test(test), Says::List) => {
                **test == Test::Present(false) || kind(test).is_some()
            }
        }
    }
}

/// What type a claim's value has, at least as far as a test that holds tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bool,
    List,
}

const fn kind_of(operand: &Operand) -> Kind {
    match operand {
        Operand::Text(_) | Operand::Capture(_) => Kind::Text,
        Operand::Number(_) => Kind::Number,
        Operand::Bool(_) => Kind::Bool,
    }
}

/// The type of the value of which this test holds, if it can have only one.
fn kind(holding: &Test) -> Option<Kind> {
    match holding {
        Test::Scopes(_) | Test::Prefix(_) => Some(Kind::Text),
        Test::Range { .. } => Some(Kind::Number),
        Test::Equals(operand) => Some(kind_of(operand)),
        // A list would do.
        Test::Any(_) | Test::All(_) | Test::Present(_) => None,
    }
}

/// Whether `test` can meet a value of the wrong type while `holding` holds.
fn may_be_odd(test: &Test, holding: &Test) -> bool {
    if *holding == Test::Present(false) {
        return false;
    }
    if matches!(test, Test::Present(_)) {
        // Only null is odd here, and of null nothing holds.
        return false;
    }
    let Some(kind) = kind(holding) else {
        return true;
    };
    match test {
        Test::Scopes(_) | Test::Prefix(_) => kind != Kind::Text,
        Test::Range { .. } => kind != Kind::Number,
        Test::Equals(operand) => kind_of(operand) != kind,
        Test::Any(operands) | Test::All(operands) => !operands.iter().any(|o| kind_of(o) == kind),
        Test::Present(_) => false,
    }
}

/// Whether the second holds whenever the first does.
pub(super) fn implies(one: &Test, other: &Test) -> bool {
    match (one, other) {
        (a, b) if a == b => true,
        (Test::Present(false), _) | (_, Test::Present(false)) => false,
        (_, Test::Present(true)) => true,
        (Test::Equals(a), Test::Any(list)) => list.contains(a),
        (Test::Any(some), Test::Any(list)) => some.iter().all(|o| list.contains(o)),
        (Test::Equals(Operand::Text(text)), Test::Prefix(prefix)) => text.starts_with(&**prefix),
        (Test::Prefix(long), Test::Prefix(short)) => long.starts_with(&**short),
        (Test::Equals(Operand::Number(n)), Test::Range { min, max }) => {
            // Beyond that, two numbers may be equal to a fraction but not to
            // one another.
            let exact = n.to_f64().abs() < 9.0e15;
            exact && within(*n, *min, *max)
        }
        (Test::Range { min: a, max: b }, Test::Range { min: c, max: d }) => {
            let above = c.is_none_or(|c| a.is_some_and(|a| a.to_f64() > c.to_f64() || a == c));
            let below = d.is_none_or(|d| b.is_some_and(|b| b.to_f64() < d.to_f64() || b == d));
            above && below
        }
        _ => false,
    }
}

/// Whether both can never hold of one value.
fn exclude(one: &Test, other: &Test) -> bool {
    match (one, other) {
        (Test::Present(false), b) => *b != Test::Present(false),
        (a, Test::Present(false)) => *a != Test::Present(false),
        (Test::Equals(a), Test::Equals(b)) => differ(a, b),
        (Test::Equals(a), Test::Any(list)) | (Test::Any(list), Test::Equals(a)) => {
            list.iter().all(|b| differ(a, b))
        }
        (Test::Equals(Operand::Text(text)), Test::Prefix(prefix))
        | (Test::Prefix(prefix), Test::Equals(Operand::Text(text))) => !text.starts_with(&**prefix),
        (Test::Prefix(a), Test::Prefix(b)) => !a.starts_with(&**b) && !b.starts_with(&**a),
        (Test::Equals(Operand::Number(n)), Test::Range { min, max })
        | (Test::Range { min, max }, Test::Equals(Operand::Number(n))) => !within(*n, *min, *max),
        (Test::Range { min: a, max: b }, Test::Range { min: c, max: d }) => {
            let crossed = |low: &Option<Number>, high: &Option<Number>| matches!((low, high), (Some(l), Some(h)) if l.to_f64() > h.to_f64());
            crossed(a, d) || crossed(c, b)
        }
        (a, b) => matches!((kind(a), kind(b)), (Some(x), Some(y)) if x != y),
    }
}

/// Whether two operands are never equal: a captured token can be any text.
fn differ(a: &Operand, b: &Operand) -> bool {
    match (a, b) {
        (Operand::Capture(_), other) | (other, Operand::Capture(_)) => kind_of(other) != Kind::Text,
        (Operand::Number(x), Operand::Number(y)) => {
            x != y && (x.to_f64() - y.to_f64()).abs() > f64::EPSILON
        }
        (a, b) => a != b,
    }
}

fn within(n: Number, min: Option<Number>, max: Option<Number>) -> bool {
    min.is_none_or(|m| m == n || m.to_f64() <= n.to_f64())
        && max.is_none_or(|m| m == n || n.to_f64() <= m.to_f64())
}
