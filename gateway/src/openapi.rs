//! The description of the API, OpenAPI 3.1, made from the routes. It says what a client
//! has to know and nothing of what is behind.

use http::header::{AGE, CACHE_CONTROL, ETAG};
use http::{HeaderName, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::ApiConfig;
use crate::problem_catalogue::CATALOGUE;
use crate::routes::{Access, Mode, Route, RouteTable};
use crate::schema::Schema;

/// What a capture takes, as a JSON Schema.
const CAPTURE_PATTERN: &str = "^[A-Za-z0-9_-]{1,64}$";
/// What a client may call its request, with quotes or without.
const IDEMPOTENCY_KEY_PATTERN: &str =
    r#"^([!#-+\--:<-\[\]-~]{1,255}|"[!#-+\--:<-\[\]-~]{1,255}")$"#;

/// The description for clients that ask for `version`, or say nothing about it.
pub(crate) fn describe(routes: &RouteTable, api: &ApiConfig, version: Option<&str>) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas = Map::new();
    schemas.insert("Problem".to_owned(), problem_schema());
    for route in routes.iter().filter(|route| route.is_for(version)) {
        let operation = operation(route, api, &mut schemas);
        let item = paths
            .entry(route.path.to_string())
            .or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(route.method.as_str().to_lowercase(), operation);
        }
    }
    let mut info = json!({"title": api.title, "version": api.version});
    insert(&mut info, "description", api.description.as_deref());
    let mut document = json!({
        "openapi": "3.1.0",
        "info": info,
        "paths": paths,
        "components": {"schemas": schemas, "responses": problem_responses()},
    });
    if let Some(url) = &api.public_url {
        set(&mut document, "servers", json!([{ "url": url }]));
    }
    let mut schemes = json!({});
    let some = |of: fn(&Access) -> bool| routes.iter().any(|route| of(&route.access));
    if some(|access| matches!(access, Access::Jwt { .. })) {
        let scheme = json!({
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "An access token for this API.",
        });
        set(&mut schemes, "accessToken", scheme);
    }
    if some(|access| matches!(access, Access::Certificate(_))) {
        let scheme = json!({
            "type": "mutualTLS",
            "description": "A client certificate that is known here.",
        });
        set(&mut schemes, "certificate", scheme);
    }
    if some(|access| matches!(access, Access::Key(_))) {
        let scheme = json!({
            "type": "apiKey", "in": "header", "name": "X-API-Key",
            "description": "A key for this API.",
        });
        set(&mut schemes, "apiKey", scheme);
    }
    if let Some(components) = document.get_mut("components")
        && schemes.as_object().is_some_and(|s| !s.is_empty())
    {
        set(components, "securitySchemes", schemes);
    }
    document
}

fn operation(route: &Route, api: &ApiConfig, schemas: &mut Map<String, Value>) -> Value {
    let name = operation_id(&route.method, &route.path.to_string());
    let mut operation = json!({
        "operationId": name,
        "responses": responses(route, &name, schemas),
    });
    insert(&mut operation, "summary", route.about.summary.as_deref());
    insert(
        &mut operation,
        "description",
        route.about.description.as_deref(),
    );
    if !route.about.tags.is_empty() {
        set(&mut operation, "tags", json!(route.about.tags));
    }
    if route.about.deprecated.is_some() {
        set(&mut operation, "deprecated", json!(true));
    }
    let parameters = parameters(route, api);
    if !parameters.is_empty() {
        set(&mut operation, "parameters", Value::Array(parameters));
    }
    if route.body > 0 && route.method != Method::GET {
        let schema = match &route.request_schema {
            Some(schema) => reference(schema, &format!("{name}Request"), schemas),
            None => json!({}),
        };
        let content: Map<String, Value> = route
            .content_types
            .iter()
            .map(|t| (t.clone(), json!({ "schema": schema })))
            .collect();
        let required = route.request_schema.is_some();
        let body = json!({"required": required, "content": content});
        set(&mut operation, "requestBody", body);
    }
    let security = match &route.access {
        Access::Public => json!([]),
        Access::Jwt { rights, .. } => json!([{ "accessToken": rights.scopes }]),
        Access::Key(rights) => json!([{ "apiKey": rights.scopes }]),
        Access::Certificate(rights) => json!([{ "certificate": rights.scopes }]),
    };
    set(&mut operation, "security", security);
    operation
}

fn parameters(route: &Route, api: &ApiConfig) -> Vec<Value> {
    let mut parameters: Vec<Value> = route
        .path
        .captures()
        .map(|name| {
            json!({"name": name, "in": "path", "required": true,
                "schema": {"type": "string", "pattern": CAPTURE_PATTERN}})
        })
        .collect();
    // What the schema of a request without a body says of its members is what it says
    // of the parameters.
    let of_schema = route
        .request_schema
        .as_ref()
        .filter(|_| route.method == Method::GET)
        .map(|schema| schema.document().clone())
        .unwrap_or_default();
    let required = of_schema.get("required").and_then(Value::as_array);
    for name in &route.query {
        let schema = of_schema
            .pointer(&format!("/properties/{name}"))
            .filter(|s| !s.to_string().contains("\"$ref\""))
            .cloned()
            .unwrap_or_else(|| json!({"type": "string"}));
        let needed = required.is_some_and(|r| r.iter().any(|n| n == name));
        parameters.push(json!({"name": name, "in": "query", "required": needed, "schema": schema}));
    }
    for name in &route.forward_headers {
        parameters.push(json!({"name": name.as_str(), "in": "header",
            "schema": {"type": "string"}}));
    }
    if let Some(config) = &route.idempotency {
        parameters.push(json!({"name": "Idempotency-Key", "in": "header",
            "required": config.is_required,
            "description": "A name of your own for this request. Repeated under it, it is done once.",
            "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN}}));
    }
    if route.mode == Mode::Stream {
        parameters.push(json!({"name": "Last-Event-ID", "in": "header",
            "description": "The `id` of the event that you saw last, to go on after it.",
            "schema": {"type": "string", "pattern": "^[0-9]{0,19}$"}}));
    }
    if route.cache.is_some() {
        parameters.push(json!({"name": "If-None-Match", "in": "header",
            "description": "The `ETag` of an answer that you have.",
            "schema": {"type": "string"}}));
    }
    if let (Some(header), Some(version)) = (&api.version_header, &route.version) {
        let required = api.default_version.as_ref() != Some(version);
        parameters.push(
            json!({"name": header.as_str(), "in": "header", "required": required,
            "schema": {"type": "string", "const": version}}),
        );
    }
    parameters
}

fn responses(route: &Route, name: &str, schemas: &mut Map<String, Value>) -> Value {
    let mut responses = Map::new();
    if route.mode == Mode::Publish {
        let accepted = json!({"description": "It is on its way."});
        responses.insert("202".to_owned(), accepted);
    } else {
        let of_stream = [StatusCode::OK];
        let statuses: &[StatusCode] = match route.mode {
            Mode::Stream => &of_stream,
            Mode::Request | Mode::Publish | Mode::Aggregate => &route.statuses,
        };
        for status in statuses {
            responses.insert(
                status.as_str().to_owned(),
                response(route, *status, name, schemas),
            );
        }
    }
    if route.cache.is_some() {
        let unchanged = json!({"description": "You have the present answer."});
        responses.insert("304".to_owned(), unchanged);
    }
    for status in own_statuses(route) {
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({"$ref": format!("#/components/responses/{status}")}));
    }
    Value::Object(responses)
}

fn response(
    route: &Route,
    status: StatusCode,
    name: &str,
    schemas: &mut Map<String, Value>,
) -> Value {
    let mut response = json!({"description": status.canonical_reason().unwrap_or("Answered")});
    if route.mode == Mode::Stream {
        let content = json!({"text/event-stream": {"schema": {"type": "string"}}});
        set(&mut response, "content", content);
        return response;
    }
    if matches!(status.as_u16(), 204 | 205) {
        return response;
    }
    let schema = match &route.response_schema {
        Some(schema) if status.is_success() => {
            reference(schema, &format!("{name}Response"), schemas)
        }
        _ => json!({}),
    };
    let content = if status.is_success() {
        json!({"application/json": {"schema": schema}})
    } else {
        // The service's own words, or a problem of the edge with the same status.
        json!({
            "application/json": {"schema": {}},
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
        })
    };
    set(&mut response, "content", content);
    let named = |name: &HeaderName| {
        let header = json!({"schema": {"type": "string"}});
        (name.as_str().to_owned(), header)
    };
    let mut headers: Map<String, Value> = route.response_headers.iter().map(named).collect();
    if route.cache.is_some() && status == StatusCode::OK {
        headers.extend([named(&ETAG), named(&CACHE_CONTROL), named(&AGE)]);
    }
    if !headers.is_empty() {
        set(&mut response, "headers", Value::Object(headers));
    }
    response
}

/// The statuses with which the edge itself answers on this route.
fn own_statuses(route: &Route) -> Vec<u16> {
    let mut statuses = vec![
        400, 403, 404, 405, 408, 409, 413, 414, 422, 500, 502, 503, 504,
    ];
    if matches!(route.access, Access::Jwt { .. } | Access::Key(_)) {
        statuses.push(401);
    }
    if route.body > 0 {
        statuses.push(415);
    }
    if !route.rates.is_empty() || route.mode == Mode::Stream {
        statuses.push(429);
    }
    statuses
}

/// One response for each status of the catalogue.
fn problem_responses() -> Value {
    let mut responses: Map<String, Value> = Map::new();
    for problem in CATALOGUE {
        let description = responses
            .get(&problem.status.to_string())
            .and_then(|r| r.get("description"))
            .and_then(Value::as_str)
            .map_or_else(
                || problem.title.to_owned(),
                |other| format!("{other}; or: {}", problem.title),
            );
        responses.insert(
            problem.status.to_string(),
            json!({
                "description": description,
                "content": {"application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"}}},
            }),
        );
    }
    Value::Object(responses)
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "Problem details, RFC 9457.",
        "required": ["type", "title", "status", "decision_id"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "decision_id": {"type": "string",
                "description": "Under this name the operator finds the reason."},
            "errors": {"type": "array", "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}}},
            "violated-policies": {"type": "array", "items": {"type": "string"}},
        },
    })
}

/// Puts a schema under a name and refers to it. References within it point into the
/// whole document afterwards.
fn reference(schema: &Schema, name: &str, schemas: &mut Map<String, Value>) -> Value {
    let place = format!("#/components/schemas/{name}");
    let mut document = schema.document().clone();
    move_references(&mut document, &place);
    schemas.insert(name.to_owned(), document);
    json!({ "$ref": place })
}

fn move_references(value: &mut Value, place: &str) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(text) if key == "$ref" => {
                        if let Some(rest) = text.strip_prefix('#') {
                            *text = format!("{place}{rest}");
                        }
                    }
                    _ => move_references(member, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|i| move_references(i, place)),
        _ => {}
    }
}

/// `postV1Orders`, `getV1OrdersById`.
fn operation_id(method: &Method, path: &str) -> String {
    let mut id = method.as_str().to_lowercase();
    for segment in path.split('/').filter(|s| !s.is_empty()) {
        let word = match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(capture) => format!("by_{capture}"),
            None => segment.to_owned(),
        };
        for part in word.split(|c: char| !c.is_ascii_alphanumeric()) {
            let mut letters = part.chars();
            id.extend(letters.next().map(|c| c.to_ascii_uppercase()));
            id.push_str(letters.as_str());
        }
    }
    id
}

fn insert(object: &mut Value, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        set(object, key, json!(text));
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_named_after_method_and_path() {
        assert_eq!(operation_id(&Method::POST, "/v1/orders"), "postV1Orders");
        assert_eq!(
            operation_id(&Method::GET, "/v1/orders/{order_id}"),
            "getV1OrdersByOrderId"
        );
        assert_eq!(operation_id(&Method::GET, "/"), "get");
    }

    #[test]
    fn references_within_a_schema_stay_within_it() {
        let mut schema = json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": [{"$ref": "#"}]}},
            "const": {"$ref": 1}});
        move_references(&mut schema, "#/components/schemas/X");
        assert_eq!(schema["$ref"], "#/components/schemas/X/$defs/a");
        assert_eq!(
            schema["$defs"]["a"]["items"][0]["$ref"],
            "#/components/schemas/X"
        );
    }
}
