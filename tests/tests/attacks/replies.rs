//! 5: replies that are forged, swapped, replayed or aimed elsewhere.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_the_reply_subject_cannot_be_swapped() {
    let scene = Scene::start().await;
    let (subject, _, payload) = scene.recorded_request("pay.charge").await;
    let elsewhere = scene.bus.peer_inbox("mallory", "x");
    scene
        .inject(&subject, Some(&elsewhere), payload.clone())
        .await;
    scene.refused("wrong_reply_to").await;
    scene.inject(&subject, None, payload).await;
    scene.still_answers().await;
    assert_eq!(scene.pay.stats().refused_for("wrong_reply_to"), 2);
    assert_eq!(scene.handled(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_reply_is_sent_only_into_the_senders_own_inbox() {
    let scene = Scene::start().await;
    // Mallory seals a sound request of her own whose replies are to go to the
    // shop, or to a subject where a service listens.
    let forger = Forger::genuine(&scene.bus, "mallory").await;
    for reply_to in [scene.bus.peer_inbox("shop", "x"), "news.shop".to_owned()] {
        let sealed = request_of(&forger, "pay.refund", &reply_to);
        scene.inject("pay.refund", Some(&reply_to), sealed).await;
        scene.refused("foreign_inbox").await;
    }
    scene.still_answers().await;
    assert_eq!(scene.pay.stats().refused_for("foreign_inbox"), 2);
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_forged_reply_does_not_end_the_wait() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    // Mallory sees the request (as whoever runs nats-server does) and answers
    // first: with rubbish, with an envelope of her own, with an old reply.
    let mallory = Forger::genuine(&bus, "mallory").await;
    let mut tap = bus.tap("pay.charge").await;
    let pay = bus.client("pay").await;
    let service = pay
        .serve("pay.charge", async |_: Message<String>| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok::<_, ServiceError>("genuine")
        })
        .await
        .unwrap();
    // `pay` is the one that may publish into the shop's inbox.
    let injector = bus.raw_client("pay").await;
    let forging = tokio::spawn(async move {
        let request = tap.next().await.unwrap();
        let reply_to = request.reply.unwrap().to_string();
        let leaf = leaf_of(&request.payload);
        let forged = mallory.reply(&reply_to, leaf, b"\xa6forged");
        for payload in [Bytes::from_static(b"not an envelope"), forged] {
            injector.publish(reply_to.clone(), payload).await.unwrap();
        }
        injector.flush().await.unwrap();
    });
    let answer: String = shop.request("pay.charge", "10 euro").await.unwrap();
    forging.await.unwrap();
    assert_eq!(answer, "genuine");
    let refused = shop.stats().refused();
    assert!(refused.contains_key("not_granted"), "{refused:?}");
    assert!(refused.values().sum::<u64>() >= 2, "{refused:?}");
    service.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_an_answer_to_another_request_is_no_answer() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    // A process of the right workload, with an answer to some other request.
    let server = Forger::genuine(&bus, "pay").await;
    let mut tap = bus.tap("pay.charge").await;
    let raw = bus.raw_client("pay").await;
    let mut requests = raw
        .queue_subscribe("pay.charge", "pay".to_owned())
        .await
        .unwrap();
    raw.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        let request = requests.next().await.unwrap();
        let reply_to = request.reply.unwrap().to_string();
        let right = leaf_of(&request.payload);
        let wrong = LeafHash([7; 32]);
        for (leaf, text) in [(wrong, b"\xa5wrong"), (right, b"\xa5right")] {
            let sealed = server.reply(&reply_to, leaf, text);
            raw.publish(reply_to.clone(), sealed).await.unwrap();
        }
        raw.flush().await.unwrap();
    });
    let answer: String = shop.request("pay.charge", "10 euro").await.unwrap();
    answering.await.unwrap();
    assert_eq!(answer, "right");
    assert_eq!(shop.stats().refused_for("wrong_request"), 1);
    assert!(tap.next().await.is_some());
}
