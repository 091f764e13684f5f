//! ENV-80 to ENV-88: a chain of calls, shown and proven.

use std::time::Duration;

use bulla_envelope::{
    AncestryError, ChainError, DecodeError, Draft, Expectation, Kind, Limits, Lineage,
    MAX_ANCESTORS, MAX_ANCESTRY, OpenedEnvelope, SealError, Sealed, SealedEnvelope,
    VerifiedCredential, VerifiedRoots, VerifyError,
};
use bulla_identity::{UnixMillis, Verified};
use bytes::Bytes;
use proptest::prelude::*;

use crate::fixture::*;
use crate::oracle::{read_bin, skip};

const TOKEN: &[u8] = b"header.claims.signature";

fn edge() -> Process {
    Process::new("edge", 40)
}

/// What one request says besides where it goes.
struct Say<'a> {
    token: Option<&'a [u8]>,
    limits: Option<&'a [u8]>,
    at: UnixMillis,
    life: Duration,
    body: &'a [u8],
}

impl Default for Say<'_> {
    fn default() -> Self {
        Self {
            token: Some(TOKEN),
            limits: None,
            at: NOW,
            life: LIFE,
            body: b"ask",
        }
    }
}

/// A request in the handling of `parent`.
fn seal(by: &Process, to: &str, parent: Option<&Lineage>, say: &Say<'_>) -> Sealed {
    let (to, inbox) = (subject(to), subject("_INBOX.a.p.1"));
    let mut draft = Draft::request(
        &to,
        &inbox,
        say.at,
        say.at.saturating_add(say.life),
        say.body,
    );
    draft.token = say.token;
    draft.limits = say.limits;
    let ancestry = parent.map(|lineage| lineage.ancestry().unwrap());
    draft.parent = ancestry.as_ref().map(|shown| shown.nearest());
    draft.ancestry = ancestry.as_ref();
    by.sealer().seal(&draft, id(1)).unwrap()
}

fn opened(sealed: &Bytes, by: &Process) -> OpenedEnvelope {
    let sealed = SealedEnvelope::decode(sealed.clone()).unwrap();
    let to = sealed.subject_unverified().to_owned();
    let authentic = sealed.verify(&by.verified()).unwrap();
    let expected = Expectation {
        reply_to: Some("_INBOX.a.p.1"),
        kinds: &[Kind::Request],
        now: NOW,
        skew: Duration::from_secs(3600),
        max_age: Duration::from_secs(3600),
        ..expect_event(&to)
    };
    authentic.check(&expected).unwrap().open_clear().unwrap()
}

fn send(by: &Process, to: &str, parent: Option<&OpenedEnvelope>, say: &Say<'_>) -> OpenedEnvelope {
    let lineage = parent.map(OpenedEnvelope::lineage);
    opened(&seal(by, to, lineage.as_ref(), say).bytes, by)
}

/// Proves each ancestor under the credential of who should have sent it.
fn senders(
    opened: &OpenedEnvelope,
    by: &[&Process],
) -> Result<Vec<Verified<bulla_envelope::Sender>>, ChainError> {
    let roots = VerifiedRoots::new();
    opened
        .ancestors()
        .zip(by)
        .map(|(ancestor, process)| ancestor.verify(&process.verified(), &roots))
        .collect()
}

fn verdict(opened: &OpenedEnvelope, by: &[&Process]) -> Result<(), ChainError> {
    let senders = senders(opened, by)?;
    opened.check_chain(&senders, edge().workload.as_str(), SKEW, |ancestor| {
        ancestor.over_at(LIFE)
    })
}

/// edge → orders → billing: what billing's peer receives.
fn three() -> OpenedEnvelope {
    let first = send(&edge(), "orders.create", None, &Say::default());
    let second = send(&orders(), "billing.quote", Some(&first), &Say::default());
    send(&billing(), "bank.pay", Some(&second), &Say::default())
}

#[test]
fn a_chain_proves_who_sent_what_before() {
    let third = three();
    let shown: Vec<_> = third.ancestors().map(|a| a.subject().to_owned()).collect();
    assert_eq!(shown, ["billing.quote", "orders.create"]);
    assert_eq!(third.parent(), third.ancestors().next().map(|a| a.leaf()));
    let senders = senders(&third, &[&orders(), &edge()]).unwrap();
    let names: Vec<_> = senders.iter().map(|s| s.workload.path()).collect();
    assert_eq!(names, ["orders", "edge"]);
    assert_eq!(verdict(&third, &[&orders(), &edge()]), Ok(()));
    // Ancestors lie in the bytes of the message that shows them, with its token.
    for shown in third.ancestors() {
        crate::spellings::assert_unprinted("Ancestor", &shown, &[TOKEN]);
    }
}

#[test]
fn env_86_the_first_message_is_the_minters() {
    let first = send(&edge(), "orders.create", None, &Say::default());
    assert_eq!(verdict(&first, &[]), Ok(()));
    let own = send(&orders(), "billing.quote", None, &Say::default());
    assert_eq!(verdict(&own, &[]), Err(ChainError::ForeignStart));
    let next = send(&billing(), "bank.pay", Some(&own), &Say::default());
    assert_eq!(verdict(&next, &[&orders()]), Err(ChainError::ForeignStart));
}

#[test]
fn env_84_the_token_is_one_and_there() {
    for (mine, yours, want) in [
        (Some(TOKEN), Some(&b"another"[..]), ChainError::TokenChanged),
        (Some(TOKEN), None, ChainError::TokenChanged),
        (None, Some(TOKEN), ChainError::NoUser),
        (None, None, ChainError::NoUser),
    ] {
        let say = |token| Say {
            token,
            ..Say::default()
        };
        let first = send(&edge(), "orders.create", None, &say(yours));
        let second = send(&orders(), "billing.quote", Some(&first), &say(mine));
        assert_eq!(verdict(&second, &[&edge()]), Err(want));
    }
    // In the middle of a chain whose ends agree.
    let first = send(&edge(), "orders.create", None, &Say::default());
    let other = Say {
        token: Some(b"another"),
        ..Say::default()
    };
    let second = send(&orders(), "billing.quote", Some(&first), &other);
    let third = send(&billing(), "bank.pay", Some(&second), &Say::default());
    let by = [&orders(), &edge()];
    assert_eq!(verdict(&third, &by), Err(ChainError::TokenChanged));
}

#[test]
fn env_84_limits_only_narrow() {
    let keep = |scopes: &[&str]| {
        let limits = Limits::none().keep_scopes(scopes.iter().copied());
        limits.encode().unwrap().unwrap()
    };
    let (some, less, other) = (keep(&["a", "b"]), keep(&["a"]), keep(&["c"]));
    for (parent, child, sound) in [
        (None, Some(&some[..]), true),
        (Some(&some[..]), Some(&some[..]), true),
        (Some(&some[..]), Some(&less[..]), true),
        (Some(&less[..]), Some(&some[..]), false),
        (Some(&some[..]), Some(&other[..]), false),
        (Some(&some[..]), None, false),
    ] {
        let say = |limits| Say {
            limits,
            ..Say::default()
        };
        let first = send(&edge(), "orders.create", None, &say(parent));
        let second = send(&orders(), "billing.quote", Some(&first), &say(child));
        let want = if sound {
            Ok(())
        } else {
            Err(ChainError::LimitsWidened)
        };
        assert_eq!(verdict(&second, &[&edge()]), want);
    }
}

#[test]
fn env_85_a_message_is_sent_while_the_one_before_lives() {
    let millis = Duration::from_millis;
    let (skew, life) = (SKEW.as_millis() as i64, LIFE.as_millis() as i64);
    for (offset, want) in [
        (0, Ok(())),
        (-skew, Ok(())),
        (-skew - 1, Err(ChainError::OutOfOrder)),
        (life + skew, Ok(())),
        (life + skew + 1, Err(ChainError::ParentOver)),
    ] {
        let base = NOW.saturating_add(millis(60_000));
        let at = if offset < 0 {
            base.saturating_sub(millis(offset.unsigned_abs()))
        } else {
            base.saturating_add(millis(offset.unsigned_abs()))
        };
        let say = |at| Say {
            at,
            ..Say::default()
        };
        let first = send(&edge(), "orders.create", None, &say(base));
        let second = send(&orders(), "billing.quote", Some(&first), &say(at));
        assert_eq!(verdict(&second, &[&edge()]), want, "{offset}");
        // Also further back.
        let third = send(&billing(), "bank.pay", Some(&second), &say(at));
        assert_eq!(verdict(&third, &[&orders(), &edge()]), want, "{offset}");
    }
    // Whichever ends first counts: its own word, or the receiver's rule.
    for (own, rule) in [(millis(500), LIFE), (LIFE, millis(500))] {
        let first = send(
            &edge(),
            "orders.create",
            None,
            &Say {
                life: own,
                ..Say::default()
            },
        );
        let late = Say {
            at: NOW.saturating_add(SKEW + millis(501)),
            ..Say::default()
        };
        let second = send(&orders(), "billing.quote", Some(&first), &late);
        let senders = senders(&second, &[&edge()]).unwrap();
        let over = |a: &bulla_envelope::Ancestor<'_>| a.over_at(rule);
        let got = second.check_chain(&senders, edge().workload.as_str(), SKEW, over);
        assert_eq!(got, Err(ChainError::ParentOver));
    }
}

#[test]
fn env_83_every_ancestor_is_proven_under_its_senders_credential() {
    let third = three();
    let roots = VerifiedRoots::new();
    let mut other = orders();
    other.message_seed = [0x77; 32];
    let verify = |credential: &VerifiedCredential| {
        let first = third.ancestors().next().unwrap();
        first.verify(credential, &roots).map(drop)
    };
    assert_eq!(verify(&orders().verified()), Ok(()));
    assert_eq!(
        verify(&other.verified()),
        Err(ChainError::Verify(VerifyError::WrongCredential))
    );
    // Fewer or more than are shown.
    let mut all = senders(&third, &[&orders(), &edge()]).unwrap();
    let minter = edge().workload;
    let check =
        |senders: &[_]| third.check_chain(senders, minter.as_str(), SKEW, |a| a.over_at(LIFE));
    assert_eq!(check(&all), Ok(()));
    all.extend(senders(&third, &[&orders()]).unwrap());
    assert_eq!(check(&all), Err(ChainError::Unproven));
    assert_eq!(check(&all[..1]), Err(ChainError::Unproven));
}

#[test]
fn what_is_not_shown_is_not_proven() {
    let third = three();
    // The parent named and nothing shown, as on a subject that asks for nothing.
    let (to, inbox) = (subject("bank.pay"), subject("_INBOX.a.p.1"));
    let mut draft = Draft::request(&to, &inbox, NOW, after(30), b"ask");
    draft.token = Some(TOKEN);
    draft.parent = third.parent();
    let sealed = billing().sealer().seal(&draft, id(1)).unwrap();
    let opened = opened(&sealed.bytes, &billing());
    assert_eq!(opened.ancestors().len(), 0);
    assert_eq!(verdict(&opened, &[]), Err(ChainError::Missing));
    // And whoever receives that has nothing to show either.
    let lineage = opened.lineage();
    assert_eq!(lineage.ancestry().unwrap_err(), AncestryError::Incomplete);
}

/// The parts of an envelope of six: all before the ancestors, each ancestor, the proof.
struct Parts {
    before: Vec<u8>,
    ancestors: Vec<Vec<u8>>,
    proof: Vec<u8>,
}

fn value_len(bytes: &[u8]) -> usize {
    let mut at = bytes;
    skip(&mut at);
    bytes.len() - at.len()
}

impl Parts {
    fn of(envelope: &[u8]) -> Self {
        assert_eq!(envelope[0], 0x96);
        let mut at = 1;
        for _ in 0..4 {
            at += value_len(&envelope[at..]);
        }
        let end = at + value_len(&envelope[at..]);
        let shown = read_bin(&mut &envelope[at..end]);
        let mut inner = 1;
        let mut ancestors = Vec::new();
        while inner < shown.len() {
            let len = value_len(&shown[inner..]);
            ancestors.push(shown[inner..inner + len].to_vec());
            inner += len;
        }
        Self {
            before: envelope[..at].to_vec(),
            ancestors,
            proof: envelope[end..].to_vec(),
        }
    }

    fn shown(&self) -> Vec<u8> {
        let mut out = Vec::new();
        rmp::encode::write_array_len(&mut out, self.ancestors.len() as u32).unwrap();
        out.extend(self.ancestors.concat());
        out
    }

    fn with(&self, shown: &[u8]) -> Bytes {
        let mut out = self.before.clone();
        rmp::encode::write_bin(&mut out, shown).unwrap();
        out.extend(&self.proof);
        out.into()
    }

    fn stripped(&self) -> Bytes {
        let mut out = self.before.clone();
        out[0] = 0x95;
        out.extend(&self.proof);
        out.into()
    }
}

fn refusal(bytes: Bytes) -> &'static str {
    SealedEnvelope::decode(bytes).unwrap_err().code()
}

/// A chain of four, so that there is a middle; as bytes.
fn four() -> Bytes {
    let third = three();
    let bank = Process::new("bank", 41);
    seal(
        &bank,
        "ledger.write",
        Some(&third.lineage()),
        &Say::default(),
    )
    .bytes
}

#[test]
fn env_82_ancestors_are_those_that_the_signature_means() {
    let bytes = four();
    let parts = Parts::of(&bytes);
    assert_eq!(parts.ancestors.len(), 3);
    assert_eq!(parts.with(&parts.shown()), bytes);
    let change = |act: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut changed = Parts {
            before: parts.before.clone(),
            ancestors: parts.ancestors.clone(),
            proof: parts.proof.clone(),
        };
        act(&mut changed.ancestors);
        refusal(changed.with(&changed.shown()))
    };
    assert_eq!(change(&|a| drop(a.pop())), "ancestry_incomplete");
    assert_eq!(change(&|a| a.truncate(1)), "ancestry_incomplete");
    assert_eq!(change(&|a| drop(a.remove(0))), "ancestor_unlinked");
    assert_eq!(change(&|a| drop(a.remove(1))), "ancestor_unlinked");
    assert_eq!(change(&|a| a.swap(0, 1)), "ancestor_unlinked");
    assert_eq!(change(&|a| a.push(a[2].clone())), "ancestor_unlinked");
    assert_eq!(change(&|a| a.insert(0, a[0].clone())), "ancestor_unlinked");
    assert_eq!(change(&|a| a.clear()), "ancestry_empty");
    let many = |a: &mut Vec<Vec<u8>>| a.resize(MAX_ANCESTORS + 1, a[0].clone());
    assert_eq!(change(&many), "too_long");
    assert_eq!(refusal(parts.with(&[])), "truncated");
    let trailing = [parts.shown(), vec![0xc0]].concat();
    assert_eq!(refusal(parts.with(&trailing)), "trailing_bytes");
    assert_eq!(
        refusal(parts.with(&vec![0x91; MAX_ANCESTRY + 1])),
        "too_long"
    );
    // Without any it is an envelope like others, which shows nothing.
    let bank = Process::new("bank", 41);
    let stripped = opened(&parts.stripped(), &bank);
    assert_eq!(verdict(&stripped, &[]), Err(ChainError::Missing));
}

#[test]
fn ancestors_belong_to_a_parent_that_the_header_names() {
    let parts = Parts::of(&four());
    let plain = seal(&edge(), "orders.create", None, &Say::default()).bytes;
    let mut before = plain[..plain.len() - 71].to_vec();
    before[0] = 0x96;
    let grafted = Parts {
        before,
        ancestors: parts.ancestors.clone(),
        proof: plain[plain.len() - 71..].to_vec(),
    };
    assert_eq!(refusal(grafted.with(&grafted.shown())), "ancestor_unlinked");
}

#[test]
fn only_events_and_requests_show_and_are_shown() {
    let third = three();
    let ancestry = third.lineage().ancestry().unwrap();
    let to = subject("_INBOX.a.p.1");
    let binding = bulla_envelope::ReplyBinding {
        request: third.leaf(),
        index: 0,
        is_final: true,
    };
    let mut draft = Draft::reply(&to, binding, NOW, after(30), b"x");
    draft.parent = Some(ancestry.nearest());
    draft.ancestry = Some(&ancestry);
    let error = orders().sealer().seal(&draft, id(1)).unwrap_err();
    assert_eq!(error, SealError::Ancestry(AncestryError::Kind));
    // Under another parent, or none.
    for parent in [None, Some(third.ancestors().next().unwrap().leaf())] {
        let mut draft = Draft::event(&to, NOW, after(30), b"x");
        draft.ancestry = Some(&ancestry);
        draft.parent = parent;
        let error = orders().sealer().seal(&draft, id(1)).unwrap_err();
        assert_eq!(error, SealError::Ancestry(AncestryError::Unlinked));
    }
}

#[test]
fn env_80_a_chain_ends_at_eight_and_at_32_kib() {
    let mut last = send(&edge(), "orders.create", None, &Say::default());
    for n in 1..=MAX_ANCESTORS {
        last = send(&orders(), "orders.create", Some(&last), &Say::default());
        assert_eq!(last.ancestors().len(), n);
    }
    let limit = MAX_ANCESTORS;
    assert_eq!(
        last.lineage().ancestry().unwrap_err(),
        AncestryError::TooMany { limit }
    );
    // Long headers fill it earlier.
    let long = "x".repeat(1000);
    let mut headers = bulla_envelope::AppHeaders::new();
    for n in 0..8 {
        headers.insert(&format!("h{n}"), &long).unwrap();
    }
    let mut last: Option<OpenedEnvelope> = None;
    for n in 0..5 {
        let (to, inbox) = (subject("orders.create"), subject("_INBOX.a.p.1"));
        let mut draft = Draft::request(&to, &inbox, NOW, after(30), b"ask");
        draft.app_headers = Some(&headers);
        let lineage = last.as_ref().map(OpenedEnvelope::lineage);
        let ancestry = lineage.map(|lineage| lineage.ancestry());
        if n == 4 {
            let Some(Err(AncestryError::TooLong { actual, .. })) = ancestry else {
                panic!("it fits");
            };
            assert!(actual > MAX_ANCESTRY);
            return;
        }
        let ancestry = ancestry.transpose().unwrap();
        draft.parent = ancestry.as_ref().map(|shown| shown.nearest());
        draft.ancestry = ancestry.as_ref();
        let sealed = orders().sealer().seal(&draft, id(1)).unwrap();
        last = Some(opened(&sealed.bytes, &orders()));
    }
}

#[test]
fn what_was_measured_is_what_is_sealed_with_ancestors_too() {
    let third = three();
    let ancestry = third.lineage().ancestry().unwrap();
    let to = subject("bank.pay");
    let mut draft = Draft::event(&to, NOW, after(30), b"ask");
    draft.parent = Some(ancestry.nearest());
    draft.ancestry = Some(&ancestry);
    let sealer = orders().sealer();
    let measured = sealer.measure(&draft).unwrap();
    let batch: Vec<_> = (0..5u8).map(|n| (draft.clone(), id(n))).collect();
    for sealed in sealer.seal_batch(&batch).unwrap() {
        assert!(sealed.bytes.len() <= measured + bulla_envelope::Sealer::BATCH_ROOM);
        let decoded = SealedEnvelope::decode(sealed.bytes).unwrap();
        assert!(decoded.verify(&orders().verified()).is_ok());
    }
    let alone = sealer.seal(&draft, id(9)).unwrap();
    assert!((measured - 8..=measured).contains(&alone.bytes.len()));
}

#[test]
fn debug_shows_no_header_of_an_ancestor() {
    let third = three();
    let lineage = third.lineage();
    for text in [
        format!("{lineage:?}"),
        format!("{:?}", lineage.ancestry().unwrap()),
    ] {
        assert!(text.len() < 100 && text.contains("LeafHash"), "{text}");
    }
}

proptest! {
    /// Whatever is bent in the ancestors: refused, or, in a proof, not proven.
    #[test]
    fn no_bent_byte_of_an_ancestor_counts(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let bytes = four();
        let parts = Parts::of(&bytes);
        let shown = parts.shown();
        let mut bent = shown.clone();
        let at = at.index(bent.len());
        bent[at] ^= 1 << bit;
        let bank = Process::new("bank", 41);
        match SealedEnvelope::decode(parts.with(&bent)) {
            Err(DecodeError::TooLarge { .. }) => prop_assert!(false),
            Err(_) => {}
            Ok(_) => {
                let opened = opened(&parts.with(&bent), &bank);
                let by = [&billing(), &orders(), &edge()];
                prop_assert!(verdict(&opened, &by).is_err());
            }
        }
    }
}
