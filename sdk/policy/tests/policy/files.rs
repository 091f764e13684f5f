//! Policies of several files (POL-8, POL-9).

use bulla_policy::{Policy, PolicyErrors, join_sources};

use crate::shop::{head, id, nkey, rule};

fn team(more: &str) -> String {
    format!("version = 1\n{more}")
}

#[track_caller]
fn refused(files: &[(&str, &str)]) -> PolicyErrors {
    Policy::parse_all("policy.d", files)
        .map(|_| ())
        .unwrap_err()
}

#[test]
fn pol_8_files_say_together_what_one_would() {
    let orders = team(&rule(
        "allow",
        "r",
        &["cart"],
        &["request"],
        &["orders.create"],
    ));
    let served = team(&rule("allow", "s", &["orders"], &["serve"], &["orders.>"]));
    let shop = head();
    let files = [
        ("orders.toml", &*orders),
        ("shop.toml", &shop),
        ("served.toml", &served),
    ];
    let policy = Policy::parse_all("policy.d", &files).unwrap();
    assert_eq!(policy.rule_ids().collect::<Vec<_>>(), ["r", "s"]);
    let rule = policy.rule("s").unwrap();
    assert_eq!(
        (rule.place().file(), rule.place().line()),
        (Some("served.toml"), 3)
    );
    // The order in which they are named does not matter, and one text is enough.
    let mut other = files;
    other.reverse();
    let joined = join_sources(&other).unwrap();
    let again = Policy::parse("signed", &joined).unwrap();
    assert_eq!(policy.hash(), again.hash());
    assert_eq!(again.grants(&id("orders")).count(), 1);
    assert_eq!(
        again.rule("s").unwrap().place().to_string(),
        "line 3 of served.toml"
    );
}

#[test]
fn pol_8_errors_name_the_file_and_the_line_in_it() {
    let shop = head();
    let wrong =
        team("\n[[allow]]\nid = \"r\"\nwho = [\"nobody\"]\nmay = [\"publish\"]\non = [\"a\"]\n");
    let errors = refused(&[("a.toml", &wrong), ("shop.toml", &shop)]);
    let error = &errors.errors()[0];
    assert_eq!(errors.errors().len(), 1, "{errors}");
    assert_eq!(
        (error.file(), error.line(), error.column()),
        ("a.toml", 5, 8)
    );
    assert_eq!(error.source_line(), "who = [\"nobody\"]");
    assert!(errors.to_string().contains("--> a.toml:5:8\n"), "{errors}");
    assert!(
        errors.to_string().ends_with("policy.d: 1 error"),
        "{errors}"
    );
    // Syntax errors too, each file by itself.
    let errors = refused(&[
        ("a.toml", "version = \n"),
        ("b.toml", "x y\n"),
        ("shop.toml", &shop),
    ]);
    let places: Vec<_> = errors
        .errors()
        .iter()
        .map(|e| (e.file(), e.line(), e.code()))
        .collect();
    assert_eq!(places, [("a.toml", 1, "syntax"), ("b.toml", 1, "syntax")]);
}

#[test]
fn pol_9_what_two_files_declare_is_refused_with_both_places() {
    let shop = head() + "[group]\nall = [\"cart\"]\n[subject.\"a\"]\nmax_age = \"5s\"\n";
    let twice = team(&format!(
        "[workload.cart]\nattest = [{{ nkey = \"{}\" }}]\n[group]\nall = [\"mail\"]\n[subject.\"a\"]\nmax_age = \"9s\"\n",
        nkey(9)
    ));
    let errors = refused(&[("a.toml", &twice), ("shop.toml", &shop)]);
    let found: Vec<_> = errors
        .errors()
        .iter()
        .map(|e| (e.file(), e.code(), e.message()))
        .collect();
    assert_eq!(found.len(), 3, "{errors}");
    for ((file, code, message), name) in found.iter().zip([
        "the workload `cart` is declared already, in line 2 of a.toml",
        "the group `all` is declared already, in line 5 of a.toml",
        "the subject `a` is declared already, in line 6 of a.toml",
    ]) {
        assert_eq!((*file, *code), ("shop.toml", "declared_twice"));
        assert_eq!(message, name);
    }
    let rule = rule("allow", "r", &["cart"], &["publish"], &["a"]);
    let errors = refused(&[
        ("a.toml", &team(&rule)),
        ("b.toml", &team(&rule)),
        ("shop.toml", &head()),
    ]);
    let error = &errors.errors()[0];
    assert_eq!((error.file(), error.code()), ("b.toml", "rule_id_twice"));
    assert!(error.message().ends_with("in line 3 of a.toml"), "{errors}");
}

#[test]
fn pol_9_each_file_says_the_version_and_at_most_one_domain() {
    let shop = head();
    let errors = refused(&[("a.toml", "# nothing\n"), ("shop.toml", &shop)]);
    assert_eq!(
        (errors.errors()[0].file(), errors.errors()[0].code()),
        ("a.toml", "missing_key")
    );
    let same = "version = 1\ntrust_domain = \"shop.example\"\n";
    assert!(Policy::parse_all("d", &[("a.toml", same), ("shop.toml", &shop)]).is_ok());
    let other = "version = 1\ntrust_domain = \"evil.example\"\n";
    let errors = refused(&[("z.toml", other), ("shop.toml", &shop)]);
    assert_eq!(
        (errors.errors()[0].file(), errors.errors()[0].code()),
        ("z.toml", "domain_differs")
    );
    let errors = refused(&[("z.toml", "version = 2\n"), ("shop.toml", &shop)]);
    assert_eq!(
        (errors.errors()[0].file(), errors.errors()[0].code()),
        ("z.toml", "version")
    );
    let errors = refused(&[("z.toml", "version = 1\nrules = 1\n"), ("shop.toml", &shop)]);
    assert_eq!(
        (errors.errors()[0].file(), errors.errors()[0].code()),
        ("z.toml", "unknown_key")
    );
    let errors = refused(&[
        ("z.toml", "version = 1\nworkload = 1\n"),
        ("shop.toml", &shop),
    ]);
    assert_eq!(
        (errors.errors()[0].file(), errors.errors()[0].code()),
        ("z.toml", "wrong_type")
    );
}

#[test]
fn pol_144_each_file_may_allow_lints_for_the_whole() {
    let allow = |codes: &str| team(&format!("[lint]\nallow = [{codes}]\n"));
    let rules = rule("allow", "r", &["cart"], &["publish"], &["a"])
        + &rule("allow", "s", &["cart"], &["publish"], &["a"]);
    let main = head() + &rules;
    let text = |files: &[(&str, &str)]| join_sources(files).unwrap();
    let lints = |files: &[(&str, &str)]| -> Vec<&'static str> {
        let checked = Policy::check("p", &text(files), bulla_identity::UnixMillis::default());
        let lints = checked.unwrap_or_else(|e| panic!("{e}")).lints;
        lints.iter().map(|lint| lint.code().as_str()).collect()
    };
    let all = lints(&[("main.toml", &main)]);
    assert!(
        all.contains(&"shadowed_rule") && all.contains(&"nobody_receives"),
        "{all:?}"
    );
    let one = allow("\"shadowed_rule\"");
    let other = allow("\"nobody_receives\"");
    let left = lints(&[("main.toml", &main), ("a.toml", &one), ("b.toml", &other)]);
    assert!(
        !left.contains(&"shadowed_rule") && !left.contains(&"nobody_receives"),
        "{left:?}"
    );
    let wrong = allow("\"nonsense\"");
    let errors = refused(&[("main.toml", &main), ("a.toml", &one), ("b.toml", &wrong)]);
    assert_eq!(errors.errors()[0].code(), "unknown_lint");
    assert!(errors.to_string().contains("b.toml"), "{errors}");
}
