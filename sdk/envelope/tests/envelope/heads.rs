//! Heads, revocation lists, and whether what is held may be gone by.

use std::time::Duration;

use bulla_envelope::{
    Bounds, Comparison, Freshness, Head, Holdings, Mark, Revocation, RevocationError,
    RevocationList, Revoked, Stale, SuccessionError,
};
use bulla_identity::{UnixMillis, Verified};
use bulla_keyring::{KeyId, SigningKey, Tag};

use crate::fixture::*;

fn issuing() -> SigningKey {
    SigningKey::from_seed(&ISSUING)
}

fn policy_key() -> SigningKey {
    SigningKey::from_seed(&POLICY)
}

fn holdings(revocations: u64) -> Holdings {
    Holdings {
        bundle: 7,
        policy: Mark::of(3, b"policy"),
        revocations: Mark::of(revocations, b"list"),
    }
}

/// A head of so many seconds from now.
fn head(names: Holdings, seconds: i64) -> Verified<Head> {
    let head = Head {
        trust_domain: domain(),
        names,
        time: after(seconds),
    };
    let at = after(seconds);
    Head::open(&head.sign(&issuing()), &bundle(), at, SKEW).unwrap()
}

fn user(name: &str, since: UnixMillis) -> Revocation {
    Revocation {
        what: Revoked::User(name.to_owned()),
        since,
        made_at: NOW,
        reason: None,
    }
}

fn list(sequence: u64, entries: Vec<Revocation>) -> RevocationList {
    RevocationList::new(domain(), sequence, NOW, entries)
}

#[test]
fn every_flipped_bit_of_a_head_and_a_list_fails() {
    let bundle = bundle();
    let mut bytes = Head {
        trust_domain: domain(),
        names: holdings(1),
        time: NOW,
    }
    .sign(&issuing());
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::open(&bytes, &bundle, NOW, SKEW).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let mut bytes = list(1, vec![user("alice", NOW)])
        .sign(&policy_key())
        .unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(
            RevocationList::open(&bytes, &bundle, NOW, SKEW).is_err(),
            "bit {bit}"
        );
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_list_finds_each_kind_and_nothing_else() {
    let workload = workload("orders");
    let key = KeyId([7; 16]);
    let entry = |what| Revocation {
        what,
        since: after(-60),
        made_at: NOW,
        reason: Some("lost".to_owned()),
    };
    let entries = vec![
        entry(Revoked::Token("txn".to_owned())),
        entry(Revoked::User("alice".to_owned())),
        entry(Revoked::Key(key)),
        entry(Revoked::Workload(workload.clone())),
    ];
    let bytes = list(1, entries).sign(&policy_key()).unwrap();
    let list = RevocationList::open(&bytes, &bundle(), NOW, SKEW).unwrap();
    let since = Some(after(-60));
    assert_eq!(list.workload_since(&workload), since);
    assert_eq!(list.key_since(key), since);
    assert_eq!(list.user_since("alice"), since);
    assert_eq!(list.token_since("txn"), since);
    assert_eq!(list.user_since("txn"), None);
    assert_eq!(list.token_since("alice"), None);
    assert_eq!(list.user_since("alic"), None);
    assert_eq!(list.key_since(KeyId([8; 16])), None);
    assert_eq!(list.workloads().collect::<Vec<_>>(), [&workload]);
}

#[test]
fn of_two_entries_about_one_thing_the_later_stays() {
    let earlier = Revocation {
        made_at: after(-5),
        since: UnixMillis::default(),
        ..user("alice", NOW)
    };
    let later = user("alice", NOW);
    for entries in [
        vec![earlier.clone(), later.clone()],
        vec![later.clone(), earlier],
    ] {
        let list = list(1, entries);
        assert_eq!(list.entries(), std::slice::from_ref(&later));
        list.sign(&policy_key()).unwrap();
    }
}

#[test]
fn what_receivers_would_refuse_is_not_signed() {
    let key = policy_key();
    assert_eq!(list(0, vec![]).sign(&key), Err(RevocationError::Sequence));
    let future = user("alice", after(1));
    assert_eq!(
        list(1, vec![future]).sign(&key),
        Err(RevocationError::Times)
    );
    assert_eq!(
        list(1, vec![user("", NOW)]).sign(&key),
        Err(RevocationError::Name)
    );
    let names = (0..8_193).map(|n| user(&format!("u{n}"), NOW)).collect();
    assert_eq!(list(1, names).sign(&key).unwrap_err().code(), "too_large");
    let long = "x".repeat(500);
    let names = (0..2_000)
        .map(|n| user(&format!("{long}{n}"), NOW))
        .collect();
    assert_eq!(list(1, names).sign(&key).unwrap_err().code(), "too_large");
}

#[test]
fn lists_never_go_back() {
    let held = list(5, vec![user("alice", NOW)]);
    assert_eq!(held.check_succession(&held), Ok(()));
    assert_eq!(list(6, vec![]).check_succession(&held), Ok(()));
    assert_eq!(
        list(4, vec![user("alice", NOW)]).check_succession(&held),
        Err(SuccessionError::Rollback {
            held: 5,
            offered: 4
        })
    );
    assert_eq!(
        list(5, vec![]).check_succession(&held),
        Err(SuccessionError::Equivocation { version: 5 })
    );
}

const BOUNDS: Bounds = Bounds {
    revocations: Duration::from_secs(60),
    policy: Duration::from_secs(600),
};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Both clocks run alike.
fn check(freshness: &Freshness, seconds: u64) -> Result<(), Stale> {
    freshness.check(after(i64::try_from(seconds).unwrap()), secs(seconds))
}

#[test]
fn without_a_head_nothing_counts_and_with_one_it_does_for_the_bound() {
    let mut freshness = Freshness::new(BOUNDS, Duration::ZERO);
    assert_eq!(check(&freshness, 0), Err(Stale::Revocations));
    let heard = freshness.hear(&head(holdings(1), 0), &holdings(1), secs(0));
    assert_eq!(heard.revocations, Comparison::Same);
    assert_eq!(check(&freshness, 60), Ok(()));
    assert_eq!(check(&freshness, 61), Err(Stale::Revocations));
    assert_eq!(freshness.until(), (after(60), secs(60)));
    // The next one counts again.
    freshness.hear(&head(holdings(1), 100), &holdings(1), secs(100));
    assert_eq!(check(&freshness, 160), Ok(()));
}

#[test]
fn the_policys_bound_is_its_own() {
    let bounds = Bounds {
        revocations: secs(60),
        policy: secs(30),
    };
    let mut freshness = Freshness::new(bounds, Duration::ZERO);
    freshness.hear(&head(holdings(1), 0), &holdings(1), secs(0));
    assert_eq!(check(&freshness, 31), Err(Stale::Policy));
    // A head about a newer policy confirms the revocations alone.
    let mut ahead = holdings(1);
    ahead.policy = Mark::of(4, b"newer");
    freshness.hear(&head(ahead, 31), &holdings(1), secs(31));
    assert_eq!(check(&freshness, 31), Err(Stale::Policy));
    let mut ahead = holdings(1);
    ahead.bundle = 8;
    freshness.hear(&head(ahead, 32), &holdings(1), secs(32));
    assert_eq!(check(&freshness, 32), Err(Stale::Policy));
    assert_eq!(check(&freshness, 92), Err(Stale::Policy));
    assert_eq!(check(&freshness, 93), Err(Stale::Revocations));
}

#[test]
fn a_replayed_head_prolongs_nothing() {
    let mut freshness = Freshness::new(BOUNDS, Duration::ZERO);
    let old = head(holdings(1), 0);
    freshness.hear(&old, &holdings(1), secs(0));
    freshness.hear(&old, &holdings(1), secs(50));
    assert_eq!(check(&freshness, 61), Err(Stale::Revocations));
    // Not even where the wall clock is set back for it.
    assert_eq!(freshness.check(after(1), secs(61)), Err(Stale::Revocations));
}

#[test]
fn an_old_head_counts_for_what_is_left_of_it() {
    let mut freshness = Freshness::new(BOUNDS, Duration::ZERO);
    freshness.hear(&head(holdings(1), -59), &holdings(1), secs(0));
    assert_eq!(check(&freshness, 1), Ok(()));
    assert_eq!(check(&freshness, 2), Err(Stale::Revocations));
    let mut freshness = Freshness::new(BOUNDS, secs(5));
    freshness.hear(&head(holdings(1), -66), &holdings(1), secs(0));
    assert_eq!(check(&freshness, 0), Err(Stale::Revocations));
}

#[test]
fn what_is_ahead_is_fetched_and_then_confirmed_by_the_same_head() {
    let mut freshness = Freshness::new(BOUNDS, Duration::ZERO);
    let heard = freshness.hear(&head(holdings(2), 0), &holdings(1), secs(0));
    assert!(heard.is_ahead());
    assert_eq!(check(&freshness, 0), Err(Stale::Revocations));
    let heard = freshness.reconsider(&holdings(2)).unwrap();
    assert!(!heard.is_ahead());
    assert_eq!(check(&freshness, 60), Ok(()));
    assert_eq!(check(&freshness, 61), Err(Stale::Revocations));
    // One that is behind says that there was nothing newer either.
    let heard = freshness.hear(&head(holdings(1), 30), &holdings(2), secs(30));
    assert_eq!(heard.revocations, Comparison::Behind);
    assert_eq!(check(&freshness, 90), Ok(()));
}

#[test]
fn a_contradiction_confirms_nothing() {
    let mut freshness = Freshness::new(BOUNDS, Duration::ZERO);
    let mut other = holdings(1);
    other.revocations.hash = [9; 32];
    let heard = freshness.hear(&head(other, 0), &holdings(1), secs(0));
    assert!(heard.is_contradiction() && !heard.is_ahead());
    assert_eq!(check(&freshness, 0), Err(Stale::Revocations));
    let mut freshness = Freshness::new(BOUNDS, Duration::ZERO);
    let mut other = holdings(1);
    other.policy.hash = [9; 32];
    let heard = freshness.hear(&head(other, 1), &holdings(1), secs(1));
    assert!(heard.is_contradiction());
    assert_eq!(check(&freshness, 1), Err(Stale::Policy));
}

/// A policy key outside of this process signs the same list.
#[test]
fn a_list_can_be_signed_elsewhere() {
    let key = SigningKey::from_seed(&POLICY);
    let public = key.verifying_key();
    let list = RevocationList::new(domain(), 3, NOW, Vec::new());
    let message = list.to_sign(public).unwrap();
    let statement = message.strip_prefix(Tag::Revocations.as_bytes()).unwrap();
    let signature = key.sign(Tag::Revocations, &[statement]);
    assert_eq!(
        list.signed(public, &signature).unwrap(),
        list.sign(&key).unwrap()
    );
    let other = key.sign(Tag::Policy, &[statement]);
    assert_eq!(
        list.signed(public, &other).unwrap_err().code(),
        "bad_signature"
    );
}
