//! CONNECT (MQTT 5.0, 3.1; 3.1.1, 3.1; 3.1, 3.1).

use super::error::{DecodeError, EncodeError};
use super::frame::PacketKind;
use super::props::{self, Place, PropertyId};
use super::publish::PublishProperties;
use super::wire::{self, Reader};
use super::{text, topic, Decoder, Peer, Qos, Version};

const BRIDGE: u8 = 0x80;
const USER_NAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL: u8 = 0x04;
const CLEAN: u8 = 0x02;
const RESERVED: u8 = 0x01;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    /// The high bit of the level is set: Mosquitto's mark for a bridge, which wants its own messages not sent back and RETAIN kept.
    pub bridge: bool,
    /// Clean Start in version 5, Clean Session before.
    pub clean_start: bool,
    pub keep_alive_secs: u16,
    pub client_id: String,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
    pub will: Option<Will>,
    pub properties: ConnectProperties,
}

/// The message to publish when the connection ends badly, in the form of a PUBLISH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Will {
    /// A valid topic name.
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub retain: bool,
    /// Will Delay Interval; 0 if there is none (3.1.3.2.2).
    pub delay_secs: u32,
    /// The will's other properties: a checked section that may stand in a PUBLISH as it is.
    pub properties: Vec<u8>,
}

props::properties! {
    ConnectProperties {
        session_expiry_secs: u32 = SessionExpiryInterval,
        receive_maximum: u16 = ReceiveMaximum,
        maximum_packet_size: u32 = MaximumPacketSize,
        topic_alias_maximum: u16 = TopicAliasMaximum,
        request_response_information: bool = RequestResponseInformation,
        request_problem_information: bool = RequestProblemInformation,
        authentication_method: String = AuthenticationMethod,
        authentication_data: Vec<u8> = AuthenticationData,
    }
}

impl Will {
    /// The broker's view of the will's properties.
    pub fn publish_properties(&self) -> PublishProperties<'_> {
        PublishProperties::parse(&self.properties, Peer::Client).unwrap_or_default()
    }
}

/// The version a CONNECT asks for, if it is one that exists, from the packet without its fixed header.
pub fn sniff_version(body: &[u8]) -> Option<Version> {
    read_version(&mut Reader::new(body)).ok().map(|(version, _)| version)
}

/// The level byte a CONNECT carries, whatever it is: tells how to word the refusal of an unknown one.
pub fn sniff_level(body: &[u8]) -> Option<u8> {
    let mut reader = Reader::new(body);
    reader.field().ok()?;
    reader.u8().ok()
}

fn read_version(reader: &mut Reader<'_>) -> Result<(Version, bool), DecodeError> {
    let name = reader.field()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::ProtocolName);
    }
    let level = reader.u8()?;
    let version = match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => Version::V31,
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        _ => return Err(DecodeError::ProtocolLevel),
    };
    Ok((version, level & BRIDGE != 0))
}

impl Connect {
    /// A client that asks for a clean session and nothing else.
    pub fn new(version: Version, client_id: impl Into<String>) -> Self {
        Connect {
            version,
            bridge: false,
            clean_start: true,
            keep_alive_secs: 0,
            client_id: client_id.into(),
            user_name: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        }
    }

    pub(super) fn decode(body: &[u8], decoder: &Decoder) -> Result<Connect, DecodeError> {
        let mut reader = Reader::new(body);
        let (version, bridge) = read_version(&mut reader)?;
        let flags = reader.u8()?;
        check_connect_flags(flags, version)?;
        let keep_alive_secs = reader.u16()?;
        let properties = match version {
            Version::V5 => ConnectProperties::decode(&mut reader, Place::Connect)?,
            _ => ConnectProperties::default(),
        };
        let client_id = reader.string()?;
        let will = match flags & WILL {
            0 => None,
            _ => Some(read_will(&mut reader, flags, version, decoder)?),
        };
        // 3.1 (3.1, "User Name"): a packet that ends here is taken as one without these fields, whatever the flags say.
        let given = |flag: u8, reader: &Reader<'_>| flags & flag != 0 && !(version == Version::V31 && reader.is_empty());
        let user_name = if given(USER_NAME, &reader) { Some(reader.string()?) } else { None };
        let password = if given(PASSWORD, &reader) { Some(reader.field()?.to_vec()) } else { None };
        reader.finish()?;
        let clean_start = flags & CLEAN != 0;
        Ok(Connect { version, bridge, clean_start, keep_alive_secs, client_id, user_name, password, will, properties })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        wire::put_packet(out, PacketKind::Connect.first_byte(), |body| {
            let name: &[u8] = if self.version == Version::V31 { b"MQIsdp" } else { b"MQTT" };
            wire::put_field(body, name)?;
            body.push(self.version as u8 | if self.bridge { BRIDGE } else { 0 });
            body.push(self.flags());
            wire::put_u16(body, self.keep_alive_secs);
            if self.version.is_v5() {
                self.properties.encode(body)?;
            }
            wire::put_field(body, self.client_id.as_bytes())?;
            if let Some(will) = &self.will {
                will.encode(self.version, body)?;
            }
            if let Some(user_name) = &self.user_name {
                wire::put_field(body, user_name.as_bytes())?;
            }
            if let Some(password) = &self.password {
                wire::put_field(body, password)?;
            }
            Ok(())
        })
    }

    fn flags(&self) -> u8 {
        let bit = |set: bool, flag: u8| if set { flag } else { 0 };
        let will = self.will.as_ref().map_or(0, |will| WILL | (will.qos as u8) << 3 | bit(will.retain, WILL_RETAIN));
        will | bit(self.clean_start, CLEAN) | bit(self.user_name.is_some(), USER_NAME) | bit(self.password.is_some(), PASSWORD)
    }
}

/// 3.1.2.3 to 3.1.2.9.
fn check_connect_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    if version != Version::V31 && flags & RESERVED != 0 {
        return Err(DecodeError::ConnectReserved);
    }
    let will_qos = flags >> 3 & 0b11;
    if flags & WILL == 0 && (will_qos != 0 || flags & WILL_RETAIN != 0) {
        return Err(DecodeError::WillFlags);
    }
    if will_qos == 3 {
        return Err(DecodeError::WillQos);
    }
    // Version 5 allows a password alone, for tokens (3.1.2.9).
    if version != Version::V5 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(DecodeError::PasswordAlone);
    }
    Ok(())
}

fn read_will(reader: &mut Reader<'_>, flags: u8, version: Version, decoder: &Decoder) -> Result<Will, DecodeError> {
    let (delay_secs, properties) = match version {
        Version::V5 => read_will_properties(props::section(reader)?)?,
        _ => (0, Vec::new()),
    };
    let topic = reader.field()?;
    topic::check_name(topic, decoder.levels_max)?;
    Ok(Will {
        topic: text::to_string(topic)?,
        payload: reader.field()?.to_vec(),
        qos: Qos::from_bits(flags >> 3 & 0b11).ok_or(DecodeError::WillQos)?,
        retain: flags & WILL_RETAIN != 0,
        delay_secs,
        properties,
    })
}

/// Takes the delay out, so that what is left is a PUBLISH's section.
fn read_will_properties(raw: &[u8]) -> Result<(u32, Vec<u8>), DecodeError> {
    let present = props::check(raw, Place::Will)?;
    if !present.has(PropertyId::WillDelayInterval) {
        return Ok((0, raw.to_vec()));
    }
    let mut delay = 0;
    let mut kept = Vec::with_capacity(raw.len());
    let mut walk = props::iter(raw);
    let mut start = 0;
    while let Some(property) = walk.next() {
        let end = walk.position();
        match (property.id, property.content) {
            (PropertyId::WillDelayInterval, props::Content::Four(secs)) => delay = secs,
            _ => kept.extend_from_slice(&raw[start..end]),
        }
        start = end;
    }
    Ok((delay, kept))
}

impl Will {
    fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if version.is_v5() {
            let mut raw = Vec::with_capacity(self.properties.len() + 5);
            if self.delay_secs != 0 {
                props::put_property(&mut raw, PropertyId::WillDelayInterval, &self.delay_secs)?;
            }
            raw.extend_from_slice(&self.properties);
            props::put_section(out, &raw)?;
        }
        wire::put_field(out, self.topic.as_bytes())?;
        wire::put_field(out, &self.payload)
    }
}
