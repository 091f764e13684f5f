//! The configuration of nats-server that Bulla stands on.
//!
//! | account | who is in it |
//! |---|---|
//! | `AUTH` | brokers, to answer the auth callout; nobody else |
//! | `SYS` | brokers, to find and end connections |
//! | `JS` | brokers, and all streams; no workload ever connects there |
//! | `APP` | every workload, placed there by the callout; no JetStream |
//!
//! `APP` sees of `JS` exactly: the news of the control stream and of buckets, the
//! brokers' requests, writes to the streams of wrapped keys, of claims, of the audit log
//! and of reports and to buckets, and direct gets; what the policy's streams store, and asking and
//! answering for their messages. Which of it is for whom is said by each workload's
//! permissions alone, which never name what is not for it. nats-server does not check
//! the permissions of its own replies, so JetStream must not be reachable in the account where workloads
//! choose reply subjects. Each import keeps its subject: that an answer which is
//! aimed at an import writes nothing there was measured for that form alone; only
//! two questions that change nothing, how a stream and a consumer are configured,
//! have names of ours.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use bulla_identity::{Nkey, SubjectPattern};

use crate::connection;

/// What differs from one server to the next. [`ServerConfig::render`] is the file.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The server's name in logs.
    pub server_name: String,
    /// The port on 127.0.0.1, or any free one.
    pub port: Option<u16>,
    /// Where JetStream stores.
    pub store_dir: PathBuf,
    /// The account key that signs the callout's answers.
    pub issuer: Nkey,
    /// The key that callout requests are encrypted to.
    pub xkey: Nkey,
    /// The users of each broker.
    pub brokers: Vec<BrokerUsers>,
    /// Operators' users in the account `JS`: they read what lies there and write
    /// what the policy key signed.
    pub operators: Vec<Nkey>,
    /// What the policy's streams store. A stream that a later policy adds takes
    /// messages once its subjects stand here: a changed configuration needs a
    /// reload, which ends every workload's connection once.
    pub stored: Vec<SubjectPattern>,
}

/// The nkeys under which one broker connects, one for each account.
///
/// nkeys and not passwords: with at least one nkey user in its configuration
/// nats-server offers every client a nonce, which the attestor needs.
#[derive(Clone, Copy, Debug)]
pub struct BrokerUsers {
    /// Answers the callout.
    pub auth: Nkey,
    /// Writes the control stream and answers workloads.
    pub js: Nkey,
    /// Finds and ends connections.
    pub sys: Nkey,
}

impl ServerConfig {
    /// The configuration file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let users = |key: fn(&BrokerUsers) -> Nkey| {
            let mut list = String::new();
            for broker in &self.brokers {
                let _ = write!(list, "{{ nkey: {} }} ", quoted(&key(broker).to_string()));
            }
            list
        };
        let mut auth_users = Vec::new();
        for broker in &self.brokers {
            for key in [broker.auth, broker.js, broker.sys] {
                auth_users.push(quoted(&key.to_string()));
            }
        }
        let mut operators = String::new();
        for operator in &self.operators {
            auth_users.push(quoted(&operator.to_string()));
            let inbox = connection::operator_inbox(operator);
            let user = OPERATOR
                .replace("@NKEY@", &quoted(&operator.to_string()))
                .replace("@INBOX@", &quoted(&format!("{inbox}.>")));
            operators.push_str(&user);
        }
        let (mut exports, mut imports) = (String::new(), String::new());
        let stored: BTreeSet<String> = self.stored.iter().map(|s| s.to_nats()).collect();
        for subject in stored.iter().map(|s| quoted(s)) {
            let _ = write!(
                exports,
                "\n      {{ service: {subject}, accounts: [ APP ] }}"
            );
            let _ = write!(
                imports,
                "\n      {{ service: {{ account: JS, subject: {subject} }} }}"
            );
        }
        // -1 is nats-server's word for any free port.
        let port = self.port.map_or(-1, i32::from);
        TEMPLATE
            .replace("@STORED_EXPORTS@", &exports)
            .replace("@STORED_IMPORTS@", &imports)
            .replace("@NAME@", &quoted(&self.server_name))
            .replace("@PORT@", &port.to_string())
            .replace("@STORE@", &quoted(&self.store_dir.to_string_lossy()))
            .replace("@ISSUER@", &quoted(&self.issuer.to_string()))
            .replace("@XKEY@", &quoted(&self.xkey.to_string()))
            .replace("@AUTH_USERS@", &auth_users.join(", "))
            .replace("@AUTH@", users(|b| b.auth).trim_end())
            .replace("@JS@", users(|b| b.js).trim_end())
            .replace("@OPERATORS@", &operators)
            .replace("@SYS@", users(|b| b.sys).trim_end())
    }
}

/// A string of nats-server's configuration language.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// One operator. The lists keep from mistakes: whoever may ask JetStream anything
/// in this account could do harm there. What he writes counts by its signature.
const OPERATOR: &str = r#"
      {
        nkey: @NKEY@
        permissions: {
          publish: { allow: [
            @INBOX@, "$BULLA.CTL.POLICY", "$BULLA.CTL.CANDIDATE", "$BULLA.CTL.REVOCATIONS", "$BULLA.HISTORY.>"
            "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.>"
            "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.>"
            "$JS.API.CONSUMER.CREATE.BULLA_AUDIT", "$JS.API.CONSUMER.CREATE.BULLA_AUDIT.>"
            "$JS.API.CONSUMER.INFO.BULLA_AUDIT.>", "$JS.API.CONSUMER.DELETE.BULLA_AUDIT.>"
            "$JS.API.CONSUMER.MSG.NEXT.BULLA_AUDIT.>", "$JS.ACK.BULLA_AUDIT.>", "$JS.FC.BULLA_AUDIT.>"
          ] }
          subscribe: { allow: [ @INBOX@, "$BULLA.NEWS.>", "$BULLA.STATUS.>", "$BULLA.AUDIT.>" ] }
        }
      }
   "#;

const TEMPLATE: &str = r#"# Written by bulla; changes are overwritten.
server_name: @NAME@
host: "127.0.0.1"
port: @PORT@

# A CONNECT line may carry a workload token of several kilobytes.
max_control_line: 32KB
# The largest sealed message, and the largest answer of the callout (about
# 15,000 subjects of permissions).
max_payload: 1MB

# No MQTT, no WebSocket, no monitoring port: what is not listening needs no rule.

jetstream {
  store_dir: @STORE@
}

system_account: SYS

accounts {
  # Only brokers, and only for the callout: who could listen here would read
  # what clients send to authenticate.
  AUTH {
    users: [ @AUTH@ ]
  }
  SYS {
    users: [ @SYS@ ]
  }
  # All streams. Workloads reach exactly what is exported.
  JS {
    jetstream: enabled
    users: [ @JS@@OPERATORS@ ]
    exports: [
      { stream: "$BULLA.NEWS.>", accounts: [ APP ] }
      # Which records of which stream is said by each workload's permissions.
      { service: "$JS.API.DIRECT.GET.>", response_type: stream, accounts: [ APP ] }
      { service: "$BULLA.BROKER.>", accounts: [ APP ] }
      { service: "$BULLA.KEYS.>", accounts: [ APP ] }
      { service: "$BULLA.CLAIMS.>", accounts: [ APP ] }
      { service: "$BULLA.AUDIT.>", accounts: [ APP ] }
      { service: "$BULLA.TAKEN.>", accounts: [ APP ] }
      { service: "$BULLA.STATUS.>", accounts: [ APP ] }
      # Buckets of the policy: writes, and the news of changes.
      { service: "$KV.>", accounts: [ APP ] }
      { stream: "$BULLA.KV.>", accounts: [ APP ] }
      # Streams of the policy: messages, answers for them, configurations.
      { service: "$JS.API.CONSUMER.MSG.NEXT.>", response_type: stream, accounts: [ APP ] }
      { service: "$JS.ACK.>", accounts: [ APP ] }
      { service: "$JS.API.CONSUMER.INFO.>", accounts: [ APP ] }
      { service: "$JS.API.STREAM.INFO.>", accounts: [ APP ] }@STORED_EXPORTS@
    ]
  }
  # Workloads, placed here by the callout. No JetStream.
  APP {
    imports: [
      { stream: { account: JS, subject: "$BULLA.NEWS.>" } }
      { service: { account: JS, subject: "$JS.API.DIRECT.GET.>" } }
      { service: { account: JS, subject: "$BULLA.BROKER.>" } }
      { service: { account: JS, subject: "$BULLA.KEYS.>" } }
      { service: { account: JS, subject: "$BULLA.CLAIMS.>" } }
      { service: { account: JS, subject: "$BULLA.AUDIT.>" } }
      { service: { account: JS, subject: "$BULLA.TAKEN.>" } }
      { service: { account: JS, subject: "$BULLA.STATUS.>" } }
      { service: { account: JS, subject: "$KV.>" } }
      { stream: { account: JS, subject: "$BULLA.KV.>" } }
      { service: { account: JS, subject: "$JS.API.CONSUMER.MSG.NEXT.>" } }
      { service: { account: JS, subject: "$JS.ACK.>" } }
      # Under another name: under its own nats-server answers for this account.
      { service: { account: JS, subject: "$JS.API.CONSUMER.INFO.>" }, to: "$BULLA.CONSUMER.INFO.>" }
      { service: { account: JS, subject: "$JS.API.STREAM.INFO.>" }, to: "$BULLA.STREAM.INFO.>" }@STORED_IMPORTS@
    ]
  }
}

authorization {
  # A callout that does not answer in time is a refusal.
  timeout: 2
  auth_callout {
    issuer: @ISSUER@
    xkey: @XKEY@
    account: AUTH
    auth_users: [ @AUTH_USERS@ ]
    allowed_accounts: [ APP ]
  }
}
"#;

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }

    #[test]
    fn every_placeholder_is_filled() {
        let nkey = |kind, byte| Nkey::from_bytes(kind, [byte; 32]);
        let text = ServerConfig {
            server_name: "n1".to_owned(),
            port: Some(4222),
            store_dir: "/tmp/x".into(),
            issuer: nkey(NkeyKind::Account, 1),
            xkey: nkey(NkeyKind::Curve, 2),
            brokers: vec![BrokerUsers {
                auth: nkey(NkeyKind::User, 3),
                js: nkey(NkeyKind::User, 4),
                sys: nkey(NkeyKind::User, 5),
            }],
            operators: vec![nkey(NkeyKind::User, 6)],
            stored: vec![SubjectPattern::parse("orders.{id}.>").unwrap()],
        }
        .render();
        for line in [
            r#"{ service: "orders.*.>", accounts: [ APP ] }"#,
            r#"{ service: { account: JS, subject: "orders.*.>" } }"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains('@'), "{text}");
        assert!(text.contains("port: 4222"));
        let operator = nkey(NkeyKind::User, 6);
        assert!(text.contains(&format!("nkey: \"{operator}\"")), "{text}");
        assert!(text.contains(&format!("\"_INBOX.operator.{operator}.>\"")));
    }
}
