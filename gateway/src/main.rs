//! `bulla-gateway`: the HTTP edge alone.

use std::process::ExitCode;

use bulla_gateway::cli::{self, GatewayArgs};
use clap::Parser;

/// The HTTP edge of a Bulla bus.
#[derive(Parser)]
#[command(name = "bulla-gateway", version)]
struct Arguments {
    #[command(flatten)]
    gateway: GatewayArgs,
}

fn main() -> ExitCode {
    cli::run(&Arguments::parse().gateway)
}
