//! Clients that are known by the certificate of their connection alone.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, KeyPair, SanType};
use reqwest::header::HeaderMap;

use crate::reload::reloaded;
use crate::setup::*;

const ROUTES: &str = r#"
[[route]]
method = "GET"
path = "/stock/{item}"
mode = "request"
subject = "stock.get"
auth = "certificate"
scope = "stock:read"
optional_scope = "stock:all"

[[route]]
method = "GET"
path = "/own/{user}/events"
mode = "stream"
subject = "stock.{user}.changed"
auth = "certificate"

[route.require]
user = "claim.sub"

[[route]]
method = "GET"
path = "/health"
subject = "health.ask"
mode = "request"
auth = "public"
"#;

const CLIENTS: &str = r#"
[api]
public_url = "https://api.example"
openapi = true
docs = true

[cors]
origins = ["https://app.example"]
credentials = true

[[certificate]]
name = ["uri:spiffe://partner.example/ci", "dns:CI.partner.example"]
user = "partner"
scope = "stock:read stock:all"

[[certificate]]
name = "email:bob@partner.example"
user = "bob"
"#;

const LISTEN: &str =
    "tls_cert_file = \"cert.pem\"\ntls_key_file = \"key.pem\"\nclient_ca_file = \"ca.pem\"";

pub struct Pki {
    ca: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        Self {
            ca,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// A certificate with these names, as PEM with its key, and SHA-256 of it.
    pub fn made(&self, names: Vec<SanType>, ends_in: Option<u64>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "ci.partner.example");
        if let Some(seconds) = ends_in {
            let ends = std::time::SystemTime::now() + Duration::from_secs(seconds);
            params.not_after = ends.into();
        }
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let hash = HEXLOWER.encode(digest(&SHA256, made.der()).as_ref());
        (format!("{}{}", made.pem(), key.serialize_pem()), hash)
    }

    fn named(&self, name: SanType) -> String {
        self.made(vec![name], None).0
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

pub struct Secure {
    edge: Edge,
    server: String,
}

impl Secure {
    pub async fn start(pki: &Pki) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let server = made.cert.pem();
        let options = Options {
            listen: LISTEN,
            extra: CLIENTS,
            routes: Some(ROUTES),
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
        Self { edge, server }
    }

    pub fn client(&self, identity: Option<&str>) -> reqwest::Client {
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(self.server.as_bytes()).unwrap()])
            .resolve("localhost", self.edge.address);
        if let Some(pem) = identity {
            client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        client.build().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.edge.address.port())
    }

    async fn ask(&self, identity: Option<&str>) -> u16 {
        self.with(identity, &[]).await
    }

    async fn with(&self, identity: Option<&str>, headers: &[(&'static str, &str)]) -> u16 {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, value.parse().unwrap());
        }
        let request = self.client(identity).get(self.url("/stock/tea"));
        let answer = request.headers(all).send().await.unwrap();
        answer.status().as_u16()
    }
}

#[tokio::test]
async fn a_listed_certificate_says_who_its_client_is() {
    let pki = Pki::new();
    let secure = Secure::start(&pki).await;
    let by_uri = pki.named(uri("spiffe://partner.example/ci"));
    assert_eq!(secure.ask(Some(&by_uri)).await, 200);
    let token = transaction(&secure.edge.bus.last());
    assert_eq!(token.principal(), "partner");
    let scopes: Vec<&str> = token.scopes().collect();
    assert_eq!(scopes, ["stock:read", "stock:all"]);
    let idp = token.policy_claims().get("idp").unwrap();
    assert_eq!(idp, "urn:bulla:certificates");
    let both = vec![
        uri("spiffe://partner.example/ci"),
        dns("ci.partner.example"),
    ];
    assert_eq!(secure.ask(Some(&pki.made(both, None).0)).await, 200);

    // Known, and without the scope.
    let bob = pki.named(mail("bob@partner.example"));
    assert_eq!(secure.ask(Some(&bob)).await, 403);
    let seen = secure.edge.bus.seen.lock().len();
    for (why, stranger) in [
        ("no certificate", None),
        ("no name, a common name", Some(pki.made(vec![], None).0)),
        ("another", Some(pki.named(dns("x.partner.example")))),
        ("below", Some(pki.named(dns("a.ci.partner.example")))),
        ("another kind", Some(pki.named(uri("ci.partner.example")))),
        (
            "two clients'",
            Some(
                pki.made(
                    vec![dns("ci.partner.example"), mail("bob@partner.example")],
                    None,
                )
                .0,
            ),
        ),
    ] {
        let answer = secure.ask(stranger.as_deref()).await;
        assert_eq!(answer, 403, "{why}");
    }
    assert_eq!(secure.edge.bus.seen.lock().len(), seen);
    let health = secure.client(None).get(secure.url("/health"));
    assert_eq!(health.send().await.unwrap().status(), 200);
    let missing = secure.client(None).get(secure.url("/stock/tea"));
    let body: serde_json::Value = missing.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        body["type"],
        "https://api.example/docs#certificate-required"
    );
}

#[tokio::test]
async fn a_page_of_another_origin_has_no_use_of_a_browsers_certificate() {
    let pki = Pki::new();
    let secure = Secure::start(&pki).await;
    let known = pki.named(dns("ci.partner.example"));
    let known = Some(known.as_str());
    for (headers, status) in [
        (&[("origin", "https://evil.example")][..], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "https://app.example")], 200),
        (&[("origin", "https://api.example")], 200),
        (
            &[
                ("origin", "https://app.example"),
                ("origin", "https://evil.example"),
            ],
            403,
        ),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (
            &[
                ("origin", "https://app.example"),
                ("sec-fetch-site", "cross-site"),
            ],
            200,
        ),
    ] {
        assert_eq!(secure.with(known, headers).await, status, "{headers:?}");
    }
}

#[tokio::test]
async fn a_certificate_counts_as_long_as_it_is_valid_and_listed_and_its_user_is_not_revoked() {
    let pki = Pki::new();
    let secure = Secure::start(&pki).await;
    let (brief, _) = pki.made(vec![dns("ci.partner.example")], Some(3));
    let keeps = secure.client(Some(&brief));
    let ask = async || {
        let request = keeps.get(secure.url("/stock/tea"));
        request.send().await.unwrap().status().as_u16()
    };
    let mut events = keeps
        .get(secure.url("/own/partner/events"))
        .send()
        .await
        .unwrap();
    assert_eq!(events.status(), 200);
    let others = keeps.get(secure.url("/own/bob/events")).send().await;
    assert_eq!(others.unwrap().status(), 403);
    assert_eq!(ask().await, 200);
    let lasting = pki.named(dns("ci.partner.example"));
    let lasting = Some(lasting.as_str());
    secure.edge.bus.revoked.lock().push("partner".into());
    assert_eq!(secure.ask(lasting).await, 403);
    secure.edge.bus.revoked.lock().clear();
    assert_eq!(secure.ask(lasting).await, 200);
    // On the connection that was opened while it was valid, and of its stream.
    let ended = async { while let Ok(Some(_)) = events.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("the stream ends with the certificate");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while ask().await != 403 {
        assert!(std::time::Instant::now() < deadline, "it still counts");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut events = secure
        .client(lasting)
        .get(secure.url("/own/partner/events"))
        .send()
        .await
        .unwrap();
    let file = secure.edge.dir.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let less = text.replace("\"dns:CI.partner.example\"", "\"dns:other.example\"");
    assert_ne!(less, text);
    std::fs::write(&file, less).unwrap();
    reloaded(async || secure.ask(lasting).await == 403).await;
    let ended = async { while let Ok(Some(_)) = events.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("the stream ends with the list");
}

#[tokio::test]
async fn one_certificate_can_be_listed_by_its_hash() {
    let pki = Pki::new();
    let secure = Secure::start(&pki).await;
    let (pem, hash) = pki.made(vec![], None);
    assert_eq!(secure.ask(Some(&pem)).await, 403);
    let file = secure.edge.dir.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let more = format!(
        "{text}\n[[certificate]]\nname = \"sha256:{hash}\"\nuser = \"pinned\"\nscope = \"stock:read\"\n"
    );
    std::fs::write(&file, more).unwrap();
    reloaded(async || secure.ask(Some(&pem)).await == 200).await;
    let token = transaction(&secure.edge.bus.last());
    assert_eq!(token.principal(), "pinned");
    // The description says how to come in.
    let get = async |path: &str| {
        let request = secure.client(None).get(secure.url(path));
        request.send().await.unwrap().text().await.unwrap()
    };
    let api: serde_json::Value = serde_json::from_str(&get("/openapi.json").await).unwrap();
    let scheme = &api["components"]["securitySchemes"]["certificate"]["type"];
    assert_eq!(scheme, "mutualTLS");
    assert!(get("/docs").await.contains("With a client certificate"));
}
