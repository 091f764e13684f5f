//! What replaces a policy, and what does not: at brokers and at every process.

use std::time::Duration;

use bulla_envelope::SignedPolicy;
use bulla_identity::{TrustDomain, reserved};
use bulla_keyring::{AuthorityRole, AuthoritySeed, SigningKey};
use bulla_sdk::Client;
use bulla_tests::{Bus, now};
use tokio::time::sleep;

use super::{POLICY, PROMISE, until};

fn key(bus: &Bus, file: &str, role: AuthorityRole) -> SigningKey {
    let path = bus.provision().path("keys").join(file);
    let text = bulla_process::secret_file::read_line(&path).unwrap();
    AuthoritySeed::parse(role, &text)
        .unwrap()
        .into_signing_key()
}

/// Puts a policy onto the control stream as whoever writes there could.
async fn put(bus: &Bus, policy: &SignedPolicy, by: &SigningKey) {
    let record = policy.sign(by).unwrap();
    bus.replace_control_record(reserved::CTL_POLICY, record.into())
        .await;
}

#[tokio::test]
async fn attack_30_an_old_a_broken_and_a_foreign_policy_replace_nothing() {
    let bus = Bus::start(POLICY).await;
    let client = bus.client("orders").await;
    let first = bus.control_record(reserved::CTL_POLICY).await;
    bus.publish_policy(&format!("{POLICY}\n# second\n")).await;
    until(PROMISE, async || client.policy().revision() == 2).await;
    let policy_key = key(&bus, "policy.key", AuthorityRole::Policy);
    let made = |revision: u64, text: &str| SignedPolicy {
        trust_domain: bus.policy().trust_domain().clone(),
        revision,
        issued_at: now(),
        comment: String::new(),
        text: bus.with_nkeys(text),
    };
    let closed = POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\"");
    let stands = async |client: &Client| {
        sleep(Duration::from_millis(300)).await;
        assert_eq!(client.policy().revision(), 2);
        client.publish("a.two", "x").await.unwrap();
        client.flush().await.unwrap();
        // And who connects now gets what it gives.
        let mut raw = bus.raw_socket("orders").await;
        assert!(!raw.is_refused("PUB a.two 1\r\nx").await);
    };
    // An old one again, as it was signed.
    bus.replace_control_record(reserved::CTL_POLICY, first)
        .await;
    stands(&client).await;
    // One that does not load, and one of another deployment, with newer numbers.
    put(&bus, &made(8, "version = 1\n[[allow]]\n"), &policy_key).await;
    stands(&client).await;
    let mut foreign = made(9, &closed.replace("acme.example", "evil.example"));
    put(&bus, &foreign, &policy_key).await;
    stands(&client).await;
    foreign.trust_domain = TrustDomain::parse("evil.example").unwrap();
    put(&bus, &foreign, &policy_key).await;
    stands(&client).await;
    // One that a broker signed.
    let issuing = key(&bus, "issuing.key", AuthorityRole::Issuing);
    put(&bus, &made(10, &closed), &issuing).await;
    stands(&client).await;
    // The same number with other contents.
    put(&bus, &made(2, &closed), &policy_key).await;
    stands(&client).await;
    // The operator's next one does.
    put(&bus, &made(11, &closed), &policy_key).await;
    until(PROMISE, async || client.policy().revision() == 11).await;
    until(PROMISE, async || {
        client.publish("a.two", "x").await.is_err()
    })
    .await;
}
