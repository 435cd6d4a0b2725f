//! A backlog: publish to offline sessions until it stands, look at memory and disk, then drain it.

use anyhow::Result;

use super::offline::{self, Load, Sessions};
use super::{report_verdict, us_each, Broker, Mark};
use crate::args::Backlog;
use crate::clock::{self, SECOND};
use crate::lane::LaneConfig;
use crate::report::Report;

pub(super) fn run(args: &Backlog) -> Result<Report> {
    let mut broker = Broker::new(&args.target)?;
    let sessions = Sessions { count: args.sessions, qos: args.qos, dealt: args.sessions > 1 };
    sessions.create(&broker, 600 * SECOND)?;
    broker.refresh();
    broker.reset_peak();

    let mut engine = broker.engine()?;
    let lane = engine.add_lane(LaneConfig::default());
    let load = Load {
        producers: args.producers,
        topics: sessions.topics(&broker),
        qos: args.qos,
        size: args.message.size as usize,
        window: args.message.window,
        remember: false,
        count: Some(args.count),
    };
    let empty = Mark::take(&broker, &engine, lane);
    offline::start_load(&broker, &mut engine, lane, load)?;
    let filled = engine.run_until(empty.at + clock::from_secs(args.max_fill), |e| e.lanes[lane].confirmed >= args.count || e.failed > 0);
    let full = Mark::take(&broker, &engine, lane);
    let (sent, failed, why) = (offline::sent(&engine), engine.failed, engine.why());
    engine.close();
    engine.run_for(clock::from_secs(args.settle));
    let settled = Mark::take(&broker, &engine, lane);
    let mut report = Report::new("backlog", args.target.name.as_deref());
    let fill_s = full.secs_since(&empty);
    report.count("confirmed", full.confirmed);
    report.real("fill_s", fill_s);
    report.real("fill_rate", full.confirmed as f64 / fill_s);
    broker.report_store(&mut report, "store_mb");
    let drained = sessions.drain(&broker, &sent, args.drain)?;
    if broker.process.is_some() {
        report.real("fill_us_per_msg", us_each(full.broker_cpu_ns_since(&empty), full.confirmed));
        report.real("drain_us_per_msg", us_each(drained.to.broker_cpu_ns_since(&drained.from), drained.delivered()));
        report.real("disk_mb", full.usage.written.saturating_sub(empty.usage.written) as f64 / 1e6);
    }
    broker.report_memory(&mut report, "rss_before_mb", empty.usage.rss_kib);
    broker.report_memory(&mut report, "rss_full_mb", full.usage.rss_kib);
    broker.report_memory(&mut report, "rss_settled_mb", settled.usage.rss_kib);
    broker.report_memory(&mut report, "broker_hwm_mb", drained.to.usage.peak_kib);
    report.real("drain_s", drained.secs());
    report.real("drain_rate", drained.delivered() as f64 / drained.secs());
    report_verdict(&mut report, &sessions.judge(&drained, &sent), args.qos);
    if !filled || failed > 0 {
        report.fault(format!("filling ended early: {why}"));
    }
    if drained.engine.failed > 0 {
        report.fault(format!("draining failed: {}", drained.engine.why()));
    }
    sessions.forget(&broker)?;
    Ok(report)
}
