//! `bulla trust …`: root, policy key and issuing keys, and how they are replaced.

mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bulla_envelope::MAX_ISSUING_LIFE;
use bulla_identity::TrustDomain;
use bulla_keyring::{AuthorityKey, AuthorityRole};

use crate::clock;
use crate::trust_dir::{
    Init, NewKey, Outcome, SignerError, TrustDir, TrustDirError, create_key, parse_public,
};
use report::{Next, Summary};

/// What `show` finds is good.
const YES: u8 = 0;
/// What `show` finds does not count, or not any more.
const NO: u8 = 1;
/// Nothing was done.
const ERROR: u8 = 2;

/// `bulla trust …`
#[derive(clap::Subcommand, Debug)]
pub enum TrustCommand {
    /// Make root, policy key, the first issuing key and the first trust bundle
    #[command(
        long_about = "Make root, policy key, the first issuing key and the first trust bundle.\n\n\
            The directory belongs on the operator's own machine, offline where it can be. What\n\
            leaves it: `root.pub` to every service and broker, which pin it; `bundle` and the\n\
            signed `policy` to any one broker; `issuing/<broker>/` to that broker. Root and policy\n\
            key never go to a broker. Key files are made with mode 0600 and never overwritten.\n\n\
            A key can be held elsewhere, by an HSM, a cloud service, age or gpg: then name a\n\
            command that signs. It gets the bytes on standard input, and answers with the Ed25519\n\
            signature: 64 bytes, hexadecimal digits or base64. Every answer is verified.",
        after_help = "Examples:\n  \
            bulla trust init --domain acme.example\n  \
            bulla trust init --domain acme.example --dir /media/vault/trust --broker east\n  \
            bulla trust init --domain acme.example \\\n      \
            --root-sign-with 'hsm-sign --slot 2' --root-public @root.pem\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Init(InitArgs),

    /// Show which keys count, and until when
    #[command(
        long_about = "Show which keys count, and until when, proven by `root.pub`.\n\n\
            Warns of what ends soon: an issuing key is trusted for 7 days at most, so a bundle has\n\
            to be signed every week.",
        after_help = "Examples:\n  \
            bulla trust show\n  \
            bulla trust show --dir /media/vault/trust --json | jq .issuing\n  \
            bulla trust show --within 2d || page-the-operator\n\n\
            Exit code: 0 good, 1 something has ended or ends soon, 2 an error."
    )]
    Show(ShowArgs),

    /// Sign the next version of the bundle, with the same keys and new times
    #[command(
        long_about = "Sign the next version of the bundle, with the same keys and new times.\n\n\
            The newest issuing key of each broker is trusted for another 7 days. One that has ended\n\
            is named for 31 days more, because what streams stored under it is judged as of then;\n\
            nothing new counts under it. With --drop an issuing key leaves at once, and nothing\n\
            that it issued counts any more, nor what streams stored under it: for a broker that was\n\
            broken into.\n\n\
            Replace the file `trust.bundle` of any one broker with the new bundle. The broker takes\n\
            it within ten seconds, or at once on SIGHUP, and from there it reaches everybody.",
        after_help = "Examples:\n  \
            bulla trust sign\n  \
            bulla trust sign --life 14d\n  \
            bulla trust sign --drop bulla-issuing-public-1:…\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Sign(SignArgs),

    /// Replace the root, without anybody noticing
    #[command(
        name = "rotate-root",
        long_about = "Replace the root, without anybody noticing.\n\n\
            1. `bulla trust rotate-root`: makes a new root. The old one vouches for it, once, and\n   \
            the new one signs the bundle. Who pins either takes it; what runs follows to the new\n   \
            root and never back. Give the bundle to a broker.\n\
            2. Give the new `root.pub` to every service and broker, for their next start.\n\
            3. `bulla trust rotate-root --finish`: the bundle names no former root any more. Who\n   \
            still pins the old one does not start. Destroy the old key.",
        after_help = "Examples:\n  \
            bulla trust rotate-root\n  \
            bulla trust rotate-root --sign-with 'hsm-sign --slot 3' --public @new-root.pem\n  \
            bulla trust rotate-root --finish\n\n\
            Exit code: 0 done, 2 an error."
    )]
    RotateRoot(RotateKeyArgs),

    /// Replace a broker's issuing key, without a refused message
    #[command(
        name = "rotate-issuer",
        long_about = "Replace a broker's issuing key, without a refused message.\n\n\
            A new key joins the bundle; the old one counts until its own time is over, 7 days at\n\
            most, because what it issued lives on, and for what streams stored until then. Give the\n\
            new file in `issuing/<broker>/` to the broker, into the directory that `keys.issuing` in\n\
            its `broker.toml` names, and the bundle to any broker. Each reads its keys anew every\n\
            ten seconds, and goes over to the new one 15 seconds after it took the bundle.",
        after_help = "Examples:\n  \
            bulla trust rotate-issuer --broker east\n  \
            bulla trust rotate-issuer --broker west --public bulla-issuing-public-1:…\n\n\
            With --public the broker made the key itself, with `bulla trust key`.\n\n\
            Exit code: 0 done, 2 an error."
    )]
    RotateIssuer(RotateIssuerArgs),

    /// Replace the policy key, without a refused message
    #[command(
        name = "rotate-policy-key",
        long_about = "Replace the policy key, without a refused message.\n\n\
            1. `bulla trust rotate-policy-key`: a new key joins the bundle, and the policy here is\n   \
            signed by it, as its next revision. Give bundle and policy to a broker. If something\n   \
            is revoked, sign the list by the new key as well: `bulla revoke resign`.\n\
            2. `bulla trust rotate-policy-key --finish`, once every enforcer has taken both: the\n   \
            old key leaves the bundle, and nothing that it signed counts any more.\n\n\
            A key that was stolen leaves at once if both are done one after the other.",
        after_help = "Examples:\n  \
            bulla trust rotate-policy-key\n  \
            bulla trust rotate-policy-key --sign-with 'gpg-sign policy' --public @policy.pem\n  \
            bulla trust rotate-policy-key --finish\n\n\
            Exit code: 0 done, 2 an error."
    )]
    RotatePolicyKey(RotateKeyArgs),

    /// Make a key in a file, and print its public half
    #[command(
        long_about = "Make a key in a file with mode 0600, and print its public half.\n\n\
            For a broker that makes its issuing key itself, so that it never leaves the machine.",
        after_help = "Examples:\n  \
            bulla trust key issuing --out /etc/bulla/issuing/2.key\n\n\
            Exit code: 0 done, 2 an error."
    )]
    Key(KeyArgs),
}

/// Where the directory is, and how to answer.
#[derive(clap::Args, Debug)]
struct Common {
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

/// For how long a bundle is good.
#[derive(clap::Args, Debug)]
struct Life {
    /// How long the bundle is valid; its issuing keys are for 7 days at most
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = life)]
    life: Duration,
}

/// Arguments of `bulla trust init`.
#[derive(clap::Args, Debug)]
pub struct InitArgs {
    /// The trust domain, as in `spiffe://<trust domain>/<workload>`
    #[arg(long, value_name = "NAME", value_parser = |text: &str| TrustDomain::parse(text))]
    domain: TrustDomain,
    /// The first broker's name
    #[arg(long, value_name = "NAME", default_value = "broker")]
    broker: String,
    /// A command that signs with the root, instead of a key file
    #[arg(long, value_name = "CMD", requires = "root_public")]
    root_sign_with: Option<String>,
    /// The root's public key, or `@FILE` that holds it
    #[arg(long, value_name = "KEY", requires = "root_sign_with")]
    root_public: Option<String>,
    /// A command that signs with the policy key, instead of a key file
    #[arg(long, value_name = "CMD", requires = "policy_public")]
    policy_sign_with: Option<String>,
    /// The policy key's public half, or `@FILE` that holds it
    #[arg(long, value_name = "KEY", requires = "policy_sign_with")]
    policy_public: Option<String>,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bulla trust show`.
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    /// What ends sooner is no good
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = humantime::parse_duration)]
    within: Duration,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bulla trust sign`.
#[derive(clap::Args, Debug)]
pub struct SignArgs {
    /// An issuing key that leaves at once; may be said several times
    #[arg(long, value_name = "KEY")]
    drop: Vec<String>,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bulla trust rotate-root` and `rotate-policy-key`.
#[derive(clap::Args, Debug)]
pub struct RotateKeyArgs {
    /// The second step: the old key leaves
    #[arg(long, conflicts_with_all = ["sign_with", "public"])]
    finish: bool,
    /// A command that signs with the new key, instead of a key file
    #[arg(long, value_name = "CMD", requires = "public")]
    sign_with: Option<String>,
    /// The new public key, or `@FILE` that holds it
    #[arg(long, value_name = "KEY", requires = "sign_with")]
    public: Option<String>,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bulla trust rotate-issuer`.
#[derive(clap::Args, Debug)]
pub struct RotateIssuerArgs {
    /// The broker's name
    #[arg(long, value_name = "NAME", default_value = "broker")]
    broker: String,
    /// The public half of a key that the broker made itself, or `@FILE` that holds it
    #[arg(long, value_name = "KEY")]
    public: Option<String>,
    #[command(flatten)]
    life: Life,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bulla trust key`.
#[derive(clap::Args, Debug)]
pub struct KeyArgs {
    /// `issuing`, `policy` or `root`
    #[arg(value_parser = role)]
    role: AuthorityRole,
    /// The file to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs one command; what it did is printed.
pub fn run(command: &TrustCommand) -> ExitCode {
    let (json, outcome) = match command {
        TrustCommand::Init(args) => (args.common.json, init(args)),
        TrustCommand::Show(args) => (args.common.json, show(args)),
        TrustCommand::Sign(args) => (args.common.json, sign(args)),
        TrustCommand::RotateRoot(args) => (args.common.json, rotate_root(args)),
        TrustCommand::RotateIssuer(args) => (args.common.json, rotate_issuer(args)),
        TrustCommand::RotatePolicyKey(args) => (args.common.json, rotate_policy_key(args)),
        TrustCommand::Key(args) => (args.json, key(args)),
    };
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        report::fail(json, &failure);
        ERROR
    }))
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Dir(#[from] TrustDirError),
    #[error("`{argument}`")]
    Public {
        argument: &'static str,
        source: SignerError,
    },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

fn init(args: &InitArgs) -> Result<u8, Failure> {
    let place = |role, command: &Option<String>, argument, public: &Option<String>| {
        new_key(role, command.as_deref(), argument, public.as_deref())
    };
    let init = Init {
        domain: args.domain.clone(),
        root: place(
            AuthorityRole::Root,
            &args.root_sign_with,
            "--root-public",
            &args.root_public,
        )?,
        policy: place(
            AuthorityRole::Policy,
            &args.policy_sign_with,
            "--policy-public",
            &args.policy_public,
        )?,
        broker: args.broker.clone(),
        life: args.life.life,
    };
    let common = &args.common;
    let made = TrustDir::init(&common.dir, &init, common.sign_limit, clock::now());
    let (dir, outcome) = made?;
    Ok(done(&dir, &outcome, common, Next::Init))
}

fn show(args: &ShowArgs) -> Result<u8, Failure> {
    let dir = TrustDir::open(&args.common.dir, args.common.sign_limit)?;
    let now = clock::now();
    let summary = Summary::of(dir.domain(), dir.state(now)?, now, args.within);
    summary.print(args.common.json);
    Ok(if summary.is_good() { YES } else { NO })
}

fn sign(args: &SignArgs) -> Result<u8, Failure> {
    let (mut dir, now) = (open(&args.common)?, clock::now());
    let dropped = args.drop.iter().map(|text| {
        let key = public(AuthorityRole::Issuing, "--drop", text)?;
        Ok::<_, Failure>(key)
    });
    let dropped = dropped.collect::<Result<Vec<_>, _>>()?;
    let outcome = if dropped.is_empty() {
        dir.sign(args.life.life, now)?
    } else {
        dir.drop_issuers(&dropped, args.life.life, now)?
    };
    Ok(done(&dir, &outcome, &args.common, Next::Bundle))
}

fn rotate_root(args: &RotateKeyArgs) -> Result<u8, Failure> {
    let (mut dir, now, life) = (open(&args.common)?, clock::now(), args.life.life);
    if args.finish {
        let outcome = dir.finish_root(life, now)?;
        return Ok(done(&dir, &outcome, &args.common, Next::Bundle));
    }
    let new = args.new_key(AuthorityRole::Root)?;
    let outcome = dir.rotate_root(&new, life, now)?;
    Ok(done(&dir, &outcome, &args.common, Next::Root))
}

fn rotate_issuer(args: &RotateIssuerArgs) -> Result<u8, Failure> {
    let mut dir = open(&args.common)?;
    let given = args.public.as_deref();
    let given = given.map(|text| public(AuthorityRole::Issuing, "--public", text));
    let given = given.transpose()?;
    let outcome = dir.rotate_issuer(&args.broker, given, args.life.life, clock::now())?;
    Ok(done(&dir, &outcome, &args.common, Next::Issuer))
}

fn rotate_policy_key(args: &RotateKeyArgs) -> Result<u8, Failure> {
    let (mut dir, now, life) = (open(&args.common)?, clock::now(), args.life.life);
    if args.finish {
        let outcome = dir.finish_policy_key(life, now)?;
        return Ok(done(&dir, &outcome, &args.common, Next::Bundle));
    }
    let new = args.new_key(AuthorityRole::Policy)?;
    let outcome = dir.rotate_policy_key(&new, life, now)?;
    Ok(done(&dir, &outcome, &args.common, Next::PolicyKey))
}

fn key(args: &KeyArgs) -> Result<u8, Failure> {
    let public = create_key(args.role, &args.out)?;
    report::key(args.json, &args.out, public);
    Ok(YES)
}

fn open(common: &Common) -> Result<TrustDir, Failure> {
    Ok(TrustDir::open(&common.dir, common.sign_limit)?)
}

fn done(dir: &TrustDir, outcome: &Outcome, common: &Common, next: Next) -> u8 {
    report::outcome(dir, outcome, common.json, next);
    YES
}

impl RotateKeyArgs {
    fn new_key(&self, role: AuthorityRole) -> Result<NewKey, Failure> {
        let (command, public) = (self.sign_with.as_deref(), self.public.as_deref());
        new_key(role, command, "--public", public)
    }
}

fn new_key(
    role: AuthorityRole,
    command: Option<&str>,
    argument: &'static str,
    text: Option<&str>,
) -> Result<NewKey, Failure> {
    match (command, text) {
        (Some(command), Some(text)) => Ok(NewKey::Command {
            command: command.to_owned(),
            public: Box::new(public(role, argument, text)?),
        }),
        _ => Ok(NewKey::File),
    }
}

/// A public key, or the file that holds it.
fn public(
    role: AuthorityRole,
    argument: &'static str,
    text: &str,
) -> Result<AuthorityKey, Failure> {
    let held;
    let text = match text.strip_prefix('@') {
        None => text,
        Some(file) => {
            held = std::fs::read_to_string(file).map_err(|source| Failure::Read {
                path: file.into(),
                source,
            })?;
            &held
        }
    };
    parse_public(role, text).map_err(|source| Failure::Public { argument, source })
}

fn role(word: &str) -> Result<AuthorityRole, String> {
    match word {
        "root" => Ok(AuthorityRole::Root),
        "policy" => Ok(AuthorityRole::Policy),
        "issuing" => Ok(AuthorityRole::Issuing),
        _ => Err("the roles are issuing, policy and root".to_owned()),
    }
}

/// At least an hour: it has to reach everybody; at most ten years.
fn life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let longest = MAX_ISSUING_LIFE.saturating_mul(522);
    if !(Duration::from_secs(3600)..=longest).contains(&life) {
        return Err("a bundle lives from an hour to ten years".to_owned());
    }
    Ok(life)
}
