//! 1, 3, 4: replays, a poisoned window, splices.

use bulla_gateway::{Bus as _, BusEvent, SealedBus};
use bulla_identity::Subject;
use bulla_tests::{Dissected, bin, uint};
use tokio::sync::mpsc::Receiver;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replayed_request_runs_once() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    assert_eq!(scene.handled(), 1);
    for _ in 0..10 {
        scene.inject(&subject, Some(&reply), payload.clone()).await;
    }
    scene.refused("replayed").await;
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2, "the recorded request ran again");
    assert_eq!(scene.pay.stats().refused_for("replayed"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replay_after_a_restart_does_not_run() {
    let mut scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    // The replica starts anew, with an empty window.
    for service in scene.services.drain(..) {
        service.drain().await;
    }
    scene.pay = scene.bus.client("pay").await;
    let handled = Arc::clone(&scene.handled);
    let service = scene
        .pay
        .serve("pay.charge", move |_: Message<String>| {
            handled.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ServiceError>("again") }
        })
        .await
        .unwrap();
    scene.inject(&subject, Some(&reply), payload).await;
    scene.refused("issued_before_start").await;
    assert_eq!(scene.handled(), 1);
    service.drain().await;
}

/// Longer than anything here takes that waits for nothing.
const LONG: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replay_to_a_subscription_that_is_made_again_is_refused() {
    let scene = Scene::start().await;
    let mut tap = scene.bus.tap("news.shop").await;
    let options = scene.bus.connect_options("pay").clock_skew(LONG);
    let pay = Client::connect(options).await.unwrap();
    let mut news = pay.subscribe("news.shop").await.unwrap();
    scene.shop.publish("news.shop", "one").await.unwrap();
    assert_eq!(
        news.next().await.unwrap().decode::<String>().unwrap(),
        "one"
    );
    let recorded = tap.next().await.unwrap().payload;
    drop(news);
    tokio::time::sleep(LONG + Duration::from_millis(50)).await;
    // Whatever the one before accepted is older than what counts now: there is nothing to
    // wait for.
    let start = tokio::time::Instant::now();
    let mut news = pay.subscribe("news.shop").await.unwrap();
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    scene.inject("news.shop", None, recorded).await;
    // Behind the replay, on the same connection.
    let barrier = bulla_identity::reserved::BARRIER;
    let _ = scene.raw_shop.request(barrier, "".into()).await;
    scene.shop.publish("news.shop", "two").await.unwrap();
    assert_eq!(
        news.next().await.unwrap().decode::<String>().unwrap(),
        "two"
    );
    assert_eq!(pay.stats().refused_for("issued_before_start"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replay_to_a_stream_of_the_edge_that_was_just_opened_is_refused() {
    let scene = Scene::start().await;
    let mut tap = scene.bus.tap("news.shop").await;
    let options = scene.bus.connect_options("pay").clock_skew(LONG);
    let pay = Client::connect(options).await.unwrap();
    let edge = SealedBus::new(pay.clone());
    let subject = Subject::parse("news.shop").unwrap();
    let mut recorded = Vec::new();
    let mut tell = async |what: &'static str| {
        scene.shop.publish("news.shop", what).await.unwrap();
        recorded.push(tap.next().await.unwrap().payload);
        recorded.clone()
    };
    let replay = async |recorded: Vec<Bytes>| {
        for payload in recorded {
            scene.inject("news.shop", None, payload).await;
        }
        let barrier = bulla_identity::reserved::BARRIER;
        let _ = scene.raw_shop.request(barrier, "".into()).await;
    };
    let heard = async |stream: &mut Receiver<BusEvent>, what: &str| {
        let event = tokio::time::timeout(LONG, stream.recv()).await;
        let event = event.expect("an event").unwrap();
        let data = String::from_utf8_lossy(event.data());
        assert!(data.contains(what), "{data}");
    };
    let mut first = edge.listen(&subject, None).await.unwrap();
    let recorded = tell("one").await;
    heard(&mut first, "one").await;

    // Beside one that is open, another opens at once.
    let start = tokio::time::Instant::now();
    let mut second = edge.listen(&subject, None).await.unwrap();
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    replay(recorded).await;
    let recorded = tell("two").await;
    heard(&mut first, "two").await;
    heard(&mut second, "two").await;
    assert_eq!(pay.stats().refused_for("replayed"), 1);

    // So does one of who comes back.
    drop((first, second));
    let start = tokio::time::Instant::now();
    let mut third = edge.listen(&subject, None).await.unwrap();
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    replay(recorded).await;
    tell("three").await;
    heard(&mut third, "three").await;
    assert_eq!(pay.stats().refused_for("replayed"), 3);
}

/// Header keys.
const SEQUENCE: u8 = 4;
const IDS: u8 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn attack_03_a_forged_message_does_not_poison_the_window() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    // Any flipped byte is refused before it can touch the window.
    for position in (0..payload.len()).step_by(7) {
        let mut forged = payload.to_vec();
        forged[position] ^= 0x01;
        scene.inject(&subject, Some(&reply), forged.into()).await;
    }
    // Under the shop's own key and epoch: the highest numbers that there are, so that
    // the window would move beyond all that follow, and those that the shop uses next,
    // so that they would count as used. As they are, and signed by another.
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let recorded = Dissected::of(&payload);
    let highest = [u64::MAX, u64::MAX - 1, 1 << 32, 1 << 16, 4_096];
    let mut forged = 0;
    for (n, number) in (0..60).chain(highest).zip(0u8..) {
        let mut other = recorded.clone();
        other.set(SEQUENCE, uint(n));
        other.set(IDS, bin(&[number; 16]));
        let signed = mallory.sign(other.clone());
        for envelope in [other.assemble(), signed] {
            scene.inject(&subject, Some(&reply), envelope).await;
            forged += 1;
        }
    }
    for _ in 0..60 {
        scene.still_answers().await;
    }
    assert_eq!(scene.handled(), 61);
    let refused = scene.pay.stats().refused_for("bad_signature");
    assert!(refused >= forged, "{:?}", scene.pay.stats().refused());
    assert_eq!(scene.pay.stats().refused_for("replayed"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_04_a_request_spliced_onto_another_subject_is_refused() {
    let scene = Scene::start().await;
    let (_, reply, payload) = scene.recorded_request("pay.charge").await;
    scene.inject("pay.refund", Some(&reply), payload).await;
    scene.refused("wrong_subject").await;
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_04_an_event_is_no_request_and_a_request_no_event() {
    let scene = Scene::start().await;
    let mut news = scene.pay.subscribe("news.shop").await.unwrap();
    let mut tap = scene.bus.tap("news.shop").await;
    scene.shop.publish("news.shop", "hello").await.unwrap();
    assert_eq!(
        news.next().await.unwrap().decode::<String>().unwrap(),
        "hello"
    );
    let event = tap.next().await.unwrap();
    scene.inject("pay.charge", None, event.payload).await;
    scene.refused("wrong_kind").await;
    assert_eq!(scene.handled(), 0);
}
