//! Tokens that are bound to a key or to a certificate.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use crate::setup::*;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD as B64;
use serde_json::{Value, json};

const ORIGIN: &str = "https://api.example";

struct Holder(Ed25519KeyPair);

impl Holder {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn x(&self) -> String {
        B64.encode(self.0.public_key().as_ref())
    }

    fn thumbprint(&self) -> String {
        let text = format!(
            "{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{}\"}}",
            self.x()
        );
        B64.encode(digest(&SHA256, text.as_bytes()).as_ref())
    }

    fn proof(&self, token: &str, changes: Value) -> String {
        let jti: [u8; 8] = aws_lc_rs::rand::generate(&aws_lc_rs::rand::SystemRandom::new())
            .unwrap()
            .expose();
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA",
            "jwk": {"kty": "OKP", "crv": "Ed25519", "x": self.x()}});
        let claims = json!({"jti": B64.encode(&jti), "htm": "GET", "iat": now(),
            "htu": format!("{ORIGIN}/v1/orders/7"),
            "ath": B64.encode(digest(&SHA256, token.as_bytes()).as_ref())});
        sign_with(&header, &with(claims, changes), |m| {
            self.0.sign(m).as_ref().to_vec()
        })
    }
}

fn options(issuer: &'static str) -> Options {
    Options {
        issuer,
        extra: "[api]\npublic_url = \"https://api.example\"",
        ..Options::default()
    }
}

async fn ask(edge: &Edge, authorization: String, proofs: &[String]) -> (u16, String) {
    let mut request = edge.get("/v1/orders/7");
    request = request.header("authorization", authorization);
    for proof in proofs {
        request = request.header("dpop", proof);
    }
    let answer = request.send().await.unwrap();
    let challenge = answer.headers().get("www-authenticate");
    let challenge = challenge.map_or("", |v| v.to_str().unwrap()).to_owned();
    (answer.status().as_u16(), challenge)
}

#[tokio::test]
async fn a_bound_token_counts_with_a_fresh_proof_of_its_key_alone() {
    let edge = Edge::with(options("")).await;
    let (holder, thief) = (Holder::new(), Holder::new());
    let bound = json!({"cnf": {"jkt": holder.thumbprint()}});
    let token = edge.issuer.token_with(bound);
    let dpop = format!("DPoP {token}");
    let proof = holder.proof(&token, json!({}));
    assert_eq!(
        ask(&edge, dpop.clone(), std::slice::from_ref(&proof))
            .await
            .0,
        200
    );
    // Shown a second time, here or on another node.
    let second = Edge::beside(edge.bus.clone(), options(""), Issuer::start().await, |_| {}).await;
    let refused = ask(&edge, dpop.clone(), std::slice::from_ref(&proof)).await;
    assert_eq!(refused.0, 401);
    assert!(refused.1.contains("invalid_dpop_proof"), "{}", refused.1);
    drop(second);
    for (why, proofs) in [
        ("none", vec![]),
        ("another's", vec![thief.proof(&token, json!({}))]),
        (
            "two",
            vec![
                holder.proof(&token, json!({})),
                holder.proof(&token, json!({})),
            ],
        ),
        (
            "method",
            vec![holder.proof(&token, json!({"htm": "DELETE"}))],
        ),
        (
            "place",
            vec![holder.proof(&token, json!({"htu": format!("{ORIGIN}/v1/orders/8")}))],
        ),
        (
            "host",
            vec![holder.proof(&token, json!({"htu": edge.url("/v1/orders/7")}))],
        ),
        ("token", vec![holder.proof("a.b.c", json!({}))]),
        (
            "old",
            vec![holder.proof(&token, json!({"iat": now() - 90}))],
        ),
        (
            "early",
            vec![holder.proof(&token, json!({"iat": now() + 90}))],
        ),
        ("junk", vec!["a.b.c".to_owned()]),
    ] {
        let (status, challenge) = ask(&edge, dpop.clone(), &proofs).await;
        assert_eq!(status, 401, "{why}");
        assert!(challenge.starts_with("DPoP "), "{why}: {challenge}");
    }
    // Stolen, and shown as if it were bound to nothing.
    let (status, challenge) = ask(&edge, format!("Bearer {token}"), &[]).await;
    assert_eq!(status, 401);
    assert!(challenge.contains("invalid_token"), "{challenge}");
    let fresh = holder.proof(&token, json!({}));
    assert_eq!(ask(&edge, format!("Bearer {token}"), &[fresh]).await.0, 401);
    // A proof for a token that is bound to nothing proves nothing.
    let free = edge.issuer.token();
    let proof = holder.proof(&free, json!({}));
    assert_eq!(ask(&edge, format!("DPoP {free}"), &[proof]).await.0, 401);
    assert_eq!(ask(&edge, format!("Bearer {free}"), &[]).await.0, 200);
    // What nobody here knows binds all the same.
    for cnf in [json!({"kid": "x"}), json!({}), json!("x")] {
        let token = edge.issuer.token_with(json!({ "cnf": cnf }));
        assert_eq!(ask(&edge, format!("Bearer {token}"), &[]).await.0, 401);
    }
}

#[tokio::test]
async fn a_proof_shown_to_two_nodes_counts_on_one() {
    let first = Edge::with(options("")).await;
    let issuer = Issuer {
        url: first.issuer.url.clone(),
        keys: first.issuer.keys.clone(),
        instead: Arc::default(),
        fetches: Arc::default(),
        delay: Arc::default(),
    };
    let second = Edge::beside(first.bus.clone(), options(""), issuer, |_| {}).await;
    let holder = Holder::new();
    let bound = json!({"cnf": {"jkt": holder.thumbprint()}});
    let token = first.issuer.token_with(bound);
    let proof = [holder.proof(&token, json!({}))];
    assert_eq!(ask(&first, format!("DPoP {token}"), &proof).await.0, 200);
    assert_eq!(ask(&second, format!("DPoP {token}"), &proof).await.0, 401);
}

#[tokio::test]
async fn an_issuer_may_have_to_bind_every_token() {
    let edge = Edge::with(options("bound = \"required\"")).await;
    let free = edge.issuer.token();
    assert_eq!(ask(&edge, format!("Bearer {free}"), &[]).await.0, 401);
    let holder = Holder::new();
    let bound = json!({"cnf": {"jkt": holder.thumbprint()}});
    let token = edge.issuer.token_with(bound);
    let proof = [holder.proof(&token, json!({}))];
    assert_eq!(ask(&edge, format!("DPoP {token}"), &proof).await.0, 200);
}

/// An authority, and what it issued to somebody, as PEM with its key.
struct Pki {
    ca: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        Self {
            ca,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// A client's certificate: PEM with key, and SHA-256 of it.
    fn client(&self) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["client.example".to_owned()]).unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let hash = B64.encode(digest(&SHA256, made.der()).as_ref());
        (format!("{}{}", made.pem(), key.serialize_pem()), hash)
    }
}

#[tokio::test]
async fn a_token_of_a_certificate_counts_on_its_connection_alone() {
    let pki = Pki::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = made.cert.pem();
    let options = Options {
        listen: "tls_cert_file = \"cert.pem\"\ntls_key_file = \"key.pem\"\nclient_ca_file = \"ca.pem\"",
        ..Options::default()
    };
    let edge = Edge::with_issuer(options, Issuer::start().await, |dir| {
        std::fs::write(dir.join("cert.pem"), &server).unwrap();
        std::fs::write(dir.join("ca.pem"), &pki.ca).unwrap();
        let key = dir.join("key.pem");
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    })
    .await;
    let ask = async |identity: Option<&str>, token: &str| {
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(server.as_bytes()).unwrap()])
            .resolve("localhost", edge.address);
        if let Some(pem) = identity {
            client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        let url = format!("https://localhost:{}/v1/orders/7", edge.address.port());
        let request = client.build().unwrap().get(url).bearer_auth(token);
        request.send().await.ok().map(|r| r.status().as_u16())
    };
    let ((alice, hash), (mallory, _)) = (pki.client(), pki.client());
    let bound = edge.issuer.token_with(json!({"cnf": {"x5t#S256": hash}}));
    assert_eq!(ask(Some(&alice), &bound).await, Some(200));
    assert_eq!(ask(Some(&mallory), &bound).await, Some(401));
    assert_eq!(ask(None, &bound).await, Some(401));
    assert_eq!(ask(None, &edge.issuer.token()).await, Some(200));
    // Of an authority that nobody here trusts: not even a connection.
    let (foreign, _) = Pki::new().client();
    assert_eq!(ask(Some(&foreign), &edge.issuer.token()).await, None);
}
