//! The routes file, read so that every mistake is reported at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::Subject;
use http::Method;
use toml::Spanned;
use toml::de::DeTable;

use crate::api::ApiConfig;
use crate::breaker::{Breaker, BreakerConfig};
use crate::config::{IssuerConfig, Limits};
use crate::document::{ConfigProblem, Document, Keys};
use crate::invalidation::Invalidation;
use crate::json::is_json;
use crate::listen::LAST_EVENT_PARAMETER;
use crate::metrics::RouteMetrics;
use crate::path::PathTemplate;
use crate::profiles::Profiles;
use crate::protection_file::{read_network_rules, read_rate_names};
use crate::rate::RateConfig;
use crate::route_extras::{
    CanaryKeys, Mappable, read_about, read_cache, read_canary, read_idempotency, read_mappings,
    read_part, read_require, read_stream, read_version,
};
use crate::route_fields::{
    is_forwardable, is_settable, read_content_types, read_headers, read_priority, read_query,
    read_statuses,
};
use crate::routes::{Access, Canary, Mode, Part, Route, RouteTable, SubjectTemplate, TokenPolicy};
use crate::schema::Schema;
use crate::section::Section;

/// What a route may refer to.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'c> {
    pub(crate) api: &'c ApiConfig,
    /// The claims that transaction tokens carry.
    pub(crate) claims: &'c [String],
    pub(crate) issuers: &'c [IssuerConfig],
    /// Whether an issuer that is not there is the route's mistake, or one that has been
    /// reported already.
    pub(crate) issuers_complete: bool,
    pub(crate) rates: &'c [RateConfig],
    /// The same for rates.
    pub(crate) rates_complete: bool,
    pub(crate) default_rates: &'c [usize],
    pub(crate) breaker: Option<BreakerConfig>,
    pub(crate) has_api_keys: bool,
    pub(crate) has_certificates: bool,
    pub(crate) limits: &'c Limits,
}

/// One routes file.
pub(crate) struct RouteFile {
    pub(crate) name: String,
    pub(crate) text: String,
    /// What its paths are relative to.
    pub(crate) base: PathBuf,
}

/// Reads all routes files, as if they were one: no two routes of any may match the same
/// request, and a profile of one serves the routes of all.
pub(crate) fn read_routes(
    files: &[RouteFile],
    around: Surroundings<'_>,
) -> (Option<RouteTable>, Vec<ConfigProblem>) {
    let document = Document::of(files.iter().map(|f| (f.name.as_str(), f.text.as_str())));
    let trees = document.trees();
    let table = read_all(&document, &trees, files, around);
    drop(trees);
    (table, document.into_problems())
}

/// Which keys routes files have.
pub(crate) fn route_keys(files: &[RouteFile], around: Surroundings<'_>) -> Keys {
    let document = Document::of(files.iter().map(|f| (f.name.as_str(), f.text.as_str())));
    let trees = document.trees();
    read_all(&document, &trees, files, around);
    document.learned()
}

fn read_all<'d>(
    document: &'d Document<'d>,
    trees: &'d [(Spanned<DeTable<'d>>, usize)],
    files: &[RouteFile],
    around: Surroundings<'_>,
) -> Option<RouteTable> {
    let mut roots: Vec<Section<'_>> = trees
        .iter()
        .map(|(tree, begin)| Section::root(document, tree, *begin))
        .collect();
    let mut reader = RouteReader {
        around,
        base: PathBuf::new(),
        profiles: Profiles::default(),
        policies: Vec::new(),
        policy_keys: Vec::new(),
        breakers: Vec::new(),
        invalidations: Vec::new(),
    };
    for root in &mut roots {
        reader.profiles.read(root);
    }
    let mut routes: Vec<Arc<Route>> = Vec::new();
    let mut complete = true;
    for (root, file) in roots.iter_mut().zip(files) {
        reader.base.clone_from(&file.base);
        for section in root.sections("route") {
            let span = section.span();
            let Some(route) = reader.route(section) else {
                complete = false;
                continue;
            };
            let clash = routes.iter().find(|r| {
                let one_version =
                    r.version.is_none() || route.version.is_none() || r.version == route.version;
                r.method == route.method && r.path.overlaps(&route.path) && one_version
            });
            if let Some(other) = clash {
                root.problem(
                    &span,
                    format!("`{}` and `{}` match the same requests", other.id, route.id),
                );
            }
            if around.api.takes(&route) {
                root.problem(
                    &span,
                    format!("`{}` is what `[api]` serves itself", route.id),
                );
            }
            routes.push(Arc::new(route));
        }
    }
    reader.profiles.finish();
    if let Some(root) = roots.first()
        && routes.is_empty()
        && complete
    {
        root.problem(&root.span(), "there is no `[[route]]`");
    }
    roots.into_iter().for_each(Section::finish);
    complete.then_some(RouteTable {
        routes,
        policies: reader.policies,
        invalidations: reader.invalidations,
        breakers: reader.breakers,
    })
}

/// Reads routes, and what they share.
pub(crate) struct RouteReader<'c, 'd> {
    pub(crate) around: Surroundings<'c>,
    /// What paths of files are relative to.
    pub(crate) base: PathBuf,
    pub(crate) profiles: Profiles<'d>,
    pub(crate) policies: Vec<TokenPolicy>,
    pub(crate) policy_keys: Vec<(usize, Vec<String>)>,
    /// One for each subject, as routes write it.
    pub(crate) breakers: Vec<Arc<Breaker>>,
    /// One for each subject that routes name.
    pub(crate) invalidations: Vec<Arc<Invalidation>>,
}

impl<'d> RouteReader<'_, 'd> {
    fn route(&mut self, mut s: Section<'d>) -> Option<Route> {
        self.profiles.apply(&mut s);
        let method = s
            .required_text("method", "for example `\"GET\"`")
            .and_then(|m| match m.value.as_str() {
                "GET" => Some(Method::GET),
                "POST" => Some(Method::POST),
                "PUT" => Some(Method::PUT),
                "PATCH" => Some(Method::PATCH),
                "DELETE" => Some(Method::DELETE),
                other => {
                    s.problem(
                        &m.span,
                        format!(
                            "`method` is `{other}`: possible are GET, POST, PUT, PATCH, DELETE"
                        ),
                    );
                    None
                }
            });
        let path = s
            .required_text("path", "for example `\"/v1/orders/{id}\"`")
            .and_then(|p| {
                PathTemplate::parse(&p.value)
                    .map_err(|why| s.problem(&p.span, format!("`path`: {why}")))
                    .ok()
            });
        let mode = s
            .required_text("mode", "`request`, `publish`, `aggregate` or `stream`")
            .and_then(|m| match m.value.as_str() {
                "request" => Some(Mode::Request),
                "publish" => Some(Mode::Publish),
                "aggregate" => Some(Mode::Aggregate),
                "stream" => Some(Mode::Stream),
                other => {
                    s.problem(
                        &m.span,
                        format!(
                            "`mode` is `{other}`: possible are `request`, `publish`, `aggregate` and `stream`"
                        ),
                    );
                    None
                }
            });
        let subject_text = match mode {
            Some(Mode::Aggregate) => None,
            _ => s.required_text("subject", "for example `\"orders.get\"`"),
        };
        let subject = match (&subject_text, &path) {
            (Some(text), Some(path)) => SubjectTemplate::parse(&text.value, path)
                .map_err(|why| s.problem(&text.span, format!("`subject`: {why}")))
                .ok(),
            _ => None,
        };
        let access = self.access(&mut s);
        let timeout = s
            .duration(
                "timeout",
                Duration::from_millis(10)..Duration::from_secs(300),
            )
            .unwrap_or(self.around.limits.request_timeout);
        let stream = read_stream(&mut s, mode, method.as_ref());
        let parts = self.parts(&mut s, path.as_ref(), timeout);
        if mode.is_some() && (mode == Some(Mode::Aggregate)) == parts.is_empty() {
            s.problem(
                &s.span(),
                "an aggregate has `[[route.part]]`s, and no other route has any",
            );
        }
        if mode == Some(Mode::Aggregate) && method.as_ref().is_some_and(|m| *m != Method::GET) {
            s.problem(
                &s.span(),
                "an aggregate is for `GET`: nobody could undo a part of it",
            );
        }
        // For the decision log: the first stands for all.
        let subject = subject.or_else(|| parts.first().map(|part| part.subject.clone()));
        let bodyless = method == Some(Method::GET);
        let body = s.size("body", 0..(64 << 20) + 1);
        let body = body.unwrap_or(if bodyless { 0 } else { self.around.limits.body });
        let content_types = read_content_types(&mut s);
        let mut query = read_query(&mut s);
        if mode == Some(Mode::Stream) {
            if query.iter().any(|name| name == LAST_EVENT_PARAMETER) {
                s.problem(
                    &s.span(),
                    format!("`{LAST_EVENT_PARAMETER}` is a parameter of every stream already"),
                );
            }
            query.push(LAST_EVENT_PARAMETER.to_owned());
        }
        if let Some(both) = path
            .iter()
            .flat_map(PathTemplate::captures)
            .find(|c| query.iter().any(|q| q == c))
        {
            s.problem(
                &s.span(),
                format!("`{both}` is both a capture of the path and a query parameter"),
            );
        }
        let forward_headers = read_headers(&mut s, "forward_headers", is_forwardable);
        let claims = match &access {
            Some(Access::Public) => &[],
            _ => self.around.claims,
        };
        let given = Mappable {
            path: path.as_ref(),
            query: &query,
            claims,
        };
        let require = read_require(&mut s, path.as_ref(), access.as_ref());
        let headers = read_mappings(&mut s, "headers", &given);
        let payload = read_mappings(&mut s, "payload", &given);
        // A message has room for 32 headers.
        let named = path.iter().flat_map(PathTemplate::captures).count()
            + query.len()
            + headers.len()
            + forward_headers.as_ref().map_or(0, Vec::len);
        if named > 32 {
            s.problem(
                &s.span(),
                "captures, `query`, `forward_headers` and `headers` are more than 32 together",
            );
        }
        let response_headers = match read_headers(&mut s, "response_headers", is_settable) {
            None => vec![http::header::LOCATION],
            Some(headers) => headers,
        };
        let statuses = read_statuses(&mut s);
        let rates = self.rates(&mut s, access.as_ref());
        let priority = read_priority(&mut s);
        let networks = read_network_rules(&mut s);
        let request_schema = self.schema(&mut s, "request_schema");
        let response_schema = self.schema(&mut s, "response_schema");
        if s.has("request_schema") && !content_types.iter().all(|t| is_json(t)) {
            s.problem(
                &s.span(),
                "`request_schema` needs `content_types` of JSON alone",
            );
        }
        let (cache, invalidated_by) =
            match read_cache(&mut s, method.as_ref(), mode, access.as_ref()) {
                Some((cache, by)) => (Some(cache), by),
                None => (None, None),
            };
        let compress = s.flag("compress").unwrap_or(false);
        if compress && mode == Some(Mode::Publish) {
            s.problem(
                &s.span(),
                "`compress` is for routes that answer with content",
            );
        }
        let idempotency = read_idempotency(&mut s, mode, access.as_ref());
        let version = read_version(&mut s, self.around.api);
        let about = read_about(&mut s);
        let canary = match (read_canary(&mut s), &path) {
            (Some(keys), Some(path)) => self.canary(&s, &keys, path),
            _ => None,
        };
        if mode == Some(Mode::Aggregate) && s.has("canary") {
            s.problem(&s.span(), "`canary` is not for an aggregate");
        }
        let place = match &subject_text {
            Some(text) => s.place(&text.span),
            None => s.place(&s.span()),
        };
        s.finish();
        let breaker = subject_text.and_then(|text| self.breaker(&text.value));
        let (method, path) = (method?, path?);
        Some(Route {
            place: place?,
            id: match &version {
                None => format!("{method} {path}"),
                Some(version) => format!("{method} {path} ({version})"),
            },
            method,
            path,
            subject: subject?,
            mode: mode?,
            access: access?,
            timeout,
            body,
            content_types,
            query,
            forward_headers: forward_headers.unwrap_or_default(),
            statuses,
            response_headers,
            rates,
            priority,
            networks,
            request_schema,
            response_schema,
            cache,
            invalidation: invalidated_by.map(|subject| self.invalidation(subject)),
            compress,
            version,
            about,
            require,
            headers,
            payload,
            stream,
            idempotency,
            parts,
            canary,
            breaker,
            answers: RouteMetrics::default(),
        })
    }

    /// The rates of the route, or the default ones. Those that count users cannot be
    /// asked for where there is none.
    fn rates(&self, s: &mut Section<'_>, access: Option<&Access>) -> Vec<usize> {
        let (rates, complete) = (self.around.rates, self.around.rates_complete);
        let is_public = access.is_some_and(Access::is_public);
        let without_user = |rate: &usize| !rates.get(*rate).is_some_and(RateConfig::needs_user);
        match read_rate_names(s, rates, complete) {
            Some(named) => {
                if is_public && !named.iter().all(without_user) {
                    s.problem(
                        &s.span(),
                        "`rates` names one that counts users, but the route is public",
                    );
                }
                named
            }
            None => {
                let defaults = self.around.default_rates.iter().copied();
                defaults.filter(|r| !is_public || without_user(r)).collect()
            }
        }
    }

    fn schema(&self, s: &mut Section<'_>, key: &'static str) -> Option<Schema> {
        let file = s.text(key)?;
        match Schema::load(&self.base.join(&file.value)) {
            Ok(schema) => Some(schema),
            Err(why) => {
                s.problem(&file.span, format!("`{key}`: {why}"));
                None
            }
        }
    }

    /// The `[[route.part]]`s.
    fn parts(
        &mut self,
        s: &mut Section<'_>,
        path: Option<&PathTemplate>,
        timeout: Duration,
    ) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for section in s.sections("part") {
            let span = section.span();
            let Some(keys) = read_part(section) else {
                continue;
            };
            if parts.iter().any(|p| p.name == keys.name.value) {
                s.problem(&span, format!("part `{}` is there twice", keys.name.value));
            }
            let Some(path) = path else { continue };
            match SubjectTemplate::parse(&keys.subject.value, path) {
                Ok(subject) => parts.extend(s.place(&keys.subject.span).map(|place| Part {
                    name: keys.name.value,
                    place,
                    subject,
                    optional: keys.optional,
                    timeout: keys.timeout.unwrap_or(timeout),
                    breaker: self.breaker(&keys.subject.value),
                })),
                Err(why) => s.problem(&keys.subject.span, format!("`subject`: {why}")),
            }
        }
        parts
    }

    fn canary(
        &mut self,
        s: &Section<'_>,
        keys: &CanaryKeys,
        path: &PathTemplate,
    ) -> Option<Canary> {
        match SubjectTemplate::parse(&keys.subject.value, path) {
            Ok(subject) => Some(Canary {
                place: s.place(&keys.subject.span)?,
                subject,
                weight: keys.weight,
                breaker: self.breaker(&keys.subject.value),
            }),
            Err(why) => {
                s.problem(&keys.subject.span, format!("`canary.subject`: {why}"));
                None
            }
        }
    }

    /// Routes that name the same subject hear of it together.
    fn invalidation(&mut self, subject: Subject) -> Arc<Invalidation> {
        let known = self.invalidations.iter().find(|i| i.subject == subject);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let invalidation = Arc::new(Invalidation::new(subject));
        self.invalidations.push(Arc::clone(&invalidation));
        invalidation
    }

    /// Routes that send to the same subject share its breaker.
    fn breaker(&mut self, subject: &str) -> Option<Arc<Breaker>> {
        let config = self.around.breaker?;
        if let Some(known) = self.breakers.iter().find(|b| b.is_of(subject)) {
            return Some(Arc::clone(known));
        }
        let breaker = Arc::new(Breaker::new(subject.to_owned(), config));
        self.breakers.push(Arc::clone(&breaker));
        Some(breaker)
    }
}
