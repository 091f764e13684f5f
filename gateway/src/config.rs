//! The configuration: `gateway.toml` and the routes, parsed into types before
//! anything starts. Every key is described in the crate's README.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::{TrustDomain, WorkloadId};
use bulla_issuer::{CertificateSource, KeySource, KeysAt};
use bulla_sdk::audit::AuditOptions;
use bulla_token::{Algorithm, TypRule};
use url::Url;

use crate::access_log::AccessLog;
use crate::acme_file::AcmeConfig;
use crate::api::ApiConfig;
use crate::api_keys::ApiKeysConfig;
use crate::breaker::BreakerConfig;
use crate::certificates::CertificateClients;
use crate::client_address::ClientsConfig;
use crate::cors::CorsConfig;
use crate::document::{ConfigErrors, ConfigProblem, Document};
use crate::finish::SecurityConfig;
use crate::gateway_file::read_gateway;
use crate::introspection::IntrospectionConfig;
use crate::rate::RateConfig;
use crate::route_file::{RouteFile, Surroundings, read_routes};
use crate::routes::RouteTable;
use crate::section::Section;

/// Everything that the edge needs to know.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The file that it was read from.
    pub file: PathBuf,
    /// How the edge presents itself.
    pub api: ApiConfig,
    /// Where the bus is and who this workload is.
    pub bus: BusConfig,
    /// Where clients connect.
    pub listen: ListenConfig,
    /// Where operators connect: `/livez`, `/readyz`, `/metrics`.
    pub admin: Option<SocketAddr>,
    /// What is too much and too long.
    pub limits: Limits,
    /// Whose access tokens are taken.
    pub issuers: Vec<IssuerConfig>,
    /// Where the API keys are.
    pub api_keys: Option<ApiKeysConfig>,
    /// Who is known by the certificate of his connection.
    pub certificates: CertificateClients,
    /// What stands for the user on the bus.
    pub transaction: TransactionConfig,
    /// What the `type` of a problem begins with.
    pub problem_base: String,
    /// Whose word about addresses counts, and from where requests are taken.
    pub clients: ClientsConfig,
    /// How many requests somebody may make.
    pub rates: Vec<RateConfig>,
    /// Which of them count where a route says nothing, and where there is none.
    pub default_rates: Vec<usize>,
    /// Which pages of other origins may ask.
    pub cors: Option<CorsConfig>,
    /// When nothing is sent to a subject for a while.
    pub breaker: Option<BreakerConfig>,
    /// How answers are written down.
    pub access_log: AccessLog,
    /// What every answer says to browsers.
    pub security: SecurityConfig,
    /// Which request becomes which message.
    pub routes: RouteTable,
}

/// The `[bus]` section.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// nats-server.
    pub url: String,
    /// The workload that the edge is.
    pub workload: WorkloadId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The file with the workload's nkey seed.
    pub seed_file: PathBuf,
    /// The file with the trust root's public key.
    pub trust_root_file: PathBuf,
    /// Certificate authorities for TLS to the bus.
    pub tls_ca_file: Option<PathBuf>,
    /// How long to wait for bus, policy and credential at start.
    pub connect_timeout: Duration,
    /// For how long revocations count without a newer head that confirms them.
    pub revocations_bound: Duration,
    /// The same for policy and trust bundle.
    pub policy_bound: Duration,
    /// How it writes to the audit log.
    pub audit: AuditOptions,
}

/// The `[listen]` section.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Certificate chain and key; plain HTTP without.
    pub tls: Option<TlsFiles>,
}

/// PEM files for TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate chain, leaf first.
    pub certificates: PathBuf,
    /// The private key; readable by the owner alone.
    pub key: PathBuf,
    /// Certificate authorities of clients' certificates; none are asked for without.
    pub client_ca: Option<PathBuf>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
    /// Who issues the certificate, if the edge asks for it itself. Certificates and key
    /// are one file then, which need not be there yet.
    pub acme: Option<AcmeConfig>,
}

/// The `[limits]` section.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body of a request, in bytes; a route may ask for less or more.
    pub body: usize,
    /// The largest reply that is passed on, in bytes.
    pub reply: usize,
    /// How many bytes of replies are kept to be given again.
    pub cache: usize,
    /// The largest head of a request (request line and headers), in bytes.
    pub header_bytes: usize,
    /// The most headers.
    pub headers: usize,
    /// How deep the arrays and objects of a JSON body may be nested.
    pub json_depth: usize,
    /// The longest path with query, in bytes.
    pub uri: usize,
    /// How many connections are open at once; more are closed on arrival.
    pub connections: usize,
    /// How many of them from one address that is no trusted proxy.
    pub connections_per_address: usize,
    /// How many requests are in work at once; more are answered with 503.
    pub requests: usize,
    /// How many streams of events are open at once.
    pub event_streams: usize,
    /// How many requests one HTTP/2 connection has in work at once.
    pub streams: usize,
    /// How long a client may take for the TLS handshake, or for one head of a request.
    pub header_timeout: Duration,
    /// How long a client may take for one body.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// How long a request waits for its answer, unless its route says otherwise.
    pub request_timeout: Duration,
    /// How long it still takes connections after the signal to stop, while it says that it
    /// is not ready: until whoever shares out the load has noticed.
    pub unready_for: Duration,
    /// How long running requests may take after that.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            reply: 4 << 20,
            cache: 32 << 20,
            header_bytes: 16 << 10,
            headers: 64,
            json_depth: 32,
            uri: 4 << 10,
            connections: 4096,
            connections_per_address: 512,
            requests: 1024,
            event_streams: 1024,
            streams: 100,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            unready_for: Duration::ZERO,
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// One `[[issuer]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerConfig {
    /// What `iss` must be, byte for byte.
    pub issuer: String,
    /// The same as a URL.
    pub issuer_url: Url,
    /// Where its keys are; where the issuer's description says without.
    pub jwks_url: Option<Url>,
    /// Certificate authorities for that URL; the system's without.
    pub ca_file: Option<PathBuf>,
    /// Which algorithms are taken.
    pub algorithms: Vec<Algorithm>,
    /// What `typ` a token must carry.
    pub typ: TypRule,
    /// Whether every token has to be bound to a key or a certificate.
    pub must_be_bound: bool,
    /// Where it is asked what an opaque token is.
    pub introspection: Option<IntrospectionConfig>,
    /// How much its clock may differ.
    pub leeway: Duration,
    /// How often the keys are fetched.
    pub refresh: Duration,
    /// The shortest time between two fetches that clients cause.
    pub cooldown: Duration,
    /// How long keys are used after the last fetch that succeeded.
    pub max_stale: Duration,
    /// How long one fetch may take.
    pub timeout: Duration,
}

impl IssuerConfig {
    /// Where its keys are fetched.
    pub(crate) fn source(&self) -> KeySource {
        KeySource {
            issuer: self.issuer.clone(),
            keys: match &self.jwks_url {
                Some(url) => KeysAt::Url(url.clone()),
                None => KeysAt::Discovered(self.issuer_url.clone()),
            },
            certificates: match &self.ca_file {
                Some(file) => CertificateSource::File(file.clone()),
                None => CertificateSource::System,
            },
            refresh: self.refresh,
            cooldown: self.cooldown,
            max_stale: self.max_stale,
            timeout: self.timeout,
            user_agent: "bulla-gateway",
        }
    }
}

/// The `[transaction]` section.
#[derive(Debug, Clone)]
pub struct TransactionConfig {
    /// How long a transaction token lives; never longer than the client's.
    pub lifetime: Duration,
    /// Which claims of the access token go into `tctx`.
    pub claims: Vec<String>,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(60),
            claims: Vec::new(),
        }
    }
}

/// The name in `tctx` under which the edge itself puts the issuer of the client's token.
pub(crate) const ISSUER_CONTEXT: &str = "idp";

impl GatewayConfig {
    /// Reads `gateway.toml` and the routes files that it names. Relative paths are
    /// relative to the file that they stand in.
    ///
    /// # Errors
    ///
    /// Everything that is wrong in all files, with line and column.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigErrors::whole_file(&name, format!("cannot be read: {e}")))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let document = Document::new(&name, &text);
        let trees = document.trees();
        let parts = match trees.first() {
            Some((tree, begin)) => read_gateway(Section::root(&document, tree, *begin), base),
            None => return Err(ConfigErrors::whole_file(&name, "is empty")),
        };
        drop(trees);
        let mut problems = document.into_problems();

        let default_limits = Limits::default();
        let surroundings = Surroundings {
            api: &parts.api,
            claims: &parts.transaction.claims,
            issuers: &parts.issuers,
            issuers_complete: parts.issuers_complete,
            rates: &parts.rates,
            rates_complete: parts.rates_complete,
            default_rates: &parts.default_rates,
            breaker: parts.breaker,
            has_api_keys: parts.api_keys.is_some(),
            has_certificates: !parts.certificates.is_empty(),
            limits: parts.limits.as_ref().unwrap_or(&default_limits),
        };
        let (files, unreadable) = route_files(&parts.routes_files);
        let mut routes = None;
        if !files.is_empty() {
            let (table, found) = read_routes(&files, surroundings);
            routes = table;
            problems.extend(found);
        }
        problems.extend(unreadable);
        match (parts.bus, parts.listen, parts.limits, routes) {
            (Some(bus), Some(listen), Some(limits), Some(routes)) if problems.is_empty() => {
                Ok(Self {
                    file: path.to_owned(),
                    api: parts.api,
                    bus,
                    listen,
                    admin: parts.admin,
                    limits,
                    issuers: parts.issuers,
                    api_keys: parts.api_keys,
                    certificates: parts.certificates,
                    transaction: parts.transaction,
                    problem_base: parts.problem_base,
                    clients: parts.clients,
                    rates: parts.rates,
                    default_rates: parts.default_rates,
                    cors: parts.cors,
                    breaker: parts.breaker,
                    access_log: parts.access_log,
                    security: parts.security,
                    routes,
                })
            }
            _ => Err(ConfigErrors::new(problems)),
        }
    }
}

/// The routes files, a folder standing for the `.toml` files in it by name, and what
/// cannot be read of them.
fn route_files(paths: &[PathBuf]) -> (Vec<RouteFile>, Vec<ConfigProblem>) {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    let mut failed = |path: &Path, message: String| {
        let name = path.display().to_string();
        problems.extend(ConfigErrors::whole_file(&name, message).problems().to_vec());
    };
    for path in paths {
        let listed = if path.is_dir() {
            match toml_files(path) {
                Ok(listed) if listed.is_empty() => {
                    failed(path, "has no file that ends in `.toml`".to_owned());
                    continue;
                }
                Ok(listed) => listed,
                Err(e) => {
                    failed(path, format!("cannot be listed: {e}"));
                    continue;
                }
            }
        } else {
            vec![path.clone()]
        };
        for file in listed {
            match std::fs::read_to_string(&file) {
                Ok(text) => files.push(RouteFile {
                    name: file.display().to_string(),
                    text,
                    base: file.parent().unwrap_or(Path::new("")).to_owned(),
                }),
                Err(e) => failed(&file, format!("cannot be read: {e}")),
            }
        }
    }
    (files, problems)
}

/// The `.toml` files of a folder by name.
pub(crate) fn toml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
