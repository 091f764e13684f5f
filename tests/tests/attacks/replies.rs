//! 5: replies that are forged, swapped, replayed or aimed elsewhere.

use bulla_envelope::ReplyBinding;
use bulla_sdk::Responses;
use bulla_tests::{Dissected, RawSocket};

use super::*;

/// The service `pay`, played by hand: a genuine credential and a raw client.
pub(crate) struct ByHand {
    pub(crate) bus: Bus,
    pub(crate) shop: Client,
    pub(crate) pay: Forger,
    raw: async_nats::Client,
    subject: &'static str,
    requests: async_nats::Subscriber,
}

/// A request that waits for an answer.
pub(crate) struct Asked {
    pub(crate) reply_to: String,
    pub(crate) leaf: LeafHash,
    pub(crate) envelope: Bytes,
}

impl ByHand {
    pub(crate) async fn start() -> Self {
        Self::serving("pay.charge").await
    }

    pub(crate) async fn serving(subject: &'static str) -> Self {
        let bus = Bus::start(POLICY).await;
        let shop = bus.client("shop").await;
        let pay = Forger::genuine(&bus, "pay").await;
        let raw = bus.raw_client("pay").await;
        let requests = raw
            .queue_subscribe(subject, "pay".to_owned())
            .await
            .unwrap();
        // Answered in order: the subscription stands.
        let _ = raw
            .request(bulla_identity::reserved::BARRIER, "".into())
            .await;
        Self {
            bus,
            shop,
            pay,
            raw,
            subject,
            requests,
        }
    }

    /// The shop asks; what comes of it is up to the test.
    pub(crate) async fn asked_for_many(&mut self) -> (Asked, Responses) {
        let message = self.shop.message(self.subject).payload("10 euro");
        let message = message.timeout(Duration::from_secs(2));
        let responses = message.request_many().await.unwrap();
        (self.asked().await, responses)
    }

    async fn asked(&mut self) -> Asked {
        let request = self.requests.next().await.unwrap();
        Asked {
            reply_to: request.reply.unwrap().to_string(),
            leaf: leaf_of(&request.payload),
            envelope: request.payload,
        }
    }

    pub(crate) async fn send(&self, asked: &Asked, payload: Bytes) {
        let subject = asked.reply_to.clone();
        self.raw.publish(subject, payload).await.unwrap();
    }

    pub(crate) fn refused(&self, code: &str) -> u64 {
        self.shop.stats().refused_for(code)
    }
}

impl Asked {
    pub(crate) fn binding(&self, index: u32, is_final: bool) -> ReplyBinding {
        ReplyBinding {
            request: self.leaf,
            index,
            is_final,
        }
    }

    /// A reply that says its own number.
    pub(crate) fn reply(&self, by: &Forger, index: u32, is_final: bool) -> Bytes {
        let binding = self.binding(index, is_final);
        let body = [u8::try_from(index).unwrap()];
        by.numbered_reply(&self.reply_to, binding, &body)
    }
}

/// All replies, and the error if there is one.
pub(crate) async fn all(mut responses: Responses) -> (Vec<u32>, Option<RequestError>) {
    let mut numbers = Vec::new();
    while let Some(response) = responses.next().await {
        match response {
            Ok(response) => numbers.push(response.decode().unwrap()),
            Err(error) => return (numbers, Some(error)),
        }
    }
    (numbers, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_the_reply_subject_cannot_be_swapped() {
    let scene = Scene::start().await;
    let (subject, _, payload) = scene.recorded_request("pay.charge").await;
    let elsewhere = scene.bus.peer_inbox("mallory", "x");
    scene
        .inject(&subject, Some(&elsewhere), payload.clone())
        .await;
    scene.refused("wrong_reply_to").await;
    scene.inject(&subject, None, payload).await;
    scene.still_answers().await;
    assert_eq!(scene.pay.stats().refused_for("wrong_reply_to"), 2);
    assert_eq!(scene.handled(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_reply_is_sent_only_into_the_senders_own_inbox() {
    let scene = Scene::start().await;
    // Mallory seals a sound request of her own whose replies are to go to the
    // shop, or to a subject where a service listens.
    let forger = Forger::genuine(&scene.bus, "mallory").await;
    for reply_to in [scene.bus.peer_inbox("shop", "x"), "news.shop".to_owned()] {
        let sealed = request_of(&forger, "pay.refund", &reply_to);
        scene.inject("pay.refund", Some(&reply_to), sealed).await;
        scene.refused("foreign_inbox").await;
    }
    scene.still_answers().await;
    assert_eq!(scene.pay.stats().refused_for("foreign_inbox"), 2);
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_forged_reply_does_not_end_the_wait() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    // Mallory sees the request (as whoever runs nats-server does) and answers
    // first: with rubbish, with an envelope of her own, with an old reply.
    let mallory = Forger::genuine(&bus, "mallory").await;
    let mut tap = bus.tap("pay.charge").await;
    let pay = bus.client("pay").await;
    let service = pay
        .serve("pay.charge", async |_: Message<String>| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok::<_, ServiceError>("genuine")
        })
        .await
        .unwrap();
    // `pay` is the one that may publish into the shop's inbox.
    let injector = bus.raw_client("pay").await;
    let forging = tokio::spawn(async move {
        let request = tap.next().await.unwrap();
        let reply_to = request.reply.unwrap().to_string();
        let leaf = leaf_of(&request.payload);
        let forged = mallory.reply(&reply_to, leaf, b"\xa6forged");
        for payload in [Bytes::from_static(b"not an envelope"), forged] {
            injector.publish(reply_to.clone(), payload).await.unwrap();
        }
        injector.flush().await.unwrap();
    });
    let answer: String = shop.request("pay.charge", "10 euro").await.unwrap();
    forging.await.unwrap();
    assert_eq!(answer, "genuine");
    let refused = shop.stats().refused();
    assert!(refused.contains_key("not_granted"), "{refused:?}");
    assert!(refused.values().sum::<u64>() >= 2, "{refused:?}");
    service.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_an_answer_to_another_request_is_no_answer() {
    let mut scene = ByHand::start().await;
    let (asked, responses) = scene.asked_for_many().await;
    // By the right workload, to some other request.
    let other = Asked {
        reply_to: asked.reply_to.clone(),
        leaf: LeafHash([7; 32]),
        envelope: asked.envelope.clone(),
    };
    scene.send(&asked, other.reply(&scene.pay, 9, true)).await;
    scene.send(&asked, asked.reply(&scene.pay, 0, true)).await;
    assert_eq!(all(responses).await.0, [0]);
    assert_eq!(scene.refused("wrong_request"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_an_old_reply_is_no_reply_to_a_new_request() {
    let mut scene = ByHand::start().await;
    let (first, responses) = scene.asked_for_many().await;
    let old = first.reply(&scene.pay, 0, true);
    scene.send(&first, old.clone()).await;
    assert_eq!(all(responses).await.0, [0]);
    let (second, responses) = scene.asked_for_many().await;
    // As it is, where it was, and sealed anew for the new reply subject.
    scene.send(&second, old.clone()).await;
    scene.send(&first, old).await;
    let moved = Asked {
        reply_to: second.reply_to.clone(),
        leaf: first.leaf,
        envelope: first.envelope,
    };
    let moved = moved.reply(&scene.pay, 7, true);
    scene.send(&second, moved).await;
    let right = second.reply(&scene.pay, 0, true);
    scene.send(&second, right).await;
    assert_eq!(all(responses).await.0, [0]);
    assert_eq!(scene.refused("wrong_subject"), 1);
    assert_eq!(scene.refused("wrong_request"), 1);
    assert_eq!(scene.shop.stats().late_replies(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_replies_are_taken_once_and_in_order() {
    let mut scene = ByHand::start().await;
    let (asked, responses) = scene.asked_for_many().await;
    let zero = asked.reply(&scene.pay, 0, false);
    for payload in [
        asked.reply(&scene.pay, 2, false),
        zero.clone(),
        zero,
        asked.reply(&scene.pay, 3, true),
        // Another statement under a number that was used.
        asked.reply(&scene.pay, 2, false),
        asked.reply(&scene.pay, 0, true),
        asked.reply(&scene.pay, 1, false),
    ] {
        scene.send(&asked, payload).await;
    }
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(scene.refused("reply_replayed"), 1);
    assert_eq!(scene.refused("cloned_reply"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_nothing_counts_after_the_final_reply() {
    let mut scene = ByHand::start().await;
    let (asked, responses) = scene.asked_for_many().await;
    for (index, is_final) in [(3, false), (2, true), (4, true), (0, false), (1, false)] {
        let payload = asked.reply(&scene.pay, index, is_final);
        scene.send(&asked, payload).await;
    }
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0, 1, 2]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(scene.refused("reply_after_final"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_one_responder_answers_a_request() {
    let mut scene = ByHand::start().await;
    // Another process of the same workload, which may serve the subject too.
    let other = Forger::genuine(&scene.bus, "pay").await;
    let (asked, responses) = scene.asked_for_many().await;
    for payload in [
        asked.reply(&scene.pay, 0, false),
        asked.reply(&other, 1, true),
        asked.reply(&other, 0, true),
        asked.reply(&scene.pay, 1, false),
        asked.reply(&scene.pay, 2, true),
    ] {
        scene.send(&asked, payload).await;
    }
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0, 1, 2]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(scene.refused("second_responder"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_dropped_reply_is_told_by_its_number() {
    let mut scene = ByHand::start().await;
    let (asked, responses) = scene.asked_for_many().await;
    for index in [0, 1, 3] {
        let payload = asked.reply(&scene.pay, index, index == 3);
        scene.send(&asked, payload).await;
    }
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0, 1], "what comes after a gap is not given");
    let Some(RequestError::ReplyMissing { index: 2, .. }) = error else {
        panic!("{error:?}")
    };
    // The end too: without it nobody knows that this was all.
    let (asked, responses) = scene.asked_for_many().await;
    let payload = asked.reply(&scene.pay, 0, false);
    scene.send(&asked, payload).await;
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0]);
    assert!(
        matches!(error, Some(RequestError::Timeout { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_replies_far_ahead_of_their_turn_take_no_room() {
    let mut scene = ByHand::start().await;
    let (asked, mut responses) = scene.asked_for_many().await;
    let binding = asked.binding(u32::MAX, false);
    let far = scene.pay.numbered_reply(&asked.reply_to, binding, b"x");
    scene.send(&asked, far).await;
    let first = asked.reply(&scene.pay, 0, true);
    scene.send(&asked, first).await;
    assert!(responses.next().await.unwrap().is_ok());
    assert!(responses.next().await.is_none());
    assert_eq!(scene.refused("reply_too_far_ahead"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_the_first_of_several_replies_is_not_the_answer() {
    let mut scene = ByHand::start().await;
    let shop = scene.shop.clone();
    let asking = tokio::spawn(async move {
        let message = shop.message("pay.charge").payload("10 euro");
        message.request().await
    });
    let asked = scene.asked().await;
    let payload = asked.reply(&scene.pay, 0, false);
    scene.send(&asked, payload).await;
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::NotOneReply { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_an_unsigned_reply_is_no_reply() {
    let mut scene = ByHand::start().await;
    let (asked, responses) = scene.asked_for_many().await;
    for payload in ["", "{}", "+OK", "\u{1}"] {
        scene.send(&asked, payload.into()).await;
    }
    scene.raw.flush().await.unwrap();
    let mut socket: RawSocket = scene.bus.raw_socket("pay").await;
    let to = asked.reply_to.clone();
    let status = async |socket: &mut RawSocket, status: &str| {
        let head = format!("NATS/1.0 {status}\r\n\r\n");
        let len = head.len();
        let command = format!("HPUB {to} {len} {len}\r\n{head}");
        let lines = socket.command(&command).await;
        assert!(
            lines.iter().all(|line| line.starts_with("INFO")),
            "{lines:?}"
        );
    };
    for text in ["100 Idle", "404 No Messages", "408 Request Timeout", "200"] {
        status(&mut socket, text).await;
    }
    let payload = asked.reply(&scene.pay, 0, false);
    scene.send(&asked, payload).await;
    let _ = scene
        .raw
        .request(bulla_identity::reserved::BARRIER, "".into())
        .await;
    // A hint while nobody has answered, and nothing afterwards.
    status(&mut socket, "503").await;
    let payload = asked.reply(&scene.pay, 1, true);
    scene.send(&asked, payload).await;
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0, 1]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(scene.refused("reply_status"), 5);
    let all: u64 = scene.shop.stats().refused().values().sum();
    assert_eq!(all, 9, "{:?}", scene.shop.stats().refused());

    let (_, mut responses) = scene.asked_for_many().await;
    scene.requests.unsubscribe().await.unwrap();
    let error = responses.next().await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::Timeout { .. }), "{error}");
    assert!(responses.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_an_answer_without_a_signature_is_an_error_of_its_own() {
    let mut scene = ByHand::start().await;
    let shop = scene.shop.clone();
    let asking = tokio::spawn(async move {
        let message = shop.message("pay.charge").payload("10 euro");
        message.timeout(Duration::from_secs(1)).request().await
    });
    let asked = scene.asked().await;
    // What a service without Bulla would answer, and an envelope whose proof is gone.
    let mut stripped = Dissected::of(&asked.reply(&scene.pay, 0, true));
    stripped.set_batch_proof(0, 1, &[], &[0; 64]);
    for payload in ["{\"ok\":true}".into(), stripped.assemble()] {
        scene.send(&asked, payload).await;
    }
    // Neither ends the wait: whoever reaches the inbox could end it for everybody.
    let error = asking.await.unwrap().unwrap_err();
    let RequestError::UnsoundReply { count, reason, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((*count, *reason), (2, "bad_signature"));
    assert!(error.to_string().contains("bad_signature"), "{error}");
    // Nor does it where several are asked for.
    let (asked, mut responses) = scene.asked_for_many().await;
    scene.send(&asked, "{}".into()).await;
    let error = responses.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, RequestError::UnsoundReply { count: 1, .. }),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_a_reply_in_clear_is_refused_where_encryption_is_due() {
    let mut scene = ByHand::serving("vault.put").await;
    // Another process of it hands in the key to encrypt to.
    let _pay = scene.bus.client("pay").await;
    let (asked, mut responses) = scene.asked_for_many().await;
    // Signed by who may serve it, and for everybody to read.
    let payload = asked.reply(&scene.pay, 0, true);
    scene.send(&asked, payload).await;
    let error = responses.next().await.unwrap().unwrap_err();
    let RequestError::UnsoundReply { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(reason, "not_encrypted");
}
