//! What clients say of themselves when they connect, at its worst, on a real server.

use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_keyring::SigningKey;
use bulla_tests::{BrokerProcess, Bus, BusOptions, RawSocket, now, signing_input};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::time::Instant;

const ISSUER: &str = "https://kubernetes.default.svc";
const ACCOUNT: &str = "system:serviceaccount:shop:checkout";

fn key() -> SigningKey {
    SigningKey::from_seed(&[21; 32])
}

fn policy() -> String {
    let x = BASE64URL_NOPAD.encode(key().verifying_key().as_bytes());
    let keys = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "x": x },
    ] });
    format!(
        r#"
version = 1
trust_domain = "acme.example"
[jwt.cluster]
issuer = "{ISSUER}"
audience = "bulla"
jwks = '''{keys}'''
[workload.checkout]
attest = [{{ jwt = "cluster", k8s = "shop/checkout", vouches = true }}]
[workload.orders]
attest = [{{ nkey = "@orders@" }}]
"#
    )
}

/// A token that the issuer really signed.
fn token(change: impl FnOnce(&mut Value)) -> String {
    let secs = now().as_secs();
    let mut claims = json!({
        "iss": ISSUER, "aud": "bulla", "sub": ACCOUNT, "iat": secs, "exp": secs + 600,
    });
    change(&mut claims);
    let input = signing_input(&json!({ "alg": "EdDSA", "kid": "k1" }), &claims);
    let signature = BASE64URL_NOPAD.encode(key().sign_text(&input).as_bytes());
    format!("{input}.{signature}")
}

/// Refused by nats-server at once and not for want of an answer.
async fn is_refused_at_once(bus: &Bus, login: &Value) -> bool {
    let mut socket = RawSocket::connect(bus.nats_url()).await;
    let began = Instant::now();
    !socket.log_in(login).await && began.elapsed() < Duration::from_millis(1_500)
}

/// Each is denied by a broker, for a reason that is counted, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_logins_are_denied_with_a_reason_and_leave_nothing_behind() {
    let bus = Bus::start_with(BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(policy())
    })
    .await;
    let broker = BrokerProcess::start(&bus, Group::Both).await;
    let shows = |token: String| json!({ "auth_token": token, "protocol": 1 });
    let says = |sub: &str| shows(token(|claims| claims["sub"] = sub.into()));
    let mut logins = vec![
        (shows("a.b".to_owned()), "token_malformed"),
        (shows("a\u{0}.b.c".to_owned()), "token_forbidden_byte"),
        (shows("é.b.c".to_owned()), "token_forbidden_byte"),
        // As much as fits into a line of nats-server's.
        (shows("x".repeat(30 * 1024)), "token_too_large"),
        (
            shows(token(|claims| claims["aud"] = "another".into())),
            "token_wrong_audience",
        ),
        (
            shows(token(|claims| {
                claims["iss"] = "https://evil.example".into()
            })),
            "token_unknown_issuer",
        ),
        (
            shows(token(|claims| claims["sub"] = json!([ACCOUNT]))),
            "token_bad_claim",
        ),
        (
            says("system:serviceaccount:shop:checkout\u{0}"),
            "token_bad_claim",
        ),
        (
            says("system:serviceaccount:shop:checkout\r\nPUB x 0"),
            "token_bad_claim",
        ),
    ];
    for sub in [
        "system:serviceaccount:shop:*",
        "system:serviceaccount:>",
        "*",
        ">",
        "system.serviceaccount.shop.checkout",
        "system:serviceaccount:shop:checkout.",
        "system:serviceaccount:shop:check\u{200b}out",
        "system:serviceaccount:shop:ch\u{435}ckout",
        "spiffe://acme.example/orders",
    ] {
        logins.push((says(sub), "token_of_no_workload"));
    }
    let socket = RawSocket::connect(bus.nats_url()).await;
    let signed = RawSocket::login_of(&bus.seed("orders"), socket.nonce());
    for nkey in [
        "*",
        ">",
        "orders.*",
        "orders\u{0}",
        "\u{202e}orders",
        "U",
        &"U".repeat(20_000),
    ] {
        let mut login = signed.clone();
        login["nkey"] = nkey.into();
        logins.push((login, ""));
    }
    for sig in ["*", "\u{0}", "é", "", &"A".repeat(20_000)] {
        let mut login = signed.clone();
        login["sig"] = sig.into();
        logins.push((login, ""));
    }
    // A right signature over another connection's nonce, under names of every kind.
    for user in [
        "orders",
        "orders~0000000000000000",
        "*",
        ">",
        "broker-auth\u{0}",
        "APP",
    ] {
        let mut login = signed.clone();
        login["user"] = user.into();
        login["name"] = format!("{user}\n{user}").into();
        login["pass"] = user.into();
        login["jwt"] = "a.b.c".into();
        logins.push((login, ""));
    }

    let denied = async |reason: &str| {
        let reason = format!(r#"reason="{reason}""#);
        let labels = [r#"verb="connect""#, r#"decision="deny""#, &reason];
        let known = if reason == r#"reason="""# {
            &labels[..2]
        } else {
            &labels[..]
        };
        broker.metric("bulla_broker_decisions_total", known).await
    };
    for (login, reason) in &logins {
        let before = denied(reason).await;
        assert!(is_refused_at_once(&bus, login).await, "{login:.200}");
        assert_eq!(denied(reason).await, before + 1.0, "{reason}: {login:.200}");
    }
    assert_eq!(denied("").await, logins.len() as f64);
    // Counted under words of the program alone.
    let text = broker.scrape().await;
    for word in ["system:", "evil", "checkout", "orders", "~", "\u{0}"] {
        assert!(!text.contains(word), "`{word}` stands in\n{text}");
    }

    // A megabyte is more than nats-server reads of anybody whom it does not know.
    let asked = denied("").await;
    let mut socket = RawSocket::connect(bus.nats_url()).await;
    assert!(!socket.log_in(&shows("x".repeat(1 << 20))).await);
    assert_eq!(denied("").await, asked, "no broker was asked");

    // Whoever is who he says he is comes in as ever.
    let good = shows(token(|_| {}));
    let mut socket = RawSocket::connect(bus.nats_url()).await;
    assert!(socket.log_in(&good).await);
    bus.raw_client("orders").await;
}
