//! What the handles of one client share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bulla_envelope::VerifiedRoots;
use bulla_identity::WorkloadName;
use tokio_util::sync::DropGuard;

use crate::bucket::Memories;
use crate::claims::Claims;
use crate::connection::Connection;
use crate::control::Control;
use crate::decision_log::Decisions;
use crate::listened::Listened;
use crate::options::ConnectOptions;
use crate::own::OwnCredential;
use crate::replies::Replies;
use crate::reply_keys::ReplyKeys;
use crate::reporter::Reporter;
use crate::routes::Routes;
use crate::signer::Signer;
use crate::stats::Stats;
use crate::unlock::Unlocker;
use crate::users::Users;
use crate::vault::Vault;

pub(crate) struct Shared {
    pub(crate) options: ConnectOptions,
    pub(crate) own_name: WorkloadName,
    pub(crate) connection: Connection,
    pub(crate) control: Control,
    pub(crate) decisions: Decisions,
    pub(crate) own: OwnCredential,
    pub(crate) signer: Signer,
    /// What this process encrypts under.
    pub(crate) vault: Vault,
    /// What others have encrypted under.
    pub(crate) unlocker: Arc<Unlocker>,
    /// What this process shares with those whom it asks and answers.
    pub(crate) reply_keys: ReplyKeys,
    /// The subjects that this client sends to.
    pub(crate) routes: Routes,
    /// What senders' batches have proven, for all that this client receives.
    pub(crate) roots: VerifiedRoots,
    /// Requests that are being handled now.
    pub(crate) handling: AtomicUsize,
    /// Appends that are under way now.
    pub(crate) appending: AtomicUsize,
    pub(crate) users: Users,
    pub(crate) claims: Claims,
    /// What was read of buckets.
    pub(crate) memories: Memories,
    pub(crate) replies: Replies,
    pub(crate) stats: Stats,
    pub(crate) reporter: Reporter,
    pub(crate) listened: Arc<Listened>,
    /// Renewal goes on for as long as a client, service or subscription lives.
    pub(crate) _renewing: DropGuard,
}

impl Shared {
    /// This workload's short name, which is its queue group too.
    pub(crate) fn own_name(&self) -> &str {
        self.own_name.as_str()
    }
}
