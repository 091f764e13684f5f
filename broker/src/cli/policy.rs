//! `bulla policy …`: the operator's tools, on the engine that production uses.
//!
//! One file a command; what they read and print alike is in `input.rs` and `print.rs`.

mod advise;
mod answer;
mod apply;
mod asking;
mod can_i;
mod changes;
mod check;
mod diff;
mod explain;
mod fmt;
mod graph;
mod history;
mod import;
mod input;
mod junit;
mod lifecycle;
mod permissions;
mod print;
mod replay;
mod schema;
mod shadow;
mod shared;
mod sign;
mod status;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bulla_identity::{IdentityError, PatternError, WorkloadId};
use bulla_policy::{MAX_POLICY_BYTES, PolicyErrors, Verb};
use serde_json::json;

use crate::trust_dir::TrustDirError;
pub(super) use lifecycle::LifecycleError;
use print::{BAD, complain, errors_json, print_json, render};
pub(super) use shared::{PolicyInputError, Process, Running, load_policy, write_policy_file};

/// The answer is yes, or nothing is wrong.
const YES: u8 = 0;
/// The answer is no.
const NO: u8 = 1;
/// There is no answer.
const ERROR: u8 = 2;

/// `bulla policy …`; each command's help stands with its arguments.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum PolicyCommand {
    Check(check::CheckArgs),
    #[command(name = "can-i")]
    CanI(can_i::CanIArgs),
    Permissions(permissions::PermissionsArgs),
    Explain(explain::ExplainArgs),
    Test(test::TestArgs),
    Diff(diff::DiffArgs),
    Sign(sign::SignArgs),
    Fmt(fmt::FmtArgs),
    Apply(apply::ApplyArgs),
    Rollback(apply::RollbackArgs),
    History(history::HistoryArgs),
    Show(history::ShowArgs),
    Shadow(shadow::ShadowArgs),
    Status(status::StatusArgs),
    Watch(status::WatchArgs),
    Graph(graph::GraphArgs),
    Import(import::ImportArgs),
    Schema(schema::SchemaArgs),
    Replay(replay::ReplayArgs),
    Advise(advise::AdviseArgs),
}

/// Runs one command; what it finds is printed.
pub(crate) fn run(command: &PolicyCommand) -> ExitCode {
    let (json, outcome) = match command {
        PolicyCommand::Check(args) => (args.json, check::check(args)),
        PolicyCommand::CanI(args) => (args.json, can_i::can_i(args)),
        PolicyCommand::Permissions(args) => (args.json, permissions::permissions(args)),
        PolicyCommand::Explain(args) => (args.json, explain::explain(args)),
        PolicyCommand::Test(args) => (args.json, test::test(args)),
        PolicyCommand::Diff(args) => (args.json, speak(args.run())),
        PolicyCommand::Sign(args) => (args.json, sign::sign(args)),
        PolicyCommand::Fmt(args) => (args.json, fmt::fmt(args)),
        PolicyCommand::Apply(args) => (args.json(), speak(args.run())),
        PolicyCommand::Rollback(args) => (args.json(), speak(args.run())),
        PolicyCommand::History(args) => (args.json, speak(args.run())),
        PolicyCommand::Show(args) => (args.json, speak(args.run())),
        PolicyCommand::Shadow(args) => (args.json, speak(args.run())),
        PolicyCommand::Status(args) => (args.json, speak(args.run())),
        PolicyCommand::Watch(args) => (args.json, speak(args.run())),
        PolicyCommand::Graph(args) => (args.json, graph::graph(args)),
        PolicyCommand::Import(args) => (args.json, import::import(args)),
        PolicyCommand::Schema(_) => (true, schema::schema()),
        PolicyCommand::Replay(args) => (args.json, replay::replay(args)),
        PolicyCommand::Advise(args) => (args.json, advise::advise(args)),
    };
    let code = outcome.unwrap_or_else(|failure| {
        match failure {
            Failure::Policy(errors) if json => print_json(&errors_json(&errors)),
            Failure::Policy(errors) => complain(&render(&errors)),
            Failure::Sign(TrustDirError::Policy(errors)) if json => {
                print_json(&errors_json(&errors));
            }
            Failure::Sign(TrustDirError::Policy(errors)) => complain(&render(&errors)),
            other => {
                let text = match &other {
                    Failure::Sign(error) => super::chain(error),
                    Failure::Lifecycle(error) => super::chain(error),
                    other => other.to_string(),
                };
                if json {
                    print_json(&json!({ "ok": false, "error": text }));
                } else {
                    complain(&format!("{BAD}error:{BAD:#} {text}\n"));
                }
            }
        }
        ERROR
    });
    ExitCode::from(code)
}

/// Runs a command that speaks to a deployment.
fn speak(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let outcome = runtime.block_on(command);
    // What still blocks a thread, a lookup for instance, must not hold us up.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{path}: the policy does not load", path = .0.file())]
    Policy(PolicyErrors),
    #[error("cannot read the policy `{}`: {source}; name a file, or set BULLA_POLICY", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the policy `{}` is longer than {MAX_POLICY_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("the directory `{}` holds no policy: its files end in `.toml`", .0.display())]
    EmptyDirectory(PathBuf),
    #[error("the policy `{}` is not UTF-8 text (byte {at})", path.display())]
    NotText { path: PathBuf, at: usize },
    #[error("cannot read standard input: {0}")]
    Input(std::io::Error),
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}:{line}: {source}", path.display())]
    Format {
        path: PathBuf,
        line: usize,
        source: bulla_policy_tools::FormatError,
    },
    #[error("{}: {source}", path.display())]
    Import {
        path: PathBuf,
        source: bulla_policy_tools::ImportError,
    },
    #[error("a revision is asked for without a connection to a deployment")]
    NoRevision,
    #[error("cannot read the claims `{}`: {source}", path.display())]
    ReadClaims {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the claims `{}` are not a JSON object such as {{ \"sub\": \"alice\", \"scope\": \"orders:write\" }}",
        .0.display()
    )]
    Claims(PathBuf),
    #[error(transparent)]
    Sign(#[from] TrustDirError),
    #[error(transparent)]
    Lifecycle(#[from] lifecycle::LifecycleError),
    #[error("cannot start")]
    Runtime(std::io::Error),
    #[error("{}", super::chain(.0))]
    Audit(#[source] super::audit::Failure),
    #[error("the control stream holds no policy that loads: name one with --policy")]
    NoPolicy,
    #[error("`{name}` is no workload: {source}")]
    Workload { name: String, source: IdentityError },
    #[error("`{subject}` is no subject: {source}")]
    Subject {
        subject: String,
        source: PatternError,
    },
    #[error(
        "`{subject}` is a pattern, and a message to {verb} has a literal subject: replace its wildcards and captures"
    )]
    NotLiteral { subject: String, verb: Verb },
    #[error("the policy `{}` names no workload `{workload}`; it has {known}", path.display())]
    Unlisted {
        path: PathBuf,
        workload: WorkloadId,
        known: String,
    },
}
