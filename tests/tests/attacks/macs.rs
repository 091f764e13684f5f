//! 9 and 6: replies that prove themselves to their requester alone, and what
//! stolen keys are good for.

use bulla_envelope::{Draft, MessageId, SealError};
use bulla_identity::Subject;
use bulla_keyring::MacKey;
use bulla_sdk::ReplySender;
use bulla_tests::{BusOptions, Dissected, bin};

use super::replies::{Asked, ByHand, all};
use super::*;

impl ByHand {
    /// A reply to the request with the code that is due.
    async fn coded(&self, asked: &Asked, index: u32, is_final: bool) -> Bytes {
        let requester = self.bus.credential_of(&asked.envelope).await;
        let key = self
            .pay
            .mac_key(&requester, self.pay.credential(), &requester);
        let body = [u8::try_from(index).unwrap()];
        let binding = asked.binding(index, is_final);
        self.pay.coded_reply(&asked.reply_to, binding, &body, &key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_get_a_code_where_the_policy_says_so() {
    let bus = Bus::start(POLICY).await;
    let (shop, pay) = (bus.client("shop").await, bus.client("pay").await);
    let _fast = pay
        .serve_stream(
            "pay.fast",
            async |message: Message<u32>, replies: ReplySender| {
                for number in 0..*message.payload() {
                    replies.send(number).await?;
                }
                Err(ServiceError::new(ServiceErrorCode::Conflict, "the end"))
            },
        )
        .await
        .unwrap();
    for _ in 0..3 {
        let responses = shop.request_many("pay.fast", &3u32).await.unwrap();
        let (numbers, error) = all(responses).await;
        assert_eq!(numbers, [0, 1, 2]);
        assert!(matches!(error, Some(RequestError::Service(_))), "{error:?}");
    }
    assert!(shop.stats().refused().is_empty());

    // What the bus carries is a code, of the responder's key with this requester;
    // in an error too.
    let asker = Forger::genuine(&bus, "shop").await;
    let raw = bus.raw_client("shop").await;
    for (body, wanted) in [(&b"\x01"[..], 2), (b"\xa1?", 1)] {
        let reply_to = bus.peer_inbox("shop", &format!("x{wanted}"));
        let mut replies = raw.subscribe(reply_to.clone()).await.unwrap();
        let sealed = asker.request("pay.fast", &reply_to, now(), body);
        raw.publish_with_reply("pay.fast", reply_to, sealed)
            .await
            .unwrap();
        for _ in 0..wanted {
            let reply = next(&mut replies).await;
            let responder = bus.credential_of(&reply).await;
            let sealed = SealedEnvelope::decode(reply.clone()).unwrap();
            assert!(sealed.has_mac());
            let key = asker.mac_key(&responder, &responder, asker.credential());
            let leaf = Dissected::of(&reply).leaf();
            let mac = [&[0x91][..], &bin(&key.mac(&[&leaf.0]))].concat();
            assert_eq!(Dissected::of(&reply).proof, mac);
        }
    }

    // Who has no key to agree with gets signatures, which count everywhere.
    let asker = Forger::genuine_without_process_keys(&bus, "shop").await;
    let reply_to = bus.peer_inbox("shop", "y");
    let mut replies = raw.subscribe(reply_to.clone()).await.unwrap();
    let sealed = asker.request("pay.fast", &reply_to, now(), b"\x01");
    raw.publish_with_reply("pay.fast", reply_to, sealed)
        .await
        .unwrap();
    let reply = next(&mut replies).await;
    assert!(!SealedEnvelope::decode(reply).unwrap().has_mac());
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_outlive_the_renewal_of_both_credentials() {
    let mut options = BusOptions::new(POLICY);
    options.credential_lifetime = Duration::from_secs(3);
    let bus = Bus::start_with(options).await;
    let (shop, pay) = (bus.client("shop").await, bus.client("pay").await);
    let keys = pay.clone();
    let handler = move |message: Message<u32>, replies: ReplySender| {
        let keys = keys.clone();
        async move {
            replies.send(0u32).await?;
            // The long way: until this process has another credential.
            let first = keys.signing_key().0;
            while message.payload() == &2 && keys.signing_key().0 == first {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            replies.finish(1u32).await?;
            Ok(())
        }
    };
    let _service = pay.serve_stream("pay.fast", handler).await.unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    let first = shop.signing_key().0;
    let asking = [1u32, 2].map(|way| {
        let shop = shop.clone();
        tokio::spawn(async move {
            while tokio::time::Instant::now() < end {
                let responses = shop.request_many("pay.fast", &way).await.unwrap();
                let (numbers, error) = all(responses).await;
                assert!(error.is_none(), "{error:?}");
                assert_eq!(numbers, [0, 1]);
            }
        })
    });
    for task in asking {
        task.await.unwrap();
    }
    assert_ne!(shop.signing_key().0, first);
    assert!(shop.stats().refused().is_empty());
    assert!(pay.stats().refused().is_empty());
}

async fn next(replies: &mut async_nats::Subscriber) -> Bytes {
    let next = tokio::time::timeout(Duration::from_secs(5), replies.next());
    next.await.unwrap().unwrap().payload
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_a_code_where_a_signature_is_due_is_refused() {
    let mut scene = ByHand::start().await;
    let (asked, responses) = scene.asked_for_many().await;
    // By the right responder, and with the right key: on a subject whose
    // policy wants evidence.
    let coded = scene.coded(&asked, 0, true).await;
    scene.send(&asked, coded).await;
    let signed = asked.reply(&scene.pay, 0, true);
    scene.send(&asked, signed).await;
    assert_eq!(all(responses).await.0, [0]);
    assert_eq!(scene.refused("mac_not_allowed"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_a_policy_that_wants_signatures_again_is_obeyed_at_once() {
    let mut scene = ByHand::serving("pay.fast").await;
    let (asked, mut responses) = scene.asked_for_many().await;
    let coded = scene.coded(&asked, 0, false).await;
    scene.send(&asked, coded).await;
    let first = responses.next().await.unwrap().unwrap();
    assert_eq!(first.decode::<u32>().unwrap(), 0);
    let stricter = POLICY.replace("replies = \"mac\"", "replies = \"signed\"");
    let revision = scene.shop.policy().revision();
    scene.bus.publish_policy(&stricter).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while scene.shop.policy().revision() == revision {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let coded = scene.coded(&asked, 1, true).await;
    scene.send(&asked, coded).await;
    let signed = asked.reply(&scene.pay, 1, true);
    scene.send(&asked, signed).await;
    let (numbers, error) = all(responses).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(numbers, [1]);
    assert_eq!(scene.refused("mac_not_allowed"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_09_a_code_is_for_one_request_one_responder_and_one_requester() {
    let mut scene = ByHand::serving("pay.fast").await;
    let (asked, responses) = scene.asked_for_many().await;
    let requester = scene.bus.credential_of(&asked.envelope).await;
    let pay = &scene.pay;
    let right = pay.mac_key(&requester, pay.credential(), &requester);
    let coded = |key: &MacKey, leaf| {
        let mut binding = asked.binding(7, true);
        binding.request = leaf;
        pay.coded_reply(&asked.reply_to, binding, b"\x07", key)
    };

    // Another request.
    scene.send(&asked, coded(&right, LeafHash([7; 32]))).await;
    // Another leaf: a body that was changed, and a code that was moved.
    let sound = Dissected::of(&coded(&right, asked.leaf));
    let mut changed = sound.clone();
    changed.body = vec![8];
    scene.send(&asked, changed.assemble()).await;
    let mut moved = Dissected::of(&coded(&right, asked.leaf));
    moved.proof.clone_from(&sound.proof);
    scene.send(&asked, moved.assemble()).await;
    // Another requester, another responder, the two in each other's place.
    let other = Forger::genuine(&scene.bus, "shop").await;
    let (own, others) = (pay.credential(), other.credential());
    for key in [
        pay.mac_key(others, own, others),
        pay.mac_key(&requester, own, others),
        pay.mac_key(&requester, others, &requester),
        pay.mac_key(&requester, &requester, own),
        // Another process of the same workload has no part in it.
        Forger::genuine(&scene.bus, "pay")
            .await
            .mac_key(&requester, own, &requester),
    ] {
        scene.send(&asked, coded(&key, asked.leaf)).await;
    }
    // Without its proof, and with an empty or a short one.
    for proof in [
        vec![],
        vec![0xc0],
        vec![0x90],
        vec![0x91, 0xc0],
        [&[0x91][..], &bin(&[0; 31])].concat(),
    ] {
        let mut stripped = sound.clone();
        stripped.proof = proof;
        scene.send(&asked, stripped.assemble()).await;
    }
    // By a workload that may not serve the subject, in its own name.
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let key = mallory.mac_key(&requester, mallory.credential(), &requester);
    let binding = asked.binding(0, true);
    let payload = mallory.coded_reply(&asked.reply_to, binding, b"\x09", &key);
    scene.send(&asked, payload).await;
    // By a process that names no key to agree with.
    let without = Forger::genuine_without_process_keys(&scene.bus, "pay").await;
    let key = without.mac_key(&requester, without.credential(), &requester);
    let payload = without.coded_reply(&asked.reply_to, binding, b"\x09", &key);
    scene.send(&asked, payload).await;

    let genuine = scene.coded(&asked, 0, true).await;
    scene.send(&asked, genuine).await;
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(scene.refused("wrong_request"), 1);
    assert_eq!(scene.refused("bad_mac"), 2 + 5);
    assert_eq!(scene.refused("not_granted"), 1);
    assert_eq!(scene.refused("mac_without_key"), 1);
    let all: u64 = scene.shop.stats().refused().values().sum();
    assert_eq!(all, 1 + 7 + 5 + 2, "{:?}", scene.shop.stats().refused());
}

/// A signature counts everywhere, and one responder may not mix the two to
/// slip a second key in.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_reply_counts_where_a_code_would() {
    let mut scene = ByHand::serving("pay.fast").await;
    let (asked, responses) = scene.asked_for_many().await;
    let other = Forger::genuine(&scene.bus, "pay").await;
    let coded = scene.coded(&asked, 1, false).await;
    for payload in [
        asked.reply(&scene.pay, 0, false),
        coded,
        asked.reply(&other, 2, true),
        asked.reply(&scene.pay, 2, true),
    ] {
        scene.send(&asked, payload).await;
    }
    let (numbers, error) = all(responses).await;
    assert_eq!(numbers, [0, 1, 2]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(scene.refused("second_responder"), 1);
}

/// Who holds all of a recipient's keys can be that recipient, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn attack_09_key_compromise_impersonation() {
    let scene = Scene::start().await;
    let (subject, reply_to, recorded) = scene.recorded_request("pay.charge").await;
    // Mallory has stolen `pay`: its nkey, and with it credentials of its own.
    let stolen = Forger::genuine(&scene.bus, "pay").await;
    let shops = scene.bus.credential_of(&recorded).await;
    let genuine = Dissected::of(&recorded);

    // In the shop's name, under the stolen key.
    let forged = stolen.sign(genuine.clone());
    let refusal = scene.refusal(&subject, &reply_to, forged).await;
    assert_eq!(refusal, "bad_signature");
    // With the code that the shop and `pay` share: of replies, not of requests.
    for (responder, requester) in [(&shops, stolen.credential()), (stolen.credential(), &shops)] {
        let key = stolen.mac_key(&shops, responder, requester);
        let mut coded = genuine.clone();
        coded.proof = [&[0x91][..], &bin(&key.mac(&[&coded.leaf().0]))].concat();
        let refusal = scene.refusal(&subject, &reply_to, coded.assemble()).await;
        assert_eq!(refusal, "mac_kind");
        let event = Subject::parse("news.shop").unwrap();
        let draft = Draft::event(&event, now(), now(), b"x");
        let sealed = stolen
            .sealer()
            .seal_with_mac(&draft, MessageId([1; 16]), &key);
        assert_eq!(sealed.unwrap_err(), SealError::MacKind);
    }
    // In its own name: it may not ask.
    let own = request_of(&stolen, &subject, &scene.bus.peer_inbox("pay", "x"));
    let refusal = scene
        .refusal(&subject, &scene.bus.peer_inbox("pay", "x"), own)
        .await;
    assert_eq!(refusal, "not_granted");
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2);
}

/// What is given up with codes: who has a requester's exchange key, which lives
/// in the memory of that one process, can answer that process as anybody. It
/// ends there.
#[tokio::test(flavor = "multi_thread")]
async fn attack_09_a_stolen_exchange_key_forges_replies_to_its_own_process_alone() {
    let mut scene = ByHand::serving("pay.fast").await;
    let victim = Forger::genuine(&scene.bus, "shop").await;
    let pays = &scene.pay.credential().clone();
    // As if `pay` had answered the victim: the same key, from the other side.
    let theirs = scene
        .pay
        .mac_key(victim.credential(), pays, victim.credential());
    let stolen = victim.mac_key(pays, pays, victim.credential());
    assert_eq!(stolen.mac(&[b"x"]), theirs.mac(&[b"x"]));

    // Towards another process of the victim's own workload it is worth nothing.
    let (asked, responses) = scene.asked_for_many().await;
    let requester = scene.bus.credential_of(&asked.envelope).await;
    let binding = asked.binding(0, true);
    for key in [
        &stolen,
        &victim.mac_key(&requester, pays, &requester),
        &victim.mac_key(pays, pays, &requester),
    ] {
        let forged = scene
            .pay
            .coded_reply(&asked.reply_to, binding, b"\x09", key);
        scene.send(&asked, forged).await;
    }
    let genuine = scene.coded(&asked, 0, true).await;
    scene.send(&asked, genuine).await;
    assert_eq!(all(responses).await.0, [0]);
    assert_eq!(scene.refused("bad_mac"), 3);
}
