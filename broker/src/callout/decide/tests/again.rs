//! Connections that a server in operator mode asks about again.

use bulla_identity::Nkey;

use super::proofs::{Issuer, by_account};
use super::*;

fn account() -> Nkey {
    Nkey::from_bytes(NkeyKind::Account, [12; 32])
}

impl Scene {
    fn in_operator_mode(mut self) -> Self {
        self.callout = self.callout.placing(Placement::Vouched(account()));
        self
    }

    /// What is asked about a connection that is called `name`: its nkey or token is not
    /// told any more.
    fn again(&self, name: &Value, change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = self.claims();
        let options = claims["nats"]["connect_opts"].as_object_mut().unwrap();
        options.remove("nkey");
        options.insert("user".to_owned(), name.clone());
        claims["jti"] = "again".into();
        change(&mut claims);
        claims
    }

    /// The reason for which this is refused; it must be refused.
    fn refused_again(&self, claims: &Value) -> &'static str {
        let request = request::decode(self.token(claims).as_bytes(), |_| None).unwrap();
        let admissions = self.callout.admissions.load_full().unwrap();
        let ticket = self.callout.tickets.as_ref().unwrap().read(&request);
        let attested = match &ticket {
            Some(ticket) => admissions.attest_again(&request, ticket, NOW),
            None => admissions.attest(&request, &self.callout.token_keys, NOW),
        };
        let reason = attested.unwrap_err().code();
        self.refused(claims);
        reason
    }
}

#[test]
fn the_answer_names_the_account_that_vouches_and_holds_a_ticket() {
    let scene = Scene::new().in_operator_mode();
    let user = scene.user(&scene.claims());
    assert_eq!(user["nats"]["issuer_account"], account().to_string());
    assert!(user.get("aud").is_none(), "{user}");
    let name = user["name"].as_str().unwrap();
    assert_eq!(name.split('~').count(), 3, "{name}");
    // A broker finds out by it what the connection may do, as without a ticket.
    let standing = scene.callout.standing(name, None, NOW);
    assert_eq!(standing, Standing::Current);
}

#[test]
fn a_connection_is_known_again_by_its_ticket_and_signature_as_often_as_it_is_asked_about() {
    let scene = Scene::new().in_operator_mode();
    let name = scene.user(&scene.claims())["name"].clone();
    for round in 0..3 {
        let claims = scene.again(&name, |claims| claims["jti"] = round.into());
        let user = scene.user(&claims);
        assert_eq!(user["name"], name);
        let publish = user["nats"]["pub"]["allow"].as_array().unwrap();
        assert!(publish.contains(&json!("orders.created")), "{publish:?}");
    }
}

#[test]
fn a_ticket_is_good_on_its_own_connection_alone() {
    let mut scene = Scene::new().in_operator_mode();
    let name = scene.user(&scene.claims())["name"].clone();
    let text = name.as_str().unwrap().to_owned();
    let of = |path: &str, value: Value| {
        let claims = scene.again(&name, |claims| *claims.pointer_mut(path).unwrap() = value);
        scene.refused_again(&claims)
    };
    assert_eq!(of("/nats/client_info/id", 8.into()), "no_nkey");
    assert_eq!(
        of(
            "/nats/connect_opts/user",
            text.replace("orders", "others").into()
        ),
        "no_nkey"
    );
    // Another end, another proof, no MAC.
    let (front, ticket) = text.rsplit_once('~').unwrap();
    for at in [0, 20, 63] {
        let mut bytes = ticket.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        let forged = format!("{front}~{}", String::from_utf8(bytes).unwrap());
        assert_eq!(of("/nats/connect_opts/user", forged.into()), "no_nkey");
    }
    for junk in [
        "",
        "~",
        "orders",
        "orders~",
        front,
        &format!("{text}~"),
        &format!("{text}00"),
    ] {
        assert_eq!(of("/nats/connect_opts/user", junk.into()), "no_nkey");
    }
    // Who has the ticket has not the key.
    let stranger = NkeySeed::from_random(NkeyKind::User, &[8; 32]).unwrap();
    let sig = BASE64URL_NOPAD.encode(stranger.sign_text(NONCE).as_bytes());
    assert_eq!(of("/nats/connect_opts/sig", sig.into()), "wrong_signature");
    assert_eq!(of("/nats/client_info/nonce", "".into()), "empty_nonce");
    assert_eq!(
        of("/nats/client_info/kind", "Leafnode".into()),
        "not_a_client"
    );
    // Another server numbers its connections for itself.
    scene.server = NkeySeed::from_random(NkeyKind::Server, &[14; 32]).unwrap();
    let claims = scene.again(&name, |_| {});
    assert_eq!(scene.refused_again(&claims), "no_nkey");
}

#[test]
fn who_has_to_go_is_not_known_again() {
    let scene = Scene::new().in_operator_mode();
    let name = scene.user(&scene.claims())["name"].clone();
    let orders = WorkloadName::parse("orders").unwrap();
    scene.callout.cast_out(Arc::new([orders].into()));
    scene.refused(&scene.again(&name, |_| {}));
    scene.callout.cast_out(Outcasts::default());
    // The policy drops its key.
    let other = NkeySeed::from_random(NkeyKind::User, &[9; 32]).unwrap();
    let text = format!(
        "version = 1\ntrust_domain = \"acme.example\"\n[workload.orders]\n\
         attest = [{{ nkey = \"{}\" }}]\n",
        other.public()
    );
    let policy = Policy::parse("test.toml", &text).unwrap();
    let admissions = Admissions::from_policy(&Arc::new(policy)).unwrap();
    scene.callout.admit(admissions);
    let claims = scene.again(&name, |claims| claims["jti"] = "later".into());
    assert_eq!(scene.refused_again(&claims), "proof_dropped");
}

#[test]
fn a_token_that_is_not_told_any_more_holds_until_its_end() {
    let scene = Scene::by_policy(&by_account()).in_operator_mode();
    let token = Issuer::new(21).token(&Issuer::claims());
    let user = scene.user(&scene.by_token(&token));
    let again = |jti: &str| {
        scene.question(|claims| {
            claims["nats"]["connect_opts"] = json!({ "user": user["name"] });
            claims["jti"] = jti.into();
        })
    };
    let known = scene.user(&again("1"));
    assert_eq!(
        (&known["exp"], &known["name"]),
        (&user["exp"], &user["name"])
    );
    let request = request::decode(scene.token(&again("2")).as_bytes(), |_| None).unwrap();
    let ticket = scene
        .callout
        .tickets
        .as_ref()
        .unwrap()
        .read(&request)
        .unwrap();
    let admissions = scene.callout.admissions.load_full().unwrap();
    let end = UnixMillis::from_secs(NOW.as_secs() + 600);
    let reason = admissions.attest_again(&request, &ticket, end).unwrap_err();
    assert_eq!(reason.code(), "proof_ended");
}

#[test]
fn without_operator_mode_a_name_proves_nothing() {
    let operator = Scene::new().in_operator_mode();
    let name = operator.user(&operator.claims())["name"].clone();
    let scene = Scene::new();
    scene.refused(&scene.again(&name, |_| {}));
    let plain = scene.user(&scene.claims());
    assert_eq!(plain["name"].as_str().unwrap().split('~').count(), 2);
}
