//! Sealed values of buckets: what their readers take, and what they do not.

use async_nats::jetstream::stream::Config;
use bulla_sdk::{BucketError, Entry, Revision, SendError, Watch};
use bulla_tests::{Forger, Minter, now};

use super::*;

const VALUES: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.mail]
attest = [{ nkey = "@mail@" }]
[workload.clerk]
attest = [{ nkey = "@clerk@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]

[bucket.carts]
history = 5
[bucket.rates]
max_age = "1s"
[bucket.other]

[[allow]]
id = "shop-keeps"
who = ["shop"]
may = ["read", "write"]
on = ["carts.>", "rates.>"]

[[allow]]
id = "mail-reads-one"
who = ["mail"]
may = ["read"]
on = ["carts.eu.17"]

[[allow]]
id = "clerk-reads-all"
who = ["clerk"]
may = ["read"]
on = ["carts.>"]

[[allow]]
id = "mallory-writes-elsewhere"
who = ["mallory"]
may = ["write"]
on = ["carts.us.>", "other.>"]

[[allow]]
id = "mallory-reads-elsewhere"
who = ["mallory"]
may = ["read"]
on = ["other.>"]

[[allow]]
id = "for-users-who-may"
who = ["edge", "mallory"]
may = ["write"]
on = ["carts.user.{user}"]
user = { scope = "carts:write", sub = "{user}" }
"#;

/// Writes bytes to a key as a raw client of a workload; what the bucket says.
async fn write_raw(
    bus: &Bus,
    workload: &str,
    key: (&str, &str),
    operation: Option<&str>,
    bytes: Bytes,
) -> Value {
    let raw = bus.raw_client(workload).await;
    let inbox = format!(
        "{}.{}",
        reserved::inbox_server(bus.workload(workload).tag()),
        raw.new_inbox().rsplit('.').next().unwrap()
    );
    let mut answers = raw.subscribe(inbox.clone()).await.unwrap();
    let mut headers = HeaderMap::new();
    if let Some(operation) = operation {
        headers.insert("KV-Operation", operation);
    }
    let subject = reserved::bucket_key(key.0, key.1);
    raw.publish_with_reply_and_headers(subject, inbox, headers, bytes)
        .await
        .unwrap();
    let answer = timeout(LIMIT, futures_util::StreamExt::next(&mut answers)).await;
    let answer = answer.expect("the bucket's word").unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn changed(watch: &mut Watch) -> Result<Entry, BucketError> {
    let next = timeout(LIMIT, watch.next()).await;
    next.expect("no change").expect("a connection")
}

#[track_caller]
fn reason(outcome: Result<Option<Entry>, BucketError>) -> &'static str {
    outcome.expect_err("it is not believed").code()
}

/// [ENV-135]
#[tokio::test(flavor = "multi_thread")]
async fn values_are_written_read_followed_and_deleted() {
    let bus = Bus::start(VALUES).await;
    let (shop, mail) = pair(&bus).await;
    let (carts, read) = (shop.bucket("carts").unwrap(), mail.bucket("carts").unwrap());
    let key = "eu.17";
    assert!(read.get(key).await.unwrap().is_none());
    let mut watch = read.watch(key).await.unwrap();

    let first = carts.create(key, "bowl").await.unwrap();
    let entry = read.get(key).await.unwrap().unwrap();
    assert_eq!(entry.decode::<String>().unwrap(), "bowl");
    assert_eq!((entry.key(), entry.revision()), (key, first));
    assert_eq!(entry.sender().workload(), shop.workload());
    assert_eq!(changed(&mut watch).await.unwrap().revision(), first);

    // Only if nobody was faster.
    let conflict = |outcome: Result<Revision, BucketError>| outcome.unwrap_err().code();
    assert_eq!(conflict(carts.create(key, "x").await), "bucket_conflict");
    let second = carts.update(key, "spoon", first).await.unwrap();
    let late = carts.update(key, "fork", first).await;
    assert_eq!(conflict(late), "bucket_conflict");
    let entry = changed(&mut watch).await.unwrap();
    assert_eq!(entry.decode::<String>().unwrap(), "spoon");

    let gone = carts.delete(key).await.unwrap();
    assert!(read.get(key).await.unwrap().is_none());
    let entry = read.newest(key).await.unwrap().unwrap();
    assert!(entry.is_deleted() && entry.revision() == gone);
    assert!(changed(&mut watch).await.unwrap().is_deleted());

    // Who may read all of it may list it; who reads a key knows it by name.
    carts.write("us.1").json(&1).put().await.unwrap();
    let clerk = bus.client("clerk").await;
    let all = clerk.bucket("carts").unwrap();
    let listed = all.entries(">").await.unwrap();
    let listed: Vec<Entry> = listed.into_iter().map(Result::unwrap).collect();
    let keys: Vec<(&str, bool)> = listed.iter().map(|e| (e.key(), e.is_deleted())).collect();
    assert_eq!(keys, [("eu.17", true), ("us.1", false)]);
    let past = all.history(key).await.unwrap();
    let past: Vec<Revision> = past.into_iter().map(|e| e.unwrap().revision()).collect();
    assert_eq!(past, [first, second, gone]);
    let mut whole = all.watch("*.1").await.unwrap();
    assert_eq!(changed(&mut whole).await.unwrap().key(), "us.1");
    carts.put("de.1", &2).await.unwrap();
    assert_eq!(changed(&mut whole).await.unwrap().key(), "de.1");

    // Ordinary clients see that a key is deleted.
    let context = async_nats::jetstream::new(bus.js_client().await);
    let stream = context.get_stream("KV_carts").await.unwrap();
    for (revision, operation) in [(gone, Some("DEL")), (second, None)] {
        let stored = stream.get_raw_message(revision.0).await.unwrap();
        let header = stored.headers.get("KV-Operation").map(|v| v.as_str());
        assert_eq!(header, operation);
    }

    // What may not be said, known before anything is sent.
    for (outcome, code) in [
        (read.put(key, "x").await, "not_granted"),
        (carts.put("a b", "x").await, "bucket_key"),
        (carts.put("a.*", "x").await, "bucket_key"),
    ] {
        assert_eq!(outcome.unwrap_err().code(), code);
    }
    assert_eq!(reason(read.get("eu.18").await), "not_granted");
    assert_eq!(read.watch("eu.*").await.unwrap_err().code(), "not_granted");
    assert_eq!(read.entries(">").await.unwrap_err().code(), "not_granted");
    assert_eq!(shop.bucket("x").unwrap_err().code(), "bucket_not_declared");
    let word = bulla_sdk::ContentType::Other("application/vnd.bulla.deleted".into());
    let fake = carts.write(key).bytes(word, "x").put().await.unwrap_err();
    assert!(matches!(fake, BucketError::Reserved), "{fake:?}");
    assert_eq!(mail.stats().refused().len(), 0, "{:?}", mail.stats());
}

/// [ENV-133]
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_misses_nothing_that_came_while_it_was_cut_off() {
    let bus = Bus::start(VALUES).await;
    let cable = bulla_tests::Cable::to(bus.nats_url()).await;
    let mail = bus.client_behind(&cable, "mail").await;
    let shop = bus.client("shop").await;
    let carts = shop.bucket("carts").unwrap();
    let mut watch = mail.bucket("carts").unwrap().watch("eu.17").await.unwrap();
    carts.put("eu.17", &1).await.unwrap();
    changed(&mut watch).await.unwrap();
    cable.cut();
    carts.put("eu.17", &2).await.unwrap();
    let last = carts.put("eu.17", &3).await.unwrap();
    cable.mend();
    let entry = changed(&mut watch).await.unwrap();
    assert_eq!(entry.revision(), last);
    assert_eq!(entry.decode::<u8>().unwrap(), 3);
}

/// Whoever waits for other things too drops what he waits for at any moment, also while
/// the bucket is being asked.
///
/// [ENV-133]
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_dropped_while_it_asks_misses_nothing() {
    let bus = Bus::start(VALUES).await;
    let cable = bulla_tests::Cable::to(bus.nats_url()).await;
    let clerk = bus.client_behind(&cable, "clerk").await;
    let shop = bus.client("shop").await;
    let carts = shop.bucket("carts").unwrap();
    let mut watch = clerk.bucket("carts").unwrap().watch(">").await.unwrap();
    carts.put("eu.17", &1).await.unwrap();
    changed(&mut watch).await.unwrap();
    cable.cut();
    let last = carts.put("eu.17", &2).await.unwrap();
    cable.mend();
    let mut given = None;
    for _ in 0..2_000 {
        let impatient = timeout(Duration::from_millis(1), watch.next()).await;
        given = impatient.ok();
        if given.is_some() {
            break;
        }
    }
    let entry = match given {
        Some(given) => given.unwrap().unwrap(),
        None => changed(&mut watch).await.unwrap(),
    };
    assert_eq!(entry.revision(), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_the_right_to_read() {
    let bus = Bus::start(VALUES).await;
    let (shop, mail) = pair(&bus).await;
    let carts = shop.bucket("carts").unwrap();
    carts.put("eu.17", &1).await.unwrap();
    let read = mail.bucket("carts").unwrap();
    let mut watch = read.watch("eu.17").await.unwrap();
    changed(&mut watch).await.unwrap();
    let lost = VALUES.replace("who = [\"mail\"]", "who = [\"clerk\"]");
    bus.publish_policy(&lost).await;
    eventually(async || {
        let now = read.get("eu.17").await;
        now.is_err_and(|error| error.code() == "not_granted")
    })
    .await;
    assert_eq!(changed(&mut watch).await.unwrap_err().code(), "not_granted");
    assert!(timeout(LIMIT, watch.next()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_04_a_value_counts_under_its_own_key_and_bucket_only() {
    let bus = Bus::start(VALUES).await;
    let shop = bus.client("shop").await;
    let carts = shop.bucket("carts").unwrap();
    let written = carts.put("eu.17", "mine").await.unwrap();
    let (_, bytes) = stored(&bus, "KV_carts", written.0).await;
    for key in [("carts", "us.17"), ("other", "eu.17")] {
        let told = write_raw(&bus, "mallory", key, None, bytes.clone()).await;
        assert!(told["seq"].as_u64() > Some(0), "{told}");
    }
    assert_eq!(reason(carts.get("us.17").await), "wrong_subject");
    let mallory = bus.client("mallory").await;
    let other = mallory.bucket("other").unwrap();
    assert_eq!(reason(other.get("eu.17").await), "wrong_subject");
    // And what was there before is not given in its place.
    assert!(carts.get("eu.17").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_value_stored_a_second_time_is_refused() {
    let bus = Bus::start(VALUES).await;
    let (shop, mail) = pair(&bus).await;
    let (carts, read) = (shop.bucket("carts").unwrap(), mail.bucket("carts").unwrap());
    let first = carts.put("eu.17", "old").await.unwrap();
    let (_, bytes) = stored(&bus, "KV_carts", first.0).await;
    assert!(read.get("eu.17").await.unwrap().is_some());
    let second = carts.put("eu.17", "new").await.unwrap();
    assert_eq!(read.get("eu.17").await.unwrap().unwrap().revision(), second);
    let mut watch = read.watch("eu.17").await.unwrap();
    assert_eq!(changed(&mut watch).await.unwrap().revision(), second);

    // Who may write the key brings the old value back, while its envelope is fresh.
    write_raw(&bus, "shop", ("carts", "eu.17"), None, bytes).await;
    assert_eq!(reason(read.get("eu.17").await), "stored_copy");
    assert_eq!(changed(&mut watch).await.unwrap_err().code(), "stored_copy");
    assert_eq!(
        reason(carts.get("eu.17").await),
        "stored_copy",
        "nor its own"
    );
    // The next write heals it, and the watch goes on.
    let third = carts.put("eu.17", "newest").await.unwrap();
    assert_eq!(changed(&mut watch).await.unwrap().revision(), third);

    // Later than that nobody takes it, whoever has read nothing yet.
    let forger = Forger::genuine(&bus, "shop").await;
    let id = bulla_sdk::MessageId([7; 16]);
    let life = Duration::from_millis(300);
    let subject = reserved::bucket_key("carts", "eu.17");
    let short = forger.event_with_id(&subject, id, now(), life, b"\xa3old");
    tokio::time::sleep(Duration::from_millis(700)).await;
    write_raw(&bus, "shop", ("carts", "eu.17"), None, short).await;
    let fresh = bus.client("mail").await.bucket("carts").unwrap();
    assert_eq!(reason(fresh.get("eu.17").await), "expired");
}

/// Whoever runs the stream shows an older value as the newest.
///
/// [ENV-134]
#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_reader_does_not_go_back_with_its_bucket() {
    let bus = Bus::start(VALUES).await;
    let (shop, mail) = pair(&bus).await;
    let (carts, read) = (shop.bucket("carts").unwrap(), mail.bucket("carts").unwrap());
    let first = carts.put("eu.17", "granted").await.unwrap();
    let (_, bytes) = stored(&bus, "KV_carts", first.0).await;
    carts.put("eu.17", "revoked").await.unwrap();
    carts.delete("eu.17").await.unwrap();
    assert!(read.get("eu.17").await.unwrap().is_none());

    let context = async_nats::jetstream::new(bus.js_client().await);
    let mut stream = context.get_stream("KV_carts").await.unwrap();
    let config: Config = stream.info().await.unwrap().config.clone();
    context.delete_stream("KV_carts").await.unwrap();
    context.create_stream(config).await.unwrap();
    let told = write_raw(&bus, "shop", ("carts", "eu.17"), None, bytes).await;
    assert_eq!(told["seq"], 1, "{told}");
    assert_eq!(reason(read.get("eu.17").await), "stored_rolled_back");
    // What is written from then on counts, although its number is small.
    let second = carts.put("eu.17", "again").await.unwrap();
    assert_eq!(second, Revision(2));
    assert_eq!(read.get("eu.17").await.unwrap().unwrap().revision(), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_what_is_not_sealed_is_no_value_and_no_deletion() {
    let bus = Bus::start(VALUES).await;
    let (shop, mail) = pair(&bus).await;
    let (carts, read) = (shop.bucket("carts").unwrap(), mail.bucket("carts").unwrap());
    let key = ("carts", "eu.17");
    let written = carts.put("eu.17", "kept").await.unwrap();
    let (_, value) = stored(&bus, "KV_carts", written.0).await;
    // A deletion as every client of nats-server writes it, and a plain value.
    for (operation, bytes) in [(Some("DEL"), Bytes::new()), (None, "plain".into())] {
        write_raw(&bus, "shop", key, operation, bytes).await;
        let outcome = read.get("eu.17").await;
        assert!(
            matches!(outcome, Err(BucketError::Refused { .. })),
            "{outcome:?}"
        );
    }
    // A value that a header calls a deletion, and a deletion without one.
    write_raw(&bus, "shop", key, Some("DEL"), value).await;
    assert_eq!(reason(read.get("eu.17").await), "stored_mark_mismatch");
    let gone = carts.delete("eu.17").await.unwrap();
    let (_, tombstone) = stored(&bus, "KV_carts", gone.0).await;
    write_raw(&bus, "shop", key, None, tombstone).await;
    assert_eq!(reason(read.newest("eu.17").await), "stored_mark_mismatch");
}

/// [ENV-132]
#[tokio::test(flavor = "multi_thread")]
async fn attack_14_a_value_is_written_for_who_may() {
    let bus = Bus::start(VALUES).await;
    let edge = Minter::connect(&bus, "edge").await;
    let clerk = bus.client("clerk").await;
    let (carts, read) = (
        edge.client.bucket("carts").unwrap(),
        clerk.bucket("carts").unwrap(),
    );
    let may = edge.token("alice", "carts:write", &[]);
    let write = carts
        .write("user.alice")
        .payload("hers")
        .user_token(may.clone());
    write.put().await.unwrap();
    let entry = read.get("user.alice").await.unwrap().unwrap();
    assert_eq!(entry.user().unwrap().principal(), "alice");

    // The writer knows before it is sent: another's key, no scope, no user.
    let narrow = edge.token("alice", "carts:read", &[]);
    for (key, token) in [
        ("user.bob", Some(may)),
        ("user.alice", Some(narrow.clone())),
        ("user.alice", None),
    ] {
        let mut write = carts.write(key).payload("x");
        if let Some(token) = token {
            write = write.user_token(token);
        }
        let refused = write.put().await.unwrap_err();
        let BucketError::Send(SendError::Denied { .. }) = refused else {
            panic!("{refused:?}")
        };
    }
    // nats-server lets the workload write; readers do not take it.
    let forger = Forger::genuine(&bus, "mallory").await;
    let subject = reserved::bucket_key("carts", "user.alice");
    for sealed in [
        forger.event_for_user(&subject, now(), b"\xa1x", &narrow),
        forger.event(&subject, now(), b"\xa1x"),
    ] {
        let told = write_raw(&bus, "mallory", ("carts", "user.alice"), None, sealed).await;
        assert!(told["seq"].as_u64() > Some(0), "{told}");
        assert_eq!(reason(read.get("user.alice").await), "condition_failed");
    }
    // Nor from who may write it for nobody.
    let forger = Forger::genuine(&bus, "mail").await;
    let js = bus.js_client().await;
    let sealed = forger.event(&subject, now(), b"\xa1x");
    js.publish(subject, sealed).await.unwrap();
    js.flush().await.unwrap();
    eventually(async || reason(read.get("user.alice").await) == "not_granted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_counts_for_as_long_as_its_bucket_says() {
    let bus = Bus::start(VALUES).await;
    let shop = bus.client("shop").await;
    let rates = shop.bucket("rates").unwrap();
    rates.put("eur", &1).await.unwrap();
    assert!(rates.get("eur").await.unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    assert_eq!(reason(rates.get("eur").await), "stored_too_long_ago");
}
