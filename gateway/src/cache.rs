//! Replies that are given again for a while, to whoever got them first and to nobody
//! else, unless the route is for everybody.
//!
//! The key covers everything that the message would say: the route and where it goes,
//! captures, parameters, forwarded headers, the user with scopes and claims, and the
//! policy by which it would be sent. So a request finds a reply only if it would have
//! been the same message, and it is authenticated and counted like any other before.

use std::fmt::{self, Write as _};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_token::token_digest;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use moka::Expiry;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};

use crate::refusal::Refusal;

/// What a reply weighs beside its body, in bytes.
const OVERHEAD: usize = 1_024;

/// `cache` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// For how long a reply is given again.
    pub ttl: Duration,
}

/// What a request is answered with.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    made: Instant,
    /// For how long it may be given again.
    keep: Option<Duration>,
}

/// Shows how it ended, never what it says.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("body_len", &self.body.len())
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// Why an answer is not kept.
enum NotKept {
    Answer(Arc<Answer>),
    Refusal,
}

/// All kept answers, within a bound of bytes.
pub(crate) struct Answers(Cache<[u8; 32], Arc<Answer>>);

impl Answer {
    pub(crate) fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body,
            made: Instant::now(),
            keep: None,
        }
    }

    /// Makes a good reply one that is kept, unless the service says otherwise, and gives
    /// it a name.
    pub(crate) fn kept(mut self, config: CacheConfig, is_public: bool) -> Self {
        if self.status != StatusCode::OK {
            return self;
        }
        let said = self.headers.get(CACHE_CONTROL).cloned();
        let said = said.as_ref().and_then(|v| v.to_str().ok());
        // Without a word of its own the edge has written `no-store`.
        let own_word = said.filter(|said| *said != "no-store");
        if let Some(said) = own_word {
            let forbids = said
                .to_ascii_lowercase()
                .split(',')
                .map(str::trim)
                .any(|word| {
                    let name = word.split('=').next().unwrap_or_default();
                    matches!(name, "no-store" | "no-cache") || (is_public && name == "private")
                });
            if forbids {
                return self;
            }
        } else {
            let whose = if is_public { "public" } else { "private" };
            let text = format!("{whose}, max-age={}", config.ttl.as_secs());
            if let Ok(value) = HeaderValue::try_from(text) {
                self.headers.insert(CACHE_CONTROL, value);
            }
        }
        if !self.headers.contains_key(ETAG)
            && let Ok(tag) = HeaderValue::try_from(entity_tag(&self))
        {
            self.headers.insert(ETAG, tag);
        }
        // A browser that keeps it must not show it to the next user.
        if !is_public {
            self.headers
                .append(VARY, HeaderValue::from_static("authorization"));
        }
        self.keep = Some(config.ttl);
        self
    }

    /// Says on which other headers of the request it depends.
    pub(crate) fn varying(mut self, names: &[HeaderName]) -> Self {
        if self.keep.is_some() {
            for name in names {
                self.headers.append(VARY, HeaderValue::from(name.clone()));
            }
        }
        self
    }

    /// The response; 304 if the client has it already.
    ///
    /// `packed` is the body as it goes out instead, if the client takes that.
    pub(crate) fn response(
        self,
        request: &HeaderMap,
        packed: Option<Bytes>,
    ) -> Response<Full<Bytes>> {
        let known = self.keep.is_some() && self.is_known(request);
        let is_packed = packed.is_some();
        let body = match known {
            true => Bytes::new(),
            false => packed.unwrap_or(self.body),
        };
        let mut response = Response::new(Full::new(body));
        *response.headers_mut() = self.headers;
        *response.status_mut() = self.status;
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().remove(CONTENT_TYPE);
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        if is_packed && !known {
            let headers = response.headers_mut();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            // The same content in other bytes.
            if let Some(tag) = headers.get(ETAG).and_then(|t| t.to_str().ok())
                && !tag.starts_with("W/")
                && let Ok(weak) = HeaderValue::try_from(format!("W/{tag}"))
            {
                headers.insert(ETAG, weak);
            }
        }
        if self.keep.is_some() {
            let age = self.made.elapsed().as_secs();
            response.headers_mut().insert(AGE, HeaderValue::from(age));
        }
        response
    }

    /// Whether `If-None-Match` names it ([RFC 9110 §13.1.2]): weak comparison.
    ///
    /// [RFC 9110 §13.1.2]: https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2
    fn is_known(&self, request: &HeaderMap) -> bool {
        let Some(tag) = self.headers.get(ETAG).and_then(|t| t.to_str().ok()) else {
            return false;
        };
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let tag = opaque(tag);
        request
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|named| named.trim() == "*" || opaque(named) == tag)
    }
}

/// A strong tag of what the answer says.
fn entity_tag(answer: &Answer) -> String {
    let mut digest = Sha256::new();
    if let Some(content_type) = answer.headers.get(CONTENT_TYPE) {
        digest.update(content_type.as_bytes());
    }
    digest.update(b"\n");
    digest.update(&answer.body);
    let digest = digest.finalize();
    let short = digest.get(..16).unwrap_or_default();
    format!("\"{}\"", BASE64URL_NOPAD.encode(short))
}

impl Answers {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self(
            Cache::builder()
                .max_capacity(max_bytes as u64)
                .weigher(|_, answer: &Arc<Answer>| {
                    u32::try_from(answer.body.len() + OVERHEAD).unwrap_or(u32::MAX)
                })
                .expire_after(UntilTheirTime)
                .build(),
        )
    }

    /// The answer under `key`. Of those who ask for it at once only one asks the service;
    /// where that fails everybody asks for himself.
    pub(crate) async fn get<F>(
        &self,
        key: [u8; 32],
        ask: impl Fn() -> F,
    ) -> Result<Arc<Answer>, Refusal>
    where
        F: Future<Output = Result<Answer, Refusal>> + Send,
    {
        match self.0.get(&key).await {
            Some(kept) => Ok(kept),
            // On the heap: a request that finds its answer holds no room for asking.
            None => Box::pin(self.fetch(key, ask)).await,
        }
    }

    async fn fetch<F>(&self, key: [u8; 32], ask: impl Fn() -> F) -> Result<Arc<Answer>, Refusal>
    where
        F: Future<Output = Result<Answer, Refusal>> + Send,
    {
        let refusal = parking_lot::Mutex::new(None);
        let outcome = self
            .0
            .try_get_with(key, async {
                match ask().await {
                    Ok(answer) if answer.keep.is_some() => Ok(Arc::new(answer)),
                    Ok(answer) => Err(NotKept::Answer(Arc::new(answer))),
                    Err(why) => {
                        *refusal.lock() = Some(why);
                        Err(NotKept::Refusal)
                    }
                }
            })
            .await;
        let own_refusal = refusal.into_inner();
        match (outcome, own_refusal) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Some(refusal)) => Err(refusal),
            (Err(not_kept), None) => match &*not_kept {
                NotKept::Answer(answer) => Ok(Arc::clone(answer)),
                NotKept::Refusal => ask().await.map(Arc::new),
            },
        }
    }
}

struct UntilTheirTime;

impl Expiry<[u8; 32], Arc<Answer>> for UntilTheirTime {
    fn expire_after_create(
        &self,
        _: &[u8; 32],
        answer: &Arc<Answer>,
        _: Instant,
    ) -> Option<Duration> {
        answer.keep
    }
}

/// Everything that a reply depends on, as one key.
#[derive(Default)]
pub(crate) struct KeyMaker(String);

impl KeyMaker {
    /// Adds one part, with its length: no two lists of parts read alike.
    pub(crate) fn part(&mut self, text: &str) {
        let _ = write!(self.0, "{}:{text};", text.len());
    }

    pub(crate) fn pairs<'p>(&mut self, pairs: impl IntoIterator<Item = (&'p str, &'p str)>) {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable();
        let _ = write!(self.0, "{}#", pairs.len());
        for (name, value) in pairs {
            self.part(name);
            self.part(value);
        }
    }

    pub(crate) fn key(&self) -> [u8; 32] {
        token_digest(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: CacheConfig = CacheConfig {
        ttl: Duration::from_secs(10),
    };

    fn answer(cache_control: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Answer::new(StatusCode::OK, headers, Bytes::from_static(b"tea"))
    }

    #[test]
    fn a_service_can_forbid_that_its_reply_is_kept() {
        for said in ["no-store, max-age=0", "No-Cache", "private=\"x\", no-cache"] {
            assert_eq!(answer(said).kept(TEN, false).keep, None, "{said}");
        }
        assert_eq!(answer("private").kept(TEN, true).keep, None);
        assert!(answer("private").kept(TEN, false).keep.is_some());
        let ours = answer("no-store").kept(TEN, false);
        assert_eq!(
            ours.headers.get(CACHE_CONTROL).unwrap(),
            "private, max-age=10"
        );
        let mut failed = answer("max-age=5");
        failed.status = StatusCode::NOT_FOUND;
        assert_eq!(failed.kept(TEN, false).keep, None);
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let kept = answer("no-store").kept(TEN, false);
        let tag = kept.headers.get(ETAG).unwrap().to_str().unwrap().to_owned();
        let ask = |value: &str| {
            let mut request = HeaderMap::new();
            request.insert(IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            kept.clone().response(&request, None).status().as_u16()
        };
        for known in [&*tag, "*", &format!("\"x\", W/{tag}")] {
            assert_eq!(ask(known), 304, "{known}");
        }
        assert_eq!(ask("\"x\""), 200);
        assert_eq!(ask("tea"), 200);
    }

    #[test]
    fn keys_of_different_parts_differ() {
        let key = |parts: &[&str]| {
            let mut maker = KeyMaker::default();
            parts.iter().for_each(|p| maker.part(p));
            maker.key()
        };
        assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
        assert_ne!(key(&["a;1:b"]), key(&["a", "b"]));
        let pairs = |list: &[(&str, &str)]| {
            let mut maker = KeyMaker::default();
            maker.pairs(list.iter().copied());
            maker.key()
        };
        assert_eq!(
            pairs(&[("a", "1"), ("b", "2")]),
            pairs(&[("b", "2"), ("a", "1")])
        );
        assert_ne!(pairs(&[("a", "1")]), pairs(&[("a", "2")]));
    }
}
