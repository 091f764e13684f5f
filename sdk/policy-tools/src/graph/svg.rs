//! The graph as a picture.

use std::fmt::Write as _;

use super::layout::{Layout, Placed, Size, layout};
use super::{Channel, Graph, Talk, escaped};

const MARGIN: f64 = 24.0;
/// The height of a line of text.
const LINE: f64 = 16.0;
/// The width of a character of 12 px in a font of one width.
const CHAR: f64 = 7.3;
/// The most subjects that a channel shows; the page lists all.
const SHOWN: usize = 4;
/// The most characters of a subject that are shown.
const WIDEST: usize = 44;

const STYLE: &str = "\
text { font: 12px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #1f2328; }\n\
.workload rect { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.4; }\n\
.workload text { font-weight: bold; text-anchor: middle; }\n\
.channel rect { fill: #ffffff; stroke-width: 1; }\n\
.channel .stream { font-weight: bold; }\n\
path { fill: none; stroke-width: 1.4; }\n\
.request rect, path.request { stroke: #1f6feb; }\n\
.event rect, path.event { stroke: #2da44e; }\n\
.stored rect, path.stored { stroke: #bf8700; }\n\
.alone text { fill: #57606a; font-weight: normal; }\n\
.alone rect { stroke-dasharray: 4 3; }\n\
.legend text { fill: #57606a; }\n";

pub(super) fn write(graph: &Graph) -> String {
    let workloads: Vec<Size> = graph.workloads.iter().map(|name| box_of(name)).collect();
    let channels: Vec<Size> = graph.channels.iter().map(size).collect();
    let layout = layout(graph, &workloads, &channels);
    let alone: Vec<(usize, &String)> = graph
        .workloads
        .iter()
        .enumerate()
        .filter(|(at, _)| graph.is_alone(*at))
        .collect();
    let rows = rows(&alone, layout.width);
    let legend = 3.0 * LINE;
    let bottom = rows.last().map_or(0.0, |(_, placed)| placed.y + 40.0);
    let width = layout.width.max(420.0) + 2.0 * MARGIN;
    let height = layout.height + bottom + legend + 2.0 * MARGIN;

    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n\
         <title>Who talks to whom</title>\n<style>\n{STYLE}</style>\n<defs>\n"
    );
    for (talk, colour) in [
        (Talk::Request, "#1f6feb"),
        (Talk::Event, "#2da44e"),
        (Talk::Stored, "#bf8700"),
    ] {
        let _ = writeln!(
            out,
            "<marker id=\"to-{0}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" style=\"fill: {colour}; stroke: none\"/></marker>",
            talk.as_str()
        );
    }
    let _ = write!(
        out,
        "</defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<g transform=\"translate({MARGIN} {MARGIN})\">\n"
    );
    lines(graph, &layout, &mut out);
    for (at, (channel, placed)) in graph.channels.iter().zip(&layout.channels).enumerate() {
        if let Some(placed) = placed {
            channel_box(at, channel, placed, &mut out);
        }
    }
    for (at, (name, placed)) in graph.workloads.iter().zip(&layout.workloads).enumerate() {
        if let Some(placed) = placed {
            workload_box(at, name, placed, "workload", &mut out);
        }
    }
    for (at, placed) in &rows {
        if let Some(name) = graph.workloads.get(*at) {
            let below = Placed {
                y: placed.y + layout.height + LINE,
                ..*placed
            };
            workload_box(*at, name, &below, "workload alone", &mut out);
        }
    }
    let _ = writeln!(
        out,
        "<g class=\"legend\" transform=\"translate(0 {:.1})\">",
        layout.height + bottom + LINE + 12.0
    );
    let mut x = 0.0;
    for (talk, word) in [
        (Talk::Request, "request, served"),
        (Talk::Event, "event"),
        (Talk::Stored, "stored by a stream or bucket"),
    ] {
        let _ = writeln!(
            out,
            "<path class=\"{0}\" d=\"M{x:.1} 8 h28\" marker-end=\"url(#to-{0})\"/><text x=\"{1:.1}\" y=\"12\">{word}</text>",
            talk.as_str(),
            x + 36.0
        );
        x += 36.0 + word.len() as f64 * CHAR + 24.0;
    }
    out.push_str("</g>\n</g>\n</svg>\n");
    out
}

fn box_of(name: &str) -> Size {
    Size {
        width: name.chars().count() as f64 * (CHAR + 0.3) + 28.0,
        height: 34.0,
    }
}

/// What a channel's box says, line by line.
fn words(channel: &Channel) -> Vec<String> {
    let mut out: Vec<String> = channel.stream.iter().cloned().collect();
    let shown = match channel.subjects.len() {
        all if all <= SHOWN => all,
        _ => SHOWN - 1,
    };
    out.extend(channel.subjects.iter().take(shown).map(|s| shortened(s)));
    if channel.subjects.len() > shown {
        out.push(format!("and {} more", channel.subjects.len() - shown));
    }
    out
}

fn shortened(subject: &str) -> String {
    if subject.chars().count() <= WIDEST {
        return subject.to_owned();
    }
    let mut out: String = subject.chars().take(WIDEST - 1).collect();
    out.push('…');
    out
}

fn size(channel: &Channel) -> Size {
    let words = words(channel);
    let longest = words.iter().map(|w| w.chars().count()).max().unwrap_or(0);
    Size {
        width: longest as f64 * CHAR + 18.0,
        height: words.len() as f64 * LINE + 8.0,
    }
}

fn frame(placed: &Placed, round: f64, out: &mut String) {
    let Size { width, height } = placed.size;
    let _ = write!(
        out,
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{round}\"/>",
        placed.x - width / 2.0,
        placed.y - height / 2.0
    );
}

fn workload_box(at: usize, name: &str, placed: &Placed, class: &str, out: &mut String) {
    let _ = write!(out, "<g class=\"{class}\" data-w=\"{at}\">");
    frame(placed, 8.0, out);
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
        placed.x,
        placed.y + 4.0,
        escaped(name)
    );
}

fn channel_box(at: usize, channel: &Channel, placed: &Placed, out: &mut String) {
    let _ = write!(
        out,
        "<g class=\"channel {}\" data-c=\"{at}\"><title>{}</title>",
        channel.talk.as_str(),
        escaped(&channel.subjects.join("\n"))
    );
    frame(placed, 3.0, out);
    let left = placed.x - placed.size.width / 2.0 + 9.0;
    let top = placed.y - placed.size.height / 2.0;
    for (line, word) in words(channel).iter().enumerate() {
        let class = match (line, &channel.stream) {
            (0, Some(_)) => " class=\"stream\"",
            _ => "",
        };
        let _ = write!(
            out,
            "<text{class} x=\"{left:.1}\" y=\"{:.1}\">{}</text>",
            top + LINE * (line as f64 + 1.0),
            escaped(word)
        );
    }
    out.push_str("</g>\n");
}

/// Lines with level ends, so that they meet the boxes straight.
fn lines(graph: &Graph, layout: &Layout, out: &mut String) {
    for line in &layout.lines {
        let Some(channel) = graph.channels.get(line.channel) else {
            continue;
        };
        let mut points = line.points.clone();
        if !line.arrives {
            points.reverse();
        }
        let mut path = String::new();
        let mut before: Option<(f64, f64)> = None;
        for (x, y) in points {
            let _ = match before {
                None => write!(path, "M{x:.1} {y:.1}"),
                Some((from, level)) => {
                    let middle = (from + x) / 2.0;
                    write!(
                        path,
                        " C{middle:.1} {level:.1} {middle:.1} {y:.1} {x:.1} {y:.1}"
                    )
                }
            };
            before = Some((x, y));
        }
        let talk = channel.talk.as_str();
        let marker = match line.arrives {
            true => format!(" marker-end=\"url(#to-{talk})\""),
            false => String::new(),
        };
        let _ = writeln!(
            out,
            "<path class=\"{talk}\" d=\"{path}\"{marker} data-c=\"{}\" data-w=\"{}\"/>",
            line.channel, line.workload
        );
    }
}

/// Who talks to nobody else, in rows below.
fn rows(alone: &[(usize, &String)], width: f64) -> Vec<(usize, Placed)> {
    let mut out = Vec::new();
    let (mut x, mut y) = (0.0, 30.0);
    for (at, name) in alone {
        let size = box_of(name);
        if x > 0.0 && x + size.width > width.max(420.0) {
            (x, y) = (0.0, y + 46.0);
        }
        let placed = Placed {
            x: x + size.width / 2.0,
            y,
            size,
        };
        out.push((*at, placed));
        x += size.width + 16.0;
    }
    out
}
