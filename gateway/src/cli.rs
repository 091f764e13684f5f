//! The command line, shared by `bulla-gateway` and `bulla gateway`.

use std::error::Error as StdError;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use bulla_process::LogFormat;

use crate::config::GatewayConfig;

/// Exit code when the configuration or the start fails.
const FAILED: u8 = 2;

/// Serves HTTP clients: their requests become sealed messages.
#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// The configuration file (`gateway.toml`).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Reads the configuration and the routes, says what is wrong, and starts nothing.
    #[arg(long)]
    pub check: bool,

    /// How to log: `json` (lines on stdout) or `pretty` (text on stderr).
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    pub log: LogFormat,

    /// Stops when standard input reaches its end, so that nothing outlives the parent.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// Runs the command. Exit code 0 when it stopped as it was told, 2 on an error.
#[must_use]
pub fn run(args: &GatewayArgs) -> ExitCode {
    let config = match GatewayConfig::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(FAILED);
        }
    };
    if args.check {
        let routes = config.routes.iter().count();
        let issuers = config.issuers.len();
        let mut out = std::io::stdout();
        let written = writeln!(out, "good: {routes} route(s), {issuers} issuer(s)");
        return ExitCode::from(u8::from(written.is_err()) * FAILED);
    }
    match start(args, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&chain(error.as_ref()));
            ExitCode::from(FAILED)
        }
    }
}

fn start(args: &GatewayArgs, config: GatewayConfig) -> Result<(), Box<dyn StdError>> {
    bulla_process::init_tracing(args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = bulla_process::shutdown_signal(args.until_stdin_closes)?;
        crate::run(config, stop).await?;
        Ok(())
    })
}

/// An error and what it stands on, in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn complain(text: &str) {
    // A closed stderr is no reason to panic.
    let _ = writeln!(std::io::stderr(), "error: {text}");
}
