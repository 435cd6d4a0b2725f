//! Tests of the journal through its public surface.

mod basics;
mod damage;
mod simulation;
mod support;
mod whole;
