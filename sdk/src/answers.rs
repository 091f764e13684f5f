//! What a service sends back: the replies of its handler, numbered and closed,
//! or the uniform error.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulla_envelope::{ErrorCode, ErrorReport, MAX_ENVELOPE, ReplyBinding, Sealer};
use bulla_keyring::MacKey;
use bulla_policy::Replies;
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::clock;
use crate::content::ContentType;
use crate::decision_log::{self, DecisionId};
use crate::error::{ReplyError, SendError, ServiceError};
use crate::incoming::AnswerTo;
use crate::letter::{Letter, Purpose, Sharing};
use crate::message::{IntoReply, Reply};
use crate::own::Issuance;
use crate::process;
use crate::refusal::chain;
use crate::reply_keys::Side;
use crate::shared::Shared;
use crate::unlock::suite_of;

/// Application header that marks a reply as a service's own error.
pub(crate) const ERROR_HEADER: &str = "bulla-error";

/// Sends the replies to one request, see
/// [`Client::serve_stream`](crate::Client::serve_stream).
///
/// Replies reach the caller in the order of the calls, each once. They end when
/// the handler does: with a closing mark if it returns `Ok`, with its error
/// otherwise, with an error too if it panics. A clone in another task ends with
/// the handler all the same.
#[derive(Clone)]
pub struct ReplySender(Arc<Replying>);

struct Replying {
    shared: Arc<Shared>,
    to: AnswerTo,
    content_type: ContentType,
    /// Held while a reply is sent, so that their order is that of their numbers.
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The number of the next reply.
    next: u32,
    is_closed: bool,
    /// The credential of the first reply: a caller accepts no other after it.
    under: Option<Arc<Issuance>>,
}

impl Progress {
    /// One more was sent.
    fn count(&mut self, is_final: bool) {
        self.next = self.next.saturating_add(1);
        self.is_closed = is_final;
    }
}

/// What is left to do when a handler has returned.
enum Rest {
    /// Its reply, for which something has to be waited for.
    Unsent(Box<Letter>),
    /// Its reply cannot be sent.
    Failed(SendError),
}

impl ReplySender {
    pub(crate) fn new(shared: &Arc<Shared>, to: AnswerTo, content_type: ContentType) -> Self {
        Self(Arc::new(Replying {
            shared: Arc::clone(shared),
            to,
            content_type,
            progress: Mutex::default(),
        }))
    }

    /// Sends the next reply: any value that serializes, or a [`Reply`].
    ///
    /// Returns once the reply is accepted for sealing; waits while too much
    /// waits. What is lost later is counted (`publish_not_sent`) and leaves the
    /// caller with a missing reply. Nothing tells how fast the caller is: one
    /// that is too slow loses replies, and learns which.
    ///
    /// Cancel safe: dropped before it returns, the reply is not sent and its
    /// number is free. A reply that cannot be sent takes no number either.
    ///
    /// # Errors
    /// [`ReplyError`]. A stream ends at the latest with the credential under
    /// which it began, which is good for at least half of its life by then.
    pub async fn send<R: IntoReply>(&self, value: R) -> Result<(), ReplyError> {
        let reply = value.into_reply(&self.0.content_type)?;
        let mut progress = self.0.progress.lock().await;
        self.0.post(&mut progress, Some(reply), false).await
    }

    /// Sends the last reply. What the handler returns then adds nothing.
    ///
    /// Cancel safe as [`ReplySender::send`].
    ///
    /// # Errors
    /// [`ReplyError`].
    pub async fn finish<R: IntoReply>(self, value: R) -> Result<(), ReplyError> {
        let reply = value.into_reply(&self.0.content_type)?;
        let mut progress = self.0.progress.lock().await;
        self.0.post(&mut progress, Some(reply), true).await
    }

    /// How many replies were sent so far.
    pub async fn sent(&self) -> u32 {
        self.0.progress.lock().await.next
    }

    /// Closes the stream with what the handler returned: a last reply, nothing
    /// more, or its error.
    pub(crate) async fn close(
        self,
        outcome: Result<Option<Reply>, ServiceError>,
    ) -> Result<(), SendError> {
        let mut progress = self.0.progress.lock().await;
        match self.0.close_at_once(&mut progress, outcome) {
            Ok(()) => Ok(()),
            // On the heap: where many answer at once there is nothing to wait for,
            // and each of them is not to be as large as this.
            Err(rest) => Box::pin(self.0.close_rest(&mut progress, rest)).await,
        }
    }

    /// Closes the stream with the uniform error: a code and the name of the
    /// decision.
    pub(crate) async fn fail(self, code: ErrorCode, decision: DecisionId) -> Result<(), SendError> {
        let mut progress = self.0.progress.lock().await;
        if progress.is_closed {
            return Ok(());
        }
        self.0.post_error(&mut progress, code, decision).await
    }
}

impl std::fmt::Debug for ReplySender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplySender").finish_non_exhaustive()
    }
}

impl Replying {
    /// Sends what the handler returned, if nothing has to be waited for; tells what
    /// is left to do otherwise.
    fn close_at_once(
        &self,
        progress: &mut Progress,
        outcome: Result<Option<Reply>, ServiceError>,
    ) -> Result<(), Rest> {
        if progress.is_closed {
            if let Err(error) = outcome {
                tracing::warn!(
                    error = chain(&error),
                    "a handler failed after its last reply"
                );
            }
            return Ok(());
        }
        let reply = outcome.unwrap_or_else(|error| {
            Some(
                Reply::bytes(
                    ContentType::Other("text/plain; charset=utf-8".into()),
                    error.message().to_owned(),
                )
                .header(ERROR_HEADER, error.code().as_str()),
            )
        });
        let letter = match self.draft(progress, reply, true) {
            Ok(letter) => letter,
            Err(ReplyError::Send(error)) => return Err(Rest::Failed(error)),
            Err(_) => return Ok(()),
        };
        let requirements = &self.to.requirements;
        if progress.next > 0
            || suite_of(requirements).is_some()
            || requirements.replies != Replies::Signed
            || !self.shared.is_crowded()
        {
            return Err(Rest::Unsent(letter));
        }
        match self.shared.signer.post_answer_at_once(letter) {
            Ok(None) => {
                progress.count(true);
                Ok(())
            }
            Ok(Some(letter)) => Err(Rest::Unsent(letter)),
            Err(error) => Err(Rest::Failed(error)),
        }
    }

    /// The rest of it.
    async fn close_rest(&self, progress: &mut Progress, rest: Rest) -> Result<(), SendError> {
        let sent = match rest {
            Rest::Unsent(letter) => self.send(progress, letter, true).await,
            Rest::Failed(error) => Err(error),
        };
        // What cannot be sent as it is, because it is too large or has a header
        // that no envelope takes, becomes an error that the caller gets at once
        // instead of running into its time-out.
        let code = match &sent {
            Err(SendError::TooLarge { .. }) => ErrorCode::TooLarge,
            Err(SendError::Header(_) | SendError::Seal(_) | SendError::Encrypt(_)) => {
                ErrorCode::Failed
            }
            _ => return sent,
        };
        let decision = decision_log::fresh_id();
        tracing::warn!(%decision, "a reply cannot be sent as it is");
        self.post_error(progress, code, decision).await?;
        sent
    }

    /// Sends a reply under the next number; none is the mark that closes.
    async fn post(
        &self,
        progress: &mut Progress,
        reply: Option<Reply>,
        is_final: bool,
    ) -> Result<(), ReplyError> {
        let letter = self.draft(progress, reply, is_final)?;
        Ok(self.send(progress, letter, is_final).await?)
    }

    /// A reply under the next number, before anything is agreed on or sealed.
    fn draft(
        &self,
        progress: &Progress,
        reply: Option<Reply>,
        is_final: bool,
    ) -> Result<Box<Letter>, ReplyError> {
        // The highest number is left for the reply that closes.
        if progress.is_closed || (progress.next == u32::MAX && !is_final) {
            return Err(ReplyError::Closed);
        }
        // The uniform error still leaves: it says nothing but that there is no answer.
        self.shared
            .control
            .check(clock::now())
            .map_err(SendError::from)?;
        let purpose = Purpose::Reply(ReplyBinding {
            request: self.to.request,
            index: progress.next,
            is_final,
        });
        let mut letter = self.letter(purpose, Bytes::new());
        if let Some(reply) = reply {
            for (name, value) in &reply.headers {
                let added = letter.headers_mut().insert(name, value);
                added.map_err(SendError::from)?;
            }
            letter.content_type = Some(reply.content_type);
            letter.body = reply.body;
        }
        Ok(letter)
    }

    async fn send(
        &self,
        progress: &mut Progress,
        mut letter: Box<Letter>,
        is_final: bool,
    ) -> Result<(), SendError> {
        // The mark that closes too: who listens learns no more than the number.
        if let Some(suite) = suite_of(&self.to.requirements) {
            let vault = &self.shared.vault;
            let key = vault.key_for_reply(&self.to.requester, suite, letter.issued_at);
            letter.key = Some(key.await?);
        }
        self.seal(progress, letter, is_final).await
    }

    async fn post_error(
        &self,
        progress: &mut Progress,
        code: ErrorCode,
        decision: DecisionId,
    ) -> Result<(), SendError> {
        let purpose = Purpose::Error {
            request: self.to.request,
            index: progress.next,
            report: ErrorReport { code, decision },
        };
        let letter = self.letter(purpose, Bytes::new());
        self.seal(progress, letter, true).await
    }

    async fn seal(
        &self,
        progress: &mut Progress,
        mut letter: Box<Letter>,
        is_final: bool,
    ) -> Result<(), SendError> {
        let under = match &progress.under {
            Some(under) => Arc::clone(under),
            None => self.shared.own.current(letter.issued_at)?,
        };
        let is_alone = progress.next == 0 && is_final;
        if !is_alone {
            progress.under = Some(Arc::clone(&under));
            letter.under = Some(Arc::clone(&under.sealer));
        }
        if let Some(key) = self.mac_key(&under) {
            self.post_with_mac(&letter, &under.sealer, &key).await?;
        } else {
            // Of several replies none is sent half: see `ReplySender::send`.
            let is_crowded = !is_alone || self.shared.is_crowded();
            self.shared.signer.post_answer(letter, is_crowded).await?;
        }
        progress.count(is_final);
        Ok(())
    }

    /// The key of the code that replies get instead of a signature. A requester
    /// that has none to agree on gets signatures, which count everywhere.
    fn mac_key(&self, under: &Issuance) -> Option<Arc<MacKey>> {
        match self.to.requirements.replies {
            Replies::Signed => None,
            Replies::Mac => {
                let keys = &self.shared.reply_keys;
                keys.between(under, Side::Responder, &self.to.requester)
            }
        }
    }

    /// Nothing waits for a batch: there is no signature to share. Cancel safe,
    /// because handing it to the connection is the only thing that waits.
    async fn post_with_mac(
        &self,
        letter: &Letter,
        sealer: &Sealer,
        key: &MacKey,
    ) -> Result<(), SendError> {
        if sealer.expires_at() <= letter.issued_at {
            return Err(SendError::CredentialExpired);
        }
        let draft = letter.draft(sealer.expires_at(), process::id);
        let sealed = sealer.seal_with_mac(&draft, letter.id(), key)?;
        let link = self.shared.connection.link();
        let (limit, actual) = (link.max_payload().min(MAX_ENVELOPE), sealed.bytes.len());
        if actual > limit {
            return Err(SendError::TooLarge { limit, actual });
        }
        Ok(link.publish(letter.to.nats(), sealed.bytes).await?)
    }

    fn letter(&self, purpose: Purpose, body: Bytes) -> Box<Letter> {
        let life = self.shared.options.request_timeout;
        let reply_to = self.to.reply_to.clone();
        let mut letter = Box::new(Letter::new(purpose, reply_to, body, clock::now(), life));
        letter.sharing = Sharing::of_answers(&self.to.requirements);
        letter
    }
}

impl Shared {
    /// Whether other requests are handled at the same time, so that their
    /// answers may come together.
    fn is_crowded(&self) -> bool {
        self.handling.load(Ordering::Relaxed) > 1
    }
}
