//! One message: its user, its moment and its network, which are all that a
//! decision depends on beside workload, verb and subject.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulla_identity::UnixMillis;
use serde_json::{Map, Value};

use super::atom::{Atom, Atoms, Lit};
use super::claim::{self, Ask, Wanted};
use crate::condition::TestOutcome;

/// The most moments that are tried.
const MOST_MOMENTS: usize = 4_096;

const WEEK_MILLIS: u64 = 7 * 24 * 3_600_000;

/// An address of no operator's network (RFC 5737).
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A message.
#[derive(Debug, Clone)]
pub(super) struct World {
    /// `None`: it has no user.
    pub(super) user: Option<Map<String, Value>>,
    pub(super) at: UnixMillis,
    /// `None` where no rule asks.
    pub(super) from: Option<IpAddr>,
}

/// The tokens of a subject, by the names of captures at their places (`#2`).
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens {
    known: HashMap<String, String>,
}

impl Tokens {
    /// All tokens of a subject.
    pub(super) fn of(subject: &str) -> Self {
        let tokens = subject.split('.').enumerate();
        Self {
            known: tokens
                .map(|(at, token)| (format!("#{at}"), token.to_owned()))
                .collect(),
        }
    }

    pub(super) fn know(&mut self, at: usize, token: String) {
        self.known.insert(format!("#{at}"), token);
    }

    pub(super) fn token(&self, name: &str) -> Option<&str> {
        self.known.get(name).map(String::as_str)
    }
}

/// That a literal is true, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) lit: Lit,
    pub(super) is: bool,
}

/// The terms of both sides, for subjects with these tokens.
pub(super) struct Worlds<'a> {
    pub(super) atoms: &'a Atoms,
    pub(super) tokens: &'a Tokens,
    pub(super) now: UnixMillis,
}

impl Worlds<'_> {
    /// A message of which all of this is so, if there is one; the simplest that
    /// is found.
    pub(super) fn with(&self, known: &[Known], user: bool) -> Option<World> {
        let mut claims: BTreeMap<&str, Vec<Wanted<'_>>> = BTreeMap::new();
        for k in known {
            let (claim, ask) = match self.atoms.atom(k.lit.atom)? {
                Atom::Claim(test) => (&*test.claim, Ask::Test(&test.test)),
                Atom::Reach(name) => ("reach", Ask::Reaches(name)),
                Atom::List { .. } => return None,
                Atom::Before(_) | Atom::Hours(_) | Atom::From(_) => continue,
            };
            claims.entry(claim).or_default().push(Wanted {
                ask,
                outcome: outcome(k.lit),
                is: k.is,
            });
        }
        let mut map = Map::new();
        for (claim, wanted) in claims {
            if user {
                if let Some(value) = claim::value(&wanted, self.tokens)? {
                    map.insert(claim.to_owned(), value);
                }
            } else {
                let is_so =
                    |w: &Wanted<'_>| (w.ask.outcome(None, self.tokens) == w.outcome) == w.is;
                wanted.iter().all(is_so).then_some(())?;
            }
        }
        let mut world = World {
            user: user.then_some(map),
            at: self.now,
            from: None,
        };
        world.at = self.moment(known, &world)?;
        world.from = self.client(known, &world)?;
        Some(world)
    }

    /// Whether a literal is true of a message.
    pub(super) fn is_true(&self, lit: Lit, world: &World) -> bool {
        let claim = |name: &str| world.user.as_ref().and_then(|user| user.get(name));
        match self.atoms.atom(lit.atom) {
            Some(Atom::Claim(test)) => {
                Ask::Test(&test.test).outcome(claim(&test.claim), self.tokens) == outcome(lit)
            }
            Some(Atom::Reach(name)) => {
                Ask::Reaches(name).outcome(claim("reach"), self.tokens) == outcome(lit)
            }
            Some(Atom::Before(end)) => world.at < *end,
            Some(Atom::Hours(hours)) => hours.holds(world.at),
            Some(Atom::From(networks)) => world.from.is_some_and(|from| networks.contain(from)),
            Some(Atom::List { .. }) | None => false,
        }
    }

    /// The first moment from now on at which all is so that time decides. What
    /// rules say of time changes when one of them ends, and otherwise repeats
    /// itself every week.
    fn moment(&self, known: &[Known], world: &World) -> Option<UnixMillis> {
        let mut timed = Vec::new();
        let (mut ends, mut hours) = (vec![self.now], Vec::new());
        for k in known {
            match self.atoms.atom(k.lit.atom) {
                Some(Atom::Before(end)) => ends.push(*end),
                Some(Atom::Hours(schedule)) => hours.push(schedule),
                _ => continue,
            }
            timed.push(*k);
        }
        let mut world = world.clone();
        let mut is_so = |at: UnixMillis| {
            world.at = at;
            timed.iter().all(|k| self.is_true(k.lit, &world) == k.is)
        };
        if is_so(self.now) {
            return Some(self.now);
        }
        ends.retain(|end| *end >= self.now);
        ends.sort_unstable();
        ends.dedup();
        let mut left = MOST_MOMENTS;
        for start in ends {
            let last = start.as_millis().saturating_add(WEEK_MILLIS);
            let mut at = start;
            loop {
                if is_so(at) {
                    return Some(at);
                }
                left = left.checked_sub(1)?;
                let turns = hours.iter().filter_map(|hours| hours.next_change(at));
                match turns.min() {
                    Some(next) if next.as_millis() <= last => at = next,
                    _ => break,
                }
            }
        }
        None
    }

    /// An address of which all is so, if any rule asks for one. Networks lie in
    /// one another or apart, so their edges stand for all addresses.
    #[expect(clippy::option_option, reason = "no address is an answer, too")]
    fn client(&self, known: &[Known], world: &World) -> Option<Option<IpAddr>> {
        if !self.atoms.has_networks() {
            return Some(None);
        }
        let mut placed = Vec::new();
        let (mut candidates, mut edges) = (vec![ELSEWHERE], Vec::new());
        for k in known {
            if let Some(Atom::From(networks)) = self.atoms.atom(k.lit.atom) {
                placed.push(*k);
                for net in networks.iter() {
                    candidates.push(net.addr());
                    edges.extend([net.network(), net.broadcast()]);
                }
            }
        }
        candidates.extend(
            edges
                .iter()
                .flat_map(|edge| [*edge, next(*edge), before(*edge)]),
        );
        candidates.extend([
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
        ]);
        let mut world = world.clone();
        let found = candidates.into_iter().find(|from| {
            world.from = Some(*from);
            placed.iter().all(|k| self.is_true(k.lit, &world) == k.is)
        });
        found.map(Some)
    }
}

const fn outcome(lit: Lit) -> TestOutcome {
    if lit.wrong_type {
        TestOutcome::WrongType
    } else {
        TestOutcome::Holds
    }
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1))),
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_sub(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_sub(1))),
    }
}
