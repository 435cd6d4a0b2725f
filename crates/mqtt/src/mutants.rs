//! The one deliberate fault of MQTT's: with `qos2_early` a delivery at QoS 2 leaves before its identifier is recorded. The rigs must notice it.
//! `CARRICK_MUTANT` names it for a process, in builds with debug assertions; a simulation chooses it for its thread.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    static CHOSEN: Cell<bool> = const { Cell::new(false) };
}

/// From now on, on this thread.
pub fn choose_qos2_early(on: bool) {
    CHOSEN.set(on);
}

pub(crate) fn qos2_early() -> bool {
    static OF_PROCESS: OnceLock<bool> = OnceLock::new();
    let of_process = || *OF_PROCESS.get_or_init(|| std::env::var("CARRICK_MUTANT").as_deref() == Ok("qos2_early"));
    CHOSEN.get() || (cfg!(debug_assertions) && of_process())
}
