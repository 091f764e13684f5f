//! The SDK on a real bus: what services see, and what refusals tell them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_identity::reserved;
use bulla_sdk::{
    Client, ContentType, Context, FlushError, Message, PublishError, Reply, RequestError,
    SendError, ServiceError, ServiceErrorCode, SubscribeError,
};
use bulla_tests::{Bus, BusOptions, Forger, now};
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};
use serde::{Deserialize, Serialize};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[subject."front.order"]
user = "required"
[subject."back.quote"]
user = "required"
[subject."back.anonymous"]
user = "none"
[subject."back.secret"]
protect = "encrypted"

[[allow]]
id = "edge-orders"
who = ["edge"]
may = ["request"]
on = ["front.order"]
user = { scope = "orders:write" }

[[allow]]
id = "front-serves"
who = ["front"]
may = ["serve"]
on = ["front.order"]

[[allow]]
id = "front-asks-back"
who = ["front"]
may = ["request"]
on = ["back.quote"]
user = { scope = "orders:write", tier = "gold" }

[[allow]]
id = "front-asks-freely"
who = ["front"]
may = ["request"]
on = ["back.anonymous", "back.echo", "back.secret"]

[[allow]]
id = "back-serves"
who = ["back"]
may = ["serve"]
on = ["back.>"]

[[allow]]
id = "front-tells"
who = ["front"]
may = ["publish"]
on = ["events.{kind}.done"]

[[allow]]
id = "back-listens"
who = ["back"]
may = ["subscribe"]
on = ["events.*.done"]
"#;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    item: String,
}

/// What the edge does for a user: a token under its own key, and its client.
struct Edge {
    client: Client,
    key: TokenSigningKey,
}

impl Edge {
    async fn connect(bus: &Bus, workload: &str) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let options = bus.connect_options(workload).token_key(&seed);
        let client = Client::connect(options).await.unwrap();
        Self {
            client,
            key: TokenSigningKey::from_seed(seed),
        }
    }

    fn token(&self, user: &str, scope: &str, tier: &str) -> String {
        self.token_from(user, scope, tier, now(), Duration::from_secs(60))
    }

    fn token_from(
        &self,
        user: &str,
        scope: &str,
        tier: &str,
        issued: bulla_identity::UnixMillis,
        life: Duration,
    ) -> String {
        let mut claims = TransactionClaims::new("txn-1", user, self.client.workload().as_str());
        claims.scope = scope.to_owned();
        claims.context.insert("tier".to_owned(), tier.into());
        claims.issued = issued;
        claims.expires = issued.saturating_add(life);
        let policy = self.client.policy();
        let domain = policy.policy().trust_domain().clone();
        let kid = self.client.signing_key().0.to_hex();
        mint_transaction_token(&self.key, &kid, &domain, &claims).unwrap()
    }

    async fn order(&self, token: &str) -> Result<String, RequestError> {
        let message = self.client.message("front.order").payload(&Order {
            item: "clay".into(),
        });
        Ok(message.user_token(token).request().await?.decode()?)
    }
}

/// `back.quote` names the user it serves.
async fn serve_back(back: &Client) -> bulla_sdk::Service {
    back.serve("back.quote", async |m: Message<Order>| {
        let user = m.user().unwrap();
        Ok::<_, ServiceError>(format!(
            "{} for {} via {}",
            m.payload().item,
            user.principal(),
            m.sender().workload().path()
        ))
    })
    .await
    .unwrap()
}

/// `front.order` asks `back.quote` in its handler and says nothing of users.
async fn serve_front(front: &Client) -> bulla_sdk::Service {
    let client = front.clone();
    front
        .serve("front.order", move |m: Message<Order>| {
            let client = client.clone();
            async move {
                let quote: String = client.request("back.quote", m.payload()).await?;
                Ok::<_, ServiceError>(quote)
            }
        })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_travels_two_hops_by_itself() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _services = (serve_back(&back).await, serve_front(&front).await);
    let answer = edge
        .order(&edge.token("alice", "orders:write", "gold"))
        .await
        .unwrap();
    assert_eq!(answer, "clay for alice via front");
    // Another user on the same connections is another user.
    let answer = edge
        .order(&edge.token("bob", "orders:write", "gold"))
        .await
        .unwrap();
    assert_eq!(answer, "clay for bob via front");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_14_a_user_without_the_right_is_refused_at_the_second_hop_too() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _services = (serve_back(&back).await, serve_front(&front).await);
    // May order, but `back.quote` asks for gold: the privileged `front` does
    // not lend its own rights.
    let error = edge
        .order(&edge.token("carol", "orders:write", "silver"))
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Unavailable);
    // And the edge itself learns why before anything is sent.
    let error = edge
        .order(&edge.token("dave", "orders:read", "gold"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::Send(SendError::Denied { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("edge-orders"), "{error}");
    assert!(error.to_string().contains("scope"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_explained_before_anything_is_sent() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let error = front.publish("nobody.listens", "x").await.unwrap_err();
    let PublishError::Send(SendError::Denied { denial, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(denial.reason().code(), "not_granted");
    let error = front
        .request::<_, String>("back.quote", "x")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("demands a user"), "{error}");
    for subject in ["", "a b", "events.*.done", "events.>", "a..b", "$SYS.x"] {
        assert!(front.publish(subject, "x").await.is_err(), "{subject}");
    }
    let Err(error) = front.subscribe("events.a.done").await else {
        panic!("subscribed")
    };
    assert!(matches!(error, SubscribeError::Denied { .. }), "{error}");
    let Err(error) = front
        .serve("back.echo", async |_: Message<String>| {
            Ok::<_, ServiceError>(())
        })
        .await
    else {
        panic!("serves")
    };
    assert!(matches!(error, SubscribeError::Denied { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_subject_is_refused_and_not_sent_in_clear() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let ran = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ran);
    let _service = back
        .serve("back.secret", move |_: Message<String>| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ServiceError>("ran") }
        })
        .await
        .unwrap();
    let error = front
        .request::<_, String>("back.secret", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::Send(SendError::Protection { .. })),
        "{error}"
    );
    // A sender that does not care is refused by the receiver.
    let forger = Forger::genuine(&bus, "front").await;
    let raw = bus.raw_client("front").await;
    let inbox = bus.peer_inbox("front", "x");
    let sealed = forger.request("back.secret", &inbox, now(), b"\xa1x");
    raw.publish_with_reply("back.secret", inbox, sealed)
        .await
        .unwrap();
    eventually(|| back.stats().refused_for("not_encrypted") == 1).await;
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_every_subscriber_and_one_of_a_queue() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let (one, two) = (bus.client("back").await, bus.client("back").await);
    let mut all_one = one.subscribe("events.*.done").await.unwrap();
    let mut all_two = two.subscribe("events.*.done").await.unwrap();
    let shared_one = one.queue_subscribe("events.*.done").await.unwrap();
    let shared_two = two.queue_subscribe("events.*.done").await.unwrap();
    let count = Arc::new(AtomicU64::new(0));
    for mut shared in [shared_one, shared_two] {
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            while shared.next().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for i in 0..50u32 {
        front.publish("events.bake.done", &i).await.unwrap();
    }
    front.flush().await.unwrap();
    for i in 0..50u32 {
        for subscription in [&mut all_one, &mut all_two] {
            let message = subscription.next().await.unwrap();
            assert_eq!(message.decode::<u32>().unwrap(), i, "order is kept");
            assert_eq!(message.sender().workload().path(), "front");
            assert_eq!(message.permit().rule(), "front-tells");
        }
    }
    eventually(|| count.load(Ordering::SeqCst) == 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_server_refuses_later_reaches_the_caller() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    // A newer policy grants more than the connection's permissions, which were
    // compiled when it was made.
    let wider = POLICY.replace(
        r#"on = ["events.{kind}.done"]"#,
        r#"on = ["events.{kind}.done", "events.extra"]"#,
    );
    bus.publish_policy(&wider).await;
    eventually(|| front.policy().revision() == 2).await;
    front.publish("events.extra", "x").await.unwrap();
    let error = front.flush().await.unwrap_err();
    let FlushError::Refused { refused } = error else {
        panic!("{error}")
    };
    assert_eq!(refused.get("events.extra"), Some(&1));
    // Without a flush, the next publish on the subject says so.
    front.publish("events.extra", "x").await.unwrap();
    let mut told = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Err(error) = front.publish("events.extra", "x").await {
            told = Some(error);
            break;
        }
    }
    assert!(
        matches!(told, Some(PublishError::EarlierRefused { .. })),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_or_request_that_nats_server_refuses_is_an_error() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let wider = POLICY
        .replace(
            r#"who = ["back"]
may = ["subscribe"]"#,
            r#"who = ["back", "front"]
may = ["subscribe"]"#,
        )
        .replace(
            r#"on = ["back.anonymous", "back.echo", "back.secret"]"#,
            r#"on = ["back.anonymous", "back.echo", "back.new"]"#,
        );
    bus.publish_policy(&wider).await;
    eventually(|| front.policy().revision() == 2).await;
    let Err(error) = front.subscribe("events.*.done").await else {
        panic!("subscribed")
    };
    assert!(
        matches!(error, SubscribeError::RefusedByServer { .. }),
        "{error}"
    );
    let start = tokio::time::Instant::now();
    let error = front
        .request::<_, String>("back.new", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::RefusedByServer { .. }),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "it did not wait for its time-out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_15_a_workload_that_a_new_policy_drops_is_refused_at_once() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let forger = Forger::genuine(&bus, "front").await;
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "x");
    let old = bus.control_record(reserved::CTL_POLICY).await;
    let narrower = POLICY.replace(
        r#"on = ["back.anonymous", "back.echo", "back.secret"]"#,
        r#"on = ["back.anonymous"]"#,
    );
    bus.publish_policy(&narrower).await;
    eventually(|| back.policy().revision() == 2).await;
    // It ignores its own policy; the receiver does not.
    let raw = bus.raw_client("front").await;
    let inbox = bus.peer_inbox("front", "x");
    let sealed = forger.request("back.echo", &inbox, now(), b"\xa1x");
    raw.publish_with_reply("back.echo", inbox, sealed)
        .await
        .unwrap();
    eventually(|| back.stats().refused_for("not_granted") == 1).await;
    // The older revision, genuine and signed, is not taken back.
    bus.replace_control_record(reserved::CTL_POLICY, old).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(back.policy().revision(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_renewed_while_messages_flow() {
    let mut options = BusOptions::new(POLICY);
    options.credential_lifetime = Duration::from_secs(3);
    let bus = Bus::start_with(options).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<u32>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let first = front.signing_key().0;
    let end = tokio::time::Instant::now() + Duration::from_secs(7);
    let mut count = 0u32;
    while tokio::time::Instant::now() < end {
        let answer: u32 = front.request("back.echo", &count).await.unwrap();
        assert_eq!(answer, count);
        count += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(front.signing_key().0, first);
    assert!(
        back.stats().refused().is_empty(),
        "{:?}",
        back.stats().refused()
    );
    assert!(count > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_13_a_token_that_the_signature_does_not_cover_is_refused() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let front = bus.client("front").await;
    let ran = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ran);
    let _service = front
        .serve("front.order", move |_: Message<Order>| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ServiceError>("ok") }
        })
        .await
        .unwrap();
    // Two genuine tokens of one length; Alice's is swapped for Bobby's.
    let alice = edge.token("alice", "orders:write", "gold");
    let bobby = edge.token("bobby", "orders:write", "gold");
    assert_eq!(alice.len(), bobby.len());
    let raw = bus.raw_client("edge").await;
    let forger = Forger::genuine(&bus, "edge").await;
    let inbox = bus.peer_inbox("edge", "x");
    let body = ContentType::MessagePack
        .encode(&Order {
            item: "clay".into(),
        })
        .unwrap();
    let sealed = forger.request_for_user("front.order", &inbox, now(), &body, &alice);
    let at = sealed
        .windows(alice.len())
        .position(|w| w == alice.as_bytes())
        .unwrap();
    let mut swapped = sealed.to_vec();
    swapped[at..at + bobby.len()].copy_from_slice(bobby.as_bytes());
    raw.publish_with_reply("front.order", inbox.clone(), swapped.into())
        .await
        .unwrap();
    eventually(|| front.stats().refused_for("token_mismatch") == 1).await;
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    raw.publish_with_reply("front.order", inbox, sealed)
        .await
        .unwrap();
    eventually(|| ran.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_10_tokens_that_nobody_may_mint_are_refused() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let front = bus.client("front").await;
    let _service = front
        .serve("front.order", async |_: Message<Order>| {
            Ok::<_, ServiceError>("ok")
        })
        .await
        .unwrap();
    let good = edge.token("alice", "orders:write", "gold");
    edge.order(&good).await.unwrap();
    // Expired, and from a key that no credential names.
    let old = edge.token_from(
        "alice",
        "orders:write",
        "gold",
        now().saturating_sub(Duration::from_secs(120)),
        Duration::from_secs(60),
    );
    let stranger = Edge {
        client: edge.client.clone(),
        key: TokenSigningKey::from_seed([9; 32]),
    };
    let foreign = stranger.token("alice", "orders:write", "gold");
    let mut unsigned = good.clone();
    unsigned.truncate(good.rfind('.').unwrap() + 1);
    for bad in [old, foreign, unsigned, "x".to_owned(), String::new()] {
        let error = edge.order(&bad).await.unwrap_err();
        assert!(
            matches!(error, RequestError::Send(SendError::User { .. })),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_10_a_workload_that_lost_the_right_to_mint_is_refused() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let front = bus.client("front").await;
    let _service = front
        .serve("front.order", async |_: Message<Order>| {
            Ok::<_, ServiceError>("ok")
        })
        .await
        .unwrap();
    let token = edge.token("alice", "orders:write", "gold");
    edge.order(&token).await.unwrap();
    // Its credential still names the token key; the policy does not name it.
    bus.publish_policy(&POLICY.replace("mints = true\n", ""))
        .await;
    eventually(|| edge.client.policy().revision() == 2).await;
    let error = edge.order(&token).await.unwrap_err();
    let RequestError::Send(SendError::User { reason }) = error else {
        panic!("{error}")
    };
    assert_eq!(reason, "token_may_not_mint");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_workloads_that_may_mint_get_a_token_key() {
    let bus = Bus::start(POLICY).await;
    let options = bus
        .connect_options("back")
        .token_key(&[7; 32])
        .connect_timeout(Duration::from_secs(2));
    let error = Client::connect(options).await.unwrap_err();
    assert!(error.to_string().contains("credential"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_without_users_gets_none_from_the_context() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _quiet = back
        .serve("back.anonymous", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.user().is_none())
        })
        .await
        .unwrap();
    let client = front.clone();
    let _front = front
        .serve("front.order", move |_: Message<Order>| {
            let client = client.clone();
            async move {
                assert!(Context::current().user().is_some());
                let anonymous: bool = client.request("back.anonymous", "x").await?;
                Ok::<_, ServiceError>(format!("anonymous: {anonymous}"))
            }
        })
        .await
        .unwrap();
    let answer = edge
        .order(&edge.token("alice", "orders:write", "gold"))
        .await
        .unwrap();
    assert_eq!(answer, "anonymous: true");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_errors_and_headers_come_back_as_sent() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back
        .serve("back.echo", async |m: Message<String>| {
            match m.payload().as_str() {
                "missing" => Err(ServiceError::new(
                    ServiceErrorCode::NotFound,
                    "no such thing",
                )),
                "large" => Ok(Reply::bytes(ContentType::MessagePack, vec![0u8; 2_000_000])),
                text => Ok(Reply::encode(m.content_type(), text)?
                    .header("colour", m.header("colour").unwrap_or("none"))),
            }
        })
        .await
        .unwrap();
    let response = front
        .message("back.echo")
        .json("hi")
        .header("colour", "blue")
        .request()
        .await
        .unwrap();
    assert_eq!(response.content_type(), &ContentType::Json);
    assert_eq!(response.body().as_ref(), b"\"hi\"");
    assert_eq!(response.header("colour"), Some("blue"));
    assert_eq!(response.sender().workload().path(), "back");

    let error = front
        .request::<_, String>("back.echo", "missing")
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (error.code(), error.message()),
        (ServiceErrorCode::NotFound, "no such thing")
    );
    let error = front
        .request::<_, String>("back.echo", &7)
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Invalid);
    let error = front
        .request::<_, String>("back.echo", "large")
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Service(_)), "{error}");
    let body = vec![0u8; 2_000_000];
    let message = front
        .message("back.echo")
        .bytes(ContentType::MessagePack, body);
    let error = message.request().await.unwrap_err();
    let RequestError::Send(SendError::TooLarge { limit, actual }) = error else {
        panic!("{error}")
    };
    assert!(actual > limit && limit == front.max_payload());
    service.drain().await;
    let error = front
        .request::<_, String>("back.echo", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::NoResponders { .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_handler_harms_only_its_own_request() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            assert!(m.payload() != "panic", "as asked");
            Ok::<_, ServiceError>("fine")
        })
        .await
        .unwrap();
    let error = front
        .request::<_, String>("back.echo", "panic")
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Internal);
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_a_service_answers_what_is_in_flight() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back
        .serve("back.echo", async |m: Message<u32>| {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let requests: Vec<_> = (0..20u32)
        .map(|i| {
            let front = front.clone();
            tokio::spawn(async move { front.request::<_, u32>("back.echo", &i).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.drain().await;
    for (i, request) in requests.into_iter().enumerate() {
        assert_eq!(request.await.unwrap().unwrap(), u32::try_from(i).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_survives_the_server_and_finds_it_again() {
    let mut bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let _: String = front.request("back.echo", "before").await.unwrap();
    bus.restart_server().await;
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let message = front
            .message("back.echo")
            .payload("after")
            .timeout(Duration::from_millis(500));
        match message.request().await {
            Ok(response) => {
                assert_eq!(response.decode::<String>().unwrap(), "after");
                break;
            }
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for something that other tasks bring about.
async fn eventually(mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
