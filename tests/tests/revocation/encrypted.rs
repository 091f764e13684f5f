//! Nothing is encrypted to who is revoked.

use bulla_envelope::{RecipientSet, SealedEnvelope};
use bulla_keyring::KemSuite;
use bulla_tests::{Bus, Dissected, bin};
use futures_util::StreamExt as _;

use super::{POLICY, eventually};

/// The set to which the key of an envelope is wrapped, and the key's id.
fn field(envelope: &[u8], key: u8) -> Vec<u8> {
    let fields = Dissected::of(envelope).fields;
    let (_, value) = fields.into_iter().find(|(k, _)| *k == key).unwrap();
    value
}

fn set_of(bus: &Bus, names: &[&str]) -> Vec<u8> {
    let ids = names.iter().map(|name| {
        let id = bus.workload(name);
        let secret = bus.seed(name).kem_secret(KemSuite::XWing, 1, &id);
        secret.public().id()
    });
    bin(&RecipientSet::of(ids).0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_recipient_gets_no_further_data_key() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let (back, _late) = (bus.client("back").await, bus.client("late").await);
    let mut heard = back.subscribe("secret.told").await.unwrap();
    let mut wire = bus
        .raw_client("back")
        .await
        .subscribe("secret.told")
        .await
        .unwrap();
    front.flush().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;

    front.publish("secret.told", "one").await.unwrap();
    assert_eq!(
        heard.next().await.unwrap().decode::<String>().unwrap(),
        "one"
    );
    let before = wire.next().await.unwrap().payload;
    assert_eq!(field(&before, 22), set_of(&bus, &["back", "late"]));

    bus.revoke_workload("late").await;
    eventually(|| front.revocations().sequence() == 1).await;
    front.publish("secret.told", "two").await.unwrap();
    assert_eq!(
        heard.next().await.unwrap().decode::<String>().unwrap(),
        "two"
    );
    let after = wire.next().await.unwrap().payload;
    assert_eq!(field(&after, 22), set_of(&bus, &["back"]));
    assert_ne!(field(&before, 23), field(&after, 23), "a fresh key");
    // It is not that somebody's key is missing.
    assert_eq!(front.stats().recipients_without_key(), 0);
    assert!(SealedEnvelope::decode(after).is_ok());
}
