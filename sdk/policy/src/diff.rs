//! What changes if one policy takes the place of another: by meaning, not by
//! text (POL-150 to POL-154).
//!
//! Everything that a decision depends on is compared: for every workload and
//! verb every subject, of which there is no end, and for each of them every user
//! as far as the conditions can tell users apart. What is reported is exact:
//!
//! ```text
//! labelled patterns of both ──► map: subject → what changed ──► patterns, and
//!      (walk)                       (region)                    one example each
//! ```

mod atom;
mod claim;
mod demand;
mod example;
mod function;
mod region;
mod rights;
mod search;
mod setting;
mod token;
mod value;
mod walk;
mod words;
mod world;

use std::fmt;
use std::net::IpAddr;

use bulla_identity::{UnixMillis, WorkloadName};
use serde_json::{Map, Value};

use crate::policy::Policy;
use crate::requirements::UserRule;
use crate::rule::{Effect, Rule, Verb};
use crate::source::Place;

pub use token::TokenFact;

/// Every difference in meaning between two policies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyDiff {
    /// Workloads that only the new policy names.
    pub added: Vec<WorkloadName>,
    /// Workloads that only the old policy names.
    pub removed: Vec<WorkloadName>,
    /// Who may do what now, and could not, and the other way round.
    pub rights: Vec<RightChange>,
    /// What would change in [`PolicyDiff::rights`] if rules in shadow were
    /// enforced, in both policies.
    pub shadow: Vec<RightChange>,
    /// What messages must be.
    pub requirements: Vec<RequirementChange>,
    /// Attestation, minting, reach, streams and whatever else is stated by name.
    pub settings: Vec<SettingChange>,
    /// What nats-server is told differently. A workload of this list is
    /// authorised anew when the policy takes effect.
    pub permissions: Vec<PermissionChange>,
    /// Whether everything was compared. If not, [`ChangeKind::Unknown`], or a
    /// change of requirements without keys, names what was not.
    pub complete: bool,
}

/// What became of a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// Never allowed before, allowed now on some condition or on none.
    Gained,
    /// Allowed for more users or at more times than before.
    Widened,
    /// Allowed for some that it was not for, and not for some that it was for.
    Changed,
    /// Allowed for fewer users or at fewer times than before.
    Narrowed,
    /// Allowed before, never now.
    Lost,
    /// Not compared: the patterns of these policies cross in too many ways.
    Unknown,
}

/// One change of what some workloads may do.
#[derive(Debug, Clone, PartialEq)]
pub struct RightChange {
    /// Who, sorted; the rules name all of them alike.
    pub workloads: Vec<WorkloadName>,
    /// What they do.
    pub verbs: Vec<Verb>,
    /// How it changed.
    pub kind: ChangeKind,
    /// On which subjects.
    pub sets: Vec<SubjectSet>,
    /// When it was allowed; `None`: never.
    pub before: Option<Allowance>,
    /// When it is allowed; `None`: never.
    pub after: Option<Allowance>,
    /// The rules that differ.
    pub rules: Vec<RuleChange>,
    /// Whether the subject's requirements contribute to it.
    pub by_requirements: bool,
}

/// Subjects: those of a pattern without those of some others, of whose tokens
/// something may have to be so.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectSet {
    /// These.
    pub pattern: String,
    /// But not these.
    pub except: Vec<String>,
    /// Only those of which all of this is so.
    pub tokens: Vec<TokenFact>,
    /// One message for each direction in which it changed.
    pub examples: Vec<Example>,
}

/// One message on which the policies disagree: both were asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Its subject.
    pub subject: String,
    /// The claims of its user; `None`: it has no user.
    pub user: Option<Map<String, Value>>,
    /// Whether the new policy allows it; the old one says the opposite.
    pub allowed: bool,
    /// When it is sent.
    pub at: UnixMillis,
    /// Whether that is not now, because now nothing would differ.
    pub later: bool,
    /// From where its sender connects; `None`: from anywhere.
    pub from: Option<IpAddr>,
}

/// On which conditions something is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Allowance {
    /// One of these has to hold; if there is none, nothing has to.
    pub when: Vec<String>,
    /// None of these may hold.
    pub unless: Vec<String>,
    /// Whether the message carries a user.
    pub user: UserRule,
    /// What the user's token has to reach.
    pub audiences: Vec<String>,
}

/// A rule that is not in both policies alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleChange {
    /// Its id.
    pub id: String,
    /// Allow or deny.
    pub effect: Effect,
    /// Where it stands in the old policy.
    pub before: Option<Place>,
    /// Where it stands in the new policy.
    pub after: Option<Place>,
}

/// What messages on some subjects must be now.
#[derive(Debug, Clone, PartialEq)]
pub struct RequirementChange {
    /// On which subjects.
    pub sets: Vec<SubjectSet>,
    /// Each key that changed; none if what there is was not compared.
    pub keys: Vec<KeyChange>,
    /// The workloads that some allow rule lets send or receive there.
    pub workloads: Vec<WorkloadName>,
}

/// The value of one key before and after, as a policy writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyChange {
    /// The key.
    pub key: &'static str,
    /// The old value; empty if there was none.
    pub before: String,
    /// The new value; empty if there is none.
    pub after: String,
}

/// A change of what is stated by name: `workload`, `stream`, …
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettingChange {
    /// The table: `workload`, `stream`, `claims`, `rule`, or `policy`.
    pub table: &'static str,
    /// The name in it; empty for `policy`.
    pub name: String,
    /// What changed.
    pub change: KeyChange,
}

/// Entries of the lists that nats-server gets for one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionChange {
    /// Whose.
    pub workload: WorkloadName,
    /// Entries that are new, each as `publish orders.*` or `deny subscribe a.>`.
    pub added: Vec<String>,
    /// Entries that are gone.
    pub removed: Vec<String>,
}

/// What a comparison may cost, in steps of some 50 ns: about a second.
const WORK: u64 = 20_000_000;
/// The most sets that one comparison lists.
const MOST_PLACES: usize = 20_000;

impl PolicyDiff {
    /// Compares what `before` and `after` mean from `now` on.
    #[must_use]
    pub fn between(before: &Policy, after: &Policy, now: UnixMillis) -> Self {
        let mut out = setting::compare(before, after, now);
        let mut budget = walk::Budget::new(WORK);
        let rights = rights::compare(before, after, now, false, &mut budget);
        let shadowed = |policy: &Policy| policy.rules().iter().any(Rule::is_shadow);
        if shadowed(before) || shadowed(after) {
            let mut all = rights::compare(before, after, now, true, &mut budget);
            all.retain(|change| !rights.contains(change));
            out.shadow = all;
        }
        let (requirements, whole) = demand::compare(before, after, &mut budget);
        let mut changes = rights.iter().chain(&out.shadow);
        out.complete = whole && changes.all(|r| r.kind != ChangeKind::Unknown);
        out.rights = rights;
        out.requirements = requirements;
        out
    }

    /// Whether the policies mean the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.complete
            && self.added.is_empty()
            && self.removed.is_empty()
            && self.rights.is_empty()
            && self.shadow.is_empty()
            && self.requirements.is_empty()
            && self.settings.is_empty()
            && self.permissions.is_empty()
    }
}

impl ChangeKind {
    /// The stable word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gained => "gained",
            Self::Widened => "widened",
            Self::Changed => "changed",
            Self::Narrowed => "narrowed",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }

    /// Whether somebody may do more than before.
    #[must_use]
    pub const fn gives(self) -> bool {
        match self {
            Self::Gained | Self::Widened | Self::Changed | Self::Unknown => true,
            Self::Narrowed | Self::Lost => false,
        }
    }

    /// Whether somebody may do less than before.
    #[must_use]
    pub const fn takes(self) -> bool {
        match self {
            Self::Lost | Self::Narrowed | Self::Changed | Self::Unknown => true,
            Self::Gained | Self::Widened => false,
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Allowance {
    /// As it continues a sentence: `when …`, `unless …`, `always`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match self.user {
            UserRule::Required if self.when.is_empty() => parts.push("with a user".to_owned()),
            UserRule::None => parts.push("without a user".to_owned()),
            UserRule::Required | UserRule::Optional => {}
        }
        if !self.when.is_empty() {
            parts.push(format!("when {}", self.when.join(", or when ")));
        }
        if !self.unless.is_empty() {
            parts.push(format!("unless {}", self.unless.join(", or if ")));
        }
        if !self.audiences.is_empty() {
            parts.push(format!(
                "a user's token reaching {}",
                self.audiences.join(" and ")
            ));
        }
        if parts.is_empty() {
            return f.write_str("always");
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for SubjectSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)?;
        if !self.except.is_empty() {
            write!(f, " (not {})", self.except.join(", "))?;
        }
        if !self.tokens.is_empty() {
            let facts: Vec<String> = self.tokens.iter().map(ToString::to_string).collect();
            write!(f, " (where {})", facts.join(", "))?;
        }
        Ok(())
    }
}
