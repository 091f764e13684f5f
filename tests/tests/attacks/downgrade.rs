//! 6: signatures stripped, versions and suites changed, headers renamed.

use async_nats::HeaderMap;
use bulla_tests::{Dissected, bin, uint};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_an_unsigned_message_never_reaches_the_handler() {
    let scene = Scene::start().await;
    let raw = scene.bus.raw_client("mallory").await;
    for payload in [&b""[..], b"{}", b"\xa5hello", b"\x95\x01"] {
        raw.publish_with_reply(
            "pay.refund",
            scene.bus.peer_inbox("mallory", "x"),
            payload.into(),
        )
        .await
        .unwrap();
    }
    raw.flush().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while scene.pay.stats().refused().values().sum::<u64>() < 4 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            scene.pay.stats().refused()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.still_answers().await;
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_a_request_without_its_signature_is_refused() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    let genuine = Dissected::of(&payload);
    let unsigned = bin(&[0; 64]);
    for (proof, code) in [
        (vec![], "truncated"),
        (vec![0xc0], "wrong_type"),
        (vec![0x90], "wrong_length"),
        // A code that only two processes could check, where a signature is due.
        ([&[0x91][..], &bin(&[0; 32])].concat(), "mac_kind"),
        (
            [&[0x94, 0, 1, 0xc4, 0][..], &unsigned].concat(),
            "bad_signature",
        ),
        (
            [&[0x94, 0, 0, 0xc4, 0][..], &unsigned].concat(),
            "batch_place",
        ),
    ] {
        let mut stripped = genuine.clone();
        stripped.proof = proof;
        let payload = stripped.assemble();
        assert_eq!(scene.refusal(&subject, &reply, payload).await, code);
    }
    // The header alone, as if the rest were optional.
    let mut payload = genuine.assemble().to_vec();
    payload[0] = 0x94;
    let refusal = scene.refusal(&subject, &reply, payload.into()).await;
    assert_eq!(refusal, "wrong_length");
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2);
}

/// [ENV-61]
#[tokio::test(flavor = "multi_thread")]
async fn attack_06_another_version_or_suite_is_refused() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    let genuine = Dissected::of(&payload);
    for version in [0, 2, 0x7f] {
        let mut other = genuine.clone();
        other.version = version;
        let refusal = scene.refusal(&subject, &reply, other.assemble()).await;
        assert_eq!(refusal, "unsupported_version");
    }
    // Whoever holds a key may say what he likes: still nobody understands it.
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply = scene.bus.peer_inbox("mallory", "x");
    let own = Dissected::of(&request_of(&mallory, "pay.refund", &reply));
    for (suite, code) in [
        (1, "missing_field"),
        (2, "missing_field"),
        (3, "missing_field"),
        (4, "missing_field"),
        (5, "unsupported_suite"),
        (255, "unsupported_suite"),
    ] {
        let mut other = own.clone();
        other.set(0, uint(suite));
        let refusal = scene
            .refusal("pay.refund", &reply, mallory.sign(other))
            .await;
        assert_eq!(refusal, code, "{suite}");
    }
    let mut other = own.clone();
    other.set(27, uint(1));
    let refusal = scene
        .refusal("pay.refund", &reply, mallory.sign(other))
        .await;
    assert_eq!(refusal, "unknown_field");
    assert_eq!(scene.handled(), 1);
    scene
        .inject("pay.refund", Some(&reply), mallory.sign(own))
        .await;
    // Signed by hand it is as good.
    scene.handled_at_least(2).await;
}

/// Nothing that Bulla acts on stands in NATS headers, under whatever name.
#[tokio::test(flavor = "multi_thread")]
async fn attack_06_nats_headers_stand_for_nothing() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    let mut headers = HeaderMap::new();
    let genuine = Dissected::of(&payload);
    for name in [
        "bulla",
        "bulla-envelope",
        "Bulla-Header",
        "Nats-Expected-Stream",
    ] {
        headers.insert(name, data_encoding::BASE64.encode(&payload));
    }
    for name in [
        "bulla-sender",
        "bulla-user",
        "bulla-verified",
        "Authorization",
    ] {
        headers.insert(name, "shop");
    }
    let before = scene.pay.stats().refused().values().sum::<u64>();
    for body in [&genuine.body[..], b""] {
        scene
            .raw_shop
            .publish_with_reply_and_headers(
                subject.clone(),
                reply.clone(),
                headers.clone(),
                body.to_vec().into(),
            )
            .await
            .unwrap();
    }
    let refused = || scene.pay.stats().refused().values().sum::<u64>();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while refused() < before + 2 {
        assert!(tokio::time::Instant::now() < deadline, "{}", refused());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2);

    // Beside a sound envelope they are not even seen.
    let mut news = scene.pay.subscribe("news.shop").await.unwrap();
    let shop = Forger::genuine(&scene.bus, "shop").await;
    let event = shop.event("news.shop", now(), b"\xa5hello");
    scene
        .raw_shop
        .publish_with_headers("news.shop", headers, event)
        .await
        .unwrap();
    let message = news.next().await.unwrap();
    assert_eq!(message.headers().count(), 0);
    assert!(message.user().is_none());
}
