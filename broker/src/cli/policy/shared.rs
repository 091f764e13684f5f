//! What other commands take from those of `bulla policy`: how a policy is read and
//! written, and what runs.

use std::path::Path;

use bulla_policy::Policy;

use super::lifecycle::{Desk, LifecycleError, overview};
use super::{Failure, input, print};
use crate::cli::operator::OperatorArgs;
use crate::operator_client::OperatorClient;

/// Why a policy could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PolicyInputError(String);

impl From<Failure> for PolicyInputError {
    fn from(failure: Failure) -> Self {
        Self(match failure {
            Failure::Policy(errors) => errors.to_string().trim_end().to_owned(),
            other => other.to_string(),
        })
    }
}

/// The policy in a file, or in the files of a directory.
pub(crate) fn load_policy(path: &Path) -> Result<Policy, PolicyInputError> {
    Ok(input::load(path)?)
}

/// Puts a text in the place of a file, in one step.
pub(crate) fn write_policy_file(path: &Path, text: &str) -> Result<(), PolicyInputError> {
    Ok(print::write_file(path, text)?)
}

/// A deployment: the policy in force, and the processes that reported of late.
pub(crate) struct Running {
    pub(crate) operator: OperatorClient,
    pub(crate) policy: Policy,
    pub(crate) revision: u64,
    pub(crate) processes: Vec<Process>,
}

/// One process, as it reports itself.
pub(crate) struct Process {
    /// Its workload's short name.
    pub(crate) workload: String,
    pub(crate) instance: String,
    /// `service`, `gateway`, …
    pub(crate) kind: String,
    /// `current`, `stale`, …
    pub(crate) state: &'static str,
}

impl Running {
    /// Looks at the control stream and at what was reported.
    pub(crate) async fn look(args: &OperatorArgs) -> Result<Self, LifecycleError> {
        let desk = Desk::open(args).await?;
        let seen = overview(&desk).await?;
        let processes = seen.enforcers.iter().map(|enforcer| {
            let kind = enforcer.report.as_ref().map(|report| report.kind);
            Process {
                workload: enforcer.workload.clone(),
                instance: enforcer.instance.clone(),
                kind: kind.map(|kind| kind.to_string()).unwrap_or_default(),
                state: enforcer.fitness.code(),
            }
        });
        Ok(Self {
            policy: seen.policy.policy()?,
            revision: seen.policy.signed.revision,
            processes: processes.collect(),
            operator: desk.operator,
        })
    }
}
