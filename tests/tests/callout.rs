//! Who gets in, as whom, and what nats-server itself then enforces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "callout/handshake.rs"]
mod handshake;
#[path = "callout/tokens.rs"]
mod tokens;

use std::time::{Duration, Instant};

use bulla_broker::callout::Group;
use bulla_identity::{NkeyKind, reserved};
use bulla_keyring::NkeySeed;
use bulla_tests::{Bus, BusOptions, RawSocket};
use serde_json::{Value, json};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.billing]
attest = [{ nkey = "@billing@" }]

[subject."orders.created"]
protect = "signed"

[[allow]]
id  = "orders-tell"
who = ["orders"]
may = ["publish"]
on  = ["orders.created"]

[[allow]]
id  = "billing-listens"
who = ["billing"]
may = ["subscribe"]
on  = ["orders.created"]

[[allow]]
id  = "orders-asks-billing"
who = ["orders"]
may = ["request"]
on  = ["billing.quote"]

[[allow]]
id  = "billing-quotes"
who = ["billing"]
may = ["serve"]
on  = ["billing.quote"]
"#;

fn stranger() -> NkeySeed {
    let mut random = [0; 32];
    getrandom::fill(&mut random).unwrap();
    NkeySeed::from_random(NkeyKind::User, &random).unwrap()
}

/// Every client connection that the server knows, as it describes it.
async fn connections(bus: &Bus) -> Vec<Value> {
    let request = json!({ "auth": true }).to_string();
    let answer = bus
        .sys_client()
        .await
        .request("$SYS.REQ.SERVER.PING.CONNZ", request.into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["data"]["connections"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_workload_is_placed_in_app_under_its_short_name() {
    let bus = Bus::start(POLICY).await;
    let _orders = bus.raw_client("orders").await;
    let connections = connections(&bus).await;
    let of = |account: &str| {
        connections
            .iter()
            .filter(|connection| connection["account"] == account)
            .collect::<Vec<_>>()
    };
    let app = of("APP");
    assert_eq!(app.len(), 1, "{connections:#?}");
    // With a mark of what it may do.
    let user = app[0]["authorized_user"].as_str().unwrap();
    let (name, mark) = user.split_once('~').unwrap();
    assert_eq!((name, mark.len()), ("orders", 16), "{user}");
    // The broker's own users pass without a callout, each in its account.
    assert_eq!(of("AUTH").len(), 1, "{connections:#?}");
    assert_eq!(of("JS").len(), 1, "{connections:#?}");
}

#[tokio::test]
async fn an_unknown_nkey_is_refused_though_its_signature_is_right() {
    let bus = Bus::start(POLICY).await;
    assert!(bus.raw_client_with("orders", stranger()).await.is_err());
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let bus = Bus::start(POLICY).await;
    let mut socket = RawSocket::connect(bus.nats_url()).await;
    let mut login = RawSocket::login_of(&stranger(), socket.nonce());
    login["nkey"] = bus.seed("orders").public().to_string().into();
    assert!(!socket.log_in(&login).await);
}

#[tokio::test]
async fn a_replayed_signature_is_refused() {
    let bus = Bus::start(POLICY).await;
    let mut first = RawSocket::connect(bus.nats_url()).await;
    let login = RawSocket::login_of(&bus.seed("orders"), first.nonce());
    assert!(first.log_in(&login).await);
    // What was seen on the wire, sent again: another connection, another nonce.
    let mut second = RawSocket::connect(bus.nats_url()).await;
    assert_ne!(first.nonce(), second.nonce());
    assert!(!second.log_in(&login).await);
    // The first connection's end does not make it good again.
    drop(first);
    let mut third = RawSocket::connect(bus.nats_url()).await;
    assert!(!third.log_in(&login).await);
}

#[tokio::test]
async fn a_signature_over_an_empty_nonce_is_refused() {
    let bus = Bus::start(POLICY).await;
    let mut socket = RawSocket::connect(bus.nats_url()).await;
    assert!(!socket.nonce().is_empty(), "the server offers a nonce");
    let login = RawSocket::login_of(&bus.seed("orders"), "");
    assert!(!socket.log_in(&login).await);
}

#[tokio::test]
async fn without_an_nkey_nobody_gets_in() {
    let bus = Bus::start(POLICY).await;
    for login in [
        json!({}),
        json!({ "user": "orders", "pass": "orders" }),
        json!({ "auth_token": "orders" }),
        json!({ "jwt": "eyJ.eyJ.x", "sig": "AAAA" }),
        json!({ "nkey": bus.seed("orders").public().to_string() }),
    ] {
        let mut socket = RawSocket::connect(bus.nats_url()).await;
        assert!(!socket.log_in(&login).await, "{login}");
    }
}

#[tokio::test]
async fn a_brokers_user_needs_the_brokers_key() {
    let bus = Bus::start(POLICY).await;
    for user in ["broker-auth", "broker-js", "broker-sys"] {
        let path = bus.provision().path(&format!("keys/{user}.nk"));
        let seed = NkeySeed::parse(std::fs::read_to_string(path).unwrap().trim()).unwrap();
        let mut socket = RawSocket::connect(bus.nats_url()).await;
        let mut login = RawSocket::login_of(&bus.seed("orders"), socket.nonce());
        login["nkey"] = seed.public().to_string().into();
        assert!(!socket.log_in(&login).await, "{user}");
    }
}

#[tokio::test]
async fn another_workloads_inbox_cannot_be_read() {
    let bus = Bus::start(POLICY).await;
    let mut billing = bus.raw_socket("billing").await;
    let own = bus.workload("billing").tag();
    let other = bus.workload("orders").tag();
    for subject in [
        format!("{}.>", reserved::inbox_peers(other)),
        format!("{}.>", reserved::inbox_server(other)),
        format!("{}.x", reserved::inbox_peers(other)),
        "_INBOX.>".to_owned(),
        "_INBOX.*.p.>".to_owned(),
        ">".to_owned(),
        "*.*.p.>".to_owned(),
    ] {
        assert!(
            billing.is_refused(&format!("SUB {subject} 1")).await,
            "{subject}"
        );
        assert!(
            billing.is_refused(&format!("SUB {subject} q 2")).await,
            "{subject} in a group"
        );
    }
    let subject = format!("{}.>", reserved::inbox_peers(own));
    assert!(!billing.is_refused(&format!("SUB {subject} 3")).await);
}

#[tokio::test]
async fn nats_server_refuses_what_the_policy_does_not_grant() {
    let bus = Bus::start(POLICY).await;
    let mut billing = bus.raw_socket("billing").await;
    let tag = bus.workload("orders").tag();
    let inbox = reserved::inbox_server(tag);
    for subject in [
        "orders.created",
        "anything",
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "$JS.API.STREAM.DELETE.BULLA_CTL",
        "$JS.API.STREAM.NAMES",
        "$BULLA.CTL.POLICY",
        "$BULLA.NEWS.POLICY",
        &format!("{inbox}.x"),
        &reserved::broker_challenge(tag),
        &reserved::broker_credential(tag, "x"),
    ] {
        assert!(
            billing.is_refused(&format!("PUB {subject} 0\r\n")).await,
            "{subject}"
        );
    }
    for subject in [
        "orders.>",
        "$SYS.>",
        "$BULLA.CTL.>",
        "$BULLA.BROKER.>",
        "billing.quote other",
    ] {
        assert!(
            billing.is_refused(&format!("SUB {subject} 1")).await,
            "{subject}"
        );
    }
}

#[tokio::test]
async fn a_plain_subscriber_cannot_join_a_queue_group() {
    let bus = Bus::start(POLICY).await;
    let mut billing = bus.raw_socket("billing").await;
    assert!(!billing.is_refused("SUB orders.created 1").await);
    assert!(billing.is_refused("SUB orders.created orders 2").await);
    assert!(billing.is_refused("SUB orders.created a.b 3").await);
    // Serving is in the workload's own group and in no other.
    assert!(!billing.is_refused("SUB billing.quote billing 4").await);
    assert!(billing.is_refused("SUB billing.quote 5").await);
}

#[tokio::test]
async fn with_two_brokers_one_may_be_killed() {
    let mut options = BusOptions::new(POLICY);
    options.brokers = vec![Group::A, Group::B];
    let mut bus = Bus::start_with(options).await;
    let _before = bus.raw_client("orders").await;
    bus.kill_broker(bus.broker(0)).await;
    for _ in 0..20 {
        let started = Instant::now();
        let _client = bus.raw_client("orders").await;
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    // And back again, the other way round.
    let back = bus.add_broker(Group::A).await;
    bus.stop_broker(bus.broker(1)).await;
    let _after = bus.raw_client("billing").await;
    bus.kill_broker(back).await;
    assert!(
        bus.raw_client_with("orders", bus.seed("orders"))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn with_two_groups_a_hung_broker_costs_nothing() {
    let mut options = BusOptions::new(POLICY);
    options.brokers = vec![Group::A, Group::B];
    let bus = Bus::start_with(options).await;
    let _hung = bus.hung_broker("bulla-a").await;
    for _ in 0..40 {
        let started = Instant::now();
        let _client = bus.raw_client("orders").await;
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn without_any_broker_nobody_gets_in() {
    let mut options = BusOptions::new(POLICY);
    options.brokers = vec![];
    let mut bus = Bus::start_with(options).await;
    assert!(
        bus.raw_client_with("orders", bus.seed("orders"))
            .await
            .is_err()
    );
    bus.add_broker(Group::Both).await;
    let _client = bus.raw_client("orders").await;
}

/// What `JS` exports is for `APP`: an account that somebody adds to the server cannot take
/// it.
#[tokio::test]
async fn what_the_account_of_streams_exports_is_for_workloads_alone() {
    let bus = Bus::start(POLICY).await;
    let config = bus.provision().path("nats-server.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    let exports = text.split("exports: [").nth(1).unwrap();
    let exports = exports.split("\n    ]").next().unwrap();
    let mut tried = 0;
    for export in exports.lines().filter(|line| line.contains('"')) {
        let kind = match export.contains("stream: \"") {
            true => "stream",
            false => "service",
        };
        let subject = export.split('"').nth(1).unwrap();
        let thief = format!(
            "accounts {{\n  THIEF {{\n    users: [ {{ user: thief, password: thief }} ]\n    \
             imports: [ {{ {kind}: {{ account: JS, subject: \"{subject}\" }}, to: \"stolen.>\" }} ]\n  }}\n"
        );
        let public = export.replace(", accounts: [ APP ]", "");
        let open = text.replacen("accounts {\n", &thief, 1);
        assert_ne!(open, text);
        assert!(
            !is_accepted(&bus, &open).await,
            "anybody may have `{subject}`"
        );
        // It is refused for that reason.
        let open = open.replace(export, &public);
        assert!(is_accepted(&bus, &open).await, "`{subject}`");
        tried += 1;
    }
    assert!(tried >= 14, "{tried}");
}

/// Whether nats-server takes a configuration, which it does not run.
async fn is_accepted(bus: &Bus, config: &str) -> bool {
    let file = bus.provision().path("tried.conf");
    std::fs::write(&file, config).unwrap();
    let binary = bulla_testing::engine().await.binary();
    let tried = tokio::process::Command::new(binary)
        .arg("-t")
        .arg("--config")
        .arg(&file)
        .output()
        .await
        .unwrap();
    tried.status.success()
}
