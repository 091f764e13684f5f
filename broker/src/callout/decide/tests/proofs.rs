//! Tokens and certificates: what proves a workload, for how long, and what does not.

use std::time::Duration;

use super::*;
use bulla_identity::TrustDomain;

use crate::callout::DenyReason;
use crate::control::Inviters;
use crate::invitation::{Invitation, Shown};

const ISSUER: &str = "https://kubernetes.default.svc";
const ACCOUNT: &str = "system:serviceaccount:shop:checkout";

/// An issuer with one key, and what a sound token of it says.
pub(super) struct Issuer(NkeySeed);

impl Issuer {
    pub(super) fn new(byte: u8) -> Self {
        Self(NkeySeed::from_random(NkeyKind::User, &[byte; 32]).unwrap())
    }

    fn jwks(&self) -> String {
        let x = BASE64URL_NOPAD.encode(self.0.public().bytes());
        json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "EdDSA", "x": x },
        ] })
        .to_string()
    }

    pub(super) fn claims() -> Value {
        json!({
            "iss": ISSUER,
            "aud": ["bulla", "https://elsewhere.example"],
            "sub": ACCOUNT,
            "iat": NOW.as_secs() - 10,
            "nbf": NOW.as_secs() - 10,
            "exp": NOW.as_secs() + 600,
            "groups": ["a", "prod"],
            "env": "prod",
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign_text(&text);
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": "EdDSA", "kid": "k1" }), claims)
    }
}

fn policy(workload: &str) -> String {
    format!(
        r#"
        version = 1
        trust_domain = "acme.example"
        [jwt.cluster]
        issuer = "{ISSUER}"
        audience = "bulla"
        jwks = '''{}'''
        [workload.checkout]
        {workload}
        "#,
        Issuer::new(21).jwks()
    )
}

pub(super) fn by_account() -> String {
    policy(r#"attest = [{ jwt = "cluster", k8s = "shop/checkout", vouches = true }]"#)
}

impl Scene {
    pub(super) fn question(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = self.claims();
        claims["nats"]["client_info"]
            .as_object_mut()
            .unwrap()
            .remove("nonce");
        claims["nats"]["connect_opts"] = json!({});
        change(&mut claims);
        claims
    }

    /// What is asked about a client that shows this token.
    pub(super) fn by_token(&self, token: &str) -> Value {
        self.question(|claims| claims["nats"]["connect_opts"] = json!({ "auth_token": token }))
    }

    /// The code of the reason for which this is refused.
    fn why(&self, claims: &Value) -> &'static str {
        let request = request::decode(self.token(claims).as_bytes(), |_| None)
            .unwrap_or_else(|error| panic!("{error}"));
        let admissions = self.callout.admissions.load_full().unwrap();
        let attested = admissions.attest(&request, &self.callout.token_keys, NOW);
        attested.map_or_else(|reason: DenyReason| reason.code(), |_| "admitted")
    }

    pub(super) fn user(&self, claims: &Value) -> Value {
        let answer = self.ask(claims).unwrap();
        read(
            answer["nats"]["jwt"]
                .as_str()
                .unwrap_or_else(|| panic!("{answer}")),
        )
    }
}

#[test]
fn a_token_admits_its_workload_and_bounds_the_session() {
    let scene = Scene::by_policy(&by_account());
    let token = Issuer::new(21).token(&Issuer::claims());
    let user = scene.user(&scene.by_token(&token));
    assert_eq!(user["exp"], NOW.as_secs() + 600);
    assert!(user["name"].as_str().unwrap().starts_with("checkout~"));
    // It is a bearer's: good again, for another connection, until it ends.
    let again = scene.question(|claims| {
        claims["nats"]["connect_opts"] = json!({ "auth_token": token });
        claims["jti"] = "another".into();
    });
    assert_eq!(scene.user(&again)["exp"], user["exp"]);
}

#[test]
fn a_spiffe_id_is_what_a_token_says_where_the_policy_says_nothing() {
    let scene = Scene::by_policy(&policy(r#"attest = [{ jwt = "cluster", vouches = true }]"#));
    let mut claims = Issuer::claims();
    let ask = |claims: &Value| scene.why(&scene.by_token(&Issuer::new(21).token(claims)));
    assert_eq!(ask(&claims), "token_of_no_workload");
    claims["sub"] = "spiffe://acme.example/checkout".into();
    assert_eq!(ask(&claims), "admitted");
}

#[test]
fn claims_are_compared_byte_for_byte() {
    let scene = Scene::by_policy(&policy(
        r#"attest = [{ jwt = "cluster", k8s = "shop/checkout", vouches = true,
                       claims = { env = "prod", groups = "prod" } }]"#,
    ));
    let ask = |change: &dyn Fn(&mut Value)| {
        let mut claims = Issuer::claims();
        change(&mut claims);
        scene.why(&scene.by_token(&Issuer::new(21).token(&claims)))
    };
    assert_eq!(ask(&|_| ()), "admitted");
    for (name, value) in [
        ("env", json!("prod.")),
        ("env", json!("Prod")),
        ("env", json!("pr\u{43e}d")),
        ("env", json!("prod\0")),
        ("env", json!(true)),
        ("env", json!({ "prod": "prod" })),
        ("env", Value::Null),
        ("groups", json!([])),
        ("groups", json!("a prod")),
        ("groups", json!([["prod"]])),
    ] {
        let why = ask(&|claims: &mut Value| claims[name] = value.clone());
        assert_eq!(why, "token_of_no_workload", "{name} {value}");
    }
}

#[test]
fn hostile_subjects_are_nobodys() {
    let scene = Scene::by_policy(&by_account());
    for sub in [
        "system:serviceaccount:shop:checkout2",
        "system:serviceaccount:shop:checkout.",
        "system:serviceaccount:shop.checkout",
        "system:serviceaccount:shop:*",
        "system:serviceaccount:>",
        "*",
        ">",
        "System:serviceaccount:shop:checkout",
        "system:serviceaccount:shop:checkout ",
        "system:serviceaccount:shop:check\u{200b}out",
        "system:serviceaccount:shop:ch\u{435}ckout",
        "checkout",
    ] {
        let mut claims = Issuer::claims();
        claims["sub"] = sub.into();
        let token = Issuer::new(21).token(&claims);
        assert_eq!(
            scene.why(&scene.by_token(&token)),
            "token_of_no_workload",
            "{sub:?}"
        );
    }
    for sub in [
        json!(""),
        json!("system:serviceaccount:shop:checkout\0"),
        json!("a\nb"),
        json!(["system:serviceaccount:shop:checkout"]),
        json!(1),
        json!("x".repeat(513)),
    ] {
        let mut claims = Issuer::claims();
        claims["sub"] = sub.clone();
        let token = Issuer::new(21).token(&claims);
        assert_eq!(
            scene.why(&scene.by_token(&token)),
            "token_bad_claim",
            "{sub}"
        );
    }
}

#[test]
fn what_is_no_sound_token_proves_nothing() {
    let scene = Scene::by_policy(&by_account());
    let issuer = Issuer::new(21);
    let with = |name: &str, value: Value| {
        let mut claims = Issuer::claims();
        claims[name] = value;
        issuer.token(&claims)
    };
    let without = |name: &str| {
        let mut claims = Issuer::claims();
        claims.as_object_mut().unwrap().remove(name);
        issuer.token(&claims)
    };
    let headed = |header: Value| issuer.sign(&header, &Issuer::claims());
    let now = NOW.as_secs();
    for (token, why) in [
        (with("aud", "others".into()), "token_wrong_audience"),
        (with("aud", "bulla ".into()), "token_wrong_audience"),
        (with("aud", json!([])), "token_bad_claim"),
        (without("aud"), "token_missing_claim"),
        (without("sub"), "token_missing_claim"),
        (without("exp"), "token_missing_claim"),
        (without("iss"), "token_missing_claim"),
        (
            with("iss", "https://evil.example".into()),
            "token_unknown_issuer",
        ),
        (
            with("iss", format!("{ISSUER}/").into()),
            "token_unknown_issuer",
        ),
        (with("exp", (now - 60).into()), "token_expired"),
        // Within what clocks may differ, and ended all the same: so would the session.
        (with("exp", now.into()), "token_expired"),
        (
            with("exp", (now + 25 * 3600).into()),
            "token_lives_too_long",
        ),
        (with("exp", json!(1e300)), "token_bad_claim"),
        (with("nbf", (now + 120).into()), "token_not_yet_valid"),
        (with("iat", (now + 120).into()), "token_issued_in_future"),
        (
            Issuer::new(22).token(&Issuer::claims()),
            "token_bad_signature",
        ),
        (headed(json!({ "alg": "none" })), "token_unsigned"),
        (
            headed(json!({ "alg": "HS256", "kid": "k1" })),
            "token_symmetric",
        ),
        (
            headed(json!({ "alg": "ES256", "kid": "k1" })),
            "token_algorithm_mismatch",
        ),
        (
            headed(json!({ "alg": "EdDSA", "kid": "k2" })),
            "token_unknown_key",
        ),
        (
            headed(json!({ "alg": "EdDSA", "kid": "k1", "typ": "txntoken+jwt" })),
            "token_wrong_type",
        ),
        (
            headed(json!({ "alg": "EdDSA", "kid": "k1", "jku": "https://evil.example" })),
            "token_forbidden_header",
        ),
        ("a.b".to_owned(), "token_malformed"),
        ("a b c".to_owned(), "token_forbidden_byte"),
        ("x".repeat(9 * 1024), "token_too_large"),
    ] {
        let claims = scene.by_token(&token);
        assert_eq!(scene.why(&claims), why, "{token:.60}");
        scene.refused(&{
            let mut claims = claims;
            claims["jti"] = why.into();
            claims
        });
    }
    // A question of a megabyte is none.
    let large = scene.by_token(&"x".repeat(1 << 20));
    assert!(matches!(
        scene.ask(&large).unwrap_err(),
        Silence::Request(RequestError::TooLarge { .. })
    ));
}

#[test]
fn which_proof_counts_is_not_guessed() {
    let scene = Scene::by_policy(&by_account());
    let token = Issuer::new(21).token(&Issuer::claims());
    let both = |field: &str| {
        let mut claims = scene.by_token(&token);
        claims["nats"]["connect_opts"][field] = "x".into();
        scene.why(&claims)
    };
    assert_eq!(both("nkey"), "two_proofs");
    assert_eq!(both("sig"), "two_proofs");
    assert_eq!(scene.why(&scene.question(|_| ())), "no_nkey");
}

#[test]
fn an_issuer_whose_keys_are_not_here_is_another_brokers_matter() {
    let text = by_account();
    let start = text.find("jwks =").unwrap();
    let end = start + text[start..].find('\n').unwrap();
    let scene = Scene::by_policy(&text.replace(&text[start..end], ""));
    let token = Issuer::new(21).token(&Issuer::claims());
    let question = scene.by_token(&token);
    assert_eq!(scene.ask(&question).unwrap_err(), Silence::NoIssuerKeys);
}

#[test]
fn a_workload_connects_from_its_networks_and_by_its_protocols() {
    let scene = Scene::by_policy(&policy(
        r#"attest = [{ jwt = "cluster", k8s = "shop/checkout", vouches = true }]
           network = ["10.0.0.0/8"]
           protocol = ["websocket"]"#,
    ));
    let token = Issuer::new(21).token(&Issuer::claims());
    let from = |host: &str, protocol: &str| {
        scene.why(&scene.question(|claims| {
            claims["nats"]["connect_opts"] = json!({ "auth_token": token });
            claims["nats"]["client_info"]["host"] = host.into();
            claims["nats"]["client_info"]["type"] = protocol.into();
        }))
    };
    assert_eq!(from("10.1.2.3", "websocket"), "admitted");
    assert_eq!(from("::ffff:10.1.2.3", "websocket"), "admitted");
    assert_eq!(from("11.1.2.3", "websocket"), "network_not_allowed");
    assert_eq!(from("", "websocket"), "network_not_allowed");
    assert_eq!(from("10.1.2.3", "nats"), "protocol_not_allowed");
    assert_eq!(from("10.1.2.3", "mqtt"), "not_a_client");
    // By default NATS itself, and nothing else.
    let scene = Scene::by_policy(&by_account());
    let mut question = scene.by_token(&token);
    assert_eq!(scene.why(&question), "admitted");
    question["nats"]["client_info"]["type"] = "websocket".into();
    assert_eq!(scene.why(&question), "protocol_not_allowed");
}

#[test]
fn a_connection_that_came_from_a_network_that_is_closed_now_is_lost() {
    let open = by_account();
    let scene = Scene::by_policy(&open);
    let token = Issuer::new(21).token(&Issuer::claims());
    let user = scene.user(&scene.by_token(&token));
    let name = user["name"].as_str().unwrap();
    let client = Some("11.0.0.1".parse().unwrap());
    assert_eq!(scene.callout.standing(name, client, NOW), Standing::Current);
    let closed = format!("{open}\nnetwork = [\"10.0.0.0/8\"]\n");
    let policy = Arc::new(Policy::parse("p", &closed).unwrap());
    scene
        .callout
        .admit(Admissions::from_policy(&policy).unwrap());
    let lost = Standing::Lost("network_not_allowed");
    assert_eq!(scene.callout.standing(name, client, NOW), lost);
    // Tokens of another account: what admitted it proves nothing any more.
    let other = open.replace("shop/checkout", "shop/cart");
    let policy = Arc::new(Policy::parse("p", &other).unwrap());
    scene
        .callout
        .admit(Admissions::from_policy(&policy).unwrap());
    let lost = Standing::Lost("key_dropped");
    assert_eq!(scene.callout.standing(name, client, NOW), lost);
}

#[test]
fn a_certificate_that_the_server_has_not_verified_proves_nothing() {
    let scene = Scene::by_policy(&by_account());
    for (tls, why) in [
        (json!({ "certs": ["x"] }), "certificate_unverified"),
        (
            json!({ "certs": ["x"], "verified_chains": [[]] }),
            "certificate_unverified",
        ),
        (
            json!({ "verified_chains": [["x"]] }),
            "certificate_malformed",
        ),
        (
            json!({ "verified_chains": [["x", "y", "z", "a", "b", "c"]] }),
            "certificate_malformed",
        ),
        (json!({}), "no_nkey"),
    ] {
        let question = scene.question(|claims| claims["nats"]["client_tls"] = tls.clone());
        assert_eq!(scene.why(&question), why, "{tls}");
    }
}

#[test]
fn a_token_never_outlives_what_the_policy_lets_it() {
    let text = by_account().replace("audience =", "max_life = \"1h\"\naudience =");
    let scene = Scene::by_policy(&text);
    let mut claims = Issuer::claims();
    for (life, why) in [(3_600, "admitted"), (3_700, "token_lives_too_long")] {
        let until = NOW.saturating_add(Duration::from_secs(life));
        claims["exp"] = until.as_secs().into();
        let token = Issuer::new(21).token(&claims);
        assert_eq!(scene.why(&scene.by_token(&token)), why, "{life}");
    }
}

#[test]
fn an_invitation_lets_in_to_hand_in_a_key_and_nothing_else() {
    let mut scene = Scene::new();
    let operator = bulla_keyring::SigningKey::from_seed(&[7; 32]);
    let domain = TrustDomain::parse("acme.example").unwrap();
    let (inviting, key) = (domain.clone(), *operator.verifying_key());
    scene.callout = scene.callout.inviting(move || Inviters {
        domain: inviting.clone(),
        keys: vec![key],
    });
    let one_time = NkeySeed::from_random(NkeyKind::User, &[31; 32]).unwrap();
    let shown = |secs: u64, operator: &bulla_keyring::SigningKey| {
        let invitation = Invitation {
            domain: domain.clone(),
            workload: WorkloadName::parse("shipping").unwrap(),
            key: one_time.public(),
            until: UnixMillis::from_secs(secs),
        };
        let (_, statement) = invitation.to_sign();
        let signature = operator.sign(bulla_keyring::Tag::Invitation, &[&statement]);
        Shown::new(&statement, &signature).as_str().to_owned()
    };
    let ask = |shown: &str, change: &dyn Fn(&mut Value)| {
        let mut claims = scene.claims();
        claims["nats"]["connect_opts"] = json!({
            "nkey": one_time.public().to_string(),
            "sig": BASE64URL_NOPAD.encode(one_time.sign_text(NONCE).as_bytes()),
            "auth_token": shown,
        });
        change(&mut claims);
        claims
    };
    let later = NOW.as_secs() + 3_600;
    let good = shown(later, &operator);
    for (claims, about) in [
        (ask(&shown(NOW.as_secs() - 1, &operator), &|_| ()), "over"),
        (
            ask(
                &shown(later, &bulla_keyring::SigningKey::from_seed(&[8; 32])),
                &|_| (),
            ),
            "of nobody here",
        ),
        (
            ask(&good, &|claims| {
                claims["nats"]["connect_opts"]["nkey"] = user_nkey().into()
            }),
            "of another key",
        ),
        (
            ask(&good, &|claims| {
                let other = scene.workload.sign_text(NONCE);
                claims["nats"]["connect_opts"]["sig"] =
                    BASE64URL_NOPAD.encode(other.as_bytes()).into();
            }),
            "signed by another",
        ),
        (
            ask(&good, &|claims| {
                claims["nats"]["client_info"]["nonce"] = "".into();
                let nothing = one_time.sign_text("");
                claims["nats"]["connect_opts"]["sig"] =
                    BASE64URL_NOPAD.encode(nothing.as_bytes()).into();
            }),
            "over nothing",
        ),
        (
            ask(&good, &|claims| {
                claims["nats"]["client_info"]["type"] = "mqtt".into()
            }),
            "by MQTT",
        ),
    ] {
        scene.refused(&{
            let mut claims = claims;
            claims["jti"] = about.into();
            claims
        });
    }
    let user = scene.user(&ask(&good, &|_| ()));
    let tag = bulla_identity::WorkloadId::new(&domain, &WorkloadName::parse("shipping").unwrap());
    let publish = json!([bulla_identity::reserved::broker_join(tag.tag())]);
    assert_eq!(user["nats"]["pub"]["allow"], publish);
    let inbox = format!("_INBOX.join.{}.>", one_time.public());
    assert_eq!(user["nats"]["sub"]["allow"], json!([inbox]));
    assert_eq!(user["exp"], NOW.as_secs() + 30);
    let name = user["name"].as_str().unwrap();
    assert_eq!(scene.callout.standing(name, None, NOW), Standing::Current);
    // Its challenge is used up.
    scene.refused(&ask(&good, &|claims| claims["jti"] = "again".into()));
}
