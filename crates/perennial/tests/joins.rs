//! Joins, run in this process, against nested loops.

use std::error::Error;
use std::time::Duration;

use perennial::prelude::*;

const PARALLELISMS: [u32; 3] = [1, 2, 4];

/// A key and a time.
type Order = (u32, i64);
/// A key, a time, an amount.
type Payment = (u32, i64, u64);

fn orders() -> Vec<Order> {
    (0..800).map(|n| (n % 13, i64::from(n * 5 + (n * 31) % 70))).collect()
}

fn payments() -> Vec<Payment> {
    (0..600).map(|n| (n % 11, i64::from(n * 7 + (n * 17) % 60), u64::from(n))).collect()
}

fn streams(parallelism: u32) -> (StreamExecutionEnvironment, DataStream<Order>, DataStream<Payment>) {
    let env = StreamExecutionEnvironment::local();
    env.set_parallelism(parallelism).set_auto_watermark_interval(Duration::from_millis(1));
    let bound = Duration::from_millis(100);
    let of_orders = WatermarkStrategy::for_bounded_out_of_orderness(bound).with_timestamp_assigner(|o: &Order| o.1);
    let of_payments = WatermarkStrategy::for_bounded_out_of_orderness(bound).with_timestamp_assigner(|p: &Payment| p.1);
    let orders = env.from_collection(orders()).assign_timestamps_and_watermarks(of_orders);
    let payments = env.from_collection(payments()).assign_timestamps_and_watermarks(of_payments);
    (env, orders, payments)
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

/// All pairs of one key for which `holds` does.
fn pairs(holds: impl Fn(i64, i64) -> bool) -> Vec<(u32, i64, u64)> {
    let payments = payments();
    let of = |order: Order| {
        let with = payments.iter().filter(move |payment| payment.0 == order.0);
        with.filter(|payment| holds(order.1, payment.1)).map(move |payment| (order.0, order.1, payment.2)).collect()
    };
    let pairs: Vec<Vec<_>> = orders().into_iter().map(of).collect();
    sorted(pairs.concat())
}

#[test]
fn a_window_join_has_all_pairs_of_each_window() {
    for parallelism in PARALLELISMS {
        let (_, orders, payments) = streams(parallelism);
        let joined = orders
            .join(&payments)
            .where_(|order| order.0)
            .equal_to(|payment| payment.0)
            .window(TumblingEventTimeWindows::of(Duration::from_millis(250)))
            .apply(|order, payment| (order.0, order.1, payment.2));
        let expect = pairs(|order, payment| order.div_euclid(250) == payment.div_euclid(250));
        assert!(expect.len() > 500);
        assert_eq!(sorted(joined.execute_and_collect().unwrap()), expect);
    }
}

#[test]
fn a_co_group_has_the_records_of_one_side_alone_too() {
    for parallelism in PARALLELISMS {
        let (_, orders, payments) = streams(parallelism);
        let grouped = orders
            .co_group(&payments)
            .where_(|order| order.0)
            .equal_to(|payment| payment.0)
            .window(TumblingEventTimeWindows::of(Duration::from_millis(250)))
            .apply(|orders, payments, out| {
                out.collect((orders.len() as u64, payments.len() as u64));
                Ok::<_, UserError>(())
            })
            .execute_and_collect()
            .unwrap();
        assert_eq!(grouped.iter().map(|group| group.0).sum::<u64>(), 800);
        assert_eq!(grouped.iter().map(|group| group.1).sum::<u64>(), 600);
        assert!(grouped.iter().any(|group| group.1 == 0));
        let expect = pairs(|order, payment| order.div_euclid(250) == payment.div_euclid(250));
        assert_eq!(grouped.iter().map(|group| group.0 * group.1).sum::<u64>(), expect.len() as u64);
    }
}

#[test]
fn an_interval_join_has_all_pairs_within_the_interval() {
    for parallelism in PARALLELISMS {
        for (lower, upper) in [(-100, 50), (20, 300), (-300, -20)] {
            let (_, orders, payments) = streams(parallelism);
            let joined = orders
                .key_by(|order| order.0)
                .interval_join(&payments.key_by(|payment| payment.0))
                .between(lower, upper)
                .process(|order, payment, context, out| {
                    assert_eq!((context.left_timestamp, context.right_timestamp), (order.1, payment.1));
                    out.collect((order.0, order.1, payment.2));
                    Ok::<_, UserError>(())
                });
            let expect = pairs(|order, payment| (lower..=upper).contains(&(payment - order)));
            assert!(expect.len() > 200);
            assert_eq!(sorted(joined.execute_and_collect().unwrap()), expect);
        }
    }
}

#[test]
fn joins_that_cannot_be_are_refused_with_advice() {
    let refused = |joined: DataStream<(u32, i64)>| {
        let error = joined.execute_and_collect().unwrap_err();
        assert!(error.source().is_none());
        error.to_string()
    };
    let (_, orders, payments) = streams(1);
    let untimed = payments.map(|payment| payment);
    let windows = TumblingEventTimeWindows::of(Duration::from_millis(250));
    let join = orders.join(&untimed).where_(|order| order.0).equal_to(|payment| payment.0).window(windows);
    let text = refused(join.apply(|order, _| *order));
    assert!(text.contains("timestamps") && text.contains("with_timestamps"), "{text}");

    let pair = |order: &Order, _: &Payment, _: &JoinContext, out: &mut Collector<'_, Order>| {
        out.collect(*order);
        Ok::<_, UserError>(())
    };
    let (_, orders, payments) = streams(1);
    let untimed = payments.map(|payment| payment).key_by(|payment| payment.0);
    let text = refused(orders.key_by(|order| order.0).interval_join(&untimed).between(0, 1).process(pair));
    assert!(text.contains("Interval Join") && text.contains("with_timestamps"), "{text}");

    let (_, orders, payments) = streams(1);
    let keyed = payments.key_by(|payment| payment.0);
    let text = refused(orders.key_by(|order| order.0).interval_join(&keyed).between(1, 0).process(pair));
    assert!(text.contains("nothing in it"), "{text}");
}
