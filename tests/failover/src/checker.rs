//! Decides from what the clients wrote down whether anything was lost, invented or out of order, and whether two nodes confirmed at a time.
//! It asks the broker nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// What happened; times are microseconds since the beginning of the scenario, on one clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Sent {
        producer: u16,
        n: u64,
        at: u64,
    },
    /// By node `by`, where that is known.
    Confirmed {
        producer: u16,
        n: u64,
        at: u64,
        by: Option<usize>,
    },
    /// By the one consumer that reads all of it, in its order.
    Drained {
        producer: u16,
        n: u64,
        redelivered: bool,
    },
    /// The consumer was handed something that nobody can have sent.
    Garbage,
}

#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: u16,
    /// Sends again what was not confirmed when its connection broke: such a message may be there twice.
    pub sends_again: bool,
    /// Its messages come in the order in which they were sent.
    pub ordered: bool,
}

#[derive(Default, Debug)]
pub struct Verdict {
    pub sent: usize,
    pub confirmed: usize,
    pub drained: usize,
    pub lost: Vec<(u16, u64)>,
    pub unexpected: Vec<(u16, u64)>,
    /// More often than it was sent, and nothing says that it is a second delivery.
    pub duplicates: Vec<(u16, u64)>,
    pub reordered: Vec<(u16, u64)>,
    /// Confirms of a node after another one had begun to confirm, with the time in between.
    pub overlaps: Vec<String>,
    /// How often the confirming node changed.
    pub moves: usize,
    pub garbage: usize,
    /// Allowed: the producer sent it again, or it was flagged.
    pub repeats: usize,
}

pub fn check(events: &[Event], producers: &[Producer]) -> Verdict {
    let known: BTreeMap<u16, Producer> = producers.iter().map(|producer| (producer.id, *producer)).collect();
    let mut verdict = Verdict::default();
    let (mut sent, mut confirmed) = (HashMap::new(), BTreeSet::new());
    for event in events {
        match *event {
            Event::Sent { producer, n, .. } => *sent.entry((producer, n)).or_insert(0) += 1,
            Event::Confirmed { producer, n, .. } => {
                confirmed.insert((producer, n));
            }
            Event::Drained { .. } => verdict.drained += 1,
            Event::Garbage => verdict.garbage += 1,
        }
    }
    drained(events, &known, &sent, &mut verdict);
    let there: BTreeSet<(u16, u64)> = events.iter().filter_map(arrived).collect();
    verdict.lost = confirmed.difference(&there).copied().collect();
    verdict.sent = sent.len();
    verdict.confirmed = confirmed.len();
    reigns(events, &mut verdict);
    verdict
}

fn arrived(event: &Event) -> Option<(u16, u64)> {
    match *event {
        Event::Drained { producer, n, .. } => Some((producer, n)),
        _ => None,
    }
}

/// What arrived, against what was sent.
fn drained(events: &[Event], known: &BTreeMap<u16, Producer>, sent: &HashMap<(u16, u64), u32>, verdict: &mut Verdict) {
    let mut seen = BTreeSet::new();
    let mut last: HashMap<u16, u64> = HashMap::new();
    for event in events {
        let Event::Drained { producer, n, redelivered } = *event else { continue };
        let Some(who) = known.get(&producer).filter(|_| sent.contains_key(&(producer, n))) else {
            verdict.unexpected.push((producer, n));
            continue;
        };
        if !seen.insert((producer, n)) {
            if redelivered || who.sends_again {
                verdict.repeats += 1;
            } else {
                verdict.duplicates.push((producer, n));
            }
            continue;
        }
        if last.insert(producer, n).is_some_and(|before| before > n) && who.ordered {
            verdict.reordered.push((producer, n));
        }
    }
}

/// Confirms in the order of their times: whoever was overtaken must not confirm again before the other has stopped for good. So between two
/// confirms of one node there is none of another, unless the reign changed hands twice, which takes longer than any confirm is on its way.
fn reigns(events: &[Event], verdict: &mut Verdict) {
    const HANDS_CHANGE_TWICE: u64 = 100_000;
    let mut confirms: Vec<(u64, usize)> = Vec::new();
    for event in events {
        if let Event::Confirmed { at, by: Some(by), .. } = *event {
            confirms.push((at, by));
        }
    }
    confirms.sort_unstable();
    let mut last_of: HashMap<usize, u64> = HashMap::new();
    for pair in confirms.windows(2) {
        let [(before, one), (at, other)] = [pair[0], pair[1]];
        last_of.insert(one, before);
        if one == other {
            continue;
        }
        verdict.moves += 1;
        if let Some(earlier) = last_of.get(&other).filter(|earlier| at - **earlier < HANDS_CHANGE_TWICE) {
            verdict.overlaps.push(format!("node {other} confirmed {} us after its last one, and node {one} in between", at - earlier));
        }
    }
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.unexpected.is_empty()
            && self.duplicates.is_empty()
            && self.reordered.is_empty()
            && self.overlaps.is_empty()
            && self.garbage == 0
    }
}

fn few(all: &[(u16, u64)]) -> String {
    let some: Vec<String> = all.iter().take(5).map(|(producer, n)| format!("{producer}/{n}")).collect();
    if some.is_empty() {
        String::new()
    } else {
        format!(" ({})", some.join(" "))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent={} confirmed={} drained={} moves={} repeats={}",
            self.sent, self.confirmed, self.drained, self.moves, self.repeats
        )?;
        write!(f, " lost={}{} unexpected={}{}", self.lost.len(), few(&self.lost), self.unexpected.len(), few(&self.unexpected))?;
        write!(f, " duplicates={}{}", self.duplicates.len(), few(&self.duplicates))?;
        write!(f, " reordered={}{}", self.reordered.len(), few(&self.reordered))?;
        write!(f, " garbage={} overlaps={}", self.garbage, self.overlaps.len())?;
        self.overlaps.iter().take(3).try_for_each(|overlap| write!(f, " ({overlap})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: [Producer; 2] =
        [Producer { id: 1, sends_again: false, ordered: true }, Producer { id: 2, sends_again: true, ordered: true }];

    fn sent(producer: u16, n: u64) -> Event {
        Event::Sent { producer, n, at: n }
    }

    fn confirmed(producer: u16, n: u64, at: u64, by: usize) -> Event {
        Event::Confirmed { producer, n, at, by: Some(by) }
    }

    fn drained(producer: u16, n: u64) -> Event {
        Event::Drained { producer, n, redelivered: false }
    }

    /// Ten messages that went well, by two nodes one after the other.
    fn good() -> Vec<Event> {
        let mut events = Vec::new();
        for n in 1..=10 {
            events.push(sent(1, n));
            events.push(confirmed(1, n, n * 1_000_000, usize::from(n > 5)));
        }
        events.extend((1..=10).map(|n| drained(1, n)));
        events
    }

    #[test]
    fn a_good_history_is_clean() {
        let verdict = check(&good(), &WHO);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.sent, verdict.confirmed, verdict.drained, verdict.moves), (10, 10, 10, 1));
    }

    #[test]
    fn one_lost_one_swapped_one_invented_one_twice() {
        let mut lost = good();
        lost.retain(|event| *event != drained(1, 7));
        assert_eq!(check(&lost, &WHO).lost, [(1, 7)]);
        let mut swapped = good();
        let at = swapped.iter().position(|event| *event == drained(1, 3)).unwrap();
        swapped.swap(at, at + 1);
        assert_eq!(check(&swapped, &WHO).reordered, [(1, 3)]);
        let invented = [good(), vec![drained(1, 11)]].concat();
        assert_eq!(check(&invented, &WHO).unexpected, [(1, 11)]);
        let twice = [good(), vec![drained(1, 4)]].concat();
        assert_eq!(check(&twice, &WHO).duplicates, [(1, 4)]);
        assert!(!check(&[good(), vec![Event::Garbage]].concat(), &WHO).is_clean());
    }

    #[test]
    fn who_sends_again_may_be_there_twice() {
        let verdict = check(&[sent(2, 1), sent(2, 1), confirmed(2, 1, 9, 0), drained(2, 1), drained(2, 1)], &WHO);
        assert!(verdict.is_clean() && verdict.repeats == 1, "{verdict}");
    }

    #[test]
    fn two_nodes_confirm_at_a_time() {
        let mut both = good();
        both.push(sent(1, 11));
        both.push(drained(1, 11));
        both.push(confirmed(1, 11, 5_000_100, 1));
        both.push(sent(1, 12));
        both.push(drained(1, 12));
        both.push(confirmed(1, 12, 5_000_200, 0));
        assert_eq!(check(&both, &WHO).overlaps.len(), 1);
    }
}
