//! What must hold for any input, for fuzzing and for replaying its corpus.

use super::{DecodeError, Frames, Limits, Splitter, Version};

/// Splitting in one piece and in two gives the same frames, and every whole frame can be read, or says why not.
pub fn split(input: &[u8]) {
    let limits = Limits { command: 64, header: 256, headers: 32, body: 4096 };
    let (whole, error) = Splitter::new(limits).split(input);
    assert!(whole.bytes <= input.len());
    let cut = input.first().map_or(0, |first| usize::from(*first) % (input.len() + 1));
    let mut splitter = Splitter::new(limits);
    let (first, early) = splitter.split(&input[..cut]);
    if early.is_none() {
        let (second, late) = splitter.split(&input[first.bytes..]);
        assert_eq!((first.bytes + second.bytes, late), (whole.bytes, error));
    }
    let block = &input[..whole.bytes];
    for version in Version::ALL {
        let mut at = 0;
        for frame in Frames::new(block, 0, version) {
            let Ok(frame) = frame else { unreachable!("a whole frame that is not whole") };
            assert!(frame.start >= at && frame.end <= block.len());
            at = frame.end;
            for header in frame.headers.iter() {
                match header {
                    Ok((name, _)) => assert!(!name.is_empty()),
                    Err(error) => assert!(matches!(error, DecodeError::NoColon | DecodeError::NoName | DecodeError::Escape)),
                }
            }
        }
    }
}
