//! Takes workloads' KEM records onto the control stream.
//!
//! A record proves itself by the workload's own nkey, so a broker can neither
//! make nor change one; all that it adds is that a version never goes back.

use bulla_envelope::{CountersignatureError, CredentialDecodeError, KemRecord};
use bulla_identity::{UnixMillis, WorkloadTag, reserved};
use bulla_policy::Workload;
use bulla_sdk::broker_protocol::Registered;
use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::{ControlPlane, StreamError};
use crate::decision::Decision;

/// How often a record is written anew when another broker was faster.
const ATTEMPTS: usize = 5;

/// Why a KEM record is not taken. Logged; the asker learns the decision's id.
#[derive(Debug, thiserror::Error)]
enum KemRefusal {
    #[error("too_many")]
    TooMany,
    #[error("the policy names no workload with this tag")]
    UnknownWorkload,
    #[error("the record does not decode: {0}")]
    Decode(#[from] CredentialDecodeError),
    #[error("{0}")]
    Countersignature(#[from] CountersignatureError),
    #[error("version {offered} is older than version {held}, which is held")]
    Rollback { held: u64, offered: u64 },
    #[error("version {version} is held already with other keys")]
    Equivocation { version: u64 },
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("other brokers write it at the same time")]
    Contended,
}

impl ControlPlane {
    pub(super) async fn answer_kem_record(
        &self,
        tag: WorkloadTag,
        record: &[u8],
        now: UnixMillis,
    ) -> Registered {
        let mut id = [0; 16];
        // Without randomness the id says nothing; the decision is the same.
        let _ = getrandom::fill(&mut id);
        let held = self.held.load_full();
        let workload = held.policy.policy.workload_by_tag(tag);
        let decision = Decision {
            workload: workload.map_or("", |workload| workload.name().as_str()),
            verb: "kem-record",
            subject: "",
            id,
        };
        let within_quota = self.kem_quota.lock().take(tag, now);
        let outcome = if within_quota {
            self.take_kem_record(workload, record).await
        } else {
            Err(KemRefusal::TooMany)
        };
        match outcome {
            Ok(version) => {
                decision.allow("broker");
                tracing::info!(
                    target: "bulla::audit",
                    event = "kem-record-taken",
                    workload = decision.workload,
                    version,
                    id = HEXLOWER.encode(&id),
                );
                Registered::Accepted
            }
            Err(refusal) => {
                decision.deny("broker", &refusal.to_string());
                Registered::Refused(format!("refused, decision {}", HEXLOWER.encode(&id)))
            }
        }
    }

    async fn take_kem_record(
        &self,
        workload: Option<&Workload>,
        bytes: &[u8],
    ) -> Result<u64, KemRefusal> {
        let workload = workload.ok_or(KemRefusal::UnknownWorkload)?;
        let offered = KemRecord::decode(bytes)?.verify(workload.id(), workload.nkeys())?;
        let subject = reserved::ctl_kem(workload.tag(), offered.nkey());
        for _ in 0..ATTEMPTS {
            let held = self.stream.last(&subject).await?;
            let mut previous = 0;
            if let Some(held) = held {
                if held.payload == bytes {
                    return Ok(offered.version());
                }
                previous = held.sequence;
                // What does not prove itself is no reason to refuse what does.
                let held = KemRecord::decode(&held.payload)
                    .ok()
                    .and_then(|held| held.verify(workload.id(), workload.nkeys()).ok());
                match held {
                    Some(held) if held.version() > offered.version() => {
                        return Err(KemRefusal::Rollback {
                            held: held.version(),
                            offered: offered.version(),
                        });
                    }
                    Some(held) if held.version() == offered.version() => {
                        let version = held.version();
                        return Err(KemRefusal::Equivocation { version });
                    }
                    _ => {}
                }
            }
            let record = Bytes::copy_from_slice(bytes);
            if self.stream.replace(&subject, record, previous).await? {
                return Ok(offered.version());
            }
        }
        Err(KemRefusal::Contended)
    }
}
