//! Messages with several routing keys.

use super::*;
use broker_api::HEAD_MANDATORY;

fn put(c: &mut Client, exchange: &str, key: &str, more: &[&str], body: &str, flags: u16) {
    let keys = c.turn.intern_keys(more.iter().map(|key| key.as_bytes()));
    c.put_with(exchange, key, body, |head| {
        head.keys = keys;
        head.flags |= flags;
    });
}

#[test]
fn each_destination_of_any_key_gets_one_copy() {
    for in_transaction in [false, true] {
        let rig = Rig::new();
        let mut c = rig.client();
        for queue in ["a", "b", "c"] {
            c.queue(&rig, queue, durable());
            c.bind(&rig, "amq.direct", queue, queue);
        }
        c.bind(&rig, "amq.direct", "b", "a");
        c.bind(&rig, "amq.topic", "c", "t.#");
        if in_transaction {
            c.scope(Some(1));
        }
        put(&mut c, "amq.direct", "a", &["b", "nowhere", "b"], "1", 0);
        // A neighbour with the first key alone takes the first key's way, and the other way round.
        c.put("amq.direct", "a", "2");
        put(&mut c, "amq.direct", "a", &["c"], "3", 0);
        put(&mut c, "", "a", &["c"], "4", 0);
        put(&mut c, "amq.topic", "x", &["t.1", "t.2"], "5", 0);
        // Mandatory asks for any of them.
        put(&mut c, "amq.direct", "nowhere", &["a"], "6", HEAD_MANDATORY);
        put(&mut c, "amq.direct", "nowhere", &["nor here"], "7", HEAD_MANDATORY);
        if in_transaction {
            c.scope(None);
            c.put_control(Control::Commit { owner: OwnerIx(1), tx: broker_api::TxIx(1) });
        }
        c.submit(&rig);
        let got = c.all(&rig);
        assert_eq!(got.iter().filter(|g| matches!(g, Got::Returned(_))).collect::<Vec<_>>(), [&Got::Returned(7)], "{got:?}");
        drop(c);
        let rig = rig.crash(Crash::PowerCut);
        let mut c = rig.client();
        for (queue, bodies) in [("a", &["1", "2", "3", "4", "6"][..]), ("b", &["1", "2", "3", "6"]), ("c", &["3", "4", "5"])] {
            let found: Vec<String> = std::iter::from_fn(|| c.take(&rig, queue).map(|m| m.1)).collect();
            assert_eq!(found, bodies, "{queue}, in a transaction: {in_transaction}");
        }
    }
}

#[test]
fn dead_letters_go_by_all_keys_unless_the_queue_replaces_them() {
    for replaced in [false, true] {
        let rig = Rig::new();
        let mut c = rig.client();
        let key = replaced.then(|| "dead".to_owned());
        let spec = QueueSpec { dead_letter_exchange: Some("amq.direct".into()), dead_letter_key: key, ..durable() };
        let source = c.queue(&rig, "source", spec);
        for queue in ["by first", "by second", "dead"] {
            c.queue(&rig, queue, durable());
            c.bind(&rig, "amq.direct", queue, queue.trim_start_matches("by "));
        }
        c.bind(&rig, "amq.fanout", "source", "");
        put(&mut c, "amq.fanout", "first", &["second"], "m", 0);
        c.submit(&rig);
        let rig = {
            drop(c);
            rig.crash(Crash::Kill)
        };
        let mut c = rig.client();
        let (seq, ..) = c.take(&rig, "source").expect("there, read back from the log");
        c.settle(&rig, source, seq, Outcome::Rejected);
        let found = ["by first", "by second", "dead"].map(|queue| c.counts(&rig, queue).map_or(0, |c| c.0));
        assert_eq!(found, if replaced { [0, 0, 1] } else { [1, 1, 0] });
    }
}
