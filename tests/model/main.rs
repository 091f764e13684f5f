//! Small models of what has state, searched in full for a way around it.
//!
//! Where the state machine is the crate's own, the model drives it:
//! [`ReplayWindow`](bulla_envelope::ReplayWindow) and
//! [`Freshness`](bulla_envelope::Freshness). What is around it (clocks, restarts,
//! claims, what nats-server withholds or repeats) is a few lines here. For each
//! model the same search with one defence taken out finds the attack. README.md
//! says what this shows and what it does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod heads;
mod replay;

use stateright::{Checker, Model};

/// Searches every state, and says whether any breaks a property, and how.
fn search<M>(model: M) -> Vec<&'static str>
where
    M: Model + Send + Sync + 'static,
    M::State: std::hash::Hash + Clone + PartialEq + Send + Sync + std::fmt::Debug,
    M::Action: Send + Sync + std::fmt::Debug + PartialEq + Clone,
{
    let checker = model.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    let mut found: Vec<_> = checker
        .discoveries()
        .into_iter()
        .map(|(name, path)| {
            println!("{name}: {:#?}", path.into_actions());
            name
        })
        .collect();
    found.sort_unstable();
    found
}
