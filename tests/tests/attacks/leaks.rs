//! 23: what refusals, logs and errors tell.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_23_a_refusal_tells_the_peer_nothing() {
    let bus = Bus::start(POLICY).await;
    let pay = bus.client("pay").await;
    let service = pay
        .serve("pay.users_only", async |_: Message<String>| {
            Ok::<_, ServiceError>("ran")
        })
        .await
        .unwrap();
    // The shop's own preflight would explain in full; a raw sealer skips it.
    let shop = bus.client("shop").await;
    let error = shop
        .request::<_, String>("pay.users_only", "x")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("user"), "{error}");
    let sealer = Forger::genuine(&bus, "shop").await;
    let raw = bus.raw_client("shop").await;
    let reply_to = bus.peer_inbox("shop", "x");
    let mut replies = raw.subscribe(reply_to.clone()).await.unwrap();
    let sealed = request_of(&sealer, "pay.users_only", &reply_to);
    raw.publish_with_reply("pay.users_only", reply_to, sealed)
        .await
        .unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(5), replies.next())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&reply.payload);
    for word in ["user", "required", "rule", "denied", "policy"] {
        assert!(!text.contains(word), "the reply holds `{word}`");
    }
    assert!(
        SealedEnvelope::decode(reply.payload).is_ok(),
        "a refusal is a signed envelope"
    );
    assert_eq!(pay.stats().refused_for("user_required"), 1);
    service.drain().await;
}
