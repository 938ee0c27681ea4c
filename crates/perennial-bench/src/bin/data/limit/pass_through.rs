//! Generator, map, filter, map, discard in one thread, twice. The functions are known inside each step, the steps are called
//! through a virtual table once per batch.

use std::hint::black_box;
use std::thread;

use anyhow::Result;

use super::LimitArgs;
use crate::counter::Counter;
use crate::workload::{self, Checksum, Generator, Rec};

/// Records per batch: what stays in the first-level cache.
const BATCH_RECORDS: usize = 1024;

trait Step {
    fn run(&mut self, batch: &mut Vec<Rec>);
}

struct Map<F>(F);

impl<F: FnMut(Rec) -> Rec> Step for Map<F> {
    fn run(&mut self, batch: &mut Vec<Rec>) {
        batch.iter_mut().for_each(|record| *record = (self.0)(*record));
    }
}

struct Filter<F>(F);

impl<F: FnMut(&Rec) -> bool> Step for Filter<F> {
    /// Writes every record and moves on only past those that stay: no branch depends on the data.
    #[expect(clippy::indexing_slicing, reason = "measured loop; `kept` never passes `at`, which is below the length")]
    fn run(&mut self, batch: &mut Vec<Rec>) {
        let mut kept = 0;
        for at in 0..batch.len() {
            let record = batch[at];
            batch[kept] = record;
            kept += usize::from((self.0)(&record));
        }
        batch.truncate(kept);
    }
}

impl Step for Checksum {
    fn run(&mut self, batch: &mut Vec<Rec>) {
        batch.iter().for_each(|record| self.add(*record));
        self.observe();
    }
}

pub(super) fn run(args: &LimitArgs) -> Result<()> {
    thread::scope(|scope| {
        let both = [0, 1].map(|index| scope.spawn(move || slot(args, index)));
        both.into_iter().try_for_each(super::outcome)
    })
}

fn slot(args: &LimitArgs, index: u64) -> Result<()> {
    let mut counter = Counter::create(&args.counters)?;
    let mut generator = Generator::new(index, args.keys);
    let mut steps: Vec<Box<dyn Step>> = vec![
        Box::new(Map(workload::first_map)),
        Box::new(Filter(workload::filter)),
        Box::new(Map(workload::second_map)),
        Box::new(Checksum::default()),
    ];
    // What the steps are is hidden, or the calls would not be virtual.
    let steps = black_box(&mut steps);
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    loop {
        batch.clear();
        generator.fill(&mut batch, BATCH_RECORDS);
        steps.iter_mut().for_each(|step| step.run(&mut batch));
        counter.add(BATCH_RECORDS)?;
    }
}
