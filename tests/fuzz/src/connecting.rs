//! What a broker reads of who wants to connect: nats-server's question, a workload's token,
//! an invitation, and what comes of one. The first byte says which, and whether it is as
//! it comes or is signed here first.

use std::sync::LazyLock;

use bulla_identity::NkeyKind;
use bulla_keyring::{NkeySeed, Tag};
use bulla_policy::{Policy, TokenProof};
use bulla_token::{AccessTokenValidator, KeySet, TypRule, ValidationPolicy, unverified_issuer};
use data_encoding::BASE64URL_NOPAD;

use super::callout_request;
use super::invitation::{self, Invitation, Shown};
use super::shop::SHOP;

pub fn all(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind {
        b'q' => question(rest),
        b'Q' => question(signed_question(rest).as_bytes()),
        b't' => token(rest),
        b'i' => shown(rest),
        b'I' => {
            let signature = SHOP.policy.sign(Tag::Invitation, &[rest]);
            let signed = Shown::new(rest, &signature);
            shown(signed.as_str().as_bytes());
        }
        b'h' => handed_in(rest),
        _ => {}
    }
}

static SERVER: LazyLock<NkeySeed> =
    LazyLock::new(|| NkeySeed::from_random(NkeyKind::Server, &[4; 32]).expect("a seed"));

/// These claims as a server signs them. `@SERVER@` is its name.
fn signed_question(claims: &[u8]) -> String {
    let claims = String::from_utf8_lossy(claims).replace("@SERVER@", &SERVER.public().to_string());
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let text = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.as_bytes()));
    let signature = SERVER.sign_text(&text);
    format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
}

fn question(data: &[u8]) {
    let Ok(request) = callout_request::decode(data, |_| None) else {
        return;
    };
    assert_eq!(request.server, SERVER.public(), "nobody else signs here");
    assert_eq!(request.user_nkey.kind(), NkeyKind::User);
    let curve = request.server_xkey.map(|xkey| xkey.kind());
    assert!(curve.is_none_or(|kind| kind == NkeyKind::Curve));
}

fn shown(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(shown) = Shown::parse(text) else {
        return;
    };
    let claimed = shown.claimed();
    let keys = [*SHOP.policy.verifying_key()];
    if let Ok(Invitation {
        domain,
        workload,
        key,
        ..
    }) = shown.open(&keys, &SHOP.domain)
    {
        assert_eq!(claimed, Ok((domain, workload)));
        assert_eq!(key.kind(), NkeyKind::User);
    }
}

fn handed_in(data: &[u8]) {
    let keys = [*SHOP.policy.verifying_key()];
    if let Ok(joined) = invitation::open(data, &keys, &SHOP.domain) {
        assert_ne!(joined.nkey, joined.invitation.key);
    }
}

const ISSUER: &str = "https://kubernetes.default.svc";

/// What a workload's token is held against: as `broker/src/callout/tokens.rs` makes it.
struct Held {
    keys: KeySet,
    rules: AccessTokenValidator,
    proofs: Vec<TokenProof>,
}

static HELD: LazyLock<Held> = LazyLock::new(|| {
    let x = BASE64URL_NOPAD.encode(SHOP.token_key.verifying_key().as_bytes());
    let jwks = format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"k","x":"{x}"}}]}}"#
    );
    let text = format!(
        r#"
        version = 1
        trust_domain = "acme.example"
        [jwt.cluster]
        issuer = "{ISSUER}"
        audience = "bulla"
        jwks = '''{jwks}'''
        [workload.checkout]
        attest = [
          {{ jwt = "cluster", k8s = "shop/checkout", vouches = true, claims = {{ env = "prod" }} }},
          {{ jwt = "cluster", sub = "repo:acme/shop:ref", vouches = true }},
        ]
        "#
    );
    let policy = Policy::parse("policy.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let workloads = policy.workloads().iter();
    Held {
        keys: KeySet::parse(jwks.as_bytes()).expect("a key set"),
        rules: AccessTokenValidator::new(ValidationPolicy {
            typ: TypRule::AccessTokenOrPlainJwt,
            ..ValidationPolicy::new(ISSUER, "bulla")
        })
        .expect("a policy"),
        proofs: workloads.flat_map(|w| w.tokens().to_vec()).collect(),
    }
});

/// Made before memory is measured.
pub fn prepare() {
    LazyLock::force(&HELD);
    LazyLock::force(&SERVER);
}

fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let token = match text.split_once('\n') {
        None => text.to_owned(),
        Some((header, claims)) => {
            let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
            let signed = format!("{}.{}", encode(header), encode(claims));
            let signature = SHOP.token_key.sign_text(&signed);
            format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
        }
    };
    let issuer = unverified_issuer(&token);
    let Ok(valid) = HELD.rules.validate(&token, &HELD.keys, SHOP.now) else {
        return;
    };
    assert_eq!(issuer.as_deref(), Ok(ISSUER));
    assert_eq!(valid.audience(), "bulla");
    for proof in &HELD.proofs {
        // Nothing in a pattern of NATS or of a shell is one here.
        if proof.subject() == valid.principal() {
            let _ = proof.fits(valid.claims());
        }
    }
}
