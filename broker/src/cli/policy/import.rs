//! `bulla policy import`: from nats-server's own permissions.

use std::io::Write as _;
use std::path::PathBuf;

use bulla_identity::TrustDomain;
use bulla_policy_tools::{ImportOptions, Imported, LeftOut, import as import_text};
use clap::ValueHint;
use serde_json::{Value, json};

use super::input::{read_file, read_input};
use super::print::{GOOD, STRONG, WARN, complain, plural, print_json, say, write_file};
use super::{Failure, YES};

/// Make a policy of nats-server's users and permissions
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Make a policy of the users and permissions in a configuration of nats-server.\n\n\
        What the policy allows the source allowed. Whatever cannot be said exactly is left out\n\
        and named, with the line that says it and why; the same list stands above the policy.\n\
        Each user becomes a workload: an nkey is taken over, for a password stands a\n\
        placeholder that nobody can prove. A grant that starts with a wildcard is spelt out for\n\
        the first tokens that the source names, and for those of --root.",
    after_help = "Examples:\n  \
        bulla policy import nats.conf --domain acme.example -o policy.toml\n  \
        bulla policy import nats.conf --domain acme.example --account SHOP\n  \
        bulla policy import nats.conf --domain acme.example --root orders --root billing\n  \
        bulla policy import nats.conf --domain acme.example --json | jq '.left_out[].why'\n\n\
        Exit code: 0 imported, 2 nothing could be."
)]
pub(crate) struct ImportArgs {
    /// nats-server's configuration; `-` reads standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// The trust domain of the policy
    #[arg(long, value_name = "NAME", value_parser = domain)]
    domain: TrustDomain,
    /// The account, where several have users: each is a world of its own
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// A first token that a leading wildcard stands for
    #[arg(long, value_name = "TOKEN")]
    root: Vec<String>,
    /// Write the policy to this file instead of printing it
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

fn domain(name: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(name).map_err(|e| e.to_string())
}

pub(super) fn import(args: &ImportArgs) -> Result<u8, Failure> {
    let source = match args.file.as_os_str() == "-" {
        true => read_input()?,
        false => read_file(&args.file)?,
    };
    let options = ImportOptions {
        trust_domain: args.domain.clone(),
        account: args.account.clone(),
        roots: args.root.clone(),
    };
    let imported = import_text(&source, &options).map_err(|source| Failure::Import {
        path: args.file.clone(),
        source,
    })?;
    if let Some(path) = &args.output {
        write_file(path, &imported.policy)?;
    }
    if args.json {
        print_json(&as_json(&imported));
        return Ok(YES);
    }
    if args.output.is_none() {
        // A reader that went away needs no answer.
        let _ = std::io::stdout().write_all(imported.policy.as_bytes());
    }
    for one in &imported.left_out {
        complain(&told(args, one));
    }
    if let Some(path) = &args.output {
        say!(
            "{GOOD}imported{GOOD:#}  {}: {}, {} not carried over as it stood",
            path.display(),
            plural(imported.workloads.len(), "workload"),
            imported.left_out.iter().filter(|one| one.is_lost()).count()
        );
        say!(
            "Next: put the workloads' keys in, then `bulla policy check {}`",
            path.display()
        );
    }
    Ok(YES)
}

fn told(args: &ImportArgs, one: &LeftOut) -> String {
    let (style, word) = match one.is_lost() {
        true => (WARN, "left out"),
        false => (GOOD, "note"),
    };
    let who = one
        .user()
        .map(|user| format!(", user {}", harmless(user)))
        .unwrap_or_default();
    format!(
        "{style}{word}{style:#} {}:{}{who}: {STRONG}{}{STRONG:#}\n  {}\n",
        args.file.display(),
        one.line(),
        one.what(),
        harmless(&one.why().to_string())
    )
}

/// Words of the source as they can go to a terminal.
fn harmless(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

fn as_json(imported: &Imported) -> Value {
    let left_out = |one: &LeftOut| {
        json!({
            "line": one.line(),
            "user": one.user(),
            "what": one.what(),
            "code": one.why().code(),
            "why": one.why().to_string(),
            "lost": one.is_lost(),
        })
    };
    let left_out: Vec<Value> = imported.left_out.iter().map(left_out).collect();
    let workloads: Vec<Value> = imported
        .workloads
        .iter()
        .map(|(name, user, nkey)| {
            json!({
                "workload": name.as_str(),
                "user": user,
                "nkey": nkey.map(|nkey| nkey.to_string()),
            })
        })
        .collect();
    json!({
        "ok": true,
        "policy": imported.policy,
        "workloads": workloads,
        "left_out": left_out,
    })
}
