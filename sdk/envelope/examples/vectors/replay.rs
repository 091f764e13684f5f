//! ENV-40 to ENV-44: what comes to a replay window.

use super::file::{ACCEPT, Octets, REFUSE, Step, Vector};
use super::good::{plain_event, seal_frame};
use super::people::*;
use super::raw::{Raw, bin, uint};

pub fn vectors() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let frame = Raw::of(&seal_frame(&event(&subject(SUBJECT), b""), 3).bytes);
    vec![
        scenario(
            "replay-once",
            &["40", "42"],
            "each message once; others of any sequence are not touched by that",
            vec![
                ok(&sequence(5), 0, 0),
                no(&sequence(5), 0, 1, "replayed"),
                ok(&sequence(u64::MAX - 1), 0, 2),
                ok(&sequence(4), 0, 3),
                ok(&sequence(6), 0, 3),
                no(&sequence(4), 0, 4, "replayed"),
                no(&sequence(u64::MAX - 1), 0, 5, "replayed"),
            ],
        ),
        scenario(
            "replay-epochs-are-apart",
            &["40"],
            "the same sequence in another epoch is another message",
            vec![
                ok(&sequence(5), 0, 0),
                ok(&other_epoch(5), 0, 1),
                no(&other_epoch(5), 0, 2, "replayed"),
            ],
        ),
        scenario(
            "replay-frame",
            &["13", "40"],
            "each message of a frame for itself: one that is there already spoils no other",
            vec![
                ok(&frame, 1, 0),
                ok(&frame, 0, 0),
                no(&frame, 1, 0, "replayed"),
                ok(&frame, 2, 0),
            ],
        ),
        scenario(
            "replay-expiry",
            &["40", "41"],
            "remembered to the last moment at which it could be accepted, refused as expired from then on",
            vec![
                ok(&sequence(5), 0, 0),
                no(&sequence(5), 0, LIFE + skew, "replayed"),
                no(&sequence(5), 0, LIFE + skew + 1, "expired"),
            ],
        ),
        scenario(
            "replay-clock-jumps-back",
            &["41"],
            "the window's time never moves back",
            vec![
                ok(&sequence(5), 0, 0),
                no(&sequence(6), 0, LIFE + skew + 1, "expired"),
                no(&sequence(5), 0, 0, "expired"),
                no(&sequence(7), 0, 0, "expired"),
            ],
        ),
        scenario(
            "replay-cloned-key",
            &["44"],
            "another message under the same key, epoch and sequence: two processes hold the key",
            vec![
                ok(&sequence(5), 0, 0),
                no(&clone(5), 0, 1, "cloned_key"),
                no(&sequence(5), 0, 2, "replayed"),
            ],
        ),
    ]
}

fn scenario(name: &str, rules: &[&str], about: &str, steps: Vec<Step>) -> Vector {
    Vector {
        bytes: None,
        steps,
        ..Vector::accept(name, "replay", rules, about, b"")
    }
}

fn ok(raw: &Raw, message: usize, now: i64) -> Step {
    Step {
        bytes: Octets::of(&raw.bytes()),
        message,
        now: at(now).as_millis(),
        verdict: ACCEPT.to_owned(),
        reason: None,
    }
}

fn no(raw: &Raw, message: usize, now: i64, reason: &str) -> Step {
    Step {
        verdict: REFUSE.to_owned(),
        reason: Some(reason.to_owned()),
        ..ok(raw, message, now)
    }
}

fn sequence(sequence: u64) -> Raw {
    let mut raw = plain_event();
    raw.set(4, uint(sequence));
    raw.signed(&orders())
}

fn other_epoch(number: u64) -> Raw {
    let mut raw = sequence(number);
    raw.set(3, bin(&filler::<8>("another epoch")));
    raw.signed(&orders())
}

fn clone(number: u64) -> Raw {
    let mut raw = sequence(number);
    raw.set(5, bin(&filler::<16>("id of a clone")));
    raw.signed(&orders())
}
