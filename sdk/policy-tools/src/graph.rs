//! Who talks to whom, as a picture.

mod dot;
mod html;
mod layout;
mod svg;

use std::collections::{BTreeMap, BTreeSet};

use bulla_identity::{PatternToken, SubjectPattern};
use bulla_policy::{Effect, Policy, Rule, Verb};

/// How something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Talk {
    /// `request` to `serve`.
    Request,
    /// `publish` or `append` to `subscribe`.
    Event,
    /// `append` to `consume`, or `write` to `read`.
    Stored,
}

impl Talk {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Event => "event",
            Self::Stored => "stored",
        }
    }
}

/// Subjects on which all of some workloads may speak to all of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// How.
    pub talk: Talk,
    /// The stream or bucket, of what is stored.
    pub stream: Option<String>,
    /// On what, sorted.
    pub subjects: Vec<String>,
    /// Who sends: places in [`Graph::workloads`].
    pub from: Vec<usize>,
    /// Who receives.
    pub to: Vec<usize>,
}

/// Who may talk to whom by a policy: on some condition, at some time. Rules in
/// shadow, and what unconditional deny rules take whole, are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The workloads' names, sorted.
    pub workloads: Vec<String>,
    /// What they say to each other.
    pub channels: Vec<Channel>,
}

/// By how, stream and subject: who says it to whom.
type Said = BTreeMap<(Talk, Option<String>, String), BTreeSet<(usize, usize)>>;

/// One pattern that one workload may send or receive on.
struct Side {
    workload: usize,
    verb: Verb,
    pattern: SubjectPattern,
}

impl Graph {
    /// Reads the graph off a policy (POL-146).
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let names: Vec<String> = policy
            .workloads()
            .iter()
            .map(|workload| workload.name().to_string())
            .collect();
        let (allows, denies) = sides(policy, &names);
        let mut said = Said::new();
        for sent in &allows {
            for heard in &allows {
                let Some((talk, stream, subject)) = meet(policy, sent, heard) else {
                    continue;
                };
                let is_denied = |side: &Side, what: &SubjectPattern| {
                    denies.iter().any(|deny| {
                        deny.workload == side.workload
                            && deny.verb == side.verb
                            && deny.pattern.contains(what)
                    })
                };
                let heard_on = match heard.verb {
                    Verb::Consume => &heard.pattern,
                    _ => &subject,
                };
                if is_denied(sent, &subject) || is_denied(heard, heard_on) {
                    continue;
                }
                said.entry((talk, stream, subject.to_string()))
                    .or_default()
                    .insert((sent.workload, heard.workload));
            }
        }
        Self {
            workloads: names,
            channels: channels(said),
        }
    }

    /// The graph in the language of Graphviz.
    #[must_use]
    pub fn to_dot(&self) -> String {
        dot::write(self)
    }

    /// A picture that needs nothing beside itself.
    #[must_use]
    pub fn to_svg(&self) -> String {
        svg::write(self)
    }

    /// A page with the picture and a table, which asks no network for anything.
    #[must_use]
    pub fn to_html(&self, title: &str) -> String {
        html::write(self, title)
    }

    /// Who says something to itself alone, or nothing to anybody.
    fn is_alone(&self, workload: usize) -> bool {
        !self.channels.iter().any(|channel| {
            let others = |list: &[usize]| list.iter().any(|w| *w != workload);
            (channel.from.contains(&workload) && others(&channel.to))
                || (channel.to.contains(&workload) && others(&channel.from))
        })
    }
}

/// What the rules allow, and what they deny whoever the user is and whenever.
fn sides(policy: &Policy, names: &[String]) -> (Vec<Side>, Vec<Side>) {
    let (mut allows, mut denies) = (Vec::new(), Vec::new());
    for rule in policy.rules() {
        // The exchange of tokens is everybody's, and would hide the rest.
        if rule.id().starts_with('(') || rule.is_shadow() {
            continue;
        }
        let out = match rule.effect() {
            Effect::Allow => &mut allows,
            Effect::Deny if counts_always(rule) => &mut denies,
            Effect::Deny => continue,
        };
        for workload in policy.workloads_of(rule) {
            let Ok(workload) = names.binary_search_by(|n| (**n).cmp(workload.name().as_str()))
            else {
                continue;
            };
            for verb in rule.verbs() {
                out.extend(rule.patterns().iter().map(|pattern| Side {
                    workload,
                    verb,
                    pattern: pattern.clone(),
                }));
            }
        }
    }
    (allows, denies)
}

fn counts_always(rule: &Rule) -> bool {
    !rule.is_conditional()
        && rule.expires().is_none()
        && rule.hours().is_none()
        && rule.networks().is_none()
}

/// How and on what one side speaks to the other, if it does.
fn meet(
    policy: &Policy,
    sent: &Side,
    heard: &Side,
) -> Option<(Talk, Option<String>, SubjectPattern)> {
    match (sent.verb, heard.verb) {
        (Verb::Request, Verb::Serve) => {
            Some((Talk::Request, None, shared(&sent.pattern, &heard.pattern)?))
        }
        (Verb::Publish | Verb::Append, Verb::Subscribe) => {
            Some((Talk::Event, None, shared(&sent.pattern, &heard.pattern)?))
        }
        (Verb::Write, Verb::Read) => {
            let both = shared(&sent.pattern, &heard.pattern)?;
            let bucket = both.as_str().split('.').next().map(str::to_owned);
            Some((Talk::Stored, bucket, both))
        }
        (Verb::Append, Verb::Consume) => {
            let name = heard.pattern.as_str().split('.').next()?;
            let mut streams = policy.streams().iter();
            let stream = streams.find(|stream| stream.name() == name)?;
            let origin = match stream.mirror() {
                Some(origin) => policy.streams().iter().find(|s| s.name() == origin)?,
                None => stream,
            };
            let mut stored = origin.subjects().iter();
            let both = stored.find_map(|stored| shared(&sent.pattern, stored))?;
            Some((Talk::Stored, Some(name.to_owned()), both))
        }
        _ => None,
    }
}

/// Every subject of both, as a pattern; captures as the narrower side writes them.
fn shared(one: &SubjectPattern, other: &SubjectPattern) -> Option<SubjectPattern> {
    if one.contains(other) {
        return Some(other.clone());
    }
    if other.contains(one) {
        return Some(one.clone());
    }
    if !one.overlaps(other) {
        return None;
    }
    let mut out: Vec<&str> = Vec::new();
    let (mut a, mut b) = (one.tokens(), other.tokens());
    loop {
        match (a.split_first(), b.split_first()) {
            (Some((PatternToken::Rest, _)), _) => {
                out.extend(b.iter().map(word));
                break;
            }
            (_, Some((PatternToken::Rest, _))) => {
                out.extend(a.iter().map(word));
                break;
            }
            (Some((x, more_a)), Some((y, more_b))) => {
                out.push(match (x, y) {
                    (PatternToken::Literal(word), _) | (_, PatternToken::Literal(word)) => word,
                    _ => "*",
                });
                (a, b) = (more_a, more_b);
            }
            _ => break,
        }
    }
    SubjectPattern::parse(&out.join(".")).ok()
}

fn word(token: &PatternToken) -> &str {
    match token {
        PatternToken::Literal(text) => text,
        PatternToken::Any | PatternToken::Capture(_) => "*",
        PatternToken::Rest => ">",
    }
}

/// Pairs, put together where all of some speak to all of others.
fn channels(said: Said) -> Vec<Channel> {
    type Ends = (Talk, Option<String>, Vec<usize>, Vec<usize>);
    let mut by_ends: BTreeMap<Ends, Vec<String>> = BTreeMap::new();
    for ((talk, stream, subject), pairs) in said {
        let mut receivers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (from, to) in pairs {
            receivers.entry(from).or_default().push(to);
        }
        let mut senders: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (from, to) in receivers {
            senders.entry(to).or_default().push(from);
        }
        for (to, from) in senders {
            let ends = (talk, stream.clone(), from, to);
            by_ends.entry(ends).or_default().push(subject.clone());
        }
    }
    by_ends
        .into_iter()
        .map(|((talk, stream, from, to), subjects)| Channel {
            talk,
            stream,
            subjects,
            from,
            to,
        })
        .collect()
}

/// Text as it can stand in XML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
