//! Every fuzz target over its committed corpus and over the test vectors, without
//! any fuzzing: what a fuzzer found once stays fixed, and the invariants of
//! `tests/fuzz` hold in each `cargo test`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

// One test, since memory is measured: nothing else may allocate meanwhile.
#[test]
fn every_target_holds_over_corpus_and_vectors() {
    every_target_has_a_program();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in fuzz::TARGETS {
        let directory = corpus.join(target.name);
        let mut inputs: Vec<_> = target
            .seeds()
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect();
        for entry in std::fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            inputs.push((name, std::fs::read(path).unwrap()));
        }
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for (name, bytes) in &inputs {
            println!("{} {name}", target.name);
            target.check(bytes);
            // And the same with one byte less, one more, and one changed.
            target.check(&bytes[..bytes.len().saturating_sub(1)]);
            target.check(&[&bytes[..], &[0]].concat());
            let mut changed = bytes.clone();
            if let Some(byte) = changed.get_mut(bytes.len() / 2) {
                *byte ^= 0x10;
            }
            target.check(&changed);
        }
    }
}

/// The names that `tests/fuzz/run` goes by.
fn every_target_has_a_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut names: Vec<_> = std::fs::read_dir(programs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let mut targets: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
    targets.sort_unstable();
    assert_eq!(names, targets);
    assert!(names.iter().all(|name| fuzz::named(name).name == name));
}
