//! Two processes, each with one producing and one counting thread. Half of the records stay in their process, half cross a
//! loopback connection under credit, as the bytes they are in memory.
//!
//! One connection per direction. Frame: payload bytes `u32`, records `u32`, then 16 bytes per record, little endian. The
//! receiver returns one byte per frame it has taken; the sender stops when [`CREDIT_FRAMES`] are on their way.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::LimitArgs;
use super::table::{Hashed, Table};
use super::threads::BATCH_RECORDS;
use crate::counter::Counter;
use crate::workload::{Checksum, Generator, Rec};

/// Frames on their way over a connection: four were fastest.
const CREDIT_FRAMES: usize = 4;
/// Batches on their way to the counting thread.
const CHANNEL_BATCHES: usize = 4;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 8;
const RECORD_BYTES: usize = 16;

pub(super) fn run(args: &LimitArgs) -> Result<()> {
    match &args.peer {
        None => first(args),
        Some(address) => second(args, address),
    }
}

/// Starts the other process and takes two connections from it: the first brings its records, the second takes ours.
fn first(args: &LimitArgs) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["limit", "processes", "--peer", &address, "--keys", &args.keys.to_string(), "--counters"])
        .arg(&args.counters)
        .spawn()
        .context("cannot start the second process")?;
    let (inbound, _) = listener.accept()?;
    let (outbound, _) = listener.accept()?;
    let outcome = side(args, 0, outbound, inbound);
    child.kill()?;
    child.wait()?;
    outcome
}

fn second(args: &LimitArgs, address: &str) -> Result<()> {
    let outbound = TcpStream::connect(address)?;
    let inbound = TcpStream::connect(address)?;
    side(args, 1, outbound, inbound)
}

fn side(args: &LimitArgs, index: usize, outbound: TcpStream, inbound: TcpStream) -> Result<()> {
    for connection in [&outbound, &inbound] {
        connection.set_nodelay(true)?;
    }
    let (to_counter, batches) = bounded(CHANNEL_BATCHES);
    let from_peer = to_counter.clone();
    thread::scope(|scope| {
        let all = [
            scope.spawn(|| produce(args, index, outbound, to_counter)),
            scope.spawn(|| receive(inbound, from_peer)),
            scope.spawn(|| count(args, batches)),
        ];
        all.into_iter().try_for_each(super::outcome)
    })
}

fn produce(args: &LimitArgs, index: usize, connection: TcpStream, local: Sender<Vec<Rec>>) -> Result<()> {
    let mut generator = Generator::new(index as u64, args.keys);
    let mut link = Outbound { connection, credit: CREDIT_FRAMES, frame: Vec::new() };
    let fresh = || Vec::with_capacity(BATCH_RECORDS);
    let mut halves = [fresh(), fresh()];
    loop {
        let record = generator.next();
        let target = super::target(record.0, 2);
        // By index: a branch on where the record goes would be mispredicted half of the time.
        let Some(batch) = halves.get_mut(target) else { return Ok(()) };
        batch.push(record);
        if batch.len() == BATCH_RECORDS {
            if target != index {
                link.send(batch)?;
                batch.clear();
            } else if local.send(std::mem::replace(batch, fresh())).is_err() {
                return Ok(());
            }
        }
    }
}

struct Outbound {
    connection: TcpStream,
    credit: usize,
    frame: Vec<u8>,
}

impl Outbound {
    fn send(&mut self, batch: &[Rec]) -> Result<()> {
        while self.credit == 0 {
            match self.connection.read(&mut [0; CREDIT_FRAMES])? {
                0 => bail!("the other process is gone"),
                returned => self.credit += returned,
            }
        }
        self.credit -= 1;
        encode(batch, &mut self.frame)?;
        Ok(self.connection.write_all(&self.frame)?)
    }
}

fn encode(batch: &[Rec], frame: &mut Vec<u8>) -> Result<()> {
    let bytes = batch.len() * RECORD_BYTES;
    frame.resize(HEADER_BYTES + bytes, 0);
    let (header, payload) = frame.split_at_mut(HEADER_BYTES);
    let (first, second) = header.split_at_mut(HEADER_BYTES / 2);
    first.copy_from_slice(&u32::try_from(bytes)?.to_le_bytes());
    second.copy_from_slice(&u32::try_from(batch.len())?.to_le_bytes());
    for (record, space) in batch.iter().zip(payload.chunks_exact_mut(RECORD_BYTES)) {
        let (key, value) = space.split_at_mut(RECORD_BYTES / 2);
        key.copy_from_slice(&record.0.to_le_bytes());
        value.copy_from_slice(&record.1.to_le_bytes());
    }
    Ok(())
}

/// The frame's payload and what follows it, or nothing as long as the frame is not whole.
fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let length = header.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)?;
    rest.split_at_checked(length)
}

fn decode(payload: &[u8]) -> Vec<Rec> {
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    payload
        .chunks_exact(RECORD_BYTES)
        .map(|bytes| bytes.split_at(RECORD_BYTES / 2))
        .map(|(a, b)| (number(a), number(b)))
        .collect()
}

fn receive(mut connection: TcpStream, to_counter: Sender<Vec<Rec>>) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut start, mut end) = (0, 0);
    loop {
        while let Some((payload, rest)) = buffer.get(start..end).and_then(split_frame) {
            let batch = decode(payload);
            start = end - rest.len();
            if to_counter.send(batch).is_err() {
                return Ok(());
            }
            connection.write_all(&[1])?;
        }
        if start == end {
            (start, end) = (0, 0);
        } else if end > READ_BYTES / 2 {
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        match connection.read(buffer.get_mut(end..).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(count) => end += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn count(args: &LimitArgs, batches: Receiver<Vec<Rec>>) -> Result<()> {
    let mut counter = Counter::create(&args.counters)?;
    let mut table = Hashed::new(args.keys);
    let mut checksum = Checksum::default();
    for batch in batches {
        table.count(&batch, &mut checksum);
        counter.add(batch.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let batch: Vec<Rec> = (0..10).map(|n| (n, n * n)).collect();
        let mut frame = Vec::new();
        encode(&batch, &mut frame).expect("small");
        let whole = frame.clone();
        frame.extend([7; 5]);
        let (payload, rest) = split_frame(&frame).expect("whole");
        assert_eq!((decode(payload), rest), (batch, &[7; 5][..]));
        assert_eq!(split_frame(&whole[..whole.len() - 1]), None);
    }
}
