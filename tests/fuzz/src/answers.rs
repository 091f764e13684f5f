//! A broker's answers to a process: a lax encoding, but one meaning.

use super::broker_protocol::{Challenge, Issued, Registered};

pub fn all(data: &[u8]) {
    if let Ok(challenge) = Challenge::decode(data) {
        assert_eq!(Challenge::decode(&challenge.encode()), Ok(challenge));
    }
    if let Ok(issued) = Issued::decode(data) {
        assert_eq!(Issued::decode(&issued.encode()), Ok(issued));
    }
    if let Ok(registered) = Registered::decode(data) {
        assert_eq!(Registered::decode(&registered.encode()), Ok(registered));
    }
}
