//! Looks at a bus from outside, as a stranger and as its workloads would, and tells
//! which of the doors that must be closed are.
//!
//! Nothing of a configuration is believed: every check tries what an attacker would
//! try, and what the server does is the finding. What it must not do it is asked to do
//! to nothing that matters: the one stream that an attack may delete is the doctor's
//! own.
//!
//! ```text
//!            ┌── no name, wrong name, empty nonce ──► must not get in
//! doctor ────┼── as each workload ──────────────────► must not hear, say or take
//!            ├── as a user of JS ───────────────────► streams are what they must be
//!            └── as a user of SYS ──────────────────► brokers answer, monitoring is closed
//! ```

mod findings;
mod insiders;
mod operators;
mod probe;
mod strangers;

use std::path::PathBuf;

use bulla_envelope::TrustBundle;
use bulla_identity::{Verified, WorkloadId, WorkloadName};
use bulla_keyring::NkeySeed;
use bulla_policy::Policy;

use crate::bus_user::BusUser;
pub(crate) use findings::{Finding, Verdict};
use insiders::Insider;
use probe::Bus;
pub(crate) use probe::ProbeError;

/// The bus that is looked at, and everybody as whom it is.
pub(crate) struct Patient {
    pub(crate) url: String,
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// Two or more, so that one can be tried against another.
    pub(crate) workloads: Vec<Member>,
    /// What is in force, as the control stream tells it.
    pub(crate) state: Option<State>,
    /// A broker's user in the account `JS`.
    pub(crate) js: Option<BusUser>,
    /// A broker's user in the account `SYS`.
    pub(crate) sys: Option<BusUser>,
}

/// A workload as which the doctor may connect.
pub(crate) struct Member {
    pub(crate) name: WorkloadName,
    pub(crate) id: WorkloadId,
    pub(crate) seed: NkeySeed,
}

/// Trust and policy in force.
pub(crate) struct State {
    pub(crate) bundle: Verified<TrustBundle>,
    pub(crate) policy: Policy,
}

/// Every check, in the order in which they are told.
///
/// # Errors
/// [`ProbeError`] if the server cannot be spoken to at all.
pub(crate) async fn examine(patient: &Patient) -> Result<Vec<Finding>, ProbeError> {
    let bus = Bus::new(&patient.url, patient.tls_ca_file.as_deref())?;
    let greeting = bus.connect().await?;
    let mut findings = vec![
        strangers::let_in(&bus, &patient.workloads).await,
        strangers::empty_nonce(&greeting, &bus, &patient.workloads).await,
        strangers::version(&greeting.greeting),
        strangers::tls(&greeting.greeting, &bus),
    ];
    let (insiders, admitted) = insiders::connect(&bus, &patient.workloads).await;
    let policy = patient.state.as_ref().map(|state| &state.policy);
    findings.push(admitted);
    // Each against the next one, the last against the first; never against itself,
    // though some did not get in.
    let mut pairs: Vec<(Insider<'_>, &Member)> = Vec::new();
    for insider in insiders {
        let mut others = patient.workloads.iter().cycle();
        let own = others.find(|other| other.id == insider.member.id);
        let next = others.next().filter(|other| other.id != insider.member.id);
        if let (Some(_), Some(other)) = (own, next) {
            pairs.push((insider, other));
        }
    }
    findings.extend(insiders::examine(&bus, &mut pairs, policy).await);
    let mut js = match &patient.js {
        Some(user) => bus.log_in_as(user).await.ok(),
        None => None,
    };
    let state = patient.state.as_ref();
    findings.push(operators::clock(&bus, js.as_mut(), &mut pairs, state).await);
    findings.push(operators::server_replies(&bus, js.as_mut(), &mut pairs, policy).await);
    findings.push(operators::streams(js.as_mut(), policy).await);
    let mut sys = match &patient.sys {
        Some(user) => bus.log_in_as(user).await.ok(),
        None => None,
    };
    findings.push(operators::brokers(sys.as_mut()).await);
    findings.push(operators::monitoring(sys.as_mut(), &bus).await);
    Ok(findings)
}
