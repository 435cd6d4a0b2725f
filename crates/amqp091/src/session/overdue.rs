//! Deliveries that nobody acknowledges in time, where their queue or their consumer sets one (RabbitMQ's consumer timeout).
//!
//! A channel notes when it handed out which tags, in steps that are small beside the timeout, so that a delivery costs nothing and a
//! channel keeps about a thousand times. The oldest delivery that is not acknowledged counts, as in RabbitMQ.

use std::time::{Duration, Instant};

use broker_api::Close;

use super::channel::Channel;
use super::deliver::Consumer;
use super::{failed, Session, Step};
use crate::error::Code;

/// How far the time of a delivery may be off.
fn step_of(patience: Duration) -> Duration {
    (patience / 1000).max(Duration::from_millis(100))
}

impl Consumer {
    /// How long it may take to acknowledge: its own argument before its queue's.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.own_timeout_ms.or(self.queue_timeout_ms).map(Duration::from_millis)
    }
}

impl Channel {
    /// Tags from this one on leave now. Answers when the first of them is overdue.
    pub(super) fn hands_out(&mut self, first: u64, patience: Duration, now: Instant) -> Instant {
        if self.handed.back().is_none_or(|(_, at)| *at + step_of(patience) <= now) {
            self.handed.push_back((first, now));
        }
        now + patience + step_of(patience)
    }
}

impl Session {
    /// Ends channels on which a delivery is overdue.
    pub(super) fn end_overdue(&mut self, step: &mut Step<'_>) -> Result<(), Close> {
        if self.overdue_at.take_if(|at| *at <= step.now).is_none() {
            return Ok(());
        }
        for number in 1..self.channels.len() as u16 {
            let Some((due, patience)) = self.oldest_due(number) else { continue };
            if due > step.now {
                self.overdue_at = self.overdue_at.into_iter().chain([due]).min();
                continue;
            }
            let text = format!(
                "delivery acknowledgement on channel {number} timed out. Timeout value used: {} ms. This timeout value can be configured, \
                 see consumers doc guide to learn more",
                patience.as_millis()
            );
            self.fail(failed(number, Code::PreconditionFailed, text, (0, 0)), step)?;
        }
        Ok(())
    }

    /// When the oldest delivery of a channel whose consumer has a timeout is overdue, and that timeout.
    fn oldest_due(&mut self, number: u16) -> Option<(Instant, Duration)> {
        let channel = self.channels.get_mut(usize::from(number))?.as_deref_mut().filter(|channel| !channel.closing)?;
        let mut timed = channel.unacked.all().filter_map(|entry| Some((entry.tag, self.consumers.get(&entry.consumer)?.patience()?)));
        let Some((tag, patience)) = timed.next() else {
            channel.handed.clear();
            return None;
        };
        while channel.handed.get(1).is_some_and(|(first, _)| *first <= tag) {
            channel.handed.pop_front();
        }
        let (_, at) = channel.handed.front()?;
        Some((*at + patience + step_of(patience), patience))
    }
}
