//! Buckets on a real bus: what a workload reaches of them, and what it does not.

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use bulla_broker::callout::Group;
use bulla_identity::reserved;
use bulla_tests::{Bus, BusOptions};
use serde_json::json;

use crate::client::{Client, Delivered, question};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.mail]
attest = [{ nkey = "@mail@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]
[workload.viewer]
attest = [{ nkey = "@viewer@" }]

[bucket.carts]
history = 2
[bucket.notes]

[[allow]]
id = "shop-has-carts"
who = ["shop"]
may = ["read", "write"]
on = ["carts.>"]

[[allow]]
id = "mail-reads-addresses"
who = ["mail"]
may = ["read"]
on = ["carts.{user}.address"]

[[allow]]
id = "mallory-has-notes"
who = ["mallory"]
may = ["read", "write"]
on = ["carts.mallory.>", "notes.mallory"]

[[allow]]
id = "viewer-looks"
who = ["viewer"]
may = ["manage"]
on = ["carts"]
"#;

/// A workload that asks and waits for what comes.
struct Asker {
    client: Client,
    inbox: String,
    asked: u32,
}

impl Asker {
    fn connect(bus: &Bus, name: &str) -> Self {
        let mut client = Client::workload(bus.nats_url(), &bus.seed(name));
        let inbox = reserved::inbox_server(bus.workload(name).tag());
        client.subscribe(&format!("{inbox}.>"), "").unwrap();
        Self {
            client,
            inbox,
            asked: 0,
        }
    }

    /// The answer, or nothing if the server refuses the question.
    fn ask(&mut self, on: &str, body: &str) -> Option<Delivered> {
        self.send(|reply| question(on, reply, body))
    }

    /// The same with a header.
    fn put(&mut self, on: &str, header: &str, body: &str) -> Option<Delivered> {
        let head = format!("NATS/1.0\r\n{header}\r\n\r\n");
        let (len, all) = (head.len(), head.len() + body.len());
        self.send(|reply| format!("HPUB {on} {reply} {len} {all}\r\n{head}{body}"))
    }

    fn send(&mut self, line: impl Fn(&str) -> String) -> Option<Delivered> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        let heard = self.client.send(&line(&reply));
        if !heard.errors.is_empty() {
            return None;
        }
        let mut all = heard.messages;
        let is_it = |m: &Delivered| m.subject == reply;
        if !all.iter().any(is_it) {
            all.extend(self.client.until(|later| later.iter().any(is_it)));
        }
        let answer = all.into_iter().find(is_it);
        Some(answer.expect("an answer to what was let through"))
    }

    /// The newest value of a key.
    fn get(&mut self, bucket: &str, key: &str) -> Option<Delivered> {
        self.ask(&reserved::bucket_direct_get(bucket, key), "")
    }
}

fn key(bucket: &str, key: &str) -> String {
    reserved::bucket_key(bucket, key)
}

fn body(answer: Option<Delivered>) -> String {
    answer.unwrap().body().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_written_read_marked_as_deleted_and_heard_of() {
    let bus = Bus::start(POLICY).await;
    let (mut shop, mut mail) = (Asker::connect(&bus, "shop"), Asker::connect(&bus, "mail"));
    let news = reserved::bucket_news("carts", "*.address");
    let mut ear = Client::workload(bus.nats_url(), &bus.seed("mail"));
    ear.subscribe(&news, "").unwrap();
    for (k, value) in [
        ("ann.address", "here"),
        ("ann.items", "3"),
        ("bob.address", "there"),
    ] {
        let ack = shop.ask(&key("carts", k), value).unwrap();
        assert!(ack.text.contains("KV_carts"), "{ack:?}");
    }
    assert_eq!(body(mail.get("carts", "ann.address")), "here");
    assert_eq!(mail.get("carts", "ann.items"), None);
    let heard = ear.until(|all| all.len() >= 2);
    let heard: Vec<_> = heard.iter().map(|m| (&*m.subject, m.body())).collect();
    assert_eq!(
        heard,
        [
            ("$BULLA.KV.carts.ann.address", "here"),
            ("$BULLA.KV.carts.bob.address", "there")
        ]
    );
    // A deletion is a value like any other, with a header.
    let ack = shop.put(&key("carts", "ann.address"), "KV-Operation: DEL", "");
    assert!(ack.unwrap().text.contains("\"seq\":4"));
    let gone = mail.get("carts", "ann.address").unwrap();
    assert_eq!(
        (gone.header("KV-Operation"), gone.body()),
        (Some("DEL"), "")
    );
    // Compare and set, as clients do.
    let set = |revision: &str| format!("Nats-Expected-Last-Subject-Sequence: {revision}");
    let ack = shop
        .put(&key("carts", "bob.address"), &set("1"), "x")
        .unwrap();
    assert!(ack.text.contains("wrong last sequence: 3"), "{ack:?}");
    let ack = shop.put(&key("carts", "bob.address"), &set("3"), "moved");
    assert!(ack.unwrap().text.contains("\"seq\":5"));
    // Who may read everything lists it in one question.
    let all = reserved::bucket_direct_gets("carts");
    assert!(
        shop.ask(&all, r#"{"multi_last":["$KV.carts.>"]}"#)
            .is_some()
    );
    assert!(
        mail.ask(&all, r#"{"multi_last":["$KV.carts.>"]}"#)
            .is_none()
    );
    assert!(mail.ask(&key("carts", "ann.address"), "x").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_17_no_question_for_a_pattern_reads_beyond_what_is_granted() {
    let bus = Bus::start(POLICY).await;
    let mut shop = Asker::connect(&bus, "shop");
    for k in [
        "ann.address",
        "ann.address.old",
        "ann.items",
        "ann",
        "mallory.x",
        "zoe.items",
    ] {
        assert!(
            shop.ask(&key("carts", k), &format!("value of {k}"))
                .is_some()
        );
    }
    let mut mail = Asker::connect(&bus, "mail");
    // What is newest is nobody's to ask for but who may read it.
    for k in [
        ">",
        "*",
        "*.*",
        "*.>",
        "ann.>",
        "ann.*",
        "*.address.>",
        "ann.items",
        "*.items",
        ">.items",
    ] {
        let got = mail.get("carts", k);
        assert_eq!(got, None, "{k}");
    }
    // A `*` between is answered with what it may read, a `>` between with nothing.
    assert_eq!(body(mail.get("carts", "*.address")), "value of ann.address");
    let odd = mail.get("carts", ">.address").unwrap();
    assert!(odd.text.contains("404"), "{odd:?}");
    let mut mallory = Asker::connect(&bus, "mallory");
    assert_eq!(
        body(mallory.get("carts", "mallory.>")),
        "value of mallory.x"
    );
    for on in [
        reserved::bucket_direct_gets("carts"),
        reserved::bucket_direct_gets("notes"),
        "$JS.API.DIRECT.GET.KV_carts.$KV.notes.mallory".to_owned(),
        "$JS.API.STREAM.MSG.GET.KV_carts".to_owned(),
        "$JS.API.CONSUMER.CREATE.KV_carts.x.$KV.carts.>".to_owned(),
        "$JS.API.CONSUMER.CREATE.KV_carts".to_owned(),
        "$BULLA.STREAM.INFO.KV_carts".to_owned(),
    ] {
        for ask in ["", r#"{"seq":1}"#, r#"{"subjects_filter":">"}"#] {
            assert_eq!(mallory.ask(&on, ask), None, "{on} {ask}");
        }
    }
    for ask in [
        r#"{"seq":1}"#,
        r#"{"seq":1,"next_by_subj":"$KV.carts.>"}"#,
        r#"{"multi_last":["$KV.>"]}"#,
    ] {
        let answer = mallory.ask(&reserved::bucket_direct_get("carts", "mallory.x"), ask);
        assert!(answer.unwrap().text.contains("408"), "{ask}");
    }
}

/// Everything that a header could do to more than the one key.
#[tokio::test(flavor = "multi_thread")]
async fn attack_17_no_header_of_one_key_reaches_another() {
    let bus = Bus::start(POLICY).await;
    let (mut shop, mut mallory) = (
        Asker::connect(&bus, "shop"),
        Asker::connect(&bus, "mallory"),
    );
    assert!(shop.ask(&key("carts", "ann.items"), "3").is_some());
    let own = key("carts", "mallory.x");
    for header in [
        "Nats-Rollup: all",
        "Nats-Rollup: sub",
        "Nats-TTL: 1s",
        "Nats-Incr: +1",
        "Nats-Batch-Id: x\r\nNats-Batch-Sequence: 1",
        "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: $KV.carts.ann.items",
        "KV-Operation: PURGE\r\nNats-Rollup: sub",
    ] {
        let answer = mallory.put(&own, header, "x").unwrap();
        assert!(answer.text.contains("error"), "{header}: {answer:?}");
    }
    // An id that another writer is about to use is forgotten at once.
    assert!(mallory.put(&own, "Nats-Msg-Id: next", "x").is_some());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let ack = shop
        .put(&key("carts", "ann.items"), "Nats-Msg-Id: next", "4")
        .unwrap();
    assert!(!ack.text.contains("duplicate"), "{ack:?}");
    // Keys with wildcards in them are keys of their own.
    for k in ["mallory.>", "mallory.*", "mallory.*.>"] {
        for _ in 0..3 {
            assert!(mallory.ask(&key("carts", k), "junk").is_some());
        }
    }
    for k in [">", "*", "*.items", "ann.>"] {
        assert_eq!(mallory.ask(&key("carts", k), "junk"), None, "{k}");
    }
    assert_eq!(body(shop.get("carts", "ann.items")), "4");
    assert_eq!(body(shop.get("carts", "mallory.x")), "x");
}

/// nats-server does not check where its answers go; where it matters they change
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn attack_17_answers_aimed_at_buckets_change_nothing() {
    let bus = Bus::start(POLICY).await;
    let (mut shop, mut mallory) = (
        Asker::connect(&bus, "shop"),
        Asker::connect(&bus, "mallory"),
    );
    assert!(shop.ask(&key("carts", "ann.items"), "3").is_some());
    assert!(mallory.ask(&key("carts", "mallory.x"), "forged").is_some());
    let js = bus.js_client().await;
    let state = async || {
        let info = js
            .request("$JS.API.STREAM.INFO.KV_carts", "".into())
            .await
            .unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
        (info["state"].clone(), info["config"].clone())
    };
    let before = state().await;
    for aim in [
        "$KV.carts.ann.items",
        "$KV.notes.x",
        "$JS.API.STREAM.PURGE.KV_carts",
        "$JS.API.STREAM.DELETE.KV_carts",
        "$BULLA.STREAM.INFO.KV_carts",
        "$BULLA.BROKER.x.challenge",
    ] {
        for on in [
            reserved::bucket_direct_get("carts", "mallory.x"),
            reserved::bucket_direct_get("carts", "mallory.none"),
        ] {
            for ask in ["", "{}", "junk"] {
                mallory.client.send(&question(&on, aim, ask));
            }
        }
    }
    // An acknowledgement is an answer, too.
    for aim in ["$KV.carts.ann.items", "$JS.API.STREAM.PURGE.KV_carts"] {
        mallory
            .client
            .send(&question(&key("notes", "mallory"), aim, "x"));
    }
    assert_eq!(body(mallory.get("carts", "mallory.x")), "forged");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let after = state().await;
    assert_eq!(after, before);
    assert_eq!(body(shop.get("carts", "ann.items")), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_24_what_is_heard_of_keys_is_what_may_be_read() {
    let bus = Bus::start(POLICY).await;
    for name in ["mail", "mallory", "viewer"] {
        let mut asker = Asker::connect(&bus, name);
        for on in [
            "$KV.>",
            "$KV.carts.>",
            "$BULLA.KV.>",
            "$BULLA.KV.carts.>",
            "$BULLA.KV.*.ann.address",
            "$BULLA.KV.carts.*",
            "$BULLA.KV.carts.ann.items",
            "$JS.API.DIRECT.GET.>",
        ] {
            for group in ["", name, "shop", "x"] {
                let sid = asker.client.subscribe(on, group);
                assert_eq!(sid, None, "{name} hears {on} {group}");
            }
        }
    }
}

/// 26, for the news of keys: nobody hears them in another's place.
#[tokio::test(flavor = "multi_thread")]
async fn attack_26_nobody_takes_the_news_of_keys_from_another() {
    let bus = Bus::start(POLICY).await;
    let (mut shop, mut mail) = (Asker::connect(&bus, "shop"), Asker::connect(&bus, "mail"));
    let news = reserved::bucket_news("carts", "*.address");
    for group in ["shop", "mallory", "x", "*", ">", "mail.x"] {
        assert_eq!(mail.client.subscribe(&news, group), None, "{group}");
    }
    mail.client.subscribe(&news, "mail").unwrap();
    shop.client.subscribe("$BULLA.KV.carts.>", "shop").unwrap();
    for n in 0..10 {
        assert!(
            shop.ask(&key("carts", "ann.address"), &format!("{n}"))
                .is_some()
        );
    }
    let heard = mail.client.until(|all| all.len() >= 10);
    assert_eq!(heard.len(), 10);
}

/// 32, for keys: nobody but nats-server says what a key's value is.
#[tokio::test(flavor = "multi_thread")]
async fn attack_32_nobody_publishes_in_the_place_of_a_bucket() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.workload("shop").tag();
    for name in ["mail", "mallory", "viewer", "shop"] {
        let mut asker = Asker::connect(&bus, name);
        for on in [
            "$BULLA.KV.carts.ann.address".to_owned(),
            "$BULLA.KV.carts.mallory.x".to_owned(),
            "$BULLA.KV.notes.mallory".to_owned(),
            format!("{}.1", reserved::inbox_server(shop)),
            format!("{}.1", reserved::inbox_peers(shop)),
            "_R_.x.y".to_owned(),
        ] {
            assert!(!asker.client.publish(&on), "{name} publishes to {on}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_manages_looks_and_changes_nothing() {
    let bus = Bus::start(POLICY).await;
    let mut viewer = Asker::connect(&bus, "viewer");
    let info = viewer.ask(&reserved::stream_info("KV_carts"), "").unwrap();
    assert!(info.text.contains("\"messages\":0"), "{info:?}");
    for on in [
        "$BULLA.STREAM.INFO.KV_notes",
        "$BULLA.STREAM.INFO.BULLA_CTL",
        "$JS.API.STREAM.INFO.KV_carts",
        "$JS.API.STREAM.PURGE.KV_carts",
        "$JS.API.STREAM.UPDATE.KV_carts",
        "$JS.API.STREAM.DELETE.KV_carts",
        "$KV.carts.x",
        "$JS.API.DIRECT.GET.KV_carts.$KV.carts.x",
    ] {
        assert_eq!(viewer.ask(on, ""), None, "{on}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_make_buckets_that_refuse_what_headers_ask_for() {
    let bus = Bus::start(POLICY).await;
    let js = jetstream::new(bus.js_client().await);
    let found = js.get_stream("KV_carts").await.unwrap();
    let config = serde_json::to_value(&found.cached_info().config).unwrap();
    for (name, want) in [
        ("subjects", json!(["$KV.carts.>"])),
        ("max_msgs_per_subject", json!(2)),
        ("storage", json!("file")),
        ("discard", json!("new")),
        ("allow_direct", json!(true)),
        ("deny_delete", json!(true)),
        ("duplicate_window", json!(100_000_000)),
        (
            "republish",
            json!({ "src": "$KV.carts.>", "dest": "$BULLA.KV.carts.>", "headers_only": false }),
        ),
    ] {
        assert_eq!(config[name], want, "{name}: {config}");
    }
}

/// POL-128: a bucket that was there, and lets one writer remove what all have
/// written.
#[tokio::test(flavor = "multi_thread")]
async fn attack_17_a_bucket_that_allows_rollup_is_not_served() {
    let mut options = BusOptions::new(POLICY);
    options.brokers = Vec::new();
    let mut bus = Bus::start_with(options).await;
    let js = jetstream::new(bus.js_client().await);
    let news = jetstream::stream::Republish {
        source: "$KV.carts.>".to_owned(),
        destination: "$BULLA.KV.carts.>".to_owned(),
        headers_only: false,
    };
    // As a broker would have made it, but for the one thing.
    let sound = Config {
        name: "KV_carts".to_owned(),
        subjects: vec!["$KV.carts.>".to_owned()],
        max_messages_per_subject: 1,
        allow_direct: true,
        republish: Some(news),
        ..Config::default()
    };
    let rolled = Config {
        allow_rollup: true,
        ..sound.clone()
    };
    js.create_stream(rolled.clone()).await.unwrap();
    bus.add_broker(Group::Both).await;
    let mut shop = Asker::connect(&bus, "shop");
    assert_eq!(shop.ask(&key("carts", "ann.items"), "3"), None);
    assert_eq!(shop.get("carts", "ann.items"), None);
    assert_eq!(shop.client.subscribe("$BULLA.KV.carts.>", ""), None);
    // The other bucket is served all the same.
    let mut mallory = Asker::connect(&bus, "mallory");
    assert!(mallory.ask(&key("notes", "mallory"), "x").is_some());
    assert_eq!(mallory.ask(&key("carts", "mallory.x"), "x"), None);

    // Mended in one way, and broken in another: it cannot be read key by key.
    let silent = Config {
        republish: None,
        ..sound.clone()
    };
    js.update_stream(silent).await.unwrap();
    bus.publish_policy(&format!("{POLICY}\n# again")).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let mut shop = Asker::connect(&bus, "shop");
    assert_eq!(shop.ask(&key("carts", "ann.items"), "3"), None);

    js.update_stream(sound).await.unwrap();
    bus.publish_policy(&format!("{POLICY}\n# and again")).await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut shop = Asker::connect(&bus, "shop");
        if shop.ask(&key("carts", "ann.items"), "3").is_some() {
            break;
        }
        assert!(std::time::Instant::now() < end, "never served");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // Who has rights to it when it turns bad is ended, and comes back without them;
    // who has none to it stays.
    let mut shop = Asker::connect(&bus, "shop");
    let mut mail = Client::workload(bus.nats_url(), &bus.seed("viewer"));
    assert!(shop.client.publish_if_open(&key("carts", "ann.items")));
    js.update_stream(rolled).await.unwrap();
    bus.publish_policy(&format!("{POLICY}\n# once more")).await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while shop.client.publish_if_open(&key("carts", "ann.items")) {
        assert!(std::time::Instant::now() < end, "not ended");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(mail.publish_if_open(reserved::BARRIER));
    let mut shop = Asker::connect(&bus, "shop");
    assert_eq!(shop.ask(&key("carts", "ann.items"), "4"), None);
}
