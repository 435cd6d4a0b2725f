//! Owners that stop at a refusal.

use super::*;
use broker_api::{Credit, CreditTo, EndOwner, GroupIx, PartingFate};

fn refused_serials(got: &[Got]) -> Vec<(u64, bool)> {
    let ended = |why: &Refusal| matches!(why, Refusal::OwnerEnded);
    got.iter().filter_map(|g| if let Got::Refused(serial, why) = g { Some((*serial, ended(why))) } else { None }).collect()
}

#[test]
fn what_stands_behind_a_refused_publish_is_skipped_in_this_turn_and_in_the_next() {
    let rig = Rig::new();
    let mut c = rig.client_of(true);
    let q = c.queue(&rig, "q", durable());
    c.publish(&rig, "", "q", "one");
    c.publish(&rig, "", "q", "two");
    let (first, ..) = c.take(&rig, "q").expect("one");
    let (second, ..) = c.take(&rig, "q").expect("two");
    // Before the refusal: settled and published. Behind it: neither.
    c.put_settle(q, first, Outcome::Accepted);
    c.put("", "q", "three");
    c.put("nowhere", "q", "lost");
    c.put_settle(q, second, Outcome::Accepted);
    c.put("", "q", "four");
    c.put("", "q", "five");
    c.turn.fence();
    let purge = c.put_control(Control::Purge { owner: OwnerIx(1), queue: "q".into() });
    let purged_by_other = c.put_control(Control::Owner { owner: OwnerIx(2), fail_stop: true, channel: 0 });
    c.got.clear();
    c.submit(&rig);
    let got = c.all(&rig);
    assert_eq!(refused_serials(&got), [(4, false), (5, true), (6, true)], "{got:?}");
    assert!(matches!(&got[..], [Got::Refused(4, Refusal::NotFound { .. }), ..,]), "the reason comes first: {got:?}");
    assert!(got.contains(&Got::Reply(purge, Err(Refusal::OwnerEnded))) && got.contains(&Got::Reply(purged_by_other, Ok(Reply::Ok))));
    let done = got.iter().position(|g| *g == Got::Done(7)).expect("the fence is done");
    let last_refusal = got.iter().rposition(|g| matches!(g, Got::Refused(..))).expect("seen above");
    assert!(last_refusal < done);
    // The next turn as well, and only this owner.
    c.put("", "q", "six");
    c.put_with("", "q", "of another", |head| head.owner = 2);
    c.submit(&rig);
    assert_eq!(refused_serials(&c.all(&rig)), [(8, true)]);
    // Its lease is still its own, and comes back when it ends.
    let mut other = rig.client();
    assert_eq!(other.counts(&rig, "q"), Some((2, 0)));
    c.put_control(Control::EndOwner(EndOwner { owner: OwnerIx(1), expiry: None, parting: PartingFate::Discard }));
    c.submit(&rig);
    let bodies: Vec<String> = std::iter::from_fn(|| other.take(&rig, "q").map(|m| m.1)).collect();
    assert_eq!(bodies, ["two", "three", "of another"]);
    rig.core.recount().expect("counters are right");
}

#[test]
fn a_refused_command_stops_and_a_full_queue_does_not() {
    let rig = Rig::new();
    let mut c = rig.client_of(true);
    c.queue(&rig, "strict", QueueSpec { max_length: Some(1), reject_at_bound: true, ..durable() });
    c.put("", "strict", "1");
    c.put("", "strict", "2");
    c.put_with("", "nowhere at all", "3", |head| head.flags |= broker_api::HEAD_MANDATORY);
    c.submit(&rig);
    let got = c.all(&rig);
    assert!(got.contains(&Got::Refused(2, Refusal::QueueFull)) && got.contains(&Got::Returned(3)), "{got:?}");
    let passive = Declare::Queue { owner: OwnerIx(1), name: "none".into(), spec: QueueSpec::default(), passive: true };
    let refused = c.put_control(Control::Declare(passive));
    c.put("", "strict", "4");
    let skipped = c.put_control(Control::Take(Take { owner: OwnerIx(1), queue: "strict".into(), max: 1, settled: true }));
    c.submit(&rig);
    let got = c.all(&rig);
    let replies: Vec<&Got> = got.iter().filter(|g| matches!(g, Got::Reply(..))).collect();
    assert!(
        matches!(replies[..], [Got::Reply(a, Err(Refusal::NotFound { .. })), Got::Reply(b, Err(Refusal::OwnerEnded))] if (*a, *b) == (refused, skipped))
    );
    assert!(got.contains(&Got::Refused(4, Refusal::OwnerEnded)));
    // An owner of the ordinary kind goes on after the same refusal.
    let mut plain = rig.client();
    assert!(plain.ask(&rig, Control::Purge { owner: OwnerIx(1), queue: "none".into() }).is_err());
    assert_eq!(plain.take(&rig, "strict").map(|m| m.1).as_deref(), Some("1"));
}

#[test]
fn a_stopped_owner_is_handed_nothing_more_and_its_groups_stay() {
    let rig = Rig::new();
    let mut c = rig.client_of(true);
    c.queue(&rig, "q", durable());
    c.ok(&rig, Control::Group { group: GroupIx(1), credit: 0 });
    c.ok(&rig, Control::Consume(Consume { mode: Mode::Settled, ..consume("q", 1, 0) }));
    c.ok(&rig, Control::Owner { owner: OwnerIx(2), fail_stop: true, channel: 0 });
    c.ok(&rig, Control::Consume(Consume { owner: OwnerIx(2), group: Some(GroupIx(1)), ..consume("q", 2, u32::MAX) }));
    c.publish(&rig, "", "q", "m");
    c.put("nowhere", "", "x");
    // Credit behind the refusal: what is settled as it leaves must not leave for a consumer whom nobody listens to.
    c.turn.entries.push(Entry::Credit(Credit { to: CreditTo::Consumer(ConsumerIx(1)), add: 10, bytes: 0, drain: false }));
    c.submit(&rig);
    assert_eq!(c.bodies(&rig), Vec::<String>::new());
    assert_eq!(rig.client().counts(&rig, "q"), Some((1, 1)), "the other owner's consumer is there");
    c.turn.credit(CreditTo::Group(GroupIx(1)), 1);
    c.submit(&rig);
    assert_eq!(c.bodies(&rig), ["m"]);
}
