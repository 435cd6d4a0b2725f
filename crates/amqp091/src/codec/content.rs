//! The hot frames: `basic.publish` and `basic.deliver` with the header and the body behind them (AMQP 0-9-1, 4.2.6), without a copy in and
//! without an allocation out.

use super::frame::{begin_frame, end_frame, put_frame_head, FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD};
use super::wire::{put_short_str, put_u16, put_u64, Reader};
use super::CodecError;
use std::ops::Range;

const CLASS_BASIC: u16 = 60;
const PUBLISH: [u8; 4] = [0, 60, 0, 40];

/// What a `basic.publish` says, as offsets into its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    pub exchange: Range<usize>,
    pub key: Range<usize>,
    pub mandatory: bool,
    pub immediate: bool,
}

/// The reader of [`Publish`].
pub struct PublishView;

impl PublishView {
    #[inline]
    pub fn is(payload: &[u8]) -> bool {
        payload.starts_with(&PUBLISH)
    }

    /// Of a payload for which [`PublishView::is`] says yes.
    #[inline]
    pub fn parse(payload: &[u8]) -> Result<Publish, CodecError> {
        let mut reader = Reader::new(payload);
        reader.take(6)?;
        let exchange = range(&mut reader)?;
        let key = range(&mut reader)?;
        let bits = reader.u8()?;
        match reader.is_empty() {
            true => Ok(Publish { exchange, key, mandatory: bits & 1 != 0, immediate: bits & 2 != 0 }),
            false => Err(CodecError::TrailingBytes),
        }
    }
}

#[inline]
fn range(reader: &mut Reader<'_>) -> Result<Range<usize>, CodecError> {
    let len = reader.short_str()?.len();
    Ok(reader.position() - len..reader.position())
}

/// A content header frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentHead<'a> {
    pub class: u16,
    pub body_size: u64,
    /// Property flags and values.
    pub properties: &'a [u8],
}

impl<'a> ContentHead<'a> {
    /// Where the properties begin in the payload.
    pub const PROPERTIES_AT: usize = 12;

    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<ContentHead<'a>, CodecError> {
        let mut reader = Reader::new(payload);
        let class = reader.u16()?;
        let _weight = reader.u16()?;
        Ok(ContentHead { class, body_size: reader.u64()?, properties: reader.rest() })
    }
}

/// The method frame of a delivery. `consumer_tag` has its length before it.
#[inline]
pub fn put_deliver(
    out: &mut Vec<u8>,
    channel: u16,
    consumer_tag: &[u8],
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    key: &[u8],
) {
    let start = begin_frame(out, FRAME_METHOD, channel);
    out.extend_from_slice(&[0, 60, 0, 60]);
    out.extend_from_slice(consumer_tag);
    put_u64(out, delivery_tag);
    out.push(u8::from(redelivered));
    put_short_str(out, exchange);
    put_short_str(out, key);
    end_frame(out, start);
}

/// The header frame of a content whose properties are encoded already.
#[inline]
pub fn put_content_head(out: &mut Vec<u8>, channel: u16, body_size: u64, properties: &[u8]) {
    let start = begin_frame(out, FRAME_HEADER, channel);
    put_u16(out, CLASS_BASIC);
    put_u16(out, 0);
    put_u64(out, body_size);
    out.extend_from_slice(properties);
    end_frame(out, start);
}

/// The body in as many frames as `frame_max` asks for; none for an empty one.
#[inline]
pub fn put_body_frames(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: usize) {
    for piece in body.chunks(frame_max - super::FRAME_OVERHEAD) {
        put_frame_head(out, FRAME_BODY, channel, piece.len() as u32);
        out.extend_from_slice(piece);
        out.push(FRAME_END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{frame_at, Method, FRAME_MIN_SIZE};

    #[test]
    fn the_hot_readers_agree_with_the_table_of_methods() {
        let publish = Method::BasicPublish { exchange: b"orders", routing_key: b"a.b", mandatory: true, immediate: false };
        let mut out = Vec::new();
        publish.put_payload(&mut out);
        assert!(PublishView::is(&out));
        let view = PublishView::parse(&out).unwrap();
        assert_eq!((&out[view.exchange], &out[view.key], view.mandatory, view.immediate), (&b"orders"[..], &b"a.b"[..], true, false));
        for cut in 4..out.len() {
            assert_eq!(PublishView::parse(&out[..cut]), Err(CodecError::Truncated));
        }
        let deliver =
            Method::BasicDeliver { consumer_tag: b"t", delivery_tag: 7, redelivered: true, exchange: b"orders", routing_key: b"a.b" };
        let (mut one, mut two) = (Vec::new(), Vec::new());
        deliver.put(9, &mut one);
        put_deliver(&mut two, 9, b"\x01t", 7, true, b"orders", b"a.b");
        assert_eq!(one, two);
    }

    #[test]
    fn a_body_is_cut_to_frame_max() {
        let body = vec![7; 10_000];
        let mut out = Vec::new();
        put_content_head(&mut out, 1, body.len() as u64, &[0, 0]);
        put_body_frames(&mut out, 1, &body, FRAME_MIN_SIZE as usize);
        let head = frame_at(&out, 0).unwrap();
        let parsed = ContentHead::parse(head.payload(&out)).unwrap();
        assert_eq!((parsed.class, parsed.body_size, parsed.properties), (60, 10_000, &[0, 0][..]));
        assert_eq!(&head.payload(&out)[ContentHead::PROPERTIES_AT..], parsed.properties);
        let (mut at, mut sizes, mut whole) = (head.end(), Vec::new(), Vec::new());
        while let Some(frame) = frame_at(&out, at) {
            sizes.push(frame.size());
            whole.extend_from_slice(frame.payload(&out));
            at = frame.end();
        }
        assert_eq!((at, whole), (out.len(), body));
        assert_eq!(sizes, [4088, 4088, 1824]);
        let mut none = Vec::new();
        put_body_frames(&mut none, 1, b"", 4096);
        assert!(none.is_empty());
    }
}
