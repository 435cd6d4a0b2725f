//! The part of AMQP 0-9-1 that a load tool speaks, written from the specification and RabbitMQ's extensions to it. One channel for each
//! connection; publishes go through the default exchange, so a topic of the other modes is a queue's name here.

/// Method frames are `class.method`.
pub(crate) type MethodId = (u16, u16);

pub(crate) const HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
pub(crate) const METHOD: u8 = 1;
pub(crate) const CONTENT: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;

pub(crate) const START: MethodId = (10, 10);
const START_OK: MethodId = (10, 11);
pub(crate) const TUNE: MethodId = (10, 30);
const TUNE_OK: MethodId = (10, 31);
const OPEN: MethodId = (10, 40);
pub(crate) const OPEN_OK: MethodId = (10, 41);
pub(crate) const CLOSE: MethodId = (10, 50);
pub(crate) const CLOSE_OK: MethodId = (10, 51);
pub(crate) const BLOCKED: MethodId = (10, 60);
pub(crate) const UNBLOCKED: MethodId = (10, 61);
const CHANNEL_OPEN: MethodId = (20, 10);
pub(crate) const CHANNEL_OPEN_OK: MethodId = (20, 11);
pub(crate) const CHANNEL_CLOSE: MethodId = (20, 40);
const QUEUE_DECLARE: MethodId = (50, 10);
pub(crate) const QUEUE_DECLARE_OK: MethodId = (50, 11);
const QUEUE_BIND: MethodId = (50, 20);
pub(crate) const QUEUE_BIND_OK: MethodId = (50, 21);
const QUEUE_DELETE: MethodId = (50, 40);
pub(crate) const QUEUE_DELETE_OK: MethodId = (50, 41);
const QOS: MethodId = (60, 10);
pub(crate) const QOS_OK: MethodId = (60, 11);
const CONSUME: MethodId = (60, 20);
pub(crate) const CONSUME_OK: MethodId = (60, 21);
const PUBLISH: MethodId = (60, 40);
pub(crate) const DELIVER: MethodId = (60, 60);
pub(crate) const ACK: MethodId = (60, 80);
pub(crate) const NACK: MethodId = (60, 120);
const CONFIRM_SELECT: MethodId = (85, 10);
pub(crate) const CONFIRM_SELECT_OK: MethodId = (85, 11);

/// Asked for in tune-ok; a body of this size less eight bytes is one frame.
pub(crate) const FRAME_MAX: u32 = 131_072;
/// The largest payload that this tool sends in one frame.
pub(crate) const PAYLOAD_MAX: usize = FRAME_MAX as usize - 8;
/// The largest channel number that [`crate::modes`] uses.
pub(crate) const CHANNEL_MAX: u16 = 2047;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub kind: u8,
    pub channel: u16,
    pub payload: &'a [u8],
}

/// Takes the first whole frame off `input`: the frame and its length. `Ok(None)`: more bytes needed.
#[inline]
pub(crate) fn split(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let Some(head) = input.first_chunk::<7>() else { return Ok(None) };
    // A server that does not speak this version answers with the header of one that it does.
    if head.starts_with(b"AMQP") {
        return Err("the broker speaks another version of AMQP".into());
    }
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if size > FRAME_MAX {
        return Err(format!("a frame of {size} bytes, where {FRAME_MAX} were agreed"));
    }
    let end = 7 + size as usize;
    match input.get(end) {
        None => Ok(None),
        Some(&END) => {
            let channel = u16::from_be_bytes([head[1], head[2]]);
            Ok(Some((Frame { kind: head[0], channel, payload: &input[7..end] }, end + 1)))
        }
        Some(other) => Err(format!("a frame ends with {other:#04x}")),
    }
}

impl<'a> Frame<'a> {
    pub fn method(&self) -> Option<MethodId> {
        let id = self.payload.first_chunk::<4>().filter(|_| self.kind == METHOD)?;
        Some((u16::from_be_bytes([id[0], id[1]]), u16::from_be_bytes([id[2], id[3]])))
    }

    /// Of a basic.deliver: delivery tag and whether it was delivered before.
    #[inline]
    pub fn deliver(&self) -> Option<(u64, bool)> {
        let at = 5 + usize::from(*self.payload.get(4)?);
        Some((u64_at(self.payload, at)?, self.payload.get(at + 8)? & 1 != 0))
    }

    /// Of a basic.ack or basic.nack: delivery tag, and whether it stands for all before it.
    #[inline]
    pub fn ack(&self) -> Option<(u64, bool)> {
        Some((u64_at(self.payload, 4)?, self.payload.get(12)? & 1 != 0))
    }

    /// Of a queue.declare-ok: messages that are ready.
    pub fn depth(&self) -> Option<u32> {
        let at = 5 + usize::from(*self.payload.get(4)?);
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    /// Of a content header.
    #[inline]
    pub fn body_size(&self) -> Option<u64> {
        u64_at(self.payload, 4)
    }

    /// Of a close: code and text.
    pub fn why(&self) -> String {
        let code = self.payload.get(4..6).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
        let len = usize::from(self.payload.get(6).copied().unwrap_or(0));
        let text: &'a [u8] = self.payload.get(7..7 + len).unwrap_or_default();
        format!("{code} {}", String::from_utf8_lossy(text))
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let size = (out.len() - start - 7) as u32;
    out[start + 3..start + 7].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

fn method(out: &mut Vec<u8>, channel: u16, id: MethodId, arguments: &[u8]) {
    frame(out, METHOD, channel, |out| {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&id.1.to_be_bytes());
        out.extend_from_slice(arguments);
    });
}

/// Names are checked to fit when they are made.
fn short(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= 255);
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn start_ok(out: &mut Vec<u8>, user: &str, password: &str) {
    // No client properties.
    let mut arguments = vec![0; 4];
    short(&mut arguments, "PLAIN");
    let response = format!("\0{user}\0{password}");
    arguments.extend_from_slice(&(response.len() as u32).to_be_bytes());
    arguments.extend_from_slice(response.as_bytes());
    short(&mut arguments, "en_US");
    method(out, 0, START_OK, &arguments);
}

/// tune-ok without heartbeats, and connection.open.
pub(crate) fn open(out: &mut Vec<u8>) {
    let mut arguments = CHANNEL_MAX.to_be_bytes().to_vec();
    arguments.extend_from_slice(&FRAME_MAX.to_be_bytes());
    arguments.extend_from_slice(&[0, 0]);
    method(out, 0, TUNE_OK, &arguments);
    method(out, 0, OPEN, b"\x01/\x00\x00");
}

pub(crate) fn channel_open(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, CHANNEL_OPEN, &[0]);
}

pub(crate) fn confirm_select(out: &mut Vec<u8>) {
    method(out, 1, CONFIRM_SELECT, &[0]);
}

pub(crate) fn queue_declare(out: &mut Vec<u8>, channel: u16, name: &str, durable: bool) {
    declare(out, channel, name, u8::from(durable) << 1);
}

/// Asks for a queue that is there: the answer says what it holds.
pub(crate) fn queue_look(out: &mut Vec<u8>, channel: u16, name: &str) {
    declare(out, channel, name, 1);
}

fn declare(out: &mut Vec<u8>, channel: u16, name: &str, flags: u8) {
    let mut arguments = vec![0, 0];
    short(&mut arguments, name);
    arguments.push(flags);
    arguments.extend_from_slice(&[0; 4]);
    method(out, channel, QUEUE_DECLARE, &arguments);
}

pub(crate) fn queue_bind(out: &mut Vec<u8>, channel: u16, name: &str, exchange: &str, key: &str) {
    let mut arguments = vec![0, 0];
    [name, exchange, key].iter().for_each(|text| short(&mut arguments, text));
    arguments.extend_from_slice(&[0; 5]);
    method(out, channel, QUEUE_BIND, &arguments);
}

pub(crate) fn queue_delete(out: &mut Vec<u8>, channel: u16, name: &str) {
    let mut arguments = vec![0, 0];
    short(&mut arguments, name);
    arguments.push(0);
    method(out, channel, QUEUE_DELETE, &arguments);
}

pub(crate) fn consume(out: &mut Vec<u8>, name: &str, prefetch: u16, auto_ack: bool) {
    let count = prefetch.to_be_bytes();
    method(out, 1, QOS, &[0, 0, 0, 0, count[0], count[1], 0]);
    let mut arguments = vec![0, 0];
    short(&mut arguments, name);
    short(&mut arguments, "bench");
    arguments.push(u8::from(auto_ack) << 1);
    arguments.extend_from_slice(&[0; 4]);
    method(out, 1, CONSUME, &arguments);
}

#[inline]
pub(crate) fn ack(out: &mut Vec<u8>, tag: u64) {
    let mut arguments = [1; 9];
    arguments[..8].copy_from_slice(&tag.to_be_bytes());
    method(out, 1, ACK, &arguments);
}

/// Appends a publish to a queue: method, content header and one body frame. Returns where the payload starts, counted from the beginning.
pub(crate) fn publish(out: &mut Vec<u8>, queue: &str, delivery_mode: u8, payload: &[u8]) -> usize {
    debug_assert!(payload.len() <= PAYLOAD_MAX);
    let start = out.len();
    let mut arguments = vec![0, 0, 0];
    short(&mut arguments, queue);
    arguments.push(0);
    method(out, 1, PUBLISH, &arguments);
    frame(out, CONTENT, 1, |out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        // 4.2.6.1: bit 12 of the flags is the delivery mode, and it is the only property.
        out.extend_from_slice(&[0x10, 0x00, delivery_mode]);
    });
    let payload_at = out.len() + 7 - start;
    frame(out, BODY, 1, |out| out.extend_from_slice(payload));
    payload_at
}

pub(crate) fn close(out: &mut Vec<u8>) {
    method(out, 0, CLOSE, &[0, 200, 0, 0, 0, 0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_three_frames_and_its_payload_stands_where_it_says() {
        let mut out = vec![9; 5];
        let at = publish(&mut out, "q", 2, b"hello");
        assert_eq!(&out[5 + at..5 + at + 5], b"hello");
        let (first, used) = split(&out[5..]).unwrap().unwrap();
        assert_eq!((first.method(), first.channel), (Some(PUBLISH), 1));
        assert_eq!(first.payload, b"\x00\x3c\x00\x28\x00\x00\x00\x01q\x00");
        let (second, more) = split(&out[5 + used..]).unwrap().unwrap();
        assert_eq!((second.kind, second.body_size()), (CONTENT, Some(5)));
        let (third, last) = split(&out[5 + used + more..]).unwrap().unwrap();
        assert_eq!((third.kind, third.payload), (BODY, &b"hello"[..]));
        assert_eq!(5 + used + more + last, out.len());
    }

    #[test]
    fn a_torn_frame_waits_and_a_wrong_one_is_told() {
        let mut out = Vec::new();
        ack(&mut out, 77);
        for cut in 0..out.len() {
            assert!(split(&out[..cut]).unwrap().is_none());
        }
        assert_eq!(split(&out).unwrap().unwrap().0.ack(), Some((77, true)));
        *out.last_mut().unwrap() = 0;
        assert!(split(&out).is_err());
        assert!(split(&HEADER).is_err());
        assert!(split(&[1, 0, 1, 0xff, 0, 0, 0]).is_err());
    }

    #[test]
    fn what_a_broker_says_is_read() {
        let mut out = Vec::new();
        method(&mut out, 1, DELIVER, b"\x05bench\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x01q");
        assert_eq!(split(&out).unwrap().unwrap().0.deliver(), Some((256, true)));
        let mut out = Vec::new();
        method(&mut out, 0, CLOSE, b"\x01\x40\x05why a\x00\x00\x00\x00");
        assert_eq!(split(&out).unwrap().unwrap().0.why(), "320 why a");
        let mut out = Vec::new();
        method(&mut out, 1, QUEUE_DECLARE_OK, b"\x01q\x00\x01\x00\x02\x00\x00\x00\x00");
        assert_eq!(split(&out).unwrap().unwrap().0.depth(), Some(65_538));
        let mut out = Vec::new();
        method(&mut out, 1, DELIVER, b"\x05be");
        assert_eq!(split(&out).unwrap().unwrap().0.deliver(), None);
    }
}
