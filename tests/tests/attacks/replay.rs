//! 1, 3, 4: replays, a poisoned window, splices.

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
    for _ in 0..50 {
        scene.still_answers().await;
    }
    assert_eq!(scene.handled(), 51);
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
