//! 23: logs at TRACE over a whole run, `Debug` output and error texts hold no
//! token, key or payload. In a process of its own, because logs are global.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../../sdk/keyring/tests/redaction/spellings.rs"]
#[allow(dead_code, unreachable_pub, reason = "here a whole run is searched")]
mod spellings;

use std::fmt::{Debug, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulla_envelope::{MessageId, SealedEnvelope};
use bulla_sdk::telemetry::Prometheus;
use bulla_sdk::{
    Client, ContentType, Context, Message, PayloadError, Reply, ReplySender, RequestError,
    ServiceError, ServiceErrorCode,
};
use bulla_tests::{Bus, Dissected, Forger, SHOP_POLICY, Shop, leaf_of, now};
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use futures_util::StreamExt;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use spellings::Page;

/// What bodies, application headers and tokens say, and nothing else does.
const PAYLOAD: &str = "quagmire-at-dawn";
const HEADER: &str = "zephyr-in-a-header";
const CLAIM: &str = "walrus-of-a-claim";
const ORIGINAL: &str = "the-token-that-the-client-itself-sent";
const TOKEN_SEED: [u8; 32] = *b"the seed of the token's own key!";
const DATA_KEY: [u8; 32] = *b"the data key of a home-made lock";

const MORE: &str = r#"
[workload.mint]
attest = [{ nkey = "@mint@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]

[subject."back.>"]
protect = "encrypted"
[subject."back.fast"]
replies = "mac"
[subject."back.users"]
user = "required"
[subject."plain.>"]
protect = "signed"

[[allow]]
id = "asks"
who = ["mint", "front"]
may = ["request"]
on = ["back.echo", "back.number", "back.many", "back.fast", "back.users", "plain.echo"]
[[allow]]
id = "serves"
who = ["back"]
may = ["serve"]
on = ["back.>", "plain.echo"]
[[allow]]
id = "tells"
who = ["mint", "front"]
may = ["publish"]
on = ["back.told", "plain.told"]
[[allow]]
id = "listens"
who = ["back", "front", "wiretap"]
may = ["subscribe"]
on = ["back.told", "plain.told"]
"#;

/// All that was logged or shown.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn show(&self, shown: &(impl Debug + ?Sized)) {
        let mut bytes = self.0.lock().unwrap();
        write!(bytes, "{shown:?}\n{shown:#?}\n").unwrap();
    }

    fn say(&self, text: &str) {
        let mut bytes = self.0.lock().unwrap();
        writeln!(bytes, "{text}").unwrap();
    }

    /// An error in every way in which it may end up in a log.
    fn blame(&self, error: &(dyn std::error::Error + 'static)) {
        self.show(&error);
        let mut cause = Some(error);
        while let Some(error) = cause {
            self.say(&error.to_string());
            cause = error.source();
        }
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What must not be found, by what it is.
#[derive(Default)]
struct Secrets {
    /// In whatever way they may be printed.
    bytes: Vec<(String, Vec<u8>)>,
    /// As they are: parts of tokens.
    texts: Vec<(String, String)>,
}

impl Secrets {
    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.bytes.push((name.to_owned(), bytes.to_vec()));
    }

    fn text(&mut self, name: &str, text: &str) {
        self.texts.push((name.to_owned(), text.to_owned()));
        self.bytes(name, text.as_bytes());
    }

    /// A token is as good as lost with its signature, and its claims with their text.
    fn token(&mut self, name: &str, token: &str) {
        for part in token.split('.').filter(|part| part.len() > 12) {
            self.texts.push((name.to_owned(), part.to_owned()));
        }
        // Every token has the same header.
        for part in token.split('.').skip(1).filter(|part| part.len() > 12) {
            self.bytes(name, part.as_bytes());
            if let Ok(decoded) = BASE64URL_NOPAD.decode(part.as_bytes()) {
                self.bytes(name, &decoded);
            }
        }
    }

    fn forger(&mut self, who: &str, forger: &Forger) {
        for (name, seed) in forger.seeds() {
            self.bytes(&format!("{name} of {who}"), &seed);
        }
    }

    /// Everything under `keys/` that a file holds, as it stands there and as bytes.
    fn keys_of(&mut self, bus: &Bus) {
        let keys = std::fs::read_dir(bus.provision().path("keys")).unwrap();
        let mut raw = 0;
        for file in keys {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim();
                if line.len() <= 20 {
                    continue;
                }
                self.text(&name, line);
                // Two bytes of its kind, the seed, two bytes of a checksum.
                let nkey = BASE32_NOPAD.decode(line.as_bytes()).ok();
                if let Some(seed) = nkey.as_ref().and_then(|bytes| bytes.get(2..34)) {
                    self.bytes(&name, seed);
                    raw += 1;
                }
                let digits = line.rsplit(':').next().unwrap();
                let authority = [HEXLOWER.decode(digits.as_bytes())]
                    .into_iter()
                    .chain([BASE64URL_NOPAD.decode(digits.as_bytes())])
                    .flatten()
                    .find(|bytes| bytes.len() >= 32);
                if let Some(seed) = authority.filter(|_| digits != line) {
                    self.bytes(&name, &seed);
                    raw += 1;
                }
            }
        }
        assert!(raw >= 10, "only {raw} keys");
    }

    fn none_in(&self, captured: &Captured) {
        let text = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
        let page = Page::new(&text);
        let mut found = String::new();
        let told = |at: usize| {
            let line = text[..at].rfind('\n').map_or(0, |line| line + 1);
            let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
            &text[line..end]
        };
        for (name, secret) in &self.texts {
            if let Some(at) = text.find(secret.as_str()) {
                writeln!(found, "{name}: {}", told(at)).unwrap();
            }
        }
        for (name, secret) in &self.bytes {
            if let Some(spelling) = page.spelling_of(secret) {
                let line = text.find(&spelling).map_or("a list", told);
                writeln!(found, "{name} as `{spelling}`: {line}").unwrap();
            }
        }
        assert!(found.is_empty(), "leaked:\n{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_23_logs_errors_and_debug_hold_no_token_key_or_payload() {
    let captured = Captured::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(captured.clone())
        .finish()
        // As every process of Bulla does.
        .with(bulla_process::withheld())
        .try_init()
        .unwrap();
    let orders = "[subject.\"orders.>\"]\nprotect = \"encrypted\"";
    let policy = SHOP_POLICY.replace("[subject.\"orders.>\"]", orders) + MORE;
    let mut secrets = Secrets::default();
    secrets.text("payload", PAYLOAD);
    secrets.text("header", HEADER);
    secrets.text("claim", CLAIM);
    secrets.bytes("token key", &TOKEN_SEED);
    secrets.text("original token", ORIGINAL);
    secrets.bytes("the edge's token key", &[5; 32]);
    secrets.bytes("the key of the issuer of access tokens", &[3; 32]);
    secrets.bytes("data key", &DATA_KEY);

    let shop = Box::pin(Shop::open_with(Bus::start(&policy).await)).await;
    secrets.keys_of(&shop.bus);
    at_the_edge(&shop, &captured, &mut secrets).await;
    on_the_bus(&shop.bus, &captured, &mut secrets).await;
    attacked(&shop.bus, &captured, &mut secrets).await;
    shop.bus.publish_policy(&policy).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    shop.close().await;

    // It looked at something, and would have seen what is there.
    let text = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    for told in [
        "TRACE",
        "DEBUG",
        "bulla::decision",
        "got a message credential",
        "made a data key",
        "insufficient_scope",
        "bad_signature",
        "a handler panicked",
        "orders.create",
    ] {
        assert!(text.contains(told), "nothing of `{told}` was logged");
    }
    assert!(captured.len() > 100_000, "{}", captured.len());
    secrets.none_in(&captured);
}

/// Orders over HTTP, good and bad.
async fn at_the_edge(shop: &Shop, captured: &Captured, secrets: &mut Secrets) {
    let mut tap = shop.bus.tap("billing.quote").await;
    let good = shop.token("alice", "orders:write");
    let response = shop.order_item(PAYLOAD, Some(&good)).await;
    assert_eq!(response.status(), 201);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    // The transaction token, from a subject that is only signed.
    let sealed = tap.next().await.unwrap().payload;
    let minted = Dissected::of(&sealed).token.unwrap();
    secrets.token("transaction token", std::str::from_utf8(&minted).unwrap());

    let claims = shop.claims("alice", "orders:write");
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        shop.sign(&claims)
    };
    let mut tokens = vec![
        good.clone(),
        shop.token("alice", "orders:read"),
        shop.token("mallory", "orders:write"),
        with("exp", json!(1)),
        with("aud", json!(CLAIM)),
        with("iss", json!(CLAIM)),
        with("scope", json!(CLAIM)),
        with("extra", json!(CLAIM)),
        format!("{good}x"),
        format!("x{good}"),
    ];
    tokens.push(String::from_utf8(minted).unwrap());
    for token in &tokens {
        secrets.token("access token", token);
        let response = shop.order_item(PAYLOAD, Some(token)).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        if !status.is_success() {
            captured.say(&text);
        }
        let response = shop.get(&location, token).await;
        if !response.status().is_success() {
            captured.say(&response.text().await.unwrap());
        }
    }
    let page = shop.http.get(format!("{}/metrics", shop.admin_url));
    let page = page.send().await.unwrap().text().await.unwrap();
    assert!(page.contains("bulla_gateway_"), "{page}");
    captured.say(&page);
    // The schema does not fit, and the JSON is none.
    for body in [
        format!("{{\"item\": 7, \"{PAYLOAD}\": 1}}"),
        format!("\"{PAYLOAD}"),
    ] {
        let request = shop.http.post(format!("{}/v1/orders", shop.url));
        let request = request.header("content-type", "application/json");
        let response = request.bearer_auth(&good).body(body).send().await.unwrap();
        assert!(!response.status().is_success());
        captured.say(&response.text().await.unwrap());
    }
}

async fn serve(back: &Client) -> Vec<bulla_sdk::Service> {
    let echo = async |message: Message<String>| {
        if message.payload().contains("panic") {
            panic!("as asked");
        }
        if message.payload().contains("fail") {
            return Err(ServiceError::new(ServiceErrorCode::Conflict, "as asked"));
        }
        let reply = Reply::encode(message.content_type(), message.payload())?;
        Ok(reply.header("colour", message.header("colour").unwrap_or("none")))
    };
    let many = async |message: Message<String>, replies: ReplySender| {
        for _ in 0..3 {
            replies.send(message.payload()).await?;
        }
        let large = Reply::bytes(ContentType::MessagePack, vec![b'q'; 2_000_000]);
        Ok(replies.send(large).await?)
    };
    let mut services = vec![
        back.serve_stream("back.many", many).await.unwrap(),
        back.serve_stream("back.fast", many).await.unwrap(),
        back.serve("back.number", async |m: Message<u32>| {
            Ok::<_, ServiceError>(*m.payload())
        })
        .await
        .unwrap(),
        back.serve("back.users", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.payload().clone())
        })
        .await
        .unwrap(),
    ];
    for subject in ["back.echo", "plain.echo"] {
        services.push(back.serve(subject, echo).await.unwrap());
    }
    services
}

/// The SDK between workloads, with a user and without.
async fn on_the_bus(bus: &Bus, captured: &Captured, secrets: &mut Secrets) {
    let metrics = Prometheus::new();
    let recorder = Arc::new(metrics.clone());
    let options = bus.connect_options("mint").token_key(&TOKEN_SEED);
    let options = options.recorder(recorder.clone());
    captured.show(&options);
    let mint = Client::connect(options).await.unwrap();
    let options = bus.connect_options("back").recorder(recorder);
    let back = Client::connect(options).await.unwrap();
    for client in [&mint, &back] {
        metrics.watch(client.stats());
    }
    let services = serve(&back).await;
    let mut told = back.subscribe("back.told").await.unwrap();
    let (user, expired) = (token(&mint, 1), token(&mint, 120));
    for token in [&user, &expired] {
        secrets.token("transaction token", token);
    }

    for (subject, is_json) in [
        ("back.echo", false),
        ("back.echo", true),
        ("plain.echo", true),
        ("back.users", false),
    ] {
        let message = mint.message(subject);
        let message = match is_json {
            true => message.json(PAYLOAD),
            false => message.payload(PAYLOAD),
        };
        let mut message = message.header("colour", HEADER).user_token(&user);
        if subject.starts_with("back.") {
            message = message.original_token(ORIGINAL);
        }
        let response = message.request().await.unwrap();
        assert_eq!(response.decode::<String>().unwrap(), PAYLOAD);
        captured.show(&response);
        // Not what was asked for.
        let error: PayloadError = response.decode::<u32>().unwrap_err();
        captured.blame(&error);
        captured.blame(&RequestError::from(error));
    }
    for bad in [PAYLOAD, "a.b.c", &expired, &format!("{user}x")] {
        let message = mint.message("back.echo").payload(PAYLOAD).user_token(bad);
        captured.blame(&message.request().await.unwrap_err());
    }
    let text = [PAYLOAD, "panic"].concat();
    for (subject, text) in [
        ("back.echo", text.as_str()),
        ("back.echo", &[PAYLOAD, "fail"].concat()),
        ("back.number", PAYLOAD),
        ("back.users", PAYLOAD),
        ("back.nobody", PAYLOAD),
        ("not a subject", PAYLOAD),
    ] {
        let message = mint.message(subject).json(text);
        captured.blame(&message.request().await.unwrap_err());
    }
    for subject in ["back.many", "back.fast"] {
        let mut responses = mint.request_many(subject, PAYLOAD).await.unwrap();
        captured.show(&responses);
        while let Some(response) = responses.next().await {
            match response {
                Ok(response) => captured.show(&response),
                Err(error) => captured.blame(&error),
            }
        }
    }
    let large = vec![b'q'; 2_000_000];
    let message = mint
        .message("back.echo")
        .bytes(ContentType::MessagePack, large);
    captured.blame(&message.request().await.unwrap_err());
    for name in ["no spaces", "ok"] {
        let message = mint.message("back.told").payload(PAYLOAD);
        let message = message.header(name, format!("{HEADER}\r\n"));
        captured.blame(&message.publish().await.unwrap_err());
    }

    let message = mint.message("back.told").payload(PAYLOAD);
    let message = message.header("colour", HEADER).user_token(&user);
    message.publish().await.unwrap();
    mint.flush().await.unwrap();
    let message = told.next().await.unwrap();
    captured.blame(&message.decode::<u32>().unwrap_err());
    captured.show(&message);
    captured.show(&message.clone().typed::<String>().unwrap());
    captured.show(message.user().unwrap());
    captured.show(&message.context());
    captured.show(&Context::current());
    captured.show(message.sender());
    captured.show(&mint);
    captured.show(mint.stats());
    captured.show(back.stats());
    // What others scrape.
    let page = metrics.text();
    assert!(
        page.contains("back.echo") && page.lines().count() > 20,
        "{page}"
    );
    captured.show(&metrics);
    captured.say(&page);
    for service in services {
        service.drain().await;
    }
}

fn token(mint: &Client, age: u64) -> String {
    let mut claims = TransactionClaims::new("txn-1", "alice", mint.workload().as_str());
    claims.context.insert("tier".to_owned(), CLAIM.into());
    claims.issued = now().saturating_sub(Duration::from_secs(age));
    claims.expires = claims.issued.saturating_add(Duration::from_secs(60));
    let policy = mint.policy();
    let domain = policy.policy().trust_domain().clone();
    let key = TokenSigningKey::from_seed(TOKEN_SEED);
    let kid = mint.signing_key().0.to_hex();
    mint_transaction_token(&key, &kid, &domain, &claims).unwrap()
}

/// What is refused is not quoted either.
async fn attacked(bus: &Bus, captured: &Captured, secrets: &mut Secrets) {
    let (back, front) = (bus.client("back").await, bus.client("front").await);
    let services = serve(&back).await;
    let forger = Forger::genuine(bus, "front").await;
    secrets.forger("front", &forger);
    captured.show(&forger);
    captured.show(forger.sealer());
    let raw = bus.raw_client("front").await;
    let inbox = bus.peer_inbox("front", "x");
    let key = forger.data_key(bus, "back", &DATA_KEY);
    captured.show(&key);
    let body = [&[0xa0 | 16][..], PAYLOAD.as_bytes()].concat();
    let sound = forger.encrypted_request("back.echo", &inbox, &body, &key);
    captured.show(&SealedEnvelope::decode(sound.clone()).unwrap());
    captured.show(&Dissected::of(&sound));
    let mut bent = sound.to_vec();
    bent[sound.len() - 1] ^= 1;
    let clear = forger.request("back.echo", &inbox, now(), &body);
    captured.show(&SealedEnvelope::decode(clear.clone()).unwrap());
    let user = "header.payload-of-a-token.signature-of-a-token";
    secrets.token("a token", user);
    let with_token = forger.request_for_user("plain.echo", &inbox, now(), &body, user);
    for (subject, payload) in [
        ("back.echo", sound.clone()),
        ("back.echo", sound.clone()),
        ("back.number", sound),
        ("back.echo", bent.into()),
        ("back.echo", clear),
        ("plain.echo", with_token),
        ("back.echo", PAYLOAD.into()),
        ("back.echo", "".into()),
    ] {
        raw.publish_with_reply(subject, inbox.clone(), payload)
            .await
            .unwrap();
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while back.stats().refused().values().sum::<u64>() < 7 {
        let refused = back.stats().refused();
        assert!(tokio::time::Instant::now() < end, "{refused:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    captured.show(back.stats());
    for service in services {
        service.drain().await;
    }

    // Replies that are none.
    let server = Forger::genuine(bus, "back").await;
    secrets.forger("back", &server);
    captured.show(&server);
    let raw = bus.raw_client("back").await;
    let mut requests = raw
        .queue_subscribe("plain.echo", "back".to_owned())
        .await
        .unwrap();
    let _ = raw
        .request(bulla_identity::reserved::BARRIER, "".into())
        .await;
    let asking = tokio::spawn(async move {
        let message = front.message("plain.echo").payload(PAYLOAD);
        let message = message.timeout(Duration::from_secs(2));
        message.request().await
    });
    let request = requests.next().await.unwrap();
    let reply_to = request.reply.unwrap().to_string();
    let leaf = leaf_of(&request.payload);
    let sound = server.reply(&reply_to, leaf, &body);
    let mut bent = sound.to_vec();
    bent[sound.len() - 1] ^= 1;
    for payload in [PAYLOAD.into(), bent.into(), sound] {
        raw.publish(reply_to.clone(), payload).await.unwrap();
    }
    let response = asking.await.unwrap().unwrap();
    captured.show(&response);
    captured.blame(&response.decode::<u32>().unwrap_err());
    captured.show(&MessageId([1; 16]));
}
