//! Workloads for which certificates vouch, with the SDK and a broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use bulla_sdk::{
    CertificateFileError, Client, ConnectError, ConnectOptions, CredentialError, Message,
    RequestError, SendError, ServiceError,
};
use bulla_tests::{Bus, BusOptions, Pki, SvidFiles};
use tokio::time::{Instant, sleep};

/// `shop` asks, `pay` answers. What vouches for the shop comes first.
fn policy(x509: &str, shop: &str) -> String {
    format!(
        r#"
version = 1
trust_domain = "acme.example"
{x509}
[workload.shop]
attest = [{{ nkey = "@shop@", vouches = false }}, {shop}]
[workload.pay]
attest = [{{ nkey = "@pay@" }}]

[subject."vault.put"]
protect = "encrypted"

[[allow]]
id = "shop-asks"
who = ["shop"]
may = ["request"]
on = ["pay.charge", "vault.put"]
[[allow]]
id = "pay-answers"
who = ["pay"]
may = ["serve"]
on = ["pay.charge", "vault.put"]
"#
    )
}

const BY_MESH: &str = "{ x509 = \"mesh\" }";
const HOUR: Duration = Duration::from_secs(3600);

fn options(bus: &Bus, files: &SvidFiles) -> ConnectOptions {
    bus.connect_options("shop")
        .certificate(&files.chain, &files.key)
}

async fn serve(bus: &Bus) -> (Client, Vec<bulla_sdk::Service>) {
    let pay = bus.client("pay").await;
    let mut services = Vec::new();
    for subject in ["pay.charge", "vault.put"] {
        let handler = |message: Message<String>| async move {
            Ok::<_, ServiceError>(format!(
                "{} from {}",
                message.payload(),
                message.sender().workload()
            ))
        };
        services.push(pay.serve(subject, handler).await.unwrap());
    }
    (pay, services)
}

async fn asks(shop: &Client, subject: &str) -> Result<String, RequestError> {
    shop.request(subject, "10 euro").await
}

const ANSWER: &str = "10 euro from spiffe://acme.example/shop";

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_speaks_by_its_certificate() {
    let mesh = Pki::new("mesh");
    let bus = Bus::start(&policy(&mesh.x509("mesh"), BY_MESH)).await;
    let (_pay, _services) = serve(&bus).await;
    let dir = bus.provision().path("");
    for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let svid = mesh.issue_for(&bus.workload("shop"), HOUR, kind);
        let files = svid.write(&dir, "shop");
        let shop = Client::connect(options(&bus, &files)).await.unwrap();
        assert_eq!(asks(&shop, "pay.charge").await.unwrap(), ANSWER);
        // Its keys for encryption come from the nkey, which does not vouch.
        assert_eq!(asks(&shop, "vault.put").await.unwrap(), ANSWER);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_vouch_gets_no_credential() {
    let (mesh, other) = (Pki::new("mesh"), Pki::new("mesh"));
    let bus = Bus::start(&policy(&mesh.x509("mesh"), BY_MESH)).await;
    let dir = bus.provision().path("");
    let short = |options: ConnectOptions| options.connect_timeout(Duration::from_secs(1));

    let alone = Client::connect(short(bus.connect_options("shop"))).await;
    assert!(
        matches!(alone, Err(ConnectError::CertificateNeeded { .. })),
        "{alone:?}",
        alone = alone.err()
    );
    let (shop, pay) = (bus.workload("shop"), bus.workload("pay"));
    let ended = Duration::ZERO;
    for (name, svid) in [
        ("another authority", other.issue(&shop, HOUR)),
        ("another workload", mesh.issue(&pay, HOUR)),
        ("a certificate that has ended", mesh.issue(&shop, ended)),
    ] {
        let files = svid.write(&dir, "bad");
        let error = Client::connect(short(options(&bus, &files))).await.err();
        assert!(
            matches!(
                error,
                Some(ConnectError::Credential(CredentialError::Refused { .. }))
            ),
            "{name}: {error:?}"
        );
    }
    // Files that are no pair are told before anybody is asked.
    let files = SvidFiles {
        chain: mesh.issue(&shop, HOUR).write(&dir, "one").chain,
        key: mesh.issue(&shop, HOUR).write(&dir, "two").key,
    };
    let error = Client::connect(short(options(&bus, &files))).await.err();
    assert!(
        matches!(
            error,
            Some(ConnectError::Certificate(
                CertificateFileError::Certificate { .. }
            ))
        ),
        "{error:?}"
    );
    std::fs::set_permissions(
        &files.key,
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let error = Client::connect(short(options(&bus, &files))).await.err();
    assert!(
        matches!(
            error,
            Some(ConnectError::Certificate(CertificateFileError::Key(_)))
        ),
        "{error:?}"
    );
}

/// The first certificate ends after a few seconds, and no credential outlives it.
/// So whoever still speaks after that has read the second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_read_at_the_next_renewal() {
    let mesh = Pki::new("mesh");
    let bus = Bus::start(&policy(&mesh.x509("mesh"), BY_MESH)).await;
    let (_pay, _services) = serve(&bus).await;
    let dir = bus.provision().path("");
    let brief = Duration::from_secs(4);
    let id = bus.workload("shop");
    let begun = Instant::now();
    let renewed_files = mesh.issue(&id, brief).write(&dir, "renewed");
    let kept_files = mesh.issue(&id, brief).write(&dir, "kept");
    let renewed = Client::connect(options(&bus, &renewed_files))
        .await
        .unwrap();
    let kept = Client::connect(options(&bus, &kept_files)).await.unwrap();
    for shop in [&renewed, &kept] {
        assert_eq!(asks(shop, "pay.charge").await.unwrap(), ANSWER);
    }
    mesh.issue(&id, HOUR).write(&dir, "renewed");
    while begun.elapsed() < brief + Duration::from_secs(1) {
        assert_eq!(asks(&renewed, "pay.charge").await.unwrap(), ANSWER);
        sleep(Duration::from_millis(50)).await;
    }
    let ended = asks(&kept, "pay.charge").await.unwrap_err();
    assert!(
        matches!(ended, RequestError::Send(SendError::CredentialExpired)),
        "{ended:?}"
    );
}

/// An authority counts for as long as the policy names it: receivers refuse what
/// is sealed under the credentials that its certificates vouched for.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_leaves_the_policy_takes_its_credentials_along() {
    let (mesh, next) = (Pki::new("mesh"), Pki::new("next"));
    let x509 = format!("{}{}", mesh.x509("mesh"), next.x509("next"));
    let both = policy(&x509, "{ x509 = \"mesh\" }, { x509 = \"next\" }");
    let bus = Bus::start_with(BusOptions::new(both)).await;
    let (pay, _services) = serve(&bus).await;
    let dir = bus.provision().path("");
    let id = bus.workload("shop");
    let client = async |pki: &Pki, name: &str| {
        let files = pki.issue(&id, HOUR).write(&dir, name);
        Client::connect(options(&bus, &files)).await.unwrap()
    };
    let (old, new) = (client(&mesh, "old").await, client(&next, "new").await);
    for shop in [&old, &new] {
        assert_eq!(asks(shop, "pay.charge").await.unwrap(), ANSWER);
    }
    bus.publish_policy(&policy(&x509, "{ x509 = \"next\" }"))
        .await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while pay.stats().refused_for("certificate_untrusted") == 0 {
        assert!(Instant::now() < deadline, "{:?}", pay.stats().refused());
        let _ = asks(&old, "pay.charge").await;
    }
    assert_eq!(asks(&new, "pay.charge").await.unwrap(), ANSWER);
}
