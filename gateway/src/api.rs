//! How the edge presents itself: the `[api]` section.

use http::{HeaderName, Method};

use crate::path::PathTemplate;
use crate::routes::Route;

/// The `[api]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// What the API is called.
    pub title: String,
    /// The version of its description.
    pub version: String,
    /// What it is for.
    pub description: Option<String>,
    /// Where clients reach it: an origin.
    pub public_url: Option<String>,
    /// The header in which clients say which version of a route they mean.
    pub version_header: Option<HeaderName>,
    /// What is meant without that header.
    pub default_version: Option<String>,
    /// Whether `/openapi.json` is served.
    pub serves_openapi: bool,
    /// Whether `/docs` is served.
    pub serves_docs: bool,
}

/// Where the description is served.
pub(crate) const OPENAPI_PATH: &str = "/openapi.json";
/// Where the page for people is served.
pub(crate) const DOCS_PATH: &str = "/docs";

impl ApiConfig {
    /// Whether a route would never be reached, because the edge itself serves its path.
    pub(crate) fn takes(&self, route: &Route) -> bool {
        let served = [
            (self.serves_openapi, OPENAPI_PATH),
            (self.serves_docs, DOCS_PATH),
        ];
        let mut paths = served.into_iter().filter(|(on, _)| *on);
        route.method == Method::GET
            && paths.any(|(_, path)| {
                PathTemplate::parse(path).is_ok_and(|path| path.overlaps(&route.path))
            })
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            title: "API".to_owned(),
            version: "1.0.0".to_owned(),
            description: None,
            public_url: None,
            version_header: None,
            default_version: None,
            serves_openapi: false,
            serves_docs: false,
        }
    }
}
