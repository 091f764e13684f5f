//! Replay: a window in each process, and claims that the processes of a queue
//! group share (SPEC.md, ENV-33, ENV-34, ENV-40 to ENV-45).
//!
//! Whoever runs the network delivers each message to each process as often as it
//! likes, whenever it likes. Processes restart and lose their window. Clocks are
//! apart by up to the skew, and move back by as much while a process runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use bulla_envelope::{
    CredentialIssuer, CredentialRequest, Draft, Epoch, Expectation, IssuingKey, Kind, MessageId,
    OpenedEnvelope, ReplayLimits, ReplayWindow, RequestDraft, RequestExpectation, SealedEnvelope,
    Sealer, Terms, TrustBundle,
};
use bulla_identity::{NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName};
use bulla_keyring::{NkeySeed, SigningKey};
use stateright::{Model, Property};

use super::search;

const PROCESSES: usize = 2;
/// When each message is issued; they share a page of the window.
const ISSUED: [u8; 2] = [1, 2];
const LIFE: u8 = 2;
/// By how much clocks are apart.
const SKEW: u8 = 1;
/// Until when the search goes: everything is over by then, by any clock.
const END: u8 = ISSUED[1] + LIFE + 2 * SKEW;

/// Which defences stand.
#[derive(Clone, Copy)]
struct Replay {
    /// What was issued before a process began is refused (ENV-34).
    refuses_earlier: bool,
    window: Window,
    /// For how many skews beyond its expiry a message stays claimed; without
    /// claims each process is on its own.
    claimed_for: Option<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Window {
    /// [`ReplayWindow`] itself.
    Real,
    /// One that forgets at the expiry, though messages pass for a skew more.
    ForgetsEarly,
    /// One that judges by the clock as it is, not by the latest that it was told.
    FollowsTheClock,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    processes: [Process; PROCESSES],
    /// Until when each message is claimed, by the server's clock.
    claims: [Option<u8>; 2],
    /// How often each message ran in each process, over all its lives.
    runs: [[u8; PROCESSES]; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Process {
    /// By how much its clock is ahead.
    ahead: u8,
    /// When it began, by its clock.
    began: u8,
    /// What its window has taken, or still holds.
    taken: [bool; 2],
    /// The latest time that it was told.
    latest: u8,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Wait,
    Deliver { message: usize, to: usize },
    Restart { process: usize },
    MoveClock { process: usize },
}

impl Replay {
    /// Asks the window of a process for a message.
    fn takes(&self, process: &mut Process, message: usize, clock: u8) -> bool {
        let takes = match self.window {
            Window::Real => really_takes(process, message, clock),
            Window::ForgetsEarly => {
                process.forget(clock.max(process.latest), 0);
                !process.taken[message]
            }
            Window::FollowsTheClock => {
                process.forget(clock, SKEW);
                !process.taken[message]
            }
        };
        process.latest = process.latest.max(clock);
        process.taken[message] |= takes;
        takes
    }

    fn deliver(&self, state: &mut State, message: usize, to: usize) {
        let clock = state.now + state.processes[to].ahead;
        let (issued, expires) = (ISSUED[message], ISSUED[message] + LIFE);
        let process = &mut state.processes[to];
        let is_timely = issued <= clock + SKEW && clock <= expires + SKEW;
        let is_of_this_life = !self.refuses_earlier || issued >= process.began + SKEW;
        if !is_timely || !is_of_this_life {
            return;
        }
        if !self.takes(process, message, clock) {
            return;
        }
        if let Some(skews) = self.claimed_for {
            if state.claims[message].is_some_and(|until| state.now <= until) {
                return;
            }
            // A life of so many seconds, from when the server has it.
            let life = (expires + skews * SKEW).saturating_sub(clock);
            state.claims[message] = Some(state.now + life);
        }
        state.runs[message][to] += 1;
    }
}

impl Model for Replay {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            processes: Default::default(),
            claims: [None; 2],
            runs: [[0; PROCESSES]; 2],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now == END {
            return;
        }
        actions.push(Action::Wait);
        for process in 0..PROCESSES {
            actions.push(Action::Restart { process });
            actions.push(Action::MoveClock { process });
            for (message, issued) in ISSUED.into_iter().enumerate() {
                // Its sender's clock may be ahead too.
                if state.now + SKEW >= issued {
                    let to = process;
                    actions.push(Action::Deliver { message, to });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Wait => next.now += 1,
            Action::Deliver { message, to } => self.deliver(&mut next, message, to),
            Action::Restart { process } => {
                // It takes a while, in which its clock does not move back.
                next.now += 1;
                let ahead = next.processes[process].ahead;
                next.processes[process] = Process {
                    ahead,
                    began: next.now + ahead,
                    ..Process::default()
                };
            }
            Action::MoveClock { process } => {
                let ahead = &mut next.processes[process].ahead;
                *ahead = SKEW - *ahead;
            }
        }
        // Which of them is the first makes no difference.
        if next.processes[0] > next.processes[1] {
            next.processes.swap(0, 1);
            next.runs.iter_mut().for_each(|runs| runs.swap(0, 1));
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE_FOR_EACH, |_, state: &State| {
                state.runs.iter().flatten().all(|runs| *runs <= 1)
            }),
            Property::always(ONCE_FOR_ALL, |_, state: &State| {
                state.runs.iter().all(|runs| runs.iter().sum::<u8>() <= 1)
            }),
            Property::sometimes(RUNS, |_, state: &State| {
                state.runs.iter().all(|runs| runs.iter().any(|r| *r > 0))
            }),
        ]
    }
}

const ONCE_FOR_EACH: &str = "a message runs twice in one process";
const ONCE_FOR_ALL: &str = "a message runs twice in one queue group";
/// A model in which nothing ever runs would show nothing.
const RUNS: &str = "messages run";

const SHARED: Replay = Replay {
    refuses_earlier: true,
    window: Window::Real,
    claimed_for: Some(2),
};

#[test]
fn shared_runs_a_message_once_in_a_queue_group() {
    assert_eq!(search(SHARED), [RUNS]);
}

/// What `window` promises, and what it does not.
#[test]
fn window_runs_a_message_once_in_each_process_also_across_restarts() {
    let window = Replay {
        claimed_for: None,
        ..SHARED
    };
    assert_eq!(search(window), [ONCE_FOR_ALL, RUNS]);
}

#[test]
fn without_the_refusal_of_earlier_messages_a_restart_runs_one_again() {
    let found = search(Replay {
        refuses_earlier: false,
        claimed_for: None,
        ..SHARED
    });
    assert!(found.contains(&ONCE_FOR_EACH), "{found:?}");
}

#[test]
fn a_window_that_forgets_at_the_expiry_runs_one_again() {
    let found = search(Replay {
        window: Window::ForgetsEarly,
        claimed_for: None,
        ..SHARED
    });
    assert!(found.contains(&ONCE_FOR_EACH), "{found:?}");
}

#[test]
fn a_window_whose_time_moves_back_runs_one_again() {
    let found = search(Replay {
        window: Window::FollowsTheClock,
        claimed_for: None,
        ..SHARED
    });
    assert!(found.contains(&ONCE_FOR_EACH), "{found:?}");
}

#[test]
fn claims_that_end_a_skew_earlier_let_another_process_run_it() {
    let found = search(Replay {
        claimed_for: Some(1),
        ..SHARED
    });
    assert!(found.contains(&ONCE_FOR_ALL), "{found:?}");
}

impl Process {
    /// Lets the page go when the latest expiry in it has passed by `grace`.
    fn forget(&mut self, clock: u8, grace: u8) {
        let held = ISSUED.iter().zip(self.taken).filter(|(_, taken)| *taken);
        let end = held.map(|(issued, _)| issued + LIFE).max();
        if end.is_some_and(|end| clock > end + grace) {
            self.taken = [false; 2];
        }
    }
}

/// What [`ReplayWindow`] says, which has taken this and was told this time.
fn really_takes(process: &Process, message: usize, clock: u8) -> bool {
    type Asked = ([bool; 2], u8, usize, u8);
    thread_local! {
        static ANSWERS: RefCell<HashMap<Asked, bool>> = RefCell::default();
    }
    let asked = (process.taken, process.latest, message, clock);
    let answered = ANSWERS.with_borrow(|answers| answers.get(&asked).copied());
    answered.unwrap_or_else(|| {
        let mut window = ReplayWindow::new(ReplayLimits::default(), seconds(SKEW));
        let mut commit = |message: usize, clock: u8| {
            let opened = &MESSAGES[message];
            window
                .commit(opened, &opened.first_message(), at(clock))
                .is_ok()
        };
        let taken = || (0..ISSUED.len()).filter(|message| process.taken[*message]);
        for message in taken() {
            assert!(commit(message, ISSUED[message]));
        }
        // A replay tells it the time. Who has taken nothing was told nothing.
        if let Some(message) = taken().next() {
            assert!(!commit(message, process.latest));
        }
        let takes = commit(message, clock);
        ANSWERS.with_borrow_mut(|answers| answers.insert(asked, takes));
        takes
    })
}

fn seconds(count: u8) -> Duration {
    Duration::from_secs(count.into())
}

/// The model's time zero, with room for a skew before it.
fn at(clock: u8) -> UnixMillis {
    UnixMillis::from_secs(1_800_000_000).saturating_add(seconds(clock))
}

/// Genuine envelopes: what a window takes.
static MESSAGES: LazyLock<Vec<OpenedEnvelope>> = LazyLock::new(|| {
    let (domain, hour) = (TrustDomain::parse("model.example").unwrap(), 60 * 60);
    let (long, end) = (
        Duration::from_secs(hour),
        at(0).saturating_add(Duration::from_secs(hour)),
    );
    let workload = WorkloadId::new(&domain, &WorkloadName::parse("sender").unwrap());
    let (root, issuing) = (
        SigningKey::from_seed(&[1; 32]),
        SigningKey::from_seed(&[2; 32]),
    );
    let bundle = TrustBundle {
        trust_domain: domain.clone(),
        version: 1,
        issued_at: at(0),
        expires_at: end,
        root: *root.verifying_key(),
        former_roots: Vec::new(),
        issuing: vec![IssuingKey {
            key: *issuing.verifying_key(),
            expires_at: end,
        }],
        policy_keys: Vec::new(),
    };
    let roots = [*root.verifying_key()];
    let bundle = bundle.sign(&root).unwrap();
    let bundle = TrustBundle::open(&bundle, &roots, &domain, at(0), long).unwrap();
    let nkey = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
    let key = || SigningKey::from_seed(&[4; 32]);
    let request = RequestDraft {
        workload: &workload,
        message_key: &key(),
        process_keys: None,
        token_key: None,
        instance: [5; 16],
        challenge: [6; 32],
        requested_at: at(0),
    };
    let request = CredentialRequest::decode(&request.sign(Some(&nkey)))
        .unwrap()
        .verify(&RequestExpectation {
            tag: workload.tag(),
            challenge: &[6; 32],
            anchors: (&[nkey.public()]).into(),
            now: at(0),
            skew: long,
            max_age: long,
        })
        .unwrap();
    let terms = Terms {
        not_before: at(0),
        expires_at: end,
        serial: [7; 16],
    };
    let credential = CredentialIssuer::new(issuing)
        .issue(&request, terms)
        .unwrap();
    let sealer = Sealer::new(&credential, key(), Epoch([8; 8])).unwrap();
    let credential = credential
        .verify(&bundle, &[nkey.public()], at(0), long)
        .unwrap();
    let subject = Subject::parse("orders.created").unwrap();
    ISSUED
        .iter()
        .map(|issued| {
            let draft = Draft::event(&subject, at(*issued), at(*issued + LIFE), b"");
            let sealed = sealer.seal(&draft, MessageId([*issued; 16])).unwrap();
            let authentic = SealedEnvelope::decode(sealed.bytes)
                .unwrap()
                .verify(&credential)
                .unwrap();
            let expected = Expectation {
                subject: subject.as_str(),
                reply_to: None,
                kinds: &[Kind::Event],
                now: at(*issued),
                skew: seconds(SKEW),
                max_age: seconds(LIFE),
                not_before: UnixMillis::default(),
                request: None,
            };
            authentic.check(&expected).unwrap().open_clear().unwrap()
        })
        .collect()
});
