//! AMQP 0-9-1 with the extensions of RabbitMQ, and with its habits.
//!
//! * [`codec`]: bytes to frames, methods and contents and back, pure.

pub mod codec;
