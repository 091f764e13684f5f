//! The configuration: `gateway.toml` and the routes, parsed into types before
//! anything starts. Every key is described in the crate's README.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::{TrustDomain, WorkloadId};
use bulla_sdk::audit::{AuditOptions, RecordUsers};
use bulla_token::{Algorithm, TypRule, is_reserved_context_name};
use url::{Host, Url};

use crate::document::{ConfigErrors, Document, Located, Section};
use crate::route_file::read_routes;
use crate::routes::RouteTable;

/// Everything that the edge needs to know.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
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
    /// What stands for the user on the bus.
    pub transaction: TransactionConfig,
    /// What the `type` of a problem begins with.
    pub problem_base: String,
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
}

/// The `[limits]` section.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body of a request, in bytes; a route may ask for less or more.
    pub body: usize,
    /// The largest reply that is passed on, in bytes.
    pub reply: usize,
    /// The largest head of a request (request line and headers), in bytes.
    pub header_bytes: usize,
    /// The most headers.
    pub headers: usize,
    /// The longest path with query, in bytes.
    pub uri: usize,
    /// How many connections are open at once; more are closed on arrival.
    pub connections: usize,
    /// How many requests are in work at once; more are answered with 503.
    pub requests: usize,
    /// How many requests one HTTP/2 connection has in work at once.
    pub streams: usize,
    /// How long a client may take for the TLS handshake, or for one head of a request.
    pub header_timeout: Duration,
    /// How long a client may take for one body.
    pub body_timeout: Duration,
    /// How long a request waits for its answer, unless its route says otherwise.
    pub request_timeout: Duration,
    /// How long running requests may take after the signal to stop.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 1 << 20,
            reply: 4 << 20,
            header_bytes: 16 << 10,
            headers: 64,
            uri: 4 << 10,
            connections: 4096,
            requests: 1024,
            streams: 100,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// One `[[issuer]]`.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// What `iss` must be, byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_url: Url,
    /// Certificate authorities for that URL; the system's without.
    pub ca_file: Option<PathBuf>,
    /// Which algorithms are taken.
    pub algorithms: Vec<Algorithm>,
    /// What `typ` a token must carry.
    pub typ: TypRule,
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
    /// Reads `gateway.toml` and the routes file that it names. Relative paths are
    /// relative to `gateway.toml`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong in both files, with line and column.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigErrors::whole_file(&name, format!("cannot be read: {e}")))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let document = Document::new(&name, &text);
        let tree = document.tree();
        let parts = read_gateway(Section::root(&document, &tree), base);
        let mut problems = document.into_problems();

        let issuers: &[IssuerConfig] = &parts.issuers;
        let default_limits = Limits::default();
        let limits = parts.limits.as_ref().unwrap_or(&default_limits);
        let mut routes = None;
        if let Some(file) = &parts.routes_file {
            let name = file.display().to_string();
            match std::fs::read_to_string(file) {
                Ok(text) => {
                    let document = Document::new(&name, &text);
                    let tree = document.tree();
                    let root = Section::root(&document, &tree);
                    routes = read_routes(root, issuers, parts.issuers_complete, limits);
                    problems.extend(document.into_problems());
                }
                Err(e) => problems.extend(
                    ConfigErrors::whole_file(&name, format!("cannot be read: {e}"))
                        .problems()
                        .to_vec(),
                ),
            }
        }
        match (parts.bus, parts.listen, parts.limits, routes) {
            (Some(bus), Some(listen), Some(limits), Some(routes)) if problems.is_empty() => {
                Ok(Self {
                    bus,
                    listen,
                    admin: parts.admin,
                    limits,
                    issuers: parts.issuers,
                    transaction: parts.transaction,
                    problem_base: parts.problem_base,
                    routes,
                })
            }
            _ => Err(ConfigErrors::new(problems)),
        }
    }
}

struct Parts {
    bus: Option<BusConfig>,
    listen: Option<ListenConfig>,
    admin: Option<SocketAddr>,
    limits: Option<Limits>,
    issuers: Vec<IssuerConfig>,
    /// Whether every issuer could be read, so that an unknown one is the route's mistake.
    issuers_complete: bool,
    transaction: TransactionConfig,
    problem_base: String,
    routes_file: Option<PathBuf>,
}

fn read_gateway(mut root: Section<'_>, base: &Path) -> Parts {
    let routes_file = root
        .required_text("routes", "name the file with the routes")
        .map(|f| base.join(f.value));
    let problem_base = root.text("problem_base");
    let problem_base = match problem_base {
        None => "urn:bulla:problem:".to_owned(),
        Some(text) => {
            if Url::parse(&text.value).is_err() || !text.value.ends_with([':', '/', '#']) {
                root.problem(
                    &text.span,
                    "`problem_base` is no absolute URI that ends in `:`, `/` or `#`",
                );
            }
            text.value
        }
    };
    let bus = root
        .required_section("bus", "say where nats-server is and who this workload is")
        .and_then(|s| read_bus(s, base));
    let listen = root
        .required_section("listen", "say where clients connect")
        .and_then(|s| read_listen(s, base));
    let admin = root.section("admin").and_then(|mut s| {
        let address = s.required_text("address", "for example `\"127.0.0.1:9090\"`");
        let address = address.and_then(|a| read_address(&s, &a));
        s.finish();
        address
    });
    let limits = match root.section("limits") {
        None => Some(Limits::default()),
        Some(section) => Some(read_limits(section)),
    };
    let transaction = root
        .section("transaction")
        .map_or_else(TransactionConfig::default, read_transaction);
    let mut issuers: Vec<IssuerConfig> = Vec::new();
    let mut issuers_complete = true;
    for section in root.sections("issuer") {
        let span = section.span();
        match read_issuer(section, base) {
            Some(issuer) if issuers.iter().any(|i| i.issuer == issuer.issuer) => {
                root.problem(&span, format!("issuer `{}` is there twice", issuer.issuer));
            }
            Some(issuer) => issuers.push(issuer),
            None => issuers_complete = false,
        }
    }
    root.finish();
    Parts {
        bus,
        listen,
        admin,
        limits,
        issuers,
        issuers_complete,
        transaction,
        problem_base,
        routes_file,
    }
}

fn read_bus(mut s: Section<'_>, base: &Path) -> Option<BusConfig> {
    let url = s.required_text("url", "for example `\"nats://127.0.0.1:4222\"`");
    let workload = s
        .required_text(
            "workload",
            "for example `\"spiffe://acme.example/gateway\"`",
        )
        .and_then(|w| {
            let id = WorkloadId::parse(&w.value);
            let id = id.map_err(|e| s.problem(&w.span, format!("`workload`: {e}")));
            let id = id.ok()?;
            let domain = TrustDomain::parse(id.trust_domain());
            let domain = domain.map_err(|e| s.problem(&w.span, format!("`workload`: {e}")));
            Some((id, domain.ok()?))
        });
    let seed_file = s.required_text("seed_file", "name the file with this workload's nkey seed");
    let trust_root_file = s.required_text(
        "trust_root_file",
        "name the file with the trust root's public key",
    );
    let tls_ca_file = s.text("tls_ca_file").map(|f| base.join(f.value));
    let connect_timeout = s
        .duration("connect_timeout", seconds(1, 600))
        .unwrap_or(Duration::from_secs(30));
    let revocations_bound = s
        .duration("revocations_bound", seconds(5, 3_601))
        .unwrap_or(Duration::from_secs(60));
    let policy_bound = s
        .duration("policy_bound", seconds(5, 86_401))
        .unwrap_or(Duration::from_secs(3_600));
    let audit = read_audit(&mut s);
    s.finish();
    let (workload, trust_domain) = workload?;
    Some(BusConfig {
        url: url?.value,
        workload,
        trust_domain,
        seed_file: base.join(seed_file?.value),
        trust_root_file: base.join(trust_root_file?.value),
        tls_ca_file,
        connect_timeout,
        revocations_bound,
        policy_bound,
        audit,
    })
}

fn read_audit(s: &mut Section<'_>) -> AuditOptions {
    let mut audit = AuditOptions::default();
    if let Some(every) = s.count("audit_sample", 1..1_000_001) {
        audit = audit.sample(every as u64);
    }
    match s.text("audit_users") {
        None => audit,
        Some(users) => match &*users.value {
            "names" => audit.users(RecordUsers::Names),
            "pseudonyms" => audit,
            "nothing" => audit.users(RecordUsers::Nothing),
            _ => {
                let text = "`audit_users`: use `names`, `pseudonyms` or `nothing`";
                s.problem(&users.span, text);
                audit
            }
        },
    }
}

fn read_listen(mut s: Section<'_>, base: &Path) -> Option<ListenConfig> {
    let address = s
        .required_text("address", "for example `\"127.0.0.1:8080\"`")
        .and_then(|a| read_address(&s, &a));
    let certificates = s.text("tls_cert_file");
    let key = s.text("tls_key_file");
    let tls = match (certificates, key) {
        (Some(certificates), Some(key)) => Some(TlsFiles {
            certificates: base.join(certificates.value),
            key: base.join(key.value),
        }),
        (None, None) => None,
        (Some(one), None) => {
            s.problem(&one.span, "`tls_cert_file` needs `tls_key_file`");
            None
        }
        (None, Some(one)) => {
            s.problem(&one.span, "`tls_key_file` needs `tls_cert_file`");
            None
        }
    };
    s.finish();
    Some(ListenConfig {
        address: address?,
        tls,
    })
}

fn read_address(s: &Section<'_>, text: &Located<String>) -> Option<SocketAddr> {
    match text.value.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            s.problem(
                &text.span,
                format!(
                    "`{}` is no address and port such as `127.0.0.1:8080`",
                    text.value
                ),
            );
            None
        }
    }
}

fn read_limits(mut s: Section<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        body: s.size("body", 0..(64 << 20) + 1).unwrap_or(default.body),
        reply: s.size("reply", 1..(64 << 20) + 1).unwrap_or(default.reply),
        // hyper needs a buffer of 8 KiB.
        header_bytes: s
            .size("header_bytes", 8 << 10..(1 << 20) + 1)
            .unwrap_or(default.header_bytes),
        headers: s.count("headers", 1..1001).unwrap_or(default.headers),
        uri: s.size("uri", 16..(64 << 10) + 1).unwrap_or(default.uri),
        connections: s
            .count("connections", 1..1_000_001)
            .unwrap_or(default.connections),
        requests: s
            .count("requests", 1..1_000_001)
            .unwrap_or(default.requests),
        streams: s.count("streams", 1..10_001).unwrap_or(default.streams),
        header_timeout: s
            .duration("header_timeout", millis(50, 300_000))
            .unwrap_or(default.header_timeout),
        body_timeout: s
            .duration("body_timeout", millis(50, 3_600_000))
            .unwrap_or(default.body_timeout),
        request_timeout: s
            .duration("request_timeout", millis(10, 300_000))
            .unwrap_or(default.request_timeout),
        drain_timeout: s
            .duration("drain_timeout", millis(0, 3_600_000))
            .unwrap_or(default.drain_timeout),
    };
    s.finish();
    limits
}

fn read_issuer(mut s: Section<'_>, base: &Path) -> Option<IssuerConfig> {
    let issuer = s.required_text("issuer", "what `iss` must be, byte for byte");
    if let Some(text) = &issuer {
        read_url(&s, text, "issuer");
    }
    let jwks_url = s
        .required_text("jwks_url", "where the issuer publishes its keys")
        .and_then(|text| read_url(&s, &text, "jwks_url"));
    let ca_file = s.text("ca_file").map(|f| base.join(f.value));
    let algorithms = match s.texts("algorithms") {
        None => Some(Algorithm::ALL.to_vec()),
        Some(names) => read_algorithms(&s, &names),
    };
    let typ = s.text("typ").map_or(TypRule::AccessToken, |t| match t.value.as_str() {
        "at+jwt" => TypRule::AccessToken,
        "any" => TypRule::AccessTokenOrPlainJwt,
        other => {
            s.problem(
                &t.span,
                format!("`typ` is `{other}`: write `at+jwt`, or `any` for issuers that do not follow RFC 9068"),
            );
            TypRule::AccessToken
        }
    });
    let leeway = s
        .duration("leeway", seconds(0, 61))
        .unwrap_or(Duration::from_secs(30));
    let refresh = s
        .duration("refresh", seconds(1, 86_401))
        .unwrap_or(Duration::from_secs(300));
    let cooldown = s
        .duration("cooldown", millis(100, 3_600_001))
        .unwrap_or(Duration::from_secs(30));
    let max_stale = s
        .duration("max_stale", seconds(1, 7 * 86_400))
        .unwrap_or(Duration::from_secs(3_600));
    if max_stale < refresh {
        s.problem(
            &s.span(),
            "`max_stale` is shorter than `refresh`: the keys would lapse between two fetches",
        );
    }
    let timeout = s
        .duration("timeout", millis(50, 60_001))
        .unwrap_or(Duration::from_secs(5));
    s.finish();
    Some(IssuerConfig {
        issuer: issuer?.value,
        jwks_url: jwks_url?,
        ca_file,
        algorithms: algorithms?,
        typ,
        leeway,
        refresh,
        cooldown,
        max_stale,
        timeout,
    })
}

fn read_algorithms(s: &Section<'_>, names: &[Located<String>]) -> Option<Vec<Algorithm>> {
    if names.is_empty() {
        s.problem(&s.span(), "`algorithms` is empty: no token would be taken");
        return None;
    }
    let mut algorithms = Some(Vec::new());
    for name in names {
        match Algorithm::parse(&name.value) {
            Ok(algorithm) => algorithms.iter_mut().for_each(|a| a.push(algorithm)),
            Err(_) => {
                let all: Vec<_> = Algorithm::ALL.iter().map(|a| a.as_str()).collect();
                s.problem(
                    &name.span,
                    format!(
                        "`{}` cannot be allowed: possible are {}",
                        name.value,
                        all.join(", ")
                    ),
                );
                algorithms = None;
            }
        }
    }
    algorithms
}

/// An https URL, or an http one whose host is loopback.
fn read_url(s: &Section<'_>, text: &Located<String>, key: &str) -> Option<Url> {
    let problem = |why: &str| s.problem(&text.span, format!("`{key}`: {why}"));
    let Ok(url) = Url::parse(&text.value) else {
        problem("is no URL such as `https://login.example`");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        problem("holds credentials, remove them");
        return None;
    }
    match url.scheme() {
        "https" => Some(url),
        "http" if is_loopback(&url) => Some(url),
        "http" => {
            problem("plain `http` is for loopback only, use `https`");
            None
        }
        _ => {
            problem("must be `https`");
            None
        }
    }
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn read_transaction(mut s: Section<'_>) -> TransactionConfig {
    let default = TransactionConfig::default();
    let lifetime = s
        .duration("lifetime", seconds(1, 301))
        .unwrap_or(default.lifetime);
    let mut claims = Vec::new();
    for claim in s.texts("claims").unwrap_or_default() {
        let name = &claim.value;
        if is_reserved_context_name(name) || name == ISSUER_CONTEXT {
            s.problem(
                &claim.span,
                format!("claim `{name}` is set by the edge itself and cannot be copied"),
            );
        } else if name.is_empty() || claims.contains(name) {
            s.problem(
                &claim.span,
                format!("claim `{name}` is empty or there twice"),
            );
        } else {
            claims.push(name.clone());
        }
    }
    s.finish();
    TransactionConfig { lifetime, claims }
}

fn seconds(from: u64, below: u64) -> std::ops::Range<Duration> {
    Duration::from_secs(from)..Duration::from_secs(below)
}

fn millis(from: u64, below: u64) -> std::ops::Range<Duration> {
    Duration::from_millis(from)..Duration::from_millis(below)
}
