//! The binary as a process: what it prints, refuses, and how it ends. One helper per boundary; the tests are in the modules.

mod bench;
mod conversions;
mod coordinators;
mod dead_letter;
mod descriptors;
mod door;
mod drill;
mod hostile;
mod journal;
mod limits;
mod pair;
mod rejoin;
mod serve;
mod standby;
mod steering;
mod store_failure;
mod sys;
mod tls;
mod web;
mod witness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
/// CONNECT of MQTT 3.1.1, clean session, client id "t"; and the CONNACK that accepts it.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01t";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
/// The same in MQTT 5, without properties.
const CONNECT_5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01t";

struct Carrick {
    process: Child,
    urls: Vec<String>,
}

impl Drop for Carrick {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carrick"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARRICK_") || name == "NOTIFY_SOCKET") {
        command.env_remove(name);
    }
    command
}

fn start(dir: &Path, arguments: &[&str]) -> Carrick {
    start_command(command(dir, arguments))
}

fn start_command(mut command: Command) -> Carrick {
    let mut process = command.stderr(Stdio::null()).spawn().expect("started");
    let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let mut urls = Vec::new();
    loop {
        let line = lines.next().expect("ready before the end").expect("text");
        match line.strip_prefix("listening ") {
            Some(url) => urls.push(url.to_owned()),
            None => break assert_eq!(line, "ready"),
        }
    }
    Carrick { process, urls }
}

impl Carrick {
    fn connect(&self) -> TcpStream {
        let url = self.urls.iter().find_map(|url| url.strip_prefix("mqtt://")).expect("a TCP listener");
        let stream = TcpStream::connect(url).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream
    }

    fn stop(mut self) -> Option<i32> {
        signal(&self.process, rustix::process::Signal::TERM);
        wait(&mut self.process)
    }
}

fn signal(process: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(process);
    rustix::process::kill_process(pid, signal).expect("it runs");
}

fn wait(process: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(status) = process.try_wait().expect("ours") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it does not end");
}

/// Runs something that must end by itself, and not well.
fn refused(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = command(dir, arguments);
    let mut process = command.spawn().expect("started");
    let code = wait(&mut process);
    let Output { stdout, stderr, .. } = process.wait_with_output().expect("read");
    assert!(!String::from_utf8_lossy(&stdout).contains("ready"), "it served");
    (code, String::from_utf8_lossy(&stderr).into_owned())
}

fn login(stream: &mut TcpStream, connect: &[u8]) -> Vec<u8> {
    stream.write_all(connect).expect("sent");
    let mut answer = vec![0; 2];
    stream.read_exact(&mut answer).expect("an answer");
    let mut rest = vec![0; answer[1] as usize];
    stream.read_exact(&mut rest).expect("the rest");
    answer.extend_from_slice(&rest);
    answer
}

/// The next packet: its first byte and what follows the length.
fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("a packet");
    let first = byte[0];
    let (mut len, mut shift) = (0, 0);
    loop {
        stream.read_exact(&mut byte).expect("a length");
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).expect("a body");
    (first, body)
}

/// PUBLISH of MQTT 3.1.1 at QoS 1, packet id 1.
fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x32, (2 + topic.len() + 2 + payload.len()) as u8, 0, topic.len() as u8];
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet.extend_from_slice(payload);
    packet
}
