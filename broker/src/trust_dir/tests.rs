//! One key follows another, on disk.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use bulla_envelope::TrustError;
use bulla_keyring::AuthoritySeed;
use bulla_process::{SecretFileError, secret_file};

use super::*;

const NOW: UnixMillis = UnixMillis::from_secs(2_000_000);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
const LIMIT: Duration = Duration::from_secs(5);

fn at(hours: u64) -> UnixMillis {
    NOW.saturating_add(Duration::from_secs(hours * 3600))
}

fn domain() -> TrustDomain {
    TrustDomain::parse("acme.example").unwrap()
}

fn start(dir: &Path) -> TrustDir {
    let init = Init {
        domain: domain(),
        root: NewKey::File,
        policy: NewKey::File,
        broker: "east".to_owned(),
        life: MONTH,
    };
    TrustDir::init(dir, &init, LIMIT, NOW).unwrap().0
}

fn again(dir: &Path) -> TrustDir {
    TrustDir::open(dir, LIMIT).unwrap()
}

/// The bundle as a receiver with these pins opens it.
fn opened(dir: &Path, pins: &str, now: UnixMillis) -> Result<TrustBundle, TrustError> {
    let roots = AuthorityKey::parse_list(AuthorityRole::Root, pins).unwrap();
    let roots: Vec<_> = roots.iter().map(|root| *root.verifying_key()).collect();
    let bytes = std::fs::read(dir.join(BUNDLE)).unwrap();
    TrustBundle::open(&bytes, &roots, &domain(), now, Duration::ZERO)
        .map(|bundle| bundle.into_inner())
}

fn pins(dir: &Path) -> String {
    std::fs::read_to_string(dir.join(ROOTS)).unwrap()
}

const POLICY_TEXT: &str = "version = 1\ntrust_domain = \"acme.example\"\n";

#[test]
fn a_new_directory_has_private_keys_and_a_bundle_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("trust");
    start(dir);
    let bundle = opened(dir, &pins(dir), NOW).unwrap();
    assert_eq!((bundle.version, bundle.issuing.len()), (1, 1));
    assert_eq!(bundle.issuing[0].expires_at, at(7 * 24));
    for key in ["root-1.key", "policy-1.key", "issuing/east/1.key"] {
        let mode = dir.join(key).metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o700);
    let text = std::fs::read_to_string(dir.join("trust.toml")).unwrap();
    assert!(!text.contains("secret-1"), "{text}");
    // Nothing is overwritten.
    let init = Init {
        domain: domain(),
        root: NewKey::File,
        policy: NewKey::File,
        broker: "east".to_owned(),
        life: MONTH,
    };
    assert!(matches!(
        TrustDir::init(dir, &init, LIMIT, NOW),
        Err(TrustDirError::Exists { .. })
    ));
}

#[test]
fn key_files_that_others_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path());
    let key = dir.path().join("root-1.key");
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let refused = again(dir.path()).sign(MONTH, NOW).unwrap_err();
    assert!(matches!(
        refused,
        TrustDirError::Signer(SignerError::File(SecretFileError::Exposed { .. }))
    ));
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    // Commands in it are run.
    let manifest = dir.path().join("trust.toml");
    std::fs::set_permissions(&manifest, Permissions::from_mode(0o664)).unwrap();
    assert!(matches!(
        TrustDir::open(dir.path(), LIMIT),
        Err(TrustDirError::Manifest(ManifestError::Writable { .. }))
    ));
}

#[test]
fn signing_renews_the_newest_keys_and_names_ended_ones_for_what_streams_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut trust = start(dir.path());
    let first = opened(dir.path(), &pins(dir.path()), NOW).unwrap().issuing[0].key;
    trust.rotate_issuer("east", None, MONTH, at(24)).unwrap();
    let bundle = opened(dir.path(), &pins(dir.path()), at(24)).unwrap();
    let until = |bundle: &TrustBundle, key| {
        let named = bundle.issuing.iter().find(|issuing| issuing.key == key);
        named.map(|issuing| issuing.expires_at)
    };
    assert_eq!((bundle.version, bundle.issuing.len()), (2, 2));
    assert_eq!(until(&bundle, first), Some(at(7 * 24)), "as it was");
    // The newest is renewed, the old one is not.
    again(dir.path()).sign(MONTH, at(3 * 24)).unwrap();
    let bundle = opened(dir.path(), &pins(dir.path()), at(3 * 24)).unwrap();
    let second = *again(dir.path()).manifest.issuing["east"].verifying_key();
    assert_eq!(until(&bundle, first), Some(at(7 * 24)));
    assert_eq!(until(&bundle, second), Some(at(10 * 24)));
    // It has ended, so its file is of no use; what it vouched for may lie in a
    // stream for a month.
    let ended = [dir.path().join("issuing/east/1.key")];
    let month = 7 * 24 + 30 * 24;
    for hours in [8 * 24, month] {
        let outcome = again(dir.path()).sign(MONTH, at(hours)).unwrap();
        assert_eq!(until(&outcome.bundle, first), Some(at(7 * 24)), "as it was");
        assert_eq!(outcome.obsolete, ended);
    }
    let outcome = again(dir.path()).sign(MONTH, at(month + 24)).unwrap();
    assert_eq!(until(&outcome.bundle, first), None);
    assert_eq!(outcome.obsolete, ended);
    // And at once, if it was stolen.
    let now = at(month + 24);
    let stolen = again(dir.path()).manifest.issuing["east"];
    let outcome = again(dir.path()).drop_issuers(&[stolen], MONTH, now);
    assert!(outcome.unwrap().bundle.issuing.is_empty());
    assert!(matches!(
        again(dir.path()).drop_issuers(&[stolen], MONTH, now),
        Err(TrustDirError::Unnamed { .. })
    ));
}

#[test]
fn a_bundle_has_room_for_a_key_a_week_of_eighteen_brokers_and_says_so_when_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path());
    let rotate = |week: u64, broker: u8| {
        let mut seed = [0; 32];
        (seed[0], seed[1]) = (u8::try_from(week).unwrap(), broker);
        let key = AuthoritySeed::from_random(AuthorityRole::Issuing, &seed).public();
        let name = format!("b{broker}");
        again(dir.path()).rotate_issuer(&name, Some(key), MONTH, at(week * 7 * 24))
    };
    for week in 0..10 {
        for broker in 0..18 {
            rotate(week, broker).unwrap();
        }
    }
    let full = (18..40).find_map(|broker| rotate(9, broker).err());
    assert!(matches!(full, Some(TrustDirError::TooManyKeys)), "{full:?}");
    // Which stops nobody from giving what there is a new time.
    again(dir.path()).sign(MONTH, at(10 * 7 * 24)).unwrap();
}

#[test]
fn an_issuing_key_that_a_broker_made_itself_is_named() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path());
    let elsewhere = dir.path().join("elsewhere.key");
    let public = create_key(AuthorityRole::Issuing, &elsewhere).unwrap();
    let outcome = again(dir.path())
        .rotate_issuer("west", Some(public), MONTH, NOW)
        .unwrap();
    assert_eq!(outcome.bundle.issuing.len(), 2);
    assert!(outcome.created.is_empty());
    for name in ["", "a/b", "..", "a b"] {
        assert!(matches!(
            again(dir.path()).rotate_issuer(name, None, MONTH, NOW),
            Err(TrustDirError::BrokerName { .. })
        ));
    }
}

#[test]
fn the_policy_key_changes_with_the_policy_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let trust = start(dir.path());
    assert_eq!(trust.sign_policy("p", POLICY_TEXT, NOW).unwrap().1, 1);
    assert_eq!(trust.sign_policy("p", POLICY_TEXT, NOW).unwrap().1, 1);
    let outcome = again(dir.path())
        .rotate_policy_key(&NewKey::File, MONTH, NOW)
        .unwrap();
    assert_eq!(outcome.bundle.policy_keys.len(), 2);
    assert_eq!(outcome.policy_revision, Some(2));
    // The policy of before comes back: it would not count any more.
    let newest = std::fs::read(dir.path().join(POLICY)).unwrap();
    let old = SignedPolicy {
        trust_domain: domain(),
        revision: 2,
        issued_at: NOW,
        comment: String::new(),
        text: POLICY_TEXT.to_owned(),
    };
    let text = secret_file::read_line(&dir.path().join("policy-1.key")).unwrap();
    let old_key = AuthoritySeed::parse(AuthorityRole::Policy, &text).unwrap();
    let by_old = old.sign(old_key.signing_key()).unwrap();
    std::fs::write(dir.path().join(POLICY), by_old).unwrap();
    assert!(matches!(
        again(dir.path()).finish_policy_key(MONTH, NOW),
        Err(TrustDirError::PolicyByOldKey)
    ));
    // The same text by the new key is another revision.
    let signed = again(dir.path()).sign_policy("p", POLICY_TEXT, NOW);
    assert_eq!(signed.unwrap().1, 3);
    std::fs::write(dir.path().join(POLICY), newest).unwrap();
    let outcome = again(dir.path()).finish_policy_key(MONTH, NOW).unwrap();
    assert_eq!(outcome.bundle.policy_keys.len(), 1);
    assert_eq!(outcome.obsolete, [dir.path().join("policy-1.key")]);
    let state = again(dir.path()).state(NOW).unwrap();
    assert!(state.policy.unwrap().is_vouched);
}

/// Without it no process could start: the list on the control stream would be
/// by a key that does not count.
#[test]
fn a_policy_key_stays_while_the_revocations_are_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let trust = start(dir.path());
    let list = RevocationList::new(domain(), 1, NOW, Vec::new());
    let publish = |trust: &TrustDir| {
        let signer = trust.policy_signer().unwrap();
        let public = signer.public();
        let key = public.verifying_key();
        let message = list.to_sign(key).unwrap();
        let signature = signer.sign(Tag::Revocations, &message).unwrap();
        let bytes = list.signed(key, &signature).unwrap();
        std::fs::write(dir.path().join(REVOCATIONS), bytes).unwrap();
    };
    publish(&trust);
    again(dir.path())
        .rotate_policy_key(&NewKey::File, MONTH, NOW)
        .unwrap();
    let before = std::fs::read(dir.path().join(BUNDLE)).unwrap();
    assert!(matches!(
        again(dir.path()).finish_policy_key(MONTH, NOW),
        Err(TrustDirError::RevocationsByOldKey)
    ));
    assert_eq!(std::fs::read(dir.path().join(BUNDLE)).unwrap(), before);
    publish(&again(dir.path()));
    again(dir.path()).finish_policy_key(MONTH, NOW).unwrap();
}

#[test]
fn a_root_follows_another_from_either_pin() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path());
    let old_pin = pins(dir.path());
    again(dir.path())
        .rotate_root(&NewKey::File, MONTH, NOW)
        .unwrap();
    let both = pins(dir.path());
    let new_pin = both.lines().next().unwrap();
    for pin in [&old_pin, &both, new_pin] {
        assert_eq!(opened(dir.path(), pin, NOW).unwrap().version, 2);
    }
    // The old key is not needed for what follows.
    std::fs::remove_file(dir.path().join("root-1.key")).unwrap();
    again(dir.path()).sign(MONTH, NOW).unwrap();
    assert_eq!(opened(dir.path(), &old_pin, NOW).unwrap().version, 3);
    let outcome = again(dir.path()).finish_root(MONTH, NOW).unwrap();
    assert_eq!(outcome.bundle.version, 4);
    assert_eq!(pins(dir.path()).trim(), new_pin);
    assert_eq!(
        opened(dir.path(), &old_pin, NOW),
        Err(TrustError::UnknownRoot)
    );
}

#[test]
fn a_rotation_that_breaks_off_leaves_what_was() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path());
    let before = std::fs::read(dir.path().join(BUNDLE)).unwrap();
    let public = AuthoritySeed::from_random(AuthorityRole::Root, &[7; 32]).public();
    let new = NewKey::Command {
        command: "exit 1".to_owned(),
        public: Box::new(public),
    };
    let refused = again(dir.path()).rotate_root(&new, MONTH, NOW);
    assert!(matches!(
        refused,
        Err(TrustDirError::Signer(SignerError::Failed { .. }))
    ));
    assert_eq!(std::fs::read(dir.path().join(BUNDLE)).unwrap(), before);
    again(dir.path()).sign(MONTH, NOW).unwrap();
}
