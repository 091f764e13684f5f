//! The public keys of the issuers that the policy names: fetched in the background,
//! so that answering needs no network.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bulla_issuer::{CertificateSource, Generation, IssuerKeys, KeySource, KeysAt, key_url};
use bulla_policy::TokenIssuer;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Which issuers' keys are kept fresh; follows the policy.
#[derive(Default)]
pub(crate) struct TokenKeys {
    kept: ArcSwap<Vec<Arc<Kept>>>,
}

/// One issuer's; fetching ends with it.
struct Kept {
    source: KeySource,
    keys: Arc<IssuerKeys>,
    _fetching: DropGuard,
}

impl TokenKeys {
    /// From now on the keys of these sources are kept, and no others. What is held
    /// of those that stay is held on.
    ///
    /// Nothing is fetched outside a tokio runtime.
    pub(crate) fn follow(&self, sources: &[KeySource]) {
        let before = self.kept.load_full();
        let mut kept: Vec<Arc<Kept>> = Vec::with_capacity(sources.len());
        for source in sources {
            if kept.iter().any(|one| one.source == *source) {
                continue;
            }
            if let Some(held) = before.iter().find(|one| one.source == *source) {
                kept.push(Arc::clone(held));
                continue;
            }
            match Kept::begin(source.clone()) {
                Ok(new) => kept.push(Arc::new(new)),
                Err(error) => tracing::error!(
                    issuer = source.issuer,
                    error = &error as &dyn std::error::Error,
                    "the issuer's keys cannot be fetched: its tokens prove nothing here"
                ),
            }
        }
        self.kept.store(Arc::new(kept));
    }

    /// The keys of a source as they are held, if any are.
    pub(super) fn current(&self, source: &KeySource) -> Option<Arc<Generation>> {
        self.find(source)?.current()
    }

    /// Has them fetched again, soon and not too often: a key id was not there.
    pub(super) fn seek(&self, source: &KeySource) {
        if let Some(keys) = self.find(source) {
            keys.seek();
        }
    }

    fn find(&self, source: &KeySource) -> Option<Arc<IssuerKeys>> {
        let kept = self.kept.load();
        let found = kept.iter().find(|one| one.source == *source)?;
        Some(Arc::clone(&found.keys))
    }
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.kept.load();
        let issuers = kept.iter().map(|one| &one.source.issuer);
        f.debug_list().entries(issuers).finish()
    }
}

impl Kept {
    fn begin(source: KeySource) -> Result<Self, bulla_issuer::SourceError> {
        let told = |issuer: &str, is_good| {
            tracing::debug!(target: "bulla::callout", issuer, is_good, "issuer's keys fetched");
        };
        let keys = Arc::new(IssuerKeys::new(source.clone(), told)?);
        let stop = CancellationToken::new();
        if tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(Arc::clone(&keys).keep_fresh(stop.clone()));
        }
        Ok(Self {
            source,
            keys,
            _fetching: stop.drop_guard(),
        })
    }
}

/// Where an issuer's keys are fetched; nothing where the policy has them itself, or
/// where the URL is none.
pub(super) fn source(issuer: &TokenIssuer) -> Option<KeySource> {
    let keys = match issuer.keys() {
        bulla_policy::IssuerKeys::Fixed(_) => return None,
        bulla_policy::IssuerKeys::At(url) => KeysAt::Url(key_url(url).ok()?),
        bulla_policy::IssuerKeys::Discovered => KeysAt::Discovered(key_url(issuer.issuer()).ok()?),
    };
    Some(KeySource {
        issuer: issuer.issuer().to_owned(),
        keys,
        certificates: match issuer.ca() {
            Some(pem) => CertificateSource::Pem(pem.to_owned()),
            None => CertificateSource::System,
        },
        refresh: REFRESH,
        cooldown: COOLDOWN,
        max_stale: MAX_STALE,
        timeout: FETCH_LIMIT,
        user_agent: "bulla-broker",
    })
}

const REFRESH: Duration = Duration::from_secs(300);

/// Between two fetches that tokens with unknown keys cause.
const COOLDOWN: Duration = Duration::from_secs(10);

/// For so long an issuer may be away. An old key that was replaced counts no longer.
const MAX_STALE: Duration = Duration::from_secs(12 * 3_600);

const FETCH_LIMIT: Duration = Duration::from_secs(5);
