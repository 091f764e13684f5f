//! The files that people edit, and the one that scripts read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bulla_identity::{TrustDomain, WorkloadName};
use serde::{Deserialize, Serialize};

use super::issuer;
use super::ports::Ports;
use crate::provision::{Provision, ProvisionError, read_if_there, write};

/// `dev.json`: what runs, for scripts. There only while everything is ready.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Instance {
    pub(super) gateway_url: String,
    pub(super) nats_url: String,
    pub(super) issuer_url: String,
    pub(super) jwks_url: String,
    pub(super) audience: String,
    pub(super) trust_domain: String,
    pub(super) trust_root_file: PathBuf,
    pub(super) policy_file: PathBuf,
    pub(super) policy_revision: u64,
    pub(super) routes_file: PathBuf,
    pub(super) gateway_file: PathBuf,
    pub(super) issuer_key_file: PathBuf,
    /// nkey seed files by workload.
    pub(super) key_files: BTreeMap<String, PathBuf>,
    /// Process ids by name.
    pub(super) pids: BTreeMap<String, u32>,
}

impl Instance {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("dev.json")
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), ProvisionError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        write(&Self::path(dir), format!("{text}\n").as_bytes())
    }

    /// What runs in `dir`, or nothing.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(dir)).ok()?).ok()
    }

    pub(super) fn remove(dir: &Path) {
        let _ = std::fs::remove_file(Self::path(dir));
    }
}

/// The policy's text; at the first start the one that we bring along.
pub(super) fn policy(provision: &Provision) -> Result<(PathBuf, String), ProvisionError> {
    let path = provision.path("policy.toml");
    if let Some(bytes) = read_if_there(&path)? {
        return Ok((path, String::from_utf8_lossy(&bytes).into_owned()));
    }
    let mut text = POLICY.to_owned();
    for name in WORKLOADS {
        let nkey = provision.workload(&WorkloadName::parse(name)?)?;
        text = text.replace(&format!("@{name}@"), &nkey.to_string());
    }
    write(&path, text.as_bytes())?;
    let cases = provision.path("policy.cases.toml");
    if read_if_there(&cases)?.is_none() {
        write(&cases, CASES.as_bytes())?;
    }
    Ok((path, text))
}

/// Writes `routes.toml` and `gateway.toml` at the first start. Later only the
/// ports in them are brought up to date; everything else is the editor's.
pub(super) fn gateway(
    provision: &Provision,
    domain: &TrustDomain,
    ports: Ports,
    earlier: Option<Ports>,
) -> Result<(PathBuf, PathBuf), ProvisionError> {
    let fill = |template: &str| {
        template
            .replace("@ISSUER@", &issuer::url(ports.issuer))
            .replace("@AUDIENCE@", issuer::AUDIENCE)
            .replace("@NATS@", &nats_url(ports.nats))
            .replace("@PORT@", &ports.gateway.to_string())
            .replace("@DOMAIN@", domain.as_str())
    };
    let mut paths = Vec::new();
    for (name, template) in [("gateway.toml", GATEWAY), ("routes.toml", ROUTES)] {
        let path = provision.path(name);
        let text = match read_if_there(&path)? {
            None => fill(template),
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                earlier.map_or(text.clone(), |earlier| retarget(&text, earlier, ports))
            }
        };
        write(&path, text.as_bytes())?;
        paths.push(path);
    }
    let routes = paths.pop().unwrap_or_default();
    let gateway = paths.pop().unwrap_or_default();
    Ok((gateway, routes))
}

pub(super) fn nats_url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// Puts the new port wherever one of ours stood after the loopback address.
fn retarget(text: &str, earlier: Ports, now: Ports) -> String {
    let mut parts = text.split(HOST);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(HOST);
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (port, rest) = part.split_at(digits);
        let renewed = match port.parse::<u16>() {
            Ok(port) if port == earlier.gateway => Some(now.gateway),
            Ok(port) if port == earlier.nats => Some(now.nats),
            Ok(port) if port == earlier.issuer => Some(now.issuer),
            _ => None,
        };
        match renewed {
            Some(renewed) => out.push_str(&renewed.to_string()),
            None => out.push_str(port),
        }
        out.push_str(rest);
    }
    out
}

/// The workloads of the example shop.
pub(super) const WORKLOADS: [&str; 3] = ["gateway", "orders", "billing"];

const HOST: &str = "127.0.0.1:";
const POLICY: &str = include_str!("templates/policy.toml");
const CASES: &str = include_str!("templates/policy.cases.toml");
const ROUTES: &str = include_str!("templates/routes.toml");
const GATEWAY: &str = include_str!("templates/gateway.toml");

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Ports = Ports {
        gateway: 8080,
        nats: 4222,
        issuer: 8081,
    };
    // Two ports that change places.
    const NEW: Ports = Ports {
        gateway: 8081,
        nats: 4222,
        issuer: 8080,
    };

    #[test]
    fn ports_are_replaced_once_and_nothing_else() {
        let text = "a 127.0.0.1:8080 b http://127.0.0.1:8081/x 127.0.0.1:4222 127.0.0.1:9 8080";
        assert_eq!(
            retarget(text, OLD, NEW),
            "a 127.0.0.1:8081 b http://127.0.0.1:8080/x 127.0.0.1:4222 127.0.0.1:9 8080"
        );
    }

    #[test]
    fn edits_survive_and_the_templates_load() {
        let dir = tempfile::tempdir().unwrap();
        let provision = Provision::open(dir.path()).unwrap();
        let (path, text) = policy(&provision).unwrap();
        let (loaded, _) = provision.sign_policy("policy.toml", &text).unwrap();
        assert_eq!(loaded.workloads().len(), WORKLOADS.len());
        let cases = std::fs::read_to_string(provision.path("policy.cases.toml")).unwrap();
        let cases = bulla_policy::Cases::parse("policy.cases.toml", &cases).unwrap();
        let report = loaded.test(&[&cases], crate::clock::now());
        assert_eq!(report.failures().count(), 0, "{:?}", report.asked);
        assert_eq!(report.coverage.percent(), 100, "{:?}", report.coverage);
        let rules = &report.coverage.rules;
        assert!(
            rules
                .iter()
                .all(|r| r.never_held.is_empty() && r.never_failed.is_empty())
        );
        std::fs::write(&path, "# mine").unwrap();
        assert_eq!(policy(&provision).unwrap().1, "# mine");

        let (gateway_file, routes_file) =
            gateway(&provision, loaded.trust_domain(), OLD, None).unwrap();
        bulla_gateway::GatewayConfig::load(&gateway_file).unwrap();
        let mut routes = std::fs::read_to_string(&routes_file).unwrap();
        routes.push_str("# mine\n");
        std::fs::write(&routes_file, routes).unwrap();
        gateway(&provision, loaded.trust_domain(), NEW, Some(OLD)).unwrap();
        let routes = std::fs::read_to_string(&routes_file).unwrap();
        assert!(routes.ends_with("# mine\n"), "{routes}");
        assert!(routes.contains("http://127.0.0.1:8080"), "{routes}");
        bulla_gateway::GatewayConfig::load(&gateway_file).unwrap();
    }
}
