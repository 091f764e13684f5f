//! What the edge answers about itself: `/openapi.json` and `/docs`.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::Full;

use crate::api::{ApiConfig, DOCS_PATH, OPENAPI_PATH};
use crate::docs_page;
use crate::openapi::describe;
use crate::path::CleanPath;
use crate::routes::RouteTable;

/// Descriptions and pages, made once for each version that routes have.
pub(crate) struct Presentation {
    api: ApiConfig,
    made: Vec<Made>,
}

struct Made {
    version: Option<String>,
    description: Bytes,
    page: Bytes,
}

impl Presentation {
    pub(crate) fn new(api: &ApiConfig, routes: &RouteTable) -> Self {
        let mut versions: Vec<Option<String>> = vec![api.default_version.clone()];
        for route in routes.iter() {
            if !versions.contains(&route.version) {
                versions.push(route.version.clone());
            }
        }
        let made = versions.into_iter().map(|version| {
            let description = describe(routes, api, version.as_deref());
            Made {
                page: docs_page::page(&description).into(),
                description: description.to_string().into(),
                version,
            }
        });
        Self {
            api: api.clone(),
            made: made.collect(),
        }
    }

    /// The origin at which clients reach the API, if it is known.
    pub(crate) fn public_url(&self) -> Option<&str> {
        self.api.public_url.as_deref()
    }

    /// The version that a client asks for, or the default. `None` twice over if it
    /// asks in a way that nobody could answer.
    pub(crate) fn version<'r>(&'r self, headers: &'r HeaderMap) -> Option<Option<&'r str>> {
        let Some(name) = &self.api.version_header else {
            return Some(None);
        };
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Some(self.api.default_version.as_deref()),
            (Some(only), None) => only.to_str().ok().map(|text| Some(text.trim())),
            (Some(_), Some(_)) => None,
        }
    }

    /// The header on which the answer depends, if routes have versions.
    pub(crate) fn varies(&self) -> Option<HeaderValue> {
        let name = self.api.version_header.as_ref()?;
        HeaderValue::from_str(name.as_str()).ok()
    }

    /// The answer about the API itself, if that is what is asked for.
    pub(crate) fn answer(
        &self,
        method: &Method,
        path: &CleanPath,
        version: Option<&str>,
    ) -> Option<Response<Full<Bytes>>> {
        let [segment] = path.segments() else {
            return None;
        };
        let is = |served: bool, path: &str| served && path.strip_prefix('/') == Some(segment);
        let wants_page = is(self.api.serves_docs, DOCS_PATH);
        let wants_description = is(self.api.serves_openapi, OPENAPI_PATH);
        if *method != Method::GET || !(wants_page || wants_description) {
            return None;
        }
        let made = self
            .made
            .iter()
            .find(|made| made.version.as_deref() == version)
            .or(self.made.first())?;
        let (body, content_type) = if wants_page {
            (&made.page, "text/html; charset=utf-8")
        } else {
            (&made.description, "application/json")
        };
        let mut response = Response::new(Full::new(body.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if wants_page {
            headers.insert(
                CONTENT_SECURITY_POLICY,
                docs_page::content_security_policy(),
            );
        }
        Some(response)
    }
}
