//! What every client of tests/clients does.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::{QoS, TlsConfiguration};

use crate::connection::{control, var, Connection, End, Message, Options, END, OVER_TLS, OVER_WEB, WAIT};

pub type Scenario = (&'static str, fn(u8, &str));

const BOTH: &[Scenario] = &[
    ("qos0", |version, base| both_ways(version, base, QoS::AtMostOnce)),
    ("qos1", |version, base| both_ways(version, base, QoS::AtLeastOnce)),
    ("qos2", |version, base| both_ways(version, base, QoS::ExactlyOnce)),
    ("retained", retained),
    ("will", will),
    ("takeover", |version, base| {
        takeover(version, base);
    }),
    ("offline-restart", |version, base| offline(version, base, "restart")),
    ("offline-kill9", |version, base| offline(version, base, "kill9")),
    ("shared", shared),
    ("payload-1mib", large),
    ("wrong-password", wrong_password),
    ("anonymous", anonymous),
];
const ONLY_V5: &[Scenario] = &[("takeover-142", takeover_142), ("properties", properties)];

pub fn of(version: u8) -> impl Iterator<Item = Scenario> {
    let more: &[Scenario] = if version == 5 { ONLY_V5 } else { &[] };
    BOTH.iter().chain(more).copied()
}

fn text(topic: String, payload: &str, qos: QoS) -> Message {
    Message::new(topic, payload.as_bytes(), qos, false)
}

fn end(topic: String, qos: QoS) -> Message {
    Message::new(topic, END, qos, false)
}

fn guest(version: u8, name: String) -> Connection {
    Connection::open(version, &name, &Options::guest())
}

fn both_ways(version: u8, base: &str, qos: QoS) {
    let subscriber = guest(version, format!("{base}-s"));
    subscriber.subscribe(&format!("{base}/#"), qos);
    let publisher = guest(version, format!("{base}-p"));
    let mut sent = Vec::new();
    for i in 0..20 {
        let mut payload = format!("{i} ").into_bytes();
        payload.extend(0..=255u8);
        sent.push(Message::new(format!("{base}/{i}"), &payload, qos, false));
        publisher.publish(&sent[i]);
    }
    publisher.publish(&end(format!("{base}/end"), qos));
    assert_eq!(subscriber.receive_to_end(), sent);
    subscriber.close();
    publisher.close();
}

fn retained(version: u8, base: &str) {
    let (a, b) = (format!("{base}/a"), format!("{base}/b"));
    let retain = |topic: &str, payload: &str, qos| Message::new(topic.to_string(), payload.as_bytes(), qos, true);
    let client = guest(version, format!("{base}-p"));
    client.publish(&retain(&a, "first", QoS::AtLeastOnce));
    client.publish(&retain(&a, "second", QoS::AtLeastOnce));
    client.publish(&retain(&b, "other", QoS::ExactlyOnce));
    let early = guest(version, format!("{base}-1"));
    early.subscribe(&format!("{base}/+"), QoS::AtLeastOnce);
    let mut got = early.receive_plain(2);
    got.sort_by(|x, y| x.topic.cmp(&y.topic));
    assert_eq!(got, [retain(&a, "second", QoS::AtLeastOnce), retain(&b, "other", QoS::AtLeastOnce)], "wildcard");
    client.publish(&retain(&b, "live", QoS::AtLeastOnce));
    assert_eq!(early.receive_plain(1), [text(b.clone(), "live", QoS::AtLeastOnce)], "live");
    client.publish(&retain(&a, "", QoS::AtLeastOnce));
    let late = guest(version, format!("{base}-2"));
    late.subscribe(&format!("{base}/#"), QoS::AtLeastOnce);
    client.publish(&end(format!("{base}/end"), QoS::AtLeastOnce));
    assert_eq!(late.receive_to_end(), [retain(&b, "live", QoS::AtLeastOnce)], "after the clear");
    client.publish(&retain(&b, "", QoS::AtLeastOnce));
    client.close();
    early.close();
    late.close();
}

fn will(version: u8, base: &str) {
    let watcher = guest(version, format!("{base}-w"));
    watcher.subscribe(&format!("{base}/#"), QoS::AtLeastOnce);
    let with = |name: &str| Options { will: Some((format!("{base}/{name}"), name.to_string())), ..Options::guest() };
    Connection::open(version, &format!("{base}-polite"), &with("polite")).close();
    Connection::open(version, &format!("{base}-cut"), &with("gone")).cut();
    assert_eq!(watcher.receive_plain(1), [text(format!("{base}/gone"), "gone", QoS::AtLeastOnce)]);
    watcher.close();
}

fn takeover(version: u8, base: &str) -> End {
    let old = guest(version, format!("{base}-same"));
    old.subscribe(&format!("{base}/old"), QoS::AtLeastOnce);
    let young = guest(version, format!("{base}-same"));
    young.subscribe(&format!("{base}/new"), QoS::AtLeastOnce);
    let reason = old.await_end();
    assert!(!young.session_present, "session present");
    let other = guest(version, format!("{base}-other"));
    other.publish(&text(format!("{base}/old"), "for nobody", QoS::AtLeastOnce));
    let here = text(format!("{base}/new"), "still here", QoS::AtLeastOnce);
    other.publish(&here);
    assert_eq!(young.receive_plain(1), [here]);
    young.close();
    other.close();
    reason
}

fn takeover_142(version: u8, base: &str) {
    let end = takeover(version, base);
    assert!(matches!(end, End::Lost(Some(142), _)), "the old connection: {end:?}");
}

fn offline(version: u8, base: &str, command: &str) {
    let (one, two) = (format!("{base}/one"), format!("{base}/two"));
    let session = Connection::open(version, &format!("{base}-s"), &Options::kept());
    assert!(!session.session_present, "session present at first");
    session.subscribe(&format!("{base}/#"), QoS::ExactlyOnce);
    session.close();
    let publisher = guest(version, format!("{base}-p"));
    let publish = |publisher: &Connection, i: u32| {
        publisher.publish(&text(one.clone(), &i.to_string(), QoS::AtLeastOnce));
        publisher.publish(&text(two.clone(), &i.to_string(), QoS::ExactlyOnce));
    };
    for i in 0..50 {
        publish(&publisher, i);
    }
    control(command);
    publisher.await_end();
    let publisher = guest(version, format!("{base}-p"));
    publish(&publisher, 50);
    let session = Connection::open(version, &format!("{base}-s"), &Options::kept());
    assert!(session.session_present, "session present");
    publisher.publish(&end(format!("{base}/end"), QoS::ExactlyOnce));
    let got = session.receive_to_end();
    for (topic, qos) in [(one, QoS::AtLeastOnce), (two, QoS::ExactlyOnce)] {
        let mine: Vec<Message> = got.iter().filter(|message| message.topic == topic).cloned().collect();
        let want: Vec<Message> = (0..=50).map(|i| text(topic.clone(), &i.to_string(), qos)).collect();
        assert_eq!(mine, want, "{topic}");
    }
    session.close();
    guest(version, format!("{base}-s")).close();
    publisher.close();
}

fn shared(version: u8, base: &str) {
    let members = ["a", "b"].map(|name| guest(version, format!("{base}-{name}")));
    for member in &members {
        member.subscribe(&format!("$share/group/{base}/+"), QoS::AtLeastOnce);
        member.subscribe(&format!("{base}-end"), QoS::AtLeastOnce);
    }
    let publisher = guest(version, format!("{base}-p"));
    for i in 0..40 {
        publisher.publish(&text(format!("{base}/x"), &format!("{i:02}"), QoS::AtLeastOnce));
    }
    let mut shares = [Vec::new(), Vec::new()];
    let deadline = Instant::now() + WAIT;
    while shares.iter().map(Vec::len).sum::<usize>() < 40 && Instant::now() < deadline {
        for (share, member) in shares.iter_mut().zip(&members) {
            share.extend(member.receive_within(Duration::from_millis(10)));
        }
    }
    publisher.publish(&end(format!("{base}-end"), QoS::AtLeastOnce));
    for (share, member) in shares.iter_mut().zip(&members) {
        share.extend(member.receive_to_end());
    }
    assert!(shares.iter().all(|share| !share.is_empty()), "one member got all");
    let mut all: Vec<String> = shares.iter().flatten().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect();
    all.sort();
    assert_eq!(all, (0..40).map(|i| format!("{i:02}")).collect::<Vec<_>>(), "both shares together");
    members.into_iter().for_each(Connection::close);
    publisher.close();
}

fn large(version: u8, base: &str) {
    let client = guest(version, format!("{base}-c"));
    client.subscribe(&format!("{base}/#"), QoS::ExactlyOnce);
    let payload: Vec<u8> = (0..1u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish(&Message::new(format!("{base}/x"), &payload, qos, false));
        let got = client.receive();
        assert!(got.payload == payload && got.qos == qos, "1 MiB at {qos:?} came back as {} bytes at {:?}", got.payload.len(), got.qos);
    }
    client.close();
}

fn properties(version: u8, base: &str) {
    let client = guest(version, format!("{base}-c"));
    client.subscribe_with(&format!("{base}/+"), QoS::AtLeastOnce, Some(7));
    let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", "empty name"), ("ключ", "значение")];
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(300),
        topic_alias: None,
        response_topic: Some(format!("{base}/answers")),
        correlation_data: Some(Bytes::from_iter(0..=255u8)),
        user_properties: pairs.map(|(name, value)| (name.to_string(), value.to_string())).to_vec(),
        subscription_identifiers: Vec::new(),
        content_type: Some("text/plain; charset=utf-8".into()),
    };
    let mut message = text(format!("{base}/x"), "grüße", QoS::AtLeastOnce);
    message.properties = Some(sent.clone());
    client.publish(&message);
    let got = client.receive().properties.expect("properties");
    let expiry = got.message_expiry_interval;
    assert!(expiry.is_some_and(|seconds| (290..=300).contains(&seconds)), "expiry {expiry:?}");
    assert_eq!(got, PublishProperties { subscription_identifiers: vec![7], message_expiry_interval: expiry, ..sent });
    client.close();
}

fn wrong_password(version: u8, base: &str) {
    let wanted: u8 = var(if version == 5 { "MQTT_REFUSED_V5" } else { "MQTT_REFUSED_V3" }).parse().expect("a number");
    let options = Options { credentials: Some(("guest".into(), "wrong".into())), ..Options::guest() };
    match Connection::attempt(version, &format!("{base}-c"), &options) {
        Err(End::Refused(code)) => assert_eq!(code, wanted, "CONNACK"),
        Err(end) => panic!("no CONNACK: {end:?}"),
        Ok(_) => panic!("was let in"),
    }
}

fn anonymous(version: u8, base: &str) {
    let options = Options { credentials: None, ..Options::guest() };
    let client = Connection::open(version, &format!("{base}-c"), &options);
    client.subscribe(&format!("{base}/x"), QoS::AtMostOnce);
    let hello = text(format!("{base}/x"), "hello", QoS::AtMostOnce);
    client.publish(&hello);
    assert_eq!(client.receive_plain(1), [hello]);
    client.close();
}

/// With the server verified, over WebSocket and not: by password, by the client's certificate, and not at all by who trusts somebody else.
pub fn tls(_: u8, base: &str) {
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    provider.install_default().expect("it is the first");
    let file = |name: &str| std::fs::read(format!("{}/{name}", var("TLS_DIR"))).expect("a file of carrick tls dev");
    let own = (file("client.pem"), file("client.key"));
    let nobody = Options { credentials: None, ..Options::guest() };
    let use_it = |settings| *OVER_TLS.lock().expect("nobody panics with it") = Some(settings);
    for over_web in [true, false] {
        OVER_WEB.store(over_web, Relaxed);
        for (version, options, client_auth) in [(4, Options::guest(), None), (5, nobody.clone(), Some(own.clone()))] {
            use_it(TlsConfiguration::Simple { ca: file("ca.pem"), alpn: None, client_auth });
            let name = format!("{base}-{over_web}-{version}");
            let client = Connection::open(version, &name, &options);
            client.subscribe(&name, QoS::AtLeastOnce);
            let sent = Message::new(name.clone(), &vec![7; 1 << 20], QoS::AtLeastOnce, false);
            client.publish(&sent);
            assert_eq!(client.receive_plain(1), [sent], "over WebSocket: {over_web}");
            client.close();
        }
        // The system's authorities did not sign it.
        use_it(TlsConfiguration::default());
        match Connection::attempt(5, &format!("{base}-stranger"), &Options::guest()) {
            Err(End::Lost(None, why)) => assert!(why.contains("UnknownIssuer"), "{why}"),
            Err(other) => panic!("refused otherwise: {other:?}"),
            Ok(_) => panic!("a certificate of an unknown authority was taken"),
        }
    }
}
