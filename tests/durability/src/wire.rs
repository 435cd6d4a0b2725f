//! The MQTT packets that a load needs, written here a second time on purpose: a rig that shared the broker's codec would share its mistakes.
//! MQTT 3.1.1 and 5.0; a v5 packet differs by its property block only.

use std::io::{self, ErrorKind};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V4,
    V5,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    Connack { session_present: bool, code: u8 },
    Publish { dup: bool, qos: u8, id: u16, topic: String, payload: Vec<u8> },
    Ack { ack: Ack, id: u16, reason: u8 },
    Suback { codes: Vec<u8> },
    Pingresp,
    Disconnect { reason: u8 },
}

pub struct Connect<'a> {
    pub version: Version,
    pub client_id: &'a str,
    pub clean: bool,
    pub keep_alive_secs: u16,
    /// MQTT 5 only; 0 leaves it out.
    pub receive_maximum: u16,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn finish(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        out.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let mut body = Vec::with_capacity(64);
    text(&mut body, "MQTT");
    body.push(if connect.version == Version::V5 { 5 } else { 4 });
    body.push(if connect.clean { 2 } else { 0 });
    body.extend_from_slice(&connect.keep_alive_secs.to_be_bytes());
    if connect.version == Version::V5 {
        let mut properties = Vec::new();
        if !connect.clean {
            // MQTT 5.0, 3.1.2.11.2: session expiry; without it the session would end with the connection.
            properties.push(0x11);
            properties.extend_from_slice(&u32::MAX.to_be_bytes());
        }
        if connect.receive_maximum > 0 {
            properties.push(0x21);
            properties.extend_from_slice(&connect.receive_maximum.to_be_bytes());
        }
        body.push(properties.len() as u8);
        body.extend_from_slice(&properties);
    }
    text(&mut body, connect.client_id);
    finish(out, 0x10, &body);
}

pub fn publish(out: &mut Vec<u8>, version: Version, dup: bool, qos: u8, id: u16, topic: &str, payload: &[u8]) {
    let mut body = Vec::with_capacity(payload.len() + topic.len() + 5);
    text(&mut body, topic);
    if qos > 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    finish(out, 0x30 | u8::from(dup) << 3 | qos << 1, &body);
}

pub fn ack(out: &mut Vec<u8>, ack: Ack, id: u16) {
    let first = match ack {
        Ack::Puback => 0x40,
        Ack::Pubrec => 0x50,
        Ack::Pubrel => 0x62,
        Ack::Pubcomp => 0x70,
    };
    finish(out, first, &id.to_be_bytes());
}

pub fn subscribe(out: &mut Vec<u8>, version: Version, id: u16, filters: &[(String, u8)]) {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for (filter, qos) in filters {
        text(&mut body, filter);
        body.push(*qos);
    }
    finish(out, 0x82, &body);
}

pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

pub fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}

/// The first packet of `bytes` and its length, or `None` if it is not all there.
pub fn decode(version: Version, bytes: &[u8]) -> io::Result<Option<(Packet, usize)>> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let mut len = 0;
    for at in 0..4 {
        let Some(digit) = bytes.get(1 + at) else { return Ok(None) };
        len |= usize::from(digit & 0x7f) << (7 * at);
        if digit & 0x80 == 0 {
            let begin = 2 + at;
            let Some(body) = bytes.get(begin..begin + len) else { return Ok(None) };
            let packet = packet(version, *first, body).ok_or_else(|| bad("a packet of the broker makes no sense"))?;
            return Ok(Some((packet, begin + len)));
        }
    }
    Err(bad("a remaining length of over four bytes"))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn packet(version: Version, first: u8, body: &[u8]) -> Option<Packet> {
    match first >> 4 {
        2 => Some(Packet::Connack { session_present: body.first()? & 1 == 1, code: *body.get(1)? }),
        3 => publish_of(version, first, body),
        4 => ack_of(Ack::Puback, body),
        5 => ack_of(Ack::Pubrec, body),
        6 => ack_of(Ack::Pubrel, body),
        7 => ack_of(Ack::Pubcomp, body),
        9 => {
            let at = if version == Version::V5 { skip_properties(body, 2)? } else { 2 };
            Some(Packet::Suback { codes: body.get(at..)?.to_vec() })
        }
        13 => Some(Packet::Pingresp),
        14 => Some(Packet::Disconnect { reason: body.first().copied().unwrap_or(0) }),
        _ => None,
    }
}

fn publish_of(version: Version, first: u8, body: &[u8]) -> Option<Packet> {
    let qos = first >> 1 & 3;
    let topic_len = usize::from(u16_at(body, 0)?);
    let topic = String::from_utf8(body.get(2..2 + topic_len)?.to_vec()).ok()?;
    let mut at = 2 + topic_len;
    let mut id = 0;
    if qos > 0 {
        id = u16_at(body, at)?;
        at += 2;
    }
    if version == Version::V5 {
        at = skip_properties(body, at)?;
    }
    Some(Packet::Publish { dup: first & 8 != 0, qos, id, topic, payload: body.get(at..)?.to_vec() })
}

fn ack_of(ack: Ack, body: &[u8]) -> Option<Packet> {
    Some(Packet::Ack { ack, id: u16_at(body, 0)?, reason: body.get(2).copied().unwrap_or(0) })
}

fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]))
}

fn skip_properties(body: &[u8], mut at: usize) -> Option<usize> {
    let (mut len, mut shift) = (0, 0);
    loop {
        let digit = *body.get(at)?;
        at += 1;
        len |= usize::from(digit & 0x7f) << shift;
        shift += 7;
        if digit & 0x80 == 0 {
            return Some(at + len);
        }
        if shift > 21 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_comes_back_whole_and_not_before_its_last_byte() {
        for version in [Version::V4, Version::V5] {
            let mut bytes = Vec::new();
            publish(&mut bytes, version, true, 2, 77, "a/b", &[7; 300]);
            for cut in 0..bytes.len() {
                assert_eq!(decode(version, &bytes[..cut]).unwrap(), None);
            }
            let expected = Packet::Publish { dup: true, qos: 2, id: 77, topic: "a/b".into(), payload: vec![7; 300] };
            assert_eq!(decode(version, &bytes).unwrap(), Some((expected, bytes.len())));
        }
    }

    #[test]
    fn acks_keep_their_kind() {
        for kind in [Ack::Puback, Ack::Pubrec, Ack::Pubrel, Ack::Pubcomp] {
            let mut bytes = Vec::new();
            ack(&mut bytes, kind, 0x1234);
            assert_eq!(decode(Version::V5, &bytes).unwrap(), Some((Packet::Ack { ack: kind, id: 0x1234, reason: 0 }, 4)));
        }
    }
}
