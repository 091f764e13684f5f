//! The graph in the language of Graphviz.

use std::fmt::Write as _;

use super::{Graph, Talk};

pub(super) fn write(graph: &Graph) -> String {
    let mut out = String::from(
        "digraph policy {\n  rankdir = LR;\n  node [shape = box, style = rounded, fontname = \"sans-serif\"];\n  edge [fontname = \"sans-serif\", fontsize = 10];\n",
    );
    for name in &graph.workloads {
        // Writing to a string does not fail.
        let _ = writeln!(out, "  {};", quoted(name));
    }
    for (at, channel) in graph.channels.iter().enumerate() {
        let style = match channel.talk {
            Talk::Request => "color = \"#1f6feb\"",
            Talk::Event => "color = \"#2da44e\"",
            Talk::Stored => "color = \"#bf8700\"",
        };
        let mut label: Vec<&str> = channel.stream.iter().map(String::as_str).collect();
        label.extend(channel.subjects.iter().map(String::as_str));
        let node = quoted(&format!("channel {at}"));
        let shape = match channel.talk {
            Talk::Stored => "cylinder",
            Talk::Request | Talk::Event => "plaintext",
        };
        let _ = writeln!(
            out,
            "  {node} [shape = {shape}, style = \"\", fontsize = 10, label = {}];",
            quoted(&label.join("\n"))
        );
        for from in channel.from.iter().filter_map(|w| graph.workloads.get(*w)) {
            let _ = writeln!(out, "  {} -> {node} [{style}, dir = none];", quoted(from));
        }
        for to in channel.to.iter().filter_map(|w| graph.workloads.get(*w)) {
            let _ = writeln!(out, "  {node} -> {} [{style}];", quoted(to));
        }
    }
    out.push_str("}\n");
    out
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}
