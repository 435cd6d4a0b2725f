//! What a hostile client of AMQP 0-9-1 may do to itself, while another one's messages go on. What each wrong byte is answered with stands in
//! the transcripts of `crates/amqp091`; this is about sockets, memory, and the others.

use super::*;
use amqp091::codec::{
    frame_at, put_body_frames, put_content_head, Method, Properties, Table, FRAME_BODY, FRAME_END, FRAME_METHOD, PROTOCOL_HEADER,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// Half frames that are held open, of the largest size.
const HALVES: usize = 200;
const CONNECTIONS_FULL_OF_CHANNELS: usize = 5;
const CHANNEL_MAX: u16 = 2047;
const NOISY: usize = 300;
/// Contents that are announced with the largest size and never come.
const ANNOUNCED: usize = 40;
/// The halves, once as they came and once again where a buffer doubles; a MiB for each announced content; a KiB for a channel; and slack.
const GROWTH_MAX_KIB: u64 =
    2 * 128 * HALVES as u64 + 1024 * ANNOUNCED as u64 + CHANNEL_MAX as u64 * CONNECTIONS_FULL_OF_CHANNELS as u64 + 40_960;
/// On a machine on which everything else is tested at the same time.
const GAP_MAX: Duration = Duration::from_secs(5);

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    fn bare(addr: &str) -> Client {
        let stream = TcpStream::connect(addr).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream.set_write_timeout(Some(LIMIT)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, input: Vec::new() }
    }

    /// Logged in, with channel 1 open.
    fn open(addr: &str) -> Client {
        let mut client = Client::bare(addr);
        client.send(&PROTOCOL_HEADER);
        let start = Method::ConnectionStartOk {
            client_properties: Table::default(),
            mechanism: b"PLAIN",
            response: b"\0guest\0guest",
            locale: b"en_US",
        };
        client.say(0, &[start]);
        client.expect("connection.tune");
        client.say(0, &[Method::ConnectionTuneOk { channel_max: CHANNEL_MAX, frame_max: 131_072, heartbeat: 0 }]);
        client.say(0, &[Method::ConnectionOpen { virtual_host: b"/", capabilities: b"", insist: false }]);
        client.say(1, &[Method::ChannelOpen { out_of_band: b"" }]);
        client.expect("channel.open_ok");
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    fn say(&mut self, channel: u16, methods: &[Method<'_>]) {
        let mut bytes = Vec::new();
        methods.iter().for_each(|method| method.put(channel, &mut bytes));
        self.send(&bytes);
    }

    /// The next frame, shown to `look`; `None` at the end of the stream.
    fn next<T>(&mut self, look: impl FnOnce(u8, &[u8]) -> T) -> Option<T> {
        loop {
            if let Some(frame) = frame_at(&self.input, 0) {
                let seen = look(frame.kind, frame.payload(&self.input));
                self.input.drain(..frame.end());
                return Some(seen);
            }
            let mut more = [0; 16 << 10];
            match self.stream.read(&mut more) {
                Ok(0) => return None,
                Ok(n) => self.input.extend_from_slice(&more[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn expect(&mut self, name: &str) {
        let named =
            |kind, payload: &[u8]| if kind == FRAME_METHOD { Method::parse(payload).expect("a method").show() } else { String::new() };
        loop {
            let said = self.next(named).unwrap_or_else(|| panic!("the end instead of {name}"));
            assert!(!said.contains(".close ") || name.contains(".close"), "{said} instead of {name}");
            if said.starts_with(name) {
                return;
            }
        }
    }

    /// The code that the connection is closed with.
    fn refused(&mut self) -> u16 {
        let code = |kind, payload: &[u8]| match Method::parse(payload) {
            Ok(Method::ConnectionClose { reply_code, .. }) if kind == FRAME_METHOD => Some(reply_code),
            _ => None,
        };
        loop {
            if let Some(code) = self.next(code).expect("connection.close before the end") {
                return code;
            }
        }
    }
}

/// Confirmed messages to a durable queue and out of it, each as soon as the one before has come, until told to stop.
fn flow(addr: &str, stop: &AtomicBool, passed: &AtomicU64) -> Duration {
    let mut client = Client::open(addr);
    let queue = b"flow";
    client.say(
        1,
        &[
            Method::QueueDeclare {
                queue,
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: true,
                arguments: Table::default(),
            },
            Method::ConfirmSelect { nowait: false },
            Method::BasicConsume {
                queue,
                consumer_tag: b"c",
                no_local: false,
                no_ack: true,
                exclusive: false,
                nowait: true,
                arguments: Table::default(),
            },
        ],
    );
    client.expect("confirm.select_ok");
    let mut properties = Vec::new();
    Properties { delivery_mode: Some(2), ..Properties::default() }.put(&mut properties);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let n = passed.load(Ordering::Relaxed);
        let mut bytes = Vec::new();
        Method::BasicPublish { exchange: b"", routing_key: queue, mandatory: false, immediate: false }.put(1, &mut bytes);
        put_content_head(&mut bytes, 1, 8, &properties);
        put_body_frames(&mut bytes, 1, &n.to_be_bytes(), 4096);
        let begin = Instant::now();
        client.send(&bytes);
        let (mut came, mut confirmed) = (false, false);
        while !came || !confirmed {
            let look = |kind, payload: &[u8]| match kind {
                FRAME_BODY => (payload == n.to_be_bytes(), false),
                FRAME_METHOD => (false, matches!(Method::parse(payload), Ok(Method::BasicAck { .. }))),
                _ => (false, false),
            };
            let (body, ack) = client.next(look).expect("the flow goes on");
            (came, confirmed) = (came | body, confirmed | ack);
        }
        longest = longest.max(begin.elapsed());
        passed.store(n + 1, Ordering::Relaxed);
    }
    longest
}

fn resident_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A body frame but for its last byte.
fn half_a_frame() -> Vec<u8> {
    let mut bytes = vec![FRAME_BODY, 0, 1];
    bytes.extend_from_slice(&131_064u32.to_be_bytes());
    bytes.resize(7 + 131_064, b'x');
    bytes
}

fn nested_declare(depth: u32) -> Vec<u8> {
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    payload.extend_from_slice(&(7 * depth).to_be_bytes());
    for left in (0..depth).rev() {
        payload.extend_from_slice(b"\x01tF");
        payload.extend_from_slice(&(7 * left).to_be_bytes());
    }
    let mut bytes = vec![FRAME_METHOD, 0, 1];
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&payload);
    bytes.push(FRAME_END);
    bytes
}

fn those_who_hold_what_they_can(addr: &str) -> Vec<Client> {
    let mut held = Vec::new();
    for _ in 0..HALVES {
        let mut client = Client::open(addr);
        client.send(&half_a_frame());
        held.push(client);
    }
    for _ in 0..ANNOUNCED {
        let mut client = Client::open(addr);
        client.say(1, &[Method::BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false }]);
        let mut bytes = Vec::new();
        put_content_head(&mut bytes, 1, 128 << 20, &[0, 0]);
        client.send(&bytes);
        held.push(client);
    }
    for _ in 0..CONNECTIONS_FULL_OF_CHANNELS {
        let mut client = Client::open(addr);
        (2..=CHANNEL_MAX).for_each(|channel| client.say(channel, &[Method::ChannelOpen { out_of_band: b"" }]));
        (2..=CHANNEL_MAX).for_each(|_| client.expect("channel.open_ok"));
        held.push(client);
    }
    held
}

/// What they say, and the code.
fn those_who_are_thrown_out(addr: &str) {
    let too_large = [FRAME_METHOD, 0, 1, 0, 2, 0, 1];
    let on_no_channel = [FRAME_METHOD, 0, 9, 0, 0, 0, 5, 0, 60, 0, 110, 0, FRAME_END];
    let no_method = [FRAME_METHOD, 0, 1, 0, 0, 0, 4, 0, 99, 0, 1, FRAME_END];
    let a_body = [FRAME_BODY, 0, 1, 0, 0, 0, 1, b'x', FRAME_END];
    let no_end = [FRAME_METHOD, 0, 1, 0, 0, 0, 4, 0, 20, 0, 40, 0];
    let nested = nested_declare(10_000);
    let cases: [(&[u8], u16); 6] =
        [(&too_large, 501), (&no_end, 501), (&nested, 502), (&no_method, 503), (&on_no_channel, 504), (&a_body, 505)];
    for (bytes, code) in cases {
        for _ in 0..20 {
            let mut client = Client::open(addr);
            client.send(bytes);
            assert_eq!(client.refused(), code, "{:?}", &bytes[..bytes.len().min(16)]);
        }
    }
}

fn those_who_make_noise(addr: &str) {
    let mut noise = 0x9E37_79B9_7F4A_7C15u64;
    for n in 0..NOISY {
        let mut client = if n % 2 == 0 { Client::bare(addr) } else { Client::open(addr) };
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        })
        .take(500)
        .collect();
        // It may be thrown out before it has said everything.
        let _ = client.stream.write_all(&bytes);
    }
}

#[test]
fn hostile_clients_hurt_nobody_but_themselves() {
    let dir = tempfile::tempdir().expect("a folder");
    let carrick = start(dir.path(), &["--listen", "amqp://127.0.0.1:0"]);
    let addr = carrick.urls[0].strip_prefix("amqp://").expect("a TCP listener").trim_end_matches('/').to_owned();
    let (stop, passed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let going = {
        let (addr, stop, passed) = (addr.clone(), stop.clone(), passed.clone());
        std::thread::spawn(move || flow(&addr, &stop, &passed))
    };
    let start = Instant::now();
    while passed.load(Ordering::Relaxed) < 20 {
        assert!(start.elapsed() < LIMIT, "the flow does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (before, from) = (resident_kib(&carrick.process), passed.load(Ordering::Relaxed));

    let mut held = those_who_hold_what_they_can(&addr);
    those_who_are_thrown_out(&addr);
    let last = held.last_mut().expect("one full of channels");
    last.say(CHANNEL_MAX + 1, &[Method::ChannelOpen { out_of_band: b"" }]);
    assert_eq!(last.refused(), 530);
    those_who_make_noise(&addr);

    let grown = resident_kib(&carrick.process).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more than before, {GROWTH_MAX_KIB} allowed");
    // What has come meanwhile, or while all of them are still there.
    let during = || passed.load(Ordering::Relaxed) - from;
    while during() <= 20 {
        assert!(start.elapsed() < 2 * LIMIT, "the flow does not go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let during = during();
    stop.store(true, Ordering::Relaxed);
    let longest = going.join().expect("every message of the flow came, in order");
    println!(
        "{during} messages passed meanwhile, {longest:?} for the slowest; {grown} KiB grown of {GROWTH_MAX_KIB}; {:?}",
        start.elapsed()
    );
    assert!(longest < GAP_MAX, "{longest:?} for the slowest of {during} messages");
    // Half a frame is no reason to throw anybody out: completed, it is what it always was.
    held[0].send(&[FRAME_END]);
    assert_eq!(held[0].refused(), 505, "a body where a method belongs");
    drop(held);
    assert_eq!(carrick.stop(), Some(0));
}
