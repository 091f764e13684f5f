//! POL-180 to POL-187: tokens that prove workloads, and how workloads may connect.

use std::time::Duration;

use bulla_identity::{Claims, UnixMillis};
use bulla_policy::{IssuerKeys, Policy, PolicyDiff, PolicyErrors, Workload};
use serde_json::{Value, json};

use crate::shop::nkey;

const HEAD: &str = "version = 1\ntrust_domain = \"t.example\"\n";
const CLUSTER: &str = "[jwt.cluster]\nissuer = \"https://k.example\"\naudience = \"bulla\"\n";

fn policy(jwt: &str, workload: &str) -> String {
    format!("{HEAD}{jwt}[workload.a]\n{workload}\n")
}

fn attest(attestor: &str) -> String {
    policy(CLUSTER, &format!("attest = [{attestor}]"))
}

#[track_caller]
fn loads(text: &str) -> Policy {
    Policy::parse("p.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn first(text: &str) -> Workload {
    loads(text).workloads()[0].clone()
}

fn codes(errors: &PolicyErrors) -> Vec<&str> {
    errors.errors().iter().map(|e| e.code()).collect()
}

#[track_caller]
fn one_error(text: &str, code: &str) {
    match Policy::parse("p.toml", text) {
        Ok(_) => panic!("this loaded:\n{text}"),
        Err(errors) => {
            assert_eq!(codes(&errors), [code], "{errors}");
            let error = &errors.errors()[0];
            assert!(!error.message().is_empty() && !error.remedy().is_empty());
        }
    }
}

fn claims(value: Value) -> Claims {
    match value {
        Value::Object(map) => Claims::from_map(map),
        _ => panic!("no object"),
    }
}

#[test]
fn pol_180_an_issuer_has_a_name_an_audience_and_keys() {
    let vouched = "{ jwt = \"cluster\", vouches = true }";
    let workload = first(&attest(vouched));
    let issuer = workload.tokens()[0].issuer();
    assert_eq!(
        (issuer.issuer(), issuer.audience()),
        ("https://k.example", "bulla")
    );
    assert_eq!(*issuer.keys(), IssuerKeys::Discovered);
    assert_eq!(issuer.max_life(), Duration::from_secs(86_400));
    assert_eq!(issuer.algorithms().count(), 9);
    let with = |more: &str| {
        policy(
            &format!("{CLUSTER}{more}\n"),
            &format!("attest = [{vouched}]"),
        )
    };
    let keys = |text: &str| first(text).tokens()[0].issuer().keys().clone();
    let at = "jwks_url = \"https://k.example/keys\"";
    assert_eq!(
        keys(&with(at)),
        IssuerKeys::At("https://k.example/keys".into())
    );
    let fixed = "jwks = '''{\"keys\":[{\"kty\":\"OKP\"}]}'''";
    assert!(matches!(keys(&with(fixed)), IssuerKeys::Fixed(_)));
    for (more, code) in [
        (format!("{at}\n{fixed}"), "jwt_keys_twice"),
        ("jwks_url = \"http://k.example\"".to_owned(), "jwt_url"),
        ("jwks_url = \"https://u:p@k.example\"".to_owned(), "jwt_url"),
        ("jwks_url = \"file:///etc/passwd\"".to_owned(), "jwt_url"),
        ("jwks_url = \"https:///keys\"".to_owned(), "jwt_url"),
        ("jwks = \"{}\"".to_owned(), "jwt_keys"),
        ("jwks = '''{\"keys\":[]}'''".to_owned(), "jwt_keys"),
        (
            "jwks = '''{\"keys\":[{\"d\":\"x\"}]}'''".to_owned(),
            "jwt_secret_keys",
        ),
        (
            "jwks = '''{\"keys\":[{\"kty\":\"oct\",\"k\":\"x\"}]}'''".to_owned(),
            "jwt_secret_keys",
        ),
        ("algorithms = [\"HS256\"]".to_owned(), "jwt_algorithm"),
        ("algorithms = [\"none\"]".to_owned(), "jwt_algorithm"),
        ("algorithms = []".to_owned(), "empty_list"),
        ("max_life = \"30s\"".to_owned(), "jwt_max_life"),
        ("max_life = \"2\"".to_owned(), "jwt_max_life"),
        ("ca = \"x\"".to_owned(), "x509_ca"),
        ("typ = \"any\"".to_owned(), "unknown_key"),
    ] {
        one_error(&with(&more), code);
    }
    let without = |line: &str| attest(vouched).replace(line, "");
    one_error(&without("audience = \"bulla\"\n"), "missing_key");
    one_error(&without("issuer = \"https://k.example\"\n"), "missing_key");
    one_error(&attest(vouched).replace("\"bulla\"", "\"\""), "jwt_text");
    one_error(
        &attest(vouched).replace("https://k.example", "k.example"),
        "jwt_url",
    );
    // A secret is not repeated.
    let secret = with("jwks = '''{\"keys\":[{\"k\":\"c2VjcmV0\"}]}'''");
    let errors = Policy::parse("p", &secret).unwrap_err();
    assert!(!errors.errors()[0].message().contains("c2VjcmV0"));
}

#[test]
fn pol_181_which_tokens_are_a_workloads() {
    let proof = |attestor: &str| first(&attest(attestor)).tokens()[0].clone();
    let own = proof("{ jwt = \"cluster\", vouches = true }");
    assert_eq!(own.subject(), "spiffe://t.example/a");
    let account = proof("{ jwt = \"cluster\", k8s = \"shop/cart.v2\", vouches = true }");
    assert_eq!(account.subject(), "system:serviceaccount:shop:cart.v2");
    let told = proof(
        "{ jwt = \"cluster\", sub = \"repo:x\", claims = { ref = \"main\", g = \"b\" }, vouches = true }",
    );
    let fits = |value: Value| told.fits(&claims(value));
    assert!(fits(
        json!({ "sub": "repo:x", "ref": "main", "g": ["a", "b"] })
    ));
    for bad in [
        json!({ "sub": "repo:x", "ref": "main" }),
        json!({ "sub": "repo:x", "ref": "main", "g": "bb" }),
        json!({ "sub": "repo:x", "ref": "main.", "g": "b" }),
        json!({ "sub": "repo:y", "ref": "main", "g": "b" }),
        json!({ "ref": "main", "g": "b" }),
        json!({ "sub": ["repo:x"], "ref": "main", "g": "b" }),
    ] {
        assert!(!fits(bad.clone()), "{bad}");
    }
    for (attestor, code) in [
        (
            "{ jwt = \"cluster\", sub = \"x\", k8s = \"a/b\", vouches = true }",
            "jwt_subject_twice",
        ),
        (
            "{ jwt = \"cluster\", k8s = \"a\", vouches = true }",
            "service_account",
        ),
        (
            "{ jwt = \"cluster\", k8s = \"a/b:c\", vouches = true }",
            "service_account",
        ),
        (
            "{ jwt = \"cluster\", k8s = \"a/b/c\", vouches = true }",
            "service_account",
        ),
        (
            "{ jwt = \"cluster\", k8s = \"A/b\", vouches = true }",
            "service_account",
        ),
        (
            "{ jwt = \"cluster\", k8s = \"a.b/c\", vouches = true }",
            "service_account",
        ),
        (
            "{ jwt = \"cluster\", sub = \"\", vouches = true }",
            "jwt_text",
        ),
        (
            "{ jwt = \"cluster\", sub = \"a\\u0000\", vouches = true }",
            "jwt_text",
        ),
        (
            "{ jwt = \"cluster\", claims = { a = 1 }, vouches = true }",
            "wrong_type",
        ),
        ("{ jwt = \"clustre\", vouches = true }", "unknown_jwt"),
        ("{ sub = \"x\" }", "attestor_misplaced"),
    ] {
        let text = attest(attestor);
        let errors = Policy::parse("p", &text).unwrap_err();
        assert!(codes(&errors).contains(&code), "{attestor}: {errors}");
    }
    let two = format!("{{ nkey = \"{}\", jwt = \"cluster\" }}", nkey(1));
    one_error(&attest(&two), "attestor_both");
}

#[test]
fn pol_182_one_account_is_one_workload() {
    let second = "[jwt.other]\nissuer = \"https://k.example\"\naudience = \"more\"\n";
    let text = |other: &str| {
        format!(
            "{HEAD}{CLUSTER}{second}[workload.a]\nattest = [{{ jwt = \"cluster\", k8s = \"s/a\", vouches = true }}]\n\
             [workload.b]\nattest = [{other}]\n"
        )
    };
    one_error(
        &text("{ jwt = \"cluster\", k8s = \"s/a\", vouches = true }"),
        "jwt_proof_twice",
    );
    // By another name of the same issuer, and whatever else it says.
    one_error(
        &text("{ jwt = \"other\", sub = \"system:serviceaccount:s:a\", vouches = true }"),
        "jwt_proof_twice",
    );
    one_error(
        &text("{ jwt = \"cluster\", k8s = \"s/a\", claims = { x = \"y\" }, vouches = true }"),
        "jwt_proof_twice",
    );
    loads(&text("{ jwt = \"other\", k8s = \"s/b\", vouches = true }"));
    // One workload may have several.
    let several = "attest = [{ jwt = \"cluster\", k8s = \"s/a\", claims = { x = \"1\" }, vouches = true }, { jwt = \"cluster\", k8s = \"s/a\", claims = { x = \"2\" } }]";
    assert_eq!(first(&policy(CLUSTER, several)).tokens().len(), 2);
}

#[test]
fn pol_183_a_brokers_word_is_asked_for() {
    one_error(&attest("{ jwt = \"cluster\" }"), "nothing_vouches");
    assert!(
        first(&attest("{ jwt = \"cluster\", vouches = true }"))
            .anchors()
            .brokers
    );
    let both = format!("{{ nkey = \"{}\" }}, {{ jwt = \"cluster\" }}", nkey(1));
    let workload = first(&attest(&both));
    assert!(!workload.anchors().brokers);
    assert_eq!(workload.anchors().nkeys.len(), 1);
}

#[test]
fn pol_185_who_has_no_nkey_receives_nothing_encrypted() {
    let text = |verb: &str, subject: &str, attest: &str| {
        format!(
            "{HEAD}{CLUSTER}[workload.a]\nattest = [{attest}]\n[subject.\"secret.>\"]\nprotect = \"encrypted\"\n\
             [[allow]]\nid = \"r\"\nwho = [\"a\"]\nmay = [\"{verb}\"]\non = [\"{subject}\"]\n"
        )
    };
    let token = "{ jwt = \"cluster\", vouches = true }";
    for (verb, subject) in [
        ("subscribe", "secret.x"),
        ("serve", "secret.{t}"),
        ("serve", "secret.>"),
    ] {
        one_error(&text(verb, subject, token), "no_key_to_read");
        let own = format!("{token}, {{ nkey = \"{}\", vouches = false }}", nkey(1));
        loads(&text(verb, subject, &own));
    }
    // It may send there, and have its answers encrypted to its process.
    loads(&text("request", "secret.x", token));
    loads(&text("publish", "secret.x", token));
    loads(&text("serve", "open.x", token));
    let claim = format!(
        "{HEAD}{CLUSTER}[workload.a]\nattest = [{token}]\n[claims.email]\nreaders = [\"a\"]\n"
    );
    one_error(&claim, "no_key_for_claim");
}

#[test]
fn pol_186_how_a_workload_may_connect() {
    let own = format!("attest = [{{ nkey = \"{}\" }}]", nkey(1));
    let text = |more: &str| policy("", &format!("{own}\n{more}"));
    let plain = first(&text(""));
    assert!(plain.networks().is_none());
    assert!(plain.protocols().nats && !plain.protocols().websocket);
    let narrow = first(&text(
        "network = [\"10.0.0.0/8\"]\nprotocol = [\"websocket\"]",
    ));
    assert!(
        narrow
            .networks()
            .unwrap()
            .contain("10.0.0.1".parse().unwrap())
    );
    assert!(!narrow.protocols().nats && narrow.protocols().websocket);
    one_error(&text("protocol = [\"mqtt\"]"), "protocol");
    one_error(&text("protocol = []"), "empty_list");
    one_error(&text("network = [\"10.0.0.1/8\"]"), "network");
}

#[test]
fn what_proves_a_workload_is_a_difference() {
    let before = loads(&attest(
        "{ jwt = \"cluster\", k8s = \"s/a\", vouches = true }",
    ));
    for after in [
        attest("{ jwt = \"cluster\", k8s = \"s/b\", vouches = true }"),
        attest("{ jwt = \"cluster\", k8s = \"s/a\", claims = { x = \"y\" }, vouches = true }"),
        attest("{ jwt = \"cluster\", k8s = \"s/a\", vouches = true }")
            .replace("\"bulla\"", "\"b\""),
        format!(
            "{}network = [\"10.0.0.0/8\"]\n",
            attest("{ jwt = \"cluster\", k8s = \"s/a\", vouches = true }")
        ),
        format!(
            "{}protocol = [\"websocket\"]\n",
            attest("{ jwt = \"cluster\", k8s = \"s/a\", vouches = true }")
        ),
    ] {
        let diff = PolicyDiff::between(
            &before,
            &loads(&after),
            UnixMillis::from_secs(1_800_000_000),
        );
        assert!(!diff.settings.is_empty(), "{after}");
    }
}
