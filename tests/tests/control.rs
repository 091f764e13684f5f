//! The control plane: what workloads can learn, and who gets a credential.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{Client, Message};
use bulla_broker::callout::Group;
use bulla_envelope::{Credential, RequestDraft, SignedPolicy, TrustBundle};
use bulla_identity::{UnixMillis, Verified, WorkloadId, reserved};
use bulla_keyring::{AuthorityKey, AuthorityRole, NkeySeed, SigningKey};
use bulla_sdk::broker_protocol::{Challenge, Issued};
use bulla_tests::{Bus, BusOptions};
use futures_util::StreamExt as _;
use tokio::time::timeout;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.gateway]
attest = [{ nkey = "@gateway@" }]
mints = true
[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.billing]
attest = [{ nkey = "@billing@" }]

[[allow]]
id  = "gateway-creates"
who = ["gateway"]
may = ["request"]
on  = ["orders.create"]
[[allow]]
id  = "orders-serves"
who = ["orders"]
may = ["serve"]
on  = ["orders.create"]
[[allow]]
id  = "billing-listens"
who = ["billing"]
may = ["subscribe"]
on  = ["orders.created"]
"#;

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap())
}

fn root(bus: &Bus) -> AuthorityKey {
    let text = std::fs::read_to_string(bus.root_file()).unwrap();
    AuthorityKey::parse(AuthorityRole::Root, &text).unwrap()
}

async fn bundle(bus: &Bus, client: &Client) -> Verified<TrustBundle> {
    let bytes = direct_get(client, reserved::CTL_BUNDLE).await.payload;
    let domain = bus.policy().trust_domain();
    let key = root(bus);
    TrustBundle::open(
        &bytes,
        &[*key.verifying_key()],
        domain,
        now(),
        Duration::ZERO,
    )
    .unwrap()
}

async fn direct_get(client: &Client, subject: &str) -> Message {
    client
        .request(reserved::direct_get(subject), "".into())
        .await
        .unwrap()
}

/// Asks for a challenge on the subject of `asker`.
async fn challenge(client: &Client, asker: &WorkloadId) -> (String, [u8; 32]) {
    let subject = reserved::broker_challenge(asker.tag());
    let answer = client.request(subject, "".into()).await.unwrap();
    let Challenge {
        broker_id,
        challenge,
        ..
    } = Challenge::decode(&answer.payload).unwrap();
    (broker_id, challenge)
}

struct Ask<'a> {
    workload: &'a WorkloadId,
    challenge: [u8; 32],
    countersigner: Option<&'a NkeySeed>,
    token_key: Option<&'a SigningKey>,
}

impl Ask<'_> {
    fn sign(&self) -> Vec<u8> {
        RequestDraft {
            workload: self.workload,
            message_key: &SigningKey::from_seed(&[7; 32]),
            process_keys: None,
            token_key: self.token_key,
            instance: [1; 16],
            challenge: self.challenge,
            requested_at: now(),
        }
        .sign(self.countersigner)
    }

    async fn send(&self, client: &Client, broker: &str) -> Issued {
        let subject = reserved::broker_credential(self.workload.tag(), broker);
        ask(client, subject, self.sign()).await
    }
}

async fn ask(client: &Client, subject: String, request: Vec<u8>) -> Issued {
    let answer = client.request(subject, request.into()).await.unwrap();
    Issued::decode(&answer.payload).unwrap()
}

/// A refusal says nothing but the decision's id.
fn is_refusal(answer: &Issued) -> bool {
    match answer {
        Issued::Credential(_) => false,
        Issued::Refused(reason) => {
            let id = reason.strip_prefix("refused, decision ").unwrap();
            assert_eq!(id.len(), 32, "{reason}");
            true
        }
    }
}

fn credential(answer: Issued) -> Vec<u8> {
    match answer {
        Issued::Credential(bytes) => bytes,
        Issued::Refused(reason) => panic!("{reason}"),
    }
}

#[tokio::test]
async fn bundle_and_policy_can_be_read_and_verified_by_a_workload() {
    let bus = Bus::start(POLICY).await;
    let client = bus.raw_client("billing").await;
    let bundle = bundle(&bus, &client).await;
    let bytes = direct_get(&client, reserved::CTL_POLICY).await.payload;
    let signed = SignedPolicy::open(&bytes, &bundle, now(), Duration::ZERO).unwrap();
    assert_eq!(signed.revision, 1);
    assert!(signed.text.contains("gateway-creates"));
}

#[tokio::test]
async fn an_honest_process_gets_a_credential_that_everybody_can_find() {
    let bus = Bus::start(POLICY).await;
    let client = bus.raw_client("orders").await;
    let billing = bus.raw_client("billing").await;
    let mut news = billing.subscribe(reserved::NEWS_ALL).await.unwrap();
    // Its subscription is in force once an answer of the server came back.
    let bundle = bundle(&bus, &billing).await;

    let orders = bus.workload("orders");
    let (broker, challenge) = challenge(&client, &orders).await;
    let seed = bus.seed("orders");
    let ask = Ask {
        workload: &orders,
        challenge,
        countersigner: Some(&seed),
        token_key: None,
    };
    let issued = credential(ask.send(&client, &broker).await);
    let credential = Credential::decode(&issued).unwrap();
    let id = credential.id().to_hex();
    let verified = credential
        .verify(&bundle, &[seed.public()], now(), Duration::ZERO)
        .unwrap();
    assert_eq!(*verified.workload(), orders);

    let stored = direct_get(&billing, &reserved::ctl_credential(&id)).await;
    assert_eq!(stored.payload, issued);
    let told = timeout(Duration::from_secs(5), news.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told.subject.as_str(), format!("$BULLA.NEWS.CRED.{id}"));
    assert_eq!(told.payload, issued);
}

#[tokio::test]
async fn a_workload_gets_no_credential_for_another() {
    let bus = Bus::start(POLICY).await;
    let client = bus.raw_client("orders").await;
    let orders = bus.workload("orders");
    let billing = bus.workload("billing");
    let own = bus.seed("orders");
    let (broker, challenge) = challenge(&client, &orders).await;

    // Its own subject, another workload's name.
    let foreign = Ask {
        workload: &billing,
        challenge,
        countersigner: Some(&own),
        token_key: None,
    };
    let subject = reserved::broker_credential(orders.tag(), &broker);
    assert!(is_refusal(&ask(&client, subject, foreign.sign()).await));
    // Another workload's subject: nats-server does not let it through.
    let mut socket = bus.raw_socket("orders").await;
    let subject = reserved::broker_credential(billing.tag(), &broker);
    assert!(socket.is_refused(&format!("PUB {subject} 0\r\n")).await);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_refused() {
    let bus = Bus::start(POLICY).await;
    let client = bus.raw_client("orders").await;
    let orders = bus.workload("orders");
    let own = bus.seed("orders");
    let other = bus.seed("billing");
    let (broker, challenge) = challenge(&client, &orders).await;
    let good = Ask {
        workload: &orders,
        challenge,
        countersigner: Some(&own),
        token_key: None,
    };
    let refused = async |ask: &Ask<'_>| is_refusal(&ask.send(&client, &broker).await);

    assert!(
        refused(&Ask {
            countersigner: None,
            ..good
        })
        .await,
        "no countersignature"
    );
    assert!(
        refused(&Ask {
            countersigner: Some(&other),
            ..good
        })
        .await,
        "another's nkey"
    );
    assert!(
        refused(&Ask {
            challenge: [0; 32],
            ..good
        })
        .await,
        "no challenge of ours"
    );
    let token_key = SigningKey::from_seed(&[8; 32]);
    let minting = Ask {
        token_key: Some(&token_key),
        ..good
    };
    assert!(refused(&minting).await, "this workload may not mint");
    let subject = reserved::broker_credential(orders.tag(), &broker);
    for garbage in [vec![], vec![0; 10], vec![0xff; 5_000], b"{}".to_vec()] {
        assert!(is_refusal(&ask(&client, subject.clone(), garbage).await));
    }
    assert!(!refused(&good).await, "the good one still passes");
}

#[tokio::test]
async fn a_workload_that_mints_gets_its_token_key_certified() {
    let bus = Bus::start(POLICY).await;
    let client = bus.raw_client("gateway").await;
    let gateway = bus.workload("gateway");
    let seed = bus.seed("gateway");
    let (broker, challenge) = challenge(&client, &gateway).await;
    let token_key = SigningKey::from_seed(&[8; 32]);
    let ask = Ask {
        workload: &gateway,
        challenge,
        countersigner: Some(&seed),
        token_key: Some(&token_key),
    };
    let issued = credential(ask.send(&client, &broker).await);
    let credential = Credential::decode(&issued).unwrap();
    let bundle = bundle(&bus, &client).await;
    let verified = credential
        .verify(&bundle, &[seed.public()], now(), Duration::ZERO)
        .unwrap();
    assert_eq!(verified.token_key(), Some(token_key.verifying_key()));
}

#[tokio::test]
async fn a_challenge_is_good_at_its_own_broker_only() {
    let mut options = BusOptions::new(POLICY);
    options.brokers = vec![Group::A, Group::B];
    let bus = Bus::start_with(options).await;
    let client = bus.raw_client("orders").await;
    let orders = bus.workload("orders");
    let seed = bus.seed("orders");
    let (first, challenge_of_first) = challenge(&client, &orders).await;
    let second = loop {
        let (broker, _) = challenge(&client, &orders).await;
        if broker != first {
            break broker;
        }
    };
    let ask = Ask {
        workload: &orders,
        challenge: challenge_of_first,
        countersigner: Some(&seed),
        token_key: None,
    };
    assert!(is_refusal(&ask.send(&client, &second).await));
    assert!(!is_refusal(&ask.send(&client, &first).await));
}

#[tokio::test]
async fn a_credential_disappears_when_it_has_expired() {
    let mut options = BusOptions::new(POLICY);
    options.credential_lifetime = Duration::from_secs(2);
    let bus = Bus::start_with(options).await;
    let client = bus.raw_client("orders").await;
    let orders = bus.workload("orders");
    let seed = bus.seed("orders");
    let (broker, challenge) = challenge(&client, &orders).await;
    let ask = Ask {
        workload: &orders,
        challenge,
        countersigner: Some(&seed),
        token_key: None,
    };
    let issued = credential(ask.send(&client, &broker).await);
    let credential = Credential::decode(&issued).unwrap();
    let subject = reserved::ctl_credential(&credential.id().to_hex());
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while direct_get(&client, &subject).await.payload == issued {
        assert!(std::time::Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn an_older_policy_does_not_replace_a_newer_one() {
    let mut bus = Bus::start(POLICY).await;
    // The operator signs revision 2; a broker starts with it.
    let first = std::fs::read(bus.provision().path("trust/policy")).unwrap();
    let signed = {
        let client = bus.raw_client("orders").await;
        let bundle = bundle(&bus, &client).await;
        SignedPolicy::open(&first, &bundle, now(), Duration::ZERO).unwrap()
    };
    let newer = format!("{}\n# changed\n", signed.text);
    let (_, revision) = bus.provision().sign_policy("policy.toml", &newer).unwrap();
    assert_eq!(revision, 2);
    bus.add_broker(Group::A).await;
    // Another broker still has the old file.
    std::fs::write(bus.provision().path("trust/policy"), &first).unwrap();
    bus.add_broker(Group::B).await;
    let client = bus.raw_client("orders").await;
    let bundle = bundle(&bus, &client).await;
    let bytes = direct_get(&client, reserved::CTL_POLICY).await.payload;
    let held = SignedPolicy::open(&bytes, &bundle, now(), Duration::ZERO).unwrap();
    assert_eq!(held.revision, 2);
}

#[tokio::test]
async fn a_workload_that_asks_without_end_is_refused_and_others_are_not() {
    let bus = Bus::start(POLICY).await;
    let client = bus.raw_client("orders").await;
    let orders = bus.workload("orders");
    let seed = bus.seed("orders");
    let (broker, challenge_of_orders) = challenge(&client, &orders).await;
    let good = Ask {
        workload: &orders,
        challenge: challenge_of_orders,
        countersigner: Some(&seed),
        token_key: None,
    };
    // What is refused for another reason counts too.
    let subject = reserved::broker_credential(orders.tag(), &broker);
    let flood = (0..150).map(|_| ask(&client, subject.clone(), vec![0]));
    assert!(
        futures_util::future::join_all(flood)
            .await
            .iter()
            .all(is_refusal)
    );
    assert!(is_refusal(&good.send(&client, &broker).await));

    let billing = bus.workload("billing");
    let other = bus.raw_client("billing").await;
    let (broker_of_billing, challenge_of_billing) = challenge(&other, &billing).await;
    let theirs = Ask {
        workload: &billing,
        challenge: challenge_of_billing,
        countersigner: Some(&bus.seed("billing")),
        token_key: None,
    };
    assert!(!is_refusal(&theirs.send(&other, &broker_of_billing).await));

    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while is_refusal(&good.send(&client, &broker).await) {
        assert!(std::time::Instant::now() < deadline, "never granted again");
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
}

#[tokio::test]
async fn workloads_have_no_jetstream() {
    let bus = Bus::start(POLICY).await;
    let sys = bus.sys_client().await;
    let request = r#"{"accounts":true}"#;
    let answer = sys
        .request("$SYS.REQ.SERVER.PING.JSZ", request.into())
        .await
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    let accounts = answer["data"]["account_details"].as_array().unwrap();
    let names: Vec<_> = accounts.iter().map(|account| &account["name"]).collect();
    assert_eq!(names, ["JS"], "{answer:#}");
}
