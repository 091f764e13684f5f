//! A message on which two policies disagree, and the proof that they do.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bulla_identity::{Claims, Subject, UnixMillis, WorkloadId, WorkloadName};
use serde_json::{Map, Value, json};

use super::Example;
use super::atom::{Atom, Atoms};
use super::function::Point;
use crate::circumstances::Networks;
use crate::condition::{Number, Operand, Test};
use crate::decide::Request;
use crate::policy::Policy;
use crate::rule::Verb;

/// The most users that are tried for one example.
const MOST_TRIES: usize = 64;

/// Whom to ask what.
pub(super) struct Asked<'a> {
    /// The old policy and the new one.
    pub(super) sides: [&'a Policy; 2],
    pub(super) who: &'a WorkloadName,
    pub(super) verb: Verb,
    pub(super) now: UnixMillis,
    pub(super) atoms: &'a Atoms,
}

impl Asked<'_> {
    /// A message at `point`, and whether both policies really say so.
    pub(super) fn example(&self, subject: &str, point: &Point, allowed: bool) -> Example {
        let users = if point.user {
            self.claims(subject, point).into_iter().map(Some).collect()
        } else {
            vec![None]
        };
        let mut example = Example {
            subject: subject.to_owned(),
            user: users.first().cloned().flatten(),
            at: self.now,
            later: false,
            from: self.client(point),
            allowed,
            confirmed: false,
        };
        for at in self.moments(point) {
            for user in &users {
                if self.disagree(&example, user.as_ref(), at) {
                    example.user.clone_from(user);
                    example.at = at;
                    example.later = at != self.now;
                    example.confirmed = true;
                    return example;
                }
            }
        }
        example
    }

    fn disagree(
        &self,
        example: &Example,
        user: Option<&Map<String, Value>>,
        at: UnixMillis,
    ) -> bool {
        let user = user.map(|claims| Claims::from_map(claims.clone()));
        let answers = self.sides.map(|policy| {
            let workload = WorkloadId::new(policy.trust_domain(), self.who);
            let subject = Subject::parse(&example.subject).ok()?;
            let request = Request {
                workload: &workload,
                verb: self.verb,
                subject: &subject,
                user: user.as_ref(),
                now: at,
            };
            Some(policy.passes(&request, example.from))
        });
        answers == [Some(!example.allowed), Some(example.allowed)]
    }

    /// Moments at which everything of `point` that time decides is so: now, if it
    /// can be, or else when one of the hours next begins or ends.
    fn moments(&self, point: &Point) -> Vec<UnixMillis> {
        let mut moments = vec![self.now];
        let mut at = self.now;
        for _ in 0..MOST_TRIES {
            let turns = self.atoms.hours().filter_map(|hours| hours.next_change(at));
            let Some(next) = turns.min() else { break };
            moments.push(next);
            at = next;
        }
        let holds = |at: &UnixMillis| {
            point
                .lits
                .iter()
                .all(|lit| match self.atoms.atom(lit.atom) {
                    Some(Atom::Before(end)) => at < end,
                    Some(Atom::Hours(hours)) => hours.holds(*at),
                    _ => true,
                })
        };
        // A rule that ends makes a difference only after another one has.
        moments.extend(self.atoms.ends());
        moments.retain(holds);
        moments
    }

    /// An address in every network that `point` names.
    fn client(&self, point: &Point) -> Option<IpAddr> {
        let networks: Vec<&Networks> = point
            .lits
            .iter()
            .filter_map(|lit| match self.atoms.atom(lit.atom) {
                Some(Atom::From(networks)) => Some(networks),
                _ => None,
            })
            .collect();
        let elsewhere = self
            .atoms
            .has_networks()
            // An address of no operator's network (RFC 5737).
            .then_some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let mut candidates = networks.iter().flat_map(|n| n.iter()).map(|net| net.addr());
        candidates
            .find(|address| networks.iter().all(|n| n.contain(*address)))
            .or(elsewhere)
    }

    /// Some claims of which everything at `point` is true, and as little else as
    /// can be of what the policies test; those that are worth a try first.
    fn claims(&self, subject: &str, point: &Point) -> Vec<Map<String, Value>> {
        let mut reach = Vec::new();
        let mut tests: BTreeMap<&str, Wanted<'_>> = BTreeMap::new();
        for lit in &point.lits {
            match self.atoms.atom(lit.atom) {
                Some(Atom::Reach(name)) => reach.push(json!(name)),
                Some(Atom::Claim(test)) => {
                    let wanted = tests.entry(&test.claim).or_default();
                    if lit.wrong_type {
                        wanted.odd = true;
                    } else {
                        wanted.holding.push(&test.test);
                    }
                }
                Some(Atom::List { claim, operands }) => {
                    tests.entry(claim).or_default().lists.push(operands);
                }
                Some(Atom::Before(_) | Atom::Hours(_) | Atom::From(_)) | None => {}
            }
        }
        let mut out = vec![Map::new()];
        if !reach.is_empty() {
            out = vec![Map::from_iter([("reach".to_owned(), Value::Array(reach))])];
        }
        for (claim, wanted) in &tests {
            let values = wanted.values(subject);
            out = out
                .into_iter()
                .flat_map(|known| {
                    values.iter().map(move |value| {
                        let mut known = known.clone();
                        if let Some(value) = value {
                            known.insert((*claim).to_owned(), value.clone());
                        }
                        known
                    })
                })
                .take(MOST_TRIES)
                .collect();
        }
        // What is not to be absent may have to be there.
        let mut padded = out.clone();
        for claim in self.atoms.claims_to_be_absent() {
            if !tests.contains_key(claim) {
                for claims in &mut padded {
                    claims.insert(claim.to_owned(), json!("there"));
                }
            }
        }
        if padded != out {
            out.append(&mut padded);
        }
        out
    }
}

/// What a claim's value has to be.
#[derive(Default)]
struct Wanted<'a> {
    /// All of these hold.
    holding: Vec<&'a Test>,
    /// It is a list that has one of each of these.
    lists: Vec<&'a [Operand]>,
    /// Some other test cannot be asked of it.
    odd: bool,
}

impl Wanted<'_> {
    /// Values that are so; `None` in the list: no value.
    fn values(&self, subject: &str) -> Vec<Option<Value>> {
        if self.lists.is_empty() {
            return single(&self.holding, self.odd, subject);
        }
        let firsts = self
            .lists
            .iter()
            .filter_map(|l| operand(l.first()?, subject));
        let lasts = self
            .lists
            .iter()
            .filter_map(|l| operand(l.last()?, subject));
        let [mut firsts, mut lasts]: [Vec<Value>; 2] = [firsts.collect(), lasts.collect()];
        if self.odd {
            // An element that nothing can be asked of.
            firsts.push(Value::Null);
            lasts.push(Value::Null);
        }
        [firsts, lasts].map(|list| Some(Value::Array(list))).into()
    }
}

/// Values, not lists if it can be, of which all of these tests hold, and which
/// are odd to some other one; `None` in the list: no value.
fn single(holding: &[&Test], odd: bool, subject: &str) -> Vec<Option<Value>> {
    if odd {
        // Of null nothing holds, and every test is odd.
        return match holding {
            [] => vec![Some(Value::Null)],
            [Test::Any(list)] => {
                let known = list.iter().filter_map(|o| operand(o, subject));
                known.map(|o| Some(json!([o, null]))).collect()
            }
            // Of another type than what the test is asked of.
            holding => single(holding, false, subject),
        };
    }
    if holding.contains(&&Test::Present(false)) {
        return vec![None];
    }
    let scopes: Vec<&str> = holding
        .iter()
        .filter_map(|test| match test {
            Test::Scopes(words) => Some(words.iter().map(|w| &**w)),
            _ => None,
        })
        .flatten()
        .collect();
    if !scopes.is_empty() {
        return vec![Some(json!(scopes.join(" ")))];
    }
    let (mut single, mut lists) = (Vec::new(), Vec::new());
    let (mut low, mut high) = (None, None);
    for test in holding {
        match test {
            Test::Equals(value) => single.extend(operand(value, subject)),
            Test::Any(values) | Test::All(values) => {
                single.extend(values.iter().filter_map(|o| operand(o, subject)));
                lists.extend(values.iter().filter_map(|o| operand(o, subject)));
            }
            Test::Prefix(prefix) => {
                single.push(json!(format!("{prefix}~")));
                single.push(json!(prefix));
            }
            Test::Range { min, max } => {
                low = low.or(*min);
                high = high.or(*max);
            }
            Test::Scopes(_) | Test::Present(_) => {}
        }
    }
    match (low, high) {
        (Some(low), Some(high)) => {
            let (from, to) = (low.to_f64(), high.to_f64());
            single.extend([number(low), number(high)]);
            single.extend([
                json!(from + (to - from) / 2.0),
                json!(from + (to - from) / 3.0),
            ]);
        }
        (Some(low), None) => single.extend([number(low), json!(low.to_f64() + 0.5)]),
        (None, Some(high)) => single.extend([number(high), json!(high.to_f64() - 0.5)]),
        (None, None) => {}
    }
    if single.is_empty() {
        single.push(json!("there"));
    }
    if lists.len() > 1 {
        single.push(Value::Array(lists));
    }
    single.into_iter().map(Some).collect()
}

fn operand(operand: &Operand, subject: &str) -> Option<Value> {
    Some(match operand {
        Operand::Text(text) => json!(text),
        Operand::Bool(value) => json!(value),
        Operand::Number(value) => number(*value),
        Operand::Capture(place) => {
            let at: usize = place.strip_prefix('#')?.parse().ok()?;
            json!(subject.split('.').nth(at)?)
        }
    })
}

fn number(number: Number) -> Value {
    match number {
        Number::Int(int) => json!(int),
        Number::Float(float) => json!(float),
    }
}
