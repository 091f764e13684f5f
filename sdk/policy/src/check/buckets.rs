//! What rules about buckets and about streams ask of what is declared.

use bulla_identity::PatternToken;

use crate::error::Sink;
use crate::parse::{Parsed, RuleSpec};
use crate::problem::BucketProblem;
use crate::rule::About;

/// Refuses names that nothing has, and a name that a stream and a bucket both
/// have (POL-120, POL-121). A deny rule that names nothing denies nothing, which
/// is not what its author thinks; so it is refused as well.
pub(crate) fn buckets(parsed: &Parsed, sink: &mut Sink<'_>) {
    let is_bucket = |name: &str| parsed.buckets.iter().any(|b| *b.bucket.name == *name);
    let stream_named = |name: &str| parsed.streams.iter().find(|s| *s.name == *name);
    for spec in &parsed.buckets {
        if let Some(stream) = stream_named(&spec.bucket.name) {
            let problem = BucketProblem::NamedAsStream {
                name: stream.name.to_string(),
                place: stream.place.clone(),
            };
            sink.report(&spec.span, problem.into());
        }
    }
    for RuleSpec { rule, on_spans, .. } in &parsed.rules {
        for (pattern, span) in rule.on.iter().zip(on_spans) {
            let Some(PatternToken::Literal(name)) = pattern.tokens().first() else {
                continue;
            };
            let name = name.to_string();
            match rule.verbs.about() {
                Some(About::Keys) if !is_bucket(&name) => {
                    sink.report(span, BucketProblem::Unknown { name }.into());
                }
                Some(About::Stores) if !is_bucket(&name) && stream_named(&name).is_none() => {
                    sink.report(span, BucketProblem::UnknownStore { name }.into());
                }
                _ => {}
            }
        }
    }
}
