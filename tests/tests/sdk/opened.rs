//! Open subjects: plain and sealed side by side, for who moves.

use std::time::Duration;

use bulla_sdk::{OpenMessage, PublishError, SendError};
use bulla_tests::{Bus, Forger, now};
use tokio::time::timeout;

use super::{POLICY, eventually};

fn open() -> String {
    let subject = "[subject.\"events.old.>\"]\nprotect = \"open\"\n\n[[allow]]";
    POLICY.replacen("[[allow]]", subject, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_open_subject_plain_messages_come_and_say_that_they_are() {
    let bus = Bus::start(&open()).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut events = back.subscribe_open("events.*.done").await.unwrap();
    // Who has not moved yet, with a NATS client; who has, plain and sealed.
    let raw = bus.raw_client("front").await;
    raw.publish("events.old.done", "1".into()).await.unwrap();
    raw.flush().await.unwrap();
    let next = async |events: &mut bulla_sdk::OpenSubscription| {
        let next = timeout(Duration::from_secs(5), events.next()).await;
        next.expect("an event").expect("a subscription")
    };
    let OpenMessage::Plain(plain) = next(&mut events).await else {
        panic!("it is not sealed")
    };
    assert_eq!(plain.danger_payload(), "1");
    assert_eq!(plain.may_be_from(), [bus.workload("front")]);
    let message = front.message("events.old.done").json(&2);
    message.publish_plain().await.unwrap();
    assert_eq!(next(&mut events).await.payload(), "2");
    let shared = front.danger_nats().expect("a real bus");
    shared.publish("events.old.done", "3".into()).await.unwrap();
    assert_eq!(next(&mut events).await.payload(), "3");
    front.publish("events.old.done", &4).await.unwrap();
    let message = next(&mut events).await;
    let sealed = message.sealed().expect("a sealed message");
    assert_eq!(sealed.sender().workload(), front.workload());
    assert_eq!(back.stats().plain(), 3);

    // Elsewhere nothing plain counts, for senders and for receivers.
    raw.publish("events.new.done", "5".into()).await.unwrap();
    raw.flush().await.unwrap();
    let nothing = async |events: &mut bulla_sdk::OpenSubscription| {
        let next = timeout(Duration::from_millis(500), events.next()).await;
        assert!(next.is_err(), "{next:?}");
    };
    nothing(&mut events).await;
    assert_eq!(back.stats().refused_for("not_sealed"), 1);
    let error = front
        .message("events.new.done")
        .json(&6)
        .publish_plain()
        .await;
    let Err(PublishError::Send(SendError::NotOpen { .. })) = error else {
        panic!("{error:?}")
    };
    let error = front.message("back.echo").json(&6).publish_plain().await;
    assert!(error.is_err());
    // And from the revision on that closes the door, nothing there either.
    bus.publish_policy(POLICY).await;
    eventually(|| {
        let policy = back.policy();
        let subject = bulla_sdk::Subject::parse("events.old.done").unwrap();
        policy.policy().requirements(&subject).protect == bulla_policy::Protect::Signed
    })
    .await;
    raw.publish("events.old.done", "7".into()).await.unwrap();
    raw.flush().await.unwrap();
    nothing(&mut events).await;
    assert_eq!(back.stats().refused_for("not_sealed"), 2);
}

/// What is sealed and wrong does not become plain.
#[tokio::test(flavor = "multi_thread")]
async fn attack_06_a_bad_seal_is_not_taken_for_a_plain_message() {
    let bus = Bus::start(&open()).await;
    let back = bus.client("back").await;
    let mut events = back.subscribe_open("events.old.done").await.unwrap();
    let raw = bus.raw_client("front").await;
    let forged = Forger::self_made(&bus, "front").event("events.old.done", now(), b"\xa1x");
    let genuine = Forger::genuine(&bus, "front").await;
    let moved = genuine.event("events.new.done", now(), b"\xa1x");
    for bytes in [forged, moved] {
        raw.publish("events.old.done", bytes).await.unwrap();
    }
    raw.publish("events.old.done", "plain".into())
        .await
        .unwrap();
    let message = timeout(Duration::from_secs(5), events.next()).await;
    assert_eq!(message.unwrap().unwrap().payload(), "plain");
    assert_eq!(back.stats().refused_for("unknown_key"), 1);
    assert_eq!(back.stats().refused_for("wrong_subject"), 1);
    assert_eq!(back.stats().plain(), 1);
}
