//! The methods of AMQP 0-9-1 and of RabbitMQ's extensions to it: one table, from which reading and writing follow.
//!
//! A field is `u8`, `u16`, `u32`, `u64`, `short` (a string of at most 255 bytes), `long` (a string) or `table`; `[bits]` share an octet, and `>`
//! marks what comes behind them. Reserved fields (`@` in front, `@@` at the end) are read, whatever they hold, and written as zero.

use super::frame::{begin_frame, end_frame, FRAME_METHOD};
use super::table::Table;
use super::wire::{put_long_str, put_short_str, put_u16, put_u32, put_u64, Reader};
use super::CodecError;

macro_rules! field_type {
    (u8) => { u8 };
    (u16) => { u16 };
    (u32) => { u32 };
    (u64) => { u64 };
    (short) => { &'a [u8] };
    (long) => { &'a [u8] };
    (table) => { Table<'a> };
}

macro_rules! read {
    ($r:ident, u8) => {
        $r.u8()?
    };
    ($r:ident, u16) => {
        $r.u16()?
    };
    ($r:ident, u32) => {
        $r.u32()?
    };
    ($r:ident, u64) => {
        $r.u64()?
    };
    ($r:ident, short) => {
        $r.short_str()?
    };
    ($r:ident, long) => {
        $r.long_str()?
    };
    ($r:ident, table) => {
        Table::read(&mut $r)?
    };
}

macro_rules! put {
    ($o:ident, u8, $v:expr) => {
        $o.push(*$v)
    };
    ($o:ident, u16, $v:expr) => {
        put_u16($o, *$v)
    };
    ($o:ident, u32, $v:expr) => {
        put_u32($o, *$v)
    };
    ($o:ident, u64, $v:expr) => {
        put_u64($o, *$v)
    };
    ($o:ident, short, $v:expr) => {
        put_short_str($o, $v)
    };
    ($o:ident, long, $v:expr) => {
        put_long_str($o, $v)
    };
    ($o:ident, table, $v:expr) => {
        $v.put($o)
    };
}

macro_rules! put_reserved {
    ($o:ident, u16) => {
        put_u16($o, 0)
    };
    ($o:ident, short) => {
        $o.push(0)
    };
}

macro_rules! sample {
    ($s:ident, u8) => {
        $s.number() as u8
    };
    ($s:ident, u16) => {
        $s.number() as u16
    };
    ($s:ident, u32) => {
        $s.number() as u32
    };
    ($s:ident, u64) => {
        $s.number()
    };
    ($s:ident, short) => {
        $s.text()
    };
    ($s:ident, long) => {
        $s.text()
    };
    ($s:ident, table) => {
        $s.table()
    };
}

macro_rules! show {
    ($o:ident, table, $v:expr) => {
        super::show::put_table($o, *$v)
    };
    ($o:ident, short, $v:expr) => {
        super::show::put_text($o, $v)
    };
    ($o:ident, long, $v:expr) => {
        super::show::put_text($o, $v)
    };
    ($o:ident, $number:ident, $v:expr) => {
        $o.push_str(&$v.to_string())
    };
}

macro_rules! from_words {
    ($w:ident, $name:expr, table) => {
        $w.table($name)
    };
    ($w:ident, $name:expr, short) => {
        $w.text($name)
    };
    ($w:ident, $name:expr, long) => {
        $w.text($name)
    };
    ($w:ident, $name:expr, $number:ident) => {
        $w.number($name) as $number
    };
}

macro_rules! methods {
    ($( $class:literal . $id:literal $name:ident = $text:literal {
        $( @ $reserved:ident; )?
        $( $field:ident : $kind:ident; )*
        $( [ $($bit:ident)* ] )?
        $( > $last:ident : $last_kind:ident; )*
        $( @@ $end:ident; )?
    } )*) => {
        /// A method with its arguments, borrowed from the frame it came in.
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub enum Method<'a> {
            $( $name {
                $( $field: field_type!($kind), )*
                $( $( $bit: bool, )* )?
                $( $last: field_type!($last_kind), )*
            }, )*
        }

        impl<'a> Method<'a> {
            /// Reads a method frame's payload to its end.
            pub fn parse(payload: &'a [u8]) -> Result<Method<'a>, CodecError> {
                let mut r = Reader::new(payload);
                let (class, method) = (r.u16()?, r.u16()?);
                let found = match (class, method) {
                    $( ($class, $id) => {
                        $( let _ = read!(r, $reserved); )?
                        $( let $field = read!(r, $kind); )*
                        $( let mut bits = r.u8()?; $( let $bit = bits & 1 != 0; bits >>= 1; )* let _ = bits; )?
                        $( let $last = read!(r, $last_kind); )*
                        $( let _ = read!(r, $end); )?
                        Method::$name { $( $field, )* $( $( $bit, )* )? $( $last, )* }
                    } )*
                    _ => return Err(CodecError::UnknownMethod { class, method }),
                };
                if r.is_empty() { Ok(found) } else { Err(CodecError::TrailingBytes) }
            }

            /// Class and method id.
            pub fn id(&self) -> (u16, u16) {
                match self { $( Method::$name { .. } => ($class, $id), )* }
            }

            /// One of each, for tests.
            #[doc(hidden)]
            pub fn samples(s: &mut super::fuzz::Sampler<'a>) -> Vec<Method<'a>> {
                vec![$( Method::$name {
                    $( $field: sample!(s, $kind), )*
                    $( $( $bit: s.number() & 1 == 1, )* )?
                    $( $last: sample!(s, $last_kind), )*
                }, )*]
            }

            /// Made of words, for tests; `None` where there is no such method.
            #[doc(hidden)]
            pub fn from_words(name: &str, w: &dyn super::show::Words<'a>) -> Option<Method<'a>> {
                let _ = w;
                Some(match name {
                    $( $text => Method::$name {
                        $( $field: from_words!(w, stringify!($field), $kind), )*
                        $( $( $bit: w.number(stringify!($bit)) != 0, )* )?
                        $( $last: from_words!(w, stringify!($last), $last_kind), )*
                    }, )*
                    _ => return None,
                })
            }

            /// In words, for logs and tests: `basic.ack delivery_tag=3 multiple`.
            pub fn show(&self) -> String {
                let mut text = self.name().to_owned();
                let out = &mut text;
                match self {
                    $( Method::$name { $( $field, )* $( $( $bit, )* )? $( $last, )* } => {
                        $( out.push_str(concat!(" ", stringify!($field), "=")); show!(out, $kind, $field); )*
                        $( $( if *$bit { out.push_str(concat!(" ", stringify!($bit))); } )* )?
                        $( out.push_str(concat!(" ", stringify!($last), "=")); show!(out, $last_kind, $last); )*
                    } )*
                }
                text
            }

            pub fn put_payload(&self, out: &mut Vec<u8>) {
                let (class, method) = self.id();
                put_u16(out, class);
                put_u16(out, method);
                match self {
                    $( #[allow(unused_variables, reason = "most methods lack some kind of field")]
                    Method::$name { $( $field, )* $( $( $bit, )* )? $( $last, )* } => {
                        $( put_reserved!(out, $reserved); )?
                        $( put!(out, $kind, $field); )*
                        $(
                            let (mut bits, mut at) = (0u8, 0);
                            $( bits |= u8::from(*$bit) << at; at += 1; )*
                            let _ = at;
                            out.push(bits);
                        )?
                        $( put!(out, $last_kind, $last); )*
                        $( put_reserved!(out, $end); )?
                    } )*
                }
            }
        }

        /// `basic.publish` for 60.40; `None` for what does not exist.
        pub fn method_name(class: u16, method: u16) -> Option<&'static str> {
            Some(match (class, method) { $( ($class, $id) => $text, )* _ => return None })
        }

        /// Every method there is.
        pub const METHODS: &[(u16, u16)] = &[$( ($class, $id), )*];
    };
}

methods! {
    10 . 10 ConnectionStart = "connection.start" { version_major: u8; version_minor: u8; server_properties: table; mechanisms: long; locales: long; }
    10 . 11 ConnectionStartOk = "connection.start_ok" { client_properties: table; mechanism: short; response: long; locale: short; }
    10 . 20 ConnectionSecure = "connection.secure" { challenge: long; }
    10 . 21 ConnectionSecureOk = "connection.secure_ok" { response: long; }
    10 . 30 ConnectionTune = "connection.tune" { channel_max: u16; frame_max: u32; heartbeat: u16; }
    10 . 31 ConnectionTuneOk = "connection.tune_ok" { channel_max: u16; frame_max: u32; heartbeat: u16; }
    10 . 40 ConnectionOpen = "connection.open" { virtual_host: short; capabilities: short; [insist] }
    10 . 41 ConnectionOpenOk = "connection.open_ok" { @@ short; }
    10 . 50 ConnectionClose = "connection.close" { reply_code: u16; reply_text: short; class_id: u16; method_id: u16; }
    10 . 51 ConnectionCloseOk = "connection.close_ok" { }
    10 . 60 ConnectionBlocked = "connection.blocked" { reason: short; }
    10 . 61 ConnectionUnblocked = "connection.unblocked" { }
    10 . 70 ConnectionUpdateSecret = "connection.update_secret" { new_secret: long; reason: short; }
    10 . 71 ConnectionUpdateSecretOk = "connection.update_secret_ok" { }
    20 . 10 ChannelOpen = "channel.open" { out_of_band: short; }
    20 . 11 ChannelOpenOk = "channel.open_ok" { channel_id: long; }
    20 . 20 ChannelFlow = "channel.flow" { [active] }
    20 . 21 ChannelFlowOk = "channel.flow_ok" { [active] }
    20 . 40 ChannelClose = "channel.close" { reply_code: u16; reply_text: short; class_id: u16; method_id: u16; }
    20 . 41 ChannelCloseOk = "channel.close_ok" { }
    30 . 10 AccessRequest = "access.request" { realm: short; [exclusive passive active write read] }
    30 . 11 AccessRequestOk = "access.request_ok" { ticket: u16; }
    40 . 10 ExchangeDeclare = "exchange.declare" { @ u16; exchange: short; kind: short; [passive durable auto_delete internal nowait] > arguments: table; }
    40 . 11 ExchangeDeclareOk = "exchange.declare_ok" { }
    40 . 20 ExchangeDelete = "exchange.delete" { @ u16; exchange: short; [if_unused nowait] }
    40 . 21 ExchangeDeleteOk = "exchange.delete_ok" { }
    40 . 30 ExchangeBind = "exchange.bind" { @ u16; destination: short; source: short; routing_key: short; [nowait] > arguments: table; }
    40 . 31 ExchangeBindOk = "exchange.bind_ok" { }
    40 . 40 ExchangeUnbind = "exchange.unbind" { @ u16; destination: short; source: short; routing_key: short; [nowait] > arguments: table; }
    40 . 51 ExchangeUnbindOk = "exchange.unbind_ok" { }
    50 . 10 QueueDeclare = "queue.declare" { @ u16; queue: short; [passive durable exclusive auto_delete nowait] > arguments: table; }
    50 . 11 QueueDeclareOk = "queue.declare_ok" { queue: short; message_count: u32; consumer_count: u32; }
    50 . 20 QueueBind = "queue.bind" { @ u16; queue: short; exchange: short; routing_key: short; [nowait] > arguments: table; }
    50 . 21 QueueBindOk = "queue.bind_ok" { }
    50 . 30 QueuePurge = "queue.purge" { @ u16; queue: short; [nowait] }
    50 . 31 QueuePurgeOk = "queue.purge_ok" { message_count: u32; }
    50 . 40 QueueDelete = "queue.delete" { @ u16; queue: short; [if_unused if_empty nowait] }
    50 . 41 QueueDeleteOk = "queue.delete_ok" { message_count: u32; }
    50 . 50 QueueUnbind = "queue.unbind" { @ u16; queue: short; exchange: short; routing_key: short; > arguments: table; }
    50 . 51 QueueUnbindOk = "queue.unbind_ok" { }
    60 . 10 BasicQos = "basic.qos" { prefetch_size: u32; prefetch_count: u16; [global] }
    60 . 11 BasicQosOk = "basic.qos_ok" { }
    60 . 20 BasicConsume = "basic.consume" { @ u16; queue: short; consumer_tag: short; [no_local no_ack exclusive nowait] > arguments: table; }
    60 . 21 BasicConsumeOk = "basic.consume_ok" { consumer_tag: short; }
    60 . 30 BasicCancel = "basic.cancel" { consumer_tag: short; [nowait] }
    60 . 31 BasicCancelOk = "basic.cancel_ok" { consumer_tag: short; }
    60 . 40 BasicPublish = "basic.publish" { @ u16; exchange: short; routing_key: short; [mandatory immediate] }
    60 . 50 BasicReturn = "basic.return" { reply_code: u16; reply_text: short; exchange: short; routing_key: short; }
    60 . 60 BasicDeliver = "basic.deliver" { consumer_tag: short; delivery_tag: u64; [redelivered] > exchange: short; > routing_key: short; }
    60 . 70 BasicGet = "basic.get" { @ u16; queue: short; [no_ack] }
    60 . 71 BasicGetOk = "basic.get_ok" { delivery_tag: u64; [redelivered] > exchange: short; > routing_key: short; > message_count: u32; }
    60 . 72 BasicGetEmpty = "basic.get_empty" { @@ short; }
    60 . 80 BasicAck = "basic.ack" { delivery_tag: u64; [multiple] }
    60 . 90 BasicReject = "basic.reject" { delivery_tag: u64; [requeue] }
    60 . 100 BasicRecoverAsync = "basic.recover_async" { [requeue] }
    60 . 110 BasicRecover = "basic.recover" { [requeue] }
    60 . 111 BasicRecoverOk = "basic.recover_ok" { }
    60 . 120 BasicNack = "basic.nack" { delivery_tag: u64; [multiple requeue] }
    85 . 10 ConfirmSelect = "confirm.select" { [nowait] }
    85 . 11 ConfirmSelectOk = "confirm.select_ok" { }
    90 . 10 TxSelect = "tx.select" { }
    90 . 11 TxSelectOk = "tx.select_ok" { }
    90 . 20 TxCommit = "tx.commit" { }
    90 . 21 TxCommitOk = "tx.commit_ok" { }
    90 . 30 TxRollback = "tx.rollback" { }
    90 . 31 TxRollbackOk = "tx.rollback_ok" { }
}

impl Method<'_> {
    /// The whole frame.
    pub fn put(&self, channel: u16, out: &mut Vec<u8>) {
        let start = begin_frame(out, FRAME_METHOD, channel);
        self.put_payload(out);
        end_frame(out, start);
    }

    pub fn name(&self) -> &'static str {
        let (class, method) = self.id();
        method_name(class, method).unwrap_or("?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_table_is_there_once() {
        let mut all = METHODS.to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), METHODS.len());
        assert_eq!(METHODS.len(), 66);
        assert_eq!(method_name(60, 40), Some("basic.publish"));
        assert_eq!(method_name(60, 41), None);
        assert_eq!(Method::parse(&[0, 60, 0, 41]), Err(CodecError::UnknownMethod { class: 60, method: 41 }));
    }

    #[test]
    fn bits_share_an_octet_from_the_lowest() {
        let publish = Method::BasicPublish { exchange: b"x", routing_key: b"k", mandatory: false, immediate: true };
        let mut out = Vec::new();
        publish.put(3, &mut out);
        assert_eq!(out, b"\x01\x00\x03\x00\x00\x00\x0b\x00\x3c\x00\x28\x00\x00\x01x\x01k\x02\xce");
        assert_eq!(Method::parse(&out[7..out.len() - 1]), Ok(publish));
        assert_eq!(publish.name(), "basic.publish");
    }
}
