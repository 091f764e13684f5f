//! A workload that mints users' tokens, as the edge does, and whatever else it can
//! sign.

use std::ops::Deref;

use bulla_keyring::SigningKey;
use bulla_sdk::ConnectOptions;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use crate::{Bus, Cable, signing_input};

/// A client with a token key, and what it mints with it, see
/// [`bulla_testing::Minter`].
#[derive(Debug)]
pub struct Minter {
    minter: bulla_testing::Minter,
    signer: SigningKey,
}

impl Minter {
    /// Connects `workload`, which the policy lets mint.
    pub async fn connect(bus: &Bus, workload: &str) -> Self {
        Self::connect_with(bus.connect_options(workload)).await
    }

    /// The same through a cable.
    pub async fn connect_behind(bus: &Bus, workload: &str, cable: &Cable) -> Self {
        Self::connect_with(bus.connect_options_behind(cable, workload)).await
    }

    async fn connect_with(options: ConnectOptions) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("random bytes");
        Self {
            signer: SigningKey::from_seed(&seed),
            minter: bulla_testing::Minter::connect_with(options, seed).await,
        }
    }

    /// Whatever header and claims, signed by the token key as a JWS is.
    #[must_use]
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let input = signing_input(header, claims);
        let signature = self.signer.sign_text(&input);
        format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
    }
}

impl Deref for Minter {
    type Target = bulla_testing::Minter;

    fn deref(&self) -> &Self::Target {
        &self.minter
    }
}
