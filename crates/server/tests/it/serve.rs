//! Starting, serving, refusing and stopping.

use super::*;

#[test]
fn it_serves_says_good_bye_and_starts_again() {
    let dir = tempfile::tempdir().expect("a folder");
    for _ in 0..2 {
        let carrick = start(dir.path(), &["--listen", "mqtt://127.0.0.1:0", "--listen", "unix:sock"]);
        assert_eq!(carrick.urls.len(), 2);
        assert_eq!(carrick.urls[1], "unix:sock");
        assert!(!carrick.urls[0].ends_with(":0"), "{}", carrick.urls[0]);
        let mut old = carrick.connect();
        assert_eq!(login(&mut old, CONNECT), CONNACK);
        let mut new = carrick.connect();
        let mut other = CONNECT_5.to_vec();
        *other.last_mut().expect("an id") = b'u';
        assert_eq!(login(&mut new, &other)[3], 0, "accepted");
        assert_eq!(carrick.stop(), Some(0));
        let mut last = Vec::new();
        new.read_to_end(&mut last).expect("a clean end");
        assert_eq!(last.get(..3).map(|bytes| (bytes[0], bytes[2])), Some((0xe0, 139)), "DISCONNECT, server shutting down: {last:?}");
        last.clear();
        old.read_to_end(&mut last).expect("a clean end");
        assert!(last.is_empty(), "3.1.1 has no such packet");
        assert!(!dir.path().join("sock").exists());
    }
    assert!(dir.path().join("carrick-data").is_dir(), "the default data directory");
}

#[test]
fn the_environment_is_heard_and_flags_are_louder() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = command(dir.path(), &["serve", "--data-dir", "flag"]);
    command.env("CARRICK_DATA_DIR", "variable").env("CARRICK_LISTEN", "mqtt://127.0.0.1:0,mqtt://localhost:0");
    let carrick = start_command(command);
    assert!(carrick.urls.len() >= 2, "{:?}", carrick.urls);
    assert!(dir.path().join("flag").is_dir() && !dir.path().join("variable").exists());
    signal(&carrick.process, rustix::process::Signal::INT);
    let mut carrick = carrick;
    assert_eq!(wait(&mut carrick.process), Some(0));
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = start(dir.path(), &["--listen", "mqtt://127.0.0.1:0"]);
    let (code, why) = refused(dir.path(), &["--listen", "mqtt://127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("in use by another process") && why.contains("carrick-data"), "{why}");
    assert_eq!(login(&mut first.connect(), CONNECT), CONNACK, "the first one is not hurt");
}

#[test]
fn a_taken_default_port_is_named_with_what_changes_it() {
    let dir = tempfile::tempdir().expect("a folder");
    // Ours, or whoever has it already.
    let _taken = std::net::TcpListener::bind("127.0.0.1:1883");
    let (code, why) = refused(dir.path(), &[]);
    assert_eq!(code, Some(1));
    for part in ["127.0.0.1:1883", "another process listens there", "--listen"] {
        assert!(why.contains(part), "no {part:?} in: {why}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!("mqtt://{}", taken.local_addr().expect("bound"));
    std::fs::write(dir.path().join("bad.toml"), "\n[journal]\nsegment = 1\n").expect("written");
    std::fs::write(dir.path().join("user.toml"), "[[user]]\nname = 'a'\npassword_hash = 'plain'\n").expect("written");
    std::fs::write(dir.path().join("acl.toml"), "[[acl]]\naccess = 'look'\ntopic = 'a'\n").expect("written");
    for (arguments, code, parts) in [
        (&["--config", "bad.toml"][..], 1, &["bad.toml", "line 3", "segment", "segment_bytes"][..]),
        (&["--config", "none.toml"], 1, &["none.toml", "No such file"]),
        (&["--config", "user.toml"], 1, &["\"a\""]),
        (&["--config", "acl.toml"], 1, &["look", "readwrite"]),
        (&["--listen", "mqtt://0.0.0.0:0"], 1, &["other machines", "allow_anonymous = true"]),
        (&["--listen", "stomps://127.0.0.1:0"], 1, &["no certificate", "[tls]"]),
        (&["--listen", "openwire://127.0.0.1:0"], 1, &["not yet"]),
        (&["--listen", &taken], 1, &["another process listens there"]),
        (&["--log", "loud", "--listen", "mqtt://127.0.0.1:0"], 1, &["loud", "debug"]),
        (&["--lisen", "x"], 2, &["--lisen"]),
    ] {
        let (got, why) = refused(dir.path(), arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {why}");
        for part in parts {
            assert!(why.contains(part), "{arguments:?}: no {part:?} in: {why}");
        }
    }
}

fn connect_as(id: &str, user: &str, password: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04\xc2\x00\x3c".to_vec();
    for text in [id, user, password] {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut connect = vec![0x10, body.len() as u8];
    connect.extend_from_slice(&body);
    connect
}

#[test]
fn a_hangup_brings_new_users_and_sends_away_who_is_none_any_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |text: &str| std::fs::write(dir.path().join("c.toml"), text).expect("written");
    write("[[user]]\nname = 'ann'\npassword = 'old'\n[[user]]\nname = 'bob'\npassword = 'pw'\n");
    let carrick = start(dir.path(), &["--config", "c.toml", "--listen", "mqtt://127.0.0.1:0"]);
    let come = |id: &str, user: &str, password: &str| {
        let mut stream = carrick.connect();
        let code = login(&mut stream, &connect_as(id, user, password))[3];
        (stream, code)
    };
    let hangup = || signal(&carrick.process, rustix::process::Signal::HUP);
    let ((mut ann, _), (mut bob, _)) = (come("a", "ann", "old"), come("b", "bob", "pw"));
    write("[[user]]\nname = 'ann'\npassword = 'new'\n");
    hangup();
    assert_eq!(bob.read(&mut [0; 64]).expect("a good end"), 0, "3.1.1 has no word for it");
    assert_eq!((come("c", "ann", "new").1, come("d", "ann", "old").1, come("e", "bob", "pw").1), (0, 4, 4));
    ann.write_all(b"\xc0\0").expect("written");
    let mut pong = [0; 2];
    ann.read_exact(&mut pong).expect("answered");
    assert_eq!(&pong, b"\xd0\0", "who still is a user stays");
    write("[[user]]\nname = 'ann'\n");
    hangup();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(come("c", "ann", "new").1, 0, "a wrong file changes nothing");
}

#[test]
fn users_come_in_with_their_password_and_nobody_with_a_wrong_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let hash = |arguments: &[&str]| {
        let mut hash = command(dir.path(), arguments).stdin(Stdio::piped()).spawn().expect("started");
        hash.stdin.take().expect("piped").write_all(b"secret\n").expect("typed");
        String::from_utf8(hash.wait_with_output().expect("hashed").stdout).expect("text").trim().to_owned()
    };
    let (argon2, scram) = (hash(&["hash-password"]), hash(&["hash-password", "--scram", "sha-512"]));
    assert!(argon2.starts_with("$argon2id$") && scram.starts_with("SCRAM-SHA-512$10000:"), "{argon2} {scram}");
    let mut config = "[[user]]\nname = 'bob'\npassword = 'pw'\n".to_owned();
    for (name, hash) in [("ann", argon2), ("eve", scram)] {
        config += &format!("[[user]]\nname = '{name}'\npassword_hash = '{hash}'\n");
    }
    std::fs::write(dir.path().join("c.toml"), config).expect("written");
    let carrick = start(dir.path(), &["--config", "c.toml", "--listen", "mqtt://127.0.0.1:0"]);
    for (user, password, code) in [
        ("ann", "secret", 0),
        ("eve", "secret", 0),
        ("bob", "pw", 0),
        ("ann", "wrong", 4),
        ("eve", "wrong", 4),
        ("guest", "guest", 4),
        ("bob", "secret", 4),
    ] {
        let answer = login(&mut carrick.connect(), &connect_as("t", user, password));
        assert!(answer[3] == code || (code == 4 && answer[3] == 5), "{user}/{password}: {answer:?}");
    }
    assert_eq!(login(&mut carrick.connect(), CONNECT), CONNACK, "no credentials, from this machine");
}

#[test]
fn clients_are_told_where_to_go_when_the_broker_stops() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = "[mqtt]\nserver_reference = 'other.example:1883'\naccept_versions = ['5.0']\n";
    std::fs::write(dir.path().join("c.toml"), config).expect("written");
    let carrick = start(dir.path(), &["--config", "c.toml", "--listen", "mqtt://127.0.0.1:0"]);
    assert_eq!(login(&mut carrick.connect(), CONNECT)[3], 1, "3.1.1 is an unacceptable protocol version here");
    let mut client = carrick.connect();
    assert_eq!(login(&mut client, CONNECT_5)[3], 0);
    assert_eq!(carrick.stop(), Some(0));
    let (first, body) = packet(&mut client);
    assert_eq!((first, body[0]), (0xe0, 156), "DISCONNECT, use another server: {body:?}");
    assert!(body.ends_with(b"other.example:1883"), "{body:?}");
}

/// systemd's `Type=notify`: ready only once clients can connect, and stopping as soon as it was asked to.
#[test]
fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let hear = || {
        let mut words = [0; 256];
        let len = socket.recv(&mut words).expect("told in time");
        String::from_utf8_lossy(&words[..len]).into_owned()
    };
    let mut command = command(dir.path(), &["serve", "--listen", "mqtt://127.0.0.1:0"]);
    let carrick = start_command({
        command.env("NOTIFY_SOCKET", &path);
        command
    });
    assert!(hear().lines().any(|line| line == "READY=1"));
    assert_eq!(login(&mut carrick.connect(), CONNECT), CONNACK);
    assert_eq!(carrick.stop(), Some(0));
    assert!(hear().lines().any(|line| line == "STOPPING=1"));
}

/// `[stomp]` reaches the wire: dialect, heart-beats and bounds are what the file says, and a listener may have a dialect of its own.
#[test]
fn stomp_is_spoken_as_the_file_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("carrick.toml");
    let text = "listen = ['stomp://127.0.0.1:0', 'stomp://127.0.0.1:0?dialect=rabbitmq']\n\
                [stomp]\ndialect = 'activemq'\nmin_heart_beat_ms = 100\nmax_subscriptions = 1\nmax_body_size = 10";
    std::fs::write(&file, text).expect("written");
    let carrick = start(dir.path(), &["--config", file.to_str().expect("text")]);
    let talk = |nth: usize, frames: &str| {
        let address = carrick.urls[nth].strip_prefix("stomp://").and_then(|url| url.split('?').next()).expect("a URL");
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream.write_all(format!("CONNECT\naccept-version:1.2\nheart-beat:0,50\n\n\0{frames}").as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        // Each conversation here ends with an ERROR.
        while !answer.windows(5).any(|part| part == b"ERROR") {
            let read = stream.read(&mut piece).expect("an answer in time");
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        stream.read_to_end(&mut answer).expect("closed");
        String::from_utf8(answer).expect("text")
    };
    let two = "SUBSCRIBE\nid:0\ndestination:/queue/a\n\n\0SUBSCRIBE\nid:1\ndestination:/queue/b\n\n\0";
    let activemq = talk(0, two);
    for part in ["server:ActiveMQ/", "heart-beat:100,0", "Subscription limit exceeded"] {
        assert!(activemq.contains(part), "no {part:?} in {activemq}");
    }
    let rabbitmq = talk(1, "SEND\ndestination:/queue/a\ncontent-length:11\n\n01234567890\0");
    for part in ["server:RabbitMQ/", "heart-beat:100,0", "Malformed frame"] {
        assert!(rabbitmq.contains(part), "no {part:?} in {rabbitmq}");
    }
}

#[test]
fn what_amqp_announces_is_a_setting() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(
        dir.path().join("c.toml"),
        "[amqp]\nproduct = 'Some Broker'\nversion = '9.8.7'\nframe_max = 8192\nchannel_max = 17\nheartbeat_secs = 33\n",
    )
    .expect("written");
    let carrick = start(dir.path(), &["--config", "c.toml", "--listen", "amqp://127.0.0.1:0"]);
    let (mut stream, started) = amqp_start(&carrick.urls[0]);
    assert_identity(&started, "Some Broker", "9.8.7");
    // start-ok: PLAIN, guest.
    let arguments = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    let mut ok = vec![1, 0, 0];
    ok.extend_from_slice(&(arguments.len() as u32).to_be_bytes());
    ok.extend_from_slice(arguments);
    ok.push(0xce);
    stream.write_all(&ok).expect("written");
    assert_eq!(&amqp_frame(&mut stream)[..12], b"\0\x0a\0\x1e\0\x11\0\0\x20\0\0\x21", "tune: 17 channels, 8192 bytes, 33 s");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("c.toml"), "[amqp]\nproduct = ''\n").expect("written");
    let (code, why) = refused(dir.path(), &["--config", "c.toml", "--listen", "amqp://127.0.0.1:0"]);
    assert!(code == Some(1) && why.contains("line 2") && why.contains("product"), "{why}");
}

#[test]
fn what_amqp_announces_is_a_listeners_own() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("c.toml"), "[amqp]\nversion = '3.12.14'\n").expect("written");
    let listen = ["amqp://127.0.0.1:0", "amqp://127.0.0.1:0?product=Other&version=2.0.0", "any://127.0.0.1:0?version=4.0.1"];
    let arguments: Vec<&str> = ["--config", "c.toml"].into_iter().chain(listen.into_iter().flat_map(|url| ["--listen", url])).collect();
    let carrick = start(dir.path(), &arguments);
    for (url, product, version) in
        [(&carrick.urls[0], "RabbitMQ", "3.12.14"), (&carrick.urls[1], "Other", "2.0.0"), (&carrick.urls[2], "RabbitMQ", "4.0.1")]
    {
        assert_identity(&amqp_start(url).1, product, version);
    }
    assert!(carrick.urls[1].ends_with("?product=Other&version=2.0.0"), "{}", carrick.urls[1]);
}

/// Connects, sends the protocol header, and answers what connection.start says.
fn amqp_start(url: &str) -> (TcpStream, Vec<u8>) {
    let address = url.split_once("://").expect("a URL").1;
    let address = address.split_once('?').map_or(address, |(address, _)| address);
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream.write_all(b"AMQP\0\0\x09\x01").expect("written");
    let started = amqp_frame(&mut stream);
    (stream, started)
}

/// Its payload and the byte at its end.
fn amqp_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).expect("a frame");
    let mut rest = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
    stream.read_exact(&mut rest).expect("the rest of it");
    rest
}

fn assert_identity(started: &[u8], product: &str, version: &str) {
    for (key, value) in [("product", product), ("version", version)] {
        let mut said = vec![key.len() as u8];
        said.extend_from_slice(key.as_bytes());
        said.push(b'S');
        said.extend_from_slice(&(value.len() as u32).to_be_bytes());
        said.extend_from_slice(value.as_bytes());
        assert!(started.windows(said.len()).any(|bytes| bytes == said), "no {key} {value} in {}", started.escape_ascii());
    }
}
