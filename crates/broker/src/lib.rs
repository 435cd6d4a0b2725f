//! The core: virtual hosts, queues, topics, sessions, retained messages and settlement, in front of one log.
//!
//! Nothing in here knows a wire format. A connection is a [`broker_api::CoreSession`]; what it asks for comes as a turn, and every change
//! that must survive is a record in the journal before anyone is told that it happened.
//!
//! Reading order: `core` (what connections share), `link` (one connection's turns), `queue`, `route` and [`routing`], `session`,
//! `store` (records and recovery), `open`.

mod audit;
pub mod auth;
mod commit_gate;
mod core;
mod cron;
mod dead_letter;
mod delay;
mod exchange;
mod history;
mod link;
mod memory;
pub mod mutants;
mod open;
mod outbox;
mod pattern;
mod policy;
mod queue;
mod read_through;
mod resting;
mod retained_expiry;
mod review;
mod route;
pub mod routing;
pub mod selector;
mod session;
mod spill;
mod standby;
mod store;
mod sys;
mod timers;
mod users;
mod vhost;
mod vhosts;
mod watch;

pub use crate::core::{Config, Core, DeliveryPoint, VhostLimits};
pub use delay::Delayed;
pub use open::{CoreError, Steps};
pub use policy::{check_policy, known_policy_setting, policy_setting_acts, ApplyTo, Policy, PolicyKind, PolicyValue};
pub use spill::SpillStats;
pub use standby::{Promotion, Standby};
pub use store::Compared;
pub use sys::Traffic;

#[cfg(test)]
mod tests;
