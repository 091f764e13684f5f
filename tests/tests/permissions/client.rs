//! A server whose users have the permissions of policies, and raw clients.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use bulla_broker::engine::{Engine, EngineConfig, NatsServer};
use bulla_identity::{
    Nkey, NkeyKind, Subject, SubjectPattern, TrustDomain, UnixMillis, WorkloadId, WorkloadName,
};
use bulla_keyring::NkeySeed;
use bulla_policy::{Circumstances, Policy};
use bulla_tests::RawSocket;
use serde_json::{Value, json};

pub(crate) const DOMAIN: &str = "live.example";

pub(crate) fn id(name: &str) -> WorkloadId {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    WorkloadId::new(&domain, &WorkloadName::parse(name).unwrap())
}

pub(crate) fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

pub(crate) fn pattern(text: &str) -> SubjectPattern {
    SubjectPattern::parse(text).unwrap()
}

/// A policy text with these workloads.
pub(crate) fn policy_text(names: &[&str], rules: &str) -> String {
    let mut text = format!("version = 1\ntrust_domain = \"{DOMAIN}\"\n");
    for (name, number) in names.iter().zip(1u32..) {
        let mut bytes = [0u8; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        // Not every 32 bytes are a curve point.
        let key = loop {
            let key = Nkey::from_bytes(NkeyKind::User, bytes).to_string();
            if Nkey::parse(&key).is_ok() {
                break key;
            }
            bytes[8] += 1;
        };
        let _ = writeln!(text, "workload.{name}.attest = [{{ nkey = \"{key}\" }}]");
    }
    text + rules
}

pub(crate) fn policy(names: &[&str], rules: &str) -> Policy {
    Policy::parse("live.toml", &policy_text(names, rules)).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn rule(effect: &str, id: &str, who: &str, may: &[&str], on: &[&str]) -> String {
    format!("[[{effect}]]\nid = \"{id}\"\nwho = [{who:?}]\nmay = {may:?}\non = {on:?}\n")
}

/// What time it is for the lists.
pub(crate) const NOW: UnixMillis = UnixMillis::from_secs(1_700_000_000);

/// Connections come from here.
pub(crate) const HERE: Circumstances = Circumstances {
    now: NOW,
    client: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
};

/// One nats-server with an account for each policy; in each account one user
/// per workload, and one without limits called `root`.
pub(crate) struct Server {
    _nats: NatsServer,
    _dir: tempfile::TempDir,
    address: String,
}

impl Server {
    pub(crate) async fn start(policies: &[&Policy]) -> Self {
        let mut accounts = BTreeMap::new();
        for (i, policy) in policies.iter().enumerate() {
            let mut users = vec![json!({ "user": user(i, "root"), "password": "p" })];
            for workload in policy.workloads() {
                let lists = policy.permissions(workload.id(), &HERE).unwrap();
                users.push(json!({
                    "user": user(i, workload.name().as_str()),
                    "password": "p",
                    "permissions": {
                        "publish": side(&lists.publish_allow, &lists.publish_deny),
                        "subscribe": side(&lists.subscribe_allow, &lists.subscribe_deny),
                    },
                }));
            }
            accounts.insert(format!("P{i}"), json!({ "users": users }));
        }
        let accounts = serde_json::to_string(&accounts).unwrap();
        let config = format!("listen: \"127.0.0.1:-1\"\naccounts: {accounts}\n");
        Self::start_config(&config).await
    }

    /// A server with a configuration of its own, which listens on any port.
    pub(crate) async fn start_config(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config_file = dir.path().join("nats.conf");
        std::fs::write(&config_file, config).unwrap();
        let engine = Engine::locate(&|line| eprintln!("{line}")).await.unwrap();
        let nats = engine
            .start(&EngineConfig {
                config_file,
                log_file: dir.path().join("nats.log"),
                run_dir: dir.path().to_owned(),
            })
            .await
            .unwrap();
        let address = nats.client_url().trim_start_matches("nats://").to_owned();
        Self {
            _nats: nats,
            _dir: dir,
            address,
        }
    }

    /// A connection as one of the workloads of the policy with this number.
    pub(crate) fn connect(&self, policy: usize, name: &str) -> Client {
        Client::connect(&self.address, &user(policy, name), "p")
    }

    /// A connection as a user of a configuration of its own.
    pub(crate) fn connect_as(&self, user: &str, password: &str) -> Client {
        Client::connect(&self.address, user, password)
    }
}

fn user(policy: usize, name: &str) -> String {
    format!("p{policy}-{name}")
}

fn side(allow: &[String], deny: &[String]) -> Value {
    if deny.is_empty() {
        json!({ "allow": allow })
    } else {
        json!({ "allow": allow, "deny": deny })
    }
}

/// A connection that waits for the server's verdict on everything it does.
pub(crate) struct Client {
    out: TcpStream,
    input: BufReader<TcpStream>,
    next_sid: u32,
}

/// What came back up to one PONG.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) messages: Vec<Delivered>,
    pub(crate) errors: Vec<String>,
}

/// A message that the server delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The subscription's number.
    pub(crate) sid: u32,
    pub(crate) subject: String,
    /// Headers and body, as text.
    pub(crate) text: String,
}

impl Delivered {
    /// The value of a header, if there is one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// What follows the headers.
    pub(crate) fn body(&self) -> &str {
        match self.text.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("NATS/1.0") => body,
            _ => &self.text,
        }
    }
}

impl Client {
    fn connect(address: &str, user: &str, password: &str) -> Self {
        Self::log_in(address, |_| {
            format!(
                "{{\"user\":\"{user}\",\"pass\":\"{password}\",\"verbose\":false,\"protocol\":1}}"
            )
        })
    }

    /// A connection that proves itself by an nkey, as a workload does.
    pub(crate) fn workload(url: &str, seed: &NkeySeed) -> Self {
        Self::log_in(url.trim_start_matches("nats://"), |nonce| {
            RawSocket::login_of(seed, nonce).to_string()
        })
    }

    /// Logs in with what `options` says to the server's nonce.
    fn log_in(address: &str, options: impl FnOnce(&str) -> String) -> Self {
        let out = TcpStream::connect(address).unwrap();
        out.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        out.set_nodelay(true).unwrap();
        let input = BufReader::new(out.try_clone().unwrap());
        let mut client = Self {
            out,
            input,
            next_sid: 0,
        };
        let mut info = String::new();
        client.input.read_line(&mut info).unwrap();
        let info: Value = serde_json::from_str(info.trim_start_matches("INFO ")).unwrap();
        let options = options(info["nonce"].as_str().unwrap_or_default());
        let heard = client.send(&format!("CONNECT {options}"));
        assert!(heard.errors.is_empty(), "{options}: {heard:?}");
        client
    }

    /// Sends lines and waits until the server has worked through them.
    pub(crate) fn send(&mut self, lines: &str) -> Heard {
        self.post(lines);
        self.hear()
    }

    /// Sends lines without waiting; one [`Client::hear`] belongs to each.
    pub(crate) fn post(&mut self, lines: &str) {
        self.out
            .write_all(format!("{lines}\r\nPING\r\n").as_bytes())
            .unwrap();
    }

    pub(crate) fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        loop {
            let mut line = String::new();
            assert!(
                self.input.read_line(&mut line).unwrap() > 0,
                "connection closed"
            );
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["PONG"] => return heard,
                ["MSG" | "HMSG", subject, sid, .., size] => {
                    let mut text = vec![0; size.parse::<usize>().unwrap() + 2];
                    self.input.read_exact(&mut text).unwrap();
                    let mut text = String::from_utf8_lossy(&text).into_owned();
                    text.truncate(text.len() - 2);
                    heard.messages.push(Delivered {
                        sid: sid.parse().unwrap(),
                        subject: (*subject).to_owned(),
                        text,
                    });
                }
                ["-ERR", ..] => heard.errors.push(line),
                _ => {}
            }
        }
    }

    /// Subscribes; the subscription's number if the server accepted it.
    pub(crate) fn subscribe(&mut self, subject: &str, group: &str) -> Option<u32> {
        self.next_sid += 1;
        let sid = self.next_sid;
        let heard = self.send(&format!("SUB {subject} {group} {sid}"));
        heard.errors.is_empty().then_some(sid)
    }

    /// Publishes one byte; whether the server accepted it.
    pub(crate) fn publish(&mut self, subject: &str) -> bool {
        self.send(&publication(subject)).errors.is_empty()
    }

    /// The same on a connection that a broker may be about to end, because a newer
    /// policy permits it less.
    pub(crate) fn publish_if_open(&mut self, subject: &str) -> bool {
        let lines = format!("{}\r\nPING\r\n", publication(subject));
        if self.out.write_all(lines.as_bytes()).is_err() {
            return false;
        }
        let mut is_refused = false;
        let mut line = String::new();
        while self.input.read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.starts_with("PONG") {
                return !is_refused;
            }
            is_refused |= line.starts_with("-ERR");
            line.clear();
        }
        false
    }

    /// The subjects of the messages that have arrived by now.
    pub(crate) fn received(&mut self) -> Vec<String> {
        self.out.write_all(b"PING\r\n").unwrap();
        let heard = self.hear();
        heard.messages.into_iter().map(|m| m.subject).collect()
    }

    /// What has come once `is_enough` holds, or the time is over; and a moment
    /// more, so that what should not come is seen as well.
    pub(crate) fn until(&mut self, is_enough: impl Fn(&[Delivered]) -> bool) -> Vec<Delivered> {
        let mut all = Vec::new();
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let is_last = is_enough(&all) || Instant::now() > end;
            self.out.write_all(b"PING\r\n").unwrap();
            let heard = self.hear();
            assert!(heard.errors.is_empty(), "{heard:?}");
            all.extend(heard.messages);
            if is_last {
                return all;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The protocol lines that ask, and want the answer there.
pub(crate) fn question(subject: &str, reply: &str, body: &str) -> String {
    format!("PUB {subject} {reply} {}\r\n{body}", body.len())
}

/// The protocol line that publishes one byte.
pub(crate) fn publication(subject: &str) -> String {
    format!("PUB {subject} 1\r\nx")
}
