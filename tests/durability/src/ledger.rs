//! The clients' own record of what happened: one file, appended and synced, read back for the verdict. It lies outside of the disk that
//! the rig hurts.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use anyhow::{bail, Context, Result};

use crate::checker::Event;

pub struct Ledger {
    path: PathBuf,
    sender: Option<Sender<Event>>,
    writer: Option<JoinHandle<std::io::Result<()>>>,
}

impl Ledger {
    pub fn create(path: &Path) -> Result<Ledger> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let (sender, receiver) = mpsc::channel();
        let writer = std::thread::spawn(move || write(file, &receiver));
        Ok(Ledger { path: path.to_path_buf(), sender: Some(sender), writer: Some(writer) })
    }

    /// For one client. Its events stay in its order.
    pub fn pen(&self) -> Pen {
        Pen(self.sender.clone().expect("the ledger is open until it is read"))
    }

    /// Waits until every pen is dropped and all is on the disk, then reads the file.
    pub fn close(mut self) -> Result<Vec<Event>> {
        drop(self.sender.take());
        if let Some(writer) = self.writer.take() {
            writer.join().map_err(|_| anyhow::anyhow!("the ledger's writer panicked"))?.context("writing the ledger")?;
        }
        read(&self.path)
    }
}

#[derive(Clone)]
pub struct Pen(Sender<Event>);

impl Pen {
    pub fn note(&self, event: Event) {
        // The writer only ends after the last pen; if the disk of the ledger failed, closing it says so.
        let _ = self.0.send(event);
    }
}

fn write(mut file: File, receiver: &Receiver<Event>) -> std::io::Result<()> {
    let mut lines = String::new();
    while let Ok(first) = receiver.recv() {
        lines.clear();
        put(&mut lines, &first);
        while let Ok(event) = receiver.try_recv() {
            put(&mut lines, &event);
            if lines.len() > 1 << 20 {
                break;
            }
        }
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
    }
    Ok(())
}

fn put(out: &mut String, event: &Event) {
    use std::fmt::Write;
    let _ = match event {
        Event::Sent { producer, n } => writeln!(out, "s {producer} {n}"),
        Event::Confirmed { producer, n } => writeln!(out, "c {producer} {n}"),
        Event::Received { consumer, producer, n, dup, connection } => {
            writeln!(out, "r {consumer} {producer} {n} {} {connection}", u8::from(*dup))
        }
        Event::Settled { consumer, connection, count } => writeln!(out, "a {consumer} {connection} {count}"),
        Event::Garbage { consumer } => writeln!(out, "g {consumer}"),
        Event::SessionLost { client } => writeln!(out, "l {client}"),
    };
}

pub fn read(path: &Path) -> Result<Vec<Event>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines().map(|line| parse(line).with_context(|| format!("the ledger has a bad line: {line}"))).collect()
}

fn parse(line: &str) -> Result<Event> {
    let mut words = line.split(' ');
    let kind = words.next().unwrap_or_default();
    let mut number = || -> Result<u64> { Ok(words.next().context("a number is missing")?.parse()?) };
    let id = |number: u64| u16::try_from(number);
    Ok(match kind {
        "s" => Event::Sent { producer: id(number()?)?, n: number()? },
        "c" => Event::Confirmed { producer: id(number()?)?, n: number()? },
        "r" => Event::Received {
            consumer: id(number()?)?,
            producer: id(number()?)?,
            n: number()?,
            dup: number()? == 1,
            connection: u32::try_from(number()?)?,
        },
        "a" => Event::Settled { consumer: id(number()?)?, connection: u32::try_from(number()?)?, count: number()? },
        "g" => Event::Garbage { consumer: id(number()?)? },
        "l" => Event::SessionLost { client: id(number()?)? },
        other => bail!("no event '{other}'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_read_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("carrick-ledger-{}", std::process::id()));
        let events = [
            Event::Sent { producer: 1, n: 2 },
            Event::Confirmed { producer: 1, n: 2 },
            Event::Received { consumer: 3, producer: 1, n: 2, dup: true, connection: 4 },
            Event::Settled { consumer: 3, connection: 4, count: 1 },
            Event::Garbage { consumer: 3 },
            Event::SessionLost { client: 3 },
        ];
        let ledger = Ledger::create(&path).unwrap();
        let pen = ledger.pen();
        events.iter().for_each(|event| pen.note(*event));
        drop(pen);
        assert_eq!(ledger.close().unwrap(), events);
        std::fs::remove_file(&path).unwrap();
    }
}
