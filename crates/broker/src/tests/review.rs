//! Subscriptions under rules that change.

use super::*;
use crate::auth::{self, Credential, Permission, Rule, TopicPermission, User};
use broker_api::{Attach, CreditTo, EndOwner, Expiry, Filter, GroupIx, PartingFate, RetainedOn, SessionName, Subscribe};

const OWNER: OwnerIx = OwnerIx(2);

/// Rules of `[user, access, topic]`; `p` is not among them and may publish anything.
fn rules(rules: &[[&str; 3]]) -> auth::Config {
    let user = |name: &str| User {
        name: name.into(),
        credential: Credential::Plain("pw".into()),
        tags: Vec::new(),
        connections_max: None,
        channels_max: None,
    };
    let rule = |[user, access, topic]: &[&str; 3]| Rule::parse(Some(user), access, topic).expect("a rule");
    auth::Config {
        users: ["u", "v", "p"].map(user).into(),
        rules: rules.iter().chain([&["p", "write", "#"]]).map(rule).collect(),
        ..auth::Config::default()
    }
}

fn rig(auth: auth::Config) -> Rig {
    Rig::with(SimStorage::new(7), Config { auth, ..config() })
}

/// `user` comes to the session `name`, which stays when he goes.
fn come(rig: &Rig, user: &str, name: &str) -> Client {
    let mut c = rig.stranger();
    let step = LoginStep::Password { user: user.into(), password: b"pw".to_vec() };
    c.ok(rig, Control::Login(Login { vhost: None, step }));
    let attach = Attach {
        owner: OWNER,
        session: SessionName::new(name),
        consumer: ConsumerIx(9),
        group: GroupIx(9),
        window_bytes: None,
        clean: false,
        expiry: Expiry::Never,
        parting: None,
    };
    c.turn.credit(CreditTo::Group(GroupIx(9)), 100);
    c.ok(rig, Control::Attach(attach));
    c.turn.credit(CreditTo::Group(GroupIx(9)), 100);
    c.submit(rig);
    c
}

fn subscribe(c: &mut Client, rig: &Rig, filter: &str, share: Option<&str>) {
    let subscribe = Subscribe {
        owner: OWNER,
        filter: Filter { pattern: filter.into(), separator: b'/' },
        share: share.map(Into::into),
        level: 1,
        identifier: 0,
        no_local: false,
        as_published: false,
        retained: RetainedOn::Always,
        selector: None,
    };
    c.ok(rig, Control::Subscribe(subscribe));
}

fn leave(c: &mut Client, rig: &Rig) {
    c.ok(rig, Control::EndOwner(EndOwner { owner: OWNER, expiry: None, parting: PartingFate::Discard }));
}

/// Somebody who publishes `topic`, with the topic as body.
struct Publisher(Client);

impl Publisher {
    fn new(rig: &Rig) -> Publisher {
        let mut c = rig.stranger();
        let step = LoginStep::Password { user: "p".into(), password: b"pw".to_vec() };
        c.ok(rig, Control::Login(Login { vhost: None, step }));
        c.ok(rig, Control::Owner { owner: OwnerIx(1), fail_stop: false, channel: 0 });
        Publisher(c)
    }

    fn publish(&mut self, rig: &Rig, topics: &[&str]) {
        for topic in topics {
            self.0.put_with("", topic, topic, |head| (head.topic, head.separator) = (true, b'/'));
        }
        self.0.submit(rig);
        let got = self.0.all(rig);
        assert!(!got.iter().any(|got| matches!(got, Got::Refused(..))), "{got:?}");
    }
}

const BOTH: &[[&str; 3]] = &[["u", "read", "a/#"], ["u", "read", "b/#"]];

#[test]
fn what_is_not_allowed_any_more_rests_and_goes_on_when_it_is() {
    let rig = rig(rules(BOTH));
    let mut c = come(&rig, "u", "s");
    subscribe(&mut c, &rig, "a/#", None);
    subscribe(&mut c, &rig, "b/+", None);
    let mut p = Publisher::new(&rig);
    p.publish(&rig, &["a/1", "b/1"]);
    assert_eq!(c.bodies(&rig), ["a/1", "b/1"]);
    rig.core.reload_users(&rules(&[["u", "read", "b/#"]])).expect("right");
    p.publish(&rig, &["a/2", "b/2"]);
    assert_eq!(c.bodies(&rig), ["b/2"]);
    rig.core.reload_users(&rules(BOTH)).expect("right");
    p.publish(&rig, &["a/3", "b/3"]);
    assert_eq!(c.bodies(&rig), ["a/3", "b/3"]);
    // One that rests can be ended, and then does not come back.
    rig.core.reload_users(&rules(&[["u", "read", "b/#"]])).expect("right");
    let filter = Filter { pattern: "a/#".into(), separator: b'/' };
    let ended = c.ok(&rig, Control::Unsubscribe { owner: OWNER, filter, share: None });
    assert_eq!(ended, Reply::Unsubscribed { existed: true });
    rig.core.reload_users(&rules(BOTH)).expect("right");
    p.publish(&rig, &["a/4", "b/4"]);
    assert_eq!(c.bodies(&rig), ["b/4"]);
}

#[test]
fn so_do_those_of_sessions_whose_client_is_away() {
    let rig = rig(rules(BOTH));
    let mut c = come(&rig, "u", "s");
    subscribe(&mut c, &rig, "a/#", None);
    subscribe(&mut c, &rig, "b/#", None);
    leave(&mut c, &rig);
    let mut p = Publisher::new(&rig);
    p.publish(&rig, &["a/1"]);
    rig.core.reload_users(&rules(&[["u", "read", "b/#"]])).expect("right");
    p.publish(&rig, &["a/2", "b/2"]);
    // What came while it was allowed is the session's.
    assert_eq!(come(&rig, "u", "s").bodies(&rig), ["a/1", "b/2"]);
    let mut without = rules(BOTH);
    without.users.retain(|user| user.name != "u");
    without.rules.clear();
    rig.core.reload_users(&without).expect("right");
    p.publish(&rig, &["b/3"]);
    // What was not acknowledged comes again, but nothing new did: u is no user any more.
    assert_eq!(come(&rig, "v", "s").bodies(&rig), ["a/1", "b/2"]);
}

#[test]
fn and_those_of_a_client_whose_user_is_gone() {
    let rig = rig(rules(BOTH));
    let mut c = come(&rig, "u", "s");
    subscribe(&mut c, &rig, "a/#", None);
    let mut without = rules(&[]);
    without.users.retain(|user| user.name != "u");
    rig.core.reload_users(&without).expect("right");
    assert!(c.all(&rig).contains(&Got::Kicked));
    let mut p = Publisher::new(&rig);
    p.publish(&rig, &["a/1"]);
    leave(&mut c, &rig);
    p.publish(&rig, &["a/2"]);
    rig.core.reload_users(&rules(BOTH)).expect("right");
    p.publish(&rig, &["a/3"]);
    assert_eq!(come(&rig, "u", "s").bodies(&rig), ["a/3"]);
}

/// The session is known by the client's name alone, so somebody else may come to it.
#[test]
fn who_comes_to_a_session_gets_what_he_may_have_himself() {
    let rig = rig(rules(&[["u", "read", "a/#"], ["v", "read", "b/#"]]));
    let mut u = come(&rig, "u", "s");
    subscribe(&mut u, &rig, "a/#", None);
    leave(&mut u, &rig);
    let mut v = come(&rig, "v", "s");
    let mut p = Publisher::new(&rig);
    p.publish(&rig, &["a/1", "b/1"]);
    assert_eq!(v.bodies(&rig), [""; 0]);
    subscribe(&mut v, &rig, "b/#", None);
    p.publish(&rig, &["a/2", "b/2"]);
    assert_eq!(v.bodies(&rig), ["b/2"]);
    leave(&mut v, &rig);
    let mut u = come(&rig, "u", "s");
    p.publish(&rig, &["a/3", "b/3"]);
    // What was sent and not acknowledged is the session's, and comes again.
    assert_eq!(u.bodies(&rig), ["b/2", "a/3"]);
}

#[test]
fn a_member_that_rests_leaves_its_share_to_the_others_and_the_last_leaves_it_as_it_is() {
    let rig = rig(rules(&[["u", "read", "a/#"], ["v", "read", "a/#"]]));
    let (mut u, mut v) = (come(&rig, "u", "1"), come(&rig, "v", "2"));
    subscribe(&mut u, &rig, "a/#", Some("g"));
    subscribe(&mut v, &rig, "a/#", Some("g"));
    let mut p = Publisher::new(&rig);
    rig.core.reload_users(&rules(&[["v", "read", "a/#"]])).expect("right");
    p.publish(&rig, &["a/1", "a/2", "a/3"]);
    assert_eq!((u.bodies(&rig).len(), v.bodies(&rig).len()), (0, 3));
    leave(&mut v, &rig);
    p.publish(&rig, &["a/4"]);
    rig.core.reload_users(&rules(&[])).expect("right");
    p.publish(&rig, &["a/5"]);
    rig.core.reload_users(&rules(&[["v", "read", "a/#"]])).expect("right");
    p.publish(&rig, &["a/6"]);
    let mut v = come(&rig, "v", "2");
    let got = v.bodies(&rig);
    assert!(got.ends_with(&["a/4".into(), "a/6".into()]) && !got.contains(&"a/5".into()), "{got:?}");
    rig.core.reload_users(&rules(&[["u", "read", "a/#"]])).expect("right");
    p.publish(&rig, &["a/7"]);
    assert!(u.bodies(&rig).contains(&"a/7".into()) && v.bodies(&rig).is_empty());
    rig.core.recount().expect("counters are right");
}

#[test]
fn permissions_and_topic_permissions_count_too() {
    let all = |may: &str| {
        let of = |user, read| Permission::parse(user, "/", ".*", ".*", read).expect("patterns");
        auth::Config { permissions: vec![of("u", may), of("p", "")], ..auth::Config { rules: Vec::new(), ..rules(&[]) } }
    };
    let rig = rig(all(".*"));
    let mut c = come(&rig, "u", "s");
    subscribe(&mut c, &rig, "a/#", None);
    let mut p = Publisher::new(&rig);
    let mut seen = |rig: &Rig, config: auth::Config| {
        rig.core.reload_users(&config).expect("right");
        p.publish(rig, &["a/1"]);
        c.bodies(rig).len()
    };
    assert_eq!(seen(&rig, all("^q$")), 0, "no word of amq.topic");
    assert_eq!(seen(&rig, all(".*")), 1);
    let narrowed = |read| vec![TopicPermission::parse("u", "/", "amq.topic", ".*", read).expect("patterns")];
    assert_eq!(seen(&rig, auth::Config { topic_permissions: narrowed("^b"), ..all(".*") }), 0);
    assert_eq!(seen(&rig, auth::Config { topic_permissions: narrowed("^a"), ..all(".*") }), 1);
}

/// Whoever writes other rules may as well restart.
#[test]
fn a_start_under_other_rules_lets_rest_what_they_do_not_allow() {
    let before = rig(rules(BOTH));
    let mut c = come(&before, "u", "s");
    subscribe(&mut c, &before, "a/#", None);
    subscribe(&mut c, &before, "b/#", None);
    let Rig { storage, core, steps } = before;
    storage.crash(Crash::PowerCut);
    drop((core, steps));
    let rig = Rig::with(storage, Config { auth: rules(&[["u", "read", "b/#"]]), ..config() });
    rig.core.review_subscriptions();
    let mut p = Publisher::new(&rig);
    p.publish(&rig, &["a/1", "b/1"]);
    assert_eq!(come(&rig, "u", "s").bodies(&rig), ["b/1"]);
}
