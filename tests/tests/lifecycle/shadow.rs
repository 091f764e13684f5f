//! A policy on trial is decided everywhere, enforced nowhere, and nobody but the
//! policy key puts one there.

use std::time::Duration;

use bulla_envelope::{PolicyCandidate, SignedPolicy};
use bulla_identity::reserved;
use bulla_keyring::{AuthorityRole, AuthoritySeed, SigningKey};
use bulla_tests::{Bus, now};
use tokio::time::{sleep, timeout};

use super::{POLICY, PROMISE, until};

fn policy_key(bus: &Bus) -> SigningKey {
    let path = bus.provision().path("keys/policy.key");
    let text = bulla_process::secret_file::read_line(&path).unwrap();
    AuthoritySeed::parse(AuthorityRole::Policy, &text)
        .unwrap()
        .into_signing_key()
}

fn candidate(bus: &Bus, number: u64, text: &str) -> PolicyCandidate {
    PolicyCandidate(SignedPolicy {
        trust_domain: bus.policy().trust_domain().clone(),
        revision: number,
        issued_at: now(),
        comment: String::new(),
        text: bus.with_nkeys(text),
    })
}

async fn try_policy(bus: &Bus, number: u64, text: &str) {
    let signed = candidate(bus, number, text).sign(&policy_key(bus)).unwrap();
    bus.replace_control_record(reserved::CTL_CANDIDATE, signed.into())
        .await;
}

#[tokio::test]
async fn a_policy_on_trial_is_counted_and_not_enforced() {
    let bus = Bus::start(POLICY).await;
    let (orders, listener) = (bus.client("orders").await, bus.client("listener").await);
    let mut heard = listener.subscribe("a.>").await.unwrap();
    // It takes `a.two` away, and gives `a.three`.
    let next = POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\", \"a.three\"");
    try_policy(&bus, 1, &next).await;
    let tell = async |subject: &str| orders.publish(subject, "x").await.is_ok();

    // As soon as the first differs, both sides count.
    until(PROMISE, async || {
        tell("a.two").await;
        orders.stats().would_deny() > 0
    })
    .await;
    // What was said in between is the policy's in force: all of it arrives.
    while timeout(Duration::from_millis(300), heard.next())
        .await
        .is_ok()
    {}
    let counts = || [&orders, &listener].map(|c| (c.stats().would_deny(), c.stats().would_allow()));
    let before = counts();
    for subject in ["a.one", "a.two", "a.two"] {
        assert!(tell(subject).await, "{subject}");
        let message = timeout(PROMISE, heard.next()).await.unwrap().unwrap();
        assert_eq!(message.subject().as_str(), subject);
    }
    assert!(!tell("a.three").await, "it is not enforced");
    assert!(!tell("a.four").await);
    let after = counts();
    // The sender and the receiver, by what is remembered too; never `a.one`.
    assert_eq!(after[0], (before[0].0 + 2, before[0].1 + 1));
    assert_eq!(after[1], (before[1].0 + 2, before[1].1));

    // An older one does not come back, and one that is off is off.
    try_policy(&bus, 3, "").await;
    until(PROMISE, async || {
        let before = orders.stats().would_deny();
        tell("a.two").await;
        orders.stats().would_deny() == before
    })
    .await;
    try_policy(&bus, 2, &next).await;
    sleep(Duration::from_millis(300)).await;
    let before = counts();
    assert!(tell("a.two").await);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(counts(), before);
}

#[tokio::test]
async fn nobody_but_the_policy_key_tries_a_policy_and_nobody_puts_a_trial_in_force() {
    let bus = Bus::start(POLICY).await;
    let orders = bus.client("orders").await;
    let denied = POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\"");
    // By a broker's key.
    let path = bus.provision().path("keys/issuing.key");
    let text = bulla_process::secret_file::read_line(&path).unwrap();
    let issuing = AuthoritySeed::parse(AuthorityRole::Issuing, &text)
        .unwrap()
        .into_signing_key();
    let foreign = candidate(&bus, 1, &denied).sign(&issuing).unwrap();
    bus.replace_control_record(reserved::CTL_CANDIDATE, foreign.into())
        .await;
    until(PROMISE, async || {
        orders.stats().refused_for("candidate_refused") > 0
    })
    .await;
    orders.publish("a.two", "x").await.unwrap();
    assert_eq!(orders.stats().would_deny(), 0);

    // A genuine candidate where the policy lies: its signature is for a trial.
    let genuine = candidate(&bus, 9, &denied).sign(&policy_key(&bus)).unwrap();
    bus.replace_control_record(reserved::CTL_POLICY, genuine.into())
        .await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(orders.policy().revision(), 1);
    orders.publish("a.two", "x").await.unwrap();
    orders.flush().await.unwrap();
}

#[tokio::test]
async fn a_broker_counts_whom_it_would_turn_away() {
    let bus = Bus::start(POLICY).await;
    let without = POLICY
        .replace(
            "[workload.orders]\nattest = [{ nkey = \"@orders@\" }, { nkey = \"@spare@\" }]\n",
            "",
        )
        .replace("[\"orders\"]", "[\"other\"]");
    try_policy(&bus, 1, &without).await;
    let jetstream = async_nats::jetstream::new(bus.js_client().await);
    let stream = jetstream.get_stream(reserved::STATUS_STREAM).await.unwrap();
    let report = async || {
        use futures_util::StreamExt as _;
        let mut subjects = stream
            .info_with_subjects("$BULLA.STATUS.broker.*")
            .await
            .unwrap();
        let (subject, _) = subjects.next().await.unwrap().unwrap();
        let record = stream.direct_get_last_for_subject(&subject).await.unwrap();
        bulla_sdk::enforcer_report::EnforcerReport::decode(&record.payload).unwrap()
    };
    until(PROMISE, async || report().await.candidate == 1).await;
    let _raw = bus.raw_client("orders").await;
    let _other = bus.raw_client("other").await;
    // The next report says it; a change makes it come at once.
    try_policy(&bus, 2, &without).await;
    until(PROMISE, async || report().await.candidate == 2).await;
    let report = report().await;
    assert_eq!((report.would_deny, report.would_allow), (1, 0));
}
