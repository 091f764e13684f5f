//! `bulla audit …`: what was decided and done, and whether the record of it is whole.
//!
//! Every command reads the stream, or a file that `bulla audit export` wrote. Lines
//! are taken as they were written: what is printed as JSON is what was hashed.

mod explain;
mod export;
mod filter;
mod show;
mod source;
mod verify;

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use bulla_audit::Entry;
use bulla_identity::UnixMillis;
use serde_json::json;

use super::operator::{OperatorArgs, OperatorError};
use super::{BAD, chain, on_runtime};
use crate::operator_client::OperatorClientError;
use filter::Filter;
pub(super) use source::{Line, Source, SourceError};

/// Gives every entry since a time to `take`, in the order of the stream, for commands
/// that only read.
pub(super) fn each_entry(
    place: &Place,
    since: Option<UnixMillis>,
    mut take: impl FnMut(Entry),
) -> Result<Source, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let mut source = Source::open(place, since).await?;
        source
            .each(|line| {
                let entry = Entry::decode(line.text.as_bytes()).ok();
                // What lies under another's subject is nobody's word.
                let entry = entry.filter(|e| line.writer.is_none_or(|w| *w == e.writer));
                if let Some(entry) = entry.filter(|e| since.is_none_or(|since| e.at >= since)) {
                    take(entry);
                }
                ControlFlow::Continue(())
            })
            .await?;
        Ok(source)
    })
}

/// `bulla audit …`
#[derive(clap::Subcommand, Debug)]
pub(crate) enum AuditCommand {
    /// Print entries as they are written
    #[command(after_help = "Examples:\n  \
            bulla audit tail\n  \
            bulla audit tail --decision deny --workload orders\n  \
            bulla audit tail --subject 'orders.>' --since 10m --json | jq .event.decision.reason\n\n\
            Ctrl-C ends it. Exit code: 0 done, 2 an error.")]
    Tail(TailArgs),
    /// Print the entries that match
    #[command(after_help = "Examples:\n  \
            bulla audit query --since 1h --decision deny\n  \
            bulla audit query --workload orders --rule orders-tell --limit 20\n  \
            bulla audit query --user alice --json\n  \
            bulla audit query --event gap --event connection_ended\n  \
            bulla audit query --file march.jsonl --until 2026-03-02T00:00:00Z\n\n\
            Of what is allowed the log holds samples; refusals, connections and changes are all\n\
            there, or counted in an entry `gap`.\n\n\
            Exit code: 0 something matches, 1 nothing does, 2 an error.")]
    Query(QueryArgs),
    /// Say why something was decided, by the id that the caller's error carries
    #[command(after_help = "Examples:\n  \
            bulla audit explain 3f1c0a9be51f4c6d8b2a7f00c1d2e3f4\n  \
            bulla audit explain 3f1c0a9b --json\n\n\
            The first eight digits are enough. Exit code: 0 found, 1 not found, 2 an error.")]
    Explain(explain::ExplainArgs),
    /// Prove that nothing was removed, altered, moved or cut off
    #[command(
        long_about = "Prove that nothing was removed, altered, moved or cut off.\n\n\
            Every process chains its entries by their hashes and signs every few seconds how far\n\
            its chain goes, with its message key; brokers sign with their issuing key. Those keys\n\
            are traced to the pinned trust root. What an operator, or whoever runs nats-server,\n\
            changes afterwards is found. That the end of a chain was cut off shows only by a head\n\
            that was kept elsewhere: --head.",
        after_help = "Examples:\n  \
            bulla audit verify\n  \
            bulla audit verify --head heads-of-monday.jsonl\n  \
            bulla audit verify --file march.jsonl --trust-root-file root.pub\n\n\
            A gap, where a process said that it could not keep up, is a finding unless --allow-gaps.\n\n\
            Exit code: 0 whole, 1 findings, 2 an error."
    )]
    Verify(verify::VerifyArgs),
    /// Print the log as lines, to be kept and verified elsewhere
    #[command(after_help = "Examples:\n  \
            bulla audit export > march.jsonl\n  \
            bulla audit export --since 24h > yesterday.jsonl\n  \
            bulla audit export --heads > heads-of-monday.jsonl\n\n\
            With --heads only the newest signed head of each chain: a few hundred bytes for each\n\
            process, and enough to find out later that something before it is missing.\n\n\
            Exit code: 0 done, 2 an error.")]
    Export(export::ExportArgs),
}

/// Where the log is.
#[derive(clap::Args, Debug)]
pub(crate) struct Place {
    /// A file that `bulla audit export` wrote, instead of the stream
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) operator: OperatorArgs,
}

/// Arguments of `bulla audit tail`.
#[derive(clap::Args, Debug)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    filter: Filter,
    /// Ends after so many entries
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Print the lines as they were written
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Arguments of `bulla audit query`.
#[derive(clap::Args, Debug)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    filter: Filter,
    /// At most so many entries, the oldest first
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Print the lines as they were written
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Runs one command; what it finds is printed.
pub(crate) fn run(command: AuditCommand) -> ExitCode {
    let json = command.is_json();
    let mut code = YES;
    let outcome = on_runtime(async {
        code = match command {
            AuditCommand::Tail(args) => tail(args).await?,
            AuditCommand::Query(args) => query(args).await?,
            AuditCommand::Explain(args) => explain::explain(args).await?,
            AuditCommand::Verify(args) => verify::verify(args).await?,
            AuditCommand::Export(args) => export::export(args).await?,
        };
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            let text = chain(error.as_ref());
            if json {
                print(&json!({ "ok": false, "error": text }).to_string());
            } else {
                let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
            }
            ExitCode::from(ERROR)
        }
    }
}

impl AuditCommand {
    const fn is_json(&self) -> bool {
        match self {
            Self::Tail(args) => args.json,
            Self::Query(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Export(_) => false,
        }
    }
}

async fn tail(args: TailArgs) -> Result<u8, Failure> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut source = Source::live(&args.operator, args.filter.since).await?;
    let domain = source.domain().clone();
    let reading = source.each(|line| {
        let Some(entry) = matching(&args.filter, &domain, line) else {
            return ControlFlow::Continue(());
        };
        show::line(&entry, line, args.json);
        left = left.saturating_sub(1);
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    tokio::select! {
        outcome = reading => outcome?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(YES)
}

async fn query(args: QueryArgs) -> Result<u8, Failure> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut found = false;
    if left == 0 {
        return Ok(NO);
    }
    let mut source = Source::open(&args.place, args.filter.since).await?;
    let domain = source.domain().clone();
    source
        .each(|line| {
            if let Some(entry) = matching(&args.filter, &domain, line) {
                found = true;
                show::line(&entry, line, args.json);
                left = left.saturating_sub(1);
            }
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .await?;
    Ok(if found { YES } else { NO })
}

/// The entry of a line, if it is one and the filter lets it through.
fn matching(
    filter: &Filter,
    domain: &bulla_identity::TrustDomain,
    line: &Line<'_>,
) -> Option<Entry> {
    let entry = Entry::decode(line.text.as_bytes()).ok()?;
    filter.lets_through(&entry, domain).then_some(entry)
}

/// Prints a line; a reader that went away needs no answer.
pub(super) fn print(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Client(#[from] OperatorClientError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    #[error("`{}` holds a line that is no head: {text}", path.display())]
    Head { path: PathBuf, text: String },
}

/// Done, or yes.
const YES: u8 = 0;
/// The answer is no, or something was found.
const NO: u8 = 1;
/// There is no answer.
const ERROR: u8 = 2;
