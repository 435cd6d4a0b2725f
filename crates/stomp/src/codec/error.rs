use thiserror::Error;

/// Bytes that are no STOMP. Each ends the connection; the text goes into the ERROR frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("the command line is longer than {0} bytes")]
    CommandTooLong(usize),
    #[error("a header line is longer than {0} bytes")]
    HeaderTooLong(usize),
    #[error("more than {0} headers")]
    TooManyHeaders(usize),
    #[error("the body is longer than {0} bytes")]
    BodyTooLong(usize),
    #[error("a NUL before the empty line that ends the headers")]
    NulInHead,
    #[error("content-length is not a number")]
    ContentLength,
    #[error("no NUL where content-length says that the body ends")]
    NoNul,
    #[error("a header line without a colon")]
    NoColon,
    #[error("a header without a name")]
    NoName,
    #[error("undefined escape sequence in a header")]
    Escape,
}
