//! `bulla envelope …` as an operator runs it, on the envelopes of the test vectors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use bulla_envelope::{
    Credential, IssuingKey, Revocation, RevocationList, Revoked, SignedPolicy, TrustBundle,
};
use bulla_identity::{TrustDomain, UnixMillis, WorkloadId};
use bulla_keyring::{AuthorityRole, AuthoritySeed, CipherSuite, SigningKey};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};

use spellings::{Page, is_printed};

#[path = "../../sdk/keyring/tests/redaction/spellings.rs"]
#[allow(dead_code, reason = "here texts are searched, not values")]
mod spellings;

/// A directory with the trust domain of the test vectors.
struct Desk {
    directory: tempfile::TempDir,
    vectors: Value,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            directory: tempfile::tempdir().unwrap(),
            vectors: serde_json::from_str(include_str!("../../sdk/envelope/testdata/vectors.json"))
                .unwrap(),
        };
        let root = AuthoritySeed::from_random(AuthorityRole::Root, &desk.seed("root"));
        desk.write("root.pub", format!("{}\n", root.public()));
        desk.write("bundle", desk.octets(&desk.vectors["bundle"]));
        desk.write("policy", desk.policy("orders nkey"));
        for name in ["orders", "billing", "gateway"] {
            let credential = &desk.vectors["credentials"][name]["bytes"];
            desk.write(&format!("{name}.credential"), desk.octets(credential));
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn seed(&self, name: &str) -> [u8; 32] {
        let seed = self.vectors["keys"][name]["seed"].as_str().unwrap();
        HEXLOWER
            .decode(seed.as_bytes())
            .unwrap()
            .try_into()
            .unwrap()
    }

    fn now(&self) -> UnixMillis {
        UnixMillis::from_millis(self.vectors["defaults"]["now"].as_u64().unwrap())
    }

    /// A signed policy in which `orders` has that nkey.
    fn policy(&self, nkey: &str) -> Vec<u8> {
        self.policy_of("orders", nkey)
    }

    /// The same for another workload.
    fn policy_of(&self, workload: &str, nkey: &str) -> Vec<u8> {
        let nkey = self.vectors["keys"][nkey]["nkey"].as_str().unwrap();
        self.signed_policy(&format!(
            "[workload.{workload}]\nattest = [{{ nkey = \"{nkey}\" }}]\n"
        ))
    }

    fn policy_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.seed("policy"))
    }

    fn revocations(&self, issued_at: UnixMillis, entries: Vec<Revocation>) -> RevocationList {
        let domain = TrustDomain::parse("shop.example").unwrap();
        RevocationList::new(domain, 4, issued_at, entries)
    }

    /// A signed policy with these workloads.
    fn signed_policy(&self, workloads: &str) -> Vec<u8> {
        let text = format!("version = 1\ntrust_domain = \"shop.example\"\n\n{workloads}");
        SignedPolicy {
            trust_domain: TrustDomain::parse("shop.example").unwrap(),
            revision: 3,
            issued_at: self.now(),
            comment: String::new(),
            text,
        }
        .sign(&self.policy_key())
        .unwrap()
    }

    /// The bytes of a vector.
    fn vector(&self, name: &str) -> Vec<u8> {
        let all = self.vectors["vectors"].as_array().unwrap();
        let vector = all.iter().find(|vector| vector["name"] == name);
        self.octets(&vector.unwrap_or_else(|| panic!("no vector {name}"))["bytes"])
    }

    fn octets(&self, value: &Value) -> Vec<u8> {
        let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
        match value.as_array() {
            None => hex(value),
            Some(pieces) => pieces
                .iter()
                .map(|piece| match piece["times"].as_u64() {
                    Some(times) => hex(&piece["repeat"]).repeat(times.try_into().unwrap()),
                    None => hex(piece),
                })
                .collect::<Vec<_>>()
                .concat(),
        }
    }

    fn bulla(&self, args: &[&str], input: &[u8]) -> Run {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bulla"))
            .arg("envelope")
            .args(args)
            .current_dir(self.directory.path())
            .env_remove("CLICOLOR_FORCE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that has seen enough closes its end.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn inspect(&self, args: &[&str], input: &[u8]) -> Run {
        self.bulla(&[&["inspect"], args].concat(), input)
    }

    /// Verifies by the credential of `orders`, a second after the vectors' time.
    fn verify(&self, args: &[&str], input: &[u8]) -> Run {
        self.verify_at("2027-01-15T08:00:01Z", args, input)
    }

    fn verify_at(&self, at: &str, args: &[&str], input: &[u8]) -> Run {
        let fixed = [
            "verify",
            "--trust-root",
            "root.pub",
            "--bundle",
            "bundle",
            "--policy",
            "policy",
            "--credential",
            "orders.credential",
            "--at",
            at,
        ];
        self.bulla(&[&fixed, args].concat(), input)
    }
}

#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    #[track_caller]
    fn expect(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for words in says {
            let all = format!("{}{}", self.out, self.err);
            assert!(all.contains(words), "no {words:?} in\n{all}");
        }
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

#[test]
fn every_field_is_shown_and_the_token_is_not() {
    let desk = Desk::new();
    let bytes = desk.vector("event-with-every-field");
    let shown = desk.inspect(&[], &bytes).expect(
        0,
        &[
            "well-formed; nothing is verified",
            "signed (not encrypted)",
            "orders.created",
            "$JS.ACK.9",
            "2027-01-15T08:00:00.000Z",
            "30s",
            "application/json",
            "umlaut: grüße, 世界",
            "23 bytes, not shown; the one of the header's hash",
            "alone under its signature",
        ],
    );
    assert!(!shown.out.contains("claims"), "the token: {}", shown.out);
    assert!(!shown.out.contains("order\":1"), "the body: {}", shown.out);
    let json = desk.inspect(&["--json"], &bytes).expect(0, &[]).json();
    assert_eq!(json["well_formed"], true);
    let header = &json["header"];
    assert_eq!(header["subject"], "orders.created");
    assert_eq!(header["kind"], "event");
    assert_eq!(header["life"], 30_000);
    assert_eq!(header["policy_revision"], 300);
    assert_eq!(
        json["contents"]["user_token"],
        json!({ "bytes": 23, "matches_hash": true })
    );
    let all = desk.vectors["vectors"].as_array().unwrap();
    let vector = all.iter().find(|v| v["name"] == "event-with-every-field");
    assert_eq!(json["proof"]["leaf"], vector.unwrap()["gives"]["leaf"]);
    desk.inspect(&["--body"], &bytes)
        .expect(0, &["{\"order\":1}"]);
}

#[test]
fn every_form_of_input_is_recognised() {
    let desk = Desk::new();
    let bytes = desk.vector("event");
    let dump = json!({ "Subject": "orders.created", "Reply": "", "Data": BASE64.encode(&bytes) });
    let forms: [(&str, Vec<u8>); 5] = [
        ("raw", bytes.clone()),
        ("raw", [&bytes[..], b"\n"].concat()),
        ("hex", HEXLOWER.encode(&bytes).into_bytes()),
        ("base64", BASE64.encode(&bytes).into_bytes()),
        ("message", dump.to_string().into_bytes()),
    ];
    for (form, input) in forms {
        desk.write("message", &input);
        let json = desk
            .inspect(&["message", "--json"], b"")
            .expect(0, &[])
            .json();
        assert_eq!(
            (&json["form"], &json["bytes"]),
            (&json!(form), &json!(bytes.len()))
        );
    }
    desk.inspect(&[], b"hello, world")
        .expect(2, &["text, but neither"]);
    desk.inspect(&["--json"], b"").expect(2, &["is empty"]);
    desk.inspect(&["nowhere"], b"")
        .expect(2, &["cannot read `nowhere`"]);
}

#[test]
fn what_is_malformed_is_told_with_what_can_be_read_of_it() {
    let desk = Desk::new();
    desk.inspect(&[], &desk.vector("key-27")).expect(
        1,
        &[
            "malformed (unknown_field)",
            "header key 27",
            "orders.created",
            "field 27",
        ],
    );
    // Cut within the header: what comes before is there.
    let bytes = desk.vector("event");
    let cut = desk
        .inspect(&["--json"], &bytes[..60])
        .expect(1, &[])
        .json();
    assert_eq!(cut["reason"], "truncated");
    assert_eq!(cut["header"]["sequence"], 0);
    assert!(cut["header"].get("expires_at").is_none());
    desk.inspect(&[], &desk.vector("wide-token"))
        .expect(1, &["not_minimal"]);
    desk.inspect(&[], &[0xff, 0xfe]).expect(1, &["malformed"]);
}

/// No vector makes it panic, its verdict is the decoder's, and of a good one it knows every
/// field and shows no secret.
#[test]
fn every_vector_can_be_looked_at() {
    let desk = Desk::new();
    let all = desk.vectors["vectors"].as_array().unwrap();
    let envelopes: Vec<_> = all.iter().filter(|v| v["what"] == "envelope").collect();
    let look_at = |some: &[&Value]| some.iter().filter(|v| is_looked_at(&desk, v)).count();
    // Each is a process of its own.
    let good: usize = std::thread::scope(|scope| {
        let parts = envelopes.chunks(envelopes.len().div_ceil(4));
        let threads: Vec<_> = parts.map(|some| scope.spawn(|| look_at(some))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(good > 100, "{good} good ones");
}

/// Whether it is a good one.
fn is_looked_at(desk: &Desk, vector: &Value) -> bool {
    let name = &vector["name"];
    let malformed = vector["stage"] == "decode";
    let bytes = desk.octets(&vector["bytes"]);
    // As it would be taken for text, or for nothing.
    let input = match std::str::from_utf8(&bytes) {
        Ok(_) => HEXLOWER.encode(&bytes).into_bytes(),
        Err(_) => bytes,
    };
    let run = desk.inspect(&["--json", "--body"], &input);
    if input.is_empty() {
        run.expect(2, &["is empty"]);
        return false;
    }
    assert_eq!(run.code, i32::from(malformed), "{name}: {run:?}");
    let json = run.json();
    if malformed {
        assert_eq!(json["reason"], vector["reason"], "{name}");
    }
    if vector["verdict"] != "accept" {
        return false;
    }
    let fields = json["header"].as_object().unwrap();
    let unknown = fields.keys().find(|key| key.starts_with("field_"));
    assert_eq!(unknown, None, "{name}");
    assert_nothing_secret(desk, vector, &input, &run);
    true
}

/// Tokens are never shown, bodies only if that is asked for, and not if they are encrypted.
fn assert_nothing_secret(desk: &Desk, vector: &Value, input: &[u8], with_body: &Run) {
    let (name, gives) = (&vector["name"], &vector["gives"]);
    let told = |value: &Value| {
        let bytes = value.as_str().map(|hex| HEXLOWER.decode(hex.as_bytes()));
        // What is short or one byte again and again is found by chance.
        bytes.map(Result::unwrap).filter(|bytes| {
            let begin = bytes.get(..12).unwrap_or_default();
            begin.windows(2).any(|pair| pair[0] != pair[1])
        })
    };
    let tokens: Vec<_> = ["token", "original"]
        .iter()
        .filter_map(|member| told(&gives[member]))
        .collect();
    let messages = gives["messages"].as_array().into_iter().flatten();
    let bodies: Vec<_> = messages.filter_map(|m| told(&m["body"])).collect();
    let hidden = [&tokens[..], &bodies].concat();
    let always_hidden = match gives["suite"].as_str() {
        Some("signed") => &tokens,
        _ => &hidden,
    };
    let assert_hidden = |run: &Run, secrets: &[Vec<u8>]| {
        // Of what is large the beginning tells.
        let page = Page::new(run.out.get(..16_384).unwrap_or(&run.out));
        for secret in secrets {
            assert_eq!(page.spelling_of(secret), None, "{name}: {run:?}");
        }
        assert!(
            !run.out.contains("not as the format has it"),
            "{name}: {run:?}"
        );
    };
    assert_hidden(with_body, always_hidden);
    assert_hidden(&desk.inspect(&["--body"], input), always_hidden);
    assert_hidden(&desk.inspect(&[], input), &hidden);
    assert_hidden(&desk.inspect(&["--json"], input), &hidden);
}

/// The same of what goes wrong: the token is another one, or the envelope is cut.
#[test]
fn a_token_is_not_shown_of_what_is_malformed_either() {
    let desk = Desk::new();
    let whole = desk.vector("event-with-every-field");
    for bytes in [
        desk.vector("another-token"),
        whole[..whole.len() - 70].to_vec(),
    ] {
        for args in [&["--body"][..], &["--body", "--json"], &[], &["--json"]] {
            let run = desk.inspect(args, &bytes);
            assert!(!is_printed(&run.out, b"header.claims.signature"), "{run:?}");
            assert!(!run.out.contains("claims.sig"), "{run:?}");
        }
    }
}

#[test]
fn limits_are_told_if_they_are_some() {
    let desk = Desk::new();
    let bytes = desk.vector("event-with-every-field");
    let says = [
        "scopes: orders:read orders:write",
        "reach: retail",
        "until 2023-",
        "roles: nothing",
        "tenants: t1 t2",
    ];
    desk.inspect(&[], &bytes).expect(0, &says);
    let json = desk.inspect(&["--json"], &bytes).expect(0, &[]).json();
    assert_eq!(
        json["header"]["limits"],
        json!({
            "bytes": 71,
            "scopes": ["orders:read", "orders:write"],
            "reach": ["retail"],
            "until": 1_700_000_060_000_u64,
            "claims": { "roles": [], "tenants": ["t1", "t2"] },
        })
    );
    let original = desk.vector("encrypted-with-original");
    let json = desk.inspect(&["--json"], &original).expect(0, &[]).json();
    let hash = json["header"]["original_hash"].as_str().unwrap();
    assert_eq!(hash.len(), 64, "{hash}");
    desk.inspect(&[], &desk.vector("limits-unknown-key"))
        .expect(1, &["bytes, `limits` has an invalid value"]);
}

#[test]
fn what_is_encrypted_stays_so() {
    let desk = Desk::new();
    let unknown = desk.vector("suite-5");
    let says = "suite                   unknown\n";
    desk.inspect(&[], &unknown).expect(1, &[says]);
    for suite in CipherSuite::ALL {
        let bytes = desk.vector(&format!("encrypted-{suite}"));
        let json = desk
            .inspect(&["--json", "--body"], &bytes)
            .expect(0, &[])
            .json();
        assert_eq!(json["header"]["suite"], suite.as_str());
        let says = format!("{suite} (body encrypted with {})", suite.cipher);
        desk.inspect(&[], &bytes).expect(0, &[&says]);
        assert_eq!(json["header"]["wrapped_to"].as_array().unwrap().len(), 2);
        assert_eq!(json["contents"]["user_token"], "encrypted");
        assert_eq!(json["contents"]["body"]["encrypted"], true);
        assert!(json["contents"].get("content").is_none());
        let record = desk.vector(&format!("keywrap-{suite}"));
        desk.inspect(&[], &record)
            .expect(0, &["keywrap", "wrapped to", "data key expires at"]);
    }
}

#[test]
fn frames_batches_replies_and_codes_are_told() {
    let desk = Desk::new();
    desk.inspect(&["--body"], &desk.vector("frame-of-3"))
        .expect(0, &["3 of 9, 0, 9 bytes", "message 0", "message 2"]);
    desk.inspect(&[], &desk.vector("batch-of-8-place-3"))
        .expect(0, &["number 4 of 8 under one signature", "3 nodes"]);
    desk.inspect(&[], &desk.vector("error-deadline"))
        .expect(0, &["deadline", "decision id"]);
    desk.inspect(&[], &desk.vector("coded-reply"))
        .expect(0, &["for the requester alone"]);
    desk.inspect(&[], &desk.vector("reply-of-several"))
        .expect(0, &["no, more follow"]);
}

#[test]
fn other_statements_are_recognised() {
    let desk = Desk::new();
    for (name, says) in [
        ("credential-with-token-key", "spiffe://shop.example/gateway"),
        ("request-for-a-credential", "request for a credential"),
        ("kem-record", "key version"),
        ("bundle", "issuing keys"),
        ("policy", "revision"),
        ("credential-workload-with-dots", "malformed (workload)"),
    ] {
        let run = desk.inspect(&[], &desk.vector(name));
        assert!(run.out.contains(says), "{name}: {run:?}");
        assert_eq!(run.code, i32::from(says.starts_with("malformed")));
    }
}

#[test]
fn a_genuine_envelope_is_accepted_where_it_belongs() {
    let desk = Desk::new();
    let bytes = desk.vector("event");
    desk.verify(&["--subject", "orders.created"], &bytes)
        .expect(
            0,
            &[
                "signed by the root",
                "revision 3",
                "sealed by spiffe://shop.example/orders",
                "accepted",
            ],
        );
    desk.verify(&[], &bytes)
        .expect(0, &["not compared: give --subject", "accepted"]);
    let json = desk.verify(&["--json"], &bytes).expect(0, &[]).json();
    assert_eq!(json["verdict"], "accepted");
    // Encrypted: proven, and not read.
    desk.verify(&[], &desk.vector("encrypted-x25519"))
        .expect(0, &["encrypted", "accepted"]);
    // A request with its reply subject, as it was dumped.
    let dump = json!({
        "Subject": "orders.created",
        "Reply": "_INBOX.4f1a.p.77",
        "Data": BASE64.encode(&desk.vector("request")),
    });
    desk.verify(&[], dump.to_string().as_bytes())
        .expect(0, &["accepted"]);
}

#[test]
fn what_a_receiver_refuses_is_refused_for_its_reason() {
    let desk = Desk::new();
    let event = desk.vector("event");
    let refusals: [(&[&str], &[u8], &str); 6] = [
        (&["--subject", "orders.create"], &event, "wrong_subject"),
        (&["--reply-to", "admin"], &event, "wrong_reply_to"),
        (&[], &desk.vector("another-body"), "bad_signature"),
        (&[], &desk.vector("another-token"), "token_mismatch"),
        (
            &[],
            &desk.vector("another-workloads-envelope"),
            "wrong_credential",
        ),
        (&[], &desk.vector("wide-version"), "not_minimal"),
    ];
    for (args, bytes, reason) in refusals {
        let run = desk.verify(&[args, &["--json"]].concat(), bytes);
        let json = run.expect(1, &[]).json();
        assert_eq!(json["verdict"], "refused");
        assert_eq!(json["reason"], reason);
    }
    for (at, reason) in [
        ("2027-01-15T08:00:41Z", "expired"),
        ("2027-01-15T07:59:49Z", "future"),
        ("2027-01-15T10:00:00Z", "credential_expired"),
    ] {
        desk.verify_at(at, &[], &event)
            .expect(1, &["refused", reason]);
    }
    desk.verify_at("issued", &[], &event)
        .expect(0, &["accepted"]);
    desk.verify_at("2027-01-15T08:00:41Z", &[], &event)
        .expect(1, &["--at issued"]);
    desk.verify(&["--request", &"0".repeat(64)], &desk.vector("reply"))
        .expect(1, &["refused", "wrong_request"]);
    desk.verify(&[], &desk.vector("coded-reply"))
        .expect(1, &["wrong_credential"]);
}

/// What only the requester can check is refused with a word about that.
#[test]
fn a_code_is_no_signature() {
    let desk = Desk::new();
    desk.write("policy", desk.policy_of("billing", "billing nkey"));
    let credential = &desk.vectors["credentials"]["billing with process keys"]["bytes"];
    desk.write("orders.credential", desk.octets(credential));
    desk.verify(&[], &desk.vector("coded-reply")).expect(
        1,
        &[
            "refused",
            "not_signed",
            "a code is for the requester alone: nobody else can check it",
        ],
    );
}

#[test]
fn without_a_list_it_is_said_that_nobody_was_taken_for_revoked() {
    let desk = Desk::new();
    let event = desk.vector("event");
    desk.verify(&[], &event).expect(
        0,
        &["revocations", "not judged: give --revocations", "accepted"],
    );
    let json = desk.verify(&["--json"], &event).expect(0, &[]).json();
    assert_eq!(json["revocations_judged"], false);
    let steps = json["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["step"] == "revocations");
    assert_eq!(step.unwrap()["holds"], Value::Null);
}

#[test]
fn who_is_revoked_is_refused_as_a_receiver_does() {
    const GIVEN: [&str; 2] = ["--revocations", "revocations"];
    let desk = Desk::new();
    let event = desk.vector("event");
    let at = |seconds: i64| {
        let now = desk.now().as_millis();
        UnixMillis::from_millis(now.saturating_add_signed(seconds * 1000))
    };
    let write = |what: Option<Revoked>, since: UnixMillis| {
        let entry = what.map(|what| Revocation {
            what,
            since,
            made_at: at(600),
            reason: None,
        });
        let list = desk.revocations(at(600), entry.into_iter().collect());
        desk.write("revocations", list.sign(&desk.policy_key()).unwrap());
    };
    let verify = |when: &str| {
        let run = desk.verify_at(when, &[&GIVEN[..], &["--json"]].concat(), &event);
        let json = run.json();
        assert_eq!(run.code == 0, json["verdict"] == "accepted", "{run:?}");
        assert!(json["revocations_judged"].is_boolean(), "{run:?}");
        (json["revocations_judged"] == true, json["reason"].clone())
    };
    let (then, later) = ("2027-01-15T08:00:01Z", "2027-01-15T08:00:20Z");
    let workload = || Revoked::Workload(WorkloadId::parse("spiffe://shop.example/orders").unwrap());
    let credential = desk.octets(&desk.vectors["credentials"]["orders"]["bytes"]);
    let key = || Revoked::Key(Credential::decode(&credential).unwrap().id());
    let other = || Revoked::Workload(WorkloadId::parse("spiffe://shop.example/billing").unwrap());

    write(None, at(0));
    assert_eq!(verify(then), (true, Value::Null));
    write(Some(other()), UnixMillis::default());
    assert_eq!(verify(then), (true, Value::Null));
    for (what, code) in [
        (&workload as &dyn Fn() -> Revoked, "workload_revoked"),
        (&key, "key_revoked"),
    ] {
        write(Some(what()), UnixMillis::default());
        assert_eq!(verify(then), (true, json!(code)));
        // What a stream stored before still counts, whatever its sender says of when it
        // was sealed.
        write(Some(what()), at(10));
        assert_eq!(verify(then), (true, Value::Null));
        assert_eq!(verify(later), (true, json!(code)));
        assert_eq!(verify("issued"), (true, json!(code)));
    }
    desk.verify(&GIVEN, &event)
        .expect(0, &["list 4", "accepted"]);

    // A list by somebody else is none.
    let list = desk.revocations(at(600), Vec::new());
    let stranger = SigningKey::from_seed(&[9; 32]);
    desk.write("revocations", list.sign(&stranger).unwrap());
    assert_eq!(verify(then), (false, json!("unknown_key")));
    desk.write("revocations", b"\x92\xc4\x00\xc4\x00");
    assert!(verify(then).1.is_string());
    desk.verify(&["--revocations", "nowhere"], &event)
        .expect(2, &["cannot read `nowhere`"]);
}

#[test]
fn the_chain_must_hold_from_the_root_on() {
    let desk = Desk::new();
    let event = desk.vector("event");
    let other = AuthoritySeed::from_random(AuthorityRole::Root, &[9; 32]);
    desk.write("root.pub", other.public().to_string());
    desk.verify(&[], &event)
        .expect(1, &["trust bundle", "unknown_root"]);

    let desk = Desk::new();
    desk.write("policy", desk.policy("billing nkey"));
    desk.verify(&[], &event)
        .expect(1, &["credential", "foreign_nkey"]);

    let desk = Desk::new();
    let root = SigningKey::from_seed(&desk.seed("root"));
    let unnamed = TrustBundle {
        trust_domain: TrustDomain::parse("shop.example").unwrap(),
        version: 8,
        issued_at: desk.now(),
        expires_at: UnixMillis::from_millis(desk.now().as_millis() + 86_400_000),
        root: *root.verifying_key(),
        former_roots: Vec::new(),
        issuing: Vec::<IssuingKey>::new(),
        policy_keys: vec![*SigningKey::from_seed(&desk.seed("policy")).verifying_key()],
    };
    desk.write("bundle", unnamed.sign(&root).unwrap());
    desk.verify(&[], &event).expect(1, &["unknown_issuer"]);

    let desk = Desk::new();
    desk.write("root.pub", "no key");
    desk.verify(&[], &event).expect(2, &["is no trust root"]);
    desk.verify(&["--trust-domain", "no domain"], &event)
        .expect(2, &["is no trust root"]);
}

#[test]
fn help_teaches_with_examples() {
    let desk = Desk::new();
    for command in ["inspect", "verify"] {
        desk.bulla(&[command, "--help"], b"")
            .expect(0, &["Examples", "Exit code"]);
    }
}

#[test]
fn the_messages_that_led_to_one_are_shown() {
    let desk = Desk::new();
    let bytes = desk.vector("chain-of-three");
    desk.inspect(&[], &bytes).expect(
        0,
        &[
            "chain",
            "ancestor 1",
            "ancestor 2",
            "event to orders.created",
        ],
    );
    let json = desk.inspect(&["--json"], &bytes).expect(0, &[]).json();
    let chain = &json["chain"];
    assert_eq!(chain["ancestor_2"]["subject"], "orders.created");
    assert_ne!(chain["ancestor_1"]["key_id"], chain["ancestor_2"]["key_id"]);
    desk.verify(&["--subject", "orders.created"], &bytes)
        .expect(0, &["their proofs are not verified", "accepted"]);
    // With the credentials of those who sent them they are.
    let nkey = |name: &str| {
        let nkey = &desk.vectors["keys"][format!("{name} nkey")]["nkey"];
        format!("[workload.{name}]\nattest = [{{ nkey = {nkey} }}]\n")
    };
    let workloads = ["orders", "billing", "gateway"].map(nkey).concat();
    desk.write("policy", desk.signed_policy(&workloads));
    let proven = |names: &[&str], bytes: &[u8]| {
        let given = names
            .iter()
            .flat_map(|name| ["--ancestor-credential", name]);
        let args: Vec<&str> = ["--subject", "orders.created"]
            .into_iter()
            .chain(given)
            .collect();
        desk.verify(&args, bytes)
    };
    proven(&["billing.credential", "gateway.credential"], &bytes).expect(
        0,
        &[
            "after billing to `orders.created`, after gateway to",
            "accepted",
        ],
    );
    proven(&["billing.credential"], &bytes).expect(1, &["chain", "unknown_key", "ancestor 2"]);
    // Neither may they be revoked.
    let gone = Revocation {
        what: Revoked::Workload(WorkloadId::parse("spiffe://shop.example/gateway").unwrap()),
        since: UnixMillis::default(),
        made_at: desk.now(),
        reason: None,
    };
    let list = desk.revocations(desk.now(), vec![gone]);
    desk.write("revocations", list.sign(&desk.policy_key()).unwrap());
    let mut args = vec![
        "--subject",
        "orders.created",
        "--revocations",
        "revocations",
    ];
    desk.verify(&args, &bytes).expect(0, &["accepted"]);
    args.extend(["--ancestor-credential", "billing.credential"]);
    args.extend(["--ancestor-credential", "gateway.credential"]);
    desk.verify(&args, &bytes)
        .expect(1, &["chain", "gateway` is revoked", "workload_revoked"]);
    desk.write(
        "policy",
        desk.signed_policy(&["orders", "billing"].map(nkey).concat()),
    );
    proven(&["billing.credential", "gateway.credential"], &bytes)
        .expect(1, &["chain", "no_anchor"]);
    // Somebody has left one out.
    let cut = desk.vector("chain-without-its-beginning");
    desk.verify(&["--subject", "orders.created"], &cut)
        .expect(1, &["the first message of the chain is not shown"]);
}
