//! References in page files: pages that are written again with what came behind the part that is away, and what is redone to them.

use super::named::*;
use super::support::*;
use broker::{Promotion, Standby};
use broker_api::*;
use journal::sim::SimStorage;
use journal::storage::Storage;
use journal::{next_batch, Lsn, Meeting, Progress, Receiver};
use std::sync::Arc;

fn texts(from: u32, to: u32) -> Vec<String> {
    (from..to).map(|n| format!("m{n}")).collect()
}

/// A queue with `parts` times ten messages and a checkpoint behind each ten.
fn written_in_parts(node: &Node, parts: u32) -> Client {
    let mut p = local(node);
    p.declare("q", durable());
    for part in 0..parts {
        p.put_all("q", texts(part * 10, part * 10 + 10));
        node.checkpoint();
    }
    p
}

#[test]
fn a_page_is_filled_up_over_many_checkpoints() {
    let node = Node::new();
    let mut p = written_in_parts(&node, 1);
    let before = node.core.journal_stats().objects;
    for part in 1..20 {
        p.put_all("q", texts(part * 10, part * 10 + 10));
        node.checkpoint();
    }
    assert_eq!(node.core.pages_merged(), 19);
    assert_eq!(node.core.journal_stats().objects, before, "all of it is in one object");
    drop(p);
    let node = node.restart();
    node.check();
    let mut c = local(&node);
    c.consume(consume("q", 1, 1000));
    assert_eq!(bodies(&c.take()), texts(0, 200));
}

#[test]
fn what_comes_behind_the_last_checkpoint_is_redone_behind_a_page_that_is_away() {
    let node = Node::new();
    let mut p = written_in_parts(&node, 2);
    p.put_all("q", texts(20, 25));
    drop(p);
    let node = node.restart();
    node.check();
    // And written again, with what of it is away, before anybody reads it.
    node.checkpoint();
    assert_eq!(node.core.pages_merged(), 1);
    let node = node.restart();
    let mut c = local(&node);
    c.consume(consume("q", 1, 1000));
    assert_eq!(bodies(&c.take()), texts(0, 25));
    node.check();
}

#[test]
fn what_is_settled_of_either_part_stays_settled() {
    let node = Node::new();
    let mut p = written_in_parts(&node, 2);
    p.put_all("q", texts(20, 30));
    let mut c = local(&node);
    c.consume(consume("q", 1, 1000));
    let got = c.take();
    assert_eq!(bodies(&got), texts(0, 30));
    c.ack(&[got[3].clone(), got[15].clone(), got[22].clone()]);
    drop(c);
    node.settle();
    node.checkpoint();
    p.put_all("q", texts(30, 40));
    drop(p);
    let node = node.restart();
    let left: Vec<String> = texts(0, 40).into_iter().filter(|t| !["m3", "m15", "m22"].contains(&t.as_str())).collect();
    let mut c = local(&node);
    c.consume(consume("q", 1, 5));
    let first = c.take();
    assert_eq!(bodies(&first), left[..5]);
    c.ack(&first);
    drop(c);
    node.settle();
    node.checkpoint();
    let node = node.restart();
    node.check();
    let mut c = local(&node);
    c.consume(consume("q", 1, 1000));
    assert_eq!(bodies(&c.take()), left[5..]);
}

#[test]
fn a_queue_of_many_small_parts_is_purged_and_deleted_whole() {
    let node = Node::new();
    let mut p = written_in_parts(&node, 3);
    let token = p.control(Control::Purge { owner: OWNER, queue: "q".into() });
    assert_eq!(p.reply(token), Ok(Reply::Messages(30)));
    assert_eq!(p.ready("q"), Some(0));
    p.put_all("q", texts(0, 3));
    node.checkpoint();
    drop(p);
    let node = node.restart();
    node.check();
    let mut c = local(&node);
    c.consume(consume("q", 1, 1000));
    assert_eq!(bodies(&c.take()), texts(0, 3));
}

fn damage_pages(storage: &SimStorage) {
    for name in storage.list("p").unwrap() {
        let file = storage.open(&format!("p/{name}")).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        // Objects of class 3: their class stands behind the magic and the length, and the header has 29 bytes.
        let found = (0..bytes.len() - 40).filter(|at| bytes[*at..].starts_with(b"CkO1") && bytes[at + 8] == 3);
        for at in found.collect::<Vec<_>>() {
            file.write_at(&[bytes[at + 40] ^ 1], at as u64 + 40).unwrap();
        }
    }
}

#[test]
fn a_damaged_page_takes_only_its_own_messages_along() {
    let node = Setup { damaged: true, ..Setup::new() }.start();
    let mut p = written_in_parts(&node, 1);
    damage_pages(&node.setup.storage);
    p.put_all("q", texts(10, 20));
    node.checkpoint();
    node.check();
    assert_eq!((p.ready("q"), node.core.pages_merged()), (Some(10), 0));
    drop(p);
    let node = node.restart();
    let mut c = local(&node);
    c.consume(consume("q", 1, 1000));
    assert_eq!(bodies(&c.take()), texts(10, 20));
    node.check();
}

struct Ignored;

impl Progress for Ignored {
    fn written(&self, _: Lsn) {}
}

fn follow(setup: &Setup) -> (Standby, Receiver) {
    Standby::open(Arc::new(setup.storage.clone()), setup.journal.clone(), setup.config.clone()).expect("the store opens")
}

/// A primary that has lost messages writes no digests that would have its standby throw away the only store that still has them.
#[test]
fn a_damaged_page_of_the_primary_is_no_difference_of_the_standby() {
    let setup = Setup { damaged: true, ..Setup::new() };
    let (standby, receiver) = follow(&setup);
    let epoch = receiver.promised() + 1;
    let promotion = Promotion { receiver, epoch, permitted: Lsn(u64::MAX), progress: Some(Arc::new(Ignored)) };
    let (core, steps) = standby.promote_stepped(promotion, Box::new(|_| {})).expect("it takes over");
    core.journal().permit(Lsn(u64::MAX));
    let node = Node { core, steps: Some(Arc::new(steps)), setup: setup.clone(), failed: Arc::default() };
    let mut p = written_in_parts(&node, 1);
    damage_pages(&setup.storage);
    for part in 1..4 {
        p.put_all("q", texts(part * 10, part * 10 + 10));
        node.checkpoint();
    }
    assert_eq!(p.ready("q"), Some(30), "ten are lost");

    let other = Setup { storage: setup.storage.beside(2), ..setup.clone() };
    drop(follow(&other));
    journal::start_over(Arc::new(other.storage.clone()), node.core.journal().cluster(), &other.journal).expect("it is empty");
    let (mut standby, mut receiver) = follow(&other);
    let Ok(Meeting::From(mut reader)) = node.core.journal().meet(receiver.position()) else { panic!("from the beginning") };
    let mut bytes = Vec::new();
    reader.read(&mut bytes, 1 << 24).expect("read");
    let mut rest = &bytes[..];
    while let Some((batch, _)) = next_batch(rest) {
        receiver.append(epoch, batch).expect("appended");
        rest = &rest[batch.len()..];
    }
    receiver.sync().expect("synced");
    standby.redo_up_to(node.core.journal().committed_lsn()).expect("redone");
    let compared = standby.compared();
    assert!(compared.digests > 0 && compared.differs.is_none(), "{compared:?}");
    assert_eq!(standby.counts(), (1, 40));
}
