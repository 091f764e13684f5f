//! What `bulla policy import` takes over, beside the nats-server that it was
//! taken from.

use bulla_identity::{Subject, SubjectPattern, TrustDomain, WorkloadId, WorkloadName};
use bulla_policy::{Policy, Verb};
use bulla_policy_tools::{ImportOptions, import};

use crate::client::{DOMAIN, Server};

/// Everything that is easy to read another way than nats-server does.
const TRICKY: &str = r#"
listen: 127.0.0.1:4222
authorization {
  base = { publish = ["a.*", "b.>"], subscribe = { allow = ["a.>", "_INBOX.>"], deny = ["a.secret", "a.*.deep"] } }
  default_permissions = { pub: "only.this" }
  users = [
    {user: base, password: p, permissions: $base}
    {user: all, password: p, permissions: {}}
    {user: usual, password: p}
    {user: denied, password: p, permissions: {publish: {deny: "a.>"}, subscribe: {allow: [], deny: ["b.>", "*.secret"]}}}
    {user: service, password: p, permissions: {sub: "a.req", allow_responses: true}}
    {user: poor, password: p, permissions: {publish: {deny: ">"}, subscribe: "c"}}
    {user: grouped, password: p, permissions: {subscribe: {allow: ["a.work team", "a.plain"]}}}
    {user: stars, password: p, permissions: {publish: ["*", "*.x"], subscribe: ["a.*", "a.b.c"]}}
  ]
}
"#;

fn universe() -> Vec<Subject> {
    let mut out: Vec<String> = [
        "a", "b", "c", "foo", "bar", "baz", "foo.bar", "req.foo", "req.a",
    ]
    .map(str::to_owned)
    .to_vec();
    for first in ["a", "b", "z"] {
        for second in ["x", "req", "secret", "work", "plain", "b"] {
            out.push(format!("{first}.{second}"));
            out.push(format!("{first}.{second}.deep"));
            out.push(format!("{first}.{second}.c"));
        }
    }
    out.extend(
        [
            "only.this",
            "PUBLIC.x.y",
            "SANDBOX.x",
            "SANDBOX.x.y",
            "my.service.req",
            "q",
            "x",
            "client.x",
        ]
        .map(str::to_owned),
    );
    out.iter()
        .map(|text| Subject::parse(text).unwrap())
        .collect()
}

async fn compare(name: &str, source: &str, users: &[(&str, &str)]) {
    let source = source.replace("127.0.0.1:4222", "127.0.0.1:-1");
    let options = ImportOptions {
        trust_domain: TrustDomain::parse(DOMAIN).unwrap(),
        account: None,
        roots: Vec::new(),
    };
    let imported = import(&source, &options).unwrap();
    let policy = Policy::parse(name, &imported.policy).unwrap();
    let server = Server::start_config(&source).await;
    let (mut allowed, mut lost) = (0, 0);
    for (user, password) in users {
        let workload = WorkloadId::new(policy.trust_domain(), &WorkloadName::parse(user).unwrap());
        let mut client = server.connect_as(user, password);
        for subject in universe() {
            let named = imported.left_out.iter().any(|one| {
                let meets =
                    |what: &str| SubjectPattern::parse(what).is_ok_and(|p| p.matches(&subject));
                one.is_lost() && one.user() == Some(user) && meets(one.what())
            });
            let text = subject.as_str();
            let may = |verb| policy.may_ever(&workload, verb, &subject);
            for (verb, at_server) in [
                (Verb::Publish, client.publish(text)),
                (Verb::Subscribe, client.subscribe(text, "").is_some()),
            ] {
                let here = may(verb);
                assert!(at_server || !here, "{name}: {user} may {verb} {text} now");
                assert!(
                    named || here || !at_server,
                    "{name}: {user} lost {verb} {text} without a word"
                );
                allowed += u32::from(here);
                lost += u32::from(at_server && !here);
            }
            // Who served in a group of some name serves in one of its own.
            let grouped = client.subscribe(text, "team").is_some();
            assert!(
                grouped || !may(Verb::Serve),
                "{name}: {user} may serve {text} now"
            );
        }
    }
    assert!(allowed > 0, "{name}");
    println!("{name}: {allowed} allowed on both sides, {lost} left out by name");
}

#[tokio::test]
async fn pol_147_import_widens_nothing_that_nats_server_enforces() {
    let users = [
        "base", "all", "usual", "denied", "service", "poor", "grouped", "stars",
    ];
    let users: Vec<_> = users.iter().map(|user| (*user, "p")).collect();
    compare("tricky", TRICKY, &users).await;
}

#[tokio::test]
async fn pol_147_the_samples_import_as_nats_server_reads_them() {
    let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
        println!("not run: BULLA_VECTORS is not set");
        return;
    };
    let file = std::path::Path::new(&dir).join("policy/acl_samples.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let samples: &[(&str, &[(&str, &str)])] = &[
        (
            "nats-server server/configs/authorization.conf",
            &[
                ("alice", "foo"),
                ("bob", "bar"),
                ("susan", "baz"),
                ("svca", "pc"),
                ("svcb", "sam"),
            ],
        ),
        (
            "nats-server server/configs/new_style_authorization.conf",
            &[("alice", "foo"), ("bob", "special")],
        ),
        (
            "nats.docs authorization.md block 1",
            &[("admin", "secret"), ("test", "test")],
        ),
        (
            "nats.docs authorization.md block 2",
            &[("a", "a"), ("b", "b"), ("c", "c"), ("d", "d")],
        ),
    ];
    for (name, users) in samples {
        let sample = text.split("##### ").find(|s| s.starts_with(name)).unwrap();
        let (_, body) = sample.split_once('\n').unwrap();
        let body = match body.contains("listen:") {
            true => body.to_owned(),
            false => format!("listen: 127.0.0.1:4222\n{body}"),
        };
        compare(name, &body, users).await;
    }
}
