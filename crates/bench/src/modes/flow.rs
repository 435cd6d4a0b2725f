//! Throughput, latency, fan-out and fan-in: one flow, warmed up, measured, drained and checked.

use anyhow::{bail, Result};

use super::{report_verdict, us_each, Broker, Mark, CONNECT_WITHIN};
use crate::args::{Drain, Flow, Proto};
use crate::checker::{Inbox, Verdict};
use crate::clock::{self, MILLI};
use crate::conn::{ProducerPlan, Topics};
use crate::engine::Engine;
use crate::lane::LaneConfig;
use crate::report::Report;

/// The flow with the defaults of its mode filled in.
struct Shape {
    producers: u16,
    consumers: u32,
    topics: u32,
    wildcard: bool,
    rate: f64,
}

impl Shape {
    fn new(mode: &str, flow: &Flow) -> Result<Shape> {
        let (producers, consumers, topics) = match mode {
            "fanout" => (1, 100, 1),
            "fanin" => (100, 1, u32::from(flow.producers.unwrap_or(100))),
            _ => (1, 1, 1),
        };
        let shape = Shape {
            producers: flow.producers.unwrap_or(producers),
            consumers: flow.consumers.unwrap_or(consumers),
            topics: flow.topics.unwrap_or(topics),
            wildcard: flow.wildcard || mode == "fanin",
            rate: flow.rate.unwrap_or(if mode == "latency" { 5_000.0 } else { 0.0 }),
        };
        // Otherwise some topics would have publishers and no subscribers, which looks like loss in the rates.
        let uneven = shape.consumers % shape.topics;
        if !shape.wildcard && uneven > 0 {
            bail!("--consumers must be a multiple of --topics, or use --wildcard");
        }
        if shape.consumers == 0 && flow.e2e_window > 0 {
            bail!("--e2e-window needs consumers");
        }
        Ok(shape)
    }

    /// Deliveries per publish.
    fn fan(&self) -> u64 {
        u64::from(if self.wildcard { self.consumers } else { self.consumers / self.topics })
    }

    fn topic_of_producer(&self, producer: u16) -> u32 {
        u32::from(producer) % self.topics
    }
}

pub(super) fn run(mode: &str, flow: &Flow) -> Result<Report> {
    let shape = Shape::new(mode, flow)?;
    let mut broker = Broker::new(&flow.target)?;
    let mut engine = broker.engine()?;
    let interval = if shape.rate > 0.0 { (1e9 / shape.rate) as u64 } else { 0 };
    let lane = engine.add_lane(LaneConfig { e2e_window: flow.e2e_window, fan: shape.fan(), interval });
    connect(&broker, &mut engine, lane, flow, &shape)?;
    engine.run_for(200 * MILLI);

    broker.refresh();
    broker.reset_peak();
    engine.start(lane);
    let warmup = flow.warmup.unwrap_or(if flow.count.is_some() { 0.0 } else { 1.0 });
    engine.run_for(clock::from_secs(warmup));
    let from = Mark::take(&broker, &engine, lane);
    engine.lanes[lane].start_recording(clock::now());
    let goal = flow.count.map(|count| if shape.consumers > 0 { count * shape.fan() } else { count });
    engine.run_until(from.at + clock::from_secs(flow.duration), |e| {
        let done = if shape.consumers > 0 { e.lanes[lane].delivered } else { e.lanes[lane].published };
        e.failed > 0 || goal.is_some_and(|goal| done >= goal)
    });
    engine.lanes[lane].stop_recording(clock::now());
    let to = Mark::take(&broker, &engine, lane);
    engine.stop(lane);
    let drained = drain(&mut engine, lane, shape.fan(), flow.qos, flow.drain);
    let failed = engine.failed;
    engine.close();
    if flow.target.proto != Proto::Mqtt {
        broker.delete((0..shape.topics).map(|nth| broker.topic(u64::from(nth))))?;
    } else if flow.persistent {
        broker.forget((0..shape.consumers).map(|nth| format!("c{nth}")))?;
    }

    let mut report = Report::new(mode, flow.target.name.as_deref());
    report_rates(&mut report, &broker, &from, &to, shape.consumers > 0);
    report_outcome(&mut report, &engine, lane, flow, &shape);
    report.real("drain_s", drained);
    report.count("failed_connections", failed as u64);
    if failed > 0 {
        report.fault(format!("{failed} connections failed: {}", engine.why()));
    }
    Ok(report)
}

/// Consumers first, so that every subscription stands before the first publish.
fn connect(broker: &Broker<'_>, engine: &mut Engine, lane: usize, flow: &Flow, shape: &Shape) -> Result<()> {
    for nth in 0..shape.consumers {
        let filter = match shape.wildcard {
            true => format!("{}/#", broker.prefix),
            false => broker.topic(u64::from(nth % shape.topics)),
        };
        engine.add(broker.consumer(lane, &format!("c{nth}"), !flow.persistent, (filter, flow.qos), Inbox::default()));
    }
    engine.connect(CONNECT_WITHIN)?;
    for id in 0..shape.producers {
        let (count, all) = (flow.count.unwrap_or(u64::MAX), u64::from(shape.producers));
        let rest = u64::from(u64::from(id) < count % all);
        engine.add(broker.producer(
            lane,
            ProducerPlan {
                id,
                topics: Topics::One(broker.topic(u64::from(shape.topic_of_producer(id)))),
                qos: flow.qos,
                size: flow.message.size as usize,
                window: flow.message.window,
                remember: false,
                limit: count / all + rest,
            },
        ));
    }
    engine.connect(CONNECT_WITHIN)
}

/// Waits until everything is delivered and confirmed, or nothing moves any more. Returns the seconds it took.
pub(super) fn drain(engine: &mut Engine, lane: usize, fan: u64, qos: u8, limits: Drain) -> f64 {
    let from = clock::now();
    let end = from + clock::from_secs(limits.drain_max);
    let idle = clock::from_secs(limits.drain_idle);
    let mut last = (0, 0, from);
    engine.run_until(end, |e| {
        let l = &e.lanes[lane];
        let now = clock::now();
        if (l.delivered, l.confirmed) != (last.0, last.1) {
            last = (l.delivered, l.confirmed, now);
        }
        let done = l.delivered >= l.published * fan && (qos == 0 || l.confirmed >= l.published);
        done || now - last.2 > idle
    });
    clock::to_secs(clock::now() - from)
}

pub(super) fn report_rates(report: &mut Report, broker: &Broker<'_>, from: &Mark, to: &Mark, consumed: bool) {
    let secs = to.secs_since(from);
    let (published, delivered) = (to.published - from.published, to.delivered - from.delivered);
    let messages = if consumed { delivered } else { published };
    report.real("seconds", secs);
    report.real("published_s", published as f64 / secs);
    report.real("consumed_s", delivered as f64 / secs);
    report.real("confirmed_s", (to.confirmed - from.confirmed) as f64 / secs);
    if broker.process.is_some() {
        let cpu = to.broker_cpu_ns_since(from);
        report.real("broker_us_per_msg", us_each(cpu, messages));
        report.real("broker_cpu_s", clock::to_secs(cpu));
        report.real("broker_rss_mb", to.usage.rss_kib as f64 / 1024.0);
        report.real("broker_hwm_mb", to.usage.peak_kib as f64 / 1024.0);
        report.real("broker_disk_mb", to.usage.written.saturating_sub(from.usage.written) as f64 / 1e6);
    }
    report.real("bench_us_per_msg", us_each(to.own_cpu_ns - from.own_cpu_ns, messages));
}

fn report_outcome(report: &mut Report, engine: &Engine, lane: usize, flow: &Flow, shape: &Shape) {
    let state = &engine.lanes[lane];
    report.quantiles("lat", &state.latency);
    if flow.qos > 0 {
        report.quantiles("confirm", &state.confirm_latency);
    }
    report.count("published", state.published);
    let windows = || engine.producers().filter_map(|p| p.window.as_ref());
    let refused: u64 = windows().map(|w| w.refused).sum();
    let unconfirmed: u64 = windows().map(|w| w.outstanding as u64).sum();
    report.count("refused", refused);
    report.count("unconfirmed", unconfirmed);
    if refused + unconfirmed > 0 {
        report.fault(format!("{refused} publishes refused, {unconfirmed} never confirmed"));
    }
    let sent: Vec<(u16, u64)> = engine.producers().map(|p| (p.id, p.seq)).collect();
    let mut verdict = Verdict::default();
    for (nth, inbox) in engine.inboxes(lane).enumerate() {
        let mine = |id: u16| shape.wildcard || shape.topic_of_producer(id) == nth as u32 % shape.topics;
        verdict.add_expecting(inbox, sent.iter().copied().filter(|(id, _)| mine(*id)));
    }
    report_verdict(report, &verdict, flow.qos);
}
