//! The connection to an executor's socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use perennial_rpc::executor::{FromExecutor, Hello, ReadError, ToExecutor, receive_from_executor, send_to_executor};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// Messages of an executor read ahead. More only wait in the socket.
const READ_AHEAD: usize = 64;

/// Time an executor has to take a message off its socket. It has a thread for that, so longer means that it hangs.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits between attempts to connect while an executor starts: short at first, because a good one is up in
/// milliseconds.
const CONNECT_WAIT: Duration = Duration::from_millis(1);
const CONNECT_WAIT_LATER: Duration = Duration::from_millis(20);
const CONNECT_WAIT_SHORT_FOR: Duration = Duration::from_millis(200);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The connection broke.
    #[error("its connection broke: {0}")]
    Io(io::Error),
    /// It does not speak the protocol.
    #[error("it sent what is not expected: {0}")]
    Protocol(String),
    /// It said nothing in time.
    #[error("it takes no commands after {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// A connection to an executor that has said hello.
#[derive(Debug)]
pub(crate) struct Link {
    to: OwnedWriteHalf,
    from: mpsc::Receiver<Result<FromExecutor, ReadError>>,
    _reader: AbortOnDropHandle<()>,
}

impl Link {
    /// Connects as soon as the executor listens and reads its hello, all within `limit`. Cancel-safe.
    ///
    /// A connection that breaks before the hello is made again: an executor that is just ending still has its socket
    /// for a moment, and that it ends is for its process to say.
    pub(crate) async fn open(socket: &Path, limit: Duration) -> Result<(Self, Hello), LinkError> {
        let started = Instant::now();
        loop {
            match timeout_at(started + limit, Self::try_open(socket)).await {
                Ok(Err(LinkError::Io(_))) if started.elapsed() >= limit => return Err(LinkError::Timeout(limit)),
                Ok(Err(LinkError::Io(_))) if started.elapsed() < CONNECT_WAIT_SHORT_FOR => {
                    tokio::time::sleep(CONNECT_WAIT).await;
                }
                Ok(Err(LinkError::Io(_))) => tokio::time::sleep(CONNECT_WAIT_LATER).await,
                Ok(opened) => return opened,
                Err(_) => return Err(LinkError::Timeout(limit)),
            }
        }
    }

    async fn try_open(socket: &Path) -> Result<(Self, Hello), LinkError> {
        let stream = UnixStream::connect(socket).await.map_err(LinkError::Io)?;
        let (mut reader, to) = stream.into_split();
        let hello = match receive_from_executor(&mut reader).await {
            Ok(FromExecutor::Hello(hello)) => hello,
            Ok(other) => return Err(LinkError::Protocol(format!("{other:?} instead of hello"))),
            Err(ReadError::Malformed(error)) => return Err(LinkError::Protocol(error.to_string())),
            Err(ReadError::Closed) => return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into())),
            Err(ReadError::Io(error)) => return Err(LinkError::Io(error)),
        };
        let (sender, from) = mpsc::channel(READ_AHEAD);
        let reader = AbortOnDropHandle::new(tokio::spawn(read(reader, sender)));
        Ok((Self { to, from, _reader: reader }, hello))
    }

    /// Sends a message. After an error, or when the call was dropped, the link is of no use any more.
    pub(crate) async fn send(&mut self, message: ToExecutor) -> Result<(), LinkError> {
        match timeout(SEND_TIMEOUT, send_to_executor(&mut self.to, message)).await {
            Ok(sent) => sent.map_err(LinkError::Io),
            Err(_) => Err(LinkError::Timeout(SEND_TIMEOUT)),
        }
    }

    /// The next message; an error is the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<FromExecutor, LinkError> {
        match self.from.recv().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(ReadError::Malformed(error))) => Err(LinkError::Protocol(error.to_string())),
            Some(Err(ReadError::Io(error))) => Err(LinkError::Io(error)),
            Some(Err(ReadError::Closed)) | None => Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Reading a message is not cancel-safe, so a task of its own does it.
async fn read(mut from: OwnedReadHalf, to: mpsc::Sender<Result<FromExecutor, ReadError>>) {
    loop {
        let message = receive_from_executor(&mut from).await;
        let last = message.is_err();
        if to.send(message).await.is_err() || last {
            return;
        }
    }
}
