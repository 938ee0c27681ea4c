//! What every program of a comparison does alike: the records, their keys, and the functions applied to them.

use std::hint::black_box;
use std::time::{SystemTime, UNIX_EPOCH};

/// A key and a value.
pub(crate) type Rec = (u64, u64);

/// A key and when it happened, in ms since 1970.
pub(crate) type Timed = (u64, i64);

/// Length of the windows that are counted in.
pub(crate) const WINDOW_MS: i64 = 1_000;

/// Now, as the event time of what is generated now.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Records between two reports of a counting thread: some milliseconds of work, so that the report costs nothing.
const REPORT_RECORDS: u64 = 1 << 18;

/// Generates the records of one subtask: splitmix64 modulo the number of keys, value 1.
pub(crate) struct Generator {
    state: u64,
    keys: u64,
}

impl Generator {
    /// The generator of subtask `index`, over `keys` different keys, which are hidden from the optimiser.
    pub(crate) fn new(index: u64, keys: u64) -> Self {
        Self { state: 42 + index * 7919, keys: black_box(keys.max(1)) }
    }

    /// The next record.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Rec {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % self.keys, 1)
    }

    /// Appends `count` records.
    #[inline(always)]
    pub(crate) fn fill(&mut self, batch: &mut Vec<Rec>, count: usize) {
        batch.extend((0..count).map(|_| self.next()));
    }
}

/// The first map of pass-through.
#[inline(always)]
pub(crate) fn first_map(record: Rec) -> Rec {
    (record.0, record.1.wrapping_mul(2).wrapping_add(record.0 & 1))
}

/// The filter of pass-through: three of four records stay.
#[inline(always)]
pub(crate) fn filter(record: &Rec) -> bool {
    record.0 & 3 != 0
}

/// The second map of pass-through.
#[inline(always)]
pub(crate) fn second_map(record: Rec) -> Rec {
    (record.0 ^ 0x55, record.1.wrapping_add(1))
}

/// Folds results into one number, so that none is optimised away.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Checksum(u64);

impl Checksum {
    /// Takes one result in.
    #[inline(always)]
    pub(crate) fn add(&mut self, record: Rec) {
        self.0 = self.0.wrapping_add(record.0 ^ record.1);
    }

    /// Makes the optimiser believe that somebody reads it.
    #[inline(always)]
    pub(crate) fn observe(&self) {
        black_box(self.0);
    }
}

/// Says when a running total is due to be reported.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Due {
    total: u64,
    reported: u64,
}

impl Due {
    /// Adds to the total, and gives it when it is due.
    #[inline(always)]
    pub(crate) fn add(&mut self, records: usize) -> Option<u64> {
        self.total += records as u64;
        (self.total - self.reported >= REPORT_RECORDS).then(|| {
            self.reported = self.total;
            self.total
        })
    }
}
