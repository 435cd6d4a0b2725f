//! Many offline sessions with some messages each: what they weigh, and whether they survive a kill.

use anyhow::{bail, Result};

use super::offline::{self, Load, Sessions as Set};
use super::{report_verdict, restart, us_each, Broker, Mark};
use crate::args::Sessions;
use crate::clock::{self, MILLI, SECOND};
use crate::conn::Leave;
use crate::lane::LaneConfig;
use crate::report::Report;

pub(super) fn run(args: &Sessions) -> Result<Report> {
    let mut broker = Broker::new(&args.target)?;
    if args.restart.start.is_some() && broker.process.is_none() {
        bail!("--start needs --pid");
    }
    let set = Set { count: args.sessions, qos: args.qos, dealt: !args.shared };
    let publishes = u64::from(args.messages) * if args.shared { 1 } else { u64::from(args.sessions) };
    broker.refresh();
    broker.reset_peak();
    let mut engine = broker.engine()?;
    let lane = engine.add_lane(LaneConfig::default());
    let before = Mark::take(&broker, &engine, lane);
    let create_s = set.create(&broker, clock::from_secs(args.max_fill))?;
    let load = Load {
        producers: 1,
        topics: set.topics(&broker),
        qos: args.qos,
        size: args.message.size as usize,
        window: args.message.window,
        remember: false,
        count: Some(publishes),
    };
    let made = Mark::take(&broker, &engine, lane);
    offline::start_load(&broker, &mut engine, lane, load)?;
    let filled = engine.run_until(made.at + clock::from_secs(args.max_fill), |e| e.lanes[lane].confirmed >= publishes || e.failed > 0);
    let full = Mark::take(&broker, &engine, lane);
    let (sent, failed, why) = (offline::sent(&engine), engine.failed, engine.why());
    engine.close();
    engine.run_for(clock::from_secs(args.settle));
    let settled = Mark::take(&broker, &engine, lane);

    let mut report = Report::new("sessions", args.target.name.as_deref());
    report.real("create_s", create_s);
    report_weight(&mut report, &broker, args, [&before, &made, &full, &settled]);
    if !filled || failed > 0 {
        report.fault(format!("filling ended early: {why}"));
    }
    if args.restart.start.is_some() {
        bounce(&mut broker, args, &mut report)?;
    }
    let drained = set.drain(&broker, &sent, args.drain)?;
    report.real("drain_s", drained.secs());
    report.real("drain_rate", drained.delivered() as f64 / drained.secs());
    report.count("sessions_missing", drained.sessions_missing());
    report_verdict(&mut report, &set.judge(&drained, &sent), args.qos);
    if drained.engine.failed > 0 || drained.sessions_missing() > 0 {
        report.fault(format!("{} sessions missing; {}", drained.sessions_missing(), drained.engine.why()));
    }
    broker.forget(set.ids())?;
    Ok(report)
}

/// Memory at each stage, and what filling took.
fn report_weight(report: &mut Report, broker: &Broker<'_>, args: &Sessions, [before, made, full, settled]: [&Mark; 4]) {
    report.count("sessions", u64::from(args.sessions));
    report.count("messages_per_session", u64::from(args.messages));
    report.real("fill_s", full.secs_since(made));
    report.real("fill_rate", full.confirmed as f64 / full.secs_since(made));
    for (name, mark) in [("before", before), ("sessions", made), ("full", full), ("settled", settled)] {
        broker.report_memory(report, &format!("rss_{name}_mb"), mark.usage.rss_kib);
    }
    broker.report_memory(report, "broker_hwm_mb", settled.usage.peak_kib);
    if broker.process.is_some() {
        let grown = settled.usage.rss_kib.saturating_sub(before.usage.rss_kib);
        report.real("rss_kib_per_session", grown as f64 / f64::from(args.sessions));
        report.real("fill_us_per_msg", us_each(full.broker_cpu_ns_since(made), full.confirmed));
        report.real("disk_mb", full.usage.written.saturating_sub(made.usage.written) as f64 / 1e6);
    }
    broker.report_store(report, "store_mb");
}

/// kill -9 and start again, until a stranger can connect.
fn bounce(broker: &mut Broker<'_>, args: &Sessions, report: &mut Report) -> Result<()> {
    if let Some(process) = &mut broker.process {
        restart::kill(process)?;
        restart::wait_dead(process)?;
    }
    let mut again = restart::start(&args.restart)?;
    let started = again.at;
    broker.process = Some(again.process.clone());
    let deadline = started + clock::from_secs(args.restart.max_start);
    loop {
        again.check()?;
        let mut engine = broker.engine()?;
        let lane = engine.add_lane(LaneConfig::default());
        engine.add(broker.idle(lane, "hello", true, Leave::Never));
        match engine.connect(10 * SECOND) {
            Ok(()) => break engine.close(),
            Err(e) if clock::now() > deadline => return Err(e.context(format!("the broker did not come back: {}", again.last_words()))),
            Err(_) => std::thread::sleep(std::time::Duration::from_nanos(2 * MILLI)),
        }
    }
    report.real("restart_s", clock::to_secs(clock::now() - started));
    broker.refresh();
    broker.report_memory(report, "rss_restarted_mb", broker.usage().rss_kib);
    Ok(())
}
