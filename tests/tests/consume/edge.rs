//! The edge on streams: each request appended once whichever node gets it, events read
//! from where a client stopped, and quotas that nodes share.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bulla_gateway::{Gateway, GatewayConfig, SealedBus};
use bulla_identity::SubjectPattern;
use bulla_keyring::SigningKey;
use bulla_process::CancellationToken;
use bulla_sdk::{Agreed, StreamReader};
use bulla_tests::{Cable, access_token, gateway_file, key_set, now, serve_keys};
use bulla_token::TokenSigningKey;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const EDGE: &str = r#"
[[allow]]
id = "edge-appends-orders"
who = ["edge"]
may = ["append"]
on = ["orders.{id}.created"]
[[allow]]
id = "edge-reads-orders"
who = ["edge"]
may = ["consume"]
on = ["ORDERS.edge", "JOBS2.edge"]
[stream.JOBS2]
subjects = ["work.>"]
retention = "interest"
[subject."work.>"]
replay = "stream"
max_age = "1h"
"#;

const ROUTES: &str = r#"
[[route]]
method = "POST"
path = "/orders/{id}"
subject = "orders.{id}.created"
mode = "publish"
auth = "jwt"
issuer = "@issuer@"
audience = "https://shop.example"
idempotency = { life = "1h" }

[[route]]
method = "GET"
path = "/orders/{id}/events"
subject = "orders.{id}.created"
mode = "stream"
auth = "public"

[[route]]
method = "GET"
path = "/limited"
subject = "nobody.serves"
mode = "request"
auth = "public"
rates = ["together"]
"#;

struct Node {
    url: String,
    http: reqwest::Client,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    /// A node of the edge; each has a token key of its own.
    async fn start(bus: &Bus, issuer: &str, number: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let routes = ROUTES.replace("@issuer@", issuer);
        std::fs::write(dir.path().join("routes.toml"), routes).unwrap();
        let path = dir.path().join("gateway.toml");
        let mut text = gateway_file(bus, "edge", "127.0.0.1:0", issuer);
        text.push_str(
            "[[rate]]\nname = \"together\"\nby = \"ip\"\nquota = 6\nwindow = \"24h\"\nshared = true\n",
        );
        std::fs::write(&path, text).unwrap();
        let config = GatewayConfig::load(&path).unwrap_or_else(|e| panic!("{e}"));
        let options = bus.connect_options("edge").token_key(&[number; 32]);
        let client = Client::connect(options).await.unwrap();
        let key = TokenSigningKey::from_seed([number; 32]);
        let gateway = Gateway::new(config, SealedBus::new(client), key)
            .await
            .unwrap();
        let url = format!("http://{}", gateway.address());
        let stop = CancellationToken::new();
        tokio::spawn(gateway.run(stop.clone()));
        Self {
            url,
            http: reqwest::Client::new(),
            stop,
            _dir: dir,
        }
    }

    async fn order(&self, token: &str, key: &str, item: &str) -> reqwest::Response {
        let request = self.http.post(format!("{}/orders/7", self.url));
        let request = request.bearer_auth(token).header("idempotency-key", key);
        request.json(&json!({ "item": item })).send().await.unwrap()
    }

    async fn events(&self, after: Option<u64>) -> Events {
        let mut request = self.http.get(format!("{}/orders/7/events", self.url));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Events {
            response,
            text: String::new(),
        }
    }
}

struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    /// The next event: its number and what it says.
    async fn next(&mut self) -> (u64, String) {
        let reading = async {
            loop {
                if let Some((event, rest)) = self.text.split_once("\n\n") {
                    let mut lines = event.lines();
                    let number = lines.next().and_then(|l| l.strip_prefix("id: "));
                    let found = number.map(|n| {
                        let data = lines.next().unwrap().strip_prefix("data: ").unwrap();
                        (n.parse().unwrap(), data.to_owned())
                    });
                    self.text = rest.to_owned();
                    if let Some(found) = found {
                        return found;
                    }
                    continue;
                }
                let chunk = self.response.chunk().await.unwrap().expect("it goes on");
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        timeout(LIMIT, reading).await.expect("an event")
    }
}

/// An issuer of access tokens, and one of Alice's.
async fn issuer() -> (String, String) {
    let (url, [token]) = issuer_for(["alice"]).await;
    (url, token)
}

/// An issuer of access tokens, and one of each user's.
async fn issuer_for<const N: usize>(users: [&str; N]) -> (String, [String; N]) {
    let key = SigningKey::from_seed(&[3; 32]);
    let url = serve_keys(&key_set(&key)).await;
    let at = now().as_secs();
    let tokens = users.map(|user| {
        let claims = json!({"iss": url, "aud": "https://shop.example", "sub": user,
            "client_id": "c", "jti": "j", "iat": at, "exp": at + 300});
        access_token(&key, &claims)
    });
    (url, tokens)
}

async fn messages(bus: &Bus) -> u64 {
    let context = async_nats::jetstream::new(bus.js_client().await);
    let mut stream = context.get_stream("ORDERS").await.unwrap();
    stream.info().await.unwrap().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_two_nodes_get_is_appended_once() {
    let bus = Bus::start(&format!("{POLICY}{EDGE}")).await;
    let (url, token) = issuer().await;
    let (first, second) = (
        Node::start(&bus, &url, 5).await,
        Node::start(&bus, &url, 6).await,
    );
    eventually(async || first.order(&token, "warm", "tea").await.status() == 202).await;
    eventually(async || second.order(&token, "warm", "tea").await.status() == 202).await;
    assert_eq!(messages(&bus).await, 1);

    // All at once, on both nodes.
    let both = [&first, &second];
    let asked = (0..12).map(|i| both[i % 2].order(&token, "k", "tea"));
    for answer in join_all(asked).await {
        assert_eq!(answer.status(), 202);
    }
    assert_eq!(messages(&bus).await, 2);
    let again = second.order(&token, "k", "tea").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let other = second.order(&token, "k", "milk").await;
    assert_eq!(other.status(), 422);
    assert_eq!(messages(&bus).await, 2);

    // Whoever consumes the stream gets it, with its user.
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    let message = delivery.message();
    assert_eq!(message.user().unwrap().principal(), "alice");
    assert_eq!(message.decode::<Value>().unwrap(), json!({"item": "tea"}));

    // And a quota is one quota.
    let mut passed = 0;
    for i in 0..14 {
        let asked = both[i % 2].http.get(format!("{}/limited", both[i % 2].url));
        let status = asked.send().await.unwrap().status().as_u16();
        assert!(matches!(status, 403 | 429 | 503), "{status}");
        passed += usize::from(status != 429);
    }
    assert_eq!(passed, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_27_a_key_that_another_user_has_used_swallows_no_order() {
    let bus = Bus::start(&format!("{POLICY}{EDGE}")).await;
    let (url, [mallory, alice]) = issuer_for(["mallory", "alice"]).await;
    let (first, second) = (
        Node::start(&bus, &url, 5).await,
        Node::start(&bus, &url, 6).await,
    );
    eventually(async || first.order(&mallory, "k", "milk").await.status() == 202).await;
    assert_eq!(messages(&bus).await, 1);
    // The same key, on the node that has seen it and on another, for the same and for
    // something else.
    for (node, item) in [(&first, "milk"), (&second, "milk")] {
        let answer = node.order(&alice, "k", item).await;
        assert_eq!(answer.status(), 202);
        assert_eq!(messages(&bus).await, 2, "hers, once");
    }
    let other = second.order(&alice, "k", "tea").await;
    assert_eq!(other.status(), 422);
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    for user in ["mallory", "alice"] {
        let delivery = next(&mut consumer).await.unwrap();
        assert_eq!(delivery.message().user().unwrap().principal(), user);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_where_it_stopped_on_another_node() {
    let bus = Bus::start(&format!("{POLICY}{EDGE}")).await;
    let (url, _) = issuer().await;
    let (first, second) = (
        Node::start(&bus, &url, 5).await,
        Node::start(&bus, &url, 6).await,
    );
    let shop = bus.client("shop").await;
    let tell = async |order: u32, what: &str| {
        let subject = format!("orders.{order}.created");
        let message = shop.message(&subject).json(what);
        message.append().await.unwrap().sequence()
    };
    // What was before is not told to who comes new.
    tell(7, "before").await;
    let mut events = first.events(None).await;
    let one = tell(7, "one").await;
    tell(8, "another's").await;
    let two = tell(7, "two").await;
    assert_eq!(events.next().await, (one, "\"one\"".to_owned()));
    assert_eq!(events.next().await, (two, "\"two\"".to_owned()));
    drop(events);

    let three = tell(7, "three").await;
    tell(8, "another's").await;
    let four = tell(7, "four").await;
    let mut events = second.events(Some(two)).await;
    assert_eq!(events.next().await, (three, "\"three\"".to_owned()));
    assert_eq!(events.next().await, (four, "\"four\"".to_owned()));
    let five = tell(7, "five").await;
    assert_eq!(events.next().await, (five, "\"five\"".to_owned()));

    // Many at once come all and in order, however they are read.
    let mut late = first.events(Some(four)).await;
    let mut wanted = Vec::new();
    for i in 0..150 {
        wanted.push(tell(7, &format!("n{i}")).await);
    }
    assert_eq!(late.next().await.0, five);
    for sequence in &wanted {
        assert_eq!(events.next().await.0, *sequence);
        assert_eq!(late.next().await.0, *sequence);
    }
}

/// Takes nothing of an open stream of events for as long as it lives.
async fn deaf(node: &Node) -> tokio::net::TcpStream {
    let address = node.url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "GET /orders/7/events HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_to_a_stream_that_cannot_be_read_any_more_is_told_and_comes_back() {
    let bus = Bus::start(&format!("{POLICY}{EDGE}")).await;
    let (url, _) = issuer().await;
    let node = Node::start(&bus, &url, 5).await;
    let shop = bus.client("shop").await;
    let mut events = node.events(None).await;
    let _deaf = deaf(&node).await;
    // More than its connection takes, and then more than waits for it: whatever becomes of
    // the stream, this one stands still.
    let much = "x".repeat(500_000);
    for text in [&much; 8].into_iter().chain([&"few".to_owned(); 80]) {
        shop.append("orders.7.created", text).await.unwrap();
        events.next().await;
    }

    // Nobody is revoked and the policy is what it was: only the stream is not.
    settings::update(&bus, "ORDERS", |c| {
        c.duplicate_window = Duration::from_millis(100);
    })
    .await;
    let ending = async {
        while let Some(chunk) = events.response.chunk().await.unwrap() {
            assert!(!chunk.starts_with(b"id"), "{chunk:?}");
        }
    };
    timeout(LIMIT, ending).await.expect("the stream ends");

    // Who comes back when it is good again listens to it anew, not to what has ended.
    settings::update(&bus, "ORDERS", |c| {
        c.duplicate_window = Duration::from_secs(120);
    })
    .await;
    let mut events = node.events(None).await;
    let last = shop.append("orders.7.created", "again").await.unwrap();
    let heard = events.next().await;
    assert_eq!(heard, (last.sequence(), "\"again\"".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_by_number_under_the_checks_of_a_consumer() {
    let bus = Bus::start(&format!("{POLICY}{EDGE}")).await;
    let (shop, edge) = (bus.client("shop").await, bus.client("edge").await);
    let pattern = |text: &str| SubjectPattern::parse(text).unwrap();
    let everything = pattern(">");
    let reader = edge.read_stream("ORDERS", "edge").await.unwrap();
    assert_eq!(reader.last(&everything).await.unwrap(), 0);
    assert!(reader.after(&everything, 0).await.unwrap().is_none());

    let first = shop.append("orders.1.created", "clay").await.unwrap();
    // Bytes that nobody sealed, and a copy of what was stored under another number.
    append_raw(
        &bus,
        "mallory",
        "orders.1.rumour",
        Some("x"),
        Bytes::from_static(b"x"),
    )
    .await;
    let (_, bytes) = stored(&bus, "ORDERS", 1).await;
    append_raw(&bus, "shop", "orders.1.created", Some("y"), bytes).await;
    let read = async |reader: &StreamReader, after| {
        let found = reader.after(&everything, after).await.unwrap().unwrap();
        let sequence = found.sequence();
        (sequence, found.into_message())
    };
    let (sequence, message) = read(&reader, 0).await;
    assert_eq!(sequence, first.sequence());
    assert_eq!(message.unwrap().decode::<String>().unwrap(), "clay");
    for after in [1, 2] {
        let (sequence, message) = read(&reader, after).await;
        assert_eq!(sequence, after + 1);
        assert!(message.is_none());
    }
    let refused: u64 = edge.stats().refused().values().sum();
    assert_eq!(refused, 2);
    assert_eq!(reader.last(&everything).await.unwrap(), 3);
    assert_eq!(reader.last(&pattern("orders.1.rumour")).await.unwrap(), 2);

    // A stream that forgets what was taken is none, and neither is another's.
    let forgets = edge.read_stream("JOBS2", "edge").await.unwrap_err();
    assert!(
        matches!(forgets, ConsumeError::NotReadable { .. }),
        "{forgets}"
    );
    let anothers = edge.read_stream("ORDERS", "mail").await.unwrap_err();
    assert!(
        matches!(anothers, ConsumeError::Denied { .. }),
        "{anothers}"
    );
    let without = format!("{POLICY}{}", EDGE.replace("\"ORDERS.edge\", ", ""));
    bus.publish_policy(&without).await;
    eventually(async || edge.policy().revision() == 2).await;
    let gone = reader.after(&everything, 0).await.unwrap_err();
    assert!(matches!(gone, ConsumeError::Denied { .. }), "{gone}");
}

/// After a lost connection the settings are looked at first. Who began that look and is
/// not polled again keeps nobody from reading.
// On one thread, so that nothing else runs during the one poll.
#[tokio::test]
async fn a_slow_reader_keeps_nobody_from_a_stream() {
    let bus = Bus::start(&format!("{POLICY}{EDGE}")).await;
    let cable = Cable::to(bus.nats_url()).await;
    let shop = bus.client("shop").await;
    let edge = bus.client_behind(&cable, "edge").await;
    let reader = edge.read_stream("ORDERS", "edge").await.unwrap();
    let everything = SubjectPattern::parse(">").unwrap();
    let stored = shop.append("orders.1.created", "clay").await.unwrap();
    cable.cut();
    assert!(reader.last(&everything).await.is_err());
    cable.mend();
    eventually(async || reader.last(&everything).await.is_ok()).await;

    let mut idle = pin!(reader.after(&everything, 0));
    let poll = poll_fn(|cx| Poll::Ready(idle.as_mut().poll(cx))).await;
    assert!(poll.is_pending(), "it has nothing to ask");
    let other = timeout(LIMIT, reader.after(&everything, 0)).await;
    let other = other.expect("nobody is waited for").unwrap().unwrap();
    assert_eq!(other.sequence(), stored.sequence());
    let idle = timeout(LIMIT, idle).await.unwrap().unwrap().unwrap();
    assert_eq!(idle.sequence(), stored.sequence());
}

#[tokio::test]
async fn edges_remember_for_long_where_no_stream_forgets() {
    let bus = Bus::start(
        r#"
version = 1
trust_domain = "acme.example"
[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
"#,
    )
    .await;
    let client = bus.client("edge").await;
    let remembering = async {
        let day = Duration::from_secs(24 * 60 * 60);
        // A broker makes the stream beside what else it begins with.
        while client.agree("asked", &[b"key"], b"1", day).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.agree("asked", &[b"key"], b"2", day).await
    };
    let agreed = timeout(LIMIT, remembering).await.expect("it remembers");
    assert!(matches!(agreed, Ok(Agreed::Before(value)) if &value[..] == b"1"));
}
