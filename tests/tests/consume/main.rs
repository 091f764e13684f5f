//! Appending to streams and consuming them with the SDK, and who tries to have a
//! stored message handled twice, or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod attacks;
mod edge;
mod late;
mod metrics;
mod outage;
mod settings;
mod values;
mod work;
mod worker;

use std::time::Duration;

use async_nats::HeaderMap;
use bulla_identity::reserved;
use bulla_sdk::{Client, ConsumeError, Consumer, Delivery};
use bulla_tests::Bus;
use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

pub(crate) const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.mail]
attest = [{ nkey = "@mail@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]

[stream.ORDERS]
subjects = ["orders.>"]

[stream.COPY]
mirror = "ORDERS"

[stream.JOBS]
subjects = ["jobs.>"]
retention = "workqueue"

[stream.FANS]
subjects = ["fans.>"]
retention = "interest"

[stream.SECRETS]
subjects = ["secret.>"]

[stream.SHORT]
subjects = ["short.>"]

[subject."orders.>"]
replay = "stream"
max_age = "1h"
[subject."jobs.>"]
replay = "stream"
max_age = "1h"
[subject."fans.>"]
replay = "stream"
max_age = "1h"
[subject."secret.>"]
protect = "encrypted"
replay = "stream"
max_age = "1h"
[subject."short.>"]
replay = "stream"
max_age = "1s"
[subject."orders.{id}.billed"]
user = "required"

[[allow]]
id = "shop-appends"
who = ["shop"]
may = ["append"]
on = ["orders.{id}.created", "orders.{id}.billed", "jobs.{id}", "fans.{id}", "secret.{id}", "short.{id}"]

[[allow]]
id = "shop-may-also-publish"
who = ["shop"]
may = ["publish"]
on = ["orders.{id}.created"]

[[allow]]
id = "edge-appends"
who = ["edge"]
may = ["append"]
on = ["orders.{id}.billed"]
user = { scope = "billing:write" }

[[allow]]
id = "mallory-appends-elsewhere"
who = ["mallory"]
may = ["append"]
on = ["orders.{id}.rumour"]

[[allow]]
id = "mail-consumes"
who = ["mail"]
may = ["consume"]
on = ["ORDERS.mail", "COPY.mail", "JOBS.mail", "FANS.mail", "SECRETS.mail", "SHORT.mail"]

[[allow]]
id = "mail-watches"
who = ["mail"]
may = ["subscribe"]
on = ["orders.*.created"]
"#;

pub(crate) const LIMIT: Duration = Duration::from_secs(12);

/// The next message of a consumer that has one.
#[track_caller]
pub(crate) fn next(
    consumer: &mut Consumer,
) -> impl Future<Output = Result<Delivery, ConsumeError>> + '_ {
    let at = std::panic::Location::caller();
    async move {
        timeout(LIMIT, consumer.next())
            .await
            .unwrap_or_else(|_| panic!("no message at {at}"))
    }
}

/// Lets a consumer work for a while on what it should refuse.
pub(crate) async fn nothing(consumer: &mut Consumer) {
    let got = timeout(Duration::from_millis(1_200), consumer.next()).await;
    assert!(got.is_err(), "{got:?}");
}

/// What JetStream says of a consumer: unanswered, waiting, and up to which
/// number of the stream all is answered.
pub(crate) async fn state(bus: &Bus, stream: &str, consumer: &str) -> (u64, u64, u64) {
    let js = bus.js_client().await;
    let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
    let info = js.request(subject, Bytes::new()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{info}"));
    (
        number(&info["num_ack_pending"]),
        number(&info["num_pending"]),
        number(&info["ack_floor"]["stream_seq"]),
    )
}

/// What a stream stored under this number: subject, headers, bytes.
pub(crate) async fn stored(bus: &Bus, stream: &str, sequence: u64) -> (String, Bytes) {
    let context = async_nats::jetstream::new(bus.js_client().await);
    let stream = context.get_stream(stream).await.unwrap();
    let message = stream.get_raw_message(sequence).await.unwrap();
    (message.subject.to_string(), message.payload)
}

/// Appends bytes as a raw client of that workload; what the stream says.
pub(crate) async fn append_raw(
    bus: &Bus,
    workload: &str,
    subject: &str,
    id: Option<&str>,
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
    if let Some(id) = id {
        headers.insert("Nats-Msg-Id", id);
    }
    raw.publish_with_reply_and_headers(subject.to_owned(), inbox, headers, bytes)
        .await
        .unwrap();
    let answer = timeout(LIMIT, futures_util::StreamExt::next(&mut answers)).await;
    let answer = answer.expect("the stream's word").unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// As an id stands in a header.
pub(crate) fn header(id: bulla_sdk::MessageId) -> String {
    data_encoding::HEXLOWER.encode(&id.0)
}

/// Waits for something that other tasks bring about.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "it did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two clients, the usual pair.
pub(crate) async fn pair(bus: &Bus) -> (Client, Client) {
    (bus.client("shop").await, bus.client("mail").await)
}
