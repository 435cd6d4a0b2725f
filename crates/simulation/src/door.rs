//! A client's way to a node that serves, as a list of addresses is: it stays where it is as long as that one is there, and tries the next one when
//! it is gone or has been silent for too long.

use std::sync::Arc;
use std::time::Duration;

use crate::node::{Serving, SimNode};
use crate::world::World;

/// After a node has slept, its own threads come first.
const AFTER_SLEEP: Duration = Duration::from_millis(20);
/// A node that sleeps for so long is left.
const PATIENCE: Duration = Duration::from_millis(700);

pub struct Door {
    world: World,
    nodes: Vec<Arc<SimNode>>,
    at: usize,
    slept: Option<Duration>,
    silent_since: Option<Duration>,
}

/// What a client finds.
pub enum Answer {
    /// Nobody: whoever was connected is no more.
    Closed,
    /// Nothing comes back now.
    Silent,
    Open(Serving),
}

impl Door {
    /// `nodes`: those that the client knows.
    pub fn new(world: &World, nodes: Vec<Arc<SimNode>>) -> Door {
        Door { world: world.clone(), nodes, at: 0, slept: None, silent_since: None }
    }

    fn next(&mut self) -> Answer {
        self.at = (self.at + 1) % self.nodes.len();
        (self.slept, self.silent_since) = (None, None);
        Answer::Closed
    }

    pub fn knock(&mut self) -> Answer {
        let Some(serving) = self.nodes[self.at].serving() else { return self.next() };
        let now = self.world.elapsed();
        if self.world.is_paused(serving.group) {
            self.slept = Some(now);
            let since = *self.silent_since.get_or_insert(now);
            if self.nodes.len() > 1 && now > since + PATIENCE {
                return self.next();
            }
            return Answer::Silent;
        }
        self.silent_since = None;
        if self.slept.is_some_and(|slept| now < slept + AFTER_SLEEP) {
            return Answer::Silent;
        }
        Answer::Open(serving)
    }
}
