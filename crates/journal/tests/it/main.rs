//! Tests of the journal through its public surface.

mod basics;
mod damage;
mod damage_behind;
mod pair;
mod simulation;
mod support;
mod whole;
