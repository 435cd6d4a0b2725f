//! Other people's clients, as programs of their own (clients/): they are given both addresses, write down in the ledger what they sent and what was
//! confirmed, and look themselves whether all of it comes back.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::house;
use crate::ledger::Ledger;
use crate::net::{A, B};
use crate::pair::{Pair, LONG};

/// Lines but those of single messages.
type Said = Arc<Mutex<Vec<(Instant, String)>>>;

pub struct Program {
    pub name: &'static str,
    pub id: u16,
    child: Child,
    said: Said,
    log: std::path::PathBuf,
}

/// How it is run: `FAILOVER_<KIND>`, words with line ends between. `None`: it was not made for us.
fn recipe(kind: &str) -> Option<Command> {
    let words = std::env::var(format!("FAILOVER_{}", kind.to_uppercase())).ok()?;
    let mut words = words.split('\n');
    let mut command = Command::new(words.next()?);
    command.args(words);
    Some(command)
}

/// Another program of the same folder.
pub fn script(kind: &str, name: &str) -> Option<Command> {
    let client = recipe(kind)?;
    let mut words: Vec<_> = client.get_args().map(std::path::PathBuf::from).collect();
    words.last_mut()?.set_file_name(name);
    let mut command = Command::new(client.get_program());
    command.args(words);
    Some(command)
}

impl Program {
    /// `kind`: of which folder of clients/. `hosts`: in the order in which it tries them. `None` where the client cannot be had.
    pub fn start(pair: &Pair, ledger: &Arc<Ledger>, kind: &str, name: &'static str, first: usize) -> Result<Option<Program>> {
        let Some(mut command) = recipe(kind) else {
            ensure!(!house::is_ci(), "{name} was not made");
            println!("# {name} CANNOT RUN HERE: cargo xtask test makes it");
            return Ok(None);
        };
        // These have one message under way at a time; of others, new ones may overtake those that are sent again.
        let exactly_once = name == "paho-qos2";
        let id = ledger.producer(!exactly_once, matches!(name, "pika" | "amqp091-go" | "rabbitmq-java"));
        let hosts = [first, A + B - first].map(|at| pair.host(at).to_string()).join(",");
        let log = pair.file(&format!("{name}.log"));
        let errors = std::fs::File::create(&log)?;
        command.arg(name).env("HOSTS", hosts).env("PRODUCER", id.to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().with_context(|| format!("cannot start {name}"))?;
        let said = Said::default();
        let lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let (ledger, words) = (ledger.clone(), said.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let now = Instant::now();
                let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                match (word, rest.parse::<u64>()) {
                    ("sent", Ok(n)) => ledger.sent(id, n),
                    ("confirmed", Ok(n)) => ledger.confirmed(id, n, now, None),
                    ("got", _) => {}
                    _ => words.lock().unwrap_or_else(PoisonError::into_inner).push((now, line)),
                }
            }
        });
        Ok(Some(Program { name, id, child, said, log }))
    }

    pub fn said(&self) -> Vec<(Instant, String)> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It sends no more, and says whether everything that was confirmed came back to its own consumer.
    pub fn finish(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let end = self.said().into_iter().rev().find(|(_, line)| line.starts_with("end "));
                let (_, end) = end.with_context(|| format!("{} ended with {status} and no word: {}", self.name, self.errors()))?;
                ensure!(
                    status.success(),
                    "{}: confirmed, and its consumer did not get it ({end}: how many, how many lack, the first of these): {}",
                    self.name,
                    self.errors()
                );
                return Ok(());
            }
            if begun.elapsed() > LONG * 2 {
                bail!("{} does not end: {}", self.name, self.errors());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn errors(&self) -> String {
        crate::node::last_words(&self.log, 8)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
