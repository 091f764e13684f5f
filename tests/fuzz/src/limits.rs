//! What narrows a user.

use std::collections::BTreeMap;

use bulla_envelope::Limits;
use bulla_identity::Claims;
use serde_json::json;

/// The bytes are limits; half of them may be the limits of the hop before.
pub fn all(data: &[u8]) {
    let Ok(limits) = Limits::decode(data) else {
        return;
    };
    assert!(!limits.is_none(), "limits that limit nothing");
    let encoded = limits.encode().expect("no longer than it came");
    assert_eq!(
        encoded.as_deref(),
        Some(data),
        "another encoding of the same"
    );
    let earlier = Limits::none()
        .keep_scopes(["orders:read", "a"])
        .keep_reach(["retail"]);
    let both = limits.and(&earlier);
    assert_eq!(both, earlier.and(&limits));
    assert!(both.narrows(&limits) && both.narrows(&earlier));
    assert!(limits.narrows(&Limits::none()));

    let claims: BTreeMap<_, _> = BTreeMap::from([
        ("sub".to_owned(), json!("alice")),
        ("scope".to_owned(), json!("orders:read a b")),
        ("reach".to_owned(), json!(["retail", "ops"])),
        ("tenants".to_owned(), json!(["t1", "t2"])),
        ("roles".to_owned(), json!("buyer")),
    ]);
    let claims = Claims::from_map(claims.into_iter().collect());
    let left = both.apply(&claims);
    assert_eq!(left.principal(), Some("alice"));
    assert!(left.scopes().all(|s| claims.has_scope(s) && s != "b"));
    assert!(left.reach().all(|name| name == "retail"));
    assert_eq!(left.whole(), &claims);
    assert_eq!(both.apply(&left), left, "once is enough");
}
