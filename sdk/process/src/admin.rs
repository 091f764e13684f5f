//! What operators and orchestrators ask: alive, ready, metrics. On an address of its
//! own, by default on this machine alone, and never on the one of clients.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process answers anything |
//! | `/readyz` | 200 if it should get work, otherwise 503 and the reason in one line |
//! | `/metrics` | what Prometheus reads, as OpenMetrics text |
//!
//! Whoever reaches the address reads all of it, so nothing here names a user, a
//! subject, a key or a payload.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What the listener asks the process.
pub trait Probe: Send + Sync + 'static {
    /// Why the process should get no work now, in one line; nothing if it should.
    fn unready(&self) -> Option<String>;

    /// Its metrics, as OpenMetrics text.
    fn metrics(&self) -> String;
}

/// An address that is bound. [`AdminListener::serve`] answers there.
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Binds an address; port 0 takes any that is free. An address that other machines
    /// can reach is told as a warning: there is no authentication here.
    ///
    /// # Errors
    /// If the address is taken or not ours.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let failed = |source| AdminError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if address.ip().is_loopback() {
            tracing::info!(%address, "the admin listener listens");
        } else {
            tracing::warn!(
                %address,
                "the admin listener listens, and other machines can reach it: let only \
                 those of operators"
            );
        }
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`. What is being answered then is cut: nothing depends on it.
    pub async fn serve(self, probe: Arc<dyn Probe>, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accept = async {
            loop {
                let stream = match self.listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "the admin listener cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                // At the bound a connection is closed at once.
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    continue;
                };
                let (probe, stop) = (Arc::clone(&probe), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = speak(stream, probe) => {}
                    }
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept => {}
        }
    }
}

async fn speak(stream: TcpStream, probe: Arc<dyn Probe>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&*probe, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Who asks again does so on a connection that is not older than this.
    let ended = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "an admin connection ended");
    }
}

/// The answer to one request.
fn answer<B>(probe: &dyn Probe, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        let get = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, get);
        return response;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match probe.unready() {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, probe.metrics());
            let kind = HeaderValue::from_static(OPEN_METRICS);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on `{}` for operators", self.address)
    }
}

impl std::error::Error for AdminError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;

/// How long a request may take to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection is kept.
const CONNECTION_LIMIT: Duration = Duration::from_secs(300);

/// The longest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// After an error of `accept` that concerns the whole process.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Fixed(Option<&'static str>);

    impl Probe for Fixed {
        fn unready(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }

        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn three_paths_are_answered_and_nothing_else() {
        let any = "127.0.0.1:0".parse().unwrap();
        let stop = CancellationToken::new();
        let listener = AdminListener::bind(any).await.unwrap();
        let address = listener.address();
        assert!(AdminListener::bind(address).await.is_err(), "it is taken");
        let served = tokio::spawn(listener.serve(Arc::new(Fixed(Some("no bus"))), stop.clone()));
        let get =
            |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(
            ask(address, &get("/livez"))
                .await
                .starts_with("HTTP/1.1 200")
        );
        let ready = ask(address, &get("/readyz")).await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("no bus\n"));
        let metrics = ask(address, &get("/metrics")).await;
        assert!(metrics.contains("openmetrics-text") && metrics.ends_with("# EOF\n"));
        assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404"));
        let post =
            "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert!(ask(address, post).await.starts_with("HTTP/1.1 405"));
        stop.cancel();
        served.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "it is closed");
    }

    #[test]
    fn whoever_is_ready_says_so() {
        let request = Request::get("/readyz").body(()).unwrap();
        assert_eq!(answer(&Fixed(None), &request).status(), StatusCode::OK);
    }
}
