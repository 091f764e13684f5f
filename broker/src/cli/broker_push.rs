//! `bulla broker push`: tells running nats-servers what an operator vouches for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use async_nats::Client;
use bulla_identity::Nkey;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{BAD, chain};
use crate::bus_user::BusUserError;
use crate::config::{BrokerConfig, ConfigError};
use crate::connection::{self, ConnectionError};
use crate::deployment::{Deployment, DeploymentError};

/// Every account is known now as it is to be.
const YES: u8 = 0;
/// A server refused one, or none answered.
const NO: u8 = 1;
/// Nothing could be told.
const ERROR: u8 = 2;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const FAINT: Style = Style::new().dimmed();

/// Tell nats-servers in operator mode which accounts there are
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Tell nats-servers in operator mode which accounts there are, and what they exchange.\n\n\
        Signs the accounts as the policy and the keys in the directory want them, and pushes them\n\
        to servers that keep what is pushed (a resolver of the type `full`). Nobody is disconnected,\n\
        but whose signing key is no more. A server whose resolver is MEMORY takes its accounts from\n\
        its configuration: write that with `bulla broker init --update` and reload it.",
    after_help = "Examples:\n  \
        bulla broker push --dir /etc/bulla\n  \
        bulla broker push --dir /etc/bulla --json\n\n\
        Exit code: 0 every account is known, 1 one was refused or nobody answered, 2 an error."
)]
pub(super) struct BrokerPushArgs {
    /// A directory that `bulla broker init` made
    #[arg(long, value_name = "DIR", default_value = "bulla")]
    dir: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    User(#[from] BusUserError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

pub(super) fn run(args: &BrokerPushArgs) -> ExitCode {
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(push(args)));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = chain(&error);
            if args.json {
                anstream::println!("{:#}", json!({ "ok": false, "error": text }));
            } else {
                anstream::eprintln!("{BAD}error:{BAD:#} {text}");
            }
            ExitCode::from(ERROR)
        }
    }
}

/// What a server answers.
#[derive(Deserialize)]
struct Answer {
    data: Option<Told>,
    error: Option<Told>,
}

#[derive(Deserialize)]
struct Told {
    code: u16,
    #[serde(default)]
    message: String,
    #[serde(default)]
    description: String,
}

async fn push(args: &BrokerPushArgs) -> Result<u8, Failure> {
    let deployment = Deployment::open(&args.dir)?;
    let policy = deployment.policy()?;
    let accounts = deployment.account_jwts(&policy)?;
    let config = BrokerConfig::load(&deployment.path("broker.toml"))?;
    let user = Arc::new(config.keys.sys);
    let sys = connection::connect_once(&config.nats_url, user, config.tls.ca.clone()).await?;
    let mut outcomes = Vec::new();
    for (account, jwt) in accounts {
        let asked = sys.request(UPDATE, jwt.clone().into());
        let outcome = match timeout(LIMIT, asked).await {
            Ok(Ok(answer)) => match judge(&answer.payload) {
                Ok(said) => taken(&sys, account, &jwt).await.map(|()| said),
                refused => refused,
            },
            _ => Err(
                "no server keeps what is pushed: is its resolver MEMORY? Then reload it".to_owned(),
            ),
        };
        outcomes.push((account, outcome));
    }
    let is_done = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    tell(args.json, &outcomes, is_done);
    Ok(if is_done { YES } else { NO })
}

fn judge(answer: &[u8]) -> Result<String, String> {
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|_| "it answered nothing of use".to_owned())?;
    match (answer.data, answer.error) {
        (Some(told), None) if told.code == 200 => Ok(told.message),
        (_, Some(told)) | (Some(told), None) => Err(format!(
            "{} {}{}",
            told.code, told.message, told.description
        )),
        (None, None) => Err("it answered nothing of use".to_owned()),
    }
}

/// Whether every server that uses an account goes by what was pushed. A server stores also
/// what a key has signed that it does not trust, answers that all is well, and goes on by
/// what it had.
async fn taken(sys: &Client, account: Nkey, jwt: &str) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    loop {
        let behind = servers_behind(sys, account, jwt).await;
        match &behind {
            Some(behind) if behind.is_empty() => return Ok(()),
            _ if Instant::now() <= end => {}
            Some(behind) => {
                let names = behind.iter().map(String::as_str).collect::<Vec<_>>();
                return Err(format!(
                    "stored, but not taken by {}: does it trust the key that signed it? A node \
                     reads the operator's JWT when it starts",
                    names.join(", ")
                ));
            }
            None => {
                return Err("stored, but no server says what it goes by".to_owned());
            }
        }
        sleep(NEXT).await;
    }
}

/// The names of servers that know this account and go by something else; nothing if no
/// server says what it goes by.
async fn servers_behind(sys: &Client, account: Nkey, jwt: &str) -> Option<BTreeSet<String>> {
    let mut behind = None;
    let inbox = sys.new_inbox();
    let mut answers = sys.subscribe(inbox.clone()).await.ok()?;
    let question = json!({ "account": account.to_string() }).to_string();
    let asked = sys.publish_with_reply(RUNS, inbox, question.into());
    asked.await.ok()?;
    // Nobody says how many servers there are: those that are well answer at once.
    while let Ok(Some(answer)) = timeout(NEXT, answers.next()).await {
        let Ok(runs) = serde_json::from_slice::<Runs>(&answer.payload) else {
            continue;
        };
        let behind = behind.get_or_insert_with(BTreeSet::new);
        let detail = runs.data.and_then(|data| data.account_detail);
        if detail.is_some_and(|detail| detail.jwt != jwt) {
            behind.insert(runs.server.name);
        }
    }
    behind
}

/// What a server says of an account.
#[derive(Deserialize)]
struct Runs {
    server: Named,
    /// Not there for an account that nobody has used on it.
    data: Option<RunsData>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct RunsData {
    account_detail: Option<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    jwt: String,
}

fn tell(as_json: bool, outcomes: &[(Nkey, Result<String, String>)], is_done: bool) {
    if as_json {
        let accounts = outcomes.iter().map(|(account, outcome)| {
            json!({
                "account": account.to_string(),
                "ok": outcome.is_ok(),
                "said": outcome.as_ref().unwrap_or_else(|why| why),
            })
        });
        let accounts: Vec<_> = accounts.collect();
        anstream::println!("{:#}", json!({ "ok": is_done, "accounts": accounts }));
        return;
    }
    for (account, outcome) in outcomes {
        match outcome {
            Ok(said) => anstream::println!("{GOOD}✓{GOOD:#} {account}  {FAINT}{said}{FAINT:#}"),
            Err(why) => anstream::println!("{BAD}✗{BAD:#} {account}  {why}"),
        }
    }
}

/// To whoever keeps accounts' JWTs.
const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";

/// To every server.
const RUNS: &str = "$SYS.REQ.SERVER.PING.ACCOUNTZ";

const LIMIT: Duration = Duration::from_secs(5);

/// Between two answers of servers, and between two looks.
const NEXT: Duration = Duration::from_millis(300);
