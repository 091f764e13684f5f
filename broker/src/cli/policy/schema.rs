//! `bulla policy schema`: the language, for editors.

use super::print::print_json;
use super::{Failure, YES};

/// Print the JSON Schema of policies, for editors
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Print the JSON Schema (draft 7) of policies, for editors: they complete keys and words,\n\
        say what each means, and mark slips while they are written. What one part of a policy\n\
        says against another is told by `bulla policy check` alone.",
    after_help = "Examples:\n  \
        bulla policy schema > policy.schema.json\n\n\
        and as the first line of each policy, for editors with taplo (Even Better TOML):\n  \
        #:schema ./policy.schema.json\n\n\
        Exit code: 0."
)]
pub(crate) struct SchemaArgs {}

pub(super) fn schema() -> Result<u8, Failure> {
    print_json(&bulla_policy_tools::schema());
    Ok(YES)
}
