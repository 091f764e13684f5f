//! Batch signatures on a real bus: many tasks, one signature for many
//! messages, and nothing lost, doubled or out of order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bulla_sdk::{Client, Message, ServiceError};
use bulla_tests::{Bus, Dissected, Forger, now};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Barrier;

const TASKS: usize = 64;
const EACH: u32 = 100;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[[allow]]
id = "front-tells"
who = ["front"]
may = ["publish"]
on = ["events.*"]

[[allow]]
id = "back-listens"
who = ["back", "wiretap"]
may = ["subscribe"]
on = ["events.*"]

[[allow]]
id = "front-asks"
who = ["front"]
may = ["request"]
on = ["echo"]

[[allow]]
id = "back-serves"
who = ["back"]
may = ["serve"]
on = ["echo"]

[[allow]]
id = "wiretap-overhears"
who = ["wiretap"]
may = ["subscribe"]
on = ["echo"]
"#;

/// Every fourth publisher is dropped in the middle of what it does: what it
/// sent until then is a beginning of its sequence, and nobody else loses any.
#[tokio::test(flavor = "multi_thread")]
async fn many_publishers_each_in_order_and_some_are_dropped() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut tap = bus.tap("events.*").await;
    let mut events = back.subscribe("events.*").await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let front = front.clone();
            tokio::spawn(async move { publish_all(&front, task).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(5)).await;
    for task in tasks.iter().step_by(4) {
        task.abort();
    }
    let mut whole = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        match task.await {
            Ok(()) => whole.push(n),
            Err(error) => assert!(error.is_cancelled() && n % 4 == 0, "{error}"),
        }
    }
    front.flush().await.unwrap();
    // The last of all, so that it is known when the others have come.
    front.publish("events.end", &0u32).await.unwrap();
    front.flush().await.unwrap();

    let mut seen: HashMap<String, Vec<u32>> = HashMap::new();
    loop {
        let message = events.next().await.unwrap();
        if message.subject().as_str() == "events.end" {
            break;
        }
        let subject = message.subject().as_str().to_owned();
        seen.entry(subject)
            .or_default()
            .push(message.decode().unwrap());
    }
    for task in 0..TASKS {
        let got = seen.remove(&format!("events.{task}")).unwrap_or_default();
        let beginning: Vec<u32> = (0..u32::try_from(got.len()).unwrap()).collect();
        assert_eq!(got, beginning, "task {task}: once, in order");
        if whole.contains(&task) {
            assert_eq!(got.len(), EACH as usize, "task {task}");
        }
    }
    assert!(back.stats().refused().is_empty(), "{:?}", back.stats());
    // On the wire far fewer signatures than messages.
    let mut messages = Vec::new();
    loop {
        let raw = tap.next().await.unwrap();
        if raw.subject.as_str() == "events.end" {
            break;
        }
        messages.push(raw);
    }
    let signatures = signatures(&messages);
    assert!(
        signatures * 4 < messages.len(),
        "{signatures} of {}",
        messages.len()
    );
}

/// How many there are: the last bytes of each envelope.
fn signatures(envelopes: &[async_nats::Message]) -> usize {
    let all = envelopes.iter().map(|raw| &raw.payload);
    let distinct: HashSet<_> = all.map(|bytes| bytes.slice(bytes.len() - 64..)).collect();
    distinct.len()
}

/// What comes together is hashed together and judged apart: whoever is beside it, what
/// was signed arrives, once and in order, and nothing else does. Of larger messages more
/// than one are taken ahead.
#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_judged_apart() {
    for padding in [0, 1_200] {
        Box::pin(judged_apart(padding)).await;
    }
}

async fn judged_apart(padding: usize) {
    type Body = (u32, Vec<u8>);
    const SUBJECT: &str = "events.mixed";
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let mut events = back.subscribe(SUBJECT).await.unwrap();
    // Two processes of one workload, each under a key of its own.
    let processes = [
        Forger::genuine(&bus, "front").await,
        Forger::genuine(&bus, "front").await,
    ];
    let raw = bus.raw_client("front").await;
    let send = async |bytes: Bytes| raw.publish(SUBJECT, bytes).await.unwrap();
    let event = |process: usize, n: u32| {
        let body = rmp_serde::to_vec(&(n, vec![1u8; padding])).unwrap();
        processes[process].event(SUBJECT, now(), &body)
    };
    // Both are known before, so that nothing has to be looked up.
    for process in [0, 1] {
        send(event(process, 0)).await;
        let (n, _) = events.next().await.unwrap().decode::<Body>().unwrap();
        assert_eq!(n, 0);
    }
    // By each process or bent or nonsense, beside each of these.
    let (mut sound, mut bent, mut nonsense) = (Vec::new(), 0, 0);
    for n in 0..400u32 {
        let what = (n / 4 + n * n) % 5;
        let envelope = event(usize::from(what % 2 == 1), n);
        match what {
            0..=2 => {
                sound.push(n);
                send(envelope).await;
            }
            3 => {
                bent += 1;
                let mut parts = Dissected::of(&envelope);
                parts.body[0] ^= 1;
                send(parts.assemble()).await;
            }
            _ => {
                nonsense += 1;
                send(envelope.slice(..envelope.len() - 1)).await;
            }
        }
    }
    sound.push(u32::MAX);
    send(event(0, u32::MAX)).await;
    raw.flush().await.unwrap();
    // All of it is there before the first is asked for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for expected in sound {
        let (n, _) = events.next().await.unwrap().decode::<Body>().unwrap();
        assert_eq!(n, expected, "of {padding} bytes and more");
    }
    let stats = back.stats();
    assert_eq!(stats.refused_for("bad_signature"), bent);
    let refused: u64 = stats.refused().values().sum();
    assert_eq!(refused, bent + nonsense, "{:?}", stats.refused());
}

/// Many callers ask at once, and the service answers them when all of them are there.
/// Whoever seals alone spends most of the time on signatures.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_share_signatures_and_so_do_their_answers() {
    const ROUNDS: usize = 5;
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut requests = bus.tap("echo").await;
    // Another connection of the caller's sees what comes to its inbox.
    let raw = bus.raw_client("front").await;
    let inbox = bulla_identity::reserved::inbox_peers(bus.workload("front").tag());
    let mut answers = raw.subscribe(format!("{inbox}.>")).await.unwrap();
    raw.flush().await.unwrap();
    let all_are_here = Arc::new(Barrier::new(TASKS));
    let service = back
        .serve("echo", move |m: Message<u32>| {
            let all_are_here = Arc::clone(&all_are_here);
            async move {
                all_are_here.wait().await;
                Ok::<_, ServiceError>(m.into_payload())
            }
        })
        .await
        .unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let front = front.clone();
            tokio::spawn(async move {
                for n in 0..ROUNDS {
                    let answer: usize = front.request("echo", &n).await.unwrap();
                    assert_eq!(answer, n);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    service.drain().await;
    for (what, feed) in [("requests", &mut requests), ("answers", &mut answers)] {
        let messages: Vec<_> = feed.take(TASKS * ROUNDS).collect().await;
        let signatures = signatures(&messages);
        let limit = messages.len() / 4;
        assert!(
            signatures < limit,
            "{signatures} signatures of {what}, at most {limit}"
        );
    }
}

async fn publish_all(front: &Client, task: usize) {
    let subject = format!("events.{task}");
    for n in 0..EACH {
        front.publish(&subject, &n).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_each_get_their_own_answer() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back
        .serve("echo", async |m: Message<u32>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let tasks: Vec<_> = (0..64u32)
        .map(|task| {
            let front = front.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    let asked = task * 1_000 + n;
                    let answer: u32 = front.request("echo", &asked).await.unwrap();
                    assert_eq!(answer, asked);
                }
            })
        })
        .collect();
    // Dropped requests in between take nothing along.
    for _ in 0..50 {
        let asked = front.request::<_, u32>("echo", &7);
        let _ = tokio::time::timeout(Duration::from_micros(200), asked).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    service.drain().await;
    assert!(front.stats().refused().is_empty(), "{:?}", front.stats());
    assert!(back.stats().refused().is_empty(), "{:?}", back.stats());
}
