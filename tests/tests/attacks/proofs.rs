//! 22: batch proofs that were moved or bent.

use bulla_tests::Dissected;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_22_a_proof_moved_to_another_message_is_refused() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let one = request_of(&mallory, "pay.refund", &reply_to);
    let two = request_of(&mallory, "pay.refund", &reply_to);
    assert_eq!(one.len(), two.len());
    // The last 64 bytes of an envelope are the batch's signature.
    let mut moved = one.to_vec();
    let at = moved.len() - 64;
    moved[at..].copy_from_slice(&two[at..]);
    scene
        .inject("pay.refund", Some(&reply_to), moved.into())
        .await;
    scene.refused("bad_signature").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_22_a_proof_is_bound_to_its_place_its_batch_and_its_key() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let other_key = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let batch = mallory.batch("pay.refund", &reply_to, 5, b"\xa710 euro");
    let one = Dissected::of(&batch[1]);
    let (index, count, path, signature) = one.batch_proof();
    assert_eq!((index, count, path.len()), (1, 5, 3 * 24));
    let (_, _, other_path, _) = Dissected::of(&batch[0]).batch_proof();
    let (.., other_signature) =
        Dissected::of(&request_of(&other_key, "pay.refund", &reply_to)).batch_proof();
    let (_, bent) = path.split_at(24);
    let bent = [&[0; 24][..], bent].concat();
    let longer = [&path[..], &[0; 24]].concat();
    // Cold, and then with the batch known: remembering changes nothing.
    for known in [false, true] {
        if known {
            scene
                .inject("pay.refund", Some(&reply_to), batch[0].clone())
                .await;
            scene.handled_at_least(1).await;
        }
        for (index, count, path, signature, code) in [
            (0, 5, &path, &signature, "bad_signature"),
            (4, 5, &path[..24].to_vec(), &signature, "bad_signature"),
            (5, 5, &path, &signature, "batch_place"),
            (1, 0, &path, &signature, "batch_place"),
            (1, 1_025, &path, &signature, "batch_place"),
            (1, 6, &path, &signature, "bad_signature"),
            (1, 8, &path, &signature, "bad_signature"),
            // The root, or an inner node, as if it were the leaf.
            (0, 1, &vec![], &signature, "bad_signature"),
            (1, 5, &path[..48].to_vec(), &signature, "path_length"),
            (1, 5, &longer, &signature, "path_length"),
            (1, 5, &path[1..].to_vec(), &signature, "path_length"),
            (1, 5, &bent, &signature, "bad_signature"),
            (1, 5, &other_path, &signature, "bad_signature"),
            // A signature of the same workload's other key, over another batch.
            (1, 5, &path, &other_signature, "bad_signature"),
        ] {
            let mut moved = one.clone();
            moved.set_batch_proof(index, count, path, signature);
            let refusal = scene
                .refusal("pay.refund", &reply_to, moved.assemble())
                .await;
            assert_eq!(refusal, code, "{index} of {count}, known: {known}");
        }
        // Another message of the batch in this one's place.
        let mut moved = Dissected::of(&batch[2]);
        moved.proof.clone_from(&one.proof);
        let refusal = scene
            .refusal("pay.refund", &reply_to, moved.assemble())
            .await;
        assert_eq!(refusal, "bad_signature", "known: {known}");
        // The proof of Mallory's batch under the shop's name.
        let (.., shops) = scene.recorded_request("pay.charge").await;
        let mut moved = Dissected::of(&shops);
        moved.proof.clone_from(&one.proof);
        let refusal = scene
            .refusal("pay.charge", &reply_to, moved.assemble())
            .await;
        assert_eq!(refusal, "bad_signature", "known: {known}");
    }
    // And none of it spoilt the true ones.
    let handled = scene.handled();
    for sealed in &batch[1..] {
        scene
            .inject("pay.refund", Some(&reply_to), sealed.clone())
            .await;
    }
    scene.handled_at_least(handled + 4).await;
}
