//! The policy language: what loads can be asked anything.

use bulla_identity::{Claims, Subject};
use bulla_policy::{Circumstances, Policy, Request, Verb};
use serde_json::json;

use super::shop::SHOP;

pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
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
    let subject = Subject::parse("orders.created").expect("a subject");
    let claims = json!({ "sub": "alice", "scope": "orders:write", "tenant": "a", "n": 1 });
    let claims = claims.as_object().cloned().map(Claims::from_map);
    let _ = policy.requirements(&subject);
    for workload in policy.workloads() {
        let _ = policy.permissions(workload.id(), &Circumstances::at(SHOP.now));
        let _ = policy.grants(workload.id()).count();
        for word in [
            "publish",
            "subscribe",
            "request",
            "serve",
            "append",
            "consume",
        ] {
            let Some(verb) = Verb::parse(word) else {
                continue;
            };
            for user in [None, claims.as_ref()] {
                let decision = policy.decide(&Request {
                    workload: workload.id(),
                    verb,
                    subject: &subject,
                    user,
                    now: SHOP.now,
                });
                // What is allowed with this user may ever be allowed.
                assert!(
                    !decision.is_allow() || policy.may_ever(workload.id(), verb, &subject),
                    "allowed, though never"
                );
            }
        }
    }
}
