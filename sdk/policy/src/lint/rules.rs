//! Lints of single rules, and of rules beside each other.

use bulla_identity::{PatternToken, SubjectPattern, UnixMillis};

use super::{Found, Home, LintCode};
use crate::parse::{Parsed, RuleSpec};
use crate::requirements::{Protect, UserRule};
use crate::rule::{About, Effect, Rule, Verb};
use crate::trie::Trie;

/// How long before its end a rule is named: 14 days, in milliseconds.
const SOON: u64 = 14 * 24 * 60 * 60 * 1000;

pub(super) fn lints(parsed: &Parsed, now: UnixMillis) -> Vec<Found> {
    let index = Index::of(parsed);
    let mut out = Vec::new();
    for (at, spec) in parsed.rules.iter().enumerate() {
        // The rules that no text can write have nobody to tell.
        if spec.rule.id.starts_with('(') {
            continue;
        }
        let found = |code, span: &std::ops::Range<usize>, message: String, remedy: &str| Found {
            code,
            span: span.clone(),
            home: Home::Rule(at),
            message,
            remedy: remedy.to_owned(),
        };
        let id = &spec.rule.id;
        if let Some(message) = unreachable(&index, spec) {
            let remedy = "take it out, or narrow what stands in its way";
            out.push(found(
                LintCode::UnreachableRule,
                &spec.span,
                message,
                remedy,
            ));
        } else if let Some(others) = index.shadows(at, &spec.rule) {
            let message = format!(
                "rule `{id}` says nothing that {} not say",
                named(parsed, &others)
            );
            let remedy = "take it out, or the wider rule if this one was to replace it";
            out.push(found(LintCode::ShadowedRule, &spec.span, message, remedy));
        }
        for (pattern, message) in over_broad(parsed, spec) {
            let remedy = "name the subjects that are needed, one direction a rule";
            let span = spec.on_spans.get(pattern).unwrap_or(&spec.span);
            out.push(found(LintCode::OverBroad, span, message, remedy));
        }
        for (pattern, message) in index.wider(parsed, spec) {
            let remedy = "narrow the grant, or add a [subject] entry for the rest";
            let span = spec.on_spans.get(pattern).unwrap_or(&spec.span);
            out.push(found(LintCode::WiderThanSubject, span, message, remedy));
        }
        if let Some((code, message, remedy)) = ending(&spec.rule, now) {
            out.push(found(code, &spec.span, message, remedy));
        }
    }
    out
}

/// `` `a` (line 3) does `` or `` `a` (line 3) and `b` (line 9) do ``.
fn named(parsed: &Parsed, rules: &[usize]) -> String {
    let name = |at: &usize| {
        let rule = &parsed.rules.get(*at)?.rule;
        Some(format!("`{}` ({})", rule.id, rule.place))
    };
    let names: Vec<String> = rules.iter().take(3).filter_map(name).collect();
    match (names.as_slice(), rules.len()) {
        ([one], 1) => format!("{one} does"),
        (names, all) if all > names.len() => {
            format!("{} and {} more do", names.join(", "), all - names.len())
        }
        (names, _) => format!("{} do", names.join(" and ")),
    }
}

fn ending(rule: &Rule, now: UnixMillis) -> Option<(LintCode, String, &'static str)> {
    let end = rule.expires()?;
    let id = &rule.id;
    if end <= now {
        let message = format!("rule `{id}` has expired: it counts no more");
        return Some((
            LintCode::ExpiredRule,
            message,
            "take it out, or say a later time",
        ));
    }
    let left = end.as_millis().saturating_sub(now.as_millis());
    if rule.is_break_glass() {
        let message = format!(
            "rule `{id}` is for an emergency, and counts for {} more",
            span(left)
        );
        let remedy = "take it out as soon as the emergency is over";
        return Some((LintCode::BreakGlassAlive, message, remedy));
    }
    (left <= SOON).then(|| {
        let message = format!("rule `{id}` expires in {}", span(left));
        (
            LintCode::ExpiresSoon,
            message,
            "say a later time if what it grants is still needed",
        )
    })
}

fn span(millis: u64) -> String {
    let minutes = millis / 60_000;
    let (count, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2_880 => (minutes / 60, "hour"),
        _ => (minutes / 1_440, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn ends_open(pattern: &SubjectPattern) -> bool {
    pattern.tokens().last() == Some(&PatternToken::Rest)
}

/// The patterns of a rule that are wider than anybody needs, and why.
fn over_broad<'p>(
    parsed: &'p Parsed,
    spec: &'p RuleSpec,
) -> impl Iterator<Item = (usize, String)> + 'p {
    let rule = &spec.rule;
    let unbound = rule.effect == Effect::Allow
        && rule.user.is_none()
        && rule.when.is_none()
        && !rule.break_glass;
    let everybody = parsed.workloads.len() >= 3 && rule.who.len() == parsed.workloads.len();
    let has = |verb| rule.verbs.contains(verb);
    let sends = [Verb::Publish, Verb::Request, Verb::Append]
        .into_iter()
        .find(|v| has(*v));
    let both = [
        (Verb::Publish, Verb::Subscribe),
        (Verb::Request, Verb::Serve),
    ]
    .into_iter()
    .find(|(send, receive)| has(*send) && has(*receive));
    let open = rule
        .on
        .iter()
        .enumerate()
        .filter(move |(_, p)| unbound && ends_open(p));
    open.filter_map(move |(at, pattern)| {
        let id = &rule.id;
        if let (true, Some(verb)) = (everybody, sends) {
            return Some((at, format!("rule `{id}` lets every workload {verb} on all of `{pattern}`")));
        }
        let (send, receive) = both?;
        Some((
            at,
            format!("rule `{id}` gives both ends of `{pattern}`: its holders may {send} and {receive} on all of it"),
        ))
    })
}

/// Why an allow rule never applies, if it never does.
fn unreachable(index: &Index<'_>, spec: &RuleSpec) -> Option<String> {
    let rule = &spec.rule;
    let id = &rule.id;
    if rule.who.is_empty() {
        return Some(format!(
            "rule `{id}` names no workload: its groups are empty"
        ));
    }
    if rule.effect != Effect::Allow {
        return None;
    }
    let mut first = None;
    for verb in rule.verbs.iter() {
        for workload in &rule.who {
            let denies = index.denies.get(*workload as usize)?;
            for pattern in &rule.on {
                let mut by = None;
                denies.containers(pattern.tokens(), &mut |entry| {
                    if entry.rule.denies_always(verb) {
                        by = by.or(Some(entry.rule));
                    }
                });
                first = first.or(Some(by?));
            }
        }
    }
    let by = first?;
    Some(format!(
        "rule `{id}` never applies: rule `{}` ({}) denies what it allows",
        by.id, by.place
    ))
}

/// A pattern of a rule, filed under a workload.
struct Filed<'p> {
    at: usize,
    rule: &'p Rule,
    pattern: &'p SubjectPattern,
}

/// Everything that the rules say, by workload, and the entries.
struct Index<'p> {
    allows: Vec<Trie<Filed<'p>>>,
    denies: Vec<Trie<Filed<'p>>>,
    entries: Trie<usize>,
    /// A token that no entry names.
    other: String,
    /// The most tokens of an entry.
    deepest: usize,
}

impl<'p> Index<'p> {
    fn of(parsed: &'p Parsed) -> Self {
        let empty = || parsed.workloads.iter().map(|_| Trie::default()).collect();
        let mut index = Self {
            allows: empty(),
            denies: empty(),
            entries: Trie::default(),
            other: "other".to_owned(),
            deepest: 0,
        };
        for (at, spec) in parsed.rules.iter().enumerate() {
            let rule = &spec.rule;
            let tries = match rule.effect {
                Effect::Allow => &mut index.allows,
                Effect::Deny => &mut index.denies,
            };
            for workload in &rule.who {
                let Some(trie) = tries.get_mut(*workload as usize) else {
                    continue;
                };
                for pattern in &rule.on {
                    trie.insert(pattern.tokens(), Filed { at, rule, pattern });
                }
            }
        }
        for (at, spec) in parsed.subjects.iter().enumerate() {
            index.entries.insert(spec.pattern.tokens(), at);
            index.deepest = index.deepest.max(spec.pattern.tokens().len());
        }
        let named = |word: &str| {
            let mut tokens = parsed.subjects.iter().flat_map(|s| s.pattern.tokens());
            tokens.any(|t| matches!(t, PatternToken::Literal(text) if **text == *word))
        };
        while named(&index.other) {
            index.other.push('x');
        }
        index
    }

    /// The rules that together say all that the rule at `at` says, if some do.
    fn shadows(&self, at: usize, rule: &'p Rule) -> Option<Vec<usize>> {
        let tries = match rule.effect {
            Effect::Allow => &self.allows,
            Effect::Deny => &self.denies,
        };
        let mut others = Vec::new();
        for workload in &rule.who {
            let trie = tries.get(*workload as usize)?;
            for pattern in &rule.on {
                for verb in rule.verbs.iter() {
                    let this = Filed { at, rule, pattern };
                    let mut by = None;
                    trie.containers(pattern.tokens(), &mut |other| {
                        let is_it = by.is_none() && other.says_all_of(&this, verb);
                        // Of two that say the same the first stays.
                        if is_it && (!this.says_all_of(other, verb) || other.at < at) {
                            by = Some(other.at);
                        }
                    });
                    others.push(by?);
                }
            }
        }
        others.sort_unstable();
        others.dedup();
        (!others.is_empty()).then_some(others)
    }

    /// The patterns of a rule that also cover subjects without any entry, beside
    /// subjects that an entry protects.
    fn wider(&self, parsed: &Parsed, spec: &RuleSpec) -> Vec<(usize, String)> {
        let rule = &spec.rule;
        if rule.effect != Effect::Allow || rule.verbs.about() != Some(About::Subjects) {
            return Vec::new();
        }
        let patterns = rule.on.iter().enumerate();
        let wide = patterns.filter_map(|(at, pattern)| {
            let mut strict = None;
            self.entries.overlaps(pattern.tokens(), &mut |entry| {
                let Some(entry) = parsed.subjects.get(*entry) else {
                    return;
                };
                let demands = entry.stated.protect == Some(Protect::Encrypted)
                    || entry.stated.user == Some(UserRule::Required);
                if demands && strict.is_none() {
                    strict = Some(entry);
                }
            });
            let strict = strict?;
            let free = self.without_entry(pattern)?;
            Some((
                at,
                format!(
                    "rule `{}` grants `{pattern}`, which covers `{free}` too, and no entry speaks about that as `{}` ({}) does about its own",
                    rule.id, strict.pattern, strict.place
                ),
            ))
        });
        wide.collect()
    }

    /// A subject that matches `pattern` and no entry.
    fn without_entry(&self, pattern: &SubjectPattern) -> Option<String> {
        // Where a pattern is open, a token that no entry names meets the fewest.
        let most = if ends_open(pattern) {
            self.deepest + 1
        } else {
            1
        };
        (1..=most).find_map(|depth| {
            let mut subject = String::new();
            for token in pattern.tokens() {
                let (word, times) = match token {
                    PatternToken::Literal(text) => (&**text, 1),
                    PatternToken::Any | PatternToken::Capture(_) => (&*self.other, 1),
                    PatternToken::Rest => (&*self.other, depth),
                };
                for _ in 0..times {
                    if !subject.is_empty() {
                        subject.push('.');
                    }
                    subject.push_str(word);
                }
            }
            let mut met = false;
            self.entries.matches(&subject, &mut |_| met = true);
            (!met).then_some(subject)
        })
    }
}

impl Filed<'_> {
    /// Whether nothing that `other` says about `verb` is lost if only this stays.
    fn says_all_of(&self, other: &Self, verb: Verb) -> bool {
        let (this, that) = (self.rule, other.rule);
        let same_condition = this.user == that.user && *self.pattern == *other.pattern;
        self.at != other.at
            && this.effect == that.effect
            && this.verbs.contains(verb)
            && this.shadow == that.shadow
            && (!this.break_glass || that.break_glass)
            && this.counts_with(that)
            && (this.user.is_none() || same_condition)
            && self.pattern.contains(other.pattern)
    }
}
