use super::*;
use std::sync::LazyLock;
use std::time::Duration;

use bulla_envelope::{
    Credential, CredentialIssuer, CredentialRequest, Epoch, Expectation, IssuingKey, Kind,
    MAX_FRAME, MessageId, OpenedEnvelope, RequestDraft, RequestExpectation, SealedEnvelope, Terms,
    TrustBundle, VerifiedCredential,
};
use bulla_identity::{NkeyKind, Subject, TrustDomain, WorkloadId, WorkloadName};
use bulla_keyring::{NkeySeed, SigningKey};
use bulla_policy::Policy;
use tokio::sync::{Semaphore, mpsc};

use crate::original::OriginalToken;
use crate::routes::Route;

const MAX_PAYLOAD: usize = 64 * 1_024;

/// Hands envelopes to the test; closed doors keep them waiting.
struct Door {
    sealer: Mutex<Option<Arc<Sealer>>>,
    open: Semaphore,
    out: mpsc::UnboundedSender<(String, Bytes)>,
}

#[derive(Clone)]
struct Handle(Arc<Door>);

impl Post for Handle {
    fn with_sealer<T>(
        &self,
        _: UnixMillis,
        act: impl FnOnce(&Arc<Sealer>) -> T,
    ) -> Result<T, SendError> {
        let sealer = self.0.sealer.lock().clone();
        sealer.as_ref().map(act).ok_or(SendError::CredentialExpired)
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    async fn send(&self, letter: &Letter, envelope: Bytes) -> Result<(), LinkError> {
        let pass = self.0.open.acquire().await;
        pass.map_err(|_| LinkError::Disconnected)?.forget();
        let subject = letter.to.subject().as_str().to_owned();
        let _ = self.0.out.send((subject, envelope));
        Ok(())
    }
}

struct Scene {
    signer: Arc<Signer<Handle>>,
    door: Handle,
    sent: mpsc::UnboundedReceiver<(String, Bytes)>,
    stats: Stats,
}

const EVERYBODY: usize = Semaphore::MAX_PERMITS / 2;

fn scene(passes: usize) -> Scene {
    let (out, sent) = mpsc::unbounded_channel();
    let door = Handle(Arc::new(Door {
        sealer: Mutex::new(Some(Arc::new(sealer()))),
        open: Semaphore::new(passes),
        out,
    }));
    let stats = Stats::default();
    Scene {
        signer: Arc::new(Signer::start(door.clone(), stats.clone())),
        door,
        sent,
        stats,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// What a test seals under, and what its receiver knows of it.
struct Keys {
    credential: Credential,
    verified: VerifiedCredential,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let now = clock::now();
    let domain = TrustDomain::parse("acme.example").unwrap();
    let workload = WorkloadId::new(&domain, &WorkloadName::parse("orders").unwrap());
    let nkey = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
    let key = SigningKey::from_seed(&[4; 32]);
    let request = RequestDraft {
        workload: &workload,
        message_key: &key,
        process_keys: None,
        token_key: None,
        instance: [5; 16],
        challenge: [6; 32],
        requested_at: now,
    };
    let request = CredentialRequest::decode(&request.sign(Some(&nkey)))
        .unwrap()
        .verify(&RequestExpectation {
            tag: workload.tag(),
            challenge: &[6; 32],
            anchors: (&[nkey.public()]).into(),
            now,
            skew: MINUTE,
            max_age: MINUTE,
        })
        .unwrap();
    let expires_at = now.saturating_add(10 * MINUTE);
    let terms = Terms {
        not_before: now,
        expires_at,
        serial: [7; 16],
    };
    let issuing = SigningKey::from_seed(&[2; 32]);
    let root = SigningKey::from_seed(&[1; 32]);
    let bundle = TrustBundle {
        trust_domain: domain.clone(),
        version: 1,
        issued_at: now,
        expires_at,
        root: *root.verifying_key(),
        former_roots: Vec::new(),
        issuing: vec![IssuingKey {
            key: *issuing.verifying_key(),
            expires_at,
        }],
        policy_keys: Vec::new(),
    };
    let bundle = bundle.sign(&root).unwrap();
    let bundle =
        TrustBundle::open(&bundle, &[*root.verifying_key()], &domain, now, MINUTE).unwrap();
    let credential = CredentialIssuer::new(issuing)
        .issue(&request, terms)
        .unwrap();
    let anchors = [nkey.public()];
    let verified = credential
        .clone()
        .verify(&bundle, &anchors, now, MINUTE)
        .unwrap();
    Keys {
        credential,
        verified,
    }
});

fn sealer() -> Sealer {
    let key = SigningKey::from_seed(&[4; 32]);
    Sealer::new(&KEYS.credential, key, Epoch([8; 8])).unwrap()
}

fn open(bytes: Bytes, subject: &str) -> OpenedEnvelope {
    SealedEnvelope::decode(bytes)
        .unwrap()
        .verify(&KEYS.verified)
        .unwrap()
        .check(&Expectation {
            subject,
            reply_to: None,
            kinds: &[Kind::Event],
            now: clock::now(),
            skew: MINUTE,
            max_age: MINUTE,
            not_before: UnixMillis::default(),
            request: None,
        })
        .unwrap()
        .open_clear()
        .unwrap()
}

fn letter(subject: &str, body: impl Into<Bytes>) -> Box<Letter> {
    let subject = Subject::parse(subject).unwrap();
    let life = Duration::from_secs(10);
    let letter = Letter::new(Purpose::Event, subject, body.into(), clock::now(), life);
    Box::new(letter)
}

/// Where a policy of this revision has it go.
fn route(subject: &str, revision: u64) -> Arc<Route> {
    let text = "version = 1\ntrust_domain = \"signer.example\"\n";
    let policy = Policy::parse("policy.toml", text).unwrap();
    let subject = Subject::parse(subject).unwrap();
    let requirements = policy.requirements(&subject);
    Arc::new(Route::new(subject, requirements, revision, 0))
}

/// How many envelopes share the signature of this one.
fn signatures(sent: &[(String, Bytes)]) -> usize {
    let mut all: Vec<_> = sent.iter().map(|(_, b)| b.slice(b.len() - 64..)).collect();
    all.sort();
    all.dedup();
    all.len()
}

fn all(scene: &mut Scene) -> Vec<(String, Bytes)> {
    std::iter::from_fn(|| scene.sent.try_recv().ok()).collect()
}

#[tokio::test]
async fn at_idle_a_message_is_sent_by_its_own_task() {
    let mut scene = scene(EVERYBODY);
    scene.signer.post(letter("a", "x")).await.unwrap();
    // The sealing task looks for more, finds nothing and sleeps again.
    while scene.signer.inner.queue.lock().is_awake {
        tokio::task::yield_now().await;
    }
    let signer = &scene.signer;
    let leaf = signer.post_and_tell(letter("b", "x"), false).await.unwrap();
    assert_eq!(signer.inner.queue.lock().accepted, 0, "neither was queued");
    assert_ne!(leaf.0, [0; 32]);
    assert_eq!(all(&mut scene).len(), 2);
}

/// One task in a loop gets batches too.
#[tokio::test]
async fn a_single_task_in_a_loop_shares_signatures_and_keeps_order() {
    let mut scene = scene(EVERYBODY);
    for n in 0..5_000u32 {
        let body = n.to_be_bytes().to_vec();
        scene.signer.post(letter("a", body)).await.unwrap();
    }
    scene.signer.settle().await;
    let sent = all(&mut scene);
    let bodies: Vec<_> = sent.iter().map(|(_, bytes)| sequence_of(bytes)).collect();
    assert_eq!(bodies, (0..5_000).collect::<Vec<u64>>());
    assert!(signatures(&sent) < 500, "{}", signatures(&sent));
    for (_, bytes) in sent {
        SealedEnvelope::decode(bytes).unwrap();
    }
}

/// The four-byte body of an envelope without a token: behind the array's head, the
/// version, the header and nil. Looked for in the whole envelope it would be found in
/// hashes too, once in a while.
fn sequence_of(bytes: &Bytes) -> u64 {
    assert_eq!(bytes[..2], [0x95, 1]);
    let end_of_header = match bytes[2] {
        0xc4 => 4 + usize::from(bytes[3]),
        0xc5 => 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]])),
        other => panic!("a header begins with {other:#x}"),
    };
    let (nil_and_head, rest) = bytes[end_of_header..].split_at(3);
    assert_eq!(nil_and_head, [0xc0, 0xc4, 4]);
    u64::from(u32::from_be_bytes(rest[..4].try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_signatures_and_each_keeps_its_order() {
    let mut scene = scene(EVERYBODY);
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let signer = Arc::clone(&scene.signer);
            tokio::spawn(async move {
                for n in 0..100u32 {
                    let body = n.to_be_bytes().to_vec();
                    let letter = letter(&format!("t.{task}"), body);
                    if n % 3 == 0 {
                        signer.post_and_tell(letter, true).await.unwrap();
                    } else {
                        signer.post(letter).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    scene.signer.settle().await;
    let sent = all(&mut scene);
    assert_eq!(sent.len(), 6_400);
    for task in 0..64 {
        let to = format!("t.{task}");
        let own = sent.iter().filter(|(s, _)| *s == to);
        let order: Vec<_> = own.map(|(_, bytes)| sequence_of(bytes)).collect();
        assert_eq!(order, (0..100).collect::<Vec<u64>>());
    }
    assert!(signatures(&sent) < 3_200, "{}", signatures(&sent));
}

/// A task that is dropped while the door is closed holds up nobody.
#[tokio::test]
async fn who_is_dropped_stalls_nobody_and_takes_nobody_along() {
    let mut scene = scene(1);
    scene.signer.post(letter("first", "x")).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..20 {
        let signer = Arc::clone(&scene.signer);
        waiting.push(tokio::spawn(async move {
            signer
                .post_and_tell(letter(&format!("r.{n}"), "x"), true)
                .await
        }));
    }
    while scene.signer.inner.queue.lock().accepted < 20 {
        tokio::task::yield_now().await;
    }
    for task in waiting.iter().step_by(2) {
        task.abort();
    }
    scene.door.0.open.add_permits(EVERYBODY);
    for (n, task) in waiting.into_iter().enumerate() {
        match task.await {
            Ok(outcome) => assert!(outcome.is_ok() && n % 2 == 1),
            Err(error) => assert!(error.is_cancelled() && n % 2 == 0),
        }
    }
    scene.signer.post(letter("last", "x")).await.unwrap();
    scene.signer.settle().await;
    let subjects: Vec<_> = all(&mut scene).into_iter().map(|(s, _)| s).collect();
    for n in (1..20).step_by(2) {
        assert!(subjects.contains(&format!("r.{n}")), "{subjects:?}");
    }
    assert_eq!(subjects.last().unwrap(), "last");
    assert_eq!(scene.signer.inner.queue.lock().line.room(), WAITING);
}

#[tokio::test]
async fn what_cannot_be_sealed_harms_no_neighbour() {
    let mut scene = scene(EVERYBODY);
    scene.signer.post(letter("a", "x")).await.unwrap();
    let mut bad = letter("bad", "x");
    bad.content_type = Some(crate::content::ContentType::Other("ä".into()));
    assert!(matches!(
        scene.signer.post(bad).await,
        Err(SendError::Seal(_))
    ));
    let large = scene
        .signer
        .post(letter("large", vec![0; MAX_PAYLOAD]))
        .await;
    assert!(
        matches!(large, Err(SendError::TooLarge { .. })),
        "{large:?}"
    );
    // Fits alone and not beside others: it goes alone, in its place.
    let mut edge = MAX_PAYLOAD - 100;
    while scene
        .signer
        .inner
        .check(&letter("edge", vec![0; edge]))
        .is_err()
    {
        edge -= 1;
    }
    for subject in ["b", "edge", "c"] {
        let body = if subject == "edge" { edge } else { 1 };
        scene
            .signer
            .post(letter(subject, vec![0; body]))
            .await
            .unwrap();
    }
    scene.signer.settle().await;
    let sent = all(&mut scene);
    let subjects: Vec<_> = sent.iter().map(|(s, _)| s.as_str()).collect();
    assert_eq!(subjects, ["a", "b", "edge", "c"]);
    assert!(sent.iter().all(|(_, bytes)| bytes.len() <= MAX_PAYLOAD));
}

/// Who asks goes on waiting elsewhere: a request that it has given up stays here.
#[tokio::test]
async fn a_request_that_is_given_up_before_it_is_sealed_is_not_sent() {
    let mut scene = scene(EVERYBODY);
    let requests: Vec<_> = (0..4)
        .map(|n| {
            let subject = Subject::parse(&format!("r.{n}")).unwrap();
            Arc::new(Pending::new(subject, 1))
        })
        .collect();
    for (n, pending) in requests.iter().enumerate() {
        let letter = letter(&format!("r.{n}"), "x");
        let posted = scene.signer.post_request(letter, true, pending);
        posted.await.unwrap();
    }
    for pending in requests.iter().step_by(2) {
        pending.give_up();
    }
    scene.signer.settle().await;
    let subjects: Vec<_> = all(&mut scene).into_iter().map(|(s, _)| s).collect();
    assert_eq!(subjects, ["r.1", "r.3"]);
}

fn waiting(scene: &Scene, letter: Box<Letter>) -> Waiting {
    Waiting {
        weight: letter.weight(),
        size: scene.signer.inner.check(&letter).unwrap(),
        letter,
        told: None,
    }
}

fn framable(subject: &str, body: impl Into<Bytes>) -> Box<Letter> {
    let mut letter = letter(subject, body);
    letter.sharing.frame = true;
    letter
}

/// The frames of each batch, as the number of their messages.
fn cut(scene: &Scene, letters: impl IntoIterator<Item = Box<Letter>>) -> Vec<Vec<usize>> {
    let all: Vec<_> = letters.into_iter().map(|l| waiting(scene, l)).collect();
    let mut rest = all.as_slice();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let batch = Batch::cut(rest, MAX_PAYLOAD, None);
        rest = &rest[batch.len..];
        batches.push(batch.units.iter().map(Range::len).collect());
    }
    batches
}

/// One of a batch that became unsound while it waited.
#[tokio::test]
async fn a_batch_that_does_not_seal_is_sealed_one_by_one() {
    let scene = scene(EVERYBODY);
    let mut batch: Vec<_> = (0..3).map(|_| waiting(&scene, letter("a", "x"))).collect();
    batch[1].letter.content_type = Some(crate::content::ContentType::Other("ä".into()));
    let units = [0..1, 1..2, 2..3];
    let outcomes = seal_units(&batch, &units, Some(&sealer()));
    let sound: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(sound, [true, false, true]);
    assert_ne!(batch[0].letter.id(), MessageId([0; 16]));
}

#[tokio::test]
async fn what_waits_for_the_same_subject_shares_frames_and_keeps_order() {
    let mut scene = scene(EVERYBODY);
    for n in 0..5_000u32 {
        let subject = if n % 500 == 499 { "other" } else { "a" };
        let letter = framable(subject, n.to_be_bytes().to_vec());
        scene.signer.post(letter).await.unwrap();
    }
    scene.signer.settle().await;
    let sent = all(&mut scene);
    assert!(sent.len() < 500, "{} envelopes", sent.len());
    let mut bodies = Vec::new();
    for (subject, bytes) in sent {
        let opened = open(bytes, &subject);
        assert!(opened.message_count() <= MAX_FRAME);
        for message in opened.messages() {
            let n = u32::from_be_bytes(message.body[..].try_into().unwrap());
            assert_eq!(subject == "other", n % 500 == 499);
            bodies.push(n);
        }
    }
    assert_eq!(bodies, (0..5_000).collect::<Vec<u32>>());
    assert_eq!(scene.stats.sent(), 5_000);
    assert!(scene.stats.frames_sent() > 50);
}

#[tokio::test]
async fn frames_hold_what_says_the_same_within_their_bounds() {
    let scene = scene(EVERYBODY);
    let many = |count, body: usize| (0..count).map(move |_| framable("a", vec![0; body]));
    assert_eq!(cut(&scene, many(65, 1)), [[64, 1]]);
    // 16 KiB of bodies, to the byte.
    assert_eq!(cut(&scene, many(5, 4_096)), [[4, 1]]);
    assert_eq!(cut(&scene, many(5, 4_097)), [[3, 2]]);
    assert_eq!(cut(&scene, many(2, 20_000)), [[1, 1]]);
    // A batch's weight counts messages, not frames.
    let batches = cut(&scene, many(1_025, 1));
    assert_eq!(batches, [vec![64; 16], vec![1]]);

    let differing: [fn(&mut Letter); 8] = [
        |l| l.to = Subject::parse("b").unwrap().into(),
        |l| l.sharing.frame = false,
        |l| l.sharing.batch = false,
        |l| l.content_type = Some(crate::content::ContentType::Json),
        |l| l.headers_mut().insert("k", "v").unwrap(),
        |l| l.parent = Some(LeafHash([1; 32])),
        |l| l.to = route("a", 1).into(),
        |l| l.issued_at = l.issued_at.saturating_add(Duration::from_secs(1)),
    ];
    for (n, differ) in differing.into_iter().enumerate() {
        let mut letters: Vec<_> = many(3, 1).collect();
        differ(&mut letters[1]);
        let batches: Vec<usize> = cut(&scene, letters).concat();
        assert_eq!(batches, [1, 1, 1], "difference {n}");
    }
    // Only events.
    let mut asks: Vec<_> = many(2, 1).collect();
    for ask in &mut asks {
        let reply_to = Subject::parse("r").unwrap();
        ask.purpose = Purpose::Request { reply_to };
    }
    assert_eq!(cut(&scene, asks), [[1, 1]]);
}

/// It is said once for all of them.
#[test]
fn a_frame_hands_on_one_clients_token() {
    let carrying = |token: &str| {
        let mut letter = framable("a", "x");
        letter.carry(OriginalToken::new(token.to_owned()));
        letter
    };
    let first = carrying("one");
    assert!(carrying("one").fits_frame_of(&first));
    assert!(!carrying("another").fits_frame_of(&first));
    assert!(!framable("a", "x").fits_frame_of(&first));
    assert!(!first.fits_frame_of(&framable("a", "x")));
}

/// A frame never makes what could be sent alone too large to be sent.
#[tokio::test]
async fn a_frame_fits_the_largest_payload() {
    let scene = scene(EVERYBODY);
    // A small message is taken to be up to half a KiB longer than it is.
    let limit = 2_500;
    for body in [1usize, 100, 500, 700, 900] {
        let all: Vec<_> = (0..70)
            .map(|_| waiting(&scene, framable("a", vec![0; body])))
            .collect();
        let batch = Batch::cut(&all, limit, None);
        let sealed = seal_units(&all, &batch.units, Some(&sealer()));
        for sealed in sealed {
            let len = sealed.unwrap().bytes.len();
            assert!(len <= limit, "{len} with bodies of {body}");
        }
        assert_eq!(batch.units[0].len() > 1, body < 900, "{body}");
    }
}

#[tokio::test]
async fn batches_mix_subjects_only_where_both_allow_it() {
    let scene = scene(EVERYBODY);
    let separate = |subject: &str| {
        let mut letter = letter(subject, "x");
        letter.sharing.batch = false;
        letter
    };
    let letters = vec![
        letter("a", "x"),
        letter("b", "x"),
        separate("c"),
        separate("c"),
        letter("c", "x"),
        separate("d"),
        letter("a", "x"),
    ];
    let batches: Vec<usize> = cut(&scene, letters).iter().map(Vec::len).collect();
    assert_eq!(batches, [2, 3, 1, 1]);
}

/// Replies that are bound to an older credential go under its signature.
#[tokio::test]
async fn a_batch_is_under_one_credential() {
    let scene = scene(EVERYBODY);
    let (old, in_use) = (Arc::new(sealer()), Arc::new(sealer()));
    let under = |sealer: Option<&Arc<Sealer>>| {
        let mut letter = letter("a", "x");
        letter.under = sealer.cloned();
        waiting(&scene, letter)
    };
    let all = [
        under(None),
        under(Some(&in_use)),
        under(Some(&old)),
        under(Some(&old)),
        under(None),
    ];
    let mut rest = &all[..];
    for (len, sealer) in [(2, &in_use), (2, &old), (1, &in_use)] {
        let batch = Batch::cut(rest, MAX_PAYLOAD, Some(&in_use));
        assert_eq!(batch.len, len);
        assert!(Arc::ptr_eq(batch.sealer.as_ref().unwrap(), sealer));
        rest = &rest[len..];
    }
}

/// What is lost in a frame is counted message by message.
#[tokio::test]
async fn a_lost_frame_is_told_message_by_message() {
    let scene = scene(EVERYBODY);
    for _ in 0..10 {
        scene.signer.post(framable("a", "x")).await.unwrap();
    }
    scene.door.0.open.close();
    scene.signer.settle().await;
    // The first was sealed inline.
    assert_eq!(scene.signer.take_unsent("a"), 9);
    assert_eq!(scene.stats.refused_for("publish_not_sent"), 9);
}

/// A frame that does not seal harms none of its messages.
#[tokio::test]
async fn a_frame_that_does_not_seal_is_sent_message_by_message() {
    let mut scene = scene(EVERYBODY);
    let mut batch: Vec<_> = (0..3)
        .map(|_| waiting(&scene, framable("a", "x")))
        .collect();
    // The format takes no more than one request in a frame.
    batch[0].letter.purpose = Purpose::Request {
        reply_to: Subject::parse("r").unwrap(),
    };
    let unit = std::slice::from_ref(&(0..3));
    let sealer = sealer();
    let inner = &scene.signer.inner;
    inner.send_batch(&mut batch, unit, Some(&sealer)).await;
    assert_eq!(all(&mut scene).len(), 3);
    assert_eq!(scene.stats.sent(), 3);
    assert_eq!(scene.stats.frames_sent(), 0);
}

#[tokio::test]
async fn what_is_lost_after_it_was_accepted_is_told() {
    let scene = scene(EVERYBODY);
    for _ in 0..4 {
        scene.signer.post(letter("a", "x")).await.unwrap();
    }
    *scene.door.0.sealer.lock() = None;
    scene.signer.settle().await;
    let error = scene.signer.post(letter("a", "x")).await;
    assert!(matches!(error, Err(SendError::CredentialExpired)));
    assert_eq!(scene.signer.take_unsent("b"), 0);
    // The first was sealed inline.
    assert_eq!(scene.signer.take_unsent("a"), 3);
    assert_eq!(scene.signer.take_unsent("a"), 0, "told once");
    assert_eq!(scene.stats.refused_for("publish_not_sent"), 3);
    assert!(scene.signer.take_all_unsent().is_empty());
}

#[tokio::test]
async fn what_waits_is_bounded_and_senders_wait_in_turn() {
    let mut scene = scene(1);
    scene.signer.post(letter("a", "x")).await.unwrap();
    let signer = Arc::clone(&scene.signer);
    let flood = tokio::spawn(async move {
        for n in 0..3 * WAITING {
            let body = n.to_be_bytes().to_vec();
            signer.post(letter("f", body)).await.unwrap();
        }
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!flood.is_finished(), "it waits for room");
    assert_eq!(scene.signer.inner.queue.lock().accepted, u64::from(WAITING));
    scene.door.0.open.add_permits(EVERYBODY);
    flood.await.unwrap();
    scene.signer.settle().await;
    assert_eq!(all(&mut scene).len(), 1 + 3 * WAITING as usize);
}

/// By its bytes, wherever they are.
#[tokio::test]
async fn a_flood_of_large_headers_is_bounded() {
    let mut scene = scene(1);
    scene.signer.post(letter("a", "x")).await.unwrap();
    let signer = Arc::clone(&scene.signer);
    let flood = tokio::spawn(async move {
        for _ in 0..WAITING {
            let mut letter = letter("f", "x");
            for name in ["a", "b", "c", "d", "e", "f", "g"] {
                let value = "v".repeat(1_024);
                letter.headers_mut().insert(name, &value).unwrap();
            }
            signer.post(letter).await.unwrap();
        }
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    // Eight units each: themselves, and seven KiB.
    assert_eq!(
        scene.signer.inner.queue.lock().accepted,
        u64::from(WAITING / 8)
    );
    scene.door.0.open.add_permits(EVERYBODY);
    flood.await.unwrap();
    scene.signer.settle().await;
    assert_eq!(all(&mut scene).len(), 1 + WAITING as usize);
}

/// A client that is dropped sends what it accepted.
#[tokio::test]
async fn what_was_accepted_is_sent_after_the_signer_is_dropped() {
    let mut scene = scene(EVERYBODY);
    for _ in 0..100 {
        scene.signer.post(letter("a", "x")).await.unwrap();
    }
    let Scene { signer, door, .. } = scene;
    drop((signer, door));
    let mut count = 0;
    while scene.sent.recv().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 100);
}

/// Those who send drop what was sealed; what they do not drop is not kept.
#[tokio::test]
async fn what_was_sealed_is_let_go() {
    let scene = scene(EVERYBODY);
    let mut bodies = Vec::new();
    for n in 0..3_000u32 {
        let body = Bytes::from(n.to_be_bytes().to_vec());
        bodies.push(body.clone());
        scene.signer.post(framable("a", body)).await.unwrap();
        let spent = scene.signer.inner.queue.lock().spent.len();
        assert!(spent <= WAITING as usize);
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    scene.signer.settle().await;
    while scene.signer.inner.queue.lock().is_awake {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.signer.inner.queue.lock().spent.len(), 0);
    assert!(bodies.iter().all(Bytes::is_unique));
}

type Posting<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;

/// Polls once; whether it waits.
async fn waits(sender: &mut Posting<'_>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(sender.as_mut().poll(cx).is_pending())).await
}

/// Takes up all the room there is, the door being closed.
async fn fill(scene: &Scene) {
    scene.signer.post(letter("a", "x")).await.unwrap();
    let full = || scene.signer.inner.queue.lock().line.room() == 0;
    while !full() {
        scene.signer.post(letter("full", "x")).await.unwrap();
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, what).await.expect("soon")
}

const LARGE: usize = 60 * 1_024;

/// Who is polled once and then goes elsewhere holds no room that others need.
#[tokio::test]
async fn a_slow_sender_stalls_nobody() {
    let mut scene = scene(1);
    fill(&scene).await;
    let signer = Arc::clone(&scene.signer);
    let mut idle: Vec<Posting<'_>> = Vec::new();
    for n in 0..150u8 {
        let letter = letter("idle", vec![n; LARGE]);
        let mut sender: Posting<'_> = match n % 3 {
            0 => Box::pin(signer.post(letter)),
            1 => Box::pin(signer.post_answer(letter, true)),
            _ => {
                let told = signer.post_and_tell(letter, true);
                Box::pin(async { told.await.map(drop) })
            }
        };
        assert!(waits(&mut sender).await);
        idle.push(sender);
        tokio::task::yield_now().await;
    }
    scene.door.0.open.add_permits(EVERYBODY);
    soon(async {
        for n in 0..3 * WAITING {
            let body = if n % 500 == 0 { LARGE } else { 1 };
            scene
                .signer
                .post(letter("busy", vec![0; body]))
                .await
                .unwrap();
        }
        scene.signer.settle().await;
    })
    .await;
    let sent = all(&mut scene);
    let idle_sent = sent.iter().filter(|(subject, _)| subject == "idle");
    assert_eq!(idle_sent.count(), 0, "nobody comes in without being polled");
    let busy_sent = sent.iter().filter(|(subject, _)| subject == "busy");
    assert_eq!(busy_sent.count(), 3 * WAITING as usize);

    // Who comes back is sent; who has gone is not.
    let left = idle.split_off(75);
    drop(idle);
    for sender in left {
        soon(sender).await.unwrap();
    }
    soon(scene.signer.settle()).await;
    assert_eq!(all(&mut scene).len(), 75);
    assert_eq!(scene.signer.inner.queue.lock().line.room(), WAITING);
}

/// Dropped while it waits for room, a message is not sent and the next gets its turn.
#[tokio::test]
async fn who_is_dropped_in_line_for_room_stalls_nobody() {
    let mut scene = scene(1);
    fill(&scene).await;
    let signer = Arc::clone(&scene.signer);
    let mut senders: Vec<Posting<'_>> = Vec::new();
    for _ in 0..30 {
        let letter = letter("large", vec![0; LARGE]);
        let mut sender: Posting<'_> = Box::pin(signer.post(letter));
        assert!(waits(&mut sender).await);
        senders.push(sender);
        tokio::task::yield_now().await;
    }
    let accepted = scene.signer.inner.queue.lock().accepted;
    // Some of them before there is room, some when they have been called to it.
    drop(senders.split_off(20));
    let in_line = || scene.signer.inner.queue.lock().line.len();
    assert_eq!(in_line(), 20);
    scene.door.0.open.add_permits(1_000);
    while scene.signer.inner.queue.lock().settled < 300 {
        tokio::task::yield_now().await;
    }
    let last = senders.pop().unwrap();
    drop(senders);
    assert_eq!(in_line(), 1);
    scene.door.0.open.add_permits(EVERYBODY);
    soon(last).await.unwrap();
    soon(scene.signer.settle()).await;
    assert_eq!(scene.signer.inner.queue.lock().accepted, accepted + 1);
    assert_eq!(scene.signer.inner.queue.lock().line.room(), WAITING);
    let sent = all(&mut scene);
    assert_eq!(sent.iter().filter(|(s, _)| s == "large").count(), 1);
}

/// Senders that come, wait, go elsewhere and give up, all at once: each that stays is
/// served, and in the end all the room is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_senders_do_no_room_and_no_turn_is_lost() {
    let mut scene = scene(EVERYBODY);
    let tasks: Vec<_> = (0..40u32)
        .map(|task| {
            let signer = Arc::clone(&scene.signer);
            tokio::spawn(async move {
                let mut posted = 0;
                for n in 0..60u32 {
                    let body = if (task + n) % 4 == 0 { LARGE } else { 100 };
                    let mut sender: Posting<'_> = Box::pin(signer.post(letter("a", vec![0; body])));
                    if !waits(&mut sender).await {
                        posted += 1;
                        continue;
                    }
                    match (task + n) % 3 {
                        0 => drop(sender),
                        1 => {
                            // Called meanwhile, passed over, and back.
                            tokio::time::sleep(3 * GRACE).await;
                            sender.await.unwrap();
                            posted += 1;
                        }
                        _ => {
                            sender.await.unwrap();
                            posted += 1;
                        }
                    }
                }
                posted
            })
        })
        .collect();
    let mut posted = 0;
    for task in tasks {
        posted += soon(task).await.unwrap();
    }
    soon(scene.signer.settle()).await;
    assert_eq!(all(&mut scene).len(), posted);
    assert_eq!(scene.signer.inner.queue.lock().line.room(), WAITING);
}
