//! `length u32 | kind u8 | body`, little-endian; the length is the body's.

use bytes::{Buf, Bytes, BytesMut};

use super::NetError;

/// The largest batch of the log, and room for what stands in front of it.
pub const BODY_MAX: usize = (64 << 20) + 4096;
pub(super) const HEAD: usize = 5;

pub(super) fn head(kind: u8, len: usize) -> [u8; HEAD] {
    debug_assert!(len <= BODY_MAX);
    let [a, b, c, d] = (len as u32).to_le_bytes();
    [a, b, c, d, kind]
}

/// What is in a buffer.
#[derive(Debug)]
pub(super) enum Parsed {
    Frame(u8, Bytes),
    /// As many bytes are needed at least before asking again helps.
    Missing(usize),
}

/// Takes one frame off the front, without copying it.
pub(super) fn take(buffer: &mut BytesMut, max: usize) -> Result<Parsed, NetError> {
    let Some((head, rest)) = buffer.split_at_checked(HEAD) else { return Ok(Parsed::Missing(HEAD - buffer.len())) };
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = head[4];
    if len > max {
        return Err(NetError::TooLarge { len: len as u64, max });
    }
    if rest.len() < len {
        return Ok(Parsed::Missing(len - rest.len()));
    }
    buffer.advance(HEAD);
    Ok(Parsed::Frame(kind, buffer.split_to(len).freeze()))
}

/// A fuzz target: the same frames come out of bytes that arrive in pieces as out of the whole, and each frame is where its head says.
pub fn fuzz(data: &[u8]) {
    let Some((&step, data)) = data.split_first() else { return };
    let max = 1 << 12;
    let mut whole = BytesMut::from(data);
    let mut torn = BytesMut::new();
    let mut fed = 0;
    loop {
        let expected = take(&mut whole, max);
        let got = loop {
            match take(&mut torn, max) {
                Ok(Parsed::Missing(missing)) if fed < data.len() => {
                    assert!(missing > 0);
                    let next = data.len().min(fed + 1 + usize::from(step));
                    torn.extend_from_slice(&data[fed..next]);
                    fed = next;
                }
                other => break other,
            }
        };
        match (expected, got) {
            (Ok(Parsed::Frame(kind, body)), Ok(Parsed::Frame(torn_kind, torn_body))) => {
                assert_eq!((kind, &body), (torn_kind, &torn_body));
                let at = data.len() - whole.len() - body.len();
                assert_eq!(&data[at - HEAD..at], head(kind, body.len()));
                assert_eq!(&data[at..at + body.len()], body);
            }
            (Ok(Parsed::Missing(left)), Ok(Parsed::Missing(right))) => return assert_eq!(left, right),
            (Err(_), Err(_)) => return,
            (left, right) => panic!("whole: {left:?}, torn: {right:?}"),
        }
    }
}
