//! Idle connections: how fast they come up and what they weigh.

use anyhow::{ensure, Result};

use super::{us_each, Broker};
use crate::args::Connections;
use crate::checker::Inbox;
use crate::clock;
use crate::conn::Leave;
use crate::report::Report;

pub(super) fn run(args: &Connections) -> Result<Report> {
    let mut broker = Broker::new(&args.target)?;
    let mut engine = broker.engine()?;
    ensure!(
        args.count as usize <= engine.open_max,
        "--count {}: the limit of open files (ulimit -Hn) leaves {} connections",
        args.count,
        engine.open_max
    );
    engine.connect_burst = args.connect_burst as usize;
    let lane = engine.add_lane(Default::default());
    for nth in 0..args.count {
        let id = format!("i{nth}");
        engine.add(match args.subscribe {
            true => {
                let filter = (broker.topic(u64::from(nth)), 0);
                broker.consumer(lane, &id, true, filter, Inbox::default())
            }
            false => broker.idle(lane, &id, true, Leave::Never),
        });
    }
    broker.refresh();
    broker.reset_peak();
    let before = broker.usage();
    let start = clock::now();
    let all = engine.connect(clock::from_secs(args.max_connect));
    let connect_s = clock::to_secs(clock::now() - start);
    let (ready, connected) = (engine.ready, broker.usage());
    engine.run_for(clock::from_secs(args.settle));
    let settled = broker.usage();
    engine.run_for(clock::from_secs(args.idle));
    let after = broker.usage();
    let alive = ready - engine.failed.min(ready);
    engine.close();

    let mut report = Report::new("connections", args.target.name.as_deref());
    report.count("asked", u64::from(args.count));
    report.count("ready", ready as u64);
    report.count("alive", alive as u64);
    report.real("connect_s", connect_s);
    report.real("connects_per_s", ready as f64 / connect_s.max(1e-9));
    if broker.process.is_some() {
        let grown = settled.rss_kib.saturating_sub(before.rss_kib);
        report.real("rss_kib_per_connection", grown as f64 / ready.max(1) as f64);
        broker.report_memory(&mut report, "rss_before_mb", before.rss_kib);
        broker.report_memory(&mut report, "rss_after_mb", settled.rss_kib);
        broker.report_memory(&mut report, "broker_hwm_mb", settled.peak_kib);
        report.real("cpu_us_per_connect", us_each(connected.cpu_ns.saturating_sub(before.cpu_ns), ready as u64));
        let idle_ns = after.cpu_ns.saturating_sub(settled.cpu_ns);
        report.real("idle_cpu_percent", clock::to_secs(idle_ns) * 100.0 / args.idle.max(1e-3));
    }
    if let Err(e) = all {
        report.fault(e.to_string());
    } else if alive < ready {
        report.fault(format!("{} connections were lost: {}", ready - alive, engine.why()));
    }
    Ok(report)
}
