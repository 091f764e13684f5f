//! The sections of `gateway.toml`, each read into its type.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::{TrustDomain, WorkloadId};
use bulla_sdk::audit::{AuditOptions, RecordUsers};
use bulla_token::is_reserved_context_name;
use url::Url;

use crate::access_log::AccessLog;
use crate::acme_file::read_acme;
use crate::api::{ApiConfig, DOCS_PATH};
use crate::api_keys::ApiKeysConfig;
use crate::breaker::BreakerConfig;
use crate::certificates::{CertificateClients, read_certificates};
use crate::client_address::ClientsConfig;
use crate::config::{
    BusConfig, ISSUER_CONTEXT, IssuerConfig, Limits, ListenConfig, TlsFiles, TransactionConfig,
};
use crate::cors::CorsConfig;
use crate::document::Located;
use crate::finish::SecurityConfig;
use crate::issuer_file::read_issuer;
use crate::json::MAX_DEPTH;
use crate::protection_file::{
    read_breaker, read_clients, read_cors, read_rate_names, read_rates, read_security,
};
use crate::quantities::{millis, seconds};
use crate::rate::RateConfig;
use crate::route_extras::read_api;
use crate::section::Section;

pub(crate) struct Parts {
    pub(crate) bus: Option<BusConfig>,
    pub(crate) listen: Option<ListenConfig>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) limits: Option<Limits>,
    pub(crate) issuers: Vec<IssuerConfig>,
    /// Whether every issuer could be read, so that an unknown one is the route's mistake.
    pub(crate) issuers_complete: bool,
    pub(crate) transaction: TransactionConfig,
    pub(crate) problem_base: String,
    pub(crate) clients: ClientsConfig,
    pub(crate) rates: Vec<RateConfig>,
    /// Whether every rate could be read.
    pub(crate) rates_complete: bool,
    /// The rates of routes that say nothing about it.
    pub(crate) default_rates: Vec<usize>,
    pub(crate) cors: Option<CorsConfig>,
    pub(crate) breaker: Option<BreakerConfig>,
    pub(crate) access_log: AccessLog,
    pub(crate) security: SecurityConfig,
    pub(crate) routes_files: Vec<PathBuf>,
    pub(crate) api: ApiConfig,
    pub(crate) api_keys: Option<ApiKeysConfig>,
    pub(crate) certificates: CertificateClients,
}

pub(crate) fn read_gateway(mut root: Section<'_>, base: &Path) -> Parts {
    let routes_files = root
        .required_texts(
            "routes",
            "name the file with the routes, or a folder of such files",
        )
        .unwrap_or_default();
    let routes_files = routes_files
        .into_iter()
        .map(|f| base.join(f.value))
        .collect();
    let problem_base = root.text("problem_base");
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
    let api_keys = root.section("api_keys").and_then(|mut s| {
        let file = s.required_text("file", "name the file that `gateway key new` writes");
        s.finish();
        file.map(|file| ApiKeysConfig {
            file: base.join(file.value),
        })
    });
    let certificates = read_certificates(&mut root);
    let asks_for_one = listen.as_ref().is_some_and(|listen| {
        listen
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some())
    });
    if !certificates.is_empty() && listen.is_some() && !asks_for_one {
        root.problem(
            &root.span(),
            "`[[certificate]]` needs `client_ca_file` in `[listen]`: no client is asked for one",
        );
    }
    let api = root
        .section("api")
        .map_or_else(ApiConfig::default, read_api);
    let problem_base = match problem_base {
        // Each problem leads to the page that explains it, where there is one.
        None => match &api.public_url {
            Some(url) if api.serves_docs => format!("{url}{DOCS_PATH}#"),
            _ => "urn:bulla:problem:".to_owned(),
        },
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
    let clients = root
        .section("clients")
        .map_or_else(ClientsConfig::default, read_clients);
    let (rates, rates_complete) = read_rates(&mut root);
    let default_rates = read_rate_names(&mut root, &rates, rates_complete).unwrap_or_default();
    let cors = root.section("cors").and_then(read_cors);
    let breaker = root.section("breaker").map(read_breaker);
    let security = root
        .section("security")
        .map_or_else(SecurityConfig::default, read_security);
    let access_log = root
        .section("log")
        .map_or_else(AccessLog::default, read_access_log);
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
        clients,
        rates,
        rates_complete,
        default_rates,
        cors,
        breaker,
        access_log,
        security,
        routes_files,
        api,
        api_keys,
        certificates,
    }
}

fn read_access_log(mut s: Section<'_>) -> AccessLog {
    let access = s.text("access");
    let found = match access.as_ref().map(|a| a.value.as_str()) {
        None | Some("off") => Some(AccessLog::Off),
        Some("fields") => Some(AccessLog::Fields),
        Some("combined") => Some(AccessLog::Combined),
        Some(_) => None,
    };
    if let (Some(text), None) = (&access, found) {
        s.problem(
            &text.span,
            format!(
                "`access` is `{}`: possible are `off`, `fields` and `combined`",
                text.value
            ),
        );
    }
    s.finish();
    found.unwrap_or_default()
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
    let minimum = s.text("tls_min_version");
    let client_ca = s.text("client_ca_file");
    let only_tls13 = match minimum.as_ref().map(|m| m.value.as_str()) {
        None | Some("1.2") => false,
        Some("1.3") => true,
        Some(other) => {
            let message = format!("`tls_min_version` is `{other}`: possible are `1.2` and `1.3`");
            minimum.iter().for_each(|m| s.problem(&m.span, &*message));
            false
        }
    };
    let acme = s.section("acme");
    if let Some(file) = certificates
        .as_ref()
        .or(key.as_ref())
        .filter(|_| acme.is_some())
    {
        let also = "`[listen.acme]` brings certificate and key: leave `tls_cert_file` and `tls_key_file` out";
        s.problem(&file.span, also);
    }
    let acme = acme.and_then(|section| read_acme(section, base));
    let files = match (certificates, key, &acme) {
        (_, _, Some(acme)) => Some((acme.certificate(), acme.certificate())),
        (Some(certificates), Some(key), None) => {
            Some((base.join(certificates.value), base.join(key.value)))
        }
        (Some(one), None, None) => {
            s.problem(&one.span, "`tls_cert_file` needs `tls_key_file`");
            None
        }
        (None, Some(one), None) => {
            s.problem(&one.span, "`tls_key_file` needs `tls_cert_file`");
            None
        }
        (None, None, None) => {
            if let Some(ca) = client_ca.as_ref().filter(|_| !s.has("acme")) {
                s.problem(&ca.span, "`client_ca_file` needs `tls_cert_file`");
            }
            None
        }
    };
    let tls = files.map(|(certificates, key)| TlsFiles {
        only_tls13,
        certificates,
        key,
        client_ca: client_ca.map(|f| base.join(f.value)),
        acme,
    });
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
        cache: s.size("cache", 0..(4 << 30) + 1).unwrap_or(default.cache),
        // hyper needs a buffer of 8 KiB.
        header_bytes: s
            .size("header_bytes", 8 << 10..(1 << 20) + 1)
            .unwrap_or(default.header_bytes),
        headers: s.count("headers", 1..1001).unwrap_or(default.headers),
        json_depth: s
            .count("json_depth", 1..MAX_DEPTH + 1)
            .unwrap_or(default.json_depth),
        uri: s.size("uri", 16..(64 << 10) + 1).unwrap_or(default.uri),
        connections: s
            .count("connections", 1..1_000_001)
            .unwrap_or(default.connections),
        connections_per_address: s
            .count("connections_per_address", 1..1_000_001)
            .unwrap_or(default.connections_per_address),
        requests: s
            .count("requests", 1..1_000_001)
            .unwrap_or(default.requests),
        event_streams: s
            .count("event_streams", 0..1_000_001)
            .unwrap_or(default.event_streams),
        streams: s.count("streams", 1..10_001).unwrap_or(default.streams),
        header_timeout: s
            .duration("header_timeout", millis(50, 300_000))
            .unwrap_or(default.header_timeout),
        body_timeout: s
            .duration("body_timeout", millis(50, 3_600_000))
            .unwrap_or(default.body_timeout),
        write_timeout: s
            .duration("write_timeout", millis(50, 3_600_000))
            .unwrap_or(default.write_timeout),
        request_timeout: s
            .duration("request_timeout", millis(10, 300_000))
            .unwrap_or(default.request_timeout),
        unready_for: s
            .duration("unready_for", millis(0, 300_001))
            .unwrap_or(default.unready_for),
        drain_timeout: s
            .duration("drain_timeout", millis(0, 3_600_000))
            .unwrap_or(default.drain_timeout),
    };
    s.finish();
    limits
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
