//! NATS spoken by hand: a client library hides exactly the answers that the doctor
//! wants to see.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulla_keyring::NkeySeed;
use data_encoding::BASE64URL_NOPAD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::bus_user::BusUser;

/// How long the server may be silent: longer than the callout may take.
const LIMIT: Duration = Duration::from_secs(6);
/// More than nats-server sends on one line.
const MAX_LINE: u64 = 4 << 20;
/// More than it sends in one message.
const MAX_MESSAGE: usize = 16 << 20;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Where the server is.
pub(crate) struct Bus {
    pub(crate) host: String,
    port: u16,
    wants_tls: bool,
    tls: Option<TlsConnector>,
}

/// Why the server cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("`{url}` is no address of a nats-server: write nats://HOST:PORT or tls://HOST:PORT")]
    Url { url: String },
    #[error("cannot read the certificates of `{}`", path.display())]
    Certificates {
        path: PathBuf,
        source: rustls_pki_types::pem::Error,
    },
    #[error("cannot reach nats-server on `{address}`")]
    Reach { address: String, source: io::Error },
    #[error("nats-server on `{address}` does not speak as one")]
    NoServer { address: String },
    #[error("nats-server did not let this user in: {0}")]
    Refused(String),
}

/// What the server says of itself first.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Greeting {
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) tls_required: bool,
    pub(crate) tls_available: bool,
    /// Added by us: the connection was encrypted.
    #[serde(skip)]
    pub(crate) is_encrypted: bool,
}

impl Bus {
    pub(crate) fn new(text: &str, ca_file: Option<&Path>) -> Result<Self, ProbeError> {
        let no_url = || ProbeError::Url {
            url: text.to_owned(),
        };
        let url = async_nats::ServerAddr::from_url(text.parse().map_err(|_| no_url())?);
        let url = url.map_err(|_| no_url())?;
        let wants_tls = url.scheme() == "tls" || ca_file.is_some();
        let mut roots = RootCertStore::empty();
        match ca_file {
            Some(path) => {
                let failed = |source| ProbeError::Certificates {
                    path: path.to_owned(),
                    source,
                };
                for found in CertificateDer::pem_file_iter(path).map_err(failed)? {
                    // One that does not parse verifies nothing.
                    let _ = roots.add(found.map_err(failed)?);
                }
            }
            None => {
                for found in rustls_native_certs::load_native_certs().certs {
                    let _ = roots.add(found);
                }
            }
        }
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            host: url.host().trim_matches(['[', ']']).to_owned(),
            port: url.port(),
            wants_tls,
            tls: Some(TlsConnector::from(Arc::new(config))),
        })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
    }

    /// Connects and reads the greeting.
    pub(crate) async fn connect(&self) -> Result<Socket, ProbeError> {
        let address = format!("{}:{}", self.host, self.port);
        let reach = |source| ProbeError::Reach {
            address: address.clone(),
            source,
        };
        let connecting = timeout(LIMIT, TcpStream::connect((self.host.as_str(), self.port)));
        let stream = match connecting.await {
            Ok(connected) => connected.map_err(reach)?,
            Err(_) => return Err(reach(io::ErrorKind::TimedOut.into())),
        };
        let mut socket = Socket {
            wire: BufReader::new(Box::new(stream)),
            greeting: Greeting::default(),
            is_alive: true,
        };
        let no_server = || ProbeError::NoServer {
            address: address.clone(),
        };
        let line = socket.line().await.ok_or_else(no_server)?;
        let info = line.strip_prefix("INFO ").ok_or_else(no_server)?;
        let mut greeting: Greeting = serde_json::from_str(info).map_err(|_| no_server())?;
        if let Some(tls) = self.tls.as_ref()
            && (greeting.tls_required || (self.wants_tls && greeting.tls_available))
        {
            let name = ServerName::try_from(self.host.clone()).map_err(|_| no_server())?;
            let encrypted = tls.connect(name, socket.wire.into_inner());
            let encrypted = encrypted.await.map_err(reach)?;
            socket.wire = BufReader::new(Box::new(encrypted));
            greeting.is_encrypted = true;
        }
        socket.greeting = greeting;
        Ok(socket)
    }

    /// Connects as the holder of this seed.
    pub(crate) async fn log_in(&self, seed: &NkeySeed) -> Result<Socket, ProbeError> {
        let mut socket = self.connect().await?;
        let options = login_of(seed, &socket.greeting.nonce);
        match socket.log_in(&options).await {
            None => Ok(socket),
            Some(refusal) => Err(ProbeError::Refused(refusal)),
        }
    }

    /// Connects as a user that is no workload.
    pub(crate) async fn log_in_as(&self, user: &BusUser) -> Result<Socket, ProbeError> {
        let mut socket = self.connect().await?;
        let mut options = login_of(user.seed(), &socket.greeting.nonce);
        if let (Some(jwt), Some(options)) = (user.jwt(), options.as_object_mut()) {
            options.insert("jwt".to_owned(), jwt.into());
            options.remove("nkey");
        }
        match socket.log_in(&options).await {
            None => Ok(socket),
            Some(refusal) => Err(ProbeError::Refused(refusal)),
        }
    }

    /// Whether something listens on another port there.
    pub(crate) async fn answers_http(&self, port: u16) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect((self.host.as_str(), port)).await?;
            let request = format!("GET /varz HTTP/1.0\r\nHost: {}\r\n\r\n", self.host);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await?;
            Ok::<_, io::Error>(answer.starts_with(b"HTTP/"))
        };
        matches!(timeout(LIMIT, asked).await, Ok(Ok(true)))
    }
}

/// What CONNECT says for the holder of `seed`, signed over `nonce`.
pub(crate) fn login_of(seed: &NkeySeed, nonce: &str) -> Value {
    let signature = seed.sign_text(nonce);
    let mut options = json!({
        "nkey": seed.public().to_string(),
        "sig": BASE64URL_NOPAD.encode(signature.as_bytes()),
    });
    if let (Some(options), Some(plain)) = (options.as_object_mut(), plain().as_object()) {
        options.extend(plain.clone());
    }
    options
}

/// What every CONNECT says.
pub(crate) fn plain() -> Value {
    json!({
        "verbose": false,
        "pedantic": false,
        "name": "bulla doctor",
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "headers": true,
        "no_responders": true,
    })
}

/// One connection, line by line.
pub(crate) struct Socket {
    wire: BufReader<Box<dyn Wire>>,
    pub(crate) greeting: Greeting,
    /// Until the server hangs up or falls silent.
    pub(crate) is_alive: bool,
}

/// Something that came.
pub(crate) enum Came {
    Error(String),
    Message(Vec<u8>),
}

impl Socket {
    /// Sends CONNECT; why it was refused, if it was.
    pub(crate) async fn log_in(&mut self, options: &Value) -> Option<String> {
        self.send(format!("CONNECT {options}\r\nPING\r\n").as_bytes())
            .await;
        while let Some(line) = self.line().await {
            if line.starts_with("PONG") {
                return None;
            }
            if let Some(error) = line.strip_prefix("-ERR ") {
                return Some(error.trim_matches('\'').to_owned());
            }
        }
        Some("it hung up".to_owned())
    }

    /// Sends one command; everything that comes before the server has processed it.
    pub(crate) async fn command(&mut self, command: &str) -> Vec<Came> {
        self.send(format!("{command}\r\nPING\r\n").as_bytes()).await;
        let mut came = Vec::new();
        while let Some(line) = self.line().await {
            if line == "PONG" {
                break;
            }
            came.extend(self.read(&line).await);
        }
        came
    }

    /// Whether the server refuses the command for want of permission.
    pub(crate) async fn is_refused(&mut self, command: &str) -> bool {
        let came = self.command(command).await;
        came.iter().any(
            |came| matches!(came, Came::Error(error) if error.contains("Permissions Violation")),
        )
    }

    /// Whether it lets a subscription stand; one that stands is ended again.
    pub(crate) async fn may_hear(&mut self, what: &str) -> bool {
        let stands = !self.is_refused(&format!("SUB {what} 99")).await;
        self.command("UNSUB 99").await;
        stands
    }

    /// Whether it takes a message; one with a body that means nothing.
    pub(crate) async fn may_say(&mut self, subject: &str) -> bool {
        !self.is_refused(&format!("PUB {subject} 2\r\n?!")).await
    }

    /// Asks, and gives all answers that come within that time, or the first.
    pub(crate) async fn ask(
        &mut self,
        subject: &str,
        body: &str,
        gather: Option<Duration>,
    ) -> Vec<Vec<u8>> {
        let inbox = format!("_INBOX.doctor.{:x}", rand_id());
        let ask = format!(
            "SUB {inbox} 98\r\nPUB {subject} {inbox} {}\r\n{body}\r\n",
            body.len()
        );
        self.send(ask.as_bytes()).await;
        let until = tokio::time::Instant::now() + gather.unwrap_or(LIMIT);
        let mut answers = Vec::new();
        while let Ok(Some(line)) = tokio::time::timeout_at(until, self.line()).await {
            match self.read(&line).await {
                Some(Came::Message(answer)) => answers.push(answer),
                Some(Came::Error(_)) => break,
                None => continue,
            }
            if gather.is_none() {
                break;
            }
        }
        self.command("UNSUB 98").await;
        answers
    }

    /// The next message, if one comes in time.
    pub(crate) async fn next(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let line = tokio::time::timeout_at(until, self.line()).await.ok()??;
            if let Some(Came::Message(message)) = self.read(&line).await {
                return Some(message);
            }
        }
    }

    /// What a line brings, its payload included.
    async fn read(&mut self, line: &str) -> Option<Came> {
        if line == "PING" {
            self.send(b"PONG\r\n").await;
            return None;
        }
        if let Some(error) = line.strip_prefix("-ERR ") {
            return Some(Came::Error(error.trim_matches('\'').to_owned()));
        }
        let (header, total) = if let Some(rest) = line.strip_prefix("HMSG ") {
            let mut sizes = rest.split_ascii_whitespace().rev();
            let total = sizes.next()?.parse::<usize>().ok()?;
            (sizes.next()?.parse::<usize>().ok()?, total)
        } else {
            let size = line.strip_prefix("MSG ")?.rsplit(' ').next()?;
            (0, size.parse::<usize>().ok()?)
        };
        if total > MAX_MESSAGE {
            return None;
        }
        let mut message = vec![0; total + 2];
        timeout(LIMIT, self.wire.read_exact(&mut message))
            .await
            .ok()?
            .ok()?;
        message.truncate(total);
        Some(Came::Message(message.split_off(header.min(total))))
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The server may have hung up, which the next line tells.
        let _ = self.wire.get_mut().write_all(bytes).await;
        let _ = self.wire.get_mut().flush().await;
    }

    /// The next line; nothing if the server hung up or is silent.
    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.wire).take(MAX_LINE);
        let read = timeout(LIMIT, bounded.read_until(b'\n', &mut line));
        match read.await {
            Ok(Ok(count)) if count > 0 => {
                Some(String::from_utf8_lossy(&line).trim_end().to_owned())
            }
            _ => {
                self.is_alive = false;
                None
            }
        }
    }
}

/// Tells one question from another.
fn rand_id() -> u64 {
    let mut bytes = [0; 8];
    // Without it two answers could be taken for one another, no more.
    let _ = getrandom::fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
