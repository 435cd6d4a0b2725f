//! The register is in etcd, which goes and comes back.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::bench::Bench;
use crate::house;
use crate::net::W;
use crate::pair::{Settings, LONG};
use crate::world::World;

/// Shorter than the lease of two seconds, and longer.
const BLINK: Duration = Duration::from_millis(300);
const GONE: Duration = Duration::from_secs(5);

pub fn rig(bench: &Bench) -> Result<()> {
    if std::process::Command::new("etcd").arg("--version").output().is_err() {
        ensure!(!house::is_ci(), "etcd is not installed (Debian: etcd-server)");
        println!("# etcd CANNOT RUN HERE: it is not installed (Debian: etcd-server)");
        return Ok(());
    }
    let world = World::with(bench, Settings { etcd: true, ..Settings::default() })?;
    let pair = &world.pair;
    for _ in 0..if bench.soak { 10 } else { 1 } {
        let primary = world.settled(100)?;
        let since = pair.kill9(W);
        std::thread::sleep(BLINK);
        pair.start_node(W)?;
        std::thread::sleep(Duration::from_secs(3));
        println!("# etcd: restarted at once: the longest time without a confirm: {} ms", world.ledger.longest_pause(since).as_millis());
        world.confirm_more(100)?;
        ensure!(pair.whole()? == primary, "the primary changed over a restart of etcd that took less than a lease");
        let since = pair.kill9(W);
        std::thread::sleep(GONE);
        let last = world.ledger.last_confirm(since, primary).unwrap_or_default();
        println!("# etcd: gone for {GONE:?}: the last confirm came {} ms after", last.as_millis());
        pair.start_node(W)?;
        world.confirm_more(100)?;
        let primary = pair.whole()?;
        let killed: Instant = pair.kill9(primary);
        let first = world.first_confirm(killed, 1 - primary, LONG)?;
        println!("# etcd: from kill -9 of the primary to the first confirm by the other node: {} ms", first.as_millis());
        pair.start_node(primary)?;
    }
    pair.whole()?;
    world.finish("etcd")
}
