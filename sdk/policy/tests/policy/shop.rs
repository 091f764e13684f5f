//! Workloads that the other tests' rules are about.

use bulla_identity::{Nkey, NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName};
use bulla_policy::{Circumstances, Permissions, Policy};

/// A Tuesday, 22:13:20 UTC.
pub(crate) const NOW: UnixMillis = UnixMillis::from_secs(1_700_000_000);

pub(crate) const NAMES: [&str; 4] = ["cart", "checkout", "mail", "orders"];

/// A sound public nkey for each number: not every 32 bytes are a curve point.
pub(crate) fn nkey(number: u32) -> String {
    let mut bytes = [0u8; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    loop {
        let text = Nkey::from_bytes(NkeyKind::User, bytes).to_string();
        if Nkey::parse(&text).is_ok() {
            return text;
        }
        bytes[8] += 1;
    }
}

pub(crate) fn head() -> String {
    let mut text = String::from("version = 1\ntrust_domain = \"shop.example\"\n");
    for (name, number) in NAMES.iter().zip(1..) {
        text.push_str(&format!(
            "workload.{name}.attest = [{{ nkey = \"{}\" }}]\n",
            nkey(number)
        ));
    }
    text
}

pub(crate) fn text(rules: &str) -> String {
    head() + rules
}

#[track_caller]
pub(crate) fn parse(rules: &str) -> Policy {
    Policy::parse("shop.toml", &text(rules)).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn rule(effect: &str, id: &str, who: &[&str], may: &[&str], on: &[&str]) -> String {
    format!("[[{effect}]]\nid = \"{id}\"\nwho = {who:?}\nmay = {may:?}\non = {on:?}\n")
}

pub(crate) fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

pub(crate) fn id(name: &str) -> WorkloadId {
    let domain = TrustDomain::parse("shop.example").unwrap();
    WorkloadId::new(&domain, &WorkloadName::parse(name).unwrap())
}

pub(crate) fn permissions(policy: &Policy, name: &str) -> Permissions {
    policy
        .permissions(&id(name), &Circumstances::at(NOW))
        .unwrap()
}
