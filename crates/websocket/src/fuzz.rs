//! The bodies of the fuzz targets, as plain functions, so that an ordinary test can run them too.

use crate::decode::{Decoder, Heard};
use crate::{Carried, Menu, Opening, Origins, Request};

/// Any bytes as frames, read in one piece and in pieces of a length that the first byte chooses: the same payload, the same end.
pub fn frames_fuzz(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let text = first & 1 == 1;
    let whole = run(data, data.len().max(1), text);
    let torn = run(data, usize::from(first >> 1) + 1, text);
    // How much of a text comes before the news that it is none depends on the pieces.
    match whole.1 {
        Some(crate::Fault::NotUtf8) => assert_eq!(torn.1, whole.1),
        _ => assert_eq!(whole, torn),
    }
    assert!(whole.0.len() <= data.len());
}

type Outcome = (Vec<u8>, Option<crate::Fault>, Option<Vec<u8>>);

fn run(data: &[u8], size: usize, text: bool) -> Outcome {
    let mut decoder = Decoder::new(text, 1 << 16);
    let (mut all, mut heard) = (Vec::new(), Heard::default());
    for piece in data.chunks(size) {
        let mut piece = piece.to_vec();
        let (count, result) = decoder.decode(&mut piece, &mut heard);
        assert!(count <= piece.len());
        all.extend_from_slice(&piece[..count]);
        if let Err(fault) = result {
            return (all, Some(fault), None);
        }
    }
    assert!(heard.ping.as_ref().is_none_or(|payload| payload.len() <= 125));
    (all, None, heard.close)
}

/// Any bytes as the head of a request: an answer that is HTTP, whatever it is.
pub fn handshake_fuzz(data: &[u8]) {
    let _ = crate::recognise(data);
    let carried = vec![Carried { name: "mqtt", sub_protocols: &["mqtt"], text: false }];
    let menu = Menu { carried, default: 0, origins: Origins::default() };
    let response = match Request::parse(data) {
        Ok(Opening::Partial) => return,
        Ok(Opening::Whole(request, len)) => {
            assert!(len <= data.len());
            menu.answer(&request, true).map_or_else(|refusal| refusal.response(), |accepted| accepted.response)
        }
        Err(refusal) => refusal.response(),
    };
    assert!(response.starts_with(b"HTTP/1.1 "));
    // What the client wrote must not become a line of its own.
    let head = response.windows(4).position(|four| four == b"\r\n\r\n").expect("the head ends");
    assert!(response[..head].split(|byte| *byte == b'\n').count() <= 8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_committed_corpus() {
        for (target, body) in [("websocket_frames", frames_fuzz as fn(&[u8])), ("websocket_handshake", handshake_fuzz)] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                body(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
                count += 1;
            }
            assert!(count > 0, "{target}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_as_frames(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            frames_fuzz(&data);
        }

        #[test]
        fn nearly_frames(first in any::<u8>(), frames in proptest::collection::vec((any::<u8>(), 0u8..130, any::<[u8; 4]>()), 0..20)) {
            let mut data = vec![first];
            for (head, length, mask) in frames {
                data.extend_from_slice(&[head & 0x8f, 0x80 | length]);
                data.extend_from_slice(&mask);
                data.extend(std::iter::repeat_n(head, usize::from(length)));
            }
            frames_fuzz(&data);
        }

        #[test]
        fn any_bytes_as_a_request(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            handshake_fuzz(&data);
        }

        #[test]
        fn nearly_a_request(path in "[ -~]{0,20}", name in "[a-zA-Z-]{1,20}", value in "[ -~\r\n]{0,30}") {
            handshake_fuzz(format!(
                "GET /{path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{name}: {value}\r\nSec-WebSocket-Protocol: {value}\r\n\r\n"
            ).as_bytes());
        }
    }
}
