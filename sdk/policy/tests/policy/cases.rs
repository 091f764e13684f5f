//! Files of cases: what they ask, and what is told of the answers.

use crate::shop::{parse, rule};
use bulla_identity::UnixMillis;
use bulla_policy::{Cases, Complaint, Policy, TestReport};

const NOW: UnixMillis = UnixMillis::from_secs(1_700_000_000);

fn policy() -> Policy {
    let rules = rule(
        "allow",
        "creates",
        &["checkout"],
        &["request"],
        &["orders.{t}.create"],
    ) + "user = { scope = \"orders:write\", tenant = \"{t}\" }\n"
        + &rule("deny", "robots", &["checkout"], &["request"], &["orders.>"])
        + "user = { kind = \"robot\" }\n"
        + &rule("allow", "serves", &["orders"], &["serve"], &["orders.>"])
        + &rule("allow", "inside", &["cart"], &["publish"], &["stock.low"])
        + "network = [\"10.0.0.0/8\"]\n"
        + &rule("allow", "by-day", &["mail"], &["publish"], &["mail.sent"])
        + "time = { from = \"08:00\", to = \"18:00\" }\n"
        + &rule("allow", "maybe", &["mail"], &["publish"], &["mail.lost"])
        + "shadow = true\n";
    parse(&rules)
}

const USERS: &str = r#"
[user.alice]
scope = "orders:write"
tenant = "acme"

[user.robot]
scope = "orders:write"
tenant = "acme"
kind = "robot"
"#;

#[track_caller]
fn run(cases: &str) -> TestReport {
    let cases = Cases::parse("shop.cases.toml", &format!("{USERS}{cases}"))
        .unwrap_or_else(|e| panic!("{e}"));
    policy().test(&[&cases], NOW)
}

#[test]
fn pol_155_a_case_asks_about_each_of_its_words() {
    let report = run(r#"
        [[case]]
        who = "checkout"
        may = ["request"]
        on = ["orders.acme.create", "orders.other.create"]
        user = ["alice", "robot", "nobody"]
        expect = "deny"
    "#);
    assert_eq!(report.asked.len(), 6);
    let wrong: Vec<_> = report.failures().collect();
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0].user, "alice");
    assert_eq!(wrong[0].on.as_str(), "orders.acme.create");
    assert_eq!(wrong[0].complaints, [Complaint::Verdict { got: true }]);
    assert_eq!(wrong[0].place.line(), 11);
}

#[test]
fn pol_156_rule_reason_and_claim_have_to_be_the_expected_ones() {
    let good = run(r#"
        [[case]]
        who = "checkout"
        may = "request"
        on = "orders.acme.create"
        user = "alice"
        expect = "allow"
        rule = "creates"

        [[case]]
        who = "checkout"
        may = "request"
        on = "orders.acme.create"
        user = { tenant = "acme" }
        expect = "deny"
        reason = "condition_failed"
        claim = "scope"
        rule = "creates"

        [[case]]
        who = "checkout"
        may = "request"
        on = "orders.acme.create"
        user = "robot"
        expect = "deny"
        reason = "denied_by_rule"
        rule = "robots"
    "#);
    assert_eq!(good.failures().count(), 0, "{:?}", good.asked);
    for (more, want) in [
        (
            "rule = \"robots\"",
            "expected rule `robots`, and it is `creates`",
        ),
        ("rule = \"nothing\"", "the policy has no rule `nothing`"),
        (
            "reason = \"not_granted\"",
            "expected reason `not_granted`, and it is `condition_failed`",
        ),
        (
            "claim = \"tenant\"",
            "expected the claim `tenant` to fail, and `scope` did",
        ),
        (
            "would = \"allow\"",
            "expected that the rules in shadow would allow, and they would change nothing",
        ),
    ] {
        let report = run(&format!(
            "[[case]]\nwho = \"checkout\"\nmay = \"request\"\non = \"orders.acme.create\"\nuser = {{ tenant = \"acme\" }}\nexpect = \"deny\"\n{more}\n"
        ));
        let complaints: Vec<_> = report.asked[0]
            .complaints
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(complaints, [want]);
    }
}

/// A deny is expected, and a slip in a name would always give one.
#[test]
fn pol_156_a_case_about_nobody_proves_nothing() {
    let case = "[[case]]\nwho = \"chekcout\"\nmay = \"publish\"\non = \"a\"\nexpect = \"deny\"\n";
    assert!(matches!(
        run(case).asked[0].complaints[..],
        [Complaint::UnknownWorkload(_)]
    ));
    let meant = format!("{case}reason = \"unknown_workload\"\n");
    assert_eq!(run(&meant).failures().count(), 0);
}

#[test]
fn pol_157_time_network_and_shadow_are_part_of_the_question() {
    let report = run(r#"
        [[case]]
        who = "cart"
        may = "publish"
        on = "stock.low"
        from = "10.1.2.3"
        expect = "allow"

        [[case]]
        who = "cart"
        may = "publish"
        on = "stock.low"
        from = "192.0.2.1"
        expect = "deny"
        reason = "other_network"
        rule = "inside"

        [[case]]
        who = "mail"
        may = "publish"
        on = "mail.sent"
        at = 2026-11-27T09:00:00Z
        expect = "allow"

        [[case]]
        who = "mail"
        may = "publish"
        on = "mail.sent"
        at = "2026-11-27T18:00:00Z"
        expect = "deny"
        reason = "outside_time"

        [[case]]
        who = "mail"
        may = "publish"
        on = "mail.lost"
        expect = "deny"
        would = "allow"

        [[case]]
        who = "orders"
        may = "serve"
        on = ["orders.>", "orders.*.create"]
        expect = "allow"
        rule = "serves"
    "#);
    let wrong: Vec<_> = report.failures().map(|a| (&a.on, &a.complaints)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn pol_158_coverage_names_what_was_not_tried() {
    let report = run(r#"
        [[case]]
        who = "checkout"
        may = "request"
        on = ["orders.acme.create", "orders.other.create"]
        user = "alice"
        expect = "allow"
    "#);
    let missing: Vec<_> = report.coverage.missing().map(|r| r.id.as_str()).collect();
    assert_eq!(missing, ["by-day", "inside", "maybe", "robots", "serves"]);
    assert_eq!(report.coverage.percent(), 16);
    let creates = report
        .coverage
        .rules
        .iter()
        .find(|r| r.id == "creates")
        .unwrap();
    assert_eq!(creates.applied, 1);
    assert_eq!(creates.never_held, Vec::<String>::new());
    assert_eq!(creates.never_failed, ["scope holds \"orders:write\""]);
}

#[test]
fn pol_155_every_error_of_a_file_of_cases_has_its_place() {
    let errors = Cases::parse(
        "x.cases.toml",
        r#"
[user.nobody]
a = 1

[user.alice]
born = 2000-01-01

[[case]]
who = "Checkout"
may = ["request", "fly"]
on = "orders.*.create"
user = "alise"
expect = "maybe"
at = "noon"
from = "here"
colour = "red"

[[case]]
who = "cart"
may = "publish"
on = []
expect = "allow"
reason = "not_granted"
"#,
    )
    .unwrap_err();
    let codes: Vec<_> = errors
        .errors()
        .iter()
        .map(|e| (e.line(), e.code()))
        .collect();
    assert_eq!(
        codes,
        [
            (2, "unknown_value"),
            (6, "wrong_type"),
            (9, "name"),
            (10, "unknown_verb"),
            (11, "case_subject"),
            (12, "case_user"),
            (13, "unknown_value"),
            (14, "date"),
            (15, "network"),
            (16, "unknown_key"),
            (21, "empty_list"),
            (23, "case_reason"),
        ],
        "{errors}"
    );
    let errors = Cases::parse("x.cases.toml", "policy = \"p.toml\"").unwrap_err();
    assert_eq!(errors.errors()[0].code(), "missing_key");
    assert!(Cases::parse("x", "\0").is_err());
    assert!(Cases::parse("x", &"#".repeat(5 << 20)).is_err());
}
