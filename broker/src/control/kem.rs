//! Workloads' KEM records: what others encrypt to.
//!
//! A process hands in its workload's record; the broker puts it onto the control
//! stream under the nkey that signed it. The broker can neither make such a
//! record nor change one: whoever reads it checks the nkey's signature again.

use bulla_envelope::{CountersignatureError, CredentialDecodeError, KemRecord};
use bulla_identity::{UnixMillis, Verified, WorkloadTag, reserved};
use bulla_policy::Workload;
use bulla_sdk::broker_protocol::Registered;
use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::{ControlPlane, StreamError};
use crate::decision::Decision;

impl ControlPlane {
    /// Answers the workload with this tag, which handed in `record`.
    pub(super) async fn answer_kem_record(
        &self,
        tag: WorkloadTag,
        record: &Bytes,
        now: UnixMillis,
    ) -> Registered {
        let mut id = [0; 16];
        let held = self.held();
        let workload = held.policy.policy.workload_by_tag(tag);
        let outcome = if getrandom::fill(&mut id).is_err() {
            Err(Refusal::Random)
        } else if self.kem_quota.lock().take(tag, now) {
            let is_revoked = workload.is_some_and(|workload| held.is_revoked(workload.id()));
            if is_revoked {
                Err(Refusal::Revoked)
            } else {
                self.register(workload, tag, record).await
            }
        } else {
            Err(Refusal::TooMany)
        };
        let decision = Decision {
            workload: workload.map_or("", |workload| workload.name().as_str()),
            verb: "kem",
            id,
            revision: held.policy.signed.revision,
            ..Decision::default()
        };
        let log = self.audit.decisions("broker");
        match outcome {
            Ok(registration) => {
                decision.allow(&log);
                if let Registration::New(record) = registration {
                    tracing::info!(
                        target: "bulla::audit",
                        event = "kem-record-registered",
                        workload = decision.workload,
                        nkey = %record.nkey(),
                        version = record.version(),
                        id = HEXLOWER.encode(&id),
                    );
                }
                Registered::Accepted
            }
            Err(refusal) => {
                decision.deny(&log, refusal.code(), &refusal.to_string());
                // The precise reason stays in our log.
                Registered::Refused(format!("refused, decision {}", HEXLOWER.encode(&id)))
            }
        }
    }

    async fn register(
        &self,
        workload: Option<&Workload>,
        tag: WorkloadTag,
        bytes: &Bytes,
    ) -> Result<Registration, Refusal> {
        let workload = workload.ok_or(Refusal::UnknownWorkload)?;
        let offered = prove(bytes, workload)?;
        let subject = reserved::ctl_kem(tag, offered.nkey());
        // Replicas that start together race; whoever loses looks again.
        for _ in 0..ATTEMPTS {
            let previous = match self.stream.last(&subject).await? {
                None => 0,
                Some(stored) if stored.payload == *bytes => return Ok(Registration::Known),
                Some(stored) => {
                    match prove(&stored.payload, workload) {
                        Ok(held) => check_succession(&held, &offered)?,
                        // Nobody goes by it.
                        Err(error) => tracing::warn!(
                            workload = workload.name().as_str(),
                            %error,
                            "a KEM record on the control stream does not hold: replacing it"
                        ),
                    }
                    stored.sequence
                }
            };
            if self
                .stream
                .replace(&subject, bytes.clone(), previous)
                .await?
            {
                return Ok(Registration::New(Box::new(offered)));
            }
        }
        Err(Refusal::Contended)
    }
}

/// What came of a record that holds.
enum Registration {
    /// It lies there already.
    Known,
    /// It lies there now.
    New(Box<Verified<KemRecord>>),
}

fn prove(bytes: &[u8], workload: &Workload) -> Result<Verified<KemRecord>, Refusal> {
    Ok(KemRecord::decode(bytes)?.verify(workload.id(), workload.nkeys())?)
}

/// A record replaces only one of a lower version.
fn check_succession(held: &KemRecord, offered: &KemRecord) -> Result<(), Refusal> {
    let (held, offered) = (held.version(), offered.version());
    match offered.cmp(&held) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal => Err(Refusal::Contradiction { version: held }),
        std::cmp::Ordering::Less => Err(Refusal::Rollback { held, offered }),
    }
}

/// Why a record is not taken. Logged; the asker learns the decision's id.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too_many")]
    TooMany,
    #[error("the workload is revoked")]
    Revoked,
    #[error("the policy names no workload with this tag")]
    UnknownWorkload,
    #[error("the record does not decode: {0}")]
    Decode(#[from] CredentialDecodeError),
    #[error("{0}")]
    Countersignature(#[from] CountersignatureError),
    #[error("version {held} of this nkey's record is there, {offered} is older")]
    Rollback { held: u64, offered: u64 },
    #[error("another record of version {version} is there")]
    Contradiction { version: u64 },
    #[error("others write the same record all the time")]
    Contended,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("the operating system gives no random bytes")]
    Random,
}

impl Refusal {
    /// A short stable name.
    const fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "kem_too_many",
            Self::Revoked => "workload_revoked",
            Self::UnknownWorkload => "unknown_workload",
            Self::Decode(error) => error.code(),
            Self::Countersignature(error) => error.code(),
            Self::Rollback { .. } => "kem_rollback",
            Self::Contradiction { .. } => "kem_contradiction",
            Self::Contended => "kem_contended",
            Self::Stream(_) => "control_stream_unreachable",
            Self::Random => "no_random_bytes",
        }
    }
}

const ATTEMPTS: usize = 16;
