//! `bulla policy permissions`: what nats-server is told about a workload.

use std::net::IpAddr;
use std::path::PathBuf;

use bulla_identity::UnixMillis;
use bulla_policy::{Circumstances, ListEntry, ListName, MAX_PERMISSION_BYTES};
use serde_json::{Value, json};

use super::asking::moment;
use super::input::{load, now, workload};
use super::print::{BAD, GOOD, STRONG, known, print_json, say};
use super::{Failure, YES};

/// Show what nats-server is told about a workload, and why
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Show what nats-server is told about a workload when it connects: the four lists that\n\
        the policy compiles to, each entry with the rule that it is due to.\n\n\
        nats-server enforces these lists; what depends on the user is decided by the endpoints.\n\
        An entry with a second word is for that queue group alone. Entries without a rule are\n\
        what every workload has: its own inbox, its credential, the news of the policy.",
    after_help = "Examples:\n  \
        bulla policy permissions orders\n  \
        bulla policy permissions orders --all --policy shop.toml\n  \
        bulla policy permissions night-shift --at 2026-11-27T23:30:00+01:00 --from 10.1.2.3\n  \
        bulla policy permissions orders --json | jq .permissions\n\n\
        Exit code: 0 shown, 2 no answer."
)]
pub(crate) struct PermissionsArgs {
    /// The workload, by its name in the policy or its SPIFFE ID
    workload: String,
    /// The policy
    #[arg(
        long,
        value_name = "FILE",
        env = "BULLA_POLICY",
        default_value = ".bulla/policy.toml"
    )]
    policy: PathBuf,
    /// For a connection from this address: without it, rules that allow something
    /// from some networks only are left out
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// When, as 2026-11-27T23:30:00+01:00, instead of now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<UnixMillis>,
    /// Also show what every workload has
    #[arg(long)]
    all: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

const LISTS: [(ListName, &str, &str); 4] = [
    (ListName::PublishAllow, "publish", "allow"),
    (ListName::PublishDeny, "publish", "deny"),
    (ListName::SubscribeAllow, "subscribe", "allow"),
    (ListName::SubscribeDeny, "subscribe", "deny"),
];

pub(super) fn permissions(args: &PermissionsArgs) -> Result<u8, Failure> {
    let policy = load(&args.policy)?;
    let id = workload(&policy, &args.workload)?;
    let circumstances = Circumstances {
        now: args.at.unwrap_or_else(now),
        client: args.from,
    };
    let Ok(entries) = policy.permission_entries(&id, &circumstances) else {
        return Err(Failure::Unlisted {
            path: args.policy.clone(),
            workload: id,
            known: known(&policy),
        });
    };
    let bytes: usize = entries.iter().map(ListEntry::bytes).sum();
    if args.json {
        let list = |list: ListName| -> Vec<&str> {
            let of_it = entries.iter().filter(|entry| entry.list == list);
            of_it.map(|entry| &*entry.text).collect()
        };
        let due_to: Vec<Value> = entries
            .iter()
            .filter_map(|entry| {
                let (_, side, effect) = LISTS.iter().find(|(list, ..)| *list == entry.list)?;
                Some(json!({
                    "side": side,
                    "effect": effect,
                    "entry": entry.text,
                    "rule": entry.rule,
                }))
            })
            .collect();
        print_json(&json!({
            "workload": id.as_str(),
            // As nats-server takes them.
            "permissions": {
                "publish": {
                    "allow": list(ListName::PublishAllow),
                    "deny": list(ListName::PublishDeny),
                },
                "subscribe": {
                    "allow": list(ListName::SubscribeAllow),
                    "deny": list(ListName::SubscribeDeny),
                },
            },
            "due_to": due_to,
            "bytes": bytes,
            "limit": MAX_PERMISSION_BYTES,
        }));
        return Ok(YES);
    }
    let shown = |entry: &&ListEntry<'_>| args.all || entry.rule.is_some();
    let width = entries.iter().filter(shown).map(|e| e.text.len()).max();
    let width = width.unwrap_or_default().min(WIDEST);
    let mut side_before = "";
    for (list, side, effect) in LISTS {
        let style = match effect {
            "allow" => GOOD,
            _ => BAD,
        };
        for entry in entries.iter().filter(shown).filter(|e| e.list == list) {
            if side != side_before {
                say!("{STRONG}{side}{STRONG:#}");
                side_before = side;
            }
            let rule = entry.rule.unwrap_or("every workload");
            say!(
                "  {style}{effect:<5}{style:#}  {:<width$}  {rule}",
                entry.text
            );
        }
    }
    if side_before.is_empty() {
        say!("no rule gives `{}` anything", args.workload);
    }
    let hidden = entries.iter().filter(|e| !shown(e)).count();
    if hidden > 0 {
        say!("and {hidden} entries that every workload has (--all)");
    }
    say!("{bytes} of {MAX_PERMISSION_BYTES} bytes");
    Ok(YES)
}

/// Rules of long entries stand where they end.
const WIDEST: usize = 64;
