//! How publishes and deliveries are told of where a virtual host is traced: as RabbitMQ's firehose does it (`rabbit_trace`, 3.13).

use broker_api::{Delivery, Spelled, Traced, TracedAs, Tracer, Views, DELIVERY_REDELIVERED};

use crate::codec::{ArrayWriter, Field, Properties, TableWriter};
use crate::mapping::{self, FORMAT, SEPARATOR};

/// The messages of the exchange `amq.rabbitmq.trace`.
pub struct Firehose {
    views: Views,
    node: String,
}

impl Firehose {
    pub fn new(views: Views) -> Firehose {
        Firehose { views, node: crate::Config::default().cluster_name }
    }
}

impl Tracer for Firehose {
    fn exchange(&self) -> &'static str {
        "amq.rabbitmq.trace"
    }

    fn spell(&self, traced: &Traced<'_>) -> Spelled {
        let (batch, head) = (traced.batch, traced.head);
        let published = Delivery { seq: Default::default(), index: 0, side: None, attempts: 0, level: 0, flags: 0 };
        let delivery = match &traced.what {
            TracedAs::Published { .. } => &published,
            TracedAs::Delivered { delivery, .. } => *delivery,
        };
        let (exchange, key) = match &traced.what {
            TracedAs::Published { .. } => {
                // A delivery's index names its head; here there is only the head.
                let (exchange, key) = mapping::published_address(batch, head);
                (exchange.to_vec(), key.into_owned())
            }
            TracedAs::Delivered { delivery, .. } => {
                let (exchange, key) = mapping::address(batch, head, delivery);
                (exchange.to_vec(), key.into_owned())
            }
        };
        let mut keys = ArrayWriter::default();
        keys.put(&Field::LongStr(&key));
        if !delivery.moved().is_some_and(|moved| moved.key_replaced) {
            batch.keys(head).for_each(|key| {
                keys.put(&Field::LongStr(key));
            });
        }
        let properties = mapping::properties(batch, head, delivery, &self.views);
        let mut headers = TableWriter::default();
        headers.put(b"exchange_name", &Field::LongStr(&exchange)).array("routing_keys", &keys);
        headers.table("properties", &as_table(&properties)).text("node", &self.node);
        let routing_key = match &traced.what {
            TracedAs::Published { queues } => {
                let mut routed = ArrayWriter::default();
                for queue in *queues {
                    routed.put(&Field::LongStr(queue.as_str().as_bytes()));
                }
                who(traced, &mut headers);
                headers.array("routed_queues", &routed);
                [b"publish.", &*exchange].concat()
            }
            TracedAs::Delivered { queue, .. } => {
                headers.put(b"redelivered", &Field::I32(i32::from(delivery.flags & DELIVERY_REDELIVERED != 0)));
                who(traced, &mut headers);
                [b"deliver.", queue.as_str().as_bytes()].concat()
            }
        };
        let mut origin = Vec::new();
        Properties { headers: Some(headers.as_table()), ..Properties::default() }.put(&mut origin);
        Spelled { key: routing_key, origin, format: FORMAT, separator: SEPARATOR }
    }
}

fn who(traced: &Traced<'_>, headers: &mut TableWriter) {
    headers.text("vhost", traced.vhost).text("connection", traced.connection);
    headers.put(b"channel", &Field::I32(traced.channel.into())).text("user", traced.user);
}

/// What a message says of itself, the last property first; numbers have 32 bits, as RabbitMQ has it.
fn as_table(encoded: &[u8]) -> TableWriter {
    let mut table = TableWriter::default();
    let Ok(properties) = Properties::parse(encoded) else { return table };
    let text = |text| Option::map(text, Field::LongStr);
    let number = |number: Option<u8>| number.map(|number| Field::I32(number.into()));
    for (name, field) in [
        ("cluster_id", text(properties.cluster_id)),
        ("app_id", text(properties.app_id)),
        ("user_id", text(properties.user_id)),
        ("type", text(properties.kind)),
        ("timestamp", properties.timestamp.map(|secs| Field::I32(secs as i32))),
        ("message_id", text(properties.message_id)),
        ("expiration", text(properties.expiration)),
        ("reply_to", text(properties.reply_to)),
        ("correlation_id", text(properties.correlation_id)),
        ("priority", number(properties.priority)),
        ("delivery_mode", number(properties.delivery_mode)),
        ("headers", properties.headers.map(Field::Table)),
        ("content_encoding", text(properties.content_encoding)),
        ("content_type", text(properties.content_type)),
    ] {
        if let Some(field) = field {
            table.put(name.as_bytes(), &field);
        }
    }
    table
}
