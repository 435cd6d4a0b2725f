//! Which publish has which serial, what became of it, and how the client is told.
//!
//! Neighbouring publishes of one channel are one run, so a connection that publishes on one channel keeps one run however much it publishes.
//! Acknowledgements leave in ranges, in the order of tags: a refused publish is a nack in its place, and no `multiple` reaches over it.

use std::collections::VecDeque;

use broker_api::{Batch, Refusal, Turn};

use super::{on, Channel, Handled, Session, Step};
use crate::codec::{put_body_frames, put_content_head, Method};
use crate::error::{of_refusal, Code};
use crate::mapping::{self, FORMAT};

use super::channel::At;

const PUBLISH: (u16, u16) = (60, 40);
/// Runs of publishes without confirms that nobody would tell us the end of: a fence does.
const RUNS_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    count: u64,
    channel: u16,
    owner: u32,
    /// Of the first; 0 = nobody waits for a confirm.
    tag: u64,
}

#[derive(Default)]
pub(super) struct Publishes {
    last_serial: u64,
    runs: VecDeque<Run>,
    /// Serials that were not taken and are to be told so, ascending.
    nacks: VecDeque<u64>,
    /// A fence is under way.
    fenced: bool,
    /// Channels with confirms to say at the end of the call.
    to_say: Vec<u16>,
}

impl Publishes {
    /// Is the core done with all of them?
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    #[inline]
    pub(super) fn add(&mut self, channel: &Channel, tag: u64) {
        self.last_serial += 1;
        if let Some(last) = self.runs.back_mut() {
            let follows = tag == 0 && last.tag == 0 || tag != 0 && last.tag != 0 && last.tag + last.count == tag;
            if last.owner == channel.owner && follows {
                last.count += 1;
                return;
            }
        }
        self.runs.push_back(Run { first: self.last_serial, count: 1, channel: channel.number, owner: channel.owner, tag });
    }

    pub(super) fn bound(&mut self, turn: &mut Turn) {
        if self.runs.len() >= RUNS_MAX && !self.fenced {
            self.fenced = true;
            self.last_serial += 1;
            turn.fence();
        }
    }
}

impl Session {
    pub(super) fn confirm_select(&mut self, at: At, nowait: bool, step: &mut Step<'_>) -> Handled {
        let Some(channel) = self.live(at.channel, at.owner) else { return Ok(()) };
        if channel.tx.is_some() {
            return Err(at.failed(Code::PreconditionFailed, "cannot switch from tx to confirm mode"));
        }
        channel.confirms.get_or_insert(0);
        if !nowait {
            self.answer(at.channel, Method::ConfirmSelectOk {}, step);
        }
        Ok(())
    }

    /// Everything up to this serial has taken effect and is as safe as it was promised to be.
    pub(super) fn done(&mut self, through: u64, step: &mut Step<'_>) {
        self.publishes.fenced &= through < self.publishes.last_serial;
        while let Some(run) = self.publishes.runs.front().copied().filter(|run| run.first <= through) {
            let count = run.count.min(through + 1 - run.first);
            match self.publishes.runs.front_mut() {
                Some(rest) if count < run.count => {
                    rest.first += count;
                    rest.count -= count;
                    rest.tag += if run.tag == 0 { 0 } else { count };
                }
                _ => drop(self.publishes.runs.pop_front()),
            }
            if run.tag != 0 {
                self.confirm(Run { count, ..run }, step);
            }
        }
    }

    fn confirm(&mut self, run: Run, step: &mut Step<'_>) {
        let mut from = run.first;
        while let Some(nack) = self.publishes.nacks.front().copied().filter(|nack| *nack < run.first + run.count) {
            self.publishes.nacks.pop_front();
            if nack > from {
                self.note_done(run, from, nack - 1);
            }
            if self.live(run.channel, run.owner).is_some() {
                self.say_confirm(run.channel, step);
                let delivery_tag = run.tag + (nack - run.first);
                step.say(run.channel, &Method::BasicNack { delivery_tag, multiple: false, requeue: false });
            }
            from = nack + 1;
        }
        if from < run.first + run.count {
            self.note_done(run, from, run.first + run.count - 1);
        }
    }

    fn note_done(&mut self, run: Run, from: u64, through: u64) {
        let Some(channel) = self.live(run.channel, run.owner) else { return };
        let (from, through) = (run.tag + (from - run.first), run.tag + (through - run.first));
        if channel.confirmed.0 == 0 {
            channel.confirmed = (from, through);
            self.publishes.to_say.push(run.channel);
        } else {
            channel.confirmed.1 = through;
        }
    }

    pub(super) fn say_confirm(&mut self, number: u16, step: &mut Step<'_>) {
        let Some(channel) = self.channel(number) else { return };
        let (from, through) = std::mem::take(&mut channel.confirmed);
        if from != 0 {
            step.say(number, &Method::BasicAck { delivery_tag: through, multiple: through > from });
        }
    }

    pub(super) fn say_confirms(&mut self, step: &mut Step<'_>) {
        while let Some(number) = self.publishes.to_say.pop() {
            self.say_confirm(number, step);
        }
    }

    /// The core did not take these publishes. Comes before their `Done`.
    pub(super) fn refused(&mut self, first: u64, last: u64, why: &Refusal, step: &mut Step<'_>) -> Handled {
        let start = self.publishes.runs.partition_point(|run| run.first + run.count <= first);
        let runs: Vec<Run> = self.publishes.runs.iter().skip(start).take_while(|run| run.first <= last).copied().collect();
        for run in runs {
            if self.live(run.channel, run.owner).is_none() {
                continue;
            }
            if !is_nack(why) {
                let fault = of_refusal(why, &self.peer.vhost, PUBLISH);
                if fault.code.is_hard() {
                    return Err(on(run.channel)(fault));
                }
                self.close_channel(run.channel, &fault, step);
            } else if run.tag != 0 {
                let (from, to) = (first.max(run.first), last.min(run.first + run.count - 1));
                let sorted = self.publishes.nacks.back().is_none_or(|nack| *nack < from);
                self.publishes.nacks.extend(from..=to);
                if !sorted {
                    self.publishes.nacks.make_contiguous().sort_unstable();
                }
            }
        }
        Ok(())
    }

    /// These mandatory publishes reached nobody: told before their confirm.
    pub(super) fn returned(&mut self, first: u64, count: u32, batch: &Batch, index: u32, step: &mut Step<'_>) {
        for n in 0..u64::from(count) {
            let serial = first + n;
            let at = self.publishes.runs.partition_point(|run| run.first + run.count <= serial);
            let Some(run) = self.publishes.runs.get(at).copied().filter(|run| run.first <= serial) else { continue };
            let Some(head) = batch.heads.get(index as usize + n as usize) else { continue };
            if head.format != FORMAT || self.live(run.channel, run.owner).is_none() {
                continue;
            }
            let (exchange, routing_key) = (batch.bytes(head.exchange), batch.key(head));
            let returned = Method::BasicReturn { reply_code: Code::NoRoute.number(), reply_text: b"NO_ROUTE", exchange, routing_key };
            step.say(run.channel, &returned);
            let body = batch.body(head);
            put_content_head(step.out.buffer(), run.channel, body.len() as u64, mapping::own_properties(batch, head));
            put_body_frames(step.out.buffer(), run.channel, body, self.frame_max);
        }
    }
}

/// What a publisher is told by a nack, and may try again. The rest closes its channel.
fn is_nack(why: &Refusal) -> bool {
    matches!(why, Refusal::QueueFull | Refusal::LimitReached(_) | Refusal::OverLimit { .. } | Refusal::OwnerEnded)
}
