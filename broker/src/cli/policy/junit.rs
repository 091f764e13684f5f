//! Results of `bulla policy test` as JUnit XML.

use std::fmt::Write as _;

use super::test::{Run, question};

/// One suite for each file of cases, one test case for each question.
pub(super) fn junit(runs: &[Run]) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"bulla policy test\">\n",
    );
    for run in runs {
        for (path, report) in &run.reports {
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\">",
                escaped(&path.display().to_string()),
                report.asked.len(),
                report.failures().count()
            );
            let _ = writeln!(
                out,
                "    <properties>\n      <property name=\"policy\" value=\"{}\"/>\n      <property name=\"coverage\" value=\"{}\"/>\n    </properties>",
                escaped(&run.policy_file.display().to_string()),
                run.coverage.percent()
            );
            for asked in &report.asked {
                let _ = write!(
                    out,
                    "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\" line=\"{}\"",
                    escaped(&asked.case),
                    escaped(&question(asked)),
                    escaped(&path.display().to_string()),
                    asked.place.line()
                );
                if asked.passed() {
                    out.push_str("/>\n");
                    continue;
                }
                let complaints: Vec<String> =
                    asked.complaints.iter().map(ToString::to_string).collect();
                let why = match &asked.answer {
                    bulla_policy::Answer::Deny(denied) => denied.to_string(),
                    bulla_policy::Answer::Allow(allowed) => {
                        format!("rule `{}` allows it", allowed.rule)
                    }
                };
                let _ = writeln!(
                    out,
                    ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>",
                    escaped(&complaints.join("; ")),
                    escaped(&why)
                );
            }
            out.push_str("  </testsuite>\n");
        }
    }
    out.push_str("</testsuites>\n");
    out
}

/// Text as it can stand in an attribute or an element; what XML cannot hold at
/// all becomes `�`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_case_is_text() {
        assert_eq!(
            escaped("a<b> & \"c\"\u{1b}[31m\n"),
            "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}[31m&#10;"
        );
    }
}
