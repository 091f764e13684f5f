//! The committed test vectors: unchanged, and this crate agrees with all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../../examples/vectors/main.rs"]
mod generator;

use std::collections::BTreeSet;

use generator::file::{ACCEPT, File, REFUSE};
use generator::judge::judge;

const COMMITTED: &str = include_str!("../../testdata/vectors.json");
const SPEC: &str = include_str!("../../SPEC.md");

fn file() -> File {
    serde_json::from_str(COMMITTED).unwrap()
}

#[test]
fn the_committed_file_is_what_the_generator_writes() {
    let written = generator::render(&generator::generate());
    let line = COMMITTED
        .lines()
        .zip(written.lines())
        .position(|(committed, written)| committed != written);
    assert!(
        written == COMMITTED,
        "vectors.json is not what its generator writes (line {line:?} differs): look at the \
         difference after `cargo run -p bulla-envelope --example vectors`"
    );
}

#[test]
fn every_vector_is_judged_as_it_says() {
    let file = file();
    let mut wrong = Vec::new();
    for vector in &file.vectors {
        let outcome = judge(&file, vector);
        let agrees = outcome.verdict == vector.verdict
            && outcome.stage == vector.stage.as_deref()
            && outcome.reason == vector.reason.as_deref()
            && outcome.gives == vector.gives;
        if !agrees {
            wrong.push(format!(
                "{} should be {} at {:?} for {:?} and is {outcome:?}",
                vector.name, vector.verdict, vector.stage, vector.reason
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn vectors_have_one_name_each_a_known_reason_and_rules_of_the_specification() {
    let file = file();
    let mut names = BTreeSet::new();
    for vector in &file.vectors {
        assert!(names.insert(&vector.name), "{} is there twice", vector.name);
        assert_eq!(vector.verdict == REFUSE, vector.reason.is_some());
        assert!(vector.verdict == REFUSE || vector.verdict == ACCEPT);
        let steps = vector.steps.iter().filter_map(|step| step.reason.as_ref());
        for reason in vector.reason.iter().chain(steps) {
            assert!(
                file.reasons.contains_key(reason),
                "{reason} is not explained"
            );
        }
        assert!(!vector.rules.is_empty());
        for rule in &vector.rules {
            assert!(SPEC.contains(&format!("**{rule}**")), "no rule {rule}");
        }
    }
    let refused = file.vectors.iter().filter(|v| v.verdict == REFUSE).count();
    assert!(refused * 2 > file.vectors.len(), "more bad ones than good");
}
