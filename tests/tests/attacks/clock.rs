//! 19: times.

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
