//! `bulla man`: the manual, from the same words as `--help`.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Command, ValueHint};

/// Print or write the manual pages
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Print the manual page of `bulla`, or write one page for each command into a directory.\n\n\
        The pages hold the same words as --help; examples and exit codes are in them.",
    after_help = "Examples:\n  \
        bulla man | man -l -\n  \
        bulla man ~/.local/share/man/man1 && man bulla-policy-check"
)]
pub(super) struct ManArgs {
    /// The directory; it is made if it is not there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// Prints one page, or writes them all.
pub(super) fn man(args: &ManArgs, command: Command) -> Result<(), Box<dyn Error>> {
    let command = command.disable_help_subcommand(true);
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return Ok(());
    };
    let failed = |e: std::io::Error| format!("cannot write the manual to `{}`: {e}", dir.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)?;
    let written = dir.join("bulla.1");
    writeln!(
        std::io::stdout(),
        "{} and a page for each command",
        written.display()
    )?;
    Ok(())
}
