//! Lines of the audit log.

use std::sync::LazyLock;

use bulla_audit::{Chain, Entry, Event, HeadStatement, Key, Verifier, Writer};
use bulla_identity::UnixMillis;
use bulla_keyring::SigningKey;
use data_encoding::HEXLOWER;

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

/// A genuine chain: its key, two entries, a head.
static GENUINE: LazyLock<Vec<String>> = LazyLock::new(|| {
    let key = SigningKey::from_seed(&[7; 32]);
    let name = *key.verifying_key().as_bytes();
    let mut chain = Chain::new(Writer::broker([1; 8]));
    let mut lines = Vec::new();
    for event in [
        Event::Key(Key::Issuing(HEXLOWER.encode(&name))),
        Event::stop(),
        Event::stop(),
    ] {
        lines.push(chain.append(NOW, &event).expect("short"));
    }
    let sign = |head: &HeadStatement<'_>| Some(head.sign(&key));
    lines.push(chain.seal(NOW, name, sign).expect("short").expect("a key"));
    lines
});

/// Any lines amid a genuine chain: what is not genuine there is found.
pub fn lines(data: &[u8]) {
    let genuine = &*GENUINE;
    let mut verifier = Verifier::new(None);
    let (before, after) = genuine.split_at(2);
    for line in before {
        verifier.entry(line.as_bytes(), None);
    }
    let mut is_foreign = false;
    for line in data.split(|byte| *byte == b'\n') {
        verifier.entry(line, None);
        let _ = verifier.expect(line);
        let Ok(entry) = Entry::decode(line) else {
            is_foreign = true;
            continue;
        };
        let parsed = Writer::parse(entry.writer.as_str()).expect("it was one");
        assert_eq!(parsed, entry.writer);
        let is_ours = entry.writer == Writer::broker([1; 8]);
        is_foreign |= is_ours && !genuine.iter().any(|own| own.as_bytes() == line);
    }
    for line in after {
        verifier.entry(line.as_bytes(), None);
    }
    let report = verifier.finish(true);
    assert!(!is_foreign || !report.findings.is_empty());
}
