//! `bulla policy …`: the operator's tools, on the engine that production uses.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use bulla_identity::{
    Claims, IdentityError, PatternError, Subject, SubjectPattern, UnixMillis, WorkloadId,
    WorkloadName,
};
use bulla_policy::{
    Decision, Effect, MAX_POLICY_BYTES, Policy, PolicyErrors, Request, Verb, Warning,
};
use serde_json::{Value, json};

use crate::trust_dir::{TrustDir, TrustDirError};

/// The answer is yes, or nothing is wrong.
const YES: u8 = 0;
/// The answer is no.
const NO: u8 = 1;
/// There is no answer.
const ERROR: u8 = 2;

/// More claims than any token holds.
const MAX_CLAIMS_BYTES: u64 = 1 << 20;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const PLACE: Style = AnsiColor::Blue.on_default().bold();
const STRONG: Style = Style::new().bold();

/// Prints a line; a reader that went away needs no answer.
macro_rules! say {
    ($($arg:tt)*) => {{
        let _ = writeln!(anstream::stdout(), $($arg)*);
    }};
}

// After the macro, which it uses.
mod answer;

use answer::{Allowed, Question};

/// `bulla policy …`
#[derive(clap::Subcommand, Debug)]
pub enum PolicyCommand {
    /// Check a policy and report every error at once
    #[command(
        long_about = "Check a policy and report every error at once, each with its place and a remedy.\n\n\
            Everything that a broker would refuse is found here: unknown keys, conditions that\n\
            cannot be evaluated, promises that this version does not keep, and rules that\n\
            nats-server could not enforce side by side.",
        after_help = "Examples:\n  \
            bulla policy check shop.toml\n  \
            bulla policy check shop.toml --json | jq '.errors[].message'\n\n\
            Exit code: 0 the policy loads, 2 it does not."
    )]
    Check(CheckArgs),

    /// Ask whether a workload may do something, and why
    #[command(
        name = "can-i",
        long_about = "Ask whether a workload may do something, and which rule decides.\n\n\
            The verbs are publish, subscribe, request, serve, append and consume. For publish,\n\
            request and append the subject is literal, and the question is asked for one\n\
            message: with the user of --user, or without a user. For subscribe and serve it\n\
            may be a pattern; without --user the question is whether the workload may listen\n\
            there at all. For consume it is STREAM.CONSUMER.",
        after_help = "Examples:\n  \
            bulla policy can-i orders publish orders.created\n  \
            bulla policy can-i gateway request orders.create --user alice.json\n  \
            bulla policy can-i billing subscribe 'orders.>' --policy shop.toml\n  \
            bulla policy can-i billing consume ORDERS.billing\n  \
            bulla policy can-i orders --list\n\n\
            where alice.json holds the claims of a user's token:\n  \
            { \"sub\": \"alice\", \"scope\": \"orders:write\" }\n\n\
            Exit code: 0 allow, 1 deny, 2 no answer."
    )]
    CanI(CanIArgs),

    /// Sign a policy as the next revision
    #[command(
        long_about = "Sign a policy as the next revision, with the policy key of the operator's directory\n\
            (see `bulla trust init`), or with the command that holds it.\n\n\
            Replace the file `trust.policy` of any one broker with the signed policy. The broker\n\
            takes it within ten seconds, or at once on SIGHUP, and from there it reaches everybody.",
        after_help = "Examples:\n  \
            bulla policy sign shop.toml\n  \
            bulla policy sign shop.toml --dir /media/vault/trust --json | jq .revision\n\n\
            Exit code: 0 signed, or signed already; 2 an error."
    )]
    Sign(SignArgs),
}

/// Arguments of `bulla policy sign`.
#[derive(clap::Args, Debug)]
pub struct SignArgs {
    /// The policy
    #[arg(value_name = "FILE", env = "BULLA_POLICY")]
    file: PathBuf,
    /// The operator's directory
    #[arg(
        long,
        value_name = "DIR",
        env = "BULLA_TRUST_DIR",
        default_value = "trust"
    )]
    dir: PathBuf,
    /// How long a signing command may take
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    sign_limit: Duration,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Arguments of `bulla policy check`.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// The policy
    #[arg(
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml"
    )]
    file: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Arguments of `bulla policy can-i`.
#[derive(clap::Args, Debug)]
pub struct CanIArgs {
    /// The workload, by its name in the policy or its SPIFFE ID
    workload: String,
    /// publish, subscribe, request, serve, append or consume
    #[arg(required_unless_present = "list", value_parser = verb)]
    verb: Option<Verb>,
    /// The subject; quote patterns for the shell
    #[arg(required_unless_present = "list")]
    subject: Option<String>,
    /// The policy
    #[arg(
        long,
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml"
    )]
    policy: PathBuf,
    /// A JSON object with the user's claims; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    user: Option<PathBuf>,
    /// List what the rules say about the workload instead
    #[arg(long, conflicts_with_all = ["verb", "subject", "user"])]
    list: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

fn verb(word: &str) -> Result<Verb, String> {
    Verb::parse(word).ok_or_else(|| {
        "the verbs are publish, subscribe, request, serve, append, consume".to_owned()
    })
}

/// Runs one command; what it finds is printed.
pub fn run(command: &PolicyCommand) -> ExitCode {
    let (json, outcome) = match command {
        PolicyCommand::Check(args) => (args.json, check(args)),
        PolicyCommand::CanI(args) => (args.json, can_i(args)),
        PolicyCommand::Sign(args) => (args.json, sign(args)),
    };
    let code = outcome.unwrap_or_else(|failure| {
        match failure {
            Failure::Policy(errors) if json => print_json(&errors_json(&errors)),
            Failure::Policy(errors) => complain(&render(&errors)),
            Failure::Sign(TrustDirError::Policy(errors)) if json => {
                print_json(&errors_json(&errors));
            }
            Failure::Sign(TrustDirError::Policy(errors)) => complain(&render(&errors)),
            other => {
                let text = match &other {
                    Failure::Sign(error) => super::chain(error),
                    other => other.to_string(),
                };
                if json {
                    print_json(&json!({ "ok": false, "error": text }));
                } else {
                    complain(&format!("{BAD}error:{BAD:#} {text}\n"));
                }
            }
        }
        ERROR
    });
    ExitCode::from(code)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{path}: the policy does not load", path = .0.file())]
    Policy(PolicyErrors),
    #[error("cannot read the policy `{}`: {source}; name a file, or set BULLA_POLICY", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the policy `{}` is longer than {MAX_POLICY_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("the policy `{}` is not UTF-8 text (byte {at})", path.display())]
    NotText { path: PathBuf, at: usize },
    #[error("cannot read the claims `{}`: {source}", path.display())]
    ReadClaims {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the claims `{}` are not a JSON object such as {{ \"sub\": \"alice\", \"scope\": \"orders:write\" }}",
        .0.display()
    )]
    Claims(PathBuf),
    #[error(transparent)]
    Sign(#[from] TrustDirError),
    #[error("`{name}` is no workload: {source}")]
    Workload { name: String, source: IdentityError },
    #[error("`{subject}` is no subject: {source}")]
    Subject {
        subject: String,
        source: PatternError,
    },
    #[error(
        "`{subject}` is a pattern, and a message to {verb} has a literal subject: replace its wildcards and captures"
    )]
    NotLiteral { subject: String, verb: Verb },
    #[error("the policy `{}` names no workload `{workload}`; it has {known}", path.display())]
    Unlisted {
        path: PathBuf,
        workload: WorkloadId,
        known: String,
    },
}

fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let policy = load(&args.file)?;
    let file = args.file.display().to_string();
    let rules = policy.rule_ids().len();
    let workloads = policy.workloads().len();
    if args.json {
        let warnings: Vec<Value> = policy.warnings().iter().map(warning_json).collect();
        print_json(&json!({
            "ok": true,
            "file": file,
            "trust_domain": policy.trust_domain().as_str(),
            "workloads": workloads,
            "rules": rules,
            "hash": hex(&policy.hash()),
            "errors": [],
            "warnings": warnings,
        }));
    } else {
        for warning in policy.warnings() {
            complain(&format!(
                "{WARN}warning{WARN:#}{STRONG}: {}{STRONG:#}\n  {PLACE}-->{PLACE:#} {file}:{}\n   {PLACE}={PLACE:#} {}\n\n",
                warning.message(),
                warning.line(),
                warning.remedy(),
            ));
        }
        say!(
            "{GOOD}ok{GOOD:#}  {file}: {}, {}, trust domain {}",
            plural(workloads, "workload"),
            plural(rules, "rule"),
            policy.trust_domain()
        );
    }
    Ok(YES)
}

fn sign(args: &SignArgs) -> Result<u8, Failure> {
    let text = read(&args.file)?;
    let dir = TrustDir::open(&args.dir, args.sign_limit)?;
    let name = args.file.display().to_string();
    let (policy, revision) = dir.sign_policy(&name, &text, crate::clock::now())?;
    let signed = dir.path("policy").display().to_string();
    if args.json {
        print_json(&json!({
            "ok": true,
            "revision": revision,
            "trust_domain": policy.trust_domain().as_str(),
            "hash": hex(&policy.hash()),
            "policy": signed,
        }));
    } else {
        say!("{GOOD}signed{GOOD:#} revision {revision}: {signed}\nGive it to any one broker.");
    }
    Ok(YES)
}

fn can_i(args: &CanIArgs) -> Result<u8, Failure> {
    let policy = load(&args.policy)?;
    let workload = workload(&policy, &args.workload)?;
    let (Some(verb), Some(subject)) = (args.verb, &args.subject) else {
        return list(args, &policy, &workload);
    };
    let pattern = SubjectPattern::parse(subject).map_err(|source| Failure::Subject {
        subject: subject.clone(),
        source,
    })?;
    let claims = args.user.as_deref().map(read_claims).transpose()?;

    let listens = matches!(verb, Verb::Subscribe | Verb::Serve | Verb::Consume);
    let answer = match (Subject::parse(subject), &claims) {
        (Ok(literal), claims) if !listens || claims.is_some() => {
            let request = Request {
                workload: &workload,
                verb,
                subject: &literal,
                user: claims.as_ref(),
                now: now(),
            };
            match policy.decide(&request) {
                Decision::Allow(permit) => Ok(Allowed {
                    rule: permit.rule().to_owned(),
                    requirements: Some(permit.requirements()),
                    listens: false,
                }),
                Decision::Deny(denial) => Err(denial),
            }
        }
        (_, None) if listens => policy
            .may_listen(&workload, verb, &pattern)
            .map(|rule| Allowed {
                rule: rule.to_owned(),
                requirements: Subject::parse(subject)
                    .ok()
                    .filter(|_| verb != Verb::Consume)
                    .map(|s| policy.requirements(&s)),
                listens: true,
            }),
        _ => {
            return Err(Failure::NotLiteral {
                subject: subject.clone(),
                verb,
            });
        }
    };
    let question = Question {
        policy: &policy,
        file: &args.policy,
        workload: &workload,
        verb,
        subject,
        claims: claims.as_ref(),
    };
    match &answer {
        Ok(allowed) => question.print_allowed(allowed, args.json),
        Err(denial) => question.print_denied(denial, args.json),
    }
    Ok(if answer.is_ok() { YES } else { NO })
}

fn list(args: &CanIArgs, policy: &Policy, workload: &WorkloadId) -> Result<u8, Failure> {
    if policy.workload_by_id(workload).is_none() {
        return Err(Failure::Unlisted {
            path: args.policy.clone(),
            workload: workload.clone(),
            known: known(policy),
        });
    }
    if args.json {
        let grants: Vec<Value> = policy
            .grants(workload)
            .map(|g| {
                json!({
                    "effect": g.effect.to_string(),
                    "verb": g.verb.as_str(),
                    "subject": g.pattern.as_str(),
                    "conditional": g.conditional,
                    "rule": g.rule,
                    "line": g.line,
                })
            })
            .collect();
        print_json(&json!({ "workload": workload.as_str(), "grants": grants }));
        return Ok(YES);
    }
    let mut any = false;
    for grant in policy.grants(workload) {
        any = true;
        let style = match grant.effect {
            Effect::Allow => GOOD,
            Effect::Deny => BAD,
        };
        let condition = if grant.conditional {
            ", if the user fits"
        } else {
            ""
        };
        say!(
            "{style}{:<5}{style:#}  {:<9}  {:<40}  {} (line {}){condition}",
            grant.effect.to_string(),
            grant.verb.as_str(),
            grant.pattern.as_str(),
            grant.rule,
            grant.line
        );
    }
    if !any {
        say!("no rule names {}", workload.path());
    }
    Ok(YES)
}

fn load(path: &Path) -> Result<Policy, Failure> {
    let text = read(path)?;
    Policy::parse(&path.display().to_string(), &text).map_err(Failure::Policy)
}

fn read(path: &Path) -> Result<String, Failure> {
    let limit = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|source| Failure::Read {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() > MAX_POLICY_BYTES {
        return Err(Failure::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|e| Failure::NotText {
        path: path.to_owned(),
        at: e.utf8_error().valid_up_to(),
    })
}

fn workload(policy: &Policy, name: &str) -> Result<WorkloadId, Failure> {
    let parsed = if name.starts_with("spiffe://") {
        WorkloadId::parse(name)
    } else {
        WorkloadName::parse(name).map(|n| WorkloadId::new(policy.trust_domain(), &n))
    };
    parsed.map_err(|source| Failure::Workload {
        name: name.to_owned(),
        source,
    })
}

fn read_claims(path: &Path) -> Result<Claims, Failure> {
    let failed = |source| Failure::ReadClaims {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(failed)?)
    };
    input
        .take(MAX_CLAIMS_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Claims::from_map(map)),
        _ => Err(Failure::Claims(path.to_owned())),
    }
}

/// The errors as the compiler of a language prints them, in colour.
fn render(errors: &PolicyErrors) -> String {
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
            errors.file(),
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

fn errors_json(errors: &PolicyErrors) -> Value {
    let list: Vec<Value> = errors
        .errors()
        .iter()
        .map(|e| {
            json!({
                "code": e.code(),
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

fn warning_json(warning: &Warning) -> Value {
    json!({
        "code": warning.code(),
        "line": warning.line(),
        "message": warning.message(),
        "remedy": warning.remedy(),
    })
}

fn print_json(value: &Value) {
    say!("{value:#}");
}

fn complain(text: &str) {
    let _ = anstream::stderr().write_all(text.as_bytes());
}

fn known(policy: &Policy) -> String {
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

fn plural(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
