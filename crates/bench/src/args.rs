//! The command line. Defaults are those of the commands that the benchmarks page quotes.

use std::path::PathBuf;

use crate::checker::HEADER_LEN;
use crate::window::WINDOW_MAX;
use crate::wire::{self, Version};

/// Loads any broker of MQTT, AMQP 0-9-1 or STOMP and reports rates, latencies, its CPU per message, and whether messages were lost, repeated
/// or reordered.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    pub(crate) mode: Mode,
}

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Mode {
    /// Producers to consumers, as fast as the windows allow, or at --rate
    Throughput(Flow),
    /// The same at a fixed rate (5,000 msg/s unless told), counted from the intended send time
    Latency(Flow),
    /// One producer to 100 consumers of one topic
    Fanout(Flow),
    /// 100 producers on their own topics to one wildcard consumer
    Fanin(Flow),
    /// Opens idle connections: connect rate, memory and CPU per connection of --pid
    Connections(Connections),
    /// Publishes to offline sessions, then drains them: rates, memory, disk
    Backlog(Backlog),
    /// kill -9 of --pid while publishing, --start, then counts the confirmed messages that did not come back
    Recover(Recover),
    /// Many clients make many subscriptions at once beside a steady flow
    SubscribeStorm(Storm),
    /// Many offline sessions with some messages each: memory, and with --start a kill -9 and restart
    Sessions(Sessions),
    /// One message to many persistent sessions, beside another producer whose confirm latency is watched
    DurableFanout(DurableFanout),
    /// AMQP: declares and binds durable queues over many channels: rate, memory per idle queue of --pid
    Queues(Queues),
    /// What this machine can do: loopback and fdatasync, the frame around every other figure
    Limits(Limits),
}

/// The broker, and how to talk about it.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Target {
    /// HOST:PORT of the broker (default: this machine, and the protocol's port)
    #[arg(long)]
    pub addr: Option<String>,
    /// What to speak. In AMQP and STOMP a topic is a durable queue; QoS 0 is without confirms (receipts), acknowledgements and persistence,
    /// QoS 1 with all of them, and other levels are not there. throughput, latency, backlog, recover, connections, and in AMQP queues
    #[arg(long, value_enum, default_value_t = Proto::Mqtt)]
    pub proto: Proto,
    /// AMQP, STOMP: unacknowledged deliveries of a consumer
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub prefetch: u16,
    /// AMQP, STOMP: 1 is transient, 2 persistent (default: by the QoS)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub delivery_mode: Option<u8>,
    /// Speak TLS, and trust the certificates in this PEM file; the broker's has to name the host of --addr. Not: queues
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Speak WebSocket, at this path (default: /mqtt, /amqp or /stomp). Each MQTT packet is a message of its own. Not: queues
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "")]
    pub websocket: Option<String>,
    /// MQTT version: 3 (3.1.1) or 5
    #[arg(long = "version", default_value = "3", value_parser = parse_version, value_name = "3|5")]
    pub version: Version,
    #[arg(long)]
    pub user: Option<String>,
    #[arg(long, requires = "user")]
    pub password: Option<String>,
    /// Keep-alive seconds; 0 is none
    #[arg(long, default_value_t = 0)]
    pub keep_alive: u16,
    /// MQTT 5: the Receive Maximum that consumers announce; 0 leaves it to the protocol's default
    #[arg(long, default_value_t = 0)]
    pub receive_max: u16,
    /// The broker's process: CPU time and memory of it and its children are reported
    #[arg(long)]
    pub pid: Option<u32>,
    /// The broker's data folder: its size is reported
    #[arg(long)]
    pub store_dir: Option<PathBuf>,
    /// What client identifiers and topics start with (default: made from the process id)
    #[arg(long, value_parser = parse_prefix)]
    pub prefix: Option<String>,
    /// A label for the report
    #[arg(long)]
    pub name: Option<String>,
    /// Print one JSON line instead of the table
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proto {
    Mqtt,
    Amqp,
    Stomp,
}

/// What a message looks like on its way in.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Message {
    /// Payload bytes, 16 or more
    #[arg(long, default_value_t = 64, value_parser = size_range())]
    pub size: u32,
    /// Unconfirmed publishes per producer, for QoS 1 and 2
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=WINDOW_MAX as i64))]
    pub window: u16,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Flow {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub message: Message,
    #[arg(long, default_value_t = 0, value_parser = qos_range())]
    pub qos: u8,
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub producers: Option<u16>,
    /// 0 measures publishing alone
    #[arg(long)]
    pub consumers: Option<u32>,
    /// Producers and consumers are spread over this many topics
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub topics: Option<u32>,
    /// Consumers take all topics with one wildcard filter
    #[arg(long)]
    pub wildcard: bool,
    /// Consumers have persistent sessions
    #[arg(long)]
    pub persistent: bool,
    /// Messages published and not yet delivered, over all producers; 0 is no bound
    #[arg(long, default_value_t = 0)]
    pub e2e_window: u64,
    /// Messages per second over all producers; 0 is as fast as possible
    #[arg(long)]
    pub rate: Option<f64>,
    /// Measured seconds
    #[arg(long, default_value_t = 8.0)]
    pub duration: f64,
    /// Seconds before the measurement (default: 1, or 0 with --count)
    #[arg(long)]
    pub warmup: Option<f64>,
    /// Stop after this many messages rather than after --duration
    #[arg(long)]
    pub count: Option<u64>,
    #[command(flatten)]
    pub drain: Drain,
}

/// When the wait for the last messages ends.
#[derive(clap::Args, Debug, Clone, Copy)]
pub(crate) struct Drain {
    /// Seconds without a message after which the rest counts as lost
    #[arg(long, default_value_t = 2.0)]
    pub drain_idle: f64,
    /// Seconds after which the wait ends in any case
    #[arg(long, default_value_t = 60.0)]
    pub drain_max: f64,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Connections {
    #[command(flatten)]
    pub target: Target,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Connections being opened at a time
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub connect_burst: u32,
    /// Each connection subscribes to a topic of its own
    #[arg(long)]
    pub subscribe: bool,
    /// Seconds before memory is read
    #[arg(long, default_value_t = 3.0)]
    pub settle: f64,
    /// Seconds over which idle CPU is measured
    #[arg(long, default_value_t = 3.0)]
    pub idle: f64,
    /// Seconds to wait for all connections
    #[arg(long, default_value_t = 60.0)]
    pub max_connect: f64,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Backlog {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub message: Message,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Messages in total
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub producers: u16,
    /// Offline sessions; messages are dealt to them in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions: u32,
    /// Seconds before memory is read
    #[arg(long, default_value_t = 2.0)]
    pub settle: f64,
    /// Seconds that filling may take
    #[arg(long, default_value_t = 300.0)]
    pub max_fill: f64,
    #[command(flatten)]
    pub drain: Drain,
}

/// How a killed broker comes back.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Restart {
    /// A shell command that starts the broker again; it stays running afterwards
    #[arg(long)]
    pub start: Option<String>,
    /// Drop the page cache before the start (needs root)
    #[arg(long)]
    pub drop_caches: bool,
    /// Seconds to wait for the broker to accept a client again
    #[arg(long, default_value_t = 120.0)]
    pub max_start: f64,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Recover {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub message: Message,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Kill when this many messages are confirmed; publishing goes on until the broker is dead
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub producers: u16,
    /// Seconds that filling may take
    #[arg(long, default_value_t = 300.0)]
    pub max_fill: f64,
    #[command(flatten)]
    pub restart: Restart,
    #[command(flatten)]
    pub drain: Drain,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub target: Target,
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Subscriptions per client; every second one has a wildcard
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub subscriptions: u16,
    /// Filters per SUBSCRIBE packet
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub per_packet: u16,
    #[arg(long, default_value_t = 0, value_parser = qos_range())]
    pub qos: u8,
    #[arg(long, default_value_t = 64, value_parser = size_range())]
    pub size: u32,
    /// Messages per second of the steady flow
    #[arg(long, default_value_t = 10_000.0)]
    pub rate: f64,
    /// Seconds of the steady flow measured before, and again after the storm
    #[arg(long, default_value_t = 5.0)]
    pub duration: f64,
    /// Seconds that the storm may take
    #[arg(long, default_value_t = 120.0)]
    pub max_storm: f64,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Sessions {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub message: Message,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions: u32,
    /// Messages per session
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub messages: u32,
    /// All sessions get the same messages, rather than each its own
    #[arg(long)]
    pub shared: bool,
    /// Seconds before memory is read
    #[arg(long, default_value_t = 2.0)]
    pub settle: f64,
    /// Seconds that filling may take
    #[arg(long, default_value_t = 600.0)]
    pub max_fill: f64,
    #[command(flatten)]
    pub restart: Restart,
    #[command(flatten)]
    pub drain: Drain,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct DurableFanout {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub message: Message,
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub sessions: u32,
    /// Messages per second to all sessions
    #[arg(long, default_value_t = 1.0)]
    pub fan_rate: f64,
    /// Messages to all sessions
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub fan_count: u32,
    /// Messages per second of the watched producer
    #[arg(long, default_value_t = 1_000.0)]
    pub rate: f64,
    /// Seconds of quiet measured first
    #[arg(long, default_value_t = 5.0)]
    pub duration: f64,
    /// Do not reconnect the sessions to check what they hold
    #[arg(long)]
    pub no_verify: bool,
    /// Seconds that the fan-out may take
    #[arg(long, default_value_t = 300.0)]
    pub max_fill: f64,
    #[command(flatten)]
    pub drain: Drain,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Queues {
    #[command(flatten)]
    pub target: Target,
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Each channel waits for declare-ok and bind-ok before its next queue
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=2047))]
    pub channels: u16,
    /// Seconds before memory is read
    #[arg(long, default_value_t = 3.0)]
    pub settle: f64,
    /// Leave the queues there
    #[arg(long)]
    pub keep: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Limits {
    /// The folder whose disk is measured
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Seconds per measurement
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    #[arg(long)]
    pub json: bool,
}

fn size_range() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(HEADER_LEN as i64..=(wire::FRAME_SIZE_MAX - 1024) as i64)
}

fn qos_range() -> impl clap::builder::TypedValueParser<Value = u8> {
    clap::value_parser!(u8).range(0..=2)
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text {
        "3" | "3.1.1" => Ok(Version::V311),
        "5" | "5.0" => Ok(Version::V5),
        _ => Err("3 or 5".into()),
    }
}

fn parse_prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || text.contains(['+', '#', '$', '\0']) {
        return Err("1 to 64 bytes without + # $".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Mode, clap::Error> {
        Cli::try_parse_from(std::iter::once("bench").chain(line.split(' '))).map(|cli| cli.args.mode)
    }

    #[test]
    fn the_command_tree_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_full_line_is_taken_as_written() {
        let line = "throughput --addr [::1]:99 --version 5 --qos 2 --size 16 --window 7 --e2e-window 900 \
                    --producers 20 --consumers 0 --topics 20 --persistent --duration 2.5 --pid 4 --json";
        let Mode::Throughput(flow) = parse(&line.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap() else { panic!("another mode") };
        assert_eq!((flow.target.version, flow.target.pid, flow.target.json), (Version::V5, Some(4), true));
        assert_eq!((flow.qos, flow.message.size, flow.message.window, flow.e2e_window), (2, 16, 7, 900));
        assert_eq!((flow.producers, flow.consumers, flow.topics), (Some(20), Some(0), Some(20)));
        assert!(flow.persistent && !flow.wildcard && flow.duration == 2.5);
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for line in [
            "throughput --qos 3",
            "throughput --size 15",
            "throughput --window 0",
            "throughput --window 40000",
            "throughput --version 4",
            "throughput --prefix a/#",
            "throughput --producers 0",
            "throughput --password x",
            "backlog --qos 0",
            "backlog --delivery-mode 3",
            "throughput --proto openwire",
            "queues --channels 3000",
            "recover --count 0",
            "limits --pid 3",
            "nonsense",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_mode_has_defaults() {
        for mode in [
            "throughput",
            "latency",
            "fanout",
            "fanin",
            "connections",
            "backlog",
            "recover",
            "subscribe-storm",
            "sessions",
            "durable-fanout",
            "queues",
            "limits",
        ] {
            assert!(parse(mode).is_ok(), "{mode}");
        }
    }
}
