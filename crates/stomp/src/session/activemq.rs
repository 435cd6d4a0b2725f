//! SUBSCRIBE and UNSUBSCRIBE as an ActiveMQ has them. Durable subscriptions belong to a client and a name of its own, not to an id.

use broker_api::{QueueName, QueueSpec};

use super::send::{destination_text, number};
use super::subscribe::{ack_mode, durable_name, selector_of, tag_of, AckMode, Wanted};
use super::wildcard::Wildcard;
use super::{made_up_name, malformed, Handled, Session, Step};
use crate::codec::{self, Frame, Version};
use crate::destination::{Destination, TOPIC_EXCHANGE};
use crate::dialect::{shown, virtual_topic, REMOTE_TEMP_QUEUE, TEMP_TOPIC};
use crate::error::Fault;
use crate::headers::FORMAT;
use crate::map::Form;

/// Which messages a subscription is for.
#[derive(Clone, Default)]
struct Which {
    selector: Option<Box<str>>,
    /// Not what this connection sends, to a topic.
    no_local: bool,
}

impl Session {
    pub(super) fn subscribe_activemq(&mut self, frame: &Frame<'_>, step: &mut Step<'_>) -> Handled {
        let get = |name: &str| frame.headers.get(name).map_err(malformed);
        let id = get("id")?;
        if id.is_none() && self.version != Version::V10 {
            return Err(Fault::plain("SUBSCRIBE received without a subscription id!".to_owned()));
        }
        let Some(header) = get("destination")? else { return Err(self.dialect().missing_destination("SUBSCRIBE")) };
        let text = destination_text(&header)?;
        let destinations = self.dialect().destinations(text, self.stomp.config.strict)?;
        let tag = self.new_tag(id.as_deref(), &header)?;
        let prefetch = match get("activemq.prefetchSize")? {
            None => self.stomp.config.prefetch(),
            // ActiveMQ's 0 is a client that asks for each message, which STOMP cannot.
            Some(text) => {
                number::<u32>(&text).map(|size| size.max(1)).ok_or_else(|| Fault::plain("activemq.prefetchSize is no number".to_owned()))?
            }
        };
        let mode = AckMode { prefetch, ..ack_mode(frame)? };
        let priority = get("activemq.priority")?.and_then(|text| number(&text)).unwrap_or(0);
        let name = self.subscription_name(frame)?;
        if name.is_some() && destinations.len() > 1 {
            return Err(Fault::plain(format!("A durable subscription has one topic: '{text}'")));
        }
        let browses = get("browser")?.as_deref() == Some(b"true");
        if browses && self.version == Version::V10 {
            return Err(Fault::plain("Queue Browser feature only valid for Stomp v1.1+ clients!".to_owned()));
        }
        if browses
            && destinations.iter().any(|one| matches!(one, Destination::Topic(_) | Destination::TempTopic(_) | Destination::Queues(_)))
        {
            return Err(Fault::plain(format!("Only queues can be browsed: '{text}'")));
        }
        let is_true = |name: &str| -> Handled<bool> { Ok(get(name)?.as_deref() == Some(b"true")) };
        let alone = is_true("activemq.exclusive")?;
        let no_local = is_true("activemq.noLocal")? || is_true("no-local")?;
        let maps = get("transformation")?.and_then(|named| Form::wanted(&named));
        let which = Which { selector: selector_of(frame)?, no_local };
        for destination in &destinations {
            self.check_room()?;
            if let Destination::Queues(pattern) = destination {
                let wildcard = Wildcard {
                    tag: tag.clone(),
                    id: id.as_deref().map(Box::from),
                    mode,
                    priority,
                    alone,
                    maps,
                    selector: which.selector.clone(),
                };
                self.watch(pattern, wildcard, step);
                continue;
            }
            let mut wanted = self.source(destination, name.clone(), which.clone(), &frame.headers, step)?;
            wanted = Wanted { tag: tag.clone(), id: id.as_deref(), mode, priority, browses, maps, alone: alone && !wanted.topic, ..wanted };
            self.consume(wanted, step);
        }
        Ok(())
    }

    /// Everything that was in the queue has been shown.
    pub(super) fn browsed(&mut self, ix: u32, step: &mut Step<'_>) {
        let Some(found) = self.subscriptions.get(&ix).filter(|found| !found.ended) else { return };
        let out = step.out.buffer();
        out.extend_from_slice(b"MESSAGE\n");
        out.extend_from_slice(&found.line);
        out.extend_from_slice(b"destination:");
        out.extend_from_slice(found.shown.as_deref().unwrap_or_default());
        out.extend_from_slice(b"\nmessage-id:0\nbrowser:end\n\n\0\n");
    }

    /// Where the messages for a destination stand, and what they say as theirs.
    fn source(
        &mut self,
        destination: &Destination,
        durable: Option<QueueName>,
        mut which: Which,
        headers: &codec::Headers<'_>,
        step: &mut Step<'_>,
    ) -> Handled<Wanted<'static>> {
        let exclusive = durable.is_some() && matches!(destination, Destination::Topic(_));
        let mut feeds_it = None;
        let (queue, prefix) = match destination {
            Destination::Topic(key) => (self.topic_queue(key, durable, std::mem::take(&mut which), step), None),
            Destination::TempTopic(id) => {
                let key = self.temp_topic(id)?;
                (self.topic_queue(&key, None, std::mem::take(&mut which), step), Some(TEMP_TOPIC))
            }
            Destination::TempQueue(id) => (self.temp_queue(id, step)?, Some("/temp-queue/")),
            Destination::ReplyQueue(name) => (QueueName::new(name), Some(REMOTE_TEMP_QUEUE)),
            Destination::Queue(name) => {
                feeds_it = virtual_topic(name);
                (self.declare(name, headers, true, step)?, Some("/queue/"))
            }
            Destination::AmqQueue(_) | Destination::Exchange { .. } | Destination::Queues(_) => {
                return Err(self.dialect().missing_destination("SUBSCRIBE"))
            }
        };
        if let Some(topic) = feeds_it {
            let pattern = self.dialect().pattern(topic);
            self.bind(&queue, TOPIC_EXCHANGE, &pattern, step);
        }
        let name = if let Destination::TempQueue(id) | Destination::TempTopic(id) = destination { id } else { queue.as_str() };
        let shown = prefix.map(|prefix| self.shown(prefix, name));
        let topic = matches!(destination, Destination::Topic(_) | Destination::TempTopic(_));
        let (virtual_topic, selector) = (feeds_it.is_some(), which.selector);
        Ok(Wanted { topic, virtual_topic, exclusive, selector, shown, ..Wanted::all_of(queue) })
    }

    /// What messages say as their destination.
    pub(super) fn shown(&self, prefix: &str, name: &str) -> Box<[u8]> {
        let mut out = Vec::new();
        shown(prefix, name.as_bytes(), self.version, &mut out);
        out.into()
    }

    /// The queue of a subscription to a topic: for ever, under a name, or for as long as the connection.
    fn topic_queue(&mut self, key: &str, name: Option<QueueName>, which: Which, step: &mut Step<'_>) -> QueueName {
        let durable = name.is_some();
        let queue = name.unwrap_or_else(|| QueueName::new(&made_up_name("stomp-subscription")));
        // What it does not want does not gather in its queue.
        let (selector, no_local) = (which.selector.map(String::from), which.no_local);
        let transient = QueueSpec { exclusive: !durable, auto_delete: !durable, no_local, ..QueueSpec::default() };
        let spec = QueueSpec { durable, selector, format: FORMAT, ..transient };
        self.declare_as(&queue, spec, step);
        let pattern = self.dialect().pattern(key);
        self.bind(&queue, TOPIC_EXCHANGE, &pattern, step);
        queue
    }

    /// The queue of the durable subscription that a frame names.
    fn subscription_name(&self, frame: &Frame<'_>) -> Handled<Option<QueueName>> {
        let get = |name: &str| frame.headers.get(name).map_err(malformed);
        let name = match (get("activemq.subscriptionName")?, get("durable-subscription-name")?) {
            (None, None) => return Ok(None),
            (Some(name), _) | (None, Some(name)) => name,
        };
        let Some(client) = &self.peer.client_id else {
            let text = "You cannot create a durable subscriber without specifying a unique client-id on a Connection";
            return Err(Fault::plain(text.to_owned()));
        };
        Ok(Some(QueueName::new(&durable_name(client.as_bytes(), &name))))
    }

    /// By id or destination it ends for now, by its name for ever.
    pub(super) fn unsubscribe_activemq(&mut self, frame: &Frame<'_>, step: &mut Step<'_>) -> Handled {
        let get = |name: &str| frame.headers.get(name).map_err(malformed);
        if self.stomp.config.strict && self.version != Version::V10 && get("id")?.is_none() {
            return Err(Fault::plain("UNSUBSCRIBE received without a subscription id!".to_owned()));
        }
        if let Some(queue) = self.subscription_name(frame)? {
            let tags: Vec<Box<[u8]>> =
                self.subscriptions.values().filter(|found| found.queue == queue).map(|found| found.tag.clone()).collect();
            for tag in tags {
                self.end_subscription(&tag, step);
            }
            self.delete(queue, step);
            return Ok(());
        }
        let (id, destination) = (get("id")?, get("destination")?);
        if id.is_none() && destination.is_none() {
            return Err(Fault::plain("Must specify the subscriptionId or the destination you are unsubscribing from".to_owned()));
        }
        let tag = tag_of(id.as_deref(), destination.as_deref().unwrap_or_default());
        match self.end_subscription(&tag, step) {
            Some(_) => Ok(()),
            None => Err(Fault::plain("No subscription matched.".to_owned())),
        }
    }
}
