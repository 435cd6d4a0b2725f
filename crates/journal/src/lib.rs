//! The log of one shard: every durable change of the broker is a record here, and a confirm is "the commit point has passed it".
//!
//! The journal sees records (bytes with a small envelope) and positions, never messages, queues or users. What it offers:
//!
//! * [`Journal::reserve`] hands out an ordered [`Slot`]; filling it stages records; one commit thread writes what has gathered,
//!   syncs once, and tells the waiting [`Committed`] (group commit without a timer).
//! * [`Journal::open`] recovers: the checkpoint's objects through [`Apply::load`], then every record from its begin through
//!   [`Apply::apply`], always whole batches, never anything after a bad one.
//! * [`Journal::read`] finds a record by its [`Lsn`] wherever it lies now: hot segment or cold file.
//! * Checkpoints, page files, liveness and evacuation keep both the restart and the disk bounded.
//!
//! The file format is described in `docs/format.md`, the rules it obeys in `docs/architecture.md`.
//!
//! Reading order: [`record`], `ring`, `commit`, `segment` and `batch`, `recover`, then `live`, `checkpoint`, `pages`, `cold`.

mod aside;
mod batch;
mod catalog;
mod checkpoint;
mod clock;
mod cold;
mod commit;
mod config;
mod copy;
mod cut;
mod error;
mod evacuate;
mod follow;
pub mod inspect;
mod journal;
mod live;
mod maintain;
mod meta;
pub mod mutants;
pub mod next;
mod pages;
mod position;
mod read;
pub mod record;
mod recover;
mod ring;
mod scan;
mod segment;
mod segment_files;
mod ship;
pub mod sim;
mod spare;
pub mod storage;
#[allow(unsafe_code)] // the one place that talks to libc; each block argues for itself
mod sys;
pub mod verify;
mod wire;

pub use aside::{set_aside, SetAside};
pub use batch::next_batch;
pub use clock::{Clock, SystemClock};
pub use config::{Config, SegmentFill};
pub use copy::{start_over, Copy, CopyFile, Incoming};
pub use cut::{cut, Cut};
pub use error::{ApplyError, CloseError, Failure, Held, ObjectError, OpenError, ReadError, SnapshotError};
pub use follow::{Follower, Position, Receiver, Refused, Replayer, Shared};
pub use journal::{Apply, Hooks, Journal, ObjectRef, ObjectSink, Objects, Progress, Snapshot, Space, Stats};
pub use live::Audit;
pub use position::{Lsn, ObjectKey, ObjectPlace, Ticket};
pub use record::{RecordHead, RecordRef, Records};
pub use ring::{Committed, Filled, Place, Release, Releases, Slot};
pub use ship::{LogReader, Meeting};
