//! 24: listening where others prove themselves, ask and are answered.

use bulla_identity::reserved;
use bulla_tests::RawSocket;

use super::*;

/// What a workload may never hear, nor ask for.
fn private(bus: &Bus) -> Vec<String> {
    let (pay, own) = (bus.workload("pay").tag(), bus.workload("mallory").tag());
    let mut spaces: Vec<String> = [
        ">",
        "*.>",
        "*.*.>",
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
        "$JS.>",
        "$JS.API.>",
        "$JS.ACK.>",
        "$KV.>",
        "$BULLA.KV.>",
        "$BULLA.AUDIT.>",
        "$BULLA.>",
        "$BULLA.*.>",
        "$BULLA.CTL.>",
        "$BULLA.BROKER.>",
        "$BULLA.BROKER.*.kem",
        "$BULLA.KEYS.>",
        "$BULLA.CLAIMS.>",
        "$BULLA.TAKEN.>",
        "_INBOX.>",
        "_INBOX.*.p.>",
        "_INBOX.*.s.>",
        "_R_.>",
    ]
    .map(str::to_owned)
    .into();
    // Not even its own, except what nats-server answers to it.
    for tag in [pay, own] {
        spaces.extend([
            format!("$BULLA.BROKER.{tag}.>"),
            reserved::broker_challenge(tag),
            reserved::broker_credential(tag, "*"),
            reserved::key_records_of(tag),
            reserved::claims_of(tag),
            reserved::taken_of(tag),
        ]);
    }
    spaces.extend([reserved::inbox_peers(pay), reserved::inbox_server(pay)].map(|i| i + ".>"));
    spaces
}

async fn hears(socket: &mut RawSocket, space: &str, number: usize) -> bool {
    !socket.is_refused(&format!("SUB {space} {number}")).await
        || !socket
            .is_refused(&format!("SUB {space} mallory {number}q"))
            .await
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_24_nobody_listens_where_others_prove_themselves_and_are_answered() {
    let scene = Scene::start().await;
    let mut socket = scene.bus.raw_socket("mallory").await;
    for (number, space) in private(&scene.bus).iter().enumerate() {
        assert!(!hears(&mut socket, space, number).await, "{space}");
    }
    // There was something to hear.
    let _another = scene.bus.client("pay").await;
    scene.still_answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_24_what_others_stored_is_not_written_over_nor_their_claims_read() {
    let scene = Scene::start().await;
    scene.still_answers().await;
    let pay = scene.bus.workload("pay").tag();
    let own = scene.bus.workload("mallory").tag();
    let mut socket = scene.bus.raw_socket("mallory").await;
    for subject in [
        reserved::key_record(pay, "k"),
        reserved::claim(pay, "c"),
        reserved::taken(pay, "c"),
        reserved::broker_kem(pay),
        reserved::ctl_kem(pay, &scene.bus.seed("pay").public()),
        reserved::claim_direct_get(pay, "c"),
        reserved::taken_direct_get(pay, "c"),
        reserved::claims_direct_get_of(pay),
        "$JS.API.DIRECT.GET.BULLA_CLAIMS".to_owned(),
        "$JS.API.DIRECT.GET.BULLA_TAKEN".to_owned(),
        "$JS.API.DIRECT.GET.BULLA_KEYS".to_owned(),
        "$JS.API.STREAM.MSG.GET.BULLA_CLAIMS".to_owned(),
        "$JS.API.STREAM.PURGE.BULLA_KEYS".to_owned(),
        "$JS.API.STREAM.DELETE.BULLA_CLAIMS".to_owned(),
        "$JS.API.CONSUMER.CREATE.BULLA_CLAIMS".to_owned(),
        "$JS.API.CONSUMER.CREATE.BULLA_CLAIMS.x.$BULLA.CLAIMS.>".to_owned(),
        "$JS.API.CONSUMER.MSG.NEXT.BULLA_CLAIMS.x".to_owned(),
    ] {
        let refused = socket.is_refused(&format!("PUB {subject} x.y 0\r\n")).await;
        assert!(refused, "{subject}");
    }
    // What it may ask for gives nobody else's, whatever the body says.
    let raw = scene.bus.raw_client("mallory").await;
    for body in [
        "",
        r#"{"seq":1}"#,
        r#"{"seq":1,"next_by_subj":"$BULLA.CLAIMS.>"}"#,
        r#"{"last_by_subj":"$BULLA.CLAIMS.>"}"#,
        r#"{"multi_last":["$BULLA.CLAIMS.>"]}"#,
    ] {
        for subject in [
            reserved::claim_direct_get(own, "c"),
            reserved::claims_direct_get_of(own),
        ] {
            let answer = raw.request(subject.clone(), body.into()).await;
            let status = answer.map(|a| a.status.map(|s| s.as_u16()));
            assert!(
                !matches!(status, Ok(None | Some(200..300))),
                "{subject} {body}: {status:?}"
            );
        }
    }
}
