//! How a client program asks for its broker's restart: it connects to a loopback port, sends one line, `restart` or `kill9`, and reads
//! one line, `ok` once the broker accepts connections again, or `error` and what went wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::broker::Broker;

pub struct Control {
    pub address: SocketAddr,
    broker: Arc<Mutex<Broker>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub fn start(broker: Broker) -> Result<Control> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let broker = Arc::new(Mutex::new(broker));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (broker.clone(), stop.clone());
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A client that went away in the middle has no use for an answer.
                let _ = connection.and_then(|connection| answer(connection, &shared));
            }
        });
        Ok(Control { address, broker, stop, thread: Some(thread) })
    }

    /// Ends the control port and the broker, which must have lived to here and end well.
    pub fn finish(mut self) -> Result<()> {
        self.stop_thread();
        self.broker.lock().unwrap_or_else(PoisonError::into_inner).stop()
    }

    fn stop_thread(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread from its accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

fn answer(mut connection: TcpStream, broker: &Mutex<Broker>) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new((&connection).take(100)).read_line(&mut line)?;
    let mut broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
    let result = match line.trim() {
        "restart" => broker.restart(),
        "kill9" => broker.kill9(),
        other => Err(anyhow::anyhow!("no command '{other}'")),
    };
    match result {
        Ok(()) => writeln!(connection, "ok"),
        Err(error) => {
            println!("control: {error:#}");
            writeln!(connection, "error {}", format!("{error:#}").lines().next().unwrap_or_default())
        }
    }
}
