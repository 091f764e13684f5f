//! The `[[issuer]]`s of `gateway.toml`.

use std::path::Path;
use std::time::Duration;

use bulla_issuer::key_url;
use bulla_token::{Algorithm, TypRule};
use url::Url;

use crate::config::IssuerConfig;
use crate::document::Located;
use crate::introspection::IntrospectionConfig;
use crate::quantities::{millis, seconds};
use crate::section::Section;

pub(crate) fn read_issuer(mut s: Section<'_>, base: &Path) -> Option<IssuerConfig> {
    let issuer = s.required_text("issuer", "what `iss` must be, byte for byte");
    let issuer_url = issuer
        .as_ref()
        .and_then(|text| read_url(&s, text, "issuer"));
    let (jwks_url, has_jwks_url) = match s.text("jwks_url") {
        None => (None, true),
        Some(text) => {
            let url = read_url(&s, &text, "jwks_url");
            let is_good = url.is_some();
            (url, is_good)
        }
    };
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
    let must_be_bound = match s.text("bound").as_ref().map(|b| b.value.as_str()) {
        None | Some("optional") => false,
        Some("required") => true,
        Some(other) => {
            let message = format!("`bound` is `{other}`: possible are `optional` and `required`");
            s.problem(&s.span(), message);
            false
        }
    };
    let introspection = s
        .section("introspection")
        .and_then(|section| read_introspection(section, base));
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
    if !has_jwks_url {
        return None;
    }
    Some(IssuerConfig {
        issuer: issuer?.value,
        issuer_url: issuer_url?,
        jwks_url,
        ca_file,
        algorithms: algorithms?,
        typ,
        must_be_bound,
        introspection,
        leeway,
        refresh,
        cooldown,
        max_stale,
        timeout,
    })
}

fn read_introspection(mut s: Section<'_>, base: &Path) -> Option<IntrospectionConfig> {
    let url = s
        .required_text("url", "where the issuer is asked what a token is")
        .and_then(|text| read_url(&s, &text, "url"));
    let client_id = s.required_text("client_id", "as whom it is asked");
    let secret = s.required_text(
        "client_secret_file",
        "name the file with that client's secret",
    );
    s.finish();
    Some(IntrospectionConfig {
        url: url?,
        client_id: client_id?.value,
        client_secret_file: base.join(secret?.value),
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
