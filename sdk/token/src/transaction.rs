//! Transaction tokens: what stands for the user on the bus
//! ([draft-ietf-oauth-transaction-tokens]).
//!
//! An edge mints one for each request, under a key of its own; it travels
//! unmodified down the call chain. Receivers find the public key through the
//! minting process's message credential, which the `kid` names.
//!
//! # Which claims a policy sees
//!
//! [`TransactionToken::policy_claims`] is the one object that conditions on the
//! user are evaluated against: `sub`, `scope`, and every member of `tctx` lifted to
//! the top. `tctx` can never replace a registered claim: a token whose `tctx` names
//! one of [`is_reserved_context_name`]'s names is neither minted nor accepted. `iss`, `aud`, the
//! times and the request context (`rctx`) are not visible to conditions.
//!
//! [draft-ietf-oauth-transaction-tokens]: https://datatracker.ietf.org/doc/draft-ietf-oauth-transaction-tokens/

use std::fmt;
use std::time::Duration;

use bulla_identity::{Claims, TrustDomain, UnixMillis, is_reserved_claim};
use bulla_keyring::{Signature, SigningKey, VerifyingKey};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroize as _;

use crate::compact::{Compact, MAX_KID_BYTES};
use crate::json::{MAX_DEPTH, within_depth};
use crate::registered::{
    audiences, check_times, is_name, is_scope, required_date, required_string, scope,
};
use crate::{Algorithm, MAX_TOKEN_BYTES, MintError, TokenError};

/// The `typ` of a transaction token.
pub const TRANSACTION_TYP: &str = "txntoken+jwt";

/// The longest that a transaction token may live.
pub const MAX_TRANSACTION_LIFETIME: Duration = Duration::from_secs(300);

/// The member of `tctx` that names the verticals which a token reaches. It is set
/// by [`TransactionClaims::reach`] alone.
pub(crate) const REACH: &str = "reach";

/// The claim that holds encrypted claims.
const PRIVATE: &str = "private";

/// How a header begins, before its `kid`, and ends, as they are written here.
const HEADER_BEGIN: &str = r#"{"alg":"EdDSA","kid":""#;
const HEADER_END: &str = r#"","typ":"txntoken+jwt"}"#;

/// How long the JSON of most tokens is at most.
const TYPICAL_JSON: usize = 768;

/// How long a signature is.
const SIGNATURE_LEN: usize = 64;

/// The most verticals that a token reaches.
pub const MAX_REACH: usize = 64;

/// The `iss` and `aud` of every transaction token of a trust domain:
/// `spiffe://` and its name.
#[must_use]
pub fn trust_domain_uri(domain: &TrustDomain) -> String {
    ["spiffe://", domain.as_str()].concat()
}

/// An Ed25519 key that signs transaction tokens and nothing else.
pub struct TokenSigningKey(SigningKey);

impl TokenSigningKey {
    /// The key of a seed of 32 random bytes.
    #[must_use]
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let key = SigningKey::from_seed(&seed);
        seed.zeroize();
        Self(key)
    }

    /// The public key: what the credential of this process carries.
    #[must_use]
    pub const fn public(&self) -> &VerifyingKey {
        self.0.verifying_key()
    }
}

impl fmt::Debug for TokenSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSigningKey(..)")
    }
}

/// A transaction token that this process has signed itself: only
/// [`TokenSigningKey::mint`] makes one. So nobody here need verify its signature, nor
/// read it.
#[derive(Clone)]
pub struct MintedToken(
    /// It is handed on by value.
    Box<Minted>,
);

#[derive(Clone)]
struct Minted {
    text: String,
    public: [u8; 32],
    domain: TrustDomain,
    token: TransactionToken,
}

impl MintedToken {
    /// The token as it travels.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The credential that its header names.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.0.token.kid
    }

    /// The token as it travels, and what it says.
    #[must_use]
    pub fn into_parts(self) -> (String, TransactionToken) {
        (self.0.text, self.0.token)
    }

    /// Asks everything of it that [`verify_transaction_token`] does, but for its signature:
    /// of that only that it was made under `public`.
    ///
    /// # Errors
    ///
    /// The same.
    ///
    /// # Security
    ///
    /// The same.
    pub fn check(
        &self,
        public: &VerifyingKey,
        domain: &TrustDomain,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<(), TokenError> {
        if self.0.public != *public.as_bytes() {
            return Err(TokenError::BadSignature);
        }
        if self.0.domain != *domain {
            return Err(TokenError::WrongIssuer);
        }
        self.0.token.check_times(now, skew)
    }
}

impl fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MintedToken(..)")
    }
}

/// What a new transaction token says.
#[derive(Clone)]
pub struct TransactionClaims {
    /// `txn`: the id of the whole call chain.
    pub txn: String,
    /// `sub`: the user.
    pub principal: String,
    /// `scope`: space-separated; what the client's token and the route have in common.
    pub scope: String,
    /// `req_wl`: the workload that asked for the token, a SPIFFE id.
    pub requesting_workload: String,
    /// `tctx.reach`: the verticals that it reaches, at most [`MAX_REACH`]. On a
    /// subject of any other it is refused; without one it reaches none.
    pub reach: Vec<String>,
    /// `tctx`: facts about the user and the transaction that policies may ask for.
    pub context: Map<String, Value>,
    /// `private`: claims that only their readers can read, as whoever encrypted them
    /// wrote them down.
    pub private: Option<Value>,
    /// `rctx`: facts about the request, for the record only.
    pub request_context: Map<String, Value>,
    /// `iat`, rounded down to a second.
    pub issued: UnixMillis,
    /// `exp`, rounded down to a second.
    pub expires: UnixMillis,
}

impl TransactionClaims {
    /// Claims without scope and context; the times are still to be set.
    #[must_use]
    pub fn new(
        txn: impl Into<String>,
        principal: impl Into<String>,
        requesting_workload: impl Into<String>,
    ) -> Self {
        Self {
            txn: txn.into(),
            principal: principal.into(),
            scope: String::new(),
            reach: Vec::new(),
            requesting_workload: requesting_workload.into(),
            context: Map::new(),
            private: None,
            request_context: Map::new(),
            issued: UnixMillis::default(),
            expires: UnixMillis::default(),
        }
    }
}

impl fmt::Debug for TransactionClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionClaims")
            .field("txn", &self.txn)
            .field("requesting_workload", &self.requesting_workload)
            .finish_non_exhaustive()
    }
}

/// Mints a transaction token for `domain`, signed with EdDSA under the key that the
/// credential `kid` carries.
///
/// # Errors
///
/// [`MintError`] when the claims are not those of an acceptable token, so that what
/// this mints [`verify_transaction_token`] takes.
pub fn mint_transaction_token(
    key: &TokenSigningKey,
    kid: &str,
    domain: &TrustDomain,
    claims: &TransactionClaims,
) -> Result<String, MintError> {
    key.mint(kid, domain, claims).map(|minted| minted.0.text)
}

impl TokenSigningKey {
    /// As [`mint_transaction_token`], and keeps that it was signed here.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn mint(
        &self,
        kid: &str,
        domain: &TrustDomain,
        claims: &TransactionClaims,
    ) -> Result<MintedToken, MintError> {
        let (text, token) = sign(self, kid, domain, claims)?;
        Ok(MintedToken(Box::new(Minted {
            text,
            public: *self.public().as_bytes(),
            domain: domain.clone(),
            token,
        })))
    }
}

fn sign(
    key: &TokenSigningKey,
    kid: &str,
    domain: &TrustDomain,
    claims: &TransactionClaims,
) -> Result<(String, TransactionToken), MintError> {
    if !is_name(kid) || kid.len() > MAX_KID_BYTES {
        return Err(MintError::BadClaim("kid"));
    }
    for (name, value) in [
        ("txn", &claims.txn),
        ("sub", &claims.principal),
        ("req_wl", &claims.requesting_workload),
    ] {
        if !is_name(value) {
            return Err(MintError::BadClaim(name));
        }
    }
    if !is_scope(&claims.scope) {
        return Err(MintError::BadClaim("scope"));
    }
    if claims.context.keys().any(|k| is_reserved_context_name(k)) {
        return Err(MintError::ReservedContextName);
    }
    if claims.reach.len() > MAX_REACH || !claims.reach.iter().all(|name| is_vertical(name)) {
        return Err(MintError::BadClaim(REACH));
    }
    // Each stands one level below the payload.
    for (name, context) in [("tctx", &claims.context), ("rctx", &claims.request_context)] {
        if !within_depth(context.values(), MAX_DEPTH - 2) {
            return Err(MintError::BadClaim(name));
        }
    }
    let (issued, expires) = (claims.issued.as_secs(), claims.expires.as_secs());
    let lifetime = expires.saturating_sub(issued);
    if lifetime == 0 || lifetime > MAX_TRANSACTION_LIFETIME.as_secs() {
        return Err(MintError::Lifetime {
            limit_ms: MAX_TRANSACTION_LIFETIME.as_secs() * 1_000,
            actual_ms: claims
                .expires
                .as_millis()
                .saturating_sub(claims.issued.as_millis()),
        });
    }
    let uri = trust_domain_uri(domain);
    let header = Header {
        alg: Algorithm::EdDsa.as_str(),
        typ: TRANSACTION_TYP,
        kid,
    };
    let mut context = claims.context.clone();
    if !claims.reach.is_empty() {
        context.insert(REACH.to_owned(), claims.reach.clone().into());
    }
    let payload = Payload {
        aud: &uri,
        exp: expires,
        iat: issued,
        iss: &uri,
        private: claims.private.as_ref(),
        rctx: Some(&claims.request_context).filter(|rctx| !rctx.is_empty()),
        req_wl: &claims.requesting_workload,
        scope: &claims.scope,
        sub: &claims.principal,
        tctx: &context,
        txn: &claims.txn,
    };
    let mut json = Vec::with_capacity(TYPICAL_JSON);
    write(&mut json, &header)?;
    let header = json.len();
    write(&mut json, &payload)?;
    let (header, payload) = json.split_at(header);
    let length = |bytes: usize| BASE64URL_NOPAD.encode_len(bytes);
    // It is kept as it is: exactly as large as it will be.
    let whole = length(header.len()) + 1 + length(payload.len()) + 1 + length(SIGNATURE_LEN);
    let mut text = String::with_capacity(whole);
    BASE64URL_NOPAD.encode_append(header, &mut text);
    text.push('.');
    BASE64URL_NOPAD.encode_append(payload, &mut text);
    let signature = key.0.sign_text(&text);
    text.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut text);
    if text.len() > MAX_TOKEN_BYTES {
        return Err(MintError::TooLarge {
            limit: MAX_TOKEN_BYTES,
            actual: text.len(),
        });
    }
    let token = TransactionToken {
        policy_claims: visible(context, claims.principal.clone(), claims.scope.clone()),
        private: claims.private.clone(),
        kid: kid.to_owned(),
        txn: claims.txn.clone(),
        principal: claims.principal.clone(),
        requesting_workload: claims.requesting_workload.clone(),
        issued: UnixMillis::from_secs(issued),
        expires: UnixMillis::from_secs(expires),
    };
    Ok((text, token))
}

/// The header of a token.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

/// What stands for itself in JSON.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What a token says.
#[derive(Serialize)]
struct Payload<'a> {
    aud: &'a str,
    exp: u64,
    iat: u64,
    iss: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rctx: Option<&'a Map<String, Value>>,
    req_wl: &'a str,
    scope: &'a str,
    sub: &'a str,
    tctx: &'a Map<String, Value>,
    txn: &'a str,
}

fn write(json: &mut Vec<u8>, value: &impl Serialize) -> Result<(), MintError> {
    // What has texts for names can be written down.
    serde_json::to_writer(json, value).map_err(|_| MintError::BadClaim("tctx"))
}

/// What conditions of a policy see: the context, and who the user is and may do.
fn visible(mut context: Map<String, Value>, principal: String, scope: String) -> Claims {
    context.insert("sub".to_owned(), principal.into());
    context.insert("scope".to_owned(), scope.into());
    Claims::from_map(context)
}

/// A transaction token that was taken apart. Nothing of it is proven: its
/// [`UnverifiedTransaction::kid`] is only good for finding the credential whose token
/// key to verify it under.
pub struct UnverifiedTransaction<'a> {
    text: &'a str,
    compact: Compact<'a>,
    kid: String,
}

impl<'a> UnverifiedTransaction<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks before its signature: size, bytes, parts, header,
    /// `typ`, algorithm.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        let compact = Compact::parse(token, MAX_TOKEN_BYTES)?;
        if !compact.typ_is(TRANSACTION_TYP) {
            return Err(TokenError::WrongType);
        }
        if compact.algorithm != Algorithm::EdDsa {
            return Err(TokenError::AlgorithmNotAllowed(compact.algorithm));
        }
        let kid = compact.kid.clone().ok_or(TokenError::MissingKid)?;
        Ok(Self {
            text: token,
            compact,
            kid,
        })
    }

    /// The same of a token whose header is, byte for byte, the one that [`TokenSigningKey`]
    /// writes for `kid`: cheaper. Nothing where it is another, or anything is wrong with the
    /// token; that [`UnverifiedTransaction::parse`] says.
    #[must_use]
    pub fn parse_as_minted(token: &'a str, kid: &str) -> Option<Self> {
        let compact = Compact::parse_known(token, MAX_TOKEN_BYTES, Algorithm::EdDsa, |header| {
            header
                .strip_prefix(HEADER_BEGIN.as_bytes())
                .and_then(|rest| rest.strip_suffix(HEADER_END.as_bytes()))
                .is_some_and(|named| named == kid.as_bytes() && kid.bytes().all(is_plain))
        })?;
        let kid = kid.to_owned();
        Some(Self {
            text: token,
            compact,
            kid,
        })
    }

    /// The token as it travels.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Which credential's key it claims to be signed under.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Verifies it: see [`verify_transaction_token`].
    ///
    /// # Errors
    ///
    /// The first rule that it breaks: signature, claims, times.
    pub fn verify(
        self,
        public: &VerifyingKey,
        domain: &TrustDomain,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<TransactionToken, TokenError> {
        // As envelopes are, by a key that was decompressed once.
        let signature = &self.compact.signature;
        let signature = Signature::from_slice(signature).ok_or(TokenError::BadSignature)?;
        public
            .verify_text(self.compact.signed, &signature)
            .map_err(|_| TokenError::BadSignature)?;
        self.read(domain, now, skew)
    }

    /// Reads it without a look at its signature: its minter vouches for it otherwise.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks: claims, times.
    ///
    /// # Security
    ///
    /// The caller has verified another signature over every byte of this token, by the
    /// holder of the very credential that [`UnverifiedTransaction::kid`] names: an envelope
    /// of the minter's.
    pub fn vouched_for(
        self,
        domain: &TrustDomain,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<TransactionToken, TokenError> {
        self.read(domain, now, skew)
    }

    /// What a token says whose signature is known to be good.
    fn read(
        self,
        domain: &TrustDomain,
        now: UnixMillis,
        skew: Duration,
    ) -> Result<TransactionToken, TokenError> {
        let mut claims = self.compact.unverified_claims()?;
        let uri = trust_domain_uri(domain);
        if required_string(&claims, "iss")? != uri {
            return Err(TokenError::WrongIssuer);
        }
        if audiences(&claims)? != [uri.as_str()] {
            return Err(TokenError::WrongAudience);
        }
        let txn = required_string(&claims, "txn")?.to_owned();
        let principal = required_string(&claims, "sub")?.to_owned();
        let requesting_workload = required_string(&claims, "req_wl")?.to_owned();
        let scope = scope(&claims)?.to_owned();
        let issued = required_date(&claims, "iat")?;
        let expires = required_date(&claims, "exp")?;
        if expires.saturating_since(issued) > MAX_TRANSACTION_LIFETIME {
            return Err(TokenError::LivesTooLong);
        }
        let context = match claims.remove("tctx") {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(TokenError::BadClaim("tctx")),
        };
        if context
            .keys()
            .any(|k| k != REACH && is_reserved_context_name(k))
        {
            return Err(TokenError::ReservedContextName);
        }
        if !context.get(REACH).is_none_or(is_reach) {
            return Err(TokenError::BadClaim(REACH));
        }
        if claims.get("rctx").is_some_and(|v| !v.is_object()) {
            return Err(TokenError::BadClaim("rctx"));
        }
        let verified = TransactionToken {
            policy_claims: visible(context, principal.clone(), scope),
            private: claims.remove(PRIVATE),
            kid: self.kid,
            txn,
            principal,
            requesting_workload,
            issued,
            expires,
        };
        verified.check_times(now, skew)?;
        Ok(verified)
    }
}

impl fmt::Debug for UnverifiedTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedTransaction")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// Verifies a transaction token of `domain` under `public`, the token key of the
/// credential that its `kid` names.
///
/// # Errors
///
/// The first rule that the token breaks: size, bytes, parts, header, `typ`,
/// algorithm, signature, claims, times.
///
/// # Security
///
/// The caller has found `public` in a verified credential of that `kid`, has checked
/// that its workload may mint, and compares [`TransactionToken::requesting_workload`]
/// with it.
pub fn verify_transaction_token(
    token: &str,
    public: &VerifyingKey,
    domain: &TrustDomain,
    now: UnixMillis,
    skew: Duration,
) -> Result<TransactionToken, TokenError> {
    UnverifiedTransaction::parse(token)?.verify(public, domain, now, skew)
}

/// Whether `tctx` may not use this name for what a client's token says: it would
/// replace a registered claim, or what the edge itself says of the token's reach.
#[must_use]
pub fn is_reserved_context_name(name: &str) -> bool {
    is_reserved_claim(name)
}

fn is_reach(value: &Value) -> bool {
    value.as_array().is_some_and(|names| {
        names.len() <= MAX_REACH && names.iter().all(|v| v.as_str().is_some_and(is_vertical))
    })
}

/// Whether it is spelt as a policy spells audiences.
pub(crate) fn is_vertical(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_'))
}

/// A transaction token whose signature, trust domain and times have been checked.
/// Only [`UnverifiedTransaction`] and [`TokenSigningKey::mint`] make one.
#[derive(Clone)]
pub struct TransactionToken {
    policy_claims: Claims,
    private: Option<Value>,
    kid: String,
    txn: String,
    principal: String,
    requesting_workload: String,
    issued: UnixMillis,
    expires: UnixMillis,
}

impl TransactionToken {
    /// What the conditions of a policy see: `sub`, `scope` and the members of `tctx`.
    #[must_use]
    pub fn policy_claims(&self) -> &Claims {
        &self.policy_claims
    }

    /// The key id in its header.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The id of the call chain.
    #[must_use]
    pub fn txn(&self) -> &str {
        &self.txn
    }

    /// The user.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The scopes that are left of the user's.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.policy_claims.scopes()
    }

    /// The verticals that it reaches.
    pub fn reach(&self) -> impl Iterator<Item = &str> {
        self.policy_claims.reach()
    }

    /// The claims that only their readers can read, if there are any; nothing is
    /// known of their form.
    #[must_use]
    pub fn private(&self) -> Option<&Value> {
        self.private.as_ref()
    }

    /// The workload that the token was minted for, a SPIFFE id.
    #[must_use]
    pub fn requesting_workload(&self) -> &str {
        &self.requesting_workload
    }

    /// When it expires, without skew.
    #[must_use]
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// Checks the times once more: whoever keeps a verified token asks before each use.
    ///
    /// # Errors
    ///
    /// [`TokenError::Expired`] or [`TokenError::IssuedInFuture`].
    pub fn check_times(&self, now: UnixMillis, skew: Duration) -> Result<(), TokenError> {
        check_times(now, skew, self.expires, None, Some(self.issued))
    }
}

impl fmt::Debug for TransactionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionToken")
            .field("txn", &self.txn)
            .field("claims", &self.policy_claims)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
