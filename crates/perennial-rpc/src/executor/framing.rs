//! Length-delimited protobuf over any byte stream: blocking for the executor, which links no async runtime.
//!
//! A frame is the length of the message as a little-endian `u32`, then the message. Both ends read into a buffer that
//! grows only as bytes arrive, so a corrupt length costs no memory.

use std::io::{self, Read, Write};

use prost::Message;

use super::{FromExecutor, ToExecutor};
use crate::wire::{WireError, pb};

/// Largest message, in bytes. A deployment of 10,000 tasks is below 2 MiB; a longer frame is corruption.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Bytes reserved at once for a message that announces more.
const READ_CHUNK_BYTES: usize = 1 << 20;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The other side closed the connection between two messages.
    #[error("connection closed")]
    Closed,
    /// The connection broke, or timed out when the stream has a read timeout.
    #[error("connection broken")]
    Io(#[source] io::Error),
    /// What arrived is not a message of this conversation. The connection cannot be used any more.
    #[error(transparent)]
    Malformed(#[from] WireError),
}

/// Sends one message of the executor. Flushes nothing: give it an unbuffered stream, or flush afterwards.
pub fn write_from_executor(to: &mut impl Write, message: &FromExecutor) -> io::Result<()> {
    to.write_all(&frame(&pb::ExecutorMessage::from(message.clone()))?)
}

/// Sends one message to the executor. Flushes nothing: give it an unbuffered stream, or flush afterwards.
pub fn write_to_executor(to: &mut impl Write, message: &ToExecutor) -> io::Result<()> {
    to.write_all(&frame(&pb::ExecutorCommand::from(message.clone()))?)
}

/// Reads one message of the executor. Blocks until it is there.
pub fn read_from_executor(from: &mut impl Read) -> Result<FromExecutor, ReadError> {
    decode::<pb::ExecutorMessage>(&read_frame(from)?)?.try_into().map_err(ReadError::Malformed)
}

/// Reads one message to the executor. Blocks until it is there.
pub fn read_to_executor(from: &mut impl Read) -> Result<ToExecutor, ReadError> {
    decode::<pb::ExecutorCommand>(&read_frame(from)?)?.try_into().map_err(ReadError::Malformed)
}

/// Length and bytes of a message.
pub(super) fn frame(message: &impl Message) -> io::Result<Vec<u8>> {
    let length = message.encoded_len();
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("message of {length} bytes is too long"));
    let prefix = u32::try_from(length).ok().filter(|_| length <= MESSAGE_BYTES_MAX).ok_or_else(too_long)?;
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut frame);
    Ok(frame)
}

/// Reads a length prefix.
pub(super) fn length_of(prefix: [u8; 4]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(WireError::invalid("length", format_args!("{length} bytes, at most {MESSAGE_BYTES_MAX}")));
    }
    Ok(length)
}

/// Reads the bytes of a message.
pub(super) fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T, WireError> {
    T::decode(bytes).map_err(|error| WireError::invalid("frame", error))
}

fn read_frame(from: &mut impl Read) -> Result<Vec<u8>, ReadError> {
    let mut prefix = [0u8; 4];
    let (first, rest) = prefix.split_at_mut(1);
    loop {
        match from.read(first) {
            Ok(0) => return Err(ReadError::Closed),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
    from.read_exact(rest).map_err(ReadError::Io)?;
    let length = length_of(prefix)?;
    let mut bytes = Vec::with_capacity(length.min(READ_CHUNK_BYTES));
    let read = from.by_ref().take(length as u64).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if read < length {
        return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// The TaskManager's side, on its async runtime.
#[cfg(feature = "grpc")]
mod nonblocking {
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    use super::*;

    /// Sends one message to the executor. Not cancel-safe: a dropped call leaves half a frame.
    pub async fn send_to_executor(to: &mut (impl AsyncWrite + Unpin), message: ToExecutor) -> io::Result<()> {
        to.write_all(&frame(&pb::ExecutorCommand::from(message))?).await
    }

    /// Reads one message of the executor. Not cancel-safe: a dropped call loses what it has read.
    pub async fn receive_from_executor(from: &mut (impl AsyncRead + Unpin)) -> Result<FromExecutor, ReadError> {
        let mut prefix = [0u8; 4];
        let (first, rest) = prefix.split_at_mut(1);
        if from.read(first).await.map_err(ReadError::Io)? == 0 {
            return Err(ReadError::Closed);
        }
        from.read_exact(rest).await.map_err(ReadError::Io)?;
        let length = length_of(prefix)?;
        let mut bytes = Vec::with_capacity(length.min(READ_CHUNK_BYTES));
        let read = from.take(length as u64).read_to_end(&mut bytes).await.map_err(ReadError::Io)?;
        if read < length {
            return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        decode::<pb::ExecutorMessage>(&bytes)?.try_into().map_err(ReadError::Malformed)
    }
}

#[cfg(feature = "grpc")]
pub use nonblocking::{receive_from_executor, send_to_executor};
