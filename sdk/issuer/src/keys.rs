//! The keys of one issuer: fetched in the background, and once more when a token
//! names a key that is not there.
//!
//! - One fetch at a time; who comes meanwhile waits for it.
//! - Fetches that clients cause are at least a cooldown apart. It is claimed before
//!   the fetch and kept if the fetch fails, so that junk tokens cannot make the edge
//!   a weapon against the issuer.
//! - Keys that are there are replaced by a set that parses and holds usable keys, and
//!   by nothing else; they lapse when no fetch has succeeded for `max_stale`.
//! - Key ids that a fresh set did not hold are remembered, in a bounded number.
//! - https, or http to loopback; no redirects; answers are read up to a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bulla_token::{JwksError, KeySet, MAX_JWKS_BYTES};
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::discovery::{DescriptionError, description_of, is_loopback, keys_of};
use crate::source::{CertificateSource, KeySource, KeysAt, SourceError};

/// How many key ids that do not exist are remembered.
const MAX_UNKNOWN_KEYS: u64 = 1_024;

/// Generations of key sets, never used twice in a process.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// A key set as it was fetched.
#[derive(Debug)]
pub struct Generation {
    /// The keys.
    pub keys: KeySet,
    /// Changes whenever the keys do.
    pub number: u64,
    /// When a fetch last confirmed it.
    pub fetched: Instant,
}

/// Told of each fetch: of which issuer, and whether it succeeded.
type Told = dyn Fn(&str, bool) + Send + Sync;

/// Where the keys of one issuer come from and which they are now.
pub struct IssuerKeys {
    config: KeySource,
    client: reqwest::Client,
    told: Box<Told>,
    current: ArcSwapOption<Generation>,
    unknown: Cache<String, ()>,
    state: Mutex<Fetching>,
}

struct Fetching {
    /// Before this, no client can cause another fetch.
    next_allowed: Instant,
    /// Becomes true when the running fetch ends.
    running: Option<watch::Receiver<bool>>,
}

/// Why a key set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The HTTP request failed.
    #[error("the request failed")]
    Http(#[from] reqwest::Error),
    /// The answer was not 200.
    #[error("the answer has status {0}")]
    Status(u16),
    /// The answer is longer than any key set.
    #[error("the answer has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The issuer's name leads to no place for a description.
    #[error("the issuer's name is none that a description can be found under")]
    NoPlace,
    /// The issuer's description names no usable place for its keys.
    #[error("{0}")]
    Description(DescriptionError),
    /// The answer is no key set.
    #[error("the answer is no usable key set: {0}")]
    KeySet(JwksError),
}

impl IssuerKeys {
    /// Nothing is fetched yet. `told` learns of each fetch.
    ///
    /// # Errors
    /// [`SourceError`] if the certificate authorities cannot be used.
    pub fn new(
        config: KeySource,
        told: impl Fn(&str, bool) + Send + Sync + 'static,
    ) -> Result<Self, SourceError> {
        let client = client(&config)?;
        // Remembered for longer than a cooldown, so that a kid that does not exist
        // costs one fetch and not one for each cooldown.
        let remember = config.cooldown.max(Duration::from_secs(1)) * 10;
        Ok(Self {
            client,
            told: Box::new(told),
            current: ArcSwapOption::empty(),
            unknown: Cache::builder()
                .max_capacity(MAX_UNKNOWN_KEYS)
                .time_to_live(remember)
                .build(),
            state: Mutex::new(Fetching {
                next_allowed: Instant::now(),
                running: None,
            }),
            config,
        })
    }

    /// Whose they are.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// The keys, unless there are none or they have lapsed.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.current
            .load_full()
            .filter(|g| g.fetched.elapsed() <= self.config.max_stale)
    }

    /// The keys, fetched now if there are none and the cooldown allows it.
    pub async fn available(self: &Arc<Self>) -> Option<Arc<Generation>> {
        if let Some(current) = self.current() {
            return Some(current);
        }
        let running = self.begin(Cause::Client)?;
        finished(running).await;
        self.current()
    }

    /// A newer set that holds `kid`, if there is one: fetched once for each cooldown.
    pub async fn newer_with(self: &Arc<Self>, kid: &str, seen: u64) -> Option<Arc<Generation>> {
        let newer = || {
            self.current()
                .filter(|g| g.number != seen && g.keys.contains(kid))
        };
        if let Some(found) = newer() {
            return Some(found);
        }
        if self.unknown.contains_key(kid) {
            return None;
        }
        let asked = Instant::now();
        let running = self.begin(Cause::Client)?;
        finished(running).await;
        let found = newer();
        // Only a set that was fetched since can say that the key does not exist: a
        // fetch that failed must not lock a good key out.
        let confirmed = self.current().is_some_and(|g| g.fetched >= asked);
        if found.is_none() && confirmed {
            self.unknown.insert(kid.to_owned(), ());
        }
        found
    }

    /// Begins to fetch them again, if the cooldown allows it: for whoever has met a
    /// key id that is not there and cannot wait.
    pub fn seek(self: &Arc<Self>) {
        if tokio::runtime::Handle::try_current().is_ok() {
            let _ = self.begin(Cause::Client);
        }
    }

    /// Fetches again and again until `stop`. Runs `changed` whenever keys were
    /// replaced, by whomever the fetch was caused.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            if let Some(running) = self.begin(Cause::Background) {
                finished(running).await;
            }
            let fresh = self
                .current
                .load()
                .as_ref()
                .is_some_and(|g| g.fetched.elapsed() < self.config.refresh);
            let pause = if fresh {
                failures = 0;
                jittered(self.config.refresh)
            } else {
                failures = failures.saturating_add(1);
                let backoff = Duration::from_millis(500) * 2_u32.saturating_pow(failures.min(10));
                jittered(backoff.min(self.config.refresh))
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Joins the running fetch, or starts one if the cause allows it.
    fn begin(self: &Arc<Self>, cause: Cause) -> Option<watch::Receiver<bool>> {
        let mut state = self.state.lock();
        if let Some(running) = &state.running
            && !*running.borrow()
            && running.has_changed().is_ok()
        {
            return Some(running.clone());
        }
        let now = Instant::now();
        if matches!(cause, Cause::Client) {
            if now < state.next_allowed {
                return None;
            }
            state.next_allowed = now + self.config.cooldown;
        }
        let (done, running) = watch::channel(false);
        state.running = Some(running.clone());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.fetch_and_store().await;
            done.send_replace(true);
        });
        Some(running)
    }

    async fn fetch_and_store(&self) {
        let outcome = self.fetch().await;
        (self.told)(&self.config.issuer, outcome.is_ok());
        match outcome {
            Ok(keys) => self.store(keys),
            Err(error) => tracing::warn!(
                issuer = self.config.issuer,
                error = &error as &dyn std::error::Error,
                kept = self.current().is_some(),
                "cannot fetch the issuer's keys",
            ),
        }
    }

    fn store(&self, keys: KeySet) {
        let before = self.current.load_full();
        let number = match &before {
            Some(same) if same.keys == keys => same.number,
            _ => GENERATION.fetch_add(1, Ordering::Relaxed),
        };
        if before.is_none_or(|b| b.number != number) {
            // What was unknown may be known now.
            self.unknown.invalidate_all();
            tracing::info!(
                issuer = self.config.issuer,
                keys = keys.len(),
                left_out = keys.ignored().values().sum::<usize>(),
                "the issuer's keys have changed",
            );
            for (why, count) in keys.ignored() {
                tracing::warn!(
                    issuer = self.config.issuer,
                    reason = why.code(),
                    count,
                    "keys of the issuer are left out"
                );
            }
        }
        self.current.store(Some(Arc::new(Generation {
            keys,
            number,
            fetched: Instant::now(),
        })));
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = match &self.config.keys {
            KeysAt::Url(url) => url.clone(),
            KeysAt::Discovered(issuer) => self.discover(issuer).await?,
        };
        let body = self
            .get(
                url,
                "application/jwk-set+json, application/json",
                MAX_JWKS_BYTES,
            )
            .await?;
        KeySet::parse(&body).map_err(FetchError::KeySet)
    }

    /// Where the issuer says that its keys are.
    async fn discover(&self, issuer: &Url) -> Result<Url, FetchError> {
        let at = description_of(issuer).ok_or(FetchError::NoPlace)?;
        let body = self
            .get(at, "application/json", MAX_DESCRIPTION_BYTES)
            .await?;
        keys_of(&body, &self.config.issuer, issuer).map_err(FetchError::Description)
    }

    async fn get(&self, url: Url, accept: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        let request = self.client.get(url).header(http::header::ACCEPT, accept);
        let mut answer = request.send().await?;
        if answer.status() != http::StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Far more than issuers say of themselves.
const MAX_DESCRIPTION_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy)]
enum Cause {
    Background,
    Client,
}

async fn finished(mut running: watch::Receiver<bool>) {
    // An error means that the fetch was dropped: it has ended too.
    let _ = running.wait_for(|done| *done).await;
}

/// Between 80 and 100 per cent of `d`, so that replicas do not fetch in step.
fn jittered(d: Duration) -> Duration {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    d.mul_f64(0.8 + f64::from(byte) / 1_280.0)
}

fn client(config: &KeySource) -> Result<reqwest::Client, SourceError> {
    let failed = |source| SourceError::Client {
        issuer: config.issuer.clone(),
        source,
    };
    let mut builder = reqwest::Client::builder()
        .tls_backend_rustls()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(config.timeout)
        .connect_timeout(config.timeout)
        .user_agent(config.user_agent);
    if is_loopback(config.keys.first()) {
        builder = builder.no_proxy();
    } else {
        builder = builder.https_only(true);
    }
    let pem = match &config.certificates {
        CertificateSource::System => None,
        CertificateSource::Pem(pem) => Some(pem.clone().into_bytes()),
        CertificateSource::File(file) => {
            let read = std::fs::read(file).map_err(|source| SourceError::CaFile {
                file: file.display().to_string(),
                source,
            })?;
            Some(read)
        }
    };
    if let Some(pem) = pem {
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(failed)?;
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().map_err(failed)
}
