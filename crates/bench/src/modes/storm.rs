//! A storm of subscriptions beside a steady flow on other topics.

use anyhow::Result;

use super::{report_verdict, us_each, Broker, Mark, CONNECT_WITHIN};
use crate::args::{Drain, Storm};
use crate::checker::{Inbox, Verdict};
use crate::clock::{self, MILLI};
use crate::conn::{Leave, ProducerPlan, Subscribe, Topics};
use crate::engine::Engine;
use crate::lane::LaneConfig;
use crate::report::Report;

/// Clients that are told to subscribe in one turn of the loop, so that the steady flow gets its turns too.
const AT_A_TIME: usize = 8;

pub(super) fn run(args: &Storm) -> Result<Report> {
    let mut broker = Broker::new(&args.target)?;
    let mut engine = broker.engine()?;
    let interval = (1e9 / args.rate.max(0.001)) as u64;
    let steady = engine.add_lane(LaneConfig { interval, ..LaneConfig::default() });
    let storm = engine.add_lane(LaneConfig::default());
    let topic = format!("{}/steady", broker.prefix);
    engine.add(broker.consumer(steady, "c", true, (topic.clone(), args.qos), Inbox::default()));
    engine.connect(CONNECT_WITHIN)?;
    engine.add(broker.producer(
        steady,
        ProducerPlan {
            id: 0,
            topics: Topics::One(topic),
            qos: args.qos,
            size: args.size as usize,
            window: 10_000,
            remember: false,
            limit: u64::MAX,
        },
    ));
    let first = 2;
    for nth in 0..args.clients {
        engine.add(broker.idle(storm, &format!("s{nth}"), true, Leave::Never));
    }
    engine.connect(2 * CONNECT_WITHIN)?;
    broker.refresh();
    broker.reset_peak();
    engine.start(steady);
    engine.run_for(clock::SECOND);

    let mut report = Report::new("subscribe-storm", args.target.name.as_deref());
    let before = measure(&broker, &mut engine, steady, args, &mut report, "before");
    let storm_s = rage(&broker, &mut engine, (steady, storm), first, args, &mut report);
    let after = measure(&broker, &mut engine, steady, args, &mut report, "after");
    engine.stop(steady);
    let limits = Drain { drain_idle: 2.0, drain_max: 20.0 };
    super::flow::drain(&mut engine, steady, 1, args.qos, limits);

    let wanted = u64::from(args.clients) * u64::from(args.subscriptions);
    let granted = engine.lanes[storm].subscribed;
    report.count("subscriptions", granted);
    report.real("subscribe_s", storm_s);
    report.real("subscribes_per_s", granted as f64 / storm_s.max(1e-9));
    if broker.process.is_some() {
        report.real("cpu_ratio_after_before", after / before);
    }
    let mut verdict = Verdict::default();
    let sent: Vec<(u16, u64)> = engine.producers().map(|p| (p.id, p.seq)).collect();
    for inbox in engine.inboxes(steady) {
        verdict.add_expecting(inbox, sent.iter().copied());
    }
    report_verdict(&mut report, &verdict, args.qos);
    if granted < wanted || engine.failed > 0 {
        report.fault(format!("{granted} of {wanted} subscriptions were granted; {}", engine.why()));
    }
    engine.close();
    Ok(report)
}

/// The steady flow alone for a while. Returns the broker's CPU per message.
fn measure(broker: &Broker<'_>, engine: &mut Engine, lane: usize, args: &Storm, report: &mut Report, name: &str) -> f64 {
    let from = Mark::take(broker, engine, lane);
    engine.lanes[lane].start_recording(clock::now());
    engine.run_for(clock::from_secs(args.duration));
    let to = Mark::take(broker, engine, lane);
    engine.lanes[lane].stop_recording(clock::now());
    // Messages of the span that are still under way count.
    engine.run_for(300 * MILLI);
    report_span(broker, engine, lane, (&from, &to), report, name)
}

fn report_span(broker: &Broker<'_>, engine: &Engine, lane: usize, (from, to): (&Mark, &Mark), report: &mut Report, name: &str) -> f64 {
    let delivered = to.delivered - from.delivered;
    let us = us_each(to.broker_cpu_ns_since(from), delivered);
    report.real(&format!("{name}_consumed_s"), delivered as f64 / to.secs_since(from));
    if broker.process.is_some() {
        report.real(&format!("{name}_us_per_msg"), us);
        broker.report_memory(report, &format!("{name}_rss_mb"), to.usage.rss_kib);
    }
    report.quantiles(&format!("{name}_lat"), &engine.lanes[lane].latency);
    us
}

/// Everybody subscribes; the steady flow is recorded meanwhile. Returns the seconds until the last SUBACK.
fn rage(broker: &Broker<'_>, engine: &mut Engine, (steady, storm): (usize, usize), first: usize, args: &Storm, report: &mut Report) -> f64 {
    let wanted = u64::from(args.clients) * u64::from(args.subscriptions);
    let from = Mark::take(broker, engine, steady);
    engine.lanes[steady].start_recording(clock::now());
    let deadline = from.at + clock::from_secs(args.max_storm);
    for (nth, at) in (first..first + args.clients as usize).enumerate() {
        engine.subscribe(at, &filters(broker, args, nth));
        if nth % AT_A_TIME == 0 {
            engine.run_once();
        }
    }
    engine.run_until(deadline, |e| e.lanes[storm].subscribed >= wanted || e.failed > 0);
    let to = Mark::take(broker, engine, steady);
    engine.lanes[steady].stop_recording(clock::now());
    let late = catch_up(engine, steady, args.rate);
    report_span(broker, engine, steady, (&from, &to), report, "during");
    report.real("catch_up_s", late);
    if broker.process.is_some() {
        report.real("us_per_subscription", us_each(to.broker_cpu_ns_since(&from), wanted));
    }
    to.secs_since(&from)
}

/// Waits until at most 50 ms of the steady flow are under way: what the storm held up belongs to the storm's figures,
/// not to those after it. Messages that were dropped never come: it ends when the rest no longer shrinks. Returns the seconds.
fn catch_up(engine: &mut Engine, lane: usize, rate: f64) -> f64 {
    let from = clock::now();
    let slack = (rate * 0.05) as u64 + 10;
    let mut best = (u64::MAX, from);
    engine.run_until(from + clock::from_secs(60.0), |e| {
        let lane = &e.lanes[lane];
        let behind = lane.published - lane.delivered.min(lane.published);
        if behind < best.0 {
            best = (behind, clock::now());
        }
        behind <= slack || clock::now() - best.1 > 2 * clock::SECOND
    });
    let secs = clock::to_secs(clock::now() - from);
    engine.run_for(100 * MILLI);
    secs
}

/// Half exact, a quarter with `+`, a quarter with `#`; all below a branch that the steady flow does not use.
fn filters(broker: &Broker<'_>, args: &Storm, client: usize) -> Subscribe {
    let branch = format!("{}/storm/{client}", broker.prefix);
    let filter = |nth: u16| match nth % 4 {
        1 => format!("{branch}/{nth}/+/state"),
        3 => format!("{branch}/{nth}/#"),
        _ => format!("{branch}/{nth}/a/state"),
    };
    Subscribe { filters: (0..args.subscriptions).map(filter).collect(), qos: args.qos, per_packet: usize::from(args.per_packet) }
}
