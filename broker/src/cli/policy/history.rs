//! `bulla policy history` and `bulla policy show`: which policies were in force.

use bulla_identity::reserved;
use bulla_keyring::sha256;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::lifecycle::{Desk, LifecycleError, Revision};
use super::print::{GOOD, PLACE, STRONG, WARN, complain, print_json, say};
use super::{Failure, YES};
use crate::cli::operator::{OperatorArgs, shown};

/// List the policies that were in force
#[derive(clap::Args, Debug)]
#[command(
    long_about = "List the policies that were in force, the newest first: when each was signed, by whom,\n\
        and what for. The last 1,000 are kept, as far as they fit into 256 MiB.",
    after_help = "Examples:\n  \
        bulla policy history\n  \
        bulla policy history --limit 3 --json | jq '.revisions[].comment'"
)]
pub(crate) struct HistoryArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Print a policy that was in force, or the one that is
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
        bulla policy show\n  \
        bulla policy show 6 > before.toml\n  \
        bulla policy show 6 --json | jq -r .text")]
pub(crate) struct ShowArgs {
    /// The revision [default: the one in force]
    revision: Option<u64>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl HistoryArgs {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let in_force = desk.in_force().await?.signed.revision;
        let mut numbers = desk
            .operator
            .subjects(reserved::HISTORY_STREAM, reserved::HISTORY_ALL)
            .await
            .map_err(LifecycleError::from)?
            .iter()
            .filter_map(|subject| subject.rsplit('.').next()?.parse::<u64>().ok())
            .collect::<Vec<_>>();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let kept = numbers.len();
        numbers.truncate(self.limit);
        let mut revisions = Vec::new();
        for number in numbers {
            revisions.push(desk.revision(number).await?);
        }
        if self.json {
            let list: Vec<Value> = revisions
                .iter()
                .map(|revision| revision_json(&desk, revision, in_force))
                .collect();
            print_json(&json!({ "in_force": in_force, "kept": kept, "revisions": list }));
            return Ok(YES);
        }
        for revision in &revisions {
            say!("{}", line(&desk, revision, in_force));
        }
        if kept > revisions.len() {
            say!("… and {} earlier ones: --limit", kept - revisions.len());
        }
        Ok(YES)
    }
}

impl ShowArgs {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let held = desk.in_force().await?;
        let in_force = held.signed.revision;
        let revision = match self.revision {
            Some(number) if number != in_force => desk.revision(number).await?,
            _ => held,
        };
        if self.json {
            let mut value = revision_json(&desk, &revision, in_force);
            if let Some(members) = value.as_object_mut() {
                members.insert("text".to_owned(), revision.signed.text.into());
            }
            print_json(&value);
        } else {
            // Apart from the text, which is to be a file again.
            complain(&format!("{}\n", line(&desk, &revision, in_force)));
            use std::io::Write as _;
            let _ = std::io::stdout().write_all(revision.signed.text.as_bytes());
        }
        Ok(YES)
    }
}

fn line(desk: &Desk<'_>, revision: &Revision, in_force: u64) -> String {
    let signed = &revision.signed;
    let (mark, note) = match (signed.revision == in_force, desk.is_trusted(&revision.key)) {
        (true, _) => (format!("{GOOD}*{GOOD:#}"), ""),
        (false, true) => (" ".to_owned(), ""),
        (false, false) => (" ".to_owned(), ", by a key that was replaced"),
    };
    let comment: String = signed.comment.escape_debug().collect();
    let at = shown(signed.issued_at);
    let hash = short(&revision.record);
    let size = signed.text.len();
    let by: String = revision.signer().chars().take(14).collect();
    format!(
        "{mark} {STRONG}{:>5}{STRONG:#}  {at}  {PLACE}{hash}{PLACE:#}  {size:>7} B  {by}…{WARN}{note}{WARN:#}  {comment}",
        signed.revision
    )
}

fn short(record: &[u8]) -> String {
    let mut hash = HEXLOWER.encode(&sha256(&[record]));
    hash.truncate(12);
    hash
}

fn revision_json(desk: &Desk<'_>, revision: &Revision, in_force: u64) -> Value {
    let signed = &revision.signed;
    json!({
        "revision": signed.revision,
        "in_force": signed.revision == in_force,
        "issued_at": signed.issued_at.as_millis(),
        "signer": revision.signer(),
        "signer_is_trusted": desk.is_trusted(&revision.key),
        "comment": signed.comment,
        "bytes": signed.text.len(),
        "sha256": HEXLOWER.encode(&sha256(&[&revision.record])),
    })
}
