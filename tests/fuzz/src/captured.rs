//! What `bulla envelope inspect` makes of captured bytes: in any form, malformed or not, it
//! says something, and nothing that a terminal would act on.

#[path = "../../../broker/src/cli/envelope/input.rs"]
#[allow(dead_code)]
mod input;
#[path = "../../../broker/src/cli/envelope/outline.rs"]
mod outline;
#[path = "../../../broker/src/cli/envelope/report.rs"]
mod report;
#[path = "../../../broker/src/cli/envelope/statement.rs"]
mod statement;

use std::error::Error;
use std::path::Path;

use bulla_envelope::SealedEnvelope;
use bytes::Bytes;

use input::Input;
use report::Report;

// As what shows them has them; without colours.
const GOOD: &str = "";
const BAD: &str = "";
const DIM: &str = "";
const STRONG: &str = "";

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn time(millis: u64) -> String {
    millis.to_string()
}

fn span(millis: u64) -> String {
    millis.to_string()
}

fn chain(error: &dyn Error) -> String {
    error.to_string()
}

pub fn inspected(data: &[u8]) {
    let Ok(input) = Input::of(data.to_vec(), Path::new("-")) else {
        return;
    };
    let is_envelope = SealedEnvelope::decode(Bytes::copy_from_slice(&input.bytes)).is_ok();
    for body in [false, true] {
        let report = Report::of(&input, body);
        let text = report.to_text();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
        let json = report.to_json();
        assert_eq!(json["well_formed"], report.is_well_formed());
        assert!(report.is_well_formed() || json["what"] != "envelope" || !is_envelope);
        assert!(!is_envelope || json["what"] == "envelope");
        if !body {
            assert!(json["contents"].get("content").is_none());
        }
    }
}
