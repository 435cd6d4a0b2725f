//! A producer's unconfirmed publishes.
//!
//! A packet identifier is a slot number plus one, so an acknowledgement finds its publish by index. There are at least
//! twice as many slots as the window is wide: one slow acknowledgement does not stop the others.

use crate::checker::History;

/// The widest window: twice as many slots still fit the 65,535 packet identifiers.
pub(crate) const WINDOW_MAX: u16 = 32_000;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Intended send time; 0 is a free slot.
    sent_at: u64,
    seq: u32,
    /// QoS 2: the PUBREC has come.
    received: bool,
}

pub(crate) struct Window {
    slots: Vec<Slot>,
    next: usize,
    width: usize,
    pub outstanding: usize,
    pub confirmed: u64,
    /// Answered with a reason code of 0x80 or more.
    pub refused: u64,
    /// Which numbers the broker took over, when somebody asks later.
    pub acknowledged: Option<History>,
}

impl Window {
    pub fn new(width: u16, remember: bool) -> Window {
        let width = usize::from(width.clamp(1, WINDOW_MAX));
        Window {
            slots: vec![Slot::default(); (width * 2).next_power_of_two().min(2 * usize::from(WINDOW_MAX))],
            next: 0,
            width,
            outstanding: 0,
            confirmed: 0,
            refused: 0,
            acknowledged: remember.then(History::default),
        }
    }

    /// MQTT 5.0, 3.2.2.3.3: the broker may take fewer at a time than was asked for.
    pub fn narrow(&mut self, receive_max: u16) {
        self.width = self.width.min(usize::from(receive_max));
    }

    /// What [`Self::open`] answered the `nth` time, from 1 on.
    #[inline]
    pub fn id_of(&self, nth: u64) -> u16 {
        (nth.wrapping_sub(1) % self.slots.len() as u64) as u16 + 1
    }

    #[inline]
    pub fn is_full(&self) -> bool {
        self.outstanding >= self.width || self.slots[self.next].sent_at != 0
    }

    /// The packet identifier for the next publish. Ask [`Self::is_full`] first.
    #[inline]
    pub fn open(&mut self, seq: u32, sent_at: u64) -> u16 {
        let at = self.next;
        self.slots[at] = Slot { sent_at: sent_at.max(1), seq, received: false };
        self.outstanding += 1;
        self.next = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        (at + 1) as u16
    }

    /// PUBREC: the broker owns the message from here on. False when no such publish is open.
    #[inline]
    pub fn received(&mut self, packet_id: u16) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(packet_id).wrapping_sub(1)) else { return false };
        if slot.sent_at == 0 {
            return false;
        }
        if !slot.received {
            slot.received = true;
            if let Some(history) = &mut self.acknowledged {
                history.see(slot.seq);
            }
        }
        true
    }

    /// PUBACK or PUBCOMP: frees the slot and returns the intended send time.
    #[inline]
    pub fn close(&mut self, packet_id: u16) -> Option<u64> {
        let slot = self.free(packet_id)?;
        self.confirmed += 1;
        if let (Some(history), false) = (&mut self.acknowledged, slot.received) {
            history.see(slot.seq);
        }
        Some(slot.sent_at)
    }

    /// The broker said no.
    pub fn refuse(&mut self, packet_id: u16) -> bool {
        let known = self.free(packet_id).is_some();
        self.refused += u64::from(known);
        known
    }

    #[inline]
    fn free(&mut self, packet_id: u16) -> Option<Slot> {
        let slot = self.slots.get_mut(usize::from(packet_id).wrapping_sub(1))?;
        let was = *slot;
        if was.sent_at == 0 {
            return None;
        }
        slot.sent_at = 0;
        self.outstanding -= 1;
        Some(was)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_come_in_any_order_and_count_once() {
        let mut w = Window::new(3, true);
        let ids: Vec<u16> = (0..3).map(|seq| w.open(seq, 100 + u64::from(seq))).collect();
        assert!(w.is_full());
        assert_eq!(w.close(ids[2]), Some(102));
        assert_eq!(w.close(ids[2]), None);
        assert!(!w.is_full());
        assert_eq!(w.close(0), None);
        assert_eq!(w.close(60_000), None);
        assert!(w.refuse(ids[0]));
        assert_eq!((w.confirmed, w.refused, w.outstanding), (1, 1, 1));
        assert_eq!(w.acknowledged.as_ref().map(|h| h.unique), Some(1));
    }

    #[test]
    fn an_unanswered_publish_never_shares_its_identifier() {
        let mut w = Window::new(2, false);
        let stuck = w.open(0, 1);
        let mut seq = 1;
        while !w.is_full() {
            let id = w.open(seq, 1);
            assert_ne!(id, stuck);
            w.close(id);
            seq += 1;
        }
        assert_eq!(w.outstanding, 1, "blocked by the stuck slot, not by the width");
        w.close(stuck);
        assert!(!w.is_full());
    }

    #[test]
    fn a_received_message_is_the_brokers_before_it_is_complete() {
        let mut w = Window::new(2, true);
        let id = w.open(5, 1);
        assert!(w.received(id) && w.received(id));
        assert_eq!(w.acknowledged.as_ref().map(|h| h.unique), Some(1));
        assert_eq!(w.confirmed, 0);
        assert_eq!(w.close(id), Some(1));
        let history = w.acknowledged.as_ref().unwrap();
        assert_eq!((history.unique, history.duplicates), (1, 0));
        assert!(!w.received(id));
    }

    #[test]
    fn the_brokers_receive_maximum_narrows_the_window() {
        let mut w = Window::new(100, false);
        w.narrow(2);
        w.open(0, 1);
        assert!(!w.is_full());
        w.open(1, 1);
        assert!(w.is_full());
    }
}
