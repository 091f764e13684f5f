//! What `bulla identity` prints.

use std::io::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use bulla_identity::{Nkey, UnixMillis, WorkloadName};
use serde_json::{Value, json};

use super::Failure;
use super::join::Collected;
use super::known::{Found, Known};
use crate::cli::chain;
use crate::cli::operator::shown;
use crate::invitation::{Invitation, InvitationError};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const STRONG: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Prints a line; a reader that went away needs no answer.
macro_rules! say {
    ($($arg:tt)*) => {{
        let _ = writeln!(anstream::stdout(), $($arg)*);
    }};
}

/// Tells of a key that was made.
pub(super) fn made(
    json: bool,
    name: &WorkloadName,
    out: &Path,
    nkey: &Nkey,
    lines: &str,
    policy: Option<&Path>,
) {
    if json {
        print_json(&json!({
            "ok": true,
            "workload": name.as_str(),
            "file": out.display().to_string(),
            "nkey": nkey.to_string(),
            "policy": policy.map(|path| path.display().to_string()),
        }));
        return;
    }
    say!("{GOOD}made{GOOD:#}    {} {DIM}(0600){DIM:#}", out.display());
    say!("public  {nkey}\n");
    match policy {
        Some(policy) => say!(
            "{GOOD}added{GOOD:#}   the workload {STRONG}{name}{STRONG:#} to {file}\n\nApply it: bulla policy apply {file}",
            file = policy.display()
        ),
        None => say!(
            "Put this into the policy, and apply it:\n\n{}",
            lines.trim_end()
        ),
    }
}

/// Tells of an invitation that was made.
pub(super) fn invited(json: bool, invitation: &Invitation, out: &Path) {
    let (name, until) = (&invitation.workload, shown(invitation.until));
    if json {
        print_json(&json!({
            "ok": true,
            "workload": name.as_str(),
            "file": out.display().to_string(),
            "invitation": invitation.key.to_string(),
            "until": until,
        }));
        return;
    }
    say!("{GOOD}made{GOOD:#}    {} {DIM}(0600){DIM:#}", out.display());
    say!("good for one host as {STRONG}{name}{STRONG:#}, until {until}\n");
    say!(
        "On that host:  bulla identity join {} --out {name}.nk --nats-url URL",
        out.display()
    );
    say!("Then here:     bulla identity collect --policy policy.toml");
}

/// Tells of a key that was handed in.
pub(super) fn joined(json: bool, name: &WorkloadName, nkey: &Nkey, out: &Path) {
    if json {
        print_json(&json!({
            "ok": true,
            "workload": name.as_str(),
            "file": out.display().to_string(),
            "nkey": nkey.to_string(),
        }));
        return;
    }
    say!("{GOOD}made{GOOD:#}    {} {DIM}(0600){DIM:#}", out.display());
    say!("{GOOD}handed in{GOOD:#}  {nkey} for {STRONG}{name}{STRONG:#}\n");
    say!("It can connect when the operator has collected it and applied the policy.");
}

/// Tells of keys that were collected.
pub(super) fn collected(
    json: bool,
    policy: &Path,
    written: &[Collected],
    refused: &[(String, InvitationError)],
) {
    if json {
        let written = written.iter().map(|one| {
            json!({
                "workload": one.workload.as_str(),
                "nkey": one.nkey.to_string(),
                "invitation": one.invitation.to_string(),
            })
        });
        let refused = refused
            .iter()
            .map(|(subject, error)| json!({ "subject": subject, "reason": error.code() }));
        print_json(&json!({
            "ok": true,
            "policy": policy.display().to_string(),
            "added": written.collect::<Vec<_>>(),
            "refused": refused.collect::<Vec<_>>(),
        }));
        return;
    }
    for one in written {
        say!(
            "{GOOD}added{GOOD:#}   {} to {STRONG}{}{STRONG:#}",
            one.nkey,
            one.workload
        );
    }
    for (subject, error) in refused {
        say!("{BAD}refused{BAD:#} {}: {error}", subject.escape_debug());
    }
    if written.is_empty() {
        say!("nothing new came of invitations");
    } else {
        say!("\nApply it: bulla policy apply {}", policy.display());
    }
}

/// Tells of a key that joined.
pub(super) fn rotated(json: bool, name: &WorkloadName, out: &Path, nkey: &Nkey, policy: &Path) {
    if json {
        print_json(&json!({
            "ok": true,
            "workload": name.as_str(),
            "file": out.display().to_string(),
            "nkey": nkey.to_string(),
            "policy": policy.display().to_string(),
        }));
        return;
    }
    say!("{GOOD}made{GOOD:#}    {} {DIM}(0600){DIM:#}", out.display());
    say!("{GOOD}added{GOOD:#}   {nkey} to {STRONG}{name}{STRONG:#}\n");
    say!("1. bulla policy apply {}", policy.display());
    say!(
        "2. give {} to the processes of `{name}`, and start them again one by one",
        out.display()
    );
    say!(
        "3. bulla identity rotate {name} --policy {} --finish --seed-file {}",
        policy.display(),
        out.display()
    );
}

/// Tells of keys that left.
pub(super) fn finished(
    json: bool,
    name: &WorkloadName,
    stays: &Nkey,
    gone: &[Nkey],
    policy: &Path,
) {
    if json {
        print_json(&json!({
            "ok": true,
            "workload": name.as_str(),
            "nkey": stays.to_string(),
            "removed": gone.iter().map(Nkey::to_string).collect::<Vec<_>>(),
            "policy": policy.display().to_string(),
        }));
        return;
    }
    for nkey in gone {
        say!("{GOOD}removed{GOOD:#} {nkey} from {STRONG}{name}{STRONG:#}");
    }
    if gone.is_empty() {
        say!("{STRONG}{name}{STRONG:#} has no other key");
        return;
    }
    say!("\nApply it: bulla policy apply {}", policy.display());
    say!("Then destroy the old seeds.");
}

/// Prints all workloads.
pub(super) fn list(json: bool, known: &Known) {
    let all: Vec<Found<'_>> = known.all().collect();
    if json {
        print_json(&json!({
            "trust_domain": known.policy.trust_domain().as_str(),
            "revision": known.running.as_ref().map(|running| running.revision),
            "workloads": all.iter().map(|found| json_of(found, known)).collect::<Vec<_>>(),
        }));
        return;
    }
    let width = |of: fn(&Found<'_>) -> usize, title: &str| {
        all.iter().map(of).max().unwrap_or(0).max(title.len())
    };
    let name = width(|f| f.workload.name().as_str().len(), "workload");
    let is_live = known.running.is_some();
    let live = |text: &str| {
        if is_live {
            format!("{text:<10}  ")
        } else {
            String::new()
        }
    };
    say!(
        "{DIM}{:<name$}  {}proven by{DIM:#}",
        "workload",
        live("processes")
    );
    for found in &all {
        let proofs = found.proofs();
        let mut proofs = proofs.iter();
        let first = proofs.next().map_or("", String::as_str);
        let revoked = match found.revoked_since {
            Some(_) => format!("{BAD}revoked{BAD:#}  "),
            None => String::new(),
        };
        say!(
            "{STRONG}{:<name$}{STRONG:#}  {}{revoked}{first}",
            found.workload.name().as_str(),
            live(&found.processes.len().to_string())
        );
        for proof in proofs {
            say!("{:<name$}  {}{proof}", "", live(""));
        }
    }
    if all.is_empty() {
        say!("the policy names no workload");
    }
}

/// Prints one.
pub(super) fn show(json: bool, known: &Known, found: &Found<'_>) {
    if json {
        print_json(&json_of(found, known));
        return;
    }
    let workload = found.workload;
    say!(
        "{STRONG}{}{STRONG:#}  {DIM}{}{DIM:#}",
        workload.name(),
        workload.id()
    );
    if let Some(since) = found.revoked_since {
        let from = if since == UnixMillis::default() {
            "everything".to_owned()
        } else {
            format!("since {}", shown(since))
        };
        let why = found.reason.map(|why| format!(": {}", why.escape_debug()));
        say!("{BAD}revoked{BAD:#}    {from}{}", why.unwrap_or_default());
    }
    for proof in found.proofs() {
        say!("proven by  {proof}");
    }
    if workload.mints() {
        let reach = match workload.reach() {
            None => "every audience".to_owned(),
            Some([]) => "no audience".to_owned(),
            Some(names) => names.join(", "),
        };
        say!("mints      tokens that reach {reach}");
    }
    let rules = grants(known, found);
    say!(
        "rules      {}",
        if rules.is_empty() {
            "none".to_owned()
        } else {
            rules.join(", ")
        }
    );
    for process in &found.processes {
        say!(
            "runs       {} {} {DIM}{}{DIM:#}",
            process.kind,
            process.instance,
            process.state
        );
    }
    if known.running.is_some() && found.processes.is_empty() {
        say!("runs       {DIM}nothing has reported for ten minutes{DIM:#}");
    }
}

/// Tells that nobody is found.
pub(super) fn nobody(json: bool, what: &str) {
    if json {
        print_json(&json!({ "ok": false, "error": "unknown_workload", "asked": what }));
    } else {
        say!("the policy names no workload `{}`", what.escape_debug());
    }
}

/// Tells why nothing was done.
pub(super) fn fail(json: bool, failure: &Failure) {
    let text = chain(failure);
    if json {
        print_json(&json!({ "ok": false, "error": text }));
    } else {
        let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
    }
}

fn json_of(found: &Found<'_>, known: &Known) -> Value {
    let workload = found.workload;
    let anchors = workload.anchors();
    let nkeys = workload
        .nkeys()
        .iter()
        .map(|nkey| json!({ "nkey": nkey.to_string(), "vouches": anchors.nkeys.contains(nkey) }));
    let processes = found.processes.iter().map(|process| {
        json!({ "kind": process.kind, "instance": process.instance, "state": process.state })
    });
    json!({
        "workload": workload.name().as_str(),
        "id": workload.id().as_str(),
        "nkeys": nkeys.collect::<Vec<_>>(),
        "certificate_authorities": anchors.authorities.len(),
        "mints": workload.mints(),
        "rules": grants(known, found),
        "revoked": found.revoked_since.is_some(),
        "revoked_since": found.revoked_since.map(UnixMillis::as_millis),
        "reason": found.reason,
        "processes": known.running.as_ref().map(|_| processes.collect::<Vec<_>>()),
    })
}

fn grants<'a>(known: &'a Known, found: &Found<'_>) -> Vec<&'a str> {
    let mut rules: Vec<&str> = Vec::new();
    for grant in known.policy.grants(found.workload.id()) {
        if !rules.contains(&grant.rule) {
            rules.push(grant.rule);
        }
    }
    rules
}

fn print_json(value: &Value) {
    say!("{value:#}");
}
