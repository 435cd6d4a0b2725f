//! A connection's clock.
//!
//! Keep-alive deadlines move with every read and almost never pass. So a timer is set once, left alone while the deadline moves away,
//! and looked at again when it goes off: 10,000 keep-alives of a minute cost some 170 wake-ups a second and no work per message. Times are
//! rounded up to a grid, so that the timers of many connections go off together rather than each waking a worker of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

const GRID: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Timer {
    /// Boxed and made late: many connections never need one, and an unset one is a pointer.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Has `deadline` passed? If not, makes sure that the task is woken some time soon after it.
    pub fn due(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>, now: Instant) -> bool {
        let Some(deadline) = deadline else { return false };
        if deadline <= now {
            return true;
        }
        let at = tokio::time::Instant::from_std(on_grid(deadline));
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx) == Poll::Ready(()) {
            // It went off for an earlier deadline, which has moved since.
            if sleep.deadline() >= at {
                return true;
            }
            sleep.as_mut().reset(at);
        }
        false
    }
}

/// The runtime's clock, so that a paused clock in a test is obeyed.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn on_grid(at: Instant) -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    let past = at.saturating_duration_since(epoch).as_nanos() % GRID.as_nanos();
    if past == 0 {
        return at;
    }
    at + (GRID - Duration::from_nanos(past as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn the_grid_rounds_up_by_less_than_a_step() {
        let start = Instant::now();
        for ms in [0, 1, 37, 99, 100, 101, 5000] {
            let at = start + Duration::from_millis(ms);
            let rounded = on_grid(at);
            assert!(rounded >= at && rounded - at < GRID);
            assert_eq!(on_grid(rounded), rounded);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_on_is_waited_for_and_one_that_came_nearer_too() {
        let start = now();
        let mut timer = Timer::default();
        let mut deadline = start + Duration::from_secs(10);
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                assert!(now() >= start + Duration::from_secs(10), "woken by the first setting");
                deadline = start + Duration::from_secs(30);
            }
            if timer.due(cx, Some(deadline), now()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert!(now() >= deadline && now() < deadline + 2 * GRID);
        assert!(polls <= 4, "{polls} polls");

        let far = now() + Duration::from_secs(1000);
        let near = now() + Duration::from_secs(1);
        let mut first = true;
        poll_fn(|cx| {
            let at = if std::mem::take(&mut first) { far } else { near };
            let due = timer.due(cx, Some(at), now());
            if at == far {
                cx.waker().wake_by_ref();
            }
            if due {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert!(now() < near + 2 * GRID);
    }
}
