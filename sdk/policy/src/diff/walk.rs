//! From labelled patterns to a map from subjects to what their labels mean.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bulla_identity::PatternToken;

use super::region::{NONE, NodeId, Regions, Sym};

/// The work that a comparison may still cost, so that no policy, however
/// malicious, makes it endless: patterns whose wildcards cross can be combined in
/// more ways than there are atoms.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    pub(super) fn new(units: u64) -> Self {
        Self { left: units }
    }

    /// A part of what is left, so that one comparison does not use up the others'.
    pub(super) fn part(&mut self) -> Self {
        let left = self.left / 4;
        self.left -= left;
        Self { left }
    }

    /// Takes back what was not needed.
    pub(super) fn give_back(&mut self, rest: &Self) {
        self.left += rest.left;
    }

    pub(super) fn spend(&mut self, units: usize) {
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(units);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// The literal tokens of all patterns, by number.
#[derive(Debug, Default)]
pub(super) struct Literals {
    ids: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Literals {
    pub(super) fn id(&mut self, text: &Arc<str>) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(text.clone());
        self.ids.insert(text.clone(), id);
        id
    }

    pub(super) fn name(&self, id: u32) -> &str {
        self.names.get(id as usize).map_or("?", |name| name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// A token that no pattern names.
    pub(super) fn fresh(&self) -> String {
        let mut names = std::iter::once("x".to_owned()).chain((1u32..).map(|i| format!("x{i}")));
        names
            .find(|name| !self.ids.contains_key(name.as_str()))
            .unwrap_or_default()
    }
}

/// Labels under patterns.
#[derive(Debug)]
pub(super) struct Labelled {
    nodes: Vec<Place>,
    /// By label: whether only one of both policies has it.
    changed: Vec<bool>,
    /// By place of a token, from 0: the literals that are told apart there
    /// although a pattern takes any token, because a condition compares it.
    compared: BTreeMap<usize, Vec<u32>>,
}

/// The literals of a subject at the places where conditions compare tokens.
pub(super) type KnownTokens = Vec<(usize, u32)>;

#[derive(Debug, Default)]
struct Place {
    literals: BTreeMap<u32, u32>,
    any: Option<u32>,
    here: Vec<u32>,
    rest: Vec<u32>,
    /// Whether a changed label is here or beneath.
    changed: bool,
    /// Whether some label beneath captures the token before, and has it compared.
    captured: bool,
}

impl Labelled {
    /// Labels for conditions that compare tokens at these places, from 0, with
    /// these literals.
    pub(super) fn new(compared: BTreeMap<usize, Vec<u32>>) -> Self {
        Self {
            nodes: vec![Place::default()],
            changed: Vec::new(),
            compared,
        }
    }

    /// Files the next label, counted from 0, under a pattern.
    pub(super) fn insert(&mut self, tokens: &[PatternToken], changed: bool, names: &mut Literals) {
        let label = u32::try_from(self.changed.len()).unwrap_or(u32::MAX);
        self.changed.push(changed);
        let mut at = 0;
        let mut new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let mut grown = Vec::new();
        let mut captured = false;
        for (depth, token) in tokens.iter().enumerate() {
            let compared =
                matches!(token, PatternToken::Capture(_)) && self.compared.contains_key(&depth);
            let Some(place) = self.place_mut(at, &mut grown) else {
                return;
            };
            place.changed |= changed;
            place.captured |= std::mem::replace(&mut captured, compared);
            let next = match token {
                PatternToken::Rest => {
                    place.rest.push(label);
                    self.nodes.append(&mut grown);
                    return;
                }
                PatternToken::Literal(text) => *place.literals.entry(names.id(text)).or_insert(new),
                PatternToken::Any | PatternToken::Capture(_) => *place.any.get_or_insert(new),
            };
            if next == new {
                grown.push(Place::default());
                new += 1;
            }
            at = next;
        }
        if let Some(place) = self.place_mut(at, &mut grown) {
            place.changed |= changed;
            place.captured |= captured;
            place.here.push(label);
        }
        self.nodes.append(&mut grown);
    }

    fn place_mut<'a>(&'a mut self, at: u32, grown: &'a mut [Place]) -> Option<&'a mut Place> {
        let at = at as usize;
        match at.checked_sub(self.nodes.len()) {
            None => self.nodes.get_mut(at),
            Some(beyond) => grown.get_mut(beyond),
        }
    }

    /// Whether anything is changed at all.
    pub(super) fn is_changed(&self) -> bool {
        self.nodes.first().is_some_and(|root| root.changed)
    }

    /// The labels, sorted, whose patterns match a subject of this pattern that
    /// has in the place of each wildcard one token that no pattern names.
    pub(super) fn matching(&self, pattern: &[Sym]) -> Vec<u32> {
        let mut live = vec![0];
        let mut past = Vec::new();
        for sym in pattern {
            let places: Vec<&Place> = live.iter().filter_map(|p| self.place(*p)).collect();
            past.extend(places.iter().flat_map(|p| &p.rest));
            let named = |p: &&Place| match sym {
                Sym::Literal(id) => p.literals.get(id).copied(),
                Sym::Star | Sym::Rest => None,
            };
            let named: Vec<u32> = places.iter().filter_map(named).collect();
            live = places.iter().filter_map(|p| p.any).collect();
            live.extend(named);
        }
        let here = live.iter().filter_map(|p| self.place(*p));
        joined(&past, here.flat_map(|p| &p.here))
    }

    fn place(&self, at: u32) -> Option<&Place> {
        self.nodes.get(at as usize)
    }

    /// Maps every subject to what `value` says of the labels, sorted, whose
    /// patterns match it, and of the literals where tokens are compared; what no
    /// changed label matches, to [`NONE`]; and what the budget does not suffice
    /// for, to `unknown`.
    pub(super) fn map(
        &self,
        regions: &mut Regions,
        unknown: u32,
        value: &mut ValueOf<'_>,
    ) -> NodeId {
        let mut walk = Walk {
            labelled: self,
            regions,
            unknown,
            value,
            seen: HashMap::new(),
        };
        // There is no subject without a token.
        walk.next(NONE, &[0], &[], &Vec::new(), 0)
    }
}

/// The value of subjects, by the labels that match them and the literals that are
/// told apart.
pub(super) type ValueOf<'v> = dyn FnMut(&[u32], &[(usize, u32)], &mut Budget) -> u32 + 'v;

struct Walk<'a> {
    labelled: &'a Labelled,
    regions: &'a mut Regions,
    unknown: u32,
    value: &'a mut ValueOf<'a>,
    seen: HashMap<(Vec<u32>, Vec<u32>, KnownTokens), NodeId>,
}

impl<'a> Walk<'a> {
    /// The places `live` that some subject has reached, and the labels `past`
    /// whose `>` it has passed, after `depth` tokens.
    fn visit(
        &mut self,
        live: Vec<u32>,
        past: Vec<u32>,
        known: KnownTokens,
        depth: usize,
    ) -> NodeId {
        let alive = live
            .iter()
            .any(|p| self.place(*p).is_some_and(|p| p.changed));
        if !alive && !past.iter().any(|l| self.is_changed(*l)) {
            return NONE;
        }
        let key = (live, past, known);
        if let Some(known) = self.seen.get(&key) {
            return *known;
        }
        let (live, past, known) = &key;
        self.regions.budget.spend(1 + live.len() + past.len());
        if self.regions.budget.is_spent() {
            return self.regions.uniform(self.unknown);
        }
        let here = live.iter().filter_map(|p| self.place(*p));
        let labels = joined(past, here.flat_map(|p| &p.here));
        let end = self.value_of(&labels, known);
        let out = self.next(end, live, past, known, depth);
        self.seen.insert(key, out);
        out
    }

    fn next(
        &mut self,
        end: u32,
        live: &[u32],
        past: &[u32],
        known: &KnownTokens,
        depth: usize,
    ) -> NodeId {
        let places: Vec<&'a Place> = live.iter().filter_map(|p| self.place(*p)).collect();
        let past = joined(past, places.iter().flat_map(|p| &p.rest));
        let any: Vec<u32> = places.iter().filter_map(|p| p.any).collect();
        let mut names: Vec<u32> = places
            .iter()
            .flat_map(|p| p.literals.keys().copied())
            .collect();
        let is_captured = |p: &u32| self.place(*p).is_some_and(|p| p.captured);
        let compared = any.iter().any(is_captured);
        if compared && let Some(literals) = self.labelled.compared.get(&depth) {
            names.extend(literals);
        }
        names.sort_unstable();
        names.dedup();
        self.regions.budget.spend(names.len());
        let other = if any.is_empty() {
            // Nothing more can match beneath.
            let value = self.value_of(&past, known);
            self.regions.uniform(value)
        } else {
            self.visit(joined(&any, []), past.clone(), known.clone(), depth + 1)
        };
        let mut literals = Vec::with_capacity(names.len());
        for name in names {
            let named = places.iter().filter_map(|p| p.literals.get(&name));
            let mut known = known.clone();
            if compared {
                known.push((depth, name));
            }
            let child = self.visit(joined(&any, named), past.clone(), known, depth + 1);
            literals.push((name, child));
        }
        self.regions.node(end, literals, other)
    }

    fn value_of(&mut self, labels: &[u32], known: &[(usize, u32)]) -> u32 {
        if labels.iter().any(|l| self.is_changed(*l)) {
            (self.value)(labels, known, &mut self.regions.budget)
        } else {
            NONE
        }
    }

    fn place(&self, at: u32) -> Option<&'a Place> {
        self.labelled.place(at)
    }

    fn is_changed(&self, label: u32) -> bool {
        self.labelled
            .changed
            .get(label as usize)
            .copied()
            .unwrap_or_default()
    }
}

/// Sorted, each once.
fn joined<'l>(some: &[u32], more: impl IntoIterator<Item = &'l u32>) -> Vec<u32> {
    let mut out = some.to_vec();
    out.extend(more);
    out.sort_unstable();
    out.dedup();
    out
}
