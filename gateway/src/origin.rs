//! Which pages may have a browser ask, where the browser brings something by itself.

use http::header::ORIGIN;
use http::{HeaderMap, HeaderName};

use crate::loaded::Loaded;
use crate::problem::Problem;
use crate::refusal::{Refusal, deny};

/// What browsers say of a request's origin beside `Origin` ([Fetch Metadata]).
///
/// [Fetch Metadata]: https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Pages of other origins have what the browser sends along by itself, as client
/// certificates: only those that `[cors]` names, or the API's own, may ask.
pub(crate) fn check_origin(headers: &HeaderMap, loaded: &Loaded) -> Result<(), Refusal> {
    let denied = || deny(Problem::Forbidden, "origin_denied");
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        // Browsers leave it out where a page merely leads to an address, or shows an image.
        let mut sites = headers.get_all(SITE).iter();
        let is_own = sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
        return is_own.then_some(()).ok_or_else(denied);
    };
    let cors = loaded.cors.as_ref();
    let named = cors.is_some_and(|cors| cors.allows(origin));
    let own = loaded.presentation.public_url();
    let is_own = own.is_some_and(|own| own.as_bytes() == origin.as_bytes());
    if (named || is_own) && origins.next().is_none() {
        Ok(())
    } else {
        Err(denied())
    }
}
