//! Exchanges end to end: nothing is lost, order holds per channel, queues stay within their credit.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use perennial_exchange::Credit;
use perennial_exchange::{
    ChannelKey, Counters, CreditReturn, Element, Gate, KeyHash, LocalChannel, Network, OutChannel, Payload, Peer, Room,
    Route, Signal, WriteError, Writer, WriterControl, WriterSettings,
};
use perennial_types::{JobId, Key, MaxParallelism, Record, key_group, subtask_of};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A record knows who made it, its number there, and its key.
type Numbered = (u32, u64, String);

struct ByText;

impl KeyHash<Numbered> for ByText {
    fn hash_batch(&mut self, batch: &[Numbered], hashes: &mut Vec<u32>) {
        hashes.extend(batch.iter().map(|record| record.2.key_hash()));
    }
}

fn settings(credit: u32) -> WriterSettings {
    WriterSettings { segment_bytes: 256, credit }
}

fn max() -> MaxParallelism {
    MaxParallelism::new(128).unwrap()
}

/// Takes one element and gives its credit back.
fn take_one(gate: &Gate, into: &mut Vec<(usize, Numbered)>, ends: &mut usize, largest: &mut usize) -> bool {
    let Some((channel, element)) = gate.take() else { return false };
    match element {
        Element::EndOfData => {}
        Element::End => *ends += 1,
        Element::Barrier(barrier) => panic!("nobody sent {barrier:?}"),
        Element::Watermark(time) => panic!("nobody sent {time:?}"),
        Element::Data(Payload::Local(mut batch)) => {
            let records = batch.downcast_mut::<Vec<Numbered>>().unwrap();
            *largest = records.len().max(*largest);
            into.extend(records.drain(..).map(|record| (channel, record)));
            gate.worked_off(channel, Some(batch));
        }
        Element::Data(Payload::Remote { bytes, count }) => {
            let mut records = Vec::new();
            Numbered::decode_batch(&bytes, count, &mut records).unwrap();
            *largest = records.len().max(*largest);
            into.extend(records.into_iter().map(|record| (channel, record)));
            gate.worked_off(channel, None);
        }
    }
    true
}

fn assert_whole_and_ordered(got: &[(usize, Numbered)], producers: u32, sent: &[u64], consumer: Option<(u32, u32)>) {
    for producer in 0..producers {
        let numbers: Vec<u64> = got.iter().filter(|(_, r)| r.0 == producer).map(|(_, r)| r.1).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "order of producer {producer}");
    }
    if let Some((consumer, consumers)) = consumer {
        for (_, record) in got {
            assert_eq!(subtask_of(key_group(record.2.key_hash(), max()), max(), consumers), consumer);
        }
    } else {
        assert_eq!(got.len() as u64, sent.iter().sum::<u64>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Two producers, some consumers, any sizes and credits, consumers that stop now and then.
    #[test]
    fn local_exchange_loses_nothing_keeps_order_and_bounds(
        batches in prop::collection::vec((0u32..2, 0usize..60, 0u8..4), 1..80),
        consumers in 1u32..4,
        credit in 1u32..5,
    ) {
        let signal = Arc::new(Signal::new());
        let gates: Vec<Arc<Gate>> = (0..consumers).map(|_| Arc::new(Gate::new(2))).collect();
        let rooms: Vec<Arc<Room>> = (0..2).map(|_| Arc::new(Room::new(Arc::clone(&signal)))).collect();
        let mut writers: Vec<Writer<Numbered>> = rooms.iter().enumerate().map(|(producer, room)| {
            let channels = gates.iter().map(|gate| {
                let channel = Arc::new(LocalChannel::new(Credit::new(credit, Arc::clone(room))));
                gate.connect(producer, Arc::clone(&channel) as Arc<dyn CreditReturn>);
                OutChannel::Local { gate: Arc::clone(gate), index: producer, channel }
            }).collect();
            Writer::new(channels, Route::Hash(Box::new(ByText)), max(), settings(credit), Arc::default())
        }).collect();
        let mut sent = [0u64; 2];
        let mut got: Vec<Vec<(usize, Numbered)>> = vec![Vec::new(); consumers as usize];
        let (mut ends, mut largest) = (0, 0);
        for (producer, size, drains) in batches {
            let at = producer as usize;
            let free = rooms[at].is_free() && writers[at].drain().unwrap();
            if free {
                let mut batch: Vec<Numbered> = (0..size).map(|i| {
                    (producer, sent[at] + i as u64, format!("{}", (sent[at] + i as u64) * 7 % 23))
                }).collect();
                sent[at] += size as u64;
                writers[at].push(&mut batch).unwrap();
                prop_assert!(batch.is_empty());
            } else {
                writers[at].flush().unwrap();
            }
            for (gate, got) in gates.iter().zip(&mut got).take(usize::from(drains)) {
                take_one(gate, got, &mut ends, &mut largest);
            }
        }
        for writer in &mut writers {
            writer.finish().unwrap();
            writer.end().unwrap();
        }
        loop {
            let all_gone = writers.iter_mut().all(|writer| writer.drain().unwrap());
            let mut took = false;
            for (gate, got) in gates.iter().zip(&mut got) {
                let mut in_flight = 0;
                while take_one(gate, got, &mut ends, &mut largest) {
                    took = true;
                    in_flight += 1;
                }
                prop_assert!(in_flight <= 2 * (credit as usize + 2), "{in_flight} elements with credit {credit}");
            }
            if all_gone && !took { break }
        }
        prop_assert_eq!(ends, 2 * consumers as usize);
        // Up to a batch less one, and the records of one piece of the input.
        prop_assert!(largest <= 2 * 256 / 24, "a batch of {} records", largest);
        prop_assert_eq!(got.iter().map(Vec::len).sum::<usize>() as u64, sent.iter().sum::<u64>());
        for (consumer, got) in got.iter().enumerate() {
            assert_whole_and_ordered(got, 2, &sent, Some((consumer as u32, consumers)));
        }
    }
}

struct ByNumber;

impl KeyHash<(u64, u64)> for ByNumber {
    fn hash_batch(&mut self, batch: &[(u64, u64)], hashes: &mut Vec<u32>) {
        hashes.extend(batch.iter().map(|record| record.0.key_hash()));
    }
}

/// Plain data takes another way through the writer than text: few lanes, and more of them.
#[test]
fn plain_records_reach_the_subtask_of_their_key_in_order() {
    for (consumers, segment_bytes) in [(2u32, 64 << 10), (3, 64), (4, 1000), (5, 1000)] {
        let room = Arc::new(Room::new(Arc::new(Signal::new())));
        let gates: Vec<Arc<Gate>> = (0..consumers).map(|_| Arc::new(Gate::new(1))).collect();
        let channels = gates
            .iter()
            .map(|gate| {
                let channel = Arc::new(LocalChannel::new(Credit::new(100_000, Arc::clone(&room))));
                OutChannel::Local { gate: Arc::clone(gate), index: 0, channel }
            })
            .collect();
        let settings = WriterSettings { segment_bytes, credit: 100_000 };
        let mut writer =
            Writer::new(channels, Route::Hash(Box::new(ByNumber)), max(), settings, Arc::<Counters>::default());
        for batch in 0..20u64 {
            writer.push(&mut (0..batch * 97).map(|i| (i * 31, batch * 10_000 + i)).collect()).unwrap();
        }
        writer.finish().unwrap();
        let mut total = 0;
        for (consumer, gate) in (0..).zip(&gates) {
            let mut last = None;
            while let Some((_, element)) = gate.take() {
                let Element::Data(Payload::Local(mut batch)) = element else { break };
                for (key, number) in batch.downcast_mut::<Vec<(u64, u64)>>().unwrap().drain(..) {
                    assert_eq!(subtask_of(key_group(key.key_hash(), max()), max(), consumers), consumer);
                    assert!(last < Some(number), "order at subtask {consumer} of {consumers}");
                    last = Some(number);
                    total += 1;
                }
            }
        }
        assert_eq!(total, (0..20).map(|batch| batch * 97).sum::<u64>());
    }
}

fn network(job: JobId, name: &str, credit: u32) -> (Network, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (Network::start(listener, job, name.to_owned(), credit).unwrap(), Peer { name: name.to_owned(), address })
}

fn key(producer: u32) -> ChannelKey {
    ChannelKey { edge: 0, producer: (producer, 0), consumer: (0, 0) }
}

/// Waits for something, at most [`PATIENCE`].
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Several producers over one connection, a consumer that comes late and reads slowly: everything arrives in order, and no more
/// than the credit is ever waiting.
#[test]
fn remote_exchange_loses_nothing_and_keeps_its_bounds() {
    const CREDIT: u32 = 3;
    const RECORDS: u64 = 20_000;
    let job = JobId::random();
    let (from, _) = network(job, "from", CREDIT);
    let (to, to_peer) = network(job, "to", CREDIT);
    let signal = Arc::new(Signal::new());
    let room = Arc::new(Room::new(Arc::clone(&signal)));
    let gate = Arc::new(Gate::new(2));
    let counters = Arc::new(Counters::default());
    let mut writers: Vec<Writer<Numbered>> = (0..2)
        .map(|producer| {
            let channel = OutChannel::Remote(from.open(&to_peer, &key(producer), Arc::clone(&room)).unwrap());
            Writer::new(vec![channel], Route::Forward, max(), settings(CREDIT), Arc::clone(&counters))
        })
        .collect();
    assert!(!room.is_free(), "no credit before the consumer came");
    for producer in 0..2 {
        to.register_input(key(producer), Arc::clone(&gate), producer as usize);
    }
    let producing = std::thread::spawn(move || {
        let mut next = 0;
        while next < RECORDS {
            for (producer, writer) in (0..).zip(&mut writers) {
                let mut batch: Vec<Numbered> =
                    (next..next + 50).map(|number| (producer, number, "x".repeat(number as usize % 40))).collect();
                writer.push(&mut batch).unwrap();
            }
            next += 50;
            wait_for("room", || writers.iter_mut().all(|writer| writer.drain().unwrap()));
        }
        for writer in &mut writers {
            writer.finish().unwrap();
            writer.end().unwrap();
        }
        wait_for("the rest to go", || writers.iter_mut().all(|writer| writer.drain().unwrap()));
        // The connection outlives its channels: the process does.
        (writers, from)
    });
    let (mut got, mut ends, mut largest) = (Vec::new(), 0, 0);
    wait_for("both ends", || {
        take_one(&gate, &mut got, &mut ends, &mut largest);
        ends == 2
    });
    assert_whole_and_ordered(&got, 2, &[RECORDS, RECORDS], None);
    assert!(gate.failure().is_none());
    assert!(counters.bytes_out.load(Ordering::Relaxed) > 2 * RECORDS * 16);
    producing.join().unwrap();
}

/// The process of the producer dies with its channel open: the consumer is told who it was.
#[test]
fn a_lost_producer_fails_its_consumer_and_an_ended_one_does_not() {
    let job = JobId::random();
    let (to, peer) = network(job, "to", 4);
    let (ended, lost) = (Arc::new(Gate::new(1)), Arc::new(Gate::new(1)));
    to.register_input(key(0), Arc::clone(&ended), 0);
    to.register_input(key(1), Arc::clone(&lost), 0);
    let mut stream = TcpStream::connect(&peer.address).unwrap();
    stream.write_all(&greeting(job, "from", "to")).unwrap();
    let mut welcome = [9];
    stream.read_exact(&mut welcome).unwrap();
    assert_eq!(welcome, [0]);
    for number in 0..2u32 {
        stream.write_all(&frame(20, number, 0, 1)).unwrap();
        let words = [0, number, 0, 0, 0];
        stream.write_all(&words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    }
    stream.write_all(&frame(0, 0, 0, 3)).unwrap();
    wait_for("the end", || ended.has_ended(0));
    drop(stream);
    wait_for("the failure", || lost.failure().is_some());
    assert!(lost.failure().unwrap().peer.starts_with("from at 127.0.0.1"));
    assert!(ended.failure().is_none());
}

fn greeting(job: JobId, from: &str, to: &str) -> Vec<u8> {
    let mut bytes = b"PRNL\x04\0\0\0".to_vec();
    bytes.extend(job.as_bytes());
    for name in [from, to] {
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes
}

fn frame(payload_bytes: u32, channel: u32, count: u32, kind: u8) -> Vec<u8> {
    let mut bytes = payload_bytes.to_le_bytes().to_vec();
    bytes.extend(channel.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.push(kind);
    bytes.extend(b"prn");
    bytes
}

/// Whatever a peer sends, the worst that happens is that its consumers fail with its name.
#[test]
fn malformed_frames_end_the_connection_and_name_the_peer() {
    let uncredited: Vec<u8> = std::iter::repeat_n(frame(0, 0, 1, 2), 5).flatten().collect();
    let cases: [(&str, Vec<u8>); 6] = [
        ("does not begin", b"0123456789abcdefghij".to_vec()),
        ("unknown kind", frame(0, 0, 0, 77)),
        ("at most", frame(u32::MAX, 0, 0, 2)),
        ("not open", frame(0, 9, 1, 2)),
        ("more data", uncredited),
        ("20 bytes", frame(0, 1, 0, 1)),
    ];
    for (expect, bytes) in cases {
        let job = JobId::random();
        let (to, peer) = network(job, "to", 4);
        let gate = Arc::new(Gate::new(1));
        to.register_input(key(0), Arc::clone(&gate), 0);
        let mut stream = TcpStream::connect(&peer.address).unwrap();
        stream.write_all(&greeting(job, "evil", "to")).unwrap();
        stream.write_all(&frame(20, 0, 0, 1)).unwrap();
        stream.write_all(&[0; 20]).unwrap();
        stream.write_all(&bytes).unwrap();
        wait_for(expect, || gate.failure().is_some());
        let failure = gate.failure().unwrap();
        assert!(failure.peer.starts_with("evil"), "{failure}");
        assert!(failure.reason.contains(expect), "{failure}");
        let mut rest = Vec::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Closed or reset, but not left open.
        let _ = stream.read_to_end(&mut rest);
    }
}

/// A stranger's greeting is refused with a reason, which the task on the other side fails with.
#[test]
fn executors_of_another_job_are_refused() {
    let (from, _) = network(JobId::random(), "from", 4);
    let (_to, peer) = network(JobId::random(), "to", 4);
    let room = Arc::new(Room::new(Arc::new(Signal::new())));
    let channel = OutChannel::Remote(from.open(&peer, &key(0), Arc::clone(&room)).unwrap());
    let mut writer = Writer::<u64>::new(vec![channel], Route::Forward, max(), settings(4), Arc::default());
    wait_for("the refusal", || room.failure().is_some());
    assert!(room.failure().unwrap().reason.contains("this executor runs job"), "{:?}", room.failure());
    assert!(matches!(writer.push(&mut vec![1]), Err(WriteError::Exchange(_))));
}
