//! A broker follows the control stream while it runs.

use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream;
use bulla_envelope::{IssuingKey, RequestDraft, TrustBundle};
use bulla_identity::reserved;
use bulla_keyring::{AuthorityKey, AuthorityRole, AuthoritySeed, SigningKey};
use bulla_sdk::broker_protocol::{Challenge, Issued};
use bulla_tests::{Bus, now};
use tokio::time::sleep;

/// A policy of these workloads, of which none may do anything.
fn policy(workloads: &[&str]) -> String {
    let mut text = "version = 1\ntrust_domain = \"acme.example\"\n".to_owned();
    for name in workloads {
        text.push_str(&format!(
            "[workload.{name}]\nattest = [{{ nkey = \"@{name}@\" }}]\n"
        ));
    }
    text
}

async fn may_connect(bus: &Bus, workload: &str) -> bool {
    let connected = bus.raw_client_with(workload, bus.seed(workload)).await;
    connected.is_ok()
}

async fn gets_a_credential(bus: &Bus, client: &Client, workload: &str) -> bool {
    let id = bus.workload(workload);
    let subject = reserved::broker_challenge(id.tag());
    // Whoever the policy drops is ended by the broker, sooner or later than this.
    let Ok(answer) = client.request(subject, "".into()).await else {
        return false;
    };
    let Challenge {
        broker_id,
        challenge,
        ..
    } = Challenge::decode(&answer.payload).unwrap();
    let mut random = [0; 32];
    getrandom::fill(&mut random).unwrap();
    let request = RequestDraft {
        workload: &id,
        message_key: &SigningKey::from_seed(&random),
        process_keys: None,
        token_key: None,
        instance: [1; 16],
        challenge,
        requested_at: now(),
    }
    .sign(Some(&bus.seed(workload)));
    let subject = reserved::broker_credential(id.tag(), &broker_id);
    let Ok(answer) = client.request(subject, request.into()).await else {
        return false;
    };
    matches!(
        Issued::decode(&answer.payload).unwrap(),
        Issued::Credential(_)
    )
}

async fn until(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "not in {limit:?}: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The bundle in force, changed, as its next version.
async fn publish_bundle(bus: &Bus, change: impl FnOnce(&mut TrustBundle)) {
    let record = bus.control_record(reserved::CTL_BUNDLE).await;
    let public = std::fs::read_to_string(bus.root_file()).unwrap();
    let public = AuthorityKey::parse(AuthorityRole::Root, &public).unwrap();
    let domain = bus.policy().trust_domain();
    let held = TrustBundle::open(
        &record,
        &[*public.verifying_key()],
        domain,
        now(),
        Duration::ZERO,
    );
    let mut bundle = held.unwrap().into_inner();
    bundle.version += 1;
    change(&mut bundle);
    let path = bus.provision().path("keys/root.key");
    let secret = bulla_process::secret_file::read_line(&path).unwrap();
    let root = AuthoritySeed::parse(AuthorityRole::Root, &secret).unwrap();
    let signed = bundle.sign(&root.into_signing_key()).unwrap();
    bus.replace_control_record(reserved::CTL_BUNDLE, signed.into())
        .await;
}

/// The news is not sent any more: only who looks at the stream learns.
async fn silence_the_news(bus: &Bus) {
    let context = jetstream::new(bus.js_client().await);
    let stream = context.get_stream(reserved::CTL_STREAM).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.republish = None;
    context.update_stream(&config).await.unwrap();
}

/// Sooner than the first look that a broker takes unasked.
const BEFORE_A_LOOK: Duration = Duration::from_secs(6);
const AFTER_A_LOOK: Duration = Duration::from_secs(25);

#[tokio::test]
async fn a_new_revision_admits_and_dismisses_without_a_restart() {
    let bus = Bus::start(&policy(&["orders", "billing"])).await;
    let billing = bus.raw_client("billing").await;
    assert!(gets_a_credential(&bus, &billing, "billing").await);
    let first = bus.control_record(reserved::CTL_POLICY).await;

    bus.publish_policy(&policy(&["orders", "shipping"])).await;
    until(BEFORE_A_LOOK, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
    let shipping = bus.raw_client("shipping").await;
    assert!(gets_a_credential(&bus, &shipping, "shipping").await);
    assert!(!may_connect(&bus, "billing").await);
    // For as long as its connection stays it gets no credential on it.
    assert!(!gets_a_credential(&bus, &billing, "billing").await);

    // Somebody writes the first revision back. That the broker has seen it
    // shows in what was written after it.
    bus.replace_control_record(reserved::CTL_POLICY, first)
        .await;
    publish_bundle(&bus, |bundle| bundle.issuing.clear()).await;
    until(BEFORE_A_LOOK, "the bundle is taken", async || {
        !gets_a_credential(&bus, &shipping, "shipping").await
    })
    .await;
    assert!(may_connect(&bus, "shipping").await);
    assert!(!may_connect(&bus, "billing").await);
}

#[tokio::test]
async fn a_broker_that_may_no_longer_issue_still_admits() {
    let bus = Bus::start(&policy(&["orders"])).await;
    let orders = bus.raw_client("orders").await;
    assert!(gets_a_credential(&bus, &orders, "orders").await);
    let mut ours = Vec::new();
    publish_bundle(&bus, |bundle| {
        ours = bundle.issuing.clone();
        let key = *SigningKey::from_seed(&[9; 32]).verifying_key();
        let expires_at = bundle.expires_at;
        bundle.issuing = vec![IssuingKey { key, expires_at }];
    })
    .await;
    until(BEFORE_A_LOOK, "credentials are refused", async || {
        !gets_a_credential(&bus, &orders, "orders").await
    })
    .await;
    assert!(may_connect(&bus, "orders").await);
    publish_bundle(&bus, |bundle| bundle.issuing = ours).await;
    until(BEFORE_A_LOOK, "credentials are issued again", async || {
        gets_a_credential(&bus, &orders, "orders").await
    })
    .await;
}

#[tokio::test]
async fn a_broker_whose_key_has_expired_still_admits() {
    let bus = Bus::start(&policy(&["orders"])).await;
    let orders = bus.raw_client("orders").await;
    assert!(gets_a_credential(&bus, &orders, "orders").await);
    publish_bundle(&bus, |bundle| {
        for issuing in &mut bundle.issuing {
            issuing.expires_at = now().saturating_add(Duration::from_secs(2));
        }
    })
    .await;
    until(BEFORE_A_LOOK, "credentials are refused", async || {
        !gets_a_credential(&bus, &orders, "orders").await
    })
    .await;
    assert!(may_connect(&bus, "orders").await);
}

#[tokio::test]
async fn what_does_not_verify_changes_nothing() {
    let bus = Bus::start(&policy(&["orders"])).await;
    let mut forged = bus.control_record(reserved::CTL_POLICY).await.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    for garbage in [forged, b"garbage".to_vec(), Vec::new()] {
        for subject in [reserved::CTL_POLICY, reserved::CTL_BUNDLE] {
            bus.replace_control_record(subject, garbage.clone().into())
                .await;
        }
    }
    let orders = bus.raw_client("orders").await;
    assert!(gets_a_credential(&bus, &orders, "orders").await);
    // And the next sound one is taken.
    bus.publish_policy(&policy(&["orders", "shipping"])).await;
    until(BEFORE_A_LOOK, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
}

#[tokio::test]
async fn a_broker_looks_by_itself_when_the_news_was_lost() {
    let bus = Bus::start(&policy(&["orders"])).await;
    silence_the_news(&bus).await;
    bus.publish_policy(&policy(&["orders", "shipping"])).await;
    until(AFTER_A_LOOK, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
}

#[tokio::test]
async fn a_broker_looks_after_each_reconnect() {
    let mut bus = Bus::start(&policy(&["orders"])).await;
    let started = Instant::now();
    silence_the_news(&bus).await;
    bus.publish_policy(&policy(&["orders", "shipping"])).await;
    bus.restart_server().await;
    let left = Duration::from_millis(7_800).saturating_sub(started.elapsed());
    until(left, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
}

#[tokio::test]
async fn a_full_stream_takes_the_next_policy_and_no_more_credentials() {
    let bus = Bus::start(&policy(&["orders"])).await;
    let orders = bus.raw_client("orders").await;
    assert!(gets_a_credential(&bus, &orders, "orders").await);
    let context = jetstream::new(bus.js_client().await);
    let stream = context.get_stream(reserved::CTL_STREAM).await.unwrap();
    let info = stream.cached_info();
    let mut config = info.config.clone();
    assert_eq!(config.max_bytes, 2 * 1024 * 1024 * 1024);
    assert!(config.max_messages > 0);
    config.max_messages = i64::try_from(info.state.messages).unwrap();
    context.update_stream(&config).await.unwrap();

    assert!(!gets_a_credential(&bus, &orders, "orders").await);
    bus.publish_policy(&policy(&["orders", "shipping", "billing"]))
        .await;
    until(BEFORE_A_LOOK, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
    let bundle = bus.control_record(reserved::CTL_BUNDLE).await;
    assert!(!bundle.is_empty(), "nothing was dropped");
}

/// An operator who does not want to wait says so.
#[tokio::test]
async fn a_broker_looks_at_its_files_at_once_when_it_is_told_to() {
    let bus = Bus::start(&policy(&["orders"])).await;
    // It has begun to listen for the signal.
    sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    let text = bus.with_nkeys(&policy(&["orders", "shipping"]));
    bus.provision().sign_policy("policy.toml", &text).unwrap();
    // Nobody writes to the stream but the broker itself.
    let told = std::process::Command::new("kill")
        .args(["-HUP", &std::process::id().to_string()])
        .status();
    assert!(told.unwrap().success());
    let left = Duration::from_millis(7_500).saturating_sub(started.elapsed());
    until(left, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
}

/// What the operator's files hold and no broker could go by stays where it is.
#[tokio::test]
async fn a_file_that_does_not_hold_is_not_published() {
    let bus = Bus::start(&policy(&["orders"])).await;
    let before = bus.control_record(reserved::CTL_POLICY).await;
    let path = bus.provision().path("trust/policy");
    for rubbish in [b"rubbish".to_vec(), {
        let mut forged = before.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        forged
    }] {
        std::fs::write(&path, rubbish).unwrap();
        sleep(Duration::from_millis(300)).await;
        let told = std::process::Command::new("kill")
            .args(["-HUP", &std::process::id().to_string()])
            .status();
        assert!(told.unwrap().success());
        sleep(Duration::from_millis(700)).await;
        assert_eq!(bus.control_record(reserved::CTL_POLICY).await, before);
    }
    // The next sound one is taken, however many were not.
    std::fs::write(&path, &before).unwrap();
    let text = bus.with_nkeys(&policy(&["orders", "shipping"]));
    bus.provision().sign_policy("policy.toml", &text).unwrap();
    until(AFTER_A_LOOK, "shipping may connect", async || {
        may_connect(&bus, "shipping").await
    })
    .await;
}

/// An operator who has no connection to the bus copies the list to one broker.
#[tokio::test]
async fn a_revocation_list_in_the_brokers_file_is_in_force_without_a_restart() {
    let bus = Bus::start(&policy(&["orders", "billing"])).await;
    assert!(may_connect(&bus, "billing").await);
    let file = bus.provision().path("trust/revocations");
    std::fs::write(&file, "half of a copy").unwrap();
    let list = bus.sign_revocations(1, vec![bus.entry_of_workload("billing")]);
    let part = file.with_extension("part");
    std::fs::write(&part, &list).unwrap();
    std::fs::rename(&part, &file).unwrap();
    until(AFTER_A_LOOK, "billing is turned away", async || {
        !may_connect(&bus, "billing").await
    })
    .await;
    assert!(may_connect(&bus, "orders").await);
    // Everybody else has it from the stream.
    let record = bus.control_record(reserved::CTL_REVOCATIONS).await;
    assert_eq!(record, list);
}
