//! `bulla policy diff`: what one policy means that another does not.

use std::path::PathBuf;

use bulla_policy::{Policy, PolicyDiff};

use super::changes::{changes_json, print_changes};
use super::input::{load, now};
use super::lifecycle::Desk;
use super::print::{GOOD, print_json, say};
use super::{Failure, NO, YES};
use crate::cli::operator::OperatorArgs;

/// Show what changes in meaning from one policy to another
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Show what changes in meaning from one policy to another.\n\n\
        Not the text is compared but every decision: for each workload and verb, on which\n\
        subjects it gains or loses a right, and where the condition on the user is wider (>),\n\
        narrower (<) or another one (~). Each comes with the rules that differ and an example\n\
        message that both policies were asked about. Then what messages must be, streams and\n\
        attestation, and which workloads nats-server authorises anew.\n\n\
        The comparison is exact. Renamed rules, regrouped workloads, reordered tables and\n\
        patterns that say the same in another way are no difference.",
    after_help = "Examples:\n  \
        bulla policy diff shop.toml new.toml\n  \
        git show main:policy.toml > old.toml && bulla policy diff old.toml policy.toml\n  \
        bulla policy diff @current shop.toml        what `apply` would change\n  \
        bulla policy diff @6 @7 --dir .bulla        what revision 7 changed\n  \
        bulla policy diff shop.toml new.toml --json | jq '.rights[] | select(.change == \"gained\")'\n\n\
        Exit code: 0 they mean the same, 1 they differ, 2 one of them does not load."
)]
pub(crate) struct DiffArgs {
    /// The policy as it is: a file, a directory, or a revision of a running deployment: @N, @current
    #[arg(value_name = "OLD", value_hint = clap::ValueHint::AnyPath)]
    old: PathBuf,
    /// The policy as it would be: the same
    #[arg(value_name = "NEW", value_hint = clap::ValueHint::AnyPath)]
    new: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// One side of the comparison.
enum Side<'a> {
    Path(&'a PathBuf),
    Current,
    Revision(u64),
}

impl<'a> Side<'a> {
    fn of(path: &'a PathBuf) -> Self {
        // A file that is really called so is `./@7`.
        match path.to_str().and_then(|text| text.strip_prefix('@')) {
            Some("current") => Self::Current,
            Some(number) => match number.parse() {
                Ok(number) => Self::Revision(number),
                Err(_) => Self::Path(path),
            },
            None => Self::Path(path),
        }
    }

    async fn policy(&self, desk: Option<&Desk<'_>>) -> Result<Policy, Failure> {
        match (self, desk) {
            (Self::Path(path), _) => load(path),
            (Self::Current, Some(desk)) => Ok(desk.in_force().await?.policy()?),
            (Self::Revision(number), Some(desk)) => Ok(desk.revision(*number).await?.policy()?),
            // A connection is made before a revision is asked for.
            (Self::Current | Self::Revision(_), None) => Err(Failure::NoRevision),
        }
    }
}

impl DiffArgs {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let (old, new) = (Side::of(&self.old), Side::of(&self.new));
        let desk = match (&old, &new) {
            (Side::Path(_), Side::Path(_)) => None,
            _ => Some(Desk::open(&self.operator).await?),
        };
        let old = old.policy(desk.as_ref()).await?;
        let new = new.policy(desk.as_ref()).await?;
        Ok(self.print(&old, &new))
    }

    fn print(&self, old: &Policy, new: &Policy) -> u8 {
        let diff = PolicyDiff::between(old, new, now());
        if self.json {
            print_json(&changes_json(&diff));
        } else if diff.is_empty() {
            let text = if old.hash() == new.hash() {
                "the same text"
            } else {
                "another text, but no decision differs"
            };
            say!("{GOOD}same{GOOD:#}  {text}");
        } else {
            print_changes(&diff);
        }
        if diff.is_empty() { YES } else { NO }
    }
}
