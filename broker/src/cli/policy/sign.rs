//! `bulla policy sign`: the next revision.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::input::read;
use super::print::{GOOD, hex, print_json, say};
use super::{Failure, YES};
use crate::trust_dir::TrustDir;

/// Sign a policy as the next revision
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Sign a policy as the next revision, with the policy key of the operator's directory\n\
        (see `bulla trust init`), or with the command that holds it.\n\n\
        Replace the file `trust.policy` of any one broker with the signed policy. The broker\n\
        takes it within ten seconds, or at once on SIGHUP, and from there it reaches everybody.",
    after_help = "Examples:\n  \
        bulla policy sign shop.toml\n  \
        bulla policy sign policy.d/\n  \
        bulla policy sign shop.toml --dir /media/vault/trust --json | jq .revision\n\n\
        Exit code: 0 signed, or signed already; 2 an error."
)]
pub(crate) struct SignArgs {
    /// The policy: a file, or a directory of `*.toml` files that make one
    #[arg(value_name = "FILE", env = "BULLA_POLICY")]
    file: PathBuf,
    /// The operator's directory
    #[arg(
        long,
        value_name = "DIR",
        env = "BULLA_TRUST_DIR",
        default_value = "trust"
    )]
    dir: PathBuf,
    /// How long a signing command may take
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    sign_limit: Duration,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn sign(args: &SignArgs) -> Result<u8, Failure> {
    let text = read(&args.file)?;
    let dir = TrustDir::open(&args.dir, args.sign_limit)?;
    let name = args.file.display().to_string();
    let (policy, revision) = dir.sign_policy(&name, &text, crate::clock::now())?;
    let signed = dir.path("policy").display().to_string();
    if args.json {
        print_json(&json!({
            "ok": true,
            "revision": revision,
            "trust_domain": policy.trust_domain().as_str(),
            "hash": hex(&policy.hash()),
            "policy": signed,
        }));
    } else {
        say!("{GOOD}signed{GOOD:#} revision {revision}: {signed}\nGive it to any one broker.");
    }
    Ok(YES)
}
