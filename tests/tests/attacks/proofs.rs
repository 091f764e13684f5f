//! 6, 12, 22, 29: downgrades, keys that nobody issued, proofs that were moved.

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
async fn attack_06_an_unknown_version_is_refused() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    let mut other = payload.to_vec();
    assert_eq!(other[1], 1, "the version is the array's first element");
    other[1] = 2;
    scene.inject(&subject, Some(&reply), other.into()).await;
    scene.refused("unsupported_version").await;
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_key_that_nobody_issued_is_refused() {
    let scene = Scene::start().await;
    // A credential by an authority of Mallory's own, for the shop.
    let forged = Forger::self_made(&scene.bus, "shop");
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("unknown_key").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_published_key_of_a_foreign_authority_is_refused() {
    let scene = Scene::start().await;
    let forged = Forger::self_made(&scene.bus, "shop");
    // Even where a stolen broker writes it to the control stream.
    forged.publish(&scene.bus).await;
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("unknown_issuer").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_29_a_lying_broker_cannot_speak_as_a_workload() {
    let scene = Scene::start().await;
    // The true issuing key, but no countersignature of the shop's nkey.
    let forged = Forger::by_lying_broker(&scene.bus, "shop");
    forged.publish(&scene.bus).await;
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("foreign_nkey").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_right_key_on_a_subject_that_is_not_its_own_is_refused() {
    let scene = Scene::start().await;
    // nats-server would not let Mallory publish here; whoever runs it would.
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let sealed = request_of(&mallory, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("not_granted").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_22_a_proof_moved_to_another_message_is_refused() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let one = request_of(&mallory, "pay.refund", &reply_to);
    let two = request_of(&mallory, "pay.refund", &reply_to);
    assert_eq!(one.len(), two.len());
    // The last 64 bytes of an envelope are the batch's signature.
    let mut moved = one.to_vec();
    let at = moved.len() - 64;
    moved[at..].copy_from_slice(&two[at..]);
    scene
        .inject("pay.refund", Some(&reply_to), moved.into())
        .await;
    scene.refused("bad_signature").await;
    assert_eq!(scene.handled(), 0);
}
