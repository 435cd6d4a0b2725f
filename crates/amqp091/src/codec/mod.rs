//! Bytes to frames, methods and contents and back; pure. "Not enough bytes yet" is an answer, everything else that is wrong an error.

pub mod fuzz;
pub mod show;
pub mod table;
pub mod wire;

mod content;
mod error;
mod frame;
mod method;
mod properties;

pub use content::{put_body_frames, put_content_head, put_deliver, ContentHead, Publish, PublishView};
pub use error::{CodecError, FrameError, Octets};
pub use frame::{
    begin_frame, end_frame, frame_at, put_frame_head, put_heartbeat, Frame, Split, Splitter, FRAME_BODY, FRAME_END, FRAME_HEADER,
    FRAME_HEARTBEAT, FRAME_METHOD, FRAME_MIN_SIZE, FRAME_OVERHEAD, PROTOCOL_HEADER,
};
pub use method::{method_name, Method, METHODS};
pub use properties::Properties;
pub use table::{Array, ArrayWriter, Field, Table, TableWriter};
pub use wire::{put_long_str, put_short_str, put_u16, put_u32, put_u64, Reader};
