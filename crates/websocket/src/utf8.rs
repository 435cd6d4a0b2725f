//! UTF-8 that comes in pieces: a character may begin in one frame and end in the next (RFC 6455, 5.6 and 8.1).

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Utf8 {
    /// The first bytes of a character whose rest has not come.
    begun: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// Is it still UTF-8 with these bytes behind it, or the beginning of it?
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        if self.len > 0 {
            let len = usize::from(self.len);
            let take = (width(self.begun[0]) - len).min(bytes.len());
            let (head, rest) = bytes.split_at(take);
            self.begun[len..len + take].copy_from_slice(head);
            self.len += take as u8;
            let so_far = &self.begun[..len + take];
            match std::str::from_utf8(so_far) {
                Ok(_) if take > 0 => self.len = 0,
                Ok(_) => {}
                Err(error) if error.error_len().is_none() => return true,
                Err(_) => return false,
            }
            bytes = rest;
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_none() => {
                let begun = &bytes[error.valid_up_to()..];
                self.begun[..begun.len()].copy_from_slice(begun);
                self.len = begun.len() as u8;
                true
            }
            Err(_) => false,
        }
    }

    /// No character has been left in its middle.
    pub fn is_whole(&self) -> bool {
        self.len == 0
    }
}

/// Bytes of the character that begins like this.
fn width(lead: u8) -> usize {
    match lead {
        0xf0.. => 4,
        0xe0.. => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_pieces(bytes: &[u8], size: usize) -> bool {
        let mut utf8 = Utf8::default();
        bytes.chunks(size).all(|piece| utf8.push(piece)) && utf8.is_whole()
    }

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole_is(text in ".{0,40}", junk in proptest::collection::vec(any::<u8>(), 0..12), size in 1usize..7) {
            prop_assert!(in_pieces(text.as_bytes(), size));
            let mut mixed = text.into_bytes();
            mixed.extend_from_slice(&junk);
            prop_assert_eq!(in_pieces(&mixed, size), std::str::from_utf8(&mixed).is_ok());
        }
    }

    #[test]
    fn what_can_never_become_utf8_is_refused_at_once() {
        let mut utf8 = Utf8::default();
        assert!(utf8.push(b"\xf0\x9f"));
        assert!(utf8.push(b""));
        assert!(!utf8.push(b"x"));
        // An encoded surrogate: wrong at its second byte.
        let mut utf8 = Utf8::default();
        assert!(utf8.push(b"\xed"));
        assert!(!utf8.push(b"\xa0"));
    }
}
