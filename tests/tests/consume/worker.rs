//! Workers: what is done, tried again, and given up; nothing is lost in between.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::jetstream;
use bulla_sdk::extract::{Payload, State};
use bulla_sdk::{Context, DeadLetter, ServiceError, ServiceErrorCode};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// [`POLICY`] with a stream for dead letters.
pub(crate) fn policy() -> String {
    [
        POLICY,
        r#"
[stream.DEAD]
subjects = ["dead.>"]
[subject."dead.>"]
replay = "stream"
max_age = "1h"

[[allow]]
id = "mail-buries"
who = ["mail"]
may = ["append"]
on = ["dead.mail"]

[[allow]]
id = "shop-mourns"
who = ["shop"]
may = ["consume"]
on = ["DEAD.shop"]
"#,
    ]
    .concat()
}

#[derive(Clone, Default)]
pub(crate) struct Desk {
    calls: Arc<Mutex<Vec<String>>>,
}

/// What an order's text tells it to do.
async fn work(
    State(desk): State<Desk>,
    Payload(order): Payload<String>,
) -> Result<(), ServiceError> {
    let before = {
        let mut calls = desk.calls.lock().unwrap();
        let before = calls.iter().filter(|call| **call == order).count();
        calls.push(order.clone());
        before
    };
    let error = |code| Err(ServiceError::new(code, "told so"));
    match order.as_str() {
        "third time" if before < 2 => error(ServiceErrorCode::Unavailable),
        "never" => error(ServiceErrorCode::Internal),
        "wrong" => error(ServiceErrorCode::Invalid),
        "panic" if before == 0 => panic!("told so"),
        _ => Ok(()),
    }
}

pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ConsumeError>>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }
}

pub(crate) async fn start(mail: &Client, desk: &Desk, dead: Option<&str>) -> Running {
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    if let Some(subject) = dead {
        consumer = consumer.dead_letters(subject);
    }
    let (stop, stopped) = oneshot::channel();
    let worker = consumer
        .worker(work, desk.clone())
        .at_once(4)
        .attempts(3)
        .backoff(Duration::from_millis(40), Duration::from_millis(100));
    let task = tokio::spawn(worker.run(async move { stopped.await.unwrap_or_default() }));
    Running { stop, task }
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_done_or_becomes_a_dead_letter_with_its_reason() {
    let bus = Bus::start(&policy()).await;
    let (shop, mail) = pair(&bus).await;
    let desk = Desk::default();
    let worker = start(&mail, &desk, Some("dead.mail")).await;
    let mut sequences = Vec::new();
    for order in ["fine", "third time", "panic", "wrong", "never"] {
        let appended = shop.append("orders.1.created", order).await.unwrap();
        sequences.push((order, appended.sequence()));
    }
    // What no check lets pass, and what is not an order at all.
    let garbage = Bytes::from_static(b"not an envelope");
    append_raw(
        &bus,
        "mallory",
        "orders.1.rumour",
        Some("x"),
        garbage.clone(),
    )
    .await;
    let number = shop.append("orders.1.created", &7u32).await.unwrap();

    let mut dead = shop.consume("DEAD", "shop").await.unwrap();
    let mut letters = std::collections::BTreeMap::new();
    for _ in 0..4 {
        let delivery = next(&mut dead).await.unwrap();
        assert_eq!(
            delivery.message().sender().workload(),
            &bus.workload("mail")
        );
        let letter: DeadLetter = delivery.message().decode().unwrap();
        assert_eq!(
            (letter.stream.as_str(), letter.consumer.as_str()),
            ("ORDERS", "mail")
        );
        let (subject, envelope) = stored(&bus, "ORDERS", letter.sequence).await;
        assert_eq!(
            (&letter.subject, &letter.envelope[..]),
            (&subject, &envelope[..])
        );
        letters.insert(letter.sequence, (letter.reason, letter.times_delivered));
        delivery.ack().await.unwrap();
    }
    let of = |order| sequences.iter().find(|(o, _)| *o == order).unwrap().1;
    let letter = |sequence| letters.get(&sequence).map(|(r, t)| (r.as_str(), *t));
    assert_eq!(letter(of("wrong")), Some(("invalid", 1)));
    assert_eq!(letter(of("never")), Some(("internal", 3)));
    assert_eq!(letter(number.sequence()), Some(("invalid", 1)));
    let (refused, times) = letter(of("never") + 1).unwrap();
    assert_eq!(refused, "wrong_type");
    assert_eq!(times, 1);

    until("all is answered for", async || {
        state(&bus, "ORDERS", "mail").await == (0, 0, number.sequence())
    })
    .await;
    let count = |order: &str| {
        desk.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|c| *c == order)
            .count()
    };
    assert_eq!(
        ["fine", "third time", "panic", "wrong", "never"].map(count),
        [1, 3, 2, 1, 3]
    );
    assert_eq!(mail.stats().given_up(), 4);
    worker.stop().await;
}

/// Where the dead letter cannot be stored, the message stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_buried_is_not_forgotten() {
    let bus = Bus::start(&policy()).await;
    let (shop, mail) = pair(&bus).await;
    let desk = Desk::default();
    let worker = start(&mail, &desk, Some("dead.elsewhere")).await;
    shop.append("orders.1.created", "wrong").await.unwrap();
    until("it is tried again", async || {
        mail.stats().dead_letters_unsent() >= 2
    })
    .await;
    assert_eq!(mail.stats().given_up(), 0);
    worker.stop().await;
    let (pending, waiting, done) = state(&bus, "ORDERS", "mail").await;
    assert_eq!((pending + waiting, done), (1, 0), "it is still there");
}

/// A handler that takes longer than the stream waits is not run twice, and is let
/// finish when the worker is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn long_work_is_done_once_and_finished_at_the_stop() {
    let bus = Bus::start(&policy()).await;
    let (shop, mail) = pair(&bus).await;
    let context = jetstream::new(bus.js_client().await);
    let stream = context.get_stream("ORDERS").await.unwrap();
    let hasty = jetstream::consumer::pull::Config {
        durable_name: Some("mail".to_owned()),
        ack_wait: Duration::from_millis(600),
        ..Default::default()
    };
    stream.update_consumer(hasty).await.unwrap();

    let (calls, finished) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let slow = {
        let (calls, finished) = (Arc::clone(&calls), Arc::clone(&finished));
        move || {
            calls.fetch_add(1, Ordering::SeqCst);
            let finished = Arc::clone(&finished);
            async move {
                assert!(Context::current().remaining().is_none());
                tokio::time::sleep(Duration::from_millis(2_000)).await;
                finished.store(true, Ordering::SeqCst);
                Ok::<_, ServiceError>(())
            }
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let worker = consumer.worker(slow, ()).at_once(2);
    let task = tokio::spawn(worker.run(async move { stopped.await.unwrap_or_default() }));
    shop.append("orders.1.created", "long").await.unwrap();
    until("it is begun", async || calls.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!finished.load(Ordering::SeqCst));
    drop(stop);
    timeout(LIMIT, task).await.unwrap().unwrap().unwrap();
    assert!(finished.load(Ordering::SeqCst), "it was let finish");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 1));
}
