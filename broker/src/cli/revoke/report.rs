//! How what was done, and what is revoked, is printed.

use std::io::Write as _;
use std::time::Duration;

use bulla_envelope::{Revocation, Revoked};
use bulla_identity::UnixMillis;
use serde_json::{Value, json};

use crate::cli::operator::shown;

/// What came of a change.
pub(super) struct Published {
    pub(super) sequence: u64,
    pub(super) entries: usize,
    /// Entries that nothing can be accepted of any more.
    pub(super) dropped: usize,
    /// After how long a broker said so.
    pub(super) confirmed: Option<Duration>,
}

impl Published {
    pub(super) fn report(&self, json: bool, done: &str, what: Option<&Revoked>) {
        if json {
            let value = serde_json::json!({
                "ok": true,
                "done": done,
                "kind": what.map(Revoked::kind),
                "value": what.map(Revoked::value),
                "sequence": self.sequence,
                "entries": self.entries,
                "dropped": self.dropped,
                "confirmed_after_ms": self.confirmed.map(|after| after.as_secs_f64() * 1e3),
            });
            print(&value.to_string());
            return;
        }
        match what {
            Some(what) => print(&format!("{done}  {} {}", what.kind(), what.value())),
            None => print(done),
        }
        print(&format!(
            "  list {}, {} in it",
            self.sequence,
            match self.entries {
                1 => "1 entry".to_owned(),
                n => format!("{n} entries"),
            }
        ));
        match self.confirmed {
            Some(after) => print(&format!(
                "  a broker says so since {:.0} ms",
                after.as_secs_f64() * 1e3
            )),
            None => note(
                "no broker has confirmed it yet: connected enforcers have it as news, but connections are not ended and nobody is turned away before a broker has taken it",
            ),
        }
    }
}

pub(super) fn entry_json(entry: &Revocation) -> Value {
    json!({
        "kind": entry.what.kind(),
        "value": entry.what.value(),
        "since": entry.since.as_millis(),
        "made_at": entry.made_at.as_millis(),
        "reason": entry.reason,
    })
}

pub(super) fn entry_text(entry: &Revocation) -> String {
    let mut text = format!("{:<8}  {}", entry.what.kind(), entry.what.value());
    if entry.since == UnixMillis::default() {
        text.push_str("  everything");
    } else {
        text.push_str(&format!("  since {}", shown(entry.since)));
    }
    text.push_str(&format!(", said {}", shown(entry.made_at)));
    if let Some(reason) = &entry.reason {
        text.push_str(&format!(": {reason}"));
    }
    text
}

pub(super) fn print(text: &str) {
    // A reader that went away needs no answer.
    let _ = writeln!(anstream::stdout(), "{text}");
}

pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "note: {text}");
}
