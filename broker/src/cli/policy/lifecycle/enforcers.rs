//! Who enforces which revision, as they say it themselves.

use bulla_envelope::{PolicyCandidate, RevocationList};
use bulla_identity::{UnixMillis, WorkloadTag, reserved};
use bulla_keyring::sha256;
use bulla_policy::Policy;
use bulla_sdk::enforcer_report::EnforcerReport;
use data_encoding::HEXLOWER;

use super::{Desk, LifecycleError, Revision};
use crate::clock;
use crate::fitness::fitness;
pub(in crate::cli::policy) use crate::fitness::{Fitness, InForce};
use crate::stored::{self, Stored};
use crate::trust::CLOCK_SKEW;

/// What is in force, and who says what of it.
pub(in crate::cli::policy) struct Overview {
    pub(in crate::cli::policy) in_force: InForce,
    pub(in crate::cli::policy) policy: Revision,
    pub(in crate::cli::policy) enforcers: Vec<Enforcer>,
}

/// One process.
pub(in crate::cli::policy) struct Enforcer {
    /// The workload's name, by the tag that nats-server let it write under.
    pub(in crate::cli::policy) workload: String,
    pub(in crate::cli::policy) instance: String,
    /// When nats-server had its report.
    pub(in crate::cli::policy) said: UnixMillis,
    pub(in crate::cli::policy) report: Option<EnforcerReport>,
    pub(in crate::cli::policy) fitness: Fitness,
}

/// Looks at the streams.
pub(in crate::cli::policy) async fn overview(desk: &Desk<'_>) -> Result<Overview, LifecycleError> {
    let policy = desk.in_force().await?;
    let in_force = InForce {
        revision: policy.signed.revision,
        hash: HEXLOWER.encode(&sha256(&[&policy.record])),
        bundle: desk.operator.bundle.version,
        revocations: desk.revocations().await?,
        candidate: desk.candidate().await?.map_or(0, |held| {
            if held.1.is_off() {
                0
            } else {
                held.1.0.revision
            }
        }),
    };
    let names = policy.policy().ok();
    let records = stored::records(
        desk.operator.client(),
        reserved::STATUS_STREAM,
        reserved::STATUS_ALL,
    )
    .await?;
    let now = clock::now();
    let mut enforcers: Vec<_> = records
        .into_iter()
        .filter_map(|record| enforcer(&record, names.as_ref(), &in_force, now))
        .collect();
    enforcers.sort_by(|a, b| {
        let key = |e: &Enforcer| (e.report.as_ref().map(|r| r.kind), e.workload.clone());
        (key(a), &a.instance).cmp(&(key(b), &b.instance))
    });
    Ok(Overview {
        in_force,
        policy,
        enforcers,
    })
}

fn enforcer(
    record: &Stored,
    policy: Option<&Policy>,
    in_force: &InForce,
    now: UnixMillis,
) -> Option<Enforcer> {
    let mut tokens = record.subject.split('.').skip(2);
    let (owner, instance) = (tokens.next()?, tokens.next()?);
    let workload = match WorkloadTag::parse(owner) {
        Ok(tag) => policy
            .and_then(|policy| policy.workload_by_tag(tag))
            .map_or_else(|| format!("({owner})"), |w| w.name().to_string()),
        Err(_) => String::new(),
    };
    // A workload chooses the last token: nothing of it reaches the terminal but
    // what an instance's name is made of.
    let instance = instance.chars().filter(char::is_ascii_alphanumeric);
    let (report, fitness) = match EnforcerReport::decode(&record.payload) {
        Err(error) => (None, Fitness::Unreadable(error.code())),
        Ok(report) if report.is_gone => return None,
        Ok(report) => {
            let fitness = fitness(&report, in_force, now.saturating_since(record.at));
            (Some(report), fitness)
        }
    };
    Some(Enforcer {
        workload,
        instance: instance.take(32).collect(),
        said: record.at,
        report,
        fitness,
    })
}

impl Desk<'_> {
    /// The sequence of the revocation list; 0 if nothing was ever revoked.
    async fn revocations(&self) -> Result<u64, LifecycleError> {
        let record = self.operator.stream.last(reserved::CTL_REVOCATIONS).await?;
        let bundle = &self.operator.bundle;
        let opened = record.and_then(|record| {
            RevocationList::open(&record.payload, bundle, clock::now(), CLOCK_SKEW).ok()
        });
        Ok(opened.map_or(0, |list| list.sequence))
    }

    /// The newest candidate, with its place on the stream.
    pub(in crate::cli::policy) async fn candidate(
        &self,
    ) -> Result<Option<(u64, PolicyCandidate)>, LifecycleError> {
        let Some(record) = self.operator.stream.last(reserved::CTL_CANDIDATE).await? else {
            return Ok(None);
        };
        let bundle = &self.operator.bundle;
        let opened = PolicyCandidate::open(&record.payload, bundle, clock::now(), CLOCK_SKEW);
        let opened = opened.map_err(LifecycleError::Policy)?;
        Ok(Some((record.sequence, opened.into_inner())))
    }
}
