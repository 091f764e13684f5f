//! What `bulla dev` shows: status, things to try, decisions as they happen.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};
use parking_lot::Mutex;
use serde_json::Value;

/// The terminal. Colour is left out where nobody sees it (`anstream`).
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    turn: Arc<Mutex<()>>,
}

impl Screen {
    /// One line as it is.
    pub(super) fn line(&self, text: &str) {
        let _turn = self.turn.lock();
        // Whoever read us has gone: the instance goes on.
        let _ = writeln!(anstream::stdout(), "{text}");
    }

    /// `✓ what  detail`.
    pub(super) fn done(&self, what: &str, detail: &str) {
        self.line(&format!(
            "  {GOOD}✓{GOOD:#} {what:<12} {DIM}{detail}{DIM:#}"
        ));
    }

    /// A heading for what follows.
    pub(super) fn heading(&self, text: &str) {
        self.line(&format!("\n{BOLD}{text}{BOLD:#}"));
    }

    /// A comment over a command to paste.
    pub(super) fn command(&self, comment: &str, command: &str) {
        self.line(&format!("  {DIM}# {comment}{DIM:#}\n  {command}"));
    }

    /// One log event of a child: its decisions, and what it warns about.
    pub(super) fn event(&self, process: &str, event: &Value) {
        let text = |key| event.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("target") == crate::decision::TARGET {
            self.line(&decision(event));
            return;
        }
        let style = match text("level") {
            "ERROR" => BAD,
            "WARN" => WARN,
            _ => return,
        };
        let message = visible(&super::child::plain(event));
        self.line(&format!("  {style}!{style:#} {process}: {message}"));
    }

    /// A line of a child that is no log event.
    pub(super) fn raw(&self, process: &str, line: &str) {
        self.line(&format!("  {WARN}!{WARN:#} {process}: {}", visible(line)));
    }
}

/// One decision on one line:
/// `12:00:01 allow gateway   gateway request orders.create  for alice  rule web`.
fn decision(event: &Value) -> String {
    let text = |key| visible(event.get(key).and_then(Value::as_str).unwrap_or_default());
    let (mark, style) = match text("decision").as_str() {
        "allow" => ("allow", GOOD),
        _ => ("deny ", BAD),
    };
    // 2026-11-22T22:07:25.272325Z
    let stamp = text("timestamp");
    let time = stamp.get(11..19).unwrap_or_default();
    let mut line = format!(
        "{DIM}{time}{DIM:#} {style}{mark}{style:#} {DIM}{:<8}{DIM:#}",
        text("enforcer")
    );
    for key in ["workload", "verb"] {
        let value = text(key);
        if !value.is_empty() {
            let _ = write!(line, " {value}");
        }
    }
    let subject = text("subject");
    if !subject.is_empty() {
        let _ = write!(line, " {BOLD}{subject}{BOLD:#}");
    }
    for (key, word) in [("user", "for"), ("rule", "by rule")] {
        let value = text(key);
        if !value.is_empty() {
            let _ = write!(line, " {DIM}{word}{DIM:#} {value}");
        }
    }
    let reason = text("reason");
    if !reason.is_empty() {
        let _ = write!(
            line,
            "\n         {style}└ {reason}{style:#} {DIM}{}{DIM:#}",
            text("id")
        );
    }
    line
}

/// Without control characters: what a client sent must not drive the terminal.
fn visible(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_decision_shows_who_what_and_why() {
        let line = decision(&json!({
            "timestamp": "2026-11-22T22:07:25.272325Z",
            "target": "bulla::decision",
            "enforcer": "gateway",
            "decision": "deny",
            "workload": "gateway",
            "verb": "request",
            "subject": "orders.create",
            "user": "alice",
            "rule": "",
            "reason": "scope `orders:write` is missing",
            "id": "00ff",
        }));
        for part in [
            "22:07:25",
            "deny",
            "gateway",
            "orders.create",
            "alice",
            "is missing",
            "00ff",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn a_subject_cannot_drive_the_terminal() {
        let line = decision(&json!({ "subject": "a\u{1b}[2Jb" }));
        assert!(!line.contains("\u{1b}[2J"), "{line:?}");
    }
}
