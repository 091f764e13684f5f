//! What is fuzzed, and what must hold for any bytes.
//!
//! Each target is a function of bytes. It panics if an invariant is broken:
//!
//! - nothing panics and nothing overflows;
//! - memory is bounded by the input's length ([`Target::check`]);
//! - what a strict decoder accepts is the one encoding of what it says;
//! - nothing that was not genuinely signed verifies;
//! - what is correctly signed is refused for a reason or behaves.
//!
//! libFuzzer runs them (`tests/fuzz/run`), and `tests/tests/corpus.rs` runs
//! them over corpus and test vectors in every `cargo test`.

mod answers;
mod asides;
mod audit;
#[path = "../../../sdk/src/broker_protocol.rs"]
mod broker_protocol;
#[path = "../../../broker/src/callout/request.rs"]
#[allow(dead_code)]
mod callout_request;
mod canonical;
mod captured;
#[path = "../../../sdk/src/cloud_events/attributes.rs"]
#[allow(dead_code)]
mod cloud_event;
mod connecting;
#[path = "../../../sdk/src/consumer/delivery.rs"]
mod delivery;
#[path = "../../../sdk/src/enforcer_report.rs"]
#[allow(dead_code)]
mod enforcer_report;
mod envelopes;
#[path = "../../../broker/src/invitation.rs"]
#[allow(dead_code)]
mod invitation;
#[path = "../../../sdk/issuer/src/discovery.rs"]
mod issuer_discovery;
mod issuers;
#[path = "../../../sdk/src/jetstream.rs"]
#[allow(dead_code)]
mod jetstream;
mod jetstream_answers;
mod limits;
mod names;
mod policies;
#[path = "../../../sdk/src/private_claims/part.rs"]
mod private_claims;
#[path = "../../../sdk/src/consumer/settings.rs"]
mod settings;
mod shop;
mod statements;
mod tokens;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Something that reads bytes from outside.
pub struct Target {
    pub name: &'static str,
    run: fn(&[u8]),
    /// How many bytes it may allocate for each byte of input.
    factor: usize,
    /// Which kinds of test vectors are its seeds.
    vectors: &'static [&'static str],
}

const fn target(
    name: &'static str,
    run: fn(&[u8]),
    factor: usize,
    vectors: &'static [&'static str],
) -> Target {
    Target {
        name,
        run,
        factor,
        vectors,
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("envelope", envelopes::decoded, 32, &["envelope"]),
    target("resealed", envelopes::resealed, 64, &["envelope"]),
    target("decrypted", envelopes::decrypted, 64, &[]),
    target("wraps", envelopes::wraps, 32, &[]),
    target("limits", limits::all, 64, &["limits"]),
    target("kem_record", statements::kem_record, 64, &["kem-record"]),
    target("credential", statements::credential, 64, &["credential"]),
    target(
        "credential_request",
        statements::request,
        64,
        &["credential-request"],
    ),
    target("trust_bundle", statements::bundle, 64, &["trust-bundle"]),
    target(
        "head",
        statements::head,
        64,
        &["head", "head-about-revocations"],
    ),
    target(
        "revocations",
        statements::revocations,
        64,
        &["revocations", "revocations-succession"],
    ),
    target("policy_record", statements::policy, 64, &["policy"]),
    target("policy_text", policies::text, 4096, &[]),
    target("policy_tools", policies::tools, 16384, &[]),
    target("nats_config", policies::nats_config, 16384, &[]),
    target("access_token", tokens::access, 512, &[]),
    target("transaction_token", tokens::transaction, 512, &[]),
    target("exchange_request", tokens::exchange, 512, &[]),
    target("edge_tokens", tokens::edge, 512, &[]),
    target("key_set", tokens::key_set, 512, &[]),
    target("broker_answers", answers::all, 64, &[]),
    target("connecting", connecting::all, 1024, &[]),
    target(
        "captured",
        captured::inspected,
        2048,
        &[
            "envelope",
            "credential",
            "kem-record",
            "trust-bundle",
            "policy",
        ],
    ),
    target("issuer_description", issuers::description, 512, &[]),
    target("jetstream", jetstream_answers::all, 512, &[]),
    target("asides", asides::all, 512, &[]),
    target("names", names::all, 64, &[]),
    target("audit", audit::lines, 1024, &[]),
];

/// The target of that name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> &'static Target {
    TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("a target of that name")
}

/// What any run may allocate, whatever its input: keys, tables, messages.
const BASE: usize = 256 * 1024;

impl Target {
    /// Seeds from the test vectors, with their names.
    pub fn seeds(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        shop::SHOP.seeds(self.vectors)
    }

    /// Runs it over some bytes.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn check(&self, data: &[u8]) {
        shop::prepare();
        envelopes::prepare();
        connecting::prepare();
        issuers::prepare();
        jetstream_answers::prepare();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        (self.run)(data);
        let used = MEMORY.peak_usage().saturating_sub(before);
        let allowed = BASE + self.factor * data.len();
        assert!(
            used <= allowed,
            "{} bytes allocated for {} of input",
            used,
            data.len()
        );
    }
}
