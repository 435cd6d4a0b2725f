//! What is to be said when something has become safe: receipts, and the ERROR or the last receipt that ends the connection.
//!
//! Each entry waits for a serial (its own publish, or a fence) and for a command; they are said in their order. A refusal takes the place of
//! the frame that it is about, and nothing behind it is answered any more.

use std::collections::VecDeque;

use broker_api::Close;

use super::{Phase, Session, Step};
use crate::codec::{Command, FrameWriter};
use crate::error::Fault;

/// Answers that wait; from here on nothing is read.
const LIST_MAX: usize = 16_384;
const BYTES_MAX: usize = 4 << 20;

enum What {
    Receipt(Box<[u8]>),
    Error(Box<Fault>, Option<Box<[u8]>>),
    Bye(Option<Box<[u8]>>),
}

struct Due {
    /// Of its frame: a SEND to several destinations is several publishes.
    first: u64,
    serial: u64,
    /// The commands of its frame: from, through.
    tokens: (u32, u32),
    /// It answers a SEND, whose serial this is.
    sent: bool,
    what: What,
}

#[derive(Default)]
pub(super) struct DueList {
    list: VecDeque<Due>,
    bytes: usize,
    /// Everything up to this serial is safe.
    pub(super) done: u64,
    /// The last command that was answered.
    pub(super) replied: u32,
}

impl DueList {
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= LIST_MAX || self.bytes >= BYTES_MAX
    }

    pub(super) fn receipt(&mut self, id: &[u8], serial: u64, tokens: (u32, u32), sent: bool) {
        self.receipt_of((serial, serial), id, tokens, sent);
    }

    pub(super) fn receipt_of(&mut self, (first, serial): (u64, u64), id: &[u8], tokens: (u32, u32), sent: bool) {
        self.bytes += id.len();
        self.list.push_back(Due { first, serial, tokens, sent, what: What::Receipt(id.into()) });
    }

    pub(super) fn error(&mut self, fault: Fault, receipt: Option<Box<[u8]>>, serial: u64, token: u32) {
        let what = What::Error(Box::new(fault), receipt);
        self.list.push_back(Due { first: serial, serial, tokens: (token + 1, token), sent: false, what });
    }

    pub(super) fn bye(&mut self, receipt: Option<Box<[u8]>>, serial: u64, token: u32) {
        self.list.push_back(Due { first: serial, serial, tokens: (token + 1, token), sent: false, what: What::Bye(receipt) });
    }

    /// The first of these publishes whose sender waits for a receipt.
    pub(super) fn sent_between(&self, first: u64, last: u64) -> Option<u64> {
        let start = self.list.partition_point(|due| due.serial < first);
        self.list.iter().skip(start).take_while(|due| due.first <= last).find(|due| due.sent).map(|due| due.serial)
    }

    pub(super) fn refuse_publish(&mut self, serial: u64, fault: Fault) {
        let at = self.list.partition_point(|due| due.serial < serial);
        let is_it = |due: &Due| due.sent && (due.first..=due.serial).contains(&serial);
        self.refuse_from(at, is_it, fault);
    }

    pub(super) fn refuse_command(&mut self, token: u32, fault: Fault) {
        let at = self.list.partition_point(|due| due.tokens.1 < token);
        let is_it = |due: &Due| due.tokens.0 <= token && token <= due.tokens.1;
        self.refuse_from(at, is_it, fault);
    }

    fn refuse_from(&mut self, at: usize, is_it: impl Fn(&Due) -> bool, fault: Fault) {
        let receipt = match self.list.get(at) {
            Some(due) if is_it(due) => match &due.what {
                What::Receipt(id) => Some(id.clone()),
                _ => None,
            },
            _ => None,
        };
        self.list.truncate(at);
        let (serial, token) = self.list.back().map_or((0, 0), |due| (due.serial, due.tokens.1));
        self.error(fault, receipt, serial, token);
    }

    /// The next that nothing is waited for.
    fn next(&mut self) -> Option<What> {
        let first = self.list.front()?;
        if first.serial > self.done || first.tokens.1 > self.replied {
            return None;
        }
        let due = self.list.pop_front()?;
        if let What::Receipt(id) = &due.what {
            self.bytes = self.bytes.saturating_sub(id.len());
        }
        Some(due.what)
    }

    pub(super) fn take_error(&mut self) -> Option<(Fault, Option<Box<[u8]>>)> {
        match self.list.pop_back()?.what {
            What::Error(fault, receipt) => Some((*fault, receipt)),
            _ => None,
        }
    }
}

impl Session {
    /// Says all that may be said by now.
    pub(super) fn say_due(&mut self, step: &mut Step<'_>) -> Option<Close> {
        while let Some(what) = self.due.next() {
            match what {
                What::Receipt(id) => self.say_receipt(&id, step),
                What::Error(fault, receipt) => return Some(self.say_error(&fault, receipt.as_deref(), step)),
                What::Bye(receipt) => {
                    if let Some(id) = receipt {
                        self.say_receipt(&id, step);
                    }
                    self.phase = Phase::Ended;
                    return Some(Close::clean("DISCONNECT"));
                }
            }
        }
        None
    }

    fn say_receipt(&self, id: &[u8], step: &mut Step<'_>) {
        let out = step.out.buffer();
        FrameWriter::new(Command::Receipt, self.version, out).header("receipt-id", id).end();
        out.push(b'\n');
    }

    /// The last that is said.
    pub(super) fn say_error(&mut self, fault: &Fault, receipt: Option<&[u8]>, step: &mut Step<'_>) -> Close {
        let error = FrameWriter::new(Command::Error, self.version, step.out.buffer())
            .header("message", &*fault.message)
            .header("content-type", "text/plain")
            .header("version", "1.0,1.1,1.2");
        let error = match receipt {
            Some(id) => error.header("receipt-id", id),
            None => error,
        };
        error.body(fault.detail.as_bytes());
        step.out.buffer().push(b'\n');
        self.phase = Phase::Ended;
        Close::dirty(fault.for_log())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &DueList) -> Vec<String> {
        let id = |due: &Due| match &due.what {
            What::Receipt(id) => String::from_utf8_lossy(id).into_owned(),
            What::Error(fault, receipt) => format!("{} {:?}", fault.message, receipt.is_some()),
            What::Bye(_) => "bye".to_owned(),
        };
        list.list.iter().map(id).collect()
    }

    #[test]
    fn a_refusal_takes_the_place_of_its_frame() {
        let mut list = DueList::default();
        list.receipt(b"1", 1, (1, 1), true);
        list.receipt(b"2", 2, (2, 1), true);
        list.receipt(b"3", 3, (2, 3), false);
        list.receipt(b"4", 4, (4, 3), true);
        assert_eq!((list.sent_between(2, 3), list.sent_between(3, 3), list.sent_between(3, 9)), (Some(2), None, Some(4)));
        list.refuse_publish(4, Fault::new("four", ""));
        assert_eq!(ids(&list), ["1", "2", "3", "four true"]);
        // An earlier one comes later: commands and publishes are answered apart.
        list.refuse_command(2, Fault::new("three", ""));
        assert_eq!(ids(&list), ["1", "2", "three true"]);
        (list.done, list.replied) = (2, 1);
        assert!((0..3).all(|_| list.next().is_some()));
        assert!(list.next().is_none());
    }

    #[test]
    fn a_frame_of_several_publishes_is_refused_by_any_of_them() {
        for refused in 2..=4 {
            let mut list = DueList::default();
            list.receipt(b"1", 1, (1, 1), true);
            list.receipt_of((2, 4), b"2", (2, 1), true);
            assert_eq!(list.sent_between(refused, refused), Some(4));
            list.refuse_publish(refused, Fault::new("refused", ""));
            assert_eq!(ids(&list), ["1", "refused true"], "{refused}");
        }
    }

    #[test]
    fn a_frame_without_a_receipt_gives_none_to_its_error() {
        let mut list = DueList::default();
        list.receipt(b"1", 1, (1, 1), true);
        list.receipt(b"3", 3, (3, 3), true);
        list.refuse_command(2, Fault::new("two", ""));
        assert_eq!(ids(&list), ["1", "two false"]);
    }

    #[test]
    fn receipts_wait_for_both_kinds_of_answers() {
        let mut list = DueList::default();
        list.receipt(b"1", 1, (1, 2), true);
        list.done = 1;
        assert!(list.next().is_none());
        list.replied = 2;
        assert!(list.next().is_some());
    }
}
