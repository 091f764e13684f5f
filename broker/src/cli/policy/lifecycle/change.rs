//! What a change of the policy does, shown to who has to say yes to it.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use bulla_identity::WorkloadName;
use bulla_policy::{AdmissionChange, Circumstances, Policy, PolicyDiff};
use serde_json::{Value, json};

use super::LifecycleError;
use crate::cli::policy::changes::{changes_json, print_meaning};
use crate::cli::policy::print::{BAD, GOOD, STRONG, WARN, plural, say};
use crate::clock;

/// How one policy differs from another for those who are connected.
pub(in crate::cli::policy) struct Change {
    workloads: Vec<(WorkloadName, Fate)>,
    meaning: PolicyDiff,
}

/// What becomes of a workload's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Dropped,
    Loses,
    Gains,
    Added,
}

impl Fate {
    const fn word(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Loses => "loses",
            Self::Gains => "gains",
            Self::Added => "new",
        }
    }

    const fn says(self) -> &'static str {
        match self {
            Self::Dropped => "connections end, nobody is let in any more",
            Self::Loses => "connections end at once and come back with fewer rights",
            Self::Gains => "connections come back with more rights when they are idle",
            Self::Added => "may connect",
        }
    }
}

impl Change {
    pub(in crate::cli::policy) fn between(old: &Policy, new: &Policy) -> Self {
        let mut workloads = Vec::new();
        // For connections of no known address: what networks open is not in it.
        let circumstances = Circumstances::at(clock::now());
        for workload in old.workloads() {
            let fate = match new.workload(workload.name()) {
                None => Some(Fate::Dropped),
                Some(_) => {
                    let before = old.permissions(workload.id(), &circumstances).ok();
                    let after = new.permissions(workload.id(), &circumstances).ok();
                    match before.zip(after).map(|(b, a)| a.change_from(&b)) {
                        Some(AdmissionChange::Same) => None,
                        Some(AdmissionChange::Gains) => Some(Fate::Gains),
                        Some(AdmissionChange::Loses) | None => Some(Fate::Loses),
                    }
                }
            };
            workloads.extend(fate.map(|fate| (workload.name().clone(), fate)));
        }
        for workload in new.workloads() {
            if old.workload(workload.name()).is_none() {
                workloads.push((workload.name().clone(), Fate::Added));
            }
        }
        workloads.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        Self {
            workloads,
            meaning: PolicyDiff::between(old, new, clock::now()),
        }
    }

    pub(in crate::cli::policy) fn print(&self) {
        print_meaning(&self.meaning);
        if self.meaning.is_empty() {
            say!("  no decision differs");
        }
        let width = self.workloads.iter().map(|(name, _)| name.as_str().len());
        let width = width.max().unwrap_or(0);
        for (name, fate) in &self.workloads {
            let style = match fate {
                Fate::Dropped | Fate::Loses => BAD,
                Fate::Gains | Fate::Added => GOOD,
            };
            say!(
                "  {STRONG}{:<width$}{STRONG:#}  {style}{:<7}{style:#}  {}",
                name.as_str(),
                fate.word(),
                fate.says()
            );
        }
        let changed = self.workloads.len();
        if changed == 0 {
            say!(
                "  {WARN}no connection{WARN:#} is affected: what changes is decided by the endpoints"
            );
        } else {
            say!(
                "  {} affected, the others notice nothing",
                plural(changed, "workload")
            );
        }
    }

    pub(in crate::cli::policy) fn json(&self) -> Value {
        let workloads: Vec<Value> = self
            .workloads
            .iter()
            .map(|(name, fate)| json!({ "workload": name.as_str(), "change": fate.word() }))
            .collect();
        json!({
            "workloads": workloads,
            "meaning": changes_json(&self.meaning),
        })
    }
}

/// Whether somebody says yes.
pub(in crate::cli::policy) fn ask(question: &str) -> Result<bool, LifecycleError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(LifecycleError::NobodyToAsk);
    }
    let mut out = anstream::stderr();
    let _ = write!(out, "{STRONG}{question}{STRONG:#} [y/N] ");
    let _ = out.flush();
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    Ok(read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes"))
}
