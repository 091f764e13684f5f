//! `bulla dev token`: an access token of the development issuer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::DEFAULT_DIR;
use super::files::Instance;
use super::issuer::{self, AUDIENCE, Grant, IssuerError, IssuerKey};
use super::ports::Ports;
use crate::clock;

/// Options of `bulla dev token`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// The user that the token is for.
    #[arg(long, value_name = "NAME")]
    pub(crate) sub: String,

    /// A scope of the token; may be given several times.
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Vec<String>,

    /// Another claim, its value as JSON or plain text; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    pub(crate) claim: Vec<(String, Value)>,

    /// How long the token is good for.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,

    /// The API that the token is for.
    #[arg(long, value_name = "AUDIENCE", default_value = AUDIENCE)]
    pub(crate) aud: String,

    /// The directory of `bulla dev`.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| "expected `name=value`".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// Signs a token with the key in the directory.
pub(crate) fn token(args: &TokenArgs) -> Result<String, TokenError> {
    let key_file = args.dir.join("keys/token-issuer.key");
    let issuer = issuer_url(&args.dir)
        .filter(|_| key_file.exists())
        .ok_or_else(|| TokenError::NoInstance {
            dir: args.dir.clone(),
        })?;
    let key = IssuerKey::read(&key_file)?;
    let grant = Grant {
        issuer,
        audience: args.aud.clone(),
        subject: args.sub.clone(),
        scopes: args.scope.clone(),
        claims: Map::from_iter(args.claim.iter().cloned()),
        ttl: args.ttl,
    };
    Ok(key.sign(&grant, clock::now())?)
}

/// The issuer that runs there, or that ran there last.
fn issuer_url(dir: &Path) -> Option<String> {
    if let Some(instance) = Instance::read(dir) {
        return Some(instance.issuer_url);
    }
    let ports: Ports = serde_json::from_slice(&std::fs::read(dir.join("ports.json")).ok()?).ok()?;
    Some(issuer::url(ports.issuer))
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Nothing there.
    #[error("no `bulla dev` has run in `{}`: start it, or name its directory with `--dir`", dir.display())]
    NoInstance {
        /// The directory.
        dir: PathBuf,
    },
    /// The key.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}
