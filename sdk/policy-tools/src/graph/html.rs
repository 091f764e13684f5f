//! The graph as a page.

use std::fmt::Write as _;

use super::{Graph, escaped};

const STYLE: &str = "\
body { font: 14px system-ui, sans-serif; margin: 24px; color: #1f2328; background: #ffffff; }\n\
h1 { font-size: 20px; } .picture { overflow: auto; border: 1px solid #d0d7de; border-radius: 8px; }\n\
svg .dim { opacity: 0.12; } svg [data-w], svg [data-c] { cursor: default; }\n\
input { font: inherit; padding: 6px 10px; margin: 20px 0 8px; width: 320px; }\n\
table { border-collapse: collapse; width: 100%; } th { text-align: left; }\n\
th, td { padding: 5px 12px; border-bottom: 1px solid #d0d7de; vertical-align: top; }\n\
td.s { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12px; }\n";

/// Shows what belongs to the workload or channel under the pointer, and only the
/// rows of the table that hold the words typed.
const SCRIPT: &str = "\
const all = [...document.querySelectorAll('svg [data-w], svg [data-c]')];\n\
const lines = all.filter(e => e.dataset.w && e.dataset.c);\n\
for (const e of all) {\n\
  e.addEventListener('mouseenter', () => {\n\
    const near = lines.filter(l => (!e.dataset.c || l.dataset.c === e.dataset.c) && (!e.dataset.w || e.dataset.c || l.dataset.w === e.dataset.w));\n\
    const cs = new Set(near.map(l => l.dataset.c));\n\
    const ws = new Set(lines.filter(l => cs.has(l.dataset.c)).map(l => l.dataset.w));\n\
    for (const o of all) {\n\
      const on = o.dataset.c ? cs.has(o.dataset.c) : ws.has(o.dataset.w);\n\
      o.classList.toggle('dim', !on && o !== e);\n\
    }\n\
  });\n\
  e.addEventListener('mouseleave', () => all.forEach(o => o.classList.remove('dim')));\n\
}\n\
const rows = [...document.querySelectorAll('tbody tr')];\n\
document.querySelector('input').addEventListener('input', e => {\n\
  const words = e.target.value.toLowerCase().split(/\\s+/);\n\
  for (const r of rows) r.hidden = !words.every(w => r.textContent.toLowerCase().includes(w));\n\
});\n";

pub(super) fn write(graph: &Graph, title: &str) -> String {
    let title = escaped(title);
    let mut rows = String::new();
    for channel in &graph.channels {
        let names = |list: &[usize]| {
            let names = list.iter().filter_map(|w| graph.workloads.get(*w));
            names.map(|n| escaped(n)).collect::<Vec<_>>().join(", ")
        };
        let subjects: Vec<String> = channel.subjects.iter().map(|s| escaped(s)).collect();
        let how = match &channel.stream {
            Some(stream) => format!("stored by {}", escaped(stream)),
            None => channel.talk.as_str().to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td>{how}</td><td class=\"s\">{}</td><td>{}</td></tr>",
            names(&channel.from),
            subjects.join("<br>"),
            names(&channel.to)
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <div class=\"picture\">\n{}</div>\n\
         <input type=\"search\" placeholder=\"Find a workload or subject\" aria-label=\"Find\">\n\
         <table>\n<thead><tr><th>From</th><th>How</th><th>On</th><th>To</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        graph.to_svg()
    )
}
