//! `bulla policy apply` and `bulla policy rollback`: the next revision, in force.

use std::path::PathBuf;
use std::time::Duration;

use bulla_policy::Policy;
use serde_json::json;

use super::input::{load, read};
use super::lifecycle::{Change, Desk, LifecycleError, Revision, ask, confirm, publish};
use super::print::{GOOD, STRONG, WARN, print_json, say};
use super::{Failure, NO, YES};
use crate::cli::operator::OperatorArgs;

/// Put a policy in force: check, show what changes, ask, sign, publish, wait
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Put a policy in force.\n\n\
        Checks the policy, shows what changes for whom, and asks. Then signs it as the next\n\
        revision, publishes it, and waits until every enforcer runs it. Nothing is changed if\n\
        somebody else put another revision in force meanwhile: what was shown would not be what\n\
        happens.\n\n\
        Connections whose rights change are authorised anew: who loses any is ended at once and\n\
        comes back with what is left; who only gains comes back by itself when it is idle. The\n\
        others notice nothing.",
    after_help = "Examples:\n  \
        bulla policy apply shop.toml\n  \
        bulla policy apply shop.toml -m 'web may cancel orders' --dir .bulla\n  \
        bulla policy apply shop.toml --expect 7 --yes --json | jq .last_after_ms\n\n\
        Exit code: 0 in force (or it was already), 1 not applied, 2 an error."
)]
pub(crate) struct ApplyArgs {
    /// The policy: a file or a directory of files [default: policy.toml in --dir]
    #[arg(value_name = "FILE|DIR")]
    file: Option<PathBuf>,
    /// What it is for; it is signed with the policy, and every workload can read it
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    #[command(flatten)]
    apply: Common,
}

/// Put an earlier revision in force again, as a new one
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Put an earlier revision in force again.\n\n\
        Revisions only ever count up, so this is a new one with the old text, signed anew.\n\
        It shows and asks as `bulla policy apply` does.",
    after_help = "Examples:\n  \
        bulla policy history\n  \
        bulla policy rollback 6\n  \
        bulla policy rollback 6 -m 'orders could not be cancelled' --yes\n\n\
        Exit code: 0 in force, 1 not applied, 2 an error."
)]
pub(crate) struct RollbackArgs {
    /// The revision to go back to
    revision: u64,
    /// What it is for [default: which revision it brings back]
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    #[command(flatten)]
    apply: Common,
}

/// What both take.
#[derive(clap::Args, Debug)]
struct Common {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Refuse if another revision than this is in force
    #[arg(long, value_name = "REVISION")]
    expect: Option<u64>,
    /// How long to wait until every enforcer runs it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl ApplyArgs {
    pub(super) const fn json(&self) -> bool {
        self.apply.json
    }

    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let dir = &self.apply.operator.dir;
        let file = self.file.clone().unwrap_or_else(|| dir.join("policy.toml"));
        let policy = load(&file)?;
        let text = read(&file)?;
        let desk = Desk::open(&self.apply.operator).await?;
        let base = desk.in_force().await?;
        if base.signed.text == text {
            self.apply.say_nothing_to_do(&base);
            return Ok(YES);
        }
        let what = file.display().to_string();
        self.apply
            .go(&desk, &base, &policy, &text, &self.message, &what)
            .await
    }
}

impl RollbackArgs {
    pub(super) const fn json(&self) -> bool {
        self.apply.json
    }

    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.apply.operator).await?;
        let base = desk.in_force().await?;
        let wanted = desk.revision(self.revision).await?;
        // It may be of a version of bulla that took what this one refuses.
        let policy = wanted.policy()?;
        let text = &wanted.signed.text;
        if base.signed.text == *text {
            self.apply.say_nothing_to_do(&base);
            return Ok(YES);
        }
        let what = format!("revision {}", self.revision);
        let message = match &self.message {
            Some(message) => message.clone(),
            None => format!("back to revision {}", self.revision),
        };
        self.apply
            .go(&desk, &base, &policy, text, &message, &what)
            .await
    }
}

impl Common {
    fn say_nothing_to_do(&self, base: &Revision) {
        let revision = base.signed.revision;
        if self.json {
            print_json(&json!({ "ok": true, "applied": false, "revision": revision }));
        } else {
            say!(
                "{GOOD}nothing to do{GOOD:#}: revision {revision}, which is in force, says the same"
            );
        }
    }

    async fn go(
        &self,
        desk: &Desk<'_>,
        base: &Revision,
        policy: &Policy,
        text: &str,
        message: &str,
        what: &str,
    ) -> Result<u8, Failure> {
        let held = base.signed.revision;
        if let Some(expected) = self.expect
            && expected != held
        {
            return Ok(self.moved(expected, held));
        }
        let before = base.policy()?;
        let change = Change::between(&before, policy);
        if !self.json {
            say!("{STRONG}{what}{STRONG:#} in place of revision {held}:");
            change.print();
        }
        if !self.yes && !ask("Put it in force?")? {
            if self.json {
                print_json(&json!({ "ok": false, "applied": false, "reason": "declined" }));
            } else {
                say!("nothing was changed");
            }
            return Ok(NO);
        }
        let published = match publish(desk, base, policy, text, message).await {
            Ok(published) => published,
            Err(LifecycleError::Moved { expected, actual }) => {
                return Ok(self.moved(expected, actual));
            }
            Err(error) => return Err(error.into()),
        };
        let revision = published.revision;
        if !self.json {
            say!("{GOOD}published{GOOD:#} revision {revision}");
        }
        // What was on trial has passed.
        if let Some((_, candidate)) = desk.candidate().await?
            && candidate.0.text == text
        {
            let comment = format!("in force as revision {revision}");
            super::shadow::try_policy(desk, "", &comment).await?;
        }
        let confirmed = confirm(desk, &published, self.wait, self.json).await?;
        if self.json {
            let mut value = confirmed.json();
            if let Some(members) = value.as_object_mut() {
                members.insert("ok".to_owned(), true.into());
                members.insert("applied".to_owned(), true.into());
                members.insert("revision".to_owned(), revision.into());
                members.insert("replaces".to_owned(), held.into());
                members.insert("sha256".to_owned(), published.hash.into());
                members.insert("changes".to_owned(), change.json());
            }
            print_json(&value);
        } else {
            confirmed.print();
            self.note_other_start(text);
        }
        Ok(YES)
    }

    /// `bulla dev` begins with the policy of its directory, whatever was applied.
    fn note_other_start(&self, text: &str) {
        let dir = &self.operator.dir;
        let file = dir.join("policy.toml");
        let is_dev = dir.join("dev.json").exists();
        if is_dev && std::fs::read_to_string(&file).is_ok_and(|own| own != text) {
            say!(
                "{WARN}note{WARN:#}: the next start of `bulla dev` puts `{}` in force again, which says something else",
                file.display()
            );
        }
    }

    fn moved(&self, expected: u64, actual: u64) -> u8 {
        let error = LifecycleError::Moved { expected, actual };
        if self.json {
            print_json(&json!({
                "ok": false,
                "applied": false,
                "reason": "moved",
                "revision": actual,
                "error": error.to_string(),
            }));
        } else {
            super::print::complain(&format!(
                "{}not applied:{:#} {error}\n",
                super::print::BAD,
                super::print::BAD
            ));
        }
        NO
    }
}
