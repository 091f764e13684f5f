//! A small authority that speaks ACME as RFC 8555 and RFC 8737 have it: it checks nonces,
//! URLs and signatures, looks over TLS whether a host is the client's, and issues only then.
//! It is no real one; which of those was tried stands in the README.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD as B64;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
/// Of SubjectPublicKeyInfo of a P-256 key, what comes before the point.
const P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

pub struct Authority {
    pub url: String,
    /// Its certificate, for clients that trust it.
    pub ca: String,
    /// Where the hosts are that it is asked about.
    pub edge: Arc<Mutex<Option<SocketAddr>>>,
    pub state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub struct State {
    nonces: HashSet<String>,
    account: Option<Value>,
    hosts: Vec<String>,
    /// What became of the only authorization that is open.
    pub proven: Option<bool>,
    chain: Option<String>,
    pub orders: usize,
    pub accounts: usize,
    /// How long its certificates live.
    pub life: Duration,
    /// It looks for something that nobody was told.
    pub is_confused: bool,
}

struct Pki {
    ca: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

struct Point(Vec<u8>);

impl rcgen::PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    pub async fn start(life: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let pki = Arc::new(Pki {
            ca: ca.clone(),
            issuer: rcgen::Issuer::new(params, key),
        });
        let state = State {
            life,
            ..State::default()
        };
        let authority = Self {
            url: url.clone(),
            ca,
            edge: Arc::default(),
            state: Arc::new(Mutex::new(state)),
        };
        let (edge, state) = (Arc::clone(&authority.edge), Arc::clone(&authority.state));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (edge, state) = (Arc::clone(&edge), Arc::clone(&state));
                let (pki, url) = (Arc::clone(&pki), url.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &url, &pki, &edge, &state).await;
                });
            }
        });
        authority
    }
}

/// One request, one answer.
async fn serve(
    mut stream: TcpStream,
    url: &str,
    pki: &Pki,
    edge: &Arc<Mutex<Option<SocketAddr>>>,
    state: &Arc<Mutex<State>>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.trim().parse().unwrap());
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default();
    // The client is given all of an absolute address.
    let path = path.strip_prefix(url).unwrap_or(path).to_owned();
    let (status, place, kind, said) = answer(&path, &body, url, pki, edge, state);
    let nonce = B64.encode(&rand());
    state.lock().nonces.insert(nonce.clone());
    let place = place.map_or(String::new(), |p| format!("location: {url}{p}\r\n"));
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nreplay-nonce: {nonce}\r\n{place}\
         content-length: {}\r\nconnection: close\r\n\r\n{said}",
        said.len()
    );
    stream.write_all(text.as_bytes()).await
}

fn rand() -> [u8; 12] {
    aws_lc_rs::rand::generate(&aws_lc_rs::rand::SystemRandom::new())
        .unwrap()
        .expose()
}

type Said = (u16, Option<&'static str>, &'static str, String);

fn answer(
    path: &str,
    body: &str,
    url: &str,
    pki: &Pki,
    edge: &Arc<Mutex<Option<SocketAddr>>>,
    state: &Arc<Mutex<State>>,
) -> Said {
    let object =
        |status, place, value: Value| (status, place, "application/json", value.to_string());
    match path {
        "/directory" => {
            return object(
                200,
                None,
                json!({"newNonce": format!("{url}/nonce"), "newAccount": format!("{url}/accounts"),
                    "newOrder": format!("{url}/orders"), "meta": {}}),
            );
        }
        "/nonce" => return (200, None, "text/plain", String::new()),
        _ => {}
    }
    let payload = verified(body, &format!("{url}{path}"), state);
    let mut held = state.lock();
    let order = |held: &State| {
        let status = match (held.proven, &held.chain) {
            (_, Some(_)) => "valid",
            (Some(true), None) => "ready",
            (Some(false), None) => "invalid",
            (None, None) => "pending",
        };
        let hosts = held.hosts.iter();
        let hosts: Vec<Value> = hosts
            .map(|host| json!({"type": "dns", "value": host}))
            .collect();
        json!({"status": status, "identifiers": hosts, "authorizations": [format!("{url}/authorization")],
            "finalize": format!("{url}/finalize"), "certificate": format!("{url}/certificate")})
    };
    match path {
        "/accounts" => {
            assert_eq!(payload["termsOfServiceAgreed"], json!(true));
            held.accounts += 1;
            object(201, Some("/accounts/1"), json!({"status": "valid"}))
        }
        "/orders" => {
            let hosts = payload["identifiers"].as_array().unwrap().iter();
            held.hosts = hosts
                .map(|host| host["value"].as_str().unwrap().to_owned())
                .collect();
            held.orders += 1;
            (held.proven, held.chain) = (None, None);
            object(201, Some("/orders/1"), order(&held))
        }
        "/orders/1" => object(200, None, order(&held)),
        "/authorization" => {
            let status = held
                .proven
                .map_or("pending", |p| if p { "valid" } else { "invalid" });
            let host = held.hosts.first().unwrap();
            object(
                200,
                None,
                json!({"status": status, "identifier": {"type": "dns", "value": host},
                    "challenges": [
                        {"type": "http-01", "url": format!("{url}/other"), "token": TOKEN, "status": "pending"},
                        {"type": "tls-alpn-01", "url": format!("{url}/challenge"), "token": TOKEN, "status": "pending"}]}),
            )
        }
        "/challenge" => {
            let host = held.hosts.first().unwrap().clone();
            let wanted = wanted(held.account.as_ref().unwrap(), held.is_confused);
            drop(held);
            let (edge, state) = (Arc::clone(edge), Arc::clone(state));
            tokio::spawn(async move {
                let proven = look(&edge, &host, &wanted).await;
                state.lock().proven = Some(proven);
            });
            object(
                200,
                None,
                json!({"type": "tls-alpn-01", "url": format!("{url}/challenge"), "token": TOKEN,
                    "status": "processing"}),
            )
        }
        "/finalize" => {
            assert_eq!(held.proven, Some(true), "nothing is proven");
            let csr = B64
                .decode(payload["csr"].as_str().unwrap().as_bytes())
                .unwrap();
            let chain = issue(pki, &csr, &held.hosts, held.life);
            held.chain = Some(chain);
            object(200, None, order(&held))
        }
        "/certificate" => {
            let chain = held.chain.clone().unwrap();
            (200, None, "application/pem-certificate-chain", chain)
        }
        other => panic!("nothing is at {other}"),
    }
}

/// The payload of a request whose nonce, address and signature are right.
fn verified(body: &str, url: &str, state: &Mutex<State>) -> Value {
    let jws: Value = serde_json::from_str(body).unwrap();
    let part = |name: &str| jws[name].as_str().unwrap().to_owned();
    let decode = |text: &str| B64.decode(text.as_bytes()).unwrap();
    let (protected, payload) = (part("protected"), part("payload"));
    let header: Value = serde_json::from_slice(&decode(&protected)).unwrap();
    assert_eq!(header["alg"], "ES256");
    assert_eq!(header["url"], url);
    let mut state = state.lock();
    let nonce = header["nonce"].as_str().unwrap();
    assert!(state.nonces.remove(nonce), "a nonce counts once");
    if let Some(key) = header.get("jwk") {
        assert!(url.ends_with("/accounts"));
        state.account = Some(key.clone());
    } else {
        assert!(header["kid"].as_str().unwrap().ends_with("/accounts/1"));
    }
    let key = state.account.as_ref().unwrap();
    let coordinate = |name: &str| decode(key[name].as_str().unwrap());
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let signed = format!("{protected}.{payload}");
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &decode(&part("signature")))
        .unwrap();
    if payload.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(&decode(&payload)).unwrap()
}

/// The extension that the shown certificate must have ([RFC 8737 §3]).
fn wanted(account: &Value, is_confused: bool) -> Vec<u8> {
    let text = format!(
        "{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":{},\"y\":{}}}",
        account["x"], account["y"]
    );
    let thumbprint = B64.encode(digest(&SHA256, text.as_bytes()).as_ref());
    let mut authorization = format!("{TOKEN}.{thumbprint}");
    if is_confused {
        authorization.push('x');
    }
    let mut bytes = data_encoding::HEXLOWER
        .decode(b"06082b0601050507011f0101ff04220420")
        .unwrap();
    bytes.extend_from_slice(digest(&SHA256, authorization.as_bytes()).as_ref());
    bytes
}

/// Whether the host shows what it should.
async fn look(edge: &Mutex<Option<SocketAddr>>, host: &str, wanted: &[u8]) -> bool {
    let address = loop {
        if let Some(address) = *edge.lock() {
            break address;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let Some(shown) = shown(address, host, b"acme-tls/1").await else {
        return false;
    };
    shown.windows(wanted.len()).any(|window| window == wanted)
}

/// A connection to a host in this protocol, whatever its certificate.
pub async fn trusting(
    address: SocketAddr,
    host: &str,
    protocol: &[u8],
) -> Option<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.ok()?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = connector.connect(name, stream).await.ok()?;
    (stream.get_ref().1.alpn_protocol() == Some(protocol)).then_some(stream)
}

/// The certificate that a host shows to who speaks this protocol.
pub async fn shown(address: SocketAddr, host: &str, protocol: &[u8]) -> Option<Vec<u8>> {
    let mut stream = trusting(address, host, protocol).await?;
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates()?.first()?.to_vec();
    // Nobody speaks HTTP under this name.
    if protocol == b"acme-tls/1" {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
    Some(leaf)
}

fn issue(pki: &Pki, csr: &[u8], hosts: &[String], life: Duration) -> String {
    let prefix = data_encoding::HEXLOWER.decode(P256.as_bytes()).unwrap();
    let at = csr.windows(prefix.len()).position(|w| w == prefix).unwrap();
    let begin = at + prefix.len();
    let point = Point(csr[begin..begin + 65].to_vec());
    let mut params = CertificateParams::new(hosts.to_vec()).unwrap();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(1)).into();
    params.not_after = (now + life).into();
    let made = params.signed_by(&point, &pki.issuer).unwrap();
    format!("{}{}", made.pem(), pki.ca)
}

/// An authority looks at what is shown, whoever has signed it.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
