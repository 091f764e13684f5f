//! What `can-i` and `explain` ask alike: for whom, when and from where.

use std::net::IpAddr;
use std::path::PathBuf;

use bulla_identity::{Claims, SubjectPattern, UnixMillis, WorkloadId};
use bulla_policy::{Answer, Circumstances, Policy, Question, Verb};
use serde_json::{Map, Value};

use super::Failure;
use super::input::{load, now, read_claims, workload};

/// For whom, when and from where a question is asked.
#[derive(clap::Args, Debug)]
pub(super) struct AskArgs {
    /// The policy: a file, or a directory of `*.toml` files that make one
    #[arg(
        long,
        value_name = "PATH",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml",
        value_hint = clap::ValueHint::AnyPath
    )]
    pub(super) policy: PathBuf,
    /// A JSON object with the user's claims; `-` reads standard input
    #[arg(
        long = "as-user",
        visible_alias = "user",
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath
    )]
    pub(super) user: Option<PathBuf>,
    /// One claim of the user: a number, true, false, JSON, or else a text
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    pub(super) claims: Vec<(String, Value)>,
    /// When, as 2026-11-27T23:30:00+01:00, instead of now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) at: Option<UnixMillis>,
    /// From which address the workload connects, for rules with a `network`
    #[arg(long, value_name = "IP")]
    pub(super) from: Option<IpAddr>,
}

/// A question about a policy that was read.
pub(super) struct Asking {
    pub(super) policy: Policy,
    pub(super) file: PathBuf,
    pub(super) workload: WorkloadId,
    pub(super) verb: Verb,
    pub(super) subject: String,
    pub(super) on: SubjectPattern,
    pub(super) user: Option<Claims>,
    pub(super) circumstances: Circumstances,
}

impl AskArgs {
    pub(super) fn circumstances(&self) -> Circumstances {
        Circumstances {
            now: self.at.unwrap_or_else(now),
            client: self.from,
        }
    }

    /// The user of `--as-user` with the claims of `--claim` on top.
    pub(super) fn user(&self) -> Result<Option<Claims>, Failure> {
        let file = self.user.as_deref().map(read_claims).transpose()?;
        if file.is_none() && self.claims.is_empty() {
            return Ok(None);
        }
        let mut map: Map<String, Value> = file.map(|c| c.as_map().clone()).unwrap_or_default();
        map.extend(self.claims.iter().cloned());
        Ok(Some(Claims::from_map(map)))
    }
}

impl Asking {
    pub(super) fn new(
        args: &AskArgs,
        name: &str,
        verb: Verb,
        subject: &str,
    ) -> Result<Self, Failure> {
        let policy = load(&args.policy)?;
        let workload = workload(&policy, name)?;
        let on = SubjectPattern::parse(subject).map_err(|source| Failure::Subject {
            subject: subject.to_owned(),
            source,
        })?;
        Ok(Self {
            file: args.policy.clone(),
            workload,
            verb,
            subject: subject.to_owned(),
            on,
            user: args.user()?,
            circumstances: args.circumstances(),
            policy,
        })
    }

    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let question = Question {
            workload: &self.workload,
            verb: self.verb,
            on: &self.on,
            user: self.user.as_ref(),
            circumstances: self.circumstances,
        };
        self.policy.ask(&question).map_err(|_| Failure::NotLiteral {
            subject: self.subject.clone(),
            verb: self.verb,
        })
    }
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("write NAME=VALUE, such as scope=orders:write")?;
    // A tenant 007 is a text: only what JSON reads is something else.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

pub(super) fn moment(text: &str) -> Result<UnixMillis, String> {
    bulla_policy::parse_moment(text)
        .ok_or_else(|| "write it as RFC 3339 has it, such as 2027-01-31T18:00:00Z".to_owned())
}
