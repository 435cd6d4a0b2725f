//! A subscription to all queues whose names match a pattern: those that are there, and those that are made while it lasts.
//!
//! The core tells of them ([`broker_api::Watch`]); each gets a consumer of its own, which goes with its queue. To the client it is one
//! subscription.

use broker_api::{ConsumerIx, Control, Filter, QueueName, Watch};

use super::subscribe::{AckMode, Wanted};
use super::{Asked, Session, Step, OWNER};
use crate::map::Form;

/// What its consumers are to be.
pub(super) struct Wildcard {
    pub(super) tag: Box<[u8]>,
    pub(super) id: Option<Box<[u8]>>,
    pub(super) mode: AckMode,
    pub(super) priority: i32,
    pub(super) alone: bool,
    pub(super) maps: Option<Form>,
    pub(super) selector: Option<Box<str>>,
}

impl Session {
    pub(super) fn watch(&mut self, pattern: &str, wildcard: Wildcard, step: &mut Step<'_>) {
        self.numbers.consumer += 1;
        let ix = self.numbers.consumer;
        let names = Filter { pattern: pattern.into(), separator: b'.' };
        let at_first = u32::try_from(self.stomp.config.max_subscriptions).unwrap_or(u32::MAX);
        self.command(Control::Watch(Watch { owner: OWNER, watch: ConsumerIx(ix), names, at_first }), Asked::Silent, step);
        self.by_tag.entry(wildcard.tag.clone()).or_default().push(ix);
        self.watches.insert(ix, wildcard);
    }

    /// A queue matches. Beyond the bound on subscriptions nothing more is taken from, as nobody is there to be told.
    pub(super) fn found(&mut self, ix: u32, queue: QueueName, step: &mut Step<'_>) {
        let Some(watch) = self.watches.get(&ix) else { return };
        let parts = self.by_tag.get(&watch.tag).into_iter().flatten().filter_map(|ix| self.subscriptions.get(ix));
        if is_of_a_topic(&queue) || parts.into_iter().any(|part| part.queue == queue) || self.check_room().is_err() {
            return;
        }
        let (tag, id) = (watch.tag.clone(), watch.id.clone());
        let wanted = Wanted {
            mode: watch.mode,
            priority: watch.priority,
            alone: watch.alone,
            maps: watch.maps,
            selector: watch.selector.clone(),
            part: true,
            shown: Some(self.shown("/queue/", queue.as_str())),
            ..Wanted::all_of(queue)
        };
        self.consume(Wanted { tag, id: id.as_deref(), ..wanted }, step);
    }
}

/// Queues that stand behind a topic, or were made up, are none that an ActiveMQ has.
fn is_of_a_topic(queue: &QueueName) -> bool {
    ["stomp-subscription-", "amq."].iter().any(|prefix| queue.as_str().starts_with(prefix))
}
