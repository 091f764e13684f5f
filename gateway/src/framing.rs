//! Heads of HTTP/1 that say twice how long their content is.
//!
//! With `Transfer-Encoding` beside `Content-Length`, or with two lengths, a proxy in front may
//! take something else for the content than the edge does ([RFC 9112 §6.3]). hyper goes by the
//! chunks, and takes the length away before anybody sees it. So heads are looked at here, on
//! their way to hyper, and of one that says it twice hyper gets a line that is none in its
//! place: it answers 400 and closes the connection.
//!
//! ```text
//! client ─► [head] content [head] content … ─► hyper
//!             └ read by hyper's own parser    └ counted or unchunked, to know where it ends
//! ```
//!
//! Nothing but that is decided here: what a request is, and where it ends, hyper says.
//!
//! [RFC 9112 §6.3]: https://www.rfc-editor.org/rfc/rfc9112#section-6.3

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use httparse::{Header, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Limits;
use crate::h2_heads::H2Heads;

/// What hyper gets in the place of such a head. No head has a null, whatever stands before it.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// What was seen of a connection, on its way to hyper and behind it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whether a head was refused here.
    pub(crate) framed_twice: AtomicBool,
    /// How many heads came over HTTP/2.
    pub(crate) h2_heads: AtomicU64,
    /// How many requests came out of hyper.
    pub(crate) requests: AtomicU64,
}

impl Seen {
    /// How many heads HTTP/2 has refused by itself. Only at the end of the connection: until
    /// then some may be on their way.
    pub(crate) fn refused_by_h2(&self) -> u64 {
        let requests = self.requests.load(Ordering::Relaxed);
        let heads = self.h2_heads.load(Ordering::Relaxed);
        heads.saturating_sub(requests)
    }
}

/// For so many headers there is room without an allocation.
const FEW_HEADERS: usize = 64;

/// A connection whose heads are looked at.
pub(crate) struct Watched<S> {
    inner: S,
    heads: Heads,
    h2_heads: H2Heads,
    seen: Arc<Seen>,
    /// What is still to come in the place of a refused head; nothing comes after that.
    instead: Option<&'static [u8]>,
}

impl<S> Watched<S> {
    /// Says in `seen` what it sees.
    pub(crate) fn new(inner: S, limits: &Limits, seen: Arc<Seen>) -> Self {
        Self {
            inner,
            heads: Heads::new(limits.headers, limits.header_bytes),
            h2_heads: H2Heads::default(),
            seen,
            instead: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.instead.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
            let new = buffer.filled().get(before..).unwrap_or_default();
            let h2_heads = this.h2_heads.look(new);
            if h2_heads > 0 {
                this.seen.h2_heads.fetch_add(h2_heads, Ordering::Relaxed);
            }
            let Some(good) = this.heads.look(new) else {
                return Poll::Ready(Ok(()));
            };
            buffer.set_filled(before + good);
            this.seen.framed_twice.store(true, Ordering::Relaxed);
            this.instead = Some(NO_HEAD);
        }
        let left = this.instead.unwrap_or_default();
        let (now, later) = left.split_at(left.len().min(buffer.remaining()));
        buffer.put_slice(now);
        this.instead = Some(later);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS cannot say goodbye to who is gone, and hyper would tell that in the place of why
        // it ended the connection.
        let _ = ready!(Pin::new(&mut self.get_mut().inner).poll_shutdown(cx));
        Poll::Ready(Ok(()))
    }
}

/// Where the bytes of one connection stand.
pub(crate) struct Heads {
    state: State,
    /// The beginning of a head that is not whole yet.
    begun: Vec<u8>,
    max_headers: usize,
    max_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    /// So many bytes of content are to come.
    Content(u64),
    Chunks(Chunks),
    /// HTTP/2, another protocol, or what hyper refuses by itself.
    Unwatched,
}

/// A whole head, or why there is none.
enum Found {
    Partial,
    Malformed,
    FramedTwice,
    Whole { length: usize, then: State },
}

impl Heads {
    pub(crate) fn new(max_headers: usize, max_bytes: usize) -> Self {
        Self {
            state: State::Head,
            begun: Vec::new(),
            max_headers,
            max_bytes,
        }
    }

    /// Looks at the next bytes. Returns how many of them are good if a head is not.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.state {
                State::Unwatched => return None,
                State::Content(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= here as u64;
                    at += here;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                }
                State::Chunks(chunks) => {
                    let (read, state) = chunks.read(rest);
                    at += read;
                    self.state = state;
                }
                State::Head => {
                    let before = self.begun.len();
                    match self.head(rest) {
                        Found::Partial => return None,
                        Found::FramedTwice => return Some(at),
                        Found::Malformed => self.state = State::Unwatched,
                        Found::Whole { length, then } => {
                            at += length.saturating_sub(before);
                            self.state = then;
                        }
                    }
                    self.begun = Vec::new();
                }
            }
        }
        None
    }

    /// How much of a head is there; nothing where content is read, or nothing any more.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn head_so_far(&self) -> Option<usize> {
        matches!(self.state, State::Head).then_some(self.begun.len())
    }

    /// Whether it is left to hyper to refuse what comes.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_unwatched(&self) -> bool {
        matches!(self.state, State::Unwatched)
    }

    /// Reads the head that `rest` goes on with.
    fn head(&mut self, rest: &[u8]) -> Found {
        if self.begun.is_empty() {
            let found = read(rest, self.max_headers);
            if !matches!(found, Found::Partial) {
                return found;
            }
            // Longer than anything that hyper waits for.
            if rest.len() > self.max_bytes {
                return Found::Malformed;
            }
            self.begun.extend_from_slice(rest);
            return found;
        }
        let seen = self.begun.len().saturating_sub(3);
        self.begun.extend_from_slice(rest);
        // Parsed again only when it can be whole: who sends byte by byte costs no more.
        let new = self.begun.get(seen..).unwrap_or_default();
        let ends = |end: &[u8]| new.windows(end.len()).any(|window| window == end);
        if ends(b"\n\r\n") || ends(b"\n\n") {
            return read(&self.begun, self.max_headers);
        }
        if self.begun.len() > self.max_bytes {
            return Found::Malformed;
        }
        Found::Partial
    }
}

/// Reads one head with the parser and the limits that hyper has.
fn read(bytes: &[u8], max_headers: usize) -> Found {
    // As large as most are: nothing is written there but what a head has.
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; FEW_HEADERS];
    let mut many = Vec::new();
    let headers = match few.get_mut(..max_headers) {
        Some(headers) => headers,
        None => {
            many.resize(max_headers, MaybeUninit::uninit());
            many.as_mut_slice()
        }
    };
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, headers) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Found::Partial,
        Err(_) => return Found::Malformed,
    };
    let values = |name: &'static str| {
        let headers = request.headers.iter();
        headers.filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    let mut lengths = values("content-length");
    let is_encoded = values("transfer-encoding").next().is_some();
    let then = match (lengths.next(), is_encoded) {
        (Some(_), true) => return Found::FramedTwice,
        (Some(_), false) if lengths.next().is_some() => return Found::FramedTwice,
        (Some(length), false) => match number(length.value) {
            Some(0) => State::Head,
            Some(length) => State::Content(length),
            None => return Found::Malformed,
        },
        (None, true) => State::Chunks(Chunks::Begin),
        (None, false) => State::Head,
    };
    Found::Whole { length, then }
}

/// Digits, and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// Where in the chunks of a content ([RFC 9112 §7.1]) the next byte is.
///
/// [RFC 9112 §7.1]: https://www.rfc-editor.org/rfc/rfc9112#section-7.1
#[derive(Debug, Clone, Copy)]
enum Chunks {
    Begin,
    Size(u64),
    /// After the size, until the end of its line.
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataReturn,
    DataEnd,
    /// A line of the trailer begins, or the last one.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
}

/// What comes after a byte.
enum Next {
    Chunks(Chunks),
    /// The content has ended.
    End,
    /// hyper refuses it too.
    Malformed,
}

impl Chunks {
    /// Reads up to the end of the content; how far, and what the next bytes are.
    fn read(self, bytes: &[u8]) -> (usize, State) {
        let (mut at, mut chunks) = (0, self);
        while let Some(byte) = bytes.get(at) {
            if let Self::Data(left) = chunks {
                let rest = bytes.len() - at;
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                at += here;
                chunks = match left - here as u64 {
                    0 => Self::DataReturn,
                    left => Self::Data(left),
                };
                continue;
            }
            at += 1;
            chunks = match chunks.after(*byte) {
                Next::Chunks(chunks) => chunks,
                Next::End => return (at, State::Head),
                Next::Malformed => return (at, State::Unwatched),
            };
        }
        (at, State::Chunks(chunks))
    }

    fn after(self, byte: u8) -> Next {
        let next = match (self, byte) {
            (Self::Begin, _) => Self::sized(0, byte),
            (Self::Size(size), b'\r') => Some(Self::SizeEnd(size)),
            (Self::Size(size), b' ' | b'\t' | b';') => Some(Self::Extension(size)),
            (Self::Size(size), _) => Self::sized(size, byte),
            (Self::Extension(_), b'\n') => None,
            (Self::Extension(size), b'\r') => Some(Self::SizeEnd(size)),
            (Self::Extension(size), _) => Some(Self::Extension(size)),
            (Self::SizeEnd(0), b'\n') => Some(Self::Line),
            (Self::SizeEnd(size), b'\n') => Some(Self::Data(size)),
            (Self::DataReturn, b'\r') => Some(Self::DataEnd),
            (Self::DataEnd, b'\n') => Some(Self::Begin),
            (Self::Line, b'\r') => Some(Self::LastEnd),
            (Self::Trailer, b'\r') => Some(Self::TrailerEnd),
            (Self::Line | Self::Trailer, _) => Some(Self::Trailer),
            (Self::TrailerEnd, b'\n') => Some(Self::Line),
            (Self::LastEnd, b'\n') => return Next::End,
            _ => None,
        };
        next.map_or(Next::Malformed, Next::Chunks)
    }

    fn sized(size: u64, digit: u8) -> Option<Self> {
        let digit = char::from(digit).to_digit(16)?;
        let size = size.checked_mul(16)?.checked_add(u64::from(digit))?;
        Some(Self::Size(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are good before a head that is not, in one piece and in all pairs.
    fn look(text: &str) -> Option<usize> {
        let heads = || Heads::new(64, 16 << 10);
        let bytes = text.as_bytes();
        let whole = heads().look(bytes);
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut heads = heads();
            let refused = heads.look(first).or_else(|| heads.look(second));
            assert_eq!(refused.is_some(), whole.is_some(), "{cut} of {text:?}");
        }
        let mut bytewise = heads();
        let refused = bytes.iter().find_map(|b| bytewise.look(&[*b]));
        assert_eq!(refused.is_some(), whole.is_some(), "{text:?}");
        whole
    }

    fn post(lines: &str, content: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n{content}")
    }

    const TWICE: &str =
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n";

    #[test]
    fn a_head_that_frames_its_content_twice_is_found_wherever_it_begins() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "TRANSFER-ENCODING: chunked\r\nx: y\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: x\r\ntransfer-encoding: x\r\n",
        ] {
            assert_eq!(look(&post(lines, "")), Some(0), "{lines}");
        }
        for before in [
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "\r\n\r\nGET / HTTP/1.1\nhost: x\n\n".to_owned(),
            post("content-length: 0\r\n", ""),
            post("content-length: 9\r\n", "123456789"),
            // What is content is no head.
            post(&format!("content-length: {}\r\n", TWICE.len()), TWICE),
            post("transfer-encoding: chunked\r\n", "0\r\n\r\n"),
            post(
                "transfer-encoding: gzip, chunked\r\n",
                "2\r\n{}\r\n0\r\n\r\n",
            ),
            post(
                "transfer-encoding: chunked\r\n",
                &format!(
                    "{:X};a=\"b\"\r\n{TWICE}\r\n1 \r\nx\r\n000\r\na: b\nc\r\nd: e\r\n\r\n",
                    TWICE.len()
                ),
            ),
        ] {
            assert_eq!(look(&before), None, "{before}");
            let both = format!("{before}{before}{TWICE}");
            assert_eq!(look(&both), Some(2 * before.len()), "{before}");
        }
    }

    #[test]
    fn what_hyper_refuses_and_what_is_not_http_1_passes() {
        for before in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nx\r\n\r\n".to_owned(),
            post("content-length: +5\r\n", ""),
            post("content-length: 99999999999999999999\r\n", ""),
            post("transfer-encoding: chunked\r\n", "2\n{}\r\n0\r\n\r\n"),
            post("transfer-encoding: chunked\r\n", "\r\n"),
            post("transfer-encoding: chunked\r\n", "10000000000000000\r\n"),
            post("transfer-encoding: chunked\r\n", "1\r\nxx\r\n"),
            post("transfer-encoding: chunked\r\n", "1;\n\r\n"),
            "x".repeat(20 << 10),
        ] {
            let mut heads = Heads::new(64, 16 << 10);
            assert_eq!(heads.look(before.as_bytes()), None);
            assert_eq!(heads.look(TWICE.as_bytes()), None, "{before}");
        }
    }

    #[test]
    fn no_more_of_a_head_is_kept_than_it_may_be_long() {
        let mut heads = Heads::new(64, 1 << 10);
        for _ in 0..100 {
            assert_eq!(heads.look(&[b'x'; 100]), None);
            assert!(heads.begun.len() <= (1 << 10) + 100);
        }
        assert!(heads.begun.is_empty());
    }
}
