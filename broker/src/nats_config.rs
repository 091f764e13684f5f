//! The configuration of nats-server that Bulla stands on.
//!
//! | account | who is in it |
//! |---|---|
//! | `AUTH` | brokers, to answer the auth callout; nobody else |
//! | `SYS` | brokers, to find and end connections |
//! | `JS` | brokers, and all streams; no workload ever connects there |
//! | `APP` | every workload, placed there by the callout; no JetStream |
//!
//! `APP` sees of `JS` exactly: the news of the control stream and of buckets, the
//! brokers' requests, writes to the streams of wrapped keys, of claims, of the audit log
//! and of reports and to buckets, and direct gets; what the policy's streams store, and asking and
//! answering for their messages. Which of it is for whom is said by each workload's
//! permissions alone, which never name what is not for it. nats-server does not check
//! the permissions of its own replies, so JetStream must not be reachable in the account where workloads
//! choose reply subjects. Each import keeps its subject: that an answer which is
//! aimed at an import writes nothing there was measured for that form alone; only
//! two questions that change nothing, how a stream and a consumer are configured,
//! have names of ours.
//!
//! Either the configuration itself says all of this, or an operator's JWTs do
//! (`nats_accounts`), and the configuration names the operator.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use bulla_identity::{Nkey, SubjectPattern};

use crate::connection;

/// What differs from one server to the next. [`ServerConfig::render`] is the file.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The server's name in logs.
    pub server_name: String,
    /// Where and how it listens.
    pub listening: Listening,
    /// Where JetStream stores.
    pub store_dir: PathBuf,
    /// Who says which accounts there are.
    pub accounts: AccountsConfig,
}

/// Who says which accounts there are.
#[derive(Clone, Debug)]
pub enum AccountsConfig {
    /// The configuration itself.
    Plain(PlainAccounts),
    /// An operator, by JWTs that he signed.
    Operator(OperatorAccounts),
}

/// Accounts that stand in the configuration.
#[derive(Clone, Debug)]
pub struct PlainAccounts {
    /// The account key that signs the callout's answers.
    pub issuer: Nkey,
    /// The key that callout requests are encrypted to.
    pub xkey: Nkey,
    /// The users of each broker.
    pub brokers: Vec<BrokerUsers>,
    /// Operators' users in the account `JS`: they read what lies there and write
    /// what the policy key signed.
    pub operators: Vec<Nkey>,
    /// What the policy's streams store. A stream that a later policy adds takes
    /// messages once its subjects stand here: a changed configuration needs a
    /// reload, which ends every workload's connection once.
    pub stored: Vec<SubjectPattern>,
}

/// Accounts that an operator vouches for; what they may is in their JWTs.
#[derive(Clone, Debug)]
pub struct OperatorAccounts {
    /// The operator's JWT.
    pub operator: String,
    /// The system account.
    pub system: Nkey,
    /// Every account, with its JWT.
    pub accounts: Vec<(Nkey, String)>,
    /// The JWT that stands for whoever shows none: of a user who may do nothing, in the
    /// account whose callout is asked then.
    pub sentinel: String,
    /// Where nats-server keeps JWTs that are pushed to it; in memory, where there is none.
    pub resolver_dir: Option<PathBuf>,
}

/// Where a server listens, and who it is together with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// The address for clients; 127.0.0.1 if it is empty.
    pub host: String,
    /// The port for clients, or any free one.
    pub port: Option<u16>,
    /// What other servers and clients are told to connect to, if that is not what it
    /// listens on.
    pub advertise: Option<String>,
    /// TLS for clients and for the other servers; without it only loopback is safe.
    pub tls: Option<ServerTls>,
    /// The other servers.
    pub cluster: Option<ClusterConfig>,
    /// The port on 127.0.0.1 where nats-server tells everything about itself.
    pub monitoring: Option<u16>,
}

impl Listening {
    /// For this machine alone.
    #[must_use]
    pub fn loopback(port: Option<u16>) -> Self {
        Self {
            port,
            ..Self::default()
        }
    }
}

/// The files of a server's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Its certificate and those above it, PEM.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Who issues the certificates of the other servers, and of clients.
    pub ca: PathBuf,
    /// Whether every client of this server has to show a certificate.
    pub verify_clients: bool,
}

/// What a server has to know of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's name.
    pub name: String,
    /// The address for the other servers.
    pub host: String,
    /// The port for them.
    pub port: u16,
    /// All servers, `host:port`.
    pub routes: Vec<String>,
}

/// The nkeys under which one broker connects, one for each account.
///
/// nkeys and not passwords: with at least one nkey user in its configuration
/// nats-server offers every client a nonce, which the attestor needs.
#[derive(Clone, Copy, Debug)]
pub struct BrokerUsers {
    /// Answers the callout.
    pub auth: Nkey,
    /// Writes the control stream and answers workloads.
    pub js: Nkey,
    /// Finds and ends connections.
    pub sys: Nkey,
}

impl ServerConfig {
    /// The configuration file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let listening = &self.listening;
        // -1 is nats-server's word for any free port.
        let port = listening.port.map_or(-1, i32::from);
        let host = match &*listening.host {
            "" => "127.0.0.1",
            host => host,
        };
        let accounts = match &self.accounts {
            AccountsConfig::Plain(plain) => plain.render(),
            AccountsConfig::Operator(operator) => operator.render(),
        };
        TEMPLATE
            .replace("@NAME@", &quoted(&self.server_name))
            .replace("@HOST@", &quoted(host))
            .replace("@PORT@", &port.to_string())
            .replace("@LISTENING@", &listening.render())
            .replace("@STORE@", &quoted(&self.store_dir.to_string_lossy()))
            .replace("@ACCOUNTS@", &accounts)
    }
}

impl PlainAccounts {
    fn render(&self) -> String {
        let users = |key: fn(&BrokerUsers) -> Nkey| {
            let users = self.brokers.iter().map(|broker| {
                let nkey = key(broker).to_string();
                format!("{{ nkey: {} }}", quoted(&nkey))
            });
            users.collect::<Vec<_>>().join(", ")
        };
        let mut auth_users = Vec::new();
        for broker in &self.brokers {
            for key in [broker.auth, broker.js, broker.sys] {
                auth_users.push(quoted(&key.to_string()));
            }
        }
        let mut operators = String::new();
        for operator in &self.operators {
            auth_users.push(quoted(&operator.to_string()));
            let list = |subjects: Vec<String>| {
                let quoted = subjects.iter().map(|subject| quoted(subject));
                quoted.collect::<Vec<_>>().join(", ")
            };
            let user = OPERATOR
                .replace("@NKEY@", &quoted(&operator.to_string()))
                .replace("@PUBLISH@", &list(operator_publishes(operator)))
                .replace("@SUBSCRIBE@", &list(operator_subscribes(operator)));
            operators.push_str(&user);
        }
        let (mut exports, mut imports) = (String::new(), String::new());
        let stored: BTreeSet<String> = self.stored.iter().map(|s| s.to_nats()).collect();
        for subject in stored.iter().map(|s| quoted(s)) {
            let _ = write!(
                exports,
                "\n      {{ service: {subject}, accounts: [ APP ] }}"
            );
            let _ = write!(
                imports,
                "\n      {{ service: {{ account: JS, subject: {subject} }} }}"
            );
        }
        PLAIN
            .replace("@STORED_EXPORTS@", &exports)
            .replace("@STORED_IMPORTS@", &imports)
            .replace("@ISSUER@", &quoted(&self.issuer.to_string()))
            .replace("@XKEY@", &quoted(&self.xkey.to_string()))
            .replace("@AUTH_USERS@", &auth_users.join(", "))
            .replace("@AUTH@", &users(|b| b.auth))
            .replace("@JS@", &users(|b| b.js))
            .replace("@OPERATORS@", &operators)
            .replace("@SYS@", &users(|b| b.sys))
    }
}

impl OperatorAccounts {
    fn render(&self) -> String {
        let resolver = match &self.resolver_dir {
            None => "resolver: MEMORY".to_owned(),
            Some(dir) => FULL_RESOLVER.replace("@DIR@", &quoted(&dir.to_string_lossy())),
        };
        let preload = self.accounts.iter().map(|(account, jwt)| {
            let (account, jwt) = (account.to_string(), jwt.as_str());
            format!("  {account}: {}\n", quoted(jwt))
        });
        OPERATOR_MODE
            .replace("@OPERATOR@", &quoted(&self.operator))
            .replace("@SYSTEM@", &self.system.to_string())
            .replace("@RESOLVER@", &resolver)
            .replace("@PRELOAD@", &preload.collect::<String>())
            .replace("@SENTINEL@", &quoted(&self.sentinel))
    }
}

/// What an operator's user in the account `JS` may publish. The lists keep from
/// mistakes: whoever may ask JetStream anything in this account could do harm there.
/// What he writes counts by its signature.
pub(crate) fn operator_publishes(operator: &Nkey) -> Vec<String> {
    let own = format!("{}.>", connection::operator_inbox(operator));
    let fixed = [
        "$BULLA.CTL.POLICY",
        "$BULLA.CTL.CANDIDATE",
        "$BULLA.CTL.REVOCATIONS",
        "$BULLA.HISTORY.>",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.INFO.>",
        "$JS.API.DIRECT.GET.>",
        "$JS.API.STREAM.MSG.GET.>",
        "$JS.API.CONSUMER.CREATE.BULLA_AUDIT",
        "$JS.API.CONSUMER.CREATE.BULLA_AUDIT.>",
        "$JS.API.CONSUMER.INFO.BULLA_AUDIT.>",
        "$JS.API.CONSUMER.DELETE.BULLA_AUDIT.>",
        "$JS.API.CONSUMER.MSG.NEXT.BULLA_AUDIT.>",
        "$JS.ACK.BULLA_AUDIT.>",
        "$JS.FC.BULLA_AUDIT.>",
    ];
    std::iter::once(own)
        .chain(fixed.map(str::to_owned))
        .collect()
}

/// What he may subscribe to.
pub(crate) fn operator_subscribes(operator: &Nkey) -> Vec<String> {
    let own = format!("{}.>", connection::operator_inbox(operator));
    let fixed = ["$BULLA.NEWS.>", "$BULLA.STATUS.>", "$BULLA.AUDIT.>"];
    std::iter::once(own)
        .chain(fixed.map(str::to_owned))
        .collect()
}

impl Listening {
    /// Everything beside host and port.
    fn render(&self) -> String {
        let mut out = String::new();
        if let Some(advertise) = &self.advertise {
            let _ = writeln!(out, "client_advertise: {}", quoted(advertise));
        }
        if let Some(port) = self.monitoring {
            let _ = write!(
                out,
                "\n# It shows users and permissions to whoever asks: never beyond this machine.\n\
                 http: \"127.0.0.1:{port}\"\n"
            );
        }
        if let Some(tls) = &self.tls {
            let path = |path: &PathBuf| quoted(&path.to_string_lossy());
            let _ = write!(
                out,
                "\n# Who is on the way could use a login that he sees, so that nothing is said in\n\
                 # the clear. `verify: true` asks every client of this port for a certificate, and\n\
                 # turns away who has none: for a server of a cluster that is for those alone.\n\
                 tls {{\n  cert_file: {}\n  key_file: {}\n  ca_file: {}\n  verify: {}\n  min_version: \"1.3\"\n  timeout: 5\n}}\n",
                path(&tls.certificate),
                path(&tls.key),
                path(&tls.ca),
                tls.verify_clients
            );
        }
        if let Some(cluster) = &self.cluster {
            let routes = cluster.routes.iter().map(|route| {
                let route = format!("nats-route://{route}");
                format!("    {}\n", quoted(&route))
            });
            let routes: String = routes.collect();
            let _ = write!(
                out,
                "\n# The other servers. One that hangs is given up after two pings.\n\
                 cluster {{\n  name: {}\n  host: {}\n  port: {}\n  ping_interval: \"1s\"\n  ping_max: 2\n",
                quoted(&cluster.name),
                quoted(&cluster.host),
                cluster.port
            );
            if let Some(tls) = &self.tls {
                let path = |path: &PathBuf| quoted(&path.to_string_lossy());
                let _ = write!(
                    out,
                    "  # Both sides show a certificate: whoever may join reads everything.\n  \
                     tls {{\n    cert_file: {}\n    key_file: {}\n    ca_file: {}\n    verify: true\n    timeout: 5\n  }}\n",
                    path(&tls.certificate),
                    path(&tls.key),
                    path(&tls.ca)
                );
            }
            let _ = write!(out, "  routes: [\n{routes}  ]\n}}\n");
        }
        out
    }
}

/// A string of nats-server's configuration language.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// One operator.
const OPERATOR: &str = r#"
      {
        nkey: @NKEY@
        permissions: {
          publish: { allow: [ @PUBLISH@ ] }
          subscribe: { allow: [ @SUBSCRIBE@ ] }
        }
      }
   "#;

const TEMPLATE: &str = r#"# Written by bulla.
server_name: @NAME@
host: @HOST@
port: @PORT@
@LISTENING@
# A CONNECT line may carry a workload token of several kilobytes.
max_control_line: 32KB
# The largest sealed message, and the largest answer of the callout (about
# 15,000 subjects of permissions).
max_payload: 1MB
# Who has hung for half a minute is given up: until then he keeps his share of what is asked
# of his queue groups.
ping_interval: "10s"
ping_max: 2

# No MQTT, no leaf nodes, no WebSocket: what is not listening needs no rule.

jetstream {
  store_dir: @STORE@
}

@ACCOUNTS@"#;

const PLAIN: &str = r#"system_account: SYS

accounts {
  # Only brokers, and only for the callout: who could listen here would read
  # what clients send to authenticate.
  AUTH {
    users: [ @AUTH@ ]
  }
  SYS {
    users: [ @SYS@ ]
  }
  # All streams. Workloads reach exactly what is exported.
  JS {
    jetstream: enabled
    users: [ @JS@@OPERATORS@ ]
    exports: [
      { stream: "$BULLA.NEWS.>", accounts: [ APP ] }
      # Which records of which stream is said by each workload's permissions.
      { service: "$JS.API.DIRECT.GET.>", response_type: stream, accounts: [ APP ] }
      { service: "$BULLA.BROKER.>", accounts: [ APP ] }
      { service: "$BULLA.KEYS.>", accounts: [ APP ] }
      { service: "$BULLA.CLAIMS.>", accounts: [ APP ] }
      { service: "$BULLA.AUDIT.>", accounts: [ APP ] }
      { service: "$BULLA.TAKEN.>", accounts: [ APP ] }
      { service: "$BULLA.STATUS.>", accounts: [ APP ] }
      # Buckets of the policy: writes, and the news of changes.
      { service: "$KV.>", accounts: [ APP ] }
      { stream: "$BULLA.KV.>", accounts: [ APP ] }
      # Streams of the policy: messages, answers for them, configurations.
      { service: "$JS.API.CONSUMER.MSG.NEXT.>", response_type: stream, accounts: [ APP ] }
      { service: "$JS.ACK.>", accounts: [ APP ] }
      { service: "$JS.API.CONSUMER.INFO.>", accounts: [ APP ] }
      { service: "$JS.API.STREAM.INFO.>", accounts: [ APP ] }@STORED_EXPORTS@
    ]
  }
  # Workloads, placed here by the callout. No JetStream.
  APP {
    imports: [
      { stream: { account: JS, subject: "$BULLA.NEWS.>" } }
      { service: { account: JS, subject: "$JS.API.DIRECT.GET.>" } }
      { service: { account: JS, subject: "$BULLA.BROKER.>" } }
      { service: { account: JS, subject: "$BULLA.KEYS.>" } }
      { service: { account: JS, subject: "$BULLA.CLAIMS.>" } }
      { service: { account: JS, subject: "$BULLA.AUDIT.>" } }
      { service: { account: JS, subject: "$BULLA.TAKEN.>" } }
      { service: { account: JS, subject: "$BULLA.STATUS.>" } }
      { service: { account: JS, subject: "$KV.>" } }
      { stream: { account: JS, subject: "$BULLA.KV.>" } }
      { service: { account: JS, subject: "$JS.API.CONSUMER.MSG.NEXT.>" } }
      { service: { account: JS, subject: "$JS.ACK.>" } }
      # Under another name: under its own nats-server answers for this account.
      { service: { account: JS, subject: "$JS.API.CONSUMER.INFO.>" }, to: "$BULLA.CONSUMER.INFO.>" }
      { service: { account: JS, subject: "$JS.API.STREAM.INFO.>" }, to: "$BULLA.STREAM.INFO.>" }@STORED_IMPORTS@
    ]
  }
}

authorization {
  # A callout that does not answer in time is a refusal.
  timeout: 2
  auth_callout {
    issuer: @ISSUER@
    xkey: @XKEY@
    account: AUTH
    auth_users: [ @AUTH_USERS@ ]
    allowed_accounts: [ APP ]
  }
}
"#;

const OPERATOR_MODE: &str = r#"# Who signs the accounts.
operator: @OPERATOR@
system_account: @SYSTEM@

# Where the accounts' JWTs are: which there are, what they exchange, and that AUTH asks
# the callout.
@RESOLVER@
resolver_preload: {
@PRELOAD@}

# Whoever shows no JWT is taken for this user of AUTH, who may do nothing: so the callout
# is asked who he is.
default_sentinel: @SENTINEL@

authorization {
  # A callout that does not answer in time is a refusal.
  timeout: 2
}
"#;

/// For accounts that are pushed to running servers.
const FULL_RESOLVER: &str = r#"resolver {
  type: full
  dir: @DIR@
  allow_delete: false
  interval: "2m"
}"#;

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }

    #[test]
    fn every_placeholder_is_filled() {
        let nkey = |kind, byte| Nkey::from_bytes(kind, [byte; 32]);
        let text = ServerConfig {
            server_name: "n1".to_owned(),
            listening: Listening::loopback(Some(4222)),
            store_dir: "/tmp/x".into(),
            accounts: AccountsConfig::Plain(PlainAccounts {
                issuer: nkey(NkeyKind::Account, 1),
                xkey: nkey(NkeyKind::Curve, 2),
                brokers: vec![BrokerUsers {
                    auth: nkey(NkeyKind::User, 3),
                    js: nkey(NkeyKind::User, 4),
                    sys: nkey(NkeyKind::User, 5),
                }],
                operators: vec![nkey(NkeyKind::User, 6)],
                stored: vec![SubjectPattern::parse("orders.{id}.>").unwrap()],
            }),
        }
        .render();
        for line in [
            r#"{ service: "orders.*.>", accounts: [ APP ] }"#,
            r#"{ service: { account: JS, subject: "orders.*.>" } }"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains('@'), "{text}");
        assert!(text.contains("port: 4222"));
        let operator = nkey(NkeyKind::User, 6);
        assert!(text.contains(&format!("nkey: \"{operator}\"")), "{text}");
        assert!(text.contains(&format!("\"_INBOX.operator.{operator}.>\"")));
    }

    #[test]
    fn an_operator_s_accounts_are_preloaded_and_nobody_is_let_in_without_the_callout() {
        let nkey = |byte| Nkey::from_bytes(NkeyKind::Account, [byte; 32]);
        let render = |resolver_dir: Option<&str>| {
            ServerConfig {
                server_name: "n1".to_owned(),
                listening: Listening::loopback(None),
                store_dir: "/tmp/x".into(),
                accounts: AccountsConfig::Operator(OperatorAccounts {
                    operator: "op.er.ator".to_owned(),
                    system: nkey(1),
                    accounts: vec![(nkey(1), "s.y.s".to_owned())],
                    sentinel: "sen.ti.nel".to_owned(),
                    resolver_dir: resolver_dir.map(PathBuf::from),
                }),
            }
            .render()
        };
        let text = render(None);
        for line in [
            "operator: \"op.er.ator\"",
            "resolver: MEMORY",
            &format!("  {}: \"s.y.s\"", nkey(1)),
            "default_sentinel: \"sen.ti.nel\"",
            "max_control_line: 32KB",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(
            !text.contains('@') && !text.contains("auth_callout"),
            "{text}"
        );
        assert!(render(Some("/tmp/j")).contains("type: full"));
    }

    /// What the configuration exports and imports, and what the accounts' JWTs do.
    #[test]
    fn both_modes_exchange_the_same_subjects() {
        let (streams, services) = (
            crate::nats_accounts::STREAMS,
            crate::nats_accounts::SERVICES,
        );
        let exports = PLAIN.matches("accounts: [ APP ] }").count();
        assert_eq!(exports, streams.len() + services.len());
        for subject in streams {
            let export = format!("{{ stream: \"{subject}\", accounts");
            let import = format!("{{ stream: {{ account: JS, subject: \"{subject}\" }} }}");
            assert!(
                PLAIN.contains(&export) && PLAIN.contains(&import),
                "{subject}"
            );
        }
        for (subject, streams, local) in services {
            let kind = if streams {
                ", response_type: stream"
            } else {
                ""
            };
            let export = format!("{{ service: \"{subject}\"{kind}, accounts");
            let to = local.map_or_else(String::new, |local| format!(", to: \"{local}\""));
            let import = format!("{{ service: {{ account: JS, subject: \"{subject}\" }}{to} }}");
            assert!(
                PLAIN.contains(&export) && PLAIN.contains(&import),
                "{subject}"
            );
        }
    }

    #[test]
    fn a_server_of_a_cluster_shows_certificates_and_nothing_to_the_network() {
        let listening = Listening {
            host: "0.0.0.0".to_owned(),
            port: Some(4222),
            advertise: Some("n1.acme.example:4222".to_owned()),
            tls: Some(ServerTls {
                certificate: "tls/n1.pem".into(),
                key: "tls/n1.key".into(),
                ca: "tls/ca.pem".into(),
                verify_clients: false,
            }),
            cluster: Some(ClusterConfig {
                name: "bulla".to_owned(),
                host: "0.0.0.0".to_owned(),
                port: 6222,
                routes: vec![
                    "n1.acme.example:6222".to_owned(),
                    "n2.acme.example:6222".to_owned(),
                ],
            }),
            monitoring: Some(8222),
        };
        let text = listening.render();
        for line in [
            "http: \"127.0.0.1:8222\"",
            "verify: false",
            "min_version: \"1.3\"",
            "    verify: true",
            "ping_interval: \"1s\"",
            "\"nats-route://n2.acme.example:6222\"",
            "client_advertise: \"n1.acme.example:4222\"",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(Listening::loopback(None).render(), "");
    }
}
