//! `bulla policy check`: everything that is wrong with a policy.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::input::load;
use super::print::{
    GOOD, PLACE, STRONG, WARN, complain, hex, place, plural, print_json, say, warning_json,
};
use super::{Failure, YES};

/// Check a policy and report every error at once
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Check a policy and report every error at once, each with its place and a remedy.\n\n\
        Everything that a broker would refuse is found here: unknown keys, conditions that\n\
        cannot be evaluated, promises that this version does not keep, and rules that\n\
        nats-server could not enforce side by side.",
    after_help = "Examples:\n  \
        bulla policy check shop.toml\n  \
        bulla policy check policy.d/\n  \
        bulla policy check shop.toml --json | jq '.errors[].message'\n\n\
        Exit code: 0 the policy loads, 2 it does not."
)]
pub(crate) struct CheckArgs {
    /// The policy: a file, or a directory of `*.toml` files that make one
    #[arg(
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml"
    )]
    file: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let policy = load(&args.file)?;
    let file = args.file.display().to_string();
    let rules = policy.rule_ids().len();
    let workloads = policy.workloads().len();
    if args.json {
        let warnings: Vec<Value> = policy.warnings().iter().map(warning_json).collect();
        print_json(&json!({
            "ok": true,
            "file": file,
            "trust_domain": policy.trust_domain().as_str(),
            "workloads": workloads,
            "rules": rules,
            "hash": hex(&policy.hash()),
            "errors": [],
            "warnings": warnings,
        }));
    } else {
        for warning in policy.warnings() {
            complain(&format!(
                "{WARN}warning{WARN:#}{STRONG}: {}{STRONG:#}\n  {PLACE}-->{PLACE:#} {}:{}\n   {PLACE}={PLACE:#} {}\n\n",
                warning.message(),
                place(&file, warning.place().file()),
                warning.line(),
                warning.remedy(),
            ));
        }
        say!(
            "{GOOD}ok{GOOD:#}  {file}: {}, {}, trust domain {}",
            plural(workloads, "workload"),
            plural(rules, "rule"),
            policy.trust_domain()
        );
    }
    Ok(YES)
}
