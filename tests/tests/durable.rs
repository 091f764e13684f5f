//! The policy's streams on a real bus: brokers make them, and workloads reach
//! exactly their own part of JetStream, through the account's imports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use async_nats::{Client, Message};
use bulla_identity::reserved;
use bulla_tests::Bus;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.mail]
attest = [{ nkey = "@mail@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]

[stream.ORDERS]
subjects = ["orders.*.created", "orders.*.paid"]

[subject."orders.>"]
replay = "stream"
max_age = "2h"

[[allow]]
id = "shop-appends"
who = ["shop"]
may = ["append"]
on = ["orders.{id}.created"]

[[allow]]
id = "mail-consumes"
who = ["mail"]
may = ["consume"]
on = ["ORDERS.mail"]

[[allow]]
id = "mallory-consumes-too"
who = ["mallory"]
may = ["consume"]
on = ["ORDERS.mallory"]
"#;

const LIMIT: Duration = Duration::from_secs(5);

async fn ask(bus: &Bus, client: &Client, workload: &str, on: &str, body: Value) -> Option<Message> {
    let inbox = format!(
        "{}.{}",
        reserved::inbox_server(bus.workload(workload).tag()),
        client.new_inbox().rsplit('.').next().unwrap()
    );
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    client
        .publish_with_reply(on.to_owned(), inbox, body.into())
        .await
        .unwrap();
    timeout(Duration::from_millis(700), answers.next())
        .await
        .ok()?
}

fn told(message: &Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

async fn state(js: &Client) -> (u64, u64) {
    let info = js
        .request("$JS.API.STREAM.INFO.ORDERS", "".into())
        .await
        .unwrap();
    let info = told(&info);
    let number = |key: &str| info["state"][key].as_u64().unwrap();
    (number("messages"), number("consumer_count"))
}

#[tokio::test]
async fn brokers_make_the_policys_streams_and_consumers() {
    let bus = Bus::start(POLICY).await;
    let js = bus.js_client().await;
    let info = told(
        &js.request("$JS.API.STREAM.INFO.ORDERS", "".into())
            .await
            .unwrap(),
    );
    let config = &info["config"];
    for (key, want) in [
        ("subjects", json!(["orders.*.created", "orders.*.paid"])),
        ("retention", json!("limits")),
        ("storage", json!("file")),
        ("discard", json!("new")),
        ("max_age", json!(7200_u64 * 1_000_000_000)),
        ("duplicate_window", json!(120_u64 * 1_000_000_000)),
        ("deny_delete", json!(true)),
        ("deny_purge", json!(true)),
        ("allow_rollup_hdrs", json!(false)),
        ("allow_msg_ttl", json!(false)),
        ("max_msgs_per_subject", json!(-1)),
    ] {
        assert_eq!(config[key], want, "{key}: {config}");
    }
    assert_eq!(state(&js).await, (0, 2));
}

#[tokio::test]
async fn brokers_follow_new_policies_and_change_no_stream_that_is_there() {
    let bus = Bus::start(POLICY).await;
    let js = bus.js_client().await;
    let jetstream = async_nats::jetstream::new(js.clone());
    let mut changed = jetstream
        .get_stream("ORDERS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    changed.max_age = Duration::from_secs(600);
    jetstream.update_stream(changed).await.unwrap();
    let more = r#"
        [stream.JOBS]
        subjects = ["jobs.*"]
        retention = "workqueue"
        [subject."jobs.*"]
        replay = "stream"
        max_age = "1h"
        [[allow]]
        id = "mail-works"
        who = ["mail"]
        may = ["consume"]
        on = ["JOBS.mail"]
    "#;
    bus.publish_policy(&format!("{POLICY}{more}")).await;
    let made = async {
        while jetstream
            .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>(
                "mail", "JOBS",
            )
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, made).await.unwrap();
    let jobs = jetstream.get_stream("JOBS").await.unwrap();
    let retention = jobs.cached_info().config.retention;
    assert_eq!(
        retention,
        async_nats::jetstream::stream::RetentionPolicy::WorkQueue
    );
    let orders = jetstream.get_stream("ORDERS").await.unwrap();
    assert_eq!(
        orders.cached_info().config.max_age,
        Duration::from_secs(600)
    );
}

#[tokio::test]
async fn workloads_append_and_consume_through_the_imports() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = (bus.raw_client("shop").await, bus.raw_client("mail").await);
    let ack = ask(&bus, &shop, "shop", "orders.1.created", json!("x"))
        .await
        .unwrap();
    assert_eq!(told(&ack), json!({ "stream": "ORDERS", "seq": 1 }));
    // Not granted, not stored, not there.
    assert!(
        ask(&bus, &shop, "shop", "orders.1.paid", json!("x"))
            .await
            .is_none()
    );
    assert!(
        ask(&bus, &mail, "mail", "orders.1.created", json!("x"))
            .await
            .is_none()
    );

    let next = reserved::consumer_next("ORDERS", "mail");
    let pull = json!({ "batch": 1, "expires": 500_000_000 });
    let got = ask(&bus, &mail, "mail", &next, pull.clone()).await.unwrap();
    assert_eq!(got.subject.as_str(), "orders.1.created");
    let reply = got.reply.clone().unwrap();
    assert!(reply.starts_with("$JS.ACK.ORDERS.mail.1.1.1."), "{reply}");
    // A double ack is answered.
    assert!(
        ask(&bus, &mail, "mail", &reply, Value::Null)
            .await
            .is_some()
    );
    let info = ask(
        &bus,
        &mail,
        "mail",
        &reserved::consumer_info("ORDERS", "mail"),
        Value::Null,
    )
    .await;
    let info = told(&info.unwrap());
    assert_eq!(info["ack_floor"]["stream_seq"], 1, "{info}");
    let info = ask(
        &bus,
        &mail,
        "mail",
        &reserved::stream_info("ORDERS"),
        Value::Null,
    )
    .await;
    assert_eq!(told(&info.unwrap())["config"]["name"], "ORDERS");

    // Nothing of it as another consumer, or another workload.
    let other = reserved::consumer_next("ORDERS", "mallory");
    assert!(
        ask(&bus, &mail, "mail", &other, pull.clone())
            .await
            .is_none()
    );
    assert!(ask(&bus, &shop, "shop", &next, pull).await.is_none());
    let info = reserved::stream_info("ORDERS");
    assert!(ask(&bus, &shop, "shop", &info, Value::Null).await.is_none());
}

#[tokio::test]
async fn attack_17_answers_aimed_at_streams_change_nothing() {
    let bus = Bus::start(POLICY).await;
    let js = bus.js_client().await;
    let (shop, mail) = (bus.raw_client("shop").await, bus.raw_client("mail").await);
    for id in 1..=3 {
        let on = format!("orders.{id}.created");
        assert!(ask(&bus, &shop, "shop", &on, json!("x")).await.is_some());
    }
    let next = reserved::consumer_next("ORDERS", "mail");
    let pull = json!({ "batch": 1, "expires": 500_000_000 });
    let held = ask(&bus, &mail, "mail", &next, pull)
        .await
        .unwrap()
        .reply
        .unwrap();
    let consumer = async || {
        let info = js
            .request("$JS.API.CONSUMER.INFO.ORDERS.mail", "".into())
            .await
            .unwrap();
        let info = told(&info);
        [
            info["num_ack_pending"].clone(),
            info["num_pending"].clone(),
            info["num_waiting"].clone(),
            info["delivered"]["consumer_seq"].clone(),
        ]
    };
    let before = (state(&js).await, consumer().await);

    let mallory = bus.raw_client("mallory").await;
    for aim in [
        "orders.9.created",
        held.as_str(),
        &next,
        "$BULLA.STREAM.INFO.ORDERS",
        "$BULLA.CONSUMER.INFO.ORDERS.mail",
        "$JS.API.STREAM.DELETE.ORDERS",
        "$JS.API.STREAM.PURGE.ORDERS",
        "$JS.API.CONSUMER.DELETE.ORDERS.mail",
        "$BULLA.CLAIMS.x.y",
    ] {
        for on in [
            reserved::consumer_next("ORDERS", "mallory"),
            format!("{}.1.1.1.1.1", reserved::consumer_ack("ORDERS", "mallory")),
            reserved::consumer_info("ORDERS", "mallory"),
            reserved::stream_info("ORDERS"),
        ] {
            for body in [r#"{"batch":1,"no_wait":true}"#, "", "+ACK", "+NXT", "junk"] {
                let sent = mallory.publish_with_reply(on.clone(), aim.to_owned(), body.into());
                sent.await.unwrap();
            }
        }
    }
    mallory.flush().await.unwrap();
    let _ = mallory.request(reserved::BARRIER, "".into()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((state(&js).await, consumer().await), before);
}
