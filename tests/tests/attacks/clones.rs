//! Two processes with one message key.

use bulla_sdk::ALARM_TARGET;
use bulla_tests::{events, listen};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_key_is_an_alarm_and_a_replay_is_none() {
    listen();
    let scene = Scene::start().await;
    let original = Forger::genuine(&scene.bus, "mallory").await;
    let twin = original.twin();
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let first = request_of(&original, "pay.refund", &reply_to);
    let other = request_of(&twin, "pay.refund", &reply_to);
    let send = async |payload: &Bytes| {
        scene
            .inject("pay.refund", Some(&reply_to), payload.clone())
            .await;
    };
    send(&first).await;
    scene.handled_at_least(1).await;
    // The same bytes again are a replay: anybody can do that.
    send(&first).await;
    scene.refused("replayed").await;
    assert!(scene.pay.stats().alarms().is_empty());
    // Another message with its number takes the key.
    send(&other).await;
    scene.refused("cloned_key").await;
    assert_eq!(scene.handled(), 1);
    assert_eq!(scene.pay.stats().alarms()["cloned_key"], 1);

    let key_id = original.credential().id().to_hex();
    let told = events(ALARM_TARGET, "key_id", &key_id);
    let [told] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(told["level"], "ERROR");
    assert_eq!(told["alarm"], "cloned_key");
    assert_eq!(told["workload"], "mallory");
    assert_eq!(told["sequence"], "0");
    let prefix = |payload: &Bytes| leaf_of(payload).to_hex()[..16].to_owned();
    assert_eq!(told["accepted_leaf"], prefix(&first));
    assert_eq!(told["offered_leaf"], prefix(&other));
}
