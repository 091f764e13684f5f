//! The keys of a route about its presentation, its versions and its mapping.

use std::time::Duration;

use bulla_identity::{Subject, reserved};
use http::header::LINK;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use time::format_description::well_known::Rfc2822;
use time::{Date, OffsetDateTime};

use crate::aggregate::MISSING;
use crate::api::ApiConfig;
use crate::cache::CacheConfig;
use crate::document::Located;
use crate::events::StreamConfig;
use crate::idempotency::IdempotencyConfig;
use crate::mapping::{Mapping, Source, is_free_header, is_free_member};
use crate::path::PathTemplate;
use crate::quantities::{millis, seconds};
use crate::routes::{Access, Mode};
use crate::section::Section;

/// What people read about a route, and for how long it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// In one line.
    pub summary: Option<String>,
    /// In some.
    pub description: Option<String>,
    /// Groups for the description.
    pub tags: Vec<String>,
    /// Since when it should not be used any more, as `Deprecation` says it
    /// ([RFC 9745]).
    ///
    /// [RFC 9745]: https://www.rfc-editor.org/rfc/rfc9745
    pub deprecated: Option<HeaderValue>,
    /// When it ends, as `Sunset` says it ([RFC 8594]).
    ///
    /// [RFC 8594]: https://www.rfc-editor.org/rfc/rfc8594
    pub sunset: Option<HeaderValue>,
    /// Where it is said what to use instead, as `Link` says it.
    pub deprecation_link: Option<HeaderValue>,
}

impl About {
    /// Tells clients that the route will end.
    pub(crate) fn announce(&self, headers: &mut HeaderMap) {
        let told = [("deprecation", &self.deprecated), ("sunset", &self.sunset)];
        for (name, value) in told {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        if let Some(link) = &self.deprecation_link {
            headers.append(LINK, link.clone());
        }
    }
}

pub(crate) fn read_about(s: &mut Section<'_>) -> About {
    let summary = s.text("summary").map(|t| t.value);
    let description = s.text("description").map(|t| t.value);
    let tags = s.texts("tags").unwrap_or_default();
    let deprecated = s.text("deprecated");
    let sunset = s.text("sunset");
    let deprecated_at = deprecated.as_ref().and_then(|t| read_date(s, t));
    let sunset_at = sunset.as_ref().and_then(|t| read_date(s, t));
    if let (Some(text), None) = (&sunset, &deprecated) {
        s.problem(
            &text.span,
            "`sunset` needs `deprecated`: say first that it will end",
        );
    }
    if let (Some(from), Some(to), Some(text)) = (deprecated_at, sunset_at, &sunset)
        && to < from
    {
        s.problem(&text.span, "`sunset` is before `deprecated`");
    }
    let link = s.text("deprecation_link").and_then(|text| {
        let value = url::Url::parse(&text.value)
            .ok()
            .filter(|url| url.scheme() == "https")
            .and_then(|url| HeaderValue::try_from(format!("<{url}>; rel=\"deprecation\"")).ok());
        if value.is_none() {
            s.problem(&text.span, "`deprecation_link` is no URL with `https`");
        }
        value
    });
    About {
        summary,
        description,
        tags: tags.into_iter().map(|t| t.value).collect(),
        deprecated: deprecated_at
            .and_then(|at| HeaderValue::try_from(format!("@{}", at.unix_timestamp())).ok()),
        sunset: sunset_at.and_then(http_date),
        deprecation_link: link,
    }
}

/// Midnight UTC of a day such as `2026-12-31`.
fn read_date(s: &Section<'_>, text: &Located<String>) -> Option<OffsetDateTime> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    match Date::parse(&text.value, format) {
        Ok(date) => Some(date.midnight().assume_utc()),
        Err(_) => {
            s.problem(
                &text.span,
                format!("`{}` is no day such as `2026-12-31`", text.value),
            );
            None
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` ([RFC 9110 §5.6.7]).
///
/// [RFC 9110 §5.6.7]: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
pub(crate) fn http_date(at: OffsetDateTime) -> Option<HeaderValue> {
    let text = at.format(&Rfc2822).ok()?;
    HeaderValue::try_from(text.replace("+0000", "GMT")).ok()
}

/// The version of a route: short, since clients write it into a header.
pub(crate) fn read_version(s: &mut Section<'_>, api: &ApiConfig) -> Option<String> {
    let text = s.text("version")?;
    let plain = (1..=32).contains(&text.value.len())
        && text
            .value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !plain {
        s.problem(
            &text.span,
            "`version` is of letters, digits, `.`, `-` and `_`",
        );
    }
    if api.version_header.is_none() {
        s.problem(
            &text.span,
            "`version` needs `version_header` in `[api]`: how would a client say it?",
        );
    }
    Some(text.value)
}

/// `cache`: only where a reply means the same the next time.
pub(crate) fn read_cache(
    s: &mut Section<'_>,
    method: Option<&Method>,
    mode: Option<Mode>,
    access: Option<&Access>,
) -> Option<(CacheConfig, Option<Subject>)> {
    let mut cache = s.section("cache")?;
    let invalidated_by = cache.text("invalidated_by").and_then(|text| {
        let subject = Subject::parse(&text.value)
            .ok()
            .filter(|_| !reserved::is_reserved(&text.value));
        if subject.is_none() {
            cache.problem(
                &text.span,
                "`invalidated_by` is no literal subject such as `orders.changed`",
            );
        }
        subject
    });
    let ttl = cache.required_duration(
        "ttl",
        seconds(1, 301),
        "for how long a reply is given again",
    );
    cache.finish();
    if method.is_some_and(|m| *m != Method::GET) || mode == Some(Mode::Publish) {
        s.problem(
            &s.span(),
            "`cache` is for `GET` that is answered by a reply",
        );
    }
    if access.is_some_and(Access::carries_original) {
        s.problem(
            &s.span(),
            "`cache` with `carry`: the service is to see each token",
        );
    }
    Some((CacheConfig { ttl: ttl? }, invalidated_by))
}

/// `idempotency`: only where something is published for a user.
pub(crate) fn read_idempotency(
    s: &mut Section<'_>,
    mode: Option<Mode>,
    access: Option<&Access>,
) -> Option<IdempotencyConfig> {
    let mut table = s.section("idempotency")?;
    let life = table.duration("life", seconds(60, 31 * 86_400 - 60));
    let is_required = table.flag("required").unwrap_or(false);
    table.finish();
    if mode.is_some_and(|mode| mode != Mode::Publish) {
        s.problem(&s.span(), "`idempotency` is for mode `publish`");
    }
    if access.is_some_and(Access::is_public) {
        s.problem(
            &s.span(),
            "`idempotency` on a public route: whoever names the same key would take it from others",
        );
    }
    Some(IdempotencyConfig {
        life: life.unwrap_or(Duration::from_secs(86_400)),
        is_required,
    })
}

/// Part of the requests of a route, that go elsewhere.
pub(crate) struct CanaryKeys {
    pub(crate) subject: Located<String>,
    /// In hundredths of a per cent.
    pub(crate) weight: u32,
}

pub(crate) fn read_canary(s: &mut Section<'_>) -> Option<CanaryKeys> {
    let mut canary = s.section("canary")?;
    let subject = canary.required_text("subject", "where its part of the messages goes");
    let weight = canary.required_number("percent", 0..=100, "how many of a hundred");
    canary.finish();
    Some(CanaryKeys {
        subject: subject?,
        weight: weight? * 100,
    })
}

/// The keys of a stream; none of those that say how a message is made or answered.
pub(crate) fn read_stream(
    s: &mut Section<'_>,
    mode: Option<Mode>,
    method: Option<&Method>,
) -> Option<StreamConfig> {
    const MEANINGLESS: [&str; 18] = [
        "body",
        "cache",
        "canary",
        "carry",
        "compress",
        "content_types",
        "forward_headers",
        "headers",
        "idempotency",
        "optional_scope",
        "part",
        "payload",
        "reach",
        "request_schema",
        "response_headers",
        "response_schema",
        "statuses",
        "timeout",
    ];
    let heartbeat = s.duration("heartbeat", millis(100, 300_001));
    let per_user = s.count("streams_per_user", 1..10_001);
    let websocket = s.flag("websocket");
    if mode != Some(Mode::Stream) {
        let of_streams = ["heartbeat", "streams_per_user", "websocket"];
        if mode.is_some() && of_streams.iter().any(|key| s.has(key)) {
            s.problem(
                &s.span(),
                "`heartbeat`, `streams_per_user` and `websocket` are for mode `stream`",
            );
        }
        return None;
    }
    if method.is_some_and(|m| *m != Method::GET) {
        s.problem(&s.span(), "a stream is for `GET`");
    }
    for key in MEANINGLESS {
        if s.has(key) {
            s.problem(&s.span(), format!("`{key}` means nothing for a stream"));
        }
    }
    Some(StreamConfig {
        heartbeat: heartbeat.unwrap_or(Duration::from_secs(15)),
        per_user: per_user.unwrap_or(8),
        websocket: websocket.unwrap_or(false),
    })
}

/// One `[[route.part]]` as it is written.
pub(crate) struct PartKeys {
    pub(crate) name: Located<String>,
    pub(crate) subject: Located<String>,
    pub(crate) optional: bool,
    pub(crate) timeout: Option<Duration>,
}

pub(crate) fn read_part(mut s: Section<'_>) -> Option<PartKeys> {
    let name = s.required_text("name", "under which name it stands in the answer");
    if let Some(name) = &name
        && (!is_free_member(&name.value) || name.value == MISSING)
    {
        s.problem(
            &name.span,
            format!("`{}` is no name for a part", name.value),
        );
    }
    let subject = s.required_text("subject", "for example `\"orders.get\"`");
    let optional = s.flag("optional").unwrap_or(false);
    let timeout = s.duration("timeout", millis(10, 300_000));
    s.finish();
    Some(PartKeys {
        name: name?,
        subject: subject?,
        optional,
        timeout,
    })
}

/// What a mapping may refer to.
pub(crate) struct Mappable<'a> {
    pub(crate) path: Option<&'a PathTemplate>,
    pub(crate) query: &'a [String],
    /// The claims that transaction tokens carry; none on a public route.
    pub(crate) claims: &'a [String],
}

/// `[route.require]`: captures that must be what the token says.
pub(crate) fn read_require(
    s: &mut Section<'_>,
    path: Option<&PathTemplate>,
    access: Option<&Access>,
) -> Vec<(String, String)> {
    let Some(mut table) = s.section("require") else {
        return Vec::new();
    };
    if access.is_some_and(Access::is_public) {
        table.problem(
            &table.span(),
            "`require` compares with the token, and a public route has none",
        );
    }
    let mut require = Vec::new();
    let names = table.names();
    if names.is_empty() {
        table.problem(
            &table.span(),
            "`require` is empty: nothing would be compared",
        );
    }
    for name in names {
        let exists = path.is_none_or(|path| path.captures().any(|c| c == name.value));
        if !exists {
            table.problem(&name.span, format!("the path has no `{{{}}}`", name.value));
        }
        let Some(text) = table.named_text(&name.value) else {
            continue;
        };
        match Source::parse(&text.value) {
            Ok(Source::Claim(claim)) => require.push((name.value, claim)),
            _ => table.problem(
                &text.span,
                format!(
                    "`{}` is no claim: write for example `claim.sub`",
                    text.value
                ),
            ),
        }
    }
    require
}

/// `[route.headers]` and `[route.payload]`.
pub(crate) fn read_mappings(
    s: &mut Section<'_>,
    key: &'static str,
    given: &Mappable<'_>,
) -> Vec<Mapping> {
    let Some(mut table) = s.section(key) else {
        return Vec::new();
    };
    let mut mappings = Vec::new();
    for name in table.names() {
        let free = if key == "headers" {
            is_free_header(&name.value)
        } else {
            is_free_member(&name.value)
        };
        if !free {
            table.problem(
                &name.span,
                format!("`{}` cannot be chosen as a name here", name.value),
            );
        }
        let Some(text) = table.named_text(&name.value) else {
            continue;
        };
        match Source::parse(&text.value).and_then(|source| known(source, given)) {
            Ok(source) => mappings.push(Mapping {
                name: name.value,
                source,
            }),
            Err(why) => table.problem(&text.span, format!("`{}`: {why}", text.value)),
        }
    }
    mappings
}

fn known(source: Source, given: &Mappable<'_>) -> Result<Source, &'static str> {
    let exists = match &source {
        Source::Path(name) => given
            .path
            .is_none_or(|path| path.captures().any(|c| c == name)),
        Source::Query(name) => given.query.contains(name),
        Source::Claim(name) => given.claims.contains(name),
        Source::Header(_) => true,
    };
    match (&source, exists) {
        (_, true) => Ok(source),
        (Source::Path(_), false) => Err("the path has no such capture"),
        (Source::Query(_), false) => Err("`query` does not list it"),
        (_, false) => Err(
            "not among `claims` of `[transaction]`, or the route is public: the user's token does not carry it",
        ),
    }
}

/// `[api]` of `gateway.toml`.
pub(crate) fn read_api(mut s: Section<'_>) -> ApiConfig {
    let default = ApiConfig::default();
    let title = s.text("title").map_or(default.title, |t| t.value);
    let version = s.text("version").map_or(default.version, |t| t.value);
    let description = s.text("description").map(|t| t.value);
    let public_url = s.text("public_url").and_then(|text| {
        let good = url::Url::parse(&text.value).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.query().is_none()
        });
        if !good || text.value.ends_with('/') {
            s.problem(
                &text.span,
                "`public_url` is no origin such as `https://api.example`",
            );
        }
        good.then_some(text.value)
    });
    let version_header = s.text("version_header").and_then(|text| {
        let header = HeaderName::try_from(text.value.as_str());
        let header = header.ok().filter(crate::route_fields::is_forwardable);
        if header.is_none() {
            s.problem(
                &text.span,
                "`version_header` is no header such as `api-version`",
            );
        }
        header
    });
    let default_version = s.text("default_version");
    if let (Some(text), None) = (&default_version, &version_header) {
        s.problem(&text.span, "`default_version` needs `version_header`");
    }
    let serves_openapi = s.flag("openapi").unwrap_or(false);
    let serves_docs = s.flag("docs").unwrap_or(false);
    s.finish();
    ApiConfig {
        title,
        version,
        description,
        public_url,
        version_header,
        default_version: default_version.map(|t| t.value),
        serves_openapi,
        serves_docs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_has_them() {
        let at = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(http_date(at).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
