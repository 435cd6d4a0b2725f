//! A disk that stands still (fsfreeze). Nothing may be confirmed meanwhile, clients must still be answered, and when the disk goes on so
//! must everything. In the last round the broker is killed during the stall.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{conclude, power, Bench, PATIENCE, ROUND_CONFIRMS, START_WITHIN};
use crate::broker::SMALL_JOURNAL;
use crate::link::Link;
use crate::load::{Load, Mix};
use crate::report::Figures;
use crate::watch::Watch;
use crate::wire::{self, Connect, Packet, Version};

const STALL: Duration = Duration::from_millis(1500);
const ROUNDS: u64 = 3;

pub fn rig(bench: &Bench) -> Result<()> {
    let mut stage = power::stage(bench, "stall", SMALL_JOURNAL)?;
    let mut load = Load::new(Mix::usual(), bench.run(), &stage.recipe.scratch.join("ledger"))?;
    let mut figures = Figures::default();
    let watch = Watch::start(&stage.recipe.data);
    let run = rounds(bench, &mut stage, &mut load, &mut figures);
    figures.journal(&watch.finish());
    conclude("stall", &mut figures, run, load).map(drop)
}

fn rounds(bench: &Bench, stage: &mut power::Stage, load: &mut Load, figures: &mut Figures) -> Result<()> {
    let mut broker = stage.recipe.start()?;
    load.world.set_addr(Some(broker.addr));
    load.begin(START_WITHIN)?;
    let (mut least_confirmed, mut least_in_flight, mut pings) = (u64::MAX, u64::MAX, 0);
    let rounds = ROUNDS * bench.scale;
    for round in 0..rounds {
        let before = load.confirmed();
        load.confirm_more(ROUND_CONFIRMS, PATIENCE)?;
        std::thread::sleep(bench.random.pause(Duration::from_millis(100), Duration::from_millis(400)));
        let mut bystander = bystander(broker.addr)?;
        let frozen = Instant::now();
        stage.disk.freeze(STALL)?;
        ensure!(frozen.elapsed() < STALL, "the disk was thawed before it was frozen: the machine is too busy for this rig");
        // Confirms of syncs that were through are still on their way.
        std::thread::sleep(Duration::from_millis(200));
        let (confirmed, in_flight) = (load.confirmed(), load.in_flight());
        ensure!(ping(&mut bystander)?, "no PINGRESP while the disk stands still");
        pings += 1;
        std::thread::sleep((STALL - Duration::from_millis(200)).saturating_sub(frozen.elapsed()));
        let late = load.confirmed() - confirmed;
        ensure!(frozen.elapsed() > STALL || late == 0, "{late} messages were confirmed while the disk stood still");
        least_in_flight = least_in_flight.min(in_flight);
        least_confirmed = least_confirmed.min(load.confirmed() - before);
        if round + 1 == rounds {
            broker.kill9();
            load.world.set_addr(None);
            broker = stage.recipe.start().context("after a kill during a stall")?;
            load.world.set_addr(Some(broker.addr));
        } else {
            ensure!(broker.wait(Duration::ZERO)?.is_none(), "the broker ended over a stall: {}", broker.last_words());
        }
        load.confirm_more(1, STALL + PATIENCE).context("after the stall")?;
    }
    figures.needs("rounds", rounds);
    figures.needs("least_confirmed_in_a_round", least_confirmed);
    figures.needs("least_in_flight_in_the_stall", least_in_flight);
    figures.needs("pings_answered_in_the_stall", pings);
    load.drain(PATIENCE).judge(load)?;
    broker.stop()
}

fn bystander(addr: std::net::SocketAddr) -> Result<Link> {
    let connect = Connect { version: Version::V4, client_id: "bystander", clean: true, keep_alive_secs: 60, receive_maximum: 0 };
    Ok(Link::open(addr, &connect)?.0)
}

fn ping(link: &mut Link) -> Result<bool> {
    wire::pingreq(&mut link.out);
    link.flush()?;
    Ok(link.next(Duration::from_millis(700))? == Some(Packet::Pingresp))
}
