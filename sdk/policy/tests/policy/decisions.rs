//! Decisions: which rule decides, and why not.

use crate::shop::{NOW, id, parse, rule, subject};
use bulla_identity::{Claims, UnixMillis, WorkloadId};
use bulla_policy::{Decision, Policy, Protect, Reason, Request, TestOutcome, Verb};
use serde_json::{Value, json};

fn claims(value: Value) -> Claims {
    Claims::from_map(value.as_object().unwrap().clone())
}

fn decide(policy: &Policy, who: &str, verb: Verb, on: &str, user: Option<Value>) -> Decision {
    let user = user.map(claims);
    policy.decide(&Request {
        workload: &id(who),
        verb,
        subject: &subject(on),
        user: user.as_ref(),
        now: NOW,
    })
}

#[track_caller]
fn allowed(decision: Decision) -> String {
    match decision {
        Decision::Allow(permit) => permit.rule().to_owned(),
        Decision::Deny(denial) => panic!("{denial}"),
    }
}

#[track_caller]
fn denied(decision: Decision) -> bulla_policy::Denial {
    match decision {
        Decision::Allow(permit) => panic!("allowed by {}", permit.rule()),
        Decision::Deny(denial) => denial,
    }
}

#[test]
fn pol_56_a_permit_is_for_anybody_where_nothing_asks_for_a_user() {
    let subject = |more: &str| format!("[subject.\"a.b\"]\n{more}\n");
    let rules = |more: &str| {
        rule("allow", "may", &["cart"], &["request"], &["a.*"])
            + &rule("deny", "robots", &["cart"], &["publish"], &["a.b"])
            + "user = { kind = \"robot\" }\n"
            + more
    };
    let is_for_anybody = |subjects: &str, more: &str| {
        let policy = parse(&(subjects.to_owned() + &rules(more)));
        let user = Some(json!({ "sub": "alice", "reach": ["sales"] }));
        match decide(&policy, "cart", Verb::Request, "a.b", user) {
            Decision::Allow(permit) => permit.is_for_anybody(),
            Decision::Deny(denial) => panic!("{denial}"),
        }
    };
    // What is said of another verb is said of nothing here.
    assert!(is_for_anybody("", ""));
    assert!(is_for_anybody(&subject("user = \"optional\""), ""));
    assert!(!is_for_anybody(&subject("user = \"required\""), ""));
    assert!(!is_for_anybody(&subject("audience = \"sales\""), ""));
    let deny = |more: &str| {
        rule("deny", "x", &["cart"], &["request"], &["a.b"])
            + "user = { kind = \"robot\" }\n"
            + more
    };
    assert!(!is_for_anybody("", &deny("")));
    assert!(!is_for_anybody("", &deny("shadow = true\n")));
    assert!(!is_for_anybody(
        "",
        &deny("expires = 2020-01-01T00:00:00Z\n")
    ));
    // On trial.
    let (policy, candidate) = (parse(&rules("")), parse(&rules(&deny(""))));
    let ask = |policy: &Policy| decide(policy, "cart", Verb::Request, "a.b", None);
    for (beside, expected) in [(ask(&policy), true), (ask(&candidate), false)] {
        let Decision::Allow(permit) = ask(&policy).beside(&beside) else {
            panic!()
        };
        assert_eq!(permit.is_for_anybody(), expected);
    }
    let nothing = parse("");
    let Decision::Allow(permit) = ask(&policy).beside(&ask(&nothing)) else {
        panic!()
    };
    assert!(!permit.is_for_anybody());
}

const RULES: &str = r#"
[subject."orders.{tenant}.create"]
protect = "encrypted"
user = "required"

[subject."metrics.>"]
user = "none"

[[allow]]
id = "create"
who = ["checkout", "cart"]
may = ["request"]
on = ["orders.{tenant}.create"]
user = { scope = ["orders:write", "pay"], roles = { any = ["buyer", "admin"] }, tenant = "{tenant}" }

[[allow]]
id = "serve"
who = ["orders"]
may = ["serve"]
on = ["orders.>"]

[[allow]]
id = "events"
who = ["orders"]
may = ["publish"]
on = ["orders.*.created", "metrics.orders"]

[[deny]]
id = "no-robots"
who = ["checkout"]
may = ["request"]
on = ["orders.>"]
user = { kind = "robot" }

[[deny]]
id = "cart-frozen"
who = ["cart"]
may = ["request"]
on = ["orders.frozen.*"]
"#;

fn alice() -> Value {
    json!({"sub": "alice", "scope": "pay orders:write", "roles": ["buyer"], "tenant": "acme"})
}

fn with(mut claims: Value, key: &str, value: Value) -> Value {
    claims[key] = value;
    claims
}

#[test]
fn pol_50_the_rule_that_allows_is_named_and_its_requirements_come_along() {
    let policy = parse(RULES);
    let decision = decide(
        &policy,
        "checkout",
        Verb::Request,
        "orders.acme.create",
        Some(alice()),
    );
    let Decision::Allow(permit) = decision else {
        panic!("denied")
    };
    assert_eq!(permit.rule(), "create");
    assert_eq!(permit.verb(), Verb::Request);
    assert_eq!(permit.requirements().protect, Protect::Encrypted);
}

#[test]
fn pol_50_nothing_is_granted_by_default() {
    let policy = parse(RULES);
    for (who, verb, on, reason) in [
        (
            "orders",
            Verb::Subscribe,
            "orders.acme.created",
            Reason::NotGranted,
        ),
        ("orders", Verb::Publish, "orders", Reason::NotGranted),
        (
            "orders",
            Verb::Publish,
            "orders.acme.created.x",
            Reason::NotGranted,
        ),
        (
            "checkout",
            Verb::Serve,
            "orders.acme.create",
            Reason::NotGranted,
        ),
        (
            "cart",
            Verb::Publish,
            "orders.acme.create",
            Reason::NotGranted,
        ),
        ("cart", Verb::Publish, "$SYS.REQ", Reason::ReservedSubject),
        ("cart", Verb::Subscribe, "_INBOX.x", Reason::ReservedSubject),
        (
            "nobody",
            Verb::Publish,
            "orders.acme.created",
            Reason::UnknownWorkload,
        ),
    ] {
        let denial = denied(decide(&policy, who, verb, on, None));
        assert_eq!(denial.reason(), reason, "{who} {verb} {on}");
    }
    let foreign = WorkloadId::parse("spiffe://other.example/orders").unwrap();
    let decision = policy.decide(&Request {
        workload: &foreign,
        verb: Verb::Serve,
        subject: &subject("orders.acme.create"),
        user: None,
        now: UnixMillis::default(),
    });
    assert_eq!(denied(decision).reason(), Reason::UnknownWorkload);
}

#[test]
fn pol_51_a_deny_overrides_and_is_named() {
    let policy = parse(RULES);
    let ask = |who, on, user| decide(&policy, who, Verb::Request, on, Some(user));
    let denial = denied(ask(
        "cart",
        "orders.frozen.create",
        with(alice(), "tenant", json!("frozen")),
    ));
    assert_eq!(denial.reason(), Reason::DeniedByRule);
    assert_eq!(denial.rule(), Some("cart-frozen"));
    assert!(denial.rule_line().is_some());
    let denial = denied(ask(
        "checkout",
        "orders.acme.create",
        with(alice(), "kind", json!("robot")),
    ));
    assert_eq!(denial.rule(), Some("no-robots"));
    allowed(ask(
        "checkout",
        "orders.acme.create",
        with(alice(), "kind", json!("person")),
    ));
    allowed(ask("checkout", "orders.acme.create", alice()));
}

#[test]
fn pol_44_a_deny_whose_test_cannot_be_asked_applies() {
    let policy = parse(RULES);
    for odd in [json!(7), json!(["robot"]), json!(null), json!({})] {
        let user = with(alice(), "kind", odd);
        let denial = denied(decide(
            &policy,
            "checkout",
            Verb::Request,
            "orders.acme.create",
            Some(user),
        ));
        assert_eq!(denial.rule(), Some("no-robots"));
    }
}

#[test]
fn pol_42_a_missing_or_odd_claim_never_satisfies_an_allow() {
    let policy = parse(RULES);
    let without = |key: &str| {
        let mut user = alice();
        user.as_object_mut().unwrap().remove(key);
        user
    };
    for (user, claim, outcome) in [
        (without("scope"), "scope", TestOutcome::Missing),
        (
            with(alice(), "scope", json!("orders:write")),
            "scope",
            TestOutcome::Differs,
        ),
        (
            with(alice(), "scope", json!(["orders:write", "pay"])),
            "scope",
            TestOutcome::WrongType,
        ),
        (without("roles"), "roles", TestOutcome::Missing),
        (
            with(alice(), "roles", json!(["clerk"])),
            "roles",
            TestOutcome::Differs,
        ),
        (
            with(alice(), "roles", json!({"buyer": true})),
            "roles",
            TestOutcome::WrongType,
        ),
        (without("tenant"), "tenant", TestOutcome::Missing),
        (
            with(alice(), "tenant", json!("*")),
            "tenant",
            TestOutcome::Differs,
        ),
        (
            with(alice(), "tenant", json!("other")),
            "tenant",
            TestOutcome::Differs,
        ),
    ] {
        let denial = denied(decide(
            &policy,
            "checkout",
            Verb::Request,
            "orders.acme.create",
            Some(user),
        ));
        assert_eq!(denial.reason(), Reason::ConditionFailed);
        assert_eq!(denial.rule(), Some("create"));
        let failed = denial.condition().unwrap();
        assert_eq!((failed.claim(), failed.outcome()), (claim, outcome));
    }
}

#[test]
fn pol_52_user_required_and_user_none_are_enforced_for_every_verb() {
    let policy = parse(RULES);
    let denial = denied(decide(
        &policy,
        "checkout",
        Verb::Request,
        "orders.acme.create",
        None,
    ));
    assert_eq!(denial.reason(), Reason::UserRequired);
    let denial = denied(decide(
        &policy,
        "orders",
        Verb::Serve,
        "orders.acme.create",
        None,
    ));
    assert_eq!(denial.reason(), Reason::UserRequired);
    allowed(decide(
        &policy,
        "orders",
        Verb::Serve,
        "orders.acme.create",
        Some(json!({})),
    ));
    let denial = denied(decide(
        &policy,
        "orders",
        Verb::Publish,
        "metrics.orders",
        Some(alice()),
    ));
    assert_eq!(denial.reason(), Reason::UserForbidden);
    allowed(decide(
        &policy,
        "orders",
        Verb::Publish,
        "metrics.orders",
        None,
    ));
    // Optional: either way.
    allowed(decide(
        &policy,
        "orders",
        Verb::Publish,
        "orders.acme.created",
        None,
    ));
    allowed(decide(
        &policy,
        "orders",
        Verb::Publish,
        "orders.acme.created",
        Some(alice()),
    ));
}

#[test]
fn pol_53_denials_explain_themselves_without_claim_values() {
    let policy = parse(RULES);
    let user = with(alice(), "tenant", json!("hush-hush"));
    let denial = denied(decide(
        &policy,
        "checkout",
        Verb::Request,
        "orders.acme.create",
        Some(user),
    ));
    let text = denial.to_string();
    assert!(
        text.contains("`create`") && text.contains("tenant = {tenant}"),
        "{text}"
    );
    assert!(
        !text.contains("hush") && !format!("{denial:?}").contains("hush"),
        "{text}"
    );

    let text = denied(decide(
        &policy,
        "checkout",
        Verb::Publish,
        "orders.acme.create",
        None,
    ))
    .to_string();
    assert_eq!(
        text,
        "no rule lets `checkout` publish on `orders.acme.create`; the nearest is rule `create` (line 16), which grants other verbs there"
    );
}

#[test]
fn pol_54_what_may_ever_be_ignores_the_user_only() {
    let policy = parse(RULES);
    assert!(policy.may_ever(&id("checkout"), Verb::Request, &subject("orders.x.create")));
    assert!(!policy.may_ever(&id("checkout"), Verb::Publish, &subject("orders.x.create")));
    assert!(policy.may_ever(&id("cart"), Verb::Request, &subject("orders.x.create")));
    assert!(!policy.may_ever(&id("cart"), Verb::Request, &subject("orders.frozen.create")));
    let servers: Vec<_> = policy
        .servers_of(&subject("orders.x.create"))
        .map(|w| w.name().as_str())
        .collect();
    assert_eq!(servers, ["orders"]);
}

#[test]
fn recipients_are_who_may_ever_receive_what_is_sent() {
    let policy = parse(RULES);
    let recipients = |verb, on: &str| -> Vec<&str> {
        policy
            .recipients(verb, &subject(on), NOW)
            .map(|w| w.name().as_str())
            .collect()
    };
    assert_eq!(recipients(Verb::Request, "orders.x.create"), ["orders"]);
    assert!(recipients(Verb::Publish, "orders.x.create").is_empty());
    assert!(recipients(Verb::Serve, "orders.x.create").is_empty());
    let told = parse(&format!(
        "{}{}",
        rule(
            "allow",
            "told",
            &["cart", "mail", "orders"],
            &["subscribe"],
            &["news.>"]
        ),
        rule("deny", "not", &["mail"], &["subscribe"], &["news.secret"]),
    ));
    let recipients = |on: &str| -> Vec<&str> {
        told.recipients(Verb::Publish, &subject(on), NOW)
            .map(|w| w.name().as_str())
            .collect()
    };
    assert_eq!(recipients("news.a"), ["cart", "mail", "orders"]);
    assert_eq!(recipients("news.secret"), ["cart", "orders"]);
    assert!(recipients("other").is_empty());
}

#[test]
fn a_policy_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Policy>();
    shared::<Decision>();
}

const VERTICALS: &str = r#"
[subject."shop.>"]
audience = "retail"
[subject."shop.admin.>"]
audience = "back-office"

[[allow]]
id = "asks"
who = ["checkout"]
may = ["request", "publish"]
on = ["shop.>", "free.>"]
[[allow]]
id = "serves"
who = ["orders"]
may = ["serve"]
on = ["shop.>"]
"#;

#[test]
fn pol_29_a_token_is_spent_only_in_the_audiences_that_it_reaches() {
    let policy = parse(VERTICALS);
    let alice = |reach: Value| Some(json!({"sub": "alice", "reach": reach}));
    let reason = |who: &str, verb, on: &str, user| match decide(&policy, who, verb, on, user) {
        Decision::Allow(_) => None,
        Decision::Deny(denial) => Some((denial.reason(), denial.audience().map(str::to_owned))),
    };
    let beyond = |audience: &str| Some((Reason::OutOfReach, Some(audience.to_owned())));
    // Sender and server alike.
    for (who, verb) in [("checkout", Verb::Request), ("orders", Verb::Serve)] {
        let asked = |on: &str, user| reason(who, verb, on, user);
        assert_eq!(asked("shop.buy", alice(json!(["retail"]))), None);
        assert_eq!(asked("shop.buy", alice(json!(["ops", "retail"]))), None);
        for reach in [json!(["ops"]), json!([]), json!("retail"), json!(null)] {
            assert_eq!(asked("shop.buy", alice(reach)), beyond("retail"));
        }
        let without = Some(json!({"sub": "alice"}));
        assert_eq!(asked("shop.buy", without), beyond("retail"));
        // Every audience of the subject, not one of them.
        let retail = alice(json!(["retail"]));
        assert_eq!(asked("shop.admin.x", retail), beyond("back-office"));
        let both = alice(json!(["retail", "back-office"]));
        assert_eq!(asked("shop.admin.x", both), None);
        // Nothing is spent without a user.
        assert_eq!(asked("shop.buy", None), None);
    }
    let free = reason("checkout", Verb::Publish, "free.x", alice(json!([])));
    assert_eq!(free, None);
    let denial = denied(decide(
        &policy,
        "checkout",
        Verb::Request,
        "shop.buy",
        alice(json!(["ops"])),
    ));
    assert_eq!(
        denial.to_string(),
        "`shop.buy` belongs to `retail`, which this user's token does not reach"
    );
    assert_eq!(denial.rule(), Some("asks"));
}
