//! Tests of the core through its seam: turns in, event batches out, on a simulated disk. No protocol, no socket. A build with
//! `--cfg mutants` runs the simulation against each deliberate fault instead: the choice is global to the process.

#[cfg(not(mutants))]
mod bounds;
#[cfg(not(mutants))]
mod credit;
#[cfg(not(mutants))]
mod disk;
#[cfg(not(mutants))]
mod expiry;
mod model;
#[cfg(not(mutants))]
mod order;
#[cfg(not(mutants))]
mod retained;
#[cfg(not(mutants))]
mod routing;
#[cfg(not(mutants))]
mod sessions;
#[cfg(not(mutants))]
mod shared;
mod simulation;
#[cfg(not(mutants))]
mod state;
mod support;
#[cfg(not(mutants))]
mod takeover;
#[cfg(not(mutants))]
mod threads;
#[cfg(not(mutants))]
mod wills;
