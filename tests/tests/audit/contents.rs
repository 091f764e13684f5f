//! What is in the log, and what never is.

use bulla_audit::{Event, WriterKind};
use bulla_policy::Verdict;
use bulla_sdk::{Message, RequestError, SendError, ServiceError};
use bulla_tests::{Bus, Minter};

use super::{POLICY, client, codes, entries, is_denial, stored, until, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_found_by_the_id_that_its_caller_got() {
    let bus = Bus::start(POLICY).await;
    let front = client(&bus, "front").await;
    let error = front.request::<_, ()>("secret.place", "x").await;
    let Err(RequestError::Send(SendError::Denied { id, .. })) = error else {
        panic!("{error:?}")
    };
    let id = id.to_string();
    let entry = until(&bus, "denial", |entry| is_denial(entry, &id)).await;
    let Event::Decision(decision) = &entry.event else {
        panic!("{entry:?}")
    };
    assert_eq!(decision.decision, Verdict::Deny);
    assert_eq!(decision.enforcer, "sender");
    assert_eq!(decision.workload, "front");
    assert_eq!(
        (&*decision.verb, &*decision.subject),
        ("request", "secret.place")
    );
    assert_eq!(decision.reason.as_deref(), Some("not_granted"));
    assert_eq!(decision.revision, 1);
    let front = bus.workload("front").tag();
    assert_eq!(entry.writer.kind(), WriterKind::Workload(front));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_credentials_policy_and_bundle_are_recorded_and_the_chains_hold() {
    let bus = Bus::start(POLICY).await;
    let back = client(&bus, "back").await;
    let service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let front = client(&bus, "front").await;
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "x");
    for (what, verb) in [("connection", "connect"), ("credential", "credential")] {
        let entry = until(&bus, what, |entry| {
            matches!(&entry.event, Event::Decision(d) if d.verb == verb && d.workload == "front")
        })
        .await;
        assert_eq!(entry.writer.kind(), WriterKind::Broker);
    }
    until(
        &bus,
        "issuance",
        |entry| matches!(&entry.event, Event::Credential(c) if c.workload == "front"),
    )
    .await;
    until(
        &bus,
        "policy",
        |e| matches!(&e.event, Event::Policy(p) if p.revision == 1),
    )
    .await;
    // The use of a grant, by the workload whose it is.
    for (workload, rule, verb, pattern) in [
        ("front", "front-asks", "request", "back.echo"),
        ("back", "back-serves", "serve", "back.>"),
    ] {
        let uses = until(&bus, "uses", |entry| {
            matches!(&entry.event, Event::Uses(uses) if uses.rules.iter().any(|used| {
                used.workload == workload
                    && used.rule == rule
                    && used.verb == verb
                    && used.pattern == pattern
                    && used.count >= 1
            }))
        })
        .await;
        assert!(matches!(uses.writer.kind(), WriterKind::Workload(_)));
    }
    // The first allow of a grant is recorded.
    until(&bus, "allow", |entry| {
        matches!(&entry.event, Event::Decision(d) if d.decision == Verdict::Allow
            && d.enforcer == "sender" && d.rule.as_deref() == Some("front-asks"))
    })
    .await;
    service.drain().await;
    front.drain().await;
    back.drain().await;
    // Both ended as they should, under a head that their own credentials signed.
    let report = verify(&bus, &stored(&bus).await, &[]);
    assert_eq!(codes(&report), [""; 0]);
    assert!(report.keys_proven);
    for name in ["front", "back"] {
        let writer = report
            .writers
            .iter()
            .find(|writer| writer.workload.as_deref() == Some(name))
            .unwrap();
        assert!(writer.stopped, "{writer:?}");
        assert_eq!(writer.head, Some(writer.last), "{writer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_23_the_audit_log_holds_no_token_key_payload_or_users_name() {
    let bus = Bus::start(POLICY).await;
    let minter = Minter::connect(&bus, "front").await;
    let token = minter.token("alice-of-the-shop", "other", &[]);
    // Denied to the courier's user: the condition asks for the scope.
    let courier = client(&bus, "courier").await;
    let sent = courier
        .message("back.echo")
        .payload("a secret payload")
        .user_token(&token)
        .request()
        .await;
    let Err(RequestError::Send(SendError::Denied { id, .. })) = sent else {
        panic!("{sent:?}")
    };
    let id = id.to_string();
    let entry = until(&bus, "denial", |entry| is_denial(entry, &id)).await;
    let Event::Decision(decision) = &entry.event else {
        panic!("{entry:?}")
    };
    let user = decision.user.as_ref().unwrap();
    assert_eq!(user.asked, ["scope"]);
    assert_eq!(user.claims["scope"], "other");
    assert_eq!(user.name, None);
    let pseudonym = bulla_audit::pseudonym(bus.policy().trust_domain(), "alice-of-the-shop");
    assert_eq!(user.pseudonym.as_deref(), Some(&*pseudonym));
    let all: String = stored(&bus)
        .await
        .iter()
        .map(|s| s.payload.clone())
        .collect();
    let signature = token.rsplit('.').next().unwrap();
    for secret in [&*token, signature, "alice-of-the-shop", "a secret payload"] {
        assert!(!all.contains(secret), "`{secret}` is in the log");
    }
    let seed = std::fs::read_to_string(bus.seed_file("courier")).unwrap();
    assert!(!all.contains(seed.trim()));
    assert!(!entries(&bus).await.is_empty());
}
