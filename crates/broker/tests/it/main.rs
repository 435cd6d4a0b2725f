//! Tests of the core through its seam: turns in, event batches out, on a simulated disk. No protocol, no socket.

mod bounds;
mod consumers;
mod credit;
mod delivery;
mod disk;
mod expiry;
mod fanout;
mod golden;
mod memory;
mod model;
mod named;
mod order;
mod pace;
mod pages;
mod pair;
mod retained;
mod routing;
mod sessions;
mod shared;
mod simulation;
mod spill;
mod state;
mod support;
mod takeover;
mod threads;
mod wills;
