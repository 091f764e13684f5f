//! The page for people: what the description says, without a script, a font or anything
//! else that a browser would have to fetch.

use std::fmt::Write as _;

use bulla_token::token_digest;
use data_encoding::BASE64;
use http::HeaderValue;
use serde_json::Value;

use crate::problem_catalogue::CATALOGUE;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8881}\
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:0 auto;padding:2rem 1rem}\
h1{margin:0}h2{margin-top:3rem;border-bottom:1px solid var(--line)}\
h3{margin:2rem 0 .5rem;font-size:1rem}code,pre{font:14px/1.45 ui-monospace,monospace}\
pre{background:var(--soft);padding:.75rem;border-radius:.4rem;overflow:auto;max-height:24rem}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;\
padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}\
.method{display:inline-block;min-width:4.2rem;padding:.1rem .4rem;border-radius:.3rem;\
background:#2563eb;color:#fff;text-align:center;font-weight:600}\
nav ul{list-style:none;padding:0;margin:1rem 0 2rem}nav li{margin:.3rem 0}\
nav a{text-decoration:none;color:inherit}nav .method{font-size:.75rem;min-width:3.6rem}\
nav small{opacity:.75;margin-left:.6rem}.path{font-size:1.05rem;font-weight:600}\
th{width:9rem;font-weight:600}td code{overflow-wrap:anywhere}\
.post{background:#15803d}.put,.patch{background:#b45309}.delete{background:#b91c1c}\
.gone{opacity:.6}.note{opacity:.75}\
article{margin:1.5rem 0;padding:1rem;border:1px solid var(--line);border-radius:.6rem}\
:target{outline:2px solid #2563eb;outline-offset:.3rem}";

/// The page, made once for each description.
pub(crate) fn page(description: &Value) -> String {
    let mut page = String::new();
    let text = |pointer: &str| description.pointer(pointer).and_then(Value::as_str);
    let title = escape(text("/info/title").unwrap_or("API"));
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\
         <header><h1>{title}</h1><p class=\"note\">Version {}",
        escape(text("/info/version").unwrap_or_default()),
    );
    if let Some(url) = text("/servers/0/url") {
        let _ = write!(page, " · <code>{}</code>", escape(url));
    }
    page.push_str("</p>");
    if let Some(about) = text("/info/description") {
        let _ = write!(page, "<p>{}</p>", escape(about));
    }
    page.push_str("</header><main><h2 id=\"operations\">Operations</h2>");
    index(&mut page, description);
    for (path, methods) in members(description.get("paths")) {
        for (method, operation) in members(Some(methods)) {
            article(&mut page, path, method, operation);
        }
    }
    schemas(&mut page, description);
    problems(&mut page);
    page.push_str("</main></body></html>");
    page
}

/// What the page may do: be styled by its own style, and nothing else.
pub(crate) fn content_security_policy() -> HeaderValue {
    let digest = BASE64.encode(&token_digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// What there is, at a glance.
fn index(page: &mut String, description: &Value) {
    page.push_str("<nav><ul>");
    for (path, methods) in members(description.get("paths")) {
        for (method, operation) in members(Some(methods)) {
            let field = |name: &str| operation.get(name).and_then(Value::as_str);
            let _ = write!(
                page,
                "<li><a href=\"#{}\"><span class=\"method {method}\">{}</span> <code>{}</code>\
                 <small>{}</small></a></li>",
                escape(field("operationId").unwrap_or_default()),
                method.to_uppercase(),
                escape(path),
                escape(field("summary").unwrap_or_default()),
            );
        }
    }
    page.push_str("</ul></nav>");
}

fn article(page: &mut String, path: &str, method: &str, operation: &Value) {
    let field = |name: &str| operation.get(name).and_then(Value::as_str);
    let id = escape(field("operationId").unwrap_or_default());
    let gone = operation.get("deprecated") == Some(&Value::Bool(true));
    let _ = write!(
        page,
        "<article id=\"{id}\"><div><span class=\"method {method}\">{}</span> <code class=\"path{}\">{}</code></div>",
        method.to_uppercase(),
        if gone { " gone" } else { "" },
        escape(path),
    );
    if gone {
        page.push_str("<p><strong>Deprecated.</strong></p>");
    }
    for name in ["summary", "description"] {
        if let Some(text) = field(name) {
            let _ = write!(page, "<p>{}</p>", escape(text));
        }
    }
    access(page, operation);
    parameters(page, operation);
    let body = operation.pointer("/requestBody/content");
    for (content_type, content) in members(body) {
        let _ = write!(
            page,
            "<h3>Body</h3><p><code>{}</code>",
            escape(content_type)
        );
        link(page, content);
        page.push_str("</p>");
    }
    page.push_str("<h3>Answers</h3><table>");
    let mut refused: Vec<&str> = Vec::new();
    for (status, response) in members(operation.get("responses")) {
        if response.get("$ref").is_some() {
            refused.push(status);
            continue;
        }
        let about = response.get("description").and_then(Value::as_str);
        let _ = write!(
            page,
            "<tr><th>{}</th><td>{}",
            escape(status),
            escape(about.unwrap_or_default())
        );
        if let Some(content) = response.pointer("/content/application~1json") {
            link(page, content);
        }
        page.push_str("</td></tr>");
    }
    if !refused.is_empty() {
        page.push_str("<tr><th><a href=\"#problems\">Problems</a></th><td>");
        for status in refused {
            let first = CATALOGUE.iter().find(|p| p.status.to_string() == status);
            let name = first.map_or("problems", |problem| problem.name);
            let _ = write!(page, "<a href=\"#{name}\">{}</a> ", escape(status));
        }
        page.push_str("</td></tr>");
    }
    page.push_str("</table></article>");
}

fn access(page: &mut String, operation: &Value) {
    let schemes = [
        ("accessToken", "an access token"),
        ("apiKey", "an API key"),
        ("certificate", "a client certificate"),
    ];
    let security = operation.get("security").and_then(Value::as_array);
    let Some(first) = security.and_then(|s| s.first()) else {
        page.push_str("<p class=\"note\">For everybody.</p>");
        return;
    };
    for (scheme, words) in schemes {
        let Some(scopes) = first.get(scheme).and_then(Value::as_array) else {
            continue;
        };
        let _ = write!(page, "<p class=\"note\">With {words}");
        if !scopes.is_empty() {
            page.push_str(" that has");
        }
        for scope in scopes.iter().filter_map(Value::as_str) {
            let _ = write!(page, " <code>{}</code>", escape(scope));
        }
        page.push_str(".</p>");
    }
}

fn parameters(page: &mut String, operation: &Value) {
    let Some(parameters) = operation.get("parameters").and_then(Value::as_array) else {
        return;
    };
    page.push_str("<h3>Parameters</h3><table>");
    for parameter in parameters {
        let field = |name: &str| parameter.get(name).and_then(Value::as_str);
        let required = parameter.get("required") == Some(&Value::Bool(true));
        let _ = write!(
            page,
            "<tr><th><code>{}</code></th><td>{}{} · <code>{}</code>",
            escape(field("name").unwrap_or_default()),
            escape(field("in").unwrap_or_default()),
            if required { ", required" } else { "" },
            escape(&in_short(parameter.get("schema"))),
        );
        if let Some(about) = field("description") {
            let _ = write!(page, "<br>{}", escape(about).replace('`', ""));
        }
        page.push_str("</td></tr>");
    }
    page.push_str("</table>");
}

/// The type and the pattern, where a schema says no more; else all of it.
fn in_short(schema: Option<&Value>) -> String {
    let Some(schema) = schema else {
        return String::new();
    };
    let member = |name: &str| schema.get(name).and_then(Value::as_str);
    let members = schema.as_object().map_or(0, serde_json::Map::len);
    match (member("type"), member("pattern"), members) {
        (Some(kind), None, 1) => kind.to_owned(),
        (Some(kind), Some(pattern), 2) if pattern.len() <= 40 => format!("{kind} {pattern}"),
        // Nobody reads such a pattern; the description has it.
        (Some(kind), Some(_), 2) => kind.to_owned(),
        _ => schema.to_string(),
    }
}

/// A link to the schema of a content, if it has one.
fn link(page: &mut String, content: &Value) {
    let place = content.pointer("/schema/$ref").and_then(Value::as_str);
    if let Some(name) = place.and_then(|p| p.strip_prefix("#/components/schemas/")) {
        let name = escape(name);
        let _ = write!(page, " · <a href=\"#schema-{name}\">{name}</a>");
    }
}

fn schemas(page: &mut String, description: &Value) {
    page.push_str("<h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in members(description.pointer("/components/schemas")) {
        let pretty = serde_json::to_string_pretty(schema).unwrap_or_default();
        let name = escape(name);
        let _ = write!(
            page,
            "<h3 id=\"schema-{name}\">{name}</h3><pre>{}</pre>",
            escape(&pretty)
        );
    }
}

/// Every problem under its own anchor, so that the `type` of a problem can lead here.
fn problems(page: &mut String) {
    page.push_str("<h2 id=\"problems\">Problems</h2>");
    for problem in CATALOGUE {
        let _ = write!(
            page,
            "<h3 id=\"{}\"><code>{}</code> · {} · {}</h3><p>{}</p>",
            problem.name,
            problem.name,
            problem.status,
            escape(problem.title),
            escape(problem.advice).replace('`', ""),
        );
    }
}

fn members(value: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
}

/// Text that is nothing but text in HTML, between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_is_written_becomes_markup() {
        let evil = "<script>alert('x')</script>\"&";
        let page = page(&json!({
            "info": {"title": evil, "version": evil, "description": evil},
            "paths": {evil: {"get": {"operationId": evil, "summary": evil,
                "security": [{"accessToken": [evil]}],
                "parameters": [{"name": evil, "in": evil, "schema": {"const": evil}}],
                "responses": {evil: {"description": evil}}}}},
            "components": {"schemas": {evil: {"const": evil}}},
        }));
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("alert('x')"), "{page}");
    }

    #[test]
    fn the_page_fetches_nothing() {
        let page = page(&json!({"info": {"title": "A", "version": "1"}}));
        for word in [
            "http:", "https:", "src=", "<link", "<script", "url(", "@import",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        let policy = content_security_policy();
        assert!(policy.to_str().unwrap().contains("style-src 'sha256-"));
    }

    #[test]
    fn every_problem_has_its_anchor() {
        let page = page(&json!({}));
        for problem in CATALOGUE {
            assert!(page.contains(&format!("id=\"{}\"", problem.name)));
        }
    }
}
