//! What the commands of `bulla policy` print alike: colours, errors with a caret under their place, JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use bulla_policy::{Policy, PolicyErrors, Warning};
use serde_json::{Value, json};

pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const PLACE: Style = AnsiColor::Blue.on_default().bold();
pub(super) const STRONG: Style = Style::new().bold();

/// Prints a line; a reader that went away needs no answer.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(anstream::stdout(), $($arg)*);
    }};
}

pub(super) use say;

/// The errors as the compiler of a language prints them, in colour.
pub(super) fn render(errors: &PolicyErrors) -> String {
    let mut out = String::new();
    for error in errors.errors() {
        let line = error.line().to_string();
        let pad = " ".repeat(line.len());
        let (at, len) = error.caret();
        let (indent, carets) = (" ".repeat(at), "^".repeat(len));
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "{BAD}error{BAD:#}{STRONG}: {}{STRONG:#}\n\
             {pad}{PLACE}-->{PLACE:#} {}:{line}:{}\n\
             {pad} {PLACE}|{PLACE:#}\n\
             {PLACE}{line} |{PLACE:#} {}\n\
             {pad} {PLACE}|{PLACE:#} {indent}{BAD}{carets}{BAD:#}\n\
             {pad} {PLACE}={PLACE:#} {}\n\n",
            error.message(),
            place(errors.file(), Some(error.file())),
            error.column(),
            error.source_line(),
            error.remedy(),
        );
    }
    let total = errors.errors().len() + errors.omitted();
    let _ = write!(out, "{}: {}", errors.file(), plural(total, "error"));
    if errors.omitted() > 0 {
        let _ = write!(out, ", {} of them not shown", errors.omitted());
    }
    out.push('\n');
    out
}

/// The path of a file of a policy: the policy's own, or one in its directory.
pub(super) fn place(policy: &str, file: Option<&str>) -> String {
    match file {
        Some(file) if file != policy => {
            let path = std::path::Path::new(policy).join(file);
            path.display().to_string()
        }
        _ => policy.to_owned(),
    }
}

pub(super) fn errors_json(errors: &PolicyErrors) -> Value {
    let list: Vec<Value> = errors
        .errors()
        .iter()
        .map(|e| {
            json!({
                "code": e.code(),
                "file": place(errors.file(), Some(e.file())),
                "line": e.line(),
                "column": e.column(),
                "message": e.message(),
                "remedy": e.remedy(),
            })
        })
        .collect();
    json!({
        "ok": false,
        "file": errors.file(),
        "errors": list,
        "omitted": errors.omitted(),
    })
}

pub(super) fn warning_json(warning: &Warning) -> Value {
    json!({
        "code": warning.code(),
        "file": warning.place().file(),
        "line": warning.line(),
        "message": warning.message(),
        "remedy": warning.remedy(),
    })
}

pub(super) fn print_json(value: &Value) {
    say!("{value:#}");
}

pub(super) fn complain(text: &str) {
    let _ = anstream::stderr().write_all(text.as_bytes());
}

pub(super) fn known(policy: &Policy) -> String {
    let names: Vec<&str> = policy
        .workloads()
        .iter()
        .take(20)
        .map(|w| w.name().as_str())
        .collect();
    match names.as_slice() {
        [] => "no workload".to_owned(),
        names => names.join(", "),
    }
}

pub(super) fn plural(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
