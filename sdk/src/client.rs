//! The handle that a service holds.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bulla_envelope::{Epoch, VerifiedRoots};
use bulla_identity::{NkeyKind, UnixMillis, WorkloadId, WorkloadName};
use bulla_keyring::{AuthorityKey, AuthorityRole, KeyId, NkeySeed, VerifyingKey};
use bulla_policy::Policy;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answers::ReplySender;
use crate::append::Appended;
use crate::audit::{AuditLog, AuditParts};
use crate::bucket::Memories;
use crate::claims::Claims;
use crate::clock;
use crate::connect_proof::ConnectProof;
use crate::connection::Connection;
use crate::consumer::{Consumer, StreamReader};
use crate::control::{Control, ControlParts, PolicyState, Revocations, Standing};
use crate::decision_log::Decisions;
use crate::error::{
    AppendError, ConnectError, ConsumeError, FlushError, PublishError, RequestError, ServiceError,
    SubscribeError,
};
use crate::kems::OwnKems;
use crate::layers::Caller;
use crate::lent::{Ears, Loan};
use crate::listened::Listened;
use crate::message::{IntoReply, Message};
use crate::options::ConnectOptions;
use crate::outgoing::Outgoing;
use crate::own::{Applicant, OwnCredential};
use crate::own_audit::{ClientSigner, ClientStore};
use crate::readmission::Admitted;
use crate::replies::Replies;
use crate::reply_keys::ReplyKeys;
use crate::reporter::Reporter;
use crate::requests::Responses;
use crate::routes::Routes;
use crate::service::ServiceBuilder;
use crate::shared::Shared;
use crate::signer::{Desk, Signer};
use crate::state::State;
use crate::stats::Stats;
use crate::subscription::{ManyReplies, OneReply, Service, Subscription, typed, typed_many};
use crate::unlock::Unlocker;
use crate::users::Users;
use crate::vault::{Vault, VaultParts};

/// A workload's connection to the bus. Cloning is cheap and shares it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What a client begins with, once it is connected.
pub(crate) struct Start<'a> {
    pub(crate) seed: Option<Arc<NkeySeed>>,
    pub(crate) proof: ConnectProof,
    pub(crate) roots: &'a [VerifyingKey],
    pub(crate) connection: Connection,
    pub(crate) stats: Stats,
    /// Until when all of it has to stand.
    pub(crate) deadline: Instant,
}

impl Client {
    /// Connects, takes trust and policy from the control stream, and obtains a
    /// message credential. After this, everything sent is signed.
    ///
    /// # Errors
    /// [`ConnectError`] says what is missing and what to do about it.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        Self::begin(options, None).await
    }

    /// The same over a connection that the program has made itself and keeps: for one
    /// that has other work to do on it, while it moves to Bulla. The options say who the
    /// workload is and what vouches for it; where nats-server is they need not say.
    ///
    /// The connection has to be one of this workload, let in by a broker; that, and the
    /// ears, are tried before anything else. Without [`Ears`] nobody hears of
    /// nats-server's refusals, so that what nobody answers is not begun
    /// ([`LinkError::Deaf`](crate::LinkError::Deaf)): publishing, subscribing, serving,
    /// watching a bucket. [`Client::drain`] leaves the connection open. When the policy
    /// permits more, nats-server knows it from the next connection on, which is the
    /// program's to make; brokers end one that is behind for a minute.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Lent`] says what is wrong with the connection.
    ///
    /// # Security
    /// Whether TLS protects it is known from nats-server's word alone: whether it
    /// demands TLS, and as which address it sees this process. What else is sent on the
    /// connection is not sealed.
    pub async fn over(
        nats: async_nats::Client,
        ears: impl Into<Option<Ears>>,
        options: ConnectOptions,
    ) -> Result<Self, ConnectError> {
        let ears = ears.into();
        Self::begin(options, Some(Loan { nats, ears })).await
    }

    async fn begin(options: ConnectOptions, loan: Option<Loan>) -> Result<Self, ConnectError> {
        let seed = read_seed(&options)?.map(Arc::new);
        let roots = read_roots(&options)?;
        if let Some(files) = &options.certificate {
            // What is wrong with the files is said now, not after a handshake.
            files.read().await?;
        }
        let proof = ConnectProof::of(&options, seed.clone())?;
        let deadline = Instant::now() + options.connect_timeout;
        let (connection, stats) = match loan {
            Some(loan) => Connection::over(loan, &options).await?,
            None => {
                let stats = Stats::default();
                let opened = Connection::open(&options, proof.clone(), stats.clone());
                (opened.await?, stats)
            }
        };
        let start = Start {
            seed,
            proof,
            roots: &roots,
            connection,
            stats,
            deadline,
        };
        Self::start(options, start).await
    }

    /// The same over a connection that stands.
    pub(crate) async fn start(
        options: ConnectOptions,
        start: Start<'_>,
    ) -> Result<Self, ConnectError> {
        let Start {
            seed,
            proof,
            roots,
            connection,
            stats,
            deadline,
        } = start;
        let started = clock::now();
        let left = || deadline.saturating_duration_since(Instant::now());
        let control = Control::open(
            connection.clone(),
            ControlParts {
                roots,
                workload: &options.workload,
                skew: options.clock_skew,
                bounds: options.bounds,
                patience: left(),
                stats: stats.clone(),
                is_sole: options.is_sole,
            },
        )
        .await?;
        let own_name = own_name(&options, control.policy().policy(), seed.as_deref(), &proof)?;
        let replies = Replies::open(&connection, options.workload.tag(), stats.clone()).await?;
        let stop = CancellationToken::new();
        let kems = OwnKems::derive(seed.as_deref(), &options.workload, options.kem_version);
        let epoch = Epoch(rand::random());
        let state = match (options.state_dir.as_deref(), &seed) {
            (None, _) => None,
            (Some(dir), Some(seed)) => Some(State::open(dir, &options.workload, Arc::clone(seed))?),
            (Some(_), None) => {
                return Err(ConnectError::StateNeedsSeed {
                    workload: options.workload.clone(),
                });
            }
        };
        let applicant = Applicant {
            state: state.map(Arc::new),
            options: options.clone(),
            connection: connection.clone(),
            control: control.clone(),
            kems: kems.clone(),
            epoch,
            seed,
            token: match proof {
                ConnectProof::Token(file) => Some(file),
                ConnectProof::Nkey(_) | ConnectProof::Certificate => None,
            },
        };
        let own = OwnCredential::obtain(applicant, left(), stop.clone()).await?;
        kems.publish(&connection, &control, left()).await?;
        // The reply inbox stands before anybody can be asked.
        connection.barrier(options.request_timeout).await?;
        let desk = Desk {
            own: own.clone(),
            connection: connection.clone(),
        };
        let domain = control.policy().policy().trust_domain().clone();
        let audit = AuditLog::start(AuditParts {
            writer: bulla_audit::Writer::workload(options.workload.tag(), rand::random()),
            domain: domain.clone(),
            workload: options.workload.path().to_owned(),
            options: options.audit.clone(),
            store: Arc::new(ClientStore(connection.clone())),
            signer: Arc::new(ClientSigner(own.clone())),
            stop: stop.child_token(),
        });
        let unlocker = Arc::new(Unlocker::new(
            kems,
            connection.clone(),
            control.clone(),
            domain,
            options.clock_skew,
        ));
        let vault = Vault::new(VaultParts {
            control: control.clone(),
            connection: connection.clone(),
            own: own.clone(),
            workload: options.workload.clone(),
            epoch,
            life: options.data_key_life,
            max_uses: options.data_key_uses,
            stats: stats.clone(),
        });
        let reporter = Reporter {
            kind: options.kind,
            tag: options.workload.tag(),
            instance: epoch,
            started,
            connection: connection.clone(),
            control: control.clone(),
            stats: stats.clone(),
        };
        let admitted = Admitted {
            workload: options.workload.clone(),
            connection: connection.clone(),
            control: control.clone(),
        };
        let client = Self {
            shared: Arc::new(Shared {
                reporter: reporter.clone(),
                vault,
                signer: Signer::start(desk, stats.clone()),
                reply_keys: ReplyKeys::new(),
                routes: Routes::default(),
                roots: VerifiedRoots::new(),
                handling: AtomicUsize::new(0),
                appending: AtomicUsize::new(0),
                listened: Arc::new(Listened::since(started, options.clock_skew)),
                users: Users::new(
                    options.clock_skew,
                    options.workload.clone(),
                    Arc::clone(&unlocker),
                ),
                unlocker,
                claims: Claims::new(connection.clone(), options.workload.tag()),
                memories: Memories::default(),
                own_name,
                options,
                connection,
                decisions: Decisions {
                    audit,
                    control: control.clone(),
                },
                control,
                own,
                replies,
                stats,
                _renewing: stop.clone().drop_guard(),
            }),
        };
        tokio::spawn(reporter.run(stop.clone()));
        let shared = Arc::downgrade(&client.shared);
        // One that was lent is not ours to make anew.
        if !admitted.connection.is_lent() {
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = admitted.keep(shared) => {}
                }
            });
        }
        Ok(client)
    }

    /// Publishes `event` on `subject`.
    ///
    /// # Errors
    /// As [`Outgoing::publish`].
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        subject: &str,
        event: &T,
    ) -> Result<(), PublishError> {
        self.message(subject).payload(event).publish().await
    }

    /// Sends `request` on `subject` and decodes the verified reply.
    ///
    /// # Errors
    /// As [`Outgoing::request`], and if the reply is not an `R`.
    pub async fn request<T: Serialize + ?Sized, R: DeserializeOwned>(
        &self,
        subject: &str,
        request: &T,
    ) -> Result<R, RequestError> {
        let response = self.message(subject).payload(request).request().await?;
        Ok(response.decode()?)
    }

    /// Sends `request` on `subject` and gives the verified replies one after
    /// the other.
    ///
    /// # Errors
    /// As [`Outgoing::request_many`].
    pub async fn request_many<T: Serialize + ?Sized>(
        &self,
        subject: &str,
        request: &T,
    ) -> Result<Responses, RequestError> {
        self.message(subject).payload(request).request_many().await
    }

    /// Appends `event` to the stream that stores `subject`, and returns when the
    /// stream has it.
    ///
    /// # Errors
    /// As [`Outgoing::append`].
    pub async fn append<T: Serialize + ?Sized>(
        &self,
        subject: &str,
        event: &T,
    ) -> Result<Appended, AppendError> {
        self.message(subject).payload(event).append().await
    }

    /// Consumes what `stream` stored, as `consumer`, which the policy grants to
    /// this workload and a broker has made. Every process that consumes under
    /// the same name shares its messages with the others.
    ///
    /// # Errors
    /// [`ConsumeError`]; [`ConsumeError::Misconfigured`] if the stream is not
    /// what its messages need.
    pub async fn consume(&self, stream: &str, consumer: &str) -> Result<Consumer, ConsumeError> {
        Consumer::bind(&self.shared, stream, consumer).await
    }

    /// Reads a stream by number, under the right to consume it as `consumer`, which the
    /// policy gives and brokers make; nothing is taken from that consumer. For those who
    /// pass what is stored on to others, each of whom has a place of his own, as an edge
    /// does.
    ///
    /// # Errors
    /// [`ConsumeError`]; [`ConsumeError::NotReadable`] if the stream forgets what was
    /// taken.
    pub async fn read_stream(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<StreamReader, ConsumeError> {
        StreamReader::bind(&self.shared, stream, consumer).await
    }

    /// Starts a message for everything that `publish` and `request` do not say:
    /// raw bytes, headers, another user, a time-out.
    pub fn message(&self, subject: &str) -> Outgoing<'_> {
        Outgoing::new(&self.shared, subject)
    }

    /// Listens to events on a pattern; every process that subscribes gets all.
    ///
    /// Returns when nats-server has processed it. A refusal by nats-server, which
    /// comes asynchronously, is an error if it comes at once; a later one is
    /// counted (`subscription_refused_by_server`) and logged. The first subscription of a
    /// process waits until its replay window can vouch for what it gets: the
    /// clock skew after the start; one on a pattern that was listened to before, until
    /// the clock skew has passed since the one before it was dropped.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription, SubscribeError> {
        Subscription::open(&self.shared, pattern, false).await
    }

    /// Listens to events on a pattern in this workload's queue group: each
    /// event goes to one of its processes.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn queue_subscribe(&self, pattern: &str) -> Result<Subscription, SubscribeError> {
        Subscription::open(&self.shared, pattern, true).await
    }

    /// Answers requests on a pattern with `handler`, in this workload's queue
    /// group.
    ///
    /// The handler gets messages that passed every check, with the payload
    /// decoded by its content type; it runs in the message's
    /// [`Context`](crate::Context), so that what it sends carries the same user. Its
    /// future is dropped when the caller waits no longer ([`Message::deadline`]): work
    /// that has to be finished all the same goes into a task of its own.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn serve<T, H, F, R>(
        &self,
        pattern: &str,
        handler: H,
    ) -> Result<Service, SubscribeError>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Message<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, ServiceError>> + Send + 'static,
        R: IntoReply + Send + 'static,
    {
        Service::open(&self.shared, pattern, OneReply(typed(handler))).await
    }

    /// Starts a service of several endpoints, whose handlers are async functions that
    /// say by their arguments what they need of a message.
    pub fn service(&self) -> ServiceBuilder {
        ServiceBuilder::new(&self.shared)
    }

    /// Requests on `subject` as a [`tower::Service`], for layers that retry or limit
    /// what is asked.
    #[must_use]
    pub fn caller(&self, subject: impl Into<String>) -> Caller {
        Caller::new(self.clone(), subject.into())
    }

    /// Like [`Client::serve`] with the payload's bytes as they came.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn serve_raw<H, F, R>(
        &self,
        pattern: &str,
        handler: H,
    ) -> Result<Service, SubscribeError>
    where
        H: Fn(Message<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, ServiceError>> + Send + 'static,
        R: IntoReply + Send + 'static,
    {
        Service::open(&self.shared, pattern, OneReply(handler)).await
    }

    /// Answers requests on a pattern with any number of replies, which the
    /// handler sends one after the other; callers take them with
    /// [`Outgoing::request_many`].
    ///
    /// Everything else is as in [`Client::serve`].
    ///
    /// ```no_run
    /// # use bulla_sdk::{Client, Message, ReplySender, ServiceError};
    /// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let count = async |message: Message<u32>, replies: ReplySender| {
    ///     for number in 0..*message.payload() {
    ///         replies.send(number).await?;
    ///     }
    ///     Ok(())
    /// };
    /// let service = client.serve_stream("count.up", count).await?;
    ///
    /// let mut numbers = client.request_many("count.up", &3u32).await?;
    /// while let Some(number) = numbers.next().await {
    ///     println!("{}", number?.decode::<u32>()?);
    /// }
    /// # drop(service);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn serve_stream<T, H, F>(
        &self,
        pattern: &str,
        handler: H,
    ) -> Result<Service, SubscribeError>
    where
        T: DeserializeOwned + Send + 'static,
        H: Fn(Message<T>, ReplySender) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), ServiceError>> + Send + 'static,
    {
        Service::open(&self.shared, pattern, ManyReplies(typed_many(handler))).await
    }

    /// Like [`Client::serve_stream`] with the payload's bytes as they came.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn serve_stream_raw<H, F>(
        &self,
        pattern: &str,
        handler: H,
    ) -> Result<Service, SubscribeError>
    where
        H: Fn(Message<Bytes>, ReplySender) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), ServiceError>> + Send + 'static,
    {
        Service::open(&self.shared, pattern, ManyReplies(handler)).await
    }

    /// Waits until everything that was accepted before has been sealed and sent,
    /// and nats-server has processed it.
    ///
    /// # Errors
    /// [`FlushError::Refused`] names what nats-server refused since the last
    /// report, [`FlushError::Unsent`] what could not be sent. Both are told one
    /// after the other: what is not told yet is told by the next call.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.shared.flush().await
    }

    /// Flushes what was published, ends all subscriptions after what has
    /// arrived in this process, and closes the connection, unless it was lent
    /// ([`Client::over`]): when it returns, each
    /// subscription still gives what it holds and then ends. Takes at most some
    /// seconds when nats-server is gone.
    pub async fn drain(&self) {
        // Bounded: a server that is gone takes and confirms nothing.
        let limit = Duration::from_secs(2);
        let flush = async {
            self.shared.signer.settle().await;
            self.shared.reporter.say_good_bye().await;
            self.shared.connection.barrier(limit).await
        };
        let _ = tokio::time::timeout(limit, flush).await;
        self.shared.decisions.audit.close(limit).await;
        self.shared.connection.close(limit).await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// This process's workload.
    #[must_use]
    pub fn workload(&self) -> &WorkloadId {
        &self.shared.options.workload
    }

    /// The id of the credential in use, and when it ends. It changes with every
    /// renewal: ask anew for each token that is minted under it.
    #[must_use]
    pub fn signing_key(&self) -> (KeyId, UnixMillis) {
        self.shared.own.key()
    }

    /// The policy in force in this process.
    #[must_use]
    pub fn policy(&self) -> Arc<PolicyState> {
        self.shared.control.policy()
    }

    /// What is revoked at this moment: for who hands out rights himself, as the
    /// edge does. Everything that is received and sent is checked without it.
    #[must_use]
    pub fn revocations(&self) -> Revocations {
        self.shared.control.revocations()
    }

    /// Whether this client receives and sends at this moment: somebody has
    /// confirmed lately that what it holds is the newest, and it is not revoked.
    ///
    /// # Errors
    /// [`Standing`] says why not.
    pub fn standing(&self) -> Result<(), Standing> {
        self.shared.control.check(clock::now())
    }

    /// This process's chain of the audit log, for who records more than a client
    /// does by itself.
    #[must_use]
    pub fn audit(&self) -> &AuditLog {
        &self.shared.decisions.audit
    }

    /// What was delivered, refused and lost so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Whether the connection to nats-server stands at the moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.connection.is_connected()
    }

    /// The largest envelope that nats-server takes, in bytes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.shared.connection.link().max_payload()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("workload", self.workload())
            .finish_non_exhaustive()
    }
}

/// This workload's name in the policy, if the nkey that it has is one of its own and
/// something can vouch for it.
fn own_name(
    options: &ConnectOptions,
    policy: &Policy,
    seed: Option<&NkeySeed>,
    proof: &ConnectProof,
) -> Result<WorkloadName, ConnectError> {
    let workload = || options.workload.clone();
    let own = policy.workload_by_id(&options.workload);
    let own = own.ok_or_else(|| match seed {
        Some(seed) => ConnectError::UnknownWorkload {
            workload: workload(),
            nkey: seed.public(),
        },
        None => ConnectError::NotInPolicy {
            workload: workload(),
        },
    })?;
    let nkey = seed.map(NkeySeed::public);
    if let Some(nkey) = nkey.filter(|nkey| !own.nkeys().contains(nkey)) {
        return Err(ConnectError::UnknownWorkload {
            workload: workload(),
            nkey,
        });
    }
    let anchors = own.anchors();
    let by_nkey = nkey.is_some_and(|nkey| anchors.nkeys.contains(&nkey));
    let by_broker = anchors.brokers && matches!(proof, ConnectProof::Token(_));
    if options.certificate.is_none() && !by_nkey && !by_broker {
        return Err(if anchors.authorities.is_empty() {
            ConnectError::NothingVouches {
                workload: workload(),
            }
        } else {
            ConnectError::CertificateNeeded {
                workload: workload(),
            }
        });
    }
    Ok(own.name().clone())
}

fn read_seed(options: &ConnectOptions) -> Result<Option<NkeySeed>, ConnectError> {
    let Some(path) = &options.seed_file else {
        return Ok(None);
    };
    let text = bulla_process::secret_file::read_line(path)?;
    let seed = NkeySeed::parse(&text)
        .ok()
        .filter(|seed| seed.kind() == NkeyKind::User);
    let fault = || ConnectError::Seed { path: path.clone() };
    seed.ok_or_else(fault).map(Some)
}

fn read_roots(options: &ConnectOptions) -> Result<Vec<VerifyingKey>, ConnectError> {
    let path = &options.trust_root_file;
    let text = match &options.trust_root {
        Some(keys) => keys.clone(),
        None => std::fs::read_to_string(path).map_err(|source| ConnectError::TrustRoot {
            path: path.clone(),
            source,
        })?,
    };
    let keys = AuthorityKey::parse_list(AuthorityRole::Root, &text)
        .map_err(|_| ConnectError::TrustRootKey { path: path.clone() })?;
    Ok(keys.iter().map(|key| *key.verifying_key()).collect())
}
