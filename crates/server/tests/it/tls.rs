//! TLS, client certificates and PROXY headers, with the files of `carrick tls dev`.

use super::{command, refused, signal, start, wait, Carrick, CONNACK, CONNECT, LIMIT};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// Files of `carrick tls dev` for a user.
fn dev(dir: &Path, name: &str, user: &str) -> PathBuf {
    let mut process = command(dir, &["tls", "dev", "--dir", name, "--user", user]).spawn().expect("started");
    assert_eq!(wait(&mut process), Some(0));
    dir.join(name)
}

/// A broker with this in its configuration behind the server's certificate of the folder.
fn serve(dir: &Path, certificates: &Path, rest: &str) -> Carrick {
    let text = format!(
        "{rest}\n[tls]\ncertificate = '{0}/server.pem'\nprivate_key = '{0}/server.key'\nclient_ca = '{0}/ca.pem'\nuser_from = 'cn'\n",
        certificates.display()
    );
    std::fs::write(dir.join("carrick.toml"), text).expect("written");
    start(dir, &["--config", "carrick.toml"])
}

fn address(broker: &Carrick, scheme: &str) -> String {
    let url = broker.urls.iter().find_map(|url| url.strip_prefix(&format!("{scheme}://"))).expect(scheme);
    url.split('?').next().expect("an address").to_owned()
}

fn plain(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// TLS over a stream, the server verified against the folder's authority; with the client's certificate of another folder, or none.
fn over(stream: TcpStream, trusts: &Path, client: Option<&Path>) -> Secure {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusts.join("ca.pem")).expect("a CA")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(dir) => {
            let certificate = CertificateDer::from_pem_file(dir.join("client.pem")).expect("a certificate");
            let key = PrivateKeyDer::from_pem_file(dir.join("client.key")).expect("a key");
            builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
        }
    };
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a client"), stream)
}

/// What is answered to these bytes, as many as expected; fewer if the connection ends.
fn ask(stream: &mut (impl Read + Write), bytes: &[u8], len: usize) -> Vec<u8> {
    let mut answer = Vec::new();
    if stream.write_all(bytes).and_then(|()| stream.flush()).is_ok() {
        let _ = stream.take(len as u64).read_to_end(&mut answer);
    }
    answer
}

fn shown(stream: &Secure) -> Vec<u8> {
    stream.conn.peer_certificates().expect("shown")[0].to_vec()
}

#[test]
fn every_protocol_is_spoken_over_tls_and_any_port_takes_both() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dev(dir.path(), "pki", "guest");
    for key in ["ca.key", "server.key", "client.key"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(pki.join(key)).expect("there").permissions());
        assert_eq!(mode & 0o077, 0, "{key}");
    }
    let schemes = ["mqtts", "amqps", "stomps", "wss", "any+tls", "any"];
    let listen: Vec<String> = schemes.iter().map(|scheme| format!("'{scheme}://127.0.0.1:0'")).collect();
    let broker = serve(dir.path(), &pki, &format!("listen = [{}]", listen.join(", ")));
    let stomp = b"CONNECT\naccept-version:1.2\nhost:/\n\n\0";
    let web = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    let start = b"\x01\0\0";
    for (scheme, said, answer) in [
        ("mqtts", CONNECT, CONNACK),
        ("amqps", b"AMQP\0\0\x09\x01", start),
        ("stomps", stomp, b"CONNECTED"),
        ("wss", web, b"HTTP/1.1 101"),
        ("any+tls", CONNECT, CONNACK),
        ("any+tls", b"AMQP\0\0\x09\x01", start),
        ("any", CONNECT, CONNACK),
        ("any", stomp, b"CONNECTED"),
        ("any", web, b"HTTP/1.1 101"),
    ] {
        let mut client = over(plain(&address(&broker, scheme)), &pki, None);
        assert_eq!(ask(&mut client, said, answer.len()), answer, "{scheme}");
    }
    assert_eq!(ask(&mut plain(&address(&broker, "any")), CONNECT, 4), CONNACK, "without TLS on the same port");
    for scheme in ["mqtts", "any+tls"] {
        assert_ne!(ask(&mut plain(&address(&broker, scheme)), CONNECT, 4), CONNACK, "{scheme} without TLS");
    }
}

#[test]
fn a_hangup_brings_new_certificates_and_keeps_connections() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dev(dir.path(), "pki", "guest");
    let next = dev(dir.path(), "next", "guest");
    let broker = serve(dir.path(), &pki, "listen = ['mqtts://127.0.0.1:0']");
    let at = address(&broker, "mqtts");
    let mut old = over(plain(&at), &pki, None);
    let other_id = [&CONNECT[..CONNECT.len() - 1], b"o"].concat();
    assert_eq!(ask(&mut old, &other_id, 4), CONNACK);
    let before = shown(&old);
    for name in ["server.pem", "server.key"] {
        std::fs::copy(next.join(name), pki.join(name)).expect("copied");
    }
    signal(&broker.process, rustix::process::Signal::HUP);
    let begin = Instant::now();
    // Until it has read them, handshakes go on with what was there; a client that trusts the new authority only is refused by itself.
    let after = loop {
        let mut client = over(plain(&at), &next, None);
        if ask(&mut client, CONNECT, 4) == CONNACK {
            break shown(&client);
        }
        assert!(begin.elapsed() < LIMIT, "no new certificate");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_ne!(before, after);
    assert_eq!(ask(&mut old, b"\xc0\0", 2), b"\xd0\0", "the old connection stands");
    std::fs::write(pki.join("server.pem"), "gone").expect("written");
    signal(&broker.process, rustix::process::Signal::HUP);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(ask(&mut over(plain(&at), &next, None), CONNECT, 4), CONNACK, "a bad file changes nothing");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_certificate_that_has_expired_or_does_not_fit_keeps_it_from_starting() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dev(dir.path(), "pki", "guest");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    std::fs::write(dir.path().join("old.pem"), params.self_signed(&key).expect("signed").pem()).expect("written");
    let certificate = pki.join("server.pem").display().to_string();
    let key = pki.join("client.key").display().to_string();
    for (arguments, why) in [
        (["--tls-certificate", "old.pem", "--tls-private-key", key.as_str()], ["old.pem", "expired"]),
        (["--tls-certificate", certificate.as_str(), "--tls-private-key", key.as_str()], ["client.key", "not the key of"]),
        (["--tls-certificate", "none.pem", "--tls-private-key", key.as_str()], ["none.pem", "cannot be read"]),
    ] {
        let arguments = [&["--listen", "mqtts://127.0.0.1:0"], &arguments[..]].concat();
        let (code, said) = refused(dir.path(), &arguments);
        assert!(code == Some(1) && why.iter().all(|why| said.contains(why)) && said.contains("right would be"), "{said}");
    }
    let (code, said) = refused(dir.path(), &["tls", "dev", "--dir", "pki"]);
    assert!(code == Some(1) && said.contains("is there already"), "{said}");
}

/// connection.start-ok with no properties.
fn start_ok(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let mut method = vec![0, 10, 0, 11, 0, 0, 0, 0, mechanism.len() as u8];
    method.extend_from_slice(mechanism.as_bytes());
    method.extend_from_slice(&(response.len() as u32).to_be_bytes());
    method.extend_from_slice(response);
    method.extend_from_slice(b"\x05en_US");
    let mut frame = vec![1, 0, 0];
    frame.extend_from_slice(&(method.len() as u32).to_be_bytes());
    frame.extend_from_slice(&method);
    frame.push(0xce);
    frame
}

/// The payload of the next frame; empty at the end.
fn frame(stream: &mut impl Read) -> Vec<u8> {
    let mut head = [0; 7];
    if stream.read_exact(&mut head).is_err() {
        return Vec::new();
    }
    let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
    stream.read_exact(&mut payload).expect("a whole frame");
    payload
}

#[test]
fn a_client_certificate_logs_in_and_one_that_is_required_keeps_others_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dev(dir.path(), "pki", "sensor");
    let stranger = dev(dir.path(), "stranger", "nobody");
    let required = "client_auth=require".to_owned();
    let nobody = format!("client_auth=require&client_ca={}/ca.pem", stranger.display());
    let broker = serve(
        dir.path(),
        &pki,
        &format!(
            "allow_anonymous = false\nlisten = ['mqtts://127.0.0.1:0?{required}', 'amqps://127.0.0.1:0?client_auth=request', \
             'stomps://127.0.0.1:0?{required}', 'any+tls://127.0.0.1:0?{nobody}']\n\
             [[user]]\nname = 'sensor'\ncertificate = true\n[[user]]\nname = 'ann'\npassword = 'secret'\n"
        ),
    );
    let open = |scheme: &str, client| over(plain(&address(&broker, scheme)), &pki, client);
    let (own, other) = (Some(pki.as_path()), Some(stranger.as_path()));
    assert_eq!(ask(&mut open("mqtts", None), CONNECT, 4), b"", "required");
    assert_eq!(ask(&mut open("mqtts", other), CONNECT, 4), b"", "of another authority");
    assert_eq!(ask(&mut open("mqtts", own), CONNECT, 4), CONNACK, "no name and no password");
    let named = b"\x10\x15\x00\x04MQTT\x04\x82\x00\x3c\x00\x01t\x00\x06sensor";
    assert_eq!(ask(&mut open("mqtts", own), named, 4), CONNACK, "a name without a password");
    let wrong = b"\x10\x1a\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01t\x00\x03ann\x00\x06secreT";
    assert_eq!(ask(&mut open("mqtts", own), wrong, 4)[3], 4, "a wrong password is a wrong password");
    assert_eq!(ask(&mut open("any+tls", other), CONNECT, 4)[3], 4, "a good certificate of no user");
    let stomp = b"CONNECT\naccept-version:1.2\nhost:/\n\n\0";
    assert_eq!(ask(&mut open("stomps", own), stomp, 9), b"CONNECTED");

    let mut with = open("amqps", own);
    with.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    assert!(frame(&mut with).windows(8).any(|text| text == b"EXTERNAL"), "offered");
    with.write_all(&start_ok("EXTERNAL", b"")).expect("sent");
    assert_eq!(frame(&mut with)[..4], [0, 10, 0, 30], "connection.tune");
    let mut without = open("amqps", None);
    without.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    assert!(!frame(&mut without).windows(8).any(|text| text == b"EXTERNAL"), "not offered");
    without.write_all(&start_ok("EXTERNAL", b"sensor")).expect("sent");
    assert_ne!(frame(&mut without).get(..4), Some(&[0, 10, 0, 30][..]));
    let mut password = open("amqps", None);
    password.write_all(b"AMQP\0\0\x09\x01").expect("sent");
    frame(&mut password);
    password.write_all(&start_ok("PLAIN", b"\0ann\0secret")).expect("sent");
    assert_eq!(frame(&mut password)[..4], [0, 10, 0, 30], "a password still does");
}

#[test]
fn a_proxied_client_is_as_far_away_as_it_is_said_to_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dev(dir.path(), "pki", "guest");
    let broker = serve(
        dir.path(),
        &pki,
        "listen = ['mqtt://127.0.0.1:0?proxy=any', 'stomp://127.0.0.1:0?proxy=v1', 'mqtts://127.0.0.1:0?proxy=v2']",
    );
    let said = |header: &[u8]| {
        let mut client = plain(&address(&broker, "mqtt"));
        ask(&mut client, &[header, CONNECT].concat(), 4)
    };
    // Without credentials only who is at this machine comes in.
    assert_eq!(said(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 1883\r\n"), CONNACK);
    assert_eq!(said(b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 1883\r\n"), b"\x20\x02\0\x04");
    assert_eq!(said(b"PROXY TCP6 2001:db8::1 ::1 40000 1883\r\n"), b"\x20\x02\0\x04");
    assert_eq!(said(b"PROXY UNKNOWN\r\n"), b"\x20\x02\0\x04");
    assert_eq!(said(b""), b"", "no header");
    let far = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x9c\x40\x07\x5b";
    let own = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(said(far), b"\x20\x02\0\x04");
    assert_eq!(said(own), CONNACK);
    for (header, answer) in [(&far[..], &b"\x20\x02\0\x04"[..]), (&own[..], CONNACK)] {
        let mut stream = plain(&address(&broker, "mqtts"));
        stream.write_all(header).expect("sent");
        assert_eq!(ask(&mut over(stream, &pki, None), CONNECT, 4), answer, "TLS behind the header");
    }
    let guest = b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 61613\r\nCONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0";
    let answer = ask(&mut plain(&address(&broker, "stomp")), guest, 5);
    assert_eq!(answer, b"ERROR", "guest stays at home");
}

/// Another implementation agrees on the versions. Where there is no openssl there is nothing to ask.
#[test]
fn openssl_agrees_on_the_versions() {
    if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
        eprintln!("openssl is not there: not asked");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let pki = dev(dir.path(), "pki", "guest");
    let broker = serve(dir.path(), &pki, "listen = ['mqtts://127.0.0.1:0', 'amqps://127.0.0.1:0?min_version=1.3']");
    let speaks = |scheme: &str, version: &str| {
        let at = address(&broker, scheme);
        let arguments =
            ["s_client", "-connect", &at, "-CAfile", "ca.pem", "-verify_return_error", "-verify_hostname", "localhost", version];
        let output = Command::new("openssl").args(arguments).current_dir(&pki).stdin(Stdio::null()).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success() && text.contains("Verify return code: 0")
    };
    assert!(speaks("mqtts", "-tls1_2") && speaks("mqtts", "-tls1_3") && speaks("amqps", "-tls1_3"));
    assert!(!speaks("mqtts", "-tls1_1") && !speaks("amqps", "-tls1_2"));
}
