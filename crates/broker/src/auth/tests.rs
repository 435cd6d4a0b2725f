//! Logins as a connection sees them.

use super::scram::client::Client;
use super::scram::Algorithm;
use super::*;
use broker_api::{ConnectionInfo, Identity, Limit, LoginStep, Peer, Refusal, VhostName};
use std::net::IpAddr;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn user(name: &str, credential: Credential) -> User {
    User { name: name.to_owned(), credential, tags: Vec::new(), connections_max: None, channels_max: None }
}
fn plain(name: &str, password: &str) -> User {
    user(name, Credential::Plain(password.to_owned()))
}
fn hashed(name: &str, hash: &str) -> User {
    user(name, Credential::Hash(hash.to_owned()))
}
fn auth(users: Vec<User>) -> Auth {
    Auth::new(&Config { users, ..Config::default() }).unwrap()
}

/// A cheap argon2id hash of `password`, of the reference implementation's test vectors.
const ARGON2: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

fn from(ip: &str) -> ConnectionInfo {
    let peer = Peer::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into());
    ConnectionInfo { peer, identity: None, protocol: "test", vhost: VhostName::new("/"), allow_anonymous: false }
}
fn here() -> ConnectionInfo {
    from("127.0.0.1")
}
fn away() -> ConnectionInfo {
    from("192.0.2.1")
}

fn begin(auth: &Auth, state: &mut LoginState, info: &ConnectionInfo, step: LoginStep) -> Receiver<LoginOutcome> {
    let (sender, receiver) = channel();
    auth.login(state, info, step, Box::new(move |outcome| sender.send(outcome).unwrap()));
    receiver
}
fn step(auth: &Auth, state: &mut LoginState, info: &ConnectionInfo, step: LoginStep) -> LoginOutcome {
    begin(auth, state, info, step).recv_timeout(SOON).expect("an outcome")
}
fn password(user: &str, password: &str) -> LoginStep {
    LoginStep::Password { user: user.to_owned(), password: password.into() }
}
fn sasl(mechanism: &str, initial: &[u8]) -> LoginStep {
    LoginStep::Sasl { mechanism: mechanism.to_owned(), initial: initial.to_vec() }
}
fn login(auth: &Auth, info: &ConnectionInfo, first: LoginStep) -> LoginOutcome {
    step(auth, &mut LoginState::default(), info, first)
}

#[track_caller]
fn expect_in(outcome: LoginOutcome, name: &str) -> Arc<Principal> {
    match outcome {
        LoginOutcome::LoggedIn { principal, .. } if principal.name() == name => principal,
        other => panic!("{other:?}"),
    }
}
#[track_caller]
fn expect_refused(outcome: LoginOutcome) {
    assert!(matches!(outcome, LoginOutcome::Refused(Refusal::LoginRefused)), "{outcome:?}");
}
#[track_caller]
fn expect_busy(outcome: LoginOutcome) {
    assert!(matches!(outcome, LoginOutcome::Refused(Refusal::LimitReached(Limit::Connections))), "{outcome:?}");
}
#[track_caller]
fn expect_challenge(outcome: LoginOutcome) -> Vec<u8> {
    match outcome {
        LoginOutcome::Challenge(challenge) => challenge,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_users_guest_is_an_administrator_from_this_machine_only() {
    let auth = auth(Vec::new());
    for info in [here(), from("::1"), from("::ffff:127.0.0.1"), ConnectionInfo { peer: Peer::Unix, ..here() }] {
        assert!(expect_in(login(&auth, &info, password("guest", "guest")), "guest").administrator());
    }
    expect_refused(login(&auth, &away(), password("guest", "guest")));
    expect_refused(login(&auth, &here(), password("guest", "wrong")));
    let mut client = Client::new("guest", "guest", "abc");
    assert!(scram(&auth, &here(), &mut client).is_some());
    assert!(scram(&auth, &away(), &mut client).is_none());
}

#[test]
fn with_users_there_is_no_guest() {
    let auth = auth(vec![plain("ann", "secret")]);
    expect_refused(login(&auth, &here(), password("guest", "guest")));
    let ann = expect_in(login(&auth, &away(), password("ann", "secret")), "ann");
    assert!(!ann.administrator() && !ann.is_anonymous() && ann.unrestricted());
    assert_eq!(ann.info(), broker_api::PrincipalInfo { user: "ann".to_owned(), administrator: false, impersonator: false });
}

#[test]
fn without_credentials_one_is_anonymous_where_that_is_allowed() {
    let auth = auth(vec![plain("ann", "secret")]);
    let anonymous = expect_in(login(&auth, &here(), LoginStep::Anonymous), "anonymous");
    assert!(anonymous.is_anonymous() && !anonymous.administrator());
    expect_refused(login(&auth, &away(), LoginStep::Anonymous));
    let open = ConnectionInfo { allow_anonymous: true, ..away() };
    expect_in(login(&auth, &open, LoginStep::Anonymous), "anonymous");
    expect_refused(login(&auth, &open, password("ann", "wrong")));
    expect_refused(login(&auth, &open, password("anonymous", "")));

    auth.reload(&Config { anonymous_on_loopback: false, ..Config::default() }).unwrap();
    expect_refused(login(&auth, &here(), LoginStep::Anonymous));
}

#[test]
fn wrong_credentials_are_refused_in_every_form() {
    let auth = auth(vec![plain("ann", "secret"), hashed("bob", ARGON2)]);
    for (name, wrong) in
        [("ann", ""), ("ann", "Secret"), ("", "secret"), ("nobody", "secret"), ("bob", "passwore"), ("bob", ""), ("ann\0", "secret")]
    {
        expect_refused(login(&auth, &here(), password(name, wrong)));
        expect_refused(login(&auth, &here(), sasl("PLAIN", format!("\0{name}\0{wrong}").as_bytes())));
    }
    expect_refused(login(&auth, &here(), password("ann", &"x".repeat(5000))));
    expect_refused(login(&auth, &here(), password(&"x".repeat(5000), "secret")));
}

#[test]
fn plain_takes_its_message_at_once_or_after_an_empty_challenge() {
    let auth = auth(vec![plain("ann", "secret")]);
    for good in ["\0ann\0secret", "ann\0ann\0secret"] {
        expect_in(login(&auth, &away(), sasl("PLAIN", good.as_bytes())), "ann");
        let mut state = LoginState::default();
        assert!(expect_challenge(step(&auth, &mut state, &away(), sasl("PLAIN", b""))).is_empty());
        expect_in(step(&auth, &mut state, &away(), LoginStep::Continue { response: good.into() }), "ann");
    }
    for bad in ["x", "\0ann", "ann\0secret", "root\0ann\0secret", "\0ann\0secret\0", "\0\0secret", "\0ann\0"] {
        expect_refused(login(&auth, &away(), sasl("PLAIN", bad.as_bytes())));
    }
    expect_refused(login(&auth, &away(), sasl("PLAIN", b"\0\xff\0secret")));
}

#[test]
fn unknown_mechanisms_and_answers_to_nothing_are_refused() {
    let auth = auth(vec![plain("ann", "secret")]);
    for mechanism in ["", "plain", "SCRAM-SHA-1", "EXTERNAL"] {
        let outcome = login(&auth, &away(), sasl(mechanism, b"x"));
        assert!(matches!(outcome, LoginOutcome::Refused(Refusal::BadMechanism)), "{outcome:?}");
    }
    expect_refused(login(&auth, &away(), LoginStep::Continue { response: b"\0ann\0secret".to_vec() }));
    let outcome = login(&auth, &away(), sasl("SCRAM-SHA-256", b"p=tls-unique,,n=ann,r=abc"));
    assert!(matches!(outcome, LoginOutcome::Refused(Refusal::BadMechanism)), "{outcome:?}");
    expect_refused(login(&auth, &away(), sasl("SCRAM-SHA-256", b"n,a=root,n=ann,r=abc")));
    expect_refused(login(&auth, &away(), sasl("SCRAM-SHA-256", b"garbage")));
}

/// The whole conversation; the principal, if both sides are content.
fn scram(auth: &Auth, info: &ConnectionInfo, client: &mut Client) -> Option<Arc<Principal>> {
    scram_in(auth, &mut LoginState::default(), info, client)
}
fn scram_in(auth: &Auth, state: &mut LoginState, info: &ConnectionInfo, client: &mut Client) -> Option<Arc<Principal>> {
    let challenge = expect_challenge(step(auth, state, info, sasl(client.algorithm.name(), &client.first())));
    match step(auth, state, info, LoginStep::Continue { response: client.last(&challenge) }) {
        LoginOutcome::LoggedIn { principal, last } => client.accepts(&last).then_some(principal),
        LoginOutcome::Refused(Refusal::LoginRefused) => None,
        other => panic!("{other:?}"),
    }
}

/// RFC 7677's `pencil`, as PostgreSQL would store it.
fn stored_pencil() -> String {
    use base64::Engine;
    let salt = base64::engine::general_purpose::STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    super::scram::Verifier::derive(Algorithm::Sha256, b"pencil", &salt, 5000).to_string()
}

#[test]
fn scram_lets_in_who_knows_the_password() {
    let auth = auth(vec![plain("ann", "secret"), hashed("user", &stored_pencil()), hashed("bob", ARGON2)]);
    for (header, name, password) in [("n,,", "ann", "secret"), ("y,,", "user", "pencil"), ("n,a=ann,", "ann", "secret")] {
        let mut client = Client::with_header(header, name, password, "rOprNGfwEbeRWgbNEkqO");
        for _ in 0..2 {
            assert_eq!(scram(&auth, &away(), &mut client).expect("let in").name(), name);
        }
    }
    for (name, password) in [("ann", "Secret"), ("user", "secret"), ("nobody", "secret"), ("bob", "password"), ("anonymous", "x")] {
        assert!(scram(&auth, &away(), &mut Client::new(name, password, "abc")).is_none(), "{name}");
    }
    // The same user by a mechanism that sends the password.
    expect_in(login(&auth, &away(), password("user", "pencil")), "user");
    expect_refused(login(&auth, &away(), password("user", "pencils")));
}

#[test]
fn scram_sha_512_lets_in_who_has_a_password_or_a_verifier_of_its_own() {
    let stored = scram_verifier(Algorithm::Sha512, "other").unwrap();
    assert!(stored.starts_with("SCRAM-SHA-512$10000:") && stored != scram_verifier(Algorithm::Sha512, "other").unwrap(), "{stored}");
    let auth = auth(vec![plain("ann", "secret"), hashed("user", &stored_pencil()), hashed("eve", &stored), hashed("bob", ARGON2)]);
    let by = |algorithm, name, password| {
        let mut client = Client::new(name, password, "abc").by(algorithm);
        let first = scram(&auth, &away(), &mut client).map(|who| who.name().to_owned());
        assert_eq!(first, scram(&auth, &away(), &mut client).map(|who| who.name().to_owned()), "remembered as it was");
        first.is_some()
    };
    for (name, password, sha_256, sha_512) in [
        ("ann", "secret", true, true),
        ("user", "pencil", true, false),
        ("eve", "other", false, true),
        ("bob", "password", false, false),
        ("ann", "wrong", false, false),
        ("eve", "wrong", false, false),
        ("nobody", "secret", false, false),
    ] {
        assert_eq!((by(Algorithm::Sha256, name, password), by(Algorithm::Sha512, name, password)), (sha_256, sha_512), "{name} {password}");
    }
    expect_in(login(&auth, &away(), password("eve", "other")), "eve");
    expect_refused(login(&auth, &away(), password("eve", "others")));
    assert!(matches!(login(&auth, &away(), sasl("SCRAM-SHA-384", b"n,,n=ann,r=abc")), LoginOutcome::Refused(Refusal::BadMechanism)));
}

#[test]
fn scram_never_takes_the_same_message_twice() {
    let auth = auth(vec![plain("ann", "secret")]);
    let (mut state, mut client) = (LoginState::default(), Client::new("ann", "secret", "abc"));
    let first = expect_challenge(step(&auth, &mut state, &away(), sasl("SCRAM-SHA-256", &client.first())));
    let last = client.last(&first);
    expect_in(step(&auth, &mut state, &away(), LoginStep::Continue { response: last.clone() }), "ann");
    expect_refused(step(&auth, &mut state, &away(), LoginStep::Continue { response: last.clone() }));
    let second = expect_challenge(step(&auth, &mut state, &away(), sasl("SCRAM-SHA-256", &client.first())));
    assert_ne!(first, second, "a nonce of its own");
    expect_refused(step(&auth, &mut state, &away(), LoginStep::Continue { response: last }));
}

#[test]
fn a_connection_can_authenticate_again() {
    let auth = auth(vec![plain("ann", "secret"), plain("bob", "hidden")]);
    let mut state = LoginState::default();
    assert!(scram_in(&auth, &mut state, &away(), &mut Client::new("ann", "secret", "abc")).is_some());
    assert!(scram_in(&auth, &mut state, &away(), &mut Client::new("bob", "wrong", "abc")).is_none());
    assert!(scram_in(&auth, &mut state, &away(), &mut Client::new("ann", "secret", "abc")).is_some());
    // A first step in the middle of a conversation starts over.
    expect_challenge(step(&auth, &mut state, &away(), sasl("SCRAM-SHA-256", b"n,,n=ann,r=abc")));
    assert!(scram_in(&auth, &mut state, &away(), &mut Client::new("bob", "hidden", "abc")).is_some());
}

/// Salt and iterations of the server's first message.
fn salt_of(auth: &Auth, info: &ConnectionInfo, name: &str) -> String {
    salt_by(Algorithm::Sha256, auth, info, name)
}
fn salt_by(algorithm: Algorithm, auth: &Auth, info: &ConnectionInfo, name: &str) -> String {
    let first = Client::new(name, "x", "abc").first();
    let challenge = expect_challenge(login(auth, info, sasl(algorithm.name(), &first)));
    let challenge = String::from_utf8(challenge).unwrap();
    challenge[challenge.find(",s=").unwrap()..].to_owned()
}

#[test]
fn names_that_do_not_exist_look_like_names_that_do() {
    let config = Config {
        users: vec![plain("ann", "secret"), hashed("user", &stored_pencil()), hashed("bob", ARGON2)],
        salt_secret: Some([7; 32]),
        ..Config::default()
    };
    let (auth, restarted) = (Auth::new(&config).unwrap(), Auth::new(&config).unwrap());
    let mut iterations = std::collections::HashSet::new();
    for name in ["ann", "bob", "user", "nobody", "nobody2", "nobody3", "nobody4", "nobody5", "nobody6", "nobody7"] {
        let salt = salt_of(&auth, &away(), name);
        assert_eq!(salt, salt_of(&auth, &away(), name), "{name} asked twice");
        assert_eq!(salt, salt_of(&restarted, &away(), name), "{name} asked after a restart");
        assert_eq!(salt.len(), ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".len());
        if name.starts_with("nobody") {
            iterations.insert(salt.split_once(",i=").unwrap().1.to_owned());
        }
    }
    assert_eq!(iterations.len(), 2, "made up in the likeness of different users");
    // By the mechanism of which nobody has a stored verifier all look like users with a password, he who cannot use it too.
    for name in ["ann", "bob", "user", "nobody", "nobody2", "nobody3", "nobody4", "nobody5", "nobody6", "nobody7"] {
        let salt = salt_by(Algorithm::Sha512, &auth, &away(), name);
        assert!(salt.ends_with(",i=10000") && salt == salt_by(Algorithm::Sha512, &restarted, &away(), name), "{name}: {salt}");
    }
    assert_ne!(salt_of(&auth, &away(), "nobody"), salt_of(&auth, &away(), "nobody2"));
    let other = Auth::new(&Config { salt_secret: Some([8; 32]), ..config }).unwrap();
    assert_ne!(salt_of(&auth, &away(), "nobody"), salt_of(&other, &away(), "nobody"));
    assert_eq!(salt_of(&auth, &away(), "user"), salt_of(&other, &away(), "user"));
}

#[test]
fn a_slow_hash_is_computed_elsewhere_and_only_once() {
    let auth = auth(vec![hashed("bob", ARGON2)]);
    let (go, wait) = channel::<()>();
    assert!(auth.worker.submit(Box::new(move |_| wait.recv().unwrap())).is_ok());
    let attempts = [("bob", "password"), ("bob", "wrong"), ("nobody", "password")];
    let pending: Vec<_> =
        attempts.map(|(name, word)| begin(&auth, &mut LoginState::default(), &away(), password(name, word))).into_iter().collect();
    for receiver in &pending {
        assert!(receiver.try_recv().is_err(), "answered without the worker");
    }
    go.send(()).unwrap();
    let outcomes: Vec<_> = pending.iter().map(|receiver| receiver.recv_timeout(SOON).unwrap()).collect();
    let [right, wrong, nobody] = <[_; 3]>::try_from(outcomes).unwrap();
    expect_in(right, "bob");
    expect_refused(wrong);
    expect_refused(nobody);

    // All three are remembered now, so they are answered though the worker is stuck.
    let (go, wait) = channel::<()>();
    assert!(auth.worker.submit(Box::new(move |_| wait.recv().unwrap())).is_ok());
    let again = |name, word| begin(&auth, &mut LoginState::default(), &away(), password(name, word)).try_recv();
    expect_in(again("bob", "password").expect("at once"), "bob");
    expect_refused(again("bob", "wrong").expect("at once"));
    expect_refused(again("nobody", "password").expect("at once"));
    assert!(again("bob", "password ").is_err(), "another password is not remembered");
    go.send(()).unwrap();
}

#[test]
fn a_full_queue_and_an_address_that_keeps_failing_are_told_to_come_back() {
    let auth = Auth::with_queue(&Config { users: vec![hashed("bob", ARGON2)], ..Config::default() }, 2).unwrap();
    let (go, wait) = channel::<()>();
    let (started, has_started) = channel();
    let blocked = auth.worker.submit(Box::new(move |_| {
        started.send(()).unwrap();
        wait.recv().unwrap();
    }));
    assert!(blocked.is_ok());
    has_started.recv_timeout(SOON).unwrap();
    let mut pending: Vec<_> =
        (0..3).map(|n| begin(&auth, &mut LoginState::default(), &away(), password("bob", &format!("wrong{n}")))).collect();
    expect_busy(pending.pop().unwrap().try_recv().expect("at once"));
    go.send(()).unwrap();
    pending.into_iter().for_each(|receiver| expect_refused(receiver.recv_timeout(SOON).unwrap()));

    let outcomes = (0..40).map(|n| login(&auth, &away(), password("bob", &format!("guess{n}"))));
    let first_busy = outcomes.into_iter().position(|o| matches!(o, LoginOutcome::Refused(Refusal::LimitReached(_))));
    assert!(first_busy.is_some_and(|at| at >= 20), "{first_busy:?}");
    expect_in(login(&auth, &from("198.51.100.7"), password("bob", "password")), "bob");
    // The credentials are known now, so even the address that failed gets in with them.
    expect_in(login(&auth, &away(), password("bob", "password")), "bob");
}

#[test]
fn a_reload_forgets_verified_credentials_and_changes_rules() {
    let auth = auth(vec![hashed("bob", ARGON2), plain("ann", "secret")]);
    let bob = expect_in(login(&auth, &away(), password("bob", "password")), "bob");
    let mut state = LoginState::default();
    let mut client = Client::new("ann", "secret", "abc");
    let challenge = expect_challenge(step(&auth, &mut state, &away(), sasl("SCRAM-SHA-256", &client.first())));
    assert_eq!(auth.generation(), 0);

    let users = vec![hashed("bob", &hash_password("changed")), plain("ann", "secret")];
    let rules = vec![Rule::parse(Some("bob"), "read", "a/#").unwrap()];
    auth.reload(&Config { users, rules, ..Config::default() }).unwrap();
    assert_eq!(auth.generation(), 1);
    expect_refused(login(&auth, &away(), password("bob", "password")));
    expect_in(login(&auth, &away(), password("bob", "changed")), "bob");
    expect_refused(step(&auth, &mut state, &away(), LoginStep::Continue { response: client.last(&challenge) }));

    assert!(bob.may_publish(b"a/b", "c1"));
    let now = auth.current(&bob).unwrap();
    assert!(!now.unrestricted() && !now.may_publish(b"a/b", "c1") && now.may_read(b"a/b", "c1"));
    assert!(now.may_subscribe("a/b", "c1") && !now.may_subscribe("#", "c1"));
    assert!(!auth.principal("anonymous").unwrap().may_read(b"a/b", "c1"));

    let bad = Config { users: vec![hashed("bob", "nonsense")], ..Config::default() };
    assert!(auth.reload(&bad).is_err());
    assert_eq!(auth.generation(), 1);
    auth.reload(&Config::default()).unwrap();
    assert!(auth.current(&bob).is_none());
}

#[test]
fn a_login_under_way_at_a_reload_is_held_to_the_new_users() {
    let auth = auth(vec![hashed("bob", ARGON2)]);
    let (go, wait) = channel::<()>();
    assert!(auth.worker.submit(Box::new(move |_| wait.recv().unwrap())).is_ok());
    let pending = begin(&auth, &mut LoginState::default(), &away(), password("bob", "password"));
    auth.reload(&Config { users: vec![plain("ann", "secret")], ..Config::default() }).unwrap();
    go.send(()).unwrap();
    expect_refused(pending.recv_timeout(SOON).unwrap());
}

#[test]
fn dropping_answers_who_still_waits() {
    let auth = auth(vec![hashed("bob", ARGON2)]);
    let (go, wait) = channel::<()>();
    assert!(auth.worker.submit(Box::new(move |_| wait.recv().unwrap())).is_ok());
    let pending = begin(&auth, &mut LoginState::default(), &away(), password("bob", "password"));
    drop(auth);
    go.send(()).unwrap();
    expect_busy(pending.recv_timeout(SOON).unwrap());
}

#[test]
fn nobody_writes_below_sys() {
    let auth = auth(Vec::new());
    let guest = expect_in(login(&auth, &here(), password("guest", "guest")), "guest");
    for topic in ["$SYS", "$SYS/broker/uptime", "$SYS/"] {
        assert!(!guest.may_publish(topic.as_bytes(), ""), "{topic}");
        assert!(guest.may_read(topic.as_bytes(), ""));
    }
    assert!(guest.may_publish(b"$SYSTEM/x", "") && guest.may_publish(b"a", "") && guest.may_subscribe("#", ""));
    let rules = vec![Rule::parse(Some("guest"), "readwrite", "$SYS/#").unwrap()];
    auth.reload(&Config { rules, ..Config::default() }).unwrap();
    assert!(!auth.current(&guest).unwrap().may_publish(b"$SYS/broker/uptime", ""));
}

#[test]
fn mistakes_in_a_configuration_are_named() {
    let error = |users: Vec<User>, rules: Vec<Rule>| Auth::check(&Config { users, rules, ..Config::default() }).unwrap_err().to_string();
    for (users, because) in [
        (vec![plain("", "x")], "empty"),
        (vec![plain("ann", "")], "\"ann\": the password is empty"),
        (vec![plain("ann", &"x".repeat(4097))], "longer than 4096"),
        (vec![plain("a\nb", "x")], "control characters"),
        (vec![plain("*", "x")], "taken"),
        (vec![plain("anonymous", "x")], "taken"),
        (vec![plain("ann", "x"), plain("ann", "y")], "two users"),
        (vec![hashed("ann", "5f4dcc3b5aa765d61d8327deb882cf99")], "password_hash: unknown form"),
    ] {
        let text = error(users, Vec::new());
        assert!(text.contains(because), "{text}");
    }
    let rule = Rule::parse(Some("annn"), "read", "a").unwrap();
    assert!(error(vec![plain("ann", "x")], vec![rule]).contains("no user \"annn\""));
    assert!(!format!("{:?}", plain("ann", "hunter2")).contains("hunter2"));
}

#[test]
fn who_is_proven_by_the_transport_needs_no_password_and_nobody_else_gets_in_by_it() {
    let config = Config {
        users: vec![user("ann", Credential::Plain("secret".into())), user("sensor", Credential::None)],
        loopback_users: vec!["ann".to_owned()],
        ..Config::default()
    };
    let auth = Auth::new(&config).expect("a configuration");
    let proven = |user: &str, info: ConnectionInfo| ConnectionInfo { identity: Some(Arc::new(Identity { user: user.into() })), ..info };
    expect_in(login(&auth, &proven("sensor", away()), sasl("EXTERNAL", b"")), "sensor");
    expect_in(login(&auth, &proven("sensor", away()), sasl("EXTERNAL", b"sensor")), "sensor");
    expect_refused(login(&auth, &proven("sensor", away()), sasl("EXTERNAL", b"ann")));
    expect_refused(login(&auth, &proven("nobody", away()), sasl("EXTERNAL", b"")));
    expect_refused(login(&auth, &proven("ann", away()), sasl("EXTERNAL", b"")));
    expect_in(login(&auth, &proven("ann", here()), sasl("EXTERNAL", b"")), "ann");
    // Nothing was proven.
    let outcome = login(&auth, &away(), sasl("EXTERNAL", b"sensor"));
    assert!(matches!(outcome, LoginOutcome::Refused(Refusal::BadMechanism)), "{outcome:?}");
    // A password is still looked at, and there is none that fits.
    for tried in ["", "secret", "None"] {
        expect_refused(login(&auth, &proven("sensor", away()), password("sensor", tried)));
    }
    expect_in(login(&auth, &proven("sensor", here()), password("ann", "secret")), "ann");
}
