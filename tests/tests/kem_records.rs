//! KEM records at the broker: what others encrypt to, and who may say so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use async_nats::Client;
use bulla_envelope::KemRecord;
use bulla_identity::{NkeyKind, WorkloadId, reserved};
use bulla_keyring::NkeySeed;
use bulla_sdk::broker_protocol::Registered;
use bulla_tests::Bus;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.orders]
attest = [{ nkey = "@orders@" }, { nkey = "@spare@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]
"#;

/// One workload's way to the broker.
struct Asker {
    client: Client,
    id: WorkloadId,
    seed: NkeySeed,
}

impl Asker {
    async fn connect(bus: &Bus, workload: &str) -> Self {
        Self {
            client: bus.raw_client(workload).await,
            id: bus.workload(workload),
            seed: bus.seed(workload),
        }
    }

    fn record(&self, version: u64) -> Vec<u8> {
        KemRecord::sign(&self.seed, &self.id, version)
    }

    async fn hand_in(&self, record: &[u8]) -> bool {
        let subject = reserved::broker_kem(self.id.tag());
        let record = Bytes::copy_from_slice(record);
        let answer = self.client.request(subject, record).await.unwrap();
        match Registered::decode(&answer.payload).unwrap() {
            Registered::Accepted => true,
            Registered::Refused(reason) => {
                let id = reason.strip_prefix("refused, decision ").unwrap();
                assert_eq!(id.len(), 32, "{reason}");
                false
            }
        }
    }

    /// Where its record lies.
    fn place(&self) -> String {
        reserved::ctl_kem(self.id.tag(), &self.seed.public())
    }
}

/// What a workload reads there.
async fn read(client: &Client, subject: &str) -> Option<Bytes> {
    let get = reserved::direct_get(subject);
    let answer = client.request(get, "".into()).await.unwrap();
    answer.status.is_none().then_some(answer.payload)
}

async fn records(bus: &Bus) -> u64 {
    let context = async_nats::jetstream::new(bus.js_client().await);
    let stream = context.get_stream(reserved::CTL_STREAM).await.unwrap();
    let info = stream.info_with_subjects(reserved::CTL_KEM_ALL).await;
    let subjects = info.unwrap().map(|subject| subject.unwrap().1 as u64);
    subjects.collect::<Vec<_>>().await.iter().sum()
}

#[tokio::test]
async fn a_workload_hands_in_its_keys_and_everybody_reads_them() {
    let bus = Bus::start(POLICY).await;
    let orders = Asker::connect(&bus, "orders").await;
    let mallory = bus.raw_client("mallory").await;
    let mut news = mallory.subscribe(reserved::NEWS_ALL).await.unwrap();
    assert_eq!(read(&mallory, &orders.place()).await, None);

    let record = orders.record(1);
    assert!(orders.hand_in(&record).await);
    assert_eq!(read(&mallory, &orders.place()).await.unwrap(), record);
    let told = timeout(Duration::from_secs(5), news.next()).await;
    let told = told.unwrap().unwrap();
    let place = reserved::news_kem(orders.id.tag(), &orders.seed.public());
    assert_eq!(told.subject.as_str(), place);
    assert_eq!(told.payload, record);

    // Replicas hand in the same; nothing is written and nobody is told again.
    for _ in 0..5 {
        assert!(orders.hand_in(&record).await);
    }
    assert!(orders.hand_in(&orders.record(2)).await);
    let told = timeout(Duration::from_secs(5), news.next()).await;
    assert_eq!(told.unwrap().unwrap().payload, orders.record(2));
}

#[tokio::test]
async fn each_nkey_of_a_workload_has_a_record_of_its_own() {
    let bus = Bus::start(POLICY).await;
    let orders = Asker::connect(&bus, "orders").await;
    let spare = Asker {
        client: bus
            .raw_client_with("orders", bus.seed("spare"))
            .await
            .unwrap(),
        id: orders.id.clone(),
        seed: bus.seed("spare"),
    };
    assert!(orders.hand_in(&orders.record(1)).await);
    assert!(spare.hand_in(&spare.record(1)).await);
    for one in [&orders, &spare] {
        let lies = read(&orders.client, &one.place()).await.unwrap();
        assert_eq!(lies, one.record(1));
    }
    assert_eq!(records(&bus).await, 2);
}

#[tokio::test]
async fn attack_28_nobody_hands_in_keys_for_another_workload() {
    let bus = Bus::start(POLICY).await;
    let orders = Asker::connect(&bus, "orders").await;
    let mallory = Asker::connect(&bus, "mallory").await;
    let stranger = NkeySeed::from_random(NkeyKind::User, &[7; 32]).unwrap();
    // On her own subject, the only one that nats-server lets her use.
    for (what, record) in [
        ("another's record", orders.record(1)),
        (
            "another's name, her own nkey",
            KemRecord::sign(&mallory.seed, &orders.id, 1),
        ),
        (
            "her own name, another's nkey",
            KemRecord::sign(&orders.seed, &mallory.id, 1),
        ),
        (
            "an nkey that the policy does not name",
            KemRecord::sign(&stranger, &mallory.id, 1),
        ),
        ("nothing", Vec::new()),
        ("json", b"{}".to_vec()),
        ("too much", vec![0x92; 100_000]),
    ] {
        assert!(!mallory.hand_in(&record).await, "{what}");
    }
    let good = mallory.record(1);
    for position in (0..good.len()).step_by(31) {
        let mut bad = good.clone();
        bad[position] ^= 1;
        assert!(!mallory.hand_in(&bad).await, "byte {position}");
    }
    let mut socket = bus.raw_socket("mallory").await;
    let theirs = reserved::broker_kem(orders.id.tag());
    assert!(socket.is_refused(&format!("PUB {theirs} 0\r\n")).await);
    assert_eq!(records(&bus).await, 0);
    assert!(!orders.hand_in(&good).await);
}

#[tokio::test]
async fn attack_28_older_keys_do_not_replace_newer_ones() {
    let bus = Bus::start(POLICY).await;
    let orders = Asker::connect(&bus, "orders").await;
    assert!(orders.hand_in(&orders.record(5)).await);
    for version in [0, 1, 4] {
        assert!(!orders.hand_in(&orders.record(version)).await, "{version}");
    }
    let lies = read(&orders.client, &orders.place()).await.unwrap();
    assert_eq!(lies, orders.record(5));
    assert!(orders.hand_in(&orders.record(6)).await);
}

#[tokio::test]
async fn what_somebody_else_put_there_blocks_nobody() {
    let bus = Bus::start(POLICY).await;
    let orders = Asker::connect(&bus, "orders").await;
    let mallory = Asker::connect(&bus, "mallory").await;
    // As who holds a broker's connection could.
    for forged in [
        b"rubbish".to_vec(),
        KemRecord::sign(&mallory.seed, &orders.id, u64::MAX),
        mallory.record(u64::MAX),
    ] {
        bus.replace_control_record(&orders.place(), forged.into())
            .await;
        assert!(orders.hand_in(&orders.record(1)).await);
        let lies = read(&orders.client, &orders.place()).await.unwrap();
        assert_eq!(lies, orders.record(1));
    }
}

#[tokio::test]
async fn a_workload_that_hands_in_without_end_is_refused_and_others_are_not() {
    let bus = Bus::start(POLICY).await;
    let orders = Asker::connect(&bus, "orders").await;
    let mallory = Asker::connect(&bus, "mallory").await;
    let record = mallory.record(1);
    let flood = (0..150).map(|_| mallory.hand_in(&record));
    let accepted = futures_util::future::join_all(flood).await;
    let accepted = accepted.into_iter().filter(|yes| *yes).count();
    assert!((64..100).contains(&accepted), "{accepted}");
    assert!(orders.hand_in(&orders.record(1)).await);
}
