//! Joins generated orders with generated payments, by window and by interval: `--count N --out DIR [--keys N] [--rate R]`.
//!
//! Order `i` happens at `i` ms if `i` is a multiple of 7, payment `i` if it is one of 11; their key is `i` modulo `--keys`. Each line is
//! `kind,key,order,payment`, once for each pair: the lines are the same in whichever order records come, at any parallelism and
//! through any restore.

use std::time::Duration;

use perennial::prelude::*;
use perennial_connectors::prelude::*;

use crate::event_timers::OUT_OF_ORDERNESS;
use crate::keyed_count::{keys, limited};

/// Length of a window.
const WINDOW_MS: u64 = 200;
/// A payment comes at most so much before its order.
const BEFORE_MS: i64 = 30;
/// And at most so much after it.
const AFTER_MS: i64 = 100;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let (keys, out) = (keys(args)?, args.require("out")?);
    let every = |nth: u64, uid: &str| {
        let strategy = WatermarkStrategy::for_bounded_out_of_orderness(OUT_OF_ORDERNESS)
            .with_timestamp_assigner(|index: &u64| *index as i64);
        let numbers = limited(env.generate(|index| index), args)?.uid(uid);
        Ok::<_, JobError>(numbers.filter(move |index| index % nth == 0).assign_timestamps_and_watermarks(strategy))
    };
    let (orders, payments) = (every(7, "orders")?, every(11, "payments")?);
    let in_window = orders
        .join(&payments)
        .where_(move |order| order % keys)
        .equal_to(move |payment| payment % keys)
        .window(TumblingEventTimeWindows::of(Duration::from_millis(WINDOW_MS)))
        .apply(move |order, payment| ("window".to_owned(), order % keys, *order, *payment))
        .uid("window join");
    let in_interval = orders
        .key_by(move |order| order % keys)
        .interval_join(&payments.key_by(move |payment| payment % keys))
        .between(-BEFORE_MS, AFTER_MS)
        .process(move |order, payment, _, out| {
            out.collect(("interval".to_owned(), order % keys, *order, *payment));
            Ok::<_, UserError>(())
        })
        .uid("interval join");
    in_window.union([&in_interval]).write_as_csv(out).uid("files");
    Ok(())
}

/// The lines of the job, in order.
pub fn expected(count: u64, keys: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for order in (0..count).step_by(7) {
        // Payments further away are in neither.
        let near = order.saturating_sub(2 * WINDOW_MS)..count.min(order + 2 * WINDOW_MS);
        for payment in near.filter(|payment| payment % 11 == 0 && payment % keys == order % keys) {
            if payment / WINDOW_MS == order / WINDOW_MS {
                lines.push(format!("window,{},{order},{payment}", order % keys));
            }
            if (-BEFORE_MS..=AFTER_MS).contains(&(payment as i64 - order as i64)) {
                lines.push(format!("interval,{},{order},{payment}", order % keys));
            }
        }
    }
    lines.sort();
    lines
}
