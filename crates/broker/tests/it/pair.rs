//! A second node that follows the first, for simulations: it is sent the log, falls behind, dies, is cut or gets a copy, and takes over.

use crate::support::*;
use broker::{Promotion, Standby};
use journal::sim::{Crash, Rng};
use journal::{cut, start_over, Cut, Incoming, LogReader, Lsn, Meeting, Receiver};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// What happened. Any 0 says that it was not tried.
#[derive(Default, Debug, Clone, Copy)]
pub struct PairTally {
    pub takeovers: u64,
    pub shipped: u64,
    pub cuts: u64,
    pub copies: u64,
    pub starts_over: u64,
    pub crashes: u64,
    pub joins: u64,
    pub checkpoints: u64,
}

struct Following {
    standby: Standby,
    receiver: Receiver,
    reader: LogReader,
}

pub struct Pair {
    setup: Setup,
    rng: Rng,
    following: Option<Following>,
    /// Confirms wait for it, and it may take over.
    in_sync: bool,
    pub tally: PairTally,
}

impl Pair {
    pub fn new(seed: u64, first: &Setup) -> Pair {
        let setup = Setup { storage: first.storage.beside(seed ^ 0xb), ..first.clone() };
        Pair { setup, rng: Rng::new(seed ^ 0xba5e), following: None, in_sync: false, tally: PairTally::default() }
    }

    /// One thing that the pair does.
    pub fn step(&mut self, node: &Node) -> Result<(), String> {
        if self.following.is_none() {
            return self.join(node);
        }
        match self.rng.below(20) {
            0..9 => self.ship(node).map(drop),
            9..13 => self.sync(node),
            13..17 => self.redo(node),
            17..19 => {
                if let Some(following) = &mut self.following {
                    self.tally.checkpoints += u64::from(following.standby.maintain());
                }
                Ok(())
            }
            _ => {
                if self.rng.chance(20) {
                    self.lose(node);
                }
                Ok(())
            }
        }
    }

    /// The standby dies, and the others decide to go on without it.
    fn lose(&mut self, node: &Node) {
        self.tally.crashes += 1;
        self.following = None;
        let kind = if self.rng.chance(50) { Crash::PowerCut } else { Crash::Kill };
        self.setup.storage.crash(kind);
        if self.rng.chance(30) {
            // It comes back with another disk.
            self.setup.storage = self.setup.storage.beside(self.rng.draw());
        }
        self.in_sync = false;
        node.core.journal().permit(Lsn(u64::MAX));
    }

    fn join(&mut self, node: &Node) -> Result<(), String> {
        let storage = Arc::new(self.setup.storage.clone());
        let opened = Standby::open(storage.clone(), self.setup.journal.clone(), self.setup.config.clone());
        let (standby, receiver) = opened.map_err(|e| format!("the standby does not start: {e}"))?;
        let cluster = node.core.journal().cluster();
        if receiver.cluster() != cluster {
            if receiver.position().lsn != Lsn(0) {
                return Err("a store of another cluster".into());
            }
            self.tally.starts_over += 1;
            drop((standby, receiver));
            return start_over(storage, cluster, &self.setup.journal).map_err(|e| format!("starting over: {e}"));
        }
        let meeting = node.core.journal().meet(receiver.position());
        let fail = |e: &dyn std::fmt::Display| format!("joining: {e}");
        // The disk under it may just have crashed.
        let Ok(meeting) = meeting else { return Ok(()) };
        match meeting {
            Meeting::From(reader) => {
                self.tally.joins += 1;
                self.following = Some(Following { standby, receiver, reader });
            }
            Meeting::Cut(to) => {
                self.tally.cuts += 1;
                drop((standby, receiver));
                match cut(storage.as_ref(), &self.setup.journal, to).map_err(|e| fail(&e))? {
                    Cut::Done { .. } => {}
                    Cut::TooLate => return Err(format!("the checkpoint of the standby has what was never committed: {to}")),
                }
            }
            Meeting::TooOld => {
                drop((standby, receiver));
                self.receive_copy(node, storage)?;
            }
        }
        Ok(())
    }

    fn receive_copy(&mut self, node: &Node, storage: Arc<journal::sim::SimStorage>) -> Result<(), String> {
        let fail = |e: &dyn std::fmt::Display| format!("copying: {e}");
        let asked = node.core.journal().copy();
        let steps = node.steps.clone().expect("stepped");
        for _ in 0..10 {
            steps.maintain();
            node.settle();
        }
        let Ok(Ok(copy)) = asked.try_recv() else { return Ok(()) };
        self.tally.copies += 1;
        let mut incoming = Incoming::begin(storage).map_err(|e| fail(&e))?;
        let mut bytes = vec![0; 3000];
        for file in &copy.files {
            incoming.file(&file.name, file.len).map_err(|e| fail(&e))?;
            let mut at = 0;
            loop {
                // It may have crashed under us.
                let Ok(read) = file.read_at(&mut bytes, at) else { return Ok(()) };
                if read == 0 {
                    break;
                }
                incoming.bytes(&bytes[..read]).map_err(|e| fail(&e))?;
                at += read as u64;
            }
            if self.rng.chance(5) {
                steps.maintain();
                steps.commit();
            }
        }
        incoming.finish(copy.cluster, &self.setup.journal).map_err(|e| fail(&e))
    }

    /// `false`: the first node's disk has crashed under it.
    fn ship(&mut self, node: &Node) -> Result<bool, String> {
        let epoch = node.core.journal().epoch();
        let Some(following) = &mut self.following else { return Ok(true) };
        let mut bytes = Vec::new();
        let most = 1 + self.rng.below(20_000) as usize;
        if following.reader.read(&mut bytes, most).is_err() {
            return Ok(false);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
            let (batch, after) = rest.split_at(len);
            following.receiver.append(epoch, batch).map_err(|e| format!("shipping: {e}"))?;
            self.tally.shipped += 1;
            rest = after;
        }
        Ok(true)
    }

    fn sync(&mut self, node: &Node) -> Result<(), String> {
        let Some(following) = &mut self.following else { return Ok(()) };
        let synced = following.receiver.sync().map_err(|e| format!("syncing: {e:?}"))?;
        let (written, _) = node.core.journal().written_and_synced();
        if self.in_sync || synced >= written {
            // Joining: what was confirmed so far it has, and from now on confirms wait for it.
            self.in_sync = true;
            node.core.journal().permit(synced);
        }
        Ok(())
    }

    fn redo(&mut self, node: &Node) -> Result<(), String> {
        let Some(following) = &mut self.following else { return Ok(()) };
        let committed = node.core.journal().committed_lsn();
        following.standby.redo_up_to(committed).map(drop).map_err(|e| format!("redoing: {e}"))
    }

    /// The first node has died, and its disk has crashed. `None`: it has to come back by itself.
    pub fn take_over(&mut self, first: &mut Setup) -> Result<Option<Node>, String> {
        let following = self.following.take();
        if !self.in_sync || self.rng.chance(30) {
            // The one that comes back goes on alone.
            if following.is_some() {
                self.setup.storage.crash(Crash::Kill);
            }
            self.in_sync = false;
            return Ok(None);
        }
        let Some(Following { standby, receiver, .. }) = following else { return Err("in sync, and not there".into()) };
        self.tally.takeovers += 1;
        self.in_sync = false;
        let epoch = receiver.promised() + 1;
        let failed = Arc::new(AtomicBool::new(false));
        let flag = failed.clone();
        let on_failure = Box::new(move |_: &journal::Failure| flag.store(true, Ordering::Release));
        let led = standby.promote_stepped(Promotion { receiver, epoch, permitted: Lsn(u64::MAX), progress: None }, on_failure);
        let (core, steps) = led.map_err(|e| format!("the standby does not take over: {e}"))?;
        std::mem::swap(&mut first.storage, &mut self.setup.storage);
        Ok(Some(Node { core, steps: Some(Arc::new(steps)), setup: first.clone(), failed }))
    }

    /// While the standby is in sync, everything waits for it; where the model wants to see the end, it catches up. `false`: there is no end,
    /// because the disk has crashed.
    pub fn settle(&mut self, node: &Node) -> Result<bool, String> {
        for _ in 0..1000 {
            node.settle();
            if node.failed.load(Ordering::Acquire) {
                return Ok(false);
            }
            let (written, _) = node.core.journal().written_and_synced();
            if !self.in_sync || node.core.journal().committed_lsn() == written {
                return Ok(true);
            }
            if !self.ship(node)? {
                return Ok(false);
            }
            self.sync(node)?;
        }
        Err("the pair never comes to rest".into())
    }
}
