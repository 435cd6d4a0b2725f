//! The fuzz targets: their corpus, and noise.

use proptest::prelude::*;
use std::path::Path;
use stomp::codec::fuzz;

/// What clients send, one conversation for each version.
const SEEDS: [(&str, &[u8]); 5] = [
    (
        "v10",
        b"\x07CONNECT\nlogin:guest\npasscode:guest\n\n\0\nSUBSCRIBE\ndestination:/queue/a\nack:client\n\n\0SEND\ndestination: /queue/a \n\nbody\0\
          ACK\nmessage-id:Q_/queue/a@@s@@1\n\n\0DISCONNECT\n\n\0",
    ),
    (
        "v11",
        b"\x20STOMP\naccept-version:1.0,1.1\nhost:/\nheart-beat:100,0\n\n\0SUBSCRIBE\nid:1\ndestination:/topic/a.#\nack:client-individual\n\
          prefetch-count:1\n\n\0BEGIN\ntransaction:t\n\n\0SEND\ndestination:/topic/a.b\ntransaction:t\nx:a\\cb\ncontent-length:3\n\na\0b\0\
          NACK\nmessage-id:T_1@@s@@1\ntransaction:t\nrequeue:false\n\n\0COMMIT\ntransaction:t\nreceipt:c\n\n\0",
    ),
    (
        "v12",
        b"\x55STOMP\r\naccept-version:1.2\r\nhost:/\r\n\r\n\0\r\nSUBSCRIBE\r\nid:1\r\ndestination:/exchange/amq.direct/k\r\ndurable:true\r\n\
          x-message-ttl:5\r\n\r\n\0SEND\r\ndestination:/queue/a\r\nreply-to:/temp-queue/r\r\npersistent:true\r\nexpiration:5\r\nreceipt:1\r\n\r\n\0\
          UNSUBSCRIBE\r\nid:1\r\ndurable:true\r\n\r\n\0DISCONNECT\r\nreceipt:bye\r\n\r\n\0",
    ),
    (
        "activemq",
        b"\x2aSTOMP\naccept-version:1.2\nclient-id:me\nrequest-id:1\n\n\0SUBSCRIBE\nid:1\ndestination:topic://a.*.>\nactivemq.subscriptionName:s\n\
          ack:client\nactivemq.prefetchSize:5\n\n\0SEND\ndestination:/topic/a.b\nreply-to:/temp-queue/r\nexpires:9\npriority:3\n\nx\0\
          SUBSCRIBE\nid:2\ndestination:/temp-queue/r\n\n\0UNSUBSCRIBE\nid:1\nactivemq.subscriptionName:s\n\n\0",
    ),
    ("wrong", b"\x30STOMP\naccept-version:1.2\nhost:/\n\n\0SEND\ndestination:/queue/a\nx:\\t\n\n\0SEND\ncontent-length:x\n\n\0"),
];

type Target = (&'static str, fn(&[u8]));
const TARGETS: [Target; 2] = [("stomp_split", fuzz::split), ("stomp_session", stomp::session_fuzz)];

/// The corpus of the fuzz targets, and what goes into it: `CARRICK_RECORD=1 cargo test -p stomp` writes the seeds anew.
#[test]
fn the_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let folder = folder.join(name);
        if std::env::var_os("CARRICK_RECORD").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            SEEDS.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
        }
        let mut seen = 0;
        for entry in std::fs::read_dir(&folder).expect(name) {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            (0..bytes.len()).for_each(|cut| target(&bytes[..cut]));
            seen += 1;
        }
        assert!(seen >= SEEDS.len(), "{name} lacks its seeds");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Noise, alone and in place of a piece of a real conversation.
    #[test]
    fn noise_does_no_harm(data in prop::collection::vec(any::<u8>(), 0..60), which in 0usize..SEEDS.len(), at in 0usize..400, cut in 0usize..40) {
        let seed = SEEDS[which].1;
        let at = at.min(seed.len());
        let mixed = [&seed[..at], &data, &seed[(at + cut).min(seed.len())..]].concat();
        for (_, target) in TARGETS {
            target(&data);
            target(&mixed);
        }
    }
}
