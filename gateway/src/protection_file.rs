//! The sections of `gateway.toml` that protect the edge: `[clients]`, `[[rate]]`,
//! `[cors]`, `[breaker]` and `[security]`.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::breaker::BreakerConfig;
use crate::client_address::{ClientsConfig, ForwardedBy, NetworkRules};
use crate::cors::{CorsConfig, OriginPattern};
use crate::finish::SecurityConfig;
use crate::networks::{Networks, parse_network};
use crate::quantities::{millis, seconds};
use crate::rate::{CountBy, RateConfig};
use crate::section::Section;

/// The longest name of a rate.
const MAX_NAME: usize = 32;

pub(crate) fn read_clients(mut s: Section<'_>) -> ClientsConfig {
    let trusted_proxies = read_networks(&mut s, "trusted_proxies");
    let forwarded = s.text("forwarded").and_then(|by| match by.value.as_str() {
        "forwarded" => Some(ForwardedBy::Forwarded),
        "x-forwarded-for" => Some(ForwardedBy::XForwardedFor),
        other => {
            s.problem(
                &by.span,
                format!("`forwarded` is `{other}`: possible are `forwarded` and `x-forwarded-for`"),
            );
            None
        }
    });
    let proxy_protocol = s.flag("proxy_protocol").unwrap_or(false);
    if trusted_proxies.is_empty() && (forwarded.is_some() || proxy_protocol) {
        s.problem(
            &s.span(),
            "`forwarded` and `proxy_protocol` need `trusted_proxies`: anybody could say where he comes from",
        );
    }
    if !trusted_proxies.is_empty() && forwarded.is_none() && !proxy_protocol {
        s.problem(
            &s.span(),
            "`trusted_proxies` needs `forwarded` or `proxy_protocol`: say how they name the client",
        );
    }
    let networks = read_network_rules(&mut s);
    s.finish();
    ClientsConfig {
        trusted_proxies,
        forwarded,
        proxy_protocol,
        networks,
    }
}

/// `allow` and `deny` of the clients or of a route.
pub(crate) fn read_network_rules(s: &mut Section<'_>) -> NetworkRules {
    NetworkRules {
        allow: read_networks(s, "allow"),
        deny: read_networks(s, "deny"),
    }
}

fn read_networks(s: &mut Section<'_>, key: &'static str) -> Networks {
    let mut networks = Networks::default();
    let Some(texts) = s.texts(key) else {
        return networks;
    };
    if texts.is_empty() {
        s.problem(&s.span(), format!("`{key}` is empty: leave it out"));
    }
    for text in texts {
        match parse_network(&text.value) {
            Some(network) => networks.push(network),
            None => s.problem(
                &text.span,
                format!(
                    "`{}` is no network such as `10.0.0.0/8` or `2001:db8::/32`",
                    text.value
                ),
            ),
        }
    }
    networks
}

/// All rates, and whether every one could be read.
pub(crate) fn read_rates(root: &mut Section<'_>) -> (Vec<RateConfig>, bool) {
    let mut rates: Vec<RateConfig> = Vec::new();
    let mut complete = true;
    for section in root.sections("rate") {
        let span = section.span();
        match read_rate(section) {
            Some(rate) if rates.iter().any(|r| r.name == rate.name) => {
                root.problem(&span, format!("rate `{}` is there twice", rate.name));
            }
            Some(rate) => rates.push(rate),
            None => complete = false,
        }
    }
    (rates, complete)
}

/// The `rates` of a route, or those of all routes that say nothing about it.
pub(crate) fn read_rate_names(
    s: &mut Section<'_>,
    rates: &[RateConfig],
    complete: bool,
) -> Option<Vec<usize>> {
    let mut named = Vec::new();
    for name in s.texts("rates")? {
        match rates.iter().position(|rate| rate.name == name.value) {
            Some(rate) if named.contains(&rate) => {
                s.problem(&name.span, format!("rate `{}` is there twice", name.value));
            }
            Some(rate) => named.push(rate),
            None if complete => s.problem(
                &name.span,
                format!(
                    "rate `{}` is not among the `[[rate]]`s of the gateway",
                    name.value
                ),
            ),
            None => {}
        }
    }
    Some(named)
}

fn read_rate(mut s: Section<'_>) -> Option<RateConfig> {
    let name = s
        .required_text("name", "routes name it in `rates`, clients see it")
        .and_then(|name| {
            let plain = (1..=MAX_NAME).contains(&name.value.len())
                && name
                    .value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            if !plain {
                s.problem(
                    &name.span,
                    format!("`name` is of letters, digits, `-` and `_`, {MAX_NAME} at most"),
                );
            }
            plain.then_some(name.value)
        });
    let by = s
        .required_texts("by", "what is counted: `user`, `client`, `ip` or `route`")
        .and_then(|words| read_count_by(&s, &words));
    let quota = s.required_number("quota", 1..=1_000_000_000, "how many requests");
    let window = s.required_duration("window", seconds(1, 31 * 86_400), "within which time");
    let burst = s.number("burst", 1..=1_000_000_000);
    let is_shared = s.flag("shared").unwrap_or(false);
    if is_shared && burst.is_some() {
        s.problem(
            &s.span(),
            "`burst` means nothing for a quota that is `shared`: add a rate of each node beside it",
        );
    }
    // The bus remembers for 31 days, and a little longer than the window is needed.
    if is_shared && window.is_some_and(|window| window > Duration::from_secs(30 * 86_400)) {
        s.problem(
            &s.span(),
            "a quota that is `shared` has a `window` of 30 days at most",
        );
    }
    s.finish();
    let quota = NonZeroU32::new(quota?)?;
    Some(RateConfig {
        name: name?,
        by: by?,
        quota,
        window: window?,
        burst: burst.and_then(NonZeroU32::new).unwrap_or(quota),
        is_shared,
    })
}

fn read_count_by(
    s: &Section<'_>,
    words: &[crate::document::Located<String>],
) -> Option<Vec<CountBy>> {
    let mut by = Vec::new();
    for word in words {
        let one = match word.value.as_str() {
            "user" => CountBy::User,
            "client" => CountBy::Client,
            "ip" => CountBy::Ip,
            "route" => CountBy::Route,
            other => {
                s.problem(
                    &word.span,
                    format!("`by` is `{other}`: possible are `user`, `client`, `ip` and `route`"),
                );
                return None;
            }
        };
        if by.contains(&one) {
            s.problem(&word.span, format!("`{}` is there twice", word.value));
        }
        by.push(one);
    }
    if by.is_empty() {
        s.problem(&s.span(), "`by` is empty: say what is counted");
    }
    (!by.is_empty()).then_some(by)
}

pub(crate) fn read_cors(mut s: Section<'_>) -> Option<CorsConfig> {
    let texts = s.required_texts(
        "origins",
        "whose pages may ask, for example `https://app.example`",
    );
    let mut origins = Vec::new();
    for text in texts.iter().flatten() {
        match OriginPattern::parse(&text.value) {
            Ok(origin) => origins.push(origin),
            Err(why) => s.problem(&text.span, format!("`{}` {why}", text.value)),
        }
    }
    let credentials = s.flag("credentials").unwrap_or(false);
    if credentials && origins.contains(&OriginPattern::Any) {
        s.problem(
            &s.span(),
            "`credentials` with origin `*`: browsers ignore it, and every page could act for its visitor; name the origins",
        );
    }
    let headers = read_header_names(&mut s, "headers")
        .unwrap_or_else(|| [http::header::AUTHORIZATION, http::header::CONTENT_TYPE].to_vec());
    let expose = read_header_names(&mut s, "expose").unwrap_or_default();
    let max_age = s.duration("max_age", seconds(0, 86_401));
    let private_network = s.flag("private_network").unwrap_or(false);
    s.finish();
    texts?;
    Some(CorsConfig {
        origins,
        headers,
        expose,
        credentials,
        max_age,
        private_network,
    })
}

fn read_header_names(s: &mut Section<'_>, key: &'static str) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for text in s.texts(key)? {
        match HeaderName::try_from(text.value.as_str()) {
            Ok(name) if name.as_str() != "*" => names.push(name),
            Ok(_) | Err(_) => s.problem(
                &text.span,
                format!("`{}` is no name of a header, and `*` is none", text.value),
            ),
        }
    }
    Some(names)
}

pub(crate) fn read_breaker(mut s: Section<'_>) -> BreakerConfig {
    let failures = s.number("failures", 1..=100_000).unwrap_or(10);
    let pause = s
        .duration("pause", millis(100, 300_000))
        .unwrap_or(Duration::from_secs(2));
    s.finish();
    BreakerConfig { failures, pause }
}

pub(crate) fn read_security(mut s: Section<'_>) -> SecurityConfig {
    let default = SecurityConfig::default();
    let hsts = s
        .duration("hsts", seconds(0, 10 * 365 * 86_400))
        .unwrap_or(default.hsts);
    let policy = s.text("content_security_policy").and_then(|text| {
        let value = HeaderValue::from_str(&text.value);
        if value.is_err() {
            s.problem(
                &text.span,
                "`content_security_policy` is no value of a header",
            );
        }
        value.ok()
    });
    s.finish();
    SecurityConfig {
        hsts,
        content_security_policy: policy.unwrap_or(default.content_security_policy),
    }
}
