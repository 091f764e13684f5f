//! What a new policy does to those who are connected, what enforcers say of
//! themselves, and policies on trial.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod effect;
mod fleet;
mod refused;
mod reports;
mod shadow;

use std::collections::BTreeMap;
use std::time::Duration;

use bulla_tests::Bus;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub(crate) const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.orders]
attest = [{ nkey = "@orders@" }, { nkey = "@spare@" }]
[workload.other]
attest = [{ nkey = "@other@" }]
[workload.listener]
attest = [{ nkey = "@listener@" }]

[[allow]]
id = "orders-tells"
who = ["orders"]
may = ["publish"]
on = ["a.one", "a.two"]
[[allow]]
id = "other-tells"
who = ["other"]
may = ["publish"]
on = ["b.one"]
[[allow]]
id = "listener-hears"
who = ["listener"]
may = ["subscribe"]
on = ["a.>", "b.>"]
"#;

/// What is promised to who is connected.
pub(crate) const PROMISE: Duration = Duration::from_secs(1);

/// Every connection of a workload, by the server's number, with the name under
/// which it was admitted.
pub(crate) async fn connections(bus: &Bus) -> BTreeMap<u64, String> {
    let sys = bus.sys_client().await;
    connections_by(&sys).await
}

pub(crate) async fn connections_by(sys: &async_nats::Client) -> BTreeMap<u64, String> {
    let question = json!({ "auth": true, "acc": "APP", "limit": 1024 });
    let answer = sys
        .request("$SYS.REQ.SERVER.PING.CONNZ", question.to_string().into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let list = answer["data"]["connections"].as_array();
    list.into_iter()
        .flatten()
        .map(|c| {
            let user = c["authorized_user"].as_str().unwrap();
            (c["cid"].as_u64().unwrap(), user.to_owned())
        })
        .collect()
}

/// The numbers of one workload's connections.
pub(crate) async fn connections_of(bus: &Bus, name: &str) -> Vec<u64> {
    let all = connections(bus).await;
    let own = all
        .iter()
        .filter(|(_, user)| user.split('~').next() == Some(name));
    own.map(|(cid, _)| *cid).collect()
}

/// Waits until something holds, and gives how long it took.
pub(crate) async fn until(limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
