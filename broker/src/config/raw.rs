//! `broker.toml` as it is written, with every default.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) nats_url: String,
    #[serde(default = "both")]
    pub(super) group: String,
    #[serde(default = "one_hour")]
    pub(super) credential_lifetime: String,
    #[serde(default = "one_minute")]
    pub(super) state_max_age: String,
    pub(super) keys: RawKeys,
    pub(super) trust: RawTrust,
    pub(super) exchange: Option<RawExchange>,
    pub(super) operator_mode: Option<RawOperatorMode>,
    #[serde(default)]
    pub(super) tls: RawTls,
    #[serde(default)]
    pub(super) audit: RawAudit,
    pub(super) admin: Option<RawAdmin>,
    #[serde(default)]
    pub(super) streams: RawStreams,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStreams {
    pub(super) replicas: usize,
}

impl Default for RawStreams {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOperatorMode {
    pub(super) account: String,
    #[serde(default = "reauthorise")]
    pub(super) on_change: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    #[serde(default = "loopback")]
    pub(super) address: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAudit {
    pub(super) keep: String,
    pub(super) max_mebibytes: u64,
    pub(super) workload_percent: u8,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            keep: "30d".to_owned(),
            max_mebibytes: 512,
            workload_percent: 25,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) ca: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExchange {
    pub(super) workload: String,
    pub(super) seed_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeys {
    pub(super) issuer: PathBuf,
    pub(super) xkey: PathBuf,
    pub(super) auth: PathBuf,
    pub(super) js: PathBuf,
    pub(super) sys: PathBuf,
    pub(super) issuing: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrust {
    pub(super) domain: String,
    pub(super) root: PathBuf,
    pub(super) bundle: PathBuf,
    pub(super) policy: PathBuf,
    #[serde(default)]
    pub(super) revocations: Option<PathBuf>,
}

/// Nobody but who is on this machine.
const fn loopback() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ADMIN_PORT)
}

fn reauthorise() -> String {
    "reauthorise".to_owned()
}

fn both() -> String {
    "both".to_owned()
}

fn one_hour() -> String {
    "1h".to_owned()
}

fn one_minute() -> String {
    "60s".to_owned()
}

/// Where the admin listener is unless another address is given.
const ADMIN_PORT: u16 = 9465;
