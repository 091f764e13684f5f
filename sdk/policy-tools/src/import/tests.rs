//! What the source allowed is what the policy allows, but for what is named.

use bulla_identity::{Subject, SubjectPattern, UnixMillis, WorkloadId};
use bulla_policy::{Policy, Verb};
use proptest::prelude::*;

use super::*;

fn options() -> ImportOptions {
    ImportOptions {
        trust_domain: TrustDomain::parse("acme.example").unwrap(),
        account: None,
        roots: Vec::new(),
    }
}

fn codes(imported: &Imported) -> Vec<(u32, &str, &str)> {
    let out = imported.left_out.iter();
    out.map(|one| (one.line(), one.what(), one.why().code()))
        .collect()
}

#[test]
fn pol_147_users_become_workloads_with_their_rules() {
    let source = r#"
authorization {
  requestor = { publish = ["req.a", "req.b"], subscribe = "_INBOX.>" }
  default_permissions = { publish = "SANDBOX.*", subscribe = ["PUBLIC.>", "_INBOX.>"] }
  users = [
    {user: "Client One", password: $PASS, permissions: $requestor}
    {user: two, password: x, permissions: $requestor}
    {nkey: UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX}
  ]
}"#;
    let imported = import(source, &options()).unwrap();
    let want = r#"[workload.client-one]"#;
    assert!(imported.policy.contains(want), "{}", imported.policy);
    assert!(imported.policy.contains("who = [\"client-one\", \"two\"]\nmay = [\"publish\", \"request\"]\non = [\"req.a\", \"req.b\"]"), "{}", imported.policy);
    assert!(imported.policy.contains("[workload.user-c6nlcn7a]\nattest = [{ nkey = \"UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX\" }]\n"));
    assert!(
        imported
            .policy
            .contains("may = [\"subscribe\"]\non = [\"PUBLIC.>\"]")
    );
    assert_eq!(
        codes(&imported),
        [
            (3, "_INBOX.>", "inbox"),
            (3, "_INBOX.>", "inbox"),
            (4, "_INBOX.>", "inbox"),
            (6, "password", "password"),
            (7, "password", "password"),
        ]
    );
}

#[test]
fn pol_147_every_sample_imports_or_says_why_not() {
    let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
        println!("not run: BULLA_VECTORS is not set");
        return;
    };
    let file = std::path::Path::new(&dir).join("policy/acl_samples.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let mut seen = Vec::new();
    for sample in text.split("##### ").skip(1) {
        let (title, body) = sample.split_once('\n').unwrap();
        let name = title.split(" (").next().unwrap();
        let outcome = match import(body, &options()) {
            Ok(imported) => {
                let loaded = Policy::check(name, &imported.policy, UnixMillis::from_secs(0));
                assert!(loaded.is_ok(), "{name}: {}\n{loaded:?}", imported.policy);
                assert_eq!(crate::format(&imported.policy).unwrap(), imported.policy);
                "loads"
            }
            Err(error) => error.code(),
        };
        seen.push((name.rsplit('/').next().unwrap().to_owned(), outcome));
    }
    let seen: Vec<_> = seen.iter().map(|(name, o)| (name.as_str(), *o)).collect();
    assert_eq!(
        seen,
        [
            // Permissions without users, which another file has.
            ("auths.conf", "no_users"),
            ("authorization.conf", "loads"),
            ("new_style_authorization.conf", "loads"),
            // Permissions of servers.
            ("srv_a_perms.conf", "no_users"),
            ("accounts.conf", "several_accounts"),
            ("nats.docs authorization.md block 0", "loads"),
            ("nats.docs authorization.md block 1", "loads"),
            ("nats.docs authorization.md block 2", "loads"),
            // A brace is missing in it.
            ("nats.docs authorization.md block 3", "config"),
            // Not nats-server's.
            ("mosquitto aclfile.example", "config"),
        ]
    );
}

#[test]
fn pol_147_an_account_is_a_world_of_its_own() {
    let source = "accounts: {\n A: { users: [{user: a, password: x, permissions: {publish: a.b}}]\n exports: [{stream: \"a.>\"}] }\n B: { users: [{user: b, password: x}] } }";
    let error = import(source, &options()).unwrap_err();
    assert_eq!(
        error,
        ImportError::SeveralAccounts(vec!["A".into(), "B".into()])
    );
    let of = |account: &str| {
        let account = Some(account.to_owned());
        import(
            source,
            &ImportOptions {
                account,
                ..options()
            },
        )
    };
    let a = of("A").unwrap();
    assert!(a.policy.contains("a-sends") && !a.policy.contains("workload.b"));
    assert!(codes(&a).contains(&(3, "exports", "account_link")));
    assert_eq!(of("C").unwrap_err().code(), "no_such_account");
}

#[test]
fn pol_147_what_cannot_be_denied_is_not_granted() {
    let source = "users: [{user: a, password: x, permissions: {publish: {allow: [\"a.>\", \"b\"], deny: [\"a.{x}\"]}, subscribe: c}}]";
    let imported = import(source, &options()).unwrap();
    assert!(!imported.policy.contains("sends"), "{}", imported.policy);
    assert!(
        imported.policy.contains("on = [\"c\"]"),
        "{}",
        imported.policy
    );
    let source = "users: [{user: a, password: x, permissions: {publish: [[a]], subscribe: {allow: \"c\", deny: $nowhere}}}]";
    let imported = import(source, &options()).unwrap();
    assert!(
        !imported.policy.contains("[[allow]]"),
        "{}",
        imported.policy
    );
}

/// What is elsewhere may say less than nothing does here.
#[test]
fn pol_147_what_an_included_file_may_say_is_not_granted() {
    for source in [
        "authorization {\n include \"perms.conf\"\n users = [{user: a, password: x}] }",
        "users: [{user: a, password: x, include \"perms.conf\" }]",
        "users: [{user: a, password: x, permissions: {include \"perms.conf\"}}]",
        "users: [{user: a, password: x, permissions: {publish: {include \"p.conf\"}, subscribe: {include \"p.conf\"}}}]",
        "users: [{user: a, password: x, permissions: $elsewhere}]",
        "users: [{user: a, password: x, permissions: {publish: $elsewhere, subscribe: []}}, {user: b, password: x, permissions: {publish: b, subscribe: b, allow_responses: yes}}]",
    ] {
        let imported = import(source, &options()).unwrap();
        if source.contains("include") {
            assert!(
                codes(&imported)
                    .iter()
                    .any(|(_, _, code)| *code == "include"),
                "{source}"
            );
        }
        let grants = imported.policy.matches("\"a\"]").count();
        assert_eq!(
            grants,
            usize::from(source.contains("subscribe: []")),
            "{source}\n{}",
            imported.policy
        );
    }
    // Who may respond may publish nothing else.
    for yes in ["true", "yes", "on", "TRUE", "{max: 1}"] {
        let source = format!(
            "users: [{{user: a, password: x, permissions: {{sub: c, allow_responses: {yes}}}}}]"
        );
        let imported = import(&source, &options()).unwrap();
        assert!(!imported.policy.contains("sends"), "{}", imported.policy);
        assert!(imported.policy.contains("\"serve\""), "{}", imported.policy);
    }
}

#[test]
fn pol_147_what_grows_too_large_is_refused() {
    let roots: Vec<String> = (0..3_000).map(|i| format!("\"t{i}.x\"")).collect();
    let user = "{user: a, password: x, permissions: {publish: [\"*\", \">\"]}}\n";
    let source = format!(
        "users: [{}{{user: b, password: y, permissions: {{publish: [{}]}}}}]",
        user.repeat(50),
        roots.join(",")
    );
    let error = import(&source, &options()).unwrap_err();
    assert_eq!(error.code(), "too_large");
}

/// Everything of up to three tokens over two letters, and some that a wildcard
/// reaches and nothing names.
fn universe() -> Vec<String> {
    let letters = ["a", "b", "c"];
    let mut all: Vec<String> = letters.map(str::to_owned).to_vec();
    for x in letters {
        for y in letters {
            all.push(format!("{x}.{y}"));
            all.extend(letters.map(|z| format!("{x}.{y}.{z}")));
        }
    }
    all
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just("*")];
    (proptest::collection::vec(token, 1..4), 0..4u8).prop_map(|(mut tokens, rest)| {
        if rest == 0 {
            tokens.pop();
            tokens.push(">");
        }
        tokens.join(".")
    })
}

#[derive(Debug, Clone)]
struct Given {
    publish: (Vec<String>, Vec<String>),
    subscribe: (Vec<String>, Vec<String>),
    responses: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let list = || proptest::collection::vec(pattern(), 0..4);
    ((list(), list()), (list(), list()), any::<bool>()).prop_map(
        |(publish, subscribe, responses)| Given {
            publish,
            subscribe,
            responses,
        },
    )
}

fn write(users: &[Given]) -> String {
    let list = |patterns: &[String]| format!("{patterns:?}");
    let mut out = String::from("authorization: { users: [\n");
    for (i, given) in users.iter().enumerate() {
        let (pa, pd) = &given.publish;
        let (sa, sd) = &given.subscribe;
        out.push_str(&format!(
            "{{user: u{i}, password: x, permissions: {{publish: {{allow: {}, deny: {}}}, subscribe: {{allow: {}, deny: {}}}, allow_responses: {}}}}}\n",
            list(pa), list(pd), list(sa), list(sd), given.responses
        ));
    }
    out + "]}"
}

/// As nats-server reads it: an empty allow list is everything, unless replies
/// are all that may be published.
fn allows((allow, deny): &(Vec<String>, Vec<String>), none: bool, subject: &str) -> bool {
    let meets = |list: &[String]| {
        let mut patterns = list.iter().map(|p| SubjectPattern::parse(p).unwrap());
        patterns.any(|p| p.matches_str(subject))
    };
    let allowed = if allow.is_empty() {
        !none
    } else {
        meets(allow)
    };
    allowed && !meets(deny)
}

proptest! {
    #[test]
    fn pol_147_nothing_is_widened_and_what_is_lost_is_named(users in proptest::collection::vec(given(), 1..4)) {
        let imported = import(&write(&users), &options()).unwrap();
        let policy = Policy::parse("imported", &imported.policy).unwrap();
        for (i, given) in users.iter().enumerate() {
            let user = format!("u{i}");
            let name = WorkloadName::parse(&user).unwrap();
            let workload = WorkloadId::new(policy.trust_domain(), &name);
            for text in universe() {
                let subject = Subject::parse(&text).unwrap();
                let may = |verb| policy.may_ever(&workload, verb, &subject);
                let sent = allows(&given.publish, given.responses, &text);
                let heard = allows(&given.subscribe, false, &text);
                prop_assert!(sent || !(may(Verb::Publish) || may(Verb::Request)), "{user} sends {text}\n{}", imported.policy);
                prop_assert!(heard || !(may(Verb::Subscribe) || may(Verb::Serve)), "{user} hears {text}\n{}", imported.policy);
                let named = imported.left_out.iter().any(|one| {
                    one.is_lost()
                        && one.user() == Some(&user)
                        && SubjectPattern::parse(one.what()).is_ok_and(|p| p.matches(&subject))
                });
                prop_assert!(named || sent == may(Verb::Publish), "{user} publish {text}: {:?}\n{}", imported.left_out, imported.policy);
                prop_assert!(named || heard == may(Verb::Subscribe), "{user} subscribe {text}: {:?}\n{}", imported.left_out, imported.policy);
            }
        }
    }

    #[test]
    fn any_text_is_imported_or_refused(text in "[\\[\\]{}:=,#\"'$a-z \n>*._]{0,80}") {
        let _ = import(&text, &options());
        let _ = import(&format!("users: [{{user: a, permissions: {{publish: [{text}]}}}}]"), &options());
    }
}
