//! Where one frame ends and the next begins.
//!
//! A frame is a command line, header lines, an empty line, the body and a NUL; then any number of line ends, which are heart-beats too.
//! The body ends where content-length says, or at the first NUL. Lines end with LF; a CR before it is dropped in every version.

use super::DecodeError;

/// What a client may send. ActiveMQ's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the command line.
    pub command: usize,
    /// Bytes of one header line.
    pub header: usize,
    pub headers: usize,
    pub body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { command: 1024, header: 10 << 10, headers: 1000, body: 100 << 20 }
    }
}

/// What a look at the input found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Whole {
    /// Bytes at the head of the input that are whole frames and heart-beats.
    pub bytes: usize,
    /// How many more bytes the next frame is known to lack; 0 = unknown.
    pub lacks: usize,
}

/// Where in a frame the input ended. Offsets count from the start of the torn frame.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Between,
    Head {
        /// Where the current line starts.
        line: usize,
        /// No end of line before this.
        looked: usize,
        lines: usize,
        /// What the first content-length says.
        length: Option<usize>,
    },
    /// The NUL must stand here.
    Counted { end: usize },
    /// Looking for the NUL.
    Delimited { body: usize, looked: usize },
}

/// Finds whole frames; a torn tail is never looked at twice.
#[derive(Clone, Debug)]
pub struct Splitter {
    /// Of the frame that is looked at.
    limits: Limits,
    /// Of those behind it.
    later: Limits,
    state: State,
}

impl Splitter {
    pub fn new(limits: Limits) -> Splitter {
        Splitter::with_opening(limits, limits)
    }

    /// With limits of its own for the first frame, which comes from somebody who has not logged in.
    pub fn with_opening(opening: Limits, later: Limits) -> Splitter {
        Splitter { limits: opening, later, state: State::Between }
    }

    /// `input` begins with what was not whole the last time. On an error, `Whole` says what stands before it.
    pub fn split(&mut self, input: &[u8]) -> (Whole, Option<DecodeError>) {
        let mut start = 0;
        loop {
            let Some(rest) = input.get(start..) else { return (Whole { bytes: start, lacks: 0 }, None) };
            match self.frame(rest) {
                Ok(Step::Frame(size)) => start += size,
                Ok(Step::Torn { lacks }) => return (Whole { bytes: start, lacks }, None),
                Ok(Step::Nothing(size)) => return (Whole { bytes: start + size, lacks: 0 }, None),
                Err(error) => return (Whole { bytes: start, lacks: 0 }, Some(error)),
            }
        }
    }

    /// One frame at the head of `rest`.
    fn frame(&mut self, rest: &[u8]) -> Result<Step, DecodeError> {
        loop {
            match self.state {
                State::Between => {
                    let first = rest.iter().position(|byte| !matches!(byte, b'\n' | b'\r'));
                    match first {
                        None => return Ok(Step::Nothing(rest.len())),
                        Some(0) => self.state = State::Head { line: 0, looked: 0, lines: 0, length: None },
                        Some(ends) => return Ok(Step::Frame(ends)),
                    }
                }
                State::Head { line, looked, lines, length } => {
                    let Some(found) = memchr::memchr2(b'\n', 0, &rest[looked..]) else {
                        self.check_line(lines, rest.len() - line)?;
                        self.state = State::Head { line, looked: rest.len(), lines, length };
                        return Ok(Step::Torn { lacks: 0 });
                    };
                    let at = looked + found;
                    if rest[at] == 0 {
                        return Err(DecodeError::NulInHead);
                    }
                    self.check_line(lines, at - line)?;
                    let text = trim_cr(&rest[line..at]);
                    self.state = match text.is_empty() {
                        true => self.body(at + 1, length)?,
                        false => {
                            let length = if lines == 0 || length.is_some() { length } else { content_length(text)? };
                            State::Head { line: at + 1, looked: at + 1, lines: lines + 1, length }
                        }
                    };
                }
                State::Counted { end } => {
                    let Some(last) = rest.get(end) else { return Ok(Step::Torn { lacks: end + 1 - rest.len() }) };
                    if *last != 0 {
                        return Err(DecodeError::NoNul);
                    }
                    self.state = State::Between;
                    self.limits = self.later;
                    return Ok(Step::Frame(end + 1));
                }
                State::Delimited { body, looked } => {
                    let found = memchr::memchr(0, &rest[looked..]);
                    let end = found.map_or(rest.len(), |found| looked + found);
                    if end - body > self.limits.body {
                        return Err(DecodeError::BodyTooLong(self.limits.body));
                    }
                    if found.is_none() {
                        self.state = State::Delimited { body, looked: end };
                        return Ok(Step::Torn { lacks: 0 });
                    }
                    self.state = State::Between;
                    self.limits = self.later;
                    return Ok(Step::Frame(end + 1));
                }
            }
        }
    }

    fn check_line(&self, lines: usize, len: usize) -> Result<(), DecodeError> {
        match lines {
            0 if len > self.limits.command => Err(DecodeError::CommandTooLong(self.limits.command)),
            0 => Ok(()),
            _ if len > self.limits.header => Err(DecodeError::HeaderTooLong(self.limits.header)),
            // The empty line counts as none.
            _ if lines > self.limits.headers && len > 1 => Err(DecodeError::TooManyHeaders(self.limits.headers)),
            _ => Ok(()),
        }
    }

    fn body(&self, body: usize, length: Option<usize>) -> Result<State, DecodeError> {
        match length {
            Some(length) if length > self.limits.body => Err(DecodeError::BodyTooLong(self.limits.body)),
            Some(length) => Ok(State::Counted { end: body + length }),
            None => Ok(State::Delimited { body, looked: body }),
        }
    }
}

enum Step {
    /// A frame, or line ends before one, of this size.
    Frame(usize),
    /// Nothing but line ends.
    Nothing(usize),
    Torn {
        lacks: usize,
    },
}

pub(super) fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What this line says, if it is a content-length.
pub(super) fn content_length(line: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some(value) = line.strip_prefix(b"content-length:") else { return Ok(None) };
    let text = std::str::from_utf8(value.trim_ascii()).map_err(|_| DecodeError::ContentLength)?;
    // No sign, and nothing that does not fit: the limit of the body is far below.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(DecodeError::ContentLength);
    }
    Ok(Some(text.parse().unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(input: &[u8]) -> (Whole, Option<DecodeError>) {
        Splitter::new(Limits { command: 10, header: 20, headers: 2, body: 8 }).split(input)
    }

    #[test]
    fn frames_end_at_the_nul_or_where_content_length_says() {
        let whole = |input: &[u8]| split(input).0.bytes;
        assert_eq!(whole(b"A\n\nbody\0"), 8);
        assert_eq!(whole(b"A\r\n\r\nbody\0"), 10);
        assert_eq!(whole(b"\n\r\n\nA\n\n\0\n\n"), 10);
        assert_eq!(whole(b"A\ncontent-length:3\n\n\0\0\0\0B\n"), 24);
        assert_eq!(whole(b"A\n\n\0B\n\n\0C\n"), 8);
        assert_eq!(split(b"A\ncontent-length:3\n\n\0"), (Whole { bytes: 0, lacks: 3 }, None));
        // Of repeated headers the first counts.
        assert_eq!(whole(b"A\ncontent-length:0\ncontent-length:3\n\n\0"), 38);
    }

    #[test]
    fn each_bound_has_its_error_and_what_came_before_stays_whole() {
        for (input, error) in [
            (&b"A\n\n\0ABCDEFGHIJK"[..], DecodeError::CommandTooLong(10)),
            (b"A\n\n\0A\nabcdefghijklmnopqrstu", DecodeError::HeaderTooLong(20)),
            (b"A\n\n\0A\na:1\nb:2\nc:3\n", DecodeError::TooManyHeaders(2)),
            (b"A\n\n\0A\ncontent-length:9\n\n", DecodeError::BodyTooLong(8)),
            (b"A\n\n\0A\n\n123456789", DecodeError::BodyTooLong(8)),
            (b"A\n\n\0A\na:1\0", DecodeError::NulInHead),
            (b"A\n\n\0A\ncontent-length:-1\n", DecodeError::ContentLength),
            (b"A\n\n\0A\ncontent-length:\n", DecodeError::ContentLength),
            (b"A\n\n\0A\ncontent-length:1\n\nab", DecodeError::NoNul),
        ] {
            let (whole, found) = split(input);
            assert_eq!((whole.bytes, found), (4, Some(error)), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn the_first_frame_has_limits_of_its_own() {
        let later = Limits { command: 10, header: 20, headers: 2, body: 8 };
        let splitter = || Splitter::with_opening(Limits { body: 2, ..later }, later);
        assert_eq!(splitter().split(b"A\n\n12\0A\n\n12345678\0").0.bytes, 18);
        assert_eq!(splitter().split(b"A\n\n123\0").1, Some(DecodeError::BodyTooLong(2)));
    }

    #[test]
    fn a_frame_may_be_cut_anywhere() {
        let input = b"\nSEND\r\ndestination:/queue/a\ncontent-length:4\n\na\0b\n\0\n\nDISCONNECT\nreceipt:1\n\n\0";
        let all = Splitter::new(Limits::default()).split(input).0.bytes;
        assert_eq!(all, input.len());
        for cut in 0..input.len() {
            let mut splitter = Splitter::new(Limits::default());
            let (first, error) = splitter.split(&input[..cut]);
            assert_eq!(error, None);
            let (second, error) = splitter.split(&input[first.bytes..]);
            assert_eq!((first.bytes + second.bytes, error), (all, None), "cut at {cut}");
        }
        // And byte by byte.
        let (mut splitter, mut from) = (Splitter::new(Limits::default()), 0);
        for to in 1..=input.len() {
            from += splitter.split(&input[from..to]).0.bytes;
        }
        assert_eq!(from, input.len());
    }
}
