//! The modes, each a straight-line script over the engine, and what they share.

mod backlog;
mod connections;
mod durable_fanout;
mod flow;
mod offline;
mod queues;
mod recover;
mod restart;
mod sessions;
mod storm;

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{bail, ensure, Context, Result};
use rustix::time::{clock_gettime, ClockId};

use crate::amqp::PAYLOAD_MAX;
use crate::args::{Args, DurableFanout, Flow, Mode, Proto, Sessions, Storm, Target};
use crate::carrier::Carriage;
use crate::checker::{Inbox, Verdict};
use crate::clock::{self, SECOND};
use crate::conn::{Leave, Plan, ProducerPlan, Purpose, RolePlan, Subscribe};
use crate::engine::Engine;
use crate::limits;
use crate::procfs::{disk_usage, Process, Usage};
use crate::report::Report;
use crate::wire;

/// How long connections of a usual number may take to stand.
const CONNECT_WITHIN: u64 = 30 * SECOND;

pub(crate) fn run(args: Args) -> Result<i32> {
    check_protocol(&args.mode)?;
    let (report, json) = match &args.mode {
        Mode::Throughput(flow) => (flow::run("throughput", flow)?, flow.target.json),
        Mode::Latency(flow) => (flow::run("latency", flow)?, flow.target.json),
        Mode::Fanout(flow) => (flow::run("fanout", flow)?, flow.target.json),
        Mode::Fanin(flow) => (flow::run("fanin", flow)?, flow.target.json),
        Mode::Connections(args) => (connections::run(args)?, args.target.json),
        Mode::Backlog(args) => (backlog::run(args)?, args.target.json),
        Mode::Recover(args) => (recover::run(args)?, args.target.json),
        Mode::SubscribeStorm(args) => (storm::run(args)?, args.target.json),
        Mode::Sessions(args) => (sessions::run(args)?, args.target.json),
        Mode::DurableFanout(args) => (durable_fanout::run(args)?, args.target.json),
        Mode::Queues(args) => (queues::run(args)?, args.target.json),
        Mode::Limits(args) => (limits::run(args)?, args.json),
    };
    report.print(json);
    Ok(report.exit_code())
}

/// Which modes and values there are in AMQP and STOMP.
fn check_protocol(mode: &Mode) -> Result<()> {
    let (target, qos, size) = match mode {
        Mode::Throughput(flow) | Mode::Latency(flow) => {
            let one_queue_each = !flow.wildcard && flow.consumers.unwrap_or(1) == flow.topics.unwrap_or(1);
            ensure!(
                flow.target.proto == Proto::Mqtt || one_queue_each,
                "in AMQP and STOMP each topic is a queue: as many --consumers as --topics"
            );
            (&flow.target, flow.qos, flow.message.size)
        }
        Mode::Backlog(args) => (&args.target, args.qos, args.message.size),
        Mode::Recover(args) => (&args.target, args.qos, args.message.size),
        Mode::Connections(args) => (&args.target, u8::from(args.subscribe) * 2, 0),
        Mode::Queues(args) => {
            ensure!(args.target.tls_ca.is_none() && args.target.websocket.is_none(), "queues speaks AMQP over TCP alone");
            return Ok(());
        }
        Mode::Limits(_) => return Ok(()),
        Mode::Fanout(Flow { target, .. }) | Mode::Fanin(Flow { target, .. }) => (target, 2, 0),
        Mode::SubscribeStorm(Storm { target, .. }) => (target, 2, 0),
        Mode::Sessions(Sessions { target, .. }) => (target, 2, 0),
        Mode::DurableFanout(DurableFanout { target, .. }) => (target, 2, 0),
    };
    if target.proto != Proto::Mqtt {
        ensure!(
            qos < 2,
            "in AMQP and STOMP there are throughput, latency, backlog, recover, connections without --subscribe, and queues (AMQP), at QoS 0 and 1"
        );
    }
    let fits = target.proto != Proto::Amqp || size as usize <= PAYLOAD_MAX;
    ensure!(fits, "--size: at most {PAYLOAD_MAX} in AMQP");
    Ok(())
}

/// The broker of one run: its address, its process, and names that no other run uses.
struct Broker<'a> {
    target: &'a Target,
    addr: SocketAddr,
    host: String,
    prefix: String,
    process: Option<Process>,
}

impl<'a> Broker<'a> {
    fn new(target: &'a Target) -> Result<Broker<'a>> {
        let usual = match target.proto {
            Proto::Mqtt => "127.0.0.1:1883",
            Proto::Amqp => "127.0.0.1:5672",
            Proto::Stomp => "127.0.0.1:61613",
        };
        Broker::at(target, target.addr.as_deref().unwrap_or(usual))
    }

    fn at(target: &'a Target, name: &str) -> Result<Broker<'a>> {
        let mut found = name.to_socket_addrs().with_context(|| format!("--addr {name}"))?;
        let Some(addr) = found.next() else { bail!("--addr {name} resolves to nothing") };
        for field in [&target.user, &target.password].into_iter().flatten() {
            if field.len() > usize::from(u16::MAX) {
                bail!("--user and --password hold at most 65,535 bytes");
            }
        }
        let prefix = target.prefix.clone().unwrap_or_else(|| format!("cb{}-{}", std::process::id(), clock::now() / 1_000_000 % 1_000_000));
        let process = target.pid.map(Process::new).transpose()?;
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host).trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Broker { target, addr, host, prefix, process })
    }

    fn engine(&self) -> Result<Engine> {
        Engine::new(self.addr, Carriage::new(self.target, &self.host)?, self.target.keep_alive)
    }

    fn topic(&self, nth: u64) -> String {
        format!("{}/{nth}", self.prefix)
    }

    fn connect(&self, id: &str, clean: bool) -> wire::Connect {
        wire::Connect {
            version: self.target.version,
            client_id: format!("{}-{id}", self.prefix),
            clean,
            keep_alive_secs: self.target.keep_alive,
            user: self.target.user.clone(),
            password: self.target.password.clone(),
            receive_max: 0,
        }
    }

    fn idle(&self, lane: usize, id: &str, clean: bool, leave: Leave) -> Plan {
        Plan {
            lane,
            connect: self.connect(id, clean),
            proto: self.target.proto,
            purpose: Purpose::Idle,
            subscribe: None,
            role: RolePlan::Idle,
            leave,
        }
    }

    fn producer(&self, lane: usize, plan: ProducerPlan) -> Plan {
        let connect = self.connect(&format!("p{lane}-{}", plan.id), true);
        let delivery_mode = self.target.delivery_mode.unwrap_or(if plan.qos > 0 { 2 } else { 1 });
        let purpose = Purpose::Publish { delivery_mode, confirms: plan.qos > 0 };
        Plan { lane, connect, proto: self.target.proto, purpose, subscribe: None, role: RolePlan::Producer(plan), leave: Leave::Never }
    }

    /// A consumer that subscribes; in AMQP it declares its queue.
    fn consumer(&self, lane: usize, id: &str, clean: bool, (filter, qos): (String, u8), inbox: Inbox) -> Plan {
        let plan = self.returning(lane, id, clean, (filter.clone(), qos), inbox);
        let purpose = match plan.purpose {
            Purpose::Take { queue, prefetch, auto_ack, .. } => Purpose::Take { queue, declare: Some(qos > 0), prefetch, auto_ack },
            other => other,
        };
        Plan { purpose, subscribe: Some(Subscribe { filters: vec![filter], qos, per_packet: 1 }), ..plan }
    }

    /// A consumer whose session, or whose queue, is trusted to be there.
    fn returning(&self, lane: usize, id: &str, clean: bool, (filter, qos): (String, u8), inbox: Inbox) -> Plan {
        let mut connect = self.connect(id, clean);
        connect.receive_max = self.target.receive_max;
        let purpose = Purpose::Take { queue: filter, declare: None, prefetch: self.target.prefetch, auto_ack: qos == 0 };
        Plan { lane, connect, proto: self.target.proto, purpose, subscribe: None, role: RolePlan::Consumer(inbox), leave: Leave::Never }
    }

    /// Deletes queues that this run made. STOMP has no word for it: there they stay, empty.
    fn delete(&self, queues: impl Iterator<Item = String>) -> Result<()> {
        if self.target.proto == Proto::Stomp {
            return Ok(());
        }
        let mut engine = self.engine()?;
        let lane = engine.add_lane(Default::default());
        for (nth, queue) in queues.enumerate() {
            engine.add(Plan { purpose: Purpose::Delete { queue }, ..self.idle(lane, &format!("d{nth}"), true, Leave::WhenReady) });
        }
        ensure!(engine.wait_gone(60 * SECOND) && engine.failed == 0, "queues of this run are left behind: {}", engine.why());
        Ok(())
    }

    /// Ends persistent sessions that this run made, by connecting clean once.
    fn forget(&self, ids: impl Iterator<Item = String>) -> Result<()> {
        let mut engine = self.engine()?;
        let lane = engine.add_lane(Default::default());
        for id in ids {
            engine.add(self.idle(lane, &id, true, Leave::WhenReady));
        }
        engine.wait_gone(60 * SECOND);
        Ok(())
    }

    fn refresh(&mut self) {
        if let Some(process) = &mut self.process {
            process.refresh();
        }
    }

    fn reset_peak(&self) {
        if let Some(process) = &self.process {
            process.reset_peak();
        }
    }

    fn usage(&self) -> Usage {
        self.process.as_ref().map(Process::usage).unwrap_or_default()
    }

    fn report_memory(&self, report: &mut Report, key: &str, kib: u64) {
        if self.process.is_some() {
            report.real(key, kib as f64 / 1024.0);
        }
    }

    fn report_store(&self, report: &mut Report, key: &str) {
        if let Some(dir) = &self.target.store_dir {
            report.real(key, disk_usage(dir) as f64 / 1e6);
        }
    }
}

/// Counters at one moment; the difference of two is a measurement.
#[derive(Clone, Copy)]
struct Mark {
    at: u64,
    published: u64,
    delivered: u64,
    confirmed: u64,
    usage: Usage,
    own_cpu_ns: u64,
}

impl Mark {
    fn take(broker: &Broker<'_>, engine: &Engine, lane: usize) -> Mark {
        let lane = &engine.lanes[lane];
        Mark {
            at: clock::now(),
            published: lane.published,
            delivered: lane.delivered,
            confirmed: lane.confirmed,
            usage: broker.usage(),
            own_cpu_ns: own_cpu_ns(),
        }
    }

    fn secs_since(&self, earlier: &Mark) -> f64 {
        clock::to_secs(self.at - earlier.at).max(1e-9)
    }

    fn broker_cpu_ns_since(&self, earlier: &Mark) -> u64 {
        self.usage.cpu_ns.saturating_sub(earlier.usage.cpu_ns)
    }
}

fn own_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as u64 * SECOND + t.tv_nsec as u64
}

/// Nanoseconds over a number of things, as microseconds each.
fn us_each(nanos: u64, things: u64) -> f64 {
    if things == 0 {
        f64::NAN
    } else {
        nanos as f64 / 1e3 / things as f64
    }
}

fn report_verdict(report: &mut Report, verdict: &Verdict, qos: u8) {
    report.count("received_unique", verdict.unique);
    report.count("lost", verdict.lost);
    report.count("duplicated", verdict.duplicated);
    report.count("duplicated_flagged", verdict.flagged_duplicates);
    report.count("reordered", verdict.reordered);
    report.count("foreign", verdict.foreign);
    if !verdict.holds(qos) {
        report.fault(format!(
            "at QoS {qos}: {} lost, {} duplicated, {} reordered, {} foreign",
            verdict.lost, verdict.duplicated, verdict.reordered, verdict.foreign
        ));
    }
}
