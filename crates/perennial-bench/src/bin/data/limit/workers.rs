//! Two threads that both produce and count, the way slots work: half of the records stay, half go to the other thread.

use std::thread;

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::LimitArgs;
use super::table::Table;
use crate::counter::Counter;
use crate::workload::{Checksum, Generator, Rec};

/// Records generated between two looks at the channels.
const ROUND_RECORDS: usize = 1024;
/// Batches on their way to the other thread.
const CHANNEL_BATCHES: usize = 16;
/// Empty batches waiting to be used again.
const SPARE_BATCHES: usize = 64;

pub(super) fn run<T: Table>(args: &LimitArgs) -> Result<()> {
    let (to_first, at_first) = bounded(CHANNEL_BATCHES);
    let (to_second, at_second) = bounded(CHANNEL_BATCHES);
    let (spare_in, spare_out) = bounded(SPARE_BATCHES);
    thread::scope(|scope| {
        let both = [(0, to_second, at_first), (1, to_first, at_second)].map(|(index, out, inbox)| {
            let spare = (spare_in.clone(), spare_out.clone());
            scope.spawn(move || Worker::<T>::new(args, index, out, inbox, spare)?.run())
        });
        both.into_iter().try_for_each(super::outcome)
    })
}

struct Worker<T> {
    index: usize,
    generator: Generator,
    out: Sender<Vec<Rec>>,
    inbox: Receiver<Vec<Rec>>,
    spare: (Sender<Vec<Rec>>, Receiver<Vec<Rec>>),
    table: T,
    checksum: Checksum,
    counter: Counter,
}

impl<T: Table> Worker<T> {
    fn new(
        args: &LimitArgs,
        index: usize,
        out: Sender<Vec<Rec>>,
        inbox: Receiver<Vec<Rec>>,
        spare: (Sender<Vec<Rec>>, Receiver<Vec<Rec>>),
    ) -> Result<Self> {
        Ok(Self {
            index,
            generator: Generator::new(index as u64, args.keys),
            out,
            inbox,
            spare,
            table: T::new(args.keys),
            checksum: Checksum::default(),
            counter: Counter::create(&args.counters)?,
        })
    }

    fn run(mut self) -> Result<()> {
        let fresh = || Vec::with_capacity(2 * ROUND_RECORDS);
        let mut halves: [Vec<Rec>; 2] = [fresh(), fresh()];
        loop {
            for _ in 0..ROUND_RECORDS {
                let record = self.generator.next();
                // The own half is the first.
                if let Some(half) = halves.get_mut(super::target(record.0, 2) ^ self.index) {
                    half.push(record);
                }
            }
            let [own, other] = &mut halves;
            self.count(own)?;
            own.clear();
            if other.len() >= ROUND_RECORDS {
                let mut full = std::mem::replace(other, self.spare.1.try_recv().unwrap_or_else(|_| fresh()));
                while let Err(error) = self.out.try_send(full) {
                    match error {
                        TrySendError::Full(again) => full = again,
                        TrySendError::Disconnected(_) => return Ok(()),
                    }
                    if !self.take_one()? {
                        thread::yield_now();
                    }
                }
            }
            while self.take_one()? {}
        }
    }

    /// Counts one batch of the other thread, if there is one.
    fn take_one(&mut self) -> Result<bool> {
        let Ok(mut batch) = self.inbox.try_recv() else { return Ok(false) };
        self.count(&batch)?;
        batch.clear();
        let _ = self.spare.0.try_send(batch);
        Ok(true)
    }

    fn count(&mut self, batch: &[Rec]) -> Result<()> {
        self.table.count(batch, &mut self.checksum);
        Ok(self.counter.add(batch.len())?)
    }
}
