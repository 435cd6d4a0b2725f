//! Disks that stand still, fail and are full, of the primary and of the standby.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::bench::Bench;
use crate::house::run;
use crate::net::NAMES;
use crate::pair::{Settings, LONG};
use crate::shim::Shim;
use crate::world::World;

const GENEROUS: Duration = Duration::from_secs(10);
/// Longer than the lease, and than a standby may be silent.
const STALL_MICROS: u64 = 3_000_000;
const DISK_MIB: u64 = 64;

pub fn fails(bench: &Bench) -> Result<()> {
    let aside = bench.dir.with_extension("faults");
    let mut settings = Settings::default();
    let mut shims = Vec::new();
    for (env, name) in settings.env.iter_mut().zip(NAMES) {
        let (shim, words) = Shim::make(&aside, name)?;
        *env = words;
        shims.push(shim);
    }
    let world = World::with(bench, settings)?;
    for round in 0..if bench.soak { 10 } else { 1 } {
        primary_stalls(&world, &shims).with_context(|| format!("the primary's disk stands still (round {round})"))?;
        standby_stalls(&world, &shims).with_context(|| format!("the standby's disk stands still (round {round})"))?;
        for of_primary in [true, false] {
            sync_fails(&world, &shims, of_primary)
                .with_context(|| format!("a sync fails, of the primary: {of_primary} (round {round})"))?;
        }
    }
    world.finish("disk-fails")?;
    Ok(fs::remove_dir_all(aside)?)
}

fn primary_stalls(world: &World, shims: &[Shim]) -> Result<()> {
    let pair = &world.pair;
    let primary = world.settled(100)?;
    let (ends, since) = (pair.ends(primary).len(), Instant::now());
    shims[primary].stall(STALL_MICROS)?;
    let first = world.first_confirm(since, 1 - primary, GENEROUS)?;
    pair.wait("it gives up", LONG, || pair.ends(primary).len() > ends)?;
    let ended = pair.ends(primary).last().map(|(when, _)| when.duration_since(since)).unwrap_or_default();
    ensure!(shims[primary].hits()? > 0, "no sync was held up");
    shims[primary].disarm()?;
    println!(
        "# disk-fails: the primary's disk stands still: it ends after {} ms, the other confirms after {} ms",
        ended.as_millis(),
        first.as_millis()
    );
    pair.whole()?;
    Ok(())
}

fn standby_stalls(world: &World, shims: &[Shim]) -> Result<()> {
    let pair = &world.pair;
    let primary = world.settled(100)?;
    let since = Instant::now();
    shims[1 - primary].stall(STALL_MICROS)?;
    pair.wait("the primary goes on alone", LONG, || pair.status(primary).is_some_and(|status| status.in_sync == [NAMES[primary]]))?;
    world.confirm_more(100)?;
    ensure!(shims[1 - primary].hits()? > 0, "no sync was held up");
    shims[1 - primary].disarm()?;
    println!("# disk-fails: the standby's disk stands still: confirms waited for {} ms", world.ledger.longest_pause(since).as_millis());
    ensure!(pair.whole()? == primary, "the primary changed");
    Ok(())
}

fn sync_fails(world: &World, shims: &[Shim], of_primary: bool) -> Result<()> {
    let pair = &world.pair;
    let primary = world.settled(100)?;
    let who = if of_primary { primary } else { 1 - primary };
    shims[who].fail_a_sync()?;
    pair.wait("a sync fails", LONG, || shims[who].hits().is_ok_and(|hits| hits > 0))?;
    // Nothing that it would sync now is on the disk, so it must not: it ends, or opens its store anew.
    std::thread::sleep(Duration::from_millis(50));
    shims[who].disarm()?;
    world.confirm_more(100)?;
    let now = pair.whole()?;
    // A primary whose process is there again before its lease is over may well be the next one, too.
    ensure!(of_primary || now == primary, "{} is primary", NAMES[now]);
    Ok(())
}

/// Whatever is left of a small disk is taken. Publishers wait, or the standby goes, and all is well once there is room.
pub fn full(bench: &Bench) -> Result<()> {
    let aside = bench.dir.with_extension("disks");
    let mut settings = Settings { more: "journal.min_free_bytes = '8 MiB'".into(), ..Settings::default() };
    for (data, name) in settings.data.iter_mut().zip(NAMES) {
        let mount = aside.join(name);
        fs::create_dir_all(&mount)?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs", &mount.display().to_string()])?;
        *data = Some(mount.join("data"));
    }
    let world = World::with(bench, settings)?;
    for round in 0..if bench.soak { 20 } else { 2 } {
        let primary = world.pair.whole()?;
        let who = if round % 2 == 0 { primary } else { 1 - primary };
        world.confirm_more(100)?;
        let ballast = aside.join(NAMES[who]).join("ballast");
        let since = Instant::now();
        fill(&ballast)?;
        // A standby finds out when it needs the next file of the log; it has one ready.
        let patience = Duration::from_millis(if who == primary { 2500 } else { 9000 });
        std::thread::sleep(patience);
        let out = world.pair.status(primary).is_some_and(|status| status.in_sync == [NAMES[primary]]);
        let wait = world.ledger.longest_pause(since);
        fs::remove_file(&ballast)?;
        let role = if who == primary { "primary" } else { "standby" };
        println!(
            "# disk-full: the {role}'s: the longest time without a confirm in {patience:?}: {} ms; alone in sync: {out}",
            wait.as_millis()
        );
        world.confirm_more(200)?;
        world.pair.whole()?;
    }
    world.finish("disk-full")?;
    for name in &NAMES[..2] {
        run("umount", &[&aside.join(name).display().to_string()])?;
    }
    Ok(fs::remove_dir_all(aside)?)
}

fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for size in [1 << 20, 1 << 12] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}
