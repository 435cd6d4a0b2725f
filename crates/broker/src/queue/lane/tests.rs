use super::*;

fn entry() -> Entry {
    Entry { status: Status::Ready, ..Entry::gone() }
}

#[test]
fn positions_survive_removal_and_pages_vanish() {
    let mut lane = Lane::starting_at(0);
    for _ in 0..1000 {
        lane.push(entry());
    }
    assert_eq!(lane.pages.len(), 4);
    for position in 0..256 {
        assert!(lane.remove(position).is_some());
        assert!(lane.remove(position).is_none());
    }
    assert_eq!(lane.pages.len(), 3);
    assert_eq!(lane.dropped, vec![0]);
    assert_eq!(lane.next_ready(0), Next::Ready(256));
    assert!(lane.get_mut(999).is_some_and(|e| e.status == Status::Ready));
}

#[test]
fn a_gap_costs_no_pages() {
    let mut lane = Lane::starting_at(5);
    lane.push(entry());
    lane.next += 1 << 20;
    let far = lane.push(entry());
    assert_eq!(lane.pages.len(), 2);
    assert_eq!(lane.next_ready(6), Next::Ready(far));
    assert!(lane.remove(5).is_some());
    assert_eq!(lane.pages.len(), 1);
}

#[test]
fn insert_is_idempotent_and_takes_any_order() {
    let mut lane = Lane::starting_at(0);
    assert!(lane.insert(300, entry()));
    assert!(lane.insert(290, entry()));
    assert!(lane.insert(5, entry()));
    assert!(!lane.insert(290, entry()));
    assert_eq!(lane.iter().map(|(p, _)| p).collect::<Vec<_>>(), vec![5, 290, 300]);
    assert_eq!(lane.next, 301);
}

/// As a checkpoint has it: ready, and its record in the file.
fn logged() -> Entry {
    Entry { durable: true, bytes: 5, lsn: 9, ..entry() }
}

fn lane_of(n: u64) -> Lane {
    let mut lane = Lane::starting_at(0);
    (0..n).for_each(|_| {
        lane.push(logged());
    });
    lane.pages.iter_mut().for_each(|p| p.dirty = false);
    lane
}

fn positions(lane: &Lane) -> Vec<u64> {
    lane.iter().map(|(position, _)| position).collect()
}

#[test]
fn a_page_goes_away_and_is_appended_to_and_comes_back() {
    let mut lane = lane_of(10);
    lane.pages[0].dirty = true;
    assert_eq!(lane.pages[0].send_away(100), (0, 0), "it is dirty");
    lane.pages[0].dirty = false;
    assert_eq!(lane.pages[0].send_away(9), (0, 0), "it is not committed");
    assert_eq!(lane.pages[0].send_away(100), (10, 0));
    assert_eq!((lane.pages[0].bytes(), lane.next_ready(3), lane.look(3)), (50, Next::Away(0), Next::Away(0)));
    assert_eq!((lane.pages[0].entries.capacity(), lane.next_resident(0)), (0, 10));
    assert_eq!((lane.push(logged()), lane.push(logged())), (10, 11));
    assert_eq!(
        (lane.next_ready(3), lane.next_ready(10), lane.look(9), lane.look(10)),
        (Next::Away(0), Next::Ready(10), Next::Away(0), Next::Ready(10))
    );
    assert_eq!((lane.pages[0].live, lane.pages[0].away, lane.pages[0].bytes(), lane.next_resident(0)), (12, 10, 60, 10));
    // The page file may know of what is in memory, from the last time that it was written.
    lane.remove(10);
    lane.install(0, (0..12).map(|p| (p, logged())).collect());
    assert_eq!(positions(&lane), (0..10).chain([11]).collect::<Vec<_>>());
    assert_eq!((lane.pages[0].live, lane.pages[0].away, lane.pages[0].dirty, lane.next_ready(3)), (11, 0, true, Next::Ready(3)));
    assert_eq!(lane.push(logged()), 12);
}

#[test]
fn only_the_front_goes_that_nobody_holds() {
    let mut lane = lane_of(10);
    lane.get_mut(4).unwrap().status = Status::Leased;
    lane.remove(1);
    lane.pages[0].dirty = false;
    assert_eq!(lane.pages[0].send_away(100), (4, 0));
    assert_eq!((lane.pages[0].away, lane.pages[0].live, lane.pages[0].bytes(), lane.pages[0].start()), (3, 9, 45, 4));
    assert!(lane.get_mut(3).is_none() && lane.remove(3).is_none());
    assert!(lane.get_mut(4).is_some_and(|e| e.status == Status::Leased));
    assert_eq!(lane.pages[0].send_away(100), (0, 0));
    // Given back, the rest follows, and the two parts are one.
    lane.get_mut(4).unwrap().status = Status::Ready;
    assert_eq!(lane.pages[0].send_away(100), (6, 0));
    assert_eq!((lane.pages[0].away, lane.pages[0].away_bytes, lane.pages[0].start()), (9, 45, 10));
    lane.install(0, (0..10).filter(|p| *p != 1).map(|p| (p, logged())).collect());
    assert_eq!(positions(&lane), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(lane.push(logged()), 10);
}

#[test]
fn a_page_lives_on_its_away_part_and_goes_with_the_last_of_it() {
    let mut lane = lane_of(PAGE - 1);
    lane.pages[0].send_away(100);
    lane.push(logged());
    lane.push(logged());
    assert!(lane.remove(PAGE - 1).is_some());
    assert_eq!((lane.pages.len(), lane.pages[0].live, lane.pages[0].dirty), (2, 255, true));
    lane.install(0, (0..PAGE - 1).map(|p| (p, logged())).collect());
    for position in 0..PAGE - 1 {
        assert!(lane.remove(position).is_some(), "{position}");
    }
    assert_eq!((lane.pages.len(), lane.dropped.as_slice()), (1, [0].as_slice()));
}

#[test]
fn what_is_redone_behind_a_checkpoint_needs_no_page() {
    let mut lane = Lane { next: 7, ..Lane::default() };
    lane.add_away(0, 5, 25, 7);
    assert_eq!((lane.look(6), lane.look(7)), (Next::Away(0), Next::Ready(7)));
    assert!(lane.insert(9, logged()) && lane.insert(8, logged()) && !lane.insert(8, logged()));
    assert!(!lane.insert(6, logged()), "the page file has the last word");
    assert_eq!((lane.pages[0].live, lane.pages[0].bytes(), lane.next_ready(0)), (7, 35, Next::Away(0)));
    lane.install(0, [0, 1, 2, 3, 6].map(|p| (p, logged())).into());
    assert_eq!(positions(&lane), [0, 1, 2, 3, 6, 8, 9]);
    // Of an older page all may be away, and of a later one nothing.
    lane.next = 3000;
    lane.add_away(5, 1, 5, 3000);
    assert_eq!((lane.look(5 * PAGE + 255), lane.next_resident(10)), (Next::Away(5), 3000));
}

#[test]
fn a_page_that_cannot_be_read_leaves_what_is_in_memory() {
    let mut lane = lane_of(10);
    lane.pages[0].send_away(100);
    lane.push(logged());
    assert_eq!(lane.pages[0].give_up(), (10, 50));
    assert_eq!((lane.next_ready(0), lane.pages[0].live, lane.pages[0].bytes()), (Next::Ready(10), 1, 5));
    assert!(lane.remove(10).is_some());
}

#[test]
fn an_emptied_open_page_is_used_again() {
    let mut lane = Lane::starting_at(0);
    for _ in 0..10 {
        let at = lane.push(entry());
        lane.remove(at);
    }
    assert_eq!(lane.pages.len(), 1);
    assert_eq!(lane.pages[0].entries.len(), 0);
    let at = lane.push(entry());
    assert_eq!(at, 10);
    assert!(lane.get_mut(10).is_some());
}
