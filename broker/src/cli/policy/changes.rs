//! How the difference between two policies is shown, in text and as JSON.

use anstyle::{AnsiColor, Style};
use bulla_identity::WorkloadName;
use bulla_policy::{
    Allowance, ChangeKind, Example, KeyChange, Place, PolicyDiff, RequirementChange, RightChange,
    RuleChange, SubjectSet, moment,
};
use serde_json::{Value, json};

use super::print::{BAD, GOOD, PLACE, STRONG, WARN, plural, say};

const DIM: Style = Style::new().dimmed();
const OTHER: Style = AnsiColor::Cyan.on_default().bold();

/// Places of one change that are shown; JSON has all of them.
const SHOWN: usize = 12;

/// Prints every change, grouped by whom it concerns, and a line that counts them.
pub(crate) fn print_changes(diff: &PolicyDiff) {
    print_meaning(diff);
    if !diff.permissions.is_empty() {
        say!("{STRONG}authorised anew by nats-server{STRONG:#}");
    }
    for change in &diff.permissions {
        let entries = change.added.len() + change.removed.len();
        say!(
            "  {}  {GOOD}+{}{GOOD:#} {BAD}-{}{BAD:#} {}",
            change.workload,
            change.added.len(),
            change.removed.len(),
            if entries == 1 { "entry" } else { "entries" }
        );
    }
    say!("\n{}", summary(diff));
}

/// Prints what decisions and messages change, grouped by whom it concerns.
pub(crate) fn print_meaning(diff: &PolicyDiff) {
    for (sign, style, names) in [("+", GOOD, &diff.added), ("-", BAD, &diff.removed)] {
        for name in names {
            say!("{style}{sign}{style:#} workload {STRONG}{name}{STRONG:#}");
        }
    }
    print_rights(&diff.rights);
    if !diff.shadow.is_empty() {
        say!("{OTHER}if the rules in shadow were enforced{OTHER:#}");
        print_rights(&diff.shadow);
    }
    if !diff.requirements.is_empty() {
        say!("{STRONG}what messages must be{STRONG:#}");
    }
    for change in &diff.requirements {
        print_requirement(change);
    }
    let mut table = None;
    for setting in &diff.settings {
        let heading = format!("{} {}", setting.table, setting.name);
        if table.as_ref() != Some(&heading) {
            say!("{STRONG}{}{STRONG:#}", heading.trim_end());
            table = Some(heading);
        }
        print_key("  ", &setting.change);
    }
}

fn print_rights(changes: &[RightChange]) {
    let mut heading = None;
    for change in changes {
        if heading != Some(&change.workloads) {
            say!("{STRONG}{}{STRONG:#}", names(&change.workloads));
            heading = Some(&change.workloads);
        }
        print_right(change);
    }
}

/// `2 rights gained, 1 lost, 1 requirement changed`.
pub(crate) fn summary(diff: &PolicyDiff) -> String {
    let mut parts = Vec::new();
    for kind in [
        ChangeKind::Gained,
        ChangeKind::Widened,
        ChangeKind::Changed,
        ChangeKind::Narrowed,
        ChangeKind::Lost,
        ChangeKind::Unknown,
    ] {
        let count = diff.rights.iter().filter(|c| c.kind == kind).count();
        if count > 0 {
            let noun = if parts.is_empty() {
                plural(count, "right")
            } else {
                count.to_string()
            };
            let what = match kind {
                ChangeKind::Unknown => "not compared",
                other => other.as_str(),
            };
            parts.push(format!("{noun} {what}"));
        }
    }
    for (count, noun) in [
        (diff.shadow.len(), "right in shadow"),
        (diff.added.len(), "workload added"),
        (diff.removed.len(), "workload removed"),
        (diff.requirements.len(), "requirement changed"),
        (diff.settings.len(), "setting changed"),
        (diff.permissions.len(), "workload authorised anew"),
    ] {
        if count > 0 {
            let (noun, rest) = noun.split_once(' ').unwrap_or((noun, ""));
            parts.push(format!("{} {rest}", plural(count, noun)));
        }
    }
    if !diff.complete {
        parts.push("NOT everything could be compared".to_owned());
    }
    parts.join(", ")
}

fn print_right(change: &RightChange) {
    let (sign, style) = match change.kind {
        ChangeKind::Gained => ("+", GOOD),
        ChangeKind::Lost => ("-", BAD),
        ChangeKind::Widened => (">", GOOD),
        ChangeKind::Narrowed => ("<", BAD),
        ChangeKind::Changed => ("~", WARN),
        ChangeKind::Unknown => ("?", OTHER),
    };
    let verbs: Vec<&str> = change.verbs.iter().map(|v| v.as_str()).collect();
    let verbs = verbs.join(", ");
    for (i, place) in change.sets.iter().take(SHOWN).enumerate() {
        let verbs = if i == 0 { verbs.as_str() } else { "" };
        say!(
            "  {style}{sign}{style:#} {verbs:<10} {STRONG}{}{STRONG:#}{}",
            place.pattern,
            except(place)
        );
    }
    print_more(change.sets.len());
    match (&change.before, &change.after) {
        (None, Some(now)) | (Some(now), None) => print_allowance("", now),
        (Some(was), Some(now)) => {
            print_allowance("was  ", was);
            print_allowance("now  ", now);
        }
        (None, None) if change.kind == ChangeKind::Unknown => {
            print_line("not compared: the patterns of these policies cross in too many ways");
        }
        (None, None) => {}
    }
    if let Some(place) = change.sets.first() {
        for example in &place.examples {
            print_example(example);
        }
    }
    for rule in &change.rules {
        print_line(&format!("{DIM}rule {}{DIM:#}", rule_text(rule)));
    }
    if change.by_requirements {
        print_line(&format!(
            "{DIM}by what messages must be, see what messages must be{DIM:#}"
        ));
    }
}

fn print_line(text: &str) {
    say!("               {text}");
}

fn print_more(sets: usize) {
    if sets > SHOWN {
        print_line(&format!(
            "… and {} (see --json)",
            plural(sets - SHOWN, "more place")
        ));
    }
}

fn print_allowance(label: &str, allowance: &Allowance) {
    let text = allowance.to_string();
    if !(label.is_empty() && text == "always") {
        print_line(&format!("{label}{text}"));
    }
}

fn print_example(example: &Example) {
    let mut who = match &example.user {
        None => "without a user".to_owned(),
        Some(claims) => format!("with {}", Value::Object(claims.clone())),
    };
    if let Some(from) = example.from {
        who.push_str(&format!(" from {from}"));
    }
    if example.later {
        who.push_str(&format!(" at {}", moment(example.at)));
    }
    let verdict = if example.allowed {
        "allowed now"
    } else {
        "denied now"
    };
    print_line(&format!(
        "{DIM}e.g. {} {who}: {verdict}{DIM:#}",
        example.subject
    ));
}

fn print_requirement(change: &RequirementChange) {
    for place in change.sets.iter().take(SHOWN) {
        say!(
            "  {WARN}~{WARN:#} {STRONG}{}{STRONG:#}{}",
            place.pattern,
            except(place)
        );
    }
    print_more(change.sets.len());
    for key in &change.keys {
        print_key("      ", key);
    }
    let whom = match change.workloads.as_slice() {
        _ if change.keys.is_empty() => {
            "not compared: these entries cross in too many ways".to_owned()
        }
        [] => "nobody sends or receives there".to_owned(),
        workloads => format!("concerns {}", names(workloads)),
    };
    say!("      {DIM}{whom}{DIM:#}");
}

fn print_key(indent: &str, change: &KeyChange) {
    let or_none = |text: &str| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text.to_owned()
        }
    };
    say!(
        "{indent}{:<10} {BAD}{}{BAD:#} {PLACE}→{PLACE:#} {GOOD}{}{GOOD:#}",
        change.key,
        or_none(&change.before),
        or_none(&change.after)
    );
}

fn except(place: &SubjectSet) -> String {
    let facts: Vec<String> = place.tokens.iter().map(ToString::to_string).collect();
    let facts = match facts.as_slice() {
        [] => String::new(),
        facts => format!(" {DIM}where {}{DIM:#}", facts.join(", ")),
    };
    if place.except.is_empty() {
        return facts;
    }
    let shown: Vec<&str> = place
        .except
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect();
    let more = place.except.len().saturating_sub(SHOWN);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(" {DIM}but not {}{more}{DIM:#}{facts}", shown.join(", "))
}

fn rule_text(rule: &RuleChange) -> String {
    let (id, effect) = (&rule.id, rule.effect);
    match (&rule.before, &rule.after) {
        (None, Some(new)) => format!("{id} ({effect}, {new}): new"),
        (Some(old), None) => format!("{id} ({effect}, {old} of the old policy): gone"),
        (Some(_), Some(new)) => format!("{id} ({effect}, {new}): changed"),
        (None, None) => id.clone(),
    }
}

fn names(names: &[WorkloadName]) -> String {
    let names: Vec<&str> = names.iter().map(WorkloadName::as_str).collect();
    names.join(", ")
}

/// Everything, for scripts.
pub(crate) fn changes_json(diff: &PolicyDiff) -> Value {
    let list =
        |names: &[WorkloadName]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
    let right = |c: &RightChange| {
        json!({
            "change": c.kind.as_str(),
            "workloads": list(&c.workloads),
            "verbs": c.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
            "subjects": c.sets.iter().map(place_json).collect::<Vec<_>>(),
            "before": c.before.as_ref().map(allowance_json),
            "after": c.after.as_ref().map(allowance_json),
            "rules": c.rules.iter().map(rule_json).collect::<Vec<_>>(),
            "by_requirements": c.by_requirements,
        })
    };
    let rights: Vec<Value> = diff.rights.iter().map(right).collect();
    let shadow: Vec<Value> = diff.shadow.iter().map(right).collect();
    let requirements: Vec<Value> = diff
        .requirements
        .iter()
        .map(|c| {
            json!({
                "subjects": c.sets.iter().map(|p| json!({
                    "pattern": p.pattern,
                    "except": p.except,
                    "example": p.examples.first().map(|e| &e.subject),
                })).collect::<Vec<_>>(),
                "keys": c.keys.iter().map(key_json).collect::<Vec<_>>(),
                "workloads": list(&c.workloads),
            })
        })
        .collect();
    let settings: Vec<Value> = diff
        .settings
        .iter()
        .map(|s| {
            json!({
                "table": s.table,
                "name": s.name,
                "key": s.change.key,
                "before": s.change.before,
                "after": s.change.after,
            })
        })
        .collect();
    let permissions: Vec<Value> = diff
        .permissions
        .iter()
        .map(|p| {
            json!({
                "workload": p.workload.as_str(),
                "added": p.added,
                "removed": p.removed,
            })
        })
        .collect();
    json!({
        "same": diff.is_empty(),
        "complete": diff.complete,
        "workloads_added": list(&diff.added),
        "workloads_removed": list(&diff.removed),
        "rights": rights,
        "shadow": shadow,
        "requirements": requirements,
        "settings": settings,
        "permissions": permissions,
        "summary": summary(diff),
    })
}

fn place_json(place: &SubjectSet) -> Value {
    let examples: Vec<Value> = place
        .examples
        .iter()
        .map(|e| {
            json!({
                "subject": e.subject,
                "user": e.user,
                "at": moment(e.at),
                "from": e.from,
                "decision": if e.allowed { "allow" } else { "deny" },
            })
        })
        .collect();
    let facts: Vec<String> = place.tokens.iter().map(ToString::to_string).collect();
    json!({
        "pattern": place.pattern,
        "except": place.except,
        "tokens": facts,
        "examples": examples,
    })
}

fn allowance_json(allowance: &Allowance) -> Value {
    json!({
        "when": allowance.when,
        "unless": allowance.unless,
        "user": allowance.user.as_str(),
        "audiences": allowance.audiences,
        "text": allowance.to_string(),
    })
}

fn rule_json(rule: &RuleChange) -> Value {
    json!({
        "id": rule.id,
        "effect": rule.effect.to_string(),
        "line_before": rule.before.as_ref().map(Place::line),
        "file_before": rule.before.as_ref().and_then(Place::file),
        "line_after": rule.after.as_ref().map(Place::line),
        "file_after": rule.after.as_ref().and_then(Place::file),
    })
}

fn key_json(key: &KeyChange) -> Value {
    json!({ "key": key.key, "before": key.before, "after": key.after })
}
