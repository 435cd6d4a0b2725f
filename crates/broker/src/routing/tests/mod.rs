//! Tables against naive models, readers against writers, and what a change in a large table may cost.

mod concurrency;
mod cost;
mod exchanges;
mod matching;
mod retained;
