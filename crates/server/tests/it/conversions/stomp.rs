//! A client of STOMP 1.2: frames as text, a receipt awaited for each that asks for something.

use super::super::{Carrick, LIMIT};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub struct Stomp {
    stream: TcpStream,
    input: Vec<u8>,
    receipts: u32,
    put_by: VecDeque<Frame>,
}

#[derive(Debug)]
pub struct Frame {
    pub command: String,
    /// As they came, escapes included.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// What a MESSAGE says of itself beyond how it came here.
    pub fn shown(&self) -> String {
        let ours = ["subscription", "destination", "message-id", "redelivered", "content-length", "ack"];
        let said = self.headers.iter().filter(|(name, _)| !ours.contains(&name.as_str()));
        said.map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(" ")
    }
}

impl Stomp {
    pub fn connect(carrick: &Carrick) -> Stomp {
        let url = carrick.urls.iter().find(|url| url.starts_with("stomp://")).expect("a STOMP listener");
        Stomp::at(url)
    }

    /// At the listener with this URL.
    pub fn at(url: &str) -> Stomp {
        let address = url.trim_start_matches("stomp://").split(['/', '?']).next().expect("an address");
        let stream = TcpStream::connect(address).expect("connected");
        let mut stomp = Stomp { stream, input: Vec::new(), receipts: 0, put_by: VecDeque::new() };
        stomp.write("CONNECT", &[("accept-version", "1.2"), ("host", "/"), ("login", "guest"), ("passcode", "guest")], b"");
        assert_eq!(stomp.read(LIMIT).expect("an answer").command, "CONNECTED");
        stomp
    }

    pub fn write(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut frame = format!("{command}\n");
        headers.iter().for_each(|(name, value)| frame += &format!("{name}:{value}\n"));
        let mut bytes = format!("{frame}content-length:{}\n\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.push(0);
        self.stream.write_all(&bytes).expect("sent");
    }

    /// Sends a frame and waits for its receipt.
    pub fn ask(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.receipts += 1;
        let receipt = self.receipts.to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("receipt", receipt.as_str())]).collect();
        self.write(command, &headers, body);
        let answer = self.read(LIMIT).expect("an answer");
        assert_eq!((answer.command.as_str(), answer.header("receipt-id")), ("RECEIPT", Some(receipt.as_str())), "{answer:?}");
    }

    /// The same while messages may come, which stay to be taken.
    pub fn ask_beside_messages(&mut self, command: &str, headers: &[(&str, &str)]) {
        self.receipts += 1;
        let receipt = self.receipts.to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("receipt", receipt.as_str())]).collect();
        self.write(command, &headers, b"");
        loop {
            let answer = self.read_new(LIMIT).expect("an answer");
            match answer.command.as_str() {
                "MESSAGE" => self.put_by.push_back(answer),
                _ => break assert_eq!(answer.header("receipt-id"), Some(receipt.as_str()), "{answer:?}"),
            }
        }
    }

    pub fn send(&mut self, destination: &str, headers: &[(&str, &str)], body: &[u8]) {
        let headers: Vec<_> = [("destination", destination)].into_iter().chain(headers.iter().copied()).collect();
        self.ask("SEND", &headers, body);
    }

    pub fn subscribe(&mut self, destination: &str, headers: &[(&str, &str)]) {
        let headers: Vec<_> =
            [("destination", destination), ("id", "s"), ("ack", "auto")].into_iter().chain(headers.iter().copied()).collect();
        self.ask("SUBSCRIBE", &headers, b"");
    }

    /// The next frame; `None` if none comes in this time.
    pub fn read(&mut self, patience: Duration) -> Option<Frame> {
        self.put_by.pop_front().or_else(|| self.read_new(patience))
    }

    fn read_new(&mut self, patience: Duration) -> Option<Frame> {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout");
        loop {
            if let Some((frame, len)) = parse(&self.input) {
                self.input.drain(..len);
                return Some(frame);
            }
            let mut piece = [0; 65_536];
            match self.stream.read(&mut piece) {
                Ok(0) => panic!("the connection was closed"),
                Ok(len) => self.input.extend_from_slice(&piece[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn take(&mut self) -> Frame {
        let frame = self.read(LIMIT).expect("a message in time");
        assert_eq!(frame.command, "MESSAGE", "{frame:?}");
        frame
    }

    pub fn assert_nothing(&mut self) {
        let frame = self.read(Duration::from_millis(100));
        assert!(frame.is_none(), "{frame:?}");
    }
}

/// A whole frame at the start of `input`, and how long it is.
fn parse(input: &[u8]) -> Option<(Frame, usize)> {
    let start = input.iter().take_while(|byte| **byte == b'\n').count();
    let head = input[start..].windows(2).position(|pair| pair == b"\n\n")?;
    let text = std::str::from_utf8(&input[start..start + head]).expect("text");
    let mut lines = text.lines();
    let command = lines.next().expect("a command").to_owned();
    let split = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Vec<_> = lines.filter_map(split).collect();
    let body = start + head + 2;
    let length: Option<usize> =
        headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse().expect("a number"));
    let end = match length {
        Some(length) => (input.len() > body + length).then_some(body + length)?,
        None => body + input[body..].iter().position(|byte| *byte == 0)?,
    };
    Some((Frame { command, headers, body: input[body..end].to_vec() }, end + 1))
}
