//! Writes `testdata/vectors.json`: envelopes, credentials, bundles and policies,
//! good and bad, each with the verdict that SPEC.md demands.
//!
//! ```sh
//! cargo run -p bulla-envelope --example vectors            # writes the file
//! cargo test -p bulla-envelope --test vectors              # finds it unchanged and right
//! cargo run -p bulla-envelope --example vectors -- --seeds DIRECTORY
//! ```
//!
//! The last writes the bytes of each vector into a file, as seeds for fuzzing.
//!
//! Everything comes from fixed seeds, so the same code writes the same file.
//! Verdicts and reasons are written here by hand, from SPEC.md; only what an
//! accepted one gives is read off. Bad ones are broken in one place and signed
//! again, so that nothing but that place can be the reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::type_complexity,
    clippy::vec_init_then_push,
    unreachable_pub,
    missing_docs
)]

mod arrival;
mod certificates;
mod chains;
mod codes;
mod credentials;
mod encoding;
mod encryption;
pub mod file;
mod good;
mod heads;
pub mod judge;
mod kem_records;
mod narrowing;
mod people;
mod pki;
mod proofs;
mod raw;
mod reasons;
mod replay;
mod requests;
mod secrets;
mod shape;
mod trust;
mod values;
mod wraps;

use file::{File, Vector};

/// The whole file.
pub fn generate() -> File {
    let mut file = people::file();
    let mut vectors: Vec<Vector> = Vec::new();
    vectors.extend(good::vectors());
    vectors.extend(encoding::vectors());
    vectors.extend(shape::vectors());
    vectors.extend(narrowing::vectors());
    vectors.extend(proofs::vectors());
    vectors.extend(arrival::vectors());
    vectors.extend(replay::vectors());
    vectors.extend(requests::vectors());
    vectors.extend(credentials::vectors());
    vectors.extend(certificates::vectors());
    vectors.extend(trust::vectors());
    vectors.extend(heads::vectors());
    vectors.extend(encryption::vectors());
    vectors.extend(wraps::vectors());
    vectors.extend(codes::vectors());
    vectors.extend(kem_records::vectors());
    vectors.extend(chains::vectors());
    vectors.extend(values::vectors());
    for vector in &mut vectors {
        if vector.verdict == file::ACCEPT && vector.steps.is_empty() {
            let outcome = judge::judge(&file, vector);
            assert_eq!(
                outcome.verdict, "accept",
                "{}: {:?}",
                vector.name, outcome.reason
            );
            vector.gives = outcome.gives;
        }
    }
    file.vectors = vectors;
    file
}

/// The file's text.
pub fn render(file: &File) -> String {
    let mut text = serde_json::to_string_pretty(file).unwrap();
    text.push('\n');
    text
}

#[allow(dead_code, reason = "a test includes this file as a module")]
fn main() -> std::io::Result<()> {
    let file = generate();
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/vectors.json");
            std::fs::write(path, render(&file))?;
            println!("{} vectors in {path}", file.vectors.len());
            Ok(())
        }
        ["--seeds", directory] => write_seeds(&file, directory.as_ref()),
        _ => panic!("nothing, or --seeds DIRECTORY"),
    }
}

#[allow(dead_code, reason = "a test includes this file as a module")]
fn write_seeds(file: &File, directory: &std::path::Path) -> std::io::Result<()> {
    for vector in &file.vectors {
        let bytes = vector.bytes.as_ref().map(file::Octets::to_vec);
        // One is longer than any envelope; that is no seed.
        if let Some(bytes) = bytes.filter(|bytes| bytes.len() <= 128 * 1024) {
            let directory = directory.join(&vector.what);
            std::fs::create_dir_all(&directory)?;
            std::fs::write(directory.join(&vector.name), bytes)?;
        }
    }
    Ok(())
}
