//! POL-90 to POL-92: what vouches for a workload.

use bulla_identity::UnixMillis;
use bulla_policy::{Policy, PolicyDiff, PolicyErrors, Workload};

use crate::shop::nkey;

const AUTHORITY: &str = include_str!("../testdata/authority.pem");
const LEAF: &str = include_str!("../testdata/leaf.pem");

/// A policy with the workload `a`, which attests so, and these `[x509]`.
fn policy(attest: &str, x509: &str) -> String {
    format!(
        "version = 1\ntrust_domain = \"t.example\"\n{x509}\n\
         [workload.a]\nattest = [{attest}]\n"
    )
}

fn mesh(pem: &str) -> String {
    format!("[x509.mesh]\nca = \"\"\"\n{pem}\"\"\"\n")
}

fn own() -> String {
    format!("{{ nkey = \"{}\" }}", nkey(1))
}

fn connects() -> String {
    format!("{{ nkey = \"{}\", vouches = false }}", nkey(1))
}

#[track_caller]
fn refused(text: &str) -> PolicyErrors {
    match Policy::parse("p.toml", text) {
        Ok(_) => panic!("this loaded:\n{text}"),
        Err(errors) => errors,
    }
}

/// Exactly one error, of this kind, on the line that begins so.
#[track_caller]
fn one_error(text: &str, code: &str, line: &str) {
    let errors = refused(text);
    let found: Vec<_> = errors.errors().iter().map(|e| e.code()).collect();
    assert_eq!(found, [code], "{errors}");
    let error = &errors.errors()[0];
    let found = text.lines().nth(error.line() as usize - 1).unwrap();
    assert!(found.starts_with(line), "{errors}");
    assert!(!error.message().is_empty() && !error.remedy().is_empty());
}

#[track_caller]
fn workload(text: &str) -> Workload {
    match Policy::parse("p.toml", text) {
        Ok(policy) => policy.workloads()[0].clone(),
        Err(errors) => panic!("{errors}"),
    }
}

/// How many nkeys connect, and how many nkeys and authorities vouch.
fn counts(workload: &Workload) -> (usize, usize, usize) {
    let anchors = workload.anchors();
    (
        workload.nkeys().len(),
        anchors.nkeys.len(),
        anchors.authorities.len(),
    )
}

#[test]
fn pol_90_any_attestor_of_the_list_vouches() {
    assert_eq!(counts(&workload(&policy(&own(), ""))), (1, 1, 0));
    let both = format!("{}, {{ x509 = \"mesh\" }}", own());
    assert_eq!(
        counts(&workload(&policy(&both, &mesh(AUTHORITY)))),
        (1, 1, 1)
    );
}

#[test]
fn pol_90_an_nkey_may_connect_and_not_vouch() {
    let attest = format!("{}, {{ x509 = \"mesh\" }}", connects());
    let text = policy(&attest, &mesh(AUTHORITY));
    assert_eq!(counts(&workload(&text)), (1, 0, 1));
    let second = format!("{}, {{ nkey = \"{}\" }}", connects(), nkey(2));
    assert_eq!(counts(&workload(&policy(&second, ""))), (2, 1, 0));
    one_error(&policy(&connects(), ""), "nothing_vouches", "attest");
}

#[test]
fn pol_90_an_element_is_an_nkey_or_an_authority() {
    let x509 = mesh(AUTHORITY);
    for element in [
        format!("{{ nkey = \"{}\", x509 = \"mesh\" }}", nkey(2)),
        "{ x509 = \"mesh\", vouches = true }".to_owned(),
    ] {
        let attest = format!("{}, {element}", own());
        one_error(&policy(&attest, &x509), "attestor_both", "attest");
    }
    let wrong = format!("{{ nkey = \"{}\", vouches = \"no\" }}", nkey(1));
    one_error(&policy(&wrong, ""), "wrong_type", "attest");
    let wrong = format!("{}, {{ x509 = [\"mesh\"] }}", own());
    one_error(&policy(&wrong, &x509), "wrong_type", "attest");
}

#[test]
fn pol_91_authorities_are_certificates_that_may_issue_and_nothing_else() {
    let attest = format!("{}, {{ x509 = \"mesh\" }}", own());
    let with = |pem: &str| policy(&attest, &mesh(pem));
    let two = workload(&with(&format!("{AUTHORITY}{AUTHORITY}")));
    assert_eq!(counts(&two), (1, 1, 1));
    let broken = AUTHORITY.replacen("MII", "!!!", 1);
    let section = |label: &str| {
        format!("{AUTHORITY}-----BEGIN {label}-----\nc2VjcmV0\n-----END {label}-----\n")
    };
    for pem in [
        String::new(),
        "not PEM\n".to_owned(),
        broken,
        LEAF.to_owned(),
        section("CERTIFICATE"),
        section("CERTIFICATE REQUEST"),
        AUTHORITY.repeat(17),
    ] {
        one_error(&with(&pem), "x509_ca", "ca = ");
    }
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        let errors = refused(&with(&section(label)));
        assert_eq!(errors.errors()[0].code(), "x509_ca");
        let said = errors.errors()[0].message();
        assert!(said.contains("private key"), "{said}");
        assert!(!errors.to_string().contains("c2VjcmV0"), "{errors}");
    }
    let unread = format!("{}[x509.other]\n", mesh(AUTHORITY));
    one_error(&policy(&attest, &unread), "missing_key", "[x509.other]");
    let more = mesh(AUTHORITY).replace("ca =", "days = 1\nca =");
    one_error(&policy(&attest, &more), "unknown_key", "days");
    let named = mesh(AUTHORITY).replace("mesh", "Mesh");
    let attest = attest.replace("mesh", "Mesh");
    one_error(&policy(&attest, &named), "name", "[x509.Mesh]");
}

#[test]
fn pol_91_names_of_authorities_are_known_and_stand_once() {
    let x509 = mesh(AUTHORITY);
    let attest = format!("{}, {{ x509 = \"mash\" }}", own());
    let errors = refused(&policy(&attest, &x509));
    assert_eq!(errors.errors()[0].code(), "unknown_x509");
    assert!(errors.errors()[0].remedy().contains("`mesh`"));
    let attest = format!("{}, {{ x509 = \"mesh\" }}, {{ x509 = \"mesh\" }}", own());
    one_error(&policy(&attest, &x509), "x509_twice", "attest");
}

#[test]
fn pol_92_certificates_alone_are_enough() {
    let text = policy("{ x509 = \"mesh\" }", &mesh(AUTHORITY));
    assert_eq!(counts(&workload(&text)), (0, 0, 1));
}

#[test]
fn pol_153_a_diff_tells_who_vouches() {
    let read = |attest: &str| {
        let text = policy(attest, &mesh(AUTHORITY));
        Policy::parse("p.toml", &text).unwrap_or_else(|e| panic!("{e}"))
    };
    let both = format!("{}, {{ x509 = \"mesh\" }}", own());
    let now = UnixMillis::from_secs(1_800_000_000);
    let diff = PolicyDiff::between(&read(&own()), &read(&both), now);
    let [setting] = diff.settings.as_slice() else {
        panic!("{diff:?}");
    };
    assert_eq!(
        (setting.table, setting.change.key),
        ("workload", "vouching")
    );
    assert!(setting.change.after.contains("certificate "), "{setting:?}");
}
