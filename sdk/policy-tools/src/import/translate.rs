//! Users become workloads, their permissions rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bulla_identity::{Nkey, PatternToken, SubjectPattern, WorkloadName};
use bulla_policy::{Policy, placeholder_nkey};

use super::users::{Entry, Permissions, Side, User};
use super::{ImportError, ImportOptions, Imported, LeftOut, Why};

/// The most patterns that an import makes.
const MAX_PATTERNS: usize = 20_000;

/// A rule that is being made.
#[derive(Debug, Clone, PartialEq)]
struct Draft {
    suffix: &'static str,
    deny: bool,
    may: Vec<&'static str>,
    on: Vec<Pattern>,
}

/// A pattern, and where in the source it came from.
#[derive(Debug, Clone)]
struct Pattern {
    pattern: SubjectPattern,
    line: u32,
}

// Two users with the same rules may have them from different lines.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

/// A workload that is being made.
struct Made {
    name: WorkloadName,
    user: User,
    rules: Vec<Draft>,
}

pub(super) fn translate(
    users: Vec<User>,
    options: &ImportOptions,
    mut left_out: Vec<LeftOut>,
) -> Result<Imported, ImportError> {
    let roots = roots(&users, options);
    let mut taken = BTreeSet::new();
    let mut made: Vec<Made> = Vec::new();
    let mut patterns = 0usize;
    for user in users {
        let name = name_of(&user.name, &mut taken);
        if user.nkey.is_none() {
            left_out.push(LeftOut::new(
                user.line,
                Some(&user.name),
                "password",
                Why::Password,
            ));
        }
        patterns = patterns.saturating_add(most_patterns(&user, roots.len()));
        if patterns > MAX_PATTERNS {
            let limit = MAX_PATTERNS;
            return Err(ImportError::TooLarge { limit });
        }
        let rules = rules(&user, &roots, &mut left_out);
        made.push(Made { name, user, rules });
    }
    // What nats-server could not enforce side by side is found by the policy
    // itself: the lines that it names are taken out, until it loads. Each round
    // takes out one at least.
    let text = loop {
        let (text, lines) = write(&made, options);
        match Policy::parse("imported", &text) {
            Ok(_) => break text,
            Err(errors) => {
                let first = errors.errors().first();
                let message = first.map(|e| e.message()).unwrap_or_default();
                let named = errors.errors().iter().filter_map(|error| {
                    let (user, suffix, pattern) = lines.get(&error.line())?.clone();
                    Some((user, suffix, pattern, error.message()))
                });
                let named: Vec<_> = named.collect();
                let mut fewer = false;
                for (user, suffix, pattern, message) in named {
                    fewer |= take_out(&mut made, user, suffix, &pattern, &message, &mut left_out);
                }
                if !fewer {
                    return Err(ImportError::DoesNotLoad { message });
                }
            }
        }
    };
    left_out.sort_by_key(LeftOut::line);
    left_out.dedup();
    let policy = format!("{}{text}", header(&left_out));
    let policy = crate::format(&policy).map_err(|e| ImportError::DoesNotLoad {
        message: e.to_string(),
    })?;
    Ok(Imported {
        policy,
        left_out,
        workloads: made
            .into_iter()
            .map(|made| (made.name, made.user.name, made.user.nkey))
            .collect(),
    })
}

/// How many patterns a user's permissions may become.
fn most_patterns(user: &User, roots: usize) -> usize {
    let Permissions {
        publish, subscribe, ..
    } = &user.permissions;
    let of = |side: &Side| {
        let wild = |entry: &Entry| entry.text.starts_with(['*', '>']);
        let each = |entry: &Entry| if wild(entry) { 2 * roots } else { 1 };
        let allowed = side.allow.as_ref().map(|list| list.iter().map(each).sum());
        allowed.unwrap_or(2 * roots) + side.deny.len()
    };
    of(publish).saturating_add(of(subscribe))
}

/// The first tokens that the source names itself, and those of the options.
fn roots(users: &[User], options: &ImportOptions) -> Vec<String> {
    let mut out: BTreeSet<String> = options.roots.iter().cloned().collect();
    for user in users {
        let Permissions {
            publish, subscribe, ..
        } = &user.permissions;
        for side in [publish, subscribe] {
            for entry in side.allow.iter().flatten().chain(&side.deny) {
                let subject = entry.text.split_whitespace().next().unwrap_or_default();
                let first = subject.split('.').next().unwrap_or_default();
                if SubjectPattern::parse(first).is_ok_and(|p| p.is_literal())
                    && !first.starts_with(['$', '_'])
                {
                    out.insert(first.to_owned());
                }
            }
        }
    }
    out.into_iter().collect()
}

/// A user's name as a workload may be called, and nobody else is.
fn name_of(user: &str, taken: &mut BTreeSet<String>) -> WorkloadName {
    let sound = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '-') => c,
        _ => '-',
    };
    let plain: String = user.chars().map(sound).take(56).collect();
    let plain = plain.trim_start_matches(['-', '_']).to_owned();
    let plain = if plain.is_empty() {
        "user".to_owned()
    } else {
        plain
    };
    let mut candidates =
        std::iter::once(plain.clone()).chain((2u32..).map(|n| format!("{plain}-{n}")));
    loop {
        if let Some(name) = candidates.next()
            && taken.insert(name.clone())
            && let Ok(name) = WorkloadName::parse(&name)
        {
            return name;
        }
    }
}

fn rules(user: &User, roots: &[String], out: &mut Vec<LeftOut>) -> Vec<Draft> {
    let Permissions {
        publish,
        subscribe,
        responds,
    } = &user.permissions;
    let everything = [Entry {
        line: user.line,
        text: ">".to_owned(),
    }];
    let allowed = |side: &Side| side.allow.clone().unwrap_or_else(|| everything.to_vec());
    let reaches_inboxes = |side: &Side| {
        let reaches = |entry: &Entry| {
            let first = entry.text.split('.').next().unwrap_or_default();
            matches!(first, "*" | ">" | "_INBOX")
        };
        allowed(side).iter().any(reaches) && !side.deny.iter().any(reaches)
    };
    // Who hears no inbox gets no replies, and who writes to none gives none.
    let requests = reaches_inboxes(subscribe);
    let serves = *responds || reaches_inboxes(publish);

    let mut sends = Vec::new();
    for entry in allowed(publish) {
        let (subject, queue) = split(&entry);
        match queue {
            Some(_) => out.push(bad(
                user,
                &entry,
                "a permission to publish names no queue group",
            )),
            None => sends.extend(grants(user, &entry, subject, roots, out)),
        }
    }
    let (mut hears, mut queued) = (Vec::new(), Vec::new());
    for entry in allowed(subscribe) {
        let (subject, queue) = split(&entry);
        match queue {
            Some(_) => {
                queued.extend(grants(user, &entry, subject, roots, out));
                out.push(LeftOut::new(
                    entry.line,
                    Some(&user.name),
                    &entry.text,
                    Why::QueueGroup,
                ));
            }
            None => hears.extend(grants(user, &entry, subject, roots, out)),
        }
    }
    let no_sending = denials(user, publish, &mut [&mut sends], out);
    let no_hearing = denials(user, subscribe, &mut [&mut hears, &mut queued], out);

    let mut drafts = Vec::new();
    let mut add = |suffix, deny, may: &[(&'static str, bool)], on: Vec<Pattern>| {
        let may: Vec<_> = may.iter().filter(|(_, is)| *is).map(|(v, _)| *v).collect();
        if !on.is_empty() && !may.is_empty() {
            drafts.push(Draft {
                suffix,
                deny,
                may,
                on: unique(on),
            });
        }
    };
    let sending = [("publish", true), ("request", requests)];
    add("sends", false, &sending, sends);
    let hearing = [("subscribe", true), ("serve", serves)];
    add("receives", false, &hearing, hears);
    add("serves", false, &[("serve", true)], queued);
    let sending = [("publish", true), ("request", true)];
    add("sends-not", true, &sending, no_sending);
    let hearing = [("subscribe", true), ("serve", true)];
    add("receives-not", true, &hearing, no_hearing);
    drafts
}

fn unique(patterns: Vec<Pattern>) -> Vec<Pattern> {
    let mut out: Vec<Pattern> = Vec::new();
    for one in &patterns {
        let covers = |other: &Pattern| {
            other.pattern.contains(&one.pattern)
                && (!one.pattern.contains(&other.pattern) || out.iter().any(|o| o == other))
        };
        if !patterns.iter().any(covers) {
            out.push(one.clone());
        }
    }
    out
}

/// The subject and the queue group of an entry.
fn split(entry: &Entry) -> (&str, Option<&str>) {
    let mut words = entry.text.split_whitespace();
    (words.next().unwrap_or_default(), words.next())
}

fn bad(user: &User, entry: &Entry, message: &str) -> LeftOut {
    let why = Why::NotAPattern {
        message: message.to_owned(),
    };
    LeftOut::new(entry.line, Some(&user.name), &entry.text, why)
}

fn parse(subject: &str) -> Result<SubjectPattern, String> {
    if subject.contains(['{', '}']) {
        return Err("braces mean a capture in a policy".to_owned());
    }
    SubjectPattern::parse(subject).map_err(|e| e.to_string())
}

/// What a policy can grant of an entry.
fn grants(
    user: &User,
    entry: &Entry,
    subject: &str,
    roots: &[String],
    out: &mut Vec<LeftOut>,
) -> Vec<Pattern> {
    let line = entry.line;
    let leave = |why| LeftOut::new(line, Some(&user.name), &entry.text, why);
    let pattern = match parse(subject) {
        Ok(pattern) => pattern,
        Err(message) => {
            out.push(leave(Why::NotAPattern { message }));
            return Vec::new();
        }
    };
    match pattern.tokens().first() {
        Some(PatternToken::Literal(first)) => {
            let why = match &**first {
                "_INBOX" => Why::Inbox,
                "$JS" => Why::JetStream,
                first if first.starts_with(['$', '_']) => Why::Reserved,
                _ => return vec![Pattern { pattern, line }],
            };
            out.push(leave(why));
            Vec::new()
        }
        first => {
            out.push(leave(Why::WildcardFirst {
                roots: roots.to_vec(),
            }));
            let more = subject.split_once('.').map(|(_, more)| more);
            let mut texts = Vec::new();
            for root in roots {
                match (first, more) {
                    (Some(PatternToken::Rest), _) => {
                        texts.extend([root.clone(), format!("{root}.>")]);
                    }
                    (_, Some(more)) => texts.push(format!("{root}.{more}")),
                    (_, None) => texts.push(root.clone()),
                }
            }
            let patterns = texts.iter().filter_map(|text| parse(text).ok());
            patterns.map(|pattern| Pattern { pattern, line }).collect()
        }
    }
}

/// The deny entries of one direction. What is denied whole is taken out of the
/// grants; what cannot be denied takes all of them with it.
fn denials(
    user: &User,
    side: &Side,
    granted: &mut [&mut Vec<Pattern>],
    out: &mut Vec<LeftOut>,
) -> Vec<Pattern> {
    let mut denied = Vec::new();
    for entry in &side.deny {
        let (subject, queue) = split(entry);
        if queue.is_some() {
            out.push(LeftOut::new(
                entry.line,
                Some(&user.name),
                &entry.text,
                Why::QueueDeny,
            ));
            continue;
        }
        match parse(subject) {
            Ok(pattern) => {
                for list in granted.iter_mut() {
                    list.retain(|grant| !pattern.contains(&grant.pattern));
                }
                let line = entry.line;
                denied.push(Pattern { pattern, line });
            }
            Err(message) => {
                for list in granted.iter_mut() {
                    for grant in list.drain(..) {
                        let message = format!(
                            "`{}` is denied and cannot be said in a policy ({message}), so what it would be taken from is left out",
                            entry.text.escape_debug()
                        );
                        let why = Why::Conflict { message };
                        let what = grant.pattern.as_str();
                        out.push(LeftOut::new(grant.line, Some(&user.name), what, why));
                    }
                }
            }
        }
    }
    // A deny that takes nothing is not needed, and none can name these spaces.
    denied.retain(|deny| {
        let mut grants = granted.iter().flat_map(|list| list.iter());
        grants.any(|grant| grant.pattern.overlaps(&deny.pattern))
    });
    denied
}

/// Takes a pattern out of a user's rules; of a deny rule the grants that it
/// meets, so that nothing is allowed for it.
fn take_out(
    made: &mut [Made],
    user: usize,
    suffix: &str,
    pattern: &SubjectPattern,
    message: &str,
    out: &mut Vec<LeftOut>,
) -> bool {
    let Some(made) = made.get_mut(user) else {
        return false;
    };
    let name = &made.user.name;
    let denies = made.rules.iter().any(|r| r.suffix == suffix && r.deny);
    let mut fewer = false;
    for rule in made.rules.iter_mut().filter(|rule| !rule.deny) {
        let sends = rule.suffix == "sends";
        rule.on.retain(|one| {
            let gone = match denies {
                true => sends == (suffix == "sends-not") && one.pattern.overlaps(pattern),
                false => rule.suffix == suffix && one.pattern == *pattern,
            };
            if gone {
                let why = Why::Conflict {
                    message: message.to_owned(),
                };
                out.push(LeftOut::new(
                    one.line,
                    Some(name),
                    one.pattern.as_str(),
                    why,
                ));
            }
            fewer |= gone;
            !gone
        });
    }
    made.rules.retain(|rule| !rule.on.is_empty());
    fewer
}

/// The text with one pattern a line, and whose each of these lines is.
type Lines = BTreeMap<u32, (usize, &'static str, SubjectPattern)>;

fn write(made: &[Made], options: &ImportOptions) -> (String, Lines) {
    let mut out = String::new();
    let mut lines = Lines::new();
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "version = 1\ntrust_domain = {}\n\n",
        quoted(options.trust_domain.as_str())
    );
    for one in made {
        let note = match one.user.nkey {
            Some(_) => "",
            None => " # a placeholder: nobody holds this key",
        };
        let nkey: Nkey = one.user.nkey.unwrap_or_else(|| placeholder_nkey(&one.name));
        let _ = write!(
            out,
            "# user {}\n[workload.{}]\nattest = [{{ nkey = {} }}]{note}\n\n",
            comment(&one.user.name),
            one.name,
            quoted(&nkey.to_string())
        );
    }
    for (at, one) in made.iter().enumerate() {
        // Users of one kind share their rules: the first one writes them for all.
        let alike = |other: &&Made| other.rules == one.rules;
        if made.iter().take(at).any(|other| other.rules == one.rules) {
            continue;
        }
        let who: Vec<String> = made
            .iter()
            .filter(alike)
            .map(|m| quoted(m.name.as_str()))
            .collect();
        for rule in &one.rules {
            let effect = if rule.deny { "deny" } else { "allow" };
            let may: Vec<String> = rule.may.iter().map(|verb| quoted(verb)).collect();
            let _ = write!(
                out,
                "[[{effect}]]\nid = {}\nwho = [{}]\nmay = [{}]\non = [\n",
                quoted(&format!("{}-{}", one.name, rule.suffix)),
                who.join(", "),
                may.join(", ")
            );
            for pattern in &rule.on {
                let line = 1 + out.bytes().filter(|b| *b == b'\n').count();
                let line = u32::try_from(line).unwrap_or(u32::MAX);
                lines.insert(line, (at, rule.suffix, pattern.pattern.clone()));
                let _ = writeln!(out, "    {},", quoted(pattern.pattern.as_str()));
            }
            out.push_str("]\n\n");
        }
    }
    (out, lines)
}

/// What was left out, as comments above the policy.
fn header(left_out: &[LeftOut]) -> String {
    let mut out = String::from("# Imported from nats-server's configuration.\n");
    if left_out.is_empty() {
        out.push('\n');
        return out;
    }
    out.push_str("# Not carried over as it stood there:\n");
    for one in left_out {
        let who = one.user().map(|user| format!("{user}: "));
        let _ = writeln!(
            out,
            "#   line {}: {}",
            one.line(),
            comment(&format!(
                "{}{}: {}",
                who.unwrap_or_default(),
                one.what(),
                one.why()
            ))
        );
    }
    out.push('\n');
    out
}

/// Text as it can stand in a comment, on its one line.
fn comment(text: &str) -> String {
    let harmless = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(harmless).collect()
}

/// As a TOML string; what could break out of one never gets here.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
