//! Exchanging users' tokens at the broker, and chains that jobs start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use bulla_sdk::{
    Client, Context, Exchange, ExchangeError, Limits, Message, RequestError, SendError, Service,
    ServiceError,
};
use bulla_tests::{Bus, Cable, Forger, Minter, now};
use bulla_token::ExchangeRequest;
use futures_util::StreamExt;
use serde_json::{Value, json};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.broker]
attest = [{ nkey = "@broker@" }]
mints = true
exchanges = true
[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.partner]
attest = [{ nkey = "@partner@" }]
[workload.nightly]
attest = [{ nkey = "@nightly@" }]
starts = { users = ["batch:*"], scope = ["reports:write", "reports:read"], reach = ["back-office"], claims = { kind = "job", level = 3 } }

[subject."front.>"]
user = "required"
protect = "encrypted"
[subject."partner.look"]
protect = "encrypted"
[subject."bank.>"]
chain = "proven"
[subject."reports.>"]
audience = "back-office"

[[allow]]
id = "edge-asks"
who = ["edge"]
may = ["request"]
on = ["front.go", "partner.plain"]
[[allow]]
id = "front-serves"
who = ["front"]
may = ["serve"]
on = ["front.go"]
[[allow]]
id = "asks-the-bank"
who = ["front", "nightly"]
may = ["request"]
on = ["bank.pay"]
[[allow]]
id = "asks-partner"
who = ["front", "nightly"]
may = ["request"]
on = ["partner.look"]
[[allow]]
id = "writes-reports"
who = ["front", "nightly"]
may = ["request"]
on = ["reports.write"]
user = { scope = "reports:write", kind = "job", level = { min = 3 } }
[[allow]]
id = "partner-serves"
who = ["partner"]
may = ["serve"]
on = ["partner.look", "partner.plain", "reports.write", "bank.pay"]
"#;

struct Scene {
    bus: Bus,
    edge: Minter,
    front: Client,
    /// Between `front` and nats-server.
    cable: Cable,
    partner: Client,
    _services: Vec<Service>,
}

impl Scene {
    /// `partner` says what it sees of the user; the broker exchanges.
    async fn start() -> Self {
        let bus = Bus::start(POLICY).await;
        let edge = Minter::connect(&bus, "edge").await;
        let cable = Cable::to(bus.nats_url()).await;
        let front = bus.client_behind(&cable, "front").await;
        let partner = bus.client("partner").await;
        let mut services = Vec::new();
        for subject in ["partner.look", "partner.plain", "reports.write", "bank.pay"] {
            let handler = async |m: Message<String>| {
                let user = m.user().unwrap();
                Ok::<_, ServiceError>(json!({
                    "user": user.principal(),
                    "txn": user.transaction(),
                    "scopes": user.scopes().collect::<Vec<_>>(),
                    "reach": user.claims().reach().collect::<Vec<_>>(),
                    "tier": user.claims().get("tier"),
                    "is_narrowed": !user.limits().is_none(),
                    "life": user.expires().saturating_since(now()).as_secs(),
                }))
            };
            services.push(partner.serve(subject, handler).await.unwrap());
        }
        let nightly = bus.client("nightly").await;
        // The broker serves once it has a credential of its own.
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let probe = Exchange::on_behalf_of("batch:probe");
            match nightly.exchange(probe).await {
                Ok(_) => break,
                Err(error) => assert!(tokio::time::Instant::now() < end, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self {
            bus,
            edge,
            front,
            cable,
            partner,
            _services: services,
        }
    }

    fn token(&self) -> String {
        self.edge.token_with("alice", |claims| {
            claims.scope = "read write pay".to_owned();
            claims.reach = vec!["retail".to_owned(), "back-office".to_owned()];
            claims.context.insert("tier".to_owned(), "gold".into());
        })
    }

    /// What the handler of `front.go` makes of a request for Alice.
    async fn in_front<F, R>(
        &self,
        token: impl FnOnce() -> String,
        work: F,
    ) -> Result<Value, RequestError>
    where
        F: Fn(Client) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Value, ServiceError>> + Send + 'static,
    {
        let client = self.front.clone();
        let handler = move |_: Message<String>| work(client.clone());
        let _service = self.front.serve("front.go", handler).await.unwrap();
        let message = self.edge.client.message("front.go").payload("x");
        let message = message.timeout(Duration::from_secs(10));
        Ok(message.user_token(token()).request().await?.decode()?)
    }
}

/// The word of RFC 8693 that the broker refused with.
fn refusal(result: Result<bulla_sdk::User, ExchangeError>) -> String {
    match result {
        Ok(user) => panic!("exchanged: {user:?}"),
        Err(ExchangeError::Request(RequestError::Service(error))) => {
            let (word, decision) = error.message().split_once(", decision ").unwrap();
            assert_eq!(decision.len(), 32);
            word.to_owned()
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_exchanged_for_a_narrower_one_that_every_receiver_takes() {
    let scene = Scene::start().await;
    let seen = scene
        .in_front(
            || scene.token(),
            async |client| {
                let wanted = Exchange::narrower()
                    .scopes(["read"])
                    .reach(["retail"])
                    .lifetime(Duration::from_secs(20));
                let reader = client.exchange(wanted).await.unwrap();
                let message = client.message("partner.look").payload("x").user(reader);
                Ok(message.request().await?.decode()?)
            },
        )
        .await
        .unwrap();
    let life = seen["life"].as_u64().unwrap();
    assert!((15..=20).contains(&life), "{life}");
    assert_eq!(
        seen,
        json!({
            "user": "alice", "txn": "txn-1", "scopes": ["read"], "reach": ["retail"],
            "tier": "gold", "is_narrowed": false, "life": life,
        })
    );
    assert!(scene.partner.stats().refused().is_empty());
    // Nobody on the way sees a token.
    assert!(scene.cable.has_seen(b"$BULLA.TXN") && scene.cable.has_seen(b"partner.look"));
    assert!(!scene.cable.has_seen(b"eyJhbGci"), "a token was readable");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_14_nothing_wider_is_given_and_nothing_for_longer() {
    let scene = Scene::start().await;
    let refused = scene
        .in_front(
            || scene.token(),
            async |client| {
                let ask = async |exchange: Exchange| refusal(client.exchange(exchange).await);
                let user = Context::current().user().unwrap().clone();
                let reading = user
                    .narrowed(&Limits::none().keep_scopes(["read"]))
                    .unwrap();
                let retail = user
                    .narrowed(&Limits::none().keep_reach(["retail"]))
                    .unwrap();
                let soon = now().saturating_add(Duration::from_secs(9));
                let short = user.narrowed(&Limits::none().until(soon)).unwrap();
                let shorter = client
                    .exchange(Exchange::narrower().of(short))
                    .await
                    .unwrap();
                assert!(shorter.expires() <= soon);
                let all = client.exchange(Exchange::narrower()).await.unwrap();
                assert!(all.expires() <= user.expires());
                assert_eq!(all.scopes().collect::<Vec<_>>(), ["read", "write", "pay"]);
                Ok(json!([
                    ask(Exchange::narrower().scopes(["read", "admin"])).await,
                    ask(Exchange::narrower().reach(["retail", "ops"])).await,
                    // What limits took off does not come back.
                    ask(Exchange::narrower().of(reading).scopes(["write"])).await,
                    ask(Exchange::narrower().of(retail).reach(["back-office"])).await,
                    // A chain of her own is not the front's to start.
                    ask(Exchange::on_behalf_of("alice")).await,
                    ask(Exchange::on_behalf_of("batch:x")).await,
                ]))
            },
        )
        .await
        .unwrap();
    assert_eq!(
        refused,
        json!([
            "invalid_scope",
            "invalid_target",
            "invalid_scope",
            "invalid_target",
            "unauthorized_client",
            "unauthorized_client",
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_given_no_new_life() {
    let scene = Scene::start().await;
    let short = || {
        scene.edge.token_with("alice", |claims| {
            claims.expires = now().saturating_add(Duration::from_millis(1_100));
        })
    };
    // Over for a moment: within what clocks may differ, so that the sender still
    // sends it. One that comes too late for that is the sender's to refuse, which
    // is not what is asked here: again then.
    let late = json!("sent too late");
    let mut refused = late.clone();
    for _ in 0..20 {
        if refused != late {
            break;
        }
        refused = scene
            .in_front(short, async |client| {
                let ends = Context::current().user().unwrap().expires();
                let left = ends.saturating_since(now());
                tokio::time::sleep(left + Duration::from_millis(20)).await;
                let result = client.exchange(Exchange::narrower()).await;
                let own = "token_expired";
                if let Err(ExchangeError::Request(RequestError::Send(SendError::User { reason }))) =
                    &result
                    && *reason == own
                {
                    return Ok(json!("sent too late"));
                }
                Ok(json!(refusal(result)))
            })
            .await
            .unwrap();
    }
    assert_eq!(refused, json!("invalid_grant"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_starts_a_chain_for_the_users_and_with_what_the_policy_says() {
    let scene = Scene::start().await;
    let nightly = scene.bus.client("nightly").await;
    let wanted = Exchange::on_behalf_of("batch:nightly")
        .scopes(["reports:write"])
        .reach(["back-office"]);
    let user = nightly.exchange(wanted).await.unwrap();
    assert_eq!(user.claims().get("kind"), Some(&json!("job")));
    let context = Context::default().with_user(user.clone());
    let ask = async { nightly.request::<_, Value>("reports.write", "x").await };
    let seen = Box::pin(context.scope(ask)).await.unwrap();
    assert_eq!(seen["user"], json!("batch:nightly"));
    assert_eq!(seen["scopes"], json!(["reports:write"]));
    // A new chain each time.
    let again = nightly
        .exchange(Exchange::on_behalf_of("batch:nightly"))
        .await
        .unwrap();
    assert_ne!(user.transaction(), again.transaction());
    assert_eq!(
        (again.scopes().count(), again.claims().reach().count()),
        (0, 0)
    );
    // And from there only narrower.
    let narrower = Exchange::narrower().of(user.clone()).scopes([""; 0]);
    let nothing = nightly.exchange(narrower).await.unwrap();
    assert_eq!(nothing.transaction(), user.transaction());

    let ask = async |exchange: Exchange| refusal(nightly.exchange(exchange).await);
    assert_eq!(
        ask(Exchange::on_behalf_of("alice")).await,
        "unauthorized_client"
    );
    assert_eq!(
        ask(Exchange::on_behalf_of("batch")).await,
        "unauthorized_client"
    );
    let wide = Exchange::on_behalf_of("batch:x").scopes(["reports:write", "pay"]);
    assert_eq!(ask(wide).await, "invalid_scope");
    let far = Exchange::on_behalf_of("batch:x").reach(["retail"]);
    assert_eq!(ask(far).await, "invalid_target");
    let nobody = nightly.exchange(Exchange::narrower()).await.unwrap_err();
    assert!(matches!(nobody, ExchangeError::NoUser), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_recorded_exchange_is_answered_once() {
    let scene = Scene::start().await;
    let nightly = scene.bus.client("nightly").await;
    // A genuine request, sealed by hand: the bytes that a listener would keep.
    let forger = Forger::genuine(&scene.bus, "nightly").await;
    let key = forger.data_key(&scene.bus, "broker", &[7; 32]);
    let inbox = scene.bus.peer_inbox("nightly", "x");
    let body = ExchangeRequest::on_behalf_of("batch:x")
        .to_json()
        .to_string();
    let sealed = forger.encrypted_request("$BULLA.TXN", &inbox, body.as_bytes(), &key);
    let raw = scene.bus.raw_client("nightly").await;
    let mut answers = raw.subscribe(inbox.clone()).await.unwrap();
    for _ in 0..3 {
        raw.publish_with_reply("$BULLA.TXN", inbox.clone(), sealed.clone())
            .await
            .unwrap();
    }
    raw.flush().await.unwrap();
    // What comes after it is answered, so the copies have been looked at.
    let other = Exchange::on_behalf_of("batch:x");
    nightly.exchange(other).await.unwrap();
    assert!(answers.next().await.unwrap().payload.len() > 500);
    let silent = tokio::time::timeout(Duration::from_millis(300), answers.next()).await;
    assert!(silent.is_err(), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_only_what_exchanges_mints_for_others() {
    let scene = Scene::start().await;
    let front = scene.bus.workload("front");
    // The edge may mint, for itself.
    let token = scene.edge.token_with("alice", |claims| {
        claims.requesting_workload = front.as_str().to_owned();
    });
    let message = scene.edge.client.message("partner.plain").payload("x");
    let error = message.user_token(&token).request().await.unwrap_err();
    let RequestError::Send(SendError::User { reason }) = error else {
        panic!("{error}");
    };
    assert_eq!(reason, "token_foreign_requester");
    let forger = Forger::genuine(&scene.bus, "edge").await;
    let raw = scene.bus.raw_client("edge").await;
    let inbox = scene.bus.peer_inbox("edge", "x");
    let sealed = forger.request_for_user("partner.plain", &inbox, now(), b"\xa1x", &token);
    raw.publish_with_reply("partner.plain", inbox, sealed)
        .await
        .unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while scene.partner.stats().refused_for("token_foreign_requester") == 0 {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_31_an_exchange_takes_no_user_out_of_a_proven_chain() {
    let scene = Scene::start().await;
    let refused = scene
        .in_front(
            || scene.token(),
            async |client| {
                // In the chain that brought the user here it may be spent.
                let _: Value = client.request("bank.pay", "x").await?;
                let other = client.exchange(Exchange::narrower()).await.unwrap();
                // The new token begins no chain, here or in the chain of the old one.
                let alone = Context::default().with_user(other.clone());
                let in_it = client.message("bank.pay").payload("x").user(other);
                let on_its_own = client.message("bank.pay").payload("x").context(alone);
                for message in [in_it, on_its_own] {
                    let error = message.request().await.unwrap_err();
                    assert!(
                        matches!(error, RequestError::Send(SendError::Chain { .. })),
                        "{error}"
                    );
                }
                Ok(json!("refused"))
            },
        )
        .await
        .unwrap();
    assert_eq!(refused, json!("refused"));
    // A chain that a job starts is a chain of the job's.
    let nightly = scene.bus.client("nightly").await;
    let user = nightly
        .exchange(Exchange::on_behalf_of("batch:x"))
        .await
        .unwrap();
    let message = nightly.message("bank.pay").payload("x").user(user);
    message.request().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_workload_that_exchanges_nobody_may_ask() {
    let none = POLICY.replace("exchanges = true\n", "");
    let none: Vec<_> = none.lines().filter(|l| !l.starts_with("starts")).collect();
    let bus = Bus::start(&none.join("\n")).await;
    let nightly = bus.client("nightly").await;
    let error = nightly
        .exchange(Exchange::on_behalf_of("batch:x"))
        .await
        .unwrap_err();
    let ExchangeError::Request(RequestError::Send(SendError::Denied { denial, .. })) = error else {
        panic!("{error:?}");
    };
    assert_eq!(denial.reason().code(), "reserved_subject");
}
