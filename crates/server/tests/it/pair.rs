//! A pair and its witness as three processes: the one that serves is killed, frozen or stopped, and what was confirmed is there.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{channel, Receiver};

const SECRET: &str = "a secret of three nodes";
const WINDOW: usize = 20;

/// Free a moment ago; nobody else is told of it. Below what the kernel gives to outgoing connections: a node that tries and tries to
/// reach one that is down would sooner or later be given that very port, and connect to itself.
pub fn port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = std::process::id() as u16 % 18_000;
    loop {
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 12_000 + (first + next % 18_000) % 18_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub struct Node {
    pub name: &'static str,
    pub mqtt: u16,
    /// Where its HTTP door is.
    http: u16,
    /// Where it takes whatever arrives.
    pub any: u16,
    pub process: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    fn start(dir: &Path, name: &'static str, ports: [u16; 3]) -> Node {
        Node::start_with(dir, name, ports, &[])
    }

    fn start_with(dir: &Path, name: &'static str, [mqtt, http, any]: [u16; 3], variables: &[(&str, &str)]) -> Node {
        let file = format!("{name}.toml");
        let log = std::fs::File::options().create(true).append(true).open(dir.join(format!("{name}.log"))).expect("a log");
        let mut process = command(dir, &["serve", "--config", &file]).envs(variables.iter().copied()).stderr(log).spawn().expect("started");
        let (tell, lines) = channel();
        let out = BufReader::new(process.stdout.take().expect("piped"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line).ok()));
        Node { name, mqtt, http, any, process, lines, said: Vec::new() }
    }

    pub fn serves(&mut self) -> bool {
        self.lines().iter().any(|line| line == "ready")
    }

    /// What it has written on standard output so far.
    pub fn lines(&mut self) -> &[String] {
        self.said.extend(self.lines.try_iter());
        &self.said
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    pub fn ask(&self, request: &str) -> Option<(u16, String)> {
        door::ask(&format!("127.0.0.1:{}", self.http), request)
    }

    pub fn sees_both_in_sync(&self) -> bool {
        self.ask("GET /api/ha").is_some_and(|(_, body)| body.contains(r#""in_sync":["a","b"]"#))
    }

    fn connect(&self, id: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.mqtt)).ok()?;
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut connect = b"\x10\x00\x00\x04MQTT\x04\x00\x00\x3c\x00".to_vec();
        connect.push(id.len() as u8);
        connect.extend_from_slice(id.as_bytes());
        connect[1] = (connect.len() - 2) as u8;
        stream.write_all(&connect).ok()?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).ok()?;
        (connack[0] == 0x20 && connack[3] == 0).then_some(stream)
    }
}

/// Two nodes, and whoever keeps their register.
pub struct Trio {
    pub dir: tempfile::TempDir,
    pub nodes: Vec<Node>,
    _witness: Option<Carrick>,
}

impl Trio {
    pub fn start() -> Trio {
        let dir = tempfile::tempdir().expect("a folder");
        let ports = ["a", "b", "w"].map(|name| (name, port()));
        let at = |name: &str| format!("127.0.0.1:{}", BTreeMap::from(ports)[name]);
        let text = format!(
            "node = 'w'\nlisten = '{}'\ndata_dir = 'w'\nsecret = '{SECRET}'\npeers = {{ a = '{}', b = '{}' }}\n",
            at("w"),
            at("a"),
            at("b")
        );
        std::fs::write(dir.path().join("w.toml"), text).expect("written");
        let witness = start(dir.path(), &["witness", "--config", "w.toml"]);
        Trio::of(dir, [at("a"), at("b")], &format!("witness = {{ w = '{}' }}\n", at("w")), Some(witness))
    }

    /// `coordinator`: the keys of `[ha]` that say who it is.
    pub fn with(coordinator: &str) -> Trio {
        let links = [0; 2].map(|_| format!("127.0.0.1:{}", port()));
        Trio::of(tempfile::tempdir().expect("a folder"), links, coordinator, None)
    }

    fn of(dir: tempfile::TempDir, links: [String; 2], coordinator: &str, witness: Option<Carrick>) -> Trio {
        let mut nodes = Vec::new();
        for (at, (name, other)) in [("a", "b"), ("b", "a")].into_iter().enumerate() {
            let (mqtt, http, any) = (port(), port(), port());
            // Small segments, so that the log rotates and the standby writes checkpoints.
            let text = format!(
                "data_dir = 'data-{name}'\nlisten = ['mqtt://127.0.0.1:{mqtt}', 'http://127.0.0.1:{http}', 'any://127.0.0.1:{any}']\njournal.segment_bytes = '1 MiB'\n\
                 journal.checkpoint_bytes = '4 MiB'\njournal.checkpoint_interval_secs = 1\n[ha]\nnode = '{name}'\nlisten = '{}'\npeers = {{ {other} = '{}' }}\n{coordinator}secret = '{SECRET}'\n\
                 clients = ['mqtt://{name}.example:1', 'amqp://{name}.example:2', 'stomp://{name}.example:3']\n",
                links[at],
                links[1 - at],
            );
            std::fs::write(dir.path().join(format!("{name}.toml")), text).expect("written");
            nodes.push(Node::start(dir.path(), name, [mqtt, http, any]));
        }
        Trio { dir, nodes, _witness: witness }
    }

    /// The one that serves, other than `not`. One that gave up by itself, on a disk that is busy with others' work, is started again, as a
    /// service manager does.
    pub fn primary(&mut self, not: Option<usize>) -> usize {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            for at in (0..self.nodes.len()).filter(|at| Some(*at) != not) {
                if matches!(self.nodes[at].process.try_wait(), Ok(Some(status)) if status.code() == Some(75)) {
                    self.restart(at);
                }
                if self.nodes[at].serves() {
                    return at;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let logs = ["a", "b"].map(|name| std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default());
        panic!("nobody serves; a's log:\n{}\nb's log:\n{}", logs[0], logs[1]);
    }

    /// A pair with a subscription, some hundred confirmed messages for it, and a standby that may take over.
    pub fn whole() -> (Trio, usize, Publisher) {
        let (mut trio, mut publisher) = (Trio::start(), Publisher::default());
        let primary = trio.primary(None);
        subscribe(&trio.nodes[primary]);
        trio.standby_in_sync(primary, &mut publisher);
        (trio, primary, publisher)
    }

    /// Publishes until there is a standby that may take over, and a few hundred more were confirmed.
    pub fn standby_in_sync(&self, primary: usize, publisher: &mut Publisher) {
        let begun = Instant::now();
        let enough = publisher.confirmed.len() + 501;
        while !self.nodes[primary].sees_both_in_sync() || publisher.confirmed.len() < enough {
            publisher.publish(&self.nodes[primary], 20);
            assert!(begun.elapsed() < LIMIT, "{:?}", self.nodes[primary].ask("GET /api/ha"));
        }
    }

    pub fn kill(&mut self, at: usize) {
        let process = &mut self.nodes[at].process;
        signal(process, rustix::process::Signal::KILL);
        wait(process);
    }

    pub fn restart(&mut self, at: usize) {
        self.restart_with(at, &[]);
    }

    /// With these environment variables.
    pub fn restart_with(&mut self, at: usize, variables: &[(&str, &str)]) {
        let Node { name, mqtt, http, any, .. } = self.nodes[at];
        self.nodes[at] = Node::start_with(self.dir.path(), name, [mqtt, http, any], variables);
    }
}

/// Numbers its messages, and knows which were confirmed.
#[derive(Default)]
pub struct Publisher {
    next: u64,
    pub confirmed: BTreeSet<u64>,
    link: Option<TcpStream>,
}

impl Publisher {
    /// Publishes until so many more are confirmed, or the connection breaks.
    fn publish(&mut self, node: &Node, count: usize) {
        let Some(mut link) = self.link.take().or_else(|| node.connect("publisher")) else { return };
        let goal = self.confirmed.len() + count;
        let mut open = BTreeMap::new();
        while self.confirmed.len() < goal {
            while open.len() < WINDOW {
                self.next += 1;
                let id = (self.next % 60_000) as u16 + 1;
                let mut packet = publish("t/x", format!("{:0100}", self.next).as_bytes());
                packet[7..9].copy_from_slice(&id.to_be_bytes());
                if link.write_all(&packet).is_err() {
                    return;
                }
                open.insert(id, self.next);
            }
            let mut puback = [0; 4];
            if link.read_exact(&mut puback).is_err() {
                return;
            }
            assert_eq!(puback[..2], [0x40, 2]);
            let id = u16::from_be_bytes([puback[2], puback[3]]);
            self.confirmed.insert(open.remove(&id).expect("it was sent"));
        }
        // What is open is not asked about any more.
        drop(link);
    }

    pub fn until(&mut self, trio: &mut Trio, not: usize, count: usize) {
        let goal = self.confirmed.len() + count;
        let begun = Instant::now();
        while self.confirmed.len() < goal {
            let primary = trio.primary(Some(not));
            self.publish(&trio.nodes[primary], goal - self.confirmed.len());
            assert!(begun.elapsed() < LIMIT, "nothing is confirmed");
        }
    }
}

pub fn subscribe(node: &Node) {
    let mut link = node.connect("subscriber").expect("it serves");
    link.write_all(b"\x82\x08\x00\x01\x00\x03t/#\x01").expect("sent");
    assert_eq!(packet(&mut link).0, 0x90);
    link.write_all(b"\xe0\x00").expect("sent");
}

/// Everything that waits for the subscriber, in order.
pub fn drain(node: &Node) -> Vec<u64> {
    let mut link = node.connect("subscriber").expect("it serves");
    link.set_read_timeout(Some(Duration::from_millis(1500))).expect("a timeout");
    let mut found = Vec::new();
    let mut first = [0];
    while link.read_exact(&mut first).is_ok() {
        assert_eq!(first[0] & 0xf6, 0x32, "a PUBLISH at QoS 1, or DUP of one");
        let mut len = [0];
        link.read_exact(&mut len).expect("a length");
        let mut body = vec![0; usize::from(len[0])];
        link.read_exact(&mut body).expect("a packet");
        let (topic, rest) = body[2..].split_at(usize::from(body[1]));
        // Others may have come through without a confirm.
        if topic == b"t/x" {
            found.push(String::from_utf8_lossy(&rest[2..]).parse().expect("a number"));
        }
        link.write_all(&[0x40, 2, rest[0], rest[1]]).expect("acked");
    }
    found
}

pub fn judge(confirmed: &BTreeSet<u64>, found: &[u64]) {
    let there: BTreeSet<u64> = found.iter().copied().collect();
    let lost: Vec<&u64> = confirmed.difference(&there).collect();
    assert!(lost.is_empty(), "{} of {} confirmed messages are lost: {lost:?}", lost.len(), confirmed.len());
    let mut seen = BTreeSet::new();
    let first_arrivals: Vec<u64> = found.iter().copied().filter(|n| seen.insert(*n)).collect();
    assert!(first_arrivals.is_sorted(), "out of order");
}

#[test]
fn what_was_confirmed_outlives_whoever_is_killed() {
    let mut trio = Trio::start();
    let mut primary = trio.primary(None);
    subscribe(&trio.nodes[primary]);
    let mut publisher = Publisher::default();
    for round in 0..3 {
        trio.standby_in_sync(primary, &mut publisher);
        let before = publisher.confirmed.len();
        assert!(before > 500, "{before} confirmed");
        trio.kill(primary);
        let begun = Instant::now();
        publisher.until(&mut trio, primary, 100);
        println!("round {round}: {} ms to 100 confirmed on the other node", begun.elapsed().as_millis());
        trio.restart(primary);
        primary = trio.primary(Some(primary));
    }
    judge(&publisher.confirmed, &drain(&trio.nodes[primary]));
}

#[test]
fn one_that_was_frozen_wakes_up_and_gives_up() {
    let (mut trio, primary, mut publisher) = Trio::whole();
    // A publish that is on its way when it freezes must not be confirmed when it wakes.
    let mut late = trio.nodes[primary].connect("late").expect("it serves");
    signal(&trio.nodes[primary].process, rustix::process::Signal::STOP);
    let stat = format!("/proc/{}/stat", trio.nodes[primary].process.id());
    // Other threads of a busy process run on for a moment.
    let stopped = || std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T "));
    while !stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    late.write_all(&publish("t/late", b"late")).expect("the kernel takes it");
    publisher.until(&mut trio, primary, 100);
    signal(&trio.nodes[primary].process, rustix::process::Signal::CONT);
    assert_eq!(wait(&mut trio.nodes[primary].process), Some(75));
    let mut answer = Vec::new();
    let _ = late.read_to_end(&mut answer);
    assert!(!answer.contains(&0x40), "confirmed by a node that was primary no more: {answer:?}");
    trio.restart(primary);
    let now = trio.primary(Some(primary));
    judge(&publisher.confirmed, &drain(&trio.nodes[now]));
}

#[test]
fn a_clean_stop_hands_over_and_a_restart_of_both_loses_nothing() {
    let (mut trio, primary, mut publisher) = Trio::whole();
    signal(&trio.nodes[primary].process, rustix::process::Signal::TERM);
    assert_eq!(wait(&mut trio.nodes[primary].process), Some(0));
    publisher.until(&mut trio, primary, 100);
    let second = trio.primary(Some(primary));
    // The one that stopped knows nothing of these.
    publisher.until(&mut trio, primary, 500);
    trio.kill(second);
    trio.restart(primary);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!trio.nodes[primary].serves(), "it lacks what the other one confirmed alone");
    trio.restart(second);
    let now = trio.primary(None);
    assert_eq!(now, second);
    judge(&publisher.confirmed, &drain(&trio.nodes[now]));
}

#[test]
fn each_node_says_how_the_pair_is() {
    let (mut trio, primary, _) = Trio::whole();
    let standby = 1 - primary;
    let role = |node: &Node| node.ask("GET /health/ready");
    let (status, body) = role(&trio.nodes[primary]).expect("an answer");
    assert!(status == 200 && body.contains("primary"), "{body}");
    let (status, body) = role(&trio.nodes[standby]).expect("a standby answers too");
    assert!(status == 503 && body.contains("stands by"), "{body}");
    assert!(trio.nodes[standby].connect("x").is_none(), "it lets no client in");
    let urls = [0, 1].map(|at| trio.nodes[at].url());
    let asked = ["ha", "status", "--url", &urls[0], "--url", &urls[1]];
    let (code, text) = door::run(trio.dir.path(), &asked);
    assert_eq!(code, Some(0), "{text}");
    for part in ["a is ", "b is ", " is primary", " is standby", "in sync   a, b", "bytes behind", "voters"] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    trio.kill(standby);
    let (code, text) = door::run(trio.dir.path(), &asked);
    assert!(code == Some(3) && text.contains("does not answer"), "{code:?} {text}");
}

#[test]
fn an_operator_moves_the_primary_there_and_back() {
    let mut trio = Trio::start();
    let mut primary = trio.primary(None);
    subscribe(&trio.nodes[primary]);
    let mut publisher = Publisher::default();
    let mut pauses = Vec::new();
    for round in 0..4 {
        trio.standby_in_sync(primary, &mut publisher);
        let standby = 1 - primary;
        let urls = [0, 1].map(|at| trio.nodes[at].url());
        let begun = Instant::now();
        let asked = match round % 2 {
            0 => command(trio.dir.path(), &["ha", "switchover", "--url", &urls[0], "--url", &urls[1]]).spawn(),
            _ => command(trio.dir.path(), &["ha", "promote", "--url", &urls[standby]]).spawn(),
        };
        let mut asked = asked.expect("started");
        publisher.until(&mut trio, primary, 1);
        pauses.push(begun.elapsed());
        assert_eq!(wait(&mut asked), Some(0), "round {round}");
        assert_eq!(wait(&mut trio.nodes[primary].process), Some(75), "it is to be started again");
        publisher.until(&mut trio, primary, 200);
        trio.restart(primary);
        primary = standby;
    }
    pauses.sort();
    println!("from the command to the first confirm on the other node: {pauses:?}");
    // A lease is 350 ms; a busy machine may take longer than that for anything, so this only says that nobody waits for time-outs of seconds.
    assert!(pauses[1] < Duration::from_secs(5), "{pauses:?}");
    judge(&publisher.confirmed, &drain(&trio.nodes[primary]));
}

#[test]
fn what_would_lose_messages_is_not_done() {
    let (mut trio, primary, _) = Trio::whole();
    let standby = 1 - primary;
    let (status, body) = trio.nodes[standby].ask("POST /api/ha/switchover").expect("an answer");
    assert!(status == 409 && body.contains("is not primary"), "{body}");
    let (status, body) = trio.nodes[primary].ask("POST /api/ha/promote").expect("an answer");
    assert!(status == 409 && body.contains("does not follow"), "{body}");
    trio.kill(standby);
    let begun = Instant::now();
    while trio.nodes[primary].sees_both_in_sync() {
        assert!(begun.elapsed() < LIMIT, "{:?}", trio.nodes[primary].ask("GET /api/ha"));
    }
    let (status, body) = trio.nodes[primary].ask("POST /api/ha/switchover").expect("an answer");
    assert!(status == 409 && body.contains("no standby is in sync"), "{body}");
    assert!(trio.nodes[primary].connect("still").is_some(), "it serves on");
}
