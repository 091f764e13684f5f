//! What the reasons mean, for whoever writes a reader of his own.

use std::collections::BTreeMap;

pub fn table() -> BTreeMap<String, String> {
    REASONS
        .iter()
        .map(|(code, text)| ((*code).to_owned(), (*text).to_owned()))
        .collect()
}

const REASONS: &[(&str, &str)] = &[
    (
        "ancestor_kind",
        "an ancestor that is neither an event nor a request",
    ),
    ("ancestor_not_signed", "an ancestor with a code"),
    (
        "ancestor_unlinked",
        "an ancestor that is not the parent of the message after it",
    ),
    ("ancestry_empty", "no ancestors where some are announced"),
    (
        "ancestry_incomplete",
        "the last ancestor has a parent itself",
    ),
    (
        "ancestry_kind",
        "ancestors of what is neither an event nor a request",
    ),
    (
        "chain_foreign_start",
        "the first message is not the minter's",
    ),
    ("chain_limits_widened", "limits that do not stay"),
    ("chain_missing", "a parent that is named and not shown"),
    ("chain_no_user", "a message without a user"),
    ("chain_not_authentic", "an ancestor's proof does not verify"),
    ("chain_out_of_order", "a message from before its parent"),
    (
        "chain_outlives",
        "an ancestor that was to live for longer than it may",
    ),
    ("chain_parent_over", "a message from after its parent's end"),
    ("chain_token_changed", "an ancestor with another token"),
    (
        "ahead",
        "a head names a newer record than the one that is held",
    ),
    (
        "contradiction",
        "a head names another record under the number that is held",
    ),
    ("entry_name", "an entry names what cannot be"),
    ("entry_order", "entries that do not ascend"),
    ("entry_reason", "a reason that is empty or not clean"),
    (
        "entry_times",
        "revoked after it was said, or said after it was signed",
    ),
    ("issuer_expired", "the time of the issuing key is over"),
    ("sequence", "lists are numbered from 1"),
    ("unknown_entry", "an entry of a kind that there is not"),
    ("bad_ciphertext", "the body does not decrypt"),
    ("bad_mac", "a code does not verify"),
    (
        "body_too_short",
        "an encrypted body that is shorter than its tag",
    ),
    (
        "data_key_mismatch",
        "what was wrapped is another key than the id commits to",
    ),
    ("data_key_missing", "no wraps and no record"),
    ("data_key_retired", "sealed after the data key's time"),
    ("kem_key", "no sound key for encryption or agreement"),
    ("mac_kind", "a code where only a signature may be"),
    (
        "malformed_content",
        "what was encrypted is not strictly encoded",
    ),
    (
        "not_a_recipient",
        "the data key is not wrapped to the reader",
    ),
    (
        "original_mismatch",
        "the client's own token is not the one that was signed for",
    ),
    ("not_coded", "a signature where a code is expected"),
    ("not_signed", "a code where a signature is expected"),
    (
        "recipient_set_mismatch",
        "the wraps are for another set of recipients",
    ),
    ("suite_of_kind", "a kind that there is not in this suite"),
    ("weak_suite", "weaker than the receiver asks for"),
    (
        "wrap_does_not_open",
        "made for another key or context, or changed",
    ),
    ("wraps_malformed", "wraps that are not strictly encoded"),
    (
        "wraps_order",
        "wraps that are repeated, out of order or none",
    ),
    ("wrong_data_key", "the record is of another data key"),
    (
        "bad_countersignature",
        "the workload's countersignature does not verify",
    ),
    (
        "bad_issuer_signature",
        "the issuing key's signature does not verify",
    ),
    ("bad_signature", "a signature does not verify"),
    ("batch_place", "index or count is no place in a batch"),
    ("bundle_expired", "the trust bundle has expired"),
    (
        "certificate_key",
        "the certificate's key is neither Ed25519 nor P-256, or unsound",
    ),
    ("certificate_malformed", "a certificate does not parse"),
    (
        "certificate_names",
        "the certificate does not name exactly one URI",
    ),
    (
        "certificate_not_valid",
        "a certificate was not valid when it vouched",
    ),
    (
        "certificate_of_another",
        "the certificate's URI is not the workload's id",
    ),
    (
        "certificate_untrusted",
        "the certificates do not lead to an authority that the policy lists",
    ),
    (
        "certificate_usage",
        "not a client's leaf that may sign, or not issued by what may issue such",
    ),
    (
        "cloned_key",
        "another message was accepted under this key, epoch and sequence",
    ),
    (
        "countersignature_missing",
        "the workload does not vouch for it",
    ),
    ("credential_expired", "the credential has expired"),
    (
        "credential_life_too_long",
        "it ends too long after it was asked for",
    ),
    (
        "credential_not_yet_valid",
        "the credential's time has not come",
    ),
    ("equivocation", "the same number with other contents"),
    ("error_with_body", "an error has a body"),
    ("expired", "its time is over"),
    ("field_order", "a key is repeated or out of order"),
    ("foreign_domain", "of another trust domain"),
    (
        "foreign_nkey",
        "the countersignature is by an nkey that does not vouch in the policy",
    ),
    ("frame_count", "not as many bodies as ids"),
    ("future", "from the future"),
    ("invalid_field", "a value that the field cannot have"),
    (
        "issued_before_start",
        "from before the receiver began to remember",
    ),
    (
        "issuing_life_too_long",
        "an issuing key is trusted for too long",
    ),
    ("key", "no sound Ed25519 key"),
    ("key_order", "keys that do not ascend"),
    (
        "lives_too_long",
        "it claims a longer life than any envelope may have",
    ),
    (
        "message_key_proof",
        "the asker does not hold the message key",
    ),
    (
        "missing_field",
        "a field that this kind requires is not there",
    ),
    (
        "no_anchor",
        "the policy lets nothing vouch for the workload",
    ),
    (
        "no_authority",
        "the policy lists no certificate authority for the workload",
    ),
    ("not_framable", "several messages where only one may be"),
    ("not_minimal", "a shorter encoding of a value exists"),
    ("not_recent", "the request is not from now"),
    ("not_utf8", "text that is not UTF-8"),
    ("other_cipher", "another cipher than the receiver asks for"),
    (
        "outlives_credential",
        "it ends after its sender's credential",
    ),
    (
        "outlives_certificate",
        "it ends after a certificate that vouches for it",
    ),
    ("outlives_issuer", "it ends after its issuing key"),
    (
        "path_length",
        "the path's length does not follow from index and count",
    ),
    ("replayed", "the message was accepted before"),
    ("rollback", "a lower number than what is held"),
    (
        "root_rollback",
        "a bundle by a root that was replaced, or by one that did not follow it",
    ),
    (
        "root_succession",
        "a former root does not vouch for the next one",
    ),
    ("root_twice", "a bundle that names a root twice"),
    ("same_key", "token key and message key are one"),
    ("token_key_proof", "the asker does not hold the token key"),
    (
        "token_mismatch",
        "the token does not have the hash that was signed",
    ),
    (
        "token_presence",
        "a token without its hash, or a hash without its token",
    ),
    (
        "token_proof_presence",
        "a token key without its proof, or a proof without its key",
    ),
    (
        "too_large",
        "longer than anything of its kind, refused unread",
    ),
    ("too_long", "a value that is longer than its place allows"),
    (
        "too_old",
        "older than the receiver's rule for the subject allows",
    ),
    ("trailing_bytes", "something follows"),
    ("truncated", "the bytes end inside a value"),
    ("trust_domain", "no trust domain"),
    (
        "unexpected_field",
        "a field that has no meaning in this kind",
    ),
    ("unknown_field", "a header key that there is not"),
    ("unknown_issuer", "the bundle does not name the issuing key"),
    ("unknown_key", "the bundle does not name the policy key"),
    (
        "unknown_root",
        "a bundle by a root that is not pinned and that no pinned one leads to",
    ),
    ("unsupported_kind", "a kind that there is not"),
    ("unsupported_suite", "a suite that there is not"),
    ("unsupported_version", "another version"),
    ("workload", "no SPIFFE id of a workload"),
    ("wrong_challenge", "another challenge than was sent"),
    ("wrong_credential", "it names another credential"),
    ("wrong_kind", "a kind that makes no sense where it came"),
    (
        "wrong_length",
        "a value of another length than its place needs",
    ),
    ("wrong_reply_to", "sealed with another reply subject"),
    ("wrong_request", "it answers another request"),
    ("wrong_subject", "sealed for another subject"),
    ("wrong_type", "a value of another type than its place needs"),
    ("wrong_workload", "the request is for another workload"),
];
