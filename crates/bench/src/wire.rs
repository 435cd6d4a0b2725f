//! The part of MQTT 3.1.1 and 5.0 that a load tool speaks, written from the specifications.
//!
//! Frames are split and decoded in place: nothing is allocated per message. Anything the tool does not expect from a
//! broker is an error, since a witness that shrugs at odd packets is no witness.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    V311,
    V5,
}

/// What a CONNECT says.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive_secs: u16,
    pub user: Option<String>,
    pub password: Option<String>,
    /// MQTT 5.0 only: 0 leaves the property out.
    pub receive_max: u16,
}

pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;

/// The largest frame taken from a broker; the tool itself never asks for a larger payload.
pub(crate) const FRAME_SIZE_MAX: usize = 4 * 1024 * 1024;

/// A whole packet: its first byte and what follows the length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub head: u8,
    pub body: &'a [u8],
}

/// Takes the first whole frame off `input`: the frame and its length with the header. `Ok(None)`: more bytes needed.
#[inline]
pub(crate) fn split(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let Some(&head) = input.first() else { return Ok(None) };
    let (mut len, mut shift, mut at) = (0usize, 0u32, 1usize);
    loop {
        let Some(&byte) = input.get(at) else { return Ok(None) };
        at += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        // MQTT 5.0, 1.5.5: at most four bytes.
        if shift > 21 {
            return Err("malformed remaining length".into());
        }
    }
    if len > FRAME_SIZE_MAX {
        return Err(format!("a packet of {len} bytes is larger than this tool takes"));
    }
    Ok(input.get(at..at + len).map(|body| (Frame { head, body }, at + len)))
}

/// A received PUBLISH, without its topic: the payload names its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub qos: u8,
    pub dup: bool,
    /// 0 at QoS 0.
    pub packet_id: u16,
    pub payload: &'a [u8],
}

#[inline]
pub(crate) fn read_publish<'a>(frame: Frame<'a>, version: Version) -> Option<Publish<'a>> {
    let qos = (frame.head >> 1) & 3;
    if qos == 3 {
        return None;
    }
    let mut at = 2 + usize::from(read_u16(frame.body, 0)?);
    let mut packet_id = 0;
    if qos > 0 {
        packet_id = read_u16(frame.body, at).filter(|id| *id != 0)?;
        at += 2;
    }
    if version == Version::V5 {
        at = skip_properties(frame.body, at)?;
    }
    Some(Publish { qos, dup: frame.head & 8 != 0, packet_id, payload: frame.body.get(at..)? })
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP, and the start of SUBACK: the identifier and the reason code (0 when left out).
#[inline]
pub(crate) fn read_ack(frame: Frame<'_>, version: Version) -> Option<(u16, u8)> {
    let id = read_u16(frame.body, 0).filter(|id| *id != 0)?;
    // MQTT 5.0, 3.4.2.1: a remaining length of 2 means success.
    let reason = if version == Version::V5 { frame.body.get(2).copied().unwrap_or(0) } else { 0 };
    Some((id, reason))
}

/// The return codes of a SUBACK.
pub(crate) fn read_suback<'a>(frame: Frame<'a>, version: Version) -> Option<&'a [u8]> {
    let at = if version == Version::V5 { skip_properties(frame.body, 2)? } else { 2 };
    frame.body.get(at..).filter(|codes| !codes.is_empty())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connack {
    pub session_present: bool,
    pub code: u8,
    /// MQTT 5.0, 3.2.2.3.3: 65,535 when the broker names none.
    pub receive_max: u16,
}

pub(crate) fn read_connack(frame: Frame<'_>, version: Version) -> Option<Connack> {
    let (&flags, &code) = (frame.body.first()?, frame.body.get(1)?);
    let mut receive_max = u16::MAX;
    // A broker that does not speak version 5 answers with code 1 and no properties (MQTT 3.1.1, 3.2.2.3).
    if version == Version::V5 && frame.body.len() > 2 {
        let (len, used) = read_varint(frame.body, 2)?;
        let properties = frame.body.get(2 + used..2 + used + len)?;
        receive_max = connack_receive_max(properties)?;
    }
    Some(Connack { session_present: flags & 1 != 0, code, receive_max })
}

/// Walks the properties a CONNACK may carry (MQTT 5.0, 3.2.2.3) to find the one that bounds the window.
fn connack_receive_max(mut properties: &[u8]) -> Option<u16> {
    let mut receive_max = u16::MAX;
    while let Some((&id, rest)) = properties.split_first() {
        let len = match id {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x22 => 2,
            0x21 => {
                receive_max = read_u16(rest, 0).filter(|max| *max != 0)?;
                2
            }
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => 2 + usize::from(read_u16(rest, 0)?),
            0x26 => {
                let name = 2 + usize::from(read_u16(rest, 0)?);
                name + 2 + usize::from(read_u16(rest, name)?)
            }
            _ => return None,
        };
        properties = rest.get(len..)?;
    }
    Some(receive_max)
}

#[inline]
fn read_u16(body: &[u8], at: usize) -> Option<u16> {
    let bytes = body.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[inline]
fn skip_properties(body: &[u8], at: usize) -> Option<usize> {
    let (len, used) = read_varint(body, at)?;
    let end = at + used + len;
    (end <= body.len()).then_some(end)
}

#[inline]
fn read_varint(body: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0usize;
    for used in 0..4 {
        let byte = *body.get(at + used)?;
        value |= usize::from(byte & 0x7f) << (7 * used);
        if byte & 0x80 == 0 {
            return Some((value, used + 1));
        }
    }
    None
}

pub(crate) fn connect(out: &mut Vec<u8>, c: &Connect) {
    let mut body = Vec::with_capacity(64);
    text(&mut body, "MQTT");
    body.push(if c.version == Version::V5 { 5 } else { 4 });
    let mut flags = u8::from(c.clean) << 1;
    flags |= u8::from(c.user.is_some()) << 7 | u8::from(c.password.is_some()) << 6;
    body.push(flags);
    body.extend_from_slice(&c.keep_alive_secs.to_be_bytes());
    if c.version == Version::V5 {
        let mut properties = Vec::new();
        if !c.clean {
            // MQTT 5.0, 3.1.2.11.2: without it the session would end with the connection. The value: never expires.
            properties.push(0x11);
            properties.extend_from_slice(&u32::MAX.to_be_bytes());
        }
        if c.receive_max > 0 {
            properties.push(0x21);
            properties.extend_from_slice(&c.receive_max.to_be_bytes());
        }
        varint(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    text(&mut body, &c.client_id);
    for field in [&c.user, &c.password].into_iter().flatten() {
        text(&mut body, field);
    }
    frame(out, 0x10, &body);
}

pub(crate) fn subscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[String], qos: u8) {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter);
        body.push(qos);
    }
    frame(out, 0x82, &body);
}

/// Appends a PUBLISH and returns where its packet identifier and its payload start, counted from the packet's start.
pub(crate) fn publish(out: &mut Vec<u8>, version: Version, topic: &str, qos: u8, payload: &[u8]) -> (usize, usize) {
    let start = out.len();
    let id_len = if qos > 0 { 2 } else { 0 };
    let property_len = usize::from(version == Version::V5);
    out.push(PUBLISH << 4 | qos << 1);
    varint(out, 2 + topic.len() + id_len + property_len + payload.len());
    text(out, topic);
    let id_at = out.len() - start;
    out.extend_from_slice(&[0, 0][..id_len]);
    out.extend_from_slice(&[0][..property_len]);
    let payload_at = out.len() - start;
    out.extend_from_slice(payload);
    (id_at, payload_at)
}

/// The four short acknowledgements. Both versions write two bytes for success.
#[inline]
pub(crate) fn ack(out: &mut Vec<u8>, kind: u8, packet_id: u16) {
    // MQTT 5.0, 2.1.3: PUBREL has 2 in its reserved bits.
    let head = kind << 4 | if kind == PUBREL { 2 } else { 0 };
    let id = packet_id.to_be_bytes();
    out.extend_from_slice(&[head, 2, id[0], id[1]]);
}

pub(crate) fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

pub(crate) fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}

fn frame(out: &mut Vec<u8>, head: u8, body: &[u8]) {
    out.push(head);
    varint(out, body.len());
    out.extend_from_slice(body);
}

fn text(out: &mut Vec<u8>, s: &str) {
    // Client identifiers, topics and credentials are checked to fit when the arguments are read.
    debug_assert!(s.len() <= usize::from(u16::MAX));
    out.extend_from_slice(&(s.len() as u16).to_be_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn varint(out: &mut Vec<u8>, mut n: usize) {
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests;
