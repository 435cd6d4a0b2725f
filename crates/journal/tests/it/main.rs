//! Tests of the journal through its public surface. A build with `--cfg mutants` only runs the simulation against each mutant: the choice is
//! global to the process.

#[cfg(not(mutants))]
mod basics;
#[cfg(not(mutants))]
mod damage;
mod simulation;
#[cfg(not(mutants))]
mod support;
#[cfg(not(mutants))]
mod whole;
