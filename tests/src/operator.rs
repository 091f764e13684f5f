//! A bus whose keys lie with an operator, as in production: the broker gets
//! files and follows them.

use std::path::PathBuf;
use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_broker::trust_dir::{Init, NewKey, TrustDir};

use crate::{Bus, BusOptions, now};

/// The operator's directory, and the bus that goes by it.
#[derive(Debug)]
pub struct Operator {
    /// The bus.
    pub bus: Bus,
    policy: String,
}

/// The broker's name in the operator's directory.
pub const BROKER: &str = "broker";
/// For how long bundles are valid.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);

const LIMIT: Duration = Duration::from_secs(10);

impl Operator {
    /// A bus with one broker.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(policy: &str, credential_lifetime: Duration) -> Self {
        let mut options = BusOptions::new(policy);
        options.credential_lifetime = credential_lifetime;
        options.brokers = Vec::new();
        let bus = Bus::start_with(options).await;
        let policy = bus.with_nkeys(policy);
        let init = Init {
            domain: bus.policy().trust_domain().clone(),
            root: NewKey::File,
            policy: NewKey::File,
            broker: BROKER.to_owned(),
            life: LIFE,
        };
        let dir = bus.provision().path("operator");
        let (trust, _) = TrustDir::init(&dir, &init, LIMIT, now()).expect("a new directory");
        trust
            .sign_policy("policy", &policy, now())
            .expect("a policy");
        let path = bus.provision().path("broker.toml");
        let text = std::fs::read_to_string(&path).expect("a configuration");
        let keys = dir.join("issuing").join(BROKER);
        let text = text.replace("keys/issuing.key", &keys.display().to_string());
        std::fs::write(&path, text).expect("a configuration");
        let mut this = Self { bus, policy };
        this.deliver(&["root.pub", "bundle", "policy"]);
        this.bus.add_broker(Group::Both).await;
        this
    }

    /// A file of the operator's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.bus.provision().path("operator").join(name)
    }

    /// The directory, to do something in it.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn trust(&self) -> TrustDir {
        TrustDir::open(&self.path(""), LIMIT).expect("the operator's directory")
    }

    /// The policy's text.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Gives files of the operator to the broker, each in one step.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub fn deliver(&self, names: &[&str]) {
        for name in names {
            let to = self.bus.provision().path("trust").join(name);
            let part = to.with_extension("part");
            std::fs::copy(self.path(name), &part).expect("a file");
            std::fs::rename(&part, &to).expect("a file");
        }
    }

    /// Waits until this record lies on the control stream.
    ///
    /// # Panics
    /// If it does not within the time that a broker may take.
    pub async fn until_on_stream(&self, subject: &str, name: &str) {
        let expected = std::fs::read(self.path(name)).expect("a file");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.bus.control_record(subject).await != expected {
            assert!(
                tokio::time::Instant::now() < deadline,
                "`{name}` never came onto the control stream"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
