//! `bulla policy check`: everything that is wrong with a policy, and what deserves
//! a second look.

use std::path::PathBuf;

use bulla_identity::UnixMillis;
use bulla_policy::{Checked, Lint, LintCode, Policy};
use clap::ValueHint;
use clap::builder::PossibleValue;
use serde_json::{Value, json};

use super::input::{now, read, time};
use super::lifecycle::MAX_SIGNED_TEXT;
use super::print::{
    BAD, GOOD, STRONG, WARN, complain, excerpt, hex, place, plural, print_json, say,
};
use super::{Failure, NO, YES};

/// The most lints that are shown to people.
const SHOWN: usize = 200;

/// Check a policy: every error at once, and what deserves a second look
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Check a policy: every error at once, each with its place and a remedy, and what\n\
        deserves a second look.\n\n\
        Everything that a broker would refuse is an error: unknown keys, conditions that\n\
        cannot be evaluated, promises that this version does not keep, and rules that\n\
        nats-server could not enforce side by side.\n\n\
        What loads and may not mean what its author thinks is a lint: rules that say nothing,\n\
        grants that nobody can use or that are wider than their subject's protection, what\n\
        has expired. Each has a code; --explain says when exactly it is reported. A lint that\n\
        is meant is allowed in the text, and so signed with it:\n\n  \
        [[allow]]                              [lint]\n  \
        id = \"…\"                               allow = [\"unused_group\"]\n  \
        allow_lint = [\"over_broad\"]",
    after_help = "Examples:\n  \
        bulla policy check shop.toml\n  \
        bulla policy check policy.d/\n  \
        bulla policy check shop.toml --deny-lints            in CI\n  \
        bulla policy check shop.toml -D expired_rule -D over_broad\n  \
        bulla policy check --explain shadowed_rule\n  \
        bulla policy check shop.toml --json | jq '.errors[].message'\n\n\
        Exit code: 0 the policy loads, 1 it has a lint that is denied, 2 it does not load."
)]
pub(crate) struct CheckArgs {
    /// The policy: a file, or a directory of `*.toml` files that make one
    #[arg(
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml",
        value_hint = ValueHint::AnyPath
    )]
    file: PathBuf,
    /// Let this lint fail the check
    #[arg(short = 'D', long = "deny", value_name = "CODE", value_parser = codes())]
    deny: Vec<String>,
    /// Let every lint fail the check
    #[arg(long)]
    deny_lints: bool,
    /// When, for rules that expire, instead of now (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixMillis>,
    /// Say what a lint is about, when exactly it is reported, and what to do
    #[arg(long, value_name = "CODE", value_parser = codes(), conflicts_with_all = ["lints", "deny"])]
    explain: Option<String>,
    /// List the lints
    #[arg(long, conflicts_with = "deny")]
    lints: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// The codes, so that shells complete them and a slip is told.
fn codes() -> clap::builder::PossibleValuesParser {
    LintCode::ALL
        .iter()
        .map(|code| PossibleValue::new(code.as_str()).help(code.summary()))
        .into()
}

pub(super) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    if let Some(code) = args.explain.as_deref().and_then(LintCode::parse) {
        explain(code, args.json);
        return Ok(YES);
    }
    if args.lints {
        list(args.json);
        return Ok(YES);
    }
    let file = args.file.display().to_string();
    let now = args.at.unwrap_or_else(now);
    let text = read(&args.file)?;
    let checked = Policy::check(&file, &text, now).map_err(Failure::Policy)?;
    let is_denied =
        |lint: &Lint| args.deny_lints || args.deny.iter().any(|code| *code == lint.code().as_str());
    let denied = checked.lints.iter().filter(|lint| is_denied(lint)).count();
    if args.json {
        report_json(&file, &checked, text.len(), denied, is_denied);
    } else {
        // What fails the check comes first where not all is shown.
        let (first, rest): (Vec<&Lint>, Vec<&Lint>) = match checked.lints.len() {
            all if all <= SHOWN => (checked.lints.iter().collect(), Vec::new()),
            _ => checked.lints.iter().partition(|lint| is_denied(lint)),
        };
        for lint in first.iter().chain(&rest).take(SHOWN) {
            complain(&render(&file, lint, is_denied(lint)));
        }
        if checked.lints.len() > SHOWN {
            let more = plural(checked.lints.len() - SHOWN, "more lint");
            complain(&format!("and {more}; --json has all of them\n\n"));
        }
        report(&file, &checked, text.len(), denied);
    }
    Ok(if denied > 0 { NO } else { YES })
}

fn render(file: &str, lint: &Lint, is_denied: bool) -> String {
    let (style, word) = match is_denied {
        true => (BAD, "denied"),
        false => (WARN, "lint"),
    };
    let code = lint.code();
    let at = place(file, Some(lint.excerpt().file()));
    let head = format!(
        "{style}{word}[{code}]{style:#}{STRONG}: {}{STRONG:#}\n",
        lint.message()
    );
    head + &excerpt(&at, lint.excerpt(), style, lint.remedy())
}

fn report(file: &str, checked: &Checked, bytes: usize, denied: usize) {
    let policy = &checked.policy;
    let mut more = match checked.lints.len() {
        0 => String::new(),
        lints => format!(", {}", plural(lints, "lint")),
    };
    if checked.allowed > 0 {
        more.push_str(&format!(", {} allowed", checked.allowed));
    }
    let verdict = match denied {
        0 => format!("{GOOD}ok{GOOD:#}  "),
        _ => format!("{BAD}denied{BAD:#}  "),
    };
    say!(
        "{verdict}{file}: {}, {}, trust domain {}{more}",
        plural(policy.workloads().len(), "workload"),
        plural(policy.rule_ids().len(), "rule"),
        policy.trust_domain()
    );
    if !fits(bytes) {
        say!(
            "{WARN}it loads, and cannot be put in force{WARN:#}: {} bytes, and a signed policy has at most {MAX_SIGNED_TEXT}; \
             write rules for groups, or split the deployment",
            bytes
        );
    }
    if let Some(first) = checked.lints.first() {
        say!("`bulla policy check --explain {}` says more", first.code());
    }
}

fn report_json(
    file: &str,
    checked: &Checked,
    bytes: usize,
    denied: usize,
    is_denied: impl Fn(&Lint) -> bool,
) {
    let policy = &checked.policy;
    let lint = |lint: &Lint| {
        let excerpt = lint.excerpt();
        json!({
            "code": lint.code().as_str(),
            "denied": is_denied(lint),
            "file": place(file, Some(excerpt.file())),
            "line": excerpt.line(),
            "column": excerpt.column(),
            "message": lint.message(),
            "remedy": lint.remedy(),
        })
    };
    let lints: Vec<Value> = checked.lints.iter().map(lint).collect();
    print_json(&json!({
        "ok": denied == 0,
        "file": file,
        "trust_domain": policy.trust_domain().as_str(),
        "workloads": policy.workloads().len(),
        "rules": policy.rule_ids().len(),
        "hash": hex(&policy.hash()),
        "bytes": bytes,
        "can_be_signed": fits(bytes),
        "errors": [],
        "lints": lints,
        "allowed": checked.allowed,
    }));
}

/// Whether a text is small enough to be put in force, with a comment of any length
/// and a signature.
const fn fits(bytes: usize) -> bool {
    bytes <= MAX_SIGNED_TEXT
}

fn explain(code: LintCode, json: bool) {
    if json {
        print_json(&json!({
            "code": code.as_str(),
            "summary": code.summary(),
            "explanation": code.explanation(),
        }));
        return;
    }
    say!(
        "{WARN}{code}{WARN:#}{STRONG}: {}{STRONG:#}\n",
        code.summary()
    );
    say!("{}", code.explanation());
    say!(
        "\nAllow it where it is meant with allow_lint = [\"{code}\"] in the rule, workload, subject,\n\
        stream or bucket that it is about, or for the whole policy with [lint] allow = [\"{code}\"]."
    );
}

fn list(json: bool) {
    if json {
        let lint = |code: LintCode| json!({ "code": code.as_str(), "summary": code.summary() });
        let lints: Vec<Value> = LintCode::ALL.into_iter().map(lint).collect();
        print_json(&json!({ "lints": lints }));
        return;
    }
    for code in LintCode::ALL {
        // Padded before it is coloured, so that the columns align.
        let word = format!("{:<22}", code.as_str());
        say!("{WARN}{word}{WARN:#}  {}", code.summary());
    }
}
