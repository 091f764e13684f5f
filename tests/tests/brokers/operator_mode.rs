//! nats-server in operator mode: accounts are JWTs, and connections are asked about anew
//! without being ended.

use std::collections::BTreeMap;
use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_keyring::NkeySeed;
use bulla_sdk::{Message, ServiceError};
use bulla_tests::{BrokerProcess, Bus, BusOptions, RawSocket, now};
use data_encoding::BASE64URL_NOPAD;
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
    // What it hears no longer is told to it as a refusal, when its turn has come: the
    // server asks about one connection after the other.
    until(PROMISE, async || {
        let told = hears.command("UNSUB 99").await.join(" ");
        told.contains("\"a.two\"")
    })
    .await;
    assert!(!hears.is_refused("SUB a.three 9").await);
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

/// nats-server does not do what a broker asks it for, because its configuration is broken:
/// who lost a right does not keep it for that, and the operator is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_fails_is_told_and_who_has_too_much_is_disconnected() {
    let bus = Bus::start_with(BusOptions {
        operator_mode: true,
        brokers: Vec::new(),
        ..BusOptions::new(POLICY)
    })
    .await;
    let a = BrokerProcess::start(&bus, Group::A).await;
    let b = BrokerProcess::start(&bus, Group::B).await;
    let mut raw = bus.raw_socket("orders").await;
    assert!(!raw.is_refused("PUB a.two 1\r\nx").await);
    let untouched = bus.raw_socket("other").await;
    let before = connections(&bus).await;

    let config = bus.provision().path("nats-server.conf");
    let sound = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{sound}\nno_such_setting: {{\n")).unwrap();
    let less = POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\"");
    let less = less.replacen("on = [\"a.one\"]", "on = [\"a.one\", \"a.three\"]", 1);
    let less = less.replace(
        "may = [\"subscribe\"]\non = [\"a.one\"]",
        "may = [\"subscribe\"]\non = [\"a.one\", \"a.two\"]",
    );
    bus.publish_policy(&less).await;
    let began = Instant::now();
    timeout(3 * PROMISE, ended(raw))
        .await
        .expect("it has too much");
    println!("ended after {:?}", began.elapsed());
    let sum = async |metric: &str, labels: &[&str]| {
        a.metric(metric, labels).await + b.metric(metric, labels).await
    };
    let failed = [r#"outcome="failed""#];
    assert!(sum("bulla_broker_reauthorisations_total", &failed).await >= 1.0);
    let lost = [r#"reason="permissions_changed""#, r#"outcome="ok""#];
    // A broker counts it when nats-server has answered, which may be after the client knows.
    until(PROMISE, async || {
        sum("bulla_broker_connections_ended_total", &lost).await >= 1.0
    })
    .await;
    let told = "the server did not ask anew";
    tokio::select! {
        () = a.says(told, 5 * PROMISE) => {}
        () = b.says(told, 5 * PROMISE) => {}
    }
    // Nobody else went.
    let after = connections(&bus).await;
    let (cid, _) = before
        .iter()
        .find(|(_, user)| user.starts_with("other"))
        .unwrap();
    assert!(after.contains_key(cid), "{after:?}");
    drop(untouched);

    // Once it is sound again, the next change reaches connections as they are.
    std::fs::write(&config, sound).unwrap();
    let mut raw = bus.raw_socket("orders").await;
    let cids = async || connections(&bus).await.into_keys().collect::<Vec<_>>();
    let before = cids().await;
    bus.publish_policy(POLICY).await;
    until(5 * PROMISE, async || {
        !raw.is_refused("PUB a.two 1\r\nx").await
    })
    .await;
    assert_eq!(cids().await, before);
}

/// Another account of the same operator takes nothing of `JS` without a token that the
/// account `JS` signed for it.
#[tokio::test]
async fn another_account_of_the_operator_takes_nothing_that_is_not_given_to_it() {
    let mut bus = bus().await;
    let seed = |name: &str| {
        let file = bus.provision().path(&format!("keys/{name}.nk"));
        NkeySeed::parse(&bulla_process::secret_file::read_line(&file).unwrap()).unwrap()
    };
    let (operator, js) = (seed("operator"), seed("JS"));
    let random = [7; 32];
    let thief = NkeySeed::from_random(bulla_identity::NkeyKind::Account, &random).unwrap();
    let user = NkeySeed::from_random(bulla_identity::NkeyKind::User, &random).unwrap();
    let tag = bus.workload("orders").tag();
    let asked = format!("$BULLA.BROKER.{tag}.challenge");
    let account = thief.public().to_string();
    let subject = "$BULLA.BROKER.>";
    let given = statement(
        &js,
        &account,
        subject,
        json!({ "subject": subject, "kind": "service", "type": "activation", "version": 2 }),
    );
    // With the token it would be answered: what is tried is what the token is for.
    for (token, is_answered) in [(None, false), (Some(given), true)] {
        let mut import = json!({
            "name": subject, "subject": subject, "type": "service",
            "account": js.public().to_string(), "local_subject": subject,
        });
        if let Some(token) = token {
            import["token"] = token.into();
        }
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": 0,
        });
        let claims = json!({
            "limits": limits, "imports": [import], "type": "account", "version": 2,
        });
        let jwt = statement(&operator, &account, "thief", claims);
        bus.restart_server_as(|config| {
            let preload = format!("resolver_preload: {{\n  {account}: \"{jwt}\"\n");
            let open = config.replacen("resolver_preload: {\n", &preload, 1);
            assert_ne!(open, config);
            open
        })
        .await;
        // The broker is there again.
        until(20 * PROMISE, async || {
            bus.raw_client_with("orders", bus.seed("orders"))
                .await
                .is_ok()
        })
        .await;
        let nothing = json!({});
        let user_jwt = statement(
            &thief,
            &user.public().to_string(),
            "thief",
            json!({
                "pub": nothing, "sub": nothing, "subs": -1, "data": -1, "payload": -1,
                "type": "user", "version": 2,
            }),
        );
        let mut socket = RawSocket::connect(bus.nats_url()).await;
        let mut login = RawSocket::login_of(&user, socket.nonce());
        login.as_object_mut().unwrap().remove("nkey");
        login["jwt"] = user_jwt.into();
        assert!(
            socket.log_in(&login).await,
            "the operator's account is good"
        );
        socket.command("SUB back 1").await;
        let mut lines = socket.command(&format!("PUB {asked} back 1\r\nx")).await;
        if let Ok(Some(line)) = timeout(PROMISE, socket.line()).await {
            lines.push(line);
        }
        let got = lines.iter().any(|line| line.starts_with("MSG back"));
        assert_eq!(got, is_answered);
    }
}

/// A JWT as nats-server reads it.
fn statement(by: &NkeySeed, subject: &str, name: &str, nats: Value) -> String {
    let claims = json!({
        "iat": now().as_secs(), "iss": by.public().to_string(), "jti": "x",
        "name": name, "nats": nats, "sub": subject,
    });
    let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let header = br#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    let input = format!("{}.{}", part(header), part(claims.to_string().as_bytes()));
    let signature = by.sign_text(&input);
    format!("{input}.{}", part(signature.as_bytes()))
}
