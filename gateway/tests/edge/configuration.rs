//! Every mistake of both files at once, each at its place.

use crate::setup::{Options, write_config};
use bulla_gateway::GatewayConfig;
use std::path::Path;

fn errors(gateway: &str, routes: &str) -> Vec<String> {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, gateway).unwrap();
    std::fs::write(dir.path().join("routes.toml"), routes).unwrap();
    let prefix = format!("{}/", dir.path().display());
    match GatewayConfig::load(&file) {
        Ok(_) => Vec::new(),
        Err(e) => e
            .to_string()
            .lines()
            .map(|l| l.replace(&prefix, ""))
            .collect(),
    }
}

const GATEWAY: &str = r#"routes = "routes.toml"
[bus]
url = "nats://127.0.0.1:4222"
workload = "spiffe://acme.example/gateway"
seed_file = "g.nk"
trust_root_file = "r.pub"
[listen]
address = "127.0.0.1:0"
[[issuer]]
issuer = "https://login.example"
jwks_url = "https://login.example/jwks.json"
"#;

const ROUTE: &str = r#"[[route]]
method = "GET"
path = "/v1/orders/{id}"
subject = "orders.get"
mode = "request"
auth = "jwt"
issuer = "https://login.example"
audience = "https://api.example"
"#;

fn route_errors(routes: &str) -> Vec<String> {
    errors(GATEWAY, routes)
}

/// The route with one line replaced.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(ROUTE.contains(from));
    route_errors(&ROUTE.replace(from, to))
}

#[test]
fn the_smallest_configuration_loads() {
    assert_eq!(route_errors(ROUTE), Vec::<String>::new());
}

#[test]
fn the_examples_of_the_readme_load() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme
        .split("```toml\n")
        .skip(1)
        .map(|b| b.split("```").next().unwrap())
        .collect();
    let gateway = format!("{}{}", blocks[0], blocks[1]);
    assert_eq!(errors(&gateway, blocks[2]), Vec::<String>::new());
}

#[test]
fn absent_auth_does_not_load() {
    assert_eq!(
        changed("auth = \"jwt\"\n", ""),
        [
            "routes.toml:1:1: `auth` is missing in `route`: write `auth = \"jwt\"`, `\"key\"` or `\"certificate\"`, or `auth = \"public\"` if everybody may call it"
        ]
    );
}

#[test]
fn a_misread_auth_block_is_an_error_and_never_ignored() {
    assert_eq!(changed("auth = \"jwt\"", "auth = \"JWT\"").len(), 1);
    assert_eq!(changed("auth = \"jwt\"", "auht = \"jwt\"").len(), 2);
    assert_eq!(changed("auth = \"jwt\"", "auth = true").len(), 1);
    let nested = format!("{ROUTE}[route.jwt]\naudience = \"x\"\n");
    assert_eq!(
        route_errors(&nested)[0].split(": ").nth(1),
        Some("unknown key `jwt`")
    );
    assert_eq!(changed("auth = \"jwt\"", "auth = \"public\"").len(), 2);
}

#[test]
fn a_route_without_an_audience_or_issuer_does_not_load() {
    assert!(
        changed("audience = \"https://api.example\"\n", "")[0].contains("`audience` is missing")
    );
    assert!(changed("\"https://api.example\"", "[]")[0].contains("at least one"));
    assert!(changed("\"https://api.example\"", "\"\"")[0].contains("`audience` is empty"));
    assert!(changed("issuer = \"https://login.example\"\n", "")[0].contains("`issuer` is missing"));
    assert!(
        changed(
            "issuer = \"https://login.example\"",
            "issuer = \"https://other\""
        )[0]
        .contains("not among")
    );
}

#[test]
fn overlapping_routes_do_not_load() {
    let second = ROUTE.replace("{id}", "{other}");
    let found = route_errors(&format!("{ROUTE}{second}"));
    assert_eq!(
        found,
        [
            "routes.toml:9:1: `GET /v1/orders/{id}` and `GET /v1/orders/{other}` match the same requests"
        ]
    );
    let literal = ROUTE.replace("{id}", "mine");
    assert_eq!(route_errors(&format!("{ROUTE}{literal}")).len(), 1);
    let other_method = second.replace("GET", "DELETE");
    assert!(route_errors(&format!("{ROUTE}{other_method}")).is_empty());
}

#[test]
fn subjects_are_one_fixed_place_with_captures_of_the_path() {
    for good in ["orders.get", "orders.{id}", "orders.{id}.get"] {
        assert!(
            changed("\"orders.get\"", &format!("\"{good}\"")).is_empty(),
            "{good}"
        );
    }
    for bad in [
        "",
        "orders.*",
        "orders.>",
        "orders.{other}",
        "{id}.get",
        "orders..get",
        "orders get",
        "$SYS.x",
        "$BULLA.CTL.POLICY",
        "_INBOX.x",
        "orders.x{id}",
        ".orders",
        "orders.{id",
        "$JS.API.{id}",
    ] {
        assert_eq!(
            changed("\"orders.get\"", &format!("\"{bad}\"")).len(),
            1,
            "{bad}"
        );
    }
}

#[test]
fn each_key_of_a_route_is_checked() {
    for (from, to) in [
        ("\"GET\"", "\"get\""),
        ("\"GET\"", "\"TRACE\""),
        ("\"/v1/orders/{id}\"", "\"v1\""),
        ("\"request\"", "\"streams\""),
        ("mode", "body = -1\nmode"),
        ("mode", "timeout = \"1d\"\nmode"),
        ("mode", "timeout = \"0s\"\nmode"),
        ("mode", "scope = \"a  b\"\nmode"),
        ("mode", "query = [\"a b\"]\nmode"),
        ("mode", "query = [\"access_token\"]\nmode"),
        ("mode", "query = [\"id\"]\nmode"),
        ("mode", "content_types = [\"json\"]\nmode"),
        ("mode", "forward_headers = [\"authorization\"]\nmode"),
        ("mode", "forward_headers = [\"Cookie\"]\nmode"),
        ("mode", "forward_headers = [\"bulla-x\"]\nmode"),
        ("mode", "forward_headers = [\"Transfer-Encoding\"]\nmode"),
        ("mode", "response_headers = [\"set-cookie\"]\nmode"),
        ("mode", "statuses = [500]\nmode"),
        ("mode", "statuses = [302]\nmode"),
        ("mode", "statuses = [401]\nmode"),
        ("mode", "statuses = [\"200\"]\nmode"),
    ] {
        assert_eq!(changed(from, to).len(), 1, "{to}: {:?}", changed(from, to));
    }
}

#[test]
fn all_mistakes_of_both_files_come_at_once_and_in_order() {
    let gateway = GATEWAY
        .replace(
            "nats://127.0.0.1:4222\"",
            "nats://127.0.0.1:4222\"\nuser = \"x\"",
        )
        .replace("127.0.0.1:0", "localhost")
        .replace(
            "https://login.example/jwks.json",
            "http://login.example/jwks.json",
        );
    let routes = format!(
        "{}{}",
        ROUTE.replace("\"GET\"", "\"FETCH\""),
        ROUTE.replace("mode = ", "mood = ").replace("{id}", "../x")
    );
    let found = errors(&gateway, &routes);
    let places: Vec<&str> = found
        .iter()
        .map(|l| l.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "gateway.toml:4:1",
            "gateway.toml:9:11",
            "gateway.toml:12:12",
            "routes.toml:2:10",
            "routes.toml:9:1",
            "routes.toml:11:8",
            "routes.toml:13:1"
        ],
        "{found:#?}"
    );
}

#[test]
fn syntax_errors_have_their_place() {
    let found = errors("routes = \n[bus\n", ROUTE);
    assert!(
        found.iter().any(|l| l.starts_with("gateway.toml:1:")),
        "{found:?}"
    );
}

#[test]
fn each_key_of_the_gateway_is_checked() {
    for (from, to) in [
        ("routes = \"routes.toml\"", "routes = \"missing.toml\""),
        (
            "routes = \"routes.toml\"",
            "routes = \"routes.toml\"\nproblem_base = \"x\"",
        ),
        ("spiffe://acme.example/gateway", "gateway"),
        ("seed_file = \"g.nk\"\n", ""),
        (
            "https://login.example/jwks.json",
            "ftp://login.example/jwks",
        ),
        (
            "https://login.example/jwks.json",
            "https://user:pw@login.example/jwks",
        ),
        (
            "https://login.example/jwks.json\"",
            "https://login.example/j\"\nleeway = \"61s\"",
        ),
        (
            "https://login.example/jwks.json\"",
            "https://login.example/j\"\nalgorithms = [\"HS256\"]",
        ),
        (
            "https://login.example/jwks.json\"",
            "https://login.example/j\"\nalgorithms = [\"none\"]",
        ),
        (
            "https://login.example/jwks.json\"",
            "https://login.example/j\"\nalgorithms = []",
        ),
        (
            "https://login.example/jwks.json\"",
            "https://login.example/j\"\ntyp = \"JWT\"",
        ),
        (
            "https://login.example/jwks.json\"",
            "https://login.example/j\"\nmax_stale = \"10s\"",
        ),
        (
            "address = \"127.0.0.1:0\"",
            "address = \"127.0.0.1:0\"\ntls_cert_file = \"c.pem\"",
        ),
        ("[listen]", "[limits]\nbody = \"1GB\"\n[listen]"),
        ("[listen]", "[limits]\nheader_bytes = 100\n[listen]"),
        ("[listen]", "[transaction]\nlifetime = \"6m\"\n[listen]"),
        ("[listen]", "[transaction]\nclaims = [\"sub\"]\n[listen]"),
        ("[listen]", "[transaction]\nclaims = [\"idp\"]\n[listen]"),
        ("[listen]", "[transaction]\nclaims = [\"reach\"]\n[listen]"),
        ("[listen]", "[admin]\n[listen]"),
        ("[listen]", "[limit]\n[listen]"),
    ] {
        assert!(GATEWAY.contains(from));
        let found = errors(&GATEWAY.replace(from, to), ROUTE);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
    }
}

#[test]
fn one_issuer_twice_is_refused() {
    let twice = format!(
        "{GATEWAY}[[issuer]]\nissuer = \"https://login.example\"\njwks_url = \"https://login.example/other\"\n"
    );
    assert_eq!(
        errors(&twice, ROUTE),
        ["gateway.toml:12:1: issuer `https://login.example` is there twice"]
    );
}

#[test]
fn plain_http_is_for_loopback_alone() {
    for (url, good) in [
        ("http://127.0.0.1:1/j", true),
        ("http://localhost:1/j", true),
        ("http://[::1]:1/j", true),
        ("http://127.0.0.1.evil.example/j", false),
        ("http://10.0.0.1/j", false),
    ] {
        let found = errors(
            &GATEWAY.replace("https://login.example/jwks.json", url),
            ROUTE,
        );
        assert_eq!(found.is_empty(), good, "{url}: {found:?}");
    }
}

#[test]
fn a_missing_file_is_one_clear_sentence() {
    let refused = GatewayConfig::load(Path::new("/nowhere/gateway.toml")).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("/nowhere/gateway.toml: cannot be read: ")
    );
    let dir = tempfile::TempDir::new().unwrap();
    let file = write_config(dir.path(), "http://127.0.0.1:1", &Options::default());
    assert!(GatewayConfig::load(&file).is_ok());
}

#[test]
fn the_reach_of_a_route_is_names_of_audiences() {
    let with = |line: &str| changed("mode = \"request\"", &format!("mode = \"request\"\n{line}"));
    assert_eq!(with("reach = [\"retail\", \"back-office\"]"), [""; 0]);
    assert_eq!(with("reach = []"), [""; 0]);
    for bad in ["\"Retail\"", "[\"\"]", "[\"a.b\"]", "[1]", "true"] {
        assert_eq!(with(&format!("reach = {bad}")).len(), 1, "{bad}");
    }
    let public = ROUTE
        .lines()
        .filter(|line| !line.starts_with("issuer") && !line.starts_with("audience"))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\"jwt\"", "\"public\"");
    let [only] = &route_errors(&format!("{public}\nreach = [\"retail\"]"))[..] else {
        panic!("one error");
    };
    assert!(
        only.contains("`reach` means nothing on a public route"),
        "{only}"
    );
}

#[test]
fn carry_is_original_or_nothing() {
    let with = |line: &str| changed("mode = \"request\"", &format!("mode = \"request\"\n{line}"));
    assert_eq!(with("carry = \"original\""), [""; 0]);
    for bad in ["\"token\"", "true", "\"\"", "[\"original\"]"] {
        assert_eq!(with(&format!("carry = {bad}")).len(), 1, "{bad}");
    }
}

#[test]
fn protection_that_protects_nothing_does_not_load() {
    let gateway = |extra: &str| errors(&format!("{GATEWAY}{extra}"), ROUTE);
    for (extra, wanted) in [
        (
            "[clients]\nforwarded = \"forwarded\"\n",
            "need `trusted_proxies`",
        ),
        (
            "[clients]\nproxy_protocol = true\n",
            "need `trusted_proxies`",
        ),
        (
            "[clients]\ntrusted_proxies = [\"10.0.0.0/8\"]\n",
            "say how they name the client",
        ),
        ("[clients]\nallow = []\n", "`allow` is empty"),
        ("[clients]\ndeny = [\"10.0.0.0/33\"]\n", "is no network"),
        (
            "[cors]\norigins = [\"*\"]\ncredentials = true\n",
            "name the origins",
        ),
        ("[cors]\norigins = [\"https://a/b\"]\n", "is no origin"),
        (
            "[cors]\norigins = [\"https://a\"]\nheaders = [\"*\"]\n",
            "`*` is none",
        ),
        (
            "[[rate]]\nname = \"a b\"\nby = \"ip\"\nquota = 1\nwindow = \"1s\"\n",
            "`name` is of",
        ),
        (
            "[[rate]]\nname = \"a\"\nby = \"key\"\nquota = 1\nwindow = \"1s\"\n",
            "`by` is `key`",
        ),
        (
            "[[rate]]\nname = \"a\"\nby = []\nquota = 1\nwindow = \"1s\"\n",
            "`by` is empty",
        ),
        (
            "[[rate]]\nname = \"a\"\nby = \"ip\"\nquota = 0\nwindow = \"1s\"\n",
            "out of range",
        ),
        ("[breaker]\nfailures = 0\n", "out of range"),
    ] {
        let found = gateway(extra);
        assert_eq!(found.len(), 1, "{extra}: {found:?}");
        assert!(found[0].contains(wanted), "{extra}: {found:?}");
    }
    let shared = "[[rate]]\nname = \"a\"\nby = \"ip\"\nquota = 1\nshared = true\n";
    for (line, wanted) in [
        ("window = \"721h\"", "30 days at most"),
        ("window = \"1h\"\nburst = 1", "means nothing"),
    ] {
        let found = gateway(&format!("{shared}{line}\n"));
        assert!(found[0].contains(wanted), "{found:?}");
    }
    assert_eq!(gateway(&format!("{shared}window = \"720h\"\n")), [""; 0]);
    let missing = gateway("[[rate]]\nname = \"a\"\n");
    assert_eq!(missing.len(), 3, "{missing:?}");
}

#[test]
fn rates_and_schemas_of_a_route_exist_and_fit() {
    let with = |line: &str| changed("mode = \"request\"", &format!("mode = \"request\"\n{line}"));
    let missing = with("rates = [\"none\"]");
    assert!(missing[0].contains("`none` is not among"), "{missing:?}");
    let missing = with("request_schema = \"none.json\"");
    assert!(missing[0].contains("cannot be read"), "{missing:?}");
    assert!(with("priority = \"urgent\"")[0].contains("possible are"));
    let schema = with("request_schema = \"gateway.toml\"\ncontent_types = [\"text/plain\"]");
    assert!(
        schema.iter().any(|e| e.contains("JSON alone")),
        "{schema:?}"
    );
    let rate = "[[rate]]\nname = \"a\"\nby = \"user\"\nquota = 1\nwindow = \"1s\"\n";
    let public = "[[route]]\nmethod = \"GET\"\npath = \"/\"\nsubject = \"a\"\nmode = \"request\"\nauth = \"public\"\nrates = [\"a\"]\n";
    let found = errors(&format!("{GATEWAY}{rate}"), public);
    assert!(found[0].contains("the route is public"), "{found:?}");
}

/// The mistakes of routes files in a folder.
fn folder_errors(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, GATEWAY.replace("routes.toml", "conf.d")).unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join("conf.d").join(name), text).unwrap();
    }
    let prefix = format!("{}/", dir.path().display());
    match GatewayConfig::load(&file) {
        Ok(_) => Vec::new(),
        Err(e) => e
            .problems()
            .iter()
            .map(|p| p.to_string().replace(&prefix, ""))
            .collect(),
    }
}

#[test]
fn a_folder_of_routes_files_is_read_as_one() {
    let other = ROUTE.replace("/v1/orders", "/v1/bills");
    assert_eq!(
        folder_errors(&[("a.toml", ROUTE), ("b.toml", &other)]),
        [""; 0]
    );
    assert_eq!(
        folder_errors(&[
            ("a.toml", &other),
            ("b.toml", ROUTE),
            ("c.toml", ROUTE),
            ("d.txt", "x")
        ]),
        [
            "conf.d/c.toml:1:1: `GET /v1/orders/{id}` and `GET /v1/orders/{id}` match the same requests"
        ]
    );
    let broken = folder_errors(&[("a.toml", "[[route]\n"), ("b.toml", "x = 1\n")]);
    assert!(
        broken.iter().any(|e| e.starts_with("conf.d/a.toml:1:")),
        "{broken:?}"
    );
    assert!(
        broken
            .iter()
            .any(|e| e.starts_with("conf.d/b.toml:1:1: unknown key `x`")),
        "{broken:?}"
    );
    assert!(folder_errors(&[])[0].contains("has no file that ends in `.toml`"));
}

#[test]
fn a_profile_serves_routes_of_all_files_and_its_mistakes_are_told_once_at_its_place() {
    let profile = "[profile.users]\nauth = \"jwt\"\nissuer = \"https://login.example\"\naudience = \"https://api.example\"\n";
    let route = |path: &str| {
        format!(
            "[[route]]\nprofile = \"users\"\nmethod = \"GET\"\npath = \"{path}\"\nsubject = \"a\"\nmode = \"request\"\n"
        )
    };
    let routes = format!("{}{}", route("/a"), route("/b"));
    let good = folder_errors(&[("a.toml", &routes), ("z.toml", profile)]);
    assert_eq!(good, [""; 0]);
    let wrong = format!("{profile}prioritty = \"low\"\n");
    let found = folder_errors(&[("a.toml", &routes), ("z.toml", &wrong)]);
    assert_eq!(
        found,
        ["conf.d/z.toml:5:1: unknown key `prioritty`: did you mean `priority`?"]
    );
    for (text, wanted) in [
        (
            "[profile.users]\npath = \"/x\"\n",
            "a profile has no `path`",
        ),
        (
            "[profile.other]\nauth = \"public\"\n",
            "no route has profile `other`",
        ),
    ] {
        let found = folder_errors(&[("a.toml", &routes), ("z.toml", text)]);
        assert!(found.iter().any(|e| e.contains(wanted)), "{found:?}");
    }
    // Without the profile there is no `auth`, and nothing is taken for granted.
    let alone = folder_errors(&[("a.toml", &route("/a"))]);
    assert!(
        alone.iter().any(|e| e.contains("no `[profile.users]`")),
        "{alone:?}"
    );
    assert!(
        alone.iter().any(|e| e.contains("`auth` is missing")),
        "{alone:?}"
    );
}

#[test]
fn versions_ends_canaries_and_mappings_are_checked() {
    let api = "[api]\nversion_header = \"api-version\"\ndocs = true\n";
    let with = |line: &str| {
        let route = ROUTE.replace("mode = \"request\"", &format!("mode = \"request\"\n{line}"));
        errors(&format!("{GATEWAY}{api}"), &route)
    };
    assert_eq!(with("version = \"1\""), [""; 0]);
    for (line, wanted) in [
        ("version = \"a b\"", "`version` is of"),
        ("deprecated = \"soon\"", "is no day"),
        ("sunset = \"2026-12-31\"", "needs `deprecated`"),
        (
            "deprecated = \"2026-12-31\"\nsunset = \"2026-01-01\"",
            "is before",
        ),
        (
            "canary = { subject = \"$SYS.x\", percent = 5 }",
            "not for routes",
        ),
        (
            "canary = { subject = \"a.b\", percent = 101 }",
            "out of range",
        ),
        (
            "headers = { tenant = \"claim.tenant\" }",
            "not among `claims`",
        ),
        ("headers = { bulla-user = \"path.id\" }", "cannot be chosen"),
        ("headers = { a = \"path.none\" }", "no such capture"),
        (
            "headers = { a = \"header.authorization\" }",
            "never travels",
        ),
        ("payload = { a = \"query.none\" }", "does not list it"),
        ("require = { none = \"claim.sub\" }", "the path has no"),
        ("require = { id = \"path.id\" }", "is no claim"),
        ("require = {}", "is empty"),
        ("cache = { ttl = \"10m\" }", "out of range"),
        (
            "cache = { ttl = \"1s\" }\ncarry = \"original\"",
            "`cache` with `carry`",
        ),
    ] {
        let found = with(line);
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        assert!(found[0].contains(wanted), "{line}: {found:?}");
    }
    let unknowable = changed("mode = \"request\"", "mode = \"request\"\nversion = \"1\"");
    assert!(
        unknowable[0].contains("needs `version_header`"),
        "{unknowable:?}"
    );
    let two = format!(
        "{}{}",
        ROUTE.replace("mode", "version = \"1\"\nmode"),
        ROUTE
    );
    let found = errors(&format!("{GATEWAY}{api}"), &two);
    assert!(found[0].contains("match the same requests"), "{found:?}");
    let docs = ROUTE.replace("/v1/orders/{id}", "/docs");
    let found = errors(&format!("{GATEWAY}{api}"), &docs);
    assert!(found[0].contains("serves itself"), "{found:?}");
    let posted = ROUTE.replace("\"GET\"", "\"POST\"");
    let found = route_errors(&format!("{posted}cache = {{ ttl = \"1s\" }}\n"));
    assert!(found[0].contains("`cache` is for `GET`"), "{found:?}");
}

#[test]
fn an_aggregate_has_parts_and_only_an_aggregate() {
    let part = "[[route.part]]\nname = \"a\"\nsubject = \"a.b\"\n";
    let aggregate = ROUTE
        .replace("subject = \"orders.get\"\n", "")
        .replace("\"request\"", "\"aggregate\"");
    assert_eq!(route_errors(&format!("{aggregate}{part}")), [""; 0]);
    for (route, wanted) in [
        (aggregate.clone(), "has `[[route.part]]`s"),
        (format!("{ROUTE}{part}"), "has `[[route.part]]`s"),
        (format!("{aggregate}{part}{part}"), "`a` is there twice"),
        (
            format!("{}{part}", aggregate.replace("\"GET\"", "\"POST\"")),
            "is for `GET`",
        ),
        (
            format!("{aggregate}{}", part.replace("\"a\"", "\"missing\"")),
            "no name for a part",
        ),
        (
            format!("{aggregate}{}", part.replace("a.b", "$SYS.b")),
            "not for routes",
        ),
        (
            format!("{aggregate}subject = \"a.c\"\n{part}"),
            "unknown key `subject`",
        ),
    ] {
        let found = route_errors(&route);
        assert!(
            found.iter().any(|e| e.contains(wanted)),
            "{route}: {found:?}"
        );
    }
}

#[test]
fn the_full_example_loads() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/full/gateway.toml");
    if let Err(errors) = GatewayConfig::load(&file) {
        panic!("{errors}");
    }
}

#[test]
fn keys_need_a_file_and_have_nothing_of_tokens() {
    let keyed = "[[route]]\nmethod = \"GET\"\npath = \"/a\"\nsubject = \"a.b\"\nmode = \"request\"\nauth = \"key\"\n";
    let found = route_errors(keyed);
    assert!(found[0].contains("needs `[api_keys]`"), "{found:?}");
    let found = route_errors(&format!("{keyed}audience = \"x\"\n"));
    assert!(
        found.iter().any(|e| e.contains("is of tokens")),
        "{found:?}"
    );
}

#[test]
fn a_stream_has_no_keys_of_other_modes_and_others_none_of_its() {
    let stream = ROUTE.replace("\"request\"", "\"stream\"");
    let good = format!("{stream}heartbeat = \"5s\"\nstreams_per_user = 3\n");
    assert_eq!(route_errors(&good), [""; 0]);
    for line in [
        "timeout = \"1s\"",
        "carry = \"original\"",
        "statuses = [200]",
    ] {
        let found = route_errors(&format!("{stream}{line}\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("means nothing for a stream"), "{found:?}");
    }
    let found = route_errors(&format!("{ROUTE}heartbeat = \"5s\"\n"));
    assert!(found[0].contains("are for mode `stream`"), "{found:?}");
    for line in ["idempotency = {}", "websocket = true"] {
        let found = route_errors(&format!("{ROUTE}{line}\n"));
        assert!(found[0].contains("mode `"), "{found:?}");
    }
    let posted = stream.replace("\"GET\"", "\"POST\"");
    assert!(route_errors(&posted)[0].contains("a stream is for `GET`"));
}

#[test]
fn certificates_need_authorities_names_and_users() {
    let listed = "[[certificate]]\nname = \"dns:a.example\"\nuser = \"a\"\n";
    let asks = GATEWAY.replace(
        "[[issuer]]",
        "tls_cert_file = \"c.pem\"\ntls_key_file = \"k.pem\"\nclient_ca_file = \"ca.pem\"\n[[issuer]]",
    );
    let route = "[[route]]\nmethod = \"GET\"\npath = \"/a\"\nsubject = \"a.b\"\nmode = \"request\"\nauth = \"certificate\"\n";
    let good = errors(&format!("{asks}{listed}"), route);
    assert_eq!(good, [""; 0]);
    for (gateway, routes, wanted) in [
        (
            format!("{GATEWAY}{listed}"),
            route.to_owned(),
            "needs `client_ca_file`",
        ),
        (asks.clone(), route.to_owned(), "needs `[[certificate]]`s"),
        (
            format!("{asks}{listed}{listed}"),
            route.to_owned(),
            "there twice",
        ),
        (
            format!("{asks}{listed}"),
            format!("{route}issuer = \"x\"\n"),
            "is of tokens",
        ),
        (
            asks.clone() + &listed.replace("dns:a.example", "a.example"),
            route.to_owned(),
            "names no certificate",
        ),
        (
            asks.clone() + &listed.replace("dns:a.example", "dns:*.example"),
            route.to_owned(),
            "names no certificate",
        ),
        (
            asks.clone() + &listed.replace("user = \"a\"", ""),
            route.to_owned(),
            "`user` is missing",
        ),
    ] {
        let found = errors(&gateway, &routes);
        assert!(
            found.iter().any(|e| e.contains(wanted)),
            "{wanted}: {found:?}"
        );
    }
}
