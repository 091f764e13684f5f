//! Attacks 10 and 13 on the bus: what is no transaction token of this user, in an
//! envelope that is otherwise sound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hmac;
use bulla_sdk::{Client, Message, RequestError, SendError, Service, ServiceError};
use bulla_tests::{Bus, Cable, Dissected, Forger, Minter, now, signing_input};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::eventually;

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
[workload.other]
attest = [{ nkey = "@other@" }]

[subject."front.ask"]
user = "required"
[subject."front.hidden"]
protect = "encrypted"
[subject."back.>"]
protect = "encrypted"
[subject."front.open"]
protect = "encrypted"
open_token = true

[[allow]]
id = "edge-asks"
who = ["edge", "other"]
may = ["request"]
on = ["front.>"]
[[allow]]
id = "front-asks"
who = ["front"]
may = ["request"]
on = ["back.ask"]
[[allow]]
id = "back-serves"
who = ["back"]
may = ["serve"]
on = ["back.ask"]
[[allow]]
id = "front-serves"
who = ["front"]
may = ["serve"]
on = ["front.>"]
"#;

struct Scene {
    bus: Bus,
    edge: Minter,
    front: Client,
    ran: Arc<AtomicU64>,
    _service: Service,
}

impl Scene {
    async fn start() -> Self {
        let bus = Bus::start(POLICY).await;
        let edge = Minter::connect(&bus, "edge").await;
        let front = bus.client("front").await;
        let ran = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&ran);
        let _service = front
            .serve("front.>", move |m: Message<String>| {
                counter.fetch_add(1, Ordering::SeqCst);
                let user = m.user().map(|user| user.principal().to_owned());
                async move { Ok::<_, ServiceError>(user) }
            })
            .await
            .unwrap();
        Self {
            bus,
            edge,
            front,
            ran,
            _service,
        }
    }

    /// The header and claims of a token that the edge might mint for Alice.
    fn sound(&self) -> (Value, Value) {
        let uri = "spiffe://acme.example";
        let header = json!({
            "alg": "EdDSA", "typ": "txntoken+jwt",
            "kid": self.edge.client.signing_key().0.to_hex(),
        });
        let now = now().as_secs();
        let claims = json!({
            "iss": uri, "aud": uri, "iat": now, "exp": now + 60, "txn": "t", "sub": "alice",
            "scope": "a", "req_wl": self.edge.client.workload().as_str(), "tctx": {},
        });
        (header, claims)
    }

    /// Why `front` refuses a request with this token, whose sender asked nobody.
    async fn refusal(&self, token: &str) -> &'static str {
        let forger = Forger::genuine(&self.bus, "edge").await;
        let inbox = self.bus.peer_inbox("edge", "x");
        let sealed = forger.request_for_user("front.ask", &inbox, now(), b"\xa1x", token);
        self.refused(sealed).await
    }

    async fn refused(&self, sealed: Bytes) -> &'static str {
        let raw = self.bus.raw_client("edge").await;
        let before = self.front.stats().refused();
        let inbox = self.bus.peer_inbox("edge", "x");
        raw.publish_with_reply("front.ask", inbox, sealed)
            .await
            .unwrap();
        let mut code = None;
        eventually(|| {
            let after = self.front.stats().refused();
            code = after.into_keys().find(|code| {
                self.front.stats().refused_for(code) != before.get(code).copied().unwrap_or(0)
            });
            code.is_some()
        })
        .await;
        code.unwrap()
    }

    async fn told(&self, token: &str) -> &'static str {
        let message = self.edge.client.message("front.ask").payload("x");
        match message.user_token(token).request().await {
            Err(RequestError::Send(SendError::User { reason })) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn changed(base: &Value, name: &str, value: Value) -> Value {
    let mut changed = base.clone();
    changed[name] = value;
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_10_no_other_kind_of_token_passes_for_a_transaction_token() {
    let scene = Scene::start().await;
    let (header, claims) = scene.sound();
    let sign = |header: &Value| scene.edge.sign(header, &claims);
    let public = scene.edge.key.public().as_bytes();
    // HS256, with the public key that everybody knows as the secret.
    let hs256 = changed(&header, "alg", json!("HS256"));
    let input = signing_input(&hs256, &claims);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, public);
    let tag = hmac::sign(&secret, input.as_bytes());
    let hs256 = format!("{input}.{}", BASE64URL_NOPAD.encode(tag.as_ref()));
    let none = signing_input(&changed(&header, "alg", json!("none")), &claims);
    // A JWE: five parts, though its first looks like ours.
    let jwe = changed(&header, "enc", json!("A256GCM"));
    let jwe = changed(&jwe, "alg", json!("dir"));
    let first = signing_input(&jwe, &claims);
    let first = first.split('.').next().unwrap();
    let parts = ["", "AAAAAAAAAAAAAAAA", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA"].join(".");
    // The same five parts around a genuine token.
    let good = sign(&header);
    let jwe_of_jws = format!("{good}.AAAA.AAAA");
    for (token, code) in [
        (
            sign(&changed(&header, "typ", json!("at+jwt"))),
            "token_wrong_type",
        ),
        (
            sign(&changed(&header, "typ", json!("JWT"))),
            "token_wrong_type",
        ),
        (sign(&changed(&header, "typ", Value::Null)), ""),
        (hs256, ""),
        (format!("{none}."), ""),
        (none, ""),
        (format!("{first}.{parts}"), ""),
        (jwe_of_jws, ""),
        (sign(&changed(&header, "zip", json!("DEF"))), ""),
        (sign(&changed(&header, "jwk", json!({"kty": "OKP"}))), ""),
        (sign(&changed(&header, "b64", json!(false))), ""),
    ] {
        let told = scene.told(&token).await;
        // Every receiver says the same, whoever asked nobody.
        assert_eq!(scene.refusal(&token).await, told, "{token}");
        assert!(told.starts_with("token_"), "{told}");
        assert!(code.is_empty() || code == told, "{told}");
    }
    assert_eq!(scene.ran.load(Ordering::SeqCst), 0);
    // All of them failed for what was changed.
    let message = scene.edge.client.message("front.ask").payload("x");
    message.user_token(&good).request().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_18_a_compressed_token_is_refused_unread() {
    let scene = Scene::start().await;
    let (header, claims) = scene.sound();
    let zipped = changed(&header, "zip", json!("DEF"));
    let encrypted = changed(
        &changed(&zipped, "enc", json!("A256GCM")),
        "alg",
        json!("dir"),
    );
    let first = signing_input(&encrypted, &claims);
    let first = first.split('.').next().unwrap();
    // A block that says "258 times the byte before", over and over: a thousandfold.
    let bomb = BASE64URL_NOPAD.encode(&[0x55; 4_096]);
    let jwe = format!("{first}..AAAAAAAAAAAAAAAA.{bomb}.AAAAAAAAAAAAAAAAAAAAAA");
    for token in [scene.edge.sign(&zipped, &claims), jwe] {
        let told = scene.told(&token).await;
        assert_eq!(scene.refusal(&token).await, told, "{token}");
        assert!(told.starts_with("token_"), "{told}");
    }
    assert_eq!(scene.ran.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_13_a_token_is_there_exactly_when_it_was_signed_for() {
    let scene = Scene::start().await;
    let (alice, bobby) = (
        scene.edge.token("alice", "", &[]),
        scene.edge.token("bobby", "", &[]),
    );
    let forger = Forger::genuine(&scene.bus, "edge").await;
    let inbox = scene.bus.peer_inbox("edge", "x");
    let for_alice = forger.request_for_user("front.ask", &inbox, now(), b"\xa1x", &alice);
    let for_nobody = forger.request("front.ask", &inbox, now(), b"\xa1x");
    let with_token = |envelope: &Bytes, token: Option<&str>| {
        let mut parts = Dissected::of(envelope);
        parts.token = token.map(|token| token.as_bytes().to_vec());
        parts.assemble()
    };
    for (envelope, code) in [
        (with_token(&for_alice, Some(&bobby)), "token_mismatch"),
        (with_token(&for_alice, None), "token_presence"),
        (with_token(&for_nobody, Some(&alice)), "token_presence"),
        (with_token(&for_alice, Some("")), "token_mismatch"),
    ] {
        assert_eq!(scene.refused(envelope).await, code);
    }
    // With the hash of Bobby's beside it the signature is over something else.
    let mut parts = Dissected::of(&for_alice);
    parts.token = Some(bobby.clone().into_bytes());
    parts.set(
        11,
        bulla_tests::bin(&bulla_keyring::sha256(&[bobby.as_bytes()])),
    );
    assert_eq!(scene.refused(parts.assemble()).await, "bad_signature");
    assert_eq!(scene.ran.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_seen_by_nats_server_only_where_the_policy_leaves_it_outside() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let cable = Cable::to(bus.nats_url()).await;
    let _service = front
        .serve("front.>", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.user().map(|user| user.principal().to_owned()))
        })
        .await
        .unwrap();
    let edge = Minter::connect_behind(&bus, "edge", &cable).await;
    for (subject, is_seen) in [
        ("front.hidden", false),
        ("front.open", true),
        ("front.ask", true),
    ] {
        // A token of its own, to be told from the others.
        let token = edge.token_with("alice", |claims| claims.txn = subject.to_owned());
        let message = edge.client.message(subject).payload("x");
        let seen: Option<String> = message
            .user_token(&token)
            .request()
            .await
            .unwrap()
            .decode()
            .unwrap();
        assert_eq!(seen.as_deref(), Some("alice"));
        assert_eq!(cable.has_seen(token.as_bytes()), is_seen, "{subject}");
    }
}

const OWN: &str = "eyJ.the-clients-own.token";

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_token_goes_to_who_serves_the_route_and_no_further() {
    let bus = Bus::start(POLICY).await;
    let cable = Cable::to(bus.nats_url()).await;
    let front = bus.client_behind(&cable, "front").await;
    let back = bus.client("back").await;
    let seen = |m: &Message<String>| m.original_token().map(|own| own.expose().to_owned());
    let _back = back
        .serve("back.ask", move |m: Message<String>| {
            let seen = seen(&m);
            async move { Ok::<_, ServiceError>(seen) }
        })
        .await
        .unwrap();
    let client = front.clone();
    let _front = front
        .serve("front.hidden", move |m: Message<String>| {
            let (client, seen) = (client.clone(), seen(&m));
            async move {
                let shown = format!("{m:?}{:?}", m.original_token());
                assert!(!shown.contains("clients-own"), "{shown}");
                let beyond: Option<String> = client.request("back.ask", "x").await?;
                // It is not this service's to hand on as the client's.
                let on = client.message("back.ask").payload("x");
                let error = on.original_token(OWN).request().await.unwrap_err();
                assert!(
                    matches!(error, RequestError::Send(SendError::Original { .. })),
                    "{error}"
                );
                Ok::<_, ServiceError>((seen, beyond))
            }
        })
        .await
        .unwrap();
    let edge = Minter::connect(&bus, "edge").await;
    let token = edge.token("alice", "", &[]);
    let ask = |subject: &str| {
        let message = edge.client.message(subject).payload("x");
        message.user_token(&token).original_token(OWN)
    };
    let response = ask("front.hidden").request().await.unwrap();
    let (own, beyond): (Option<String>, Option<String>) = response.decode().unwrap();
    assert_eq!((own.as_deref(), beyond), (Some(OWN), None));
    assert!(cable.has_seen(b"front.hidden") && !cable.has_seen(OWN.as_bytes()));
    // Nowhere but where it is encrypted with the user's token, and with no user.
    for subject in ["front.ask", "front.open"] {
        let error = ask(subject).request().await.unwrap_err();
        assert!(
            matches!(error, RequestError::Send(SendError::Original { .. })),
            "{error}"
        );
    }
    let nobody = edge.client.message("front.hidden").payload("x");
    let error = nobody.original_token(OWN).request().await.unwrap_err();
    assert!(matches!(
        error,
        RequestError::Send(SendError::Original { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_13_a_clients_own_token_counts_only_from_who_minted_the_users() {
    let scene = Scene::start().await;
    let edge = Forger::genuine(&scene.bus, "edge").await;
    let other = Forger::genuine(&scene.bus, "other").await;
    let token = scene.edge.token("alice", "", &[]);
    for (forger, workload, subject, code) in [
        (&other, "other", "front.hidden", "original_foreign"),
        (&edge, "edge", "front.ask", "original_not_allowed"),
    ] {
        let key = forger.data_key(&scene.bus, "front", &[9; 32]);
        let inbox = scene.bus.peer_inbox(workload, "x");
        let sealed = forger.request_with_original(subject, &inbox, &token, OWN, &key);
        let raw = scene.bus.raw_client(workload).await;
        raw.publish_with_reply(subject, inbox, sealed)
            .await
            .unwrap();
        eventually(|| scene.front.stats().refused_for(code) == 1).await;
    }
    assert_eq!(scene.ran.load(Ordering::SeqCst), 0);
}
