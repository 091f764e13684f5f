//! Who may call a route, read so that a mistake never opens it.

use std::sync::Arc;

use bulla_token::{AccessTokenValidator, ValidationPolicy};

use crate::document::Located;
use crate::route_fields::{read_reach, read_scopes};
use crate::route_file::RouteReader;
use crate::routes::{Access, Rights, TokenPolicy};
use crate::section::Section;

/// The keys that mean nothing where there is no user.
const OF_USERS: [&str; 6] = [
    "issuer",
    "audience",
    "scope",
    "optional_scope",
    "reach",
    "carry",
];
/// Those of them that mean nothing where he brings no token.
const OF_TOKENS: [&str; 3] = ["issuer", "audience", "carry"];

impl RouteReader<'_, '_> {
    /// `auth` and what belongs to it.
    pub(crate) fn access(&mut self, s: &mut Section<'_>) -> Option<Access> {
        let auth = s.required_text(
            "auth",
            "write `auth = \"jwt\"`, `\"key\"` or `\"certificate\"`, or `auth = \"public\"` if everybody may call it",
        );
        match auth {
            Some(auth) if auth.value == "jwt" => self.jwt(s),
            Some(auth) if auth.value == "key" => {
                let missing = "`auth = \"key\"` needs `[api_keys]` in gateway.toml, which says where the keys are";
                let has_keys = needs(s, &auth, self.around.has_api_keys, missing);
                let rights = without_token(s, "an API key has none");
                rights.filter(|_| has_keys).map(Access::Key)
            }
            Some(auth) if auth.value == "certificate" => {
                let missing = "`auth = \"certificate\"` needs `[[certificate]]`s in gateway.toml, which say whose they are";
                let has_some = needs(s, &auth, self.around.has_certificates, missing);
                let rights = without_token(s, "a certificate is none");
                rights.filter(|_| has_some).map(Access::Certificate)
            }
            Some(auth) if auth.value == "public" => {
                let why = "means nothing on a public route: remove it, or write `auth = \"jwt\"`";
                is_free_of(s, &OF_USERS, why).then_some(Access::Public)
            }
            Some(auth) => {
                s.problem(
                    &auth.span,
                    format!(
                        "`auth` is `{}`: possible are `jwt`, `key`, `certificate` and `public`",
                        auth.value
                    ),
                );
                ignore(s, &OF_USERS);
                None
            }
            None => {
                ignore(s, &OF_USERS);
                None
            }
        }
    }

    fn jwt(&mut self, s: &mut Section<'_>) -> Option<Access> {
        let named = s.required_texts("issuer", "whose tokens are taken here");
        let audiences = s.required_texts(
            "audience",
            "what `aud` must contain: without it tokens for other services would pass",
        );
        let rights = read_rights(s);
        let carry = s.text("carry");
        if let Some(other) = carry.as_ref().filter(|carry| carry.value != "original") {
            s.problem(
                &other.span,
                format!(
                    "`carry` is `{}`: possible is `original`, or leave it out",
                    other.value
                ),
            );
        }
        let (named, audiences) = (named?, audiences?);
        if let Some(empty) = audiences.iter().find(|a| a.value.is_empty()) {
            s.problem(&empty.span, "`audience` is empty");
            return None;
        }
        if named.is_empty() || audiences.is_empty() {
            s.problem(&s.span(), "`issuer` and `audience` name at least one each");
            return None;
        }
        let audiences: Vec<String> = audiences.into_iter().map(|a| a.value).collect();
        let mut policies = Vec::new();
        for name in &named {
            match self
                .around
                .issuers
                .iter()
                .position(|i| i.issuer == name.value)
            {
                Some(issuer) => policies.push(self.policy(s, name, issuer, &audiences)?),
                None if self.around.issuers_complete => {
                    s.problem(
                        &name.span,
                        format!(
                            "issuer `{}` is not among the `[[issuer]]`s of the gateway",
                            name.value
                        ),
                    );
                    return None;
                }
                None => return None,
            }
        }
        Some(Access::Jwt {
            policies,
            rights,
            carries_original: carry.is_some(),
        })
    }

    /// The token policy for an issuer and these audiences; routes that agree share
    /// one, and with it the cache of validated tokens.
    fn policy(
        &mut self,
        s: &Section<'_>,
        name: &Located<String>,
        issuer: usize,
        audiences: &[String],
    ) -> Option<usize> {
        let key = (issuer, audiences.to_vec());
        if let Some(known) = self.policy_keys.iter().position(|k| *k == key) {
            return Some(known);
        }
        let config = self.around.issuers.get(issuer)?;
        let mut policy = ValidationPolicy::new(config.issuer.clone(), String::new());
        policy.audiences = audiences.to_vec();
        policy.algorithms = config.algorithms.iter().copied().collect();
        policy.leeway = config.leeway;
        policy.typ = config.typ;
        match AccessTokenValidator::new(policy) {
            Ok(validator) => {
                self.policy_keys.push(key);
                self.policies.push(TokenPolicy {
                    issuer,
                    must_be_bound: config.must_be_bound,
                    validator: Arc::new(validator),
                });
                Some(self.policies.len() - 1)
            }
            Err(e) => {
                s.problem(&name.span, e.to_string());
                None
            }
        }
    }
}

fn read_rights(s: &mut Section<'_>) -> Rights {
    Rights {
        scopes: read_scopes(s, "scope"),
        optional_scopes: read_scopes(s, "optional_scope"),
        reach: read_reach(s),
    }
}

/// What a user must be allowed who brings no token.
fn without_token(s: &mut Section<'_>, why: &str) -> Option<Rights> {
    let clean = is_free_of(s, &OF_TOKENS, &format!("is of tokens: {why}"));
    let rights = read_rights(s);
    clean.then_some(rights)
}

/// Whether the gateway has what a way of authentication needs.
fn needs(s: &Section<'_>, auth: &Located<String>, has: bool, missing: &str) -> bool {
    if !has {
        s.problem(&auth.span, missing);
    }
    has
}

/// Whether none of these keys is there; says of each that it should not be.
fn is_free_of(s: &mut Section<'_>, keys: &[&'static str], why: &str) -> bool {
    let mut clean = true;
    for key in keys {
        for text in s.texts(key).unwrap_or_default() {
            s.problem(&text.span, format!("`{key}` {why}"));
            clean = false;
        }
    }
    clean
}

/// Keys that belong to what is wrong already are not unknown.
fn ignore(s: &mut Section<'_>, keys: &[&'static str]) {
    for key in keys {
        let _ = s.texts(key);
    }
}
