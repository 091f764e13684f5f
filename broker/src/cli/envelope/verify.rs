//! `bulla envelope verify`: the chain from the root to the envelope, step by step.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulla_envelope::{
    CheckedEnvelope, Credential, Expectation, Kind, LeafHash, RevocationList, SealedEnvelope,
    SignedPolicy, TrustBundle, VerifiedCredential, VerifiedRoots,
};
use bulla_identity::{Subject, TrustDomain, UnixMillis, Verified};
use bulla_keyring::{AuthorityKey, AuthorityKeyError, AuthorityRole, VerifyingKey};
use bulla_policy::Policy;
use bytes::Bytes;
use serde_json::{Value, json};

use super::input::{Input, InputError};
use super::outline::Outline;
use super::{BAD, DIM, ERROR, GOOD, NO, STRONG, YES, print_json};
use crate::trust::CLOCK_SKEW;

/// Arguments of `bulla envelope verify`.
#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    /// The envelope; `-` reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// The root's public key (`trust/root.pub`)
    #[arg(long, value_name = "FILE")]
    trust_root: PathBuf,
    /// The trust bundle that the root signed
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// The policy that a policy key signed
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The credential that the envelope names
    #[arg(long, value_name = "FILE")]
    credential: PathBuf,
    /// The credential of a message that the envelope shows as having led to it,
    /// once for each; without any, their proofs are not verified
    #[arg(long = "ancestor-credential", value_name = "FILE")]
    ancestor_credentials: Vec<PathBuf>,
    /// The revocation list that a policy key signed; without it nobody is taken for revoked,
    /// and the answer says so
    #[arg(long, value_name = "FILE")]
    revocations: Option<PathBuf>,
    /// The trust domain [default: the credential's]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// The subject on which it came [default: as captured, else not compared]
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// The reply subject with which it came [default: as captured, else not compared]
    #[arg(long, value_name = "SUBJECT")]
    reply_to: Option<String>,
    /// The leaf of the request that a reply must answer, 64 hexadecimal digits
    /// [default: not compared]
    #[arg(long, value_name = "LEAF", value_parser = leaf)]
    request: Option<LeafHash>,
    /// When to judge: `now`, `issued` (when it was sealed), or a time such as
    /// 2027-01-15T08:00:00Z
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = moment)]
    at: Moment,
    /// How old it may be [default: what the policy says of its subject]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Now,
    Issued,
    At(UnixMillis),
}

fn moment(text: &str) -> Result<Moment, String> {
    match text {
        "now" => Ok(Moment::Now),
        "issued" => Ok(Moment::Issued),
        _ => humantime::parse_rfc3339_weak(text)
            .map(|at| Moment::At(millis(at)))
            .map_err(|_| "a time is `now`, `issued` or like 2027-01-15T08:00:00Z".to_owned()),
    }
}

fn leaf(text: &str) -> Result<LeafHash, String> {
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(LeafHash)
        .ok_or_else(|| "a leaf has 64 hexadecimal digits".to_owned())
}

fn millis(at: SystemTime) -> UnixMillis {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is no trust root", path.display())]
    Root {
        path: PathBuf,
        source: AuthorityKeyError,
    },
    #[error("`{0}` is no trust domain")]
    Domain(String),
}

/// What was found, in the order in which it was looked at.
struct Findings {
    steps: Vec<Step>,
    /// Whether somebody who is revoked would have been refused.
    are_revocations_judged: bool,
    refusal: Option<Refusal>,
}

struct Step {
    name: &'static str,
    /// What it says, if it held; nothing if it was not looked at.
    detail: Option<String>,
    note: Option<&'static str>,
}

struct Refusal {
    step: &'static str,
    code: &'static str,
    text: String,
    hint: Option<&'static str>,
}

impl Findings {
    fn hold(&mut self, name: &'static str, detail: impl Into<String>) {
        self.steps.push(Step {
            name,
            detail: Some(detail.into()),
            note: None,
        });
    }

    fn skip(&mut self, name: &'static str, note: &'static str) {
        self.steps.push(Step {
            name,
            detail: None,
            note: Some(note),
        });
    }
}

/// Turns an error of a step into the refusal.
fn refused(step: &'static str, code: &'static str, error: &dyn std::error::Error) -> Refusal {
    let hint = match code {
        "expired" | "too_old" | "credential_expired" => {
            Some("captured a while ago? `--at issued` judges it as of its issue")
        }
        "wrong_credential" => Some("`bulla envelope inspect` shows which key id it names"),
        "not_signed" => Some("a code is for the requester alone: nobody else can check it"),
        _ => None,
    };
    Refusal {
        step,
        code,
        text: super::chain(error),
        hint,
    }
}

pub(super) fn run(args: &VerifyArgs) -> u8 {
    let mut findings = Findings {
        steps: Vec::new(),
        are_revocations_judged: false,
        refusal: None,
    };
    match judge(args, &mut findings) {
        Ok(refusal) => findings.refusal = refusal.err(),
        Err(failure) => {
            let text = super::chain(&failure);
            if args.json {
                print_json(&json!({ "error": text }));
            } else {
                let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {text}");
            }
            return ERROR;
        }
    }
    if args.json {
        print_json(&findings.to_json());
    } else {
        findings.print();
    }
    if findings.refusal.is_none() { YES } else { NO }
}

fn judge(args: &VerifyArgs, findings: &mut Findings) -> Result<Result<(), Refusal>, Failure> {
    let envelope = Input::read(&args.file)?;
    let credential = Input::read(&args.credential)?;
    let bundle = Input::read(&args.bundle)?;
    let policy = Input::read(&args.policy)?;
    let revocations = match &args.revocations {
        Some(path) => Some(Input::read(path)?.bytes),
        None => None,
    };
    let ancestors = args.ancestor_credentials.iter();
    let ancestors = ancestors
        .map(|path| Input::read(path).map(|input| input.bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let roots = roots(&args.trust_root)?;
    let domain = match &args.trust_domain {
        Some(text) => Some(TrustDomain::parse(text).map_err(|_| Failure::Domain(text.clone()))?),
        None => None,
    };
    let outline = Outline::of(&envelope.bytes);
    let now = match args.at {
        Moment::Now => millis(SystemTime::now()),
        Moment::Issued => UnixMillis::from_millis(outline.uint(7).unwrap_or_default()),
        Moment::At(at) => at,
    };
    let given = Given {
        args,
        envelope,
        outline,
        ancestors,
        revocations,
        now,
        roots,
        domain,
    };
    Ok(given.judge(&credential.bytes, &bundle.bytes, &policy.bytes, findings))
}

fn roots(path: &Path) -> Result<Vec<VerifyingKey>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })?;
    let keys = AuthorityKey::parse_list(AuthorityRole::Root, &text);
    let keys = keys.map_err(|source| Failure::Root {
        path: path.to_owned(),
        source,
    })?;
    Ok(keys.iter().map(|key| *key.verifying_key()).collect())
}

/// Everything that was given but the statements.
struct Given<'a> {
    args: &'a VerifyArgs,
    envelope: Input,
    outline: Outline,
    /// The credentials of those who sent what led to it.
    ancestors: Vec<Vec<u8>>,
    revocations: Option<Vec<u8>>,
    now: UnixMillis,
    roots: Vec<VerifyingKey>,
    domain: Option<TrustDomain>,
}

impl Given<'_> {
    fn judge(
        &self,
        credential: &[u8],
        bundle: &[u8],
        policy: &[u8],
        findings: &mut Findings,
    ) -> Result<(), Refusal> {
        let sealed = SealedEnvelope::decode(Bytes::copy_from_slice(&self.envelope.bytes))
            .map_err(|e| refused("envelope", e.code(), &e))?;
        let kind = sealed.kind_unverified();
        findings.hold("encoding", format!("a well-formed {}", kind.as_str()));
        let credential =
            Credential::decode(credential).map_err(|e| refused("credential", e.code(), &e))?;
        let workload = credential.claimed_workload().clone();
        let domain = match &self.domain {
            Some(domain) => domain.clone(),
            None => TrustDomain::parse(workload.trust_domain())
                .map_err(|e| refused("credential", "workload", &e))?,
        };
        let (now, skew) = (self.now, CLOCK_SKEW);
        let bundle = TrustBundle::open(bundle, &self.roots, &domain, now, skew)
            .map_err(|e| refused("trust bundle", e.code(), &e))?;
        findings.hold(
            "trust bundle",
            format!("version {} of {domain}, signed by the root", bundle.version),
        );
        let signed = SignedPolicy::open(policy, &bundle, now, skew)
            .map_err(|e| refused("policy", e.code(), &e))?;
        let policy = Policy::parse("policy", &signed.text)
            .map_err(|e| refused("policy", "policy_text", &e))?;
        findings.hold(
            "policy",
            format!("revision {}, signed by a policy key", signed.revision),
        );
        let anchors = policy.workload_by_id(&workload).map(|w| w.anchors());
        let credential = credential
            .verify(&bundle, anchors.unwrap_or_default(), now, skew)
            .map_err(|e| refused("credential", e.code(), &e))?;
        findings.hold(
            "credential",
            format!("{workload}, by an issuer of the bundle and what the policy lets vouch for it"),
        );
        let revoked = self.revocations(&bundle, findings)?;
        self.check_revoked("revocations", &credential, revoked.as_ref())?;
        let subject = sealed.subject_unverified().to_owned();
        let authentic = sealed
            .verify(&credential)
            .map_err(|e| refused("proof", e.code(), &e))?;
        findings.hold("proof", format!("sealed by {workload}"));
        let expected = self.expectation(&subject, kind, &policy, findings);
        let checked = authentic
            .check(&expected)
            .map_err(|e| refused("arrival", e.code(), &e))?;
        findings.hold("arrival", format!("for `{subject}`, at {}", rfc3339(now)));
        findings.skip("rules", "the user's token, the policy's rules and replay");
        self.chain(&checked, &bundle, &policy, revoked.as_ref(), findings)?;
        if self.outline.field(24).is_some() {
            findings.skip("contents", "encrypted");
        }
        Ok(())
    }

    /// The list, proven by a policy key of the bundle.
    fn revocations(
        &self,
        bundle: &Verified<TrustBundle>,
        findings: &mut Findings,
    ) -> Result<Option<Verified<RevocationList>>, Refusal> {
        let Some(bytes) = &self.revocations else {
            let note = "not judged: give --revocations";
            findings.skip("revocations", note);
            return Ok(None);
        };
        let list = match self.args.at {
            Moment::Now => RevocationList::open(bytes, bundle, self.now, CLOCK_SKEW),
            // It is newer than what is judged with it.
            Moment::Issued | Moment::At(_) => {
                RevocationList::open(bytes, bundle, bundle.issued_at, ANY_AGE)
            }
        };
        let list = list.map_err(|e| refused("revocations", e.code(), &e))?;
        findings.are_revocations_judged = true;
        let (number, entries) = (list.sequence, list.entries().len());
        findings.hold(
            "revocations",
            format!(
                "list {number} of {} with {entries} entries, signed by a policy key; heads alone say whether it is the newest",
                rfc3339(list.issued_at)
            ),
        );
        Ok(Some(list))
    }

    /// Refuses a workload or a credential that is revoked, as of when a receiver saw the
    /// message.
    fn check_revoked(
        &self,
        step: &'static str,
        credential: &VerifiedCredential,
        list: Option<&Verified<RevocationList>>,
    ) -> Result<(), Refusal> {
        let Some(list) = list else { return Ok(()) };
        let is_revoked = |since: Option<UnixMillis>| match self.args.at {
            // When it was sealed is what its sender says, who may be a thief: only who saw
            // it earlier can know that it came before.
            Moment::Now | Moment::Issued => since.is_some(),
            Moment::At(at) => since.is_some_and(|since| at >= since),
        };
        let workload = credential.workload();
        let (code, text) = if is_revoked(list.workload_since(workload)) {
            ("workload_revoked", format!("`{workload}` is revoked"))
        } else if is_revoked(list.key_since(credential.id())) {
            let key = credential.id().to_hex();
            ("key_revoked", format!("the credential {key} is revoked"))
        } else {
            return Ok(());
        };
        Err(Refusal {
            step,
            code,
            text,
            hint: Some(
                "a stream stored it before? `--at` that time judges it as of then, if the entry has a `since`",
            ),
        })
    }

    /// Proves who sealed the messages that are shown as having led to it. That each
    /// follows from the next is proven with the envelope.
    fn chain(
        &self,
        checked: &CheckedEnvelope,
        bundle: &Verified<TrustBundle>,
        policy: &Policy,
        revoked: Option<&Verified<RevocationList>>,
        findings: &mut Findings,
    ) -> Result<(), Refusal> {
        if checked.ancestors().len() == 0 {
            return Ok(());
        }
        if self.ancestors.is_empty() {
            let note = "the messages shown are those that led to it; their proofs are not verified: give --ancestor-credential";
            findings.skip("chain", note);
            return Ok(());
        }
        let credentials = self.ancestors.iter().map(|bytes| Credential::decode(bytes));
        let credentials = credentials
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| refused("chain", e.code(), &e))?;
        let roots = VerifiedRoots::new();
        let mut proven = Vec::new();
        for (ancestor, place) in checked.ancestors().zip(1..) {
            let wanted = ancestor.key_id();
            let Some(credential) = credentials.iter().find(|c| c.id() == wanted) else {
                let text = format!(
                    "no credential was given for ancestor {place}, whose key id is {}",
                    wanted.to_hex()
                );
                return Err(Refusal {
                    step: "chain",
                    code: "unknown_key",
                    text,
                    hint: None,
                });
            };
            let named = policy.workload_by_id(credential.claimed_workload());
            let anchors = named.map(|w| w.anchors()).unwrap_or_default();
            let credential = credential
                .clone()
                .verify(bundle, anchors, ancestor.issued_at(), CLOCK_SKEW)
                .map_err(|e| refused("chain", e.code(), &e))?;
            self.check_revoked("chain", &credential, revoked)?;
            let sender = ancestor
                .verify(&credential, &roots)
                .map_err(|e| refused("chain", e.code(), &e))?;
            proven.push(format!(
                "{} to `{}`",
                sender.workload.path(),
                ancestor.subject()
            ));
        }
        findings.hold("chain", format!("after {}", proven.join(", after ")));
        Ok(())
    }

    /// What is known of how it came; what is not known is what it says itself.
    fn expectation<'e>(
        &'e self,
        claimed: &'e str,
        kind: Kind,
        policy: &Policy,
        findings: &mut Findings,
    ) -> Expectation<'e> {
        let subject = self.args.subject.as_deref();
        let subject = subject.or(self.envelope.subject.as_deref());
        if subject.is_none() {
            findings.skip("subject", "not compared: give --subject");
        }
        let claimed_reply = self.outline.field(9).and_then(|value| value.as_str());
        let captured = self.args.reply_to.as_deref();
        // A message that was captured as a whole has no reply subject if it names none.
        let whole = self.envelope.subject.is_some();
        let reply_to = match captured.or(self.envelope.reply_to.as_deref()) {
            None if !whole && claimed_reply.is_some() => {
                findings.skip("reply subject", "not compared: give --reply-to");
                claimed_reply
            }
            known => known,
        };
        let answered = self.outline.bytes(13).and_then(|leaf| leaf.try_into().ok());
        if answered.is_some() && self.args.request.is_none() {
            findings.skip("request", "not compared: give --request");
        }
        let rule = Subject::parse(claimed).map(|subject| policy.requirements(&subject).max_age);
        Expectation {
            subject: subject.unwrap_or(claimed),
            reply_to,
            kinds: match kind {
                Kind::Event => &[Kind::Event],
                Kind::Request => &[Kind::Request],
                Kind::Reply => &[Kind::Reply],
                Kind::Error => &[Kind::Error],
                Kind::KeyWrap => &[Kind::KeyWrap],
            },
            now: self.now,
            skew: CLOCK_SKEW,
            max_age: self
                .args
                .max_age
                .or(rule.ok())
                .unwrap_or(bulla_envelope::MAX_LIFE),
            not_before: UnixMillis::default(),
            request: self.args.request.or(answered.map(LeafHash)),
        }
    }
}

fn rfc3339(at: UnixMillis) -> String {
    super::time(at.as_millis())
}

impl Findings {
    fn to_json(&self) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| match &step.detail {
                Some(detail) => json!({ "step": step.name, "holds": true, "detail": detail }),
                None => json!({ "step": step.name, "holds": null, "detail": step.note }),
            })
            .collect();
        match &self.refusal {
            None => json!({
                "verdict": "accepted",
                "revocations_judged": self.are_revocations_judged,
                "steps": steps,
            }),
            Some(refusal) => json!({
                "verdict": "refused",
                "revocations_judged": self.are_revocations_judged,
                "steps": steps,
                "at": refusal.step,
                "reason": refusal.code,
                "error": refusal.text,
            }),
        }
    }

    fn print(&self) {
        let mut out = anstream::stdout();
        for step in &self.steps {
            let _ = match &step.detail {
                Some(detail) => writeln!(out, "{GOOD}ok{GOOD:#}  {:<14}  {detail}", step.name),
                None => writeln!(
                    out,
                    "{DIM}--  {:<14}  {}{DIM:#}",
                    step.name,
                    step.note.unwrap_or_default()
                ),
            };
        }
        let _ = match &self.refusal {
            None => writeln!(out, "\n{STRONG}accepted{STRONG:#}"),
            Some(refusal) => writeln!(
                out,
                "{BAD}no{BAD:#}  {:<14}  {}\n\n{STRONG}refused{STRONG:#} ({})",
                refusal.step, refusal.text, refusal.code
            ),
        };
        if let Some(hint) = self.refusal.as_ref().and_then(|refusal| refusal.hint) {
            let _ = writeln!(out, "{hint}");
        }
    }
}

/// For what is judged after its time.
const ANY_AGE: Duration = Duration::from_secs(u32::MAX as u64);
