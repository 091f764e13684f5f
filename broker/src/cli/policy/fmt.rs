//! `bulla policy fmt`: one format for every policy.

use std::io::Write as _;
use std::path::PathBuf;

use clap::ValueHint;
use serde_json::{Value, json};

use super::input::{files, read_file, read_input};
use super::print::{BAD, GOOD, STRONG, complain, print_json, say, write_file};
use super::{Failure, NO, YES};

/// Write policies in their one format
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Write policies in their one format, in place.\n\n\
        Comments, the order of everything and the meaning stay; spaces, quotes, blank lines and\n\
        the breaking of lists are settled. Editors that format with taplo agree with it. A\n\
        policy need not load to be formatted, it only has to be TOML.",
    after_help = "Examples:\n  \
        bulla policy fmt shop.toml\n  \
        bulla policy fmt --check policies/*.toml     in CI: names what is not formatted\n  \
        bulla policy fmt - < shop.toml               prints what was read\n\n\
        Exit code: 0 formatted, 1 --check found a file that is not, 2 an error."
)]
pub(crate) struct FmtArgs {
    /// The policies, files or directories of them; `-` reads standard input and prints
    #[arg(
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml",
        value_hint = ValueHint::AnyPath
    )]
    files: Vec<PathBuf>,
    /// Write nothing; say which files are not formatted
    #[arg(long)]
    check: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn fmt(args: &FmtArgs) -> Result<u8, Failure> {
    let mut wrong = 0usize;
    let mut found: Vec<Value> = Vec::new();
    let mut all = Vec::new();
    for file in &args.files {
        all.extend(files(file)?);
    }
    for file in &all {
        let stdin = file.as_os_str() == "-";
        let text = if stdin {
            read_input()?
        } else {
            read_file(file)?
        };
        let formatted = bulla_policy_tools::format(&text).map_err(|source| Failure::Format {
            path: file.clone(),
            line: line_of(&text, &source),
            source,
        })?;
        let differs = formatted != text;
        wrong += usize::from(differs);
        if !args.check && stdin {
            let _ = std::io::stdout().write_all(formatted.as_bytes());
            continue;
        }
        if differs && !args.check {
            write_file(file, &formatted)?;
        }
        found.push(json!({ "file": file.display().to_string(), "formatted": !differs }));
        if args.json || !differs {
            continue;
        }
        if args.check {
            let line = first_difference(&text, &formatted);
            complain(&format!(
                "{BAD}not formatted{BAD:#}  {STRONG}{}{STRONG:#}: the first difference is in line {line}\n",
                file.display()
            ));
        } else {
            say!("{GOOD}formatted{GOOD:#}  {}", file.display());
        }
    }
    if args.json {
        print_json(&json!({ "ok": !args.check || wrong == 0, "files": found }));
    }
    Ok(if args.check && wrong > 0 { NO } else { YES })
}

fn line_of(text: &str, error: &bulla_policy_tools::FormatError) -> usize {
    match error {
        bulla_policy_tools::FormatError::NotToml { at, .. } => {
            1 + text.bytes().take(*at).filter(|b| *b == b'\n').count()
        }
        bulla_policy_tools::FormatError::Changed => 1,
    }
}

fn first_difference(one: &str, other: &str) -> usize {
    let same = one
        .split_inclusive('\n')
        .zip(other.split_inclusive('\n'))
        .take_while(|(a, b)| a == b);
    same.count() + 1
}
