//! basic.publish: the method, its header and its body are read where they lie. Only what is torn between reads, or comes in several body
//! frames, is put together in buffers of its own.

use broker_api::{Head, Span, HEAD_CONFIRM, HEAD_DURABLE, HEAD_MANDATORY};
use bytes::Bytes;

use super::channel::NO_METHOD;
use super::{codec_failed, failed, Handled, Session, Step};
use crate::codec::{frame_at, ContentHead, Field, Frame, Properties, Publish, PublishView, Table, TableWriter, FRAME_BODY, FRAME_HEADER};
use crate::error::{Code, MethodId};
use crate::mapping::{self, FORMAT, SEPARATOR};

use super::deliver::REPLY_TO;

const PUBLISH: MethodId = (60, 40);
const CLASS_BASIC: u16 = 60;
/// Room that is made for a body on its header's word.
const BODY_RESERVED: usize = 1 << 20;
/// What the channels of a connection may hold of contents that have not come whole, beyond one of the largest size.
const PARTS_BEYOND_ONE: usize = 32 << 20;

/// A publish whose content has not come whole.
pub(super) struct Content {
    exchange: Box<[u8]>,
    key: Box<[u8]>,
    mandatory: bool,
    /// What the header said.
    properties: Option<Box<[u8]>>,
    body: Vec<u8>,
    body_size: usize,
}

impl Content {
    /// What RabbitMQ says when something else comes.
    pub(super) fn expected(&self) -> &'static str {
        match self.properties {
            None => "expected content header for class 60, got non content header frame instead",
            Some(_) => "expected content body, got non content body frame instead",
        }
    }

    /// What it takes in memory.
    pub(super) fn weight(&self) -> usize {
        self.exchange.len() + self.key.len() + self.properties.as_ref().map_or(0, |properties| properties.len()) + self.body.capacity()
    }

    /// Appends a piece; the buffer doubles, and never outgrows what the header announced.
    fn append(&mut self, piece: &[u8]) {
        let need = self.body.len() + piece.len();
        if need > self.body.capacity() {
            let room = (2 * self.body.capacity()).clamp(need, self.body_size.max(need));
            self.body.reserve_exact(room - self.body.len());
        }
        self.body.extend_from_slice(piece);
    }
}

/// A whole publish. The spans are where the core finds what the slices show.
struct Message<'a> {
    exchange: Span,
    key: Span,
    properties: &'a [u8],
    origin: Span,
    body: Span,
    mandatory: bool,
}

impl Session {
    /// A `basic.publish`. Answers where the next frame begins: behind the content, if all of it is here.
    #[inline]
    pub(super) fn publish(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled<usize> {
        let number = frame.channel;
        let payload = frame.payload(block);
        let publish = PublishView::parse(payload).map_err(|error| codec_failed(number, error, payload))?;
        if publish.immediate {
            return Err(failed(number, Code::NotImplemented, "immediate=true", PUBLISH));
        }
        let Some(header) = frame_at(block, frame.end()).filter(|next| next.kind == FRAME_HEADER && next.channel == number) else {
            self.begin_content(number, payload, publish)?;
            return Ok(frame.end());
        };
        let head = self.content_head(number, header.payload(block))?;
        let (body, end) = match (head.body_size as usize, frame_at(block, header.end())) {
            (0, _) => (Span::EMPTY, header.end()),
            (size, Some(body)) if body.kind == FRAME_BODY && body.channel == number && body.size() == size => {
                (Span::block(body.body, size), body.end())
            }
            _ => {
                self.begin_content(number, payload, publish)?;
                return Ok(frame.end());
            }
        };
        let message = Message {
            exchange: Span::block(frame.body + publish.exchange.start, publish.exchange.len()),
            key: Span::block(frame.body + publish.key.start, publish.key.len()),
            properties: head.properties,
            origin: Span::block(header.body + ContentHead::PROPERTIES_AT, head.properties.len()),
            body,
            mandatory: publish.mandatory,
        };
        reserve_heads(step, block.len() - frame.start, end - frame.start);
        self.accept(number, message, step)?;
        Ok(end)
    }

    fn content_head<'a>(&self, number: u16, payload: &'a [u8]) -> Handled<ContentHead<'a>> {
        let head = ContentHead::parse(payload).map_err(|error| codec_failed(number, error, &[0, 60, 0, 40]))?;
        if head.class != CLASS_BASIC {
            let text = format!("expected content header for class 60, got one for class {} instead", head.class);
            return Err(failed(number, Code::UnexpectedFrame, text, PUBLISH));
        }
        let most = self.amqp.config.max_message_size;
        if head.body_size > most {
            let text = format!("message size {} is larger than configured max size {most}", head.body_size);
            return Err(failed(number, Code::PreconditionFailed, text, PUBLISH));
        }
        Ok(head)
    }

    fn begin_content(&mut self, number: u16, payload: &[u8], publish: Publish) -> Handled {
        let content = Content {
            exchange: payload[publish.exchange].into(),
            key: payload[publish.key].into(),
            mandatory: publish.mandatory,
            properties: None,
            body: Vec::new(),
            body_size: 0,
        };
        self.keep_content(number, Box::new(content))
    }

    /// A content waits for its rest. One alone may be as large as any message; over all channels there is a bound (RabbitMQ has none).
    fn keep_content(&mut self, number: u16, content: Box<Content>) -> Handled {
        let most = self.amqp.config.max_message_size as usize + PARTS_BEYOND_ONE;
        let held = self.parts_held + content.weight();
        if held > most {
            let text =
                format!("messages that have not come whole take {held} bytes over all channels of this connection, more than {most}");
            return Err(failed(number, Code::ResourceError, text, PUBLISH));
        }
        if let Some(channel) = self.channel(number) {
            channel.content = Some(content);
            self.parts_held = held;
        }
        Ok(())
    }

    fn take_content(&mut self, number: u16) -> Option<Box<Content>> {
        let content = self.channel(number)?.content.take()?;
        self.parts_held -= content.weight();
        Some(content)
    }

    /// A header or a body of a content that began earlier.
    pub(super) fn content_frame(&mut self, block: &[u8], frame: Frame, step: &mut Step<'_>) -> Handled<usize> {
        let number = frame.channel;
        let payload = frame.payload(block);
        let unexpected = |text: &str| failed(number, Code::UnexpectedFrame, text, PUBLISH);
        let Some(mut content) = self.take_content(number) else {
            return Err(failed(number, Code::UnexpectedFrame, NO_METHOD, (0, 0)));
        };
        match (&content.properties, frame.kind) {
            (None, FRAME_HEADER) => {
                let head = self.content_head(number, payload)?;
                content.body_size = head.body_size as usize;
                content.properties = Some(head.properties.into());
                content.body.reserve_exact(content.body_size.min(BODY_RESERVED));
            }
            (Some(_), FRAME_BODY) => {
                if content.body.len() + payload.len() > content.body_size {
                    return Err(unexpected("a body that is longer than its header says"));
                }
                content.append(payload);
            }
            _ => return Err(unexpected(content.expected())),
        }
        match content.properties.take() {
            Some(properties) if content.body.len() == content.body_size => self.accept_content(number, *content, &properties, step)?,
            properties => {
                content.properties = properties;
                self.keep_content(number, content)?;
            }
        }
        Ok(frame.end())
    }

    fn accept_content(&mut self, number: u16, content: Content, properties: &[u8], step: &mut Step<'_>) -> Handled {
        let turn = &mut *step.turn;
        let message = Message {
            exchange: turn.intern(&content.exchange),
            key: turn.intern(&content.key),
            properties,
            origin: turn.intern(properties),
            body: if content.body.is_empty() { Span::EMPTY } else { turn.own(Bytes::from(content.body)) },
            mandatory: content.mandatory,
        };
        self.accept(number, message, step)
    }

    #[inline]
    fn accept(&mut self, number: u16, message: Message<'_>, step: &mut Step<'_>) -> Handled {
        let properties = match Properties::parse(message.properties) {
            Ok(properties) => properties,
            Err(error) => return Err(codec_failed(number, error, &[0, 60, 0, 40])),
        };
        let refused = |text: String| failed(number, Code::PreconditionFailed, text, PUBLISH);
        if let Some(user) = properties.user_id.filter(|user| *user != self.peer.user.as_bytes() && !self.peer.impersonator) {
            let (given, user) = (String::from_utf8_lossy(user), &self.peer.user);
            return Err(refused(format!("user_id property set to '{given}' but authenticated user was '{user}'")));
        }
        let expires_ms = match properties.expiration {
            None => 0,
            Some(text) => (step.now_ms + mapping::expiration(text).map_err(refused)?).max(1),
        };
        let Wishes { edits, delay_ms } = Wishes::of(&properties);
        let (origin, keys) = match edits {
            false => (message.origin, Span::EMPTY),
            true => self.edited(number, &properties, message.origin, step)?,
        };
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(Option::as_deref_mut) else { return Ok(()) };
        let mut flags = if properties.delivery_mode == Some(2) { HEAD_DURABLE } else { 0 };
        if message.mandatory {
            flags |= HEAD_MANDATORY;
        }
        let tag = match &mut channel.confirms {
            Some(count) => {
                flags |= HEAD_CONFIRM;
                *count += 1;
                *count
            }
            None => 0,
        };
        let head = Head {
            exchange: message.exchange,
            key: message.key,
            origin,
            keys,
            body: message.body,
            expires_ms,
            delay_ms,
            owner: channel.owner,
            flags,
            priority: properties.priority.unwrap_or(0),
            // To MQTT this is QoS 1 or 0.
            level: u8::from(flags & HEAD_DURABLE != 0),
            format: FORMAT,
            separator: SEPARATOR,
            ..Head::default()
        };
        let scope = channel.scope();
        self.publishes.add(channel, tag);
        self.set_scope(scope, step.turn);
        step.turn.publish(head);
        Ok(())
    }

    /// The properties, with the reply address made out and without BCC; and the further keys that CC and BCC name.
    #[cold]
    fn edited(&mut self, number: u16, properties: &Properties<'_>, origin: Span, step: &mut Step<'_>) -> Handled<(Span, Span)> {
        let refused = |text: &str| failed(number, Code::PreconditionFailed, text, PUBLISH);
        let mut edited = *properties;
        let mut headers = TableWriter::default();
        let mut keys = Vec::new();
        if let Some(table) = properties.headers {
            for name in ["CC", "BCC"] {
                keys.extend(further_keys(table, name).map_err(|text| refused(&text))?);
            }
            table.iter().filter(|(name, _)| *name != b"BCC").for_each(|(name, field)| {
                headers.put(name, &field);
            });
            edited.headers = Some(headers.as_table());
        }
        let reply_to;
        if properties.reply_to == Some(REPLY_TO) {
            let known = self.channel(number).and_then(|channel| channel.reply_to.as_ref());
            reply_to = known.map(|(name, _)| name.clone()).ok_or_else(|| refused("fast reply consumer does not exist"))?;
            edited.reply_to = Some(reply_to.as_bytes());
        }
        let keys = step.turn.intern_keys(keys);
        if edited == *properties {
            return Ok((origin, keys));
        }
        let mut raw = Vec::new();
        edited.put(&mut raw);
        Ok((step.turn.intern(&raw), keys))
    }
}

/// The keys in a CC or BCC header: an array of long strings; RabbitMQ overlooks other elements.
fn further_keys<'a>(headers: Table<'a>, name: &str) -> Result<Vec<&'a [u8]>, String> {
    match headers.get(name) {
        None => Ok(Vec::new()),
        Some(Field::Array(keys)) => {
            Ok(keys.iter().filter_map(|key| if let Field::LongStr(text) = key { Some(text) } else { None }).collect())
        }
        Some(other) => Err(format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}", other.type_name())),
    }
}

/// What the properties ask of the broker.
struct Wishes {
    /// They are not passed on as they came.
    edits: bool,
    delay_ms: u32,
}

impl Wishes {
    #[inline]
    fn of(properties: &Properties<'_>) -> Wishes {
        let mut wishes = Wishes { edits: properties.reply_to == Some(REPLY_TO), delay_ms: 0 };
        for (name, field) in properties.headers.iter().flat_map(|headers| headers.iter()) {
            match name {
                b"CC" | b"BCC" => wishes.edits = true,
                mapping::DELAY if wishes.delay_ms == 0 => wishes.delay_ms = mapping::delay_ms(&field),
                _ => {}
            }
        }
        wishes
    }
}

/// Room for the publishes to come, if the rest of the block is like this one: the heads of a turn leave with it, so that each turn
/// starts without any.
#[inline]
fn reserve_heads(step: &mut Step<'_>, left: usize, each: usize) {
    let heads = &mut step.turn.heads;
    if heads.len() == heads.capacity() {
        heads.reserve_exact((left / each.max(2)).clamp(1, 1024));
    }
}
