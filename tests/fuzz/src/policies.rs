//! The policy language: what loads can be asked anything.

use std::net::Ipv4Addr;

use bulla_identity::{Claims, Subject, TrustDomain};
use bulla_policy::{
    Cases, Circumstances, Decision, Permissions, Policy, PolicyDiff, Request, Verb,
};
use bulla_policy_tools::{FormatError, Graph, ImportOptions, format, import};
use serde_json::json;

use super::shop::SHOP;

pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(cases) = Cases::parse("fuzz.cases.toml", text) {
        let nothing = Policy::parse("nothing.toml", NOTHING).expect("it loads");
        assert_eq!(
            nothing.test(&[&cases], SHOP.now).asked.len(),
            cases.questions()
        );
    }
    let policy = match Policy::parse("fuzz.toml", text) {
        Ok(policy) => policy,
        Err(errors) => {
            assert!(!errors.errors().is_empty(), "refused without a reason");
            let _ = errors.to_string();
            for error in errors.errors() {
                let _ = (error.line(), error.column(), error.caret(), error.remedy());
            }
            return;
        }
    };
    let again = Policy::parse("again.toml", text).expect("it loaded");
    assert_eq!(policy.hash(), again.hash());
    assert!(PolicyDiff::between(&policy, &again, SHOP.now).is_empty());
    let nothing = Policy::parse("nothing.toml", NOTHING).expect("it loads");
    let gained = PolicyDiff::between(&nothing, &policy, SHOP.now);
    assert!(gained.rights.iter().all(|right| right.kind.gives()));
    let subject = Subject::parse("orders.created").expect("a subject");
    // What a verb is about may be named like a subject, or not.
    let key = Subject::parse("carts.eu.items").expect("a key");
    let store = Subject::parse("carts").expect("a bucket");
    let claims = json!({ "sub": "alice", "scope": "orders:write", "tenant": "a", "n": 1 });
    let claims = claims.as_object().cloned().map(Claims::from_map);
    let _ = policy.requirements(&subject);
    if let Some(change) = policy.next_change(SHOP.now) {
        assert!(change > SHOP.now, "a change that has been");
    }
    for rule in policy.rules() {
        let _ = (rule.place().to_string(), rule.tests().count());
        let _ = rule.hours().map(|hours| hours.to_string().len());
    }
    for workload in policy.workloads() {
        let permissions = policy.permissions(workload.id(), &Circumstances::at(SHOP.now));
        is_explicit(&permissions.expect("a workload"));
        let here = Circumstances {
            now: SHOP.now,
            client: Some(Ipv4Addr::LOCALHOST.into()),
        };
        let permissions = policy.permissions(workload.id(), &here);
        is_explicit(&permissions.expect("a workload"));
        let _ = policy.grants(workload.id()).count();
        for (verb, subject) in Verb::ALL
            .into_iter()
            .flat_map(|verb| [&subject, &key, &store].map(|subject| (verb, subject)))
        {
            for user in [None, claims.as_ref()] {
                let request = Request {
                    workload: workload.id(),
                    verb,
                    subject,
                    user,
                    now: SHOP.now,
                };
                let decision = policy.decide(&request);
                assert_eq!(decision.is_allow(), policy.decide(&request).is_allow());
                let _ = (decision.would(), policy.deciding_rules(&request).len());
                if let Decision::Allow(permit) = &decision {
                    assert!(SHOP.now < permit.until(), "a permit that has ended");
                }
                // What is allowed with this user may ever be allowed.
                assert!(
                    !decision.is_allow() || policy.may_ever(workload.id(), verb, subject),
                    "allowed, though never"
                );
            }
        }
    }
}

/// Lints, format and picture: of a policy that loads, and of any text.
pub fn tools(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match format(text) {
        Ok(once) => assert_eq!(
            format(&once).as_deref(),
            Ok(&*once),
            "it does not stand still"
        ),
        Err(error) => assert!(
            error != FormatError::Changed,
            "it would mean something else"
        ),
    }
    if let Ok(checked) = Policy::check("fuzz.toml", text, SHOP.now) {
        for lint in &checked.lints {
            assert!(!lint.message().is_empty() && lint.excerpt().line() > 0);
        }
        let graph = Graph::of(&checked.policy);
        let (svg, dot) = (graph.to_svg(), graph.to_dot());
        assert!(svg.ends_with("</svg>\n") && dot.ends_with("}\n"));
    }
}

/// nats-server's configuration: what is imported loads.
pub fn nats_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let options = ImportOptions {
        trust_domain: TrustDomain::parse("acme.example").expect("a domain"),
        account: None,
        roots: Vec::new(),
    };
    match import(text, &options) {
        Ok(imported) => {
            Policy::parse("imported", &imported.policy).expect("it loads");
        }
        Err(error) => assert_ne!(error.code(), "does_not_load", "{error}"),
    }
}
/// A policy that says nothing.
const NOTHING: &str = "version = 1\ntrust_domain = \"acme.example\"\n";

/// POL-60, POL-69, POL-123: never everything, and of the server's own spaces only
/// what is named here.
fn is_explicit(permissions: &Permissions) {
    assert!(!permissions.publish_allow.is_empty());
    assert!(!permissions.subscribe_allow.is_empty());
    for entry in permissions
        .publish_allow
        .iter()
        .chain(&permissions.subscribe_allow)
    {
        let is_open = entry.starts_with('*') || entry.starts_with('>');
        assert!(!is_open, "everything: {entry}");
        let known = [
            "$BULLA.",
            "$KV.",
            "$JS.ACK.",
            "$JS.API.DIRECT.GET.",
            "$JS.API.CONSUMER.MSG.NEXT.",
        ];
        let is_reserved = entry.starts_with('$');
        assert!(
            !is_reserved || known.iter().any(|space| entry.starts_with(space)),
            "not ours to give: {entry}"
        );
    }
}
