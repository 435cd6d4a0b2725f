//! What `rabbitmqctl export_definitions` of RabbitMQ 3.10.8 wrote, and files that are wrong.

use super::{apply, Definitions};
use broker::auth;
use broker::{Core, PolicyKind};
use broker_api::{
    Broker, ConnectionInfo, Control, CoreSession, Declare, Event, EventBatch, ExchangeName, ExchangeSpec, Head, Login, LoginStep, OwnerIx,
    Peer, QueueName, QueueSpec, Refusal, Reply, Token, Turn, VhostName, HEAD_CONFIRM, HEAD_DURABLE,
};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EXPORT: &str = include_str!("rabbitmq-3.10.json");

/// A core over this folder with what the text says, and what an operator is told.
fn start(dir: &Path, text: &str) -> (Core, Vec<String>) {
    let mut definitions = Definitions::parse(text).expect("definitions");
    let mut auth = auth::Config::default();
    definitions.add_users(&mut auth);
    let config = broker::Config {
        auth,
        vhosts: definitions.vhosts.drain(..).collect(),
        default_queue_types: std::mem::take(&mut definitions.default_queue_types),
        header_views: crate::protocols::header_views(),
        sys_interval_secs: 0,
        ..broker::Config::default()
    };
    let core = opened(dir, &config);
    let mut notes = std::mem::take(&mut definitions.notes);
    notes.extend(apply(definitions, &core).expect("made"));
    (core, notes)
}

/// The threads of an earlier core over this folder may have yet to let go of it.
fn opened(dir: &Path, config: &broker::Config) -> Core {
    let start = Instant::now();
    loop {
        let storage = Arc::new(journal::storage::DirStorage::new(dir).expect("a store"));
        match Core::open(storage, journal::Config::default(), config.clone(), Box::new(|_| {})) {
            Ok(core) => return core,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One command, and what came before its answer.
fn ask(session: &mut dyn CoreSession, turn: &mut Turn, control: Control) -> Result<Reply, Refusal> {
    turn.control(Token(1), control);
    session.submit(turn);
    turn.clear();
    let start = Instant::now();
    loop {
        let mut batch = EventBatch::default();
        session.swap(&mut batch);
        for event in batch.events {
            if let Event::Reply(Token(1), reply) = event {
                return *reply;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn inside(core: &Core, vhost: &str) -> Box<dyn CoreSession> {
    let mut session = core.trusted(&VhostName::new(vhost)).expect("there");
    ask(&mut *session, &mut Turn::default(), Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 }).expect("an owner");
    session
}

/// Messages in a queue that has to be there.
fn ready(session: &mut dyn CoreSession, queue: &str) -> u64 {
    let name = QueueName::new(queue);
    let declare = Declare::Queue { owner: OwnerIx(1), name, spec: QueueSpec::default(), passive: true };
    match ask(session, &mut Turn::default(), Control::Declare(declare)) {
        Ok(Reply::Queue { ready, .. }) => ready,
        other => panic!("{queue}: {other:?}"),
    }
}

/// Publishes, and waits until it has happened.
fn publish(session: &mut dyn CoreSession, exchange: &str, key: &str, headers: &[(&str, &str)]) {
    use amqp091::codec::{Properties, TableWriter};
    let mut table = TableWriter::default();
    for (name, value) in headers {
        match value.parse() {
            Ok(number) => table.put(name.as_bytes(), &amqp091::codec::Field::I32(number)),
            Err(_) => table.text(name, value),
        };
    }
    let mut origin = Vec::new();
    Properties { headers: Some(table.as_table()), ..Properties::default() }.put(&mut origin);
    let mut turn = Turn::default();
    let [exchange, key, origin] = [exchange.as_bytes(), key.as_bytes(), &origin].map(|bytes| turn.intern(bytes));
    let flags = HEAD_DURABLE | HEAD_CONFIRM;
    turn.publish(Head { exchange, key, origin, flags, separator: b'.', level: 1, format: amqp091::FORMAT, owner: 1, ..Head::default() });
    let spec = ExchangeSpec::default();
    let probe = Declare::Exchange { owner: OwnerIx(1), name: ExchangeName::new("amq.direct"), spec, passive: true };
    ask(session, &mut turn, Control::Declare(probe)).expect("amq.direct");
}

fn info() -> ConnectionInfo {
    let peer = Peer::Tcp("127.0.0.1:1".parse().expect("an address"));
    ConnectionInfo { peer, identity: None, protocol: "test", vhost: VhostName::new("/"), allow_anonymous: false }
}

fn password(user: &str, password: &str, vhost: &str) -> Control {
    let step = LoginStep::Password { user: user.to_owned(), password: password.as_bytes().to_vec() };
    Control::Login(Login { vhost: Some(VhostName::new(vhost)), step })
}

fn login(core: &Core, user: &str, secret: &str, vhost: &str) -> Result<Reply, Refusal> {
    let mut session = core.connect(info()).expect("connects");
    ask(&mut *session, &mut Turn::default(), password(user, secret, vhost))
}

/// Publishes without headers, and hears whether it was let in.
fn try_publish(session: &mut dyn CoreSession, exchange: &str, key: &str) -> Result<(), Refusal> {
    let mut turn = Turn::default();
    let [exchange, key] = [exchange.as_bytes(), key.as_bytes()].map(|bytes| turn.intern(bytes));
    turn.publish(Head { exchange, key, flags: HEAD_CONFIRM, separator: b'.', format: amqp091::FORMAT, owner: 1, ..Head::default() });
    session.submit(&mut turn);
    let start = Instant::now();
    loop {
        let mut batch = EventBatch::default();
        session.swap(&mut batch);
        for event in batch.events {
            match event {
                Event::Refused { why, .. } => return Err(why),
                Event::Done { .. } => return Ok(()),
                _ => {}
            }
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no answer");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_export_of_rabbitmq_is_there_after_a_start_and_after_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let (core, first) = start(dir.path(), EXPORT);
    let expected = [
        "global_parameters[0]: parameter 'note' has no effect here",
        "policies[1].definition.ha-mode: kept, without effect here",
        "policies[1].definition.ha-sync-mode: kept, without effect here",
        "queues[1]: not made: queues of type 'stream' are not supported yet",
        // RabbitMQ 3.10 exports the bindings of internal exchanges, but not these themselves.
        "bindings[2]: binding in vhost '/' is not made: no exchange 'app-internal'",
        "bindings[4]: binding in vhost '/' is not made: no exchange 'app-internal'",
    ];
    assert_eq!(first, expected);
    check(&core, 1);
    core.close().expect("closed");
    drop(core);
    let (core, second) = start(dir.path(), EXPORT);
    assert_eq!(second, expected, "nothing was made twice, and nothing differs");
    check(&core, 2);
    core.close().expect("closed");
}

/// `round`: how often this has been called with the same store.
fn check(core: &Core, round: u64) {
    for (user, password, vhost) in [
        ("app", "s3cret pass", "/"),
        ("app", "s3cret pass", "tenant"),
        ("newer", "newer pass", "-"),
        ("old", "oldpass", "/"),
        ("guest", "guest", "/"),
    ] {
        let may = login(core, user, password, vhost);
        assert_eq!(matches!(may, Ok(Reply::LoggedIn { .. })), vhost != "-", "{user}: {may:?}");
        assert!(login(core, user, "wrong", vhost).is_err(), "{user}");
    }
    let mut app = core.connect(info()).expect("connects");
    ask(&mut *app, &mut Turn::default(), password("app", "s3cret pass", "/")).expect("logged in");
    ask(&mut *app, &mut Turn::default(), Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 }).expect("an owner");
    for (key, may) in [("dev.1", true), ("other", false)] {
        assert_eq!(try_publish(&mut *app, "amq.topic", key).is_ok(), may, "{key}: the topic permission of the file");
    }
    // Without a permission there is no way in.
    assert!(matches!(login(core, "newer", "newer pass", "/"), Err(Refusal::AccessRefused(_))));
    assert!(matches!(login(core, "old", "oldpass", "tenant"), Err(Refusal::AccessRefused(_))));

    let names = |kind| core.policies("/", kind).expect("there").into_iter().map(|policy| policy.name).collect::<Vec<_>>();
    assert_eq!(names(PolicyKind::User), ["short", "ae", "ha"]);
    assert_eq!(names(PolicyKind::Operator), ["cap"]);

    let mut session = inside(core, "/");
    publish(&mut *session, "app-in", "order.new", &[]);
    publish(&mut *session, "app-in", "nobody wants it", &[]);
    publish(&mut *session, "app-headers", "", &[("kind", "invoice"), ("n", "7")]);
    publish(&mut *session, "app-headers", "", &[("kind", "invoice"), ("n", "8")]);
    assert_eq!(ready(&mut *session, "app-orders"), round);
    assert_eq!(ready(&mut *session, "app-ledger"), round);
    assert_eq!(ready(&mut *session, "app-dead"), 2 * round, "by the policy's alternate exchange and by the argument's");
    let mut tenant = inside(core, "tenant");
    publish(&mut *tenant, "jobs", "run", &[]);
    assert_eq!(ready(&mut *tenant, "jobs"), round);
}

#[test]
fn what_is_there_in_another_form_stays_and_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let one = r#"{"queues": [{"name": "q", "vhost": "/", "durable": true, "arguments": {"x-max-length": 5}}],
                  "exchanges": [{"name": "x", "vhost": "/", "type": "direct", "durable": true}]}"#;
    let (core, notes) = start(dir.path(), one);
    assert_eq!(notes, [""; 0]);
    core.close().expect("closed");
    drop(core);
    let other = r#"{"queues": [{"name": "q", "durable": true, "arguments": {"x-max-length": 6}, "wat": 1}, {"name": "p", "vhost": "nope"}],
                    "exchanges": [{"name": "x", "vhost": "/", "type": "fanout", "durable": true}], "odd": {}}"#;
    let (core, notes) = start(dir.path(), other);
    let expected = [
        "queues[0].wat: not known here, without effect",
        "odd: not known here, without effect",
        "exchanges[0]: exchange 'x' in vhost '/' is there, different in its type; it stays as it is",
        "queues[0]: queue 'q' in vhost '/' is there, different in its arguments; it stays as it is",
        "vhosts: there is no virtual host 'nope'; 1 objects of it are not made",
    ];
    assert_eq!(notes, expected);
    core.close().expect("closed");
}

#[test]
fn what_is_wrong_is_said_with_its_path() {
    let why = |text: &str| format!("{:#}", Definitions::parse(text).err().unwrap_or_else(|| panic!("taken: {text}")));
    assert!(why("{").starts_with("it is not JSON: "));
    assert_eq!(why("[]"), "the document: a list instead of an object");
    assert_eq!(why(r#"{"queues": {}}"#), "queues: an object instead of a list");
    assert_eq!(why(r#"{"queues": [7]}"#), "queues[0]: a number instead of an object");
    assert_eq!(why(r#"{"queues": [{"durable": true}]}"#), "queues[0].name: missing");
    assert_eq!(why(r#"{"queues": [{"name": "q", "durable": "yes"}]}"#), "queues[0].durable: a text instead of true or false");
    let argument = r#"{"queues": [{"name": "q", "arguments": {"x-message-ttl": -1}}]}"#;
    assert_eq!(why(argument), "queues[0]: invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}");
    assert_eq!(why(r#"{"exchanges": [{"name": "x"}]}"#), "exchanges[0].type: missing");
    let kind = r#"{"bindings": [{"source": "x", "destination": "q", "destination_type": "topic"}]}"#;
    assert_eq!(why(kind), "bindings[0].destination_type: 'topic' instead of queue or exchange");
    let policy = |rest: &str| format!(r#"{{"policies": [{{"name": "p", "pattern": "a", {rest}}}]}}"#);
    let path = why(&policy(r#""definition": {"max-length": "many"}"#));
    assert_eq!(path, "policies[0]: max-length: not a whole number");
    assert_eq!(
        why(&policy(r#""definition": [["max-length", 1, 2]]"#)),
        "policies[0].definition: a list instead of an object or a list of pairs"
    );
    assert_eq!(why(&policy(r#""apply-to": "topics""#)), "policies[0].apply-to: 'topics' is nothing policies apply to");
    let user = r#"{"users": [{"name": "u", "password_hash": "AAAA", "tags": ["a", 1]}]}"#;
    assert_eq!(why(user), "users[0].tags: a number instead of a text");
    let pattern = r#"{"users": [{"name": "u", "password": "x"}], "permissions": [{"user": "u", "vhost": "/", "configure": "(", "write": "", "read": ""}]}"#;
    assert!(why(pattern).starts_with("permissions[0]: "), "{}", why(pattern));
    // Names and hashes are looked at when the table of users is made.
    let nested = "[".repeat(200);
    assert!(why(&nested).contains("JSON"), "no stack is used up");
}

#[test]
fn a_users_limits_and_a_traced_virtual_host() {
    let text = r#"{"users": [{"name": "u", "password": "p", "limits": {"max-connections": 3, "max-channels": 7}},
                             {"name": "v", "password": "p", "limits": {"max-channels": -1}}],
                   "vhosts": [{"name": "seen", "tracing": true}, {"name": "unseen", "tracing": false}]}"#;
    let definitions = Definitions::parse(text).expect("definitions");
    let limits: Vec<_> = definitions.users.iter().map(|user| (user.connections_max, user.channels_max)).collect();
    assert_eq!(limits, [(Some(3), Some(7)), (None, None)]);
    assert_eq!(definitions.traced_vhosts, ["seen"]);
    assert!(definitions.notes.is_empty(), "{:?}", definitions.notes);
}

#[test]
fn users_of_old_and_odd_kinds() {
    let text = r#"{"rabbit_version": "3.5.7",
        "users": [{"name": "old", "password_hash": "AAAAAA==", "tags": "administrator, monitoring"}, {"name": "plain", "password": "secret", "tags": ""},
                  {"name": "none", "password_hash": "", "tags": []}]}"#;
    let mut definitions = Definitions::parse(text).expect("definitions");
    assert_eq!(definitions.users.len(), 3);
    assert_eq!(definitions.users[0].tags, ["administrator", "monitoring"]);
    assert!(matches!(&definitions.users[0].credential, auth::Credential::Hash(hash) if hash == "{rabbit_password_hashing_md5}AAAAAA=="));
    assert!(definitions.notes.is_empty(), "{:?}", definitions.notes);
    assert!(matches!(&definitions.users[2].credential, auth::Credential::None), "by a certificate only");
    // Nobody has a permission, so nobody may enter anything; and the configuration file's users are as it says.
    let configured = auth::User {
        name: "plain".into(),
        credential: auth::Credential::Plain("other".into()),
        tags: Vec::new(),
        connections_max: None,
        channels_max: None,
    };
    let mut auth = auth::Config { users: vec![configured], ..auth::Config::default() };
    definitions.add_users(&mut auth);
    assert_eq!((auth.users.len(), auth.permissions.len()), (3, 1));
    assert!(definitions.notes[0].contains("'plain' stands in the configuration file"));
}
