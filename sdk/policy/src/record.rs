//! What is kept of a decision, so that it can be explained and decided again.
//!
//! A record names who, what and why. Of a user it holds the claims that the
//! policy's rules about this workload and subject ask for, and nothing else;
//! never a token, a key or a payload.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bulla_identity::{Claims, Subject, WorkloadId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::policy::Policy;

/// The most bytes that one text of a record has; longer ones are cut.
pub const MAX_RECORDED_TEXT: usize = 1_024;

/// The most bytes that one claim may take as JSON to be recorded.
const MAX_RECORDED_CLAIM: usize = 1_024;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

impl Verdict {
    /// `allow` or `deny`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// One decision, as the audit log keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionRecord {
    /// Names the decision: the caller's error carries it.
    pub id: String,
    /// Who decided: `callout`, `gateway`, `sender`, `receiver`, `broker`, `exchange`.
    pub enforcer: String,
    /// What was enforced.
    pub decision: Verdict,
    /// What would have been enforced if rules in shadow counted, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<Verdict>,
    /// About whom: a workload's short name; empty if nobody was proven.
    pub workload: String,
    /// What it wanted to do.
    pub verb: String,
    /// With which subject; empty where there is none.
    pub subject: String,
    /// The user of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RecordedUser>,
    /// The rule that decided, or the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The stable code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The refusal for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The policy's revision; 0 where none was asked.
    #[serde(default)]
    pub revision: u64,
    /// From where the client connects, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
}

impl DecisionRecord {
    /// Cuts texts that came from outside to [`MAX_RECORDED_TEXT`] bytes.
    pub fn bound(&mut self) {
        for text in [&mut self.id, &mut self.workload, &mut self.verb] {
            cut(text);
        }
        cut(&mut self.subject);
        let may_be = [&mut self.rule, &mut self.reason, &mut self.detail];
        for text in may_be.into_iter().flatten() {
            cut(text);
        }
    }
}

/// What is kept of a user.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedUser {
    /// The name, where the configuration says that names are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What stands for the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudonym: Option<String>,
    /// The claims that were looked for. One that is asked and not in `claims` was
    /// absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// What they were.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    /// Whether a service had taken something off the user's authority: then
    /// `claims` is what was left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub narrowed: bool,
}

/// How often one grant was used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleUse {
    /// Whose grant: a workload's short name.
    pub workload: String,
    /// The rule's id.
    pub rule: String,
    /// The verb.
    pub verb: String,
    /// The rule's pattern that matched.
    pub pattern: String,
    /// How often.
    pub count: u64,
}

impl Policy {
    /// The claims that any rule about `workload` asks for on `subject`, and
    /// `reach` where the subject belongs to an audience.
    #[must_use]
    pub fn asked_claims(&self, workload: &WorkloadId, subject: &Subject) -> BTreeSet<&str> {
        let mut asked = BTreeSet::new();
        if let Some(trie) = self.index_of(workload).and_then(|w| self.rules_of(w)) {
            trie.matches(subject.as_str(), &mut |entry| {
                if let Some((rule, _)) = self.entry(*entry)
                    && let Some(condition) = &rule.user
                {
                    asked.extend(condition.tests.iter().map(|test| &*test.claim));
                }
            });
        }
        if !self.requirements(subject).audiences.is_empty() {
            asked.insert("reach");
        }
        asked
    }

    /// What is to be kept of this user, besides a name.
    #[must_use]
    pub fn record_claims(
        &self,
        workload: &WorkloadId,
        subject: &Subject,
        user: &Claims,
    ) -> RecordedUser {
        let mut recorded = RecordedUser {
            narrowed: user.is_narrowed(),
            ..RecordedUser::default()
        };
        for claim in self.asked_claims(workload, subject) {
            let value = user.get(claim);
            // Left out as if it had not been asked: then nothing is judged by it.
            if value.is_some_and(|value| value.to_string().len() > MAX_RECORDED_CLAIM) {
                continue;
            }
            recorded.asked.push(claim.to_owned());
            if let Some(value) = value {
                recorded.claims.insert(claim.to_owned(), value.clone());
            }
        }
        recorded
    }

    /// The pattern by which a rule speaks about `subject`, the first if several do.
    #[must_use]
    pub fn matching_pattern(
        &self,
        workload: &WorkloadId,
        rule: &str,
        subject: &Subject,
    ) -> Option<String> {
        let trie = self.index_of(workload).and_then(|w| self.rules_of(w))?;
        let mut first = None;
        trie.matches(subject.as_str(), &mut |entry| {
            if let Some((found, pattern)) = self.entry(*entry)
                && *found.id == *rule
                && first.is_none_or(|(place, _)| entry.pattern < place)
            {
                first = Some((entry.pattern, pattern));
            }
        });
        first.map(|(_, pattern)| pattern.to_string())
    }
}

/// Cuts a text at a character's border.
fn cut(text: &mut String) {
    let mut end = MAX_RECORDED_TEXT;
    if text.len() <= end {
        return;
    }
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use bulla_identity::WorkloadName;
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        Policy::parse(
            "test.toml",
            r#"
            version = 1
            trust_domain = "acme.example"
            [workload.web]
            attest = [{ nkey = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6" }]
            mints = true
            [subject."pay.>"]
            audience = "retail"
            [[allow]]
            id = "a"
            who = ["web"]
            may = ["request"]
            on = ["orders.{tenant}.create", "orders.>"]
            user = { scope = "orders:write", tenant = "acme" }
            [[allow]]
            id = "b"
            who = ["web"]
            may = ["request"]
            on = ["pay.charge"]
            "#,
        )
        .unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn only_claims_that_rules_ask_for_are_recorded() {
        let policy = policy();
        let name = WorkloadName::parse("web").unwrap();
        let web = policy.workload(&name).unwrap().id().clone();
        let user = Claims::from_map(
            json!({ "sub": "alice", "scope": "orders:write", "email": "a@x", "tenant": "t".repeat(2000) })
                .as_object()
                .unwrap()
                .clone(),
        );
        let on = Subject::parse("orders.acme.create").unwrap();
        let recorded = policy.record_claims(&web, &on, &user);
        assert_eq!(recorded.asked, ["scope"]);
        assert_eq!(recorded.claims.len(), 1);
        let text = serde_json::to_string(&recorded).unwrap();
        assert!(!text.contains("alice") && !text.contains("a@x"), "{text}");

        let pay = Subject::parse("pay.charge").unwrap();
        assert_eq!(policy.record_claims(&web, &pay, &user).asked, ["reach"]);
        let pattern = |subject: &str| {
            let subject = Subject::parse(subject).unwrap();
            policy.matching_pattern(&web, "a", &subject)
        };
        assert_eq!(
            pattern("orders.x.create").unwrap(),
            "orders.{tenant}.create"
        );
        assert_eq!(pattern("orders.x").unwrap(), "orders.>");
        assert_eq!(pattern("pay.charge"), None);
    }

    #[test]
    fn texts_are_cut_where_a_character_ends() {
        let mut text = "ä".repeat(1_000);
        cut(&mut text);
        assert_eq!(text.len(), 1_024);
        let mut text = format!("x{}", "ä".repeat(1_000));
        cut(&mut text);
        assert_eq!(text.len(), 1_023);
    }
}
