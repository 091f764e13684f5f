use bulla_keyring::NkeySeed;

use bulla_identity::NkeyKind;

use super::*;

fn nkey(n: u8) -> Nkey {
    NkeySeed::from_random(NkeyKind::User, &[n; 32])
        .unwrap()
        .public()
}

fn admissions(keys: &[u8], may: &str) -> Admissions {
    let keys: Vec<String> = keys
        .iter()
        .map(|n| format!("{{ nkey = \"{}\" }}", nkey(*n)))
        .collect();
    let text = format!(
        "version = 1\ntrust_domain = \"acme.example\"\n[workload.orders]\nattest = [{}]\n\
         [[allow]]\nid = \"a\"\nwho = [\"orders\"]\nmay = [\"publish\"]\non = [{may}]\n",
        keys.join(", ")
    );
    let policy = Policy::parse("test.toml", &text).unwrap();
    Admissions::from_policy(&Arc::new(policy)).unwrap()
}

/// The name that a connection by this key gets.
fn user(admissions: &Admissions, key: u8, at: &Circumstances) -> String {
    let (_, proof) = &admissions.by_nkey[&nkey(key)];
    let admission = &admissions.by_proof[proof];
    let (permissions, _) = admission.permissions(at).unwrap();
    admission.user(&permissions)
}

#[test]
fn a_connection_stands_as_what_it_has_to_what_it_would_get() {
    let at = Circumstances::at(UnixMillis::from_secs(1_800_000_000));
    let first = admissions(&[1, 2], "\"a\", \"b\"");
    let (own, second) = (user(&first, 1, &at), user(&first, 2, &at));
    assert_ne!(own, second, "the key is part of it");
    let stands = |now: &Admissions, user: &str| now.standing(user, false, &at, &Found::default());
    assert_eq!(stands(&first, &own), Standing::Current);
    for (keys, may, want) in [
        (&[1, 2][..], "\"b\", \"a\"", Standing::Current),
        (&[2, 1], "\"a\", \"b\", \"c\"", Standing::Behind),
        (&[1], "\"a\"", Standing::Lost("permissions_changed")),
        (&[1], "\"a\", \"c\"", Standing::Lost("permissions_changed")),
        (&[2], "\"a\", \"b\"", Standing::Lost("key_dropped")),
    ] {
        let next = admissions(keys, may).after(&first);
        assert_eq!(stands(&next, &own), want, "{keys:?} {may}");
        // What came before that is known as well.
        let later = admissions(keys, may).after(&next);
        assert_eq!(stands(&later, &own), want, "{keys:?} {may}");
    }
    // Nothing is known of it: it has to show what it may do.
    let unknown = admissions(&[1, 2], "\"a\", \"b\", \"c\"");
    for user in [&own, "orders~0011223344556677"] {
        let want = Standing::Lost("permissions_changed");
        assert_eq!(stands(&unknown, user), want);
    }
    for user in ["orders", "orders~", "orders~xyz"] {
        let want = Standing::Lost("permissions_unknown");
        assert_eq!(stands(&first, user), want);
    }
    let nobody = Standing::Lost("workload_dropped");
    assert_eq!(stands(&first, "billing~0011223344556677"), nobody);
}

#[test]
fn what_depends_on_when_is_compared_as_of_now() {
    let at = |secs| Circumstances::at(UnixMillis::from_secs(secs));
    let text = format!(
        "version = 1\ntrust_domain = \"acme.example\"\n[workload.orders]\n\
         attest = [{{ nkey = \"{}\" }}]\n[[allow]]\nid = \"a\"\nwho = [\"orders\"]\n\
         may = [\"publish\"]\non = [\"a\"]\nexpires = \"2027-01-15T08:00:00Z\"\n",
        nkey(1)
    );
    let policy = Policy::parse("test.toml", &text).unwrap();
    let admissions = Admissions::from_policy(&Arc::new(policy)).unwrap();
    let early = user(&admissions, 1, &at(1_800_000_000 - 3_600));
    let stands = |secs| admissions.standing(&early, false, &at(secs), &Found::default());
    assert_eq!(stands(1_800_000_000 - 1), Standing::Current);
    let want = Standing::Lost("permissions_changed");
    assert_eq!(stands(1_800_000_000), want);
}

/// POL-128: a bucket that turns bad takes the rights to it from who has them.
#[test]
fn a_connection_with_rights_to_an_unfit_bucket_has_lost_them() {
    let at = Circumstances::at(UnixMillis::from_secs(1_800_000_000));
    let text = format!(
        "version = 1\ntrust_domain = \"acme.example\"\n[bucket.carts]\n[bucket.notes]\n\
         [workload.orders]\nattest = [{{ nkey = \"{}\" }}]\n\
         [workload.mail]\nattest = [{{ nkey = \"{}\" }}]\n\
         [[allow]]\nid = \"a\"\nwho = [\"orders\"]\nmay = [\"read\"]\non = [\"carts.>\", \"notes.>\"]\n\
         [[allow]]\nid = \"b\"\nwho = [\"mail\"]\nmay = [\"read\"]\non = [\"notes.>\"]\n",
        nkey(1),
        nkey(2)
    );
    let policy = Policy::parse("test.toml", &text).unwrap();
    let admissions = Admissions::from_policy(&Arc::new(policy)).unwrap();
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let found = |served: &[&str], unfit: &[&str]| Found {
        served: names(served),
        unfit: names(unfit),
    };
    let (orders, mail) = (user(&admissions, 1, &at), user(&admissions, 2, &at));
    let lost = Standing::Lost("bucket_unfit");
    for (name, now, want) in [
        (&orders, found(&["carts", "notes"], &[]), Standing::Current),
        // Another broker may have looked already.
        (&orders, found(&["notes"], &[]), Standing::Current),
        (&orders, found(&["notes"], &["carts"]), lost),
        (&orders, found(&[], &["carts"]), lost),
        (&mail, found(&["notes"], &["carts"]), Standing::Current),
        (&mail, found(&[], &["carts"]), Standing::Current),
        (&mail, found(&["carts"], &["notes"]), lost),
    ] {
        assert_eq!(
            admissions.standing(name, false, &at, &now),
            want,
            "{name} {now:?}"
        );
    }
    // Who was admitted without it has what it would get.
    let (_, proof) = &admissions.by_nkey[&nkey(1)];
    let admission = &admissions.by_proof[proof];
    let (all, _) = admission.permissions(&at).unwrap();
    let left = buckets::only_served(&all, &admissions.buckets, &names(&["notes"]));
    let without = admission.user(&left);
    let now = found(&["notes"], &["carts"]);
    assert_eq!(
        admissions.standing(&without, false, &at, &now),
        Standing::Current
    );
}

#[test]
fn who_is_silent_has_all_but_one_right_and_gets_it_back() {
    let at = Circumstances::at(UnixMillis::from_secs(1_800_000_000));
    let admissions = admissions(&[1], "\"a\"");
    let (_, proof) = &admissions.by_nkey[&nkey(1)];
    let admission = &admissions.by_proof[proof];
    let (all, _) = admission.permissions(&at).unwrap();
    let left = admission.silenced(&all);
    assert_eq!(left.publish_allow.len() + 1, all.publish_allow.len());
    let (loud, silent) = (admission.user(&all), admission.user(&left));
    let stands =
        |user: &str, is_silent| admissions.standing(user, is_silent, &at, &Found::default());
    assert_eq!(stands(&loud, true), Standing::Lost("audit_quota"));
    assert_eq!(stands(&silent, true), Standing::Current);
    assert_eq!(stands(&silent, false), Standing::Lost("audit_quota_over"));
    assert_eq!(stands(&loud, false), Standing::Current);
}
