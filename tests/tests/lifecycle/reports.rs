//! What enforcers say of themselves, and that nobody says it for others.

use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_identity::reserved;
use bulla_sdk::enforcer_report::{EnforcerKind, EnforcerReport};
use bulla_tests::Bus;
use futures_util::StreamExt as _;

use super::{POLICY, PROMISE, until};

/// Every report that is there, with the owner that nats-server let write it.
async fn reports(bus: &Bus) -> Vec<(String, EnforcerReport)> {
    let jetstream = async_nats::jetstream::new(bus.js_client().await);
    let stream = jetstream.get_stream(reserved::STATUS_STREAM).await.unwrap();
    let mut subjects = stream.info_with_subjects(">").await.unwrap();
    let mut found = Vec::new();
    while let Some(Ok((subject, _))) = subjects.next().await {
        let record = stream.direct_get_last_for_subject(&subject).await.unwrap();
        let owner = subject.split('.').nth(2).unwrap().to_owned();
        if let Ok(report) = EnforcerReport::decode(&record.payload) {
            found.push((owner, report));
        }
    }
    found
}

#[tokio::test]
async fn every_enforcer_says_what_it_runs_and_when_it_ends() {
    let mut bus = Bus::start(POLICY).await;
    let second = bus.add_broker(Group::B).await;
    let client = bus.client("orders").await;
    let tag = bus.workload("orders").tag().to_string();
    let own = async || {
        let all = reports(&bus).await;
        let mut own = all.into_iter().filter(|(owner, _)| *owner == tag);
        own.next().map(|(_, report)| report)
    };
    until(PROMISE, async || own().await.is_some()).await;
    let first = own().await.unwrap();
    assert_eq!((first.kind, first.revision), (EnforcerKind::Service, 1));
    let policy = bus.control_record(reserved::CTL_POLICY).await;
    let hash = bulla_keyring::sha256(&[&policy]);
    assert_eq!(first.policy, data_encoding::HEXLOWER.encode(&hash));
    let brokers = async |revision: u64| {
        let all = reports(&bus).await;
        let of = |r: &&(String, EnforcerReport)| {
            r.0 == "broker" && r.1.revision == revision && !r.1.is_gone
        };
        all.iter().filter(of).count()
    };
    until(PROMISE, async || brokers(1).await == 2).await;

    bus.publish_policy(&format!("{POLICY}\n# another\n")).await;
    let took = until(PROMISE, async || {
        own().await.unwrap().revision == 2 && brokers(2).await == 2
    })
    .await;
    println!("all say so after {took:?}");
    assert!(own().await.unwrap().since > first.since);

    client.drain().await;
    until(PROMISE, async || own().await.unwrap().is_gone).await;
    bus.stop_broker(second).await;
    let left = reports(&bus).await;
    let gone = left.iter().filter(|(o, r)| o == "broker" && r.is_gone);
    assert_eq!(gone.count(), 1);
}

#[tokio::test]
async fn nobody_reports_for_others() {
    let bus = Bus::start(POLICY).await;
    let [own, peer] = ["orders", "other"].map(|name| bus.workload(name).tag());
    let mut raw = bus.raw_socket("orders").await;
    for foreign in [
        reserved::status(peer, "0123456789abcdef"),
        reserved::status_of_broker("0123456789abcdef"),
        format!("$BULLA.STATUS.{own}.a.b"),
        reserved::policy_history(1),
    ] {
        assert!(
            raw.is_refused(&format!("PUB {foreign} 2\r\n{{}}")).await,
            "{foreign}"
        );
    }
    for foreign in [
        "$BULLA.STATUS.>".to_owned(),
        format!("$BULLA.STATUS.{own}.*"),
    ] {
        assert!(
            raw.is_refused(&format!("SUB {foreign} 1")).await,
            "{foreign}"
        );
    }
    // A lie about itself is its own.
    let lie = EnforcerReport {
        kind: EnforcerKind::Broker,
        version: "9".to_owned(),
        revision: 99,
        policy: String::new(),
        since: 0,
        bundle: 0,
        revocations: 0,
        candidate: 0,
        would_deny: 0,
        would_allow: 0,
        standing: String::new(),
        started: 0,
        is_gone: false,
    };
    let lie = String::from_utf8(lie.encode()).unwrap();
    let subject = reserved::status(own, "feedfeedfeedfeed");
    let publish = format!("PUB {subject} {}\r\n{lie}", lie.len());
    assert!(!raw.is_refused(&publish).await);
    until(Duration::from_secs(2), async || {
        let all = reports(&bus).await;
        all.iter()
            .any(|(owner, r)| *owner == own.to_string() && r.revision == 99)
    })
    .await;
    let all = reports(&bus).await;
    let lies = all.iter().filter(|(_, r)| r.revision == 99);
    assert_eq!(lies.count(), 1, "and nobody else's");
}
