//! `chain = "proven"`: what it asks, and who could never give it.

use bulla_identity::{Subject, WorkloadName};
use bulla_policy::{Chain, Policy, UserRule, Verb};

use crate::shop::nkey;

/// An edge that mints, three services in a row, and `more`.
fn with(more: &str) -> String {
    let workload = |name: &str, n: u32, rest: &str| {
        format!(
            "[workload.{name}]\nattest = [{{ nkey = \"{}\" }}]\n{rest}",
            nkey(n)
        )
    };
    [
        "version = 1\ntrust_domain = \"t.example\"\n".to_owned(),
        workload("edge", 1, "mints = true\n"),
        workload("one", 2, ""),
        workload("two", 3, ""),
        workload("three", 4, ""),
        more.to_owned(),
    ]
    .concat()
}

fn allow(id: &str, who: &str, may: &str, on: &str) -> String {
    format!("[[allow]]\nid = \"{id}\"\nwho = [\"{who}\"]\nmay = [\"{may}\"]\non = [\"{on}\"]\n")
}

fn load(more: &str) -> Policy {
    Policy::parse("p.toml", &with(more)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn codes(more: &str) -> Vec<&'static str> {
    let errors = Policy::parse("p.toml", &with(more)).unwrap_err();
    errors.errors().iter().map(|e| e.code()).collect()
}

fn warned(more: &str) -> Vec<String> {
    let policy = load(more);
    let chains = policy
        .warnings()
        .iter()
        .filter(|w| w.code() == "chain_cannot_be_proven");
    chains
        .map(|w| {
            assert!(!w.remedy().is_empty());
            w.message()
        })
        .collect()
}

#[test]
fn pol_83_a_proven_chain_requires_a_user_and_wins() {
    let policy = load(
        "[subject.\"a.>\"]\nchain = \"proven\"\n\
         [subject.\"a.b\"]\nchain = \"reported\"\nuser = \"optional\"\n",
    );
    let of = |text: &str| policy.requirements(&Subject::parse(text).unwrap());
    for subject in ["a.b", "a.c"] {
        assert_eq!(of(subject).chain, Chain::Proven, "{subject}");
        assert_eq!(of(subject).user, UserRule::Required, "{subject}");
    }
    assert_eq!(of("b").chain, Chain::Reported);
    assert_eq!(of("b").user, UserRule::Optional);
}

#[test]
fn pol_83_what_has_no_user_has_no_chain_to_prove() {
    for (text, code) in [
        (
            "[subject.x]\nchain = \"proven\"\nuser = \"none\"\n",
            "proven_without_user",
        ),
        (
            "[subject.x]\nchain = \"proven\"\n[subject.\"*\"]\nuser = \"none\"\n",
            "user_contradiction",
        ),
        (
            "[subject.x]\nchain = \"proven\"\nprotect = \"open\"\n",
            "user_on_open",
        ),
        (
            "[subject.x]\nprotect = \"open\"\n[subject.\"*\"]\nchain = \"proven\"\n",
            "user_on_open",
        ),
    ] {
        assert_eq!(codes(text), [code], "{text}");
    }
    assert_eq!(codes("[subject.x]\nchain = \"known\"\n"), ["unknown_value"]);
}

#[test]
fn pol_83_who_can_never_prove_a_chain_is_named() {
    let proven = "[subject.\"c.>\"]\nchain = \"proven\"\n";
    let rules = [
        allow("edge-asks", "edge", "request", "a.x"),
        allow("one-serves", "one", "serve", "a.*"),
        allow("one-asks", "one", "request", "b.x"),
        allow("two-serves", "two", "serve", "b.x"),
        allow("two-asks", "two", "request", "c.x"),
        allow("three-serves", "three", "serve", "c.x"),
    ]
    .concat();
    // `two` is two hops from the edge, and the hop between is only reported.
    let [message] = &warned(&format!("{proven}{rules}"))[..] else {
        panic!("one warning");
    };
    assert!(
        message.contains("rule `two-asks` lets `two` send to `c.>`"),
        "{message}"
    );
    // With that one proven, each link is.
    let between = "[subject.\"b.x\"]\nchain = \"proven\"\n";
    assert_eq!(warned(&format!("{proven}{between}{rules}")), [""; 0]);
    // The first hop has none before it: who is asked by the edge can go on.
    let direct = allow("one-asks-too", "one", "publish", "c.y");
    assert_eq!(warned(&format!("{proven}{direct}{rules}")).len(), 1);
    // A workload that starts chains begins them, as one that mints does.
    let starting = with(&format!("{proven}{rules}")).replace(
        "[workload.two]\n",
        "[workload.broker]\nattest = [{ nkey = \"@\" }]\nmints = true\nexchanges = true\n\
         [workload.two]\nstarts = { users = [\"batch:*\"] }\n",
    );
    let starting = starting.replace('@', &nkey(5));
    let policy = Policy::parse("p.toml", &starting).unwrap_or_else(|e| panic!("{e}"));
    assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
    // An edge needs no chain, and without proven subjects nobody does.
    let edge = allow("edge-tells", "edge", "publish", "c.z");
    assert_eq!(warned(&format!("{proven}{edge}")), [""; 0]);
    assert_eq!(warned(&rules), [""; 0]);
}

#[test]
fn pol_83_streams_lead_on_too() {
    let stream = "[subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n\
                  [stream.S]\nsubjects = [\"s.>\"]\n\
                  [stream.COPY]\nmirror = \"S\"\n\
                  [subject.x]\nchain = \"proven\"\n";
    let sends = allow("two-tells", "two", "publish", "x");
    let appends = allow("edge-appends", "edge", "append", "s.a");
    for stored in ["S.two", "COPY.two"] {
        let consumes = allow("two-consumes", "two", "consume", stored);
        assert_eq!(
            warned(&format!("{stream}{sends}{appends}{consumes}")),
            [""; 0]
        );
        assert_eq!(warned(&format!("{stream}{sends}{consumes}")).len(), 1);
    }
}

#[test]
fn who_may_send_where_chains_are_proven_is_known() {
    let policy = load(
        &[
            "[subject.\"c.*.x\"]\nchain = \"proven\"\n".to_owned(),
            allow("edge-asks", "edge", "request", "c.>"),
            allow("one-tells", "one", "publish", "d.>"),
            allow("two-serves", "two", "serve", "c.1.x"),
        ]
        .concat(),
    );
    let may = |name: &str| {
        let name = WorkloadName::parse(name).unwrap();
        let workload = policy.workload(&name).unwrap().id();
        let subject = Subject::parse("c.1.x").unwrap();
        (
            policy.proves_chains(workload),
            policy.may_receive(workload, Verb::Request, &subject),
        )
    };
    assert_eq!(may("edge"), (true, false));
    assert_eq!(may("one"), (false, false));
    assert_eq!(may("two"), (false, true));
}

/// Who sends may be a hop of a chain that is verified much later.
#[test]
fn credentials_of_all_senders_are_kept_where_chains_are_stored() {
    let stream = "[stream.S]\nsubjects = [\"s.>\"]\n\
                  [subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n";
    let rules = allow("one-asks", "one", "request", "b.x");
    let late = |more: &str| {
        let policy = load(&format!("{stream}{more}{rules}"));
        let one = policy
            .workload(&WorkloadName::parse("one").unwrap())
            .unwrap();
        policy.late_readers_of(one.id()).as_secs()
    };
    assert_eq!(late(""), 0);
    assert_eq!(late("chain = \"proven\"\n"), 3600);
}
