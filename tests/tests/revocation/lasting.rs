//! Nobody forgets: over cut cables, restarts, and streams that are set back.

use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_envelope::Revoked;
use bulla_identity::reserved;
use bulla_sdk::Client;
use bulla_tests::{Bus, Cable, Forger, now};

use super::{POLICY, eventually};

async fn may_connect(bus: &Bus, workload: &str) -> bool {
    bus.raw_client_with(workload, bus.seed(workload))
        .await
        .is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_obeys_when_it_returns() {
    let bus = Bus::start(POLICY).await;
    let cable = Cable::to(bus.nats_url()).await;
    let back = bus.client_behind(&cable, "back").await;
    let _heard = back.subscribe("news.told").await.unwrap();
    cable.cut();
    eventually(|| !back.is_connected()).await;
    bus.revoke_workload("front").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(back.revocations().sequence(), 0);
    cable.mend();
    eventually(|| back.revocations().sequence() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_outlives_server_and_brokers() {
    let mut bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let mut heard = back.subscribe("news.told").await.unwrap();
    let forger = Forger::genuine(&bus, "front").await;
    bus.revoke_workload("front").await;
    eventually(|| back.revocations().sequence() == 1).await;

    let broker = bus.broker(0);
    bus.stop_broker(broker).await;
    bus.restart_server().await;
    bus.add_broker(Group::Both).await;
    assert!(!may_connect(&bus, "front").await);
    eventually(|| back.is_connected()).await;
    // Who was there before, and who comes now.
    let new = bus.client("late").await;
    assert_eq!(new.revocations().sequence(), 1);
    let mut heard_by_new = new.subscribe("news.told").await.unwrap();
    let courier = bus.raw_client("courier").await;
    let sealed = forger.event("news.told", now(), b"\xa1x");
    courier.publish("news.told", sealed).await.unwrap();
    for (client, heard) in [(&back, &mut heard), (&new, &mut heard_by_new)] {
        let got = tokio::time::timeout(Duration::from_millis(300), heard.next()).await;
        assert!(got.is_err(), "accepted");
        assert_eq!(client.stats().refused_for("workload_revoked"), 1);
    }
    // And it is not in the way of a lifted one.
    bus.change_revocations(Vec::clear).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while !may_connect(&bus, "front").await {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_set_back_is_taken_by_nobody_and_put_right() {
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    bus.revoke(Revoked::User("alice".to_owned())).await;
    let first = bus.control_record(reserved::CTL_REVOCATIONS).await;
    bus.revoke_workload("front").await;
    eventually(|| back.revocations().sequence() == 2).await;
    bus.replace_control_record(reserved::CTL_REVOCATIONS, first)
        .await;
    eventually(|| back.stats().refused_for("revocations_refused") > 0).await;
    assert_eq!(back.revocations().sequence(), 2);
    assert!(!may_connect(&bus, "front").await);
    // The broker writes the newer one again.
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while bus.revocation_list().await.map(|list| list.sequence) != Some(2) {
        assert!(tokio::time::Instant::now() < end, "it stays set back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Another list of the same number is taken by nobody either.
    let other = bus.sign_revocations(2, Vec::new());
    bus.replace_control_record(reserved::CTL_REVOCATIONS, other)
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        back.revocations()
            .is_workload_revoked(&bus.workload("front"))
    );
    assert!(!may_connect(&bus, "front").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_does_not_start_without_a_list_that_brokers_have_seen() {
    let mut bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    bus.revoke_workload("front").await;
    eventually(|| back.revocations().sequence() == 1).await;
    // Its head names the list from now on.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let broker = bus.broker(0);
    bus.stop_broker(broker).await;
    bus.remove_control_record(reserved::CTL_REVOCATIONS).await;
    let error = bus.broker_that_fails().await;
    assert!(error.to_string().contains("revocation list 1"), "{error}");
    // With the operator's copy it does, and the stream has it again.
    let list = bus.sign_revocations(1, vec![bus.entry_of_workload("front")]);
    std::fs::write(bus.provision().path("trust/revocations"), &list).unwrap();
    bus.add_broker(Group::Both).await;
    assert_eq!(bus.control_record(reserved::CTL_REVOCATIONS).await, list);
    assert!(!may_connect(&bus, "front").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_news_is_noticed_and_made_up_for() {
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let start = tokio::time::Instant::now();
    // Two records that nobody tells of, and one of another kind that somebody does.
    bus.change_control_stream(|config| config.republish = None)
        .await;
    bus.publish_policy(&POLICY.replace("all-ask", "renamed"))
        .await;
    bus.change_control_stream(|config| {
        config.republish = Some(async_nats::jetstream::stream::Republish {
            source: reserved::CTL_ALL.to_owned(),
            destination: reserved::NEWS_ALL.to_owned(),
            headers_only: false,
        });
    })
    .await;
    let _: Client = bus.client("late").await;
    eventually(|| back.policy().revision() == 2).await;
    assert!(back.stats().news_gaps() > 0);
    assert!(
        start.elapsed() < Duration::from_secs(7),
        "before it looks by itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_may_not_create_consumers_of_the_control_stream() {
    let bus = Bus::start(POLICY).await;
    let mut socket = bus.raw_socket("back").await;
    for subject in [
        "$JS.API.CONSUMER.CREATE.BULLA_CTL",
        "$JS.API.CONSUMER.CREATE.BULLA_CTL.x.$BULLA.CTL.POLICY",
        "$JS.API.CONSUMER.DURABLE.CREATE.BULLA_CTL.x",
        "$JS.API.CONSUMER.MSG.NEXT.BULLA_CTL.x",
        "$JS.API.STREAM.INFO.BULLA_CTL",
        "$JS.API.STREAM.MSG.GET.BULLA_CTL",
        reserved::CTL_REVOCATIONS,
        reserved::CTL_HEAD,
        reserved::NEWS_HEAD,
        reserved::NEWS_REVOCATIONS,
    ] {
        let publish = format!("PUB {subject} 0\r\n");
        assert!(socket.is_refused(&publish).await, "{subject}");
    }
}
