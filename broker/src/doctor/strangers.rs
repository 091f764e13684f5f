//! What somebody sees who has no business here.

use bulla_identity::NkeyKind;
use bulla_keyring::NkeySeed;
use serde_json::{Value, json};

use super::Member;
use super::findings::{self, Finding};
use super::probe::{self, Bus, Greeting, Socket};

/// The oldest nats-server without known holes in what Bulla stands on.
const OLDEST: (u64, u64, u64) = (2, 14, 5);

/// Nobody without a name of the policy gets in.
pub(super) async fn let_in(bus: &Bus, members: &[Member]) -> Finding {
    let check = &findings::STRANGERS;
    let mut attempts: Vec<(&str, Option<Value>)> = vec![
        ("without a name", Some(probe::plain())),
        (
            "with a made-up password",
            Some(with(json!({ "user": "bulla", "pass": "bulla" }))),
        ),
        (
            "with a made-up token",
            Some(with(json!({ "auth_token": "bulla" }))),
        ),
        ("with an nkey of its own", None),
    ];
    if !members.is_empty() {
        attempts.push(("with a workload's nkey and another's signature", None));
    }
    let mut let_in = Vec::new();
    for (how, options) in attempts {
        let Ok(mut socket) = bus.connect().await else {
            return check.unknown("nats-server could not be reached again");
        };
        let options = match options {
            Some(options) => options,
            None => match own_nkey(how, &socket, members) {
                Some(options) => options,
                None => return check.unknown("the system gives no random bytes"),
            },
        };
        if socket.log_in(&options).await.is_none() {
            let_in.push(format!("a stranger {how} got in"));
        }
    }
    check.of(let_in, "5 kinds of strangers were turned away")
}

fn own_nkey(how: &str, socket: &Socket, members: &[Member]) -> Option<Value> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).ok()?;
    let seed = NkeySeed::from_random(NkeyKind::User, &random).ok()?;
    let mut options = probe::login_of(&seed, &socket.greeting.nonce);
    if let (true, Some(member)) = (how.contains("another's"), members.first())
        && let Some(options) = options.as_object_mut()
    {
        let nkey = member.seed.public().to_string();
        options.insert("nkey".to_owned(), nkey.into());
    }
    Some(options)
}

fn with(more: Value) -> Value {
    let mut options = probe::plain();
    if let (Some(options), Value::Object(more)) = (options.as_object_mut(), more) {
        options.extend(more);
    }
    options
}

/// What is signed once cannot be sent again.
pub(super) async fn empty_nonce(greeted: &Socket, bus: &Bus, members: &[Member]) -> Finding {
    let check = &findings::NONCE;
    if greeted.greeting.nonce.is_empty() {
        return check.ill("nats-server sends no nonce: whatever clients sign could be sent again");
    }
    let Some(member) = members.first() else {
        return check.unknown("no workload's seed was given");
    };
    let Ok(mut socket) = bus.connect().await else {
        return check.unknown("nats-server could not be reached again");
    };
    let options = probe::login_of(&member.seed, "");
    match socket.log_in(&options).await {
        None => check.ill("a signature over an empty nonce got in"),
        Some(_) => check.sound("a signature over an empty nonce was refused"),
    }
}

/// Has it the fixes?
pub(super) fn version(greeting: &Greeting) -> Finding {
    let check = &findings::VERSION;
    let text = &greeting.version;
    let seen = format!("nats-server {text}");
    match parse_version(text) {
        None => check.unknown(seen),
        Some(version) if version < OLDEST => check.ill(seen),
        Some(_) => check.sound(seen),
    }
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// Is it encrypted where others may listen?
pub(super) fn tls(greeting: &Greeting, bus: &Bus) -> Finding {
    let check = &findings::TLS;
    match (
        greeting.tls_required,
        greeting.is_encrypted,
        bus.is_loopback(),
    ) {
        (true, _, _) => check.sound("TLS is required"),
        (false, _, true) => check.sound("on loopback"),
        (false, true, false) => check.ill("TLS is there and not required"),
        (false, false, false) => check.ill(format!("`{}` takes clients without TLS", bus.host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn versions_compare_as_numbers() {
        for (text, is_old) in [
            ("2.14.4", true),
            ("2.9.99", true),
            ("2.14.5", false),
            ("2.15.1", false),
            ("2.15.0-beta.1", false),
            ("3.0.0", false),
        ] {
            assert_eq!(parse_version(text).unwrap() < OLDEST, is_old, "{text}");
        }
        assert_eq!(parse_version("dev"), None);
        let of = |text: &str| {
            version(&Greeting {
                version: text.to_owned(),
                ..Greeting::default()
            })
        };
        assert_eq!(of("2.12.0").verdict, Verdict::Ill);
        assert_eq!(of("2.15.1").verdict, Verdict::Sound);
        assert_eq!(of("").verdict, Verdict::Unknown);
    }

    #[test]
    fn off_loopback_tls_is_required_and_not_only_offered() {
        let seen = |url: &str, tls_required, is_encrypted| {
            let greeting = Greeting {
                tls_required,
                is_encrypted,
                ..Greeting::default()
            };
            tls(&greeting, &Bus::new(url, None).unwrap()).verdict
        };
        for near in [
            "nats://127.0.0.1:4222",
            "nats://localhost",
            "nats://[::1]:4222",
        ] {
            assert_eq!(seen(near, false, false), Verdict::Sound, "{near}");
        }
        for (far, tls_required, is_encrypted, verdict) in [
            ("nats://bus.example:4222", false, false, Verdict::Ill),
            ("tls://bus.example:4222", false, true, Verdict::Ill),
            ("tls://192.0.2.1:4222", true, true, Verdict::Sound),
        ] {
            assert_eq!(seen(far, tls_required, is_encrypted), verdict, "{far}");
        }
    }
}
