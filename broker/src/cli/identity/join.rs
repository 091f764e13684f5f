//! `bulla identity invite | join | collect`: a key for a host that holds nothing yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Auth, AuthError};
use bulla_identity::{Nkey, NkeyKind, TrustDomain, WorkloadId, WorkloadName, reserved};
use bulla_keyring::{NkeySeed, Tag};
use bulla_process::{Zeroizing, secret_file};
use bulla_sdk::broker_protocol::Registered;

use super::{Failure, YES, attest_text, fresh_seed, make_seed, named, report, write};
use crate::cli::operator::OperatorArgs;
use crate::cli::policy::load_policy;
use crate::clock;
use crate::invitation::{self, Invitation, InvitationError, Shown};
use crate::stored::Stored;

/// Arguments of `bulla identity invite`.
#[derive(clap::Args, Debug)]
pub(crate) struct InviteArgs {
    /// The workload's short name; the policy need not name it yet
    name: String,
    /// How long the invitation is good for, a week at most
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = life)]
    life: Duration,
    /// Where the invitation goes (0600) [default: NAME.invitation]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Arguments of `bulla identity join`.
#[derive(clap::Args, Debug)]
pub(crate) struct JoinArgs {
    /// The invitation (0600)
    #[arg(value_name = "FILE")]
    invitation: PathBuf,
    /// Where the new seed goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// nats-server
    #[arg(long, value_name = "URL", env = "BULLA_NATS_URL")]
    nats_url: String,
    /// Certificate authorities (PEM) for TLS to nats-server
    #[arg(long, value_name = "FILE", env = "BULLA_TLS_CA_FILE")]
    tls_ca_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `bulla identity collect`.
#[derive(clap::Args, Debug)]
pub(crate) struct CollectArgs {
    /// The policy file into which the new keys are written
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// One key that came of an invitation.
pub(super) struct Collected {
    pub(super) workload: WorkloadName,
    pub(super) nkey: Nkey,
    pub(super) invitation: Nkey,
}

pub(super) async fn invite(args: &InviteArgs) -> Result<u8, Failure> {
    let name = named(&args.name)?;
    let operator = args.operator.connect().await?;
    let signer = args.operator.policy_signer(&operator.bundle)?;
    let one_time = fresh_seed()?;
    let invitation = Invitation {
        domain: operator.bundle.trust_domain.clone(),
        workload: name.clone(),
        key: one_time.public(),
        until: clock::now().saturating_add(args.life),
    };
    let (message, statement) = invitation.to_sign();
    let signature = signer.sign(Tag::Invitation, &message)?;
    let shown = Shown::new(&statement, &signature);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(format!("{name}.invitation")),
    };
    let seed = one_time.to_seed_text();
    let mut text = Zeroizing::new(Vec::new());
    text.extend_from_slice(shown.as_str().as_bytes());
    text.push(b'\n');
    text.extend_from_slice(seed.as_bytes());
    text.push(b'\n');
    secret_file::create(&out, &text)?;
    report::invited(args.json, &invitation, &out);
    Ok(YES)
}

pub(super) async fn join(args: &JoinArgs) -> Result<u8, Failure> {
    let text = secret_file::read(&args.invitation)?;
    let text = std::str::from_utf8(&text).map_err(|_| InvitationError::Malformed)?;
    let mut lines = text.lines();
    let (first, second) = (lines.next(), lines.next());
    let shown = Shown::parse(first.unwrap_or_default())?;
    let one_time = NkeySeed::parse(second.unwrap_or_default())
        .ok()
        .filter(|seed| seed.kind() == NkeyKind::User)
        .ok_or(InvitationError::Malformed)?;
    // What it says is for the broker to prove; here it only names who joins.
    let (domain, workload) = shown.claimed()?;
    let id = WorkloadId::new(&domain, &workload);
    let own = make_seed(&args.out)?;
    let seed = super::seed_in(&args.out)?;
    let outcome = hand_in(args, &shown, one_time, &seed, &id).await;
    if outcome.is_err() {
        let _ = std::fs::remove_file(&args.out);
    }
    outcome?;
    report::joined(args.json, &workload, &own, &args.out);
    Ok(YES)
}

async fn hand_in(
    args: &JoinArgs,
    shown: &Shown,
    one_time: NkeySeed,
    own: &NkeySeed,
    id: &WorkloadId,
) -> Result<(), Failure> {
    let payload = invitation::hand_in(shown, &one_time, own);
    let inbox = reserved::inbox_join(&one_time.public());
    let (one_time, token) = (Arc::new(one_time), shown.as_str().to_owned());
    let mut options = async_nats::ConnectOptions::with_auth_callback(move |nonce| {
        let (seed, token) = (Arc::clone(&one_time), token.clone());
        async move {
            let signature = seed.sign_nonce(&nonce).map_err(AuthError::new)?;
            let mut auth = Auth::new();
            auth.nkey = Some(seed.public().to_string());
            auth.signature = Some(signature.as_bytes().to_vec());
            auth.token = Some(token);
            Ok(auth)
        }
    })
    .custom_inbox_prefix(inbox)
    .connection_timeout(PATIENCE)
    .max_reconnects(1);
    if let Some(ca) = &args.tls_ca_file {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    let connected = options.connect(&args.nats_url).await;
    let client = connected.map_err(|source| Failure::JoinConnect {
        url: args.nats_url.clone(),
        source,
    })?;
    let subject = reserved::broker_join(id.tag());
    let asked = tokio::time::timeout(PATIENCE, client.request(subject, payload.into())).await;
    let answer = asked.ok().and_then(Result::ok).ok_or(Failure::NoBroker)?;
    match Registered::decode(&answer.payload) {
        Ok(Registered::Accepted) => Ok(()),
        Ok(Registered::Refused(reason)) => Err(Failure::JoinRefused(reason)),
        Err(_) => Err(Failure::NoBroker),
    }
}

pub(super) async fn collect(args: &CollectArgs) -> Result<u8, Failure> {
    if args.policy.is_dir() {
        return Err(Failure::Directory(args.policy.clone()));
    }
    let operator = args.operator.connect().await?;
    let records = operator
        .stored(reserved::CTL_STREAM, reserved::CTL_JOIN_ALL)
        .await?;
    let bundle = &operator.bundle;
    let mut new = Vec::new();
    let mut refused = Vec::new();
    for record in &records {
        match proven(record, &bundle.trust_domain, &bundle.policy_keys) {
            Ok(collected) => new.push(collected),
            Err(error) => refused.push((record.subject.clone(), error)),
        }
    }
    let mut written = Vec::new();
    for collected in new {
        if add(&args.policy, &collected)? {
            written.push(collected);
        }
    }
    report::collected(args.json, &args.policy, &written, &refused);
    Ok(YES)
}

/// What a record says, if it holds: nobody but a policy key and the two keys in it
/// are believed, and nats-server for when it came.
fn proven(
    record: &Stored,
    domain: &TrustDomain,
    keys: &[bulla_keyring::VerifyingKey],
) -> Result<Collected, InvitationError> {
    let joined = invitation::open(&record.payload, keys, domain)?;
    if record.at > joined.invitation.until {
        return Err(InvitationError::Expired);
    }
    if record.subject != reserved::ctl_join(&joined.invitation.key) {
        return Err(InvitationError::Malformed);
    }
    Ok(Collected {
        workload: joined.invitation.workload,
        nkey: joined.nkey,
        invitation: joined.invitation.key,
    })
}

/// Writes one key into the policy; false if it stands there.
fn add(file: &Path, new: &Collected) -> Result<bool, Failure> {
    let policy = load_policy(file)?;
    if policy.workload_by_nkey(&new.nkey).is_some() {
        return Ok(false);
    }
    let text = std::fs::read_to_string(file).map_err(|source| Failure::Read {
        path: file.to_owned(),
        source,
    })?;
    let mut nkeys = Vec::new();
    let text = match policy.workload(&new.workload) {
        None => attest_text::append(&text, &attest_text::section(&new.workload, &new.nkey)),
        Some(workload) => {
            nkeys.extend_from_slice(workload.nkeys());
            let last = nkeys.last();
            let last = last.ok_or_else(|| Failure::NoNkey(new.workload.clone()))?;
            attest_text::with(&text, last, &new.nkey)?
        }
    };
    nkeys.push(new.nkey);
    write(file, file, &text, (&new.workload, &nkeys))?;
    Ok(true)
}

/// At least a minute: it has to reach somebody; a week at most.
fn life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let longest = Duration::from_secs(7 * 24 * 3_600);
    if !(Duration::from_secs(1)..=longest).contains(&life) {
        return Err("an invitation is good for a week at most".to_owned());
    }
    Ok(life)
}

const PATIENCE: Duration = Duration::from_secs(10);
