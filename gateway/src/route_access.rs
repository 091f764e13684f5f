//! Who may call a route, read so that a mistake never opens it.

use std::sync::Arc;

use bulla_token::{AccessTokenValidator, ValidationPolicy};

use crate::document::Located;
use crate::route_fields::{read_reach, read_scopes};
use crate::route_file::RouteReader;
use crate::routes::{Access, TokenPolicy};
use crate::section::Section;

impl RouteReader<'_, '_> {
    /// `auth` and what belongs to it.
    pub(crate) fn access(&mut self, s: &mut Section<'_>) -> Option<Access> {
        let auth = s.required_text(
            "auth",
            "write `auth = \"jwt\"` or `auth = \"key\"`, or `auth = \"public\"` if everybody may call it",
        );
        let only_jwt = [
            "issuer",
            "audience",
            "scope",
            "optional_scope",
            "reach",
            "carry",
        ];
        match auth {
            Some(auth) if auth.value == "jwt" => self.jwt(s),
            Some(auth) if auth.value == "key" => self.key(s, &auth),
            Some(auth) if auth.value == "public" => {
                let mut clean = true;
                for key in only_jwt {
                    for text in s.texts(key).unwrap_or_default() {
                        s.problem(
                            &text.span,
                            format!("`{key}` means nothing on a public route: remove it, or write `auth = \"jwt\"`"),
                        );
                        clean = false;
                    }
                }
                clean.then_some(Access::Public)
            }
            Some(auth) => {
                s.problem(
                    &auth.span,
                    format!(
                        "`auth` is `{}`: possible are `jwt`, `key` and `public`",
                        auth.value
                    ),
                );
                for key in only_jwt {
                    let _ = s.texts(key);
                }
                None
            }
            None => {
                for key in only_jwt {
                    let _ = s.texts(key);
                }
                None
            }
        }
    }

    fn key(&self, s: &mut Section<'_>, auth: &Located<String>) -> Option<Access> {
        let mut clean = true;
        if !self.around.has_api_keys {
            s.problem(
                &auth.span,
                "`auth = \"key\"` needs `[api_keys]` in gateway.toml, which says where the keys are",
            );
            clean = false;
        }
        for key in ["issuer", "audience", "carry"] {
            for text in s.texts(key).unwrap_or_default() {
                s.problem(
                    &text.span,
                    format!("`{key}` is of tokens: an API key has none"),
                );
                clean = false;
            }
        }
        let scopes = read_scopes(s, "scope");
        let optional_scopes = read_scopes(s, "optional_scope");
        let reach = read_reach(s);
        clean.then_some(Access::Key {
            scopes,
            optional_scopes,
            reach,
        })
    }

    fn jwt(&mut self, s: &mut Section<'_>) -> Option<Access> {
        let named = s.required_texts("issuer", "whose tokens are taken here");
        let audiences = s.required_texts(
            "audience",
            "what `aud` must contain: without it tokens for other services would pass",
        );
        let scopes = read_scopes(s, "scope");
        let optional_scopes = read_scopes(s, "optional_scope");
        let reach = read_reach(s);
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
            scopes,
            optional_scopes,
            reach,
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
