//! An allowed decision allocates nothing (POL-111).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use bulla_identity::{
    Claims, Nkey, NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName,
};
use bulla_policy::{Policy, Request, Verb};
use peak_alloc::PeakAlloc;
use serde_json::json;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// How far the memory in use rises while `work` is done: whatever is allocated
/// raises it, freed again or not.
fn allocated(work: impl FnOnce()) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    work();
    MEMORY.peak_usage().saturating_sub(before)
}

// One test alone: another one's threads would allocate meanwhile.
#[test]
fn pol_111_an_allowed_decision_allocates_nothing() {
    let mut text = format!(
        "version = 1\ntrust_domain = \"t.example\"\n\
         workload.a.attest = [{{ nkey = \"{}\" }}]\n\
         [subject.\"orders.>\"]\nuser = \"required\"\naudience = \"shop\"\n",
        Nkey::from_bytes(NkeyKind::User, [3; 32])
    );
    for i in 0..500 {
        text.push_str(&format!(
            "[[allow]]\nid = \"r{i}\"\nwho = [\"a\"]\nmay = [\"request\"]\non = [\"orders.r{i}.{{tenant}}\"]\n\
             user = {{ scope = [\"x\", \"y\"], roles = {{ any = [\"buyer\"] }}, tenant = \"{{tenant}}\", age = {{ min = 18 }} }}\n\
             time = {{ days = [\"mon-fri\", \"sat\", \"sun\"], from = \"00:00\", to = \"23:59\" }}\n\
             [[deny]]\nid = \"d{i}\"\nwho = [\"a\"]\nmay = [\"request\"]\non = [\"orders.*.*\"]\nuser = {{ kind = \"robot\" }}\nshadow = true\n",
        ));
    }
    let policy = Policy::parse("p.toml", &text).unwrap();
    let domain = TrustDomain::parse("t.example").unwrap();
    let workload = WorkloadId::new(&domain, &WorkloadName::parse("a").unwrap());
    let subject = Subject::parse("orders.r77.acme").unwrap();
    let claims = json!({
        "scope": "z y x", "roles": ["staff", "buyer"], "tenant": "acme", "age": 33,
        "reach": ["shop"], "kind": "robot",
    });
    let user = Claims::from_map(claims.as_object().unwrap().clone());
    let mut would = 0;
    let used = allocated(|| {
        for _ in 0..100 {
            let decision = policy.decide(&Request {
                workload: &workload,
                verb: Verb::Request,
                subject: &subject,
                user: Some(&user),
                now: UnixMillis::from_secs(1_700_000_000),
            });
            assert!(decision.is_allow());
            would += usize::from(decision.would().is_some());
        }
    });
    assert_eq!((used, would), (0, 100));
    // The measure itself: a denial says why, and that takes memory.
    let other = Subject::parse("orders.r77.other").unwrap();
    let used = allocated(|| {
        let decision = policy.decide(&Request {
            workload: &workload,
            verb: Verb::Request,
            subject: &other,
            user: Some(&user),
            now: UnixMillis::from_secs(1_700_000_000),
        });
        assert!(!decision.is_allow());
    });
    assert!(used > 0);
}
