//! The same bytes to `framing` and to hyper: what one takes for the end of a request, the
//! other does too.
//!
//! ```text
//! bytes ─┬─► hyper, byte by byte ──► where it sees heads end, and what their content is
//!        ├─► framing, byte by byte ► where it sees heads end, and what it refuses
//!        └─► hyper behind framing ─► the same requests, without what is refused
//! ```
//!
//! hyper that gets one byte at a time asks for the next one only when it needs it, so that
//! how much it has read when a request comes out is where that one's head ends.
#![allow(clippy::indexing_slicing, clippy::panic)]

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Limits;
use crate::framing::{self, Heads, Watched};
use crate::h2_compared;
use crate::server::builder;

/// What begins HTTP/2, where framing means something else.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request that came out of hyper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// How much had been read when it came.
    head_end: usize,
    has_length: bool,
    /// How long its content is; none if that did not end well.
    content: Option<usize>,
}

/// Where framing sees heads end, and with what it ends itself.
struct Framed {
    ends: Vec<usize>,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All was read.
    Data,
    /// The head that ends here says twice how long its content is.
    Refused(usize),
    /// What comes is left to hyper, which has to refuse it.
    Unwatched,
}

/// Holds framing against hyper.
///
/// # Panics
/// If they do not agree.
pub(crate) fn compare(bytes: &[u8]) {
    let framed = framed(bytes);
    if bytes.starts_with(PREFACE) {
        assert_eq!(framed.end, End::Unwatched);
        h2_compared::compare(bytes);
        return;
    }
    let alone = served(bytes, 1, false);
    for (at, (seen, end)) in alone.requests.iter().zip(&framed.ends).enumerate() {
        assert_eq!(seen.head_end, *end, "head {at}");
    }
    let passed = framed.ends.len();
    match (alone.requests.get(passed), framed.end) {
        (None, _) => {}
        // hyper would go by the chunks, or by one of two lengths that are equal.
        (Some(seen), End::Refused(end)) => assert_eq!(seen.head_end, end),
        (Some(seen), _) => panic!("hyper goes on where framing has stopped: {seen:?}"),
    }

    let contents = |requests: &[Seen]| -> Vec<Option<usize>> {
        requests.iter().map(|seen| seen.content).collect()
    };
    let expected = &alone.requests[..passed.min(alone.requests.len())];
    for step in [1, 2 + bytes.len() % 13, bytes.len().max(1)] {
        let watched = served(bytes, step, true);
        assert_eq!(
            contents(&watched.requests),
            contents(expected),
            "in pieces of {step}"
        );
        if watched.refused {
            assert!(matches!(framed.end, End::Refused(_)), "{:?}", framed.end);
        }
        // Where hyper would have taken the head that is refused.
        if alone.requests.len() > passed {
            let mut answers = watched.answers.windows(12).rev();
            let last = answers.find(|text| text.starts_with(b"HTTP/1.1 "));
            assert_eq!(last, Some(&b"HTTP/1.1 400"[..]));
        }
    }
    let mut begin = 0;
    for seen in expected {
        let (lengths, encodings) = framings(&bytes[begin..seen.head_end]);
        assert!(lengths + encodings.min(1) <= 1, "it passed: {seen:?}");
        // Chunks end with an empty line, where a head is seen to begin.
        let length = seen.content.filter(|_| seen.has_length);
        begin = seen.head_end + length.unwrap_or(0);
    }
}

/// How many lines say how long the content is, and how many how it is encoded, of the head
/// that these bytes end with.
fn framings(bytes: &[u8]) -> (usize, usize) {
    // But for what comes after the last line, and the empty line.
    let lines = bytes.split(|b| *b == b'\n').rev().skip(2);
    let head = lines.take_while(|line| !matches!(line, [] | [b'\r']));
    let names: Vec<&[u8]> = head
        .filter_map(|line| line.split(|b| *b == b':').next())
        .collect();
    let count = |wanted: &[u8]| {
        let named = names.iter().filter(|n| n.eq_ignore_ascii_case(wanted));
        named.count()
    };
    (count(b"content-length"), count(b"transfer-encoding"))
}

fn framed(bytes: &[u8]) -> Framed {
    let limits = Limits::default();
    let mut heads = Heads::new(limits.headers, limits.header_bytes);
    let mut ends = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        let before = heads.head_so_far();
        if heads.look(&[*byte]).is_some() {
            let end = End::Refused(at + 1);
            return Framed { ends, end };
        }
        if heads.is_unwatched() {
            let end = End::Unwatched;
            return Framed { ends, end };
        }
        if before.is_some() && heads.head_so_far() != before.map(|length| length + 1) {
            ends.push(at + 1);
        }
    }
    let end = End::Data;
    Framed { ends, end }
}

/// What came of a connection.
struct Served {
    requests: Vec<Seen>,
    answers: Vec<u8>,
    /// Whether framing refused a head.
    refused: bool,
}

/// Gives the bytes to hyper in pieces, and then the end of the connection.
fn served(bytes: &[u8], step: usize, watched: bool) -> Served {
    let at = Arc::new(AtomicUsize::new(0));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let wire = Wire {
        bytes: Bytes::copy_from_slice(bytes),
        step,
        at: Arc::clone(&at),
        answers: Arc::clone(&answers),
    };
    let requests = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let requests = Arc::clone(&requests);
        move |request: Request<Incoming>| {
            assert!(request.version() <= Version::HTTP_11);
            let number = {
                let mut requests = requests.lock();
                requests.push(Seen {
                    head_end: at.load(Ordering::Relaxed),
                    has_length: request.headers().contains_key(CONTENT_LENGTH),
                    content: None,
                });
                requests.len() - 1
            };
            let requests = Arc::clone(&requests);
            async move {
                if let Ok(content) = request.into_body().collect().await {
                    requests.lock()[number].content = Some(content.to_bytes().len());
                }
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = StatusCode::NOT_FOUND;
                Ok::<_, Infallible>(response)
            }
        }
    });
    let limits = Limits::default();
    let seen = Arc::new(framing::Seen::default());
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let builder = builder(&limits);
            let outcome = if watched {
                let watched = Watched::new(wire, &limits, Arc::clone(&seen));
                let watched = TokioIo::new(watched);
                let connection = builder.serve_connection_with_upgrades(watched, service);
                tokio::time::timeout(PATIENCE, connection).await
            } else {
                let wire = TokioIo::new(wire);
                let connection = builder.serve_connection_with_upgrades(wire, service);
                tokio::time::timeout(PATIENCE, connection).await
            };
            assert!(outcome.is_ok(), "the connection has an end");
        });
    });
    let (requests, answers) = (requests.lock().clone(), answers.lock().clone());
    Served {
        requests,
        answers,
        refused: seen.framed_twice.load(Ordering::Relaxed),
    }
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    pub(crate) static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap_or_else(|error| panic!("{error}"));
}

/// The other end of a connection: says what it has to say in pieces, and then no more.
struct Wire {
    bytes: Bytes,
    step: usize,
    at: Arc<AtomicUsize>,
    answers: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let length = this.step.min(buffer.remaining()).min(this.bytes.len());
        buffer.put_slice(&this.bytes.split_to(length));
        this.at.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers.lock().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random choices that are the same each time.
    struct Dice(u32);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            (self.0 >> 8) as usize % sides
        }

        fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
            of[self.roll(of.len())]
        }

        /// A connection with a few requests, most of them sound in most of what they say.
        fn connection(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            for _ in 0..1 + self.roll(4) {
                bytes.extend(self.request());
            }
            if self.roll(6) == 0 {
                bytes.truncate(self.roll(bytes.len()));
            }
            if self.roll(4) == 0 && !bytes.is_empty() {
                let at = self.roll(bytes.len());
                let odd = b"\0\t\n\r :;,x05\x80\xff"[self.roll(13)];
                match self.roll(3) {
                    0 => bytes[at] = odd,
                    1 => bytes.insert(at, odd),
                    _ => {
                        bytes.remove(at);
                    }
                }
            }
            bytes
        }

        fn request(&mut self) -> Vec<u8> {
            let content = match self.roll(5) {
                0 => String::new(),
                1 => "GET /b HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
                2 => "POST / HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n"
                    .to_owned(),
                _ => "x".repeat(self.roll(20)),
            };
            let length = content.len();
            let (mut lines, mut body) = (vec!["host: x".to_owned()], String::new());
            match self.roll(16) {
                0 => {}
                1..=5 => {
                    lines.push(format!("content-length: {length}"));
                    body = content;
                }
                6..=10 => {
                    lines.push("transfer-encoding: chunked".to_owned());
                    body = self.chunks(&content);
                }
                11 | 12 => {
                    let name = self.one(&["Content-Length", "CONTENT-LENGTH", "content-length"]);
                    let odd = ["0", "00", "+1", "1,1", "-0", "1 1", "0x1", "", "1\t", "\t1"];
                    let value = match self.roll(3) {
                        0 => self.one(&odd).to_owned(),
                        1 => format!("000{length}"),
                        _ => format!("{length} "),
                    };
                    lines.push(format!("{name}:{value}"));
                    body = content;
                }
                13 | 14 => {
                    let name = self.one(&["Transfer-Encoding", "TRANSFER-encoding"]);
                    let value = self.one(&[
                        "chunked",
                        "Chunked",
                        "gzip, chunked",
                        "chunked, gzip",
                        "identity",
                        "",
                        ", chunked",
                        "chunked,",
                        "chunked;q=1",
                        "\"chunked\"",
                        "gzip,\tchunked",
                        "chunked\t",
                        "chunked, chunked",
                        "xchunked",
                    ]);
                    lines.push(format!("{name}: {value}"));
                    body = self.chunks(&content);
                }
                _ => {
                    // Twice.
                    for _ in 0..2 + self.roll(2) {
                        lines.push(match self.roll(2) {
                            0 => format!("content-length: {length}"),
                            _ => "transfer-encoding: chunked".to_owned(),
                        });
                    }
                    body = self.chunks(&content);
                }
            }
            for _ in 0..self.roll(5).saturating_sub(2) {
                let at = self.roll(lines.len() + 1);
                let more = self.one(&[
                    "x: y",
                    "x:",
                    "x: \u{e9}",
                    "x : y",
                    " x: y",
                    "x",
                    ":",
                    "connection: close",
                    "connection: keep-alive",
                    "upgrade: websocket",
                    "connection: upgrade",
                    "expect: 100-continue",
                    "content-length-x: 5",
                    "x: content-length: 5",
                    "te: chunked",
                    "trailer: x",
                    "transfer-encoding2: chunked",
                ]);
                lines.insert(at, more.to_owned());
            }
            if self.roll(40) == 0 {
                lines.extend((0..63 + self.roll(4)).map(|n| format!("x-{n}: y")));
            }
            let mut bytes = String::new();
            if self.roll(8) == 0 {
                bytes.push_str(self.one(&["\r\n", "\n", "\r\n\r\n", "\r", "\n\r\n", " "]));
            }
            let method = self.one(&[
                "POST", "POST", "GET", "HEAD", "OPTIONS", "CONNECT", "P", "PRI",
            ]);
            let odd = self.roll(8) == 0;
            let target = if odd {
                self.one(&["/a?b", "*", "http://x/", "x:1", "/\u{e9}", "//", "x", ""])
            } else {
                "/"
            };
            let odd = self.roll(12) == 0;
            let version = if odd {
                self.one(&["HTTP/1.0", "HTTP/1.2", "HTTP/2.0"])
            } else {
                "HTTP/1.1"
            };
            let end = if self.roll(8) == 0 { "\n" } else { "\r\n" };
            for line in [format!("{method} {target} {version}")]
                .iter()
                .chain(&lines)
            {
                let here = if self.roll(40) == 0 { "\n" } else { end };
                bytes.push_str(&format!("{line}{here}"));
            }
            bytes.push_str(end);
            bytes.push_str(&body);
            bytes.into_bytes()
        }

        /// Content in chunks, in most of the ways in which they can be written.
        fn chunks(&mut self, content: &str) -> String {
            let mut chunks = String::new();
            let mut rest = content;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(1 + self.roll(rest.len()));
                let size = match self.roll(4) {
                    0 => format!("{:X}", now.len()),
                    1 => format!("000{:x}", now.len()),
                    _ => format!("{:x}", now.len()),
                };
                let extension = if self.roll(3) == 0 {
                    self.one(&[
                        ";a",
                        ";a=b",
                        " ",
                        "\t",
                        " ; a",
                        ";a=\"\u{e9}\"",
                        ";a\rb",
                        ";\r",
                    ])
                } else {
                    ""
                };
                let odd = self.roll(30) == 0;
                let end = if odd {
                    self.one(&["\n", "\r", "", "\n\n", "x\r\n"])
                } else {
                    "\r\n"
                };
                chunks.push_str(&format!("{size}{extension}\r\n{now}{end}"));
                rest = later;
            }
            chunks.push_str(self.one(&["0", "0", "0", "000", "0;x", "0 "]));
            let end = "\r\n\r\n";
            let odd = [
                "\r\nx: y\r\n\r\n",
                "\r\ncontent-length: 5\r\nx\r\n\r\n",
                "\n\n",
                "\r\n\n",
                "\r\nx: y\n\r\n",
                "\r\n: \r\n\r\n",
                "\r\n\r\r\n\r\n",
                "",
            ];
            chunks.push_str(if self.roll(5) == 0 {
                self.one(&odd)
            } else {
                end
            });
            chunks
        }
    }

    #[test]
    fn framing_and_hyper_agree_on_where_each_request_ends() {
        let mut dice = Dice(0x2545_f491);
        let (mut requests, mut contents, mut refused) = (0, 0, 0);
        for _ in 0..3_000 {
            let bytes = dice.connection();
            let text = bytes.escape_ascii().to_string();
            let agreed = std::panic::catch_unwind(|| compare(&bytes));
            assert!(agreed.is_ok(), "{text}");
            let framed = framed(&bytes);
            refused += usize::from(matches!(framed.end, End::Refused(_)));
            let served = served(&bytes, bytes.len().max(1), true);
            requests += served.requests.len();
            contents += served
                .requests
                .iter()
                .filter(|s| s.content > Some(0))
                .count();
        }
        // Otherwise they agree on nothing.
        let enough = requests > 2_000 && contents > 800 && refused > 150;
        assert!(enough, "{requests} {contents} {refused}");
    }
}
