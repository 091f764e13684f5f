//! A policy whose workloads a test can be.

use std::collections::HashMap;
use std::sync::Arc;

use bulla_identity::{Nkey, NkeyKind};
use bulla_keyring::NkeySeed;
use bulla_policy::{Policy, PolicyErrors, Workload};

use super::TestBusError;
use crate::secret;

/// The seeds that a test holds.
#[derive(Default)]
pub(super) struct Seeds {
    /// By the name or nkey in whose place its nkey stands.
    by_place: HashMap<String, Nkey>,
    seeds: HashMap<Nkey, Arc<NkeySeed>>,
}

impl Seeds {
    /// A seed of a workload's: one that vouches for it, if there is one.
    pub(super) fn of(&self, workload: &Workload) -> Option<Arc<NkeySeed>> {
        let vouching = workload.anchors().nkeys.iter();
        let nkeys = vouching.chain(workload.nkeys());
        nkeys
            .filter_map(|nkey| self.seeds.get(nkey))
            .next()
            .cloned()
    }

    /// The nkey that stands in a place; one is made the first time.
    fn nkey(&mut self, place: &str) -> Nkey {
        if let Some(nkey) = self.by_place.get(place) {
            return *nkey;
        }
        #[expect(
            clippy::expect_used,
            reason = "a workload's key is of the kind that seeds are made for"
        )]
        let seed = NkeySeed::from_random(NkeyKind::User, &secret::fresh()).expect("a user's seed");
        let nkey = seed.public();
        self.by_place.insert(place.to_owned(), nkey);
        self.seeds.insert(nkey, Arc::new(seed));
        nkey
    }
}

/// The policy with nkeys whose seeds the test holds, and its text.
pub(super) fn with_own_nkeys(
    text: &str,
    seeds: &mut Seeds,
) -> Result<(Arc<Policy>, String), TestBusError> {
    let text = with_named(text, seeds);
    let policy = parse(&text)?;
    let mut own = text.clone();
    let nkeys = policy.workloads().iter().flat_map(Workload::nkeys);
    for nkey in nkeys {
        if !seeds.seeds.contains_key(nkey) {
            let nkey = nkey.to_string();
            own = own.replace(&nkey, &seeds.nkey(&nkey).to_string());
        }
    }
    if own == text {
        return Ok((Arc::new(policy), own));
    }
    Ok((Arc::new(parse(&own)?), own))
}

fn parse(text: &str) -> Result<Policy, PolicyErrors> {
    Policy::parse("policy.toml", text)
}

/// Every `"@name@"` becomes an nkey.
fn with_named(text: &str, seeds: &mut Seeds) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\"@") {
        done.push_str(before);
        match after.split_once("@\"") {
            Some((name, after)) if !name.contains(['"', '\n']) => {
                done.push_str(&format!("\"{}\"", seeds.nkey(name)));
                rest = after;
            }
            _ => {
                done.push_str("\"@");
                rest = after;
            }
        }
    }
    done.push_str(rest);
    done
}
