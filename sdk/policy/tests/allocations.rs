//! A decision allocates nothing, whatever it is (POL-111).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use bulla_identity::{
    Claims, Nkey, NkeyKind, Subject, SubjectPattern, TrustDomain, UnixMillis, WorkloadId,
    WorkloadName,
};
use bulla_policy::{Decision, Policy, Request, Verb};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

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

const SHOP: &str = r#"
version = 1
trust_domain = "t.example"
workload.a.attest = [{ nkey = "NKEY" }]
[subject."orders.>"]
user = "required"
audience = "shop"
[subject."bare.>"]
user = "none"
[[allow]]
id = "bare"
who = ["a"]
may = ["publish", "subscribe"]
on = ["bare.x"]
[[allow]]
id = "hours"
who = ["a"]
may = ["publish", "subscribe"]
on = ["hours.x"]
time = { from = "00:00", to = "00:01" }
[[allow]]
id = "over"
who = ["a"]
may = ["publish", "subscribe"]
on = ["over.x"]
expires = "2020-01-01T00:00:00Z"
[[deny]]
id = "no"
who = ["a"]
may = ["publish", "subscribe"]
on = ["no.x"]
[[allow]]
id = "trial"
who = ["a"]
may = ["publish"]
on = ["trial.x"]
shadow = true
"#;

fn shop() -> Policy {
    let nkey = Nkey::from_bytes(NkeyKind::User, [3; 32]).to_string();
    let mut text = SHOP.replace("NKEY", &nkey);
    for i in 0..500 {
        text.push_str(&format!(
            "[[allow]]\nid = \"r{i}\"\nwho = [\"a\"]\nmay = [\"request\"]\non = [\"orders.r{i}.{{tenant}}\"]\n\
             user = {{ scope = [\"x\", \"y\"], roles = {{ any = [\"buyer\"] }}, tenant = \"{{tenant}}\", age = {{ min = 18 }} }}\n\
             time = {{ days = [\"mon-fri\", \"sat\", \"sun\"], from = \"00:00\", to = \"23:59\" }}\n\
             [[deny]]\nid = \"d{i}\"\nwho = [\"a\"]\nmay = [\"request\"]\non = [\"orders.*.*\"]\nuser = {{ kind = \"robot\" }}\nshadow = true\n",
        ));
    }
    Policy::parse("p.toml", &text).unwrap_or_else(|e| panic!("{e}"))
}

fn workload(name: &str) -> WorkloadId {
    let domain = TrustDomain::parse("t.example").unwrap();
    WorkloadId::new(&domain, &WorkloadName::parse(name).unwrap())
}

/// One test at a time: another one's threads would allocate meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn pol_111_a_decision_allocates_nothing() {
    let _alone = ALONE.lock().unwrap();
    let policy = shop();
    let now = UnixMillis::from_secs(1_700_000_000);
    let claims = |change: Value| {
        let mut claims = json!({
            "scope": "z y x", "roles": ["staff", "buyer"], "tenant": "acme", "age": 33,
            "reach": ["shop"], "kind": "robot",
        });
        let map = claims.as_object_mut().unwrap();
        map.extend(change.as_object().unwrap().clone());
        Some(Claims::from_map(map.clone()))
    };
    use Verb::{Publish, Request as Ask};
    // What is asked, and the reason, the rule and whether shadow differs.
    for (name, verb, subject, user, want) in [
        (
            "a",
            Ask,
            "orders.r77.acme",
            claims(json!({})),
            ("", "r77", true),
        ),
        (
            "b",
            Ask,
            "orders.r77.acme",
            None,
            ("unknown_workload", "", false),
        ),
        ("a", Publish, "no.x", None, ("denied_by_rule", "no", false)),
        (
            "a",
            Publish,
            "orders.r77.acme",
            None,
            ("not_granted", "r77", false),
        ),
        ("a", Publish, "none.x", None, ("not_granted", "", false)),
        (
            "a",
            Publish,
            "$SYS.x",
            None,
            ("reserved_subject", "", false),
        ),
        (
            "a",
            Ask,
            "orders.r77.acme",
            None,
            ("user_required", "r77", false),
        ),
        (
            "a",
            Publish,
            "bare.x",
            claims(json!({})),
            ("user_forbidden", "bare", false),
        ),
        (
            "a",
            Ask,
            "orders.r77.other",
            claims(json!({})),
            ("condition_failed", "r77", false),
        ),
        (
            "a",
            Ask,
            "orders.r7.acme",
            claims(json!({ "age": 17 })),
            ("condition_failed", "r7", false),
        ),
        (
            "a",
            Ask,
            "orders.r7.acme",
            claims(json!({ "age": "18" })),
            ("condition_failed", "r7", false),
        ),
        (
            "a",
            Ask,
            "orders.r7.acme",
            claims(json!({ "reach": ["x"] })),
            ("out_of_reach", "r7", false),
        ),
        (
            "a",
            Publish,
            "hours.x",
            None,
            ("outside_time", "hours", false),
        ),
        (
            "a",
            Publish,
            "over.x",
            None,
            ("rule_expired", "over", false),
        ),
        ("a", Publish, "trial.x", None, ("not_granted", "", true)),
    ] {
        let workload = workload(name);
        let on = Subject::parse(subject).unwrap();
        let request = Request {
            workload: &workload,
            verb,
            subject: &on,
            user: user.as_ref(),
            now,
        };
        let mut last = None;
        let used = allocated(|| {
            for _ in 0..20 {
                let decision = policy.decide(&request);
                // What explains it is there without a further look.
                if let Decision::Deny(denial) = &decision {
                    black_box((denial.rule(), denial.rule_place(), denial.condition()));
                }
                last = Some(decision);
            }
        });
        let decision = last.unwrap();
        let code = match &decision {
            Decision::Allow(_) => "",
            Decision::Deny(denial) => denial.reason().code(),
        };
        let told = (
            code,
            decision.rule().unwrap_or_default(),
            decision.would().is_some(),
        );
        assert_eq!((told, used), (want, 0), "{subject}");
    }
    for (pattern, code) in [
        ("bare.x", ""),
        ("no.x", "denied_by_rule"),
        ("none.>", "not_granted"),
        ("$SYS.x", "reserved_subject"),
        ("hours.x", "outside_time"),
        ("over.x", "rule_expired"),
    ] {
        let workload = workload("a");
        let on = SubjectPattern::parse(pattern).unwrap();
        let mut got = "";
        let used = allocated(|| {
            let answer = policy.may_listen(&workload, Verb::Subscribe, &on, now);
            got = answer.err().map_or("", |denial| denial.reason().code());
        });
        assert_eq!((got, used), (code, 0), "{pattern}");
    }
    // The measure itself: words take memory.
    let denial = policy
        .decide(&Request {
            workload: &workload("a"),
            verb: Ask,
            subject: &Subject::parse("orders.r77.other").unwrap(),
            user: claims(json!({})).as_ref(),
            now,
        })
        .into_result()
        .unwrap_err();
    let mut text = String::new();
    assert!(allocated(|| text = denial.to_string()) > 0);
    assert!(text.contains("rule `r77` (line "), "{text}");
    assert!(text.ends_with("it asks that tenant = {tenant}"), "{text}");
}

/// POL-5: bad input of any size costs bounded time and memory.
#[test]
fn pol_5_bad_input_is_refused_within_bounds() {
    let _alone = ALONE.lock().unwrap();
    let many = |n: usize, text: &str| text.repeat(n);
    let head = "version = 1\ntrust_domain = \"t.example\"\n";
    let rule = "[[allow]]\nid = \"r\"\nwho = [\"nobody\"]\nmay = [\"publish\"]\non = [\"a\"]\n";
    for (name, text, most) in [
        // Nothing is made of what is too long.
        ("50 MB", many(50 << 20, "a"), 64 << 10),
        ("nothing but zeros", many(1 << 18, "\0"), 64 << 20),
        ("no TOML", many(1 << 18, "\u{1}\u{fe}"), 64 << 20),
        (
            "open lists",
            format!("a = {}", many(1 << 18, "[")),
            64 << 20,
        ),
        (
            "open tables",
            format!("a = {}", many(1 << 16, "{ a = ")),
            64 << 20,
        ),
        (
            "deep keys",
            format!("{}a = 1", many(1 << 17, "a.")),
            64 << 20,
        ),
        (
            "one rule, again and again",
            format!("{head}{}", many(4_000, rule)),
            64 << 20,
        ),
        (
            "unknown keys",
            format!(
                "{head}{}",
                (0..20_000)
                    .map(|i| format!("k{i} = 1\n"))
                    .collect::<String>()
            ),
            64 << 20,
        ),
    ] {
        let start = Instant::now();
        let mut found = 0;
        let used = allocated(|| {
            let errors = Policy::parse("p.toml", &text).map(|_| ()).unwrap_err();
            found = errors.errors().len();
        });
        let took = start.elapsed();
        println!("{name}: {} KiB, {took:?}, {found} errors", used >> 10);
        assert!((1..=500).contains(&found), "{name}: {found} errors");
        assert!(used <= most, "{name}: {used} bytes");
        assert!(took.as_secs() < 20, "{name}: {took:?}");
    }
}
