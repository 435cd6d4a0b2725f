//! A topic is a literal list of segments; a pattern is the same list with wildcards.
//!
//! Two spellings are read into one form, so that MQTT `a/b` and AMQP `a.b` are the same name and a pattern of either language
//! matches a name of either:
//!
//! ```text
//!   syntax   separator   one segment   any number of segments, none included
//!   MQTT        /             +        #   only as the last segment (MQTT 5.0, 4.7.1.2)
//!   AMQP        .             *        #   anywhere, any number of times (AMQP 0-9-1, 3.1.3.3)
//! ```
//! A dot inside a segment is `%2E` in an AMQP key ([`broker_api::spelling`]); [`words_of`] takes such escapes out before a key is split.
//!
//! Names whose first segment starts with `$` are hidden from patterns that start with a wildcard (MQTT 5.0, 4.7.2; we apply it to
//! AMQP's wildcards as well, because both languages read one topic space).

use std::fmt;
use std::sync::{Arc, LazyLock};

use ahash::RandomState;
use broker_api::spelling::{has_escapes, read_word};
use smallvec::SmallVec;

/// Segments in a name or pattern, at most. An AMQP key has 255 bytes and so at most 256 words; Mosquitto stops at 200 levels.
/// The bound keeps trees shallow enough to be dropped by plain recursion.
pub const LEVELS_MAX: usize = 256;

/// Bytes of a name or pattern, at most: what an MQTT string can hold (MQTT 5.0, 1.5.4).
pub const TEXT_MAX: usize = 65_535;

/// Hashes are keyed per process, so that clients cannot choose names that collide. They are never stored.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    HASHER.hash_one(bytes)
}

/// The hash of a list of segments, from the hashes of its segments. Order matters.
fn fold_hash(so_far: u64, segment: u64) -> u64 {
    (so_far.rotate_left(23) ^ segment).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// How a name or pattern is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Syntax {
    Mqtt,
    Amqp,
    /// AMQP without escapes: divided by zero bytes. Only what [`words_of`] makes.
    Words,
}

/// A key or binding key of AMQP that has escapes, with its words as they are meant. `None` for all others, which say what they mean;
/// and for one with a zero byte, which no topic has.
#[inline]
pub fn words_of(syntax: Syntax, text: &[u8]) -> Option<Vec<u8>> {
    if syntax != Syntax::Amqp || !text.contains(&b'%') {
        return None;
    }
    unescaped(text)
}

#[cold]
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    if text.contains(&0) || !has_escapes(text) {
        return None;
    }
    let mut words = Vec::with_capacity(text.len());
    for (position, word) in text.split(|byte| *byte == b'.').enumerate() {
        if position > 0 {
            words.push(0);
        }
        words.extend_from_slice(&read_word(word));
    }
    Some(words)
}

impl Syntax {
    pub fn separator(self) -> u8 {
        match self {
            Syntax::Mqtt => b'/',
            Syntax::Amqp => b'.',
            Syntax::Words => 0,
        }
    }

    fn one(self) -> &'static [u8] {
        match self {
            Syntax::Mqtt => b"+",
            Syntax::Amqp | Syntax::Words => b"*",
        }
    }

    /// An AMQP key without a byte has no words, so `#` matches it and `*` does not; MQTT knows no empty name (5.0, 4.7.3).
    fn split(self, text: &[u8]) -> Result<impl Iterator<Item = &[u8]>, TopicError> {
        if text.len() > TEXT_MAX {
            return Err(TopicError::TooLong);
        }
        if text.is_empty() && self == Syntax::Mqtt {
            return Err(TopicError::Empty);
        }
        let separator = self.separator();
        let words = if text.is_empty() { None } else { Some(text.split(move |byte| *byte == separator)) };
        Ok(words.into_iter().flatten())
    }
}

/// Why a text is no name or no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("a topic needs at least one character")]
    Empty,
    #[error("a topic has at most {TEXT_MAX} bytes")]
    TooLong,
    #[error("a topic has at most {LEVELS_MAX} levels")]
    TooManyLevels,
    /// An MQTT name with `+` or `#` in it (MQTT 5.0, 4.7.1).
    #[error("a topic name may not contain the wildcards + and #")]
    WildcardInName,
    /// An MQTT wildcard that is not alone in its level, or a `#` that is not last (MQTT 5.0, 4.7.1.2 and 4.7.1.3).
    #[error("a wildcard stands alone in its level, and # is the last level")]
    MisplacedWildcard,
}

/// One segment of a name, with its hash: computed once, used by every table the name is looked up in.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub bytes: &'a [u8],
    pub(super) hash: u64,
}

impl<'a> Segment<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Segment { bytes, hash: hash_bytes(bytes) }
    }
}

/// What a message was published to. Borrows the text it was read from.
#[derive(Clone, Debug)]
pub struct Name<'a> {
    segments: SmallVec<[Segment<'a>; 8]>,
    hash: u64,
}

impl<'a> Name<'a> {
    pub fn parse(syntax: Syntax, text: &'a [u8]) -> Result<Self, TopicError> {
        if syntax == Syntax::Mqtt && text.iter().any(|byte| matches!(byte, b'+' | b'#')) {
            return Err(TopicError::WildcardInName);
        }
        Self::from_segments(syntax.split(text)?)
    }

    /// With what [`words_of`] found in the text.
    pub fn read(syntax: Syntax, text: &'a [u8], words: Option<&'a [u8]>) -> Result<Self, TopicError> {
        words.map_or_else(|| Self::parse(syntax, text), |words| Self::parse(Syntax::Words, words))
    }

    pub fn mqtt(text: &'a [u8]) -> Result<Self, TopicError> {
        Self::parse(Syntax::Mqtt, text)
    }

    pub fn amqp(text: &'a [u8]) -> Result<Self, TopicError> {
        Self::parse(Syntax::Amqp, text)
    }

    pub fn from_segments(words: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, TopicError> {
        let mut name = Name { segments: SmallVec::new(), hash: 0 };
        for word in words {
            if name.segments.len() == LEVELS_MAX {
                return Err(TopicError::TooManyLevels);
            }
            let segment = Segment::new(word);
            name.hash = fold_hash(name.hash, segment.hash);
            name.segments.push(segment);
        }
        Ok(name)
    }

    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The first segment; `None` for the empty AMQP key.
    pub fn first(&self) -> Option<Segment<'a>> {
        self.segments.first().copied()
    }

    /// Hidden from patterns that start with a wildcard.
    pub fn is_hidden(&self) -> bool {
        self.segments.first().is_some_and(|segment| segment.bytes.first() == Some(&b'$'))
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// One position of a pattern.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    Literal(Segment<'a>),
    /// Exactly one segment, the empty one included.
    One,
    /// Any number of segments, none included.
    Many,
}

/// What a subscriber or a binding asks for. Borrows the text it was read from.
#[derive(Clone, Debug)]
pub struct Pattern<'a> {
    pieces: SmallVec<[Piece<'a>; 8]>,
}

impl<'a> Pattern<'a> {
    pub fn parse(syntax: Syntax, text: &'a [u8]) -> Result<Self, TopicError> {
        let mut pieces = SmallVec::new();
        for word in syntax.split(text)? {
            if pieces.len() == LEVELS_MAX {
                return Err(TopicError::TooManyLevels);
            }
            if syntax == Syntax::Mqtt && matches!(pieces.last(), Some(Piece::Many)) {
                return Err(TopicError::MisplacedWildcard);
            }
            pieces.push(if word == syntax.one() {
                Piece::One
            } else if word == b"#" {
                Piece::Many
            } else if syntax == Syntax::Mqtt && word.iter().any(|byte| matches!(byte, b'+' | b'#')) {
                return Err(TopicError::MisplacedWildcard);
            } else {
                Piece::Literal(Segment::new(word))
            });
        }
        Ok(Pattern { pieces })
    }

    /// With what [`words_of`] found in the text.
    pub fn read(syntax: Syntax, text: &'a [u8], words: Option<&'a [u8]>) -> Result<Self, TopicError> {
        words.map_or_else(|| Self::parse(syntax, text), |words| Self::parse(Syntax::Words, words))
    }

    pub fn mqtt(text: &'a [u8]) -> Result<Self, TopicError> {
        Self::parse(Syntax::Mqtt, text)
    }

    pub fn amqp(text: &'a [u8]) -> Result<Self, TopicError> {
        Self::parse(Syntax::Amqp, text)
    }

    /// The pattern that matches this name and no other.
    pub fn exactly(name: &Name<'a>) -> Self {
        Pattern { pieces: name.segments.iter().map(|segment| Piece::Literal(*segment)).collect() }
    }

    pub fn pieces(&self) -> &[Piece<'a>] {
        &self.pieces
    }

    pub fn has_wildcard(&self) -> bool {
        self.pieces.iter().any(|piece| !matches!(piece, Piece::Literal(_)))
    }

    /// `#` alone and the like: the first position is no literal.
    pub fn starts_wild(&self) -> bool {
        matches!(self.pieces.first(), Some(Piece::One | Piece::Many))
    }

    /// The hash of the name this pattern equals, when it has no wildcard.
    pub(super) fn exact_hash(&self) -> Option<u64> {
        self.pieces.iter().try_fold(0, |hash, piece| match piece {
            Piece::Literal(segment) => Some(fold_hash(hash, segment.hash)),
            Piece::One | Piece::Many => None,
        })
    }

    /// Whether the pattern matches, hidden names considered. Time is at most pieces x segments.
    pub fn matches(&self, name: &Name<'_>) -> bool {
        !(name.is_hidden() && self.starts_wild()) && self.matches_plainly(name)
    }

    /// Glob matching with one point of return: when a later piece fails, only the latest `#` need take one segment more.
    fn matches_plainly(&self, name: &Name<'_>) -> bool {
        let (pieces, segments) = (&self.pieces[..], name.segments());
        let (mut at_piece, mut at_segment) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at_segment < segments.len() {
            match pieces.get(at_piece) {
                Some(Piece::Many) => {
                    retry = Some((at_piece + 1, at_segment));
                    at_piece += 1;
                }
                Some(Piece::One) => (at_piece, at_segment) = (at_piece + 1, at_segment + 1),
                Some(Piece::Literal(wanted)) if wanted.bytes == segments[at_segment].bytes => {
                    (at_piece, at_segment) = (at_piece + 1, at_segment + 1)
                }
                _ => match &mut retry {
                    None => return false,
                    Some((after_many, taken_to)) => {
                        *taken_to += 1;
                        (at_piece, at_segment) = (*after_many, *taken_to);
                    }
                },
            }
        }
        pieces[at_piece..].iter().all(|piece| matches!(piece, Piece::Many))
    }
}

/// A name or pattern in one owned run of bytes.
///
/// Every segment is followed by a zero byte; the bytes 0 and 1 inside a segment become `1 1` and `1 2`, the wildcards `1 3` and
/// `1 4`. So equal lists have equal bytes, and all names below a name form one range of the byte order, which the retained index
/// walks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encoded(Arc<[u8]>);

pub(super) const END: u8 = 0;
const ESCAPE: u8 = 1;
const ESCAPED_END: u8 = 1;
const ESCAPED_ESCAPE: u8 = 2;
const ONE: u8 = 3;
const MANY: u8 = 4;

impl Encoded {
    pub fn of_name(name: &Name<'_>) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for segment in name.segments() {
            push_segment(&mut bytes, segment.bytes);
        }
        Encoded(bytes.into())
    }

    pub fn of_pattern(pattern: &Pattern<'_>) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for piece in pattern.pieces() {
            match piece {
                Piece::Literal(segment) => push_segment(&mut bytes, segment.bytes),
                Piece::One => bytes.extend([ESCAPE, ONE, END]),
                Piece::Many => bytes.extend([ESCAPE, MANY, END]),
            }
        }
        Encoded(bytes.into())
    }

    /// For what was written with [`Encoded::as_bytes`]; `None` if these bytes are no encoded name.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let whole = bytes.last().is_none_or(|last| *last == END);
        let levels = bytes.iter().filter(|byte| **byte == END).count();
        let mut escaped = false;
        for byte in bytes {
            if escaped && !matches!(*byte, ESCAPED_END | ESCAPED_ESCAPE) {
                return None;
            }
            escaped = !escaped && *byte == ESCAPE;
        }
        (whole && levels <= LEVELS_MAX).then(|| Encoded(bytes.into()))
    }

    /// A place in the byte order, which need not be a name.
    pub(super) fn at(bytes: &[u8]) -> Self {
        Encoded(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The segments of a name, borrowed unless they hold an escaped byte.
    pub fn segments(&self) -> impl Iterator<Item = std::borrow::Cow<'_, [u8]>> {
        split_encoded(&self.0).map(unescape)
    }

    /// The name in this spelling.
    pub fn join(&self, separator: u8) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.0.len());
        for (position, segment) in self.segments().enumerate() {
            if position > 0 {
                text.push(separator);
            }
            text.extend_from_slice(&segment);
        }
        text
    }

    pub(super) fn is_name(&self, name: &Name<'_>) -> bool {
        let mut stored = split_encoded(&self.0);
        let same = |segment: &Segment<'_>| stored.next().is_some_and(|chunk| *unescape(chunk) == *segment.bytes);
        name.segments().iter().all(same) && stored.next().is_none()
    }

    /// For patterns without a wildcard: whether this is the name they equal.
    pub(super) fn is_exactly(&self, pattern: &Pattern<'_>) -> bool {
        let mut stored = split_encoded(&self.0);
        let same = |piece: &Piece<'_>| match piece {
            Piece::Literal(segment) => stored.next().is_some_and(|chunk| *unescape(chunk) == *segment.bytes),
            Piece::One | Piece::Many => false,
        };
        pattern.pieces().iter().all(same) && stored.next().is_none()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.segments().map(|segment| String::from_utf8_lossy(&segment).into_owned())).finish()
    }
}

pub(super) fn push_segment(into: &mut Vec<u8>, segment: &[u8]) {
    if !segment.iter().any(|byte| *byte <= ESCAPE) {
        into.extend_from_slice(segment);
    } else {
        for byte in segment {
            match *byte {
                END => into.extend([ESCAPE, ESCAPED_END]),
                ESCAPE => into.extend([ESCAPE, ESCAPED_ESCAPE]),
                other => into.push(other),
            }
        }
    }
    into.push(END);
}

/// The encoded segments, without their ends.
pub(super) fn split_encoded(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == END).map(|chunk| chunk.strip_suffix(&[END]).unwrap_or(chunk))
}

pub(super) fn unescape(chunk: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if !chunk.contains(&ESCAPE) {
        return chunk.into();
    }
    let mut plain = Vec::with_capacity(chunk.len());
    let mut bytes = chunk.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match *byte {
            ESCAPE => match bytes.next() {
                Some(&ESCAPED_END) => END,
                _ => ESCAPE,
            },
            other => other,
        });
    }
    plain.into()
}
