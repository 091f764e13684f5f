//! How many heads a client has sent on a connection of HTTP/2.
//!
//! The library refuses some of them by itself, by a reset, by 431 or by the end of the
//! connection, and tells nobody. What it does not refuse becomes a request; so the difference
//! is what it has refused, and it takes no more to know it than the beginnings of frames
//! ([RFC 9113 §4.1]).
//!
//! [RFC 9113 §4.1]: https://www.rfc-editor.org/rfc/rfc9113#section-4.1

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where the bytes of one connection stand.
#[derive(Debug, Default)]
pub(crate) struct H2Heads {
    state: State,
    /// The newest stream.
    last: u32,
    /// Whether its head has begun and not ended.
    begun: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// So much of the preface has come.
    Preface(usize),
    /// So many bytes of the beginning of a frame have come.
    Begin([u8; 9], usize),
    /// So many bytes of a frame are to come.
    Payload { left: usize, ends_head: bool },
    /// HTTP/1.
    Unwatched,
}

impl Default for State {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl H2Heads {
    /// Looks at the next bytes. Returns how many heads, of requests and not of trailers, end in
    /// them.
    pub(crate) fn look(&mut self, mut bytes: &[u8]) -> u64 {
        let mut heads = 0;
        loop {
            self.state = match self.state {
                State::Unwatched => return heads,
                State::Payload { left: 0, ends_head } => {
                    heads += u64::from(ends_head);
                    State::Begin([0; 9], 0)
                }
                State::Begin(head, 9) => self.frame(head),
                _ if bytes.is_empty() => return heads,
                State::Payload { left, ends_head } => {
                    let here = left.min(bytes.len());
                    bytes = bytes.get(here..).unwrap_or_default();
                    let left = left - here;
                    State::Payload { left, ends_head }
                }
                State::Preface(seen) => {
                    let rest = PREFACE.get(seen..).unwrap_or_default();
                    let here = rest.len().min(bytes.len());
                    let (now, later) = bytes.split_at(here);
                    bytes = later;
                    match seen + here {
                        _ if !rest.starts_with(now) => State::Unwatched,
                        seen if seen == PREFACE.len() => State::Begin([0; 9], 0),
                        seen => State::Preface(seen),
                    }
                }
                State::Begin(mut head, seen) => {
                    let rest = head.get_mut(seen..).unwrap_or_default();
                    let here = rest.len().min(bytes.len());
                    let (now, later) = bytes.split_at(here);
                    for (to, from) in rest.iter_mut().zip(now) {
                        *to = *from;
                    }
                    bytes = later;
                    State::Begin(head, seen + here)
                }
            };
        }
    }

    /// What a frame that begins so is.
    fn frame(&mut self, [a, b, c, kind, flags, d, e, f, g]: [u8; 9]) -> State {
        let left = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([d & 0x7f, e, f, g]);
        if kind == HEADERS {
            // A client's streams are odd, and each is newer than those before it.
            self.begun = stream % 2 == 1 && stream > self.last;
            self.last = self.last.max(stream);
        }
        let ends_head =
            self.begun && matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0;
        if ends_head {
            self.begun = false;
        }
        State::Payload {
            left: usize::try_from(left).unwrap_or(usize::MAX),
            ends_head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0x80, 0, 0, stream];
        [&head[..], payload].concat()
    }

    /// How many heads are seen, in one piece and in all pairs.
    fn look(frames: &[Vec<u8>]) -> u64 {
        let bytes = [PREFACE.to_vec(), frames.concat()].concat();
        let whole = H2Heads::default().look(&bytes);
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut opened = H2Heads::default();
            assert_eq!(opened.look(first) + opened.look(second), whole, "{cut}");
        }
        let mut bytewise = H2Heads::default();
        let seen: u64 = bytes.iter().map(|b| bytewise.look(&[*b])).sum();
        assert_eq!(seen, whole);
        whole
    }

    #[test]
    fn heads_are_counted_once_and_whole() {
        let settings = || frame(4, 0, 0, &[]);
        let head = |stream| frame(HEADERS, END_HEADERS, stream, b"abc");
        // Nothing that stands in content begins a frame.
        let content = frame(0, 0, 1, &head(9));
        let rows: [(&[Vec<u8>], u64); 9] = [
            (&[], 0),
            (&[settings()], 0),
            (&[settings(), head(1), head(3), head(5)], 3),
            (&[head(1), content.clone(), head(3)], 2),
            // Trailers, streams of the past, and a server's.
            (&[head(3), content, head(3), head(1), head(2)], 1),
            (
                &[
                    frame(HEADERS, 0, 1, b"a"),
                    frame(CONTINUATION, 0, 1, b""),
                    frame(CONTINUATION, END_HEADERS, 1, b"b"),
                    frame(CONTINUATION, END_HEADERS, 1, b"b"),
                ],
                1,
            ),
            (&[frame(HEADERS, 0, 1, b"a"), frame(8, 4, 1, b"abcd")], 0),
            (&[frame(HEADERS, END_HEADERS, 1, b"")], 1),
            // Not all of it came.
            (&[head(1), head(3)[..11].to_vec()], 1),
        ];
        for (number, (frames, heads)) in rows.iter().enumerate() {
            assert_eq!(look(frames), *heads, "{number}");
        }
    }

    #[test]
    fn what_is_not_http_2_has_no_frames() {
        let head = frame(HEADERS, END_HEADERS, 1, b"");
        for before in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"] {
            let bytes = [before.as_bytes(), &head].concat();
            assert_eq!(H2Heads::default().look(&bytes), 0);
        }
    }
}
