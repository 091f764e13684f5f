//! What a deployment is to be: read from arguments once, and from `init.toml` later.

use std::fmt::Write as _;
use std::path::PathBuf;

use bulla_identity::{IdentityError, TrustDomain};
use serde::Deserialize;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) domain: TrustDomain,
    pub(crate) nodes: Vec<Node>,
    pub(crate) brokers: usize,
    /// Certificates that are there already.
    pub(crate) tls: Option<GivenTls>,
    /// Accounts are JWTs, where an operator signs them.
    pub(crate) operator: Option<OperatorPlan>,
}

/// nats-server in operator mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperatorPlan {
    /// Whether nats-servers keep JWTs that are pushed to them, or read them from their
    /// configuration.
    pub(crate) is_pushed: bool,
    /// An operator that is there already.
    pub(crate) given: Option<GivenOperator>,
}

/// An operator that is there already, with nats-servers of his.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenOperator {
    /// The seed that signs accounts for him.
    pub(crate) seed: PathBuf,
    /// Credentials of a user of his system account.
    pub(crate) system: PathBuf,
    /// Who issues his servers' certificates; the system's authorities, if nobody is named.
    pub(crate) ca: Option<PathBuf>,
}

/// One nats-server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Under which name or address it is reached.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) cluster_port: u16,
    pub(crate) monitoring_port: u16,
}

/// Files of certificates that are there already; one certificate for all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenTls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Node {
    /// Whether it is this machine's alone.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl Plan {
    /// One node for each host; if there is one host and there are to be several
    /// nodes, all of them on it, with ports one after the other.
    pub(crate) fn new(
        domain: TrustDomain,
        hosts: &[String],
        nodes: usize,
        port: u16,
        brokers: usize,
    ) -> Result<Self, PlanError> {
        if nodes != 1 && nodes != 3 && nodes != 5 {
            return Err(PlanError::Nodes(nodes));
        }
        if !(1..=4).contains(&brokers) {
            return Err(PlanError::Brokers(brokers));
        }
        let local = ["127.0.0.1".to_owned()];
        let hosts = if hosts.is_empty() { &local[..] } else { hosts };
        if hosts.len() != 1 && hosts.len() != nodes {
            return Err(PlanError::Hosts {
                hosts: hosts.len(),
                nodes,
            });
        }
        for host in hosts {
            check_host(host)?;
        }
        let mut out = Vec::with_capacity(nodes);
        for (index, host) in hosts.iter().cycle().take(nodes).enumerate() {
            let offset = if hosts.len() == 1 { index } else { 0 };
            let offset = u16::try_from(offset).unwrap_or_default();
            let at = |first: u16| first.checked_add(offset).ok_or(PlanError::Port(port));
            out.push(Node {
                name: format!("n{}", index + 1),
                host: host.clone(),
                port: at(port)?,
                cluster_port: at(port.checked_add(2_000).ok_or(PlanError::Port(port))?)?,
                monitoring_port: at(port.checked_add(4_000).ok_or(PlanError::Port(port))?)?,
            });
        }
        Ok(Self {
            domain,
            nodes: out,
            brokers,
            tls: None,
            operator: None,
        })
    }

    /// Whether certificates are made, because none were given.
    pub(crate) fn own_certificates(&self) -> bool {
        self.tls.is_none() && self.given_operator().is_none()
    }

    /// The operator that is there already, if there is one.
    pub(crate) fn given_operator(&self) -> Option<&GivenOperator> {
        self.operator.as_ref()?.given.as_ref()
    }

    /// As it is kept.
    pub(crate) fn write(&self) -> String {
        let mut out = String::from(
            "# What `bulla broker init` was asked for. `bulla broker init --check` goes by it.\n",
        );
        let _ = writeln!(out, "domain = \"{}\"", self.domain);
        let _ = writeln!(out, "brokers = {}", self.brokers);
        if let Some(tls) = &self.tls {
            let text = |path: &PathBuf| toml::Value::from(path.display().to_string()).to_string();
            let _ = writeln!(
                out,
                "\n[tls]\ncertificate = {}\nkey = {}\nca = {}",
                text(&tls.certificate),
                text(&tls.key),
                text(&tls.ca)
            );
        }
        if let Some(operator) = &self.operator {
            let text = |path: &PathBuf| toml::Value::from(path.display().to_string()).to_string();
            let _ = writeln!(out, "\n[operator]\npushed = {}", operator.is_pushed);
            if let Some(given) = &operator.given {
                let _ = writeln!(out, "seed = {}", text(&given.seed));
                let _ = writeln!(out, "system = {}", text(&given.system));
                if let Some(ca) = &given.ca {
                    let _ = writeln!(out, "ca = {}", text(ca));
                }
            }
        }
        for node in &self.nodes {
            let _ = writeln!(
                out,
                "\n[[node]]\nname = \"{}\"\nhost = \"{}\"\nport = {}\ncluster_port = {}\nmonitoring_port = {}",
                node.name, node.host, node.port, node.cluster_port, node.monitoring_port
            );
        }
        out
    }

    /// Reads what [`Plan::write`] wrote.
    pub(crate) fn read(text: &str) -> Result<Self, PlanError> {
        let raw: Raw = toml::from_str(text).map_err(PlanError::Syntax)?;
        for node in &raw.node {
            check_host(&node.host)?;
            check_host(&node.name)?;
        }
        if raw.node.is_empty() {
            return Err(PlanError::Nodes(0));
        }
        Ok(Self {
            domain: TrustDomain::parse(&raw.domain).map_err(PlanError::Domain)?,
            brokers: raw.brokers,
            nodes: raw.node.into_iter().map(Node::from).collect(),
            tls: raw.tls.map(|tls| GivenTls {
                certificate: tls.certificate,
                key: tls.key,
                ca: tls.ca,
            }),
            operator: raw.operator.map(|operator| OperatorPlan {
                is_pushed: operator.pushed,
                given: operator
                    .seed
                    .zip(operator.system)
                    .map(|(seed, system)| GivenOperator {
                        seed,
                        system,
                        ca: operator.ca,
                    }),
            }),
        })
    }
}

/// A name or an address that can stand in a URL and in a path.
fn check_host(host: &str) -> Result<(), PlanError> {
    let is_sound = !host.is_empty()
        && host.len() <= 253
        && !host.starts_with(['-', '.'])
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    if is_sound {
        Ok(())
    } else {
        Err(PlanError::Host(host.escape_debug().to_string()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    domain: String,
    brokers: usize,
    tls: Option<RawTls>,
    operator: Option<RawOperator>,
    node: Vec<RawNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOperator {
    pushed: bool,
    seed: Option<PathBuf>,
    system: Option<PathBuf>,
    ca: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: String,
    host: String,
    port: u16,
    cluster_port: u16,
    monitoring_port: u16,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        Self {
            name: raw.name,
            host: raw.host,
            port: raw.port,
            cluster_port: raw.cluster_port,
            monitoring_port: raw.monitoring_port,
        }
    }
}

/// Why something is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("a cluster has 1, 3 or 5 nodes, not {0}")]
    Nodes(usize),
    #[error("there are 1 to 4 brokers, not {0}")]
    Brokers(usize),
    #[error("{hosts} hosts are named for {nodes} nodes: name one for each, or one for all")]
    Hosts { hosts: usize, nodes: usize },
    #[error("`{0}` is no host's name or IPv4 address")]
    Host(String),
    #[error("there is no room for the other ports above {0}: begin at 61000 or below")]
    Port(u16),
    #[error("`init.toml` is damaged")]
    Syntax(#[source] toml::de::Error),
    #[error("not a trust domain")]
    Domain(#[source] IdentityError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("acme.example").unwrap()
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let hosts = ["a.example", "b.example", "c.example"].map(str::to_owned);
        let mut plan = Plan::new(domain(), &hosts, 3, 4222, 2).unwrap();
        assert_eq!(Plan::read(&plan.write()).unwrap(), plan);
        plan.tls = Some(GivenTls {
            certificate: "a \"b\".pem".into(),
            key: "k".into(),
            ca: "c".into(),
        });
        assert_eq!(Plan::read(&plan.write()).unwrap(), plan);
        for given in [
            None,
            Some(GivenOperator {
                seed: "o.nk".into(),
                system: "s.creds".into(),
                ca: None,
            }),
        ] {
            plan.operator = Some(OperatorPlan {
                is_pushed: given.is_some(),
                given,
            });
            assert_eq!(Plan::read(&plan.write()).unwrap(), plan);
        }
        assert_eq!(plan.nodes[2].port, 4222);
    }

    #[test]
    fn nodes_of_one_machine_have_ports_of_their_own() {
        let plan = Plan::new(domain(), &[], 3, 4222, 1).unwrap();
        let ports: Vec<u16> = plan.nodes.iter().map(|node| node.port).collect();
        assert_eq!(ports, [4222, 4223, 4224]);
        assert!(plan.nodes[0].is_loopback());
    }

    #[test]
    fn what_cannot_be_is_told() {
        let plan = |hosts: &[&str], nodes, port, brokers| {
            let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
            Plan::new(domain(), &hosts, nodes, port, brokers)
        };
        assert!(matches!(plan(&[], 2, 4222, 1), Err(PlanError::Nodes(2))));
        assert!(matches!(plan(&[], 1, 4222, 0), Err(PlanError::Brokers(0))));
        assert!(matches!(
            plan(&["a", "b"], 3, 4222, 1),
            Err(PlanError::Hosts { .. })
        ));
        assert!(matches!(plan(&[], 1, 65_000, 1), Err(PlanError::Port(_))));
        for host in ["", "a b", "a\"b", "a/b", "-a", "..", "[::1]"] {
            assert!(
                matches!(plan(&[host], 1, 4222, 1), Err(PlanError::Host(_))),
                "{host}"
            );
        }
    }
}
