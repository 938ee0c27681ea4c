//! Threads that read what TaskManagers say.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Sender, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use perennial_rpc::executor::read_to_executor;

use super::Event;
use crate::operator::chain;

/// Pause after a failed accept, so that a process out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the process ends.
pub(super) fn accept(listener: UnixListener, events: Sender<Event>) -> io::Result<()> {
    let run = move || {
        for connection in 0.. {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("the executor cannot accept a connection: {error}");
                    std::thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            let read_half = match stream.try_clone() {
                Ok(read_half) => read_half,
                Err(error) => {
                    eprintln!("the executor cannot read from a connection: {error}");
                    continue;
                }
            };
            if events.send(Event::Connected { connection, stream }).is_err() {
                return;
            }
            let events = events.clone();
            let name = format!("control-{connection}");
            if let Err(error) = Builder::new().name(name).spawn(move || read(connection, read_half, &events)) {
                eprintln!("the executor cannot start a thread: {error}");
            }
        }
    };
    Builder::new().name("control".to_owned()).spawn(run).map(drop)
}

/// Reads one connection to its end, one command at a time.
fn read(connection: u64, mut stream: UnixStream, events: &Sender<Event>) {
    let reason = loop {
        match read_to_executor(&mut stream) {
            Ok(command) => {
                let (taken, wait) = sync_channel(1);
                if events.send(Event::Command { connection, command, taken }).is_err() || wait.recv().is_err() {
                    return;
                }
            }
            Err(error) => break chain(&error),
        }
    };
    // The owner has gone: nobody wants to know.
    let _ = events.send(Event::Disconnected { connection, reason });
}
