//! The rights to keys of buckets.
//!
//! A key is asked for by a direct get and written by a message, both under
//! subjects that name it; its changes are republished under a subject that names
//! it. So nobody needs a consumer, which would read the whole bucket.

use bulla_identity::{PatternToken, reserved};

use super::lists::Lists;
use super::{Compiler, Held};
use crate::policy::Entry;
use crate::problem::{BucketProblem, Problem};
use crate::rule::Verb;
use crate::shape;

impl Compiler<'_> {
    /// POL-125: what writing takes. The bucket itself refuses whatever a header
    /// could ask for.
    pub(super) fn write(&self, held: Held<'_>, lists: &mut Lists) {
        let Some((bucket, key)) = bucket_and_key(held.pattern.tokens()) else {
            return;
        };
        lists.publish(reserved::bucket_key(bucket, &shape::to_nats(key)));
        for (_, _, shared) in self.denied_within(held) {
            if let Some((bucket, key)) = bucket_and_key(&shared) {
                lists.deny_publish(reserved::bucket_key(bucket, &shape::to_nats(key)));
            }
        }
    }

    /// POL-123, POL-124: what reading takes. A direct get may itself ask for a
    /// pattern, `carts.*` or `carts.>`, and is given the newest of it; the list
    /// compares that with its entries as if it were a literal. So what is within
    /// an entry cannot be kept back, and an entry that ends in `*` also stands
    /// for what lies beneath.
    pub(super) fn read(
        &self,
        held: Held<'_>,
        lists: &mut Lists,
        report: &mut dyn FnMut(Entry, Problem),
    ) {
        let Some((bucket, key)) = bucket_and_key(held.pattern.tokens()) else {
            return;
        };
        for (entry, deny, shared) in self.denied_within(held) {
            let problem = BucketProblem::ReadCut {
                workload: self.workload.name().to_string(),
                deny: deny.id.to_string(),
                denied: shape::to_nats(&shared),
                rule: held.rule.id.to_string(),
                pattern: held.pattern.to_string(),
            };
            report(entry, problem.into());
        }
        if let Some(beneath) = shape::beneath_open_end(held.pattern.tokens())
            && !self.holds_all(Verb::Read, &beneath, held.rule)
        {
            let problem = BucketProblem::OpenRead {
                workload: self.workload.name().to_string(),
                rule: held.rule.id.to_string(),
                pattern: held.pattern.to_string(),
                opened: shape::to_nats(&beneath),
            };
            report(held.entry, problem.into());
        }
        let text = shape::to_nats(key);
        lists.publish(reserved::bucket_direct_get(bucket, &text));
        lists.subscribe(reserved::bucket_news(bucket, &text), self.workload);
        // Who may read all of a bucket may ask for many of its keys at once.
        if matches!(key, [PatternToken::Rest]) {
            lists.publish(reserved::bucket_direct_gets(bucket));
        }
    }
}

fn bucket_and_key(tokens: &[PatternToken]) -> Option<(&str, &[PatternToken])> {
    match tokens {
        [PatternToken::Literal(bucket), key @ ..] if !key.is_empty() => Some((bucket, key)),
        _ => None,
    }
}
