//! Each frame cut at every byte, noise, and the corpus of the fuzz targets.

use amqp091::codec::fuzz::{self, Sampler};
use amqp091::codec::{
    put_body_frames, put_content_head, put_heartbeat, ContentHead, FrameError, Method, Octets, Properties, Splitter, TableWriter,
    PROTOCOL_HEADER,
};
use proptest::prelude::*;
use std::path::Path;

fn samples() -> Vec<Vec<u8>> {
    let mut headers = TableWriter::default();
    headers.text("x", "y").bool("b", true).timestamp("t", 9);
    let tables = [headers.as_table()];
    let texts = [b"".to_vec(), b"orders".to_vec(), b"a.b.c".to_vec()];
    let mut sampler = Sampler { texts: &texts, tables: &tables, seed: 7 };
    Method::samples(&mut sampler)
        .iter()
        .map(|method| {
            let mut out = Vec::new();
            method.put(3, &mut out);
            out
        })
        .collect()
}

#[test]
fn a_method_cut_anywhere_is_refused_and_never_something_else() {
    for frame in samples() {
        let payload = &frame[7..frame.len() - 1];
        let whole = Method::parse(payload).unwrap();
        for cut in 0..payload.len() {
            assert!(Method::parse(&payload[..cut]).is_err(), "{whole:?} cut to {cut}");
        }
        let mut longer = payload.to_vec();
        longer.push(0);
        assert!(Method::parse(&longer).is_err(), "{whole:?}");
    }
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_frames() {
    let mut stream = PROTOCOL_HEADER.to_vec();
    stream.extend(samples().concat());
    put_heartbeat(&mut stream);
    put_content_head(&mut stream, 1, 5, &[0, 0]);
    put_body_frames(&mut stream, 1, b"hello", 4096);
    for cut in 0..stream.len() {
        let mut splitter = Splitter::of_client(131_072);
        let first = splitter.split(&stream[..cut]);
        let second = splitter.split(&stream[first.whole..]);
        assert_eq!((first.error, second.error), (None, None));
        assert_eq!(first.whole + second.whole, stream.len());
        assert!(first.lacks > 0 && first.whole + first.lacks <= stream.len() + 8);
    }
}

#[test]
fn a_refused_frame_names_what_is_wrong_with_it() {
    let mut stream = Vec::new();
    put_body_frames(&mut stream, 4, &[0; 100], 4096);
    stream[107] = 7;
    let error = Splitter::of_server(4096).split(&stream).error;
    assert_eq!(error, Some(FrameError::End { kind: 3, channel: 4, size: 100, found: 7, first: Octets::of(&[0; 100]) }));
}

/// The corpus of the fuzz targets, and what goes into it: `CARRICK_RECORD=1 cargo test -p amqp091` writes the seeds anew.
#[test]
fn the_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    if std::env::var_os("CARRICK_RECORD").is_some() {
        record(&folder);
    }
    type Target = (&'static str, fn(&[u8]));
    let targets: [Target; 4] = [
        ("amqp091_split", fuzz::fuzz_split),
        ("amqp091_method", fuzz::fuzz_method),
        ("amqp091_header", fuzz::fuzz_header),
        ("amqp091_table", fuzz::fuzz_table),
    ];
    for (name, target) in targets {
        let mut seen = 0;
        for entry in std::fs::read_dir(folder.join(name)).expect(name) {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            (0..bytes.len()).for_each(|cut| target(&bytes[..cut]));
            seen += 1;
        }
        assert!(seen > 0, "{name} is empty");
    }
}

fn record(folder: &Path) {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.join(target)).unwrap();
        std::fs::write(folder.join(target).join(name), bytes).unwrap();
    };
    let mut stream = vec![0];
    stream.extend(PROTOCOL_HEADER);
    for frame in samples() {
        let method = Method::parse(&frame[7..frame.len() - 1]).unwrap();
        put("amqp091_method", method.name(), &frame[7..frame.len() - 1]);
        stream.extend(&frame);
    }
    put("amqp091_split", "all-methods", &stream);
    let mut table = TableWriter::default();
    table.text("a", "b");
    let inner = table.clone();
    table.table("t", &inner).timestamp("w", 1);
    put("amqp091_table", "nested", table.as_table().as_bytes());
    let properties = Properties {
        headers: Some(table.as_table()),
        delivery_mode: Some(2),
        expiration: Some(b"100"),
        timestamp: Some(5),
        ..Properties::default()
    };
    let (mut raw, mut frame) = (Vec::new(), Vec::new());
    properties.put(&mut raw);
    put_content_head(&mut frame, 1, 9, &raw);
    put("amqp091_header", "properties", &frame[7..frame.len() - 1]);
    assert!(ContentHead::parse(&frame[7..frame.len() - 1]).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn noise_does_no_harm(data in prop::collection::vec(any::<u8>(), 0..200), which in 0usize..66) {
        fuzz::fuzz_split(&data);
        fuzz::fuzz_table(&data);
        fuzz::fuzz_header(&data);
        // Behind the numbers of a real method noise goes deeper.
        let (class, method) = amqp091::codec::METHODS[which];
        let mut payload = [class.to_be_bytes(), method.to_be_bytes()].concat();
        payload.extend(&data);
        fuzz::fuzz_method(&payload);
        let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        header.extend(&data);
        fuzz::fuzz_header(&header);
    }
}
