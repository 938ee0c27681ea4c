//! Running count on one thread: `table KEYS`. Prints the best of many short windows.

use std::hint::black_box;
use std::time::Instant;

use perennial_state::{ByOwned, Found, KeyedTable, MINI_BATCH};

fn main() {
    let keys: u64 = black_box(std::env::args().nth(1).unwrap().parse().unwrap());
    let selector = ByOwned::new(|r: &(u64, u64)| r.0);
    let mut table = KeyedTable::<u64, u64>::new();
    let mut found = Found::default();
    let mut state = 42u64;
    let (mut batch, mut out) = (Vec::with_capacity(1024), Vec::with_capacity(1024));
    let mut best = f64::MAX;
    for window in 0..40 {
        let start = Instant::now();
        let mut count = 0;
        for _ in 0..(if window == 0 { 20_000 } else { 4_000 }) {
            for _ in 0..1024 {
                state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                batch.push(((z ^ (z >> 31)) % keys, 1u64));
            }
            count += batch.len();
            out.clear();
            let mut records = batch.drain(..);
            while !records.as_slice().is_empty() {
                let mini = &records.as_slice()[..records.as_slice().len().min(MINI_BATCH)];
                let n = mini.len();
                table.locate(mini, &selector, |r| r.1, &mut found);
                table.update(&found, n, &mut records, &mut out, |k, v, fresh, r| {
                    if !fresh {
                        *v += r.1;
                    }
                    (*k, *v)
                });
            }
            drop(records);
            black_box(&mut out);
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / count as f64);
    }
    println!("{best:.2} ns per record, {} entries", table.len());
}
