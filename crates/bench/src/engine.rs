//! The loop: one thread, one epoll, many connections. Nothing is allocated per message.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use anyhow::{bail, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::Timespec;

use crate::carrier::{Carriage, Carrier};
use crate::checker::Inbox;
use crate::clock::{self, MILLI, SECOND};
use crate::conn::{Conn, Pause, Plan, Producer, Role, State, Subscribe};
use crate::lane::{Lane, LaneConfig};
use crate::socket;

/// The shared read buffer: the largest frame and as much again.
const READ_BUFFER: usize = 512 * 1024;
/// Connections between dial and ready at a time; the rest wait.
pub(crate) const CONNECT_BURST: usize = 64;
/// How many reasons of failed connections are kept.
const ERRORS_KEPT: usize = 5;

pub(crate) struct Engine {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    addr: SocketAddr,
    carriage: Carriage,
    plans: VecDeque<Plan>,
    planned: usize,
    /// Dialled and not yet ready.
    pending: usize,
    /// Dials so far: each source address has so many ports.
    dials: u64,
    pub connect_burst: usize,
    /// Open connections at a time: what the file limit allows, less some for the rest of the process.
    pub open_max: usize,
    pub conns: Vec<Conn>,
    pub lanes: Vec<Lane>,
    pub ready: usize,
    pub failed: usize,
    /// Left after a DISCONNECT.
    pub left: usize,
    pub errors: Vec<String>,
    ping_every: u64,
    next_ping: u64,
}

impl Engine {
    pub fn new(addr: SocketAddr, carriage: Carriage, keep_alive_secs: u16) -> Result<Engine> {
        // Without it the kernel may wake us 50 us late, which a latency at a fixed rate would show.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let open_max = socket::raise_file_limit().saturating_sub(64).clamp(16, 1 << 24) as usize;
        Ok(Engine {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(1024),
            buffer: vec![0; READ_BUFFER],
            addr,
            carriage,
            plans: VecDeque::new(),
            planned: 0,
            pending: 0,
            dials: 0,
            connect_burst: CONNECT_BURST,
            open_max,
            conns: Vec::new(),
            lanes: Vec::new(),
            ready: 0,
            failed: 0,
            left: 0,
            errors: Vec::new(),
            ping_every: u64::from(keep_alive_secs) * SECOND / 2,
            next_ping: 0,
        })
    }

    pub fn add_lane(&mut self, config: LaneConfig) -> usize {
        self.lanes.push(Lane::new(config));
        self.lanes.len() - 1
    }

    pub fn add(&mut self, plan: Plan) {
        self.planned += 1;
        self.plans.push_back(plan);
    }

    /// Turns until `done` says so, or the time is up. Whether it was `done`.
    pub fn run_until(&mut self, deadline: u64, mut done: impl FnMut(&Engine) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if clock::now() >= deadline {
                return false;
            }
            self.turn(deadline);
        }
    }

    /// One turn that does not wait.
    pub fn run_once(&mut self) {
        self.turn(clock::now());
    }

    pub fn run_for(&mut self, nanos: u64) {
        let deadline = clock::now() + nanos;
        self.run_until(deadline, |_| false);
    }

    /// Opens all that was added and waits until it is ready.
    pub fn connect(&mut self, within: u64) -> Result<()> {
        let deadline = clock::now() + within;
        if self.run_until(deadline, |e| e.ready == e.planned || e.ready + e.failed >= e.planned && e.failed > 0) && self.failed == 0 {
            return Ok(());
        }
        bail!("{} of {} connections are ready; {}", self.ready, self.planned, self.why())
    }

    fn open(&self) -> usize {
        self.conns.len().saturating_sub(self.left + self.failed)
    }

    /// Waits until every connection has left by itself.
    pub fn wait_gone(&mut self, within: u64) -> bool {
        let deadline = clock::now() + within;
        self.run_until(deadline, |e| e.left + e.failed >= e.planned)
    }

    pub fn why(&self) -> String {
        if self.errors.is_empty() {
            "no errors".into()
        } else {
            self.errors.join("; ")
        }
    }

    /// Starts the flow of a lane: its producers' due times are spread over one interval.
    pub fn start(&mut self, lane: usize) {
        let now = clock::now();
        let producers = std::mem::take(&mut self.lanes[lane].producers);
        let interval = self.lanes[lane].config.interval;
        for (nth, &at) in producers.iter().enumerate() {
            if let Role::Producer(producer) = &mut self.conns[at].role {
                producer.due = now + interval * nth as u64;
            }
        }
        self.lanes[lane].producers = producers;
        self.lanes[lane].publishing = true;
    }

    pub fn stop(&mut self, lane: usize) {
        self.lanes[lane].publishing = false;
    }

    /// Sends a client's SUBSCRIBE packets now.
    pub fn subscribe(&mut self, at: usize, subscribe: &Subscribe) {
        self.conns[at].subscribe(subscribe);
        self.flush(at);
    }

    /// DISCONNECTs everybody and waits a little for the broker to hang up, so that it has seen the goodbye.
    pub fn close(&mut self) {
        self.planned -= self.plans.len();
        self.plans.clear();
        for lane in &mut self.lanes {
            lane.publishing = false;
        }
        for at in 0..self.conns.len() {
            match self.conns[at].state {
                State::Ready | State::Subscribing => {
                    self.conns[at].say_goodbye();
                    self.flush(at);
                }
                State::Dialling | State::Greeting => self.fail(at, "closed before it was ready".into()),
                State::Leaving | State::Gone => {}
            }
        }
        self.wait_gone(2 * SECOND);
    }

    pub fn producers(&self) -> impl Iterator<Item = &Producer> {
        self.conns.iter().filter_map(|conn| match &conn.role {
            Role::Producer(producer) => Some(&**producer),
            _ => None,
        })
    }

    /// What each consumer of a lane got, in the order they were added.
    pub fn inboxes(&self, lane: usize) -> impl Iterator<Item = &Inbox> {
        self.conns.iter().filter(move |conn| conn.lane == lane).filter_map(|conn| match &conn.role {
            Role::Consumer(consumer) => Some(&consumer.inbox),
            _ => None,
        })
    }

    fn turn(&mut self, deadline: u64) {
        self.open_some();
        let now = clock::now();
        let mut wake = deadline.min(now + 10 * MILLI);
        if self.ping_every > 0 && now >= self.next_ping {
            self.next_ping = now + self.ping_every;
            self.ping_all();
        }
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].publishing {
                wake = wake.min(self.pump(lane, now));
            }
        }
        let left = wake.saturating_sub(clock::now());
        let timeout = Timespec { tv_sec: (left / SECOND) as i64, tv_nsec: (left % SECOND) as _ };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        // EINTR is a turn with no events.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
        for event in &events {
            self.on_event(event.data.u64() as usize, event.flags);
        }
        self.events = events;
    }

    /// Lets the producers of a lane publish. Returns when to come back.
    fn pump(&mut self, lane: usize, now: u64) -> u64 {
        let count = self.lanes[lane].producers.len();
        if count == 0 {
            return u64::MAX;
        }
        if self.lanes[lane].room() == 0 {
            self.lanes[lane].forgive_if_stuck(now);
            return now + MILLI;
        }
        self.lanes[lane].rotation = (self.lanes[lane].rotation + 1) % count;
        let mut wake = u64::MAX;
        for nth in 0..count {
            let state = &mut self.lanes[lane];
            let room = state.room();
            if room == 0 {
                break;
            }
            let share = (room / count as u64).max(1);
            let at = state.producers[(state.rotation + nth) % count];
            let pause = self.conns[at].publish(state, now, share);
            if !self.conns[at].out.is_empty() {
                self.flush(at);
            }
            match pause {
                Pause::Buffer => wake = now,
                Pause::Due(due) => wake = wake.min(due),
                Pause::Waiting | Pause::Finished => {}
            }
        }
        wake
    }

    fn open_some(&mut self) {
        while self.pending < self.connect_burst && self.open() < self.open_max {
            let Some(plan) = self.plans.pop_front() else { return };
            let stream = match socket::dial(self.addr, self.dials) {
                Ok(stream) => stream,
                Err(e) => {
                    self.failed += 1;
                    self.note(format!("connect: {e}"));
                    continue;
                }
            };
            self.dials += 1;
            let at = self.conns.len();
            let data = EventData::new_u64(at as u64);
            if let Err(e) = epoll::add(&self.epoll, &stream, data, EventFlags::IN | EventFlags::OUT) {
                self.failed += 1;
                self.note(format!("epoll: {e}"));
                continue;
            }
            let carrier = match self.carriage.carry(stream) {
                Ok(carrier) => carrier,
                Err(e) => {
                    self.failed += 1;
                    self.note(format!("TLS: {e}"));
                    continue;
                }
            };
            let conn = Conn::new(plan, carrier);
            if matches!(conn.role, Role::Producer(_)) {
                self.lanes[conn.lane].producers.push(at);
            }
            self.conns.push(conn);
            self.pending += 1;
        }
    }

    fn on_event(&mut self, at: usize, flags: EventFlags) {
        let conn = &mut self.conns[at];
        let Some(stream) = &conn.stream else { return };
        if conn.state == State::Dialling {
            if let Err(e) = socket::dialled(stream.stream()) {
                self.fail(at, format!("connect: {e}"));
                return;
            }
            conn.state = State::Greeting;
            self.flush(at);
        } else if flags.contains(EventFlags::OUT) {
            self.flush(at);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(at);
        }
    }

    fn read(&mut self, at: usize) {
        loop {
            let conn = &mut self.conns[at];
            let Some(stream) = &mut conn.stream else { return };
            let kept = conn.leftover.len();
            if kept + READ_BUFFER / 2 > self.buffer.len() {
                self.buffer.resize(kept + READ_BUFFER, 0);
            }
            self.buffer[..kept].copy_from_slice(&conn.leftover);
            let room = self.buffer.len() - kept;
            let len = match stream.read(&mut self.buffer[kept..]) {
                Ok(0) => return self.ended(at, "the broker closed the connection".into()),
                Ok(len) => len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return self.ended(at, format!("read: {e}")),
            };
            let was_ready = conn.state == State::Ready;
            let lane = &mut self.lanes[conn.lane];
            let input = &self.buffer[..kept + len];
            let used = match conn.digest(input, lane, clock::now()) {
                Ok(used) => used,
                Err(why) => return self.ended(at, why),
            };
            conn.leftover.clear();
            conn.leftover.extend_from_slice(&input[used..]);
            if !was_ready && conn.state == State::Ready {
                self.ready += 1;
                self.pending -= 1;
            }
            if conn.wants_to_leave() {
                conn.say_goodbye();
            }
            let held = conn.stream.as_ref().is_some_and(Carrier::holds_output);
            if (!conn.out.is_empty() || held) && !conn.watches_write {
                self.flush(at);
            }
            if len < room {
                return;
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        let Some(stream) = &mut conn.stream else { return };
        if conn.state == State::Dialling {
            return;
        }
        while conn.out_at < conn.out.len() {
            match stream.write(&conn.out[conn.out_at..]) {
                Ok(len) => conn.out_at += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.ended(at, format!("write: {e}")),
            }
        }
        if let Err(e) = stream.flush() {
            return self.ended(at, format!("write: {e}"));
        }
        if conn.out_at == conn.out.len() {
            conn.out.clear();
            conn.out_at = 0;
        }
        let wants = !conn.out.is_empty() || stream.holds_output();
        if wants != conn.watches_write {
            conn.watches_write = wants;
            let flags = if wants { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            if let Err(e) = epoll::modify(&self.epoll, stream.stream(), EventData::new_u64(at as u64), flags) {
                self.fail(at, format!("epoll: {e}"));
            }
        }
    }

    fn ping_all(&mut self) {
        for at in 0..self.conns.len() {
            self.conns[at].ping();
            if !self.conns[at].out.is_empty() {
                self.flush(at);
            }
        }
    }

    /// The end of a connection: the expected one after a goodbye, a failure otherwise.
    fn ended(&mut self, at: usize, why: String) {
        if self.conns[at].state == State::Leaving {
            self.conns[at].stream = None;
            self.conns[at].state = State::Gone;
            self.left += 1;
        } else {
            self.fail(at, why);
        }
    }

    fn fail(&mut self, at: usize, why: String) {
        let conn = &mut self.conns[at];
        if !conn.is_open() {
            return;
        }
        conn.stream = None;
        if !matches!(conn.state, State::Ready | State::Leaving) {
            self.pending -= 1;
        }
        conn.state = State::Gone;
        conn.out = Vec::new();
        self.failed += 1;
        self.note(why);
    }

    fn note(&mut self, why: String) {
        if self.errors.len() < ERRORS_KEPT && !self.errors.contains(&why) {
            self.errors.push(why);
        }
    }
}
