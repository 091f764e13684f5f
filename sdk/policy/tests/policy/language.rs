//! The language: what loads, what is refused, and where the error points.

use std::time::Duration;

use bulla_identity::{Nkey, NkeyKind, Subject, SubjectPattern, WorkloadName};
use bulla_policy::{
    Audiences, Batch, Chain, Cipher, Circumstances, Frames, LONGEST_STREAM_MAX_AGE,
    MAX_POLICY_BYTES, Policy, PolicyErrors, Protect, Replay, Replies, Requirements, Suite,
    UserRule, Verb,
};

use crate::shop::{NOW, nkey};

/// A policy with the workloads `a`, `b`, `c` and the group `ab`, then `more`.
fn with(more: &str) -> String {
    format!(
        "version = 1\ntrust_domain = \"t.example\"\n\
         workload.a.attest = [{{ nkey = \"{}\" }}]\n\
         workload.b.attest = [{{ nkey = \"{}\" }}]\n\
         workload.c.attest = [{{ nkey = \"{}\" }}]\n\
         group.ab = [\"a\", \"b\"]\n{more}\n",
        nkey(1),
        nkey(2),
        nkey(3)
    )
}

fn rule(effect: &str, id: &str, who: &str, may: &str, on: &str, more: &str) -> String {
    format!("[[{effect}]]\nid = \"{id}\"\nwho = [{who}]\nmay = [{may}]\non = [{on}]\n{more}\n")
}

fn allow(may: &str, on: &str, more: &str) -> String {
    rule("allow", "r", "\"a\"", may, on, more)
}

#[track_caller]
fn refused(text: &str) -> PolicyErrors {
    match Policy::parse("p.toml", text) {
        Ok(_) => panic!("this loaded:\n{text}"),
        Err(errors) => errors,
    }
}

/// Exactly one error, of this kind, whose carets stand under `at`.
#[track_caller]
fn one_error(text: &str, code: &str, at: &str) {
    let errors = refused(text);
    let found: Vec<_> = errors.errors().iter().map(|e| e.code()).collect();
    assert_eq!(found, [code], "{errors}");
    let error = &errors.errors()[0];
    let (from, len) = error.caret();
    let marked: String = error.source_line().chars().skip(from).take(len).collect();
    assert_eq!(marked, at, "{errors}");
    assert!(!error.message().is_empty() && !error.remedy().is_empty());
    let line = text.lines().nth(error.line() as usize - 1).unwrap();
    assert!(line.contains(at), "{errors}");
}

/// A stream that stores `stored`, and an entry that says so.
fn streamed(entry: &str, stored: &str, max_age: &str) -> String {
    format!(
        "[stream.S]\nsubjects = [\"{stored}\"]\n\
         [subject.\"{entry}\"]\nreplay = \"stream\"\nmax_age = \"{max_age}\"\n"
    )
}

fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

fn requirements(policy: &str, on: &str) -> Requirements {
    Policy::parse("p.toml", &with(policy))
        .unwrap()
        .requirements(&subject(on))
}

#[test]
fn pol_1_only_version_1_is_read() {
    one_error("version = 2\ntrust_domain = \"t\"", "version", "2");
    one_error(
        "version = \"1\"\ntrust_domain = \"t\"",
        "wrong_type",
        "\"1\"",
    );
    let errors = refused("");
    let codes: Vec<_> = errors.errors().iter().map(|e| e.code()).collect();
    assert_eq!(codes, ["missing_key", "missing_key"]);
}

#[test]
fn pol_2_keys_that_the_language_lacks_are_refused_everywhere() {
    one_error(&format!("polcy = 1\n{}", with("")), "unknown_key", "polcy");
    one_error(&with("workload.a.mint = true"), "unknown_key", "mint");
    one_error(
        &with("[subject.x]\nprotct = \"open\""),
        "unknown_key",
        "protct",
    );
    one_error(
        &with(&allow("\"publish\"", "\"x\"", "users = {}")),
        "unknown_key",
        "users",
    );
    one_error(
        &with(&allow(
            "\"publish\"",
            "\"x\"",
            "user = { role = { some = [1] } }",
        )),
        "unknown_key",
        "some",
    );
    let errors = refused(&with("[subject.x]\nprotct = \"open\""));
    assert_eq!(errors.errors()[0].remedy(), "did you mean `protect`?");
}

#[test]
fn pol_3_values_of_another_type_are_refused_everywhere() {
    for (text, at) in [
        (with("").replace("\"t.example\"", "7"), "7"),
        (with("workload.a.mints = \"yes\""), "\"yes\""),
        (with("group.g = \"a\""), "\"a\""),
        (with("[subject.x]\nmax_age = 30"), "30"),
        (with("[subject.x]\nprotect = true"), "true"),
        (with("subject.x = 1"), "1"),
        (with("workload.z = 1.5"), "1.5"),
        (with("allow = 1979-05-27"), "1979-05-27"),
        (with("deny = [3]"), "3"),
        (with(&allow("\"publish\", 5", "\"x\"", "")), "5"),
        (
            with(&allow("\"publish\"", "\"x\"", "user = \"alice\"")),
            "\"alice\"",
        ),
    ] {
        one_error(&text, "wrong_type", at);
    }
}

#[test]
fn pol_4_every_error_is_reported_at_once_with_its_place() {
    let text = with(&format!(
        "{}{}",
        allow("\"publish\", \"manage\"", "\">\", \"a..b\"", ""),
        rule("deny", "r", "\"zed\"", "\"serve\"", "\"x\"", "user = {}")
    ));
    let errors = refused(&text);
    let found: Vec<_> = errors
        .errors()
        .iter()
        .map(|e| (e.line(), e.column(), e.code()))
        .collect();
    assert_eq!(
        found,
        [
            (10, 7, "mixed_verbs"),
            (11, 7, "wildcard_first"),
            (11, 12, "pattern"),
            (14, 6, "rule_id_twice"),
            (15, 8, "unknown_workload"),
            (18, 8, "empty_condition"),
        ],
        "{errors}"
    );
    let shown = errors.to_string();
    assert!(shown.contains(" --> p.toml:11:7\n"), "{shown}");
    assert!(
        shown.contains("11 | on = [\">\", \"a..b\"]\n   |       ^^^\n"),
        "{shown}"
    );
    assert!(shown.ends_with("p.toml: 6 errors"), "{shown}");
}

#[test]
fn pol_4_one_slip_in_the_toml_is_one_error_for_its_table() {
    let text = with(
        "[[allow]]\nid = [\"x\"\nwho = 1\n\n[[allow]] # fine\nid = \"y\"\n\n[group]\nq = \"\n",
    );
    let errors = refused(&text);
    let found: Vec<_> = errors
        .errors()
        .iter()
        .map(|e| (e.line(), e.code()))
        .collect();
    assert_eq!(found, [(9, "syntax"), (15, "syntax")], "{errors}");
    let twice = with("group.z = []\ngroup.z = []");
    assert_eq!(refused(&twice).errors().len(), 1);
}

#[test]
fn pol_4_errors_repeat_no_control_characters() {
    let text = with(
        "\"bad\\u001bkey\" = 1\ngroup.\"q\\u0007\" = [\"group:q\\u0007\", \"x\\u009b\"]\n[subject.\"a\\u0000\"]",
    );
    let errors = refused(&text);
    assert!(errors.errors().len() >= 5, "{errors}");
    let shown = errors.to_string();
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
}

#[test]
fn pol_5_the_text_is_bounded() {
    let long = format!("#{}", "x".repeat(MAX_POLICY_BYTES));
    assert_eq!(refused(&long).errors()[0].code(), "too_large");
    let deep = format!("x = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!refused(&deep).errors().is_empty());
    let keys = format!("{} = 1", vec!["a"; 100_000].join("."));
    assert!(!refused(&keys).errors().is_empty());
    let flood = "= ".repeat(MAX_POLICY_BYTES / 2);
    assert!(refused(&flood).errors().len() <= 500);
}

#[test]
fn pol_5_grants_are_bounded() {
    let names: Vec<_> = (0..1100).map(|i| format!("\"w{i}\"")).collect();
    let mut text = String::from("version = 1\ntrust_domain = \"t\"\n");
    for (i, name) in names.iter().enumerate() {
        let key = nkey(i as u32);
        text.push_str(&format!(
            "workload.{name}.attest = [{{ nkey = \"{key}\" }}]\n"
        ));
    }
    text.push_str(&format!("group.all = [{}]\n", names.join(",")));
    let on: Vec<_> = (0..1000).map(|i| format!("\"s.n{i}\"")).collect();
    text.push_str(&rule(
        "allow",
        "r",
        "\"group:all\"",
        "\"publish\"",
        &on.join(","),
        "",
    ));
    one_error(&text, "too_many_grants", "\"r\"");
}

#[test]
fn pol_10_workloads_have_names_and_public_keys_of_their_own() {
    one_error(
        &with(&format!(
            "workload.A.attest = [{{ nkey = \"{}\" }}]",
            nkey(8)
        )),
        "name",
        "A",
    );
    one_error(&with("[workload.d]"), "missing_key", "d");
    one_error(&with("workload.d.attest = []"), "empty_list", "[]");
    one_error(
        &with(&format!(
            "workload.d.attest = [{{ nkey = \"{}\" }}]",
            nkey(1)
        )),
        "nkey_twice",
        &format!("\"{}\"", nkey(1)),
    );
    let user = Nkey::parse(&nkey(7)).unwrap();
    let account = Nkey::from_bytes(NkeyKind::Account, *user.bytes());
    one_error(
        &with(&format!("workload.d.attest = [{{ nkey = \"{account}\" }}]")),
        "nkey_kind",
        &format!("\"{account}\""),
    );
    let text = with("workload.d.attest = [{ k8s = \"x\" }]");
    one_error(&text, "attestor_misplaced", "\"x\"");
    let text = with("workload.d.attest = [{ jwt = \"x\" }]");
    one_error(&text, "unknown_jwt", "\"x\"");
    one_error(&with("workload.d.attest = [{}]"), "missing_key", "{}");
}

#[test]
fn pol_10_a_seed_is_refused_and_not_repeated() {
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let errors = refused(&with(&format!(
        "workload.d.attest = [{{ nkey = \"{seed}\" }}]"
    )));
    assert_eq!(errors.errors()[0].code(), "nkey");
    assert!(!errors.errors()[0].message().contains(seed));
}

#[test]
fn pol_11_workloads_are_found_by_every_name() {
    let policy = Policy::parse("p.toml", &with("workload.c.mints = true")).unwrap();
    let name = WorkloadName::parse("c").unwrap();
    let c = policy.workload(&name).unwrap();
    assert_eq!(c.id().as_str(), "spiffe://t.example/c");
    assert!(c.mints());
    assert_eq!(policy.workload_by_id(c.id()), Some(c));
    assert_eq!(policy.workload_by_tag(c.tag()), Some(c));
    assert_eq!(
        policy.workload_by_nkey(&Nkey::parse(&nkey(3)).unwrap()),
        Some(c)
    );
    assert_eq!(
        policy.workload_by_nkey(&Nkey::parse(&nkey(9)).unwrap()),
        None
    );
    assert_eq!(policy.trust_domain().as_str(), "t.example");
    assert!(!policy.workloads()[0].mints());
}

#[test]
fn pol_12_groups_nest_and_cycles_are_refused() {
    let nested = "group.x = [\"group:y\", \"c\"]\ngroup.y = [\"group:ab\"]\n";
    let rule = rule("allow", "r", "\"group:x\"", "\"publish\"", "\"s\"", "");
    let policy = Policy::parse("p.toml", &with(&format!("{nested}{rule}"))).unwrap();
    let may: Vec<_> = policy.who_may_ever(Verb::Publish, &subject("s")).collect();
    assert_eq!(may.len(), 3);

    one_error(
        &with("group.x = [\"group:x\"]"),
        "group_cycle",
        "\"group:x\"",
    );
    let errors = refused(&with(
        "group.x = [\"group:y\"]\ngroup.y = [\"a\", \"group:z\"]\ngroup.z = [\"group:x\"]",
    ));
    assert!(errors.to_string().contains("x → y → z → x"), "{errors}");
    one_error(
        &with("group.x = [\"group:nope\"]"),
        "unknown_group",
        "\"group:nope\"",
    );
    one_error(
        &with("group.x = [\"nope\"]"),
        "unknown_workload",
        "\"nope\"",
    );
}

#[test]
fn pol_12_a_long_chain_of_groups_does_not_exhaust_the_stack() {
    let mut text = String::new();
    for i in 0..50_000 {
        text.push_str(&format!("group.g{i} = [\"group:g{}\"]\n", i + 1));
    }
    text.push_str("group.g50000 = [\"a\"]\n");
    assert!(Policy::parse("p.toml", &with(&text)).is_ok());
}

#[test]
fn pol_20_what_is_not_said_has_the_documented_default() {
    let want = Requirements {
        protect: Protect::Signed,
        user: UserRule::Optional,
        chain: Chain::Reported,
        max_age: Duration::from_secs(30),
        suite: Suite::XWing,
        cipher: Cipher::Any,
        open_token: false,
        frames: Frames::Auto,
        batch: Batch::Shared,
        replies: Replies::Signed,
        replay: None,
        audiences: Audiences::default(),
    };
    assert_eq!(requirements("", "any.thing"), want);
    assert_eq!(requirements("[subject.\"any.*\"]", "any.thing"), want);
}

#[test]
fn pol_21_promises_that_nobody_keeps_yet_are_refused() {
    for line in [
        "replay = \"exactly-once\"",
        "suite = \"kyber\"",
        "cipher = \"aes-128-gcm\"",
        "frames = \"on\"",
        "batch = \"per_subject\"",
        "replies = \"none\"",
        "chain = \"\"",
        "protect = \"sealed\"",
        "user = \"yes\"",
    ] {
        let at = line.split(" = ").last().unwrap();
        one_error(&with(&format!("[subject.x]\n{line}")), "unknown_value", at);
    }
    one_error(
        &with("[subject.x]\nopen_token = \"yes\""),
        "wrong_type",
        "\"yes\"",
    );
    let all = "[subject.x]\nchain = \"reported\"";
    assert!(Policy::parse("p.toml", &with(all)).is_ok());
}

#[test]
fn pol_29_a_subject_belongs_to_every_audience_that_an_entry_names() {
    let text = "[subject.\"a.>\"]\naudience = \"retail\"\n\
                [subject.\"*.x\"]\naudience = \"back-office\"\n";
    let policy = Policy::parse("p.toml", &with(text)).unwrap();
    let names = |subject: &str| -> Vec<String> {
        let audiences = policy
            .requirements(&Subject::parse(subject).unwrap())
            .audiences;
        policy
            .audience_names(audiences)
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(names("a.x"), ["back-office", "retail"]);
    assert_eq!(names("a.y"), ["retail"]);
    assert_eq!(names("b.y"), [""; 0]);
}

#[test]
fn pol_29_audiences_that_mean_nothing_are_refused() {
    for name in ["", "Retail", "re tail", "re.tail", "*", "{x}"] {
        let text = with(&format!("[subject.x]\naudience = \"{name}\""));
        one_error(&text, "name", &format!("\"{name}\""));
    }
    let list = with("[subject.x]\naudience = [\"retail\"]");
    one_error(&list, "wrong_type", "[\"retail\"]");
    for demand in ["protect = \"open\"", "user = \"none\""] {
        let text = with(&format!("[subject.x]\n{demand}\naudience = \"retail\""));
        one_error(&text, "audience_without_user", "\"retail\"");
    }
    let many: String = (0..65)
        .map(|n| format!("[subject.x{n}]\naudience = \"a{n}\"\n"))
        .collect();
    let errors = refused(&with(&many));
    assert_eq!(errors.errors()[0].code(), "too_many_audiences", "{errors}");
    let most = many.replacen("a64", "a63", 1);
    assert!(Policy::parse("p.toml", &with(&most)).is_ok());
}

#[test]
fn pol_13_the_reach_of_a_minter() {
    let minter = |more: &str| with(&format!("workload.a.{more}\n"));
    one_error(
        &minter("reach = [\"retail\"]"),
        "reach_without_mint",
        "[\"retail\"]",
    );
    one_error(
        &minter("mints = true\nworkload.a.reach = \"retail\""),
        "wrong_type",
        "\"retail\"",
    );
    one_error(
        &minter("mints = true\nworkload.a.reach = [\"Retail\"]"),
        "name",
        "\"Retail\"",
    );
    let may_reach = |text: &str, audience: &str| {
        let policy = Policy::parse("p.toml", text).unwrap();
        let a = policy.workload(&WorkloadName::parse("a").unwrap()).unwrap();
        a.may_reach(audience)
    };
    let bounded = minter("mints = true\nworkload.a.reach = [\"retail\"]");
    assert!(may_reach(&bounded, "retail") && !may_reach(&bounded, "ops"));
    let none = minter("mints = true\nworkload.a.reach = []");
    assert!(!may_reach(&none, "retail"));
    assert!(may_reach(&minter("mints = true"), "retail"));
    assert!(!may_reach(&with(""), "retail"));
}

#[test]
fn pol_28_an_audience_that_no_minter_reaches_is_warned_of() {
    let warned = |more: &str| -> Vec<(&'static str, String)> {
        let text = with(&format!("{more}\n[subject.x]\naudience = \"retail\"\n"));
        let policy = Policy::parse("p.toml", &text).unwrap();
        let warnings = policy.warnings().iter();
        warnings.map(|w| (w.code(), w.message())).collect()
    };
    for unreached in [
        "",
        "workload.a.mints = true\nworkload.a.reach = [\"retai\"]",
        "workload.a.mints = true\nworkload.a.reach = []",
    ] {
        let [(code, message)] = &warned(unreached)[..] else {
            panic!("one warning: {unreached}");
        };
        assert_eq!(*code, "audience_unreached");
        assert!(message.contains("`retail`"), "{message}");
    }
    assert_eq!(warned("workload.a.mints = true"), []);
    let named = "workload.a.mints = true\nworkload.a.reach = [\"retail\"]";
    assert_eq!(warned(named), []);
}

#[test]
fn pol_22_the_most_protective_entry_wins_on_an_overlap() {
    let text = "[subject.\"a.>\"]\nprotect = \"encrypted\"\nmax_age = \"1m\"\n\
                [subject.\"a.*\"]\nprotect = \"open\"\nmax_age = \"10s\"\n\
                [subject.\"*.x\"]\nuser = \"required\"\nprotect = \"signed\"\n";
    let ax = requirements(text, "a.x");
    assert_eq!(ax.protect, Protect::Encrypted);
    assert_eq!(ax.user, UserRule::Required);
    assert_eq!(ax.max_age, Duration::from_secs(10));
    assert_eq!(requirements(text, "a.b.c").max_age, Duration::from_secs(60));
    assert_eq!(requirements(text, "b.x").protect, Protect::Signed);
    assert_eq!(
        requirements("[subject.o]\nprotect = \"open\"", "o").user,
        UserRule::None
    );
}

#[test]
fn pol_21_every_value_is_read() {
    let text = "[subject.x]\nsuite = \"x25519\"\nopen_token = true\nframes = \"off\"\n\
                cipher = \"aes-256-gcm\"\nbatch = \"per-subject\"\nreplies = \"mac\"\nreplay = \"shared\"";
    let x = requirements(text, "x");
    assert_eq!((x.suite, x.open_token), (Suite::X25519, true));
    assert_eq!(x.cipher, Cipher::Aes256Gcm);
    assert_eq!((x.frames, x.batch), (Frames::Off, Batch::PerSubject));
    assert_eq!((x.replies, x.replay), (Replies::Mac, Some(Replay::Shared)));
    let text = "[subject.x]\ncipher = \"chacha20-poly1305\"";
    assert_eq!(requirements(text, "x").cipher, Cipher::ChaCha20Poly1305);
    let text = "[subject.x]\nsuite = \"xwing\"\nopen_token = false\nframes = \"auto\"\n\
                cipher = \"any\"\nbatch = \"shared\"\nreplies = \"signed\"\nreplay = \"window\"";
    let x = requirements(text, "x");
    let plain = requirements("", "x");
    assert_eq!(
        x,
        Requirements {
            replay: Some(Replay::Window),
            ..plain
        }
    );
}

#[test]
fn pol_21_what_a_queue_group_shares_is_claimed_unless_the_policy_says_otherwise() {
    let unstated = requirements("", "x");
    assert_eq!(unstated.replay_for(true), Replay::Shared);
    assert_eq!(unstated.replay_for(false), Replay::Window);
    for (text, mode) in [
        ("[subject.x]\nreplay = \"window\"", Replay::Window),
        ("[subject.x]\nreplay = \"shared\"", Replay::Shared),
        (&streamed("x", "x", "1h"), Replay::Stream),
    ] {
        let stated = requirements(text, "x");
        assert_eq!(stated.replay_for(true), mode);
        assert_eq!(stated.replay_for(false), mode);
    }
}

#[test]
fn pol_22_each_key_is_merged_by_itself() {
    let lax = "suite = \"x25519\"\nopen_token = true\nframes = \"auto\"\n\
               cipher = \"any\"\nbatch = \"shared\"\nreplies = \"mac\"\nreplay = \"window\"\n";
    let strict = "suite = \"xwing\"\nopen_token = false\nframes = \"off\"\n\
                  cipher = \"aes-256-gcm\"\nbatch = \"per-subject\"\nreplies = \"signed\"\nreplay = \"shared\"\n";
    let text = format!("[subject.\"a.>\"]\n{lax}[subject.\"*.x\"]\n{strict}");
    let both = requirements(&text, "a.x");
    assert_eq!(both, requirements(&text, "b.x"));
    assert_eq!(both.cipher, Cipher::Aes256Gcm);
    let only = requirements(&text, "a.y");
    assert_eq!(only.cipher, Cipher::Any);
    assert_eq!((only.suite, only.open_token), (Suite::X25519, true));
    assert_eq!((only.frames, only.batch), (Frames::Auto, Batch::Shared));
    assert_eq!(only.replies, Replies::Mac);
    assert_eq!(only.replay, Some(Replay::Window));
}

/// No cipher is the more protective one: who names two for a subject meant something else.
#[test]
fn pol_22_two_ciphers_on_one_subject_contradict_each_other() {
    let entry =
        |pattern: &str, cipher: &str| format!("[subject.\"{pattern}\"]\ncipher = \"{cipher}\"\n");
    let (aes, chacha) = ("aes-256-gcm", "chacha20-poly1305");
    for (one, other) in [("a.>", "*.b"), ("a.b", "a.*"), ("*.b", "a.>")] {
        let text = [entry(one, aes), entry(other, chacha)].concat();
        one_error(
            &with(&text),
            "cipher_contradiction",
            &format!("\"{other}\""),
        );
        for allowed in [aes, "any"] {
            let text = [entry(one, aes), entry(other, allowed)].concat();
            assert_eq!(requirements(&text, "a.b").cipher, Cipher::Aes256Gcm);
        }
    }
    // They share no subject.
    let text = [entry("a.*", aes), entry("b.*", chacha)].concat();
    assert_eq!(requirements(&text, "b.b").cipher, Cipher::ChaCha20Poly1305);
}

#[test]
fn pol_23_open_subjects_ask_nothing_of_a_user() {
    let open = "[subject.\"o.*\"]\nprotect = \"open\"\n";
    one_error(
        &with(&format!("{open}user = \"required\"")),
        "user_on_open",
        "\"o.*\"",
    );
    one_error(
        &with(&format!("{open}user = \"optional\"")),
        "user_on_open",
        "\"o.*\"",
    );
    one_error(
        &with(&format!("{open}[subject.\"*.x\"]\nuser = \"required\"")),
        "user_on_open",
        "\"*.x\"",
    );
    for effect in ["allow", "deny"] {
        let rule = rule(
            effect,
            "r",
            "\"a\"",
            "\"publish\"",
            "\"o.>\"",
            "user = { sub = \"alice\" }",
        );
        one_error(
            &with(&format!("{open}{rule}")),
            "condition_on_open",
            "\"o.>\"",
        );
    }
    // Raised by another entry: no longer open.
    let raised = format!("{open}[subject.\"o.>\"]\nprotect = \"signed\"\nuser = \"required\"");
    assert!(Policy::parse("p.toml", &with(&raised)).is_ok());
    let plain = format!("{open}{}", allow("\"publish\"", "\"o.*\"", ""));
    assert!(Policy::parse("p.toml", &with(&plain)).is_ok());
}

#[test]
fn pol_24_none_and_required_do_not_meet() {
    let text = "[subject.\"a.*\"]\nuser = \"none\"\n[subject.\"*.b\"]\nuser = \"required\"";
    one_error(&with(text), "user_contradiction", "\"*.b\"");
    let rule = allow("\"publish\"", "\"a.x\"", "user = { scope = \"s\" }");
    let text = format!("[subject.\"a.*\"]\nuser = \"none\"\n{rule}");
    one_error(&with(&text), "condition_on_none", "\"a.x\"");
}

#[test]
fn pol_25_max_age_is_a_bounded_duration() {
    for bad in ["0s", "999ms", "31d", "721h", "18446744073709551615s"] {
        let text = with(&format!("[subject.x]\nmax_age = \"{bad}\""));
        one_error(&text, "max_age", &format!("\"{bad}\""));
    }
    for bad in ["", "30", "s", "30 s", "-1s", "1w", "∞"] {
        let text = with(&format!("[subject.x]\nmax_age = \"{bad}\""));
        one_error(&text, "duration", &format!("\"{bad}\""));
    }
    let age = requirements("[subject.x]\nmax_age = \"15m\"", "x").max_age;
    assert_eq!(age, Duration::from_secs(900));
}

#[test]
fn pol_25_only_what_a_stream_keeps_may_live_long() {
    for age in ["901s", "1h", "30d"] {
        let at = format!("\"{age}\"");
        for mode in ["", "replay = \"window\"", "replay = \"shared\""] {
            let text = with(&format!("[subject.x]\nmax_age = {at}\n{mode}"));
            one_error(&text, "long_age", &at);
        }
        let text = with(&format!(
            "{}[subject.\"x.*\"]\nmax_age = {at}",
            streamed("x.>", "x.>", "30d")
        ));
        assert!(Policy::parse("p.toml", &text).is_ok(), "{age}");
        let text = with(&format!(
            "{}[subject.\"x.>\"]\nmax_age = {at}",
            streamed("x.*", "x.*", "30d")
        ));
        one_error(&text, "long_age", &at);
    }
    let month = requirements(&streamed("x", "x", "30d"), "x");
    assert_eq!(month.max_age, LONGEST_STREAM_MAX_AGE);
    // The other entry is named, with its line.
    let errors = refused(&with(
        "[subject.\"x.*\"]\nreplay = \"shared\"\n[subject.\"x.>\"]\nmax_age = \"1h\"",
    ));
    assert_eq!(
        errors.errors()[0].message(),
        "`max_age` is over 15m, and `x.*` (line 7) says \"shared\""
    );
}

#[test]
fn pol_27_stream_stands_alone() {
    for mode in ["window", "shared"] {
        let text = with(&format!(
            "[subject.\"a.>\"]\nreplay = \"{mode}\"\n{}",
            streamed("*.b", "c.b", "1h")
        ));
        one_error(&text, "replay_contradiction", "\"stream\"");
        let message = refused(&text).errors()[0].message();
        assert!(message.contains("`a.>` (line 7)"), "{message}");
    }
    for verb in ["request", "serve"] {
        let stream = streamed("a.>", "a.>", "1h");
        let text = with(&format!(
            "{stream}{}",
            allow(&format!("\"{verb}\""), "\"a.{x}.c\"", "")
        ));
        one_error(&text, "stream_served", "\"stream\"");
        let message = refused(&text).errors()[0].message();
        assert!(message.contains("rule `r` (line 13)"), "{message}");
        let deny = rule("deny", "d", "\"a\"", &format!("\"{verb}\""), "\"a.>\"", "");
        let text = with(&format!("{stream}{deny}"));
        assert!(Policy::parse("p.toml", &text).is_ok());
    }
}

#[test]
fn pol_28_a_window_in_a_queue_group_is_warned_of() {
    let warnings = |policy: &str| {
        let policy = Policy::parse("p.toml", &with(policy)).unwrap();
        let shown: Vec<_> = policy
            .warnings()
            .iter()
            .map(|w| (w.code(), w.line(), w.message()))
            .collect();
        shown
    };
    let window = "[subject.\"x.>\"]\nreplay = \"window\"\n";
    let serve = allow("\"serve\"", "\"x.y\"", "");
    let [(code, line, message)] = &warnings(&format!("{window}{serve}"))[..] else {
        panic!("one warning");
    };
    assert_eq!((*code, *line), ("window_in_queue_group", 7));
    assert!(
        message.ends_with("in a queue group of n replicas this alone would allow n executions"),
        "{message}"
    );
    assert!(message.contains("rule `r` (line 10)"), "{message}");
    assert_eq!(warnings(&serve), []);
    assert_eq!(
        warnings(&format!("{window}{}", allow("\"request\"", "\"x.y\"", ""))),
        []
    );
    let raised = "[subject.\">\"]\nreplay = \"shared\"\n";
    assert_eq!(warnings(&format!("{raised}{window}{serve}")), []);
}

#[test]
fn pol_26_reserved_spaces_are_nobodys_to_give() {
    for on in [
        "$SYS.>",
        "$JS.API.>",
        "$KV.b.>",
        "$BULLA.CTL.>",
        "_INBOX.>",
        "_INBOX",
        "$",
        "_R_.>",
        "_GR_.x",
    ] {
        let at = format!("\"{on}\"");
        one_error(
            &with(&allow("\"subscribe\"", &at, "")),
            "reserved_subject",
            &at,
        );
        let deny = rule("deny", "d", "\"a\"", "\"publish\"", &at, "");
        one_error(&with(&deny), "reserved_subject", &at);
        one_error(&with(&format!("[subject.{at}]")), "reserved_subject", &at);
    }
    for on in [">", "*", "*.x", "{t}.x", "{t}.>", "*.>"] {
        let at = format!("\"{on}\"");
        one_error(
            &with(&allow("\"subscribe\"", &at, "")),
            "wildcard_first",
            &at,
        );
    }
    // Denying widely is safe, and so is demanding.
    let wide = rule(
        "deny",
        "d",
        "\"a\"",
        "\"publish\"",
        "\">\", \"*.secret\"",
        "",
    );
    assert!(
        Policy::parse(
            "p.toml",
            &with(&format!("[subject.\">\"]\nprotect = \"encrypted\"\n{wide}"))
        )
        .is_ok()
    );
}

#[test]
fn pol_30_rules_say_who_may_what_on_what() {
    for key in ["id", "who", "may", "on"] {
        let text = with(&allow("\"publish\"", "\"x\"", ""));
        let text: String = text
            .lines()
            .filter(|l| !l.starts_with(&format!("{key} =")))
            .map(|l| format!("{l}\n"))
            .collect();
        let errors = refused(&text);
        assert_eq!(errors.errors()[0].code(), "missing_key", "{errors}");
        assert_eq!(errors.errors()[0].source_line(), "[[allow]]");
    }
    one_error(&with(&allow("", "\"x\"", "")), "empty_list", "[]");
    one_error(&with(&allow("\"publish\"", "", "")), "empty_list", "[]");
    one_error(
        &with(&rule("allow", "r", "", "\"publish\"", "\"x\"", "")),
        "empty_list",
        "[]",
    );
    for bad in ["", "-x", "a b", "a\u{e4}", "a`b"] {
        let text = with(&rule("allow", bad, "\"a\"", "\"publish\"", "\"x\"", ""));
        one_error(&text, "rule_id", &format!("\"{bad}\""));
    }
    one_error(
        &with(&allow("\"pub\"", "\"x\"", "")),
        "unknown_verb",
        "\"pub\"",
    );
}

#[test]
fn pol_40_conditions_test_claims_with_one_operator() {
    let bad = |condition: &str, code: &str, at: &str| {
        let text = with(&allow(
            "\"publish\"",
            "\"x.{t}\"",
            &format!("user = {condition}"),
        ));
        one_error(&text, code, at);
    };
    bad("{}", "empty_condition", "{}");
    bad("{ a = {} }", "operators", "{}");
    bad(
        "{ a = { any = [1], prefix = \"x\" } }",
        "operators",
        "{ any = [1], prefix = \"x\" }",
    );
    bad("{ a = { any = [] } }", "empty_list", "[]");
    bad("{ a = { all = [] } }", "empty_list", "[]");
    bad("{ a = [\"x\"] }", "wrong_type", "[\"x\"]");
    bad("{ a = { any = [[1]] } }", "wrong_type", "[1]");
    bad("{ a = 1979-05-27 }", "wrong_type", "1979-05-27");
    bad("{ a = { prefix = \"\" } }", "empty_list", "\"\"");
    bad("{ a = { prefix = \"{t}\" } }", "braces", "\"{t}\"");
    bad("{ a = \"x-{t}\" }", "braces", "\"x-{t}\"");
    bad("{ a = \"{}\" }", "braces", "\"{}\"");
    bad("{ a = \"{u}\" }", "unknown_capture", "\"{u}\"");
    bad(
        "{ a = { min = 2, max = 1 } }",
        "empty_range",
        "{ min = 2, max = 1 }",
    );
    bad("{ a = { min = \"2\" } }", "wrong_type", "\"2\"");
    bad("{ a = inf }", "number", "inf");
    bad("{ a = nan }", "number", "nan");
    bad(
        "{ a = 99999999999999999999 }",
        "number",
        "99999999999999999999",
    );
    bad("{ a = { present = 1 } }", "wrong_type", "1");
    bad("{ scope = \"a b\" }", "scope", "\"a b\"");
    bad("{ scope = \"\" }", "scope", "\"\"");
    bad("{ scope = [] }", "empty_list", "[]");
    bad("{ scope = 5 }", "wrong_type", "5");
    bad(
        "{ scope = { any = [\"a\"] } }",
        "wrong_type",
        "{ any = [\"a\"] }",
    );
}

#[test]
fn pol_46_a_condition_cannot_limit_subscribe() {
    let condition = "{ tenant = \"acme\" }";
    let text = with(&allow(
        "\"publish\", \"subscribe\"",
        "\"x\"",
        &format!("user = {condition}"),
    ));
    one_error(&text, "condition_on_subscribe", condition);
    for may in ["\"publish\"", "\"request\"", "\"serve\""] {
        let text = with(&allow(may, "\"x\"", &format!("user = {condition}")));
        assert!(Policy::parse("p.toml", &text).is_ok(), "{may}");
    }
}

#[test]
fn the_hash_is_of_the_text() {
    let text = with("");
    let hash = |t: &str| Policy::parse("p.toml", t).unwrap().hash();
    assert_eq!(hash(&text), hash(&text));
    assert_ne!(hash(&text), hash(&format!("{text}\n# changed")));
}

#[test]
fn grants_list_what_the_rules_say_of_a_workload() {
    let text = with(&format!(
        "{}{}",
        allow(
            "\"publish\", \"request\"",
            "\"x\", \"y.>\"",
            "user = { scope = \"s\" }"
        ),
        rule("deny", "d", "\"group:ab\"", "\"publish\"", "\"y.z\"", "")
    ));
    let policy = Policy::parse("p.toml", &text).unwrap();
    let a = policy.workload(&WorkloadName::parse("a").unwrap()).unwrap();
    let grants: Vec<_> = policy
        .grants(a.id())
        .map(|g| {
            format!(
                "{} {} {} {} {}",
                g.rule, g.effect, g.verb, g.pattern, g.conditional
            )
        })
        .collect();
    assert_eq!(
        grants,
        [
            "d deny publish y.z false",
            "r allow publish x true",
            "r allow publish y.> true",
            "r allow request x true",
            "r allow request y.> true",
        ]
    );
    let c = policy.workload(&WorkloadName::parse("c").unwrap()).unwrap();
    assert_eq!(policy.grants(c.id()).count(), 0);
}

#[test]
fn a_listener_may_take_a_pattern_that_one_grant_covers() {
    let text = with(&format!(
        "{}{}",
        allow("\"subscribe\"", "\"x.>\", \"y.*\"", ""),
        rule(
            "deny",
            "d",
            "\"a\"",
            "\"subscribe\"",
            "\"x.secret.>\", \"x.*.k.*\"",
            ""
        )
    ));
    let policy = Policy::parse("p.toml", &text).unwrap();
    let a = policy.workload(&WorkloadName::parse("a").unwrap()).unwrap();
    for (pattern, want) in [
        ("x.>", None),
        ("x.*", None),
        ("x.secret", None),
        ("x.secret.*", Some("denied_by_rule")),
        ("x.secret.>", Some("denied_by_rule")),
        ("x.*.k.>", Some("denied_by_rule")),
        ("y.*", None),
        ("y.>", Some("not_granted")),
        ("z", Some("not_granted")),
        (">", Some("not_granted")),
        ("$SYS.>", Some("reserved_subject")),
    ] {
        let pattern = SubjectPattern::parse(pattern).unwrap();
        let got = policy.may_listen(a.id(), Verb::Subscribe, &pattern, NOW);
        assert_eq!(got.err().map(|d| d.reason().code()), want, "{pattern}");
    }
}

const BROKER: &str = "workload.c.mints = true\nworkload.c.exchanges = true\n";

#[test]
fn pol_80_a_workload_that_exchanges_brings_its_rules() {
    let policy = Policy::parse("p.toml", &with(BROKER)).unwrap();
    let exchange = Subject::parse("$BULLA.TXN").unwrap();
    let may = |who: &str, verb: Verb| {
        let workload = policy.workload(&WorkloadName::parse(who).unwrap()).unwrap();
        policy.may_ever(workload.id(), verb, &exchange)
    };
    assert!(
        ["a", "b", "c"]
            .into_iter()
            .all(|who| may(who, Verb::Request))
    );
    assert!(may("c", Verb::Serve) && !may("a", Verb::Serve) && !may("a", Verb::Publish));
    let needs = policy.requirements(&exchange);
    assert_eq!(needs.protect, Protect::Encrypted);
    assert_eq!(needs.replay_for(true), Replay::Shared);
    let permissions = |who: &str| {
        let workload = policy.workload(&WorkloadName::parse(who).unwrap()).unwrap();
        policy
            .permissions(workload.id(), &Circumstances::at(NOW))
            .unwrap()
    };
    assert!(
        permissions("a")
            .publish_allow
            .contains(&"$BULLA.TXN".to_owned())
    );
    assert!(
        permissions("c")
            .subscribe_allow
            .contains(&"$BULLA.TXN c".to_owned())
    );
    let listens = |list: &[String]| list.iter().any(|s| s.contains("$BULLA.TXN"));
    assert!(!listens(&permissions("a").subscribe_allow));
    // Nothing that a text says makes it laxer, or asks a user of it.
    for entry in ["protect = \"open\"", "user = \"none\"", "audience = \"x\""] {
        let text = with(&format!("{BROKER}[subject.\">\"]\n{entry}"));
        let policy = Policy::parse("p.toml", &text).unwrap();
        assert_eq!(policy.requirements(&exchange), needs, "{entry}");
    }
    // Without one nobody may.
    let bare = Policy::parse("p.toml", &with("")).unwrap();
    assert_eq!(bare.who_may_ever(Verb::Request, &exchange).count(), 0);
    one_error(
        &with("workload.c.exchanges = true"),
        "exchange_without_mint",
        "true",
    );
    let two = format!("{BROKER}workload.b.mints = true\nworkload.b.exchanges = true\n");
    let errors = refused(&with(&two));
    assert_eq!(errors.errors()[0].code(), "exchange_twice", "{errors}");
}

#[test]
fn pol_81_who_may_start_a_chain_for_whom() {
    let starts = |grant: &str| with(&format!("{BROKER}workload.a.starts = {grant}\n"));
    let grant = |text: &str| {
        let policy = Policy::parse("p.toml", &starts(text)).unwrap();
        let a = policy.workload(&WorkloadName::parse("a").unwrap()).unwrap();
        a.starts().unwrap().clone()
    };
    let job = grant(
        r#"{ users = ["batch:*", "cron"], scope = "a", reach = ["ops"], claims = { kind = "job" } }"#,
    );
    assert!(job.covers("batch:") && job.covers("batch:x") && job.covers("cron"));
    assert!(!job.covers("batch") && !job.covers("cron2") && !job.covers("") && !job.covers("*"));
    assert_eq!(job.scopes().collect::<Vec<_>>(), ["a"]);
    assert_eq!(job.reach().collect::<Vec<_>>(), ["ops"]);
    assert_eq!(job.claims().len(), 1);
    let anybody = grant(r#"{ users = ["*"] }"#);
    assert!(anybody.covers("alice"));
    assert_eq!((anybody.scopes().count(), anybody.reach().count()), (0, 0));

    for (text, code, at) in [
        (r#"{ scope = "a" }"#, "missing_key", r#"{ scope = "a" }"#),
        ("{ users = [] }", "empty_list", "[]"),
        (r#"{ users = [""] }"#, "starts_user", r#""""#),
        (r#"{ users = ["a*b"] }"#, "starts_user", r#""a*b""#),
        (r#"{ users = ["a**"] }"#, "starts_user", r#""a**""#),
        (
            r#"{ users = ["a"], claims = { sub = "x" } }"#,
            "claim_reserved",
            "sub",
        ),
        (
            r#"{ users = ["a"], claims = { reach = "x" } }"#,
            "claim_reserved",
            "reach",
        ),
        (
            r#"{ users = ["a"], claims = { x = 1.5 } }"#,
            "wrong_type",
            "1.5",
        ),
        (r#"{ users = ["a"], scope = "a b" }"#, "scope", r#""a b""#),
        (r#"{ users = ["a"], roles = "x" }"#, "unknown_key", "roles"),
    ] {
        one_error(&starts(text), code, at);
    }
    let alone = with(r#"workload.a.starts = { users = ["x"] }"#);
    one_error(&alone, "starts_without_exchange", r#"{ users = ["x"] }"#);
}

#[test]
fn pol_82_claims_that_only_their_readers_can_read() {
    let text = "[claims.email]\nreaders = [\"b\", \"group:ab\"]\n";
    let policy = Policy::parse("p.toml", &with(text)).unwrap();
    let readers: Vec<_> = policy.readers_of("email").unwrap().collect();
    let names: Vec<_> = readers.iter().map(|w| w.name().as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(policy.readers_of("phone").is_none());
    assert!(policy.reads_private_claims(readers[0].id()));
    let c = policy.workload(&WorkloadName::parse("c").unwrap()).unwrap();
    assert!(!policy.reads_private_claims(c.id()));

    let rule = allow(
        "\"publish\"",
        "\"x\"",
        "user = { email = { present = true } }",
    );
    one_error(
        &with(&format!("{text}{rule}")),
        "condition_on_private",
        "email",
    );
    let deny = rule.replace("[[allow]]", "[[deny]]");
    one_error(
        &with(&format!("{text}{deny}")),
        "condition_on_private",
        "email",
    );
    for (text, code, at) in [
        ("[claims.email]", "missing_key", "email"),
        ("[claims.email]\nreaders = []", "empty_list", "[]"),
        (
            "[claims.email]\nreaders = [\"z\"]",
            "unknown_workload",
            "\"z\"",
        ),
        ("[claims.sub]\nreaders = [\"a\"]", "claim_reserved", "sub"),
        (
            "[claims.scope]\nreaders = [\"a\"]",
            "claim_reserved",
            "scope",
        ),
        (
            "[claims.reach]\nreaders = [\"a\"]",
            "claim_reserved",
            "reach",
        ),
    ] {
        one_error(&with(text), code, at);
    }
}
