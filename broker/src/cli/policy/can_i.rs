//! `bulla policy can-i`: may it, and which rule says so.

use std::path::PathBuf;

use bulla_identity::{Subject, SubjectPattern, WorkloadId};
use bulla_policy::{Decision, Effect, Policy, Request, Verb};
use serde_json::{Value, json};

use super::answer::{Allowed, Question};
use super::input::{load, now, read_claims, verb, workload};
use super::print::{BAD, GOOD, known, print_json, say};
use super::{Failure, NO, YES};

/// Ask whether a workload may do something, and why
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Ask whether a workload may do something, and which rule decides.\n\n\
        The verbs are publish, subscribe, request, serve, append, consume, read, write and\n\
            manage; for read and write the subject is BUCKET.KEY, for manage the name of a\n\
            stream or of a bucket. For publish,\n\
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
pub(crate) struct CanIArgs {
    /// The workload, by its name in the policy or its SPIFFE ID
    workload: String,
    /// publish, subscribe, request, serve, append, consume, read, write or manage
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
    pub(super) json: bool,
}

pub(super) fn can_i(args: &CanIArgs) -> Result<u8, Failure> {
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
            .may_listen(&workload, verb, &pattern, now())
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

pub(super) fn list(args: &CanIArgs, policy: &Policy, workload: &WorkloadId) -> Result<u8, Failure> {
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
