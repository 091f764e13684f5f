//! What the commands of `bulla policy` print alike: colours, errors with a caret under their place, JSON.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use bulla_policy::{Excerpt, Policy, PolicyErrors};
use serde_json::{Value, json};

use super::Failure;

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
        let at = place(errors.file(), Some(error.file()));
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{BAD}error{BAD:#}{STRONG}: {}{STRONG:#}",
            error.message()
        );
        out.push_str(&excerpt(&at, error.excerpt(), BAD, &error.remedy()));
    }
    let total = errors.errors().len() + errors.omitted();
    let _ = write!(out, "{}: {}", errors.file(), plural(total, "error"));
    if errors.omitted() > 0 {
        let _ = write!(out, ", {} of them not shown", errors.omitted());
    }
    out.push('\n');
    out
}

/// A place, its line with carets under it, and the way out.
pub(super) fn excerpt(path: &str, excerpt: &Excerpt, carets: Style, remedy: &str) -> String {
    let line = excerpt.line().to_string();
    let pad = " ".repeat(line.len());
    let (at, len) = excerpt.caret();
    let (indent, under) = (" ".repeat(at), "^".repeat(len));
    format!(
        "{pad}{PLACE}-->{PLACE:#} {path}:{line}:{}\n\
         {pad} {PLACE}|{PLACE:#}\n\
         {PLACE}{line} |{PLACE:#} {}\n\
         {pad} {PLACE}|{PLACE:#} {indent}{carets}{under}{carets:#}\n\
         {pad} {PLACE}={PLACE:#} {remedy}\n\n",
        excerpt.column(),
        excerpt.source_line(),
    )
}

/// The path of a file of a policy: the policy's own, or one in its directory.
pub(super) fn place(policy: &str, file: Option<&str>) -> String {
    match file {
        Some(file) if file != policy => {
            let path = Path::new(policy).join(file);
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

/// Writes a file beside where it belongs and then in its place, so that nobody
/// ever finds half of it.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |source| Failure::Write {
        path: path.to_owned(),
        source,
    };
    // A link stays one: what it points to is written.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let rights = std::fs::metadata(path).map(|file| file.permissions());
    let mut beside = tempfile::Builder::new()
        .permissions(rights.unwrap_or_else(|_| Permissions::from_mode(0o644)))
        .tempfile_in(dir)
        .map_err(failed)?;
    beside.write_all(text.as_bytes()).map_err(failed)?;
    beside.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}
