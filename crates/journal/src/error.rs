//! Errors, split by who must act on them.

use std::io;

use thiserror::Error;

use crate::Lsn;

/// Why a journal could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the data directory is in use by another process{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked { pid: Option<u32> },
    #[error("{file}: {what}. The data below a sync marker is damaged, so it was not cut: restore it from a copy or from the peer")]
    Corrupt { file: String, what: String },
    #[error("there is no store in this directory")]
    NoStore,
    #[error("{file}: format version {found} is newer than this program understands ({known})")]
    Version { file: String, found: u32, known: u32 },
    #[error("{file}: belongs to another store (cluster or shard differs from meta)")]
    Foreign { file: String },
    #[error("{at} is of level {level}, and this program understands levels up to {known}: a later version has raised the level of this store, and only that version or one after it can open it")]
    Level { at: String, level: u8, known: u8 },
    #[error("record at {lsn}: kind {kind} is one of the journal's own and unknown to this program")]
    Kind { lsn: Lsn, kind: u8 },
    #[error("the state machine refused {at}: {source}")]
    Apply { at: String, source: ApplyError },
    #[error("configuration: {0}")]
    Config(String),
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
}

impl OpenError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let doing = doing.into();
        move |source| OpenError::Io { doing, source }
    }

    pub(crate) fn corrupt(file: impl Into<String>, what: impl Into<String>) -> OpenError {
        OpenError::Corrupt { file: file.into(), what: what.into() }
    }
}

/// The state machine could not take an object or a record. Opening stops.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ApplyError(pub String);

impl From<String> for ApplyError {
    fn from(text: String) -> Self {
        ApplyError(text)
    }
}

impl From<ObjectError> for ApplyError {
    fn from(error: ObjectError) -> Self {
        ApplyError(error.to_string())
    }
}

/// The snapshot could not be taken; the checkpoint is given up and tried again later.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SnapshotError(pub String);

impl From<ObjectError> for SnapshotError {
    fn from(error: ObjectError) -> Self {
        SnapshotError(error.to_string())
    }
}

/// A write or sync failed. Nothing is confirmed any more by this process.
#[derive(Debug, Clone, Error)]
#[error("the journal has failed and confirms nothing any more: {doing}: {error}")]
pub struct Failure {
    pub doing: String,
    pub error: String,
}

/// Why a publish may not reserve now. Settlements always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Held {
    #[error("too many bytes are waiting to be written")]
    Staging,
    #[error("the disk is full; only the reserve is left, which is kept for consumers")]
    DiskFull,
    #[error("the journal has failed")]
    Failed,
}

#[derive(Debug, Error)]
pub enum ReadError {
    #[error("no record is kept at {0}")]
    Gone(Lsn),
    /// Its place is given out, but it is not in the file yet: whoever published it still has it in memory.
    #[error("the record at {0} is not written yet")]
    Pending(Lsn),
    #[error("record {lsn}: {what}")]
    Damaged { lsn: Lsn, what: String },
    #[error("reading record {lsn}: {source}")]
    Io { lsn: Lsn, source: io::Error },
}

#[derive(Debug, Error)]
pub enum ObjectError {
    #[error("no such object")]
    Unknown,
    #[error("the object is damaged: {0}")]
    Damaged(String),
    #[error("the disk is full")]
    Full,
    #[error("the class is reserved for the journal")]
    Reserved,
    #[error("page file: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Failed(#[from] Failure),
}

#[derive(Debug, Error)]
pub enum CloseError {
    #[error(transparent)]
    Failed(#[from] Failure),
}
