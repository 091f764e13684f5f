//! `bulla broker --check`: what a broker would run with.

use std::io::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde_json::json;

use crate::broker::Outlook;
use crate::config::{Origin, Setting};

/// Prints it: a table for people, JSON for scripts.
pub(super) fn print(
    file: &Path,
    settings: &[Setting],
    outlook: &Outlook,
    as_json: bool,
) -> std::io::Result<()> {
    let mut out = anstream::stdout();
    if as_json {
        let by_key = settings.iter().map(|setting| {
            let value = json!({ "value": setting.value, "origin": setting.origin.as_str() });
            (setting.key.to_owned(), value)
        });
        let all = json!({
            "ok": true,
            "file": file.display().to_string(),
            "settings": by_key.collect::<serde_json::Map<_, _>>(),
            "policy_revision": outlook.revision,
            "workloads": outlook.workloads,
            "bundle_version": outlook.bundle,
            "bundle_expires": outlook.bundle_until.as_secs(),
        });
        return writeln!(out, "{all}");
    }
    writeln!(out, "{GOOD}good{GOOD:#}: {}", file.display())?;
    let widest = |of: fn(&Setting) -> usize| settings.iter().map(of).max().unwrap_or(0);
    let key = widest(|s| s.key.len());
    let value = widest(|s| s.value.chars().count()).clamp(1, 60);
    writeln!(out)?;
    for setting in settings {
        let shown = if setting.value.is_empty() {
            "-"
        } else {
            &setting.value
        };
        let (origin, style) = match setting.origin {
            Origin::Default => ("default", FAINT),
            Origin::File => ("file", PLAIN),
            Origin::Environment => ("environment", STRONG),
        };
        writeln!(
            out,
            "  {:<key$}  {style}{shown:<value$}{style:#}  {FAINT}{origin}{FAINT:#}",
            setting.key
        )?;
    }
    writeln!(
        out,
        "\n  policy revision {}, {} workloads; trust bundle {}, for {} more",
        outlook.revision,
        outlook.workloads,
        outlook.bundle,
        humantime::format_duration(outlook.bundle_left()),
    )
}

const GOOD: Style = AnsiColor::Green.on_default().bold();
const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const PLAIN: Style = Style::new();
