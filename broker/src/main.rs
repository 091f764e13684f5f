//! The operator's command line.

fn main() -> std::process::ExitCode {
    bulla_broker::cli::main()
}
