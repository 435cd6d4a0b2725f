//! Writing a frame: the command, headers in the order they are given, and the body.

use super::{escape, Command, Version};

/// A frame under way. It is whole only after [`FrameWriter::end`].
pub struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
    version: Version,
}

impl<'a> FrameWriter<'a> {
    pub fn new(command: Command, agreed: Version, out: &'a mut Vec<u8>) -> FrameWriter<'a> {
        out.extend_from_slice(command.text().as_bytes());
        out.push(b'\n');
        FrameWriter { out, version: command.version(agreed) }
    }

    pub fn header(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        escape(name.as_ref(), self.version, self.out);
        self.out.push(b':');
        escape(value.as_ref(), self.version, self.out);
        self.out.push(b'\n');
        self
    }

    /// A number needs no escape.
    pub fn number(self, name: &str, value: u64) -> Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b':');
        put_number(value, self.out);
        self.out.push(b'\n');
        self
    }

    /// With its length, so that it may hold a NUL.
    pub fn body(self, body: &[u8]) {
        let me = self.number("content-length", body.len() as u64);
        me.out.push(b'\n');
        me.out.extend_from_slice(body);
        me.out.push(0);
    }

    /// Up to where the body goes, for one that is sent by reference. The NUL behind it is the caller's.
    pub fn body_elsewhere(self, len: usize) {
        let me = self.number("content-length", len as u64);
        me.out.push(b'\n');
    }

    /// Without a body.
    pub fn end(self) {
        self.out.extend_from_slice(b"\n\0");
    }
}

pub fn put_number(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::super::{Frames, Limits, Splitter};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for value in [0, 7, 10, 99, 100, u64::MAX] {
            let mut out = Vec::new();
            FrameWriter::new(Command::Receipt, Version::V12, &mut out).number("n", value).end();
            assert_eq!(String::from_utf8(out).unwrap(), format!("RECEIPT\nn:{value}\n\n\0"));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            headers in prop::collection::vec(("[a-z:\\\\\n\r]{1,9}", "[ -~\n\r]{0,20}"), 0..6),
            body in prop::collection::vec(any::<u8>(), 0..80),
            counted in any::<bool>(),
        ) {
            let mut out = Vec::new();
            let mut writer = FrameWriter::new(Command::Message, Version::V12, &mut out);
            for (name, value) in &headers {
                writer = writer.header(name, value);
            }
            if counted { writer.body(&body) } else { writer.end() }
            let (whole, error) = Splitter::new(Limits::default()).split(&out);
            prop_assert_eq!((whole.bytes, error), (out.len(), None));
            let frame = Frames::new(&out, 0, Version::V12).next().unwrap().unwrap();
            prop_assert_eq!(frame.body, if counted { &body[..] } else { b"" });
            let read: Vec<_> = frame.headers.iter().map(Result::unwrap).take(headers.len()).collect();
            for ((name, value), (found, text)) in headers.iter().zip(&read) {
                prop_assert_eq!((name.as_bytes(), value.as_bytes()), (&**found, &**text));
            }
        }
    }
}
