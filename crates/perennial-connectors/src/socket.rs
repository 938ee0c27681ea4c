//! Lines from a TCP connection.

use std::io::{self, BufReader};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use perennial::{DataStream, SourceReader, SourceStatus, StreamExecutionEnvironment, UserError};

use crate::lines::{LineTooLong, NextLineError, next_line};

/// Connections that are tried in a row before the task fails.
const CONNECT_ATTEMPTS: u32 = 5;

/// Pause between two of them.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Longest time one of them may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the reading thread looks whether it should stop.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// Batches of lines between thread and task. When the task is slower, the connection's own flow control holds the sender back.
const QUEUE_BATCHES: usize = 16;

/// Most lines in a batch.
const BATCH_LINES: usize = 1024;

/// When an idle source is polled again.
const IDLE_WAIT: Duration = Duration::from_millis(5);

/// Why a socket source failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The other side was not reached, or the connection broke that often.
    #[error("cannot read from {address} after {CONNECT_ATTEMPTS} attempts")]
    Unreachable {
        /// The address as it was given.
        address: String,
        /// Why the last one failed.
        source: io::Error,
    },
    /// What arrived is not text in lines.
    #[error("{address} sent a line that {problem}")]
    Line {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The system gave no thread.
    #[error("cannot start the reading thread")]
    Thread(#[source] io::Error),
    /// The reading thread ended without a word: a defect.
    #[error("the reading thread of {address} is gone")]
    Gone {
        /// The address as it was given.
        address: String,
    },
}

/// Sources that read sockets.
pub trait SocketSources {
    /// The lines that a TCP server at `address` (`host:port`) sends, read by one subtask. The stream ends when the server closes the
    /// connection. A server that is not there, or breaks the connection, is tried again a few times; what it sent meanwhile
    /// is lost. For tests and demonstrations.
    fn socket_text_stream(&self, address: &str) -> DataStream<String>;
}

impl SocketSources for StreamExecutionEnvironment {
    fn socket_text_stream(&self, address: &str) -> DataStream<String> {
        let address = address.to_owned();
        self.from_single_source("Socket Stream", move |_| SocketReader::start(&address))
    }
}

type Batch = Result<Vec<String>, SocketError>;

/// The task's side: polls the queue.
struct SocketReader {
    address: String,
    batches: Option<Receiver<Batch>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Lines that were more than a poll asked for.
    left: std::vec::IntoIter<String>,
}

impl SocketReader {
    fn start(address: &str) -> Result<Self, SocketError> {
        let (sender, batches) = sync_channel(QUEUE_BATCHES);
        let stop = Arc::new(AtomicBool::new(false));
        let connection = Connection { address: address.to_owned(), stop: stop.clone(), batches: sender };
        let thread = thread::Builder::new()
            .name(format!("socket {address}"))
            .spawn(move || connection.run())
            .map_err(SocketError::Thread)?;
        let left = Vec::new().into_iter();
        Ok(Self { address: address.to_owned(), batches: Some(batches), stop, thread: Some(thread), left })
    }
}

impl SourceReader<String> for SocketReader {
    fn poll(&mut self, out: &mut Vec<String>, max: usize) -> Result<SourceStatus, UserError> {
        let mut room = max;
        loop {
            let before = out.len();
            out.extend(self.left.by_ref().take(room));
            room -= out.len() - before;
            if room == 0 {
                return Ok(SourceStatus::More);
            }
            let Some(batches) = &self.batches else { return Ok(SourceStatus::Finished) };
            match batches.try_recv() {
                // An empty batch is the end.
                Ok(Ok(lines)) if lines.is_empty() => return Ok(SourceStatus::Finished),
                Ok(lines) => self.left = lines?.into_iter(),
                Err(TryRecvError::Empty) => return Ok(SourceStatus::Wait(IDLE_WAIT)),
                Err(TryRecvError::Disconnected) => {
                    return Err(SocketError::Gone { address: self.address.clone() }.into());
                }
            }
        }
    }
}

impl Drop for SocketReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits for room in the queue finds it gone.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side: connects, reads lines, fills the queue.
struct Connection {
    address: String,
    stop: Arc<AtomicBool>,
    batches: SyncSender<Batch>,
}

/// How reading ended.
enum End {
    /// The server closed the connection, or nobody reads any more.
    Closed,
    /// The connection broke.
    Broken(io::Error),
    /// What arrived is not text in lines.
    Malformed(String),
}

impl Connection {
    fn run(self) {
        let mut failures = 0;
        let last = loop {
            let end = match self.connect() {
                Ok(stream) => self.read(stream, &mut failures),
                Err(error) => End::Broken(error),
            };
            match end {
                End::Closed => break Ok(Vec::new()),
                End::Malformed(problem) => break Err(SocketError::Line { address: self.address.clone(), problem }),
                End::Broken(source) => {
                    failures += 1;
                    if failures == CONNECT_ATTEMPTS {
                        break Err(SocketError::Unreachable { address: self.address.clone(), source });
                    }
                    self.pause(CONNECT_PAUSE);
                }
            }
            if self.is_stopped() {
                return;
            }
        };
        // A reader that is gone needs no last word.
        let _ = self.batches.send(last);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, pause: Duration) {
        let mut left = pause;
        while !left.is_zero() && !self.is_stopped() {
            let step = left.min(STOP_INTERVAL);
            thread::sleep(step);
            left -= step;
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(STOP_INTERVAL))?;
                    return Ok(stream);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn read(&self, stream: TcpStream, failures: &mut u32) -> End {
        let mut input = BufReader::with_capacity(64 << 10, stream);
        let mut batch = Vec::new();
        let mut line = Vec::new();
        loop {
            let ended = match next_line(&mut input, &mut line) {
                Ok(0) => true,
                Ok(_) => {
                    *failures = 0;
                    let text = line.strip_suffix(b"\r").unwrap_or(&line).to_vec();
                    line.clear();
                    match String::from_utf8(text) {
                        Ok(text) => batch.push(text),
                        Err(_) => return End::Malformed("is not UTF-8 text".to_owned()),
                    }
                    false
                }
                Err(NextLineError::TooLong) => return End::Malformed(format!("is too long: {LineTooLong}")),
                Err(NextLineError::Read(error)) if is_timeout(&error) => {
                    if self.is_stopped() {
                        return End::Closed;
                    }
                    false
                }
                Err(NextLineError::Read(error)) => return End::Broken(error),
            };
            // What has arrived goes on as soon as the next line would have to be waited for.
            let no_more = input.buffer().is_empty();
            let full = batch.len() >= BATCH_LINES;
            if (ended || no_more || full)
                && !batch.is_empty()
                && self.batches.send(Ok(std::mem::take(&mut batch))).is_err()
            {
                return End::Closed;
            }
            if ended {
                return End::Closed;
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
