//! Tests of the journal through its public surface.

mod basics;
mod support;
