//! Every problem type, explained to the people who meet it.

/// One problem type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProblemType {
    /// The last part of its `type`, and its anchor on the page.
    pub(crate) name: &'static str,
    pub(crate) status: u16,
    pub(crate) title: &'static str,
    /// What to do about it.
    pub(crate) advice: &'static str,
}

/// All of them, by status.
pub(crate) const CATALOGUE: [ProblemType; 29] = [
    kind(
        "bad-request",
        400,
        "The request is malformed",
        "Path, query, headers or body are not well formed, or a parameter is not known. `detail` says which. Do not send it again unchanged.",
    ),
    kind(
        "unauthorized",
        401,
        "Authentication is required",
        "Send an access token: `Authorization: Bearer …`.",
    ),
    kind(
        "invalid-token",
        401,
        "The access token is not valid",
        "It has ended, is for another API, or was not issued by who it says. Get a new one.",
    ),
    kind(
        "invalid-proof",
        401,
        "The proof of possession is not valid",
        "Your access token is bound to a key. Send a fresh `DPoP` proof by that key with each request, made for this method and URL.",
    ),
    kind(
        "api-key-required",
        401,
        "An API key is required",
        "Send your key: `X-API-Key: bk_…`.",
    ),
    kind(
        "invalid-api-key",
        401,
        "The API key is not valid",
        "It has ended, was revoked, or was never one. Ask for a new one.",
    ),
    kind(
        "certificate-required",
        403,
        "A client certificate is required",
        "Show the certificate by which you are known here when you connect. In a browser, ask from a page that may.",
    ),
    kind(
        "invalid-certificate",
        403,
        "The client certificate is not known",
        "Nobody here is known by it, or it has expired. Ask the operator to list it.",
    ),
    kind(
        "insufficient-scope",
        403,
        "The access token lacks a scope",
        "`WWW-Authenticate` names the scopes that are needed. Ask for them when you get a token.",
    ),
    kind(
        "forbidden",
        403,
        "This is not allowed",
        "You may not do this, or not from where you are. A new token will not help; the operator finds the reason under `decision_id`.",
    ),
    kind(
        "not-found",
        404,
        "There is nothing here",
        "The path does not exist, or what it names does not.",
    ),
    kind(
        "method-not-allowed",
        405,
        "The method is not supported here",
        "`Allow` lists the methods that this path has.",
    ),
    kind(
        "request-timeout",
        408,
        "The request took too long to arrive",
        "Send the body faster, or send less.",
    ),
    kind(
        "conflict",
        409,
        "This conflicts with the present state",
        "Read the present state, and decide anew.",
    ),
    kind(
        "idempotency-unknown",
        409,
        "It is not known whether this was carried out",
        "An earlier request with this `Idempotency-Key` was not answered for. Look whether it was carried out before you send it under another key.",
    ),
    kind(
        "content-too-large",
        413,
        "The content is too large",
        "Send less at once.",
    ),
    kind(
        "uri-too-long",
        414,
        "The URI is too long",
        "Shorten the query.",
    ),
    kind(
        "unsupported-media-type",
        415,
        "The content type is not supported",
        "`Accept` lists the content types that are taken. Bodies are not compressed.",
    ),
    kind(
        "invalid-content",
        422,
        "The content is not valid",
        "`errors` names each place in the content and what is wrong there.",
    ),
    kind(
        "idempotency-mismatch",
        422,
        "The idempotency key was used for something else",
        "A request with this `Idempotency-Key` said something else. Take a new key for each request, and the same one only to repeat it.",
    ),
    kind(
        "too-many-requests",
        429,
        "Too many requests from you",
        "Wait for `Retry-After` seconds. `RateLimit` says beforehand how many are left.",
    ),
    kind(
        "too-many-streams",
        429,
        "Too many streams are open",
        "Close one that you have open, or try again after `Retry-After` seconds.",
    ),
    kind(
        "header-fields-too-large",
        431,
        "The header is too large",
        "Send fewer or shorter headers. The answer has no body.",
    ),
    kind(
        "internal",
        500,
        "Something failed",
        "It is not your fault. Tell the operator the `decision_id`.",
    ),
    kind(
        "bad-reply",
        502,
        "The answer could not be used",
        "It is not your fault. Tell the operator the `decision_id`.",
    ),
    kind(
        "unavailable",
        503,
        "This is not available at the moment",
        "Try again after `Retry-After` seconds.",
    ),
    kind(
        "overloaded",
        503,
        "Too many requests at the moment",
        "Not only yours: try again after `Retry-After` seconds, then less and less often.",
    ),
    kind(
        "timeout",
        504,
        "There was no answer in time",
        "It may have been carried out all the same: look before you send it again.",
    ),
    kind(
        "unknown-version",
        400,
        "There is no such version here",
        "The header that names a version names one that this path does not have.",
    ),
];

const fn kind(
    name: &'static str,
    status: u16,
    title: &'static str,
    advice: &'static str,
) -> ProblemType {
    ProblemType {
        name,
        status,
        title,
        advice,
    }
}
