//! Many commands in one turn: some are done at once, the rest after others had their turn.

use crate::support::*;
use broker_api::*;

fn subscribe(pattern: String) -> Control {
    Control::Subscribe(Subscribe {
        owner: OWNER,
        filter: Filter { pattern: pattern.into(), separator: b'/' },
        share: None,
        level: 1,
        identifier: 0,
        no_local: false,
        as_published: false,
        retained: RetainedOn::Always,
        selector: None,
    })
}

/// A hundred filters, a publish among them, all in one turn. Tokens from 1000 on.
fn storm(c: &mut Client) {
    c.turn(|turn, _| {
        for n in 0..100 {
            if n == 60 {
                msg("f/10", "in the middle", 1).put(turn, 0);
            }
            turn.control(Token(1000 + n), subscribe(format!("f/{n}")));
        }
    });
}

fn granted(c: &Client) -> Vec<u32> {
    let reply = |seen: &Seen| if let Seen::Reply(token, Ok(Reply::Subscribed { .. })) = seen { Some(*token) } else { None };
    c.log.iter().filter_map(reply).collect()
}

#[test]
fn a_turn_full_of_commands_is_done_in_slices_and_in_order() {
    let node = Node::new();
    let mut c = Client::transient(&node, "c");
    storm(&mut c);
    assert!(c.session.saturated(), "nothing more is read meanwhile");
    // What comes meanwhile waits behind it.
    c.turn(|turn, _| turn.control(Token(2000), subscribe("late".into())));
    let mut slices = 0;
    while c.session.saturated() {
        slices += 1;
        assert!(granted(&c).is_empty() && slices < 20, "answers leave together");
        c.swap();
    }
    assert!(slices >= 5, "{slices} slices");
    c.poll();
    assert_eq!(granted(&c), (1000..1100).chain([2000]).collect::<Vec<_>>());
    assert!(!c.session.saturated());
    assert_eq!(bodies(&c.take()), ["in the middle"]);
    assert!(c.signals().is_empty(), "it is no matter of blocked publishes: {:?}", c.signals());
}

#[test]
fn the_more_connections_wait_the_less_each_does_in_one_go() {
    let node = Node::new();
    let mut clients: Vec<Client> = (0..200).map(|n| Client::transient(&node, &format!("c{n}"))).collect();
    clients.iter_mut().for_each(storm);
    let slices = |c: &mut Client| (0..100).take_while(|_| c.session.saturated().then(|| c.swap()).is_some()).count();
    let first = slices(&mut clients[0]);
    assert!(first > 30, "{first} slices beside 199 others");
    for c in &mut clients {
        c.poll();
        assert_eq!(granted(c).len(), 100);
    }
    let mut alone = Client::transient(&node, "alone");
    storm(&mut alone);
    let alone = slices(&mut alone);
    assert!(alone < 8, "{alone} slices without others");
}

/// A good-bye behind many commands still says how the session ends.
#[test]
fn what_was_put_off_is_done_before_the_connection_ends() {
    let node = Node::new();
    let mut w = Client::transient(&node, "w");
    w.subscribe("will", 1);
    let mut c = Client::named(&node, "c").will(msg("will", "lost", 1), 0).go();
    c.turn(|turn, _| {
        for n in 0..100 {
            turn.control(Token(1000 + n), subscribe(format!("f/{n}")));
        }
        turn.control(Token(3000), Control::EndOwner(EndOwner { owner: OWNER, expiry: None, parting: PartingFate::Discard }));
    });
    c.session.disconnect();
    assert!(w.poll().take().is_empty(), "the will was not wanted");
    Client::transient(&node, "p").publish("f/99", "x", 1);
    assert_eq!(node.depth("c"), 1, "the last filter stands");
}
