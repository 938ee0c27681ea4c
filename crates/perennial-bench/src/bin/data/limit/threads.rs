//! Two threads produce, two count. Batches travel through bounded channels and their memory comes back.

use std::thread;

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::LimitArgs;
use super::table::Table;
use crate::counter::Counter;
use crate::workload::{Checksum, Generator, Rec};

/// Records per batch: large enough that waking a thread costs nothing per record.
pub(super) const BATCH_RECORDS: usize = 4096;
/// Batches on their way to one counting thread.
pub(super) const CHANNEL_BATCHES: usize = 16;
/// Empty batches waiting to be used again.
pub(super) const SPARE_BATCHES: usize = 64;

pub(super) fn run<T: Table>(args: &LimitArgs) -> Result<()> {
    let (spare_in, spare_out) = bounded(SPARE_BATCHES);
    thread::scope(|scope| {
        let (mut targets, mut all) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (target, batches) = bounded(CHANNEL_BATCHES);
            targets.push(target);
            let spare_in = spare_in.clone();
            all.push(scope.spawn(move || consumer::<T>(args, &batches, &spare_in)));
        }
        for index in 0..2 {
            let (targets, spare_out) = (targets.clone(), spare_out.clone());
            all.push(scope.spawn(move || {
                producer(args, index, &targets, &spare_out);
                Ok(())
            }));
        }
        all.into_iter().try_for_each(super::outcome)
    })
}

fn producer(args: &LimitArgs, index: u64, targets: &[Sender<Vec<Rec>>], spare: &Receiver<Vec<Rec>>) {
    let fresh = || Vec::with_capacity(BATCH_RECORDS);
    let mut generator = Generator::new(index, args.keys);
    let mut open: Vec<(Vec<Rec>, &Sender<Vec<Rec>>)> = targets.iter().map(|target| (fresh(), target)).collect();
    let count = open.len();
    loop {
        let record = generator.next();
        let Some((batch, target)) = open.get_mut(super::target(record.0, count)) else { return };
        batch.push(record);
        if batch.len() == BATCH_RECORDS {
            let full = std::mem::replace(batch, spare.try_recv().unwrap_or_else(|_| fresh()));
            if target.send(full).is_err() {
                return;
            }
        }
    }
}

fn consumer<T: Table>(args: &LimitArgs, batches: &Receiver<Vec<Rec>>, spare: &Sender<Vec<Rec>>) -> Result<()> {
    let mut counter = Counter::create(&args.counters)?;
    let mut table = T::new(args.keys);
    let mut checksum = Checksum::default();
    for mut batch in batches {
        table.count(&batch, &mut checksum);
        counter.add(batch.len())?;
        batch.clear();
        // A full store of spare batches is no reason to wait.
        let _ = spare.try_send(batch);
    }
    Ok(())
}
