//! What a workload can do to another one.

use bulla_identity::{SubjectPattern, reserved};
use bulla_policy::{Circumstances, Effect, Policy, Verb};

use super::Member;
use super::findings::{self, Finding};
use super::probe::{Bus, Socket};
use crate::clock;

/// A workload's connection.
pub(super) struct Insider<'a> {
    pub(super) member: &'a Member,
    pub(super) socket: Socket,
}

impl Insider<'_> {
    /// Connects again if the connection was ended: a broker that finds somebody
    /// who does not belong there does so. False if that fails.
    pub(super) async fn revive(&mut self, bus: &Bus) -> bool {
        if !self.socket.is_alive
            && let Ok(socket) = bus.log_in(&self.member.seed).await
        {
            self.socket = socket;
        }
        self.socket.is_alive
    }
}

/// Connects as everybody; those who got in.
pub(super) async fn connect<'a>(bus: &Bus, members: &'a [Member]) -> (Vec<Insider<'a>>, Finding) {
    let check = &findings::ADMITTED;
    if members.len() < 2 {
        let why = "seeds of two workloads are needed: give two with --as NAME=SEED-FILE";
        return (Vec::new(), check.unknown(why));
    }
    let (mut insiders, mut faults) = (Vec::new(), Vec::new());
    for member in members {
        match bus.log_in(&member.seed).await {
            Ok(socket) => insiders.push(Insider { member, socket }),
            Err(error) => faults.push(format!("`{}`: {error}", member.name)),
        }
    }
    let names: Vec<_> = members.iter().map(|m| m.name.as_str()).collect();
    (insiders, check.of(faults, names.join(", ")))
}

/// Everything that is tried as a workload.
pub(super) async fn examine(
    bus: &Bus,
    pairs: &mut [(Insider<'_>, &Member)],
    policy: Option<&Policy>,
) -> Vec<Finding> {
    let checks = [
        &findings::INBOXES,
        &findings::SYSTEM,
        &findings::CALLOUT,
        &findings::JETSTREAM,
        &findings::WILDCARDS,
        &findings::QUEUES,
    ];
    if pairs.len() < 2 {
        let why = "two workloads have to get in first";
        return checks.map(|check| check.unknown(why)).to_vec();
    }
    let mut faults = [const { Vec::new() }; 6];
    let mut tried = [0_usize; 6];
    for (insider, other) in pairs {
        let tries = [
            inboxes(other),
            system(),
            callout(),
            jetstream(),
            wildcards(insider.member, policy),
            queues(insider.member, other, policy),
        ];
        for ((tries, faults), tried) in tries.into_iter().zip(&mut faults).zip(&mut tried) {
            for attempt in tries {
                *tried += 1;
                let mut succeeds = insider.revive(bus).await;
                if succeeds {
                    succeeds = attempt.succeeds(&mut insider.socket).await;
                    // Ended in the middle, it has said nothing: once more.
                    if !insider.socket.is_alive && insider.revive(bus).await {
                        succeeds = attempt.succeeds(&mut insider.socket).await;
                    }
                } else {
                    faults.push(format!("`{}` did not get in again", insider.member.name));
                }
                if succeeds {
                    faults.push(format!("`{}` may {attempt}", insider.member.name));
                }
            }
        }
    }
    checks
        .into_iter()
        .zip(faults)
        .zip(tried)
        .map(|((check, faults), tried)| match tried {
            0 => check.unknown("the policy gives these workloads nothing to try it with"),
            _ => check.of(faults, format!("{tried} attempts were refused")),
        })
        .collect()
}

/// Something that must not work.
enum Attempt {
    Hear(String),
    Say(String),
}

impl Attempt {
    async fn succeeds(&self, socket: &mut Socket) -> bool {
        match self {
            Self::Hear(what) => socket.may_hear(what).await,
            Self::Say(subject) => socket.may_say(subject).await,
        }
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hear(what) => match what.split_once(' ') {
                Some((subject, queue)) => {
                    write!(f, "join the queue group `{queue}` on `{subject}`")
                }
                None => write!(f, "subscribe to `{what}`"),
            },
            Self::Say(subject) => write!(f, "publish to `{subject}`"),
        }
    }
}

fn hear(what: impl Into<String>) -> Attempt {
    Attempt::Hear(what.into())
}

fn say(subject: impl Into<String>) -> Attempt {
    Attempt::Say(subject.into())
}

fn inboxes(other: &Member) -> Vec<Attempt> {
    let tag = other.id.tag();
    let (peers, server) = (reserved::inbox_peers(tag), reserved::inbox_server(tag));
    vec![
        hear("_INBOX.>"),
        hear(format!("{peers}.>")),
        hear(format!("{server}.>")),
        // Where no workload may publish: what comes there is nats-server's.
        say(format!("{server}.doctor")),
    ]
}

fn system() -> Vec<Attempt> {
    vec![
        hear("$SYS.>"),
        hear("$SYS.ACCOUNT.>"),
        say("$SYS.REQ.SERVER.PING"),
        say("$SYS.REQ.SERVER.PING.CONNZ"),
        say("$SYS.REQ.ACCOUNT.PING.CONNZ"),
    ]
}

fn callout() -> Vec<Attempt> {
    vec![
        hear("$SYS.REQ.USER.AUTH"),
        hear("$SYS.REQ.USER.AUTH bulla-a"),
        hear(">"),
        say("$SYS.REQ.USER.AUTH"),
    ]
}

/// Each names what is not there, so that one that works does no harm.
fn jetstream() -> Vec<Attempt> {
    vec![
        say("$JS.API.INFO"),
        say("$JS.API.STREAM.LIST"),
        say("$JS.API.STREAM.DELETE.BULLA_DOCTOR_NONE"),
        say("$JS.API.STREAM.PURGE.BULLA_DOCTOR_NONE"),
        say("$JS.API.STREAM.MSG.DELETE.BULLA_DOCTOR_NONE"),
        say("$JS.API.CONSUMER.CREATE.BULLA_DOCTOR_NONE"),
        say("$JS.API.CONSUMER.DURABLE.CREATE.BULLA_DOCTOR_NONE.none"),
        say("$BULLA.CTL.DOCTOR"),
    ]
}

/// Deeper than what the workload may hear, and far beside it.
fn wildcards(member: &Member, policy: Option<&Policy>) -> Vec<Attempt> {
    let mut attempts = vec![
        hear("*"),
        hear("*.*"),
        hear("*.>"),
        say("doctor.nothing.here"),
    ];
    let Some(policy) = policy else {
        return attempts;
    };
    let circumstances = Circumstances {
        now: clock::now(),
        client: None,
    };
    let Ok(lists) = policy.permissions(&member.id, &circumstances) else {
        return attempts;
    };
    for entry in &lists.subscribe_allow {
        if entry.contains(' ') || !entry.ends_with(".*") {
            continue;
        }
        let deeper = format!("{entry}.>");
        let granted = SubjectPattern::parse(&deeper).is_ok_and(|deeper| {
            [Verb::Subscribe, Verb::Serve].iter().any(|verb| {
                policy
                    .may_listen(&member.id, *verb, &deeper, circumstances.now)
                    .is_ok()
            })
        });
        // Inboxes and news end in `>` and are not here.
        if !granted {
            attempts.push(hear(deeper));
        }
    }
    attempts
}

/// The other's queue group, on what the other serves.
fn queues(member: &Member, other: &Member, policy: Option<&Policy>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (of, verbs) in [
        (other, [Verb::Serve, Verb::Subscribe]),
        (member, [Verb::Serve, Verb::Subscribe]),
    ] {
        let grants = policy.into_iter().flat_map(|policy| policy.grants(&of.id));
        let grants = grants.filter(|g| g.effect == Effect::Allow && verbs.contains(&g.verb));
        for grant in grants {
            attempts.push(hear(format!("{} {}", grant.pattern.to_nats(), other.name)));
        }
    }
    attempts
}
