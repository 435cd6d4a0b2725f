//! Durable queues, declared and bound over many channels of one connection, and what an idle one weighs.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{anyhow, bail, Context, Result};

use super::{us_each, Broker};
use crate::amqp::{self, MethodId};
use crate::args::Queues;
use crate::clock;
use crate::lane::histogram;
use crate::report::Report;

/// No answer takes longer from a broker that is alive.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const EXCHANGE: &str = "amq.topic";

pub(super) fn run(args: &Queues) -> Result<Report> {
    let mut broker = Broker::at(&args.target, args.target.addr.as_deref().unwrap_or("127.0.0.1:5672"))?;
    let mut link = Link::open(&broker, args.channels)?;
    broker.refresh();
    broker.reset_peak();
    let before = broker.usage();
    let name = |nth: u32| format!("{}/q{nth}", broker.prefix);
    let mut latency = histogram();
    let from = clock::now();
    // Each queue is declared, and once that is answered bound; what stands here is when the declaration was sent.
    link.each(args.count, args.channels, |out, channel, nth, answered| match answered {
        None => {
            amqp::queue_declare(out, channel, &name(nth), true);
            Some(amqp::QUEUE_DECLARE_OK)
        }
        Some((amqp::QUEUE_DECLARE_OK, took)) => {
            latency.saturating_record(took);
            amqp::queue_bind(out, channel, &name(nth), EXCHANGE, &name(nth));
            Some(amqp::QUEUE_BIND_OK)
        }
        Some(_) => None,
    })?;
    let secs = clock::to_secs(clock::now() - from).max(1e-9);
    let made = broker.usage();
    std::thread::sleep(Duration::from_secs_f64(args.settle.max(0.0)));
    let settled = broker.usage();
    let mut report = Report::new("queues", args.target.name.as_deref());
    report.count("queues", args.count.into());
    report.count("channels", args.channels.into());
    report.real("seconds", secs);
    report.real("queues_s", f64::from(args.count) / secs);
    report.quantiles("declare", &latency);
    if broker.process.is_some() {
        let grown = settled.rss_kib.saturating_sub(before.rss_kib);
        report.real("rss_kib_per_queue", grown as f64 / f64::from(args.count));
        report.real("broker_us_per_queue", us_each(made.cpu_ns.saturating_sub(before.cpu_ns), args.count.into()));
        report.real("broker_disk_mb", made.written.saturating_sub(before.written) as f64 / 1e6);
    }
    broker.report_memory(&mut report, "rss_before_mb", before.rss_kib);
    broker.report_memory(&mut report, "rss_after_mb", settled.rss_kib);
    broker.report_store(&mut report, "store_mb");
    if !args.keep {
        let from = clock::now();
        link.each(args.count, args.channels, |out, channel, nth, answered| {
            answered.is_none().then(|| {
                amqp::queue_delete(out, channel, &name(nth));
                amqp::QUEUE_DELETE_OK
            })
        })?;
        report.real("deleted_s", f64::from(args.count) / clock::to_secs(clock::now() - from).max(1e-9));
    }
    link.close()?;
    Ok(report)
}

/// A connection whose channels take turns: there is no need for more than one thread that waits.
struct Link {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Link {
    fn open(broker: &Broker<'_>, channels: u16) -> Result<Link> {
        let stream = TcpStream::connect(broker.addr).with_context(|| format!("cannot connect to {}", broker.addr))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let mut link = Link { stream, out: amqp::HEADER.to_vec(), input: Vec::new() };
        link.expect(amqp::START)?;
        let guest = || "guest".to_owned();
        let user = broker.target.user.clone().unwrap_or_else(guest);
        amqp::start_ok(&mut link.out, &user, &broker.target.password.clone().unwrap_or_else(guest));
        link.expect(amqp::TUNE)?;
        amqp::open(&mut link.out);
        link.expect(amqp::OPEN_OK)?;
        (1..=channels).for_each(|channel| amqp::channel_open(&mut link.out, channel));
        for _ in 1..=channels {
            link.expect(amqp::CHANNEL_OPEN_OK)?;
        }
        Ok(link)
    }

    /// Things numbered from 0, one at a time on each channel. `step` is told the thing, and what the last command about it was answered with
    /// and after how many nanoseconds; it appends the next command and says what will answer it, or that the thing is done.
    fn each(
        &mut self,
        count: u32,
        channels: u16,
        mut step: impl FnMut(&mut Vec<u8>, u16, u32, Option<(MethodId, u64)>) -> Option<MethodId>,
    ) -> Result<()> {
        // By channel: the thing, what it waits for, and since when.
        let mut waiting: HashMap<u16, (u32, MethodId, u64)> = HashMap::new();
        let mut next = 0;
        for channel in (1..=channels).take(count as usize) {
            let answer = step(&mut self.out, channel, next, None).context("a first command")?;
            waiting.insert(channel, (next, answer, clock::now()));
            next += 1;
        }
        while !waiting.is_empty() {
            let (channel, id) = self.hear()?;
            let Some((thing, answer, since)) = waiting.remove(&channel) else { bail!("an answer on the idle channel {channel}") };
            if id != answer {
                bail!("{id:?} on channel {channel} where {answer:?} was due");
            }
            let now = clock::now();
            let mut asked = step(&mut self.out, channel, thing, Some((id, now - since))).map(|answer| (thing, answer));
            if asked.is_none() && next < count {
                asked = step(&mut self.out, channel, next, None).map(|answer| (next, answer));
                next += 1;
            }
            if let Some((thing, answer)) = asked {
                waiting.insert(channel, (thing, answer, now));
            }
        }
        Ok(())
    }

    fn expect(&mut self, wanted: MethodId) -> Result<()> {
        match self.hear()? {
            (_, id) if id == wanted => Ok(()),
            (_, id) => bail!("{id:?} where {wanted:?} was due"),
        }
    }

    /// The next method. What is to be said goes out before there is a wait for it.
    fn hear(&mut self) -> Result<(u16, MethodId)> {
        loop {
            if let Some((frame, len)) = amqp::split(&self.input).map_err(|why| anyhow!(why))? {
                let (channel, method) = (frame.channel, frame.method());
                if matches!(method, Some(amqp::CLOSE | amqp::CHANNEL_CLOSE)) {
                    bail!("the broker closed: {}", frame.why());
                }
                self.input.drain(..len);
                match method {
                    Some(id) => return Ok((channel, id)),
                    None => continue,
                }
            }
            self.stream.write_all(&self.out).context("sending")?;
            self.out.clear();
            let mut more = [0; 64 << 10];
            match self.stream.read(&mut more).context("no answer")? {
                0 => bail!("the broker closed the connection"),
                len => self.input.extend_from_slice(&more[..len]),
            }
        }
    }

    fn close(mut self) -> Result<()> {
        amqp::close(&mut self.out);
        self.expect(amqp::CLOSE_OK)
    }
}
