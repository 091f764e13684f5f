//! 7, 8 and 9 where bodies are encrypted: who can read is not who can write.

use bulla_keyring::{Cipher, DataKey, NonceLanes};
use bulla_tests::{Dissected, bin};

use super::*;

/// Header keys.
const KEY_ID: u8 = 2;
const EPOCH: u8 = 3;
const IDS: u8 = 5;
const REPLY_TO: u8 = 9;
const NONCE: u8 = 24;
const WRAPS: u8 = 25;

/// The data key of these tests, which every reader of a message knows.
const SECRET: [u8; 32] = [7; 32];

struct Vault {
    bus: Bus,
    shop: Client,
    pay: Client,
    bank: Client,
    handled: Arc<AtomicU64>,
    raw: async_nats::Client,
    _services: [Service; 2],
}

impl Vault {
    async fn start() -> Self {
        let bus = Bus::start(POLICY).await;
        let (pay, bank) = (bus.client("pay").await, bus.client("bank").await);
        let handled = Arc::new(AtomicU64::new(0));
        let handler = |handled: &Arc<AtomicU64>| {
            let handled = Arc::clone(handled);
            move |message: Message<String>| {
                handled.fetch_add(1, Ordering::SeqCst);
                let text = format!(
                    "{} of {}",
                    message.payload(),
                    message.sender().workload().path()
                );
                async move { Ok::<_, ServiceError>(text) }
            }
        };
        let services = [
            pay.serve("vault.put", handler(&handled)).await.unwrap(),
            bank.serve("vault.copy", handler(&handled)).await.unwrap(),
        ];
        Self {
            shop: bus.client("shop").await,
            raw: bus.raw_client("shop").await,
            pay,
            bank,
            handled,
            bus,
            _services: services,
        }
    }

    /// Why `receiver` refuses this message.
    async fn refusal(&self, receiver: &Client, subject: &str, envelope: Bytes) -> &'static str {
        let before = receiver.stats().refused();
        let reply_to = reply_subject(&envelope);
        self.raw
            .publish_with_reply(subject.to_owned(), reply_to, envelope)
            .await
            .unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            let after = receiver.stats().refused();
            if let Some(code) = after
                .keys()
                .find(|code| after.get(*code) != before.get(*code))
            {
                return code;
            }
            let handled = self.handled.load(Ordering::SeqCst);
            assert!(
                tokio::time::Instant::now() < deadline,
                "not refused, {handled}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn handled_at_least(&self, count: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while self.handled.load(Ordering::SeqCst) < count {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{:?} {:?}",
                self.pay.stats().refused(),
                self.bank.stats().refused()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The reply subject that an envelope names.
fn reply_subject(envelope: &[u8]) -> String {
    let dissected = Dissected::of(envelope);
    let value = dissected.fields.iter().find(|(key, _)| *key == REPLY_TO);
    // A text of 32 to 255 bytes: its head is two bytes.
    String::from_utf8(value.unwrap().1[2..].to_vec()).unwrap()
}

/// The envelope under another header, with its contents encrypted for that
/// header: what everybody can do who knows the data key.
fn encrypted_anew(mut envelope: Dissected, content: &[u8]) -> Dissected {
    // Fresh lanes begin with the nonce that the first message had.
    let process = std::process::id();
    let lane = NonceLanes::new(process).lane(process).unwrap();
    let nonce = lane.take(process).unwrap();
    envelope.set(NONCE, bin(nonce.as_bytes()));
    let aad = [&[0x95, envelope.version][..], &bin(&envelope.header())].concat();
    let mut body = [&[0x92, 0xc0][..], &bin(content)].concat();
    let key = DataKey::from_random(Cipher::ChaCha20Poly1305, &SECRET);
    let tag = key.seal_in_place(nonce, &[&aad], &mut body);
    body.extend(tag);
    envelope.body = body;
    envelope
}

/// `pay` has read what the shop told it, and passes it on to the bank as if the
/// shop had: with the shop's own ciphertext, and with the shop's own data key.
#[tokio::test(flavor = "multi_thread")]
async fn attack_07_surreptitious_forwarding() {
    let vault = Vault::start().await;
    let shop = Forger::genuine(&vault.bus, "shop").await;
    let pay = Forger::genuine(&vault.bus, "pay").await;
    let reply_to = vault.bus.peer_inbox("shop", "x");
    let to_pay = shop.data_key(&vault.bus, "pay", &SECRET);
    let told = shop.encrypted_request("vault.put", &reply_to, b"\xa4sold", &to_pay);
    let told_to_pay = told.clone();
    vault
        .raw
        .publish_with_reply("vault.put", reply_to.clone(), told_to_pay)
        .await
        .unwrap();
    vault.handled_at_least(1).await;

    // The envelope as it is.
    let refusal = vault.refusal(&vault.bank, "vault.copy", told.clone()).await;
    assert_eq!(refusal, "wrong_subject");

    // In the shop's name, to the bank, under the shop's data key: everything is
    // right but the signature, which is `pay`'s, or that of what was told.
    let to_bank = shop.data_key(&vault.bus, "bank", &SECRET);
    assert_eq!(to_bank.id(), to_pay.id(), "one key, wrapped to another");
    let as_shop = shop.encrypted_request("vault.copy", &reply_to, b"\xa4sold", &to_bank);
    let as_shop = Dissected::of(&as_shop);
    let mut moved = as_shop.clone();
    moved.proof = Dissected::of(&told).proof;
    for forged in [pay.sign(as_shop.clone()), moved.assemble()] {
        let refusal = vault.refusal(&vault.bank, "vault.copy", forged).await;
        assert_eq!(refusal, "bad_signature");
    }
    // The same with its own words.
    let bent = encrypted_anew(as_shop.clone(), b"\xa4gift");
    let refusal = vault
        .refusal(&vault.bank, "vault.copy", pay.sign(bent))
        .await;
    assert_eq!(refusal, "bad_signature");

    // In its own name it may not, however the body is encrypted.
    let own = pay.data_key(&vault.bus, "bank", &SECRET);
    let inbox = vault.bus.peer_inbox("pay", "x");
    let own = pay.encrypted_request("vault.copy", &inbox, b"\xa4sold", &own);
    let refusal = vault.refusal(&vault.bank, "vault.copy", own).await;
    assert_eq!(refusal, "not_granted");
    assert_eq!(vault.handled.load(Ordering::SeqCst), 1);

    // And it was the signature alone that was wrong.
    vault
        .raw
        .publish_with_reply("vault.copy", reply_to, as_shop.assemble())
        .await
        .unwrap();
    vault.handled_at_least(2).await;
}

/// Mallory, who may ask there too, takes the shop's ciphertext for his own: he
/// would learn from the answer what he cannot read, or be paid for another's
/// work.
#[tokio::test(flavor = "multi_thread")]
async fn attack_08_signature_replacement() {
    let vault = Vault::start().await;
    let mallory = Forger::genuine(&vault.bus, "mallory").await;
    let own_inbox = vault.bus.peer_inbox("mallory", "x");
    let own = mallory.data_key(&vault.bus, "pay", &SECRET);
    let own = Dissected::of(&mallory.encrypted_request("vault.put", &own_inbox, b"\xa1x", &own));
    let field = |key: u8| {
        let field = own.fields.iter().find(|(k, _)| *k == key);
        field.unwrap().1.clone()
    };
    let mut tap = vault.bus.tap("vault.put").await;
    for known in [false, true] {
        // The wraps ride along: taken before the receiver has seen them.
        let shop = Forger::genuine(&vault.bus, "shop").await;
        let key = shop.data_key(&vault.bus, "pay", &[8; 32]);
        let inbox = vault.bus.peer_inbox("shop", "x");
        let told = shop.encrypted_request("vault.put", &inbox, b"\xa4sold", &key);
        if known {
            vault
                .raw
                .publish_with_reply("vault.put", inbox, told.clone())
                .await
                .unwrap();
            vault.handled_at_least(1).await;
        }
        let mut stripped = Dissected::of(&told);
        for key in [KEY_ID, REPLY_TO, IDS] {
            stripped.set(key, field(key));
        }
        let refusal = vault
            .refusal(&vault.pay, "vault.put", mallory.sign(stripped.clone()))
            .await;
        let expected = if known {
            "wrong_data_key"
        } else {
            "wrap_does_not_open"
        };
        assert_eq!(refusal, expected, "the shop's epoch, known: {known}");
        // Under his own epoch.
        stripped.set(EPOCH, field(EPOCH));
        let refusal = vault
            .refusal(&vault.pay, "vault.put", mallory.sign(stripped.clone()))
            .await;
        assert_eq!(refusal, expected, "his own epoch, known: {known}");
        // By the record that the shop has not stored, or Mallory could not.
        stripped.remove(WRAPS);
        let refusal = vault
            .refusal(&vault.pay, "vault.put", mallory.sign(stripped))
            .await;
        let expected = if known {
            "wrong_data_key"
        } else {
            "no_data_key_record"
        };
        assert_eq!(refusal, expected, "without wraps, known: {known}");
    }
    // What the SDK sends fares no worse.
    let _: String = vault.shop.request("vault.put", "sold").await.unwrap();
    let mut recorded = None;
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), tap.next()).await
    {
        recorded = Some(message.payload);
    }
    let mut stripped = Dissected::of(&recorded.unwrap());
    for key in [KEY_ID, EPOCH, REPLY_TO, IDS] {
        stripped.set(key, field(key));
    }
    let refusal = vault
        .refusal(&vault.pay, "vault.put", mallory.sign(stripped))
        .await;
    assert_eq!(refusal, "wrong_data_key");
    // In his own name, with his own words, he may.
    vault
        .raw
        .publish_with_reply("vault.put", own_inbox, own.assemble())
        .await
        .unwrap();
    vault.handled_at_least(3).await;
    assert_eq!(vault.handled.load(Ordering::SeqCst), 3);
}

/// The bytes that are right with one header fit no other: not another subject,
/// sender, nonce or id.
#[tokio::test(flavor = "multi_thread")]
async fn attack_08_a_ciphertext_is_bound_to_its_header() {
    let vault = Vault::start().await;
    let shop = Forger::genuine(&vault.bus, "shop").await;
    let inbox = vault.bus.peer_inbox("shop", "x");
    let key = shop.data_key(&vault.bus, "pay", &SECRET);
    let one = shop.encrypted_request("vault.put", &inbox, b"\xa4sold", &key);
    let two = shop.encrypted_request("vault.put", &inbox, b"\xa4gift", &key);
    let mut mixed = Dissected::of(&one);
    mixed.body = Dissected::of(&two).body;
    // Even signed by the sender itself.
    let refusal = vault
        .refusal(&vault.pay, "vault.put", shop.sign(mixed))
        .await;
    assert_eq!(refusal, "bad_ciphertext");
    let mut mixed = Dissected::of(&one);
    mixed.set(IDS, bin(&[9; 16]));
    let refusal = vault
        .refusal(&vault.pay, "vault.put", shop.sign(mixed))
        .await;
    assert_eq!(refusal, "bad_ciphertext");
    let again = encrypted_anew(Dissected::of(&one), b"\xa4sold");
    assert_eq!(again.body, Dissected::of(&one).body, "as the SDK does it");
    assert_eq!(vault.handled.load(Ordering::SeqCst), 0);
}
