//! `bulla audit export`: the lines themselves.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;

use bulla_audit::{Entry, Event, Writer};
use bulla_identity::UnixMillis;

use super::source::Note;
use super::{Failure, Place, Source, YES};
use crate::cli::operator::time;

/// Arguments of `bulla audit export`.
#[derive(clap::Args, Debug)]
pub(crate) struct ExportArgs {
    /// Only the newest signed head of each chain, with its key
    #[arg(long)]
    heads: bool,
    /// What was stored since then: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<UnixMillis>,
    #[command(flatten)]
    place: Place,
}

/// Prints the log, or its heads.
pub(super) async fn export(args: ExportArgs) -> Result<u8, Failure> {
    let mut source = Source::open(&args.place, args.since).await?;
    let mut out = std::io::stdout().lock();
    for note in source.notes() {
        // A whole log needs no more of the policy than the nkeys; heads do not either.
        let text = serde_json::to_string(&note).unwrap_or_default();
        let _ = writeln!(out, "{text}");
    }
    // Last key and last head of each writer.
    let mut heads: BTreeMap<Writer, (String, String)> = BTreeMap::new();
    let only_heads = args.heads;
    source
        .each(|line| {
            let entry = Entry::decode(line.text.as_bytes());
            let is_own = entry
                .as_ref()
                .is_ok_and(|entry| line.writer.is_none_or(|writer| *writer == entry.writer));
            let wrote = match (entry, only_heads) {
                (Ok(entry), true) if is_own => {
                    match entry.event {
                        Event::Key(_) => {
                            heads.entry(entry.writer).or_default().0 = line.text.to_owned();
                        }
                        Event::Head(_) => {
                            heads.entry(entry.writer).or_default().1 = line.text.to_owned();
                        }
                        _ => {}
                    }
                    Ok(())
                }
                (_, true) => Ok(()),
                (Ok(_), false) if is_own => writeln!(out, "{}", line.text),
                (_, false) => {
                    let writer = line.writer.map(ToString::to_string).unwrap_or_default();
                    let foreign = Note::Foreign {
                        writer,
                        line: line.text.to_owned(),
                    };
                    let text = serde_json::to_string(&foreign).unwrap_or_default();
                    writeln!(out, "{text}")
                }
            };
            match wrote {
                Ok(()) => ControlFlow::Continue(()),
                // Whoever read it has gone.
                Err(_) => ControlFlow::Break(()),
            }
        })
        .await?;
    for (key, head) in heads.values().filter(|(_, head)| !head.is_empty()) {
        if !key.is_empty() {
            let _ = writeln!(out, "{key}");
        }
        let _ = writeln!(out, "{head}");
    }
    Ok(YES)
}
