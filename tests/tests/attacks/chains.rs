//! Attack 31, and 14 down a chain: a compromised service was given a user's token
//! and spends it outside the chain of calls in which it got it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use bulla_sdk::{
    Client, Context, Hop, Limits, Message, MessageId, Outgoing, ProofError, RequestError,
    SendError, Service, ServiceError,
};
use bulla_tests::{Bus, Dissected, Forger, Minter, bin, now};
use bytes::Bytes;
use futures_util::StreamExt;

use super::eventually;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.other]
attest = [{ nkey = "@other@" }]
[workload.middle]
attest = [{ nkey = "@middle@" }]
[workload.bank]
attest = [{ nkey = "@bank@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[stream.PAID]
subjects = ["paid.>"]

[subject."front.quick"]
max_age = "1s"
[subject."paid.>"]
chain = "proven"
replay = "stream"
max_age = "1h"
[subject."ledger.>"]
chain = "proven"
[subject."middle.>"]
chain = "proven"
[subject."bank.>"]
chain = "proven"
[subject."told.proven"]
chain = "proven"
[subject."secret.ask"]
protect = "encrypted"
[subject."vault.>"]
chain = "proven"
protect = "encrypted"

[[allow]]
id = "edge-asks"
who = ["edge"]
may = ["request"]
on = ["front.ask", "front.quick", "other.ask", "bank.pay", "secret.ask"]
[[allow]]
id = "edge-asks-for-scope"
who = ["edge"]
may = ["request"]
on = ["front.scoped"]
user = { scope = "pay" }
[[allow]]
id = "edge-tells"
who = ["edge"]
may = ["publish"]
on = ["told.first"]
[[allow]]
id = "front-serves"
who = ["front"]
may = ["serve"]
on = ["front.>", "secret.ask"]
[[allow]]
id = "other-serves"
who = ["other"]
may = ["serve"]
on = ["other.ask", "quiet.ask"]
[[allow]]
id = "front-goes-on"
who = ["front", "other"]
may = ["request"]
on = ["middle.ask", "bank.pay", "loose.ask", "vault.put"]
[[allow]]
id = "front-hears-and-tells"
who = ["front"]
may = ["subscribe"]
on = ["told.first"]
[[allow]]
id = "front-tells"
who = ["front"]
may = ["publish"]
on = ["told.proven"]
[[allow]]
id = "bank-hears"
who = ["bank"]
may = ["subscribe"]
on = ["told.proven"]
[[allow]]
id = "middle-serves"
who = ["middle"]
may = ["serve"]
on = ["middle.ask", "loose.ask", "quiet.ask"]
[[allow]]
id = "middle-goes-on"
who = ["middle"]
may = ["request"]
on = ["bank.pay"]
user = { scope = "pay" }
[[allow]]
id = "front-appends"
who = ["front"]
may = ["append"]
on = ["paid.{id}"]
[[allow]]
id = "bank-consumes"
who = ["bank"]
may = ["consume"]
on = ["PAID.bank"]
[[allow]]
id = "bank-writes"
who = ["bank"]
may = ["request"]
on = ["ledger.write"]
[[allow]]
id = "other-keeps-the-ledger"
who = ["other"]
may = ["serve"]
on = ["ledger.write"]
[[allow]]
id = "bank-serves"
who = ["bank"]
may = ["serve"]
on = ["bank.pay", "vault.put"]
[[allow]]
id = "wiretap-listens"
who = ["wiretap"]
may = ["subscribe"]
on = ["front.>", "other.>", "middle.>", "bank.>"]
"#;

const SKEW: Duration = Duration::from_millis(100);

/// A bank that pays, and the edge that mints for its users.
struct Scene {
    bus: Bus,
    edge: Minter,
    bank: Client,
    _service: Service,
}

impl Scene {
    async fn start() -> Self {
        let bus = Bus::start(POLICY).await;
        let edge = Minter::connect(&bus, "edge").await;
        let bank = bus.client("bank").await;
        // Says by which way it was asked.
        let _service = bank
            .serve("bank.pay", async |m: Message<String>| {
                Ok::<_, ServiceError>(way(&m))
            })
            .await
            .unwrap();
        Self {
            bus,
            edge,
            bank,
            _service,
        }
    }

    fn token(&self, user: &str) -> String {
        self.edge.token(user, "pay", &[])
    }

    /// A genuine request of the edge's, with this token, as a service gets it.
    async fn asked_by_edge(&self, serving: &str, subject: &str, token: &str) -> Dissected {
        self.asked(token, serving, subject, |message| message).await
    }

    async fn asked<'a>(
        &'a self,
        token: &str,
        serving: &str,
        subject: &str,
        change: impl FnOnce(Outgoing<'a>) -> Outgoing<'a>,
    ) -> Dissected {
        let raw = self.bus.raw_client(serving).await;
        let mut requests = raw
            .queue_subscribe(subject.to_owned(), serving.to_owned())
            .await
            .unwrap();
        let _ = raw
            .request(bulla_identity::reserved::BARRIER, "".into())
            .await;
        let request = self.edge.client.message(subject).payload("ask");
        // Long enough for what is made of it: a request lives as long as its sender waits.
        let request = request.user_token(token).timeout(Duration::from_secs(30));
        let request = tokio::select! {
            request = requests.next() => request,
            asked = change(request).request() => panic!("nobody answers: {asked:?}"),
        };
        Dissected::of(&request.unwrap().payload)
    }

    /// What the bank makes of a payment by a compromised service: its answer, or
    /// the reason for which it has refused.
    async fn paid(&self, by: &str, payment: Bytes) -> Result<String, &'static str> {
        let before = self.bank.stats().refused();
        let raw = self.bus.raw_client(by).await;
        let reply_to = self.bus.peer_inbox(by, "paid");
        let mut replies = raw.subscribe(reply_to.clone()).await.unwrap();
        raw.publish_with_reply("bank.pay", reply_to, payment)
            .await
            .unwrap();
        let limit = Duration::from_secs(5);
        let reply = tokio::time::timeout(limit, replies.next()).await;
        let reply = reply.expect("an answer").expect("a reply");
        let after = self.bank.stats().refused();
        let refused = after
            .keys()
            .find(|code| after.get(*code) != before.get(*code));
        match refused {
            Some(code) => Err(code),
            None => Ok(text_of(&Dissected::of(&reply.payload).body)),
        }
    }
}

/// What does not come is told, not waited for.
async fn soon<F: IntoFuture>(future: F) -> F::Output {
    let limit = Duration::from_secs(10);
    let came = tokio::time::timeout(limit, future.into_future()).await;
    came.expect("nothing came")
}

/// Who asked whom, from the first to the last.
fn way<T>(message: &Message<T>) -> String {
    let mut way: Vec<String> = message
        .via()
        .iter()
        .map(|hop| match hop {
            Hop::Proven {
                workload, subject, ..
            } => format!("{} to {subject}", workload.path()),
            _ => "somebody".to_owned(),
        })
        .collect();
    way.reverse();
    way.push(message.sender().workload().path().to_owned());
    way.join(", ")
}

fn text_of(body: &[u8]) -> String {
    let text = body.split_first().map(|(_, text)| text.to_vec());
    String::from_utf8_lossy(&text.unwrap_or_default())
        .trim_start_matches(|c: char| !c.is_ascii_alphabetic())
        .to_owned()
}

/// A compromised service, which holds its own credential.
struct Thief {
    forger: Forger,
    reply_to: String,
}

impl Thief {
    async fn new(bus: &Bus, workload: &str) -> Self {
        Self {
            forger: Forger::genuine(bus, workload).await,
            reply_to: bus.peer_inbox(workload, "paid"),
        }
    }

    /// Something sealed under the stolen token that says it was sent because of
    /// the first of `shown`, and shows all of them.
    fn seal(&self, subject: &str, token: &str, shown: &[&Dissected]) -> Dissected {
        let plain = self
            .forger
            .request_for_user(subject, &self.reply_to, now(), b"\xa3pay", token);
        let mut sealed = Dissected::of(&plain);
        if let Some(parent) = shown.first() {
            sealed.set(16, bin(&parent.leaf().0));
            sealed.ancestors = shown.iter().map(|shown| shown.as_ancestor()).collect();
        }
        Dissected::of(&self.forger.sign(sealed))
    }

    fn pay(&self, token: &str, shown: &[&Dissected]) -> Bytes {
        self.seal("bank.pay", token, shown).assemble()
    }
}

/// Down an honest chain each service is shown how it was asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_calls_is_proven_hop_by_hop() {
    let scene = Scene::start().await;
    let token = scene.token("alice");
    let (front, middle) = (
        scene.bus.client("front").await,
        scene.bus.client("middle").await,
    );
    let ways = Arc::new(Mutex::new(Vec::new()));
    let (client, seen) = (middle.clone(), Arc::clone(&ways));
    let _middle = middle
        .serve("middle.ask", move |m: Message<String>| {
            seen.lock().unwrap().push(way(&m));
            let client = client.clone();
            async move { Ok::<_, ServiceError>(client.request::<_, String>("bank.pay", "").await?) }
        })
        .await
        .unwrap();
    let (client, seen) = (front.clone(), Arc::clone(&ways));
    let _front = front
        .serve("front.ask", move |m: Message<String>| {
            seen.lock().unwrap().push(way(&m));
            let client = client.clone();
            async move {
                let long: String = client.request("middle.ask", "").await?;
                let short: String = client.request("bank.pay", "").await?;
                Ok::<_, ServiceError>((long, short))
            }
        })
        .await
        .unwrap();
    let ask = || async {
        let message = scene.edge.client.message("front.ask").payload("");
        let answer = message.user_token(token.clone()).request().await.unwrap();
        answer.decode::<(String, String)>().unwrap()
    };
    for _ in 0..2 {
        let (long, short) = ask().await;
        assert_eq!(long, "edge to front.ask, front to middle.ask, middle");
        assert_eq!(short, "edge to front.ask, front");
    }
    assert_eq!(
        ways.lock().unwrap()[..2],
        ["edge", "edge to front.ask, front"]
    );
    // The minter needs nobody.
    let message = scene.edge.client.message("bank.pay").payload("");
    let direct = message.user_token(token.clone()).request().await.unwrap();
    assert_eq!(direct.decode::<String>().unwrap(), "edge");
    assert!(scene.bank.stats().refused().is_empty());
    assert!(middle.stats().refused().is_empty());
}

/// Events carry their chain as requests do, also several in a frame.
#[tokio::test(flavor = "multi_thread")]
async fn events_prove_their_chain_too() {
    let scene = Scene::start().await;
    let front = scene.bus.client("front").await;
    let mut heard = front.subscribe("told.first").await.unwrap();
    let mut told = scene.bank.subscribe("told.proven").await.unwrap();
    let message = scene.edge.client.message("told.first").payload("news");
    message
        .user_token(scene.token("alice"))
        .publish()
        .await
        .unwrap();
    let first = soon(heard.next()).await.unwrap();
    first
        .context()
        .scope(async {
            for n in 0..20 {
                front.publish("told.proven", &n).await.unwrap();
            }
        })
        .await;
    front.flush().await.unwrap();
    for n in 0..20 {
        let next = soon(told.next()).await.unwrap();
        assert_eq!(next.decode::<u32>().unwrap(), n);
        assert_eq!(way(&next), "edge to told.first, front");
    }
    assert!(front.stats().frames_sent() > 0, "some travelled together");
    assert!(scene.bank.stats().refused().is_empty());
}

/// What a stream stored shows its chain, and what follows from it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn attack_31_stored_events_prove_their_chain_too() {
    let scene = Scene::start().await;
    let other = scene.bus.client("other").await;
    let _ledger = other
        .serve("ledger.write", async |m: Message<String>| {
            Ok::<_, ServiceError>(way(&m))
        })
        .await
        .unwrap();
    let front = scene.bus.client("front").await;
    let mut paid = scene.bank.consume("PAID", "bank").await.unwrap();
    let mut heard = front.subscribe("told.first").await.unwrap();
    let message = scene.edge.client.message("told.first").payload("news");
    let token = scene.token("alice");
    message.user_token(token.clone()).publish().await.unwrap();
    let first = soon(heard.next()).await.unwrap();
    let append = front.append("paid.17", "10 euro");
    first.context().scope(append).await.unwrap();
    let delivery = soon(paid.next()).await.unwrap();
    assert_eq!(way(delivery.message()), "edge to told.first, front");
    let write = Box::pin(scene.bank.request::<_, String>("ledger.write", "10 euro"));
    let written = delivery.message().context().scope(write).await;
    assert_eq!(
        written.unwrap(),
        "edge to told.first, front to paid.17, bank"
    );
    delivery.ack().await.unwrap();

    // A token that it was given some other way.
    let thief = Thief::new(&scene.bus, "front").await;
    let id = MessageId([7; 16]);
    let event = thief
        .forger
        .event_for_user("paid.18", now(), b"\xa3pay", &token);
    let mut event = Dissected::of(&event);
    event.set(5, bin(&id.0));
    let raw = scene.bus.raw_client("front").await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.to_hex().as_str());
    let payload = thief.forger.sign(event);
    raw.request_with_headers("paid.18", headers, payload)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(2), paid.next())
        .await
        .unwrap_err();
    assert_eq!(scene.bank.stats().refused_for("chain_foreign_start"), 1);
}

/// Of what is encrypted nobody on the way learns more than its header.
#[tokio::test(flavor = "multi_thread")]
async fn encrypted_messages_prove_and_are_proven() {
    let scene = Scene::start().await;
    let front = scene.bus.client("front").await;
    let _vault = scene
        .bank
        .serve("vault.put", async |m: Message<String>| {
            Ok::<_, ServiceError>(way(&m))
        })
        .await
        .unwrap();
    let client = front.clone();
    let _front = front
        .serve("secret.ask", move |_: Message<String>| {
            let client = client.clone();
            async move { Ok::<_, ServiceError>(client.request::<_, String>("vault.put", "").await?) }
        })
        .await
        .unwrap();
    let message = scene.edge.client.message("secret.ask").payload("");
    let token = scene.token("alice");
    let answer = message.user_token(token).request().await.unwrap();
    assert_eq!(
        answer.decode::<String>().unwrap(),
        "edge to secret.ask, front"
    );
}

/// The service that was asked can go on with the token, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn attack_31_a_token_is_not_spent_outside_the_chain_it_was_called_in() {
    let scene = Scene::start().await;
    let (alice, bob) = (scene.token("alice"), scene.token("bob"));
    let front = Thief::new(&scene.bus, "front").await;
    let mine = scene.asked_by_edge("front", "front.ask", &alice).await;
    let paid = async |shown: &[&Dissected]| scene.paid("front", front.pay(&alice, shown)).await;

    // What it was called for, so that everything else about the forgery is right.
    let sound = paid(&[&mine]).await;
    assert_eq!(sound.unwrap(), "edge to front.ask, front");

    // On its own.
    assert_eq!(paid(&[]).await.unwrap_err(), "chain_foreign_start");
    // Because of a message that it does not show.
    let mut silent = front.seal("bank.pay", &alice, &[&mine]);
    silent.ancestors.clear();
    let silent = scene.paid("front", silent.assemble()).await;
    assert_eq!(silent.unwrap_err(), "chain_missing");
    // Because of what another service was asked with the same token.
    let others = scene.asked_by_edge("other", "other.ask", &alice).await;
    assert_eq!(
        paid(&[&others]).await.unwrap_err(),
        "chain_receiver_not_granted"
    );
    // Because of what it was asked for somebody else.
    let bobs = scene.asked_by_edge("front", "front.ask", &bob).await;
    assert_eq!(paid(&[&bobs]).await.unwrap_err(), "chain_token_changed");
    // Because of a message of its own, which nobody could have sent it.
    let own = front.seal("front.ask", &alice, &[]);
    assert_eq!(paid(&[&own]).await.unwrap_err(), "chain_foreign_start");
    // Because of one that it has made up in the edge's name.
    let mut forged = front.seal("front.ask", &alice, &[]);
    forged.set(2, mine.fields[2].1.clone());
    assert_eq!(paid(&[&forged]).await.unwrap_err(), "chain_not_authentic");
    // Under a key that nobody has issued.
    let unknown = Forger::self_made(&scene.bus, "edge");
    let reply_to = scene.bus.peer_inbox("edge", "x");
    let unknown = unknown.request_for_user("front.ask", &reply_to, now(), b"\xa3ask", &alice);
    let unknown = Dissected::of(&unknown);
    assert_eq!(
        paid(&[&unknown]).await.unwrap_err(),
        "chain_credential_unknown"
    );
}

/// A service further down cannot shorten the chain, or put another's in its place.
#[tokio::test(flavor = "multi_thread")]
async fn attack_31_a_chain_is_neither_cut_nor_grafted() {
    let scene = Scene::start().await;
    let token = scene.token("alice");
    let first = scene.asked_by_edge("front", "front.ask", &token).await;
    let front = Thief::new(&scene.bus, "front").await;
    let middle = Thief::new(&scene.bus, "middle").await;
    let second = front.seal("middle.ask", &token, &[&first]);
    let pay = |shown: &[&Dissected]| middle.pay(&token, shown);
    let sound = scene.paid("middle", pay(&[&second, &first])).await;
    assert_eq!(
        sound.unwrap(),
        "edge to front.ask, front to middle.ask, middle"
    );

    for (shown, why) in [
        // The edge's message left out, its own left out, both the wrong way round.
        (&[&second][..], "ancestry_incomplete"),
        (&[&first][..], "chain_receiver_not_granted"),
        (&[&first, &second][..], "ancestor_unlinked"),
        (&[&second, &first, &first][..], "ancestor_unlinked"),
    ] {
        assert_eq!(scene.paid_in_silence(pay(shown), why).await, why);
    }
    // A proof of somebody else's message in the place of one.
    let mut bent = middle.seal("bank.pay", &token, &[&second, &first]);
    let mut other = first.clone();
    other.proof.clone_from(&second.proof);
    bent.ancestors[1] = other.as_ancestor();
    let bent = scene.paid("middle", bent.assemble()).await;
    assert_eq!(bent.unwrap_err(), "chain_not_authentic");
    // A hop that the policy does not know: the accomplice may serve it, and
    // nobody may ask it.
    let quiet = front.seal("quiet.ask", &token, &[&first]);
    let quiet = scene.paid("middle", pay(&[&quiet, &first])).await;
    assert_eq!(quiet.unwrap_err(), "chain_sender_not_granted");
    // A hop that nobody had to prove carries nothing on.
    let loose = front.seal("loose.ask", &token, &[&first]);
    let loose = scene.paid("middle", pay(&[&loose, &first])).await;
    assert_eq!(
        loose.unwrap(),
        "edge to front.ask, front to loose.ask, middle"
    );
}

impl Scene {
    /// What is refused before its sender is proven gets no answer.
    async fn paid_in_silence(&self, payment: Bytes, why: &str) -> &'static str {
        let before = self.bank.stats().refused();
        let raw = self.bus.raw_client("middle").await;
        let reply_to = self.bus.peer_inbox("middle", "paid");
        raw.publish_with_reply("bank.pay", reply_to, payment)
            .await
            .unwrap();
        let refused = || {
            let after = self.bank.stats().refused();
            after
                .keys()
                .find(|code| after.get(*code) != before.get(*code))
                .copied()
        };
        eventually(|| refused().is_some()).await;
        refused().unwrap_or_else(|| panic!("not refused, though {why}"))
    }
}

/// A message that led to something leads to nothing more when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn attack_31_an_old_ancestor_is_no_licence() {
    let scene = Scene::start().await;
    let token = scene.token("alice");
    let front = Thief::new(&scene.bus, "front").await;
    // Of a subject whose messages live for a second.
    let mine = scene.asked_by_edge("front", "front.quick", &token).await;
    let sound = scene.paid("front", front.pay(&token, &[&mine])).await;
    assert_eq!(sound.unwrap(), "edge to front.quick, front");
    tokio::time::sleep(Duration::from_secs(1) + 2 * SKEW).await;
    let late = scene.paid("front", front.pay(&token, &[&mine])).await;
    assert_eq!(late.unwrap_err(), "chain_parent_over");
    // And in a message that says it is from before.
    let mut early = front.seal("bank.pay", &token, &[&mine]);
    let issued = mine.fields.iter().find(|(key, _)| *key == 7).unwrap();
    early.set(7, issued.1.clone());
    let before_it = Dissected::of(&front.forger.sign(early));
    let early = scene.paid("front", before_it.assemble()).await;
    assert!(early.is_ok(), "its own age is the subject's to judge");
}

/// The policy of now decides about every hop, and what was revoked is.
#[tokio::test(flavor = "multi_thread")]
async fn attack_31_a_workload_that_was_dropped_proves_nothing_more() {
    let scene = Scene::start().await;
    let token = scene.token("alice");
    let first = scene.asked_by_edge("front", "front.ask", &token).await;
    let front = Thief::new(&scene.bus, "front").await;
    let middle = Thief::new(&scene.bus, "middle").await;
    let second = front.seal("middle.ask", &token, &[&first]);
    let pay = || middle.pay(&token, &[&second, &first]);
    assert!(scene.paid("middle", pay()).await.is_ok());
    let revision = scene.bank.policy().revision();
    let without = POLICY.replace(
        "who = [\"front\"]\nmay = [\"serve\"]",
        "who = [\"bank\"]\nmay = [\"serve\"]",
    );
    assert_ne!(without, POLICY);
    scene.bus.publish_policy(&without).await;
    eventually(|| scene.bank.policy().revision() > revision).await;
    let late = scene.paid("middle", pay()).await;
    assert_eq!(late.unwrap_err(), "chain_receiver_not_granted");
}

/// What a service took off the user is off for everybody after it, though one of
/// them leaves the limits out.
#[tokio::test(flavor = "multi_thread")]
async fn attack_14_limits_do_not_widen_down_a_proven_chain() {
    let scene = Scene::start().await;
    let token = scene.edge.token("alice", "pay look", &[]);
    let less = Limits::none().keep_scopes(["look"]);
    let first = scene
        .asked(&token, "front", "front.ask", |message| {
            message.narrow(&less)
        })
        .await;
    let front = Thief::new(&scene.bus, "front").await;
    let widened = scene.paid("front", front.pay(&token, &[&first])).await;
    assert_eq!(widened.unwrap_err(), "chain_limits_widened");
    let mut narrowed = front.seal("bank.pay", &token, &[&first]);
    let limits = less.encode().unwrap().unwrap();
    narrowed.set(12, bin(&limits));
    let narrowed = Dissected::of(&front.forger.sign(narrowed));
    let paid = scene.paid("front", narrowed.assemble()).await;
    assert_eq!(paid.unwrap(), "edge to front.ask, front");
    // What is taken off later was there before: the hop that needed it stands.
    let first = scene.asked_by_edge("front", "front.scoped", &token).await;
    let mut narrowed = front.seal("bank.pay", &token, &[&first]);
    narrowed.set(12, bin(&limits));
    let narrowed = Dissected::of(&front.forger.sign(narrowed));
    let paid = scene.paid("front", narrowed.assemble()).await;
    assert_eq!(paid.unwrap(), "edge to front.scoped, front");
}

/// The user's own rights hold at each hop: a chain lends none.
#[tokio::test(flavor = "multi_thread")]
async fn attack_14_a_proven_chain_widens_nothing() {
    let scene = Scene::start().await;
    let token = scene.edge.token("carol", "look", &[]);
    let first = scene.asked_by_edge("front", "front.ask", &token).await;
    let front = Thief::new(&scene.bus, "front").await;
    let middle = Thief::new(&scene.bus, "middle").await;
    let second = front.seal("middle.ask", &token, &[&first]);
    let payment = middle.pay(&token, &[&second, &first]);
    let refused = scene.paid("middle", payment).await;
    assert_eq!(refused.unwrap_err(), "condition_failed");
}

/// The SDK sends nothing that would be refused, and says what would mend it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_without_a_chain_is_told_before_anything_is_sent() {
    let scene = Scene::start().await;
    let token = scene.token("alice");
    let front = scene.bus.client("front").await;
    let middle = scene.bus.client("middle").await;
    let source_of = |error: RequestError| match error {
        RequestError::Send(SendError::Chain { source, .. }) => source,
        other => panic!("{other}"),
    };
    // With a token that it was handed on some other way.
    let message = front.message("bank.pay").payload("");
    let error = message
        .user_token(token.clone())
        .request()
        .await
        .unwrap_err();
    let ProofError::NoParent { minter } = source_of(error) else {
        panic!("no parent");
    };
    assert_eq!(minter, scene.bus.workload("edge").as_str());
    // Behind a hop that nobody had to prove.
    let (client, told) = (middle.clone(), Arc::new(Mutex::new(None)));
    let tell = Arc::clone(&told);
    let _middle = middle
        .serve("loose.ask", move |m: Message<String>| {
            let (client, tell) = (client.clone(), Arc::clone(&tell));
            async move {
                assert!(!m.via().iter().any(Hop::is_proven));
                let error = client.request::<_, String>("bank.pay", "").await;
                *tell.lock().unwrap() = error.err();
                Ok::<_, ServiceError>(())
            }
        })
        .await
        .unwrap();
    let client = front.clone();
    let _front = front
        .serve("front.ask", move |_: Message<String>| {
            let client = client.clone();
            async move {
                let (): () = client.request("loose.ask", "").await?;
                // A task that it spawns has no context, and gets no authority.
                let alone = client.clone();
                let spawned = tokio::spawn(async move {
                    alone.request::<_, String>("bank.pay", "").await.is_ok()
                });
                assert!(!spawned.await.unwrap());
                let context = Context::current();
                let spawned = tokio::spawn(context.scope(async move {
                    client.request::<_, String>("bank.pay", "").await.is_ok()
                }));
                assert!(spawned.await.unwrap());
                Ok::<_, ServiceError>(())
            }
        })
        .await
        .unwrap();
    let message = scene.edge.client.message("front.ask").payload("");
    message.user_token(token).request().await.unwrap();
    let error = told.lock().unwrap().take().expect("an error");
    let text = error.to_string();
    let ProofError::Incomplete { received_on } = source_of(error) else {
        panic!("incomplete");
    };
    assert_eq!(received_on, "loose.ask");
    assert!(text.contains("bank.pay"), "{text}");
    assert!(scene.bank.stats().refused().is_empty());
}
