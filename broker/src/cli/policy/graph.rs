//! `bulla policy graph`: who talks to whom.

use std::io::Write as _;
use std::path::PathBuf;

use bulla_policy_tools::Graph;
use clap::{ValueEnum, ValueHint};
use serde_json::{Value, json};

use super::input::load;
use super::print::{GOOD, plural, print_json, say, write_file};
use super::{Failure, YES};

/// Draw who talks to whom
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Draw who talks to whom, on which subjects, by a policy.\n\n\
        A line is there if rules allow both ends of it, for some user at some time. Rules in\n\
        shadow, and what a deny rule without condition takes whole, are left out. The SVG and\n\
        the page hold everything that they show: they ask no network for anything. The page\n\
        finds workloads and subjects, and shows what belongs to the one under the pointer.",
    after_help = "Examples:\n  \
        bulla policy graph shop.toml -o shop.html\n  \
        bulla policy graph shop.toml -o shop.svg\n  \
        bulla policy graph shop.toml | dot -Tpng > shop.png     with Graphviz\n  \
        bulla policy graph shop.toml --json | jq '.channels[] | select(.to[] == \"billing\")'\n\n\
        Exit code: 0 drawn, 2 an error."
)]
pub(crate) struct GraphArgs {
    /// The policy: a file, or a directory of `*.toml` files that make one
    #[arg(
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml",
        value_hint = ValueHint::AnyPath
    )]
    file: PathBuf,
    /// Write to this file instead of printing; its name tells the format
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// The format; DOT where neither this nor a file's name tells
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// Print the graph as JSON instead
    #[arg(long, conflicts_with_all = ["output", "format"])]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For Graphviz
    Dot,
    /// A picture
    Svg,
    /// A page with the picture and a table
    Html,
}

pub(super) fn graph(args: &GraphArgs) -> Result<u8, Failure> {
    let policy = load(&args.file)?;
    let graph = Graph::of(&policy);
    if args.json {
        print_json(&as_json(&graph));
        return Ok(YES);
    }
    let ending = args.output.as_deref().and_then(|path| path.extension());
    let format = args
        .format
        .unwrap_or_else(|| match ending.and_then(|ending| ending.to_str()) {
            Some("svg") => Format::Svg,
            Some("html" | "htm") => Format::Html,
            _ => Format::Dot,
        });
    let text = match format {
        Format::Dot => graph.to_dot(),
        Format::Svg => graph.to_svg(),
        Format::Html => {
            let title = format!("Who talks to whom: {}", policy.trust_domain());
            graph.to_html(&title)
        }
    };
    match &args.output {
        Some(path) => {
            write_file(path, &text)?;
            say!(
                "{GOOD}drawn{GOOD:#}  {}: {}, {}",
                path.display(),
                plural(graph.workloads.len(), "workload"),
                plural(graph.channels.len(), "channel")
            );
        }
        // A reader that went away needs no answer.
        None => drop(std::io::stdout().write_all(text.as_bytes())),
    }
    Ok(YES)
}

fn as_json(graph: &Graph) -> Value {
    let names = |list: &[usize]| -> Vec<&String> {
        list.iter()
            .filter_map(|w| graph.workloads.get(*w))
            .collect()
    };
    let channels: Vec<Value> = graph
        .channels
        .iter()
        .map(|channel| {
            json!({
                "talk": channel.talk.as_str(),
                "stream": channel.stream,
                "subjects": channel.subjects,
                "from": names(&channel.from),
                "to": names(&channel.to),
            })
        })
        .collect();
    json!({ "workloads": graph.workloads, "channels": channels })
}
