//! Which entries are wanted.

use bulla_audit::{Entry, Event, pseudonym};
use bulla_identity::{Subject, SubjectPattern, TrustDomain, UnixMillis};
use bulla_policy::Verdict;

use crate::cli::operator::time;

/// Every condition that is named must hold.
#[derive(clap::Args, Debug, Default)]
#[command(next_help_heading = "Which entries")]
pub(super) struct Filter {
    /// About this workload
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// Allowed or denied
    #[arg(long, value_enum)]
    decision: Option<Said>,
    /// Decided by this rule, or nearest to it
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// On subjects of this pattern; quote it for the shell
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    subject: Option<SubjectPattern>,
    /// With this verb: publish, request, connect, credential, …
    #[arg(long, value_name = "VERB")]
    verb: Option<String>,
    /// Refused for this reason, by its code
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    /// By this enforcer: callout, gateway, sender, receiver, broker, exchange
    #[arg(long, value_name = "NAME")]
    enforcer: Option<String>,
    /// For this user, by name; where only pseudonyms are kept, it is made one
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Of this kind: decision, gap, uses, credential, policy, …; may be given again
    #[arg(long, value_name = "KIND")]
    event: Vec<String>,
    /// Since then: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) since: Option<UnixMillis>,
    /// Until then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<UnixMillis>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Said {
    Allow,
    Deny,
}

fn pattern(text: &str) -> Result<SubjectPattern, String> {
    SubjectPattern::parse(text).map_err(|error| error.to_string())
}

impl Filter {
    /// Whether an entry is wanted.
    pub(super) fn lets_through(&self, entry: &Entry, domain: &TrustDomain) -> bool {
        let is_in_time = self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at <= until);
        let is_kind = if self.event.is_empty() {
            // What only holds the chain together is seen by who asks for it.
            !matches!(entry.event, Event::Head(_) | Event::Key(_))
        } else {
            self.event.iter().any(|kind| kind == entry.event.name())
        };
        is_in_time && is_kind && self.is_about(&entry.event, domain)
    }

    fn is_about(&self, event: &Event, domain: &TrustDomain) -> bool {
        let Event::Decision(decision) = event else {
            return self.decision.is_none()
                && self.subject.is_none()
                && self.verb.is_none()
                && self.reason.is_none()
                && self.enforcer.is_none()
                && self.is_other_about(event, domain);
        };
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        let verdict = self.decision.is_none_or(|said| match said {
            Said::Allow => decision.decision == Verdict::Allow,
            Said::Deny => decision.decision == Verdict::Deny,
        });
        let subject = self.subject.as_ref().is_none_or(|pattern| {
            Subject::parse(&decision.subject).is_ok_and(|subject| pattern.matches(&subject))
        });
        let user = self.user.as_ref().is_none_or(|name| {
            decision.user.as_ref().is_some_and(|user| {
                user.name.as_ref() == Some(name)
                    || user.pseudonym.as_deref() == Some(&pseudonym(domain, name))
            })
        });
        verdict
            && subject
            && user
            && same(&self.workload, &decision.workload)
            && same(&self.verb, &decision.verb)
            && same(&self.enforcer, &decision.enforcer)
            && same(&self.rule, decision.rule.as_deref().unwrap_or_default())
            && same(&self.reason, decision.reason.as_deref().unwrap_or_default())
    }

    /// What is no decision may still be about a workload, a rule or a user.
    fn is_other_about(&self, event: &Event, domain: &TrustDomain) -> bool {
        let is = |workload: &str| self.workload.as_deref().is_none_or(|w| w == workload);
        let no_rule = self.rule.is_none();
        let no_user = self.user.is_none();
        match event {
            Event::Uses(uses) => {
                no_user
                    && uses.rules.iter().any(|used| {
                        is(&used.workload)
                            && self.rule.as_ref().is_none_or(|rule| *rule == used.rule)
                    })
            }
            Event::Start(start) => no_rule && no_user && is(&start.workload),
            Event::Credential(issued) => no_rule && no_user && is(&issued.workload),
            Event::ConnectionEnded(ended) => no_rule && no_user && is(&ended.workload),
            Event::OverQuota(over) => no_rule && no_user && is(&over.workload),
            Event::Token(token) => {
                no_rule
                    && is(&token.workload)
                    && self
                        .user
                        .as_ref()
                        .is_none_or(|name| token.user == pseudonym(domain, name))
            }
            _ => no_rule && no_user && self.workload.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bulla_audit::{Chain, Writer};
    use bulla_policy::{DecisionRecord, RecordedUser};
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        filter: Filter,
    }

    fn lets(words: &[&str]) -> bool {
        let words = std::iter::once("test").chain(words.iter().copied());
        let filter = Args::try_parse_from(words).unwrap().filter;
        let domain = TrustDomain::parse("acme.example").unwrap();
        let event = Event::Decision(Box::new(DecisionRecord {
            id: "00".to_owned(),
            enforcer: "receiver".to_owned(),
            decision: Verdict::Deny,
            would: None,
            workload: "orders".to_owned(),
            verb: "publish".to_owned(),
            subject: "orders.acme.created".to_owned(),
            user: Some(RecordedUser {
                pseudonym: Some(pseudonym(&domain, "alice")),
                ..RecordedUser::default()
            }),
            rule: Some("r".to_owned()),
            reason: Some("not_granted".to_owned()),
            detail: None,
            revision: 1,
            client: None,
        }));
        let mut chain = Chain::new(Writer::broker([0; 8]));
        let at = UnixMillis::from_secs(1_700_000_000);
        let line = chain.append(at, &event).unwrap();
        filter.lets_through(&Entry::decode(line.as_bytes()).unwrap(), &domain)
    }

    #[test]
    fn every_condition_must_hold() {
        assert!(lets(&[]));
        for (word, good, bad) in [
            ("--workload", "orders", "billing"),
            ("--decision", "deny", "allow"),
            ("--rule", "r", "s"),
            ("--subject", "orders.*.created", "orders.*"),
            ("--verb", "publish", "serve"),
            ("--reason", "not_granted", "x"),
            ("--enforcer", "receiver", "sender"),
            ("--user", "alice", "bob"),
            ("--event", "decision", "gap"),
            ("--since", "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
            ("--until", "2024-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ] {
            assert!(lets(&[word, good]), "{word} {good}");
            assert!(!lets(&[word, bad]), "{word} {bad}");
        }
    }
}
