//! `[workload.NAME]` and `[group]`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use bulla_identity::{Nkey, WorkloadName};

use super::reader::{self, Fields, Node};
use super::{MAX_GRANTS, NamedSpec, WorkloadSpec, attest, lint, subject, user, when};
use crate::error::Sink;
use crate::problem::{AttestProblem, Problem};
use crate::token_issuer::Protocols;

pub(super) fn workloads(
    node: Option<Node<'_>>,
    known: &attest::Named<'_>,
    sink: &mut Sink<'_>,
) -> Vec<WorkloadSpec> {
    let Some(table) = node.and_then(|n| reader::table("workload", n, sink)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let mut owners: BTreeMap<Nkey, String> = BTreeMap::new();
    for (key, node) in table {
        let name: &str = key.get_ref();
        let parsed = match WorkloadName::parse(name) {
            Ok(parsed) => Some(parsed),
            Err(source) => {
                let problem = Problem::Name {
                    name: name.to_owned(),
                    source,
                };
                sink.report(&key.span(), problem);
                None
            }
        };
        let Some(table) = reader::table(name, node, sink) else {
            continue;
        };
        const LATER: &[(&str, &str)] = &[("expires", "remove the workload when its time is over")];
        let what = "a workload";
        const KEYS: &[&str] = &[
            "attest",
            "mints",
            "reach",
            "exchanges",
            "starts",
            "network",
            "protocol",
            "discoverable",
            "discovers",
            "allow_lint",
        ];
        let fields = Fields::new(table, key.span(), what, KEYS, LATER, sink);
        let attest = fields.need("attest", sink);
        let attestors = attest.map(|node| attest::read(name, node, known, &mut owners, sink));
        let flag = |key, sink: &mut Sink<'_>| {
            fields
                .get(key)
                .and_then(|n| reader::boolean(key, n, sink))
                .unwrap_or(false)
        };
        let mints = flag("mints", sink);
        let (discoverable, discovers) = (flag("discoverable", sink), flag("discovers", sink));
        let reach = fields.get("reach").map(|node| {
            if !mints {
                sink.report(&node.span(), Problem::ReachWithoutMint);
            }
            subject::verticals(node, sink)
        });
        let exchanges = fields.get("exchanges").is_some_and(|node| {
            let exchanges = reader::boolean("exchanges", node, sink).unwrap_or(false);
            if exchanges && !mints {
                sink.report(&node.span(), Problem::ExchangeWithoutMint);
            }
            if exchanges && out.iter().any(|other: &WorkloadSpec| other.exchanges) {
                sink.report(&node.span(), Problem::ExchangeTwice);
            }
            exchanges
        });
        let starts_node = fields.get("starts");
        let starts = starts_node.and_then(|node| user::starts(node, sink));
        let networks = fields.get("network").and_then(|n| when::networks(n, sink));
        let protocols = match fields.get("protocol") {
            Some(node) => protocols(node, sink),
            None => Protocols::default(),
        };
        if let Some(name) = parsed {
            out.push(WorkloadSpec {
                name,
                span: key.span(),
                attestors: attestors.unwrap_or_default(),
                mints,
                reach,
                exchanges,
                starts,
                starts_at: starts_node.map(|node| node.span()),
                discoverable,
                discovers,
                allow_lint: lint::allowed(&fields, sink),
                place: sink.place_of(key.span().start),
                networks,
                protocols,
            });
        }
    }
    if !out.iter().any(|workload| workload.exchanges) {
        for at in out.iter().filter_map(|w| w.starts_at.as_ref()) {
            sink.report(at, Problem::StartsWithoutExchange);
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// By what it may connect.
fn protocols(node: Node<'_>, sink: &mut Sink<'_>) -> Protocols {
    let mut out = Protocols {
        nats: false,
        websocket: false,
    };
    for node in reader::list("protocol", "a list such as [\"nats\"]", node, sink) {
        match reader::text("protocol", node, sink) {
            Some("nats") => out.nats = true,
            Some("websocket") => out.websocket = true,
            Some(name) => {
                let name = reader::printable(name);
                sink.report(&node.span(), AttestProblem::Protocol { name }.into());
            }
            None => {}
        }
    }
    out
}

/// What the names in `who` stand for.
pub(super) struct Names {
    workloads: HashMap<String, u32>,
    groups: BTreeMap<String, Vec<u32>>,
    /// The groups that each group names.
    inner: BTreeMap<String, Vec<String>>,
    /// The groups that anything but a group names.
    named: RefCell<BTreeSet<String>>,
}

#[derive(Clone)]
enum Member {
    Workload(u32),
    Group(String, Range<usize>),
}

impl Names {
    /// Resolves the groups; cycles and unknown names are reported.
    pub(super) fn resolve(
        workloads: &[WorkloadSpec],
        node: Option<Node<'_>>,
        sink: &mut Sink<'_>,
    ) -> Self {
        let mut names = Self {
            workloads: workloads
                .iter()
                .zip(0u32..)
                .map(|(w, i)| (w.name.as_str().to_owned(), i))
                .collect(),
            groups: BTreeMap::new(),
            inner: BTreeMap::new(),
            named: RefCell::default(),
        };
        let Some(table) = node.and_then(|n| reader::table("group", n, sink)) else {
            return names;
        };
        let mut declared: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        // Every name first, so that a group may name one that comes later.
        for (key, _) in table {
            let name: &str = key.get_ref();
            if let Err(source) = WorkloadName::parse(name) {
                let problem = Problem::Name {
                    name: name.to_owned(),
                    source,
                };
                sink.report(&key.span(), problem);
            }
            declared.insert(name.to_owned(), Vec::new());
            names.groups.insert(name.to_owned(), Vec::new());
        }
        for (key, node) in table {
            let members: Vec<Member> = match node.get_ref().as_array() {
                Some(array) => array
                    .iter()
                    .filter_map(|n| names.member(n, "group", sink))
                    .collect(),
                None => {
                    let expected = "a list of workloads and `group:NAME`";
                    reader::wrong_type(key.get_ref(), expected, node, sink);
                    Vec::new()
                }
            };
            let name: &str = key.get_ref();
            declared.insert(name.to_owned(), members);
        }
        names.groups = flatten(&declared, sink);
        for (name, members) in declared {
            let groups = members.into_iter().filter_map(|member| match member {
                Member::Workload(_) => None,
                Member::Group(name, _) => Some(name),
            });
            names.inner.insert(name, groups.collect());
        }
        names
    }

    /// The groups, and whether anything names them, directly or through a group
    /// that something names. Asked last.
    pub(super) fn groups(&self, node: Option<Node<'_>>) -> Vec<NamedSpec> {
        let mut used = self.named.borrow().clone();
        let mut open: Vec<String> = used.iter().cloned().collect();
        while let Some(name) = open.pop() {
            for inner in self.inner.get(&name).into_iter().flatten() {
                if used.insert(inner.clone()) {
                    open.push(inner.clone());
                }
            }
        }
        let table = node.and_then(|node| node.get_ref().as_table());
        let groups = table.into_iter().flat_map(|table| table.iter());
        groups
            .map(|(key, _)| NamedSpec {
                name: key.get_ref().to_string(),
                span: key.span(),
                used: used.contains(&**key.get_ref()),
            })
            .collect()
    }

    /// The workloads that a list, `who` for example, names: sorted, each once.
    pub(super) fn who(&self, key: &'static str, node: Node<'_>, sink: &mut Sink<'_>) -> Vec<u32> {
        let expected = "a list of workloads and `group:NAME`";
        let mut out = BTreeSet::new();
        for node in reader::list(key, expected, node, sink) {
            match self.member(node, key, sink) {
                Some(Member::Workload(index)) => {
                    out.insert(index);
                }
                Some(Member::Group(name, _)) => {
                    out.extend(self.groups.get(&name).into_iter().flatten());
                    self.named.borrow_mut().insert(name);
                }
                None => {}
            }
        }
        out.into_iter().collect()
    }

    fn member(&self, node: Node<'_>, key: &str, sink: &mut Sink<'_>) -> Option<Member> {
        let text = reader::text(key, node, sink)?;
        if let Some(name) = text.strip_prefix("group:") {
            if self.groups.contains_key(name) {
                return Some(Member::Group(name.to_owned(), node.span()));
            }
            let known = self.groups.keys().map(String::as_str);
            let problem = Problem::UnknownGroup {
                name: reader::printable(name),
                similar: reader::similar(name, known).map(str::to_owned),
            };
            sink.report(&node.span(), problem);
            return None;
        }
        if let Some(index) = self.workloads.get(text) {
            return Some(Member::Workload(*index));
        }
        let similar = if self.groups.contains_key(text) {
            Some(format!("group:{text}"))
        } else {
            // A large policy pays for one comparison per workload and typo.
            let known = self.workloads.keys().map(String::as_str);
            reader::similar(text, known).map(str::to_owned)
        };
        let problem = Problem::UnknownWorkload {
            name: reader::printable(text),
            similar,
        };
        sink.report(&node.span(), problem);
        None
    }
}

/// The workloads of each group, members of members included.
///
/// Depth first with an explicit stack: a chain of groups may be as long as the
/// file, and must not use up the thread's.
fn flatten(
    declared: &BTreeMap<String, Vec<Member>>,
    sink: &mut Sink<'_>,
) -> BTreeMap<String, Vec<u32>> {
    let mut done: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut total = 0usize;
    for root in declared.keys() {
        let mut stack: Vec<(&str, usize, BTreeSet<u32>)> = Vec::new();
        let mut open: HashSet<&str> = HashSet::new();
        if !done.contains_key(root) {
            stack.push((root, 0, BTreeSet::new()));
            open.insert(root);
        }
        while let Some((name, next, mut set)) = stack.pop() {
            let Some(member) = declared.get(name).and_then(|m| m.get(next)) else {
                total = total.saturating_add(set.len());
                if total > MAX_GRANTS {
                    let problem = Problem::TooManyGrants {
                        limit: MAX_GRANTS,
                        actual: total,
                    };
                    sink.report(&(0..0), problem);
                    return done;
                }
                done.insert(name.to_owned(), set.into_iter().collect());
                open.remove(name);
                continue;
            };
            match member {
                Member::Workload(index) => {
                    set.insert(*index);
                    stack.push((name, next + 1, set));
                }
                Member::Group(inner, span) => {
                    if let Some(members) = done.get(inner) {
                        set.extend(members);
                        stack.push((name, next + 1, set));
                        continue;
                    }
                    stack.push((name, next, set));
                    if open.contains(&**inner) {
                        let way = stack.iter().map(|(n, ..)| *n).skip_while(|n| n != inner);
                        let way = way.take(8);
                        let problem = Problem::GroupCycle {
                            name: inner.clone(),
                            path: way.chain([&**inner]).collect::<Vec<_>>().join(" → "),
                        };
                        sink.report(span, problem);
                        // Go on as if the member were not there.
                        if let Some(top) = stack.last_mut() {
                            top.1 += 1;
                        }
                    } else {
                        stack.push((inner, 0, BTreeSet::new()));
                        open.insert(inner);
                    }
                }
            }
        }
    }
    done
}
