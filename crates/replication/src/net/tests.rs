use std::path::Path;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::frame::{self, Parsed};
use super::*;
use crate::coordinator::NodeName;

const SECRET: &str = "correct horse battery";
const OTHER: &str = "another horse battery";
/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn identity(text: &str, secret: &str) -> Identity {
    Identity::with_secret(name(text), Secret::new(secret).unwrap())
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame::head(kind, body.len()).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn named(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_u8(text.len() as u8);
    bytes.put_slice(text.as_bytes());
}

/// HELLO of node-b to node-a for [`Purpose::Voters`], with a nonce of d1s.
fn hello() -> Vec<u8> {
    hello_up_to(3)
}

fn hello_up_to(version: u8) -> Vec<u8> {
    let mut body = b"CARRICK\0\x01\0".to_vec();
    body.extend_from_slice(&[version, 0, 2]);
    body.put_bytes(0xd1, 32);
    named(&mut body, "node-b");
    named(&mut body, "node-a");
    body
}

/// CHALLENGE of node-a, with a nonce of acs.
fn challenge() -> Vec<u8> {
    challenge_of(3)
}

fn challenge_of(version: u8) -> Vec<u8> {
    let mut body = vec![version, 0];
    body.put_bytes(0xac, 32);
    named(&mut body, "node-a");
    body
}

/// Worked out by another program from the two frames above and [`SECRET`].
const PROOF: &str = "d2974da94937cb8100aaad72ae33952abefba0a16486193adc70a79602739bd2";
const WELCOME: &str = "76c15ea86f0018d2dc79de09c28839fd6b0d57b5cf86e93e9b49d90e74fe752d";
/// Of the same where node-b is of an earlier version.
const PROOF_2: &str = "8f1aabfd14b2b9f0b1500d9a248be7afc36b773958d6fa786a3263fb37e5fb46";
const WELCOME_2: &str = "f12b98e2661038368c1803a2f72c5b934a3e18d30e86847ae38907c8723c45f5";
const PROOF_1: &str = "2918d7aaa315372218110a01293501f63370b5d1810521c7a62a892d317e7e03";
const WELCOME_1: &str = "697c3bf07e6bebd31c9df9fb04299d55954156a9bf11bc6c863c91a9f014c67b";

async fn expect(stream: &mut DuplexStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    timeout(LONG, stream.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn the_handshake_as_a_dialer_sends_it() {
    let (mut ours, mut wire) = duplex(4096);
    let identity = identity("node-b", SECRET);
    let dialer =
        tokio::spawn(async move { super::handshake::dial_with(&mut ours, &identity, &name("node-a"), Purpose::Voters, [0xd1; 32]).await });
    expect(&mut wire, &framed(1, &hello())).await;
    wire.write_all(&framed(2, &challenge())).await.unwrap();
    expect(&mut wire, &framed(3, &hex(PROOF))).await;
    // The acceptor may begin with its own frames in the same packet.
    let mut last = framed(4, &hex(WELCOME));
    last.extend_from_slice(b"early");
    wire.write_all(&last).await.unwrap();
    let agreed = timeout(LONG, dialer).await.unwrap().unwrap().unwrap();
    assert_eq!((agreed.peer, agreed.version, &agreed.early[..]), (name("node-a"), 3, &b"early"[..]));
}

#[tokio::test]
async fn the_handshake_as_an_acceptor_sends_it() {
    let (mut ours, mut wire) = duplex(4096);
    let identity = identity("node-a", SECRET);
    let acceptor = tokio::spawn(async move { super::handshake::accept_with(&mut ours, &identity, [0xac; 32]).await });
    // One byte at a time.
    for byte in framed(1, &hello()) {
        wire.write_all(&[byte]).await.unwrap();
    }
    expect(&mut wire, &framed(2, &challenge())).await;
    wire.write_all(&framed(3, &hex(PROOF))).await.unwrap();
    expect(&mut wire, &framed(4, &hex(WELCOME))).await;
    let agreed = timeout(LONG, acceptor).await.unwrap().unwrap().unwrap();
    assert_eq!((agreed.peer, agreed.purpose, agreed.version), (name("node-b"), Purpose::Voters, 3));
}

#[tokio::test]
async fn nodes_of_earlier_versions_are_understood() {
    for (version, proof, welcome) in [(1, PROOF_1, WELCOME_1), (2, PROOF_2, WELCOME_2)] {
        let (mut ours, mut wire) = duplex(4096);
        let node_a = identity("node-a", SECRET);
        let acceptor = tokio::spawn(async move { super::handshake::accept_with(&mut ours, &node_a, [0xac; 32]).await });
        wire.write_all(&framed(1, &hello_up_to(version))).await.unwrap();
        expect(&mut wire, &framed(2, &challenge_of(version))).await;
        wire.write_all(&framed(3, &hex(proof))).await.unwrap();
        expect(&mut wire, &framed(4, &hex(welcome))).await;
        assert_eq!(timeout(LONG, acceptor).await.unwrap().unwrap().unwrap().version, u16::from(version));
    }
}

#[tokio::test]
async fn what_was_recorded_opens_nothing() {
    // A proof of an earlier connection, at an acceptor with a new nonce.
    let (mut ours, mut wire) = duplex(4096);
    let node_a = identity("node-a", SECRET);
    let acceptor = tokio::spawn(async move { super::handshake::accept(&mut ours, &node_a).await });
    wire.write_all(&framed(1, &hello())).await.unwrap();
    wire.write_all(&framed(3, &hex(PROOF))).await.unwrap();
    assert!(matches!(timeout(LONG, acceptor).await.unwrap().unwrap(), Err(NetError::WrongSecret(peer)) if peer == name("node-b")));

    // A challenge and a welcome of an earlier connection, at a dialer with a new nonce.
    let (mut ours, mut wire) = duplex(4096);
    let node_b = identity("node-b", SECRET);
    let dialer = tokio::spawn(async move { super::handshake::dial(&mut ours, &node_b, &name("node-a"), Purpose::Voters).await });
    wire.write_all(&framed(2, &challenge())).await.unwrap();
    wire.write_all(&framed(4, &hex(WELCOME))).await.unwrap();
    assert!(matches!(timeout(LONG, dialer).await.unwrap().unwrap(), Err(NetError::WrongSecret(_))));
}

#[tokio::test]
async fn what_one_side_said_is_no_proof_of_the_other() {
    let (mut ours, mut wire) = duplex(4096);
    let node_b = identity("node-b", SECRET);
    let dialer =
        tokio::spawn(async move { super::handshake::dial_with(&mut ours, &node_b, &name("node-a"), Purpose::Voters, [0xd1; 32]).await });
    wire.write_all(&framed(2, &challenge())).await.unwrap();
    expect(&mut wire, &framed(1, &hello())).await;
    expect(&mut wire, &framed(3, &hex(PROOF))).await;
    wire.write_all(&framed(4, &hex(PROOF))).await.unwrap();
    assert!(matches!(timeout(LONG, dialer).await.unwrap().unwrap(), Err(NetError::WrongSecret(_))));
}

async fn meet(dialer: Identity, to: &str, acceptor: Identity) -> (Result<Link, NetError>, Result<Link, NetError>) {
    let (left, right) = duplex(4096);
    let accepted = tokio::spawn(async move { Link::accept_over(right, &acceptor).await });
    let dialed = timeout(LONG, Link::dial_over(left, &name(to), Purpose::Peer, &dialer)).await.unwrap();
    (dialed, timeout(LONG, accepted).await.unwrap().unwrap())
}

#[tokio::test]
async fn both_sides_are_told_what_is_wrong() {
    let (dialed, accepted) = meet(identity("b", OTHER), "a", identity("a", SECRET)).await;
    assert!(matches!(&dialed, Err(NetError::RefusedUs(text)) if text.contains("secret")), "{:?}", dialed.err());
    assert!(matches!(accepted, Err(NetError::WrongSecret(peer)) if peer == name("b")));

    let (dialed, accepted) = meet(identity("b", SECRET), "c", identity("a", SECRET)).await;
    assert!(matches!(&dialed, Err(NetError::RefusedUs(text)) if text.contains("this is a, not c")), "{:?}", dialed.err());
    assert!(matches!(accepted, Err(NetError::WrongName { .. })));

    let (dialed, accepted) = meet(identity("a", SECRET), "a", identity("a", SECRET)).await;
    assert!(dialed.is_err());
    assert!(matches!(accepted, Err(NetError::NotOurs(_))));
}

#[tokio::test]
async fn versions_that_do_not_meet() {
    let (mut ours, mut wire) = duplex(4096);
    let node_a = identity("node-a", SECRET);
    let acceptor = tokio::spawn(async move { super::handshake::accept(&mut ours, &node_a).await });
    let mut newer = hello();
    newer[8..12].copy_from_slice(&[7, 0, 9, 0]);
    wire.write_all(&framed(1, &newer)).await.unwrap();
    let error = timeout(LONG, acceptor).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, NetError::Version { theirs_low: 7, theirs_high: 9, .. }), "{error}");
    let mut words = Vec::new();
    timeout(LONG, wire.read_to_end(&mut words)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&words).contains("versions 7 to 9"));
}

#[tokio::test]
async fn noise_and_silence_are_no_handshake() {
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &framed(1, b"CARRICK\0\x01\0"), &framed(9, b""), &framed(1, &[0; 400])] {
        let (mut ours, mut wire) = duplex(4096);
        wire.write_all(noise).await.unwrap();
        drop(wire);
        let outcome = timeout(LONG, super::handshake::accept(&mut ours, &identity("node-a", SECRET))).await.unwrap();
        assert!(matches!(outcome, Err(NetError::NotOurs(_) | NetError::TooLarge { .. })), "{outcome:?}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let hasty = identity("node-a", SECRET).handshake_timeout(Duration::from_millis(50));
    assert!(matches!(accept(stream, &hasty).await, Err(NetError::Late(_))));
    drop(silent);
}

#[tokio::test]
async fn frames_go_both_ways_and_the_end_is_told_from_a_tear() {
    let (dialed, accepted) = meet(identity("b", SECRET), "a", identity("a", SECRET)).await;
    let (mut left, right) = (dialed.unwrap(), accepted.unwrap());
    assert_eq!((left.peer(), right.peer(), right.purpose()), (&name("a"), &name("b"), Purpose::Peer));
    let (mut reader, mut writer) = right.split();
    let big: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let sent = big.clone();
    let sender = tokio::spawn(async move {
        left.send(7, b"", b"").await.unwrap();
        left.send(8, b"head", &sent).await.unwrap();
        left.send(9, b"only", b"").await.unwrap();
        assert_eq!(left.recv().await.unwrap().unwrap(), (1, "answer".into()));
        let (_, mut writer) = left.split();
        writer.close().await.unwrap();
    });
    assert_eq!(reader.recv().await.unwrap().unwrap(), (7, "".into()));
    let (kind, body) = reader.recv().await.unwrap().unwrap();
    assert!(kind == 8 && &body[..4] == b"head" && body[4..] == big[..]);
    assert_eq!(reader.recv().await.unwrap().unwrap(), (9, "only".into()));
    writer.send(1, b"", b"answer").await.unwrap();
    assert!(timeout(LONG, reader.recv()).await.unwrap().unwrap().is_none());
    sender.await.unwrap();
}

#[tokio::test]
async fn torn_and_oversized_frames_are_errors() {
    for (bytes, torn) in [(framed(1, b"whole")[..7].to_vec(), true), (vec![0xff, 0xff, 0xff, 0xff, 1], false), (vec![0, 0], true)] {
        let (left, mut right) = duplex(4096);
        let node_a = identity("a", SECRET);
        let dialer = tokio::spawn(async move { Link::dial_over(left, &name("a"), Purpose::Peer, &identity("b", SECRET)).await });
        super::handshake::accept(&mut right, &node_a).await.unwrap();
        let mut link = dialer.await.unwrap().unwrap();
        right.write_all(&bytes).await.unwrap();
        drop(right);
        let outcome = timeout(LONG, link.recv()).await.unwrap();
        match torn {
            true => assert!(matches!(outcome, Err(NetError::Torn)), "{outcome:?}"),
            false => assert!(matches!(outcome, Err(NetError::TooLarge { .. })), "{outcome:?}"),
        }
        let large = vec![0; BODY_MAX];
        assert!(matches!(link.send(1, b"x", &large).await, Err(NetError::TooLarge { .. })));
    }
}

#[tokio::test]
async fn after_a_send_that_was_dropped_nothing_more_is_sent() {
    let (dialed, accepted) = meet(identity("b", SECRET), "a", identity("a", SECRET)).await;
    let mut link = dialed.unwrap();
    // Larger than the pipe, which nobody reads.
    let body = vec![0; 100_000];
    assert!(timeout(Duration::from_millis(50), link.send(1, b"", &body)).await.is_err());
    assert!(matches!(link.send(1, b"", b"x").await, Err(NetError::HalfSent)));
    drop(accepted);
}

#[test]
fn frames_cut_at_every_byte() {
    let mut bytes = framed(3, b"abc");
    bytes.extend_from_slice(&framed(4, b""));
    for cut in 0..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..cut]);
        let mut frames = 0;
        let missing = loop {
            match frame::take(&mut buffer, 16).unwrap() {
                Parsed::Frame(..) => frames += 1,
                Parsed::Missing(missing) => break missing,
            }
        };
        assert_eq!(frames, usize::from(cut >= 8));
        assert!(missing > 0 && missing <= bytes.len() - cut);
    }
    for step in 0..12 {
        let mut data = vec![step];
        data.extend_from_slice(&bytes);
        data.extend_from_slice(&[0xff; 5]);
        frames_fuzz(&data);
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/replication_frames");
    let seeds: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| frames_fuzz(seed));
}

#[test]
fn waits_between_dials_are_bounded() {
    let mut redial = Redial::default();
    let broken = NetError::Torn;
    let waits: Vec<_> = (0..20).map(|_| redial.after(&broken)).collect();
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[0] < Duration::from_millis(50) && waits[19] == Duration::from_secs(1));
    assert_eq!(redial.after(&NetError::WrongSecret(name("a"))), Duration::from_secs(5));
    redial.reset();
    assert_eq!(redial.after(&broken), waits[0]);
}

#[test]
fn secrets_that_are_too_short_are_refused() {
    assert!(Secret::new("fifteen letters").is_none());
    assert!(Secret::new("fifteen letters\n\n").is_none());
    assert_eq!(format!("{:?}", Secret::new(SECRET).unwrap()), "Secret(..)");
}

fn certificates(folder: &Path) -> impl Fn(&str) -> TlsFiles + '_ {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    move |node| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![node.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let files = TlsFiles {
            certificate: folder.join(format!("{node}.pem")),
            private_key: folder.join(format!("{node}.key")),
            ca: folder.join("ca.pem"),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
        files
    }
}

async fn over_tcp(dialer: Identity, acceptor: Identity) -> (Result<Link, NetError>, Result<Link, NetError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let to = acceptor.name().clone();
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        accept(stream, &acceptor).await.map(|(link, ..)| link)
    });
    let dialed = timeout(LONG, Link::dial(&address, &to, Purpose::Peer, &dialer)).await.unwrap();
    (dialed, timeout(LONG, accepted).await.unwrap().unwrap())
}

#[tokio::test]
async fn certificates_prove_names() {
    let folder = tempfile::tempdir().unwrap();
    let issue = certificates(folder.path());
    let of = |node: &str, files: &TlsFiles| Identity::with_tls(name(node), files, None).unwrap();
    let (a, b) = (issue("a"), issue("b"));
    let (dialed, accepted) = over_tcp(of("b", &b), of("a", &a)).await;
    let (mut left, mut right) = (dialed.unwrap(), accepted.unwrap());
    let big = vec![5; 1 << 20];
    let sender = tokio::spawn(async move { left.send(1, b"h", &big).await.map(|()| left) });
    let (kind, body) = timeout(LONG, right.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!((kind, body.len()), (1, (1 << 20) + 1));
    sender.await.unwrap().unwrap();

    // c has a certificate of the cluster, and says that it is b.
    let (_, accepted) = over_tcp(of("b", &issue("c")), of("a", &a)).await;
    assert!(matches!(&accepted, Err(NetError::Tls(text)) if text.contains("not for b")), "{:?}", accepted.err());
    // Whom b dials as a shows the certificate of c.
    let (dialed, _) = over_tcp(of("b", &b), of("a", &issue("c"))).await;
    assert!(matches!(dialed, Err(NetError::Tls(_))));
    // Signed by somebody else.
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = certificates(elsewhere.path())("b");
    let (_, accepted) = over_tcp(of("b", &foreign), of("a", &a)).await;
    assert!(accepted.is_err());
    // No TLS at all.
    let (dialed, accepted) = over_tcp(identity("b", SECRET), of("a", &a)).await;
    assert!(dialed.is_err() && accepted.is_err());
    // Certificates and a secret: both have to be right.
    let both = |node: &str, files: &TlsFiles, secret| Identity::with_tls(name(node), files, Secret::new(secret)).unwrap();
    let (dialed, _) = over_tcp(both("b", &b, OTHER), both("a", &a, SECRET)).await;
    assert!(matches!(dialed, Err(NetError::RefusedUs(_))));
    let missing = TlsFiles { ca: folder.path().join("none.pem"), ..a };
    assert!(Identity::with_tls(name("a"), &missing, None).unwrap_err().to_string().contains("none.pem"));
}

#[tokio::test]
async fn a_listener_goes_on_past_those_who_fail() {
    let mut listener = Listener::bind("127.0.0.1:0", identity("a", SECRET)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let dialers = tokio::spawn(async move {
        assert!(Link::dial(&address, &name("a"), Purpose::Peer, &identity("b", OTHER)).await.is_err());
        Link::dial(&address, &name("a"), Purpose::Voters, &identity("b", SECRET)).await.unwrap()
    });
    let (_link, peer, purpose) = timeout(LONG, listener.accept()).await.unwrap();
    assert_eq!((peer, purpose), (name("b"), Purpose::Voters));
    dialers.await.unwrap();
}
