//! `bulla policy shadow`: a whole policy on trial.

use std::path::PathBuf;
use std::time::Duration;

use bulla_envelope::{MAX_COMMENT, PolicyCandidate, SignedPolicy};
use bulla_identity::reserved;
use bulla_keyring::Tag;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::input::{load, read};
use super::lifecycle::{Change, Desk, LifecycleError, ask, overview};
use super::print::{BAD, GOOD, STRONG, WARN, plural, print_json, say};
use super::{Failure, NO, YES};
use crate::cli::operator::OperatorArgs;
use crate::clock;

/// Put a policy on trial beside the one in force, or see how it fares
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Put a policy on trial beside the one in force, or see how it fares.\n\n\
        Every enforcer decides by both and enforces the one in force. Where they differ it counts\n\
        and logs what would have been: `would deny` what was allowed, `would allow` what was\n\
        denied. What a message must be (`protect`, `replay`, …) is not on trial, only who may.\n\n\
        To put it in force, apply it: that ends the trial. Without FILE the counts are shown.",
    after_help = "Examples:\n  \
        bulla policy shadow next.toml -m 'orders in teams'\n  \
        bulla policy shadow\n  \
        bulla policy shadow --json | jq .would_deny\n  \
        bulla policy apply next.toml\n  \
        bulla policy shadow --off\n\n\
        Exit code: 0 on trial, ended, or no difference so far; 1 not put on trial, or it would have\n\
        decided otherwise; 2 an error."
)]
pub(crate) struct ShadowArgs {
    /// The policy: a file or a directory of files
    #[arg(value_name = "FILE|DIR", conflicts_with = "off")]
    file: Option<PathBuf>,
    /// End the trial
    #[arg(long)]
    off: bool,
    /// What it is for; it is signed with the policy, and every workload can read it
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// How long to wait until every enforcer decides by it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl ShadowArgs {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let Some(file) = &self.file else {
            return if self.off {
                self.end(&desk).await
            } else {
                self.show(&desk).await
            };
        };
        let policy = load(file)?;
        let text = read(file)?;
        let base = desk.in_force().await?;
        if policy.trust_domain() != desk.domain() {
            return Err(LifecycleError::Domain {
                policy: policy.trust_domain().clone(),
                deployment: desk.domain().clone(),
            }
            .into());
        }
        let change = Change::between(&base.policy()?, &policy);
        if !self.json {
            let held = base.signed.revision;
            say!(
                "{STRONG}{}{STRONG:#} beside revision {held}; in its place it would:",
                file.display()
            );
            change.print();
        }
        if !self.yes && !ask("Put it on trial?")? {
            if self.json {
                print_json(&json!({ "ok": false, "on_trial": false, "reason": "declined" }));
            } else {
                say!("nothing was changed");
            }
            return Ok(NO);
        }
        let number = try_policy(&desk, &text, &self.message).await?;
        let (ready, others) = self.decided(&desk, number).await?;
        if self.json {
            print_json(&json!({
                "ok": true,
                "on_trial": true,
                "candidate": number,
                "enforcers": ready,
                "stale": others,
                "changes": change.json(),
            }));
        } else {
            say!("{GOOD}on trial{GOOD:#} as candidate {number}");
            report(ready, &others);
        }
        Ok(YES)
    }

    async fn end(&self, desk: &Desk<'_>) -> Result<u8, Failure> {
        let was_on = desk
            .candidate()
            .await?
            .is_some_and(|(_, held)| !held.is_off());
        if was_on {
            try_policy(desk, "", &self.message).await?;
            self.decided(desk, 0).await?;
        }
        if self.json {
            print_json(&json!({ "ok": true, "on_trial": false, "ended": was_on }));
        } else if was_on {
            say!("{GOOD}ended{GOOD:#}: no policy is on trial any more");
        } else {
            say!("no policy is on trial");
        }
        Ok(YES)
    }

    /// Waits until the enforcers decide by this candidate, and gives how many do
    /// and which do not.
    async fn decided(&self, desk: &Desk<'_>, number: u64) -> Result<(usize, Vec<String>), Failure> {
        let start = Instant::now();
        loop {
            let seen = overview(desk).await?;
            let (mut ready, mut others) = (0, Vec::new());
            for enforcer in &seen.enforcers {
                let held = enforcer.report.as_ref().map(|report| report.candidate);
                if held == Some(number) {
                    ready += 1;
                } else if enforcer.is_heard() {
                    others.push(enforcer.name());
                }
            }
            if others.is_empty() || start.elapsed() >= self.wait {
                return Ok((ready, others));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn show(&self, desk: &Desk<'_>) -> Result<u8, Failure> {
        let seen = overview(desk).await?;
        let number = seen.in_force.candidate;
        let held = desk.candidate().await?;
        let comment = held.map_or_else(String::new, |(_, held)| held.0.comment);
        let counted: Vec<_> = seen
            .enforcers
            .iter()
            .filter_map(|enforcer| {
                let report = enforcer.report.as_ref()?;
                let differs = report.would_deny + report.would_allow > 0;
                differs.then_some((enforcer.name(), report.would_deny, report.would_allow))
            })
            .collect();
        let deny: u64 = counted.iter().map(|(_, deny, _)| deny).sum();
        let allow: u64 = counted.iter().map(|(_, _, allow)| allow).sum();
        if self.json {
            let list: Vec<Value> = counted
                .iter()
                .map(|(name, deny, allow)| {
                    json!({ "enforcer": name, "would_deny": deny, "would_allow": allow })
                })
                .collect();
            print_json(&json!({
                "on_trial": number != 0,
                "candidate": number,
                "comment": comment,
                "would_deny": deny,
                "would_allow": allow,
                "enforcers": list,
            }));
        } else {
            match number {
                0 => say!("no policy is on trial"),
                number => {
                    let comment: String = comment.escape_debug().collect();
                    say!("{GOOD}candidate {number}{GOOD:#} is on trial  {comment}");
                }
            }
            for (name, deny, allow) in &counted {
                say!("  {STRONG}{name}{STRONG:#}  would deny {deny}, would allow {allow}");
            }
            if deny + allow == 0 {
                say!("  nothing would have been decided otherwise so far");
            } else {
                say!(
                    "  {BAD}{deny}{BAD:#} decisions would have been denied, {WARN}{allow}{WARN:#} allowed;\n  \
                     each is in the decision log with `would`, rules in shadow included"
                );
            }
        }
        Ok(if deny + allow == 0 { YES } else { NO })
    }
}

/// Signs the next candidate and publishes it; an empty text ends the trial.
pub(super) async fn try_policy(
    desk: &Desk<'_>,
    text: &str,
    comment: &str,
) -> Result<u64, LifecycleError> {
    if comment.len() > MAX_COMMENT {
        return Err(LifecycleError::Comment);
    }
    let signer = desk.args.policy_signer(&desk.operator.bundle)?;
    let key = *signer.public().verifying_key();
    loop {
        let (sequence, number) = match desk.candidate().await? {
            Some((sequence, held)) => (sequence, held.0.revision.saturating_add(1)),
            None => (0, 1),
        };
        let candidate = PolicyCandidate(SignedPolicy {
            trust_domain: desk.domain().clone(),
            revision: number,
            issued_at: clock::now(),
            comment: comment.to_owned(),
            text: text.to_owned(),
        });
        let signature = signer.sign(Tag::Candidate, &candidate.to_sign(&key))?;
        let bytes = candidate.signed(&key, &signature);
        let bytes = Bytes::from(bytes.map_err(LifecycleError::Sign)?);
        desk.fits(&bytes)?;
        let stream = &desk.operator.stream;
        // Somebody else may have been faster: then after his.
        if stream
            .replace(reserved::CTL_CANDIDATE, bytes, sequence)
            .await?
        {
            return Ok(number);
        }
    }
}

fn report(ready: usize, others: &[String]) {
    if others.is_empty() {
        say!("decided beside the policy at {}", plural(ready, "enforcer"));
    } else {
        say!(
            "{BAD}not everywhere{BAD:#}: at {}; not at {}",
            plural(ready, "enforcer"),
            others.join(", ")
        );
    }
}
