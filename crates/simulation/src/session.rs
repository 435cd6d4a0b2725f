//! A connection of a client that speaks to the core itself, in the core's own words.

use std::task::{Context, Waker};

use broker_api::{
    Broker as _, ConnectionInfo, ConsumerIx, Control, CoreSession, DeliverTo, Event, EventBatch, Login, LoginStep, OwnerIx, Peer, QueueId,
    Seq, Token, Turn, VhostName,
};

use crate::node::Serving;

pub const OWNER: OwnerIx = OwnerIx(1);

pub struct Connection {
    session: Box<dyn CoreSession>,
    pub serving: Serving,
    token: u32,
}

pub struct Delivered {
    pub to: ConsumerIx,
    pub queue: QueueId,
    pub seq: Seq,
    pub body: Vec<u8>,
}

pub enum Heard {
    Delivered(Delivered),
    Replied(Token, bool),
    /// Publishes and fences up to this one are done, counted from 1.
    Done(u64),
    Refused(u64, u64),
}

impl Connection {
    /// Logs in and sends these commands. `None`: it is not taken now.
    pub fn open(serving: Serving, controls: Vec<Control>) -> Option<Connection> {
        let vhost = VhostName::new("/");
        let info = ConnectionInfo { peer: Peer::Unix, identity: None, protocol: "drill", vhost, allow_anonymous: true };
        let session = serving.core.connect(info).ok()?;
        let mut connection = Connection { session, serving, token: 0 };
        let login = Control::Login(Login { vhost: None, step: LoginStep::Anonymous });
        let owner = Control::Owner { owner: OWNER, fail_stop: false, channel: 0 };
        for control in [login, owner].into_iter().chain(controls) {
            connection.token += 1;
            let mut turn = Turn::default();
            turn.control(Token(connection.token), control);
            connection.submit(&mut turn);
        }
        Some(connection)
    }

    pub fn saturated(&self) -> bool {
        self.session.saturated()
    }

    /// One that no other command of this connection has.
    pub fn token(&mut self) -> Token {
        self.token += 1;
        Token(self.token)
    }

    pub fn submit(&mut self, turn: &mut Turn) {
        if !turn.is_empty() {
            self.session.submit(turn);
        }
    }

    pub fn hear(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while self.session.poll_events(&mut context).is_ready() {
            let mut batch = EventBatch::default();
            self.session.swap(&mut batch);
            for event in std::mem::take(&mut batch.events) {
                keep(event, &batch, &mut heard);
            }
            self.session.written(usize::MAX);
        }
        heard
    }
}

fn keep(event: Event, batch: &EventBatch, heard: &mut Vec<Heard>) {
    match event {
        Event::Run { to: DeliverTo::Consumer(to), queue, batch: messages, start, count } => {
            for delivery in batch.run(start, count) {
                let head = &messages.heads[delivery.index as usize];
                heard.push(Heard::Delivered(Delivered { to, queue, seq: delivery.seq, body: messages.body(head).to_vec() }));
            }
        }
        Event::Reply(token, reply) => heard.push(Heard::Replied(token, reply.is_ok())),
        Event::Done { through } => heard.push(Heard::Done(through.0)),
        Event::Refused { first, last, .. } => heard.push(Heard::Refused(first.0, last.0)),
        _ => {}
    }
}
