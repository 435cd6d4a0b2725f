//! Deliveries under way to the client, by packet identifier.
//!
//! Identifiers are handed out in turn, so that those in use lie close together and an array indexed by the low bits of the identifier
//! serves as a map: a slot that is still taken when its turn comes again is passed over. The array grows with what is under way and is
//! bounded by the window, or by what an earlier connection left.

use broker_api::{QueueId, Seq};

use crate::codec::PacketId;

/// What the client has been sent of a delivery, and what it has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Kept from an earlier connection; the delivery itself has not come again yet.
    Resuming { qos2: bool },
    /// QoS 1, PUBACK awaited.
    Sent1,
    /// QoS 2, the identifier is being recorded; nothing has been sent.
    Recording,
    /// QoS 2, PUBREC awaited.
    Sent2,
    /// QoS 2, PUBREC has come and is being recorded.
    Releasing,
    /// QoS 2, PUBREL has been sent, PUBCOMP awaited.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) queue: QueueId,
    pub(super) seq: Seq,
    pub(super) stage: Stage,
    /// The session's state map has a key for it.
    pub(super) kept: bool,
    /// Of its payload, once it has come on this connection.
    pub(super) bytes: u32,
}

impl Slot {
    /// On this connection, so that it has a place in its window.
    pub(super) fn has_come(&self) -> bool {
        !matches!(self.stage, Stage::Resuming { .. })
    }
}

#[derive(Debug, Default)]
pub(super) struct Inflight {
    /// A power of two of slots, or none. The identifier stands beside its slot.
    slots: Vec<Option<(PacketId, Slot)>>,
    used: usize,
    last: u16,
}

const SMALLEST: usize = 16;
const LARGEST: usize = 1 << 16;

impl Inflight {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.used
    }

    #[inline]
    fn place(&self, id: PacketId) -> usize {
        usize::from(id.get()) & (self.slots.len() - 1)
    }

    /// The next free identifier. `None` if all 65535 are in use.
    #[inline]
    pub(super) fn take(&mut self, slot: Slot) -> Option<PacketId> {
        if self.used >= self.slots.len() {
            self.grow();
        }
        // Any run of as many identifiers as there are slots meets each slot, and the zero that is left out costs one more.
        for _ in 0..=self.slots.len() {
            self.last = if self.last == u16::MAX { 1 } else { self.last + 1 };
            let id = PacketId::new(self.last)?;
            let place = self.place(id);
            if self.slots[place].is_none() {
                self.slots[place] = Some((id, slot));
                self.used += 1;
                return Some(id);
            }
        }
        None
    }

    /// Takes this identifier, for one that an earlier connection had given out. False if it is in use.
    pub(super) fn reserve(&mut self, id: PacketId, slot: Slot) -> bool {
        if self.slots.is_empty() {
            self.grow();
        }
        loop {
            let place = self.place(id);
            match &self.slots[place] {
                None => {
                    self.slots[place] = Some((id, slot));
                    self.used += 1;
                    // Those that follow in this connection come after it.
                    self.last = id.get();
                    return true;
                }
                Some((taken, _)) if *taken == id => return false,
                Some(_) => self.grow(),
            }
        }
    }

    #[inline]
    pub(super) fn get(&mut self, id: PacketId) -> Option<&mut Slot> {
        if self.slots.is_empty() {
            return None;
        }
        let place = self.place(id);
        match &mut self.slots[place] {
            Some((taken, slot)) if *taken == id => Some(slot),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn free(&mut self, id: PacketId) {
        if self.get(id).is_some() {
            let place = self.place(id);
            self.slots[place] = None;
            self.used -= 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PacketId, &Slot)> {
        self.slots.iter().flatten().map(|(id, slot)| (*id, slot))
    }

    /// Doubles. Identifiers that differed in their low bits still do.
    #[cold]
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).clamp(SMALLEST, LARGEST);
        if size == self.slots.len() {
            return;
        }
        let old = std::mem::replace(&mut self.slots, vec![None; size]);
        for (id, slot) in old.into_iter().flatten() {
            let place = self.place(id);
            self.slots[place] = Some((id, slot));
        }
    }
}

/// The incoming QoS 2 identifiers between PUBLISH and PUBREL: one bit each, made at the first.
#[derive(Debug, Default)]
pub(super) struct IdSet {
    bits: Vec<u64>,
}

impl IdSet {
    /// True if it was not there.
    pub(super) fn insert(&mut self, id: PacketId) -> bool {
        if self.bits.is_empty() {
            self.bits = vec![0; LARGEST / 64];
        }
        let (word, bit) = IdSet::place(id);
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }

    pub(super) fn contains(&self, id: PacketId) -> bool {
        let (word, bit) = IdSet::place(id);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, id: PacketId) -> bool {
        let (word, bit) = IdSet::place(id);
        let was = self.contains(id);
        if was {
            self.bits[word] &= !bit;
        }
        was
    }

    fn place(id: PacketId) -> (usize, u64) {
        (usize::from(id.get() / 64), 1 << (id.get() % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn slot(seq: u64) -> Slot {
        Slot { queue: QueueId(1), seq: Seq(seq), stage: Stage::Sent1, kept: false, bytes: 0 }
    }

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    #[test]
    fn identifiers_wrap_without_zero_and_pass_over_those_in_use() {
        let mut table = Inflight::default();
        let stubborn = table.take(slot(0)).unwrap();
        assert_eq!(stubborn, id(1));
        let mut before = 1;
        for seq in 1..200_000u64 {
            let taken = table.take(slot(seq)).unwrap();
            assert_ne!(taken, stubborn);
            // The low bits of a stubborn one cost a step, nothing more.
            assert!(taken.get() > before || before > 65_500, "{before} {taken}");
            before = taken.get();
            table.free(taken);
        }
        assert_eq!(table.get(stubborn).map(|slot| slot.seq), Some(Seq(0)));
        assert_eq!((table.len(), table.slots.len()), (1, SMALLEST));
    }

    #[test]
    fn all_identifiers_can_be_in_use_and_no_more() {
        let mut table = Inflight::default();
        for seq in 0..65_535 {
            assert!(table.take(slot(seq)).is_some());
        }
        assert_eq!(table.take(slot(0)), None);
        table.free(id(77));
        assert_eq!(table.take(slot(1)), Some(id(77)));
    }

    #[test]
    fn reserved_identifiers_that_collide_grow_the_table() {
        let mut table = Inflight::default();
        assert!(table.reserve(id(1), slot(1)));
        assert!(table.reserve(id(1 + 4096), slot(2)));
        assert!(!table.reserve(id(1), slot(3)));
        assert_eq!(table.get(id(1)).map(|slot| slot.seq), Some(Seq(1)));
        assert_eq!(table.get(id(4097)).map(|slot| slot.seq), Some(Seq(2)));
        assert_eq!(table.get(id(2)), None);
    }

    proptest! {
        /// Against a plain map.
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0u8..3, 1u16..300), 1..400)) {
            let mut table = Inflight::default();
            let mut model = HashMap::new();
            for (at, (what, n)) in steps.into_iter().enumerate() {
                let seq = at as u64;
                match what {
                    0 => {
                        let taken = table.take(slot(seq)).unwrap();
                        prop_assert!(model.insert(taken, seq).is_none());
                    }
                    1 => {
                        let new = table.reserve(id(n), slot(seq));
                        prop_assert_eq!(new, !model.contains_key(&id(n)));
                        if new {
                            model.insert(id(n), seq);
                        }
                    }
                    _ => {
                        prop_assert_eq!(table.get(id(n)).map(|slot| slot.seq.0), model.remove(&id(n)));
                        table.free(id(n));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.iter().count(), model.len());
            }
        }
    }

    #[test]
    fn an_id_set_holds_each_once() {
        let mut set = IdSet::default();
        assert!(!set.contains(id(9)) && !set.remove(id(9)));
        assert!(set.insert(id(65_535)) && set.insert(id(1)));
        assert!(!set.insert(id(1)));
        assert!(set.contains(id(65_535)) && !set.contains(id(64)));
        assert!(set.remove(id(1)) && !set.remove(id(1)));
    }
}
