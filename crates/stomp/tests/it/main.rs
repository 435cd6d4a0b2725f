//! Sessions with a real core behind them.

mod bounds;
mod codec;
mod rig;
mod transcripts;
