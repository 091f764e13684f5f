//! 19: times.

use bulla_tests::{Dissected, uint};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_19_a_message_from_the_future_or_the_past_is_refused() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let hour = Duration::from_secs(60);
    for (at, code) in [
        (now().saturating_add(hour), "future"),
        (now().saturating_sub(hour), "issued_before_start"),
    ] {
        let sealed = mallory.request("pay.refund", &reply_to, at, b"\xa710 euro");
        scene.inject("pay.refund", Some(&reply_to), sealed).await;
        scene.refused(code).await;
    }
    assert_eq!(scene.handled(), 0);
}

/// Header keys of the times.
const ISSUED_AT: u8 = 7;
const EXPIRES_AT: u8 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn attack_19_no_sender_chooses_how_long_its_message_lives() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let own = Dissected::of(&request_of(&mallory, "pay.refund", &reply_to));
    let minutes = |count: u64| now().saturating_add(Duration::from_secs(60 * count));
    for (key, time, code) in [
        (EXPIRES_AT, minutes(16), "lives_too_long"),
        (EXPIRES_AT, minutes(61), "outlives_credential"),
        (ISSUED_AT, minutes(1), "invalid_field"),
        (
            EXPIRES_AT,
            now().saturating_sub(Duration::from_secs(1)),
            "invalid_field",
        ),
    ] {
        let mut other = own.clone();
        other.set(key, uint(time.as_millis()));
        let refusal = scene
            .refusal("pay.refund", &reply_to, mallory.sign(other))
            .await;
        assert_eq!(refusal, code);
    }
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_19_a_message_is_kept_until_it_is_too_old_for_its_subject() {
    let scene = Scene::start().await;
    let service = scene
        .pay
        .serve("pay.quick", async |_: Message<String>| {
            Ok::<_, ServiceError>("ran")
        })
        .await
        .unwrap();
    // It says itself that it lives for 20 s; the subject says one.
    let shop = Forger::genuine(&scene.bus, "shop").await;
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let kept = request_of(&shop, "pay.quick", &reply_to);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let refusal = scene.refusal("pay.quick", &reply_to, kept).await;
    assert_eq!(refusal, "too_old");
    service.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_19_what_has_expired_does_not_run_again() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let mut short = Dissected::of(&request_of(&mallory, "pay.refund", &reply_to));
    let end = now().saturating_add(Duration::from_secs(1));
    short.set(EXPIRES_AT, uint(end.as_millis()));
    let sealed = mallory.sign(short);
    scene
        .inject("pay.refund", Some(&reply_to), sealed.clone())
        .await;
    scene.handled_at_least(1).await;
    let refusal = scene.refusal("pay.refund", &reply_to, sealed.clone()).await;
    assert_eq!(refusal, "replayed");
    // The window may forget it now, because time refuses it.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let refusal = scene.refusal("pay.refund", &reply_to, sealed).await;
    assert_eq!(refusal, "expired");
    assert_eq!(scene.handled(), 1);
}
