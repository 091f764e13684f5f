//! What the replay modes ask of the rest of a policy.

use bulla_identity::SubjectPattern;

use crate::error::Sink;
use crate::parse::{Parsed, RuleSpec, SubjectSpec};
use crate::problem::{Problem, ReplayEntry};
use crate::requirements::{LONGEST_MAX_AGE, Replay};
use crate::rule::Verb;
use crate::trie::Trie;
use crate::warning::Warning;

/// Refuses `stream` beside what it contradicts, and long lives without it
/// (POL-25, POL-27).
pub(crate) fn replay(parsed: &Parsed, sink: &mut Sink<'_>) {
    let index = Index::of(parsed);
    for spec in &parsed.subjects {
        if spec.stated.replay == Some(Replay::Stream) {
            if let Some(other) = index.other_mode(spec) {
                let problem = Problem::ReplayContradiction {
                    subject: spec.pattern.to_string(),
                    other,
                };
                sink.report(&spec.replay_at, problem);
            }
            if let Some(served) = index.served(&spec.pattern) {
                let problem = Problem::StreamServed {
                    subject: spec.pattern.to_string(),
                    rule: served.spec.rule.id.to_string(),
                    place: served.spec.rule.place.clone(),
                    verb: served.verb,
                    pattern: served.pattern.to_string(),
                };
                sink.report(&spec.replay_at, problem);
            }
        }
        let long = spec.stated.max_age.is_some_and(|age| age > LONGEST_MAX_AGE);
        if long && !index.is_streamed(spec) {
            let problem = Problem::LongAge {
                subject: spec.pattern.to_string(),
                other: index.other_mode(spec),
            };
            sink.report(&spec.max_age_at, problem);
        }
    }
}

/// A `window` where a queue group serves, an audience that nobody reaches (POL-28).
pub(super) fn warnings(parsed: &Parsed) -> Vec<Warning> {
    let index = Index::of(parsed);
    let mut out: Vec<Warning> = parsed
        .subjects
        .iter()
        .filter(|spec| spec.stated.replay == Some(Replay::Window) && !index.is_raised(spec))
        .filter_map(|spec| {
            let served = index.servers(&spec.pattern)?;
            Some(Warning::window_in_queue_group(
                &spec.place,
                &spec.pattern,
                &served.spec.rule,
            ))
        })
        .collect();
    out.extend(unreached(parsed));
    out
}

/// Entries whose audience the tokens of no minter may reach.
fn unreached(parsed: &Parsed) -> impl Iterator<Item = Warning> {
    let reached = |audience: &str| {
        let mut minters = parsed.workloads.iter().filter(|workload| workload.mints);
        minters.any(|minter| match &minter.reach {
            None => true,
            Some(reach) => reach.iter().any(|name| **name == *audience),
        })
    };
    parsed.subjects.iter().flat_map(move |spec| {
        let named = spec.stated.audiences.places();
        let names = named.filter_map(|place| parsed.audiences.get(place));
        names
            .filter(|name| !reached(name))
            .map(|name| Warning::audience_unreached(&spec.place, &spec.pattern, name))
            .collect::<Vec<_>>()
    })
}

/// A pattern that some rule lets requests travel on.
#[derive(Clone, Copy)]
struct Served<'p> {
    spec: &'p RuleSpec,
    pattern: &'p SubjectPattern,
    verb: Verb,
}

struct Index<'p> {
    entries: Trie<&'p SubjectSpec>,
    requests: Trie<Served<'p>>,
}

impl<'p> Index<'p> {
    fn of(parsed: &'p Parsed) -> Self {
        let mut index = Self {
            entries: Trie::default(),
            requests: Trie::default(),
        };
        // Only policies that state a mode pay for the look-ups.
        for spec in parsed.subjects.iter().filter(|s| s.stated.replay.is_some()) {
            index.entries.insert(spec.pattern.tokens(), spec);
        }
        if index.entries.is_empty() {
            return index;
        }
        for spec in &parsed.rules {
            for verb in [Verb::Request, Verb::Serve] {
                for pattern in spec.rule.on.iter().filter(|_| spec.rule.may_allow(verb)) {
                    let served = Served {
                        spec,
                        pattern,
                        verb,
                    };
                    index.requests.insert(pattern.tokens(), served);
                }
            }
        }
        index
    }

    /// The first entry that shares subjects with `spec` and states a mode
    /// other than `stream`.
    fn other_mode(&self, spec: &SubjectSpec) -> Option<ReplayEntry> {
        let mut found: Option<(&SubjectSpec, Replay)> = None;
        self.entries.overlaps(spec.pattern.tokens(), &mut |other| {
            if let Some(mode @ (Replay::Window | Replay::Shared)) = other.stated.replay
                && found.is_none_or(|(first, _)| other.span.start < first.span.start)
            {
                found = Some((other, mode));
            }
        });
        found.map(|(other, replay)| ReplayEntry {
            pattern: other.pattern.to_string(),
            place: other.place.clone(),
            replay,
        })
    }

    /// Whether all of an entry's subjects are kept by a stream.
    fn is_streamed(&self, spec: &SubjectSpec) -> bool {
        self.covers(spec, |mode| mode == Replay::Stream)
    }

    /// Whether another entry gives all of a `window` entry's subjects more.
    fn is_raised(&self, spec: &SubjectSpec) -> bool {
        self.covers(spec, |mode| mode > Replay::Window)
    }

    fn covers(&self, spec: &SubjectSpec, is_wanted: impl Fn(Replay) -> bool) -> bool {
        let mut covered = false;
        self.entries.overlaps(spec.pattern.tokens(), &mut |other| {
            covered |= other.stated.replay.is_some_and(&is_wanted)
                && other.pattern.contains(&spec.pattern);
        });
        covered
    }

    /// The first rule that lets requests travel on some of `pattern`.
    fn served(&self, pattern: &SubjectPattern) -> Option<Served<'p>> {
        self.first_request(pattern, |_| true)
    }

    /// The first rule that lets a queue group serve some of `pattern`.
    fn servers(&self, pattern: &SubjectPattern) -> Option<Served<'p>> {
        self.first_request(pattern, |verb| verb == Verb::Serve)
    }

    fn first_request(
        &self,
        pattern: &SubjectPattern,
        is_wanted: impl Fn(Verb) -> bool,
    ) -> Option<Served<'p>> {
        let mut found: Option<Served<'p>> = None;
        self.requests.overlaps(pattern.tokens(), &mut |served| {
            if is_wanted(served.verb)
                && found.is_none_or(|f| served.spec.span.start < f.spec.span.start)
            {
                found = Some(*served);
            }
        });
        found
    }
}
