//! `bulla broker init`: everything that a deployment begins with.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use bulla_identity::{NkeyKind, TrustDomain};
use serde_json::json;

use super::{BAD, chain};
use crate::BrokerConfig;
use crate::deployment::{
    self, Deployment, DeploymentError, Drift, GivenOperator, GivenTls, OperatorPlan, Plan,
    PlanError,
};

/// Done, or nothing is wrong.
const YES: u8 = 0;
/// Something is not as it would be written, or could be read by others.
const NO: u8 = 1;
/// Nothing was done.
const ERROR: u8 = 2;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Write a nats-server's configuration, keys and certificates, and the brokers'
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Write everything that a deployment begins with: a commented configuration for one\n\
        nats-server or a cluster of three (accounts, auth callout with an xkey, TLS, limits,\n\
        monitoring on loopback alone, no MQTT), all keys (0600), a certificate authority for\n\
        nats-server unless certificates are named, the brokers' configurations, the trust directory\n\
        with its first bundle, and a policy that allows nothing yet.\n\n\
        With --operator nats-server knows accounts by JWTs that an operator of our own signs, and\n\
        asks about all connections anew when the policy changes, without ending them. With\n\
        --operator-seed it is an operator that is there already, with nats-servers of his: then no\n\
        nats-server.conf is written, but the accounts AUTH, JS and APP under his name (to be pushed\n\
        by `bulla broker push` or his own tools) and nats/settings.conf, which says what his servers\n\
        have to be told besides.\n\n\
        Nothing is ever overwritten. What the configurations say follows from init.toml, the keys\n\
        and policy.toml: --check compares and says what differs, for example because a policy has\n\
        new streams, whose subjects nats-server has to know; --print shows what a file would say, and\n\
        --update writes what differs anew, but never a key; --renew-certificates makes new ones for\n\
        the nodes by the authority in tls/. Reload nats-server after either.\n\n\
        Then move what does not belong on these machines: `trust/root-1.key` and\n\
        `trust/policy-1.key` to the operator's own, each `n…/` with its certificate and key to its\n\
        node, `tls/ca.key` to a safe place.",
    after_help = "Examples:\n  \
        bulla broker init --domain acme.example --dir /etc/bulla --host bus.acme.example\n  \
        bulla broker init --domain acme.example --nodes 3 --brokers 2 \\\n    \
            --host n1.acme.example --host n2.acme.example --host n3.acme.example\n  \
        bulla broker init --domain acme.example --nodes 3          three on this machine, to try\n  \
        bulla broker init --domain acme.example --operator\n  \
        bulla broker init --domain acme.example --host bus.acme.example \\\n    \
            --operator-seed operator-signing.nk --system-creds sys.creds\n  \
        bulla broker init --dir /etc/bulla --check\n  \
        bulla broker init --dir /etc/bulla --print nats-server.conf > new.conf\n\n\
        Exit code: 0 done or nothing differs, 1 something differs, 2 an error."
)]
pub(super) struct BrokerInitArgs {
    /// The directory; it may exist, but none of the files
    #[arg(long, value_name = "DIR", default_value = "bulla")]
    dir: PathBuf,
    /// The trust domain, as in `spiffe://<trust domain>/<workload>`
    #[arg(long, value_name = "NAME", required_unless_present_any = ["check", "print", "update", "renew_certificates"],
          value_parser = |text: &str| TrustDomain::parse(text))]
    domain: Option<TrustDomain>,
    /// Where a node is reached; one for each node, or one for all [default: 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// How many nodes: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
    /// The port for clients; servers meet 2000 above it, monitoring is 4000 above it
    #[arg(long, value_name = "PORT", default_value_t = 4222)]
    port: u16,
    /// How many brokers: two or more in two groups, so that one may hang
    #[arg(long, value_name = "N", default_value_t = 1)]
    brokers: usize,
    /// A certificate for all nodes (PEM), instead of one that is made
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who issued it (PEM), or the certificates of the operator's nats-servers
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// nats-server in operator mode, under an operator of our own
    #[arg(long, conflicts_with_all = ["check", "print", "update"])]
    operator: bool,
    /// Let nats-servers keep accounts that are pushed to them, instead of reading them from
    /// their configuration
    #[arg(long, requires = "operator")]
    pushed: bool,
    /// The seed (0600) that signs accounts for an operator that is there already
    #[arg(long, value_name = "FILE", requires = "system_creds",
          conflicts_with_all = ["operator", "check", "print", "update", "tls_cert"])]
    operator_seed: Option<PathBuf>,
    /// Credentials (0600) of a user of his system account
    #[arg(long, value_name = "FILE", requires = "operator_seed")]
    system_creds: Option<PathBuf>,
    /// Write nothing: compare what lies there with what would be written
    #[arg(long, conflicts_with_all = ["domain", "host", "tls_cert"])]
    check: bool,
    /// Write anew what --check finds different, but no key
    #[arg(long, conflicts_with_all = ["domain", "host", "tls_cert", "check"])]
    update: bool,
    /// Make new keys and certificates for the nodes, by the authority in tls/
    #[arg(long, conflicts_with_all = ["domain", "host", "tls_cert", "check", "update"])]
    renew_certificates: bool,
    /// Write nothing: print what a file would say by now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["domain", "host", "tls_cert", "check", "update", "renew_certificates"])]
    print: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BrokerInitArgs) -> ExitCode {
    let outcome = match (&args.print, args.check, args.update) {
        (Some(file), ..) => print(args, file),
        (None, true, _) => check(args),
        (None, false, true) => update(args),
        (None, false, false) if args.renew_certificates => update(args),
        (None, false, false) => create(args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => fail(args.json, &failure),
    }
}

/// Make one of the keys that nats-server's configuration names
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Make one of the keys that nats-server's configuration names, in a file with mode 0600\n\
        that must not exist, and print its public half: to replace one that `bulla broker init` made.",
    after_help = "Examples:\n  \
        bulla broker key xkey --out keys/xkey.nk\n  \
        bulla broker key user --out keys/broker-js.nk\n\n\
        Exit code: 0 done, 2 an error."
)]
pub(super) struct BrokerKeyArgs {
    /// `issuer` (signs the callout's answers), `xkey` (opens its requests), `user` (a
    /// broker's or operator's) or `operator` (signs accounts, in operator mode)
    #[arg(value_enum)]
    kind: KeyKind,
    /// The file to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KeyKind {
    Issuer,
    Xkey,
    User,
    Operator,
}

pub(super) fn key(args: &BrokerKeyArgs) -> ExitCode {
    let kind = match args.kind {
        KeyKind::Issuer => Some(NkeyKind::Account),
        KeyKind::Xkey => None,
        KeyKind::User => Some(NkeyKind::User),
        KeyKind::Operator => Some(NkeyKind::Operator),
    };
    match deployment::make_key(&args.out, kind) {
        Ok(public) if args.json => {
            let file = args.out.display().to_string();
            let made = json!({ "ok": true, "file": file, "nkey": public.to_string() });
            say(&format!("{made:#}"));
            ExitCode::from(YES)
        }
        Ok(public) => {
            say(&public.to_string());
            ExitCode::from(YES)
        }
        Err(error) => fail(args.json, &Failure::from(error)),
    }
}

fn fail(json: bool, failure: &Failure) -> ExitCode {
    let text = chain(failure);
    if json {
        say(&format!("{:#}", json!({ "ok": false, "error": text })));
    } else {
        let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
    }
    ExitCode::from(ERROR)
}

fn create(args: &BrokerInitArgs) -> Result<u8, Failure> {
    // clap asks for it where it is needed.
    let domain = args.domain.clone().ok_or(Failure::Domain)?;
    let mut plan = Plan::new(domain, &args.host, args.nodes, args.port, args.brokers)?;
    if let (Some(certificate), Some(key), Some(ca)) = (&args.tls_cert, &args.tls_key, &args.tls_ca)
    {
        plan.tls = Some(GivenTls {
            certificate: there(certificate)?,
            key: there(key)?,
            ca: there(ca)?,
        });
    }
    if args.tls_ca.is_some() && args.tls_cert.is_none() && args.operator_seed.is_none() {
        return Err(Failure::LonelyCa);
    }
    if args.operator {
        plan.operator = Some(OperatorPlan {
            is_pushed: args.pushed,
            given: None,
        });
    }
    if let (Some(seed), Some(system)) = (&args.operator_seed, &args.system_creds) {
        let ca = args.tls_ca.as_deref().map(there).transpose()?;
        plan.operator = Some(OperatorPlan {
            is_pushed: true,
            given: Some(GivenOperator {
                seed: there(seed)?,
                system: there(system)?,
                ca,
            }),
        });
    }
    let (deployment, made) = Deployment::create(&args.dir, plan)?;
    if args.json {
        let made: Vec<String> = made.iter().map(|path| path.display().to_string()).collect();
        say(&format!("{:#}", json!({ "ok": true, "created": made })));
        return Ok(YES);
    }
    for path in &made {
        say(&format!("{GOOD}created{GOOD:#}  {}", path.display()));
    }
    let dir = args.dir.display();
    say("\nThen, on this machine or after the files are where they belong:\n");
    if deployment.plan().given_operator().is_some() {
        say(&format!(
            "  {dir}/nats/settings.conf                  into each nats-server's configuration\n  \
             bulla broker push --dir {dir}                  the accounts to nats-server"
        ));
    }
    let nodes = match deployment.plan().given_operator() {
        Some(_) => &[][..],
        None => &deployment.plan().nodes[..],
    };
    for node in nodes {
        let config = match deployment.plan().nodes.len() {
            1 => deployment.path("nats-server.conf"),
            _ => deployment.path(&node.name).join("nats-server.conf"),
        };
        say(&format!("  nats-server --config {}", config.display()));
    }
    for index in 0..deployment.plan().brokers {
        let file = [
            "broker.toml",
            "broker-b.toml",
            "broker-c.toml",
            "broker-d.toml",
        ];
        let file = file.get(index).copied().unwrap_or_default();
        say(&format!("  bulla broker --config {dir}/{file}"));
    }
    say(&format!(
        "  bulla identity new orders --out {dir}/keys/orders.nk --policy {dir}/policy.toml\n  \
         bulla policy apply --dir {dir} {dir}/policy.toml\n  \
         bulla doctor --dir {dir}\n\n\
         {WARN}Keep{WARN:#} {dir}/trust/root-1.key and {dir}/trust/policy-1.key off these machines."
    ));
    Ok(YES)
}

fn check(args: &BrokerInitArgs) -> Result<u8, Failure> {
    let deployment = Deployment::open(&args.dir)?;
    let policy = deployment.policy()?;
    let drift = deployment.drift(&policy)?;
    let secrets = deployment.secrets();
    let mut problems = Vec::new();
    for (path, drift) in &drift {
        match drift {
            Drift::Same => {}
            Drift::Missing => problems.push((path.clone(), "is missing".to_owned())),
            Drift::Differs { line } => {
                problems.push((path.clone(), format!("differs from line {line} on")));
            }
        }
    }
    for (path, outcome) in &secrets {
        if let Err(error) = outcome {
            problems.push((path.clone(), chain(error)));
        }
    }
    for (path, _) in &drift {
        if path.extension().is_some_and(|end| end == "toml")
            && let Err(error) = BrokerConfig::load(path)
        {
            problems.push((path.clone(), error.to_string()));
        }
    }
    let is_good = problems.is_empty();
    if args.json {
        let problems = problems
            .iter()
            .map(|(path, what)| json!({ "file": path.display().to_string(), "problem": what }));
        let problems: Vec<_> = problems.collect();
        say(&format!(
            "{:#}",
            json!({ "ok": is_good, "problems": problems })
        ));
    } else {
        for (path, what) in &problems {
            say(&format!("{BAD}✗{BAD:#} {}: {what}", path.display()));
        }
        let (files, keys) = (drift.len(), secrets.len());
        if is_good {
            say(&format!(
                "{GOOD}✓{GOOD:#} {files} configurations and {keys} keys are as they should be"
            ));
        } else {
            say(&format!(
                "\n{DIM}--print FILE shows what a file would say{DIM:#}"
            ));
        }
    }
    Ok(if is_good { YES } else { NO })
}

fn update(args: &BrokerInitArgs) -> Result<u8, Failure> {
    let deployment = Deployment::open(&args.dir)?;
    let written = if args.renew_certificates {
        deployment.renew_certificates()?
    } else {
        deployment.update(&deployment.policy()?)?
    };
    if args.json {
        let written = written.iter().map(|path| path.display().to_string());
        let written: Vec<_> = written.collect();
        say(&format!("{:#}", json!({ "ok": true, "written": written })));
        return Ok(YES);
    }
    for path in &written {
        say(&format!("{GOOD}written{GOOD:#}  {}", path.display()));
    }
    if written.is_empty() {
        say(&format!("{GOOD}✓{GOOD:#} everything is as it should be"));
    }
    Ok(YES)
}

fn print(args: &BrokerInitArgs, file: &Path) -> Result<u8, Failure> {
    let deployment = Deployment::open(&args.dir)?;
    let policy = deployment.policy()?;
    let wanted = deployment.path(&file.to_string_lossy());
    let rendered = deployment.configurations(&policy)?;
    let found = rendered.into_iter().find(|one| one.path == wanted);
    let found = found.ok_or_else(|| Failure::NoFile(file.to_owned()))?;
    say(found.text.trim_end());
    Ok(YES)
}

/// An absolute path of a file that is there.
fn there(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })
}

fn say(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("name the trust domain with --domain")]
    Domain,
    #[error("--tls-ca comes with --tls-cert and --tls-key, or with --operator-seed")]
    LonelyCa,
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is no configuration of this deployment: name one relative to its directory", .0.display())]
    NoFile(PathBuf),
}
