//! Jobs run in this process, against what a few lines of plain Rust give.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use perennial::prelude::*;

const PARALLELISMS: [u32; 4] = [1, 2, 3, 4];

fn env(parallelism: u32) -> StreamExecutionEnvironment {
    let env = StreamExecutionEnvironment::local();
    env.set_parallelism(parallelism);
    env
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

/// The whole error with its causes.
fn text_of(error: JobError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

const TEXT: &str = "the quick brown fox jumps over the lazy dog\n the dog sleeps ; the fox does not\n\n fox";

fn expected_counts() -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for word in TEXT.split_whitespace() {
        *counts.entry(word.to_owned()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn word_count_equals_a_hash_map_at_every_parallelism() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let words = env
            .from_collection(TEXT.lines().map(str::to_owned))
            .rebalance()
            .flat_map(|line: String, out| out.extend(line.split_whitespace().map(str::to_owned)));
        let counts = words.key_by(|word: &String| word.clone()).count();
        let counted = counts.execute_and_collect().unwrap();
        assert_eq!(counted.len(), TEXT.split_whitespace().count(), "every record emits");
        let mut last = HashMap::new();
        for (word, count) in counted {
            let most = last.entry(word).or_insert(0);
            *most = count.max(*most);
        }
        assert_eq!(last, expected_counts());
    }
}

#[test]
fn aggregations_can_emit_once_at_the_end() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let words = env.from_collection(TEXT.split_whitespace().map(str::to_owned));
        let counts = words.rebalance().map(|word| word).key_by_ref(|word| word).emit_at_end().count();
        let counted = counts.execute_and_collect().unwrap();
        assert_eq!(counted.len(), expected_counts().len());
        assert_eq!(counted.into_iter().collect::<HashMap<_, _>>(), expected_counts());
    }
}

#[test]
fn keyed_aggregations_run_over_their_field() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let numbers = env.from_sequence(0..1000).map(|n| (n % 7, n as i64 - 500)).key_by(|pair| pair.0).emit_at_end();
        let (sums, least, most) = (numbers.sum(|n| n.1), numbers.min(|n| n.1), numbers.max(|n| n.1));
        let reduced = numbers.reduce(|a, b| (a.0, a.1.max(b.1)));
        let averages = numbers.aggregate(
            |n| (n.1, 1i64),
            |state, n| *state = (state.0 + n.1, state.1 + 1),
            |key, (sum, count)| (*key, sum * 1000 / count),
        );
        let (sums, least, most) = (sums.collect(), least.collect(), most.collect());
        let (reduced, averages) = (reduced.collect(), averages.collect());
        env.execute("aggregations").unwrap();
        let of_key = |key: u64| (0..1000).filter(move |n| n % 7 == key).map(|n| n as i64 - 500);
        let expect = |f: &dyn Fn(u64) -> i64| (0..7).map(|key| (key, f(key))).collect::<Vec<_>>();
        assert_eq!(sorted(sums.take()), expect(&|key| of_key(key).sum()));
        assert_eq!(sorted(least.take()), expect(&|key| of_key(key).min().unwrap()));
        assert_eq!(sorted(most.take()), expect(&|key| of_key(key).max().unwrap()));
        assert_eq!(sorted(reduced.take()), expect(&|key| of_key(key).max().unwrap()));
        let average = |key| of_key(key).sum::<i64>() * 1000 / of_key(key).count() as i64;
        assert_eq!(sorted(averages.take()), expect(&average));
    }
}

#[test]
fn stateless_operators_do_what_iterators_do() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let got = env
            .from_sequence(0..10_000)
            .map(|n| n * 3)
            .filter(|n| n % 2 == 0)
            .try_map(|n| u32::try_from(n).map(|n| n / 2))
            .try_filter(|n| Ok::<_, UserError>(n % 5 != 0))
            .map(|n| n.to_string())
            .filter(|text| !text.ends_with('7'))
            .flat_map(|text, out| {
                out.push(text.len() as u64);
                out.push(1);
            })
            .try_flat_map(|n, out| {
                out.extend(0..n);
                Ok::<_, UserError>(())
            })
            .execute_and_collect()
            .unwrap();
        let expect: Vec<u64> = (0..10_000u64)
            .map(|n| n * 3)
            .filter(|n| n % 2 == 0)
            .map(|n| n / 2)
            .filter(|n| n % 5 != 0)
            .map(|n| n.to_string())
            .filter(|text| !text.ends_with('7'))
            .flat_map(|text| [text.len() as u64, 1])
            .flat_map(|n| 0..n)
            .collect();
        assert!(sorted(got) == sorted(expect), "parallelism {parallelism}");
    }
}

#[test]
fn one_record_may_become_very_many() {
    let env = env(1);
    let count =
        env.from_collection([100_000u64]).flat_map(|n, out| out.extend(0..n)).key_by(|_| ()).emit_at_end().count();
    assert_eq!(count.execute_and_collect().unwrap(), [((), 100_000)]);
}

/// Every record arrives once (broadcast: once per subtask), whatever the partitioner and the parallelism on both sides.
#[test]
fn partitioners_lose_and_double_nothing() {
    type Partitioner = fn(&DataStream<u64>) -> DataStream<u64>;
    let partitioners: [(&str, Partitioner); 6] = [
        ("rebalance", DataStream::rebalance),
        ("rescale", DataStream::rescale),
        ("shuffle", DataStream::shuffle),
        ("broadcast", DataStream::broadcast),
        ("global", DataStream::global),
        ("custom", |stream| stream.partition_custom(|n, subtasks| (*n % u64::from(subtasks)) as u32)),
    ];
    for (name, partition) in partitioners {
        for (from, to) in [(1, 1), (1, 4), (4, 1), (2, 4), (4, 2), (3, 2), (3, 3)] {
            let env = env(from);
            let seen_by = Arc::new([const { AtomicU64::new(0) }; 4]);
            let stream = partition(&env.from_sequence(0..1000).map(|n| n));
            let counting = seen_by.clone();
            let placed = stream.process(|n, out| {
                out.collect(n);
                Ok::<_, UserError>(())
            });
            let placed = placed.set_parallelism(to);
            placed
                .forward()
                .sink_to(move |context| CountRecords(counting.clone(), context.attempt.subtask))
                .set_parallelism(to);
            let collected = placed.collect();
            env.execute(name).unwrap();
            let copies = if name == "broadcast" { to } else { 1 };
            let expect = (0..1000).flat_map(|n| std::iter::repeat_n(n, copies as usize)).collect::<Vec<_>>();
            assert!(sorted(collected.take()) == expect, "{name} from {from} to {to}");
            let seen: Vec<u64> = seen_by.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            let check: &dyn Fn(u64) -> bool = match name {
                "broadcast" => &|count| count == 1000,
                "rescale" if from == 3 && to == 2 => &|count| count > 300,
                "rebalance" | "rescale" | "custom" => {
                    &|count| count.abs_diff(1000 / u64::from(to)) <= u64::from(from * to)
                }
                "shuffle" => &|count| count > 0,
                _ => &|count| count == 0 || count == 1000,
            };
            assert!(seen.iter().take(to as usize).all(|count| check(*count)), "{name} from {from} to {to}: {seen:?}");
        }
    }
}

struct CountRecords(Arc<[AtomicU64; 4]>, u32);

impl<T> Sink<T> for CountRecords {
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        if let Some(counter) = self.0.get(self.1 as usize) {
            counter.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn unions_and_streams_with_several_consumers() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let small = env.from_sequence(0..100);
        let large = small.map(|n| n + 1000);
        let both = small.union([&large, &large.rebalance(), &small]);
        let (all, even) = (both.map(|n| n).collect(), both.filter(|n| n % 2 == 0).collect());
        env.execute("union").unwrap();
        let expect: Vec<u64> = (0..100).flat_map(|n| [n, n, n + 1000, n + 1000]).collect();
        assert_eq!(sorted(all.take()), sorted(expect.clone()));
        assert_eq!(sorted(even.take()), sorted(expect.into_iter().filter(|n| n % 2 == 0).collect()));
    }
}

#[test]
fn side_outputs_are_streams_of_their_own_type() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let (odd, unread) = (OutputTag::<String>::new("odd"), OutputTag::<u8>::new("unread"));
        let (to_odd, to_unread) = (odd.clone(), unread.clone());
        let even = env.from_sequence(0..10_000).process(move |n, out| {
            if n % 2 == 0 {
                out.collect(n);
            } else {
                out.output(&to_odd, n.to_string());
                out.output(&to_unread, 1);
            }
            Ok::<_, UserError>(())
        });
        let lengths = even.get_side_output(&odd).map(|text| text.len() as u64);
        let (even, odd, lengths) =
            (even.collect(), even.get_side_output(&odd).rebalance().collect(), lengths.collect());
        env.execute("side outputs").unwrap();
        assert_eq!(sorted(even.take()), (0..10_000).step_by(2).collect::<Vec<u64>>());
        let expect: Vec<String> = (1..10_000u64).step_by(2).map(|n| n.to_string()).collect();
        assert_eq!(sorted(lengths.take()), sorted(expect.iter().map(|text| text.len() as u64).collect()));
        assert_eq!(sorted(odd.take()), sorted(expect));
    }
}

/// State of a key that has all three kinds.
#[derive(Debug, Clone, Default, PartialEq, Record)]
struct Visits {
    last: ValueState<u64>,
    all: ListState<u64>,
    per_page: MapState<String, u32>,
}

#[test]
fn process_functions_have_a_state_per_key() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let repeated = OutputTag::<(u64, String)>::new("repeated");
        let tag = repeated.clone();
        let visits = env.from_sequence(0..3000).map(|n| (n % 10, format!("page-{}", n % 7), n)).key_by(|visit| visit.0);
        let result = visits.process_with_end(
            move |user, (_, page, at), state: &mut Visits, out| {
                let count = state.per_page.get_or_insert_with(page.clone(), || 0);
                *count += 1;
                if *count == 2 {
                    out.output(&tag, (*user, page));
                }
                if let Some(last) = state.last.value() {
                    out.collect((*user, "gap".to_owned(), at.abs_diff(*last)));
                }
                state.last.update(at);
                state.all.add(at);
                Ok::<_, UserError>(())
            },
            |user, state, out| {
                let pages: u32 = state.per_page.values().sum();
                let all = state.all.get().len() as u64;
                out.extend([(*user, "pages".to_owned(), u64::from(pages)), (*user, "all".to_owned(), all)]);
                Ok(())
            },
        );
        let repeated = result.get_side_output(&repeated).collect();
        let result = result.execute_and_collect().unwrap();
        // A user comes every ten visits, all with 300; only a parallel source can disturb the order.
        if parallelism == 1 {
            assert!(result.iter().all(|(_, what, gap)| what != "gap" || *gap == 10));
        }
        let (gaps, sums): (Vec<_>, Vec<_>) = result.into_iter().partition(|(_, what, _)| what == "gap");
        assert_eq!((gaps.len(), sums.len()), (10 * 299, 20));
        assert!(sums.iter().all(|(_, _, sum)| *sum == 300), "{sums:?}");
        let expect: Vec<(u64, String)> =
            (0..10).flat_map(|user| (0..7).map(move |p| (user, format!("page-{p}")))).collect();
        assert_eq!(sorted(repeated.take()), expect);
    }
}

#[test]
fn errors_and_panics_of_user_code_end_the_job_with_their_text() {
    type Failing = fn(&DataStream<u64>);
    let failing: [(&str, Failing); 9] = [
        ("is too much", |stream| {
            stream.try_map(|n| if n < 5 { Ok(n) } else { Err(format!("{n} is too much")) }).discard();
        }),
        ("operator `my filter` failed: no", |stream| {
            stream.try_filter(|n| if *n < 5 { Ok(true) } else { Err("no") }).name("my filter").discard();
        }),
        ("operator `Flat Map` failed: no", |stream| {
            stream.try_flat_map(|_, _: &mut Vec<u64>| Err("no")).discard();
        }),
        ("operator `KeyedProcess` failed: no", |stream| {
            stream.key_by(|n| *n).process(|_, _, _: &mut u64, _: &mut Collector<'_, u64>| Err("no")).discard();
        }),
        ("operator `Sink: Unnamed` failed: cannot open", |stream| {
            stream.try_sink_to(|_| Err::<FailingSink, _>("cannot open"));
        }),
        ("operator `Sink: Unnamed` failed: cannot write", |stream| {
            stream.sink_to(|_| FailingSink);
        }),
        ("operator `Source: Broken` failed: cannot read", |stream| {
            let env = stream.environment();
            env.from_source("Broken", |_| Ok::<_, UserError>(FailingSource)).discard();
        }),
        ("panicked: out of order", |stream| {
            stream.map(|n| if n < 5 { n } else { panic!("out of order") }).discard();
        }),
        ("the partitioner chose subtask 9 of 2", |stream| {
            stream.partition_custom(|_, _| 9).map(|n| n).discard();
        }),
    ];
    for (text, build) in failing {
        let env = env(2);
        build(&env.from_sequence(0..100));
        let error = text_of(env.execute("failing").unwrap_err());
        assert!(error.contains(text), "`{text}` is not in `{error}`");
    }
}

struct FailingSink;

impl Sink<u64> for FailingSink {
    fn write(&mut self, _: &mut Vec<u64>) -> Result<(), UserError> {
        Err("cannot write".into())
    }
}

struct FailingSource;

impl SourceReader<u64> for FailingSource {
    fn poll(&mut self, _: &mut Vec<u64>, _: usize) -> Result<SourceStatus, UserError> {
        Err("cannot read".into())
    }
}

#[test]
fn mistakes_in_the_builder_name_the_operator_and_the_remedy() {
    type Mistaken = fn(&StreamExecutionEnvironment);
    let mistakes: [(&str, Mistaken); 10] = [
        ("a union of streams of different environments", |env| {
            let other = StreamExecutionEnvironment::local();
            env.from_sequence(0..1).union([&other.from_sequence(0..1)]).discard();
        }),
        ("the job has no operators", |_| {}),
        ("the job has no sink", |env| drop(env.from_sequence(0..1).map(|n| n))),
        ("uids given to more than one operator: same", |env| {
            env.from_sequence(0..1).uid("same").map(|n| n).uid("same").discard();
        }),
        ("operator `Map`: `forward` from `Sequence Source` with parallelism 2 to parallelism 3", |env| {
            env.from_sequence(0..1).forward().map(|n| n).set_parallelism(3).discard();
        }),
        ("operator `Socket`: parallelism 2 for what only one subtask can read", |env| {
            env.from_collection([1]).name("Socket").set_parallelism(2).discard();
        }),
        ("`name` was called on a union, a side output or behind a partitioner", |env| {
            env.from_sequence(0..1).rebalance().name("x").discard();
        }),
        ("side output `late` is read as", |env| {
            let stream = env.from_sequence(0..1);
            stream.get_side_output(&OutputTag::<u8>::new("late")).discard();
            stream.get_side_output(&OutputTag::<u16>::new("late")).discard();
        }),
        ("-1 records per second is no rate", |env| {
            env.generate(|n| n).rate(-1.0).discard();
        }),
        ("unknown key `parallelism.defualt`", |env| {
            env.set_option("parallelism.defualt", "1").from_sequence(0..1).discard();
        }),
    ];
    for (text, build) in mistakes {
        let env = env(2);
        build(&env);
        let error = text_of(env.execute("mistaken").unwrap_err());
        assert!(error.contains(text), "`{text}` is not in `{error}`");
    }
}

#[test]
fn generated_indices_are_each_made_once() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let numbers = env.generate(|index| index).count(10_001).execute_and_collect().unwrap();
        assert!(sorted(numbers) == (0..10_001).collect::<Vec<_>>(), "parallelism {parallelism}");
    }
    assert!(env(4).generate(|index| index).count(0).execute_and_collect().unwrap().is_empty());
}

#[test]
fn a_rate_is_kept() {
    let env = env(2);
    let start = Instant::now();
    let numbers = env.generate(|index| index).rate(2000.0).count(500).execute_and_collect().unwrap();
    assert_eq!(sorted(numbers), (0..500).collect::<Vec<_>>());
    // The last of 250 records per subtask is due after 249 milliseconds. A busy machine may take longer, never less.
    assert!(start.elapsed() >= Duration::from_millis(249));
}

#[test]
fn every_subtask_has_its_own_clone_of_a_closure() {
    let env = env(3);
    let opened = Arc::new(AtomicU32::new(0));
    let counter = opened.clone();
    let mut calls = 0u64;
    let numbered = env.from_sequence(0..300).map(move |_| {
        calls += 1;
        if calls == 1 {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        calls
    });
    let mut seen = BTreeMap::<u64, u32>::new();
    for call in numbered.execute_and_collect().unwrap() {
        *seen.entry(call).or_default() += 1;
    }
    assert_eq!(seen, (1..=100).map(|call| (call, 3)).collect());
    assert_eq!(opened.load(Ordering::Relaxed), 3);
}

#[test]
fn a_job_runs_unchained_and_in_several_slot_sharing_groups() {
    let env = env(2);
    env.disable_operator_chaining();
    let stream = env.from_sequence(0..1000).map(|n| n + 1).slot_sharing_group("other").filter(|n| n % 2 == 0);
    let result = stream.map(|n| n).set_parallelism(3).start_new_chain().key_by(|n| *n).sum(|n| *n);
    let result = result.set_max_parallelism(5).disable_chaining().execute_and_collect().unwrap();
    assert_eq!(sorted(result), (1..=500).map(|n| (2 * n, 2 * n)).collect::<Vec<(u64, u64)>>());
}

#[test]
fn a_result_counts_what_sources_read_and_sinks_wrote() {
    let env = env(2);
    env.from_sequence(0..1000).filter(|n| n % 4 == 0).key_by(|n| *n).count().discard();
    let result = env.execute("count").unwrap();
    assert_eq!((result.records_in, result.records_out), (1000, 250));
}
