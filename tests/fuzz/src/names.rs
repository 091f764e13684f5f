//! Names: whatever is accepted is written as it was read.

use bulla_envelope::TraceParent;
use bulla_identity::{Nkey, Subject, SubjectPattern, TrustDomain, WorkloadId, WorkloadName};
use bulla_keyring::KeyId;

pub fn all(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(subject) = Subject::parse(text) {
        assert_eq!(subject.as_str(), text);
        let pattern = SubjectPattern::parse(text).expect("a subject is a pattern");
        assert!(pattern.is_literal() && pattern.matches(&subject));
    }
    if let Ok(pattern) = SubjectPattern::parse(text) {
        assert_eq!(pattern.as_str(), text);
        assert!(pattern.contains(&pattern) && pattern.overlaps(&pattern));
        let nats = SubjectPattern::parse(&pattern.to_nats()).expect("NATS's form is a pattern");
        assert!(nats.contains(&pattern) && pattern.contains(&nats));
    }
    if let Ok(id) = WorkloadId::parse(text) {
        assert_eq!(id.as_str(), text);
        let _ = id.tag();
    }
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(domain.as_str(), text);
        let name = WorkloadName::parse("orders").expect("a name");
        let id = WorkloadId::new(&domain, &name);
        assert_eq!(WorkloadId::parse(id.as_str()).as_ref(), Ok(&id));
    }
    if let Ok(name) = WorkloadName::parse(text) {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(nkey) = Nkey::parse(text) {
        assert_eq!(nkey.to_string(), text);
    }
    if let Some(id) = KeyId::parse(text) {
        assert_eq!(id.to_hex(), text);
    }
    if let Some(trace) = TraceParent::parse(text) {
        assert_eq!(trace.to_string(), text);
    }
}
