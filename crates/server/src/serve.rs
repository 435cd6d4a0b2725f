//! The life of a serving process: open the store, listen, say so, wait for an end, and end in order.
//!
//! ```text
//! settings -> store (lock, recovery) -> sockets -> "listening URL" ... "ready" -> signal or failure
//! a pair:  -> sockets -> "listening URL" ... -> store -> "standby" -> (its turn) -> "ready" -> ...
//!          -> listeners close -> sessions say good-bye -> connections are gone -> store closes -> exit
//! ```

use crate::cli::Serve;
use crate::config::ha::Ha;
use crate::config::Settings;
use crate::door::{self, Door, Stage};
use crate::ha::Node;
use crate::tls::{self, Certificates};
use crate::turnstile::Turnstile;
use crate::wiring::{House, Plan};
use crate::{banner, limits, listeners, logging, protocols, wiring};
use anyhow::{Context, Result};
use broker_api::Broker;
use gateway::{Bound, Gateway, ListenUrl, Service};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// EX_TEMPFAIL of sysexits.h: the store failed, and a restart (or the standby) may do better.
const STORE_FAILED: u8 = 75;
/// What is left of the connections' tasks after their good-byes gets this long.
const REST_LIMIT: Duration = Duration::from_secs(1);

/// Clients that have been told where to go leave the core within this; then it is closed without waiting for them to close their sockets.
const PARTING_LIMIT: Duration = Duration::from_millis(300);
/// The other voters learn of the new primary, and whoever asked for it reads the answer.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

enum End {
    Asked,
    /// This node's place is to go to its standby; whoever asked for that waits for an answer.
    GiveWay(door::Reply),
    StoreFailed,
}

/// A process that serves no more.
struct Ended {
    end: End,
    gateway: Gateway,
    /// Clients were told of a standby that takes over.
    gives_way: bool,
}

pub fn run(flags: &Serve) -> Result<ExitCode> {
    let settings = Settings::load(flags)?;
    logging::init(&settings.log).map_err(anyhow::Error::msg)?;
    limits::raise_descriptors();
    limits::keep_freed_blocks();
    // Before the store is touched: a wrong file should not cost a recovery.
    let certificates = Certificates::of(&settings)?;
    let plan = wiring::plan(&settings)?;
    let (door, http) = Door::open(&settings, &plan.config.auth)?;
    say(&listening(&http));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.worker_threads)
        .thread_name("carrick")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let opened = match &settings.ha {
        None => opened_alone(&settings, plan, certificates, &runtime),
        Some(ha) => opened_of_pair((flags, &settings, ha), plan, certificates, &door, &runtime),
    };
    let (house, doors, node) = match opened {
        Ok(Some(opened)) => opened,
        ended => {
            runtime.shutdown_timeout(REST_LIMIT);
            return ended.map(|_| ExitCode::SUCCESS);
        }
    };
    let ended = match runtime.block_on(live(flags, &settings, &house, doors, (&door, http))) {
        Ok(ended) => ended,
        Err(error) => {
            runtime.shutdown_timeout(REST_LIMIT);
            let _ = house.close();
            return Err(error);
        }
    };
    let closed;
    let mut end = ended.end;
    if ended.gives_way && house.connections() == 0 {
        // Last words are on their way to clients that have left the core: the next primary does not wait for them.
        closed = house.close();
        give_way(node.as_ref(), &mut end);
        runtime.block_on(drained(&ended.gateway));
        runtime.shutdown_timeout(REST_LIMIT);
    } else {
        // Tasks that did not end by themselves end here, and tell the core so while it is still there.
        runtime.shutdown_timeout(REST_LIMIT);
        closed = house.close();
        if ended.gives_way {
            give_way(node.as_ref(), &mut end);
        }
    }
    // The other node may take over once everything is in the log.
    if let Some(node) = node {
        node.stop();
    }
    match (end, closed) {
        (End::Asked, Ok(())) => {
            info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        // Started again, it stands by.
        (End::GiveWay(_), Ok(())) => Ok(ExitCode::from(STORE_FAILED)),
        (End::StoreFailed, _) => Ok(ExitCode::from(STORE_FAILED)),
        (End::Asked | End::GiveWay(_), Err(failure)) => {
            error!(%failure, "the store could not be closed");
            Ok(ExitCode::from(STORE_FAILED))
        }
    }
}

/// The standby becomes primary now, if it can; else it does when it misses this node.
fn give_way(node: Option<&Node>, end: &mut End) {
    let Some(node) = node else { return };
    let handed_over = node.hand_over();
    match &handed_over {
        Ok(name) => info!(primary = name, "handed over"),
        Err(why) => warn!(why, "not handed over: the standby has to notice by itself that this node is gone"),
    }
    if let End::GiveWay(reply) = end {
        reply.answer(handed_over.map_err(|why| format!("{why}; this node goes down, and the standby takes over when it misses it")));
    }
    std::thread::sleep(LAST_ANSWERS);
}

async fn drained(gateway: &Gateway) {
    match gateway.drained().await {
        0 => {}
        left => warn!(connections = left, "closed without a good-bye"),
    }
}

/// Where clients come in.
struct Doors {
    gateway: Gateway,
    certificates: Certificates,
    protocols: protocols::List,
    urls: Vec<ListenUrl>,
    /// Standard output has them already.
    announced: bool,
}

impl Doors {
    /// Accepts from now on, on the runtime that this is called within.
    fn open(settings: &Settings, mut certificates: Certificates, broker: Arc<dyn Broker>) -> Result<Doors> {
        let mut gateway = Gateway::new(settings.gateway.clone(), broker);
        let protocols = protocols::all(settings)?;
        let urls = listen(settings, &protocols, &mut gateway, &mut certificates)?;
        Ok(Doors { gateway, certificates, protocols, urls, announced: false })
    }
}

/// `None`: asked to stop before this node's turn came.
type Opened = Option<(House, Doors, Option<Node>)>;

/// Opens the store, and then the doors.
fn opened_alone(settings: &Settings, plan: Plan, certificates: Certificates, runtime: &Runtime) -> Result<Opened> {
    let house = wiring::open(plan)?;
    let _within = runtime.enter();
    match Doors::open(settings, certificates, house.broker()) {
        Ok(doors) => Ok(Some((house, doors, None))),
        Err(error) => {
            let _ = house.close();
            Err(error)
        }
    }
}

/// Opens the doors, where clients are told to go elsewhere, and waits until it is this node that serves.
fn opened_of_pair(
    (flags, settings, ha): (&Serve, &Settings, &Ha),
    plan: Plan,
    certificates: Certificates,
    door: &Arc<Door>,
    runtime: &Runtime,
) -> Result<Opened> {
    let pair = ha.check(&wiring::absolute(&settings.data_dir))?;
    let asked = door.clone();
    let turnstile = Arc::new(Turnstile::new(move || asked.primary()));
    let within = runtime.enter();
    let mut doors = Doors::open(settings, certificates, turnstile.clone())?;
    drop(within);
    say(&listening(&doors.urls));
    doors.announced = true;
    let (node, house) = Node::start(plan, pair, door)?;
    door.enter(Stage::StandingBy);
    match runtime.block_on(stand_by(flags, door, &doors.certificates, house)) {
        Ok(Some(house)) => {
            turnstile.open(house.broker());
            Ok(Some((house, doors, Some(node))))
        }
        ended => {
            runtime.block_on(doors.gateway.stop_accepting(true));
            node.stop();
            ended.map(|_| None)
        }
    }
}

async fn stand_by(
    flags: &Serve,
    door: &Arc<Door>,
    certificates: &Certificates,
    house: oneshot::Receiver<Result<House>>,
) -> Result<Option<House>> {
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    say("standby\n");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("standby")]);
    let reload = async {
        while hangup.recv().await.is_some() {
            certificates.reload();
            tell_reloaded(reload_users(flags, None, door));
        }
    };
    tokio::select! {
        () = reload => unreachable!("the signal's stream does not end"),
        name = signals.next() => {
            info!(signal = name, "stopping");
            Ok(None)
        }
        house = house => house.context("the node has ended")?.map(Some),
    }
}

async fn live(
    flags: &Serve,
    settings: &Settings,
    house: &House,
    doors: Doors,
    (door, http): (&Arc<Door>, Vec<ListenUrl>),
) -> Result<Ended> {
    let mut signals = Signals::new()?;
    let Doors { mut gateway, certificates, protocols, urls, announced } = doors;
    house.watch_traffic(gateway.slots().clone(), protocols.lost());
    reload_on_hangup(flags.clone(), house.clone(), certificates, door.clone())?;
    let all: Vec<ListenUrl> = urls.iter().chain(&http).cloned().collect();
    eprint!("{}", banner::text(settings, house.named, &all, &wiring::absolute(&settings.data_dir)));
    door.enter(Stage::Serving);
    announce(if announced { &[] } else { &urls });
    let end = tokio::select! {
        name = signals.next() => {
            info!(signal = name, connections = gateway.slots().live(), "stopping");
            End::Asked
        }
        reply = door.wish() => {
            info!(connections = gateway.slots().live(), "giving way to the standby");
            End::GiveWay(reply)
        }
        failure = house.failed() => {
            error!(%failure, "stopping: nothing is confirmed any more");
            End::StoreFailed
        }
    };
    door.enter(Stage::Stopping);
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    tokio::spawn(async move {
        signals.next().await;
        // Asked twice: somebody is in a hurry, and the store is made for it.
        std::process::exit(130);
    });
    let elsewhere = door.elsewhere().filter(|_| !matches!(end, End::StoreFailed));
    let gives_way = elsewhere.is_some();
    gateway.stop_accepting(gives_way).await;
    house.shut_down_connections(elsewhere);
    if gives_way {
        house.parted(PARTING_LIMIT).await;
    } else {
        drained(&gateway).await;
    }
    Ok(Ended { end, gateway, gives_way })
}

fn listen(
    settings: &Settings,
    protocols: &protocols::List,
    gateway: &mut Gateway,
    certificates: &mut Certificates,
) -> Result<Vec<ListenUrl>> {
    let mut urls = Vec::new();
    for bound in listeners::bind_clients(settings)? {
        let url = bound.url.clone();
        let service = service(settings, protocols, &bound, certificates)?;
        gateway.listen(bound, service).with_context(|| format!("cannot listen on {url}"))?;
        urls.push(url);
    }
    Ok(urls)
}

fn service(settings: &Settings, protocols: &protocols::List, bound: &Bound, certificates: &mut Certificates) -> Result<Service> {
    let front = certificates.front(&bound.url, settings)?;
    let spoken = protocols.of_url(&tls::inside(&bound.url)).with_context(|| format!("{}: nothing speaks that here", bound.url))?;
    Ok(Service { spoken, vhost: wiring::default_vhost(), allow_anonymous: settings.allow_anonymous == Some(true), front })
}

/// SIGHUP: certificates, keys, users and rules are read again, connections stay.
fn reload_on_hangup(flags: Serve, house: House, certificates: Certificates, door: Arc<Door>) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let all = Arc::new((flags, house, certificates, door));
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let all = all.clone();
            // Files may be on a network.
            let reload = move || {
                let (flags, house, certificates, door) = &*all;
                certificates.reload();
                tell_reloaded(reload_users(flags, Some(house), door));
            };
            let _ = tokio::task::spawn_blocking(reload).await;
        }
    });
    Ok(())
}

fn reload_users(flags: &Serve, house: Option<&House>, door: &Door) -> Result<()> {
    let users = wiring::users_again(&Settings::load(flags)?)?;
    if let Some(house) = house {
        house.reload_users(&users)?;
    }
    door.reload_users(&users)
}

fn tell_reloaded(outcome: Result<()>) {
    match outcome {
        Ok(()) => info!("users, rules and permissions were read again"),
        Err(error) => error!(error = format!("{error:#}"), "not read again: users, rules and permissions stay as they are"),
    }
}

/// For programs that wait for us: nothing else is written to standard output, and nobody may be listening there.
fn announce(urls: &[ListenUrl]) {
    say(&(listening(urls) + "ready\n"));
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
}

fn listening(urls: &[ListenUrl]) -> String {
    urls.iter().map(|url| format!("listening {url}\n")).collect()
}

fn say(lines: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let hook = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals { terminate: hook(SignalKind::terminate())?, interrupt: hook(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
