//! `bulla policy apply`, `history`, `show`, `rollback`, `status` and `watch` as an
//! operator runs them, on a whole deployment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "lifecycle_cli/cluster.rs"]
mod cluster;
#[path = "lifecycle_cli/deployment.rs"]
mod deployment;
#[path = "lifecycle_cli/operator_mode.rs"]
mod operator_mode;

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const BULLA: &str = env!("CARGO_BIN_EXE_bulla");
const LIMIT: Duration = Duration::from_secs(60);

/// A running `bulla dev`.
struct Dev {
    _child: Child,
    instance: Value,
}

impl Dev {
    async fn start(dir: &Path) -> Self {
        let mut command = Command::new(BULLA);
        command.arg("dev").arg("--dir").arg(dir);
        for option in ["--gateway-port", "--nats-port", "--issuer-port"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            command.arg(option).arg(port.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read(dir.join("dev.json")).unwrap_or_default();
            let instance: Value = serde_json::from_slice(&text).unwrap_or_default();
            if instance["pids"]["dev"] == json!(child.id()) {
                return Self {
                    _child: child,
                    instance,
                };
            }
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            assert!(Instant::now() < deadline, "it is not ready");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, name: &str, signal: Signal) {
        let pid = self.instance["pids"][name].as_i64().unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// Runs `bulla policy …` and gives its exit code and what it prints.
async fn policy(dir: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(BULLA)
        .arg("policy")
        .args(words)
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    (output.status.code().unwrap(), text)
}

async fn policy_json(dir: &Path, words: &[&str]) -> (i32, Value) {
    let (code, text) = policy(dir, &[words, &["--json"]].concat()).await;
    let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{words:?}: {text}"));
    (code, value)
}

/// Waits until everybody is current, and gives what `status` says then.
async fn settled(dir: &Path) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (code, status) = policy_json(dir, &["status"]).await;
        if code == 0 && status["enforcers"].as_array().unwrap().len() >= 4 {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn rule(id: &str) -> String {
    format!(
        "\n[[deny]]\nid = \"{id}\"\nwho = [\"gateway\"]\nmay = [\"request\"]\non = [\"orders.create\"]\n"
    )
}

#[tokio::test]
async fn a_policy_is_applied_looked_at_and_taken_back() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let dev = Dev::start(dir).await;
    let original = std::fs::read_to_string(dir.join("policy.toml")).unwrap();

    // Everybody says what it runs.
    let status = settled(dir).await;
    assert_eq!(status["in_force"]["revision"], 1);
    let kinds: Vec<_> = status["enforcers"].as_array().unwrap().iter().collect();
    for kind in ["broker", "gateway", "service"] {
        assert!(kinds.iter().any(|e| e["kind"] == kind), "{status:#}");
    }
    let named = |name: &str| kinds.iter().any(|e| e["workload"] == name);
    assert!(named("orders") && named("billing") && named("gateway"));

    // Nobody says yes where nobody can be asked.
    let closed = write(dir, "closed.toml", &format!("{original}{}", rule("closed")));
    let (code, text) = policy(dir, &["apply", &closed]).await;
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("--yes") && text.contains("rule closed"),
        "{text}"
    );
    assert!(text.contains("gateway"), "who is affected is shown: {text}");

    let (code, done) = policy_json(dir, &["apply", &closed, "--yes", "-m", "shop is closed"]).await;
    assert_eq!(code, 0, "{done:#}");
    assert_eq!(
        (&done["revision"], &done["replaces"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(done["stale"], json!([]), "{done:#}");
    assert!(done["enforcers"].as_u64().unwrap() >= 4, "{done:#}");
    println!("in force everywhere after {} ms", done["last_after_ms"]);
    let gateway = json!({ "workload": "gateway", "change": "loses" });
    assert!(
        done["changes"]["workloads"]
            .as_array()
            .unwrap()
            .contains(&gateway),
        "{done:#}"
    );

    // Said again it is nothing; what somebody expects to replace must be there.
    let (code, text) = policy(dir, &["apply", &closed, "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("nothing to do"), "{text}");
    let other = write(dir, "other.toml", &format!("{original}{}", rule("other")));
    let (code, text) = policy(dir, &["apply", &other, "--yes", "--expect", "1"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("revision 2 is in force"), "{text}");

    // What does not load, or is for others, replaces nothing.
    for (broken, says) in [
        ("version = 2\n".to_owned(), "version"),
        (format!("{original}\n[[allow]]\nid = \"x\"\n"), "error"),
        (
            original.replace("shop.example", "evil.example"),
            "evil.example",
        ),
    ] {
        let broken = write(dir, "broken.toml", &broken);
        let (code, text) = policy(dir, &["apply", &broken, "--yes"]).await;
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(says), "{text}");
    }
    assert_eq!(settled(dir).await["in_force"]["revision"], 2);

    // Its history, and back.
    let (code, history) = policy_json(dir, &["history"]).await;
    assert_eq!((code, &history["in_force"]), (0, &json!(2)));
    let revisions = history["revisions"].as_array().unwrap();
    assert_eq!(revisions.len(), 2, "{history:#}");
    assert_eq!(revisions[0]["comment"], "shop is closed");
    assert_eq!(revisions[1]["revision"], 1);
    let (_, shown) = policy_json(dir, &["show", "1"]).await;
    assert_eq!(shown["text"], json!(original));
    assert_eq!(policy(dir, &["show", "9"]).await.0, 2);
    let (code, text) = policy(dir, &["rollback", "1", "--yes"]).await;
    assert_eq!(code, 0, "{text}");
    let status = settled(dir).await;
    assert_eq!(status["in_force"]["revision"], 3);
    assert_eq!(status["in_force"]["comment"], "back to revision 1");
    let (_, shown) = policy_json(dir, &["show"]).await;
    assert_eq!(shown["text"], json!(original));

    // What a revision changed, and what a file would change.
    for new in ["@2", &closed] {
        let (code, diff) = policy_json(dir, &["diff", "@current", new]).await;
        assert_eq!(code, 1, "{diff:#}");
        assert_eq!(diff["rights"][0]["change"], "lost", "{diff:#}");
        assert_eq!(diff["rights"][0]["rules"][0]["id"], "closed", "{diff:#}");
    }
    assert_eq!(policy(dir, &["diff", "@1", "@3"]).await.0, 0);
    assert_eq!(policy(dir, &["diff", "@1", "@9"]).await.0, 2);

    // Of two at the same moment one wins, and the other is told.
    let words = |file| ["apply", file, "--yes", "--expect", "3"];
    let both = [words(&closed), words(&other)];
    let (first, second) = tokio::join!(policy(dir, &both[0]), policy(dir, &both[1]));
    let mut codes = [first.0, second.0];
    codes.sort_unstable();
    assert_eq!(codes, [0, 1], "{first:?} {second:?}");
    assert_eq!(settled(dir).await["in_force"]["revision"], 4);

    // One that hangs is told apart.
    dev.signal("billing", Signal::STOP);
    let (code, done) = policy_json(
        dir,
        &[
            "apply",
            &write(dir, "back.toml", &original),
            "--yes",
            "--wait",
            "2s",
        ],
    )
    .await;
    assert_eq!(code, 0, "{done:#}");
    let stale = done["stale"].as_array().unwrap();
    assert_eq!(stale.len(), 1, "{done:#}");
    assert!(
        stale[0].as_str().unwrap().starts_with("billing "),
        "{done:#}"
    );
    let (code, status) = policy_json(dir, &["status"]).await;
    assert_eq!((code, &status["stale"]), (1, &json!(1)), "{status:#}");
    let (_, text) = policy(dir, &["status"]).await;
    assert!(
        text.contains("stale") && text.contains("not current"),
        "{text}"
    );
    dev.signal("billing", Signal::CONT);
    assert_eq!(settled(dir).await["in_force"]["revision"], 5);

    // On trial first: who would be told no, before anybody is.
    let (code, text) = policy(dir, &["shadow"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("no policy is on trial"), "{text}");
    let (code, tried) = policy_json(dir, &["shadow", &closed, "--yes", "-m", "dry run"]).await;
    assert_eq!((code, &tried["candidate"]), (0, &json!(1)), "{tried:#}");
    assert_eq!(tried["stale"], json!([]), "{tried:#}");
    assert_eq!(settled(dir).await["in_force"]["candidate"], 1);
    let (code, text) = policy(dir, &["shadow", "--off"]).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(settled(dir).await["in_force"]["candidate"], 0);
    assert_eq!(policy(dir, &["shadow", &closed, "--yes"]).await.0, 0);
    assert_eq!(settled(dir).await["in_force"]["candidate"], 3);

    // And all of it as it happens. To apply what is on trial ends the trial.
    let watched = policy(dir, &["watch", "--for", "3s", "--json"]);
    let applied = async {
        sleep(Duration::from_millis(1_000)).await;
        policy(dir, &["apply", &closed, "--yes"]).await
    };
    let ((code, text), (applied, why)) = tokio::join!(watched, applied);
    assert_eq!((code, applied), (0, 0), "{text} {why}");
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |event: &str, revision: u64| {
        let is = |e: &&Value| e["event"] == event && e["revision"] == revision;
        events.iter().filter(is).count()
    };
    assert!(
        count("in_force", 5) >= 1 && count("in_force", 6) >= 1,
        "{text}"
    );
    assert!(count("enforcer", 6) >= 4, "{text}");
    assert_eq!(settled(dir).await["in_force"]["candidate"], 0);
}
