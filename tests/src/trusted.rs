//! What an operator and a broker sign, and what somebody with a broker's
//! connection to the streams can do with it.

use std::time::Duration;

use async_nats::jetstream::{self, context::Context};
use bulla_envelope::{
    Head, Holdings, Mark, Revocation, RevocationList, Revoked, SignedPolicy, TrustBundle,
};
use bulla_identity::{UnixMillis, Verified, WorkloadId, reserved};
use bulla_keyring::{AuthorityKey, AuthorityRole, AuthoritySeed, SigningKey};
use bytes::Bytes;

use crate::{Bus, now};

impl Bus {
    /// Revokes something entirely, as an operator does; the list's number.
    pub async fn revoke(&self, what: Revoked) -> u64 {
        self.revoke_since(what, UnixMillis::default()).await
    }

    /// Revokes a workload entirely.
    pub async fn revoke_workload(&self, name: &str) -> u64 {
        self.revoke(Revoked::Workload(self.workload(name))).await
    }

    /// Revokes something from a time on.
    pub async fn revoke_since(&self, what: Revoked, since: UnixMillis) -> u64 {
        let entry = entry(what, since);
        self.change_revocations(|entries| entries.push(entry)).await
    }

    /// The entry that revokes a workload entirely.
    #[must_use]
    pub fn entry_of_workload(&self, name: &str) -> Revocation {
        entry(
            Revoked::Workload(self.workload(name)),
            UnixMillis::default(),
        )
    }

    /// Publishes the next list; its number.
    pub async fn change_revocations(&self, change: impl FnOnce(&mut Vec<Revocation>)) -> u64 {
        let held = self.revocation_list().await;
        let sequence = held.as_ref().map_or(0, |list| list.sequence) + 1;
        let mut entries = held.map(|list| list.entries().to_vec()).unwrap_or_default();
        change(&mut entries);
        let record = self.sign_revocations(sequence, entries);
        self.replace_control_record(reserved::CTL_REVOCATIONS, record)
            .await;
        sequence
    }

    /// Signs a list with the policy key, and publishes nothing.
    #[must_use]
    pub fn sign_revocations(&self, sequence: u64, entries: Vec<Revocation>) -> Bytes {
        let domain = self.policy().trust_domain().clone();
        let list = RevocationList::new(domain, sequence, now(), entries);
        let key = self.authority("policy.key", AuthorityRole::Policy);
        list.sign(&key).expect("a sound list").into()
    }

    /// The list on the control stream.
    pub async fn revocation_list(&self) -> Option<Verified<RevocationList>> {
        let record = self
            .control_record_if_there(reserved::CTL_REVOCATIONS)
            .await?;
        let bundle = self.bundle().await;
        Some(RevocationList::open(&record, &bundle, now(), SKEW).expect("a sound list"))
    }

    /// The trust bundle on the control stream.
    pub async fn bundle(&self) -> Verified<TrustBundle> {
        let record = self.control_record(reserved::CTL_BUNDLE).await;
        let text = std::fs::read_to_string(self.root_file()).expect("the root's file");
        let root = AuthorityKey::parse(AuthorityRole::Root, text.trim()).expect("a root");
        let roots = [*root.verifying_key()];
        let domain = self.policy().trust_domain();
        TrustBundle::open(&record, &roots, domain, now(), SKEW).expect("a sound bundle")
    }

    /// What a broker would name in a head now.
    pub async fn holdings(&self) -> Holdings {
        let bundle = self.bundle().await;
        let policy = self.control_record(reserved::CTL_POLICY).await;
        let signed = SignedPolicy::open(&policy, &bundle, now(), SKEW).expect("a sound policy");
        let list = self.revocation_list().await;
        let revocations = match (
            list,
            self.control_record_if_there(reserved::CTL_REVOCATIONS)
                .await,
        ) {
            (Some(list), Some(record)) => Mark::of(list.sequence, &record),
            _ => Mark::default(),
        };
        Holdings {
            bundle: bundle.version,
            policy: Mark::of(signed.revision, &policy),
            revocations,
        }
    }

    /// Puts this record in the place of whatever the stream of wrapped keys holds
    /// there, as somebody who administers JetStream can.
    pub async fn replace_key_record(&self, place: &str, record: Bytes) {
        let context = jetstream::new(self.js_client().await);
        let keys = context.get_stream(reserved::KEYS_STREAM).await;
        let config = keys.expect("the stream").cached_info().config.clone();
        // It is written once: to write again is to make it again.
        let deleted = context.delete_stream(reserved::KEYS_STREAM).await;
        deleted.expect("a stream that is gone");
        let created = context.create_stream(config).await;
        created.expect("the same stream, empty");
        let stored = context.publish(place.to_owned(), record).await;
        stored.expect("the stream").await.expect("it is stored");
    }

    /// A head under the true issuing key, as a broker that lies would make it.
    #[must_use]
    pub fn sign_head(&self, names: Holdings, time: UnixMillis) -> Bytes {
        let head = Head {
            trust_domain: self.policy().trust_domain().clone(),
            names,
            time,
        };
        head.sign(&self.authority("issuing.key", AuthorityRole::Issuing))
            .into()
    }

    /// From now on nothing is stored and told under these subjects of the control
    /// stream; what lies there stays. So heads stop, while brokers go on, or an old
    /// record stays that a broker would replace.
    pub async fn freeze(&self, frozen: &[&str]) {
        let all = [
            reserved::CTL_BUNDLE,
            reserved::CTL_POLICY,
            reserved::CTL_REVOCATIONS,
            reserved::CTL_HEAD,
            "$BULLA.CTL.CRED.>",
            "$BULLA.CTL.KEM.>",
        ];
        let subjects: Vec<String> = all
            .into_iter()
            .filter(|subject| !frozen.contains(subject))
            .map(str::to_owned)
            .collect();
        self.change_control_stream(|config| config.subjects = subjects)
            .await;
    }

    /// Ends what [`Bus::freeze`] began.
    pub async fn thaw(&self) {
        self.change_control_stream(|config| {
            config.subjects = vec![reserved::CTL_ALL.to_owned()];
        })
        .await;
    }

    /// Changes the configuration of the control stream.
    pub async fn change_control_stream(&self, change: impl FnOnce(&mut jetstream::stream::Config)) {
        let context = self.control_context().await;
        let stream = context.get_stream(reserved::CTL_STREAM).await;
        let mut config = stream
            .expect("the control stream")
            .cached_info()
            .config
            .clone();
        change(&mut config);
        context
            .update_stream(&config)
            .await
            .expect("a changed control stream");
    }

    /// Removes the control stream with all that it holds.
    pub async fn lose_control_stream(&self) {
        let context = self.control_context().await;
        context
            .delete_stream(reserved::CTL_STREAM)
            .await
            .expect("no control stream any more");
    }

    /// Removes a record of the control stream.
    pub async fn remove_control_record(&self, subject: &str) {
        let stream = self
            .control_context()
            .await
            .get_stream(reserved::CTL_STREAM)
            .await
            .expect("the control stream");
        let purge = stream.purge().filter(subject).await;
        purge.expect("a record less");
    }

    async fn control_context(&self) -> Context {
        jetstream::new(self.js_client().await)
    }

    /// The newest record of a subject of the control stream, if there is one.
    pub async fn control_record_if_there(&self, subject: &str) -> Option<Bytes> {
        let stream = self
            .control_context()
            .await
            .get_stream(reserved::CTL_STREAM)
            .await
            .expect("the control stream");
        let record = stream.direct_get_last_for_subject(subject).await;
        record.ok().map(|record| record.payload)
    }

    fn authority(&self, file: &str, role: AuthorityRole) -> SigningKey {
        let path = self.provision().path("keys").join(file);
        let text = bulla_process::secret_file::read_line(&path).expect("a key file");
        let seed = AuthoritySeed::parse(role, &text).expect("a key");
        seed.into_signing_key()
    }

    /// Whether nobody of this workload is connected, as nats-server says.
    pub async fn connections_of(&self, workload: &WorkloadId) -> usize {
        let sys = self.sys_client().await;
        let question = serde_json::json!({ "auth": true, "acc": "APP" });
        let answer = sys
            .request("$SYS.REQ.SERVER.PING.CONNZ", question.to_string().into())
            .await
            .expect("the server's answer");
        let answer: serde_json::Value =
            serde_json::from_slice(&answer.payload).expect("JSON of the server");
        let connections = answer["data"]["connections"].as_array();
        let name = |connection: &serde_json::Value| {
            let user = connection["authorized_user"].as_str()?;
            Some(user.split('~').next()? == workload.path())
        };
        let own = connections.into_iter().flatten().filter_map(name);
        own.filter(|is_own| *is_own).count()
    }
}

fn entry(what: Revoked, since: UnixMillis) -> Revocation {
    Revocation {
        what,
        since,
        made_at: now(),
        reason: None,
    }
}

/// Clocks agree here: one machine.
const SKEW: Duration = Duration::from_millis(100);
