//! Waits until everybody runs a revision, and says how long it took.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Desk, Enforcer, Fitness, LifecycleError, Published, overview};
use crate::cli::policy::print::{BAD, GOOD, WARN, plural, say};

/// What came of a revision within the time that somebody waited.
pub(in crate::cli::policy) struct Confirmed {
    /// Enforcers that run it.
    pub(in crate::cli::policy) current: usize,
    /// Those that do not.
    pub(in crate::cli::policy) others: Vec<String>,
    /// After how long the first and the last one did, by their own clocks.
    pub(in crate::cli::policy) first: Option<Duration>,
    pub(in crate::cli::policy) last: Option<Duration>,
    /// How long it was waited.
    pub(in crate::cli::policy) waited: Duration,
}

/// Looks until every enforcer that speaks runs the revision, at most for `limit`.
pub(in crate::cli::policy) async fn confirm(
    desk: &Desk<'_>,
    published: &Published,
    limit: Duration,
    quiet: bool,
) -> Result<Confirmed, LifecycleError> {
    let shows = !quiet && std::io::stderr().is_terminal();
    loop {
        let seen = overview(desk).await?;
        // A later revision of somebody else ends the waiting as well.
        let is_superseded = seen.in_force.revision > published.revision;
        let confirmed = judge(&seen.enforcers, published);
        if shows {
            let all = confirmed.current + confirmed.others.len();
            let mut out = anstream::stderr();
            let _ = write!(out, "\r\u{1b}[K{} of {all} enforcers", confirmed.current);
            let _ = out.flush();
        }
        let is_done = confirmed.others.is_empty() && confirmed.current > 0;
        if is_done || is_superseded || published.since.elapsed() >= limit {
            if shows {
                let _ = write!(anstream::stderr(), "\r\u{1b}[K");
            }
            return Ok(confirmed);
        }
        sleep(LOOK).await;
    }
}

fn judge(enforcers: &[Enforcer], published: &Published) -> Confirmed {
    let mut confirmed = Confirmed {
        current: 0,
        others: Vec::new(),
        first: None,
        last: None,
        waited: published.since.elapsed(),
    };
    for enforcer in enforcers {
        // One that has gone without a word is `bulla policy status`' to tell.
        if enforcer.fitness == Fitness::Silent {
            continue;
        }
        let report = enforcer.report.as_ref();
        let runs = report.filter(|report| {
            report.revision == published.revision && report.policy == published.hash
        });
        let Some(report) = runs else {
            confirmed.others.push(enforcer.name());
            continue;
        };
        confirmed.current += 1;
        let since = bulla_identity::UnixMillis::from_millis(report.since);
        let took = since.saturating_since(published.at);
        confirmed.first = Some(confirmed.first.map_or(took, |first| first.min(took)));
        confirmed.last = Some(confirmed.last.map_or(took, |last| last.max(took)));
    }
    confirmed
}

impl Enforcer {
    /// Whether it has said something lately.
    pub(in crate::cli::policy) fn is_heard(&self) -> bool {
        self.fitness != Fitness::Silent
    }

    /// For people.
    pub(in crate::cli::policy) fn name(&self) -> String {
        let kind = self.report.as_ref().map(|report| report.kind.to_string());
        match (kind, self.workload.as_str()) {
            (Some(kind), "") => format!("{kind} {}", self.instance),
            (_, name) => format!("{name} {}", self.instance),
        }
    }
}

impl Confirmed {
    pub(in crate::cli::policy) fn print(&self) {
        if self.current == 0 && self.others.is_empty() {
            say!("{WARN}nobody{WARN:#} has reported: does a broker run?");
            return;
        }
        let took = self.last.map_or_else(String::new, |last| {
            format!(", the last one after {} ms", last.as_millis())
        });
        let running = plural(self.current, "enforcer");
        if self.others.is_empty() {
            say!("{GOOD}in force{GOOD:#} at {running}{took}");
        } else {
            say!(
                "{BAD}not everywhere{BAD:#} after {:.1} s: in force at {running}{took}; not at {}",
                self.waited.as_secs_f64(),
                self.others.join(", ")
            );
        }
    }

    pub(in crate::cli::policy) fn json(&self) -> Value {
        json!({
            "enforcers": self.current,
            "stale": self.others,
            "first_after_ms": self.first.map(|took| took.as_millis()),
            "last_after_ms": self.last.map(|took| took.as_millis()),
        })
    }
}

const LOOK: Duration = Duration::from_millis(50);
