use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn menu() -> Menu {
    let carried = |name, sub_protocols, text| Carried { name, sub_protocols, text };
    Menu {
        carried: vec![
            carried("mqtt", &["mqtt", "mqttv3.1"], false),
            carried("stomp", &["v12.stomp", "v11.stomp", "v10.stomp", "stomp"], true),
        ],
        default: 0,
        origins: Origins::default(),
    }
}

fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:15675\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

fn parse(text: &str) -> Result<Request, Refusal> {
    match Request::parse(text.as_bytes())? {
        Opening::Whole(request, len) => {
            assert_eq!(len, text.len());
            Ok(request)
        }
        Opening::Partial => panic!("not whole: {text:?}"),
    }
}

/// The protocol and the sub-protocol of the answer, or the status.
fn asked(path: &str, offers: &str) -> Result<(&'static str, Option<String>), u16> {
    let more = if offers.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {offers}\r\n") };
    let accepted = parse(&request(path, &more)).and_then(|request| menu().answer(&request, true)).map_err(|refusal| refusal.status)?;
    let response = String::from_utf8(accepted.response).expect("text");
    // The example of RFC 6455, 1.3.
    assert!(response.starts_with("HTTP/1.1 101 ") && response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    let chosen = response.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: ")).map(str::to_owned);
    Ok((menu().carried[accepted.which].name, chosen))
}

#[test]
fn the_protocol_is_that_of_the_offer_then_of_the_path_then_the_default() {
    let chose = |name, offer: &str| Ok((name, (!offer.is_empty()).then(|| offer.to_owned())));
    assert_eq!(asked("/ws", "mqtt"), chose("mqtt", "mqtt"));
    assert_eq!(asked("/ws", "v12.stomp, v11.stomp"), chose("stomp", "v12.stomp"));
    assert_eq!(asked("/ws", "soap, v10.stomp"), chose("stomp", "v10.stomp"));
    assert_eq!(asked("/mqtt", "v12.stomp"), chose("stomp", "v12.stomp"));
    assert_eq!(asked("/stomp", "mqtt,v11.stomp"), chose("stomp", "v11.stomp"));
    assert_eq!(asked("/stomp", ""), chose("stomp", ""));
    assert_eq!(asked("/stomp/?token=1", ""), chose("stomp", ""));
    assert_eq!(asked("/ws/stomp", ""), chose("stomp", ""));
    for path in ["/", "/ws", "/ws/", "/?a"] {
        assert_eq!(asked(path, ""), chose("mqtt", ""), "{path}");
    }
    for path in ["/amqp", "/wsmqtt", "/mqtt/x", "*", "/..", "//mqtt"] {
        assert_eq!(asked(path, "mqtt"), Err(404), "{path}");
    }
    assert_eq!(asked("/ws", "soap"), Err(400));
    assert_eq!(asked("/ws", "MQTT"), Err(400), "RFC 6455, 4.1: sub-protocols are compared as they are written");
}

#[test]
fn bad_requests_get_the_answers_of_http() {
    let right = request("/ws", "");
    let without = |line: &str| right.lines().filter(|one| !one.starts_with(line)).map(|one| format!("{one}\r\n")).collect::<String>();
    for (text, status) in [
        (right.replace("GET", "POST"), 405),
        (right.replace("HTTP/1.1", "HTTP/1.0"), 505),
        (right.replace("HTTP/1.1", "HTTP/2.0"), 505),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426),
        (without("Upgrade"), 426),
        (without("Connection"), 426),
        (right.replace("Version: 13", "Version: 8"), 426),
        (without("Sec-WebSocket-Version"), 426),
        (without("Host"), 400),
        (request("/ws", "Host: other\r\n"), 400),
        (without("Sec-WebSocket-Key"), 400),
        (right.replace(KEY, "c2hvcnQ="), 400),
        (right.replace(KEY, "?"), 400),
        (request("/ws", &format!("Sec-WebSocket-Key: {KEY}\r\n")), 400),
        (request("/ws", "Content-Length: 5\r\n"), 400),
        (request("/ws", "Transfer-Encoding: chunked\r\n"), 400),
        (request("/ws", "no colon\r\n"), 400),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX)), 431),
        ("\x10\x0c\x00\x04MQTT".to_owned(), 400),
    ] {
        let refusal = parse(&text).expect_err(&text);
        assert_eq!(refusal.status, status, "{text}: {refusal:?}");
        let response = String::from_utf8(refusal.response()).expect("text");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len()).trim_end().to_owned()), "{head}");
        assert!(!head.contains("Unknown") && head.starts_with(&format!("HTTP/1.1 {status} ")));
    }
}

#[test]
fn a_head_is_whole_only_at_its_last_byte() {
    let text = request("/ws", "Origin: http://localhost\r\n");
    for cut in 0..text.len() {
        assert_eq!(Request::parse(&text.as_bytes()[..cut]), Ok(Opening::Partial), "{cut}");
    }
    let mut longer = text.clone().into_bytes();
    longer.extend_from_slice(b"\x82\x80");
    assert!(matches!(Request::parse(&longer), Ok(Opening::Whole(_, len)) if len == text.len()));
}

#[test]
fn pages_of_elsewhere_are_told_where_it_is_set() {
    let request = parse(&request("/ws", "Origin: https://evil.example\r\n")).expect("right");
    let refusal = menu().answer(&request, true).expect_err("a page of elsewhere");
    assert!(refusal.status == 403 && refusal.why.contains("[websocket] origins"), "{refusal:?}");
    assert!(menu().answer(&request, false).is_ok());
}

#[test]
fn http_is_known_by_its_first_word() {
    for method in METHODS {
        for cut in 0..method.len() {
            assert_eq!(recognise(&method[..cut]), None);
        }
        assert_eq!(recognise(method), Some(true));
        assert_eq!(recognise(&[method, b"/ws HTTP/1.1"].concat()), Some(true));
    }
    for other in ["CONNECT\n", "GE T", "get ", "STOMP\n", "AMQP", "\x10", "\x16\x03\x01"] {
        assert_eq!(recognise(other.as_bytes()), Some(false), "{other:?}");
    }
}
