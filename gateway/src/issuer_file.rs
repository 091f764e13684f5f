//! The `[[issuer]]`s of `gateway.toml`.

use std::path::Path;
use std::time::Duration;

use bulla_issuer::key_url;
use bulla_token::{Algorithm, TypRule};
use url::Url;

use crate::config::IssuerConfig;
use crate::document::Located;
use crate::quantities::{millis, seconds};
use crate::section::Section;

pub(crate) fn read_issuer(mut s: Section<'_>, base: &Path) -> Option<IssuerConfig> {
    let issuer = s.required_text("issuer", "what `iss` must be, byte for byte");
    if let Some(text) = &issuer {
        read_url(&s, text, "issuer");
    }
    let jwks_url = s
        .required_text("jwks_url", "where the issuer publishes its keys")
        .and_then(|text| read_url(&s, &text, "jwks_url"));
    let ca_file = s.text("ca_file").map(|f| base.join(f.value));
    let algorithms = match s.texts("algorithms") {
        None => Some(Algorithm::ALL.to_vec()),
        Some(names) => read_algorithms(&s, &names),
    };
    let typ = s.text("typ").map_or(TypRule::AccessToken, |t| match t.value.as_str() {
        "at+jwt" => TypRule::AccessToken,
        "any" => TypRule::AccessTokenOrPlainJwt,
        other => {
            s.problem(
                &t.span,
                format!("`typ` is `{other}`: write `at+jwt`, or `any` for issuers that do not follow RFC 9068"),
            );
            TypRule::AccessToken
        }
    });
    let leeway = s
        .duration("leeway", seconds(0, 61))
        .unwrap_or(Duration::from_secs(30));
    let refresh = s
        .duration("refresh", seconds(1, 86_401))
        .unwrap_or(Duration::from_secs(300));
    let cooldown = s
        .duration("cooldown", millis(100, 3_600_001))
        .unwrap_or(Duration::from_secs(30));
    let max_stale = s
        .duration("max_stale", seconds(1, 7 * 86_400))
        .unwrap_or(Duration::from_secs(3_600));
    if max_stale < refresh {
        s.problem(
            &s.span(),
            "`max_stale` is shorter than `refresh`: the keys would lapse between two fetches",
        );
    }
    let timeout = s
        .duration("timeout", millis(50, 60_001))
        .unwrap_or(Duration::from_secs(5));
    s.finish();
    Some(IssuerConfig {
        issuer: issuer?.value,
        jwks_url: jwks_url?,
        ca_file,
        algorithms: algorithms?,
        typ,
        leeway,
        refresh,
        cooldown,
        max_stale,
        timeout,
    })
}

fn read_algorithms(s: &Section<'_>, names: &[Located<String>]) -> Option<Vec<Algorithm>> {
    if names.is_empty() {
        s.problem(&s.span(), "`algorithms` is empty: no token would be taken");
        return None;
    }
    let mut algorithms = Some(Vec::new());
    for name in names {
        match Algorithm::parse(&name.value) {
            Ok(algorithm) => algorithms.iter_mut().for_each(|a| a.push(algorithm)),
            Err(_) => {
                let all: Vec<_> = Algorithm::ALL.iter().map(|a| a.as_str()).collect();
                s.problem(
                    &name.span,
                    format!(
                        "`{}` cannot be allowed: possible are {}",
                        name.value,
                        all.join(", ")
                    ),
                );
                algorithms = None;
            }
        }
    }
    algorithms
}

/// An https URL, or an http one whose host is loopback.
fn read_url(s: &Section<'_>, text: &Located<String>, key: &str) -> Option<Url> {
    let problem = |why: &str| s.problem(&text.span, format!("`{key}`: {why}"));
    key_url(&text.value)
        .map_err(|why| problem(&why.to_string()))
        .ok()
}
