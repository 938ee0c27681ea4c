//! A connection to another executor, from the side that sends data on it.
//!
//! The slot thread that has made a frame sends it itself, without waiting: in the usual case that is one system call, no
//! other thread and no copy besides the kernel's. Only what the socket does not take at once goes to the
//! connection's writer thread, which waits in its stead. What bounds that queue is credit: a data frame comes only where
//! credit was taken, and other frames are few.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use perennial_types::Record;
use rustix::net::SendFlags;

use crate::event_time::Control;
use crate::frame::{self, ChannelKey, GRANT_BYTES, Greeting, HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX};
use crate::{Credit, ExchangeError, Room};

/// How long a peer may take to be there: executors of a job are deployed at the same time, not in the same moment.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// Longest single attempt, and longest wait for the answer to the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before the second attempt; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// Emptied frame buffers kept for the next frames: as many as slots and some in the queue.
const SPARE_BUFFERS_MAX: usize = 16;

/// Socket buffers on both sides, in bytes.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 1 << 20;

#[derive(Default)]
struct State {
    stream: Option<Arc<TcpStream>>,
    /// Frames that wait for the socket, the first one sent up to `sent`.
    queue: VecDeque<Vec<u8>>,
    sent: usize,
    spare: Vec<Vec<u8>>,
    /// Channels that have neither ended nor been closed.
    channels: HashMap<u32, Arc<Credit>>,
    next_channel: u32,
    failure: Option<ExchangeError>,
}

/// A connection to another executor, made in the background.
pub(crate) struct Outbound {
    peer: String,
    state: Mutex<State>,
    /// Tells the writer thread that the queue has something.
    queued: Condvar,
}

impl Outbound {
    /// Begins to connect.
    pub(crate) fn connect(greeting: Greeting, address: String) -> io::Result<Arc<Self>> {
        let peer = format!("{} at {address}", greeting.to);
        let outbound = Arc::new(Self { peer, state: Mutex::default(), queued: Condvar::new() });
        let writer = Arc::clone(&outbound);
        std::thread::Builder::new().name(format!("to-{}", greeting.to)).spawn(move || {
            if let Err(error) = writer.run(&greeting, &address) {
                writer.fail(error.to_string());
            }
        })?;
        Ok(outbound)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new channels can still be opened on it.
    pub(crate) fn is_usable(&self) -> bool {
        self.lock().failure.is_none()
    }

    /// Opens a channel. It has no credit until the consumer grants some.
    pub(crate) fn open(self: &Arc<Self>, key: &ChannelKey, room: Arc<Room>) -> RemoteSender {
        let credit = Arc::new(Credit::new(0, room));
        let mut state = self.lock();
        let channel = state.next_channel;
        state.next_channel += 1;
        match &state.failure {
            Some(error) => credit.room().fail(error.clone()),
            None => {
                state.channels.insert(channel, Arc::clone(&credit));
            }
        }
        drop(state);
        self.send(channel, 0, Kind::Open, |frame| frame.extend(key.encode()));
        RemoteSender { outbound: Arc::clone(self), channel, credit, open: true }
    }

    /// Makes a frame and sends it, or leaves it to the writer thread. Returns its size.
    fn send(&self, channel: u32, count: u32, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) -> usize {
        let mut frame = self.lock().spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend([0; HEADER_BYTES]);
        payload(&mut frame);
        let payload_bytes = frame.len() - HEADER_BYTES;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            self.fail(format!("a batch takes {payload_bytes} bytes encoded, at most {PAYLOAD_BYTES_MAX} travel"));
            return 0;
        }
        let header = Header { payload_bytes, channel, count, kind }.encode();
        if let Some(space) = frame.first_chunk_mut::<HEADER_BYTES>() {
            *space = header;
        }
        let bytes = frame.len();
        let mut state = self.lock();
        if state.failure.is_some() {
            return bytes;
        }
        let mut sent = 0;
        if let Some(stream) = &state.stream
            && state.queue.is_empty()
        {
            match rustix::net::send(stream, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => sent = count,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let reason = io::Error::from(error).to_string();
                    drop(state);
                    self.fail(reason);
                    return bytes;
                }
            }
        }
        if sent == frame.len() {
            state.keep(frame);
        } else {
            if state.queue.is_empty() {
                state.sent = sent;
            }
            state.queue.push_back(frame);
            self.queued.notify_one();
        }
        bytes
    }

    /// The writer thread.
    fn run(self: &Arc<Self>, greeting: &Greeting, address: &str) -> io::Result<()> {
        let stream = Arc::new(connect(greeting, address)?);
        let reading = (Arc::clone(self), Arc::clone(&stream));
        std::thread::Builder::new().name(format!("credit-{}", greeting.to)).spawn(move || {
            let (outbound, stream) = reading;
            let error = outbound.read_grants(&stream);
            outbound.fail(error.to_string());
        })?;
        let mut state = self.lock();
        state.stream = Some(Arc::clone(&stream));
        loop {
            if state.failure.is_some() {
                return Ok(());
            }
            let Some(frame) = state.queue.front_mut().map(std::mem::take) else {
                state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // The emptied first place keeps slot threads from overtaking.
            let sent = std::mem::take(&mut state.sent);
            drop(state);
            (&*stream).write_all(frame.get(sent..).unwrap_or_default())?;
            state = self.lock();
            state.queue.pop_front();
            state.keep(frame);
        }
    }

    fn read_grants(&self, stream: &TcpStream) -> io::Error {
        let mut buffer = [0; 512 * GRANT_BYTES];
        let mut filled = 0;
        loop {
            let Some(space) = buffer.get_mut(filled..) else { return io::ErrorKind::InvalidData.into() };
            match (&*stream).read(space) {
                Ok(0) => return io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return error,
            }
            let (grants, rest) = buffer.get(..filled).unwrap_or_default().as_chunks::<GRANT_BYTES>();
            let state = self.lock();
            for grant in grants {
                let (channel, count) = frame::decode_grant(*grant);
                // A channel that has ended needs none.
                if let Some(credit) = state.channels.get(&channel) {
                    credit.give(count);
                }
            }
            drop(state);
            let rest = rest.len();
            buffer.copy_within(filled - rest..filled, 0);
            filled = rest;
        }
    }

    /// Ends the connection. Tasks with open channels on it fail.
    fn fail(&self, reason: String) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        let error = ExchangeError { peer: self.peer.clone(), reason };
        state.failure = Some(error.clone());
        state.queue.clear();
        if let Some(stream) = state.stream.take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for (_, credit) in state.channels.drain() {
            credit.room().fail(error.clone());
        }
        self.queued.notify_one();
    }
}

impl State {
    fn keep(&mut self, frame: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX {
            self.spare.push(frame);
        }
    }
}

fn connect(greeting: &Greeting, address: &str) -> io::Result<TcpStream> {
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let mut pause = RETRY_PAUSE;
    loop {
        match try_connect(greeting, address) {
            Ok(stream) => return Ok(stream),
            // What was understood and refused is refused the next time too.
            Err(error) if error.kind() == io::ErrorKind::InvalidData || Instant::now() + pause > deadline => {
                return Err(error);
            }
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }
}

fn try_connect(greeting: &Greeting, address: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(mut stream) => {
                prepare(&stream)?;
                stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
                greeting.write(&mut stream)?;
                frame::read_welcome(&mut stream)?;
                stream.set_read_timeout(None)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Options of a data connection, on both sides.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_send_buffer_size(stream, SOCKET_BUFFER_BYTES)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(stream, SOCKET_BUFFER_BYTES)?;
    // A peer whose machine has gone says nothing: probes find out.
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// A channel to a task of another process, seen from its producer.
pub struct RemoteSender {
    outbound: Arc<Outbound>,
    channel: u32,
    credit: Arc<Credit>,
    open: bool,
}

impl RemoteSender {
    pub(crate) fn credit(&self) -> &Credit {
        &self.credit
    }

    /// Sends a batch for which credit was taken. Returns the bytes it took.
    pub(crate) fn send<T: Record>(&self, batch: &[T]) -> usize {
        self.outbound.send(self.channel, batch.len() as u32, Kind::Data, |frame| T::encode_batch(batch, frame))
    }

    /// Sends what needs no credit. Returns the bytes it took.
    pub(crate) fn send_control(&self, control: Control) -> usize {
        self.outbound.send(self.channel, 0, control.kind(), |frame| control.encode(frame))
    }

    /// Sends the end of the channel.
    pub(crate) fn send_end(&mut self) {
        self.close(Kind::End);
    }

    fn close(&mut self, kind: Kind) {
        if std::mem::take(&mut self.open) {
            self.outbound.send(self.channel, 0, kind, |_| {});
            self.outbound.lock().channels.remove(&self.channel);
        }
    }
}

impl Drop for RemoteSender {
    fn drop(&mut self) {
        self.close(Kind::Close);
    }
}
