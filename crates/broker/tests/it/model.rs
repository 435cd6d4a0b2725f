//! What a simulation knows from outside: which messages were sent, confirmed, settled; which state edits and retained values were asked for.
//! It never reads the core's counters. After a crash it says what must, may and must not be there.

use std::collections::{BTreeMap, BTreeSet};

/// (producer, number)
pub type Id = (u32, u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    No,
    /// Asked for; durable or not.
    Asked,
}

#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub confirmed: bool,
    pub settled: Settled,
    /// Leased to a connection now.
    pub out: bool,
}

/// One queue: a session's, a share's, or a declared one.
#[derive(Default)]
pub struct Line {
    pub name: &'static str,
    pub sent: BTreeMap<Id, Sent>,
    /// Settled for sure, or lost with a crash before they were confirmed: seen again, they are risen from the dead.
    pub dead: BTreeSet<Id>,
}

impl Line {
    pub fn publish(&mut self, id: Id) {
        self.sent.insert(id, Sent { confirmed: false, settled: Settled::No, out: false });
    }

    pub fn confirm(&mut self, id: Id) {
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.confirmed = true;
        }
    }

    /// A delivery within a reign.
    pub fn deliver(&mut self, id: Id) -> Result<(), String> {
        let name = self.name;
        let Some(sent) = self.sent.get_mut(&id) else { return Err(self.stranger(id)) };
        if sent.settled != Settled::No {
            return Err(format!("{name}: {id:?} was settled and is delivered again"));
        }
        if std::mem::replace(&mut sent.out, true) {
            return Err(format!("{name}: {id:?} is handed out twice"));
        }
        Ok(())
    }

    fn stranger(&self, id: Id) -> String {
        let what = if self.dead.contains(&id) { "rose from the dead" } else { "was never sent here" };
        format!("{}: {id:?} {what}", self.name)
    }

    pub fn give_back(&mut self, id: Id) {
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.out = false;
        }
    }

    pub fn ask_settle(&mut self, id: Id) {
        if let Some(sent) = self.sent.get_mut(&id) {
            (sent.settled, sent.out) = (Settled::Asked, false);
        }
    }

    pub fn sure_settled(&mut self, id: Id) {
        if self.sent.get(&id).is_some_and(|s| s.settled == Settled::Asked) {
            self.sent.remove(&id);
            self.dead.insert(id);
        }
    }

    /// All that was asked for has been committed.
    pub fn all_sure(&mut self) {
        let asked: Vec<Id> = self.sent.iter().filter(|(_, s)| s.settled == Settled::Asked).map(|(id, _)| *id).collect();
        asked.into_iter().for_each(|id| self.sure_settled(id));
    }

    /// `there` is everything that the queue holds after a crash. What was uncertain is decided by it.
    pub fn after_crash(&mut self, there: &BTreeSet<Id>) -> Result<(), String> {
        if let Some(id) = there.iter().find(|id| !self.sent.contains_key(id)) {
            return Err(self.stranger(*id));
        }
        for (id, sent) in std::mem::take(&mut self.sent) {
            let present = there.contains(&id);
            if !present && sent.confirmed && sent.settled == Settled::No {
                return Err(format!("{}: {id:?} was confirmed and is lost", self.name));
            }
            if present {
                self.sent.insert(id, Sent { confirmed: true, settled: Settled::No, out: false });
            } else {
                self.dead.insert(id);
            }
        }
        Ok(())
    }

    pub fn unconfirmed(&self) -> u64 {
        self.sent.values().filter(|s| !s.confirmed || s.settled == Settled::Asked).count() as u64
    }
}

/// A transaction whose commit was asked for: what it published, and what it settled, by line.
#[derive(Default, Debug)]
pub struct Transaction {
    pub published: Vec<Id>,
    pub settled: Vec<(usize, Id)>,
    /// Answered, or something that it published was seen: from then on it must have happened.
    pub sure: bool,
}

impl Transaction {
    /// After a crash all of it is there, or nothing. `there`: what the lines hold now; `lines`: what they held before.
    pub fn after_crash(&self, lines: &[Line], there: &[BTreeSet<Id>]) -> Result<bool, String> {
        let mut evidence = Vec::new();
        for (line, there) in lines.iter().zip(there) {
            for id in &self.published {
                // What was settled since may be gone for that reason.
                match line.sent.get(id) {
                    Some(_) if there.contains(id) => evidence.push((true, *id, line.name)),
                    Some(sent) if sent.settled == Settled::No => evidence.push((false, *id, line.name)),
                    _ => {}
                }
            }
        }
        for (line, id) in &self.settled {
            let (line, there) = (&lines[*line], &there[*line]);
            match line.sent.get(id) {
                Some(_) if there.contains(id) => evidence.push((false, *id, line.name)),
                Some(sent) if sent.confirmed => evidence.push((true, *id, line.name)),
                _ => {}
            }
        }
        let happened = self.sure || evidence.first().is_some_and(|(happened, _, _)| *happened);
        match evidence.iter().find(|(other, _, _)| *other != happened) {
            None => Ok(happened),
            Some(other) => Err(format!("{self:?} is torn: {other:?} tells against the rest")),
        }
    }
}

/// One state edit, and the publish in whose record it was.
#[derive(Clone, Debug)]
pub struct Edit {
    pub key: u64,
    pub put: bool,
    pub with: Option<Id>,
    /// Done with this serial.
    pub serial: u64,
}

/// The state map of one session.
#[derive(Default)]
pub struct Map {
    pub base: BTreeSet<u64>,
    pub edits: Vec<Edit>,
    pub confirmed: usize,
}

impl Map {
    pub fn done(&mut self, through: u64) {
        self.confirmed = self.confirmed.max(self.edits.iter().take_while(|e| e.serial <= through).count());
    }

    pub fn keys(&self) -> BTreeSet<u64> {
        self.after(self.edits.len())
    }

    fn after(&self, n: usize) -> BTreeSet<u64> {
        let mut keys = self.base.clone();
        for edit in &self.edits[..n] {
            if edit.put {
                keys.insert(edit.key);
            } else {
                keys.remove(&edit.key);
            }
        }
        keys
    }

    /// The map is what a prefix of the edits makes of it, at least the confirmed ones; and an edit in a publish's record is in that prefix
    /// exactly if the publish was recovered (`known`: true, false, or unknown because nobody wanted it or it was settled).
    pub fn after_crash(&mut self, found: &BTreeSet<u64>, known: impl Fn(Id) -> Option<bool>) -> Result<(), String> {
        let fits = |n: usize| {
            self.after(n) == *found
                && self.edits.iter().enumerate().all(|(i, e)| e.with.and_then(&known).is_none_or(|published| published == (i < n)))
        };
        if !(self.confirmed..=self.edits.len()).any(fits) {
            return Err(format!("the state {found:?} is not what {} of {:?} make of {:?}", self.confirmed, self.edits, self.base));
        }
        (self.base, self.edits, self.confirmed) = (found.clone(), Vec::new(), 0);
        Ok(())
    }
}

/// What one topic retains: values in the order in which they were set; 0 = nothing.
#[derive(Default)]
pub struct Retained {
    pub set: Vec<(u64, bool)>,
}

impl Retained {
    pub fn after_crash(&mut self, found: u64) -> Result<(), String> {
        let sure = self.set.iter().rposition(|(_, confirmed)| *confirmed);
        let may: Vec<u64> = self.set[sure.unwrap_or(0)..].iter().map(|(v, _)| *v).collect();
        let nothing_yet = sure.is_none() && found == 0;
        if !may.contains(&found) && !nothing_yet {
            return Err(format!("retained is {found}, not one of {may:?}"));
        }
        self.set = vec![(found, true)];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let mut line = Line { name: "q", ..Line::default() };
        (1..=3).for_each(|n| line.publish((0, n)));
        line.confirm((0, 1));
        line.confirm((0, 2));
        line
    }

    /// The checker itself, against forged histories.
    #[test]
    fn it_sees_what_is_lost_risen_or_handed_out_twice() {
        assert!(line().after_crash(&[(0, 1), (0, 2)].into()).is_ok());
        assert!(line().after_crash(&[(0, 1), (0, 2), (0, 3)].into()).is_ok());
        assert!(line().after_crash(&[(0, 1), (0, 3)].into()).is_err_and(|e| e.contains("lost")));
        assert!(line().after_crash(&[(0, 1), (0, 2), (0, 9)].into()).is_err_and(|e| e.contains("never sent")));
        let mut l = line();
        l.deliver((0, 1)).unwrap();
        assert!(l.deliver((0, 1)).is_err_and(|e| e.contains("twice")));
        l.ask_settle((0, 1));
        assert!(l.deliver((0, 1)).is_err_and(|e| e.contains("again")));
        l.sure_settled((0, 1));
        assert!(l.after_crash(&[(0, 1), (0, 2)].into()).is_err_and(|e| e.contains("rose")));
    }

    #[test]
    fn it_sees_a_torn_transaction_and_a_lost_one() {
        let mut sent = line();
        sent.publish((0, 4));
        sent.ask_settle((0, 1));
        let lines = [sent];
        let mut tx = Transaction { published: vec![(0, 3), (0, 4)], settled: vec![(0, (0, 1))], sure: false };
        let look = |tx: &Transaction, there: &[Id]| tx.after_crash(&lines, &[there.iter().copied().collect()]);
        assert_eq!(look(&tx, &[(0, 2), (0, 3), (0, 4)]), Ok(true));
        assert_eq!(look(&tx, &[(0, 1), (0, 2)]), Ok(false));
        assert!(look(&tx, &[(0, 2), (0, 3)]).is_err_and(|e| e.contains("torn")), "half of what it published");
        assert!(look(&tx, &[(0, 1), (0, 2), (0, 3), (0, 4)]).is_err(), "published and not settled");
        assert!(look(&tx, &[(0, 2)]).is_err(), "settled and not published");
        tx.sure = true;
        assert!(look(&tx, &[(0, 1), (0, 2)]).is_err(), "answered and not there");
    }

    #[test]
    fn it_sees_state_that_is_no_prefix_or_torn_from_its_publish() {
        let map = || Map {
            base: [1].into(),
            edits: vec![
                Edit { key: 2, put: true, with: Some((0, 1)), serial: 1 },
                Edit { key: 1, put: false, with: None, serial: 2 },
                Edit { key: 3, put: true, with: None, serial: 3 },
            ],
            confirmed: 1,
        };
        assert!(map().after_crash(&[1, 2].into(), |_| Some(true)).is_ok());
        assert!(map().after_crash(&[2, 3].into(), |_| None).is_ok());
        assert!(map().after_crash(&[1].into(), |_| None).is_err(), "a confirmed edit is lost");
        assert!(map().after_crash(&[1, 2, 3].into(), |_| None).is_err(), "a hole");
        assert!(map().after_crash(&[1, 2].into(), |_| Some(false)).is_err(), "an id without its message");
    }

    #[test]
    fn it_sees_an_old_retained_value() {
        let mut topic = Retained { set: vec![(1, true), (2, true), (3, false)] };
        assert!(topic.after_crash(1).is_err());
        let mut topic = Retained { set: vec![(1, true), (2, true), (3, false)] };
        assert!(topic.after_crash(3).is_ok() && topic.after_crash(3).is_ok() && topic.after_crash(2).is_err());
    }
}
