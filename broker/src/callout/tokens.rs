//! How a workload proves itself by a token: of an issuer that the policy names, for
//! the audience that it states, and of the account that is this workload's
//! (POL-180 to POL-184).
//!
//! A token is a bearer's: whoever has it can connect as the workload until it ends.
//! So it has to end soon, and what it opened ends with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_issuer::{Generation, KeySource};
use bulla_policy::{TokenIssuer, TokenProof, Workload};
use bulla_token::{
    AccessTokenValidator, Algorithm, KeySet, MAX_TOKEN_BYTES, TokenError, TypRule, ValidatedToken,
    ValidationPolicy, unverified_issuer,
};

use super::deny_reason::DenyReason;
use super::proof::Proof;
use super::token_keys::{self, TokenKeys};

/// The issuers of a policy, by what `iss` says.
#[derive(Debug, Default)]
pub(super) struct Issuers(HashMap<Box<str>, Vec<Issuer>>);

/// One `[jwt.NAME]`.
#[derive(Debug)]
struct Issuer {
    validator: Validator,
    /// The proofs by their `sub`.
    accounts: HashMap<Box<str>, Vec<(TokenProof, Proof)>>,
}

/// What a token of one issuer is held against.
#[derive(Debug)]
struct Validator {
    spec: Arc<TokenIssuer>,
    /// Nothing where the policy's own words are no validator's: then no token counts.
    rules: Option<AccessTokenValidator>,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Fixed(Box<KeySet>),
    Fetched(Box<KeySource>),
    /// The policy has some that cannot be used.
    Unusable,
}

enum Held<'k> {
    Fixed(&'k KeySet),
    Fetched(Arc<Generation>),
}

impl Issuers {
    /// Takes in what proves a workload.
    pub(super) fn add(&mut self, token: &TokenProof, proof: Proof) {
        let spec = token.issuer();
        let named = self.0.entry(spec.issuer().into()).or_default();
        let at = named.iter().position(|one| one.validator.spec == *spec);
        let issuer = match at.and_then(|at| named.get_mut(at)) {
            Some(issuer) => issuer,
            None => {
                named.push(Issuer {
                    validator: Validator::of(spec),
                    accounts: HashMap::new(),
                });
                let Some(last) = named.last_mut() else { return };
                last
            }
        };
        let account = issuer.accounts.entry(token.subject().into()).or_default();
        account.push((token.clone(), proof));
    }

    /// Whose keys are fetched.
    pub(super) fn sources(&self) -> Vec<KeySource> {
        let all = self.0.values().flatten();
        all.filter_map(|issuer| match &issuer.validator.keys {
            Keys::Fetched(source) => Some(KeySource::clone(source)),
            Keys::Fixed(_) | Keys::Unusable => None,
        })
        .collect()
    }

    /// What a token proves, and until when.
    pub(super) fn prove(
        &self,
        token: &str,
        keys: &TokenKeys,
        now: UnixMillis,
    ) -> Result<(Proof, UnixMillis), DenyReason> {
        let issuer = unverified_issuer(token)?;
        let named = self.0.get(&*issuer).ok_or(DenyReason::UnknownIssuer)?;
        let mut fault = DenyReason::UnknownIssuer;
        // One issuer may be named several times, for several audiences.
        for issuer in named {
            let valid = match issuer.validator.validate(token, keys, now) {
                Ok(valid) => valid,
                Err(reason) => {
                    fault = reason;
                    continue;
                }
            };
            let accounts = issuer.accounts.get(valid.principal());
            let mut accounts = accounts.into_iter().flatten();
            match accounts.find(|(proof, _)| proof.fits(valid.claims())) {
                Some((_, proof)) => return Ok((*proof, valid.expires())),
                None => {
                    let issuer = issuer.validator.spec.name().to_owned();
                    fault = DenyReason::UnknownAccount { issuer };
                }
            }
        }
        Err(fault)
    }
}

/// Until when a token proves this workload, for whoever knows already whose it is
/// meant to be.
pub(crate) fn prove_workload(
    workload: &Workload,
    token: &str,
    keys: &TokenKeys,
    now: UnixMillis,
) -> Result<UnixMillis, DenyReason> {
    let issuer = unverified_issuer(token)?;
    let mut fault = DenyReason::UnknownIssuer;
    for proof in workload.tokens() {
        if proof.issuer().issuer() != issuer {
            continue;
        }
        match Validator::of(proof.issuer()).validate(token, keys, now) {
            Ok(valid) if proof.fits(valid.claims()) => return Ok(valid.expires()),
            Ok(_) => {
                let issuer = proof.issuer().name().to_owned();
                fault = DenyReason::UnknownAccount { issuer };
            }
            Err(reason) => fault = reason,
        }
    }
    Err(fault)
}

impl Validator {
    fn of(spec: &Arc<TokenIssuer>) -> Self {
        let algorithms = spec.algorithms().map(Algorithm::parse);
        let rules = algorithms
            .collect::<Result<_, _>>()
            .ok()
            .and_then(|algorithms| {
                AccessTokenValidator::new(ValidationPolicy {
                    issuer: spec.issuer().to_owned(),
                    audiences: vec![spec.audience().to_owned()],
                    algorithms,
                    leeway: LEEWAY,
                    // Kubernetes says no `typ`, SPIFFE `JWT`.
                    typ: TypRule::AccessTokenOrPlainJwt,
                    max_bytes: MAX_TOKEN_BYTES,
                })
                .ok()
            });
        let keys = match spec.keys() {
            bulla_policy::IssuerKeys::Fixed(text) => {
                let read = KeySet::parse(text.as_bytes());
                read.map_or(Keys::Unusable, |keys| Keys::Fixed(Box::new(keys)))
            }
            _ => token_keys::source(spec)
                .map_or(Keys::Unusable, |source| Keys::Fetched(Box::new(source))),
        };
        if rules.is_none() || matches!(keys, Keys::Unusable) {
            tracing::error!(
                issuer = spec.name(),
                "the policy's issuer has no keys that can be used: its tokens prove nothing"
            );
        }
        Self {
            spec: Arc::clone(spec),
            rules,
            keys,
        }
    }

    fn validate(
        &self,
        token: &str,
        keys: &TokenKeys,
        now: UnixMillis,
    ) -> Result<ValidatedToken, DenyReason> {
        let rules = self.rules.as_ref().ok_or(DenyReason::NoIssuerKeys)?;
        let held = match &self.keys {
            Keys::Fixed(keys) => Held::Fixed(keys),
            Keys::Fetched(source) => {
                Held::Fetched(keys.current(source).ok_or(DenyReason::NoIssuerKeys)?)
            }
            Keys::Unusable => return Err(DenyReason::NoIssuerKeys),
        };
        let set = match &held {
            Held::Fixed(keys) => keys,
            Held::Fetched(generation) => &generation.keys,
        };
        let valid = match rules.validate(token, set, now) {
            Ok(valid) => valid,
            Err(error) => {
                // The issuer may have a new key: whoever comes next finds it.
                if let (TokenError::UnknownKey, Keys::Fetched(source)) = (error, &self.keys) {
                    keys.seek(source);
                }
                return Err(error.into());
            }
        };
        // What it opens ends with it, so it must not have ended, whatever clocks say.
        if valid.expires() <= now {
            return Err(TokenError::Expired.into());
        }
        if valid.expires()
            > now
                .saturating_add(self.spec.max_life())
                .saturating_add(LEEWAY)
        {
            return Err(TokenError::LivesTooLong.into());
        }
        Ok(valid)
    }
}

/// How much an issuer's clock may differ.
const LEEWAY: Duration = Duration::from_secs(30);
