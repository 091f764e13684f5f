//! Recorded decisions, decided again by a candidate (POL-170 to POL-174).
//!
//! What a record does not hold is not guessed: where the candidate asks for a claim
//! that was not recorded, the record is counted as one that could not be judged.

use std::collections::BTreeMap;

use bulla_identity::{Claims, Subject, SubjectPattern, UnixMillis, WorkloadId, WorkloadName};
use bulla_policy::{Decision, DecisionRecord, Denial, Policy, Request, Verb, Verdict};

/// Decides records again, one after the other.
#[derive(Debug)]
pub struct Replay<'p> {
    candidate: &'p Policy,
    same: u64,
    others: u64,
    changes: BTreeMap<ChangeKey, Change>,
    unjudged: BTreeMap<Unjudged, Count>,
}

type ChangeKey = (
    Verdict,
    Option<String>,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayReport {
    /// Records that the candidate decides alike.
    pub same: u64,
    /// Records that are not about the policy: signatures, replays, connections.
    pub others: u64,
    /// What would change, denials first.
    pub changes: Vec<Change>,
    /// What could not be judged, and why.
    pub unjudged: Vec<(Unjudged, Count)>,
}

/// Records that the candidate decides otherwise, alike among themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What the candidate says.
    pub to: Verdict,
    /// Whose request.
    pub workload: String,
    /// The verb.
    pub verb: String,
    /// The subject.
    pub subject: String,
    /// The rule that decided then, or was nearest.
    pub rule_before: Option<String>,
    /// The rule that decides now, or is nearest.
    pub rule_now: Option<String>,
    /// Why the candidate refuses; the code of the recorded refusal where it allows.
    pub reason: Option<String>,
    /// How many.
    pub count: Count,
}

/// How many records, and one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// The id of the first.
    pub example: String,
    /// When it was decided.
    pub at: UnixMillis,
}

/// Why a record cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Unjudged {
    /// The candidate asks for a claim that the policy of then did not.
    #[error("the candidate asks for the claim `{0}`, which was not recorded")]
    Claim(String),
    /// The user's authority was narrowed, and what it was before is not recorded.
    #[error("the user was under limits, and what was taken off is not recorded")]
    Narrowed,
    /// The candidate asks from where the workload connects.
    #[error("the candidate asks from where the workload connects, which was not recorded")]
    Client,
    /// It names no subject or pattern.
    #[error("the record is damaged")]
    Record,
}

impl Unjudged {
    /// A short stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Claim(_) => "claim_not_recorded",
            Self::Narrowed => "user_narrowed",
            Self::Client => "address_not_recorded",
            Self::Record => "record_damaged",
        }
    }
}

/// What the candidate says of one record.
enum Judged {
    Said(Verdict, Option<String>, Option<String>),
    NotPolicy,
    Unknown(Unjudged),
}

impl<'p> Replay<'p> {
    /// Begins, with the policy that may come.
    #[must_use]
    pub const fn new(candidate: &'p Policy) -> Self {
        Self {
            candidate,
            same: 0,
            others: 0,
            changes: BTreeMap::new(),
            unjudged: BTreeMap::new(),
        }
    }

    /// Decides one again, which was decided at this time.
    pub fn decide(&mut self, at: UnixMillis, record: &DecisionRecord) {
        let (to, rule, reason) = match self.judge(at, record) {
            Judged::NotPolicy => {
                self.others += 1;
                return;
            }
            Judged::Unknown(why) => {
                add(&mut self.unjudged, why, at, record);
                return;
            }
            Judged::Said(to, ..) if to == record.decision => {
                self.same += 1;
                return;
            }
            Judged::Said(to, rule, reason) => (to, rule, reason),
        };
        let reason = match to {
            Verdict::Deny => reason,
            Verdict::Allow => record.reason.clone(),
        };
        let key = (
            to,
            record.rule.clone(),
            record.workload.clone(),
            record.verb.clone(),
            record.subject.clone(),
            rule.clone(),
            reason.clone(),
        );
        let change = self.changes.entry(key).or_insert_with(|| Change {
            to,
            workload: record.workload.clone(),
            verb: record.verb.clone(),
            subject: record.subject.clone(),
            rule_before: record.rule.clone(),
            rule_now: rule,
            reason,
            count: Count {
                count: 0,
                example: record.id.clone(),
                at,
            },
        });
        change.count.count += 1;
    }

    /// Says what came of it.
    #[must_use]
    pub fn finish(self) -> ReplayReport {
        let mut changes: Vec<Change> = self.changes.into_values().collect();
        // What stops working is read first.
        changes.sort_by(|a, b| b.to.cmp(&a.to).then(b.count.count.cmp(&a.count.count)));
        ReplayReport {
            same: self.same,
            others: self.others,
            changes,
            unjudged: self.unjudged.into_iter().collect(),
        }
    }

    fn judge(&self, at: UnixMillis, record: &DecisionRecord) -> Judged {
        let is_ours = matches!(&*record.enforcer, "sender" | "receiver");
        let by_policy = match (record.decision, &record.reason) {
            (Verdict::Allow, _) => true,
            (Verdict::Deny, Some(code)) => POLICY_REASONS.contains(&&**code),
            (Verdict::Deny, None) => false,
        };
        let Some(verb) = Verb::parse(&record.verb).filter(|_| is_ours && by_policy) else {
            return self.judge_connection(record);
        };
        let Ok(name) = WorkloadName::parse(&record.workload) else {
            return Judged::NotPolicy;
        };
        let workload = WorkloadId::new(self.candidate.trust_domain(), &name);
        let literal = Subject::parse(&record.subject).ok();
        let Some(subject) = literal.filter(|_| verb != Verb::Consume) else {
            return self.judge_listening(&workload, verb, &record.subject, at);
        };
        let claims = match self.claims(&workload, &subject, record) {
            Ok(claims) => claims,
            Err(why) => return Judged::Unknown(why),
        };
        let decision = self.candidate.decide(&Request {
            workload: &workload,
            verb,
            subject: &subject,
            user: claims.as_ref(),
            now: at,
        });
        match decision {
            Decision::Allow(permit) => {
                Judged::Said(Verdict::Allow, Some(permit.rule().to_owned()), None)
            }
            Decision::Deny(denial) => denied(&denial),
        }
    }

    fn judge_listening(
        &self,
        workload: &WorkloadId,
        verb: Verb,
        subject: &str,
        at: UnixMillis,
    ) -> Judged {
        let Ok(pattern) = SubjectPattern::parse(subject) else {
            return Judged::Unknown(Unjudged::Record);
        };
        match self.candidate.may_listen(workload, verb, &pattern, at) {
            Ok(rule) => Judged::Said(Verdict::Allow, Some(rule.to_owned()), None),
            Err(denial) => denied(&denial),
        }
    }

    /// Who connected, and is not in the candidate at all or not from there. What the
    /// `network` of rules gives to who connected is in no record.
    fn judge_connection(&self, record: &DecisionRecord) -> Judged {
        let connected = record.enforcer == "callout" && record.decision == Verdict::Allow;
        let name = WorkloadName::parse(&record.workload).ok();
        let Some(name) = name.filter(|_| connected) else {
            return Judged::NotPolicy;
        };
        let refused = |reason: &str| Judged::Said(Verdict::Deny, None, Some(reason.to_owned()));
        let Some(workload) = self.candidate.workload(&name) else {
            return refused("unknown_workload");
        };
        match (workload.networks(), record.client) {
            (Some(_), None) => Judged::Unknown(Unjudged::Client),
            (Some(networks), Some(client)) if !networks.contain(client) => {
                refused("network_not_allowed")
            }
            _ => Judged::Said(Verdict::Allow, None, None),
        }
    }

    /// The claims by which the candidate decides, if all that it asks for are recorded.
    fn claims(
        &self,
        workload: &WorkloadId,
        subject: &Subject,
        record: &DecisionRecord,
    ) -> Result<Option<Claims>, Unjudged> {
        let Some(user) = &record.user else {
            return Ok(None);
        };
        let asked = self.candidate.asked_claims(workload, subject);
        for claim in &asked {
            if !user.asked.iter().any(|known| known == claim) {
                return Err(Unjudged::Claim((*claim).to_owned()));
            }
        }
        if user.narrowed && !asked.is_empty() {
            return Err(Unjudged::Narrowed);
        }
        Ok(Some(Claims::from_map(user.claims.clone())))
    }
}

fn denied(denial: &Denial) -> Judged {
    Judged::Said(
        Verdict::Deny,
        denial.rule().map(str::to_owned),
        Some(denial.reason().code().to_owned()),
    )
}

fn add(
    counts: &mut BTreeMap<Unjudged, Count>,
    why: Unjudged,
    at: UnixMillis,
    record: &DecisionRecord,
) {
    let count = counts.entry(why).or_insert_with(|| Count {
        count: 0,
        example: record.id.clone(),
        at,
    });
    count.count += 1;
}

/// The refusals that a policy decides; all others are of envelopes, keys and times.
const POLICY_REASONS: [&str; 10] = [
    "unknown_workload",
    "denied_by_rule",
    "not_granted",
    "reserved_subject",
    "user_required",
    "user_forbidden",
    "condition_failed",
    "out_of_reach",
    "outside_time",
    "rule_expired",
];
