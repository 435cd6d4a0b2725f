//! What a listener offers.

use crate::Front;
use broker_api::{Protocol, VhostName};
use std::sync::Arc;
use websocket::{Carried, Menu, Origins};

/// What is spoken on a listener, and where its clients arrive.
#[derive(Clone)]
pub struct Service {
    pub spoken: Spoken,
    pub vhost: VhostName,
    /// Connections without credentials are let in as `anonymous`.
    pub allow_anonymous: bool,
    pub front: Front,
}

#[derive(Clone)]
pub enum Spoken {
    /// It is known before the first byte comes.
    One(Arc<dyn Protocol>),
    /// Those that WebSocket carries; the handshake says which.
    Web(Arc<Web>),
    /// The first bytes say which, or that it is WebSocket.
    Any(Arc<Web>),
}

/// Protocols, bare and in WebSocket's frames.
pub struct Web {
    pub(crate) protocols: Vec<Arc<dyn Protocol>>,
    /// Of those that are carried, and where each stands in `protocols`.
    pub(crate) menu: Menu,
    pub(crate) carried: Vec<usize>,
    pub(crate) stream: websocket::Config,
}

impl Web {
    /// Protocols by their schemes, which are their paths too. `default`: the one that a client gets who asks for none. `None`: it is not
    /// there, or WebSocket does not carry it.
    pub fn new(
        protocols: Vec<(&'static str, Arc<dyn Protocol>)>,
        default: &str,
        origins: Origins,
        stream: websocket::Config,
    ) -> Option<Web> {
        let (schemes, protocols): (Vec<_>, Vec<_>) = protocols.into_iter().unzip();
        let carried: Vec<usize> = (0..protocols.len()).filter(|n| !protocols[*n].sub_protocols().is_empty()).collect();
        let default = carried.iter().position(|n| schemes[*n] == default)?;
        let entries = carried.iter().map(|n| Carried {
            name: schemes[*n],
            sub_protocols: protocols[*n].sub_protocols(),
            text: protocols[*n].speaks_text(),
        });
        let menu = Menu { carried: entries.collect(), default, origins };
        Some(Web { protocols, menu, carried, stream })
    }

    /// What a client gets who asks for nothing.
    pub fn default_scheme(&self) -> &'static str {
        self.menu.carried[self.menu.default].name
    }
}
