//! Exchanges: what may be asked for, and what is given at most.

use std::time::Duration;

use bulla_identity::{Claims, UnixMillis, WorkloadId};
use bulla_token::{
    ExchangeFault, ExchangeRequest, ExchangeResponse, MAX_EXCHANGE_REQUEST, MintTimes, StartGrant,
    SubjectToken,
};
use serde_json::{Map, Value, json};

use crate::issuer::NOW;

fn after(seconds: u64) -> UnixMillis {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn asker() -> WorkloadId {
    WorkloadId::parse("spiffe://acme.example/front").unwrap()
}

fn alice() -> Claims {
    Claims::from_map(object(json!({
        "sub": "alice", "scope": "read write", "reach": ["retail", "ops"],
        "tenant": "t1", "roles": ["buyer"],
    })))
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn subject(claims: &Claims) -> SubjectToken<'_> {
    SubjectToken {
        claims,
        txn: "txn-1",
        principal: "alice",
        requester: "spiffe://acme.example/edge",
        expires: after(60),
        private: None,
    }
}

const TIMES: MintTimes = MintTimes {
    now: NOW,
    key_ends: UnixMillis::from_secs(u32::MAX as u64),
};

#[test]
fn the_new_token_says_nothing_that_the_old_one_does_not() {
    let alice = alice();
    let request = ExchangeRequest::narrower().scopes(["read"]).reach(["ops"]);
    let claims = request.replace(&subject(&alice), &asker(), TIMES).unwrap();
    assert_eq!((&*claims.txn, &*claims.principal), ("txn-1", "alice"));
    // The edge's still: the asker begins no chain with it.
    assert_eq!(claims.requesting_workload, "spiffe://acme.example/edge");
    let by = claims.request_context.get("exchanged_by");
    assert_eq!(by, Some(&json!("spiffe://acme.example/front")));
    assert_eq!(claims.scope, "read");
    assert_eq!(claims.reach, ["ops"]);
    let kept = object(json!({"tenant": "t1", "roles": ["buyer"]}));
    assert_eq!(claims.context, kept);
    assert_eq!((claims.issued, claims.expires), (NOW, after(60)));
    // Without a wish it is what there was.
    let same = ExchangeRequest::narrower();
    let claims = same.replace(&subject(&alice), &asker(), TIMES).unwrap();
    assert_eq!(claims.scope, "read write");
    assert_eq!(claims.reach, ["retail", "ops"]);
}

#[test]
fn what_is_beyond_the_subject_is_refused_and_not_left_out() {
    let alice = alice();
    let beyond = |request: ExchangeRequest| {
        request
            .replace(&subject(&alice), &asker(), TIMES)
            .map(|claims| claims.scope)
    };
    for (request, want) in [
        (
            ExchangeRequest::narrower().scopes(["read", "admin"]),
            ExchangeFault::ScopeBeyondSubject,
        ),
        (
            ExchangeRequest::narrower().reach(["retail", "back"]),
            ExchangeFault::ReachBeyondSubject,
        ),
        (ExchangeRequest::on_behalf_of("bob"), ExchangeFault::Subject),
    ] {
        assert_eq!(beyond(request), Err(want));
    }
    let bare = Claims::from_map(object(json!({"sub": "alice"})));
    let request = ExchangeRequest::narrower().scopes(["read"]);
    let refused = request.replace(&subject(&bare), &asker(), TIMES);
    assert_eq!(refused.unwrap_err(), ExchangeFault::ScopeBeyondSubject);
}

#[test]
fn no_token_outlives_what_it_replaces_its_key_or_five_minutes() {
    let alice = alice();
    let ends = |request: ExchangeRequest, subject_ends, key_ends| {
        let subject = SubjectToken {
            expires: subject_ends,
            ..subject(&alice)
        };
        let times = MintTimes { now: NOW, key_ends };
        request
            .replace(&subject, &asker(), times)
            .map(|claims| claims.expires)
    };
    let any = ExchangeRequest::narrower;
    let short = || any().lifetime(Duration::from_secs(9));
    assert_eq!(ends(any(), after(999), after(999)), Ok(after(300)));
    assert_eq!(ends(any(), after(7), after(999)), Ok(after(7)));
    assert_eq!(ends(any(), after(999), after(8)), Ok(after(8)));
    assert_eq!(ends(short(), after(999), after(999)), Ok(after(9)));
    let long = any().lifetime(Duration::from_secs(u64::MAX));
    assert_eq!(ends(long, after(60), after(999)), Ok(after(60)));
    // Over, or as good as over: no skew is granted.
    for over in [NOW, NOW.saturating_sub(Duration::from_secs(1))] {
        assert_eq!(ends(any(), over, after(999)), Err(ExchangeFault::Expired));
        assert_eq!(ends(any(), after(60), over), Err(ExchangeFault::Expired));
    }
}

#[test]
fn a_chain_is_started_with_what_is_granted_at_most() {
    let facts = object(json!({"kind": "job"}));
    let grant = StartGrant {
        scopes: &["a", "b"],
        reach: &["ops"],
        claims: &facts,
    };
    let start = |request: ExchangeRequest| request.start(&grant, &asker(), "txn-9", TIMES);
    let bare = start(ExchangeRequest::on_behalf_of("batch:x")).unwrap();
    assert_eq!((&*bare.scope, bare.reach.len()), ("", 0));
    assert_eq!((&*bare.principal, &*bare.txn), ("batch:x", "txn-9"));
    assert_eq!(bare.context, facts);
    let more = ExchangeRequest::on_behalf_of("batch:x")
        .scopes(["b"])
        .reach(["ops"]);
    let more = start(more).unwrap();
    assert_eq!((&*more.scope, more.reach), ("b", vec!["ops".to_owned()]));
    for (request, want) in [
        (
            ExchangeRequest::on_behalf_of("x").scopes(["a", "c"]),
            ExchangeFault::ScopeBeyondGrant,
        ),
        (
            ExchangeRequest::on_behalf_of("x").reach(["retail"]),
            ExchangeFault::ReachBeyondGrant,
        ),
        (ExchangeRequest::narrower(), ExchangeFault::Subject),
    ] {
        assert_eq!(start(request).unwrap_err(), want);
    }
}

#[test]
fn requests_are_read_strictly() {
    let whole = ExchangeRequest::on_behalf_of("bob")
        .scopes(["a", "b"])
        .reach(["ops"])
        .lifetime(Duration::from_secs(7));
    let text = whole.to_json().to_string();
    assert_eq!(ExchangeRequest::parse(text.as_bytes()), Ok(whole));
    let bare = ExchangeRequest::narrower().to_json();
    let changed = |name: &str, value: Value| {
        let mut request = bare.clone();
        request[name] = value;
        ExchangeRequest::parse(request.to_string().as_bytes()).unwrap_err()
    };
    use ExchangeFault::{BadMember, GrantType, Malformed, TokenType};
    assert_eq!(changed("grant_type", json!("password")), GrantType);
    let access = json!("urn:ietf:params:oauth:token-type:access_token");
    assert_eq!(changed("requested_token_type", access), TokenType);
    // The subject token is the message's user.
    assert_eq!(changed("subject_token", json!("eyJ")), Malformed);
    assert_eq!(changed("scope", json!(["a"])), Malformed);
    assert_eq!(changed("scope", json!("a\n")), BadMember("scope"));
    assert_eq!(changed("reach", json!(["Retail"])), BadMember("reach"));
    assert_eq!(changed("reach", json!(vec!["a"; 65])), BadMember("reach"));
    assert_eq!(changed("expires_in", json!(0)), BadMember("expires_in"));
    assert_eq!(changed("expires_in", json!(-1)), Malformed);
    let nobody = changed("requested_subject", json!(""));
    assert_eq!(nobody, BadMember("requested_subject"));
    let twice = text.replacen('{', "{\"scope\":\"a\",", 1);
    assert_eq!(ExchangeRequest::parse(twice.as_bytes()), Err(Malformed));
    let after = format!("{text} x");
    assert_eq!(ExchangeRequest::parse(after.as_bytes()), Err(Malformed));
    let long = vec![b' '; MAX_EXCHANGE_REQUEST + 1];
    let error = ExchangeRequest::parse(&long).unwrap_err();
    assert_eq!(error.code(), "exchange_too_large");
}

#[test]
fn a_response_is_shown_without_its_token() {
    let alice = alice();
    let claims = ExchangeRequest::narrower()
        .replace(&subject(&alice), &asker(), TIMES)
        .unwrap();
    let response = ExchangeResponse::new("eyJsecret".into(), &claims);
    assert_eq!((response.expires_in, &*response.scope), (60, "read write"));
    assert!(!format!("{response:?}").contains("eyJ"));
}
