//! `bulla audit verify`: is the log what its writers wrote?

use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bulla_audit::{Finding, Report, Verifier};
use serde_json::{Value, json};

use super::show::{BAD, BOLD, DIM, GOOD, WARN, visible};
use super::source::SourceError;
use super::{Failure, NO, Place, Source, YES, print};
use crate::cli::operator::shown;
use crate::clock;

/// Arguments of `bulla audit verify`.
#[derive(clap::Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Heads that were exported earlier and kept elsewhere; may be given again
    #[arg(long, value_name = "FILE")]
    head: Vec<PathBuf>,
    /// Entries that say that something was left out are no findings
    #[arg(long)]
    allow_gaps: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    place: Place,
}

/// Looks at every line.
pub(super) async fn verify(args: VerifyArgs) -> Result<u8, Failure> {
    let mut source = Source::open(&args.place, None).await?;
    let mut verifier = Verifier::new(source.trust());
    if let Some(kept) = source.kept {
        verifier.kept_since(clock::now().saturating_sub(kept));
    }
    for path in &args.head {
        expect(&mut verifier, path)?;
    }
    source
        .each(|line| {
            verifier.entry(line.text.as_bytes(), line.writer);
            ControlFlow::Continue(())
        })
        .await?;
    let report = verifier.finish(source.complete);
    let findings: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| finding.fault.is_tampering() || !args.allow_gaps)
        .collect();
    let is_whole = findings.is_empty();
    if args.json {
        print(&as_json(&report, &findings).to_string());
    } else {
        show(&report, &findings, source.complete);
    }
    Ok(if is_whole { YES } else { NO })
}

/// Takes the lines of a file of heads.
fn expect(verifier: &mut Verifier, path: &Path) -> Result<(), Failure> {
    let read = |source| SourceError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read)?;
    let mut heads = 0;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(read)?;
        // What an export carries beside its lines.
        if !line.starts_with("{\"v\":") {
            continue;
        }
        let taken = verifier.expect(line.as_bytes());
        taken.map_err(|error| Failure::Head {
            path: path.to_owned(),
            text: crate::cli::chain(&error),
        })?;
        heads += 1;
    }
    if heads == 0 {
        return Err(Failure::Head {
            path: path.to_owned(),
            text: "there is none in it".to_owned(),
        });
    }
    Ok(())
}

fn as_json(report: &Report, findings: &[&Finding]) -> Value {
    let writers: Vec<Value> = report
        .writers
        .iter()
        .map(|writer| {
            json!({
                "writer": writer.writer.as_str(),
                "workload": writer.workload,
                "first": writer.first,
                "last": writer.last,
                "head": writer.head,
                "until": shown(writer.until),
                "duplicates": writer.duplicates,
                "stopped": writer.stopped,
                "left_out": writer.gap,
            })
        })
        .collect();
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "code": finding.fault.code(),
                "writer": finding.writer.as_ref().map(ToString::to_string),
                "seq": finding.seq,
                "message": message(finding),
            })
        })
        .collect();
    json!({
        "ok": findings.is_empty(),
        "entries": report.entries,
        "keys_proven": report.keys_proven,
        "writers": writers,
        "findings": findings,
    })
}

fn message(finding: &Finding) -> String {
    visible(&crate::cli::chain(&finding.fault))
}

fn show(report: &Report, findings: &[&Finding], complete: bool) {
    print(&format!(
        "{} entries in {} chains",
        report.entries,
        report.writers.len()
    ));
    let width = report
        .writers
        .iter()
        .map(|writer| writer.workload.as_deref().unwrap_or_default().len())
        .max()
        .unwrap_or_default()
        .max("broker".len());
    for writer in &report.writers {
        let name = match writer.workload.as_deref() {
            None => "?",
            Some("") => "broker",
            Some(name) => name,
        };
        let head = match writer.head {
            Some(head) if head == writer.last => format!("{GOOD}signed{GOOD:#}"),
            Some(head) => format!("{GOOD}signed{GOOD:#} to {head}"),
            None => format!("{WARN}not signed yet{WARN:#}"),
        };
        let instance = writer
            .writer
            .as_str()
            .rsplit('.')
            .next()
            .unwrap_or_default();
        let instance = instance.get(..8).unwrap_or(instance);
        let end = if writer.stopped { ", ended" } else { "" };
        print(&format!(
            "  {BOLD}{:<width$}{BOLD:#} {DIM}{instance}{DIM:#}  {:>7} to {:<7} {head}{end}  {DIM}{}{DIM:#}",
            visible(name),
            writer.first,
            writer.last,
            shown(writer.until),
        ));
    }
    if !complete {
        print(&format!(
            "{DIM}what is older than the log keeps has aged out: nothing is said about it{DIM:#}"
        ));
    }
    if !report.keys_proven {
        print(&format!(
            "{WARN}no trust root was given: whose keys signed the heads is not proven; name it with --trust-root-file{WARN:#}"
        ));
    }
    for finding in findings {
        let place = match &finding.writer {
            Some(writer) if finding.seq > 0 => format!("{writer} entry {}", finding.seq),
            Some(writer) => writer.to_string(),
            None => "?".to_owned(),
        };
        print(&format!(
            "{BAD}{}{BAD:#}  {}\n  {DIM}{place}{DIM:#}",
            finding.fault.code(),
            message(finding)
        ));
    }
    match findings.len() {
        0 => print(&format!("{GOOD}whole{GOOD:#}")),
        1 => print(&format!("{BAD}1 finding{BAD:#}")),
        n => print(&format!("{BAD}{n} findings{BAD:#}")),
    }
}
