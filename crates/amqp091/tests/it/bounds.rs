//! What a client may make a connection hold.

use crate::rig::Rig;
use amqp091::Config;

const LARGEST: usize = 8 << 20;

/// All but four bytes of a message of the largest size, on a channel that is opened for it. Answers what the server said.
fn begin(rig: &mut Rig, channel: usize) -> Vec<String> {
    rig.step(&format!("a channel.open ch={channel}"));
    rig.lines.clear();
    rig.step(&format!("a basic.publish ch={channel} routing_key=q ; content_header ch={channel} size={LARGEST}"));
    rig.step(&format!("a content_body ch={channel} body=abcd*{}", LARGEST / 4 - 1));
    std::mem::take(&mut rig.lines)
}

/// Each channel may hold the parts of one message of the largest size, but together they hold no more than one and 32 MiB.
#[test]
fn contents_that_have_not_come_whole_are_bounded_over_all_channels() {
    let mut rig = Rig::with(Config { max_message_size: LARGEST as u64, ..Config::default() }, usize::MAX);
    rig.step("a connect");
    for channel in 2..=5 {
        assert_eq!(begin(&mut rig, channel), [""; 0]);
    }
    // What a failed channel held counts no longer, nor does what has come whole.
    rig.step("a queue.declare ch=1 queue=nope passive ; basic.publish ch=1 routing_key=q ; content_header ch=1 size=4000000");
    assert!(rig.lines[0].contains("NOT_FOUND"), "{:?}", rig.lines);
    rig.step("a channel.close_ok ch=1");
    rig.step("a content_body ch=5 body=1234");
    assert_eq!(begin(&mut rig, 6), [""; 0]);
    let said = begin(&mut rig, 7);
    assert!(said[0].contains("reply_code=506 reply_text=\"RESOURCE_ERROR - messages that have not come whole take "), "{said:?}");
    assert_eq!(said[1], "a| closed by us");
}

/// Headers count too: many channels with a large header each.
#[test]
fn the_headers_of_contents_that_have_not_come_whole_count() {
    let mut rig = Rig::with(Config { max_message_size: 1 << 20, ..Config::default() }, usize::MAX);
    rig.step("a connect");
    for channel in 2..400 {
        rig.step(&format!("a channel.open ch={channel}"));
        rig.lines.clear();
        rig.step(&format!(
            "a basic.publish ch={channel} routing_key=q ; content_header ch={channel} size=9 headers=h:S{}",
            "x".repeat(100_000)
        ));
        if let [said, closed] = &rig.lines[..] {
            assert!(said.contains("RESOURCE_ERROR") && closed == "a| closed by us", "{said} {closed}");
            assert!((300..360).contains(&channel), "{channel} channels");
            return;
        }
        assert_eq!(rig.lines, [""; 0]);
    }
    panic!("no bound over 40 MB");
}
