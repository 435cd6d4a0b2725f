//! Permissions on exchanges and queues, and topic rules where a name leads into the topic space.

use super::*;
use crate::auth::{self, Credential, Permission, Rule, TopicPermission, User};
use broker_api::{Attach, Expiry, Filter, GroupIx, Limit, RetainedOn, SessionName, Subscribe};

fn with(permissions: &[[&str; 5]], rules: &[[&str; 3]]) -> Config {
    let user = |name: &str| User {
        name: name.into(),
        credential: Credential::Plain("pw".into()),
        tags: Vec::new(),
        connections_max: (name == "w").then_some(1),
        channels_max: None,
    };
    let auth = auth::Config {
        users: ["u", "v", "w"].map(user).into(),
        permissions: permissions.iter().map(|[u, v, c, w, r]| Permission::parse(u, v, c, w, r).expect("patterns")).collect(),
        rules: rules.iter().map(|[user, access, topic]| Rule::parse(Some(user), access, topic).expect("a rule")).collect(),
        ..auth::Config::default()
    };
    Config { auth, vhosts: vec!["other".into()], ..config() }
}

fn login(user: &str, vhost: &str) -> Control {
    let step = LoginStep::Password { user: user.into(), password: b"pw".to_vec() };
    Control::Login(Login { vhost: Some(VhostName::new(vhost)), step })
}

fn as_user(rig: &Rig, user: &str) -> Client {
    let mut c = rig.stranger();
    c.ok(rig, login(user, "/"));
    c.ok(rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 });
    c
}

/// `None`: allowed; else what was said.
fn refused(c: &mut Client, rig: &Rig, control: Control) -> Option<String> {
    match c.ask(rig, control) {
        Err(Refusal::AccessRefused(text)) => Some(text),
        Err(other) => panic!("{other:?}"),
        Ok(_) => None,
    }
}

fn declare(name: &str, dead_letter: Option<&str>) -> Control {
    let spec = QueueSpec { dead_letter_exchange: dead_letter.map(Into::into), ..durable() };
    Control::Declare(Declare::Queue { owner: OwnerIx(1), name: name.into(), spec, passive: false })
}

fn fanout(alternate: Option<&str>) -> ExchangeSpec {
    ExchangeSpec { kind: "fanout".into(), alternate: alternate.map(ExchangeName::new), ..ExchangeSpec::default() }
}

fn may_publish(c: &mut Client, rig: &Rig, exchange: &str, key: &str) -> bool {
    c.put(exchange, key, "m");
    c.submit(rig);
    !c.all(rig).iter().any(|g| matches!(g, Got::Refused(_, Refusal::AccessRefused(_))))
}

#[test]
fn each_command_asks_for_its_permission() {
    let rig = Rig::with(SimStorage::new(7), with(&[["u", "/", "^c", "^w", "^r"], ["v", "/", ".*", ".*", ".*"]], &[]));
    let mut v = as_user(&rig, "v");
    for name in ["r", "w", "c", "x"] {
        v.queue(&rig, name, durable());
        v.ok(&rig, exchange(name, fanout(None)));
    }
    let mut u = as_user(&rig, "u");
    let bind = |source: &str, to: Destination| Control::Bind(binding(source, to, "", b""));
    let (queue, exchange_named) = (|n: &str| Destination::Queue(n.into()), |n: &str| Destination::Exchange(ExchangeName::new(n)));
    let delete_queue = |n: &str| Control::DeleteQueue { owner: OwnerIx(1), name: n.into(), if_unused: false, if_empty: false };
    let take = |n: &str| Control::Take(Take { owner: OwnerIx(1), queue: n.into(), max: 1, settled: true });
    let allowed = [
        declare("c1", None),
        exchange("c2", fanout(None)),
        take("r"),
        Control::Consume(consume("r", 1, 0)),
        Control::Purge { owner: OwnerIx(1), queue: "r".into() },
        bind("r", queue("w")),
        Control::Unbind(binding("r", queue("w"), "", b"")),
        bind("r", exchange_named("w")),
        delete_queue("c1"),
        Control::DeleteExchange { owner: OwnerIx(1), name: "c2".into(), if_unused: false },
        Control::Declare(Declare::Queue { owner: OwnerIx(1), name: "x".into(), spec: durable(), passive: true }),
    ];
    for control in allowed {
        assert_eq!(refused(&mut u, &rig, control.clone()), None, "{control:?}");
    }
    let forbidden = [
        (declare("x1", None), "queue 'x1'"),
        // Configure is there; read on the queue, or write on the exchange, is not.
        (declare("c3", Some("w")), "queue 'c3'"),
        (exchange("c4", fanout(Some("w"))), "exchange 'c4'"),
        (exchange("x", fanout(None)), "exchange 'x'"),
        (take("w"), "queue 'w'"),
        (Control::Consume(consume("c", 2, 0)), "queue 'c'"),
        (Control::Purge { owner: OwnerIx(1), queue: "w".into() }, "queue 'w'"),
        (bind("r", queue("r")), "queue 'r'"),
        (bind("w", queue("w")), "exchange 'w'"),
        (Control::Unbind(binding("w", queue("w"), "", b"")), "exchange 'w'"),
        (bind("r", exchange_named("c")), "exchange 'c'"),
        (delete_queue("w"), "queue 'w'"),
        (Control::DeleteExchange { owner: OwnerIx(1), name: "r".into(), if_unused: false }, "exchange 'r'"),
    ];
    for (control, what) in forbidden {
        let said = refused(&mut u, &rig, control.clone()).unwrap_or_else(|| panic!("{control:?} was allowed"));
        assert_eq!(said, format!("access to {what} in vhost '/' refused for user 'u'"));
    }
    for _ in 0..2 {
        assert!(may_publish(&mut u, &rig, "w", "k") && !may_publish(&mut u, &rig, "r", "k"));
        assert!(!may_publish(&mut u, &rig, "", "w"), "the default exchange has a name of its own");
    }
    assert!(may_publish(&mut v, &rig, "", "w"));
}

#[test]
fn a_virtual_host_is_entered_with_a_permission_in_it() {
    let rig = Rig::with(SimStorage::new(7), with(&[["u", "/", "", "^amq.default$", ""], ["v", "other", ".*", ".*", ".*"]], &[]));
    for (user, vhost, may) in [("u", "/", true), ("u", "other", false), ("v", "other", true), ("v", "/", false), ("w", "/", false)] {
        let said = refused(&mut rig.stranger(), &rig, login(user, vhost));
        assert_eq!(said.is_none(), may, "{user} in {vhost}: {said:?}");
        assert!(said.is_none_or(|said| said == format!("access to vhost '{vhost}' refused for user '{user}'")));
    }
    let mut c = rig.stranger();
    assert!(c.ask(&rig, login("w", "/")).is_err());
    assert!(c.ask(&rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 }).is_err(), "who was refused is nobody");
    assert!(may_publish(&mut as_user(&rig, "u"), &rig, "", "anything"));
    // First who, then where: the listener's is asked about only by who stays in it.
    let step = LoginStep::Password { user: "v".into(), password: b"pw".to_vec() };
    let enter = |vhost: &str| Control::Login(Login { vhost: Some(VhostName::new(vhost)), step: LoginStep::Enter });
    let mut c = rig.stranger();
    assert!(c.ask(&rig, enter("other")).is_err(), "nobody yet");
    c.ok(&rig, Control::Login(Login { vhost: None, step: step.clone() }));
    assert!(refused(&mut c, &rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 }).is_some());
    assert!(refused(&mut c, &rig, enter("/")).is_some());
    assert_eq!(c.ok(&rig, enter("other")), Reply::Entered { default_queue_type: None });
    c.ok(&rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 });
    let stranger = Permission::parse("nobody", "/", "", "", "").expect("patterns");
    let auth = auth::Config { permissions: vec![stranger], ..auth::Config::default() };
    assert!(auth::Auth::check(&auth).expect_err("no such user").to_string().contains("nobody"));
}

#[test]
fn without_any_permission_everybody_may_do_everything() {
    let rig = Rig::with(SimStorage::new(7), with(&[], &[]));
    let mut c = as_user(&rig, "w");
    c.queue(&rig, "q", durable());
    assert!(may_publish(&mut c, &rig, "", "q") && c.take(&rig, "q").is_some());
}

#[test]
fn topics_ask_for_their_exchange_and_names_lead_around_no_rule() {
    let permissions = [["u", "/", ".*", ".*", ".*"], ["v", "/", ".*", "^q", "^q"], ["w", "/", ".*", ".*", ".*"]];
    let rules = [["u", "readwrite", "mine/#"], ["v", "readwrite", "#"], ["w", "read", "#"]];
    let rig = Rig::with(SimStorage::new(7), with(&permissions, &rules));
    let publish_topic = |c: &mut Client, key: &str| {
        c.put_with("", key, "m", |head| (head.topic, head.separator) = (true, b'/'));
        c.submit(&rig);
        !c.all(&rig).iter().any(|g| matches!(g, Got::Refused(..)))
    };
    let subscribe = |c: &mut Client, pattern: &str| {
        let (owner, session) = (OwnerIx(2), SessionName::new("s"));
        let attach = Attach {
            owner,
            session,
            consumer: ConsumerIx(9),
            group: GroupIx(9),
            window_bytes: None,
            clean: true,
            expiry: Expiry::WithConnection,
            parting: None,
        };
        c.ok(&rig, Control::Attach(attach));
        let filter = Filter { pattern: pattern.into(), separator: b'/' };
        let retained = RetainedOn::Never;
        c.ask(
            &rig,
            Control::Subscribe(Subscribe {
                owner,
                filter,
                share: None,
                level: 0,
                identifier: 0,
                no_local: false,
                as_published: false,
                retained,
                selector: None,
            }),
        )
        .is_ok()
    };
    let mut u = as_user(&rig, "u");
    assert!(publish_topic(&mut u, "mine/1") && !publish_topic(&mut u, "yours/1"));
    // The same by names: a key over dots, further keys, a binding.
    assert!(may_publish(&mut u, &rig, "amq.topic", "mine.1") && !may_publish(&mut u, &rig, "amq.topic", "yours.1"));
    let keys = u.turn.intern_keys([&b"yours.1"[..]]);
    u.put_with("amq.topic", "mine.1", "m", |head| head.keys = keys);
    u.submit(&rig);
    assert!(u.all(&rig).iter().any(|g| matches!(g, Got::Refused(..))));
    u.queue(&rig, "q", durable());
    let bind = |key: &str| Control::Bind(binding("amq.topic", Destination::Queue("q".into()), key, b""));
    assert_eq!(refused(&mut u, &rig, bind("mine.*.x")), None);
    assert!(refused(&mut u, &rig, bind("#")).is_some() && refused(&mut u, &rig, bind("mine/x.#")).is_some());
    assert!(subscribe(&mut u, "mine/+") && !subscribe(&mut u, "yours/+"));
    // Rules allow everything, permissions nothing of the topic space.
    let mut v = as_user(&rig, "v");
    assert!(!publish_topic(&mut v, "mine/1") && !subscribe(&mut v, "mine/1"));
    let mut w = as_user(&rig, "w");
    assert!(!publish_topic(&mut w, "x") && subscribe(&mut w, "x"));
}

#[test]
fn keys_of_topic_exchanges_are_narrowed_by_topic_permissions() {
    let all = TopicPermission::parse("u", "/", "amq.topic", "^{username}\\.", "^(u|all)\\.").expect("expressions");
    let own = TopicPermission::parse("u", "/", "other", "", "").expect("expressions");
    let mut config = with(&[], &[]);
    config.auth.topic_permissions = vec![all, own];
    let rig = Rig::with(SimStorage::new(7), config);
    let mut u = as_user(&rig, "u");
    u.queue(&rig, "q", durable());
    u.ok(&rig, exchange("other", fanout(None)));
    let bind = |key: &str| Control::Bind(binding("amq.topic", Destination::Queue("q".into()), key, b""));
    assert_eq!(refused(&mut u, &rig, bind("all.#")), None);
    let said = refused(&mut u, &rig, bind("#"));
    assert_eq!(said.as_deref(), Some("access to topic '#' in exchange 'amq.topic' in vhost '/' refused for user 'u'"));
    assert!(may_publish(&mut u, &rig, "amq.topic", "u.1") && !may_publish(&mut u, &rig, "amq.topic", "v.1"));
    assert!(may_publish(&mut u, &rig, "other", "v.1"), "a fanout exchange reads no keys");
    let keys = u.turn.intern_keys([&b"v.1"[..]]);
    u.put_with("amq.topic", "u.1", "m", |head| head.keys = keys);
    u.submit(&rig);
    assert!(u.all(&rig).iter().any(|g| matches!(g, Got::Refused(..))), "further keys are looked at");
    // The same over slashes.
    for (topic, may) in [("u/1", true), ("v/1", false)] {
        u.put_with("", topic, "m", |head| (head.topic, head.separator) = (true, b'/'));
        u.submit(&rig);
        assert_eq!(!u.all(&rig).iter().any(|g| matches!(g, Got::Refused(..))), may, "{topic}");
    }
    assert!(may_publish(&mut as_user(&rig, "v"), &rig, "amq.topic", "v.1"), "nobody else is narrowed");
    let nobody = TopicPermission::parse("nobody", "/", "x", "", "").expect("expressions");
    let auth = auth::Config { topic_permissions: vec![nobody], ..auth::Config::default() };
    assert!(auth::Auth::check(&auth).expect_err("no such user").to_string().contains("nobody"));
}

#[test]
fn a_user_and_a_virtual_host_have_room_for_so_many_connections() {
    let mut config = with(&[], &[]);
    let few = crate::VhostLimits { connections_max: Some(2), queues_max: Some(1) };
    config.vhost_limits = vec![("other".into(), few)];
    let rig = Rig::with(SimStorage::new(7), config);
    let come = |user: &str, vhost: &str| {
        let mut c = rig.stranger();
        c.ok(&rig, login(user, vhost));
        let said = match c.ask(&rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 }) {
            Ok(_) => None,
            Err(Refusal::OverLimit { limit: Limit::Connections, why }) => Some(why),
            Err(other) => panic!("{other:?}"),
        };
        (c, said)
    };
    let (mut one, said) = come("w", "/");
    assert_eq!(said, None);
    one.ok(&rig, Control::Owner { owner: OwnerIx(2), fail_stop: false, channel: 0 });
    let full = Some("connection refused for user 'w': user connection limit (1) is reached".to_owned());
    assert_eq!(come("w", "other").1, full);
    drop(one);
    let (mut first, said) = come("w", "other");
    assert_eq!(said, None, "the first has gone, and who was refused does not count");
    let (second, said) = come("u", "other");
    assert_eq!(said, None);
    let full = "access to vhost 'other' refused for user 'v': connection limit (2) is reached";
    assert_eq!(come("v", "other").1.as_deref(), Some(full));
    assert_eq!(come("v", "/").1, None);
    drop(second);
    assert_eq!(come("v", "other").1, None);

    first.queue(&rig, "a", durable());
    match first.ask(&rig, declare("b", None)) {
        Err(Refusal::OverLimit { limit: Limit::Queues, why }) => {
            assert_eq!(why, "cannot declare queue 'b': queue limit in vhost 'other' (1) is reached");
        }
        other => panic!("{other:?}"),
    }
    first.queue(&rig, "a", durable());
    first.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "a".into(), if_unused: false, if_empty: false });
    first.queue(&rig, "b", durable());
}

/// MQTT 5.0, 4.12.1: what the connection holds, and what is counted for it, is the first user's.
#[test]
fn who_authenticates_again_stays_who_he_is() {
    let rig = Rig::with(SimStorage::new(7), with(&[], &[]));
    let again = |user: &str, password: &[u8]| {
        let step = LoginStep::Password { user: user.into(), password: password.to_vec() };
        Control::Login(Login { vhost: None, step })
    };
    let mut c = as_user(&rig, "u");
    assert!(matches!(c.ask(&rig, again("v", b"pw")), Err(Refusal::LoginRefused)));
    assert!(matches!(c.ask(&rig, again("u", b"wrong")), Err(Refusal::LoginRefused)));
    assert!(matches!(c.ask(&rig, again("u", b"pw")), Ok(Reply::LoggedIn { principal, .. }) if principal.user == "u"));
}

#[test]
fn users_that_are_read_again_count_for_who_is_connected() {
    let all = ["u", "/", ".*", ".*", ".*"];
    let rig = Rig::with(SimStorage::new(7), with(&[all, ["v", "/", ".*", ".*", ".*"]], &[]));
    let (mut u, mut v) = (as_user(&rig, "u"), as_user(&rig, "v"));
    u.queue(&rig, "a", durable());
    assert!(may_publish(&mut u, &rig, "", "a") && may_publish(&mut v, &rig, "", "a"));

    let less = with(&[["u", "/", ".*", "^other$", ".*"], all_of("v")], &[]);
    rig.core.reload_users(&less.auth).expect("right");
    assert!(!may_publish(&mut u, &rig, "", "a"), "without a new login, whatever was remembered of the last answer");
    assert!(may_publish(&mut v, &rig, "", "a"));
    rig.core.reload_users(&with(&[all, all_of("v")], &[]).auth).expect("right");
    assert!(may_publish(&mut u, &rig, "", "a"), "and back");

    let mut wrong = with(&[], &[]).auth;
    wrong.users.push(wrong.users[0].clone());
    rig.core.reload_users(&wrong).expect_err("a user twice");
    assert!(may_publish(&mut u, &rig, "", "a"), "nothing has changed");

    let mut without = with(&[all], &[]).auth;
    without.users.retain(|user| user.name != "v");
    rig.core.reload_users(&without).expect("right");
    assert!(v.all(&rig).contains(&Got::Kicked), "v is no user any more");
    assert!(!u.all(&rig).contains(&Got::Kicked) && may_publish(&mut u, &rig, "", "a"));
    let mut c = rig.stranger();
    assert!(matches!(c.ask(&rig, login("v", "/")), Err(Refusal::LoginRefused)));
}

fn all_of(user: &str) -> [&str; 5] {
    [user, "/", ".*", ".*", ".*"]
}
