//! Heads: for how long somebody who is kept from the newest revocation list goes
//! by an old one (SPEC.md, ENV-100 to ENV-107).
//!
//! Brokers are honest and make a head in every step, by clocks that may be ahead
//! by the skew. Whoever runs nats-server keeps all heads and lists, and delivers
//! any of them, again and late, or none. The process restarts with the list that
//! it is given.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use bulla_envelope::{Bounds, Freshness, Head, Holdings, Mark};
use bulla_identity::{TrustDomain, UnixMillis, Verified};
use stateright::{Model, Property};

use super::search;

/// For how long what is held may be gone by.
const BOUND: u8 = 3;
const SKEW: u8 = 1;
const END: u8 = 9;
/// How far somebody may set the process's wall clock back.
const FAR: u8 = 8;

#[derive(Clone, Copy)]
struct Heads {
    /// Whether a head may be withheld and delivered later.
    are_late: bool,
    /// Whether the wall clock may be set back while the process runs.
    clock_is_set_back: bool,
    /// A head counts from the time that it is signed for, not from when it came.
    time_is_signed: bool,
    /// A clock that never moves back counts too.
    tick_counts: bool,
    /// A head that names a newer list does not confirm the one that is held.
    newer_is_no_confirmation: bool,
    /// A list never goes back.
    lists_go_forward: bool,
}

#[derive(Clone, Debug)]
struct State {
    now: u8,
    /// When the workload was revoked: lists before are 0, from then on 1.
    revoked: Option<u8>,
    /// By how much the wall clock is set back.
    behind: u8,
    held: u8,
    /// Whether this life of the process has held the list that revokes.
    has_known: bool,
    freshness: Freshness,
}

/// What [`Freshness`] holds is what it shows.
impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text().hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl State {
    fn text(&self) -> String {
        format!("{self:?}")
    }

    fn wall(&self) -> u8 {
        FAR + self.now - self.behind
    }

    /// Whether a message of the revoked workload would be accepted now.
    fn accepts_the_revoked(&self, model: Heads) -> bool {
        let tick = if model.tick_counts { self.now } else { 0 };
        self.held == 0
            && self.revoked.is_some()
            && self.freshness.check(at(self.wall()), seconds(tick)).is_ok()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Wait,
    Revoke,
    /// A head that was made then, by a clock ahead by so much, and names this list.
    Hear {
        made: u8,
        ahead: u8,
        list: u8,
    },
    /// A list that was published.
    Give {
        list: u8,
    },
    Restart,
    SetClockBack,
}

impl Model for Heads {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            revoked: None,
            behind: 0,
            held: 0,
            has_known: false,
            freshness: fresh(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < END {
            actions.push(Action::Wait);
        }
        if state.revoked.is_none() {
            actions.push(Action::Revoke);
        }
        let first = if self.are_late { 0 } else { state.now };
        for made in first..=state.now {
            for list in lists_at(state.revoked, made) {
                for ahead in [0, SKEW] {
                    actions.push(Action::Hear { made, ahead, list });
                }
            }
        }
        for list in lists_at(state.revoked, state.now).chain([0]) {
            actions.push(Action::Give { list });
        }
        actions.push(Action::Restart);
        if self.clock_is_set_back && state.behind == 0 {
            actions.push(Action::SetClockBack);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Wait => next.now += 1,
            Action::Revoke => next.revoked = Some(state.now),
            Action::Hear { made, ahead, list } => self.hear(&mut next, made + ahead, list),
            Action::Give { list } => {
                if list > next.held || !self.lists_go_forward {
                    next.held = list;
                    next.has_known |= list > 0;
                    let _ = next.freshness.reconsider(&holding(list));
                }
            }
            Action::Restart => {
                next.held = 0;
                next.has_known = false;
                next.freshness = fresh();
            }
            Action::SetClockBack => next.behind = FAR,
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(TOO_LONG, |model: &Self, state: &State| {
                let end = state.revoked.map(|at| at + BOUND + 2 * SKEW);
                !state.accepts_the_revoked(*model) || end.is_some_and(|end| state.now <= end)
            }),
            Property::always(AGAIN, |model: &Self, state: &State| {
                !(state.has_known && state.accepts_the_revoked(*model))
            }),
            Property::sometimes(KNOWS, |_, state: &State| {
                let tick = seconds(state.now);
                state.held == 1 && state.freshness.check(at(state.wall()), tick).is_ok()
            }),
        ]
    }
}

impl Heads {
    fn hear(&self, state: &mut State, made: u8, list: u8) {
        let time = FAR + if self.time_is_signed { made } else { state.now };
        if time > state.wall() + SKEW {
            return;
        }
        let head = Head {
            trust_domain: TrustDomain::parse("model.example").expect("a domain"),
            names: holding(list),
            time: at(time),
        };
        let held = if self.newer_is_no_confirmation {
            state.held
        } else {
            list
        };
        // Its signature is no part of the model: brokers are honest.
        let head = Verified::danger_assert(head);
        let tick = if self.tick_counts { state.now } else { 0 };
        let _ = state.freshness.hear(&head, &holding(held), seconds(tick));
    }
}

/// The lists that somebody could have named, or given, as the newest then.
fn lists_at(revoked: Option<u8>, then: u8) -> impl Iterator<Item = u8> {
    let before = revoked.is_none_or(|at| then <= at);
    let after = revoked.is_some_and(|at| then >= at);
    [(0, before), (1, after)]
        .into_iter()
        .filter_map(|(list, is_newest)| is_newest.then_some(list))
}

fn holding(list: u8) -> Holdings {
    Holdings {
        revocations: Mark {
            number: list.into(),
            hash: [list; 32],
        },
        ..Holdings::default()
    }
}

fn fresh() -> Freshness {
    let bounds = Bounds {
        revocations: seconds(BOUND),
        policy: seconds(BOUND),
    };
    Freshness::new(bounds, seconds(SKEW))
}

const TOO_LONG: &str = "a revoked workload is accepted beyond the bound";
const AGAIN: &str = "a revoked workload is accepted again";
/// A model in which nothing is ever confirmed would show nothing.
const KNOWS: &str = "the newest list is confirmed";

const SOUND: Heads = Heads {
    are_late: true,
    clock_is_set_back: false,
    time_is_signed: true,
    tick_counts: true,
    newer_is_no_confirmation: true,
    lists_go_forward: true,
};

#[test]
fn what_is_withheld_is_gone_by_for_no_longer_than_the_bound() {
    assert_eq!(search(SOUND), [KNOWS]);
}

#[test]
fn a_wall_clock_that_is_set_back_prolongs_nothing() {
    let set_back = Heads {
        are_late: false,
        clock_is_set_back: true,
        ..SOUND
    };
    assert_eq!(search(set_back), [KNOWS]);
}

/// Not promised: with a wrong wall clock an old head is not known for one.
#[test]
fn who_withholds_heads_and_sets_the_clock_back_as_well_gains_time() {
    let found = search(Heads {
        clock_is_set_back: true,
        ..SOUND
    });
    assert!(found.contains(&TOO_LONG), "{found:?}");
}

#[test]
fn if_heads_counted_from_when_they_come_old_ones_would_prolong() {
    let found = search(Heads {
        time_is_signed: false,
        ..SOUND
    });
    assert!(found.contains(&TOO_LONG), "{found:?}");
}

#[test]
fn by_the_wall_clock_alone_one_that_is_set_back_prolongs() {
    let found = search(Heads {
        are_late: false,
        clock_is_set_back: true,
        tick_counts: false,
        ..SOUND
    });
    assert!(found.contains(&TOO_LONG), "{found:?}");
}

#[test]
fn if_heads_about_newer_lists_confirmed_the_bound_would_never_come() {
    let found = search(Heads {
        newer_is_no_confirmation: false,
        ..SOUND
    });
    assert!(found.contains(&TOO_LONG), "{found:?}");
}

#[test]
fn if_lists_went_back_what_was_known_would_be_forgotten() {
    let found = search(Heads {
        lists_go_forward: false,
        ..SOUND
    });
    assert!(found.contains(&AGAIN), "{found:?}");
}

fn seconds(count: u8) -> Duration {
    Duration::from_secs(count.into())
}

fn at(clock: u8) -> UnixMillis {
    UnixMillis::from_secs(1_800_000_000).saturating_add(seconds(clock))
}
