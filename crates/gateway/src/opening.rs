//! Between accept and session: what a client has to go through first, in a task that ends with it.
//!
//! ```text
//!  accept ── plain listener of one protocol ───────────────────────────────► Door::connect, Door::seat
//!     └───── [PROXY header] ── [TLS handshake] ── greet: what is spoken ───────►┘   all of it with one time limit
//! ```
//!
//! Nobody has logged in here, so this is where strangers can make us keep things. All listeners together have a bound on it. At the bound
//! a listener waits for a place; when the oldest opening is older than [`GRACE`] it loses its place, since an honest client is done by
//! then. So thousands of half-open connections make others wait for moments and keep nobody out.

use crate::accept::Door;
use crate::greet::greet;
use crate::slots::Slot;
use crate::timer::now;
use crate::tls::Tls;
use crate::{Proxy, Transport};
use broker_api::{Identity, Peer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::{info, warn};

/// How long an opening is left in peace although others wait for its place.
const GRACE: Duration = Duration::from_secs(1);

/// What a listener has its clients go through before their protocol.
#[derive(Clone, Default)]
pub struct Front {
    pub proxy: Option<Proxy>,
    pub tls: Option<Arc<Tls>>,
    /// On a listener that takes whatever arrives: for clients that begin with TLS.
    pub tls_if_asked: Option<Arc<Tls>>,
}

impl Front {
    pub fn is_nothing(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none()
    }
}

/// The other end, as far as it is known before it has said a word.
#[derive(Clone)]
pub(crate) struct Caller {
    pub peer: Peer,
    pub identity: Option<Arc<Identity>>,
}

async fn open(door: &Door, stream: Transport, peer: Peer, slot: Slot) {
    let until = tokio::time::Instant::now() + door.handshake;
    let (stream, peer) = match &door.service.front.proxy {
        None => (stream, peer),
        Some(proxy) => match proxy.accept_until(until, stream, peer.clone()).await {
            Ok(announced) => announced,
            Err(error) => return info!(conn = slot.number(), %peer, listener = %door.url, %error, "no PROXY header"),
        },
    };
    let (stream, identity) = match &door.service.front.tls {
        None => (stream, None),
        Some(tls) => match tls.accept_until(until, stream).await {
            Ok(opened) => opened,
            Err(error) => return info!(conn = slot.number(), %peer, listener = %door.url, %error, "no TLS"),
        },
    };
    greet(door, stream, Caller { peer, identity }, until, slot).await;
}

/// The openings that are under way, by the number of their connection: the oldest is the first.
pub(crate) struct Openings {
    max: usize,
    live: Mutex<BTreeMap<u64, Under>>,
    one_less: Notify,
    told: AtomicBool,
}

struct Under {
    since: Instant,
    task: AbortHandle,
}

impl Openings {
    pub fn new(max: usize) -> Arc<Openings> {
        Arc::new(Openings { max: max.max(1), live: Mutex::default(), one_less: Notify::new(), told: AtomicBool::new(false) })
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Under>> {
        // Nothing that can panic is done under it.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one when there is room.
    pub async fn begin(self: &Arc<Self>, door: &Arc<Door>, stream: Transport, peer: Peer, slot: Slot) {
        self.room().await;
        let number = slot.number();
        let place = Place { openings: self.clone(), number };
        let door = door.clone();
        let work = async move {
            let _place = place;
            open(&door, stream, peer, slot).await;
        };
        // Under the lock, so that the place is there before its task can give it back.
        let mut live = self.live();
        let task = tokio::spawn(work).abort_handle();
        live.insert(number, Under { since: now(), task });
    }

    async fn room(&self) {
        loop {
            let one_less = self.one_less.notified();
            let wait = {
                let mut live = self.live();
                if live.len() < self.max {
                    return;
                }
                let Some(oldest) = live.first_entry() else { return };
                let age = now().saturating_duration_since(oldest.get().since);
                if age >= GRACE {
                    let oldest = oldest.remove();
                    drop(live);
                    oldest.task.abort();
                    if !self.told.swap(true, Relaxed) {
                        warn!(max_handshakes = self.max, "so many handshakes are under way that the oldest are given up");
                    }
                    return;
                }
                GRACE - age
            };
            let _ = tokio::time::timeout(wait, one_less).await;
        }
    }

    /// Gives up all of them.
    pub fn end_all(&self) {
        for under in std::mem::take(&mut *self.live()).into_values() {
            under.task.abort();
        }
    }
}

/// One opening's place; given back on drop.
struct Place {
    openings: Arc<Openings>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.openings.live().remove(&self.number);
        self.openings.one_less.notify_one();
    }
}
