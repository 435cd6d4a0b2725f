//! TLS in front of a session, and what strangers can do before they have one.

use crate::pki::Pki;
use crate::support::{timed, until};
use broker_api::VhostName;
use gateway::{bind, ClientAuth, Config, Front, Gateway, MinVersion, Service, Spoken, Tls, TlsSettings, UserFrom};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::{FakeBroker, Toy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{self, ClientConfig};
use tokio_rustls::TlsConnector;

struct House {
    gateway: Gateway,
    broker: Arc<FakeBroker>,
    address: SocketAddr,
    tls: Arc<Tls>,
}

fn house(config: Config, settings: TlsSettings) -> House {
    let broker = FakeBroker::new();
    let mut gateway = Gateway::new(config, broker.clone());
    let bound = bind(&"mqtts://127.0.0.1:0".parse().expect("a URL"), 64).expect("bound").remove(0);
    let address = bound.url.to_string().trim_start_matches("mqtts://").parse().expect("an address");
    let tls = Arc::new(Tls::load(settings).expect("usable files"));
    let front = Front { tls: Some(tls.clone()), ..Front::default() };
    let service = Service { spoken: Spoken::One(Toy::new()), vhost: VhostName::new("/"), allow_anonymous: true, front };
    gateway.listen(bound, service).expect("listening");
    House { gateway, broker, address, tls }
}

impl House {
    async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = timed(TcpStream::connect(self.address)).await.expect("connected");
        let name = "localhost".try_into().expect("a name");
        timed(TlsConnector::from(Arc::new(config)).connect(name, socket)).await
    }

    /// Connects, asks and is answered. In TLS 1.3 a client learns only with the first answer that its certificate is refused.
    async fn served(&self, config: ClientConfig) -> bool {
        let Ok(mut client) = self.connect(config).await else { return false };
        let sent = client.write_all(b"ping\n").await;
        let mut answer = [0; 5];
        sent.is_ok() && timed(client.read_exact(&mut answer)).await.is_ok() && &answer == b"pong\n"
    }

    /// Not one more session than these has ever begun.
    fn sessions(&self) -> usize {
        self.broker.sessions().len()
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_older_one_can_be_refused() {
    let pki = Pki::new();
    let both = house(Config::default(), pki.settings());
    let newer = house(Config::default(), TlsSettings { min_version: MinVersion::V13, ..pki.settings() });
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = both.connect(pki.client(&[version])).await.expect("a handshake");
        assert_eq!(client.get_ref().1.protocol_version(), Some(version.version));
        assert!(both.served(pki.client(&[version])).await);
        assert_eq!(newer.served(pki.client(&[version])).await, version.version == rustls::ProtocolVersion::TLSv1_3);
    }
}

/// Both ways, frames small and large, and more than what rustls and the socket hold.
#[tokio::test]
async fn large_and_small_frames_pass_whole_in_both_directions() {
    let pki = Pki::new();
    let house = house(Config::default(), pki.settings());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = house.connect(pki.client(&[version])).await.expect("a handshake");
        let (mut reading, mut writing) = tokio::io::split(client);
        let mut script = Vec::new();
        let mut expected = Vec::new();
        for n in 0..40_usize {
            let body = vec![b'a' + (n % 26) as u8; [1, 100, 5_000, 70_000, 300_000][n % 5]];
            script.extend_from_slice(format!("#{}\n", body.len()).as_bytes());
            script.extend_from_slice(&body);
            expected.extend_from_slice(&body);
            expected.push(b'\n');
        }
        let send = tokio::spawn(async move {
            writing.write_all(&script).await.expect("sent");
            writing
        });
        let mut got = vec![0; expected.len()];
        // Slow to begin with, so that the gateway's side fills.
        tokio::time::sleep(Duration::from_millis(100)).await;
        timed(reading.read_exact(&mut got)).await.expect("all of it");
        assert!(got == expected);
        let mut writing = timed(send).await.expect("sent");
        writing.write_all(b"quit\n").await.expect("sent");
        let mut last = String::new();
        // A proper end of TLS, or this is an error.
        timed(reading.read_to_string(&mut last)).await.expect("an end");
        assert_eq!(last, "bye\n");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_turned_away_where_one_is_required() {
    let pki = Pki::new();
    let asks =
        |client_auth| TlsSettings { client_auth, client_ca: Some(pki.path("ca.pem")), user_from: Some(UserFrom::Cn), ..pki.settings() };
    let stranger = Pki::new();
    for (client_auth, without, wrong) in
        [(ClientAuth::Require, false, false), (ClientAuth::Request, true, false), (ClientAuth::None, true, true)]
    {
        let house = house(Config::default(), asks(client_auth));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert_eq!(house.served(pki.client(&[version])).await, without, "{client_auth:?} without one");
            assert_eq!(house.served(pki.client_with(&[version], &stranger, "sensor")).await, wrong, "{client_auth:?} of another CA");
            assert!(house.served(pki.client_with(&[version], &pki, "sensor")).await, "{client_auth:?}");
            let identity = house.broker.infos().last().expect("a session").identity.clone();
            assert_eq!(identity.as_ref().map(|identity| identity.user.as_str()), (client_auth != ClientAuth::None).then_some("sensor"));
        }
    }
}

#[tokio::test]
async fn new_files_are_for_new_connections_and_bad_ones_for_nobody() {
    let pki = Pki::new();
    let house = house(Config::default(), pki.settings());
    let serial = |client: &TlsStream<TcpStream>| client.get_ref().1.peer_certificates().expect("shown")[0].to_vec();
    let mut old = house.connect(pki.client(rustls::ALL_VERSIONS)).await.expect("a handshake");
    pki.write_server("localhost", 30);
    house.tls.reload().expect("good files");
    let new = house.connect(pki.client(rustls::ALL_VERSIONS)).await.expect("a handshake");
    assert_ne!(serial(&old), serial(&new));
    std::fs::write(pki.path("server.pem"), "nothing").expect("written");
    assert!(house.tls.reload().is_err());
    let still = house.connect(pki.client(rustls::ALL_VERSIONS)).await.expect("the files of before");
    assert_eq!(serial(&still), serial(&new));
    old.write_all(b"ping\n").await.expect("it stands");
    let mut answer = [0; 5];
    timed(old.read_exact(&mut answer)).await.expect("an answer");
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_said() {
    let pki = Pki::new();
    let (good, settings) = (pki.settings(), pki.settings());
    let error = |settings: TlsSettings| Tls::load(settings).err().map(|error| error.to_string()).unwrap_or_default();
    let certificate = |name: &str| TlsSettings { certificate: Some(pki.path(name)), ..good.clone() };
    let key = |name: &str| TlsSettings { private_key: Some(pki.path(name)), ..good.clone() };
    let other = Pki::new();
    std::fs::copy(other.path("server.key"), pki.path("other.key")).expect("copied");
    std::fs::write(pki.path("empty"), "").expect("written");
    std::fs::write(pki.path("text"), "hello\n").expect("written");
    std::fs::write(pki.path("torn"), &std::fs::read(pki.path("server.pem")).expect("read")[..300]).expect("written");
    std::fs::write(pki.path("encrypted.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .expect("written");
    std::fs::write(pki.path("der"), [0x30, 0x82, 1, 1]).expect("written");
    pki.write_leaf("expired", "localhost", -40, -10);
    pki.write_leaf("early", "localhost", 10, 40);
    let pair = |name: &str| TlsSettings {
        certificate: Some(pki.path(&format!("{name}.pem"))),
        private_key: Some(pki.path(&format!("{name}.key"))),
        ..good.clone()
    };
    for (settings, file, why) in [
        (TlsSettings { certificate: None, ..settings }, "(not set)", "nothing to show"),
        (certificate("missing"), "missing", "cannot be read"),
        (certificate("empty"), "empty", "it is empty"),
        (certificate("text"), "text", "nothing in it"),
        (certificate("torn"), "torn", "not whole"),
        (certificate("der"), "der", "DER, not PEM"),
        (certificate("server.key"), "server.key", "holds a private key, and no certificate"),
        (key("server.pem"), "server.pem", "holds a certificate, and no private key"),
        (key("encrypted.key"), "encrypted.key", "encrypted"),
        (key("other.key"), "other.key", "not the key of the first certificate"),
        (pair("expired"), "expired.pem", "it has expired, 10 days ago"),
        (pair("early"), "early.pem", "not valid before"),
        (TlsSettings { client_auth: ClientAuth::Require, ..good.clone() }, "(not set)", "nobody is named"),
        (
            TlsSettings { client_auth: ClientAuth::Request, client_ca: Some(pki.path("server.key")), ..good.clone() },
            "server.key",
            "no certificate",
        ),
    ] {
        let error = error(settings);
        assert!(error.contains(file) && error.contains(why) && error.contains("right would be"), "{why}: {error}");
    }
    assert_eq!(error(good.clone()), "");
    let both = [std::fs::read(pki.path("server.pem")).expect("read"), std::fs::read(pki.path("server.key")).expect("read")].concat();
    std::fs::write(pki.path("both"), both).expect("written");
    assert_eq!(error(TlsSettings { certificate: Some(pki.path("both")), private_key: None, ..good.clone() }), "");
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_gets_no_session() {
    let pki = Pki::new();
    let house = house(Config::default(), pki.settings());
    let mut client = timed(TcpStream::connect(house.address)).await.expect("connected");
    client.write_all(b"ping\nping\nping\n").await.expect("sent");
    let mut end = Vec::new();
    let _ = timed(client.read_to_end(&mut end)).await;
    assert!(!end.starts_with(b"pong"), "{end:?}");
    until("the place", || house.gateway.slots().live() == 0).await;
    assert_eq!(house.sessions(), 0);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_left_after_a_while() {
    let pki = Pki::new();
    let house = house(Config { handshake_timeout_secs: 1, ..Config::default() }, pki.settings());
    let mut client = timed(TcpStream::connect(house.address)).await.expect("connected");
    let mut end = Vec::new();
    timed(client.read_to_end(&mut end)).await.expect("an end");
    until("the place", || house.gateway.slots().live() == 0).await;
}

#[tokio::test]
async fn half_open_handshakes_have_a_bound_and_keep_nobody_out() {
    let pki = Pki::new();
    let house = house(Config { max_handshakes: 8, handshake_timeout_secs: 60, ..Config::default() }, pki.settings());
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(timed(TcpStream::connect(house.address)).await.expect("connected"));
    }
    let start = Instant::now();
    assert!(house.served(pki.client(rustls::ALL_VERSIONS)).await, "an honest client comes in");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(house.gateway.slots().live() <= 9, "{} connections", house.gateway.slots().live());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_half_open_handshakes() {
    let pki = Pki::new();
    let mut house = house(Config::default(), pki.settings());
    let _silent = timed(TcpStream::connect(house.address)).await.expect("connected");
    until("it is accepted", || house.gateway.slots().live() == 1).await;
    house.gateway.stop_accepting(false).await;
    assert_eq!(timed(house.gateway.drained()).await, 0);
}
