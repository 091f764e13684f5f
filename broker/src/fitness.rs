//! Whether an enforcer runs what is in force, by what it says of itself.

use std::time::Duration;

use bulla_sdk::enforcer_report::EnforcerReport;

/// What lies on the control stream.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) revision: u64,
    /// SHA-256 of the policy's record, in hexadecimal digits.
    pub(crate) hash: String,
    pub(crate) bundle: u64,
    pub(crate) revocations: u64,
    /// The number of the policy on trial; 0 if there is none.
    pub(crate) candidate: u64,
}

/// How an enforcer fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// It runs what is in force.
    Current,
    /// It runs something older, or something else; what it is.
    Stale(&'static str),
    /// It refuses everything, for this reason.
    Refuses(String),
    /// It has said nothing for a while.
    Silent,
    /// What it wrote is no report, for this reason.
    Unreadable(&'static str),
}

impl Fitness {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale(_) => "stale",
            Self::Refuses(_) => "refuses",
            Self::Silent => "silent",
            Self::Unreadable(_) => "unreadable",
        }
    }

    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Current | Self::Silent => "",
            Self::Stale(what) | Self::Unreadable(what) => what,
            Self::Refuses(why) => why,
        }
    }
}

/// How an enforcer fares whose last report is so old.
pub(crate) fn fitness(report: &EnforcerReport, in_force: &InForce, age: Duration) -> Fitness {
    if age > SILENT_AFTER {
        return Fitness::Silent;
    }
    if report.revision != in_force.revision || report.policy != in_force.hash {
        return Fitness::Stale("policy");
    }
    if report.bundle < in_force.bundle {
        return Fitness::Stale("trust bundle");
    }
    if report.revocations < in_force.revocations {
        return Fitness::Stale("revocations");
    }
    if report.candidate != in_force.candidate {
        return Fitness::Stale("policy on trial");
    }
    if !report.standing.is_empty() {
        return Fitness::Refuses(report.standing.clone());
    }
    Fitness::Current
}

/// Two reports, and what a loaded machine may be late.
const SILENT_AFTER: Duration = Duration::from_secs(75);
