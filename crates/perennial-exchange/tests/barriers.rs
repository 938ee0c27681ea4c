//! Barriers and times in band: what was sent before one comes before it, and it needs no credit.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_exchange::{
    Barrier, ChannelKey, Credit, CreditReturn, Element, EventTime, Gate, Guarantee, LocalChannel, Network, OutChannel,
    Payload, Peer, Room, Route, Signal, Writer, WriterControl, WriterSettings,
};
use perennial_types::{CheckpointId, JobId, MaxParallelism, Record, SnapshotKind};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two records make a batch.
const SETTINGS: WriterSettings = WriterSettings { segment_bytes: 16, credit: 1 };

fn barrier(checkpoint: u64) -> Barrier {
    let (kind, guarantee) = (SnapshotKind::Checkpoint, Guarantee::ExactlyOnce);
    Barrier { checkpoint: CheckpointId(checkpoint), kind, guarantee, triggered_ms: 7 }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Records(Vec<u64>),
    Barrier(u64),
    Time(EventTime),
    EndOfData,
    End,
}

/// Takes an element, and gives back its credit if it had any.
fn take(gate: &Gate) -> Option<(usize, Seen)> {
    let (channel, element) = gate.take()?;
    let seen = match element {
        Element::Barrier(barrier) => {
            assert_eq!(barrier, self::barrier(barrier.checkpoint.0));
            Seen::Barrier(barrier.checkpoint.0)
        }
        Element::Watermark(time) => Seen::Time(time),
        Element::EndOfData => Seen::EndOfData,
        Element::End => Seen::End,
        Element::Data(Payload::Local(mut batch)) => {
            let records = std::mem::take(batch.downcast_mut::<Vec<u64>>().unwrap());
            gate.worked_off(channel, Some(batch));
            Seen::Records(records)
        }
        Element::Data(Payload::Remote { bytes, count }) => {
            let mut records = Vec::new();
            u64::decode_batch(&bytes, count, &mut records).unwrap();
            gate.worked_off(channel, None);
            Seen::Records(records)
        }
    };
    Some((channel, seen))
}

fn writer(channel: OutChannel) -> Writer<u64> {
    Writer::new(vec![channel], Route::Forward, MaxParallelism::new(128).unwrap(), SETTINGS, Arc::default())
}

/// A gate and the writers of its channels, all in this process, with credit for one batch each.
fn local(channels: usize) -> (Arc<Gate>, Vec<Writer<u64>>) {
    let gate = Arc::new(Gate::new(channels));
    let writers = (0..channels).map(|index| {
        let room = Arc::new(Room::new(Arc::new(Signal::new())));
        let channel = Arc::new(LocalChannel::new(Credit::new(SETTINGS.credit, room)));
        gate.connect(index, Arc::clone(&channel) as Arc<dyn CreditReturn>);
        writer(OutChannel::Local { gate: Arc::clone(&gate), index, channel })
    });
    let writers = writers.collect();
    (gate, writers)
}

#[test]
fn a_blocked_channel_keeps_what_it_has_and_gets() {
    let (gate, mut writers) = local(2);
    let signal = Arc::new(Signal::new());
    gate.attach(Arc::clone(&signal));
    writers[0].barrier(barrier(1)).unwrap();
    writers[0].push(&mut vec![1, 2]).unwrap();
    assert_eq!(take(&gate), Some((0, Seen::Barrier(1))));
    // It was listed again, for what is behind the barrier.
    gate.block(0);
    assert!(gate.has_input());
    assert_eq!(take(&gate), None, "only a blocked channel has something");
    writers[1].push(&mut vec![3, 4]).unwrap();
    writers[0].finish().unwrap();
    assert_eq!(take(&gate), Some((1, Seen::Records(vec![3, 4]))), "the other channel goes on");
    assert_eq!(take(&gate), None);
    gate.unblock_all();
    assert_eq!(take(&gate), Some((0, Seen::Records(vec![1, 2]))));
    assert_eq!(take(&gate), Some((0, Seen::EndOfData)));
    // Blocked while empty: lists nothing when unblocked, and what comes then is found.
    gate.block(1);
    gate.unblock_all();
    assert_eq!(take(&gate), None);
    writers[1].push(&mut vec![5, 6]).unwrap();
    assert_eq!(take(&gate), Some((1, Seen::Records(vec![5, 6]))));
    assert_eq!((take(&gate), gate.has_input()), (None, false));
}

#[test]
fn a_barrier_needs_no_credit_and_overtakes_nothing() {
    let (gate, mut writers) = local(1);
    let writer = &mut writers[0];
    writer.push(&mut vec![1, 2]).unwrap();
    writer.barrier(barrier(1)).unwrap();
    // Without credit: the open batch waits, and barrier 2 behind it.
    writer.push(&mut vec![3]).unwrap();
    writer.barrier(barrier(2)).unwrap();
    writer.barrier(barrier(3)).unwrap();
    writer.push(&mut vec![4, 5]).unwrap();
    assert!(!writer.drain().unwrap());
    assert_eq!(take(&gate), Some((0, Seen::Records(vec![1, 2]))));
    assert_eq!(take(&gate), Some((0, Seen::Barrier(1))));
    assert_eq!(take(&gate), None);
    assert!(!writer.drain().unwrap(), "credit for one of two batches");
    assert_eq!(take(&gate), Some((0, Seen::Records(vec![3]))));
    assert_eq!(take(&gate), Some((0, Seen::Barrier(2))));
    assert_eq!(take(&gate), Some((0, Seen::Barrier(3))));
    writer.push(&mut vec![6]).unwrap();
    writer.finish().unwrap();
    writer.barrier(barrier(4)).unwrap();
    writer.end().unwrap();
    assert_eq!(take(&gate), Some((0, Seen::Records(vec![4, 5]))));
    assert_eq!(take(&gate), None, "the end waits as everything else does");
    assert!(writer.drain().unwrap());
    for expect in [Seen::Records(vec![6]), Seen::EndOfData, Seen::Barrier(4), Seen::End] {
        assert_eq!(take(&gate), Some((0, expect)));
    }
    assert_eq!(take(&gate), None);
}

#[test]
fn a_watermark_comes_behind_what_was_pushed_and_replaces_one_that_waits() {
    use EventTime::{Idle, Watermark};
    let (gate, mut writers) = local(1);
    let writer = &mut writers[0];
    writer.push(&mut vec![1]).unwrap();
    // The open batch is sealed and takes the only credit; the time needs none.
    writer.watermark(Watermark(10)).unwrap();
    writer.watermark(Watermark(20)).unwrap();
    writer.push(&mut vec![2]).unwrap();
    writer.watermark(Watermark(30)).unwrap();
    writer.watermark(Idle).unwrap();
    writer.barrier(barrier(1)).unwrap();
    writer.watermark(Watermark(40)).unwrap();
    assert_eq!(take(&gate), Some((0, Seen::Records(vec![1]))));
    assert_eq!(take(&gate), Some((0, Seen::Time(Watermark(20)))), "10 was replaced in the gate");
    assert_eq!((take(&gate), gate.has_input()), (None, false), "the rest waits for the second batch's credit");
    writer.drain().unwrap();
    assert_eq!(take(&gate), Some((0, Seen::Records(vec![2]))));
    assert_eq!(take(&gate), Some((0, Seen::Time(Idle))), "30 was replaced in the writer");
    assert_eq!(take(&gate), Some((0, Seen::Barrier(1))));
    // Behind a barrier that blocks its channel it waits.
    gate.block(0);
    assert_eq!(take(&gate), None);
    writer.watermark(Watermark(50)).unwrap();
    gate.unblock_all();
    assert_eq!(take(&gate), Some((0, Seen::Time(Watermark(50)))));
    writer.finish().unwrap();
    writer.end().unwrap();
    assert_eq!(take(&gate), Some((0, Seen::EndOfData)));
    assert_eq!(take(&gate), Some((0, Seen::End)));
    assert_eq!((take(&gate), gate.has_input()), (None, false));
}

fn network(job: JobId, name: &str) -> (Network, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let network = Network::start(listener, job, name.to_owned(), SETTINGS.credit).unwrap();
    (network, Peer { name: name.to_owned(), address })
}

fn wait_for<R>(what: &str, mut find: impl FnMut() -> Option<R>) -> R {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// A barrier sent before the consumer came, one behind a batch, and one without credit: all in their places.
#[test]
fn barriers_between_processes_keep_their_places() {
    let job = JobId::random();
    let ((from, _), (to, peer)) = (network(job, "from"), network(job, "to"));
    let room = Arc::new(Room::new(Arc::new(Signal::new())));
    let key = |edge| ChannelKey { edge, producer: (0, 0), consumer: (0, 0) };
    let (gate, probe) = (Arc::new(Gate::new(1)), Arc::new(Gate::new(1)));
    let mut early = writer(OutChannel::Remote(from.open(&peer, &key(0), Arc::clone(&room)).unwrap()));
    early.watermark(EventTime::Watermark(4)).unwrap();
    early.watermark(EventTime::Watermark(5)).unwrap();
    early.barrier(barrier(1)).unwrap();
    // On the same connection, behind it: once this one has arrived, the barrier has too.
    let mut behind = writer(OutChannel::Remote(from.open(&peer, &key(1), Arc::clone(&room)).unwrap()));
    behind.barrier(barrier(9)).unwrap();
    to.register_input(key(1), Arc::clone(&probe), 0);
    assert_eq!(wait_for("the probe", || take(&probe)), (0, Seen::Barrier(9)));
    to.register_input(key(0), Arc::clone(&gate), 0);
    assert_eq!(take(&gate), Some((0, Seen::Time(EventTime::Watermark(5)))));
    assert_eq!(wait_for("the early barrier", || take(&gate)), (0, Seen::Barrier(1)));
    wait_for("credit", || room.is_free().then_some(()));
    early.push(&mut vec![1, 2]).unwrap();
    early.barrier(barrier(2)).unwrap();
    early.push(&mut vec![3]).unwrap();
    early.watermark(EventTime::Watermark(-6)).unwrap();
    early.barrier(barrier(3)).unwrap();
    early.watermark(EventTime::Idle).unwrap();
    early.finish().unwrap();
    early.barrier(barrier(4)).unwrap();
    early.end().unwrap();
    assert_eq!(wait_for("the first batch", || take(&gate)), (0, Seen::Records(vec![1, 2])));
    let (time, idle) = (Seen::Time(EventTime::Watermark(-6)), Seen::Time(EventTime::Idle));
    let ends = [Seen::EndOfData, Seen::Barrier(4), Seen::End];
    for expect in [Seen::Barrier(2), Seen::Records(vec![3]), time, Seen::Barrier(3), idle].into_iter().chain(ends) {
        let seen = wait_for("the rest", || {
            early.drain().unwrap();
            take(&gate)
        });
        assert_eq!(seen, (0, expect));
    }
    assert!(gate.failure().is_none() && probe.failure().is_none());
}
