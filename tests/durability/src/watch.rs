//! What the journal did, seen from outside: the names that come and go in the data directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(10);

/// Distinct names seen so far.
#[derive(Clone, Default)]
pub struct Seen {
    pub segments: BTreeSet<String>,
    pub checkpoints: BTreeSet<String>,
    pub cold: BTreeSet<String>,
    pub pages: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, data: &Path) {
        for (dir, end, names) in [
            ("j", ".log", &mut self.segments),
            ("x", ".root", &mut self.checkpoints),
            ("c", ".cold", &mut self.cold),
            ("p", ".pages", &mut self.pages),
        ] {
            let Ok(entries) = std::fs::read_dir(data.join(dir)) else { continue };
            for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
                if name.ends_with(end) {
                    names.insert(name);
                }
            }
        }
    }
}

pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Watch {
    pub fn start(data: &Path) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, data): (_, PathBuf) = (stop.clone(), data.to_path_buf());
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !flag.load(Ordering::Relaxed) {
                seen.look(&data);
                std::thread::sleep(EVERY);
            }
            seen.look(&data);
            seen
        });
        Watch { stop, thread: Some(thread) }
    }

    pub fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}
