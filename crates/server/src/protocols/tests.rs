//! Who claims what. All recognisers are known here only.

use super::*;
use crate::cli::Serve;
use broker_api::Verdict;
use gateway::{claims, detect, Claim, Detected};

fn everything() -> Vec<Arc<dyn Protocol>> {
    let settings = Settings::load(&Serve::default()).expect("the defaults");
    let list = all(&settings).expect("the defaults");
    let url = "any://127.0.0.1:0".parse().expect("a URL");
    ["mqtt", "amqp", "stomp"].iter().map(|scheme| list.speaker(scheme, &url).expect("it is there")).collect()
}

/// As clients begin, and who that is.
fn openings() -> Vec<(Claim, Vec<u8>)> {
    let mqtt = |bytes: &[u8]| (Claim::Protocol(0), bytes.to_vec());
    let stomp = |text: &str| (Claim::Protocol(2), text.as_bytes().to_vec());
    let http = |text: &str| (Claim::Http, text.as_bytes().to_vec());
    let mut all = vec![
        mqtt(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab"),
        mqtt(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02ab"),
        mqtt(b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02ab"),
        // A remaining length of two, three and four bytes.
        mqtt(b"\x10\x80\x01\x00\x04MQTT\x04"),
        mqtt(b"\x10\x80\x80\x01\x00\x04MQTT\x04"),
        mqtt(b"\x10\x80\x80\x80\x01\x00\x04MQTT\x04"),
        (Claim::Protocol(1), b"AMQP\x00\x00\x09\x01".to_vec()),
        stomp("CONNECT\naccept-version:1.2\n\n\0"),
        stomp("CONNECT\r\naccept-version:1.2\r\n\r\n\0"),
        stomp("STOMP\nhost:/\n\n\0"),
        // STOMP 1.2: empty lines may stand between frames, and so in front of the first.
        stomp("\n\r\n\nSTOMP\n"),
        http("GET /ws HTTP/1.1\r\n"),
        http("CONNECT example:443 HTTP/1.1\r\n"),
    ];
    all.extend(["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"].map(|method| http(&format!("{method} / HTTP/1.1\r\n"))));
    // TLS 1.0 (what a ClientHello's record says for 1.2 and 1.3) to 1.2.
    all.extend([1, 2, 3].map(|version| (Claim::Tls, vec![0x16, 3, version, 2, 0, 1, 0, 1, 0xfc, 3, 3])));
    all
}

#[test]
fn every_opening_is_claimed_by_exactly_one_recogniser_and_none_of_its_beginnings_by_another() {
    let protocols = everything();
    for (whose, opening) in openings() {
        let mut claimed = false;
        for cut in 0..=opening.len() {
            let first = &opening[..cut];
            let mine: Vec<Claim> =
                claims(&protocols, first).filter(|(_, verdict)| *verdict == Verdict::Mine).map(|(claim, _)| claim).collect();
            assert!(mine.len() <= 1, "{mine:?} claim {}", first.escape_ascii());
            match mine.first() {
                Some(claim) => assert_eq!(*claim, whose, "{}", first.escape_ascii()),
                None => {
                    assert!(!claimed, "a claim was taken back at {}", first.escape_ascii());
                    let waiting = claims(&protocols, first).any(|(claim, verdict)| claim == whose && verdict == Verdict::NeedMore);
                    assert!(waiting, "{whose:?} gives up at {}", first.escape_ascii());
                }
            }
            claimed = !mine.is_empty();
        }
        assert!(claimed, "nobody claims {}", opening.escape_ascii());
        assert_eq!(detect(&protocols, &opening), Detected::Is(whose));
    }
}

#[test]
fn what_nobody_speaks_is_not_waited_for() {
    let protocols = everything();
    for opening in [
        // AMQP 1.0, its SASL layer, and the 0-9 header that 0-9-1 answers only where it is asked for.
        &b"AMQP\x00\x01\x00\x00"[..],
        b"AMQP\x03\x01\x00\x00",
        b"AMQP\x01\x01\x00\x09",
        // OpenWire, SSH, SMTP, SMB, Redis, a TLS record that is no ClientHello, MQTT that begins with another packet.
        b"\x00\x00\x01\x0c\x01ActiveMQ",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO there\r\n",
        b"\x00\x00\x00\x54\xffSMB",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\xc0\x00",
        b"\x10\x0e\x00\x04MQTX",
        b"\x10\xff\xff\xff\xff",
        b"CONNECTED\n",
        b"get / http/1.1\r\n",
    ] {
        assert_eq!(detect(&protocols, opening), Detected::Nobody, "{}", opening.escape_ascii());
    }
    // Empty lines without end are no opening.
    assert_eq!(detect(&protocols, &[b'\n'; 63]), Detected::NeedMore);
    assert_eq!(detect(&protocols, &[b'\n'; 64]), Detected::Nobody);
    assert_eq!(detect(&protocols, b""), Detected::NeedMore);
}

#[test]
fn any_single_byte_and_any_pair_is_at_most_one_recognisers() {
    let protocols = everything();
    for pair in 0..=u16::MAX {
        let first = pair.to_be_bytes();
        assert!(claims(&protocols, &first).filter(|(_, verdict)| *verdict == Verdict::Mine).count() <= 1);
    }
}

#[test]
fn each_url_has_what_it_says() {
    let list = all(&Settings::load(&Serve::default()).expect("the defaults")).expect("the defaults");
    let spoken = |url: &str| list.of_url(&url.parse().expect(url)).expect(url);
    assert!(matches!(spoken("mqtt://127.0.0.1:1"), Spoken::One(protocol) if protocol.name() == "mqtt"));
    assert!(matches!(spoken("stomp://127.0.0.1:1?dialect=activemq"), Spoken::One(protocol) if protocol.name() == "stomp"));
    assert!(matches!(spoken("any://127.0.0.1:1"), Spoken::Any(web) if web.default_scheme() == "mqtt"));
    for (url, scheme) in [
        ("ws://127.0.0.1:15675", "mqtt"),
        ("ws://127.0.0.1:15674", "stomp"),
        ("ws://127.0.0.1:15674?default=mqtt", "mqtt"),
        ("ws://127.0.0.1:9001?default=stomp&dialect=activemq", "stomp"),
        ("ws://127.0.0.1:9001?default=amqp", "amqp"),
    ] {
        assert!(matches!(spoken(url), Spoken::Web(web) if web.default_scheme() == scheme), "{url}");
    }
    assert!(list.of_url(&"soap://127.0.0.1:1".parse().expect("a URL")).is_none());
}
