//! The same bytes of HTTP/2 to `h2_heads` and to hyper: a request comes of nothing that was not
//! counted as a head, and of every good head one.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Limits;
use crate::framing::{Seen, Watched};
use crate::framing_compared::{PATIENCE, RUNTIME};
use crate::h2_heads::H2Heads;
use crate::server::builder;

/// Holds what is counted against what hyper takes for requests; how many there are of both.
///
/// # Panics
/// If they do not agree.
pub(crate) fn compare(bytes: &[u8]) -> (u64, u64) {
    let all = H2Heads::default().look(bytes);
    for step in [1, 3, 2 + bytes.len() % 13] {
        let mut heads = H2Heads::default();
        let seen: u64 = bytes.chunks(step).map(|piece| heads.look(piece)).sum();
        assert_eq!(seen, all, "in pieces of {step}");
    }
    let mut seen = (0, 0);
    for step in [bytes.len().max(1), 2 + bytes.len() % 13, 1] {
        let (heads, requests) = served(bytes, step);
        assert!(
            requests <= heads && heads <= all,
            "{requests} requests of {heads} heads of {all}, in pieces of {step}"
        );
        seen = (heads, requests);
    }
    seen
}

/// Gives the bytes to hyper in pieces, and then the end of the connection.
fn served(bytes: &[u8], step: usize) -> (u64, u64) {
    let seen = Arc::new(Seen::default());
    let wire = Wire {
        bytes: Bytes::copy_from_slice(bytes),
        step,
        rests: false,
    };
    let service = service_fn({
        let seen = Arc::clone(&seen);
        move |_: Request<Incoming>| {
            seen.requests.fetch_add(1, Ordering::Relaxed);
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            async move { Ok::<_, Infallible>(response) }
        }
    });
    let limits = Limits::default();
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let watched = Watched::new(wire, &limits, Arc::clone(&seen));
            let builder = builder(&limits);
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(watched), service);
            let outcome = tokio::time::timeout(PATIENCE, connection).await;
            assert!(outcome.is_ok(), "the connection has an end");
        });
    });
    let heads = seen.h2_heads.load(Ordering::Relaxed);
    (heads, seen.requests.load(Ordering::Relaxed))
}

/// The other end of a connection, which rests after each piece: what has come is served
/// before there is more.
struct Wire {
    bytes: Bytes,
    step: usize,
    rests: bool,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.rests = !this.rests;
        if this.rests {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = this.step.min(buffer.remaining()).min(this.bytes.len());
        buffer.put_slice(&this.bytes.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
    use crate::framing_compared::PREFACE;

    /// Random choices that are the same each time.
    struct Dice(u32);

    impl Dice {
        fn roll(&mut self, sides: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            (self.0 >> 8) % sides
        }
    }

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const PRIORITY: u8 = 2;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const PADDED: u8 = 8;
    const PRIORITIZED: u8 = 32;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// `GET / http`, as the static table of HPACK has it.
    const GET: &[u8] = &[0x82, 0x84, 0x86];

    /// A connection of good frames.
    fn good(dice: &mut Dice) -> (Vec<u8>, u64) {
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let (mut stream, mut heads) = (1, 0);
        for _ in 0..1 + dice.roll(6) {
            let end = END_STREAM * u8::try_from(dice.roll(2)).unwrap();
            heads += 1;
            match dice.roll(4) {
                0 => {
                    let (first, second) = GET.split_at(dice.roll(4) as usize);
                    bytes.extend(frame(HEADERS, end, stream, first));
                    bytes.extend(frame(CONTINUATION, 0, stream, b""));
                    bytes.extend(frame(CONTINUATION, END_HEADERS, stream, second));
                }
                1 => {
                    let padded = [&[2][..], &[0, 0, 0, 0, 9], GET, &[0; 2]].concat();
                    let flags = end | END_HEADERS | PADDED | PRIORITIZED;
                    bytes.extend(frame(HEADERS, flags, stream, &padded));
                }
                _ => bytes.extend(frame(HEADERS, end | END_HEADERS, stream, GET)),
            }
            if end == 0 {
                let inner = frame(HEADERS, END_HEADERS, stream + 2, GET);
                match dice.roll(3) {
                    0 => bytes.extend(frame(DATA, END_STREAM, stream, &inner)),
                    1 => {
                        // A trailer, which says something.
                        let trailer = [&[0, 1][..], b"x", &[1], b"y"].concat();
                        let flags = END_STREAM | END_HEADERS;
                        bytes.extend(frame(HEADERS, flags, stream, &trailer));
                    }
                    _ => bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes())),
                }
            }
            match dice.roll(4) {
                0 => bytes.extend(frame(PING, 0, 0, &[7; 8])),
                1 => bytes.extend(frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 3])),
                _ => {}
            }
            stream += 2 * (1 + dice.roll(3));
        }
        (bytes, heads)
    }

    #[test]
    fn of_good_heads_come_as_many_requests() {
        let mut dice = Dice(0x2545_f491);
        for _ in 0..300 {
            let (bytes, heads) = good(&mut dice);
            let text = bytes.escape_ascii().to_string();
            assert_eq!(compare(&bytes), (heads, heads), "{text}");
        }
    }

    #[test]
    fn of_broken_ones_come_no_more_than_were_counted() {
        let mut dice = Dice(0x9e37_79b9);
        let (mut all, mut served) = (0, 0);
        for _ in 0..600 {
            let (mut bytes, _) = good(&mut dice);
            for _ in 0..1 + dice.roll(3) {
                // Behind the preface and the length of the settings.
                let at = 28 + dice.roll(u32::try_from(bytes.len()).unwrap() - 28) as usize;
                bytes[at] = match dice.roll(4) {
                    0 => bytes[at] ^ (1 << dice.roll(8)),
                    1 => 0,
                    2 => u8::try_from(dice.roll(16)).unwrap(),
                    _ => u8::try_from(dice.roll(256)).unwrap(),
                };
            }
            let (heads, requests) = compare(&bytes);
            all += heads;
            served += requests;
        }
        // Otherwise nothing was broken, or all of it.
        assert!(served > 300 && all > served + 100, "{served} of {all}");
    }
}
