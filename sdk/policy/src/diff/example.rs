//! A message on which two policies disagree, and the proof that they do.

use bulla_identity::{Claims, Subject, UnixMillis, WorkloadId, WorkloadName};

use super::Example;
use super::world::World;
use crate::decide::Request;
use crate::policy::Policy;
use crate::rule::Verb;

/// Whom to ask what.
pub(super) struct Asked<'a> {
    /// The old policy and the new one.
    pub(super) sides: [&'a Policy; 2],
    pub(super) who: &'a WorkloadName,
    pub(super) verb: Verb,
    pub(super) now: UnixMillis,
    /// Whether rules in shadow count as if they were enforced.
    pub(super) shadow: bool,
}

impl Asked<'_> {
    /// The message of `world`, if both policies really say so: the new one that it
    /// is `allowed`, and the old one the opposite.
    pub(super) fn example(&self, subject: &str, world: &World, allowed: bool) -> Option<Example> {
        let user = world.user.clone().map(Claims::from_map);
        let answers = self.sides.map(|policy| {
            let workload = WorkloadId::new(policy.trust_domain(), self.who);
            let subject = Subject::parse(subject).ok()?;
            let request = Request {
                workload: &workload,
                verb: self.verb,
                subject: &subject,
                user: user.as_ref(),
                now: world.at,
            };
            Some(policy.passes(&request, world.from, self.shadow))
        });
        (answers == [Some(!allowed), Some(allowed)]).then(|| Example {
            subject: subject.to_owned(),
            user: world.user.clone(),
            at: world.at,
            later: world.at != self.now,
            from: world.from,
            allowed,
        })
    }
}
