//! `bulla policy status` and `bulla policy watch`: who runs what.

use std::collections::HashMap;
use std::time::Duration;

use bulla_identity::reserved;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::lifecycle::{Desk, Enforcer, Fitness, LifecycleError, Overview, overview};
use super::print::{BAD, GOOD, PLACE, STRONG, WARN, plural, print_json, say};
use super::{Failure, NO, YES};
use crate::cli::operator::{OperatorArgs, shown};
use crate::clock;

/// Show which enforcer runs which revision
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Show which policy, trust bundle, revocation list and policy on trial every enforcer runs:\n\
        brokers, gateways and services.\n\n\
        Each says so itself: at its start, when it changes, and every half a minute. One that lies\n\
        lies about itself alone. `silent` has said nothing for 75 s and is forgotten after ten\n\
        minutes; one that ends in good order says so and is not listed any more.",
    after_help = "Examples:\n  \
        bulla policy status\n  \
        bulla policy status --json | jq '.enforcers[] | select(.state != \"current\")'\n\n\
        Exit code: 0 all of them run what is in force, 1 some do not, 2 an error."
)]
pub(crate) struct StatusArgs {
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Follow revisions and enforcers as they change
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Follow revisions and enforcers as they change, one line each, until Ctrl-C.",
    after_help = "Examples:\n  \
        bulla policy watch\n  \
        bulla policy watch --for 1m --json | jq -c 'select(.event == \"enforcer\")'"
)]
pub(crate) struct WatchArgs {
    /// End after so long
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    limit: Option<Duration>,
    /// Print one JSON object a line instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl StatusArgs {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let seen = overview(&desk).await?;
        let stale = seen.enforcers.iter().filter(|e| !e.is_current()).count();
        if self.json {
            print_json(&json!({
                "ok": stale == 0,
                "in_force": in_force_json(&seen),
                "enforcers": seen.enforcers.iter().map(enforcer_json).collect::<Vec<_>>(),
                "stale": stale,
            }));
        } else {
            print(&seen, stale);
        }
        Ok(if stale == 0 { YES } else { NO })
    }
}

impl WatchArgs {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let mut news = desk
            .operator
            .listen(&["$BULLA.NEWS.*", reserved::STATUS_ALL])
            .await
            .map_err(|error| LifecycleError::Operator(error.into()))?;
        let mut told = HashMap::new();
        self.look(&desk, &mut told).await?;
        let end = async {
            match self.limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(YES),
                message = news.next() => match message {
                    None => return Ok(YES),
                    // One every two seconds, and it changes nothing.
                    Some(message) if message.subject.as_str() == reserved::NEWS_HEAD => continue,
                    Some(_) => {}
                },
            }
            // What comes together is looked at together.
            sleep(Duration::from_millis(20)).await;
            while futures_util::FutureExt::now_or_never(news.next())
                .flatten()
                .is_some()
            {}
            self.look(&desk, &mut told).await?;
        }
    }

    /// Tells what is not told yet.
    async fn look(
        &self,
        desk: &Desk<'_>,
        told: &mut HashMap<String, String>,
    ) -> Result<(), Failure> {
        let seen = overview(desk).await?;
        let at = shown(clock::now());
        let force = &seen.in_force;
        let line = format!(
            "revision {}, bundle {}, revocations {}{}",
            force.revision,
            force.bundle,
            force.revocations,
            on_trial(force.candidate)
        );
        if told.insert(String::new(), line.clone()).as_ref() != Some(&line) {
            if self.json {
                let mut value = in_force_json(&seen);
                add(&mut value, "event", "in_force");
                say!("{value}");
            } else {
                say!(
                    "{at}  {GOOD}in force{GOOD:#}  {STRONG}{line}{STRONG:#}  {}",
                    seen.comment()
                );
            }
        }
        let mut present = Vec::new();
        for enforcer in &seen.enforcers {
            let name = enforcer.name();
            let line = enforcer.line();
            present.push(name.clone());
            if told.insert(name, line.clone()).as_ref() == Some(&line) {
                continue;
            }
            if self.json {
                let mut value = enforcer_json(enforcer);
                add(&mut value, "event", "enforcer");
                say!("{value}");
            } else {
                say!("{at}  {line}");
            }
        }
        let gone: Vec<String> = told
            .keys()
            .filter(|name| !name.is_empty() && !present.contains(name))
            .cloned()
            .collect();
        for name in gone {
            told.remove(&name);
            if self.json {
                say!("{}", json!({ "event": "gone", "enforcer": name }));
            } else {
                say!("{at}  {WARN}gone{WARN:#}      {name}");
            }
        }
        Ok(())
    }
}

fn add(value: &mut Value, key: &str, text: &str) {
    if let Some(members) = value.as_object_mut() {
        members.insert(key.to_owned(), text.into());
    }
}

fn on_trial(candidate: u64) -> String {
    match candidate {
        0 => String::new(),
        number => format!(", candidate {number} on trial"),
    }
}

impl Overview {
    fn comment(&self) -> String {
        self.policy.signed.comment.escape_debug().collect()
    }
}

impl Enforcer {
    fn is_current(&self) -> bool {
        self.fitness == Fitness::Current
    }

    /// What does not change by itself.
    fn line(&self) -> String {
        let style = match self.fitness {
            Fitness::Current => GOOD,
            Fitness::Silent => WARN,
            Fitness::Stale(_) | Fitness::Refuses(_) | Fitness::Unreadable(_) => BAD,
        };
        let Some(report) = &self.report else {
            return format!(
                "{style}{:<10}{style:#} {}: {}",
                self.fitness.code(),
                self.name(),
                self.fitness.detail()
            );
        };
        let would = match (report.would_deny, report.would_allow) {
            (0, 0) => String::new(),
            (deny, allow) => format!(", would deny {deny}, would allow {allow}"),
        };
        let detail = match self.fitness.detail() {
            "" => String::new(),
            detail => format!("  ({detail})"),
        };
        format!(
            "{style}{:<10}{style:#} {:<8} {STRONG}{:<20}{STRONG:#} {PLACE}{:<16}{PLACE:#} revision {}{}{would}{detail}",
            self.fitness.code(),
            report.kind.to_string(),
            self.workload,
            self.instance,
            report.revision,
            on_trial(report.candidate),
        )
    }
}

fn print(seen: &Overview, stale: usize) {
    let force = &seen.in_force;
    let hash: String = force.hash.chars().take(12).collect();
    say!(
        "{STRONG}revision {}{STRONG:#}  {PLACE}{hash}{PLACE:#}  signed {}  {}",
        force.revision,
        shown(seen.policy.signed.issued_at),
        seen.comment()
    );
    say!(
        "bundle {}, revocations {}{}\n",
        force.bundle,
        force.revocations,
        on_trial(force.candidate)
    );
    let now = clock::now();
    for enforcer in &seen.enforcers {
        let ago = now.saturating_since(enforcer.said).as_secs();
        say!("{}  {ago} s ago", enforcer.line());
    }
    let all = plural(seen.enforcers.len(), "enforcer");
    match (seen.enforcers.len(), stale) {
        (0, _) => say!("{WARN}nobody{WARN:#} has reported: does a broker run?"),
        (_, 0) => say!("\n{GOOD}all current{GOOD:#}: {all}"),
        (_, stale) => say!("\n{BAD}{stale} of {all} not current{BAD:#}"),
    }
}

fn in_force_json(seen: &Overview) -> Value {
    let force = &seen.in_force;
    json!({
        "revision": force.revision,
        "sha256": force.hash,
        "issued_at": seen.policy.signed.issued_at.as_millis(),
        "comment": seen.policy.signed.comment,
        "bundle": force.bundle,
        "revocations": force.revocations,
        "candidate": force.candidate,
    })
}

fn enforcer_json(enforcer: &Enforcer) -> Value {
    let report = enforcer.report.as_ref();
    json!({
        "kind": report.map(|r| r.kind.to_string()),
        "workload": enforcer.workload,
        "instance": enforcer.instance,
        "state": enforcer.fitness.code(),
        "detail": enforcer.fitness.detail(),
        "said_at": enforcer.said.as_millis(),
        "version": report.map(|r| r.version.clone()),
        "revision": report.map(|r| r.revision),
        "sha256": report.map(|r| r.policy.clone()),
        "since": report.map(|r| r.since),
        "bundle": report.map(|r| r.bundle),
        "revocations": report.map(|r| r.revocations),
        "candidate": report.map(|r| r.candidate),
        "would_deny": report.map(|r| r.would_deny),
        "would_allow": report.map(|r| r.would_allow),
        "started": report.map(|r| r.started),
    })
}
