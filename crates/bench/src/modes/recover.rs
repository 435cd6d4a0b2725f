//! Kill the broker while it is confirming messages, bring it back, and see whether each confirmed message comes.

use anyhow::{bail, Context, Result};

use super::offline::{self, Load, Sessions};
use super::restart::{self, Started};
use super::Broker;
use crate::args::{Recover, Restart};
use crate::checker::{History, Inbox, Verdict};
use crate::clock::{self, MILLI, SECOND};
use crate::engine::Engine;
use crate::lane::LaneConfig;
use crate::report::Report;

pub(super) fn run(args: &Recover) -> Result<Report> {
    let mut broker = Broker::new(&args.target)?;
    if broker.process.is_none() || args.restart.start.is_none() {
        bail!("recover needs --pid and --start");
    }
    let session = Sessions { count: 1, qos: args.qos, dealt: false };
    session.create(&broker, 30 * SECOND)?;

    let mut engine = broker.engine()?;
    let lane = engine.add_lane(LaneConfig::default());
    let load = Load {
        producers: args.producers,
        topics: session.topics(&broker),
        qos: args.qos,
        size: args.message.size as usize,
        window: args.message.window,
        remember: true,
        count: None,
    };
    offline::start_load(&broker, &mut engine, lane, load)?;
    let from = clock::now();
    engine.run_until(from + clock::from_secs(args.max_fill), |e| e.lanes[lane].confirmed >= args.count || e.failed > 0);
    let fill_s = clock::to_secs(clock::now() - from).max(1e-9);
    let confirmed_before = engine.lanes[lane].confirmed;
    if engine.failed > 0 {
        bail!("a producer failed before the kill: {}", engine.why());
    }
    let process = broker.process.as_mut().context("checked above")?;
    restart::kill(process)?;
    // Publishing goes on: what the broker confirmed in its last moment counts.
    let all = usize::from(args.producers);
    engine.run_until(clock::now() + 10 * SECOND, |e| e.failed >= all);
    restart::wait_dead(process)?;

    let mut again = restart::start(&args.restart)?;
    let started = again.at;
    let (mut back, ready) = come_back(&broker, &session, &mut again, &args.restart)?;
    broker.process = Some(again.process.clone());
    let drained_at = drain(&mut back, args, started);
    let first = back.lanes[0].first_delivery;
    broker.refresh();
    let usage = broker.usage();
    back.close();

    let confirmed: Vec<(u16, &History)> =
        engine.producers().filter_map(|p| Some((p.id, p.window.as_ref()?.acknowledged.as_ref()?))).collect();
    let mut verdict = Verdict::default();
    let inbox = back.inboxes(0).next().context("the consumer is gone")?;
    verdict.add_confirmed(inbox, confirmed.iter().copied());

    let mut report = Report::new("recover", args.target.name.as_deref());
    let unique = confirmed.iter().map(|(_, h)| h.unique).sum();
    let since = |at: u64| match at {
        0 => f64::NAN,
        at => clock::to_secs(at.saturating_sub(started)),
    };
    report.real("fill_s", fill_s);
    report.real("fill_rate", confirmed_before as f64 / fill_s);
    report.count("published", engine.lanes[lane].published);
    report.count("confirmed", unique);
    report.real("ready_s", since(ready));
    report.real("first_msg_s", first.map_or(f64::NAN, since));
    report.real("last_msg_s", since(drained_at));
    report.count("session_present", u64::from(back.conns[0].session_present));
    if let Some(depth) = back.conns[0].depth {
        report.count("depth", u64::from(depth));
        if u64::from(depth) != verdict.unique {
            report.fault(format!("the queue said that it holds {depth} messages, and {} came", verdict.unique));
        }
    }
    broker.report_memory(&mut report, "rss_after_mb", usage.rss_kib);
    report_recovery(&mut report, &verdict, args.qos);
    session.forget(&broker)?;
    Ok(report)
}

/// Connects the consumer again and again until the broker takes it. When that was, with the engine that holds it.
fn come_back(broker: &Broker<'_>, session: &Sessions, again: &mut Started, restart: &Restart) -> Result<(Engine, u64)> {
    let deadline = again.at + clock::from_secs(restart.max_start);
    loop {
        again.check()?;
        let mut engine = broker.engine()?;
        let lane = engine.add_lane(LaneConfig::default());
        engine.add(broker.returning(lane, "s0", false, (session.topic(broker, 0), session.qos), Inbox::default()));
        match engine.connect(deadline.saturating_sub(clock::now())) {
            Ok(()) => return Ok((engine, clock::now())),
            Err(e) if clock::now() >= deadline => {
                let said = again.last_words();
                return Err(e.context(format!("the broker did not come back within {} s: {said}", restart.max_start)));
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_nanos(2 * MILLI)),
        }
    }
}

/// Takes what comes until nothing has come for a while. Returns when the last message came; 0 when none did.
fn drain(engine: &mut Engine, args: &Recover, started: u64) -> u64 {
    let idle = clock::from_secs(args.drain.drain_idle);
    // A broker may accept clients before it has read its store.
    let patience = idle.max(5 * SECOND);
    let connected = clock::now();
    engine.run_until(started + clock::from_secs(args.restart.max_start + args.drain.drain_max), |e| {
        let lane = &e.lanes[0];
        let quiet = clock::now() - lane.last_delivery.max(connected);
        e.failed > 0 || quiet > if lane.delivered > 0 { idle } else { patience }
    });
    engine.lanes[0].last_delivery
}

/// Duplicates are allowed at QoS 1 only; messages never confirmed may come or not.
fn report_recovery(report: &mut Report, verdict: &Verdict, qos: u8) {
    report.count("received_unique", verdict.unique);
    report.count("lost_confirmed", verdict.lost);
    report.count("duplicated", verdict.duplicated);
    report.count("duplicated_flagged", verdict.flagged_duplicates);
    report.count("reordered", verdict.reordered);
    report.count("foreign", verdict.foreign);
    if !verdict.holds(qos) {
        report.fault(format!(
            "{} confirmed messages lost, {} duplicated, {} reordered, {} foreign",
            verdict.lost, verdict.duplicated, verdict.reordered, verdict.foreign
        ));
    }
}
