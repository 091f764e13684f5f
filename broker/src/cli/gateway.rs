//! `bulla gateway`: the same command as `bulla-gateway`.

use std::process::ExitCode;

pub use bulla_gateway::cli::GatewayArgs;

/// Runs the HTTP edge until it is told to stop.
#[must_use]
pub fn run(args: GatewayArgs) -> ExitCode {
    bulla_gateway::cli::run(&args)
}
