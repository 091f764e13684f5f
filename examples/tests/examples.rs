//! Every example, run on one real bus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bulla_examples::{hello, hops, layers, mailer, moving, quotes, switches, tenants};
use bulla_sdk::{AppendError, BucketError, RequestError, SendError, ServiceErrorCode};
use bulla_testing::{Bus, Minter};
use tokio::sync::oneshot;
use tokio::time::timeout;

const POLICY: &str = include_str!("../policy.toml");
const LIMIT: Duration = Duration::from_secs(10);

/// One bus for all of them: they are told apart by their workloads and subjects.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_does_what_it_says() {
    let bus = Bus::start(POLICY).await;
    hello_is_heard(&bus).await;
    quotes_are_made(&bus).await;
    a_user_hops(&bus).await;
    mail_is_sent_or_mourned(&bus).await;
    tenants_keep_to_themselves(&bus).await;
    layers_limit_and_retry(&bus).await;
    switches_are_set_and_followed(&bus).await;
    who_moves_hears_both(&bus).await;
}

async fn hello_is_heard(bus: &Bus) {
    let (greeter, listener) = (bus.client("greeter").await, bus.client("listener").await);
    let mut greetings = listener.subscribe("hello.*").await.unwrap();
    hello::greet(&greeter).await.unwrap();
    let heard = timeout(LIMIT, hello::hear(&mut greetings)).await.unwrap();
    assert_eq!(heard.as_deref(), Some("greeter says hello"));
    // Who may only listen cannot speak.
    hello::greet(&listener).await.unwrap_err();
}

async fn quotes_are_made(bus: &Bus) {
    let (shop, billing) = (bus.client("shop").await, bus.client("billing").await);
    let _service = quotes::serve(&billing).await.unwrap();
    let mut cart = quotes::Cart {
        item: "bowl".to_owned(),
        quantity: 3,
    };
    assert_eq!(quotes::ask(&shop, &cart).await.unwrap(), 120);
    cart.quantity = u32::MAX;
    let error = quotes::ask(&shop, &cart).await.unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.code(), ServiceErrorCode::Invalid);
    assert_eq!(error.message(), "nobody can pay that");
}

async fn a_user_hops(bus: &Bus) {
    let edge = Minter::connect(bus, "edge").await;
    let (shop, billing) = (bus.client("shop").await, bus.client("billing").await);
    let ledger = bus.client("ledger").await;
    let _shop = hops::shop(&shop).await.unwrap();
    let _billing = hops::billing(&billing).await.unwrap();
    let _ledger = hops::ledger(&ledger).await.unwrap();
    let buy = |token: String| {
        let message = edge.client.message("hops.buy").user_token(token);
        message.payload("a bowl").request()
    };
    let alice = edge.token("alice", "orders:write orders:read", &[]);
    let bought: String = buy(alice).await.unwrap().decode().unwrap();
    assert_eq!(bought, "a bowl for alice, who may do 0 things here");
    let bob = edge.token("bob", "orders:read", &[]);
    let denied = buy(bob).await.unwrap_err();
    assert!(matches!(
        denied,
        RequestError::Send(SendError::Denied { .. })
    ));
}

/// A post office that is closed at first.
#[derive(Clone, Default)]
struct PostOffice {
    asked: Arc<AtomicU32>,
    sent: Arc<AtomicU32>,
}

impl mailer::Post for PostOffice {
    fn send(&self, _: &str, _: &str) -> bool {
        let is_open = self.asked.fetch_add(1, Ordering::SeqCst) >= 2;
        self.sent.fetch_add(u32::from(is_open), Ordering::SeqCst);
        is_open
    }
}

async fn mail_is_sent_or_mourned(bus: &Bus) {
    let (shop, mailer) = (bus.client("shop").await, bus.client("mailer").await);
    let ledger = bus.client("ledger").await;
    mailer::order(&shop, 1, "alice@acme.example").await.unwrap();
    mailer::order(&shop, 2, "nowhere").await.unwrap();
    let post = PostOffice::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let work = tokio::spawn({
        let post = post.clone();
        async move {
            let stop = async { stopped.await.unwrap_or_default() };
            mailer::confirm_all(&mailer, post, stop).await
        }
    });
    let letter = timeout(LIMIT, mailer::mourn(&ledger)).await.unwrap();
    let letter = letter.unwrap();
    assert_eq!(letter.subject, "orders.2.created");
    assert_eq!(
        (letter.reason.as_str(), letter.message.as_str()),
        ("invalid", "that is no address")
    );
    let end = tokio::time::Instant::now() + LIMIT;
    while post.sent.load(Ordering::SeqCst) == 0 {
        assert!(tokio::time::Instant::now() < end, "no mail was sent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(post.asked.load(Ordering::SeqCst), 3);
    stop.send(()).unwrap();
    work.await.unwrap().unwrap();
}

async fn tenants_keep_to_themselves(bus: &Bus) {
    let edge = Minter::connect(bus, "edge").await;
    let ledger = bus.client("ledger").await;
    let alice = edge.token_with("alice", |claims| {
        claims.context.insert("tenant".to_owned(), "acme".into());
    });
    tenants::write(&edge.client, &alice, "acme", "a note")
        .await
        .unwrap();
    let denied = tenants::write(&edge.client, &alice, "other", "a note").await;
    let denied = denied.unwrap_err();
    assert!(
        matches!(denied, AppendError::Send(SendError::Denied { .. })),
        "{denied:?}"
    );
    let (tenant, user, note) = timeout(LIMIT, tenants::read(&ledger))
        .await
        .unwrap()
        .unwrap();
    assert_eq!([tenant, user, note], ["acme", "alice", "a note"]);
}

async fn layers_limit_and_retry(bus: &Bus) {
    let (shop, billing) = (bus.client("shop").await, bus.client("billing").await);
    let _service = layers::serve(&billing).await.unwrap();
    // One at a time: the other is turned away, and comes again.
    let (one, two) = tokio::join!(layers::ask(&shop, "one"), layers::ask(&shop, "two"));
    assert_eq!(one.unwrap(), "<h1>one</h1>");
    assert_eq!(two.unwrap(), "<h1>two</h1>");
}

async fn switches_are_set_and_followed(bus: &Bus) {
    let (billing, shop) = (bus.client("billing").await, bus.client("shop").await);
    let key = "shop.search";
    let mut changes = switches::follow(&shop, key).await.unwrap();
    for percent in [1, 10, 100, 100] {
        let set = switches::widen(&billing, key).await.unwrap();
        assert_eq!(set.percent, percent);
        let seen = timeout(LIMIT, switches::next(&mut changes)).await.unwrap();
        assert_eq!(seen.unwrap(), Some(("billing".to_owned(), Some(set))));
    }
    billing
        .bucket("switches")
        .unwrap()
        .delete(key)
        .await
        .unwrap();
    let seen = timeout(LIMIT, switches::next(&mut changes)).await.unwrap();
    assert_eq!(seen.unwrap(), Some(("billing".to_owned(), None)));
    // Who may only follow its own switch neither sets it nor reads others.
    let denied = switches::widen(&shop, key).await.unwrap_err();
    assert!(
        matches!(
            denied,
            switches::SwitchError::Bucket(BucketError::Denied { .. } | BucketError::Send(_))
        ),
        "{denied:?}"
    );
    switches::follow(&shop, "shop.>").await.unwrap_err();
}

async fn who_moves_hears_both(bus: &Bus) {
    let (greeter, listener) = (bus.client("greeter").await, bus.client("listener").await);
    let mut news = listener.subscribe_open("moving.news").await.unwrap();
    moving::say_plainly(&greeter, "half way").await.unwrap();
    let heard = timeout(LIMIT, moving::hear(&mut news)).await.unwrap();
    let plain = moving::Heard::Plain {
        perhaps: vec!["greeter".to_owned()],
        text: "\"half way\"".to_owned(),
    };
    assert_eq!(heard, Some(plain));
    moving::say(&greeter, "there").await.unwrap();
    let heard = timeout(LIMIT, moving::hear(&mut news)).await.unwrap();
    let proven = moving::Heard::Proven {
        by: "greeter".to_owned(),
        text: "there".to_owned(),
    };
    assert_eq!(heard, Some(proven));
}
