//! What a client may make a connection hold.

use crate::rig::Rig;
use stomp::codec::Limits;
use stomp::Config;

#[test]
fn before_login_little_is_listened_to() {
    let mut rig = Rig::new(usize::MAX);
    rig.feed("a", format!("STOMP\naccept-version:1.2\ncontent-length:{}\n\n", 1 << 20).as_bytes());
    assert_eq!(rig.lines.len(), 2, "{:?}", rig.lines);
    assert!(rig.lines[0].contains("the body is longer than 8192 bytes"), "{:?}", rig.lines);
    assert_eq!(rig.lines[1], "a| closed by us");
}

#[test]
fn what_is_pipelined_behind_connect_has_the_usual_limits() {
    let mut rig = Rig::new(usize::MAX);
    let body = "x".repeat(100_000);
    rig.step(&format!("a STOMP accept-version:1.2 host:/ login:guest passcode:guest ; SEND destination:/queue/q receipt:1 body={body}"));
    assert_eq!(rig.lines.last().map(String::as_str), Some("a< RECEIPT receipt-id:1"));
}

#[test]
fn a_body_and_a_head_have_their_limits() {
    let limits = Limits { headers: 10, header: 300, body: 1000, ..Limits::default() };
    for (frame, why) in [
        ("SEND destination:/queue/q receipt:2 body=x*1001".to_owned(), "the body is longer than 1000 bytes"),
        (format!("SEND destination:/queue/q x:{}", "y".repeat(300)), "a header line is longer than 300 bytes"),
        (format!("SEND destination:/queue/q {}", "x:1 ".repeat(10)), "more than 10 headers"),
    ] {
        let mut rig = Rig::with(Config { limits, ..Config::default() }, usize::MAX);
        rig.step("a connect");
        rig.step(&format!("a SEND destination:/queue/q receipt:1 body=x*1000 ; {frame}"));
        // What came before it is answered first.
        assert_eq!(rig.lines[0], "a< RECEIPT receipt-id:1");
        assert!(rig.lines[1].starts_with("a< ERROR message:Malformed frame ") && rig.lines[1].ends_with(why), "{:?}", rig.lines);
        assert_eq!(rig.lines[2], "a| closed by us");
    }
}

/// AMQP's clients are told them in one byte of length.
#[test]
fn names_have_255_bytes_at_most() {
    let (fits, long) = ("x".repeat(255), "x".repeat(256));
    for frame in ["SEND destination:/queue/", "SEND destination:/topic/", "SEND destination:/exchange/amq.topic/", "SEND destination:"] {
        let mut rig = Rig::new(usize::MAX);
        rig.step("a connect");
        rig.step(&format!("a {frame}{fits} receipt:fits"));
        rig.step(&format!("a {frame}{long} receipt:long"));
        assert_eq!(rig.lines[0], "a< RECEIPT receipt-id:fits", "{frame}");
        assert!(rig.lines[1].contains("message:Invalid destination") && rig.lines[1].contains("256 bytes"), "{:?}", rig.lines);
    }
}

#[test]
fn subscriptions_and_transactions_are_counted() {
    let config = || Config { max_subscriptions: 3, max_transactions: 2, ..Config::default() };
    let mut rig = Rig::with(config(), usize::MAX);
    rig.step("a connect");
    for n in 0..20 {
        rig.step(&format!("a SUBSCRIBE destination:/queue/q id:{n} ; UNSUBSCRIBE id:{n}"));
    }
    (0..3).for_each(|n| rig.step(&format!("a SUBSCRIBE destination:/queue/q id:{n} receipt:{n}")));
    assert_eq!(rig.lines, ["a< RECEIPT receipt-id:0", "a< RECEIPT receipt-id:1", "a< RECEIPT receipt-id:2"]);
    rig.step("a SUBSCRIBE destination:/queue/q id:3 receipt:3");
    assert!(rig.lines[3].contains("message:Subscription limit exceeded") && rig.lines[3].contains("receipt-id:3"), "{:?}", rig.lines);
    let mut rig = Rig::with(config(), usize::MAX);
    rig.step("a connect");
    rig.step("a BEGIN transaction:1 ; COMMIT transaction:1 ; BEGIN transaction:1 ; BEGIN transaction:2 ; BEGIN transaction:3");
    assert!(rig.lines[0].contains("message:Transaction limit exceeded"), "{:?}", rig.lines);
}

/// Whoever asks for receipts and never settles what is before them holds up nobody but himself: the rest waits unread.
#[test]
fn many_receipts_at_once_all_come() {
    let mut rig = Rig::new(usize::MAX);
    rig.step("a connect");
    let all: Vec<u8> = (0..40_000).flat_map(|n| format!("SEND\ndestination:/queue/q\nreceipt:{n}\n\n\0").into_bytes()).collect();
    rig.feed("a", &all);
    rig.step("a SEND destination:/queue/q receipt:last");
    assert_eq!(rig.lines.len(), 40_001);
    assert_eq!(rig.lines[39_999], "a< RECEIPT receipt-id:39999");
}

#[test]
fn without_auto_create_what_is_not_there_is_an_error() {
    for dialect in [stomp::Dialect::RabbitMq, stomp::Dialect::ActiveMq] {
        let mut rig = Rig::with(Config { auto_create: true, ..Config::default().speaking(dialect) }, usize::MAX);
        rig.step("a connect");
        rig.step("a SEND destination:/queue/q receipt:1 body=made");
        assert_eq!(rig.lines, ["a< RECEIPT receipt-id:1"]);
        let mut rig = Rig::with(Config { auto_create: false, ..Config::default().speaking(dialect) }, usize::MAX);
        for frame in ["SEND destination:/queue/q receipt:1 body=x", "SUBSCRIBE destination:/queue/q id:1 receipt:1"] {
            rig.lines.clear();
            let who = frame.split(' ').next().unwrap_or_default().to_lowercase();
            rig.step(&format!("{who} connect"));
            rig.step(&format!("{who} {frame}"));
            assert!(rig.lines[0].contains("< ERROR message:not_found ") && rig.lines[0].contains("no queue 'q'"), "{:?}", rig.lines);
        }
    }
}
