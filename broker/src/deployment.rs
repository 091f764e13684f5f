//! The files of a deployment that is to last: nats-server's configuration for one
//! node or three, certificates, the brokers' keys and configurations, and the
//! operator's trust directory.
//!
//! ```text
//! init.toml                        what was asked for; `--check` goes by it
//! nats-server.conf | n1/… n2/… n3/… one for each node
//! tls/   ca.pem ca.key  <node>.pem <node>.key
//! keys/  callout.nk xkey.nk  broker-auth.nk broker-js.nk broker-sys.nk  operator-js.nk
//! broker.toml broker-b.toml        one for each broker
//! policy.toml                      a policy to begin with
//! nats/                            in operator mode: operator, accounts, what vouches for them
//! trust/                           root, policy key, issuing keys, bundle: `bulla trust`
//! ```
//!
//! Everything is made once and never overwritten. What the configurations say
//! follows from `init.toml`, the keys and the policy, so it can be rendered again and
//! compared.

mod certificates;
mod operator;
mod plan;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_envelope::MAX_ISSUING_LIFE;
use bulla_identity::{Nkey, NkeyKind, SubjectPattern};
use bulla_keyring::{CurveSeed, NkeySeed, SeedError};
use bulla_policy::{Policy, PolicyErrors};
use bulla_process::{SecretFileError, Zeroizing, secret_file};

use crate::clock;
use crate::nats_config::{
    AccountsConfig, BrokerUsers, ClusterConfig, Listening, PlainAccounts, ServerConfig, ServerTls,
};
use crate::provision::{self, ProvisionError};
use crate::trust_dir::{Init, NewKey, TrustDir, TrustDirError};
pub(crate) use certificates::CertificatesError;
pub(crate) use plan::{GivenOperator, GivenTls, Node, OperatorPlan, Plan, PlanError};

/// A deployment's directory.
pub(crate) struct Deployment {
    dir: PathBuf,
    plan: Plan,
}

/// A file, and what it would say by now.
pub(crate) struct Rendered {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// How a file stands to what it would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    Same,
    Missing,
    /// Something else: its first line that differs.
    Differs {
        line: usize,
    },
}

impl Deployment {
    /// Makes everything. The directory may exist, but nothing that is made.
    pub(crate) fn create(dir: &Path, plan: Plan) -> Result<(Self, Vec<PathBuf>), DeploymentError> {
        let absolute = std::path::absolute(dir).map_err(at(dir))?;
        let this = Self {
            dir: absolute,
            plan,
        };
        let planned = this.files();
        if let Some(there) = planned.iter().find(|path| path.exists()) {
            return Err(DeploymentError::Exists(there.clone()));
        }
        for part in this.directories() {
            private_dir(&part)?;
        }
        // Secrets first: what only names them can be made again.
        let mut made = this.make_keys()?;
        made.extend(this.make_certificates()?);
        made.extend(this.make_trust()?);
        let policy = this.policy()?;
        for file in this.configurations(&policy)? {
            new_file(&file.path, file.text.as_bytes())?;
            made.push(file.path);
        }
        let init = this.dir.join(INIT);
        new_file(&init, this.plan.write().as_bytes())?;
        made.push(init);
        Ok((this, made))
    }

    /// One that was made.
    pub(crate) fn open(dir: &Path) -> Result<Self, DeploymentError> {
        let absolute = std::path::absolute(dir).map_err(at(dir))?;
        let file = absolute.join(INIT);
        let text = std::fs::read_to_string(&file).map_err(at(&file))?;
        Ok(Self {
            plan: Plan::read(&text)?,
            dir: absolute,
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The secrets that belong to it. Each is read as whoever uses it reads it, so
    /// that one which others can reach is told.
    pub(crate) fn secrets(&self) -> Vec<(PathBuf, Result<(), SecretFileError>)> {
        let mut paths: Vec<PathBuf> = self.keys().into_iter().map(|(path, _)| path).collect();
        if self.plan.own_certificates() {
            paths.push(self.dir.join("tls/ca.key"));
            let nodes = self.plan.nodes.iter();
            paths.extend(nodes.map(|node| self.dir.join(format!("tls/{}.key", node.name))));
        }
        let read = |path: PathBuf| {
            let outcome = secret_file::read(&path).map(drop);
            (path, outcome)
        };
        paths.into_iter().map(read).collect()
    }

    /// The configurations as they would be written now, for the policy that is there.
    pub(crate) fn configurations(&self, policy: &Policy) -> Result<Vec<Rendered>, DeploymentError> {
        let mut out = Vec::new();
        let stored = policy.streams().iter().flat_map(|stream| stream.subjects());
        let stored: Vec<_> = stored.cloned().collect();
        let brokers = self.brokers();
        let operator = self.plan.operator.as_ref();
        let vouched = operator.map(|plan| self.vouched(plan, &stored));
        let mut vouched = vouched.transpose()?;
        if let Some(vouched) = &mut vouched {
            out.append(&mut vouched.files);
        }
        let nodes = match self.plan.given_operator() {
            Some(_) => &[][..],
            None => &self.plan.nodes[..],
        };
        for node in nodes {
            let accounts = match vouched.as_ref().and_then(|v| v.accounts.clone()) {
                Some(mut accounts) => {
                    let is_pushed = operator.is_some_and(|plan| plan.is_pushed);
                    let dir = self.node_dir(node).join("jwt");
                    accounts.resolver_dir = is_pushed.then_some(dir);
                    AccountsConfig::Operator(accounts)
                }
                None => AccountsConfig::Plain(self.plain_accounts(&stored)?),
            };
            let config = ServerConfig {
                server_name: node.name.clone(),
                listening: self.listening(node),
                store_dir: self.node_dir(node).join("jetstream"),
                accounts,
            };
            out.push(Rendered {
                path: self.node_dir(node).join("nats-server.conf"),
                text: config.render(),
            });
        }
        for (index, (name, file)) in brokers.iter().enumerate() {
            out.push(Rendered {
                path: self.dir.join(file),
                text: self.broker_config(index, name, vouched.as_ref().map(|v| v.app)),
            });
        }
        Ok(out)
    }

    fn plain_accounts(&self, stored: &[SubjectPattern]) -> Result<PlainAccounts, DeploymentError> {
        let mut brokers = Vec::new();
        for (name, _) in self.brokers() {
            brokers.push(BrokerUsers {
                auth: self.nkey(&format!("{name}-auth.nk"))?,
                js: self.nkey(&format!("{name}-js.nk"))?,
                sys: self.nkey(&format!("{name}-sys.nk"))?,
            });
        }
        Ok(PlainAccounts {
            issuer: self.nkey("callout.nk")?,
            xkey: self.xkey()?,
            brokers,
            operators: vec![self.nkey("operator-js.nk")?],
            stored: stored.to_vec(),
        })
    }

    /// Compares what lies there with what would be written.
    pub(crate) fn drift(&self, policy: &Policy) -> Result<Vec<(PathBuf, Drift)>, DeploymentError> {
        let rendered = self.configurations(policy)?;
        let compared = rendered.into_iter().map(|file| {
            let drift = match std::fs::read_to_string(&file.path) {
                Err(_) => Drift::Missing,
                Ok(text) if text == file.text => Drift::Same,
                Ok(text) => {
                    let same = text.lines().zip(file.text.lines());
                    let line = same.take_while(|(a, b)| a == b).count() + 1;
                    Drift::Differs { line }
                }
            };
            (file.path, drift)
        });
        Ok(compared.collect())
    }

    /// Writes anew what differs from what it is to be, never a key.
    pub(crate) fn update(&self, policy: &Policy) -> Result<Vec<PathBuf>, DeploymentError> {
        let mut written = Vec::new();
        for file in self.configurations(policy)? {
            if std::fs::read_to_string(&file.path).is_ok_and(|text| text == file.text) {
                continue;
            }
            provision::write(&file.path, file.text.as_bytes())?;
            written.push(file.path);
        }
        Ok(written)
    }

    /// Puts new certificates in the place of the nodes', by the authority that is there.
    pub(crate) fn renew_certificates(&self) -> Result<Vec<PathBuf>, DeploymentError> {
        if !self.plan.own_certificates() {
            return Err(DeploymentError::ForeignCertificates);
        }
        Ok(certificates::renew(&self.dir.join("tls"), &self.plan)?)
    }

    /// What nats-servers are told of each account, in operator mode.
    pub(crate) fn account_jwts(
        &self,
        policy: &Policy,
    ) -> Result<Vec<(Nkey, String)>, DeploymentError> {
        let Some(plan) = &self.plan.operator else {
            return Err(DeploymentError::NoOperator);
        };
        let stored = policy.streams().iter().flat_map(|stream| stream.subjects());
        let stored: Vec<_> = stored.cloned().collect();
        Ok(self.vouched(plan, &stored)?.pushed)
    }

    /// The policy in the directory.
    pub(crate) fn policy(&self) -> Result<Policy, DeploymentError> {
        let path = self.dir.join("policy.toml");
        let text = std::fs::read_to_string(&path).map_err(at(&path))?;
        Ok(Policy::parse(&path.display().to_string(), &text)?)
    }

    /// Their names in key files, and their configurations.
    fn brokers(&self) -> Vec<(String, String)> {
        let suffixes = ["", "-b", "-c", "-d"];
        let count = self.plan.brokers.clamp(1, suffixes.len());
        let brokers = suffixes.iter().take(count);
        brokers
            .map(|suffix| (format!("broker{suffix}"), format!("broker{suffix}.toml")))
            .collect()
    }

    fn node_dir(&self, node: &Node) -> PathBuf {
        if self.plan.nodes.len() == 1 {
            self.dir.clone()
        } else {
            self.dir.join(&node.name)
        }
    }

    fn directories(&self) -> Vec<PathBuf> {
        let mut out = vec![
            self.dir.clone(),
            self.dir.join("keys"),
            self.dir.join("tls"),
        ];
        if self.plan.operator.is_some() {
            out.push(self.dir.join("nats"));
        }
        for node in &self.plan.nodes {
            if self.plan.given_operator().is_none() {
                out.push(self.node_dir(node));
                out.push(self.node_dir(node).join("jetstream"));
            }
        }
        out
    }

    /// What is made, but for what the trust directory and the certificates consist of.
    fn files(&self) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> = self.keys().into_iter().map(|(path, _)| path).collect();
        out.push(self.dir.join(INIT));
        out.push(self.dir.join("policy.toml"));
        out.push(self.dir.join("trust/trust.toml"));
        out.push(self.dir.join("tls/ca.pem"));
        let nodes = self.plan.nodes.iter();
        out.extend(nodes.map(|node| self.node_dir(node).join("nats-server.conf")));
        out.extend(
            self.brokers()
                .into_iter()
                .map(|(_, file)| self.dir.join(file)),
        );
        out
    }

    /// The key files, with what each holds; nothing is an xkey.
    fn keys(&self) -> Vec<(PathBuf, Option<NkeyKind>)> {
        let keys = self.dir.join("keys");
        let mut out = vec![
            (keys.join("callout.nk"), Some(NkeyKind::Account)),
            (keys.join("xkey.nk"), None),
            (keys.join("operator-js.nk"), Some(NkeyKind::User)),
        ];
        if let Some(operator) = &self.plan.operator {
            out.extend(self.operator_keys(operator));
        }
        for (name, _) in self.brokers() {
            for account in ["auth", "js", "sys"] {
                if account == "sys" && self.plan.given_operator().is_some() {
                    continue;
                }
                let path = keys.join(format!("{name}-{account}.nk"));
                out.push((path, Some(NkeyKind::User)));
            }
        }
        out
    }

    fn make_keys(&self) -> Result<Vec<PathBuf>, DeploymentError> {
        let mut made = Vec::new();
        for (path, kind) in self.keys() {
            make_key(&path, kind)?;
            made.push(path);
        }
        Ok(made)
    }

    fn make_trust(&self) -> Result<Vec<PathBuf>, DeploymentError> {
        let brokers = self.brokers();
        let first = brokers.first().map_or("broker", |(name, _)| name.as_str());
        let init = Init {
            domain: self.plan.domain.clone(),
            root: NewKey::File,
            policy: NewKey::File,
            broker: first.to_owned(),
            life: BUNDLE_LIFE,
        };
        let dir = self.dir.join("trust");
        let now = clock::now();
        let (mut trust, outcome) = TrustDir::init(&dir, &init, SIGN_LIMIT, now)?;
        let mut made = outcome.created;
        for (name, _) in brokers.iter().skip(1) {
            let outcome = trust.rotate_issuer(name, None, BUNDLE_LIFE, now)?;
            made.extend(outcome.created);
        }
        let path = self.dir.join("policy.toml");
        let text = POLICY.replace("@DOMAIN@", self.plan.domain.as_str());
        new_file(&path, text.as_bytes())?;
        trust.sign_policy("policy.toml", &text, now)?;
        made.push(path);
        Ok(made)
    }

    fn make_certificates(&self) -> Result<Vec<PathBuf>, DeploymentError> {
        if !self.plan.own_certificates() {
            return Ok(Vec::new());
        }
        Ok(certificates::make(&self.dir.join("tls"), &self.plan)?)
    }

    fn listening(&self, node: &Node) -> Listening {
        let tls = match &self.plan.tls {
            Some(given) => ServerTls {
                certificate: given.certificate.clone(),
                key: given.key.clone(),
                ca: given.ca.clone(),
                verify_clients: false,
            },
            None => ServerTls {
                certificate: self.dir.join(format!("tls/{}.pem", node.name)),
                key: self.dir.join(format!("tls/{}.key", node.name)),
                ca: self.dir.join("tls/ca.pem"),
                verify_clients: false,
            },
        };
        let is_alone = self.plan.nodes.len() == 1;
        let bind = if node.is_loopback() {
            node.host.clone()
        } else {
            "0.0.0.0".to_owned()
        };
        let cluster = (!is_alone).then(|| ClusterConfig {
            name: "bulla".to_owned(),
            host: bind.clone(),
            port: node.cluster_port,
            routes: self
                .plan
                .nodes
                .iter()
                .map(|node| format!("{}:{}", node.host, node.cluster_port))
                .collect(),
        });
        Listening {
            host: bind,
            port: Some(node.port),
            advertise: (!is_alone || !node.is_loopback())
                .then(|| format!("{}:{}", node.host, node.port)),
            tls: Some(tls),
            cluster,
            monitoring: Some(node.monitoring_port),
        }
    }

    fn broker_config(&self, index: usize, name: &str, app: Option<Nkey>) -> String {
        let group = match (self.plan.brokers, index % 2) {
            (0 | 1, _) => "both",
            (_, 0) => "a",
            _ => "b",
        };
        // Each begins at a node of its own; the others it learns from that one.
        let nodes = &self.plan.nodes;
        let node = nodes.get(index % nodes.len().max(1));
        let url = node.map_or_else(String::new, |n| format!("tls://{}:{}", n.host, n.port));
        let ca = match &self.plan.tls {
            Some(given) => given.ca.display().to_string(),
            None => "tls/ca.pem".to_owned(),
        };
        let replicas = nodes.len().min(3);
        let given = self.plan.given_operator();
        let sys = match given {
            Some(given) => given.system.display().to_string(),
            None => format!("keys/{name}-sys.nk"),
        };
        let mode = app.map_or_else(String::new, |app| {
            MODE.replace("@ACCOUNT@", &app.to_string())
        });
        let tls = match given.map(|given| &given.ca) {
            Some(None) => String::new(),
            Some(Some(ca)) => TLS.replace("@CA@", &ca.display().to_string()),
            None => TLS.replace("@CA@", &ca),
        };
        BROKER
            .replace("@TLS@", &tls)
            .replace("@MODE@", &mode)
            .replace("@SYS@", &sys)
            .replace("@REPLICAS@", &replicas.to_string())
            .replace("@URL@", &url)
            .replace("@GROUP@", group)
            .replace("@NAME@", name)
            .replace("@DOMAIN@", self.plan.domain.as_str())
    }

    fn nkey(&self, name: &str) -> Result<Nkey, DeploymentError> {
        let path = self.dir.join("keys").join(name);
        let text = secret_file::read_line(&path)?;
        let seed = NkeySeed::parse(&text);
        seed.map(|seed| seed.public())
            .map_err(|source| DeploymentError::Seed { path, source })
    }

    fn xkey(&self) -> Result<Nkey, DeploymentError> {
        let path = self.dir.join("keys/xkey.nk");
        let text = secret_file::read_line(&path)?;
        let seed = CurveSeed::parse(&text);
        seed.map(|seed| seed.public())
            .map_err(|source| DeploymentError::Seed { path, source })
    }
}

/// Makes a key of this kind in a file that is not there yet, an xkey where there is no
/// kind, and gives its public half.
pub(crate) fn make_key(path: &Path, kind: Option<NkeyKind>) -> Result<Nkey, DeploymentError> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).map_err(DeploymentError::Random)?;
    let (public, text) = match kind {
        Some(kind) => {
            let seed = NkeySeed::from_random(kind, &random);
            let seed = seed.map_err(|source| DeploymentError::Seed {
                path: path.to_owned(),
                source,
            })?;
            (seed.public(), seed.to_seed_text())
        }
        None => {
            let seed = CurveSeed::from_random(&random);
            (seed.public(), seed.to_seed_text())
        }
    };
    secret_file::create(path, text.as_bytes())?;
    Ok(public)
}

fn private_dir(path: &Path) -> Result<(), DeploymentError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at(path))
}

/// Writes a file that is not there yet.
fn new_file(path: &Path, bytes: &[u8]) -> Result<(), DeploymentError> {
    use std::io::Write as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> DeploymentError {
    let path = path.to_owned();
    move |source| DeploymentError::File { path, source }
}

/// Why a deployment was not made, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeploymentError {
    #[error("`{}` exists: nothing is overwritten; name another directory, or look at this one with --check", .0.display())]
    Exists(PathBuf),
    #[error("cannot use `{}`", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "nats-server is not in operator mode here: what it has to know stands in its configuration"
    )]
    NoOperator,
    #[error(
        "the certificates here are not by an authority of this deployment: renew them where they come from"
    )]
    ForeignCertificates,
    #[error(transparent)]
    Write(#[from] ProvisionError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("`{}` holds no such seed", path.display())]
    Seed { path: PathBuf, source: SeedError },
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    #[error(transparent)]
    Trust(#[from] TrustDirError),
    #[error(transparent)]
    Policy(#[from] PolicyErrors),
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// What was asked for.
const INIT: &str = "init.toml";

const SIGN_LIMIT: Duration = Duration::from_secs(120);

/// A bundle is signed every week, because issuing keys are trusted for no longer.
const BUNDLE_LIFE: Duration = MAX_ISSUING_LIFE.saturating_mul(4);

const POLICY: &str = include_str!("deployment/policy.toml");

const BROKER: &str = include_str!("deployment/broker.toml");

const TLS: &str = "\n[tls]\n# Who issues nats-server's certificate.\nca = \"@CA@\"\n";

const MODE: &str = include_str!("deployment/operator_mode.toml");
