//! nats-server in operator mode: accounts are JWTs, and connections are asked about anew
//! without being ended.

use std::collections::BTreeMap;
use std::time::Duration;

use bulla_sdk::{Message, ServiceError};
use bulla_tests::{Bus, BusOptions, RawSocket};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.orders]
attest = [{ nkey = "@orders@" }, { nkey = "@spare@" }]
[workload.other]
attest = [{ nkey = "@other@" }]

[[allow]]
id = "orders-tells"
who = ["orders"]
may = ["publish"]
on = ["a.one", "a.two"]
[[allow]]
id = "orders-asks"
who = ["orders"]
may = ["request"]
on = ["billing.quote"]
[[allow]]
id = "other-serves"
who = ["other"]
may = ["serve"]
on = ["billing.quote"]
[[allow]]
id = "other-hears"
who = ["other"]
may = ["subscribe"]
on = ["a.one", "a.two"]
"#;

const PROMISE: Duration = Duration::from_secs(1);

async fn bus() -> Bus {
    Bus::start_with(BusOptions {
        operator_mode: true,
        ..BusOptions::new(POLICY)
    })
    .await
}

/// Every connection of a workload, by the server's number, with its name.
async fn connections(bus: &Bus) -> BTreeMap<u64, String> {
    let sys = bus.sys_client().await;
    let question = json!({ "auth": true, "limit": 1024 });
    let answer = sys
        .request("$SYS.REQ.SERVER.PING.CONNZ", question.to_string().into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let list = answer["data"]["connections"].as_array().unwrap();
    let named = list.iter().filter(|c| c["name_tag"] == "APP").map(|c| {
        let user = c["authorized_user"].as_str().unwrap_or_default();
        (c["cid"].as_u64().unwrap(), user.to_owned())
    });
    named.collect()
}

async fn until(limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

async fn ended(mut socket: RawSocket) {
    while socket.line().await.is_some() {}
}

#[tokio::test]
async fn two_services_talk_and_a_change_reaches_their_connections_as_they_are() {
    let bus = bus().await;
    let (orders, other) = (bus.client("orders").await, bus.client("other").await);
    let double = async |m: Message<u64>| Ok::<_, ServiceError>(m.into_payload() * 2);
    let _service = other.serve("billing.quote", double).await.unwrap();
    let ask = async || {
        orders
            .request::<_, u64>("billing.quote", &6_u64)
            .await
            .unwrap()
    };
    assert_eq!(ask().await, 12);

    let mut raw = bus.raw_socket("orders").await;
    let mut hears = bus.raw_socket("other").await;
    assert!(!hears.is_refused("SUB a.one 7").await);
    assert!(!hears.is_refused("SUB a.two 8").await);
    let before = connections(&bus).await;
    assert_eq!(before.len(), 4, "{before:?}");

    // One right is taken, another given, to each of them.
    let changed = POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\", \"a.three\"");
    bus.publish_policy(&changed).await;
    // While nats-server waits for the answer about it, a connection may do nothing; what
    // it publishes in that moment is refused.
    let took = until(PROMISE, async || {
        !raw.is_refused("PUB a.three 1\r\nx").await
    })
    .await;
    println!("a right was there after {took:?}");
    assert!(raw.is_refused("PUB a.two 1\r\nx").await);
    assert!(!raw.is_refused("PUB a.one 1\r\nx").await);
    // What it hears no longer is told to it as a refusal.
    let told = hears.command("SUB a.three 9").await.join(" ");
    assert!(
        told.contains("\"a.two\"") && !told.contains("a.three"),
        "{told}"
    );
    sleep(2 * PROMISE).await;
    let after = connections(&bus).await;
    let cids = |of: &BTreeMap<u64, String>| of.keys().copied().collect::<Vec<_>>();
    assert_eq!(cids(&before), cids(&after), "nobody was disconnected");
    assert!(before.iter().all(|(cid, user)| after[cid] != *user));
    assert_eq!(ask().await, 12);
    orders.publish("a.three", "x").await.unwrap();
    orders.flush().await.unwrap();

    // Who has to go goes: a key, then all of a workload.
    let mut spare = RawSocket::connect(bus.nats_url()).await;
    let login = RawSocket::login_of(&bus.seed("spare"), spare.nonce());
    assert!(spare.log_in(&login).await);
    bus.publish_policy(&changed.replace(", { nkey = \"@spare@\" }", ""))
        .await;
    timeout(PROMISE, ended(spare))
        .await
        .expect("its key is dropped");
    bus.revoke_workload("other").await;
    timeout(PROMISE, ended(hears)).await.expect("it is revoked");
}

#[tokio::test]
async fn who_names_a_broker_or_shows_a_ticket_of_another_gets_nothing() {
    let bus = bus().await;
    let socket = bus.raw_socket("orders").await;
    let names: Vec<String> = connections(&bus).await.into_values().collect();
    let [name] = &names[..] else {
        panic!("{names:?}")
    };
    // A ticket is good on its own connection alone.
    let mut thief = RawSocket::connect(bus.nats_url()).await;
    let signed = RawSocket::login_of(&bus.seed("orders"), thief.nonce());
    let sig = signed["sig"].clone();
    let login = json!({ "user": name, "sig": sig, "protocol": 1, "verbose": false });
    assert!(!thief.log_in(&login).await);
    drop(socket);

    // Nor is whoever names one that answers the callout let in unasked.
    let auth = bus.provision().path("keys/broker-auth.nk");
    let seed = bulla_process::secret_file::read_line(&auth).unwrap();
    let nkey = bulla_keyring::NkeySeed::parse(&seed).unwrap().public();
    let mut nobody = RawSocket::connect(bus.nats_url()).await;
    let login = json!({ "nkey": nkey.to_string(), "protocol": 1, "verbose": false });
    assert!(!nobody.log_in(&login).await);
}
