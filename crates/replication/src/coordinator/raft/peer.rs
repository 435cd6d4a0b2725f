//! Calls to one other voter, over a link that this side dials and keeps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::message::{self, Hello, Request, Response};
use crate::coordinator::NodeName;
use crate::net::{Identity, Link, NetError, Purpose, Reader, Redial, Writer};

/// Calls that have not been written yet, and those that have not been answered.
const WAITING_MAX: usize = 64;
const UNANSWERED_MAX: usize = 256;
/// A peer that leaves a call without any answer for so long may be behind a link that is dead.
const SILENCE_MAX: Duration = Duration::from_secs(2);

type Call = (Request, oneshot::Sender<Response>);
pub type Calls = mpsc::Receiver<Call>;

pub struct Peer {
    pub name: NodeName,
    address: String,
    calls: mpsc::Sender<Call>,
    /// What it said when the link came about. `None`: there is none.
    hello: Mutex<Option<Hello>>,
    /// Its directory is not older than what it has said before.
    counts: AtomicBool,
}

/// What the owner of a link decides about the peer at its beginning.
pub trait Greet: Send + Sync + 'static {
    fn hello(&self, to: &NodeName) -> Hello;
    /// Whether it counts as a voter. With an error nothing is to be said to it at all.
    fn judge(&self, peer: &NodeName, hello: &Hello) -> Result<bool, String>;
    /// Another one when this voter is another one than at its last greeting: then it has to greet again.
    fn generation(&self) -> u64;
}

impl Peer {
    /// The peer, and what keeps its link: to be polled as long as it is to be reached.
    pub fn new(name: NodeName, address: String) -> (Arc<Self>, Calls) {
        let (calls, queue) = mpsc::channel(WAITING_MAX);
        (Arc::new(Self { name, address, calls, hello: Mutex::new(None), counts: AtomicBool::new(false) }), queue)
    }

    pub fn hello(&self) -> Option<Hello> {
        self.lock().clone()
    }

    /// The voter's id, if it can be reached and counts.
    pub fn id(&self) -> Option<u64> {
        if !self.counts.load(Ordering::Acquire) {
            return None;
        }
        self.lock().as_ref().map(|hello| hello.standing.id)
    }

    /// It has taken an id, or another one, since it said who it is.
    pub fn became(&self, id: u64, cluster: u128) {
        if let Some(hello) = self.lock().as_mut() {
            hello.standing.id = id;
            hello.standing.cluster = Some(cluster);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hello>> {
        self.hello.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// `None`: no answer; whether anything was done is not known.
    pub async fn call(&self, request: Request, limit: Duration) -> Option<Response> {
        if self.lock().is_none() {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        self.calls.try_send((request, answer)).ok()?;
        timeout(limit, answered).await.ok()?.ok()
    }

    pub async fn keep(self: Arc<Self>, mut queue: Calls, identity: Identity, greet: Arc<dyn Greet>) {
        let mut redial = Redial::default();
        loop {
            let wait = match Link::dial(&self.address, &self.name, Purpose::Voters, &identity).await {
                Err(error) => redial.after(&error),
                Ok(link) => match self.talk(link, &mut queue, &*greet).await {
                    Err(Ended::Refused(why)) => {
                        debug!(voter = %self.name, why, "no calls to another voter");
                        Duration::from_secs(1)
                    }
                    Err(Ended::Broken(error)) => {
                        let was_up = self.lock().take().is_some();
                        if was_up {
                            info!(voter = %self.name, %error, "another voter is out of reach");
                            redial.reset();
                        }
                        redial.after(&error)
                    }
                    Ok(()) => return,
                },
            };
            self.lock().take();
            sleep(wait).await;
        }
    }

    async fn talk(&self, link: Link, queue: &mut Calls, greet: &dyn Greet) -> Result<(), Ended> {
        let (mut reader, mut writer) = link.split();
        let generation = greet.generation();
        send(&mut writer, 0, &Request::Hello(greet.hello(&self.name))).await?;
        let hello = match receive(&mut reader).await? {
            (0, Response::Hello(hello)) => hello,
            (_, Response::Refused(why)) => return Err(Ended::Refused(why)),
            _ => return Err(NetError::NotOurs("no greeting of a voter").into()),
        };
        let counts = greet.judge(&self.name, &hello).map_err(Ended::Refused)?;
        self.counts.store(counts, Ordering::Release);
        // Calls that were meant for the link before are answered by their being dropped.
        while queue.try_recv().is_ok() {}
        *self.lock() = Some(hello);
        let mut waiting: HashMap<u64, (Instant, oneshot::Sender<Response>)> = HashMap::new();
        let mut number = 0;
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                call = queue.recv() => {
                    let Some((request, answer)) = call else { return Ok(()) };
                    number += 1;
                    waiting.insert(number, (Instant::now(), answer));
                    send(&mut writer, number, &request).await?;
                }
                frame = reader.recv() => {
                    let (number, response) = parse(frame?)?;
                    if let Some((_, answer)) = waiting.remove(&number) {
                        let _ = answer.send(response);
                    }
                }
                _ = tick.tick() => {
                    if greet.generation() != generation {
                        return Err(NetError::Torn.into());
                    }
                    let dead = waiting.values().any(|(since, _)| since.elapsed() > SILENCE_MAX);
                    if dead || waiting.len() > UNANSWERED_MAX {
                        return Err(NetError::Late(SILENCE_MAX).into());
                    }
                }
            }
        }
    }
}

enum Ended {
    Refused(String),
    Broken(NetError),
}

impl From<NetError> for Ended {
    fn from(error: NetError) -> Self {
        Self::Broken(error)
    }
}

async fn send(writer: &mut Writer, number: u64, request: &Request) -> Result<(), NetError> {
    let (number, body) = (number.to_le_bytes(), message::encode(request));
    let sending = writer.send(message::REQUEST, &number, &body);
    timeout(SILENCE_MAX, sending).await.unwrap_or(Err(NetError::Late(SILENCE_MAX)))
}

async fn receive(reader: &mut Reader) -> Result<(u64, Response), NetError> {
    let frame = timeout(SILENCE_MAX, reader.recv()).await.unwrap_or(Err(NetError::Late(SILENCE_MAX)))?;
    parse(frame)
}

fn parse(frame: Option<(u8, bytes::Bytes)>) -> Result<(u64, Response), NetError> {
    match frame {
        Some((message::RESPONSE, body)) => message::decode(&body).ok_or(NetError::NotOurs("no answer of a voter")),
        Some(_) => Err(NetError::NotOurs("no answer of a voter")),
        None => Err(NetError::Torn),
    }
}
