//! What a service sends back: its handler's answer, or the uniform error.

use std::sync::atomic::Ordering;

use bulla_envelope::{AppHeaders, ErrorCode, ErrorReport, ReplyBinding};
use bytes::Bytes;

use crate::clock;
use crate::content::ContentType;
use crate::decision_log::{self, DecisionId};
use crate::error::{SendError, ServiceError};
use crate::incoming::AnswerTo;
use crate::letter::{Letter, Purpose};
use crate::message::Reply;
use crate::shared::Shared;

/// Application header that marks a reply as a service's own error.
pub(crate) const ERROR_HEADER: &str = "bulla-error";

impl Shared {
    /// Sends a handler's answer. One that cannot be sent as it is, because it is
    /// too large or has a header that no envelope takes, becomes an error that
    /// the caller gets at once instead of running into its time-out.
    pub(crate) async fn answer(
        &self,
        to: &AnswerTo,
        outcome: Result<Reply, ServiceError>,
    ) -> Result<(), SendError> {
        let sent = self.answer_as_it_is(to, outcome).await;
        let code = match &sent {
            Err(SendError::TooLarge { .. }) => ErrorCode::TooLarge,
            Err(SendError::Header(_) | SendError::Seal(_)) => ErrorCode::Failed,
            _ => return sent,
        };
        let decision = decision_log::fresh_id();
        tracing::warn!(%decision, "a reply cannot be sent as it is");
        self.answer_error(to, code, decision).await?;
        sent
    }

    async fn answer_as_it_is(
        &self,
        to: &AnswerTo,
        outcome: Result<Reply, ServiceError>,
    ) -> Result<(), SendError> {
        let reply = outcome.unwrap_or_else(|error| {
            Reply::bytes(
                ContentType::Other("text/plain; charset=utf-8".into()),
                error.message().to_owned(),
            )
            .header(ERROR_HEADER, error.code().as_str())
        });
        let mut headers = AppHeaders::new();
        for (name, value) in &reply.headers {
            headers.insert(name, value)?;
        }
        let binding = ReplyBinding {
            request: to.request,
            index: 0,
            is_final: true,
        };
        let mut letter = self.letter(to, Purpose::Reply(binding), reply.body);
        letter.content_type = Some(reply.content_type);
        letter.headers = headers;
        self.signer.post_answer(letter, self.is_crowded()).await
    }

    /// Sends the uniform error: a code and the name of the decision.
    pub(crate) async fn answer_error(
        &self,
        to: &AnswerTo,
        code: ErrorCode,
        decision: DecisionId,
    ) -> Result<(), SendError> {
        let purpose = Purpose::Error {
            request: to.request,
            report: ErrorReport { code, decision },
        };
        let letter = self.letter(to, purpose, Bytes::new());
        self.signer.post_answer(letter, self.is_crowded()).await
    }

    fn letter(&self, to: &AnswerTo, purpose: Purpose, body: Bytes) -> Letter {
        let life = self.options.request_timeout;
        Letter::new(purpose, to.reply_to.clone(), body, clock::now(), life)
    }

    /// Whether other requests are handled at the same time, so that their
    /// answers may come together.
    fn is_crowded(&self) -> bool {
        self.handling.load(Ordering::Relaxed) > 1
    }
}
