//! What the machine can do at most. Figures of a broker mean little without these, of the same hour.

use std::fs::{remove_file, File};
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::args::Limits;
use crate::clock;
use crate::lane::histogram;
use crate::report::Report;

/// What a sync overwrites again and again: zeros, really written once, as a journal prepares its segments.
const PREPARED: u64 = 64 << 20;

pub(crate) fn run(args: &Limits) -> Result<Report> {
    let mut report = Report::new("limits", None);
    let nanos = clock::from_secs(args.seconds.max(0.01));
    for (name, chunk) in [("64k", 64 << 10), ("1k", 1 << 10), ("16", 16)] {
        let rate = stream(chunk, nanos).context("loopback")?;
        report.real(&format!("stream_{name}_mb_s"), rate / 1e6);
    }
    report.quantiles("pingpong", &ping_pong(nanos).context("loopback")?);
    for (name, len) in [("4k", 4 << 10), ("64k", 64 << 10)] {
        for (kind, prepared) in [("append", false), ("overwrite", true)] {
            let syncs = fdatasync(&args.dir, len, prepared, nanos).with_context(|| format!("--dir {}", args.dir.display()))?;
            report.quantiles(&format!("{kind}_{name}_fdatasync"), &syncs);
        }
    }
    Ok(report)
}

fn pair() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Bytes per second through one connection, one write per chunk.
fn stream(chunk: usize, nanos: u64) -> Result<f64> {
    let (mut near, mut far) = pair()?;
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 512 << 10];
        let mut total = 0u64;
        while let Ok(len @ 1..) = far.read(&mut buffer) {
            total += len as u64;
        }
        total
    });
    let from = clock::now();
    let bytes = vec![1; chunk];
    while clock::now() - from < nanos {
        for _ in 0..64 {
            near.write_all(&bytes)?;
        }
    }
    drop(near);
    let total = reader.join().ok().context("the reader failed")?;
    Ok(total as f64 / clock::to_secs(clock::now() - from))
}

fn ping_pong(nanos: u64) -> Result<Histogram<u64>> {
    let (mut near, mut far) = pair()?;
    thread::spawn(move || {
        let mut buffer = [0; 16];
        while far.read_exact(&mut buffer).and_then(|()| far.write_all(&buffer)).is_ok() {}
    });
    let mut times = histogram();
    let mut buffer = [0; 16];
    let end = clock::now() + nanos;
    loop {
        let from = clock::now();
        if from >= end {
            return Ok(times);
        }
        near.write_all(&buffer)?;
        near.read_exact(&mut buffer)?;
        times.saturating_record(clock::now() - from);
    }
}

/// A write of `len` bytes and its fdatasync, again and again.
fn fdatasync(dir: &Path, len: usize, prepared: bool, nanos: u64) -> Result<Histogram<u64>> {
    let path = dir.join(format!(".carrick-bench-{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    let result = sync_loop(&mut file, len, prepared, nanos);
    remove_file(&path)?;
    result
}

fn sync_loop(file: &mut File, len: usize, prepared: bool, nanos: u64) -> Result<Histogram<u64>> {
    if prepared {
        let zeros = vec![0; 1 << 20];
        for _ in 0..PREPARED >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        file.rewind()?;
    }
    let mut times = histogram();
    let bytes = vec![7; len];
    let end = clock::now() + nanos;
    let mut at = 0;
    loop {
        if prepared && at + len as u64 > PREPARED {
            file.rewind()?;
            at = 0;
        }
        let from = clock::now();
        if from >= end {
            return Ok(times);
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.saturating_record(clock::now() - from);
        at += len as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_measures_everything_and_leaves_no_file() {
        let dir = std::env::temp_dir().join(format!("carrick-limits-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        run(&Limits { dir: dir.clone(), seconds: 0.02, json: false }).unwrap();
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
        let missing = Limits { dir: dir.join("gone"), seconds: 0.02, json: false };
        assert!(run(&missing).is_err());
    }
}
