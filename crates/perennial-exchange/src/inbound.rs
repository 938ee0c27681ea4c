//! A connection from another executor: its reader thread, and the credit that goes back on it.

use std::any::Any;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::event_time::Control;
use crate::frame::{ChannelKey, HEADER_BYTES, Header, Kind, encode_grant};
use crate::network::Inputs;
use crate::{Barrier, CreditReturn, Element, EventTime, ExchangeError, Gate, Payload};

/// Bytes asked of the socket at once: a full frame and most of the next.
const CHUNK_BYTES: usize = 128 << 10;

/// Emptied chunks kept for the next reads.
const SPARE_CHUNKS_MAX: usize = 16;

/// A connection from another executor.
pub(crate) struct Inbound {
    peer: String,
    stream: TcpStream,
    channels: Mutex<HashMap<u32, Arc<InChannel>>>,
    /// Held while a grant is written.
    granting: Mutex<()>,
}

/// A channel from a task of another process, seen from its consumer.
pub(crate) struct InChannel {
    inbound: Arc<Inbound>,
    number: u32,
    gate: Arc<Gate>,
    index: usize,
    /// Batches granted and not received yet. A peer that sends more breaks the protocol, and could fill the memory.
    expected: AtomicI64,
    /// Batches worked off and not granted again yet.
    owed: AtomicU32,
    /// Grants are sent for so many batches at once.
    grant: u32,
}

impl CreditReturn for InChannel {
    fn worked_off(&self, _memory: Option<Box<dyn Any + Send>>) {
        // Called by the one thread that reads the gate.
        let owed = self.owed.load(Ordering::Relaxed) + 1;
        if owed < self.grant {
            self.owed.store(owed, Ordering::Relaxed);
        } else {
            self.owed.store(0, Ordering::Relaxed);
            self.grant(owed);
        }
    }
}

impl InChannel {
    fn grant(&self, count: u32) {
        self.expected.fetch_add(i64::from(count), Ordering::SeqCst);
        let _one_at_a_time = self.inbound.granting.lock().unwrap_or_else(PoisonError::into_inner);
        // Grants of all channels together are smaller than the socket's buffer, so this does not wait. A broken
        // connection is found by the reader.
        let _ = (&self.inbound.stream).write_all(&encode_grant(self.number, count));
    }
}

impl Inbound {
    pub(crate) fn new(peer: String, stream: TcpStream) -> Arc<Self> {
        Arc::new(Self { peer, stream, channels: Mutex::default(), granting: Mutex::default() })
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<u32, Arc<InChannel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a channel to the gate that waits for it and grants its first credit.
    pub(crate) fn attach(self: &Arc<Self>, number: u32, gate: Arc<Gate>, index: usize, credit: u32) {
        let channel = Arc::new(InChannel {
            inbound: Arc::clone(self),
            number,
            gate,
            index,
            expected: AtomicI64::new(0),
            owed: AtomicU32::new(0),
            // Half at once: the producer has the other half meanwhile, and a grant wakes a thread over there.
            grant: (credit / 2).max(1),
        });
        self.channels().insert(number, Arc::clone(&channel));
        channel.gate.connect(index, Arc::clone(&channel) as Arc<dyn CreditReturn>);
        channel.grant(credit);
    }

    /// Reads to the end of the connection. Tasks whose channels have not ended by then fail.
    pub(crate) fn run(self: &Arc<Self>, inputs: &Inputs) {
        let reason = match self.read(inputs) {
            Ok(()) => "it closed the connection".to_owned(),
            Err(error) => error.to_string(),
        };
        // Not closed by the peer if what it sent was refused.
        let _ = self.stream.shutdown(Shutdown::Both);
        inputs.forget_connection(self);
        let error = ExchangeError { peer: self.peer.clone(), reason };
        let channels = std::mem::take(&mut *self.channels());
        for channel in channels.into_values() {
            if !channel.gate.has_ended(channel.index) {
                channel.gate.fail(error.clone());
            }
        }
    }

    fn read(self: &Arc<Self>, inputs: &Inputs) -> io::Result<()> {
        let spare = Arc::new(Mutex::new(Vec::new()));
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        loop {
            let Some(space) = chunk.get_mut(filled..).filter(|space| !space.is_empty()) else {
                // One frame is larger than the chunk: grow as its bytes arrive.
                chunk.resize(chunk.len() * 2, 0);
                continue;
            };
            match (&self.stream).read(space) {
                Ok(0) if filled == 0 => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut frames = Vec::new();
            let mut at = 0;
            let mut fault = None;
            while let Some(header) = chunk.get(at..filled).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
                let header = match Header::decode(header) {
                    Ok(header) => header,
                    Err(reason) => {
                        // What came before it still counts.
                        fault = Some(reason);
                        break;
                    }
                };
                let end = at + HEADER_BYTES + header.payload_bytes;
                if end > filled {
                    break;
                }
                frames.push((header, at + HEADER_BYTES..end));
                at = end;
            }
            if frames.is_empty() && fault.is_none() {
                continue;
            }
            // The chunk now belongs to its frames; what is behind them begins the next one.
            let rest = chunk.get(at..filled).unwrap_or_default();
            let mut next = take_chunk(&spare, rest.len());
            if let Some(start) = next.get_mut(..rest.len()) {
                start.copy_from_slice(rest);
            }
            filled = rest.len();
            let bytes =
                Bytes::from_owner(Chunk { bytes: std::mem::replace(&mut chunk, next), spare: Arc::clone(&spare) });
            for (header, range) in frames {
                self.take_frame(header, bytes.slice(range), inputs).map_err(invalid)?;
            }
            if let Some(reason) = fault {
                return Err(invalid(reason));
            }
        }
    }

    fn take_frame(self: &Arc<Self>, header: Header, payload: Bytes, inputs: &Inputs) -> Result<(), String> {
        let number = header.channel;
        match header.kind {
            Kind::Open => inputs.open(ChannelKey::decode(&payload)?, self, number),
            Kind::Data => {
                let channel = self.channels().get(&number).cloned();
                let Some(channel) = channel else { return Err(format!("data on channel {number}, which is not open")) };
                if channel.expected.fetch_sub(1, Ordering::SeqCst) <= 0 {
                    return Err(format!("more data on channel {number} than it had credit for"));
                }
                let payload = Payload::Remote { bytes: payload, count: header.count as usize };
                channel.gate.put(channel.index, Element::Data(payload));
                Ok(())
            }
            Kind::Barrier => self.take_control(number, Control::Barrier(Barrier::decode(&payload)?), inputs),
            Kind::Watermark => self.take_control(number, Control::decode_watermark(&payload)?, inputs),
            Kind::Idle => self.take_control(number, Control::Time(EventTime::Idle), inputs),
            Kind::EndOfData => self.take_control(number, Control::EndOfData, inputs),
            Kind::End => {
                if !self.end(number) {
                    // Its consumer has not come yet: the end waits with the channel. Or it is coming at this moment.
                    let waits = inputs.end_waiting(self, number);
                    if !waits && !self.end(number) {
                        return Err(format!("the end of channel {number}, which is not open"));
                    }
                }
                Ok(())
            }
            Kind::Close => {
                inputs.close_waiting(self, number);
                self.channels().remove(&number);
                Ok(())
            }
        }
    }

    fn take_control(self: &Arc<Self>, number: u32, control: Control, inputs: &Inputs) -> Result<(), String> {
        if !self.control(number, control) {
            // As with an end, above.
            let waits = inputs.control_waiting(self, number, control)?;
            if !waits && !self.control(number, control) {
                return Err(format!("{control:?} on channel {number}, which is not open"));
            }
        }
        Ok(())
    }

    /// Puts a control element into an open channel; false when it is not open.
    fn control(&self, number: u32, control: Control) -> bool {
        let channel = self.channels().get(&number).cloned();
        channel.map(|channel| channel.gate.put(channel.index, control.into())).is_some()
    }

    /// Ends an open channel; false when it is not open.
    fn end(&self, number: u32) -> bool {
        let channel = self.channels().remove(&number);
        match channel {
            Some(channel) => {
                channel.gate.put(channel.index, Element::End);
                true
            }
            None => false,
        }
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A chunk whose memory goes back when the last frame in it was read.
struct Chunk {
    bytes: Vec<u8>,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_CHUNKS_MAX && self.bytes.len() == CHUNK_BYTES {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

fn take_chunk(spare: &Mutex<Vec<Vec<u8>>>, bytes: usize) -> Vec<u8> {
    if bytes > CHUNK_BYTES {
        return vec![0; bytes];
    }
    spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(|| vec![0; CHUNK_BYTES])
}
