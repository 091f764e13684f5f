//! What messages must be, before and after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bulla_identity::{SubjectPattern, UnixMillis, WorkloadName, reserved};

use super::region::{NONE, Regions};
use super::walk::{Budget, Labelled, Literals};
use super::{Example, KeyChange, MOST_PLACES, RequirementChange, SubjectSet, words};
use crate::policy::Policy;
use crate::requirements::{Replay, Requirements, Stated};
use crate::rule::{About, Effect};

const UNKNOWN: u32 = 1;
const FIRST: u32 = 2;

/// What a `[subject]` entry states; audiences by name, because their sets
/// differ from policy to policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StatedEntry {
    pub(super) pattern: SubjectPattern,
    pub(super) stated: Stated,
    pub(super) audiences: Vec<Box<str>>,
}

/// An entry, and whether the old policy and the new one have it.
pub(super) type Sided = (StatedEntry, (bool, bool));

/// Every entry of both, and which of them has it.
pub(super) fn entries(before: &Policy, after: &Policy) -> Vec<Sided> {
    let read = |policy: &Policy| -> Vec<StatedEntry> {
        let entries = policy.entries.iter();
        entries
            .map(|entry| StatedEntry {
                pattern: entry.pattern.clone(),
                stated: Stated {
                    audiences: Default::default(),
                    ..entry.stated
                },
                audiences: policy
                    .audience_names(entry.stated.audiences)
                    .map(Into::into)
                    .collect(),
            })
            .collect()
    };
    let mut by_pattern: BTreeMap<String, Vec<Sided>> = BTreeMap::new();
    let all = read(before).into_iter().map(|e| (e, true));
    for (entry, old) in all.chain(read(after).into_iter().map(|e| (e, false))) {
        let known = by_pattern.entry(entry.pattern.to_nats()).or_default();
        let same = known
            .iter_mut()
            .find(|(k, _)| k.stated == entry.stated && k.audiences == entry.audiences);
        match same {
            Some((_, sides)) => {
                sides.0 |= old;
                sides.1 |= !old;
            }
            None => known.push((entry, (old, !old))),
        }
    }
    by_pattern.into_values().flatten().collect()
}

/// Every change, and whether all of it was found.
pub(super) fn compare(
    before: &Policy,
    after: &Policy,
    budget: &mut Budget,
) -> (Vec<RequirementChange>, bool) {
    let entries = entries(before, after);
    let mut labelled = Labelled::new(Default::default());
    let mut names = Literals::default();
    for (entry, (old, new)) in &entries {
        labelled.insert(entry.pattern.tokens(), old != new, &mut names);
    }
    if !labelled.is_changed() {
        return (Vec::new(), true);
    }
    // What is fixed there is so in both.
    let fixed = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    if let Ok(exchange) = SubjectPattern::parse(reserved::EXCHANGE) {
        labelled.insert(exchange.tokens(), false, &mut names);
    }
    let mut regions = Regions::new(budget.part(), MOST_PLACES);
    let mut kinds: Vec<Vec<KeyChange>> = Vec::new();
    let mut ids: HashMap<Vec<KeyChange>, u32> = HashMap::new();
    let map = labelled.map(&mut regions, UNKNOWN, &mut |found, _, budget| {
        budget.spend(found.len());
        if budget.is_spent() {
            return UNKNOWN;
        }
        if found.contains(&fixed) {
            return NONE;
        }
        let matching = || found.iter().filter_map(|l| entries.get(*l as usize));
        let old = told(matching().filter(|(_, sides)| sides.0).map(|(e, _)| e));
        let new = told(matching().filter(|(_, sides)| sides.1).map(|(e, _)| e));
        let changes: Vec<KeyChange> = old
            .into_iter()
            .zip(new)
            .filter(|((_, old), (_, new))| old != new)
            .map(|((key, before), (_, after))| KeyChange { key, before, after })
            .collect();
        if changes.is_empty() {
            return NONE;
        }
        *ids.entry(changes).or_insert_with_key(|changes| {
            kinds.push(changes.clone());
            u32::try_from(kinds.len())
                .unwrap_or(u32::MAX)
                .saturating_add(FIRST - 1)
        })
    });
    let mut whole = true;
    let mut out: Vec<RequirementChange> = Vec::new();
    for value in regions.values(map) {
        if value == NONE {
            continue;
        }
        let set = regions.only(map, value);
        let shapes = regions.shapes(set);
        if regions.is_cut() {
            whole = false;
            out.push(RequirementChange {
                sets: vec![words::everywhere()],
                keys: Vec::new(),
                workloads: Vec::new(),
            });
            break;
        }
        let sets: Vec<SubjectSet> = shapes
            .iter()
            .map(|shape| SubjectSet {
                examples: vec![Example {
                    subject: words::witness(&names, &shape.pattern, &[]),
                    user: None,
                    at: UnixMillis::default(),
                    later: false,
                    from: None,
                    allowed: true,
                }],
                ..words::place(&names, shape)
            })
            .collect();
        let keys = value
            .checked_sub(FIRST)
            .and_then(|at| kinds.get(at as usize));
        whole &= keys.is_some();
        out.push(RequirementChange {
            workloads: concerned([before, after], &sets),
            sets,
            keys: keys.cloned().unwrap_or_default(),
        });
    }
    out.sort_by(|a, b| {
        let first = |c: &RequirementChange| c.sets.first().map(|p| p.pattern.clone());
        (first(a), &a.keys).cmp(&(first(b), &b.keys))
    });
    budget.give_back(&regions.budget);
    (out, whole)
}

/// Who sends or receives there, by either policy.
fn concerned(sides: [&Policy; 2], sets: &[SubjectSet]) -> Vec<WorkloadName> {
    let patterns: Vec<SubjectPattern> = sets
        .iter()
        .filter_map(|p| SubjectPattern::parse(&p.pattern).ok())
        .collect();
    let mut out = BTreeSet::new();
    for policy in sides {
        for rule in policy.rules.iter() {
            let about = rule.effect == Effect::Allow
                && rule
                    .verbs
                    .iter()
                    .any(|verb| verb.about() == About::Subjects)
                && rule
                    .on
                    .iter()
                    .any(|on| patterns.iter().any(|p| p.overlaps(on)));
            if about {
                let who = rule.who.iter().filter_map(|w| policy.workload_at(*w));
                out.extend(who.map(|w| w.name().clone()));
            }
        }
    }
    out.into_iter().collect()
}

/// Every key with its value, as a policy writes them.
fn told<'e>(entries: impl Iterator<Item = &'e StatedEntry>) -> [(&'static str, String); 12] {
    let mut stated = Stated::default();
    let mut audiences: Vec<&str> = Vec::new();
    for entry in entries {
        stated = stated.and(entry.stated);
        audiences.extend(entry.audiences.iter().map(|a| &**a));
    }
    audiences.sort_unstable();
    audiences.dedup();
    let Requirements {
        protect,
        user,
        chain,
        max_age,
        suite,
        cipher,
        open_token,
        frames,
        batch,
        replies,
        replay,
        audiences: _,
    } = stated.or_default();
    let replay = replay.map_or("shared where served, else window", Replay::as_str);
    [
        ("protect", protect.as_str().to_owned()),
        ("user", user.as_str().to_owned()),
        ("max_age", duration(max_age)),
        ("replay", replay.to_owned()),
        ("audience", audiences.join(", ")),
        ("chain", chain.as_str().to_owned()),
        ("suite", suite.as_str().to_owned()),
        ("cipher", cipher.as_str().to_owned()),
        ("replies", replies.as_str().to_owned()),
        ("frames", frames.as_str().to_owned()),
        ("batch", batch.as_str().to_owned()),
        ("open_token", open_token.to_string()),
    ]
}

/// As a policy writes it.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}
