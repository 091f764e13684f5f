//! 12, 29: keys that nobody issued, or not for this.

use bulla_identity::WorkloadId;

use super::*;

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
async fn attack_12_a_key_of_another_trust_domain_is_refused() {
    let scene = Scene::start().await;
    // Under the true issuing key, and yet not of this domain's workloads.
    let id = WorkloadId::parse("spiffe://evil.example/shop").unwrap();
    let forged = Forger::by_lying_broker_for(&scene.bus, &id);
    forged.publish(&scene.bus).await;
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("credential_unknown_workload").await;
    assert_eq!(scene.handled(), 0);
}
