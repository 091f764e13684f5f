//! What a deployment has besides, in operator mode: an operator, his accounts, and what
//! vouches for each user. The seeds sign and are not needed by what runs: they belong
//! elsewhere, as the trust root does.
//!
//! ```text
//! nats/  operator.nk operator-signing.nk       whose accounts these are; or one that was given
//!        AUTH.nk APP.nk JS.nk SYS.nk           the accounts
//!        operator.jwt AUTH.jwt …               what nats-server is told of them
//!        sentinel.nk sentinel.jwt              for whom everybody is taken who shows no JWT
//! keys/  callout.nk                            a signing key of APP: signs the callout's answers
//!        callout-old.nk                        while that is replaced
//!        broker-auth.jwt …                     what vouches for a broker's user
//! ```

use std::path::PathBuf;

use bulla_identity::{Nkey, NkeyKind, SubjectPattern, UnixMillis};
use bulla_keyring::NkeySeed;
use bulla_process::secret_file;

use super::{Deployment, DeploymentError, OperatorPlan, Rendered};
use crate::clock;
use crate::nats_accounts::{self, Accounts};
use crate::nats_config::OperatorAccounts;

/// What an operator signs of a deployment.
pub(super) struct Vouched {
    /// As nats-server's configuration names it; nothing, if that is not ours.
    pub(super) accounts: Option<OperatorAccounts>,
    /// The account of workloads.
    pub(super) app: Nkey,
    /// Everything that is written.
    pub(super) files: Vec<Rendered>,
    /// Every account that is ours, with its JWT.
    pub(super) pushed: Vec<(Nkey, String)>,
}

/// Writes JWTs, or keeps those that are right.
struct Writer<'a> {
    deployment: &'a Deployment,
    files: Vec<Rendered>,
    now: UnixMillis,
}

impl Writer<'_> {
    fn write(
        &mut self,
        name: &str,
        make: impl FnOnce(Option<&str>, UnixMillis) -> String,
    ) -> String {
        let path = self.deployment.path(name);
        let held = std::fs::read_to_string(&path).ok();
        let jwt = make(held.as_deref(), self.now);
        self.files.push(Rendered {
            path,
            text: format!("{jwt}\n"),
        });
        jwt
    }
}

impl Deployment {
    /// The key files of operator mode.
    pub(super) fn operator_keys(&self, plan: &OperatorPlan) -> Vec<(PathBuf, Option<NkeyKind>)> {
        let mut kinds = vec![
            ("AUTH", NkeyKind::Account),
            ("APP", NkeyKind::Account),
            ("JS", NkeyKind::Account),
            ("sentinel", NkeyKind::User),
        ];
        if plan.given.is_none() {
            kinds.push(("SYS", NkeyKind::Account));
            kinds.push(("operator", NkeyKind::Operator));
            kinds.push(("operator-signing", NkeyKind::Operator));
        }
        let paths = kinds.into_iter();
        let paths = paths.map(|(name, kind)| (self.path(&format!("nats/{name}.nk")), Some(kind)));
        paths.collect()
    }

    /// The JWTs as they are to be now.
    pub(super) fn vouched(
        &self,
        plan: &OperatorPlan,
        stored: &[SubjectPattern],
    ) -> Result<Vouched, DeploymentError> {
        let seed = |name: &str| self.seed(&self.path(&format!("nats/{name}.nk")));
        let (auth, js, app) = (seed("AUTH")?, seed("JS")?, seed("APP")?.public());
        let signer = match &plan.given {
            Some(given) => self.seed(&given.seed)?,
            None => seed("operator-signing")?,
        };
        let mut writer = Writer {
            deployment: self,
            files: Vec::new(),
            now: clock::now(),
        };
        let mut answering = Vec::new();
        for (name, _) in self.brokers() {
            for (suffix, account) in [("auth", &auth), ("js", &js)] {
                let user = format!("{name}-{suffix}");
                let nkey = self.nkey(&format!("{user}.nk"))?;
                if suffix == "auth" {
                    answering.push(nkey);
                }
                writer.write(&format!("keys/{user}.jwt"), |held, now| {
                    nats_accounts::broker_user(account, nkey, &user, held, now)
                });
            }
        }
        let operator_js = self.nkey("operator-js.nk")?;
        writer.write("keys/operator-js.jwt", |held, now| {
            nats_accounts::operator_user(&js, operator_js, held, now)
        });
        let mut issuers = vec![self.nkey("callout.nk")?];
        if self.path("keys/callout-old.nk").exists() {
            issuers.push(self.nkey("callout-old.nk")?);
        }
        let accounts = Accounts {
            operator: &signer,
            auth: &auth,
            js: &js,
            app,
            issuers: &issuers,
            xkey: self.xkey()?,
            answering: &answering,
            stored,
        };
        let mut preload = vec![
            (
                auth.public(),
                writer.write("nats/AUTH.jwt", |held, now| accounts.auth(held, now)),
            ),
            (
                js.public(),
                writer.write("nats/JS.jwt", |held, now| accounts.js(held, now)),
            ),
            (
                app,
                writer.write("nats/APP.jwt", |held, now| accounts.app(held, now)),
            ),
        ];
        let nobody = seed("sentinel")?.public();
        let sentinel = writer.write("nats/sentinel.jwt", |held, now| {
            nats_accounts::sentinel(&auth, nobody, held, now)
        });
        if plan.given.is_some() {
            let settings = SETTINGS.replace("@SENTINEL@", &sentinel);
            writer.files.push(Rendered {
                path: self.path("nats/settings.conf"),
                text: settings,
            });
            return Ok(Vouched {
                accounts: None,
                app,
                files: writer.files,
                pushed: preload,
            });
        }
        let (operator, sys) = (seed("operator")?, seed("SYS")?);
        for (name, _) in self.brokers() {
            let user = format!("{name}-sys");
            let nkey = self.nkey(&format!("{user}.nk"))?;
            writer.write(&format!("keys/{user}.jwt"), |held, now| {
                nats_accounts::broker_user(&sys, nkey, &user, held, now)
            });
        }
        let system = sys.public();
        let of_system = writer.write("nats/SYS.jwt", |held, now| {
            nats_accounts::system(&signer, system, held, now)
        });
        preload.insert(0, (system, of_system));
        // Whose accounts count while nodes and their resolvers learn of a new one.
        let mut signing = vec![signer.public()];
        if self.path("nats/operator-signing-old.nk").exists() {
            signing.push(seed("operator-signing-old")?.public());
        }
        let operator = writer.write("nats/operator.jwt", |held, now| {
            nats_accounts::operator(&operator, &signing, system, held, now)
        });
        Ok(Vouched {
            accounts: Some(OperatorAccounts {
                operator,
                system,
                accounts: preload.clone(),
                sentinel,
                resolver_dir: None,
            }),
            app,
            files: writer.files,
            pushed: preload,
        })
    }

    fn seed(&self, path: &std::path::Path) -> Result<NkeySeed, DeploymentError> {
        let text = secret_file::read_line(path)?;
        NkeySeed::parse(&text).map_err(|source| DeploymentError::Seed {
            path: path.to_owned(),
            source,
        })
    }
}

const SETTINGS: &str = include_str!("settings.conf");
