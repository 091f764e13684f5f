//! ENV-30 to ENV-35: authentic is not enough, it must be meant for here and now.

use std::time::Duration;

use bulla_envelope::{
    CheckError, Draft, Expectation, Kind, ReplayError, ReplayLimits, ReplayWindow, Sealed,
};

use crate::fixture::*;
use crate::oracle::{Parts, uint};

fn event() -> Sealed {
    let to = subject("orders.created");
    orders()
        .sealer()
        .seal(&Draft::event(&to, NOW, after(30), b"x"), id(1))
        .unwrap()
}

fn verdict(sealed: &Sealed, expected: &Expectation<'_>) -> Result<(), CheckError> {
    authentic(sealed, &orders().verified())
        .check(expected)
        .map(drop)
}

fn expected() -> Expectation<'static> {
    expect_event("orders.created")
}

#[test]
fn wrong_subject_reply_and_kind_are_refused() {
    let sealed = event();
    assert_eq!(verdict(&sealed, &expected()), Ok(()));
    for other in ["orders.create", "orders.created.x", "orders.Created", ""] {
        assert_eq!(
            verdict(&sealed, &expect_event(other)),
            Err(CheckError::WrongSubject)
        );
    }
    // An event that was redirected by adding a reply subject.
    let redirected = Expectation {
        reply_to: Some("admin.cmd"),
        ..expected()
    };
    assert_eq!(verdict(&sealed, &redirected), Err(CheckError::WrongReplyTo));
    let kinds = Expectation {
        kinds: &[Kind::Request, Kind::Reply, Kind::Error],
        ..expected()
    };
    assert_eq!(
        verdict(&sealed, &kinds),
        Err(CheckError::WrongKind { kind: Kind::Event })
    );
}

#[test]
fn a_request_with_another_or_no_reply_subject_is_refused() {
    let (to, inbox) = (subject("orders.created"), subject("_INBOX.a.p.1"));
    let draft = Draft::request(&to, &inbox, NOW, after(30), b"x");
    let sealed = orders().sealer().seal(&draft, id(1)).unwrap();
    let with = |reply_to| Expectation {
        reply_to,
        kinds: &[Kind::Request],
        ..expected()
    };
    assert_eq!(verdict(&sealed, &with(Some("_INBOX.a.p.1"))), Ok(()));
    for other in [None, Some("_INBOX.a.p.2"), Some("admin.cmd"), Some("")] {
        assert_eq!(
            verdict(&sealed, &with(other)),
            Err(CheckError::WrongReplyTo)
        );
    }
}

#[test]
fn time_is_checked_to_the_millisecond() {
    let sealed = event();
    let at = |millis: i64| {
        let now = if millis < 0 {
            NOW.saturating_sub(Duration::from_millis(millis.unsigned_abs()))
        } else {
            NOW.saturating_add(Duration::from_millis(millis.unsigned_abs()))
        };
        verdict(&sealed, &Expectation { now, ..expected() })
    };
    // The skew is 5 s, the expiry at 30 s.
    assert_eq!(at(-5_001), Err(CheckError::Future));
    assert_eq!(at(-5_000), Ok(()));
    assert_eq!(at(35_000), Ok(()));
    assert_eq!(at(35_001), Err(CheckError::Expired));
}

#[test]
fn the_subjects_maximum_age_bounds_what_the_sender_says() {
    let sealed = event();
    let short = |millis| Expectation {
        max_age: Duration::from_secs(10),
        now: NOW.saturating_add(Duration::from_millis(millis)),
        ..expected()
    };
    assert_eq!(verdict(&sealed, &short(15_000)), Ok(()));
    assert_eq!(verdict(&sealed, &short(15_001)), Err(CheckError::TooOld));
}

/// A policy that raises the maximum age between two copies makes no room.
#[test]
fn a_longer_maximum_age_does_not_reopen_the_window() {
    let to = subject("orders.created");
    let draft = Draft::event(&to, NOW, after(600), b"x");
    let sealed = orders().sealer().seal(&draft, id(1)).unwrap();
    let at = |seconds, max_age| Expectation {
        max_age: Duration::from_secs(max_age),
        now: after(seconds),
        ..expected()
    };
    let mut window = ReplayWindow::new(ReplayLimits::default(), SKEW);
    let mut commit = |expected: &Expectation<'_>| {
        let opened = open(&sealed, &orders().verified(), expected);
        window.commit(&opened, &opened.first_message(), expected.now)
    };
    assert_eq!(commit(&at(0, 10)), Ok(()));
    assert_eq!(commit(&at(300, 600)), Err(ReplayError::Replayed));
}

#[test]
fn what_was_issued_before_the_start_is_refused() {
    let sealed = event();
    let started = |not_before| Expectation {
        not_before,
        ..expected()
    };
    assert_eq!(verdict(&sealed, &started(NOW)), Ok(()));
    assert_eq!(
        verdict(
            &sealed,
            &started(NOW.saturating_add(Duration::from_millis(1)))
        ),
        Err(CheckError::IssuedBeforeStart)
    );
}

/// The sealer refuses this; a sender that does not use ours is refused here.
#[test]
fn an_envelope_does_not_outlive_its_credential() {
    let process = orders();
    let mut parts = Parts::of(&event().bytes);
    parts.set(8, uint(after(3601).as_millis()));
    let parts = parts.sign(&process.message_key(), process.credential().hash());
    let sealed = Sealed {
        bytes: parts.encode(),
        leaf: parts.leaf(),
        sequence: 0,
    };
    assert_eq!(
        verdict(&sealed, &expected()),
        Err(CheckError::OutlivesCredential)
    );
}

/// ENV-33: what a receiver remembers must not be for its senders to choose.
#[test]
fn an_envelope_does_not_live_longer_than_a_quarter_of_an_hour() {
    let process = orders();
    let lives = |seconds| {
        let mut parts = Parts::of(&event().bytes);
        parts.set(8, uint(after(seconds).as_millis()));
        let parts = parts.sign(&process.message_key(), process.credential().hash());
        let sealed = Sealed {
            bytes: parts.encode(),
            leaf: parts.leaf(),
            sequence: 0,
        };
        verdict(&sealed, &expected())
    };
    assert_eq!(lives(900), Ok(()));
    assert_eq!(lives(901), Err(CheckError::LivesTooLong));
}
