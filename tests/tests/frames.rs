//! Frames on a real bus: messages that travel together, and are judged and
//! delivered one by one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::HashSet;
use std::time::Duration;

use bulla_envelope::SealedEnvelope;
use bulla_sdk::{Client, Message, PublishError, SendError, Subscription};
use bulla_tests::{Bus, Forger, now};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[subject."jobs.*"]
frames = "off"
[subject."private.*"]
batch = "per-subject"

[[allow]]
id = "front-tells"
who = ["front"]
may = ["publish"]
on = ["events.*", "jobs.*", "private.*"]

[[allow]]
id = "back-listens"
who = ["back", "wiretap"]
may = ["subscribe"]
on = ["events.*", "jobs.*", "private.*"]
"#;

async fn publish_all(front: &Client, subject: &str, count: u32) {
    for n in 0..count {
        front.publish(subject, &n).await.unwrap();
    }
    front.flush().await.unwrap();
}

async fn take(events: &mut Subscription, count: u32) -> Vec<Message> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(10), events.next());
        taken.push(next.await.expect("in time").expect("a message"));
    }
    taken
}

fn numbers(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|m| m.decode().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_travel_together_and_arrive_one_by_one_in_order() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut tap = bus.tap("events.*").await;
    let mut events = back.subscribe("events.*").await.unwrap();
    publish_all(&front, "events.a", 1_000).await;
    let messages = take(&mut events, 1_000).await;
    assert_eq!(numbers(&messages), (0..1_000).collect::<Vec<_>>());
    let ids: HashSet<_> = messages.iter().map(Message::id).collect();
    assert_eq!(ids.len(), 1_000, "each has its own id");
    assert!(back.stats().refused().is_empty(), "{:?}", back.stats());
    assert_eq!(back.stats().delivered(), 1_000);
    assert_eq!(front.stats().sent(), 1_000);
    assert_eq!(front.stats().frames_sent(), back.stats().frames_received());

    let (mut on_the_wire, mut messages) = (0, 0);
    while messages < 1_000 {
        let raw = tap.next().await.unwrap();
        let sealed = SealedEnvelope::decode(raw.payload).unwrap();
        messages += sealed.messages_unverified();
        on_the_wire += 1;
    }
    assert!(on_the_wire * 4 < messages, "{on_the_wire} for {messages}");
}

/// A subscriber that is interrupted again and again misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_next_loses_nothing() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut events = back.subscribe("events.a").await.unwrap();
    let publisher = tokio::spawn(async move { publish_all(&front, "events.a", 2_000).await });
    let mut seen = Vec::new();
    while seen.len() < 2_000 {
        // Polled once, and dropped.
        match events.next().now_or_never() {
            Some(message) => seen.push(message.unwrap().decode::<u32>().unwrap()),
            None => tokio::task::yield_now().await,
        }
    }
    publisher.await.unwrap();
    assert_eq!(seen, (0..2_000).collect::<Vec<_>>());
}

/// Without `Current` keeping its place, the second message of a frame would be
/// given twice or the third not at all.
///
/// [ENV-36]
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_message_of_a_frame_spoils_none_of_its_neighbours() {
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let forger = Forger::genuine(&bus, "front").await;
    let twin = forger.twin();
    let raw = bus.raw_client("front").await;
    let mut events = back.subscribe("events.a").await.unwrap();
    // Takes the sequence numbers 0 and 1.
    let first = forger.frame("events.a", now(), &[&[10], &[11]]);
    raw.publish("events.a", first.clone()).await.unwrap();
    assert_eq!(numbers(&take(&mut events, 2).await), [10, 11]);

    // The same again: both are replays.
    raw.publish("events.a", first).await.unwrap();
    // 0 to 3: the first two are taken, by other messages.
    let overlapping = twin.frame("events.a", now(), &[&[20], &[21], &[22], &[23]]);
    raw.publish("events.a", overlapping.clone()).await.unwrap();
    assert_eq!(numbers(&take(&mut events, 2).await), [22, 23]);
    assert_eq!(back.stats().refused_for("replayed"), 2);
    assert_eq!(back.stats().refused_for("cloned_key"), 2);

    // A frame with one bit changed is refused in whole, as one.
    let mut broken = forger.frame("events.a", now(), &[&[30], &[31]]).to_vec();
    let place = broken.len() / 2;
    broken[place] ^= 1;
    raw.publish("events.a", Bytes::from(broken)).await.unwrap();
    let good = forger.frame("events.a", now(), &[&[40], &[41]]);
    raw.publish("events.a", good).await.unwrap();
    assert_eq!(numbers(&take(&mut events, 2).await), [40, 41]);
    let refused: u64 = back.stats().refused().values().sum();
    assert_eq!(refused, 5, "{:?}", back.stats());
}

/// A frame that is too old is refused, and each of its messages is counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_frame_carries_is_counted_message_by_message() {
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let forger = Forger::genuine(&bus, "front").await;
    let raw = bus.raw_client("front").await;
    let mut events = back.subscribe("events.a").await.unwrap();
    let old = now().saturating_sub(Duration::from_secs(25));
    let stale = forger.frame("events.a", old, &[&[1], &[2], &[3]]);
    raw.publish("events.a", stale).await.unwrap();
    let good = forger.frame("events.a", now(), &[&[4]]);
    raw.publish("events.a", good).await.unwrap();
    assert_eq!(numbers(&take(&mut events, 1).await), [4]);
    let refused: u64 = back.stats().refused().values().sum();
    assert_eq!(refused, 3, "{:?}", back.stats());
}

/// What of a frame is not given yet is judged by the policy that is in force
/// when it is asked for; and nothing that sender or receiver remember of a
/// subject outlives the policy that it came from.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_holds_in_the_middle_of_a_frame() {
    let mut bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let forger = Forger::genuine(&bus, "front").await;
    let raw = bus.raw_client("front").await;
    let mut events = back.subscribe("events.*").await.unwrap();
    // Both sides have used the subject.
    front.publish("events.a", &0u32).await.unwrap();
    front.flush().await.unwrap();
    assert_eq!(numbers(&take(&mut events, 1).await), [0]);
    let frame = forger.frame("events.a", now(), &[&[1], &[2], &[3]]);
    raw.publish("events.a", frame).await.unwrap();
    assert_eq!(numbers(&take(&mut events, 1).await), [1]);

    // The receiver may still listen, the sender may not speak there any more.
    let narrower = POLICY.replacen("on = [\"events.*\"", "on = [\"events.b\"", 1);
    let revision = back.policy().revision();
    // A broker would end the connections of who loses a right before what they say comes.
    bus.kill_broker(bus.broker(0)).await;
    bus.publish_policy(&narrower).await;
    for client in [&front, &back] {
        while client.policy().revision() == revision {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let error = front.publish("events.a", &4u32).await.unwrap_err();
    assert!(
        matches!(error, PublishError::Send(SendError::Denied { .. })),
        "{error}"
    );
    // A process that does not look at the policy is refused by the receiver.
    let another = forger.frame("events.a", now(), &[&[5]]);
    raw.publish("events.a", another).await.unwrap();
    let allowed = forger.frame("events.b", now(), &[&[6]]);
    raw.publish("events.b", allowed).await.unwrap();
    assert_eq!(numbers(&take(&mut events, 1).await), [6]);
    assert_eq!(back.stats().refused_for("not_granted"), 3);
}

/// Where single messages are to be spread, none shares an envelope.
#[tokio::test(flavor = "multi_thread")]
async fn frames_off_spreads_single_messages_over_a_queue_group() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let (one, two) = (bus.client("back").await, bus.client("back").await);
    let mut tap = bus.tap("jobs.*").await;
    let mut left = one.queue_subscribe("jobs.a").await.unwrap();
    let mut right = two.queue_subscribe("jobs.a").await.unwrap();
    publish_all(&front, "jobs.a", 500).await;
    let mut seen = Vec::new();
    while seen.len() < 500 {
        let message = tokio::select! {
            message = left.next() => message,
            message = right.next() => message,
        };
        seen.push(message.unwrap().decode::<u32>().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    for client in [&one, &two] {
        assert!(client.stats().delivered() > 50, "{:?}", client.stats());
    }
    assert_eq!(front.stats().frames_sent(), 0);
    let mut signatures = HashSet::new();
    for _ in 0..500 {
        let raw = tap.next().await.unwrap();
        signatures.insert(raw.payload.slice(raw.payload.len() - 64..));
        let sealed = SealedEnvelope::decode(raw.payload).unwrap();
        assert_eq!(sealed.messages_unverified(), 1);
    }
    assert!(signatures.len() < 250, "they share signatures nevertheless");
}

/// A reader of one private subject does not learn from a proof how much is said
/// on others.
#[tokio::test(flavor = "multi_thread")]
async fn private_subjects_share_no_signature() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let mut tap = bus.tap("private.*").await;
    for n in 0..200u32 {
        let subject = format!("private.{}", n / 3 % 3);
        front.publish(&subject, &n).await.unwrap();
    }
    front.flush().await.unwrap();
    let mut signed = HashSet::new();
    let mut messages = 0;
    while messages < 200 {
        let raw = tap.next().await.unwrap();
        let signature = raw.payload.slice(raw.payload.len() - 64..);
        signed.insert((signature, raw.subject.to_string()));
        messages += SealedEnvelope::decode(raw.payload)
            .unwrap()
            .messages_unverified();
    }
    let signatures: HashSet<_> = signed.iter().map(|(signature, _)| signature).collect();
    assert_eq!(signatures.len(), signed.len());
}
