//! 12, 28, 29: keys that nobody issued, not for this, or in another's place.

use bulla_identity::{WorkloadId, reserved};
use bulla_tests::{Dissected, Pki, bin};

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

/// A stolen issuing key, and an authority that issues certificates in anybody's
/// name: both are needed, and it is the policy that says which authority.
#[tokio::test(flavor = "multi_thread")]
async fn attack_29_a_lying_broker_with_an_authority_of_its_own_cannot_speak_as_a_workload() {
    let (mesh, own) = (Pki::new("mesh"), Pki::new("mesh"));
    let by_nkey = "attest = [{ nkey = \"@shop@\" }]";
    let by_mesh = "attest = [{ nkey = \"@shop@\" }, { x509 = \"mesh\" }]";
    let certified = format!(
        "{}\n{}",
        POLICY.replacen(by_nkey, by_mesh, 1),
        mesh.x509("mesh")
    );
    for (policy, code) in [
        (&*certified, "certificate_untrusted"),
        (POLICY, "no_authority"),
    ] {
        let scene = Scene::start_with(policy).await;
        let forged = Forger::by_lying_broker_certified(&scene.bus, "shop", &own);
        forged.publish(&scene.bus).await;
        let reply_to = scene.bus.peer_inbox("shop", "x");
        let sealed = request_of(&forged, "pay.charge", &reply_to);
        scene.inject("pay.charge", Some(&reply_to), sealed).await;
        scene.refused(code).await;
        assert_eq!(scene.handled(), 0);
        // The authority that the policy names vouches: the test is about that.
        if policy != POLICY {
            let forged = Forger::by_lying_broker_certified(&scene.bus, "shop", &mesh);
            forged.publish(&scene.bus).await;
            let sealed = request_of(&forged, "pay.charge", &reply_to);
            scene.inject("pay.charge", Some(&reply_to), sealed).await;
            scene.handled_at_least(1).await;
        }
    }
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

/// A broker, or whoever writes to the control stream, puts another credential in
/// the place of the shop's.
#[tokio::test(flavor = "multi_thread")]
async fn attack_28_a_credential_in_anothers_place_is_refused() {
    let scene = Scene::start().await;
    let bus = &scene.bus;
    let mallory = Forger::genuine(bus, "mallory").await;
    let reply_to = bus.peer_inbox("shop", "x");
    for (record, code) in [
        (
            mallory.credential().as_bytes().to_vec(),
            "credential_misfiled",
        ),
        (b"rubbish".to_vec(), "credential_malformed"),
    ] {
        // Nobody has looked it up yet.
        let shop = Forger::genuine(bus, "shop").await;
        let place = reserved::ctl_credential(&shop.credential().id().to_hex());
        bus.replace_control_record(&place, record.into()).await;
        let sealed = request_of(&shop, "pay.charge", &reply_to);
        scene.inject("pay.charge", Some(&reply_to), sealed).await;
        scene.refused(code).await;
        assert_eq!(scene.handled(), 0);
    }
    scene.still_answers().await;
}

/// A broker that lies is not only refused: the workload in whose name it lies
/// tells its operator.
#[tokio::test(flavor = "multi_thread")]
async fn attack_29_a_workload_raises_an_alarm_about_what_it_did_not_ask_for() {
    let scene = Scene::start().await;
    let bus = &scene.bus;
    // A replica, which asked with the same nkey, is none.
    let replica = bus.client("shop").await;
    let alarms = |client: &Client| client.stats().alarms().get("unasked_credential").copied();
    // Neither is what no broker of the bundle says, whoever wrote it.
    Forger::self_made(bus, "shop").publish(bus).await;
    scene.still_answers().await;
    assert_eq!((alarms(&scene.shop), alarms(&replica)), (None, None));

    let forged = Forger::by_lying_broker(bus, "shop");
    forged.publish(bus).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while alarms(&scene.shop).is_none() || alarms(&replica).is_none() {
        assert!(tokio::time::Instant::now() < deadline, "no alarm");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Once for each credential, and in nobody else's name.
    forged.publish(bus).await;
    scene.still_answers().await;
    assert_eq!((alarms(&scene.shop), alarms(&scene.pay)), (Some(1), None));
}

/// Where there is one process only, a credential for its own nkey that it did
/// not ask for says that the seed was stolen.
#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_stolen_seed_is_told_by_a_process_that_is_alone() {
    let bus = Bus::start(POLICY).await;
    let options = bus.connect_options("shop").sole_process();
    let shop = Client::connect(options).await.unwrap();
    let alarms = || shop.stats().alarms().get("unasked_credential").copied();
    bus.client("pay").await;
    assert_eq!(alarms(), None, "its own is none");
    Forger::genuine(&bus, "shop").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while alarms().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "no alarm");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Header key.
const KEY_ID: u8 = 2;
/// More than are looked up in a second.
const FLOOD: u16 = 6_000;

#[tokio::test(flavor = "multi_thread")]
async fn attack_18_a_flood_of_unknown_keys_is_not_looked_up_one_by_one() {
    let scene = Scene::start().await;
    scene.still_answers().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let own = Dissected::of(&request_of(&mallory, "pay.refund", &reply_to));
    for n in 0..FLOOD {
        let mut other = own.clone();
        let mut key_id = [0x5a; 16];
        key_id[..2].copy_from_slice(&n.to_be_bytes());
        other.set(KEY_ID, bin(&key_id));
        scene
            .inject("pay.refund", Some(&reply_to), other.assemble())
            .await;
    }
    // Who is known is heard all the same.
    scene.still_answers().await;
    let count = |code| scene.pay.stats().refused_for(code);
    eventually(|| count("lookup_throttled") + count("unknown_key") == u64::from(FLOOD)).await;
    assert!(count("lookup_throttled") > u64::from(FLOOD) / 4);
    assert_eq!(scene.handled(), 2);
}
