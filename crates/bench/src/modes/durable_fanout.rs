//! One message to many persistent sessions, while somebody else's confirms are watched.

use anyhow::Result;

use super::offline::Sessions;
use super::{report_verdict, us_each, Broker, Mark, CONNECT_WITHIN};
use crate::args::{Drain, DurableFanout};
use crate::checker::Inbox;
use crate::clock::{self, MILLI, SECOND};
use crate::conn::{ProducerPlan, Topics};
use crate::engine::Engine;
use crate::lane::LaneConfig;
use crate::report::Report;

pub(super) fn run(args: &DurableFanout) -> Result<Report> {
    let mut broker = Broker::new(&args.target)?;
    let sessions = Sessions { count: args.sessions, qos: 1, dealt: false };
    let create_s = sessions.create(&broker, 600 * SECOND)?;

    let mut engine = broker.engine()?;
    let watched = engine.add_lane(LaneConfig { interval: interval(args.rate), ..LaneConfig::default() });
    let fan = engine.add_lane(LaneConfig { interval: interval(args.fan_rate), ..LaneConfig::default() });
    connect(&broker, &mut engine, watched, fan, &sessions, args)?;
    broker.refresh();
    broker.reset_peak();
    engine.start(watched);
    engine.run_for(SECOND);

    let mut report = Report::new("durable-fanout", args.target.name.as_deref());
    report.count("sessions", u64::from(args.sessions));
    report.real("create_s", create_s);
    engine.lanes[watched].start_recording(clock::now());
    engine.run_for(clock::from_secs(args.duration));
    engine.lanes[watched].stop_recording(clock::now());
    engine.run_for(200 * MILLI);
    report.quantiles("quiet_confirm", &engine.lanes[watched].confirm_latency);
    let quiet = engine.lanes[watched].confirm_latency.value_at_quantile(0.99);

    let from = Mark::take(&broker, &engine, watched);
    engine.lanes[watched].start_recording(clock::now());
    engine.lanes[fan].start_recording(clock::now());
    engine.start(fan);
    let wanted = u64::from(args.fan_count);
    let done = engine.run_until(from.at + clock::from_secs(args.max_fill), |e| e.lanes[fan].confirmed >= wanted || e.failed > 0);
    let to = Mark::take(&broker, &engine, watched);
    engine.lanes[watched].stop_recording(clock::now());
    let limits = Drain { drain_idle: 5.0, drain_max: 30.0 };
    engine.stop(watched);
    super::flow::drain(&mut engine, watched, 1, 1, limits);
    report.quantiles("during_confirm", &engine.lanes[watched].confirm_latency);
    let during = engine.lanes[watched].confirm_latency.value_at_quantile(0.99);
    report.real("confirm_p99_ratio", during as f64 / quiet.max(1) as f64);
    report.quantiles("fan_confirm", &engine.lanes[fan].confirm_latency);
    report.real("fan_s", to.secs_since(&from));
    let copies = wanted * u64::from(args.sessions);
    report.real("copies_s", copies as f64 / to.secs_since(&from));
    if broker.process.is_some() {
        report.real("cpu_us_per_copy", us_each(to.broker_cpu_ns_since(&from), copies));
    }
    broker.report_memory(&mut report, "broker_rss_mb", to.usage.rss_kib);
    broker.report_memory(&mut report, "broker_hwm_mb", to.usage.peak_kib);
    broker.report_store(&mut report, "store_mb");
    if !done || engine.failed > 0 {
        report.fault(format!("{} of {wanted} fan-outs were confirmed; {}", engine.lanes[fan].confirmed, engine.why()));
    }
    engine.close();
    if !args.no_verify {
        verify(&broker, &sessions, args, &mut report)?;
    }
    broker.forget(sessions.ids().chain(["watch".into()]))?;
    Ok(report)
}

fn interval(rate: f64) -> u64 {
    (1e9 / rate.max(0.001)) as u64
}

/// The watched producer has a persistent consumer of its own, so that its messages are durable too.
fn connect(broker: &Broker<'_>, engine: &mut Engine, watched: usize, fan: usize, sessions: &Sessions, args: &DurableFanout) -> Result<()> {
    let topic = format!("{}/watched", broker.prefix);
    engine.add(broker.consumer(watched, "watch", false, (topic.clone(), 1), Inbox::default()));
    engine.connect(CONNECT_WITHIN)?;
    let plan = |topics: Topics, limit: u64| ProducerPlan {
        id: 0,
        topics,
        qos: 1,
        size: args.message.size as usize,
        // Wide, so that a stalled confirm does not thin out the samples.
        window: 10_000,
        remember: false,
        limit,
    };
    engine.add(broker.producer(watched, plan(Topics::One(topic), u64::MAX)));
    engine.add(broker.producer(fan, plan(sessions.topics(broker), u64::from(args.fan_count))));
    engine.connect(CONNECT_WITHIN)
}

fn verify(broker: &Broker<'_>, sessions: &Sessions, args: &DurableFanout, report: &mut Report) -> Result<()> {
    let sent = [(0, u64::from(args.fan_count))];
    let drained = sessions.drain(broker, &sent, args.drain)?;
    report.real("drain_s", drained.secs());
    report.count("sessions_missing", drained.sessions_missing());
    report_verdict(report, &sessions.judge(&drained, &sent), 1);
    if drained.engine.failed > 0 {
        report.fault(format!("draining failed: {}", drained.engine.why()));
    }
    Ok(())
}
