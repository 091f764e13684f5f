//! 23: what refusals, logs and errors tell.

use std::collections::BTreeSet;

use bulla_tests::Dissected;

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

/// Header keys of an error that may differ from one to the next: its number and id,
/// where and when it was sent, for which request, and under which name it is logged.
const OWN_FIELDS: [u8; 7] = [4, 5, 6, 7, 8, 13, 21];

#[tokio::test(flavor = "multi_thread")]
async fn attack_23_every_refusal_looks_the_same_from_outside() {
    let scene = Scene::start().await;
    let mut services = Vec::new();
    for subject in ["pay.users_only", "vault.put"] {
        let handler = async |_: Message<String>| Ok::<_, ServiceError>("ran");
        services.push(scene.pay.serve(subject, handler).await.unwrap());
    }
    let (shop, mallory) = (
        Forger::genuine(&scene.bus, "shop").await,
        Forger::genuine(&scene.bus, "mallory").await,
    );
    let (own, hers) = (
        scene.bus.peer_inbox("shop", "x"),
        scene.bus.peer_inbox("mallory", "x"),
    );
    let raw_mallory = scene.bus.raw_client("mallory").await;
    let mut at_shop = scene.raw_shop.subscribe(own.clone()).await.unwrap();
    let mut at_mallory = raw_mallory.subscribe(hers.clone()).await.unwrap();
    raw_mallory.flush().await.unwrap();
    let body = b"\xa710 euro";
    let key = mallory.data_key(&scene.bus, "bank", &[7; 32]);
    let mut looks = BTreeSet::new();
    for (subject, is_mallory, envelope, code) in [
        // No user, one who is none, and one whom nobody vouches for.
        (
            "pay.users_only",
            false,
            request_of(&shop, "pay.users_only", &own),
            "user_required",
        ),
        (
            "pay.refund",
            false,
            shop.request_for_user("pay.refund", &own, now(), body, "eyJ.x.y"),
            "token_not_base64url",
        ),
        // No right.
        (
            "pay.charge",
            true,
            request_of(&mallory, "pay.charge", &hers),
            "not_granted",
        ),
        // In clear where encryption is due, and under a key for another.
        (
            "vault.put",
            true,
            request_of(&mallory, "vault.put", &hers),
            "not_encrypted",
        ),
        (
            "vault.put",
            true,
            mallory.encrypted_request("vault.put", &hers, body, &key),
            "not_a_recipient",
        ),
    ] {
        let reply_to = if is_mallory { &hers } else { &own };
        assert_eq!(scene.refusal(subject, reply_to, envelope).await, code);
        let replies = if is_mallory {
            &mut at_mallory
        } else {
            &mut at_shop
        };
        let reply = tokio::time::timeout(Duration::from_secs(5), replies.next());
        let reply = Dissected::of(&reply.await.expect(code).unwrap().payload);
        assert!(reply.body.is_empty() && reply.token.is_none(), "{code}");
        let mut fields = reply.fields;
        fields.retain(|(key, _)| !OWN_FIELDS.contains(key));
        looks.insert((fields, reply.proof.len()));
        assert_eq!(looks.len(), 1, "{code}");
    }
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_23_what_is_not_proven_or_not_for_here_and_now_is_met_with_silence() {
    let scene = Scene::start().await;
    let own = scene.bus.peer_inbox("shop", "x");
    let mut replies = scene.raw_shop.subscribe(own.clone()).await.unwrap();
    let shop = Forger::genuine(&scene.bus, "shop").await;
    let stranger = Forger::self_made(&scene.bus, "shop");
    let sound = || request_of(&shop, "pay.charge", &own);
    let mut bent = Dissected::of(&sound());
    bent.body.push(0);
    let late = shop.request(
        "pay.charge",
        &own,
        now().saturating_add(Duration::from_secs(60)),
        b"\xa1x",
    );
    let used = sound();
    scene.inject("pay.charge", Some(&own), used.clone()).await;
    let first = replies.next().await.unwrap();
    for (subject, envelope, code) in [
        ("pay.charge", Bytes::from_static(b"{}"), "wrong_type"),
        (
            "pay.charge",
            request_of(&stranger, "pay.charge", &own),
            "unknown_key",
        ),
        ("pay.charge", bent.assemble(), "bad_signature"),
        // Whoever copies a request elsewhere, later or again must not end it for who waits.
        ("pay.refund", sound(), "wrong_subject"),
        ("pay.charge", late, "future"),
        ("pay.charge", used, "replayed"),
    ] {
        assert_eq!(scene.refusal(subject, &own, envelope).await, code);
    }
    // The next that is heard answers the next that is sound.
    let last = sound();
    scene.inject("pay.charge", Some(&own), last.clone()).await;
    let reply = tokio::time::timeout(Duration::from_secs(5), replies.next());
    let reply = reply.await.unwrap().unwrap();
    assert_ne!(reply.payload, first.payload);
    let reply = Dissected::of(&reply.payload);
    let request = reply.fields.iter().find(|(key, _)| *key == 13).unwrap();
    assert_eq!(request.1, bulla_tests::bin(&leaf_of(&last).0));
    assert_eq!(scene.handled(), 2);
}
