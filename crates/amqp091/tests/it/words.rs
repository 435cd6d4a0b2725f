//! A line of a transcript as frames: `queue.declare queue=q durable=1 arguments=x-message-ttl:I5,x-overflow:Sreject-publish`, or
//! `publish exchange=x routing_key=k body=hello*3 delivery_mode=2 headers=a:S1,CC:Acc1+cc2`.

use amqp091::codec::show::Words;
use amqp091::codec::{
    put_body_frames, put_content_head, put_heartbeat, ArrayWriter, Field, Method, Properties, Table, TableWriter, PROTOCOL_HEADER,
};

pub struct Line<'a> {
    words: Vec<&'a str>,
}

/// Tests are short-lived.
fn keep(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

impl<'a> Line<'a> {
    pub fn new(text: &'a str) -> Line<'a> {
        Line { words: text.split_whitespace().collect() }
    }
    pub fn kind(&self) -> &'a str {
        self.words.first().copied().unwrap_or("")
    }
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.words.iter().skip(1).find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
    pub fn channel(&self) -> u16 {
        self.get("ch").map_or(1, |ch| ch.parse().expect("a channel"))
    }
}

impl Words<'static> for Line<'_> {
    fn number(&self, name: &str) -> u64 {
        let bare = self.words.contains(&name);
        self.get(name).map_or(u64::from(bare), |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    }
    fn text(&self, name: &str) -> &'static [u8] {
        keep(self.get(name).unwrap_or("").as_bytes().to_vec())
    }
    fn table(&self, name: &str) -> Table<'static> {
        let bytes = keep(table(self.get(name).unwrap_or("")).as_table().as_bytes().to_vec());
        Table::parse(bytes).expect("a table")
    }
}

pub fn table(text: &str) -> TableWriter {
    let mut table = TableWriter::default();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once(':').unwrap_or_else(|| panic!("no type in {pair}"));
        let (kind, value) = value.split_at(1);
        let number = || value.parse::<i64>().unwrap_or_else(|_| panic!("{pair}"));
        let field = match kind {
            "t" => Field::Bool(value == "1"),
            "B" => Field::U8(number() as u8),
            "s" => Field::I16(number() as i16),
            "I" => Field::I32(number() as i32),
            "l" => Field::I64(number()),
            "S" => Field::LongStr(value.as_bytes()),
            "T" => Field::Timestamp(number() as u64),
            "d" => Field::F64(value.parse().unwrap_or_else(|_| panic!("{pair}"))),
            "V" => Field::Void,
            "A" => {
                let mut array = ArrayWriter::default();
                value.split('+').for_each(|text| {
                    array.put(&Field::LongStr(text.as_bytes()));
                });
                table.array(name, &array);
                continue;
            }
            other => panic!("no type {other}"),
        };
        table.put(name.as_bytes(), &field);
    }
    table
}

/// `x*300` is three hundred of them.
fn body(text: &str) -> Vec<u8> {
    match text.split_once('*') {
        Some((what, count)) => what.repeat(count.parse().expect("a count")).into_bytes(),
        None => text.as_bytes().to_vec(),
    }
}

/// The bytes of one line.
pub fn encode(text: &str, frame_max: usize) -> Vec<u8> {
    let line = Line::new(text);
    let mut out = Vec::new();
    match line.kind() {
        "header" => out.extend_from_slice(&PROTOCOL_HEADER),
        "heartbeat" => put_heartbeat(&mut out),
        "hex" => {
            let digits: Vec<u8> = text[3..].bytes().filter(u8::is_ascii_hexdigit).collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            out.extend(digits.chunks(2).map(byte));
        }
        "publish" => publish(&line, frame_max, &mut out),
        // Parts of a content, one by one: `content_header size=9`, `content_body body=x*9`.
        "content_header" => {
            let headers = line.get("headers").map(table);
            let mut raw = Vec::new();
            Properties { headers: headers.as_ref().map(TableWriter::as_table), ..Properties::default() }.put(&mut raw);
            put_content_head(&mut out, line.channel(), line.number("size"), &raw);
        }
        "content_body" => put_body_frames(&mut out, line.channel(), &body(line.get("body").unwrap_or("")), frame_max),
        kind => {
            let method = Method::from_words(kind, &line).unwrap_or_else(|| panic!("no such step: {text}"));
            method.put(line.get("ch").map_or(u16::from(!kind.starts_with("connection.")), |_| line.channel()), &mut out);
        }
    }
    out
}

fn publish(line: &Line<'_>, frame_max: usize, out: &mut Vec<u8>) {
    let (channel, body) = (line.channel(), body(line.get("body").unwrap_or("")));
    let method = Method::from_words("basic.publish", line).expect("publish");
    method.put(channel, out);
    let text = |name: &str| line.get(name).map(str::as_bytes);
    let byte = |name: &str| line.get(name).map(|value| value.parse().expect("a number"));
    let headers = line.get("headers").map(table);
    let properties = Properties {
        content_type: text("content_type"),
        headers: headers.as_ref().map(TableWriter::as_table),
        delivery_mode: byte("delivery_mode"),
        priority: byte("priority"),
        correlation_id: text("correlation_id"),
        reply_to: text("reply_to"),
        expiration: text("expiration"),
        message_id: text("message_id"),
        user_id: text("user_id"),
        ..Properties::default()
    };
    let mut raw = Vec::new();
    properties.put(&mut raw);
    put_content_head(out, channel, body.len() as u64, &raw);
    put_body_frames(out, channel, &body, frame_max);
}
