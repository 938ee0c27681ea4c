//! Counts by key in windows of one second: two threads produce, two count, with a hash map per window.
//!
//! A batch says who made it and is in the order of time, so a window is over when both producers have passed its end. Then all its
//! counts are folded into the checksum, and its map is emptied and used again.

use std::hint::black_box;
use std::thread;

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::LimitArgs;
use super::threads::{BATCH_RECORDS, CHANNEL_BATCHES, SPARE_BATCHES};
use crate::counter::Counter;
use crate::workload::{Generator, Timed, WINDOW_MS, now_ms};

/// Producing threads.
const PRODUCERS: usize = 2;
/// Records between two looks at the clock, as the product's sources make at once.
const CLOCK_RECORDS: usize = 1024;

struct Batch {
    producer: usize,
    records: Vec<Timed>,
}

pub(super) fn run(args: &LimitArgs) -> Result<()> {
    let (spare_in, spare_out) = bounded(SPARE_BATCHES);
    thread::scope(|scope| {
        let (mut targets, mut all) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (target, batches) = bounded(CHANNEL_BATCHES);
            targets.push(target);
            let spare_in = spare_in.clone();
            all.push(scope.spawn(move || consumer(args, &batches, &spare_in)));
        }
        for index in 0..PRODUCERS {
            let (targets, spare_out) = (targets.clone(), spare_out.clone());
            all.push(scope.spawn(move || {
                producer(args, index, &targets, &spare_out);
                Ok(())
            }));
        }
        all.into_iter().try_for_each(super::outcome)
    })
}

fn producer(args: &LimitArgs, index: usize, targets: &[Sender<Batch>], spare: &Receiver<Vec<Timed>>) {
    let fresh = || Vec::with_capacity(BATCH_RECORDS);
    let mut generator = Generator::new(index as u64, args.keys);
    let mut open: Vec<(Vec<Timed>, &Sender<Batch>)> = targets.iter().map(|target| (fresh(), target)).collect();
    let count = open.len();
    loop {
        let now = now_ms();
        for _ in 0..CLOCK_RECORDS {
            let key = generator.next().0;
            let Some((batch, target)) = open.get_mut(super::target(key, count)) else { return };
            batch.push((key, now));
            if batch.len() == BATCH_RECORDS {
                let records = std::mem::replace(batch, spare.try_recv().unwrap_or_else(|_| fresh()));
                if target.send(Batch { producer: index, records }).is_err() {
                    return;
                }
            }
        }
    }
}

fn consumer(args: &LimitArgs, batches: &Receiver<Batch>, spare: &Sender<Vec<Timed>>) -> Result<()> {
    let mut counter = Counter::create(&args.counters)?;
    let mut windows = Windows::default();
    for Batch { producer, mut records } in batches {
        windows.count(producer, &records);
        counter.add(records.len())?;
        records.clear();
        // A full store of spare batches is no reason to wait.
        let _ = spare.try_send(records);
    }
    Ok(())
}

/// The counts of the windows that are open, in the order of time.
#[derive(Default)]
struct Windows {
    open: Vec<(i64, HashMap<u64, u64, RandomState>)>,
    spare: Vec<HashMap<u64, u64, RandomState>>,
    /// The latest time of each producer.
    latest: [i64; PRODUCERS],
    checksum: u64,
}

impl Windows {
    #[inline(always)]
    fn count(&mut self, producer: usize, mut records: &[Timed]) {
        while let Some((_, time)) = records.first() {
            let start = time - time.rem_euclid(WINDOW_MS);
            let run = records.iter().position(|record| record.1 < start || record.1 >= start + WINDOW_MS);
            let (of_window, rest) = records.split_at(run.unwrap_or(records.len()));
            let at = self.open.partition_point(|window| window.0 < start);
            if self.open.get(at).is_none_or(|window| window.0 != start) {
                self.open.insert(at, (start, self.spare.pop().unwrap_or_default()));
            }
            if let Some((_, counts)) = self.open.get_mut(at) {
                of_window.iter().for_each(|(key, _)| *counts.entry(*key).or_insert(0) += 1);
            }
            if let (Some(latest), Some((_, time))) = (self.latest.get_mut(producer), of_window.last()) {
                *latest = *time;
            }
            records = rest;
        }
        let over = self.latest.into_iter().min().unwrap_or_default();
        while self.open.first().is_some_and(|(start, _)| start + WINDOW_MS <= over) {
            let (_, mut counts) = self.open.remove(0);
            self.checksum = counts.iter().fold(self.checksum, |sum, (key, count)| sum.wrapping_add(key ^ count));
            black_box(self.checksum);
            counts.clear();
            self.spare.push(counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_when_both_producers_have_left_them() {
        let mut windows = Windows::default();
        windows.count(0, &[(1, 100), (2, 100), (1, 1_100)]);
        windows.count(1, &[(1, 900)]);
        assert_eq!(windows.open.len(), 2);
        assert_eq!(windows.checksum, 0);
        windows.count(1, &[(5, 1_000)]);
        assert_eq!((windows.open.len(), windows.spare.len()), (1, 1));
        assert_eq!(windows.checksum, (1 ^ 2) + (2 ^ 1));
    }
}
