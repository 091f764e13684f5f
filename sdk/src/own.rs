//! This process's own message credential: asked for at start, renewed at half
//! of its life, kept only in memory.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::HeaderMap;
use bulla_envelope::{Epoch, RequestDraft, Sealer};
use bulla_identity::{UnixMillis, reserved};
use bulla_keyring::{CertifiedKey, ExchangeSecret, KeyId, NkeySeed, SigningKey};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::broker_protocol::{Challenge, Issued};
use crate::certificate::certificates_vouch;
use crate::clock;
use crate::connect_proof::TokenFile;
use crate::connection::Connection;
use crate::control::Control;
use crate::error::{CredentialError, SendError};
use crate::kems::{OwnKems, PROCESS_KEYS_LINGER, ProcessSecrets, ProcessSeeds};
use crate::options::ConnectOptions;
use crate::refusal::chain;
use crate::secret;
use crate::state::{Kept, State};

/// How long a broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Pause between attempts, doubled each time up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Credentials that are remembered: the one in use, and those before it whose
/// replies may still come.
const REMEMBERED: usize = 4;

/// The credential in use, and the last ones before it; cloning shares them.
#[derive(Clone)]
pub(crate) struct OwnCredential(Arc<ArcSwap<Vec<Arc<Issuance>>>>);

/// One credential, with the secrets that belong to it.
pub(crate) struct Issuance {
    pub(crate) sealer: Arc<Sealer>,
    /// For codes that this process and one peer agree on.
    pub(crate) exchange: ExchangeSecret,
    /// SHA-256 of the credential.
    pub(crate) credential: [u8; 32],
    /// The credential itself.
    pub(crate) bytes: Box<[u8]>,
    issued: UnixMillis,
}

/// What is needed to ask for one.
pub(crate) struct Applicant {
    pub(crate) options: ConnectOptions,
    pub(crate) connection: Connection,
    pub(crate) control: Control,
    pub(crate) seed: Option<Arc<NkeySeed>>,
    /// What it connects with, where that is a token.
    pub(crate) token: Option<TokenFile>,
    pub(crate) kems: OwnKems,
    /// The same for the whole life of the process.
    pub(crate) epoch: Epoch,
    /// Where the credential is kept for the next process, if anywhere.
    pub(crate) state: Option<Arc<State>>,
}

impl OwnCredential {
    /// Asks for a credential until `patience` ends, and renews it until `stop`.
    pub(crate) async fn obtain(
        applicant: Applicant,
        patience: Duration,
        stop: CancellationToken,
    ) -> Result<Self, CredentialError> {
        let give_up = tokio::time::Instant::now() + patience;
        let mut pause = RETRY_FIRST;
        let first = loop {
            let error = match applicant.apply().await {
                Ok(issuance) => break issuance,
                Err(error) => error,
            };
            // Nobody answers. Who refuses has answered: then nothing that was
            // granted before helps.
            if matches!(error, CredentialError::Link(_))
                && let Some(kept) = applicant.revive().await
            {
                break kept;
            }
            if tokio::time::Instant::now() + pause >= give_up {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        };
        let own = Self(Arc::new(ArcSwap::from_pointee(vec![Arc::new(first)])));
        let renewed = own.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = renewed.renew(applicant) => {}
            }
        });
        Ok(own)
    }

    /// The sealer in use.
    pub(crate) fn sealer(&self, now: UnixMillis) -> Result<Arc<Sealer>, SendError> {
        Ok(Arc::clone(&self.current(now)?.sealer))
    }

    /// The credential in use, with its secrets.
    pub(crate) fn current(&self, now: UnixMillis) -> Result<Arc<Issuance>, SendError> {
        let issuances = self.0.load();
        issuances
            .first()
            .filter(|issuance| issuance.sealer.expires_at() > now)
            .cloned()
            .ok_or(SendError::CredentialExpired)
    }

    /// Does something with the sealer in use: cheaper than to take it.
    pub(crate) fn with_sealer<T>(
        &self,
        now: UnixMillis,
        act: impl FnOnce(&Arc<Sealer>) -> T,
    ) -> Result<T, SendError> {
        let issuances = self.0.load();
        issuances
            .first()
            .map(|issuance| &issuance.sealer)
            .filter(|sealer| sealer.expires_at() > now)
            .map(act)
            .ok_or(SendError::CredentialExpired)
    }

    /// The key id in use, and when it ends.
    pub(crate) fn key(&self) -> (KeyId, UnixMillis) {
        let issuances = self.0.load();
        // There is one from the start.
        issuances
            .first()
            .map_or((KeyId([0; 16]), UnixMillis::default()), |i| {
                (i.sealer.key_id(), i.sealer.expires_at())
            })
    }

    async fn renew(&self, applicant: Applicant) {
        loop {
            let (issued, expires) = {
                let issuances = self.0.load();
                let Some(current) = issuances.first() else {
                    return;
                };
                (current.issued, current.sealer.expires_at())
            };
            // Between 45 and 55 percent of its life, so that a fleet that
            // started together does not renew together.
            let life = expires.saturating_since(issued);
            let due = issued.saturating_add(life.mul_f64(rand::random_range(0.45..0.55)));
            tokio::select! {
                () = tokio::time::sleep(due.saturating_since(clock::now())) => {}
                // Somebody else may hold this key: another one, now.
                () = applicant.control.own_key_revoked() => {}
            }
            let mut pause = RETRY_FIRST;
            let renewed = loop {
                match applicant.apply().await {
                    Ok(renewed) => break Arc::new(renewed),
                    Err(error) => {
                        warn!(error = chain(&error), %expires, "the message credential was not renewed yet");
                        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                        pause = (pause * 2).min(RETRY_LAST);
                    }
                }
            };
            let mut issuances = vec![renewed];
            issuances.extend(self.0.load().iter().take(REMEMBERED - 1).cloned());
            self.0.store(Arc::new(issuances));
        }
    }
}

impl Applicant {
    /// One round: challenge, request, credential. Keys are fresh each time.
    async fn apply(&self) -> Result<Issuance, CredentialError> {
        let tag = self.options.workload.tag();
        // Never an empty body: an empty request is one to anybody.
        let ask = Bytes::from_static(&[0x90]);
        let answer = self
            .connection
            .ask(reserved::broker_challenge(tag), ask, ANSWER)
            .await?;
        let Challenge {
            broker_id,
            challenge,
            reauthorises,
        } = Challenge::decode(&answer.payload).map_err(invalid)?;

        self.connection.note_reauthorises(reauthorises);
        let certified = self.certified().await?;
        let (message, seeds) = (secret::fresh(), ProcessSeeds::fresh());
        let message_key = SigningKey::from_seed(&message);
        let process = ProcessSecrets::from_seeds(&seeds);
        self.control.asks_with(message_key.verifying_key());
        let now = clock::now();
        let draft = RequestDraft {
            workload: &self.options.workload,
            message_key: &message_key,
            process_keys: Some(&process.public),
            token_key: self.options.token_key.as_deref(),
            instance: rand::random(),
            challenge,
            requested_at: now,
        };
        let vouching = self.vouching_seed();
        let request = match &certified {
            Some(key) => draft.sign_certified(key)?,
            None => draft.sign(vouching),
        };
        let mut headers = HeaderMap::new();
        if let (None, None, Some(token)) = (&certified, vouching, &self.token) {
            // Nothing of ours signs it: the broker looks at the token once more.
            let token = token.read().await.map_err(invalid)?;
            headers.insert(reserved::WORKLOAD_TOKEN, token.as_str());
        }
        let subject = reserved::broker_credential(tag, &broker_id);
        let asked = self
            .connection
            .ask_with_headers(subject, headers, request.into(), ANSWER);
        let answer = asked.await?;
        let bytes = match Issued::decode(&answer.payload).map_err(invalid)? {
            Issued::Credential(bytes) => bytes,
            Issued::Refused(reason) => return Err(CredentialError::Refused { reason }),
        };
        let issuance = self.take(&bytes, message_key, process, now)?;
        info!(key_id = %issuance.sealer.key_id().to_hex(), expires = %issuance.sealer.expires_at(), "got a message credential");
        self.keep(Kept {
            message,
            process: seeds,
            credential: bytes,
        })
        .await;
        Ok(issuance)
    }

    /// The nkey's seed, if the nkey vouches or nothing else could.
    fn vouching_seed(&self) -> Option<&NkeySeed> {
        let policy = self.control.policy();
        let own = policy.policy().workload_by_id(&self.options.workload);
        let seed = self.seed.as_deref()?;
        let vouches = own.is_some_and(|own| own.anchors().nkeys.contains(&seed.public()));
        (vouches || self.token.is_none()).then_some(seed)
    }

    /// The certificate that vouches, read anew; nothing if the nkey does.
    async fn certified(&self) -> Result<Option<CertifiedKey>, CredentialError> {
        match &self.options.certificate {
            Some(files)
                if certificates_vouch(self.control.policy().policy(), &self.options.workload) =>
            {
                let read = files.read().await;
                read.map(Some)
                    .map_err(|error| CredentialError::Certificate(Arc::new(error)))
            }
            _ => Ok(None),
        }
    }

    /// Verifies a credential, and begins to go by it.
    fn take(
        &self,
        bytes: &[u8],
        message_key: SigningKey,
        process: ProcessSecrets,
        now: UnixMillis,
    ) -> Result<Issuance, CredentialError> {
        let credential = self.control.adopt(bytes, now).map_err(invalid)?;
        if credential.workload() != &self.options.workload {
            return Err(CredentialError::Invalid {
                reason: "it names another workload".to_owned(),
            });
        }
        let token_key = self.options.token_key.as_deref();
        if credential.token_key() != token_key.map(SigningKey::verifying_key) {
            return Err(CredentialError::Invalid {
                reason: "it names another token key".to_owned(),
            });
        }
        let sealer =
            Sealer::new(credential.credential(), message_key, self.epoch).map_err(invalid)?;
        let until = sealer.expires_at().saturating_add(PROCESS_KEYS_LINGER);
        self.kems.hold(&process, until, now);
        Ok(Issuance {
            sealer: Arc::new(sealer),
            exchange: process.exchange,
            credential: *credential.credential().hash(),
            bytes: credential.credential().as_bytes().into(),
            issued: now,
        })
    }
}

impl Applicant {
    /// Keeps a credential for the next process.
    async fn keep(&self, kept: Kept) {
        let Some(state) = self.state.clone() else {
            return;
        };
        let saved = tokio::task::spawn_blocking(move || state.save(&kept)).await;
        if let Ok(Err(error)) = saved {
            warn!(
                error = chain(&error),
                "the credential is not kept: a restart needs a broker"
            );
        }
    }

    /// The credential of an earlier process, if there is one that still counts.
    async fn revive(&self) -> Option<Issuance> {
        let state = self.state.clone()?;
        let loaded = tokio::task::spawn_blocking(move || state.load()).await;
        let kept = match loaded.ok()? {
            Ok(kept) => kept?,
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "the credential that was kept is of no use"
                );
                return None;
            }
        };
        let now = clock::now();
        let message_key = SigningKey::from_seed(&kept.message);
        self.control.asks_with(message_key.verifying_key());
        let process = ProcessSecrets::from_seeds(&kept.process);
        match self.take(&kept.credential, message_key, process, now) {
            Ok(issuance) if issuance.sealer.expires_at() > now => {
                warn!(
                    expires = %issuance.sealer.expires_at(),
                    "no broker answers: going on with the credential of an earlier process"
                );
                Some(issuance)
            }
            Ok(_) => None,
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "the credential that was kept is of no use"
                );
                None
            }
        }
    }
}

fn invalid<E: std::error::Error + 'static>(error: E) -> CredentialError {
    CredentialError::Invalid {
        reason: chain(&error),
    }
}
