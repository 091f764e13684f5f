//! One request that asks several services at once, and one answer made of theirs.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::bus::Bus;
use crate::cache::Answer;
use crate::exchange::JSON;
use crate::json;
use crate::order::Order;
use crate::problem::Problem;
use crate::refusal::{Refusal, refuse};
use crate::routes::{Mode, Part};
use crate::visit::Visit;

/// Under which name the answer lists the parts that are not there.
pub(crate) const MISSING: &str = "missing";

impl<B: Bus> Visit<'_, B> {
    /// Asks for all parts at once. A part that must be there and fails is the answer,
    /// at once; one that need not is left out, and said to be missing.
    pub(crate) async fn gather(&self, order: &Order<'_>) -> Result<Answer, Refusal> {
        let parts = order.route.parts.iter().map(|part| async move {
            match self.part(order, part).await {
                Ok(value) => Ok((part, Some(value))),
                Err(refusal) if part.optional => {
                    let reason = refusal.reason.unwrap_or(refusal.problem.name());
                    tracing::info!(route = order.route.id, part = part.name, reason, "left out");
                    Ok((part, None))
                }
                Err(refusal) => Err(refusal),
            }
        });
        let (mut whole, mut missing) = (Map::new(), Vec::new());
        for (part, value) in try_join_all(parts).await? {
            match value {
                Some(value) => {
                    whole.insert(part.name.clone(), value);
                }
                None => missing.push(Value::from(part.name.as_str())),
            }
        }
        if !missing.is_empty() {
            whole.insert(MISSING.to_owned(), Value::Array(missing));
        }
        let body = Bytes::from(Value::Object(whole).to_string());
        if body.len() > self.loaded.limits.reply {
            return Err(refuse(Problem::BadReply, "bad_reply"));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let answer = Answer::new(StatusCode::OK, headers, body);
        self.check_reply(order.route, &answer)?;
        Ok(answer)
    }

    /// What one service says, as JSON.
    async fn part(&self, order: &Order<'_>, part: &Part) -> Result<Value, Refusal> {
        let captures: Vec<&str> = order.captures.iter().map(|(_, value)| *value).collect();
        let subject = part.subject.expand(&captures).ok_or(Problem::NotFound)?;
        let order = Order {
            subject: &subject,
            breaker: part.breaker.as_ref(),
            mode: Mode::Request,
            timeout: part.timeout,
            ..*order
        };
        let answer = match &order.route.cache {
            Some(_) => self.kept(&order).await?,
            None => Arc::new(self.ask(&order).await?),
        };
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Problem::ResourceNotFound(String::new()).into());
        }
        let content_type = answer.headers.get(CONTENT_TYPE);
        let is_json = content_type.is_some_and(|t| t.to_str().is_ok_and(json::is_json));
        if !answer.status.is_success() || !is_json {
            return Err(refuse(Problem::BadReply, "bad_part"));
        }
        json::check(&answer.body, json::MAX_DEPTH)
            .ok()
            .and_then(|()| serde_json::from_slice(&answer.body).ok())
            .ok_or_else(|| refuse(Problem::BadReply, "bad_part"))
    }
}
