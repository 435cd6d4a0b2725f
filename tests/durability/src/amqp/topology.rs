//! Exchanges, queues and bindings of the load. Every client declares all of them when it first comes, which changes nothing for the second.

use std::io;

use amqp091::codec::{Field, Method, Table, TableWriter};

use super::link::Link;

/// Where producers publish to, with the key `PRODUCER.flow`, or `PRODUCER.keep` for every `keep_every`-th message.
pub const LOAD: &str = "load";
/// Where one producer publishes to that says nothing of how lasting its messages are. Its queues keep all they have, being quorum queues.
pub const LIGHT: &str = "light";
/// Who that is.
pub const LIGHT_PRODUCER: u16 = 5;
/// Where the mover publishes to.
pub const MOVED: &str = "moved";
const DEAD: &str = "dead";
/// What consumers publish to know that their acknowledgements are on the disk; nobody reads it.
pub const FENCE: &str = "fence";

pub const PRIORITY_MAX: u8 = 4;
/// Which messages are rejected: every so manieth, beginning with that.
pub const REJECT_EVERY: u64 = 5;
pub const REJECT_REST: u64 = 2;

const TTL_MS: i32 = 150;
const SHORT: i32 = 20;

/// By number, so that queues have all of them and those that are kept, too.
pub fn priority(n: u64) -> u8 {
    (n / 20 % (u64::from(PRIORITY_MAX) + 1)) as u8
}

enum Argument {
    Text(&'static str, &'static str),
    Number(&'static str, i32),
}
use Argument::{Number, Text};

/// Name, where it is bound and by which key, arguments.
type Queue = (&'static str, &'static str, &'static str, &'static [Argument]);

const QUEUES: &[Queue] = &[
    ("all", LOAD, "#", &[]),
    ("replicated", LOAD, "#", &[Text("x-queue-type", "quorum")]),
    ("light", LIGHT, "#", &[Text("x-queue-type", "quorum")]),
    ("light.kept", LIGHT, "*.keep", &[Text("x-queue-type", "quorum")]),
    ("ranked", LOAD, "#", &[Number("x-max-priority", PRIORITY_MAX as i32)]),
    ("ranked.kept", LOAD, "*.keep", &[Number("x-max-priority", PRIORITY_MAX as i32)]),
    ("rejects", LOAD, "#", &[Text("x-dead-letter-exchange", DEAD), Text("x-dead-letter-routing-key", "rejected")]),
    ("rejected.live", DEAD, "rejected", &[]),
    ("rejected.kept", DEAD, "rejected", &[]),
    (
        "expires",
        LOAD,
        "*.keep",
        &[Number("x-message-ttl", TTL_MS), Text("x-dead-letter-exchange", DEAD), Text("x-dead-letter-routing-key", "expired")],
    ),
    ("expired", DEAD, "expired", &[]),
    (
        "short",
        LOAD,
        "*.keep",
        &[Number("x-max-length", SHORT), Text("x-dead-letter-exchange", DEAD), Text("x-dead-letter-routing-key", "evicted")],
    ),
    ("evicted", DEAD, "evicted", &[]),
];

/// Without the mover these would only fill up.
const MOVING: &[Queue] = &[("moves", LOAD, "#", &[]), ("moved.live", MOVED, "", &[]), ("moved.kept", MOVED, "", &[])];

pub fn declare(link: &mut Link, with_mover: bool) -> io::Result<()> {
    for (name, kind) in [(LOAD, "topic"), (LIGHT, "topic"), (DEAD, "direct"), (MOVED, "fanout")] {
        link.put(Method::ExchangeDeclare {
            exchange: name.as_bytes(),
            kind: kind.as_bytes(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: true,
            arguments: Table::default(),
        });
    }
    queue(link, FENCE, &[Number("x-max-length", 10)]);
    let moving = if with_mover { MOVING } else { &[] };
    for (name, exchange, key, arguments) in QUEUES.iter().chain(moving) {
        queue(link, name, arguments);
        link.put(Method::QueueBind {
            queue: name.as_bytes(),
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            nowait: true,
            arguments: Table::default(),
        });
    }
    // Whatever is answered behind them says that they are all there.
    link.call(Method::BasicQos { prefetch_size: 0, prefetch_count: 0, global: false }, "basic.qos_ok")
}

fn queue(link: &mut Link, name: &str, arguments: &[Argument]) {
    let mut table = TableWriter::default();
    for argument in arguments {
        match argument {
            Text(name, value) => table.text(name, value),
            Number(name, value) => table.put(name.as_bytes(), &Field::I32(*value)),
        };
    }
    link.put(Method::QueueDeclare {
        queue: name.as_bytes(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: true,
        arguments: table.as_table(),
    });
}
