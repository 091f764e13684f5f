mod again;
mod proofs;

use bulla_policy::Policy;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::*;

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);
const NONCE: &str = "PXoWU7zWAMt75FY";

/// One server, one workload `orders`, one broker.
struct Scene {
    server: NkeySeed,
    server_xkey: CurveSeed,
    workload: NkeySeed,
    callout: Callout,
}

impl Scene {
    fn new() -> Self {
        let workload = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
        let text = format!(
            r#"
            version = 1
            trust_domain = "acme.example"
            [workload.orders]
            attest = [{{ nkey = "{}" }}]
            [[allow]]
            id = "orders-tell"
            who = ["orders"]
            may = ["publish"]
            on = ["orders.created"]
            "#,
            workload.public()
        );
        Self::by_policy(&text)
    }

    fn by_policy(text: &str) -> Self {
        let workload = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
        let callout = Callout::new(
            NkeySeed::from_random(NkeyKind::Account, &[1; 32]).unwrap(),
            CurveSeed::from_random(&[2; 32]),
        );
        let policy = match Policy::parse("test.toml", text) {
            Ok(policy) => policy,
            Err(errors) => panic!("{errors}"),
        };
        let admissions = Admissions::from_policy(&Arc::new(policy)).unwrap();
        callout.admit(admissions);
        Self {
            server: NkeySeed::from_random(NkeyKind::Server, &[4; 32]).unwrap(),
            server_xkey: CurveSeed::from_random(&[5; 32]),
            workload,
            callout,
        }
    }

    /// What nats-server would ask about the honest workload.
    fn claims(&self) -> Value {
        let signature = self.workload.sign_text(NONCE);
        json!({
            "iss": self.server.public().to_string(),
            "aud": "nats-authorization-request",
            "iat": NOW.as_secs(),
            "exp": NOW.as_secs() + 2,
            "nats": {
                "type": "authorization_request",
                "version": 2,
                "server_id": {
                    "name": "n1",
                    "id": self.server.public().to_string(),
                    "xkey": self.server_xkey.public().to_string(),
                },
                "user_nkey": user_nkey(),
                "client_info": {
                    "id": 7, "kind": "Client", "type": "nats", "nonce": NONCE,
                },
                "connect_opts": {
                    "nkey": self.workload.public().to_string(),
                    "sig": BASE64URL_NOPAD.encode(signature.as_bytes()),
                },
            },
        })
    }

    fn seal(&self, claims: &Value) -> Vec<u8> {
        self.seal_text(&self.token(claims))
    }

    /// The server's signed question.
    fn token(&self, claims: &Value) -> String {
        let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
        let mut token = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(header.as_bytes()),
            BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
        );
        let signature = self.server.sign_text(&token);
        token.push('.');
        BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut token);
        token
    }

    fn seal_text(&self, token: &str) -> Vec<u8> {
        self.server_xkey
            .seal(
                token.as_bytes(),
                &self.callout.servers.xkey().public(),
                [9; 24],
            )
            .unwrap()
    }

    fn ask_sealed(&self, sealed: &[u8]) -> Result<Value, Silence> {
        let sender = self.server_xkey.public().to_string();
        let random = Random::fresh().unwrap();
        let answer = self.callout.answer(sealed, Some(&sender), NOW, &random)?;
        let token = self
            .server_xkey
            .open(&answer, &self.callout.servers.xkey().public());
        Ok(read(std::str::from_utf8(&token.unwrap()).unwrap()))
    }

    fn ask(&self, claims: &Value) -> Result<Value, Silence> {
        self.ask_sealed(&self.seal(claims))
    }

    /// The answer must be a refusal whose text names nothing but an id.
    fn refused(&self, claims: &Value) {
        let answer = self.ask(claims).unwrap();
        assert!(answer["nats"].get("jwt").is_none(), "{answer}");
        let text = answer["nats"]["error"].as_str().unwrap();
        let id = text.strip_prefix("refused, decision ").unwrap();
        assert_eq!(id.len(), 32, "{text}");
    }
}

fn user_nkey() -> String {
    Nkey::from_bytes(NkeyKind::User, [6; 32]).to_string()
}

fn read(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

#[test]
fn a_registered_workload_is_placed_in_app_with_its_permissions() {
    let scene = Scene::new();
    let answer = scene.ask(&scene.claims()).unwrap();
    assert_eq!(answer["aud"], scene.server.public().to_string());
    assert_eq!(answer["sub"], user_nkey());
    let user = read(answer["nats"]["jwt"].as_str().unwrap());
    assert_eq!(user["aud"], "APP");
    assert_eq!(user["sub"], user_nkey());
    let (name, mark) = user["name"].as_str().unwrap().split_once('~').unwrap();
    assert_eq!((name, mark.len()), ("orders", 16));
    let publish = user["nats"]["pub"]["allow"].as_array().unwrap();
    assert!(publish.contains(&json!("orders.created")), "{publish:?}");
    assert!(!user["nats"]["sub"]["allow"].as_array().unwrap().is_empty());
    assert!(user["nats"].get("resp").is_none());
}

#[test]
fn the_signature_may_be_in_either_alphabet() {
    let scene = Scene::new();
    let mut claims = scene.claims();
    let signature = scene.workload.sign_text(NONCE);
    claims["nats"]["connect_opts"]["sig"] =
        (BASE64_NOPAD.encode(signature.as_bytes()) + "==").into();
    assert!(scene.ask(&claims).unwrap()["nats"]["jwt"].is_string());
}

#[test]
fn what_does_not_prove_the_workload_is_refused() {
    let scene = Scene::new();
    let stranger = NkeySeed::from_random(NkeyKind::User, &[8; 32]).unwrap();
    let encode = |seed: &NkeySeed, text| {
        Value::from(BASE64URL_NOPAD.encode(seed.sign_text(text).as_bytes()))
    };
    let refused = |path: &str, value: Value| {
        let mut claims = scene.claims();
        *claims.pointer_mut(path).unwrap() = value;
        scene.refused(&claims);
    };
    // An unknown nkey, with a right signature of its own.
    let mut claims = scene.claims();
    claims["nats"]["connect_opts"] = json!({
        "nkey": stranger.public().to_string(), "sig": encode(&stranger, NONCE),
    });
    scene.refused(&claims);
    refused("/nats/connect_opts/sig", encode(&stranger, NONCE));
    refused(
        "/nats/connect_opts/sig",
        encode(&scene.workload, "another nonce"),
    );
    refused("/nats/connect_opts/sig", "".into());
    refused("/nats/connect_opts/sig", "AAAA".into());
    refused("/nats/connect_opts/nkey", "".into());
    refused("/nats/connect_opts/nkey", "UNONSENSE".into());
    refused("/nats/client_info/type", "mqtt".into());
    refused("/nats/client_info/kind", "Leafnode".into());
    // The nonce of another connection.
    refused("/nats/client_info/nonce", "another nonce".into());
}

#[test]
fn an_empty_nonce_is_refused_though_its_signature_is_right() {
    let scene = Scene::new();
    let mut claims = scene.claims();
    claims["nats"]["client_info"]["nonce"] = "".into();
    let signature = scene.workload.sign_text("");
    claims["nats"]["connect_opts"]["sig"] = BASE64URL_NOPAD.encode(signature.as_bytes()).into();
    scene.refused(&claims);
}

#[test]
fn a_nonce_is_good_for_one_request() {
    let scene = Scene::new();
    let first = scene.seal(&scene.claims());
    assert!(scene.ask_sealed(&first).is_ok());
    // Its second delivery, through the other queue group.
    assert_eq!(scene.ask_sealed(&first).unwrap_err(), Silence::SameRequest);
    // Replayed about another connection, or about the same one.
    let mut replay = scene.claims();
    replay["nats"]["client_info"]["id"] = 8.into();
    scene.refused(&replay);
    let mut replay = scene.claims();
    replay["jti"] = "another".into();
    scene.refused(&replay);
}

/// What is shared with a server is kept once its question has proven who it is, and
/// not before: whoever sends questions that prove nothing fills no memory.
#[test]
fn a_server_is_known_once_it_has_proven_itself() {
    let scene = Scene::new();
    let (header, rest) = (scene.token(&scene.claims()), "x");
    let forged = scene.seal_text(&format!("{header}{rest}"));
    assert!(scene.ask_sealed(&forged).is_err());
    let mut late = scene.claims();
    late["exp"] = NOW.as_secs().into();
    assert_eq!(scene.ask(&late).unwrap_err(), Silence::TooLate);
    let random = Random::fresh().unwrap();
    let other = CurveSeed::from_random(&[11; 32]);
    let token = scene.token(&scene.claims());
    let ours = scene.callout.servers.xkey().public();
    let sealed = other.seal(token.as_bytes(), &ours, [1; 24]).unwrap();
    let name = other.public().to_string();
    let answer = scene.callout.answer(&sealed, Some(&name), NOW, &random);
    assert_eq!(answer.unwrap_err(), Silence::ForeignSender);
    assert_eq!(scene.callout.servers.known(), 0);

    assert!(scene.ask(&scene.claims()).is_ok());
    assert_eq!(scene.callout.servers.known(), 1);
    // The next one is opened, verified and answered by what is known.
    let mut claims = scene.claims();
    claims["nats"]["client_info"]["nonce"] = "another".into();
    scene.refused(&claims);
    claims["iss"] = user_nkey().into();
    assert!(scene.ask(&claims).is_err());
    assert_eq!(scene.callout.servers.known(), 1);
}

/// Otherwise whoever sees a question could have it passed over.
#[test]
fn a_copy_under_another_key_does_not_stand_in_for_a_question() {
    let scene = Scene::new();
    let sealed = scene.seal(&scene.claims());
    let random = Random::fresh().unwrap();
    let other = CurveSeed::from_random(&[11; 32]).public().to_string();
    let answer = scene.callout.answer(&sealed, Some(&other), NOW, &random);
    assert_eq!(answer.unwrap_err(), Silence::DoesNotOpen);
    assert!(scene.ask_sealed(&sealed).unwrap()["nats"]["jwt"].is_string());
}

#[test]
fn a_revoked_workload_is_turned_away_until_it_is_not() {
    let scene = Scene::new();
    let orders = WorkloadName::parse("orders").unwrap();
    scene.callout.cast_out(Arc::new([orders].into()));
    scene.refused(&scene.claims());
    scene.callout.cast_out(Outcasts::default());
    let mut claims = scene.claims();
    claims["jti"] = "another".into();
    assert!(scene.ask(&claims).unwrap()["nats"]["jwt"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_has_not_read_for_long_is_silent() {
    let mut scene = Scene::new();
    let bound = Duration::from_secs(60);
    let seen = Arc::new(Seen::new(bound, NOW));
    scene.callout = scene.callout.while_seen(Arc::clone(&seen));
    assert!(scene.ask(&scene.claims()).is_ok());
    tokio::time::advance(bound + Duration::from_secs(1)).await;
    assert_eq!(scene.ask(&scene.claims()).unwrap_err(), Silence::Stale);
    seen.mark(NOW);
    let mut claims = scene.claims();
    claims["jti"] = "another".into();
    // The nonce was used; what matters is that there is an answer.
    scene.refused(&claims);
}

#[test]
fn a_broker_without_policy_is_silent() {
    let scene = Scene::new();
    scene.callout.admissions.store(None);
    assert_eq!(scene.ask(&scene.claims()).unwrap_err(), Silence::NotReady);
}

/// A question that is about to expire is left: who asked would not hear the answer.
#[test]
fn what_is_about_to_expire_is_not_answered() {
    let random = Random::fresh().unwrap();
    // It expires after 2 s.
    for (after, want) in [(1_890, None), (1_910, Some(Silence::TooLate))] {
        let scene = Scene::new();
        let sender = scene.server_xkey.public().to_string();
        let sealed = scene.seal(&scene.claims());
        let now = UnixMillis::from_millis(NOW.as_millis() + after);
        let answer = scene.callout.answer(&sealed, Some(&sender), now, &random);
        assert_eq!(answer.err(), want, "{after} ms");
    }
}

#[test]
fn what_no_nats_server_sends_is_not_answered() {
    let scene = Scene::new();
    let random = Random::fresh().unwrap();
    let sealed = scene.seal(&scene.claims());
    let answer = |sealed: &[u8], sender: Option<&str>| {
        scene
            .callout
            .answer(sealed, sender, NOW, &random)
            .unwrap_err()
    };
    assert_eq!(answer(&sealed, None), Silence::NotEncrypted);
    let other = CurveSeed::from_random(&[11; 32]);
    let name = other.public().to_string();
    assert_eq!(answer(&sealed, Some(&name)), Silence::DoesNotOpen);
    let token = scene
        .callout
        .servers
        .xkey()
        .open(&sealed, &scene.server_xkey.public())
        .unwrap();
    let by_other = other
        .seal(&token, &scene.callout.servers.xkey().public(), [1; 24])
        .unwrap();
    assert_eq!(answer(&by_other, Some(&name)), Silence::ForeignSender);

    let wrong = |path: &str, value: Value| {
        let mut claims = scene.claims();
        *claims.pointer_mut(path).unwrap() = value;
        scene.ask(&claims).unwrap_err()
    };
    let stranger = Nkey::from_bytes(NkeyKind::Server, *scene.workload.public().bytes());
    use RequestError as E;
    assert_eq!(
        wrong("/iss", stranger.to_string().into()),
        Silence::Request(E::Signature)
    );
    assert_eq!(wrong("/iss", user_nkey().into()), Silence::Request(E::Nkey));
    assert_eq!(wrong("/aud", "x".into()), Silence::Request(E::Audience));
    assert_eq!(
        wrong("/nats/server_id/id", stranger.to_string().into()),
        Silence::Request(E::Server)
    );
    assert_eq!(
        wrong("/nats/type", "user".into()),
        Silence::Request(E::Kind)
    );
    assert_eq!(wrong("/exp", NOW.as_secs().into()), Silence::TooLate);
    assert_eq!(
        wrong("/exp", (NOW.as_secs() + 1_000).into()),
        Silence::FarExpiry
    );
    assert_eq!(wrong("/nats", 1.into()), Silence::Request(E::Malformed));

    let token = String::from_utf8(token.to_vec()).unwrap();
    let (header, rest) = token.split_once('.').unwrap();
    let none = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
    let forged = scene.seal_text(&format!("{none}.{rest}"));
    assert_eq!(
        scene.ask_sealed(&forged).unwrap_err(),
        Silence::Request(E::Algorithm)
    );
    for text in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        header,
        &format!("{token}A"),
    ] {
        let sealed = scene.seal_text(text);
        assert!(matches!(
            scene.ask_sealed(&sealed).unwrap_err(),
            Silence::Request(E::Malformed)
        ));
    }
}
