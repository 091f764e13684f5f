//! The user's token: minted at the edge, verified at every hop, carried on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_sdk::{
    Client, ContentType, Context, Limits, Message, RequestError, SendError, ServiceError,
    ServiceErrorCode,
};
use bulla_tests::{Bus, Forger, now};
use bulla_token::{MintedToken, TokenSigningKey, TransactionClaims};

use super::{Order, POLICY, eventually};

/// What the edge does for a user: a token under its own key, and its client.
pub(crate) struct Edge {
    pub(crate) client: Client,
    key: TokenSigningKey,
}

impl Edge {
    pub(crate) async fn connect(bus: &Bus, workload: &str) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let options = bus.connect_options(workload).token_key(&seed);
        let client = Client::connect(options).await.unwrap();
        Self {
            client,
            key: TokenSigningKey::from_seed(seed),
        }
    }

    pub(crate) fn token(&self, user: &str, scope: &str, tier: &str) -> String {
        self.token_from(user, scope, tier, now(), Duration::from_secs(60))
    }

    /// The same, and not forgotten that it was signed here.
    fn minted(&self, key: &TokenSigningKey, user: &str) -> MintedToken {
        let mut claims = TransactionClaims::new("txn-1", user, self.client.workload().as_str());
        claims.scope = "orders:write".to_owned();
        claims.context.insert("tier".to_owned(), "gold".into());
        claims.issued = now();
        claims.expires = claims.issued.saturating_add(Duration::from_secs(60));
        self.mint(key, &claims)
    }

    fn mint(&self, key: &TokenSigningKey, claims: &TransactionClaims) -> MintedToken {
        let policy = self.client.policy();
        let domain = policy.policy().trust_domain().clone();
        let kid = self.client.signing_key().0.to_hex();
        key.mint(&kid, &domain, claims).unwrap()
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
        self.mint(&self.key, &claims).as_str().to_owned()
    }

    pub(crate) async fn order(&self, token: &str) -> Result<String, RequestError> {
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

/// `front.order` counts what it gets.
async fn serve_counted(front: &Client) -> (bulla_sdk::Service, Arc<AtomicU64>) {
    let ran = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ran);
    let service = front
        .serve("front.order", move |_: Message<Order>| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ServiceError>("ok") }
        })
        .await
        .unwrap();
    (service, ran)
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
async fn attack_13_what_the_edge_signed_itself_counts_under_its_published_key_alone() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _services = (serve_back(&back).await, serve_front(&front).await);
    let ask = async |token| {
        let message = edge.client.message("front.order").payload(&Order {
            item: "clay".into(),
        });
        message.minted_token(token).request().await
    };
    let answer = ask(edge.minted(&edge.key, "alice")).await.unwrap();
    let answer: String = answer.decode().unwrap();
    assert_eq!(answer, "clay for alice via front");
    // One of this process too, but of a key that its credential does not publish.
    let other = TokenSigningKey::from_seed([8; 32]);
    let error = ask(edge.minted(&other, "alice")).await.unwrap_err();
    assert!(
        matches!(
            error,
            RequestError::Send(SendError::User {
                reason: "token_bad_signature"
            })
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_a_minted_token_is_kept_while_something_else_is_waited_for() {
    let policy = POLICY.replace(
        "[subject.\"front.order\"]",
        "[subject.\"front.order\"]\nprotect = \"encrypted\"",
    );
    assert_ne!(policy, POLICY);
    let bus = Bus::start(&policy).await;
    let edge = Edge::connect(&bus, "edge").await;
    let front = bus.client("front").await;
    let (_service, ran) = serve_counted(&front).await;
    let narrowed = Limits::none().keep_scopes(["orders:write"]);
    // For the data key at first; for the limits; for nothing.
    for (asked, limits) in [None, Some(&narrowed), None].into_iter().enumerate() {
        let message = edge.client.message("front.order").payload(&Order {
            item: "clay".into(),
        });
        let message = message.minted_token(edge.minted(&edge.key, "alice"));
        let message = match limits {
            Some(limits) => message.narrow(limits),
            None => message,
        };
        message.request().await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), asked as u64 + 1);
    }
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
async fn attack_13_a_token_that_the_signature_does_not_cover_is_refused() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let front = bus.client("front").await;
    let (_service, ran) = serve_counted(&front).await;
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

/// A token whose signature is none: its minter's own envelope vouches for it, as far as
/// that reaches and no further.
///
/// [ENV-115]
#[tokio::test(flavor = "multi_thread")]
async fn attack_10_only_the_credential_that_a_token_names_vouches_for_it() {
    const SEED: [u8; 32] = [42; 32];
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let (_service, ran) = serve_counted(&front).await;
    let minter = Forger::genuine_minter(&bus, "edge", SEED).await;
    let another_process = Forger::genuine_minter(&bus, "edge", SEED).await;
    let mut claims = TransactionClaims::new("txn-1", "alice", bus.workload("edge").as_str());
    claims.scope = "orders:write".to_owned();
    claims.context.insert("tier".to_owned(), "gold".into());
    claims.issued = now();
    claims.expires = claims.issued.saturating_add(Duration::from_secs(60));
    let key = TokenSigningKey::from_seed(SEED);
    let kid = minter.credential().id().to_hex();
    let domain = bus.policy().trust_domain().clone();
    let token = key.mint(&kid, &domain, &claims).unwrap();
    let (signed, _) = token.as_str().rsplit_once('.').unwrap();
    let unsigned = format!("{signed}.{}", "A".repeat(86));

    let raw = bus.raw_client("edge").await;
    let body = ContentType::MessagePack
        .encode(&Order {
            item: "clay".into(),
        })
        .unwrap();
    let send = async |forger: &Forger, inbox: &str, token: &str| {
        let inbox = bus.peer_inbox("edge", inbox);
        let sealed = forger.request_for_user("front.order", &inbox, now(), &body, token);
        raw.publish_with_reply("front.order", inbox, sealed)
            .await
            .unwrap();
    };
    send(&another_process, "a", &unsigned).await;
    eventually(|| front.stats().refused_for("token_bad_signature") == 1).await;
    send(&minter, "b", &unsigned).await;
    eventually(|| ran.load(Ordering::SeqCst) == 1).await;
    // What the minter vouched for before is for nobody else to spend.
    send(&another_process, "c", &unsigned).await;
    eventually(|| front.stats().refused_for("token_bad_signature") == 2).await;
    // All else is asked of its minter too: here, that the token is in its time.
    claims.issued = now().saturating_sub(Duration::from_secs(120));
    claims.expires = claims.issued.saturating_add(Duration::from_secs(60));
    let old = key.mint(&kid, &domain, &claims).unwrap();
    send(&minter, "d", old.as_str()).await;
    eventually(|| front.stats().refused_for("token_expired") == 1).await;
    // With its signature it is anybody's to hand on.
    send(&another_process, "e", token.as_str()).await;
    eventually(|| ran.load(Ordering::SeqCst) == 2).await;
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
async fn the_user_is_dropped_where_the_handler_says_so_and_nowhere_else() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _back = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.user().map(|user| user.principal().to_owned()))
        })
        .await
        .unwrap();
    let client = front.clone();
    let _front = front
        .serve("front.order", move |_: Message<Order>| {
            let client = client.clone();
            async move {
                type Seen = Option<String>;
                let ask = || client.message("back.echo").payload("x");
                let kept: Seen = ask().request().await?.decode()?;
                assert_eq!(kept.as_deref(), Some("alice"));
                let dropped: Seen = ask().without_user().request().await?.decode()?;
                assert_eq!(dropped, None);
                let nobody = Context::current().without_user();
                let inside = async { client.request::<_, Seen>("back.echo", "x").await };
                assert_eq!(Box::pin(nobody.scope(inside)).await?, None);
                // A task of its own has no user unless it is given one.
                let elsewhere = client.clone();
                let spawned =
                    tokio::spawn(
                        async move { elsewhere.request::<_, Seen>("back.echo", "x").await },
                    );
                assert_eq!(spawned.await.unwrap()?, None);
                let elsewhere = client.clone();
                let given = Context::current()
                    .spawn(async move { elsewhere.request::<_, Seen>("back.echo", "x").await });
                assert_eq!(given.await.unwrap()?.as_deref(), Some("alice"));
                // Where one is demanded, dropping it is a refusal.
                let error = client
                    .message("back.quote")
                    .payload("x")
                    .without_user()
                    .request()
                    .await
                    .unwrap_err();
                let RequestError::Send(SendError::Denied { denial, .. }) = error else {
                    panic!("{error}");
                };
                Ok::<_, ServiceError>(denial.reason().code())
            }
        })
        .await
        .unwrap();
    let answer = edge
        .order(&edge.token("alice", "orders:write", "gold"))
        .await
        .unwrap();
    assert_eq!(answer, "user_required");
}
