//! The part of STOMP 1.2 that a load tool speaks, written from the specification, with the headers by which RabbitMQ and ActiveMQ bound what
//! a consumer has in hand. A topic of the other modes is a queue here.

use memchr::{memchr, memmem};

/// A frame that a broker sends. Headers are as they came: what is sent back needs no unescaping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub command: &'a [u8],
    headers: &'a [u8],
    pub body: &'a [u8],
}

/// Headers of a broker's frame end before here.
const HEAD_MAX: usize = 64 << 10;

/// Takes the first whole frame off `input`: the frame, if there is more than line ends, and how many bytes were used. `Ok(None)`: more
/// bytes needed.
#[inline]
pub(crate) fn split(input: &[u8]) -> Result<Option<(Option<Frame<'_>>, usize)>, String> {
    let start = input.iter().position(|byte| !matches!(byte, b'\n' | b'\r')).unwrap_or(input.len());
    if start > 0 {
        return Ok(Some((None, start)));
    }
    let Some(end) = memmem::find(input, b"\n\n") else {
        return if input.len() > HEAD_MAX { Err("a frame whose headers do not end".into()) } else { Ok(None) };
    };
    let line = memchr(b'\n', &input[..end]).unwrap_or(end);
    let mut frame = Frame { command: &input[..line], headers: input.get(line + 1..=end).unwrap_or_default(), body: b"" };
    let rest = &input[end + 2..];
    let len = match frame.get(b"content-length") {
        Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or("content-length is no number")?,
        None => match memchr(0, rest) {
            Some(at) => at,
            None => return Ok(None),
        },
    };
    match rest.get(len) {
        None => Ok(None),
        Some(0) => {
            frame.body = &rest[..len];
            Ok(Some((Some(frame), end + 2 + len + 1)))
        }
        Some(_) => Err("a frame is longer than its content-length".into()),
    }
}

impl<'a> Frame<'a> {
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.headers;
        while let Some(end) = memchr(b'\n', rest) {
            if let Some(value) = rest[..end].strip_prefix(name).and_then(|value| value.strip_prefix(b":")) {
                return Some(value);
            }
            rest = &rest[end + 1..];
        }
        None
    }

    /// Of an ERROR: what the broker says.
    pub fn why(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let detail = self.body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        format!("{}: {}", text(self.get(b"message").unwrap_or_default()), text(detail))
    }
}

pub(crate) fn connect(out: &mut Vec<u8>, user: &str, password: &str) {
    let frame = format!("CONNECT\naccept-version:1.2\nhost:/\nlogin:{user}\npasscode:{password}\nheart-beat:0,0\n\n\0");
    out.extend_from_slice(frame.as_bytes());
}

/// Names of topics have slashes, which are no part of a queue's name to every broker.
fn queue_of(topic: &str) -> String {
    topic.replace('/', ".")
}

/// Its receipt says that it stands.
pub(crate) fn subscribe(out: &mut Vec<u8>, topic: &str, prefetch: u16, auto_ack: bool, receipt: &str) {
    let queue = queue_of(topic);
    let ack = if auto_ack { "auto" } else { "client" };
    let frame = format!(
        "SUBSCRIBE\nid:b\ndestination:/queue/{queue}\nack:{ack}\nprefetch-count:{prefetch}\nactivemq.prefetchSize:{prefetch}\nreceipt:{receipt}\n\n\0"
    );
    out.extend_from_slice(frame.as_bytes());
}

/// Appends a SEND. Returns where the five digits of its receipt, if it has one, and its payload start.
pub(crate) fn send(out: &mut Vec<u8>, topic: &str, persistent: bool, receipt: bool, payload: &[u8]) -> (usize, usize) {
    let start = out.len();
    out.extend_from_slice(format!("SEND\ndestination:/queue/{}\n", queue_of(topic)).as_bytes());
    if persistent {
        out.extend_from_slice(b"persistent:true\n");
    }
    let mut receipt_at = 0;
    if receipt {
        out.extend_from_slice(b"receipt:");
        receipt_at = out.len() - start;
        out.extend_from_slice(b"00000\n");
    }
    out.extend_from_slice(format!("content-length:{}\n\n", payload.len()).as_bytes());
    let payload_at = out.len() - start;
    out.extend_from_slice(payload);
    out.push(0);
    (receipt_at, payload_at)
}

/// What stands for a publish in its receipt.
#[inline]
pub(crate) fn put_receipt(number: u16, to: &mut [u8]) {
    let mut left = number;
    for digit in to.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

pub(crate) fn read_receipt(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[inline]
pub(crate) fn ack(out: &mut Vec<u8>, id: &[u8]) {
    out.extend_from_slice(b"ACK\nid:");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\n\n\0");
}

pub(crate) fn disconnect(out: &mut Vec<u8>, receipt: &str) {
    out.extend_from_slice(format!("DISCONNECT\nreceipt:{receipt}\n\n\0").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_has_its_receipt_and_payload_where_it_says() {
        let mut out = vec![9; 5];
        let (receipt_at, payload_at) = send(&mut out, "p/0", true, true, b"a\0b");
        put_receipt(4321, &mut out[5 + receipt_at..][..5]);
        let expected = b"SEND\ndestination:/queue/p.0\npersistent:true\nreceipt:04321\ncontent-length:3\n\na\0b\0";
        assert_eq!(&out[5..], expected);
        assert_eq!(&out[5 + payload_at..][..3], b"a\0b");
        assert_eq!(read_receipt(b"04321"), Some(4321));
        assert_eq!(read_receipt(b"ready"), None);
    }

    #[test]
    fn frames_are_cut_by_their_length_or_at_the_nul() {
        let input = b"\n\nMESSAGE\nack:x\\cy\ncontent-length:3\n\na\0b\0\nRECEIPT\nreceipt-id:7\n\n\0";
        assert_eq!(split(input).unwrap().map(|(frame, used)| (frame.is_none(), used)), Some((true, 2)));
        let (frame, used) = split(&input[2..]).unwrap().unwrap();
        let frame = frame.unwrap();
        assert_eq!((frame.command, frame.body, frame.get(b"ack")), (&b"MESSAGE"[..], &b"a\0b"[..], Some(&b"x\\cy"[..])));
        let (frame, last) = split(&input[2 + used + 1..]).unwrap().unwrap();
        assert_eq!((frame.unwrap().command, frame.unwrap().get(b"receipt-id")), (&b"RECEIPT"[..], Some(&b"7"[..])));
        assert_eq!(2 + used + 1 + last, input.len());
        for cut in 3..2 + used {
            assert!(split(&input[2..cut]).unwrap().is_none(), "{cut}");
        }
        assert!(split(b"MESSAGE\ncontent-length:1\n\nab\0").is_err());
        assert!(split(&[b'x'; HEAD_MAX + 1]).is_err());
        let (error, _) = split(b"ERROR\nmessage:Bad\n\nfirst\nsecond\0").unwrap().unwrap();
        assert_eq!(error.unwrap().why(), "Bad: first");
    }
}
