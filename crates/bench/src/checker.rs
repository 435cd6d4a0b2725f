//! Is each message there, once, in order? One bit per message, per producer, per receiver.
//!
//! A payload starts with 16 bytes: the intended send time, the producer's sequence number, the producer and a magic
//! number. So the smallest payload is 16 bytes, and whatever does not carry the magic is counted as foreign.

pub(crate) const HEADER_LEN: usize = 16;
const MAGIC: u16 = 0xca41;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub sent_at: u64,
    pub seq: u32,
    pub producer: u16,
}

impl Stamp {
    #[inline]
    pub fn write(self, to: &mut [u8]) {
        to[..8].copy_from_slice(&self.sent_at.to_le_bytes());
        to[8..12].copy_from_slice(&self.seq.to_le_bytes());
        to[12..14].copy_from_slice(&self.producer.to_le_bytes());
        to[14..16].copy_from_slice(&MAGIC.to_le_bytes());
    }

    #[inline]
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let header: &[u8; HEADER_LEN] = payload.get(..HEADER_LEN)?.try_into().ok()?;
        if header[14..16] != MAGIC.to_le_bytes() {
            return None;
        }
        Some(Stamp {
            sent_at: u64::from_le_bytes(header[..8].try_into().ok()?),
            seq: u32::from_le_bytes(header[8..12].try_into().ok()?),
            producer: u16::from_le_bytes([header[12], header[13]]),
        })
    }
}

/// The bound on one history, 256 MiB of bits. No producer publishes more than that in one run.
pub(crate) const SEQ_LIMIT: u32 = 1 << 31;

/// Which sequence numbers of one producer have been seen.
#[derive(Clone, Default, Debug)]
pub(crate) struct History {
    words: Vec<u64>,
    /// One more than the highest number seen.
    next: u32,
    pub unique: u64,
    pub duplicates: u64,
    /// First arrivals that came after a higher number.
    pub reordered: u64,
}

impl History {
    /// False when the number cannot be one of ours.
    #[inline]
    pub fn see(&mut self, seq: u32) -> bool {
        if seq >= SEQ_LIMIT {
            return false;
        }
        let (word, bit) = ((seq / 64) as usize, 1u64 << (seq % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit != 0 {
            self.duplicates += 1;
            return true;
        }
        self.words[word] |= bit;
        self.unique += 1;
        if seq < self.next {
            self.reordered += 1;
        } else {
            self.next = seq + 1;
        }
        true
    }

    /// How many numbers are in this history and not in `other`.
    pub fn missing_in(&self, other: Option<&History>) -> u64 {
        let theirs = other.map_or(&[][..], |h| &h.words);
        let gap = |(at, word): (usize, &u64)| (word & !theirs.get(at).copied().unwrap_or(0)).count_ones();
        self.words.iter().enumerate().map(|w| u64::from(gap(w))).sum()
    }
}

/// What one receiver got, by producer.
///
/// A producer that deals its messages to many topics in turn sends each receiver every `stride`th number only, starting
/// at `offset`; the history then counts in steps of the stride, which keeps it as long as the messages are many.
#[derive(Clone, Default, Debug)]
pub(crate) struct Inbox {
    histories: Vec<History>,
    /// (stride, offset); `None` for all numbers.
    dealt: Option<(u32, u32)>,
    /// Messages that are not ours, or not for this receiver.
    pub foreign: u64,
    /// Repeats that carried the DUP flag.
    pub flagged_duplicates: u64,
}

impl Inbox {
    pub fn dealt(stride: u32, offset: u32) -> Inbox {
        Inbox { dealt: Some((stride.max(1), offset)), ..Inbox::default() }
    }

    #[inline]
    pub fn take(&mut self, stamp: Stamp, dup: bool) {
        let mut seq = stamp.seq;
        if let Some((stride, offset)) = self.dealt {
            if seq % stride != offset {
                self.foreign += 1;
                return;
            }
            seq /= stride;
        }
        let at = usize::from(stamp.producer);
        if at >= self.histories.len() {
            self.histories.resize(at + 1, History::default());
        }
        let history = &mut self.histories[at];
        let before = history.duplicates;
        if !history.see(seq) {
            self.foreign += 1;
        } else if dup && history.duplicates > before {
            self.flagged_duplicates += 1;
        }
    }

    pub fn from(&self, producer: u16) -> Option<&History> {
        self.histories.get(usize::from(producer))
    }

    pub fn unique(&self) -> u64 {
        self.histories.iter().map(|h| h.unique).sum()
    }
}

/// The sum over receivers, and what is missing from what was promised.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub unique: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub flagged_duplicates: u64,
    pub reordered: u64,
    pub foreign: u64,
}

impl Verdict {
    /// Adds a receiver that should have got the numbers `0..count` of each of these producers, as (producer, count).
    pub fn add_expecting(&mut self, inbox: &Inbox, expected: impl IntoIterator<Item = (u16, u64)>) {
        for (producer, count) in expected {
            let got = inbox.from(producer).map_or(0, |h| h.unique);
            self.lost += count.saturating_sub(got);
        }
        self.add_seen(inbox);
    }

    /// Adds a receiver that should have got at least the confirmed numbers of each producer.
    pub fn add_confirmed<'a>(&mut self, inbox: &Inbox, confirmed: impl IntoIterator<Item = (u16, &'a History)>) {
        for (producer, history) in confirmed {
            self.lost += history.missing_in(inbox.from(producer));
        }
        self.add_seen(inbox);
    }

    fn add_seen(&mut self, inbox: &Inbox) {
        self.unique += inbox.unique();
        self.duplicated += inbox.histories.iter().map(|h| h.duplicates).sum::<u64>();
        self.reordered += inbox.histories.iter().map(|h| h.reordered).sum::<u64>();
        self.flagged_duplicates += inbox.flagged_duplicates;
        self.foreign += inbox.foreign;
    }

    /// Whether the protocol allows this outcome: QoS 0 may lose, QoS 1 may repeat, nothing may change the order of
    /// first arrivals (MQTT 5.0, 4.6), and nobody may send what was not asked for.
    pub fn holds(&self, qos: u8) -> bool {
        let loss_ok = qos == 0 || self.lost == 0;
        let repeats_ok = qos == 1 || self.duplicated == 0;
        loss_ok && repeats_ok && self.reordered == 0 && self.foreign == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(seqs: &[u32]) -> Inbox {
        let mut inbox = Inbox::default();
        for &seq in seqs {
            inbox.take(Stamp { sent_at: 0, seq, producer: 3 }, false);
        }
        inbox
    }

    fn judge(seqs: &[u32], expected: u64) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.add_expecting(&inbox(seqs), [(3, expected)]);
        verdict
    }

    #[test]
    fn a_clean_history_holds_at_every_qos() {
        let verdict = judge(&[0, 1, 2, 3], 4);
        assert_eq!(verdict, Verdict { unique: 4, ..Verdict::default() });
        assert!((0..=2).all(|qos| verdict.holds(qos)));
    }

    #[test]
    fn a_lost_message_is_seen_in_the_middle_at_the_end_and_when_all_are() {
        for (seqs, lost) in [(&[0u32, 1, 3][..], 1), (&[0, 1, 2], 1), (&[], 4)] {
            let verdict = judge(seqs, 4);
            assert_eq!((verdict.lost, verdict.reordered, verdict.duplicated), (lost, 0, 0), "{seqs:?}");
            assert!(verdict.holds(0) && !verdict.holds(1) && !verdict.holds(2));
        }
    }

    #[test]
    fn a_repeat_is_no_loss_and_no_disorder_and_only_qos_1_allows_it() {
        let verdict = judge(&[0, 1, 2, 1, 3, 0], 4);
        assert_eq!((verdict.lost, verdict.reordered, verdict.duplicated), (0, 0, 2));
        assert!(verdict.holds(1) && !verdict.holds(0) && !verdict.holds(2));
    }

    #[test]
    fn a_repeat_does_not_hide_a_loss() {
        let verdict = judge(&[0, 1, 1, 1], 4);
        assert_eq!((verdict.lost, verdict.duplicated), (2, 2));
    }

    #[test]
    fn a_late_first_arrival_is_disorder_at_every_qos() {
        let verdict = judge(&[0, 2, 1, 3], 4);
        assert_eq!((verdict.lost, verdict.reordered), (0, 1));
        assert!((0..=2).all(|qos| !verdict.holds(qos)));
    }

    #[test]
    fn confirmed_messages_are_matched_one_by_one_rather_than_counted() {
        let mut confirmed = History::default();
        for seq in [0, 1, 2, 130] {
            confirmed.see(seq);
        }
        // 5 was never confirmed but arrived; 130 was confirmed and did not.
        let mut verdict = Verdict::default();
        verdict.add_confirmed(&inbox(&[0, 1, 2, 5]), [(3, &confirmed)]);
        assert_eq!((verdict.unique, verdict.lost), (4, 1));
        let mut none = Verdict::default();
        none.add_confirmed(&Inbox::default(), [(3, &confirmed)]);
        assert_eq!(none.lost, 4);
    }

    #[test]
    fn one_producers_messages_do_not_stand_in_for_anothers() {
        let mut verdict = Verdict::default();
        verdict.add_expecting(&inbox(&[0, 1]), [(2, 2), (3, 2)]);
        assert_eq!(verdict.lost, 2);
    }

    #[test]
    fn dealt_numbers_reach_their_own_receiver_only() {
        let mut inbox = Inbox::dealt(10, 4);
        for seq in [4, 14, 24, 25] {
            inbox.take(Stamp { sent_at: 0, seq, producer: 0 }, false);
        }
        assert_eq!((inbox.unique(), inbox.foreign), (3, 1));
        assert_eq!(inbox.from(0).map(|h| h.words.len()), Some(1));
    }

    #[test]
    fn a_stamp_reads_back_and_strangers_are_told_apart() {
        let stamp = Stamp { sent_at: 1 << 60, seq: 77, producer: 9 };
        let mut payload = [0xff; 20];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
        payload[15] ^= 1;
        assert_eq!(Stamp::read(&payload), None);
        assert!(!History::default().see(u32::MAX), "an absurd number must not allocate");
    }
}
