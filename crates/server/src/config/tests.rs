use super::*;

fn refused(text: &str) -> String {
    let result = parse_file(text).and_then(|file| Settings::merge(file, &Serve::default()));
    format!("{:#}", result.expect_err(text))
}

fn settings(text: &str, flags: Serve) -> Settings {
    Settings::merge(parse_file(text).expect(text), &flags).expect(text)
}

#[test]
fn nothing_written_means_the_defaults() {
    let settings = settings("", Serve::default());
    let urls: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
    let expected =
        ["mqtt:1883", "amqp:5672", "stomp:61613", "ws:15675", "ws:15674", "any:61616", "http:15672"].into_iter().flat_map(|one| {
            let (scheme, port) = one.split_once(':').expect("both");
            [format!("{scheme}://127.0.0.1:{port}"), format!("{scheme}://[::1]:{port}")]
        });
    assert_eq!(urls, expected.collect::<Vec<_>>());
    assert_eq!((settings.data_dir.to_str(), settings.log.as_str(), settings.default_listeners), (Some("./carrick-data"), "info", true));
    assert_eq!(settings.gateway, gateway::Config::default());
}

#[test]
fn a_certificate_opens_the_ports_of_tls() {
    let flags = Serve { tls_certificate: Some("b.pem".into()), ..Serve::default() };
    for (text, flags, key) in [
        ("[tls]\ncertificate = 'a.pem'\nprivate_key = 'a.key'", Serve::default(), Some("a.key")),
        ("[tls]\nprivate_key = 'a.key'", flags, None),
    ] {
        let settings = settings(text, flags);
        let urls: Vec<String> = settings.listen.iter().skip(14).step_by(2).map(ToString::to_string).collect();
        let ports = [
            "mqtts://127.0.0.1:8883",
            "amqps://127.0.0.1:5671",
            "stomps://127.0.0.1:61614",
            "wss://127.0.0.1:15676",
            "wss://127.0.0.1:15673",
        ];
        assert_eq!(urls, ports);
        assert_eq!(settings.tls.private_key.as_deref(), key.map(std::path::Path::new));
    }
}

#[test]
fn flags_win_over_the_file() {
    let text = "data_dir = 'a'\nlisten = ['mqtt://127.0.0.1:1']\nlog = 'warn'";
    let flags =
        Serve { data_dir: Some("b".into()), listen: vec!["unix:/x".into()], log: Some("debug,gateway=trace".into()), ..Serve::default() };
    let merged = settings(text, flags);
    assert_eq!((merged.data_dir.to_str(), merged.log.as_str()), (Some("b"), "debug,gateway=trace"));
    assert_eq!(merged.listen[0].to_string(), "unix:/x");
    let kept = settings(text, Serve::default());
    assert_eq!((kept.data_dir.to_str(), kept.listen[0].to_string().as_str(), kept.log.as_str()), (Some("a"), "mqtt://127.0.0.1:1", "warn"));
}

#[test]
fn threads_have_a_default_and_bounds() {
    let text = "[server]\nworker_threads = 3";
    assert_eq!(settings(text, Serve::default()).worker_threads, 3);
    assert_eq!(settings(text, Serve { worker_threads: Some(5), ..Serve::default() }).worker_threads, 5);
    assert!(settings("", Serve::default()).worker_threads >= 1);
    assert!(refused("[server]\nworker_threads = 0").contains("from 1 to 1024"));
}

#[test]
fn every_section_is_read() {
    let text = r#"
        allow_anonymous = false
        [[user]]
        name = "a"
        password = "p"
        tags = ["administrator"]
        [[user]]
        name = "b"
        password_hash = "{rabbit_password_hashing_sha256}y4xPTRVfzXg68sz9ALqeQzARam3CwnGo53xS752cDV5+Utzh"
        [[acl]]
        user = "b"
        access = "readwrite"
        topic = "b/#"
        [[vhost]]
        name = "other"
        max_queues = 3
        [[topic_permission]]
        user = "b"
        write = "^{username}"
        read = ""
        [[permission]]
        user = "b"
        configure = "^b-"
        write = ".*"
        read = ""
        [gateway]
        max_connections = 7
        [broker]
        sessions_max = 5
        channels_max = 9
        [journal]
        segment_bytes = "1 MiB"
        checkpoint_bytes = 4194304
        fill = "zero"
        [mqtt]
        max_qos = 1
    "#;
    let settings = settings(text, Serve::default());
    assert!(matches!((&settings.users[0].secret, &settings.users[1].secret), (file::Secret::Password(_), file::Secret::Hash(_))));
    assert_eq!((settings.gateway.max_connections, settings.rules.len()), (7, 1));
    assert_eq!((settings.broker.sessions_max.map(|n| n.0), settings.broker.channels_max.map(|n| n.0)), (Some(5), Some(9)));
    let permission = &settings.permissions[0];
    assert_eq!((settings.vhosts[0].name.0.as_str(), permission.vhost.as_str(), permission.configure.as_str()), ("other", "/", "^b-"));
    assert_eq!((settings.vhosts[0].max_queues, settings.vhosts[0].max_connections), (Some(3), None));
    assert_eq!((settings.topic_permissions[0].vhost.as_str(), settings.topic_permissions[0].exchange.as_str()), ("/", "amq.topic"));
    assert_eq!(settings.journal.segment_bytes.map(|bytes| bytes.0), Some(1 << 20));
    assert_eq!((settings.journal.fill, settings.mqtt.max_qos.map(|qos| qos.0)), (Some(file::Fill::Zero), Some(1)));
    assert!(!format!("{settings:?}").contains("\"p\""), "passwords stay out of logs");
}

#[test]
fn what_is_wrong_is_refused_with_its_key_its_line_and_what_would_be_right() {
    for (text, parts) in [
        ("\nlisen = []", &["line 2", "lisen", "`listen`"][..]),
        ("listen = ['mqtt://h']", &["line 1", "listen = ", "no port", "mqtt://127.0.0.1:1883"]),
        ("listen = []", &["listen is empty", "at least one URL"]),
        ("listen = ['stomps://127.0.0.1:61614']", &["stomps://127.0.0.1:61614", "certificate", "[tls]", "carrick tls dev"]),
        ("listen = ['stomp://127.0.0.1:61614?client_auth=require']", &["no TLS", "stomps://"]),
        ("[tls]\nclient_auth = 'maybe'", &["line 2", "maybe", "request"]),
        ("[tls]\nmin_version = 1.1", &["line 2", "min_version"]),
        ("[tls]\ncertificat = 'x'", &["line 2", "`certificate`"]),
        ("[[user]]\nname = 'x'", &["neither", "certificate = true"]),
        ("listen = ['stomp://127.0.0.1:61613?dialect=artemis']", &["'artemis' is no dialect", "dialect=activemq"]),
        ("listen = ['stomp://127.0.0.1:61613?dialekt=activemq']", &["no setting 'dialekt'"]),
        ("listen = ['stomp://127.0.0.1:61613?dialect=activemq&dialect=rabbitmq']", &["twice"]),
        ("listen = ['mqtt://127.0.0.1:1883?dialect=activemq']", &["mqtt:// has no settings"]),
        ("listen = ['amqp://127.0.0.1:5672?produkt=RabbitMQ']", &["no setting 'produkt'", "product=RabbitMQ"]),
        ("listen = ['amqp://127.0.0.1:5672?product=Big%20Rabbit']", &["product is 'Big%20Rabbit'", "without '%'"]),
        ("listen = ['stomp://127.0.0.1:61613?product=RabbitMQ']", &["no setting 'product'"]),
        ("listen = ['ws://127.0.0.1:1?default=soap']", &["'soap'", "default=mqtt"]),
        ("listen = ['any://127.0.0.1:1?dialect=artemis']", &["'artemis' is no dialect"]),
        ("listen = ['ws://127.0.0.1:1?path=/x']", &["no setting 'path'"]),
        ("[websocket]\norigin = []", &["line 2", "`origins`"]),
        ("log = 'loud'", &["line 1", "log = ", "loud", "debug"]),
        ("[journal]\nsegment_bytes = 5", &["line 2", "segment_bytes", "from 1 MiB to 1 GiB"]),
        ("[journal]\nsegment_bytes = '64 MB'", &["line 2", "64 MB", "\"64 MiB\""]),
        ("[journal]\nfill = 'quick'", &["line 2", "quick", "`zero`"]),
        ("[journal]\nsegment = 1", &["line 2", "segment", "`segment_bytes`"]),
        ("[gateway]\nmax_connections = -1", &["line 2", "max_connections = -1"]),
        ("[mqtt]\nmax_qos = 3", &["line 2", "max_qos", "from 0 to 2"]),
        ("listen = ['stomp://127.0.0.1:61613?strict=very']", &["strict is 'very'", "strict=true"]),
        ("[dead_letter]\ndefault = ''", &["line 2", "the name of a queue"]),
        ("[dead_letter]\ndefault = 'amq.x'", &["line 2", "'amq.x'", "without amq."]),
        ("\n[[user]]\nname = 'x'\npassword_hash = 'md5'", &["line 2", "\"x\""]),
        ("\n[[user]]\nname = 'anonymous'\npassword = 'p'", &["line 2", "the name is taken"]),
        ("\n[[acl]]\ntopic = 'a'\naccess = 'rw'", &["line 2, [[acl]]", "readwrite"]),
        ("\n\n[[acl]]\ntopic = 'a#'\naccess = 'read'", &["line 3, [[acl]]", "a#"]),
        ("\n[[permission]]\nuser = 'x'\nconfigure = '('\nwrite = ''\nread = ''", &["line 2, [[permission]]", "configure"]),
        ("\n[[topic_permission]]\nuser = 'x'\nwrite = '('\nread = ''", &["line 2, [[topic_permission]]", "write"]),
        ("[amqp]\nproduct = ''", &["line 2", "product", "1 to 128 bytes"]),
        ("[mqtt]\nauto_id_prefix = 'a/+#'", &["line 2", "wildcard"]),
        ("[mqtt]\nresponse_prefix = '#/'", &["line 2", "wildcard"]),
        ("[mqtt]\nserver_moved = true", &["mqtt.server_reference"]),
        ("[[vhost]]\nname = ''", &["line 2", "1 to 255 bytes"]),
        ("[dead_letter]\nqueue = 'x'", &["line 2", "queue", "`default`"]),
        ("[stomp]\ndialect = 'artemis'", &["line 2", "artemis", "`activemq`"]),
        ("[stomp]\nmax_body_size = '64 MiB'", &["line 2", "max_body_size", "from 1 bytes to 60 MiB"]),
        ("[stomp]\nprefetch = 1", &["line 2", "prefetch", "`default_prefetch`"]),
        ("[[user]]\nname = 'x'", &["line 1", "'x'", "password_hash"]),
        ("[[user]]\nname = 'x'\npassword = 'a'\npassword_hash = 'b'", &["line 1", "both"]),
        ("[[user]]\nname = 'x'\npasword = 'a'", &["pasword", "`password`"]),
        ("[[user]]\nname = 'x'\npassword = 'a'\n[[user]]\nname = 'x'\npassword = 'b'", &["line 4", "'x'", "twice", "line 1"]),
        ("allow_anonymous = 'yes'", &["line 1", "boolean"]),
        ("[mqtt]\nunauthorized = 'ignore'", &["line 2", "ignore", "`disconnect`"]),
        ("[mqtt]\naccept_versions = ['4']", &["line 2", "`3.1.1`"]),
    ] {
        let error = refused(text);
        for part in parts {
            assert!(error.contains(part), "{text:?}: no {part:?} in:\n{error}");
        }
        assert!(!error.contains("password = 'a'"), "a secret in: {error}");
    }
}

#[test]
fn nobody_is_let_in_from_elsewhere_by_accident() {
    let open = "listen = ['mqtt://0.0.0.0:1883']\n";
    assert!(refused(open).contains("allow_anonymous = true"));
    assert!(refused(&format!("{open}allow_anonymous = false")).contains("[[user]]"));
    settings(&format!("{open}allow_anonymous = true"), Serve::default());
    settings(&format!("{open}[[user]]\nname = 'a'\npassword = 'b'"), Serve::default());
    settings("listen = ['mqtt://localhost:1883', 'unix:/x']", Serve::default());
}
