//! The gateway with the toy protocol and the echoing core.

mod closing;
mod driving;
mod holding;
mod layers;
mod listening;
mod pki;
mod support;
mod tls;
mod web;
