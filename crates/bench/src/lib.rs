//! `carrick bench`: the load tool that anyone can point at any broker of MQTT, AMQP 0-9-1 or STOMP.
//!
//! It answers three questions about a broker: how much goes through, how late it comes, and what it costs the broker's
//! process. And one about the messages: is each of them there, once, in the order its producer sent them. The tool has
//! its own small codecs ([`wire`], [`amqp`], [`stomp`]) on purpose: a witness that shared code with the broker would share its mistakes.
//!
//! One thread drives every connection from one epoll loop ([`engine`]). A mode is a straight-line script over that
//! loop: connect, run until something holds, read the broker's counters, run on, report.

mod amqp;
mod args;
mod carrier;
mod checker;
mod clock;
mod conn;
mod conn_amqp;
mod conn_stomp;
mod engine;
mod lane;
mod limits;
mod modes;
mod procfs;
mod report;
mod socket;
mod stomp;
mod websocket;
mod window;
mod wire;

pub use args::Args;

/// Runs one mode and prints its report. The value is the exit code: 0 when every check held, 1 when messages were
/// lost, repeated or reordered where the protocol forbids it, or when connections failed.
pub fn run(args: Args) -> anyhow::Result<i32> {
    modes::run(args)
}
