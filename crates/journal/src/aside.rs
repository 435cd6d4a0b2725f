//! Setting a store aside that is not to be used any more, because it is damaged or another node's is to take its place. An empty one remains,
//! which belongs to the same cluster and is nobody that anybody knows: whatever was said of the old store does not hold for it.
//!
//! The old files are moved to `replaced/`, flat (`j/1.log` becomes `replaced/j-1.log`), beside a copy of `meta`. One store is kept: what an earlier
//! time left there goes first. A copy that was on its way in goes with them: it was to take the old store's place. A marker is durable before the
//! first file moves, and whoever opens the store finishes what was begun.

use std::io;

use crate::meta::Meta;
use crate::recover::lock;
use crate::segment::Ids;
use crate::storage::{list, Storage, DIRS};
use crate::wire::Reader;
use crate::{copy, mutants, Config, OpenError};

const DIR: &str = "replaced";
const UNFINISHED: &str = "replaced/unfinished";

/// What [`set_aside`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetAside {
    /// So many bytes are kept in `replaced/`.
    Done { bytes: u64 },
    /// Nothing was done: a copy of the same size would not fit beside it.
    NoRoom { needed: u64, free: u64 },
}

/// Sets the store aside, which nobody has open, if there is room for another one of its size. The empty one has promised what this one had, and `promised`.
pub fn set_aside(storage: &dyn Storage, config: &Config, cluster: u128, promised: u64) -> Result<SetAside, OpenError> {
    let _lock = lock(storage)?;
    let failed = || OpenError::io("setting the store aside");
    if finish(storage, config).map_err(failed())? {
        return Ok(SetAside::Done { bytes: size(storage, &[DIR]).map_err(failed())? });
    }
    let bytes = size(storage, &DIRS).map_err(failed())?;
    let free = storage.free_bytes().and_then(|free| Ok(free.saturating_add(size(storage, &[DIR])?))).map_err(failed())?;
    let needed = bytes.saturating_add(config.min_free_bytes).saturating_add(2 * config.segment_bytes);
    if free < needed {
        return Ok(SetAside::NoRoom { needed, free });
    }
    begin(storage, cluster, promised).and_then(|()| finish(storage, config)).map_err(failed())?;
    Ok(SetAside::Done { bytes })
}

/// What was begun before a crash is done now, before anything is read.
pub(crate) fn resume(storage: &dyn Storage, config: &Config) -> Result<(), OpenError> {
    finish(storage, config).map(drop).map_err(OpenError::io("setting the store aside"))
}

fn size(storage: &dyn Storage, dirs: &[&str]) -> io::Result<u64> {
    let mut bytes = 0;
    for dir in dirs {
        for name in list(storage, dir)? {
            bytes += storage.open(&format!("{dir}/{name}"))?.len()?;
        }
    }
    Ok(bytes)
}

fn begin(storage: &dyn Storage, cluster: u128, promised: u64) -> io::Result<()> {
    storage.make_dir(DIR)?;
    for name in list(storage, DIR)? {
        storage.remove(&format!("{DIR}/{name}"))?;
    }
    if list(storage, "")?.iter().any(|name| name == "meta") {
        let (from, to) = (storage.open("meta")?, storage.create(&format!("{DIR}/meta"))?);
        let mut bytes = vec![0; from.len()? as usize];
        let read = from.read_at(&mut bytes, 0)?;
        to.write_at(&bytes[..read], 0)?;
        mutants::sync_data(to.as_ref())?;
        mutants::sync_dir(storage, DIR)?;
    }
    let mut marker = cluster.to_le_bytes().to_vec();
    marker.extend_from_slice(&promised.to_le_bytes());
    // It is there with all that it says, or it is not there.
    let file = storage.create("replaced/unfinished.tmp")?;
    file.write_at(&marker, 0)?;
    mutants::sync_data(file.as_ref())?;
    storage.rename("replaced/unfinished.tmp", UNFINISHED)?;
    mutants::sync_dir(storage, DIR)?;
    mutants::sync_dir(storage, "")
}

/// `false`: nothing was begun.
fn finish(storage: &dyn Storage, config: &Config) -> io::Result<bool> {
    if !list(storage, DIR)?.iter().any(|name| name == "unfinished") {
        return Ok(false);
    }
    // A process that was killed may have left the marker where everybody sees it and no power cut spares it.
    mutants::sync_dir(storage, DIR)?;
    mutants::sync_dir(storage, "")?;
    let mut marker = [0; 24];
    storage.open(UNFINISHED)?.read_at(&mut marker, 0)?;
    let mut reader = Reader::new(&marker);
    let mut number = || reader.u64().unwrap_or(0);
    let (cluster, promised) = (u128::from(number()) | u128::from(number()) << 64, number());
    let before = Meta::read(storage).ok().flatten();
    let epoch = before.map_or(promised, |meta| meta.epoch.max(promised));
    let ids = Ids { cluster, node: storage.random(), shard: config.shard };
    // First of all: what is left of the old store is nobody's from now on.
    Meta { number: 0, ids, epoch, boot_id: 0, clean: false }.create(storage)?;
    for dir in DIRS {
        for name in list(storage, dir)? {
            storage.rename(&format!("{dir}/{name}"), &format!("{DIR}/{dir}-{name}"))?;
        }
    }
    mutants::sync_dir(storage, DIR)?;
    copy::discard(storage)?;
    for dir in DIRS {
        storage.make_dir(dir)?;
        mutants::sync_dir(storage, dir)?;
    }
    storage.remove(UNFINISHED)?;
    mutants::sync_dir(storage, DIR)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Crash, SimStorage};

    fn store(seed: u64) -> (SimStorage, Meta) {
        let storage = SimStorage::new(seed);
        let ids = Ids { cluster: 7, node: 99, shard: 0 };
        let meta = Meta { number: 0, ids, epoch: 5, boot_id: 0, clean: false };
        meta.create(&storage).unwrap();
        for name in ["j/1.log", "j/2.log", "p/1.pages", "x/1.root"] {
            storage.plant(name, name.as_bytes().to_vec());
        }
        storage.sync_dir("").unwrap();
        (storage, meta)
    }

    fn is_aside(storage: &SimStorage, promised: u64, what: &str) {
        for dir in DIRS {
            assert_eq!(list(storage, dir).unwrap(), Vec::<String>::new(), "{what}");
        }
        let now = Meta::read(storage).unwrap().unwrap();
        assert_ne!(now.ids.node, 99, "{what}: nobody takes it for the old one");
        assert_eq!((now.ids.cluster, now.epoch), (7, promised), "{what}");
        for name in ["j-1.log", "j-2.log", "p-1.pages", "x-1.root", "meta"] {
            assert!(storage.contents(&format!("{DIR}/{name}")).is_some(), "{what}: {name} is lost");
        }
    }

    #[test]
    fn whatever_moment_it_is_interrupted_at_the_store_is_the_old_one_or_nobodys() {
        let config = Config::default();
        for kind in [Crash::Kill, Crash::PowerCut] {
            let mut interrupted = 0;
            for operations in 0..200 {
                let what = format!("{kind:?} after {operations}");
                let (storage, before) = store(operations);
                storage.crash_after(operations);
                let done = set_aside(&storage, &config, 7, 9);
                storage.crash(kind);
                let meta = Meta::read(&storage).unwrap().unwrap();
                if meta.ids.node == before.ids.node {
                    // Then all of it is there.
                    ["j/1.log", "j/2.log", "p/1.pages", "x/1.root"]
                        .iter()
                        .for_each(|name| assert!(storage.contents(name).is_some(), "{what}: {name} has gone"));
                }
                resume(&storage, &config).unwrap();
                if Meta::read(&storage).unwrap().unwrap().ids.node == before.ids.node {
                    set_aside(&storage, &config, 7, 9).unwrap();
                }
                is_aside(&storage, 9, &what);
                interrupted += u64::from(done.is_err());
            }
            assert!(interrupted > 20, "{kind:?}: {interrupted}");
        }
    }

    /// What a killed process did last may be seen and not be durable: whoever goes on with it makes it so first.
    #[test]
    fn a_power_cut_after_a_kill_does_no_harm_either() {
        let config = Config::default();
        let mut interrupted = 0;
        for (first, second) in (0..40).flat_map(|first| (0..40).map(move |second| (first, second))) {
            let what = format!("killed after {first}, cut off after {second}");
            let (storage, _) = store(first * 100 + second);
            storage.crash_after(first);
            let _ = set_aside(&storage, &config, 7, 9);
            storage.crash(Crash::Kill);
            storage.crash_after(second);
            let done = resume(&storage, &config);
            storage.crash(Crash::PowerCut);
            interrupted += u64::from(done.is_err());
            resume(&storage, &config).unwrap();
            if Meta::read(&storage).unwrap().unwrap().ids.node == 99 {
                set_aside(&storage, &config, 7, 9).unwrap();
            }
            is_aside(&storage, 9, &what);
        }
        assert!(interrupted > 50, "{interrupted}");
    }

    /// Else it would be put in the place of the empty store, or keep it from being opened again and again.
    #[test]
    fn a_copy_that_was_on_its_way_in_is_no_part_of_it() {
        let (storage, _) = store(1);
        storage.plant("incoming/complete", vec![1; 40]);
        storage.plant("incoming/j-1.log", vec![2; 40]);
        let config = Config { min_free_bytes: 0, ..Config::default() };
        assert!(matches!(crate::copy::install(&storage, &config), Err(OpenError::Corrupt { .. })));
        set_aside(&storage, &config, 7, 9).unwrap();
        storage.crash(Crash::PowerCut);
        assert!(!crate::copy::install(&storage, &config).unwrap(), "nothing is there to be installed");
        is_aside(&storage, 9, "with a copy");
    }

    #[test]
    fn one_store_is_kept_and_none_where_another_one_would_not_fit() {
        let (storage, _) = store(1);
        let config = Config { min_free_bytes: 0, ..Config::default() };
        storage.plant("replaced/j-0.log", vec![0; 10]);
        storage.set_budget(storage.used_bytes() + 2 * config.segment_bytes);
        let SetAside::NoRoom { needed, free } = set_aside(&storage, &config, 7, 1).unwrap() else { panic!("it has room") };
        assert!(needed > free, "{needed} {free}");
        assert!(storage.contents("replaced/j-0.log").is_some() && storage.contents("j/1.log").is_some(), "nothing was done");
        storage.set_budget(u64::MAX);
        assert!(matches!(set_aside(&storage, &config, 7, 1).unwrap(), SetAside::Done { bytes: 31 }));
        is_aside(&storage, 5, "once");
        assert_eq!(storage.contents("replaced/j-0.log"), None);
    }
}
