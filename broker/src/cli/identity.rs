//! `bulla identity …`: how workloads prove who they are, and how that is replaced.

mod attest_text;
mod join;
mod known;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bulla_identity::{IdentityError, Nkey, NkeyKind, WorkloadName};
use bulla_keyring::{NkeySeed, SeedError};
use bulla_policy::Policy;
use bulla_process::{SecretFileError, Zeroizing, secret_file};

use super::operator::{OperatorArgs, OperatorError};
use super::policy::{PolicyInputError, load_policy, write_policy_file};
use super::revoke::{self, RevokeCommand, Target};
use crate::invitation::InvitationError;
use crate::stored::NoAnswer;
use crate::trust_dir::SignerError;
use attest_text::EditError;
use known::{Known, KnownError};

/// Done, or the answer is yes.
const YES: u8 = 0;
/// The answer is no.
const NO: u8 = 1;
/// Nothing was done.
const ERROR: u8 = 2;

/// `bulla identity …`
#[derive(clap::Subcommand, Debug)]
pub(crate) enum IdentityCommand {
    /// Make a workload's key, and show what the policy has to say of it
    #[command(
        long_about = "Make a workload's key, and show what the policy has to say of it.\n\n\
            The seed goes into a file with mode 0600 that is never overwritten. It belongs on the\n\
            machines that run the workload and nowhere else; what the policy names is public. With\n\
            --policy the workload is written into that file as well: it can then connect, and may\n\
            do nothing before a rule says so.",
        after_help = "Examples:\n  \
            bulla identity new orders\n  \
            bulla identity new orders --out /etc/bulla/orders.nk --policy policy.toml\n  \
            bulla identity new orders --json | jq -r .nkey\n\n\
            Exit code: 0 done, 2 an error."
    )]
    New(NewArgs),
    /// List the workloads, how each proves itself, and whether it is revoked
    #[command(
        long_about = "List the workloads, how each proves itself, whether it is revoked, and how many\n\
            processes of it have reported of late.\n\n\
            Of the policy in force and of what runs; with --policy of a file, and nothing is asked.",
        after_help = "Examples:\n  \
            bulla identity list\n  \
            bulla identity list --policy policy.toml\n  \
            bulla identity list --json | jq '.workloads[] | select(.revoked)'\n\n\
            Exit code: 0 done, 2 an error."
    )]
    List(ListArgs),
    /// Show one workload, or whose key a file holds
    #[command(
        long_about = "Show one workload: its SPIFFE id, what proves it, what vouches for its keys, what the\n\
            policy lets it do, whether it is revoked and which processes of it run. With\n\
            --seed-file instead of a name: whose key a file holds.",
        after_help = "Examples:\n  \
            bulla identity show orders\n  \
            bulla identity show --seed-file /etc/bulla/orders.nk\n  \
            bulla identity show orders --policy policy.toml --json\n\n\
            Exit code: 0 it is a workload of the policy and not revoked, 1 it is not, 2 an error."
    )]
    Show(ShowArgs),
    /// Replace a workload's key without a refused message
    #[command(
        long_about = "Replace a workload's key without a refused message.\n\n\
            1. `bulla identity rotate orders --policy policy.toml`: makes a new seed, and writes its\n   \
            public half into the policy beside the old one. Apply the policy.\n\
            2. Give the new seed to the processes of the workload, and start them again one by one.\n\
            3. `bulla identity rotate orders --policy policy.toml --finish --seed-file NEW`: only\n   \
            the new key stays. Apply the policy; connections by the old key are ended at once.\n\n\
            What was encrypted to the old key can be read by who holds its seed. So finish when the\n\
            longest `max_age` of what streams keep for this workload is over.\n\n\
            A key that was stolen is revoked first: `bulla identity revoke orders`.",
        after_help = "Examples:\n  \
            bulla identity rotate orders --policy policy.toml --out orders-2.nk\n  \
            bulla policy apply policy.toml\n  \
            bulla identity rotate orders --policy policy.toml --finish --seed-file orders-2.nk\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Rotate(RotateArgs),
    /// Invite a host to make a key of its own and be this workload
    #[command(
        long_about = "Invite a host to make a key of its own and be this workload: for hosts to which no\n\
            seed can be brought.\n\n\
            The invitation is a file with mode 0600, signed with the policy key; it is good once and\n\
            for a while. With it the host runs `bulla identity join`, and the key that it makes never\n\
            leaves it. What comes of it counts when you have collected it and applied the policy.",
        after_help = "Examples:\n  \
            bulla identity invite orders --for 30m\n  \
            bulla identity invite orders --out /run/orders.invitation --json\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Invite(join::InviteArgs),
    /// Make this host's key, and hand its public half in by an invitation
    #[command(
        long_about = "Make this host's key, and hand its public half in by an invitation.\n\n\
            The seed is made here, with mode 0600, and stays. A broker keeps the public half for the\n\
            operator; the invitation is then used up. The workload can connect once the operator has\n\
            collected it and applied the policy.",
        after_help = "Examples:\n  \
            bulla identity join orders.invitation --out /etc/bulla/orders.nk \\\n      \
            --nats-url tls://bus.acme.example --tls-ca-file ca.pem\n\n\
            Exit code: 0 done, 2 an error or a refusal."
    )]
    Join(join::JoinArgs),
    /// Write the keys that came of invitations into the policy
    #[command(
        long_about = "Write the keys that came of invitations into the policy.\n\n\
            Each is proven first: the policy key invited, the invitation's own key and the new one\n\
            signed, in time. What stands in the policy already is passed over. Then look at the\n\
            difference and apply it.",
        after_help = "Examples:\n  \
            bulla identity collect --policy policy.toml\n  \
            bulla policy apply policy.toml\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Collect(join::CollectArgs),
    /// Revoke a workload: its connections, its keys, and all that it seals or mints
    #[command(
        long_about = "Revoke a workload: its connections are ended, brokers let it in no more and issue\n\
            nothing to it, every connected receiver refuses it within a second, and nothing is\n\
            encrypted to it any more. The same as `bulla revoke workload`, where single keys, users\n\
            and tokens are revoked too, and where a revocation is taken back.",
        after_help = "Examples:\n  \
            bulla identity revoke orders --reason 'seed found in a backup'\n  \
            bulla identity revoke orders --since 2h --json\n  \
            bulla revoke lift workload orders\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Revoke(Target),
}

/// Arguments of `bulla identity new`.
#[derive(clap::Args, Debug)]
pub(crate) struct NewArgs {
    /// The workload's short name, as in `[workload.NAME]`
    name: String,
    /// Where its seed goes [default: NAME.nk]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The policy file into which the workload is written
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What `list` and `show` look at.
#[derive(clap::Args, Debug)]
pub(crate) struct Where {
    /// A policy, file or directory, instead of the one in force
    #[arg(long, value_name = "PATH")]
    policy: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Arguments of `bulla identity list`.
#[derive(clap::Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Where,
}

/// Arguments of `bulla identity show`.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowArgs {
    /// The workload's short name or SPIFFE id
    #[arg(required_unless_present = "key_file", conflicts_with = "key_file")]
    name: Option<String>,
    /// A seed file (0600): whose is it?
    #[arg(long = "key", value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    place: Where,
}

/// Arguments of `bulla identity rotate`.
#[derive(clap::Args, Debug)]
pub(crate) struct RotateArgs {
    /// The workload's short name
    name: String,
    /// The policy, file or directory, that is changed
    #[arg(long, value_name = "PATH")]
    policy: PathBuf,
    /// Where the new seed goes [default: NAME-2.nk, or the next number that is free]
    #[arg(long, value_name = "FILE", conflicts_with = "finish")]
    out: Option<PathBuf>,
    /// The last step: every key but one leaves the policy
    #[arg(long, requires = "seed_file")]
    finish: bool,
    /// The seed whose key stays
    #[arg(long, value_name = "FILE", requires = "finish")]
    seed_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs one command; what it did is printed.
pub(crate) fn run(command: IdentityCommand) -> ExitCode {
    let (json, outcome) = match command {
        IdentityCommand::New(args) => (args.json, new(&args)),
        IdentityCommand::List(args) => (args.place.json, list(&args)),
        IdentityCommand::Show(args) => (args.place.json, show(&args)),
        IdentityCommand::Rotate(args) => (args.json, rotate(&args)),
        IdentityCommand::Invite(args) => (args.json, speak(join::invite(&args))),
        IdentityCommand::Join(args) => (args.json, speak(join::join(&args))),
        IdentityCommand::Collect(args) => (args.json, speak(join::collect(&args))),
        IdentityCommand::Revoke(target) => {
            return revoke::run(RevokeCommand::Workload(target));
        }
    };
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        report::fail(json, &failure);
        ERROR
    }))
}

/// Runs a command that speaks to a deployment.
fn speak(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    let outcome = runtime.block_on(command);
    // What still blocks a thread, a lookup for instance, must not hold us up.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    outcome
}

fn new(args: &NewArgs) -> Result<u8, Failure> {
    let name = named(&args.name)?;
    // Before anything is made: what cannot be written leaves no key behind.
    let edited = match &args.policy {
        None => None,
        Some(file) => Some((file, load(file)?)),
    };
    if let Some((file, policy)) = &edited {
        if file.is_dir() {
            return Err(Failure::Directory(file.to_path_buf()));
        }
        if policy.workload(&name).is_some() {
            return Err(Failure::Exists(name));
        }
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(format!("{name}.nk")),
    };
    let nkey = make_seed(&out)?;
    let lines = attest_text::section(&name, &nkey);
    if let Some((file, _)) = edited {
        let text = read(file)?;
        let text = attest_text::append(&text, &lines);
        undo_unless(&out, write(file, file, &text, (&name, &[nkey])))?;
    }
    report::made(
        args.json,
        &name,
        &out,
        &nkey,
        &lines,
        args.policy.as_deref(),
    );
    Ok(YES)
}

fn list(args: &ListArgs) -> Result<u8, Failure> {
    let known = Known::read(&args.place)?;
    report::list(args.place.json, &known);
    Ok(YES)
}

fn show(args: &ShowArgs) -> Result<u8, Failure> {
    let known = Known::read(&args.place)?;
    let found = match (&args.name, &args.key_file) {
        (_, Some(file)) => {
            let nkey = seed_in(file)?.public();
            let found = known.by_nkey(&nkey);
            if found.is_none() {
                report::nobody(args.place.json, &nkey.to_string());
            }
            found
        }
        (name, None) => {
            let name = name.as_deref().unwrap_or_default();
            let found = known.by_name(name);
            if found.is_none() {
                report::nobody(args.place.json, name);
            }
            found
        }
    };
    let Some(found) = found else { return Ok(NO) };
    report::show(args.place.json, &known, &found);
    Ok(if found.revoked_since.is_some() {
        NO
    } else {
        YES
    })
}

fn rotate(args: &RotateArgs) -> Result<u8, Failure> {
    let name = named(&args.name)?;
    let policy = load(&args.policy)?;
    let workload = policy
        .workload(&name)
        .ok_or_else(|| Failure::Unlisted(name.clone()))?;
    let held = workload.nkeys().to_vec();
    let Some(last) = held.last().copied() else {
        return Err(Failure::NoNkey(name));
    };
    let (file, text) = attest_text::file_of(&args.policy, &last)?;
    if let Some(seed_file) = &args.seed_file {
        let stays = seed_in(seed_file)?.public();
        if !held.contains(&stays) {
            return Err(Failure::Foreign { name, nkey: stays });
        }
        let leave: Vec<Nkey> = held.into_iter().filter(|nkey| *nkey != stays).collect();
        let mut text = text;
        for nkey in &leave {
            text = attest_text::without(&text, nkey)?;
        }
        write(&args.policy, &file, &text, (&name, &[stays]))?;
        report::finished(args.json, &name, &stays, &leave, &args.policy);
        return Ok(YES);
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None => free_name(&name),
    };
    let nkey = make_seed(&out)?;
    let mut expected = held;
    expected.push(nkey);
    let written = attest_text::with(&text, &last, &nkey)
        .map_err(Failure::from)
        .and_then(|text| write(&args.policy, &file, &text, (&name, &expected)));
    undo_unless(&out, written)?;
    report::rotated(args.json, &name, &out, &nkey, &args.policy);
    Ok(YES)
}

fn named(name: &str) -> Result<WorkloadName, Failure> {
    WorkloadName::parse(name).map_err(|source| Failure::Name {
        name: name.to_owned(),
        source,
    })
}

fn load(path: &Path) -> Result<Policy, Failure> {
    Ok(load_policy(path)?)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })
}

/// Puts `text` in the place of one file of a policy, if the policy then gives the
/// workload exactly these nkeys. What is written is looked at again as a whole,
/// because it was changed as text.
fn write(
    policy: &Path,
    file: &Path,
    text: &str,
    (name, nkeys): (&WorkloadName, &[Nkey]),
) -> Result<(), Failure> {
    let before = read(file)?;
    write_policy_file(file, text)?;
    let is_right = load_policy(policy).is_ok_and(|policy| {
        let workload = policy.workload(name);
        workload.is_some_and(|workload| {
            let held = workload.nkeys();
            held.len() == nkeys.len() && nkeys.iter().all(|nkey| held.contains(nkey))
        })
    });
    if is_right {
        return Ok(());
    }
    write_policy_file(file, &before)?;
    Err(Failure::Edit(EditError::Elsewhere))
}

/// A seed that nothing came to name is of no use to anybody.
fn undo_unless<T>(seed: &Path, outcome: Result<T, Failure>) -> Result<T, Failure> {
    if outcome.is_err() {
        let _ = std::fs::remove_file(seed);
    }
    outcome
}

/// Makes a seed in a file that must not exist yet, and gives its public half.
fn make_seed(path: &Path) -> Result<Nkey, Failure> {
    let seed = fresh_seed()?;
    secret_file::create(path, seed.to_seed_text().as_bytes())?;
    Ok(seed.public())
}

fn fresh_seed() -> Result<NkeySeed, Failure> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).map_err(Failure::Random)?;
    Ok(NkeySeed::from_random(NkeyKind::User, &random)?)
}

fn seed_in(path: &Path) -> Result<NkeySeed, Failure> {
    let text = secret_file::read_line(path)?;
    let fault = |source| Failure::Seed {
        path: path.to_owned(),
        source,
    };
    let seed = NkeySeed::parse(&text).map_err(fault)?;
    if seed.kind() != NkeyKind::User {
        return Err(fault(SeedError::WrongKind {
            expected: "a user seed (`SU…`)",
        }));
    }
    Ok(seed)
}

/// `NAME-2.nk`, or the first number after it of which there is no file.
fn free_name(name: &WorkloadName) -> PathBuf {
    let mut number = 2_u32;
    loop {
        let path = PathBuf::from(format!("{name}-{number}.nk"));
        if !path.exists() {
            return path;
        }
        number = number.saturating_add(1);
    }
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("`{name}` is no workload's name")]
    Name { name: String, source: IdentityError },
    #[error(transparent)]
    Policy(#[from] PolicyInputError),
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is a directory: name the file of it that is to hold the workload", .0.display())]
    Directory(PathBuf),
    #[error("the policy has a workload `{0}` already: `bulla identity rotate` replaces its key")]
    Exists(WorkloadName),
    #[error("the policy names no workload `{0}`")]
    Unlisted(WorkloadName),
    #[error("the workload `{0}` has no nkey: what issues its proofs replaces them")]
    NoNkey(WorkloadName),
    #[error(
        "the policy does not list the key `{nkey}` for `{name}`: add it first, without --finish"
    )]
    Foreign { name: WorkloadName, nkey: Nkey },
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("`{}` holds no seed of a workload", path.display())]
    Seed { path: PathBuf, source: SeedError },
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    FreshSeed(#[from] SeedError),
    #[error(transparent)]
    Known(#[from] KnownError),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("the invitation is of no use: {0}")]
    Invitation(#[from] InvitationError),
    #[error("`{url}` does not let this host in: is the invitation over, or was it used?")]
    JoinConnect {
        url: String,
        source: async_nats::ConnectError,
    },
    #[error("no broker took the key: nothing was handed in")]
    NoBroker,
    #[error("the broker did not take the key: {0}")]
    JoinRefused(String),
}
