//! `bulla dev`: a whole deployment on one machine, in one directory.
//!
//! ```text
//! bulla dev ─┬─ sh ── nats-server
//!            ├─ bulla broker
//!            ├─ token issuer (in this process)
//!            ├─ bulla gateway
//!            └─ bulla dev-service orders, billing
//! ```
//!
//! Every child stops when the pipe from this process ends, so nothing survives
//! it, however it dies. `dev.json` is written last, when all of it is ready.

mod child;
mod files;
mod instance_lock;
mod issuer;
mod ports;
mod screen;
mod token;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bulla_identity::{WorkloadId, WorkloadName};
use bulla_policy::Policy;
use bulla_process::CancellationToken;
use futures_util::future::{join_all, select_all, try_join_all};

use crate::engine::{Engine, EngineError, NatsServer};
use crate::provision::{Provision, ProvisionError, read_if_there, write};
use child::{ChildError, Process};
use files::Instance;
use instance_lock::{InstanceLock, LockError};
use issuer::{IssuerError, IssuerKey};
use ports::{Given, PortError, Ports};
use screen::Screen;
pub(crate) use token::{TokenArgs, token};

/// Options of `bulla dev`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// Where everything lives: keys, configurations, logs, streams.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,

    /// Port of the HTTP gateway [default: 8080, or a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) gateway_port: Option<u16>,

    /// Port of nats-server [default: 4222, or a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) nats_port: Option<u16>,

    /// Port of the token issuer [default: 8081, or a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) issuer_port: Option<u16>,

    /// Stops when standard input reaches its end, too.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

/// Runs a deployment until a signal, or until one of its parts ends.
pub(crate) async fn run(args: &DevArgs) -> Result<(), DevError> {
    let stop = bulla_process::shutdown_signal(args.until_stdin_closes).map_err(DevError::Signal)?;
    let screen = Screen::default();
    let provision = Provision::open(&args.dir)?;
    let dir = provision.dir().to_owned();
    // Whoever wrote a `dev.json` that is still there is gone.
    let _lock = InstanceLock::take(&dir, || Instance::remove(&dir)).await?;

    let mut parts = Parts::default();
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        started = start(args, &provision, &screen, &mut parts) => match started {
            Ok(()) => {
                let ended = parts.watch();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Ok(()),
                    error = ended => Err(error),
                }
            }
            Err(error) => Err(error),
        },
    };
    Instance::remove(&dir);
    if parts.server.is_some() {
        screen.line("\nstopping");
        parts.stop(outcome.is_ok()).await;
        screen.line("everything is stopped");
    }
    outcome
}

/// What runs, in the order in which it was started.
#[derive(Default)]
struct Parts {
    server: Option<NatsServer>,
    children: Vec<Process>,
    issuer: CancellationToken,
}

impl Parts {
    fn spawn(
        &mut self,
        provision: &Provision,
        screen: &Screen,
        name: &'static str,
        arguments: Vec<OsString>,
    ) -> Result<(), ChildError> {
        let arguments = arguments
            .into_iter()
            .chain(CHILD_OPTIONS.map(OsString::from));
        let child = Process::spawn(name, arguments, &provision.path("logs"), screen)?;
        self.children.push(child);
        Ok(())
    }

    /// Returns when one of the parts has ended, which none should.
    async fn watch(&mut self) -> DevError {
        let mut ends: Vec<Pin<Box<dyn Future<Output = DevError> + '_>>> = Vec::new();
        for child in &mut self.children {
            ends.push(Box::pin(async { child.exited().await.into() }));
        }
        if let Some(server) = &mut self.server {
            ends.push(Box::pin(async { server.exited().await.into() }));
        }
        select_all(ends).await.0
    }

    /// Stops everything: last started first, so that each can still reach what
    /// it stands on while it drains. After a failure all at once.
    async fn stop(mut self, in_order: bool) {
        self.issuer.cancel();
        if in_order {
            while let Some(child) = self.children.pop() {
                child.stop().await;
            }
        }
        join_all(self.children.into_iter().map(Process::stop)).await;
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    fn pids(&self) -> BTreeMap<String, u32> {
        let mut pids = BTreeMap::from([("dev".to_owned(), std::process::id())]);
        for child in &self.children {
            pids.insert(child.name().to_owned(), child.pid());
        }
        if let Some(server) = &self.server {
            pids.insert("nats-server".to_owned(), server.pid());
        }
        pids
    }
}

async fn start(
    args: &DevArgs,
    provision: &Provision,
    screen: &Screen,
    parts: &mut Parts,
) -> Result<(), DevError> {
    screen.heading(&format!("bulla dev in {}", provision.dir().display()));
    let engine = Engine::locate(&|line| screen.line(&format!("  {line}"))).await?;
    let given = Given {
        gateway: args.gateway_port,
        nats: args.nats_port,
        issuer: args.issuer_port,
    };
    let ports_file = provision.path("ports.json");
    let earlier =
        read_if_there(&ports_file)?.and_then(|bytes| serde_json::from_slice::<Ports>(&bytes).ok());
    let ports = ports::choose(given, earlier)?;

    let (policy_file, text) = files::policy(provision)?;
    let (policy, revision) = provision.sign_policy(&policy_file.display().to_string(), &text)?;
    let domain = policy.trust_domain().clone();
    check_workloads(&policy, provision, &policy_file)?;
    let (gateway_file, routes_file) = files::gateway(provision, &domain, ports, earlier)?;
    // Before anything runs: an edited file may be wrong.
    bulla_gateway::GatewayConfig::load(&gateway_file)?;
    let ports_text = serde_json::to_string(&ports).unwrap_or_default();
    write(&ports_file, ports_text.as_bytes())?;

    clear(&provision.path("run"));
    let config = provision.write_server_config(Some(ports.nats), &policy)?;
    let server = parts
        .server
        .insert(engine.start(&config).await.map_err(DevError::of_engine)?);
    let nats_url = server.client_url().to_owned();
    screen.done(
        "nats-server",
        &format!("{} on {nats_url}", engine.version()),
    );

    let broker_file = provision.write_broker_config(&nats_url, &policy, CREDENTIAL_LIFETIME)?;
    parts.spawn(
        provision,
        screen,
        "broker",
        vec!["broker".into(), "--config".into(), broker_file.into()],
    )?;
    ready(&mut parts.children).await?;
    let workloads = policy.workloads().len();
    screen.done(
        "broker",
        &format!("policy revision {revision}, {workloads} workloads"),
    );

    let key_file = provision.path("keys/token-issuer.key");
    let key = IssuerKey::read_or_create(&key_file)?;
    issuer::serve(ports.issuer, &key, parts.issuer.clone()).await?;
    let issuer_url = issuer::url(ports.issuer);
    screen.done("issuer", &issuer_url);

    for service in ["billing", "orders"] {
        let workload = WorkloadName::parse(service)?;
        let id = WorkloadId::new(&domain, &workload);
        parts.spawn(
            provision,
            screen,
            service,
            vec![
                "dev-service".into(),
                service.into(),
                "--nats-url".into(),
                nats_url.clone().into(),
                "--workload".into(),
                id.as_str().into(),
                "--seed-file".into(),
                provision.seed_file(&workload).into(),
                "--trust-root-file".into(),
                provision.root_file().into(),
            ],
        )?;
    }
    parts.spawn(
        provision,
        screen,
        "gateway",
        vec![
            "gateway".into(),
            "--config".into(),
            gateway_file.clone().into(),
        ],
    )?;
    ready(&mut parts.children).await?;
    let gateway_url = format!("http://127.0.0.1:{}", ports.gateway);
    screen.done("orders", "serves orders.create, orders.get");
    screen.done("billing", "serves billing.quote");
    screen.done("gateway", &gateway_url);

    let mut key_files = BTreeMap::new();
    for workload in policy.workloads() {
        let file = provision.seed_file(workload.name());
        key_files.insert(workload.name().as_str().to_owned(), file);
    }
    let instance = Instance {
        gateway_url,
        nats_url,
        jwks_url: format!("{issuer_url}/jwks.json"),
        issuer_url,
        audience: issuer::AUDIENCE.to_owned(),
        trust_domain: domain.as_str().to_owned(),
        trust_root_file: provision.root_file(),
        policy_file,
        policy_revision: revision,
        routes_file,
        gateway_file,
        issuer_key_file: key_file,
        key_files,
        pids: parts.pids(),
    };
    instance.write(provision.dir())?;
    invite(screen, &instance, &args.dir);
    Ok(())
}

/// Removes what a killed instance left behind.
fn clear(run_dir: &Path) {
    for entry in std::fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir_all(entry.path());
    }
}

/// Waits until every child is ready; the first that fails ends the waiting.
async fn ready(children: &mut [Process]) -> Result<(), ChildError> {
    try_join_all(children.iter_mut().map(Process::ready)).await?;
    Ok(())
}

/// The policy may have been edited: the services' own keys must still be in it.
fn check_workloads(
    policy: &Policy,
    provision: &Provision,
    policy_file: &Path,
) -> Result<(), DevError> {
    for name in files::WORKLOADS {
        let name = WorkloadName::parse(name)?;
        let nkey = provision.workload(&name)?;
        let named = policy
            .workload(&name)
            .is_some_and(|workload| workload.nkeys().contains(&nkey));
        if !named {
            return Err(DevError::ForeignPolicy {
                policy_file: policy_file.to_owned(),
                workload: name,
                nkey: nkey.to_string(),
            });
        }
    }
    Ok(())
}

/// What to try, ready to paste into another terminal.
fn invite(screen: &Screen, instance: &Instance, dir: &Path) {
    let bulla = own_command();
    let dir = match dir.to_str() {
        Some(DEFAULT_DIR) => String::new(),
        _ => format!(" --dir {}", quoted(&dir.display().to_string())),
    };
    let token = |scope: &str| format!("$({bulla} dev token{dir} --sub alice --scope {scope})");
    let url = &instance.gateway_url;
    let body = r#"'{"item":"clay tablet","quantity":3}'"#;
    let json = "-H 'content-type: application/json'";
    screen.heading("Try it in another terminal:");
    screen.command(
        "a token for alice",
        &format!("TOKEN={}", token("orders:write")),
    );
    screen.command(
        "201: alice creates an order",
        &format!("curl -i {url}/v1/orders -H \"authorization: Bearer $TOKEN\" {json} -d {body}"),
    );
    screen.command(
        "403: a token without the scope",
        &format!(
            "curl -i {url}/v1/orders -H \"authorization: Bearer {}\" {json} -d {body}",
            token("orders:read")
        ),
    );
    screen.command(
        "401: no token",
        &format!("curl -i {url}/v1/orders {json} -d {body}"),
    );
    screen.command("404: no such route", &format!("curl -i {url}/v1/tablets"));
    screen.line(&format!(
        "\n  policy {}\n  routes {}\n  Ctrl-C stops everything",
        instance.policy_file.display(),
        instance.routes_file.display()
    ));
    screen.heading("Decisions as they happen:");
}

/// How this program can be called again from here.
fn own_command() -> String {
    let Ok(program) = std::env::current_exe() else {
        return "bulla".to_owned();
    };
    let here = std::env::current_dir().ok();
    let nearby =
        here.and_then(|here| Some(format!("./{}", program.strip_prefix(here).ok()?.display())));
    quoted(&nearby.unwrap_or_else(|| program.display().to_string()))
}

/// For a shell, if it needs it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Why the deployment did not come up, or did not stay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    /// No handler for signals.
    #[error("cannot listen for signals")]
    Signal(#[source] std::io::Error),
    /// The directory is taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A port is taken.
    #[error(transparent)]
    Port(#[from] PortError),
    /// nats-server.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Keys and configurations.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The gateway's files were edited and are wrong.
    #[error(transparent)]
    Gateway(#[from] bulla_gateway::ConfigErrors),
    /// The token issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// A child.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Not a name.
    #[error("not a workload's name")]
    Name(#[from] bulla_identity::IdentityError),
    /// The policy was edited so that the shop's own services are not in it.
    #[error(
        "the policy `{}` does not give the workload `{workload}` its nkey `{nkey}`: put it back, or delete the file to get a new one",
        policy_file.display()
    )]
    ForeignPolicy {
        /// The policy.
        policy_file: PathBuf,
        /// Which workload.
        workload: WorkloadName,
        /// Its nkey in this directory.
        nkey: String,
    },
}

impl DevError {
    /// Here the remedy for a taken port has a name.
    fn of_engine(error: EngineError) -> Self {
        match error {
            EngineError::PortBusy { address } => {
                let port = address
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse().ok());
                let option = "--nats-port";
                PortError::Busy {
                    port: port.unwrap_or_default(),
                    option,
                }
                .into()
            }
            other => other.into(),
        }
    }
}

/// Where `bulla dev` lives unless it is told otherwise.
pub(crate) const DEFAULT_DIR: &str = ".bulla";

const CHILD_OPTIONS: [&str; 3] = ["--log", "json", "--until-stdin-closes"];

const CREDENTIAL_LIFETIME: Duration = Duration::from_secs(3600);
