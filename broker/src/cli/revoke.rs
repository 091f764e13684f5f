//! `bulla revoke …`: what is not to be believed any more.
//!
//! The list is one record of the control stream, signed by the policy key and
//! replaced as a whole. Two operators who revoke at the same moment do not lose
//! each other's entries: whoever loses the race begins again with the new list.

mod report;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use bulla_envelope::{
    Head, MAX_CREDENTIAL_LIFE, Revocation, RevocationError, RevocationList, Revoked, SignedPolicy,
    SuccessionError,
};
use bulla_identity::{IdentityError, UnixMillis, Verified, WorkloadId, WorkloadName, reserved};
use bulla_keyring::{KeyId, Tag, sha256};
use bulla_policy::Policy;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::operator::{OperatorArgs, OperatorError, time};
use super::{BAD, chain, on_runtime};
use crate::clock;
use crate::control::{Record, StreamError};
use crate::operator_client::OperatorClient;
use crate::provision::{ProvisionError, read_if_there, write};
use crate::trust::CLOCK_SKEW;
use crate::trust_dir::SignerError;
use report::{Published, entry_json, entry_text, note, print};

/// `bulla revoke …`
#[derive(clap::Subcommand, Debug)]
pub(crate) enum RevokeCommand {
    /// Revoke a workload: its connections, its keys, and all that it seals or mints
    #[command(after_help = "Examples:\n  \
            bulla revoke workload orders --reason 'seed found in a backup'\n  \
            bulla revoke workload spiffe://acme.example/orders --since 2026-01-31T12:00:00Z\n  \
            bulla revoke workload orders --since 2h --json\n\n\
            Its connections are ended, brokers let it in no more and issue nothing to it, every\n\
            connected receiver refuses it within a second, and nothing is encrypted to it any\n\
            more. What streams stored before --since still counts; without --since nothing does.")]
    Workload(Target),
    /// Revoke one message credential, by its key id
    #[command(after_help = "Examples:\n  \
            bulla revoke key 00112233445566778899aabbccddeeff --reason 'copied process'\n\n\
            The process that holds it asks for another one at once; its workload goes on. The key\n\
            id is in alarms, in the audit log and in `bulla envelope inspect`.")]
    Key(Target),
    /// Revoke a user, by the `sub` of transaction tokens
    #[command(after_help = "Examples:\n  \
            bulla revoke user alice\n  \
            bulla revoke user alice --since 30m --reason 'account taken over'\n\n\
            The edge mints no more tokens for this user, and no receiver takes those that there are.")]
    User(Target),
    /// Revoke one transaction token, by its `txn`: the whole chain of calls that it is for
    #[command(after_help = "Example:\n  bulla revoke token 3f1c0a…\n\n\
            The edge also looks for the `jti` of a client's access token there.")]
    Token(Target),
    /// Take a revocation back: it is believed again
    #[command(after_help = "Example:\n  bulla revoke lift workload orders")]
    Lift(Lift),
    /// Sign the list again as it is, after the policy key was replaced
    #[command(after_help = "Example:\n  bulla revoke resign")]
    Resign(Common),
    /// Print what is revoked
    #[command(after_help = "Examples:\n  \
            bulla revoke list\n  \
            bulla revoke list --json | jq '.entries[].value'")]
    List(Common),
    /// Print whether something is revoked, and since when
    #[command(after_help = "Example:\n  \
            bulla revoke show user alice\n\n\
            Exit code: 0 it is revoked, 1 it is not, 2 there is no answer.")]
    Show(Lift),
}

/// What is revoked, and why.
#[derive(clap::Args, Debug)]
pub(crate) struct Target {
    /// Its name or id
    value: String,
    /// From when on it is not to be believed: a time, or how long ago [default: everything]
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<UnixMillis>,
    /// Why, for people; every workload can read it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// What is meant.
#[derive(clap::Args, Debug)]
pub(crate) struct Lift {
    /// workload, key, user or token
    #[arg(value_enum)]
    kind: Kind,
    /// Its name or id
    value: String,
    #[command(flatten)]
    common: Common,
}

/// What every one of these commands takes.
#[derive(clap::Args, Debug)]
pub(crate) struct Common {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Workload,
    Key,
    User,
    Token,
}

/// Runs one command; what it finds is printed.
pub(crate) fn run(command: RevokeCommand) -> ExitCode {
    let json = command.common().json;
    let mut code = YES;
    let outcome = on_runtime(async {
        code = command.run().await?;
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::from(code),
        Err(error) => {
            let text = chain(error.as_ref());
            if json {
                print(&json!({ "ok": false, "error": text }).to_string());
            } else {
                let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
            }
            ExitCode::from(ERROR)
        }
    }
}

impl RevokeCommand {
    const fn common(&self) -> &Common {
        match self {
            Self::Workload(target)
            | Self::Key(target)
            | Self::User(target)
            | Self::Token(target) => &target.common,
            Self::Lift(lift) | Self::Show(lift) => &lift.common,
            Self::Resign(common) | Self::List(common) => common,
        }
    }

    async fn run(self) -> Result<u8, Failure> {
        let (kind, target) = match self {
            Self::Workload(target) => (Kind::Workload, target),
            Self::Key(target) => (Kind::Key, target),
            Self::User(target) => (Kind::User, target),
            Self::Token(target) => (Kind::Token, target),
            Self::Lift(lift) => return lift.lift().await,
            Self::Show(lift) => return lift.show().await,
            Self::Resign(common) => return common.resign().await,
            Self::List(common) => return common.list().await,
        };
        target.revoke(kind).await
    }
}

impl Target {
    async fn revoke(self, kind: Kind) -> Result<u8, Failure> {
        let Self {
            value,
            since,
            reason,
            common,
        } = self;
        let desk = Desk::open(&common.operator).await?;
        let what = desk.named(kind, &value)?;
        if let Revoked::Workload(id) = &what
            && desk.policy.workload_by_id(id).is_none()
            && !common.json
        {
            note(&format!("the policy in force names no workload `{id}`"));
        }
        let entry = Revocation {
            what: what.clone(),
            since: since.unwrap_or_default(),
            made_at: clock::now(),
            reason,
        };
        let change = |entries: &mut Vec<Revocation>, now| {
            let mut entry = entry.clone();
            entry.made_at = now;
            entry.since = entry.since.min(now);
            // Said twice, it holds from the earlier time on.
            for before in entries.iter().filter(|before| before.what == entry.what) {
                entry.since = entry.since.min(before.since);
            }
            entries.retain(|before| before.what != entry.what);
            entries.push(entry);
            Ok(())
        };
        let published = desk.change(&common, change).await?;
        published.report(common.json, "revoked", Some(&what));
        Ok(YES)
    }
}

impl Lift {
    async fn lift(self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.common.operator).await?;
        let what = desk.named(self.kind, &self.value)?;
        let change = |entries: &mut Vec<Revocation>, _| {
            let before = entries.len();
            entries.retain(|entry| entry.what != what);
            if entries.len() == before {
                return Err(Failure::NotRevoked {
                    kind: what.kind(),
                    value: what.value(),
                });
            }
            Ok(())
        };
        let published = desk.change(&self.common, change).await?;
        published.report(self.common.json, "lifted", Some(&what));
        Ok(YES)
    }

    async fn show(self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.common.operator).await?;
        let what = desk.named(self.kind, &self.value)?;
        let held = desk.held().await?;
        let entries = held.list.as_ref().map(|list| list.entries());
        let entry = entries.into_iter().flatten().find(|e| e.what == what);
        if self.common.json {
            let entry = entry.map(entry_json);
            let sequence = held.sequence();
            print(
                &json!({ "revoked": entry.is_some(), "entry": entry, "sequence": sequence })
                    .to_string(),
            );
        } else {
            match entry {
                Some(entry) => print(&entry_text(entry)),
                None => print(&format!("{} {} is not revoked", what.kind(), what.value())),
            }
        }
        Ok(if entry.is_some() { YES } else { NO })
    }
}

impl Common {
    async fn resign(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let published = desk.change(self, |_, _| Ok(())).await?;
        published.report(self.json, "signed again", None);
        Ok(YES)
    }

    async fn list(&self) -> Result<u8, Failure> {
        let desk = Desk::open(&self.operator).await?;
        let held = desk.held().await?;
        let entries = held.list.as_ref().map_or(&[][..], |list| list.entries());
        if self.json {
            let issued_at = held.list.as_ref().map(|list| list.issued_at.as_millis());
            let hash = held
                .record
                .as_ref()
                .map(|r| HEXLOWER.encode(&sha256(&[&r.payload])));
            let head = desk.head().await?;
            print(
                &json!({
                    "sequence": held.sequence(),
                    "issued_at": issued_at,
                    "sha256": hash,
                    "head": head.map(|head| json!({
                        "time": head.time.as_millis(),
                        "revocations": head.names.revocations.number,
                    })),
                    "entries": entries.iter().map(entry_json).collect::<Vec<_>>(),
                })
                .to_string(),
            );
        } else if entries.is_empty() {
            print("nothing is revoked");
        } else {
            for entry in entries {
                print(&entry_text(entry));
            }
        }
        Ok(YES)
    }
}

/// What an operator works at: the connection, and the policy in force.
struct Desk {
    operator: OperatorClient,
    policy: Policy,
}

/// The list on the control stream.
struct OnStream {
    record: Option<Record>,
    list: Option<Verified<RevocationList>>,
}

impl OnStream {
    fn sequence(&self) -> u64 {
        self.list.as_ref().map_or(0, |list| list.sequence)
    }
}

impl Desk {
    async fn open(args: &OperatorArgs) -> Result<Self, Failure> {
        let operator = args.connect().await?;
        let record = operator.stream.last(reserved::CTL_POLICY).await?;
        let record = record.ok_or(Failure::NoPolicy)?;
        let signed =
            SignedPolicy::open(&record.payload, &operator.bundle, clock::now(), CLOCK_SKEW)
                .map_err(Failure::Policy)?;
        let policy = Policy::parse("policy", &signed.text).map_err(|_| Failure::PolicyText)?;
        Ok(Self { operator, policy })
    }

    /// What somebody named.
    fn named(&self, kind: Kind, value: &str) -> Result<Revoked, Failure> {
        let malformed = |source| Failure::Workload {
            value: value.to_owned(),
            source,
        };
        Ok(match kind {
            Kind::Workload if value.starts_with("spiffe://") => {
                Revoked::Workload(WorkloadId::parse(value).map_err(malformed)?)
            }
            Kind::Workload => {
                let name = WorkloadName::parse(value).map_err(malformed)?;
                Revoked::Workload(WorkloadId::new(self.policy.trust_domain(), &name))
            }
            Kind::Key => Revoked::Key(KeyId::parse(value).ok_or(Failure::KeyId)?),
            Kind::User => Revoked::User(value.to_owned()),
            Kind::Token => Revoked::Token(value.to_owned()),
        })
    }

    async fn held(&self) -> Result<OnStream, Failure> {
        let record = self.operator.stream.last(reserved::CTL_REVOCATIONS).await?;
        let list = match &record {
            None => None,
            Some(record) => Some(self.open_list(&record.payload)?),
        };
        Ok(OnStream { record, list })
    }

    fn open_list(&self, bytes: &[u8]) -> Result<Verified<RevocationList>, Failure> {
        let bundle = &self.operator.bundle;
        RevocationList::open(bytes, bundle, clock::now(), CLOCK_SKEW).map_err(Failure::List)
    }

    async fn head(&self) -> Result<Option<Verified<Head>>, Failure> {
        let record = self.operator.stream.last(reserved::CTL_HEAD).await?;
        let bundle = &self.operator.bundle;
        Ok(record
            .and_then(|record| Head::open(&record.payload, bundle, clock::now(), CLOCK_SKEW).ok()))
    }

    /// Signs the next list and publishes it, and waits a little until a broker
    /// says that it is in force.
    async fn change(
        &self,
        common: &Common,
        change: impl Fn(&mut Vec<Revocation>, UnixMillis) -> Result<(), Failure>,
    ) -> Result<Published, Failure> {
        let signer = common.operator.policy_signer(&self.operator.bundle)?;
        let file = common
            .operator
            .trust_dir()
            .map(|dir| dir.join("revocations"));
        loop {
            let held = self.held().await?;
            let on_stream = held.record.as_ref().map_or(0, |record| record.sequence);
            let known = match &file {
                Some(file) => read_if_there(file)?,
                None => None,
            };
            let base = self.newest(held, known)?;
            let now = clock::now();
            let (mut entries, sequence) = match &base {
                Some(list) => (list.entries().to_vec(), list.sequence.saturating_add(1)),
                None => (Vec::new(), 1),
            };
            change(&mut entries, now)?;
            let dropped = forget(&mut entries, now);
            let domain = self.operator.bundle.trust_domain.clone();
            let list = RevocationList::new(domain, sequence, now, entries);
            let key = *signer.public().verifying_key();
            let message = list.to_sign(&key).map_err(Failure::Sign)?;
            let signature = signer.sign(Tag::Revocations, &message)?;
            let bytes = Bytes::from(list.signed(&key, &signature).map_err(Failure::Sign)?);
            let stream = &self.operator.stream;
            if !stream
                .replace(reserved::CTL_REVOCATIONS, bytes.clone(), on_stream)
                .await?
            {
                continue;
            }
            let published = Instant::now();
            if let Some(file) = &file {
                write(file, &bytes)?;
            }
            return Ok(Published {
                sequence,
                entries: list.entries().len(),
                dropped,
                confirmed: self.confirmed(sequence, published).await?,
            });
        }
    }

    /// The newer one of what lies on the stream and what was published from here:
    /// a stream that was set back takes nobody's entries away.
    fn newest(
        &self,
        held: OnStream,
        known: Option<Vec<u8>>,
    ) -> Result<Option<Verified<RevocationList>>, Failure> {
        let Some(known) = known else {
            return Ok(held.list);
        };
        let known = self.open_list(&known)?;
        let Some(held) = held.list else {
            return Ok(Some(known));
        };
        match held.check_succession(&known) {
            Ok(()) => Ok(Some(held)),
            Err(SuccessionError::Rollback { .. }) => Ok(Some(known)),
            Err(error) => Err(Failure::TwoLists(error)),
        }
    }

    /// After how long a broker's head named the list; nothing if none has yet.
    async fn confirmed(
        &self,
        sequence: u64,
        published: Instant,
    ) -> Result<Option<Duration>, Failure> {
        while published.elapsed() < CONFIRM_LIMIT {
            let head = self.head().await?;
            if head.is_some_and(|head| head.names.revocations.number >= sequence) {
                return Ok(Some(published.elapsed()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(None)
    }
}

/// Drops what nothing can be accepted of any more, and says how much. Workloads and
/// users have no end; keys and tokens do, and whatever was stored under them can be
/// consumed for 30 days at most, whatever the policy says.
fn forget(entries: &mut Vec<Revocation>, now: UnixMillis) -> usize {
    let before = entries.len();
    entries.retain(|entry| match entry.what {
        Revoked::Workload(_) | Revoked::User(_) => true,
        Revoked::Key(_) | Revoked::Token(_) => {
            let end = entry
                .made_at
                .saturating_add(MAX_CREDENTIAL_LIFE)
                .saturating_add(reserved::TAKEN_LIFE);
            end > now
        }
    });
    before - entries.len()
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    File(#[from] ProvisionError),
    #[error("the control stream holds no policy: does a broker run?")]
    NoPolicy,
    #[error("the policy on the control stream does not hold")]
    Policy(#[source] bulla_envelope::TrustError),
    #[error("the policy on the control stream does not load")]
    PolicyText,
    #[error("`{value}` is no workload")]
    Workload {
        value: String,
        source: IdentityError,
    },
    #[error("a key id is 32 hexadecimal digits in lower case")]
    KeyId,
    #[error("{kind} `{value}` is not revoked")]
    NotRevoked { kind: &'static str, value: String },
    #[error("the revocation list does not hold under the trust bundle in force")]
    List(#[source] RevocationError),
    #[error(
        "the list on the control stream and the one that was published from here contradict each other"
    )]
    TwoLists(#[source] SuccessionError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error("nobody would take this list")]
    Sign(#[source] RevocationError),
}

/// Done, or yes.
const YES: u8 = 0;
/// The answer is no.
const NO: u8 = 1;
/// There is no answer.
const ERROR: u8 = 2;

/// How long a broker may take to say that the list is in force.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_never_be_accepted_again_is_forgotten() {
        let made_at = UnixMillis::from_secs(1_800_000_000);
        let id = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
        let all = || {
            [
                Revoked::Workload(id.clone()),
                Revoked::Key(KeyId([1; 16])),
                Revoked::User("alice".to_owned()),
                Revoked::Token("txn".to_owned()),
            ]
            .map(|what| Revocation {
                what,
                since: UnixMillis::default(),
                made_at,
                reason: None,
            })
            .to_vec()
        };
        // A day of a credential, and 31 of a message in a stream.
        let days = |n: u64| made_at.saturating_add(Duration::from_secs(n * 24 * 3600));
        let mut entries = all();
        assert_eq!(forget(&mut entries, days(31)), 0);
        assert_eq!(forget(&mut entries, days(32)), 2);
        let left: Vec<_> = entries.iter().map(|entry| entry.what.kind()).collect();
        assert_eq!(left, ["workload", "user"]);
    }
}
