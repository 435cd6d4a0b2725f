//! To be told of queues by their names.

use super::*;
use broker_api::{Filter, Watch};

fn watch(ix: u32, pattern: &str, at_first: u32) -> Control {
    let names = Filter { pattern: pattern.into(), separator: b'.' };
    Control::Watch(Watch { owner: OwnerIx(1), watch: ConsumerIx(ix), names, at_first })
}

fn found(c: &mut Client, rig: &Rig) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> =
        c.all(rig).into_iter().filter_map(|got| if let Got::Found(watch, name) = got { Some((watch, name)) } else { None }).collect();
    found.sort();
    found
}

#[test]
fn queues_that_are_there_and_those_that_come() {
    let rig = Rig::new();
    let (mut a, mut b) = (rig.client(), rig.client());
    for name in ["a.b", "a.c.d", "b.b"] {
        b.queue(&rig, name, durable());
    }
    b.queue(&rig, "a.mine", QueueSpec { exclusive: true, ..QueueSpec::default() });
    a.ok(&rig, watch(1, "a.#", 10));
    a.ok(&rig, watch(2, "*.b", 1));
    let told = found(&mut a, &rig);
    // Of the second only one of two was asked for, and the first comes first.
    assert_eq!(told, [(1, "a.b".to_owned()), (1, "a.c.d".to_owned()), (2, "a.b".to_owned())]);
    b.queue(&rig, "x.b", durable());
    b.queue(&rig, "a.x", durable());
    b.queue(&rig, "a.also-mine", QueueSpec { exclusive: true, ..QueueSpec::default() });
    assert_eq!(found(&mut a, &rig), [(1, "a.x".to_owned()), (2, "x.b".to_owned())]);
    // What is there is not told of again when somebody declares it again; what is made anew is.
    b.queue(&rig, "a.x", durable());
    b.ok(&rig, Control::DeleteQueue { owner: OwnerIx(1), name: "a.b".into(), if_unused: false, if_empty: false });
    b.queue(&rig, "a.b", durable());
    assert_eq!(found(&mut a, &rig), [(1, "a.b".to_owned()), (2, "a.b".to_owned())]);
    a.ok(&rig, Control::Cancel { consumer: ConsumerIx(1) });
    b.queue(&rig, "a.y", durable());
    assert_eq!(found(&mut a, &rig), []);
    drop(a);
    b.queue(&rig, "y.b", durable());
}
