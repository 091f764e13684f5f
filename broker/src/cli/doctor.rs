//! `bulla doctor`: is the bus as closed as it must be?

use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use bulla_envelope::SignedPolicy;
use bulla_identity::{WorkloadId, WorkloadName, reserved};
use bulla_keyring::NkeySeed;
use bulla_policy::Policy;
use serde_json::json;

use super::operator::{OperatorArgs, OperatorError};
use super::{BAD, chain};
use crate::bus_user::BusUser;
use crate::clock;
use crate::doctor::{Finding, Member, Patient, ProbeError, State, Verdict, examine};
use crate::operator_client::OperatorClient;
use crate::trust::CLOCK_SKEW;

/// Every door is closed, as far as it could be tried.
const SOUND: u8 = 0;
/// One is not.
const ILL: u8 = 1;
/// It could not be looked at.
const ERROR: u8 = 2;

/// Of a directory, as many workloads as are tried against each other.
const MEMBERS: usize = 4;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const UNSURE: Style = AnsiColor::Yellow.on_default().bold();
const FAINT: Style = Style::new().dimmed();

/// Look at a bus from outside and as its workloads: is it as closed as it must be?
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Look at a bus from outside and as its workloads: is it as closed as it must be?\n\n\
        Connects as a stranger, as two or more workloads, and, where their seeds are there, as a\n\
        user of the accounts JS and SYS, and tries what an attacker would try. Nothing is changed\n\
        but a stream of the doctor's own, which is made, attacked and removed.",
    after_help = "Examples:\n  \
        bulla doctor                                    what `bulla dev` started here\n  \
        bulla doctor --dir /tmp/shop --json | jq '.findings[] | select(.verdict == \"ill\")'\n  \
        bulla doctor --nats-url tls://bus.acme.example --tls-ca-file ca.pem \\\n    \
            --trust-domain acme.example --trust-root-file root.pub --seed-file operator.nk \\\n    \
            --as orders=orders.nk --as billing=billing.nk \\\n    \
            --js-seed-file broker-js.nk --sys-seed-file broker-sys.nk\n\n\
        Exit code: 0 nothing is wrong, 1 something is (with --strict also if a check could not be\n\
        tried), 2 nothing could be looked at."
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// A workload and the file with its nkey seed (0600); give two or more
    #[arg(long = "as", value_name = "NAME=FILE", value_parser = member)]
    members: Vec<(WorkloadName, PathBuf)>,
    /// The nkey seed or NATS credentials of a broker's user in the account JS (0600)
    #[arg(long, value_name = "FILE")]
    js_seed_file: Option<PathBuf>,
    /// The nkey seed or NATS credentials of a broker's user in the account SYS (0600)
    #[arg(long, value_name = "FILE")]
    sys_seed_file: Option<PathBuf>,
    /// Fail as well if a check could not be tried
    #[arg(long)]
    strict: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

fn member(text: &str) -> Result<(WorkloadName, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write NAME=FILE")?;
    let name = WorkloadName::parse(name).map_err(|error| error.to_string())?;
    Ok((name, PathBuf::from(path)))
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(look(args)));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            anstream::eprintln!("{BAD}error:{BAD:#} {}", chain(&error));
            ExitCode::from(ERROR)
        }
    }
}

async fn look(args: &DoctorArgs) -> Result<u8, Failure> {
    // What is ill may be just what keeps the operator out.
    let read = match args.operator.connect().await {
        Ok(client) => state(&client).await,
        Err(error) => Err(chain(&error)),
    };
    let (state, unread) = match read {
        Ok(state) => (Some(state), None),
        Err(why) => (None, Some(why)),
    };
    let patient = Patient {
        url: args.operator.url()?,
        tls_ca_file: args.operator.tls_ca_file(),
        workloads: args.members(state.as_ref())?,
        js: args.user(args.js_seed_file.as_ref(), "keys/broker-js.nk")?,
        sys: args.user(args.sys_seed_file.as_ref(), "keys/broker-sys.nk")?,
        state,
    };
    let findings = examine(&patient).await?;
    let code = judge(&findings, args.strict);
    if args.json {
        let findings: Vec<_> = findings.iter().map(as_json).collect();
        let whole = json!({
            "url": patient.url,
            "sound": code == SOUND,
            "unread": unread,
            "findings": findings,
        });
        anstream::println!("{whole:#}");
    } else {
        print(&findings, unread.as_deref());
    }
    Ok(code)
}

/// Trust and policy in force; why not, if they cannot be read.
async fn state(client: &OperatorClient) -> Result<State, String> {
    let record = client.stream.last(reserved::CTL_POLICY).await;
    let record = record
        .map_err(|error| chain(&error))?
        .ok_or("there is no policy on the control stream")?;
    let signed = SignedPolicy::open(&record.payload, &client.bundle, clock::now(), CLOCK_SKEW)
        .map_err(|error| chain(&error))?;
    let policy = Policy::parse("policy", &signed.text)
        .map_err(|_| "this version does not understand the policy in force")?;
    Ok(State {
        bundle: client.bundle.clone(),
        policy,
    })
}

impl DoctorArgs {
    /// Those that were named, or those of the directory.
    fn members(&self, state: Option<&State>) -> Result<Vec<Member>, Failure> {
        let domain = self.operator.domain()?;
        let mut members = Vec::new();
        for (name, path) in &self.members {
            members.push(Member {
                name: name.clone(),
                id: WorkloadId::new(&domain, name),
                seed: self.operator.nkey_seed(path.clone())?,
            });
        }
        if !members.is_empty() {
            return Ok(members);
        }
        let workloads = state.map(|state| state.policy.workloads());
        for workload in workloads.unwrap_or_default() {
            let path = format!("keys/{}.nk", workload.name());
            if let Some(seed) = self.seed(&path)?
                && members.len() < MEMBERS
            {
                members.push(Member {
                    name: workload.name().clone(),
                    id: workload.id().clone(),
                    seed,
                });
            }
        }
        Ok(members)
    }

    /// A seed of the directory.
    fn seed(&self, in_dir: &str) -> Result<Option<NkeySeed>, Failure> {
        let path = self.operator.dir.join(in_dir);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(self.operator.nkey_seed(path)?))
    }

    /// A user that was named, or one that lies in the directory.
    fn user(&self, given: Option<&PathBuf>, in_dir: &str) -> Result<Option<BusUser>, Failure> {
        let path = match given {
            Some(path) => path.clone(),
            None => self.operator.dir.join(in_dir),
        };
        if given.is_none() && !path.exists() {
            return Ok(None);
        }
        Ok(Some(self.operator.bus_user(path)?))
    }
}

fn judge(findings: &[Finding], strict: bool) -> u8 {
    let any = |verdict| findings.iter().any(|f| f.verdict == verdict);
    if any(Verdict::Ill) || (strict && any(Verdict::Unknown)) {
        ILL
    } else {
        SOUND
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let remedy = (finding.verdict != Verdict::Sound).then_some(finding.check.remedy);
    json!({
        "check": finding.check.code,
        "holds": finding.check.holds,
        "verdict": finding.verdict.as_str(),
        "seen": finding.seen,
        "remedy": remedy,
    })
}

fn print(findings: &[Finding], unread: Option<&str>) {
    let width = findings.iter().map(|f| f.check.code.len()).max();
    let width = width.unwrap_or_default();
    for finding in findings {
        let (style, mark) = match finding.verdict {
            Verdict::Sound => (GOOD, "✓"),
            Verdict::Ill => (BAD, "✗"),
            Verdict::Unknown => (UNSURE, "?"),
        };
        let check = finding.check;
        anstream::println!(
            "{style}{mark}{style:#} {:width$}  {}",
            check.code,
            check.holds
        );
        anstream::println!("  {:width$}  {FAINT}{}{FAINT:#}", "", finding.seen);
        if finding.verdict == Verdict::Ill {
            anstream::println!("  {:width$}  {UNSURE}→{UNSURE:#} {}", "", check.remedy);
        }
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    if let Some(why) = unread {
        anstream::println!("\n{UNSURE}note:{UNSURE:#} trust and policy could not be read: {why}");
    }
    anstream::println!(
        "\n{} sound, {} ill, {} could not be tried",
        count(Verdict::Sound),
        count(Verdict::Ill),
        count(Verdict::Unknown)
    );
}
