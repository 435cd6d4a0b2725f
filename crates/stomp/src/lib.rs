//! STOMP 1.0, 1.1 and 1.2. So far the codec: where a frame ends, what stands in it, how one is written.

pub mod codec;
