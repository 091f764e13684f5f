//! Tests of services, in milliseconds and without a server (feature `testing`).
//!
//! [`TestBus`] is a bus within the test's process. Its clients are
//! [`Client`]s like any other: what they send is sealed and opened, every decision
//! is the policy's, users' tokens are minted and verified, replays are refused. So a
//! service is tested as it is, with the policy that it runs under, and a test shows
//! who is let through and who is not.
//!
//! ```toml
//! [dev-dependencies]
//! bulla-sdk = { version = "…", features = ["testing"] }
//! ```
//!
//! ```
//! use bulla_sdk::extract::Payload;
//! use bulla_sdk::testing::{TestBus, TestUser};
//! use bulla_sdk::{Client, RequestError, SendError, ServiceError, User};
//!
//! const POLICY: &str = r#"
//!     version = 1
//!     trust_domain = "acme.example"
//!
//!     [workload.gateway]
//!     attest = [{ nkey = "@gateway@" }]
//!     mints = true
//!     [workload.billing]
//!     attest = [{ nkey = "@billing@" }]
//!
//!     [subject."billing.>"]
//!     user = "required"
//!
//!     [[allow]]
//!     id  = "edge-asks"
//!     who = ["gateway"]
//!     may = ["request"]
//!     on  = ["billing.quote"]
//!     user = { scope = "orders:write" }
//!     [[allow]]
//!     id  = "billing-serves"
//!     who = ["billing"]
//!     may = ["serve"]
//!     on  = ["billing.quote"]
//! "#;
//!
//! async fn quote(Payload(bowls): Payload<u32>, user: User) -> Result<String, ServiceError> {
//!     Ok(format!("{} for {}", bowls * 700, user.principal()))
//! }
//!
//! # // In a test: #[tokio::test] async fn …
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = TestBus::start(POLICY)?;
//! let gateway = bus.client("gateway").await?;
//! let billing = bus.client("billing").await?;
//! let _service = billing.service().endpoint("billing.quote", quote).start().await?;
//!
//! let alice = bus.token(&gateway, &TestUser::new("alice").scope("orders:write"))?;
//! let ask = |token: &str| gateway.message("billing.quote").user_token(token).payload(&3u32);
//! let answer: String = ask(&alice).request().await?.decode()?;
//! assert_eq!(answer, "2100 for alice");
//!
//! // The policy lets nobody ask without the scope …
//! let bob = bus.token(&gateway, &TestUser::new("bob"))?;
//! let denied = ask(&bob).request().await.unwrap_err();
//! assert!(matches!(denied, RequestError::Send(SendError::Denied { .. })));
//!
//! // … and nobody when the token has ended.
//! bus.advance(std::time::Duration::from_secs(600)).await;
//! assert!(ask(&alice).request().await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # Time
//!
//! The clock is the test's own, for tokio's timers and for what messages say alike. It
//! stands still while anything has something to do. Only when everything waits it
//! moves, at once, to the next moment at which something is to happen: a time-out of
//! five seconds takes none, and happens all the same. [`TestBus::advance`] lets time
//! pass. A test that waits without end for what never comes does not hang on a
//! machine that is slow: it hangs always, so bound it with a time-out, which costs
//! nothing.
//!
//! # What it is not
//!
//! The bus within the process is no nats-server. It has no permission lists (what
//! nats-server refuses by them the SDK refuses here by the same policy), no streams,
//! consumers and buckets, no gateway and no exchange of tokens, and no connection is
//! ever lost. What depends on those is tested on the real one, with
//! `bulla_testing::Bus`.

mod clock;
pub(crate) mod hub;
mod office;
mod policy;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bulla_envelope::{RevocationError, Revoked, TrustError};
use bulla_identity::{UnixMillis, WorkloadName};
use bulla_policy::{Policy, PolicyErrors};
use bulla_token::{MintError, TokenSigningKey, TransactionClaims, mint_transaction_token};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Start;
use crate::clock as any_clock;
use crate::connect_proof::ConnectProof;
use crate::connection::Connection;
use crate::stats::Stats;
use crate::{Client, ConnectError, ConnectOptions, secret};
use clock::TestClock;
pub(crate) use clock::now;
use hub::{Hub, Socket};
use office::Office;
use policy::{Seeds, with_own_nkeys};

/// Between two heads, as of brokers.
const HEADS: Duration = Duration::from_secs(2);

/// A bus within this process, with a clock of its own; see the
/// [module](crate::testing).
pub struct TestBus {
    hub: Arc<Hub>,
    seeds: Mutex<Seeds>,
    policy: Mutex<Arc<Policy>>,
    /// The seeds of the keys with which workloads sign transaction tokens.
    token_keys: Mutex<HashMap<WorkloadName, [u8; 32]>>,
    _heads: DropGuard,
    _clock: TestClock,
}

impl TestBus {
    /// A bus under this policy, at this moment of the real time.
    ///
    /// The policy may be the one of production: every nkey in it is replaced by one
    /// whose seed the test holds. In its place `"@name@"` may stand as well, for the
    /// nkey of the workload `name`.
    ///
    /// # Errors
    /// [`TestBusError::Policy`] if it does not load, [`TestBusError::Runtime`] if the
    /// test does not run on one thread (as `#[tokio::test]` does), and
    /// [`TestBusError::Another`] if there is such a bus in this test already.
    pub fn start(policy: &str) -> Result<Self, TestBusError> {
        Self::start_at(policy, SystemTime::now())
    }

    /// The same at a moment of the test's choice: for policies that go by the time.
    ///
    /// # Errors
    /// As [`TestBus::start`].
    pub fn start_at(policy: &str, time: SystemTime) -> Result<Self, TestBusError> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let millis = since.unwrap_or_default().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        let clock = TestClock::start(UnixMillis::from_millis(millis))?;
        let mut seeds = Seeds::default();
        let (policy, text) = with_own_nkeys(policy, &mut seeds)?;
        let hub = Arc::new(Hub::new(Office::open(Arc::clone(&policy), &text)?));
        let stop = CancellationToken::new();
        tokio::spawn(say_heads(Arc::clone(&hub), stop.clone()));
        Ok(Self {
            hub,
            seeds: Mutex::new(seeds),
            policy: Mutex::new(policy),
            token_keys: Mutex::default(),
            _heads: stop.drop_guard(),
            _clock: clock,
        })
    }

    /// A client of the workload with this name in the policy. Each call makes
    /// another process of it, as far as anybody can tell.
    ///
    /// One that the policy lets mint gets a token key, see [`TestBus::token`].
    ///
    /// # Errors
    /// [`TestBusError::UnknownWorkload`], and [`TestBusError::Connect`] as
    /// [`Client::connect`].
    pub async fn client(&self, workload: &str) -> Result<Client, TestBusError> {
        self.client_with(workload, |options| options).await
    }

    /// The same with other options than the default ones.
    ///
    /// # Errors
    /// As [`TestBus::client`].
    pub async fn client_with(
        &self,
        workload: &str,
        change: impl FnOnce(ConnectOptions) -> ConnectOptions,
    ) -> Result<Client, TestBusError> {
        let policy = self.policy();
        let unknown = || TestBusError::UnknownWorkload {
            workload: workload.to_owned(),
        };
        let name = WorkloadName::parse(workload).map_err(|_| unknown())?;
        let known = policy.workload(&name).ok_or_else(unknown)?;
        let seed = self.seeds.lock().of(known);
        let seed = seed.ok_or_else(|| TestBusError::NoNkey {
            workload: workload.to_owned(),
        })?;
        let mut options = ConnectOptions::new("memory://", known.id().clone(), "", "");
        if known.mints() {
            let mut keys = self.token_keys.lock();
            let key = keys.entry(name).or_insert_with(|| *secret::fresh());
            options = options.token_key(key);
        }
        let (options, stats) = (change(options), Stats::default());
        let socket = Socket::new(Arc::clone(&self.hub), known.tag());
        let connection = Connection::within(socket, stats.clone());
        let roots = [self.hub.in_office(|office| office.root())];
        let start = Start {
            proof: ConnectProof::Nkey(Arc::clone(&seed)),
            seed: Some(seed),
            roots: &roots,
            connection,
            stats,
            deadline: Instant::now() + options.connect_timeout,
        };
        let started = Client::start(options, start);
        Ok(Box::pin(started).await?)
    }

    /// Lets time pass: everything that is due meanwhile happens, in its order.
    pub async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The time, as the clients have it.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(any_clock::now().as_millis())
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock())
    }

    /// Puts another policy in force, as a new revision; every client goes by it when
    /// this returns.
    ///
    /// # Errors
    /// [`TestBusError::Policy`] if it does not load.
    pub async fn apply(&self, policy: &str) -> Result<(), TestBusError> {
        let (policy, text) = with_own_nkeys(policy, &mut self.seeds.lock())?;
        let offered = Arc::clone(&policy);
        self.hub.in_office(|office| office.apply(offered, &text))?;
        *self.policy.lock() = policy;
        self.heard().await;
        Ok(())
    }

    /// Revokes a workload; nobody accepts anything of it when this returns.
    ///
    /// # Errors
    /// [`TestBusError::UnknownWorkload`].
    pub async fn revoke_workload(&self, workload: &str) -> Result<(), TestBusError> {
        let policy = self.policy();
        let name = WorkloadName::parse(workload).ok();
        let known = name.and_then(|name| policy.workload(&name));
        let known = known.ok_or_else(|| TestBusError::UnknownWorkload {
            workload: workload.to_owned(),
        })?;
        self.revoke(Revoked::Workload(known.id().clone())).await
    }

    /// Revokes a user, with all of his tokens.
    ///
    /// # Errors
    /// [`TestBusError::Revocation`] if that is no user's name.
    pub async fn revoke_user(&self, principal: &str) -> Result<(), TestBusError> {
        self.revoke(Revoked::User(principal.to_owned())).await
    }

    async fn revoke(&self, what: Revoked) -> Result<(), TestBusError> {
        self.hub.in_office(|office| office.revoke(what))?;
        self.heard().await;
        Ok(())
    }

    /// Everybody has heard the news: time moves only when nobody has anything to do.
    async fn heard(&self) {
        self.advance(Duration::from_millis(1)).await;
    }

    /// A transaction token of a user, minted by a client of a workload that mints,
    /// as the edge does for each request.
    ///
    /// # Errors
    /// [`TestBusError::NotAMinter`], and [`TestBusError::Mint`] if what the user is
    /// to be does not fit into a token.
    pub fn token(&self, minter: &Client, user: &TestUser) -> Result<String, TestBusError> {
        let workload = minter.workload();
        let name = WorkloadName::parse(workload.path()).ok();
        let key = name.and_then(|name| self.token_keys.lock().get(&name).copied());
        let key = key.ok_or_else(|| TestBusError::NotAMinter {
            workload: workload.path().to_owned(),
        })?;
        let txn = format!("test-{:016x}", rand::random::<u64>());
        let mut claims = TransactionClaims::new(txn, &user.principal, workload.as_str());
        claims.scope = user.scope.join(" ");
        claims.reach.clone_from(&user.reach);
        claims.context.clone_from(&user.claims);
        claims.issued = any_clock::now();
        claims.expires = claims.issued.saturating_add(user.life);
        let kid = minter.signing_key().0.to_hex();
        let policy = minter.policy();
        let domain = policy.policy().trust_domain();
        let key = TokenSigningKey::from_seed(key);
        Ok(mint_transaction_token(&key, &kid, domain, &claims)?)
    }
}

impl std::fmt::Debug for TestBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBus").finish_non_exhaustive()
    }
}

async fn say_heads(hub: Arc<Hub>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(HEADS) => hub.in_office(Office::say_head),
        }
    }
}

/// A user of a test, and what the edge found out about him.
#[derive(Clone)]
#[must_use]
pub struct TestUser {
    principal: String,
    scope: Vec<String>,
    reach: Vec<String>,
    claims: Map<String, Value>,
    life: Duration,
}

/// Shows who it is, and of the claims the names.
impl std::fmt::Debug for TestUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestUser")
            .field("principal", &self.principal)
            .field("scope", &self.scope)
            .field("reach", &self.reach)
            .field("claims", &self.claims.keys().collect::<Vec<_>>())
            .field("life", &self.life)
            .finish()
    }
}

impl TestUser {
    /// A user with no rights, whose token counts for a minute.
    pub fn new(principal: impl Into<String>) -> Self {
        Self {
            principal: principal.into(),
            scope: Vec::new(),
            reach: Vec::new(),
            claims: Map::new(),
            life: Duration::from_secs(60),
        }
    }

    /// Adds a scope, or several with blanks between them.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope.push(scope.into());
        self
    }

    /// Adds a vertical that he reaches: the `audience` of subjects.
    pub fn reach(mut self, audience: impl Into<String>) -> Self {
        self.reach.push(audience.into());
        self
    }

    /// Says something else of him that the policy may ask for.
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// For how long his token counts, at most five minutes.
    pub const fn life(mut self, life: Duration) -> Self {
        self.life = life;
        self
    }
}

/// Why a test's bus does not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestBusError {
    /// Its clock needs a runtime of one thread.
    #[error(
        "a test bus needs tokio's runtime of one thread: `#[tokio::test]` without a `flavor`, or `flavor = \"current_thread\"`"
    )]
    Runtime,
    /// A thread has one time.
    #[error("there is a test bus in this thread already: drop it first")]
    Another,
    /// The policy does not load.
    #[error("the policy does not load:\n{0}")]
    Policy(#[from] PolicyErrors),
    /// The policy names no such workload.
    #[error("the policy names no workload `{workload}`")]
    UnknownWorkload {
        /// Who was asked for.
        workload: String,
    },
    /// Nothing that the test could hold is its proof.
    #[error("the policy names no nkey of `{workload}`: give it one, such as \"@{workload}@\"")]
    NoNkey {
        /// Who was asked for.
        workload: String,
    },
    /// It cannot connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Policy or trust bundle cannot be signed.
    #[error("cannot sign")]
    Sign(#[from] TrustError),
    /// That cannot be revoked.
    #[error("cannot revoke")]
    Revocation(#[from] RevocationError),
    /// It holds no token key.
    #[error(
        "`{workload}` mints no tokens: give it `mints = true` in the policy, and take its client from this bus"
    )]
    NotAMinter {
        /// Who was to mint.
        workload: String,
    },
    /// The token would not be accepted.
    #[error("cannot mint a token")]
    Mint(#[from] MintError),
}
