//! Recorded decisions against another policy, and grants against their use.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use bulla_identity::{Claims, Nkey, NkeyKind, Subject, UnixMillis, WorkloadName};
use bulla_policy::{
    Decision, DecisionRecord, Policy, RecordedUser, Request, RuleUse, Verb, Verdict,
};
use bulla_policy_tools::{Advisor, Replay, ReplayReport, Unjudged};
use serde_json::json;

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

fn policy(rules: &str) -> Policy {
    let nkey = |n| Nkey::from_bytes(NkeyKind::User, [n; 32]);
    let text = format!(
        "version = 1\ntrust_domain = \"acme.example\"\n\
         [workload.web]\nattest = [{{ nkey = \"{}\" }}]\n\
         [workload.orders]\nattest = [{{ nkey = \"{}\" }}]\n{rules}",
        nkey(1),
        nkey(2)
    );
    Policy::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn allow(id: &str, who: &str, may: &str, on: &str, user: &str) -> String {
    format!(
        "[[allow]]\nid = \"{id}\"\nwho = [\"{who}\"]\nmay = [\"{may}\"]\non = [\"{on}\"]\n{user}\n"
    )
}

/// What an enforcer records of a decision by `by`.
fn record(by: &Policy, verb: Verb, subject: &str, user: Option<&Claims>) -> DecisionRecord {
    let name = WorkloadName::parse("web").unwrap();
    let workload = by.workload(&name).unwrap().id().clone();
    let on = Subject::parse(subject).unwrap();
    let decision = by.decide(&Request {
        workload: &workload,
        verb,
        subject: &on,
        user,
        now: NOW,
    });
    let (verdict, rule, reason) = match &decision {
        Decision::Allow(permit) => (Verdict::Allow, Some(permit.rule().to_owned()), None),
        Decision::Deny(denial) => (
            Verdict::Deny,
            denial.rule().map(str::to_owned),
            Some(denial.reason().code().to_owned()),
        ),
    };
    DecisionRecord {
        id: format!("{subject}-id"),
        enforcer: "sender".to_owned(),
        decision: verdict,
        would: None,
        workload: "web".to_owned(),
        verb: verb.as_str().to_owned(),
        subject: subject.to_owned(),
        user: user.map(|user| by.record_claims(&workload, &on, user)),
        rule,
        reason,
        detail: None,
        revision: 1,
        client: None,
    }
}

fn replay(candidate: &Policy, records: &[DecisionRecord]) -> ReplayReport {
    let mut replay = Replay::new(candidate);
    for record in records {
        replay.decide(NOW, record);
    }
    replay.finish()
}

fn user(claims: serde_json::Value) -> Claims {
    Claims::from_map(claims.as_object().unwrap().clone())
}

#[test]
fn pol_170_what_would_change_is_listed_and_what_would_not_is_counted() {
    let before = policy(&[allow("a", "web", "request", "orders.*", "")].concat());
    let after = policy(
        &[
            allow("b", "web", "request", "orders.create", ""),
            allow("c", "web", "request", "pay.charge", ""),
        ]
        .concat(),
    );
    let records = [
        record(&before, Verb::Request, "orders.create", None),
        record(&before, Verb::Request, "orders.get", None),
        record(&before, Verb::Request, "orders.get", None),
        record(&before, Verb::Request, "pay.charge", None),
        record(&before, Verb::Request, "other", None),
    ];
    let report = replay(&after, &records);
    assert_eq!((report.same, report.others), (2, 0));
    let [lost, gained] = &report.changes[..] else {
        panic!("{report:?}")
    };
    assert_eq!((lost.to, &*lost.subject), (Verdict::Deny, "orders.get"));
    assert_eq!(
        (lost.count.count, &*lost.count.example),
        (2, "orders.get-id")
    );
    assert_eq!(lost.rule_before.as_deref(), Some("a"));
    assert_eq!(lost.reason.as_deref(), Some("not_granted"));
    assert_eq!(
        (gained.to, &*gained.subject),
        (Verdict::Allow, "pay.charge")
    );
    assert_eq!(gained.rule_now.as_deref(), Some("c"));
    // Nothing changes for its own records.
    assert!(replay(&before, &records).changes.is_empty());
}

#[test]
fn pol_172_conditions_are_decided_by_the_recorded_claims() {
    let rule = |scope| {
        let user = format!("user = {{ scope = \"{scope}\" }}");
        allow("a", "web", "request", "orders.create", &user)
    };
    let before = policy(&rule("orders:write"));
    let alice = user(json!({ "sub": "alice", "scope": "orders:write", "tenant": "acme" }));
    let records = [record(
        &before,
        Verb::Request,
        "orders.create",
        Some(&alice),
    )];
    let report = replay(&policy(&rule("orders:admin")), &records);
    assert_eq!(report.changes.len(), 1);
    assert_eq!(
        report.changes[0].reason.as_deref(),
        Some("condition_failed")
    );
    assert_eq!(replay(&policy(&rule("orders:write")), &records).same, 1);
}

#[test]
fn pol_173_what_was_not_recorded_is_not_guessed() {
    let before = policy(&allow("a", "web", "request", "orders.create", ""));
    let after = allow(
        "a",
        "web",
        "request",
        "orders.create",
        "user = { tenant = \"acme\" }",
    );
    let alice = user(json!({ "sub": "alice", "tenant": "acme" }));
    let known = record(&before, Verb::Request, "orders.create", Some(&alice));
    let nobody = record(&before, Verb::Request, "orders.create", None);
    let report = replay(&policy(&after), &[known.clone(), nobody]);
    assert_eq!(report.changes.len(), 1, "without a user it is plain");
    assert_eq!(report.unjudged.len(), 1);
    assert_eq!(report.unjudged[0].0, Unjudged::Claim("tenant".to_owned()));
    assert_eq!(report.unjudged[0].1.example, "orders.create-id");
    let narrowed = DecisionRecord {
        user: Some(RecordedUser {
            asked: vec!["tenant".to_owned()],
            narrowed: true,
            ..RecordedUser::default()
        }),
        ..known
    };
    let report = replay(&policy(&after), &[narrowed]);
    assert_eq!(report.unjudged[0].0, Unjudged::Narrowed);
}

#[test]
fn pol_171_what_the_policy_does_not_decide_is_left_alone() {
    let before = policy(&allow("a", "web", "request", "orders.create", ""));
    let good = record(&before, Verb::Request, "orders.create", None);
    let replayed = DecisionRecord {
        decision: Verdict::Deny,
        reason: Some("replayed".to_owned()),
        ..good.clone()
    };
    let route = DecisionRecord {
        enforcer: "gateway".to_owned(),
        ..good.clone()
    };
    let report = replay(&before, &[replayed, route]);
    assert_eq!((report.same, report.others), (0, 2));
    let connected = |workload: &str| DecisionRecord {
        enforcer: "callout".to_owned(),
        workload: workload.to_owned(),
        verb: "connect".to_owned(),
        subject: String::new(),
        ..good.clone()
    };
    let report = replay(&before, &[connected("web"), connected("gone")]);
    assert_eq!(report.same, 1);
    assert_eq!(report.changes[0].workload, "gone");
    // The candidate wants it to connect from somewhere.
    let from = |address: &str| DecisionRecord {
        client: address.parse().ok(),
        ..connected("web")
    };
    let placed = placed_at("network = [\"10.0.0.0/8\"]");
    let report = replay(&placed, &[from("10.1.2.3"), from("11.1.2.3"), from("")]);
    assert_eq!(report.same, 1);
    assert_eq!(
        report.changes[0].reason.as_deref(),
        Some("network_not_allowed")
    );
    assert_eq!(report.unjudged[0].0, Unjudged::Client);
}

/// `web` may connect only as this says.
fn placed_at(line: &str) -> Policy {
    let nkey = Nkey::from_bytes(NkeyKind::User, [1; 32]);
    let text = format!(
        "version = 1\ntrust_domain = \"acme.example\"\n\
         [workload.web]\nattest = [{{ nkey = \"{nkey}\" }}]\n{line}\n"
    );
    Policy::parse("p.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn pol_175_a_grant_is_unused_if_its_workload_reported_and_did_not_name_it() {
    let policy = policy(
        &[
            allow("a", "web", "request", "orders.*", ""),
            allow("b", "web", "publish", "news.x", ""),
            allow("c", "orders", "serve", "orders.*", ""),
        ]
        .concat(),
    );
    let used = RuleUse {
        workload: "web".to_owned(),
        rule: "a".to_owned(),
        verb: "request".to_owned(),
        pattern: "orders.*".to_owned(),
        count: 3,
    };
    let mut advisor = Advisor::default();
    advisor.uses("web", NOW, std::slice::from_ref(&used), 0);
    let later = NOW.saturating_add(std::time::Duration::from_secs(60));
    advisor.uses("web", later, &[used], 0);
    let advice = advisor.advise(&policy);
    assert_eq!(advice.used, 1);
    let [unused] = &advice.unused[..] else {
        panic!("{advice:?}")
    };
    assert_eq!((&*unused.rule, &*unused.pattern), ("b", "news.x"));
    assert!(unused.whole_rule);
    assert_eq!(advice.silent, ["orders"]);
    let known = advisor.use_of("web", "a", "request", "orders.*").unwrap();
    assert_eq!((known.count, known.last), (6, later));
    // One that was there and used nothing.
    advisor.heard("orders", NOW);
    let advice = advisor.advise(&policy);
    assert!(advice.silent.is_empty());
    assert_eq!(advice.unused.len(), 2);
}
