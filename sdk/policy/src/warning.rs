//! What is worth a second look in a policy that loads.

use bulla_identity::SubjectPattern;

use crate::rule::Rule;
use crate::source::Place;

/// One thing that is worth a second look; the policy loads all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    place: Place,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    WindowInQueueGroup {
        subject: String,
        rule: String,
        rule_place: Place,
    },
    AudienceUnreached {
        subject: String,
        audience: String,
    },
    ChainCannotBeProven {
        rule: String,
        workload: String,
        subject: String,
        subject_place: Place,
    },
}

impl Warning {
    pub(crate) fn audience_unreached(
        place: &Place,
        subject: &SubjectPattern,
        audience: &str,
    ) -> Self {
        Self {
            place: place.clone(),
            kind: Kind::AudienceUnreached {
                subject: subject.to_string(),
                audience: audience.to_owned(),
            },
        }
    }

    pub(crate) fn window_in_queue_group(
        place: &Place,
        subject: &SubjectPattern,
        rule: &Rule,
    ) -> Self {
        Self {
            place: place.clone(),
            kind: Kind::WindowInQueueGroup {
                subject: subject.to_string(),
                rule: rule.id.to_string(),
                rule_place: rule.place.clone(),
            },
        }
    }

    pub(crate) fn chain_cannot_be_proven(
        rule: &Rule,
        workload: &str,
        subject: &SubjectPattern,
        subject_place: &Place,
    ) -> Self {
        Self {
            place: rule.place.clone(),
            kind: Kind::ChainCannotBeProven {
                rule: rule.id.to_string(),
                workload: workload.to_owned(),
                subject: subject.to_string(),
                subject_place: subject_place.clone(),
            },
        }
    }

    /// A stable name for the kind of warning.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.kind {
            Kind::WindowInQueueGroup { .. } => "window_in_queue_group",
            Kind::AudienceUnreached { .. } => "audience_unreached",
            Kind::ChainCannotBeProven { .. } => "chain_cannot_be_proven",
        }
    }

    /// The line that it is about, counted from 1.
    #[must_use]
    pub const fn line(&self) -> u32 {
        self.place.line
    }

    /// The place that it is about.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// What deserves the look, in one sentence.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.kind {
            Kind::WindowInQueueGroup {
                subject,
                rule,
                rule_place,
            } => format!(
                "`{subject}` says replay = \"window\" and rule `{rule}` ({rule_place}) serves it: in a queue group of n replicas this alone would allow n executions"
            ),
            Kind::AudienceUnreached { subject, audience } => format!(
                "`{subject}` belongs to the audience `{audience}`, and no workload mints tokens that may reach it: no user ever gets there"
            ),
            Kind::ChainCannotBeProven {
                rule,
                workload,
                subject,
                subject_place,
            } => format!(
                "rule `{rule}` lets `{workload}` send to `{subject}` ({subject_place}), which says chain = \"proven\", and nothing that `{workload}` receives comes from a workload that mints or starts chains, or with a proven chain: it has none to show, and each of these messages is refused"
            ),
        }
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self.kind {
            Kind::WindowInQueueGroup { .. } => {
                "say replay = \"shared\", or leave it out: what is served is then claimed once for the whole group"
            }
            Kind::AudienceUnreached { .. } => {
                "add the audience to the `reach` of a workload that mints, or mend its spelling"
            }
            Kind::ChainCannotBeProven { .. } => {
                "say chain = \"proven\" for what it receives too, all the way from the workload that mints or starts them"
            }
        }
    }
}
