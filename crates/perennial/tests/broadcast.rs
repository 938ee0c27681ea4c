//! Broadcast streams and operator state, in jobs that run in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial::prelude::*;

const PARALLELISMS: [u32; 3] = [1, 2, 3];

fn env(parallelism: u32) -> StreamExecutionEnvironment {
    let env = StreamExecutionEnvironment::local();
    env.set_parallelism(parallelism);
    env
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

/// Answers numbers by the rules, and says which subtask knows how many of them.
#[derive(Clone)]
struct Translate {
    rules_came: Arc<AtomicBool>,
}

type Rules = MapState<u64, String>;

impl BroadcastProcessFunction<u64, (u64, String), Rules, String> for Translate {
    fn process_element(
        &mut self,
        number: u64,
        rules: &Rules,
        out: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        out.extend(rules.get(&number).cloned());
        Ok(())
    }

    fn process_broadcast_element(
        &mut self,
        (number, text): (u64, String),
        rules: &mut Rules,
        out: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        rules.put(number, text);
        if rules.len() == 10 {
            out.collect("all rules".to_owned());
            self.rules_came.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Numbers that come once a flag says so.
struct Late {
    after: Arc<AtomicBool>,
    numbers: Vec<u64>,
}

impl SourceReader<u64> for Late {
    fn poll(&mut self, out: &mut Vec<u64>, _max: usize) -> Result<SourceStatus, UserError> {
        if !self.after.load(Ordering::SeqCst) {
            return Ok(SourceStatus::Wait(Duration::from_millis(1)));
        }
        out.append(&mut self.numbers);
        Ok(SourceStatus::Finished)
    }
}

#[test]
fn every_subtask_gets_all_of_a_broadcast_stream() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let rules_came = Arc::new(AtomicBool::new(false));
        let rules = env.from_collection((0..10u64).map(|n| (n, format!("number {n}"))));
        let after = rules_came.clone();
        let numbers = env.from_single_source("late", move |_| {
            Ok::<_, UserError>(Late { after: after.clone(), numbers: (0..20).collect() })
        });
        // One subtask is known to have all rules when the numbers come; the others may come to them later.
        let told = numbers.global().connect_broadcast(&rules).process_with(Translate { rules_came }).collect();
        env.execute("job").unwrap();
        let told = told.take();
        assert_eq!(told.iter().filter(|line| *line == "all rules").count() as u32, parallelism);
        if parallelism == 1 {
            let texts: Vec<String> = told.into_iter().filter(|line| line != "all rules").collect();
            assert_eq!(texts, (0..10).map(|n| format!("number {n}")).collect::<Vec<_>>());
        }
    }
}

/// Adds what is broadcast to the numbers of a key, once both are complete.
#[derive(Clone)]
struct AddAtEnd;

impl KeyedBroadcastProcessFunction<u64, u64, u64, ListState<u64>, ValueState<u64>, (u64, u64)> for AddAtEnd {
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        number: u64,
        state: &mut KeyState<'_, ListState<u64>>,
        _: &ValueState<u64>,
        _: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), UserError> {
        state.add(number);
        ctx.register_event_time_timer(i64::MAX);
        Ok(())
    }

    fn process_broadcast_element(
        &mut self,
        number: u64,
        sum: &mut ValueState<u64>,
        _: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), UserError> {
        sum.update(sum.value().copied().unwrap_or(0) + number);
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: Timer,
        _: &mut KeyContext<'_, u64>,
        state: &mut KeyState<'_, ListState<u64>>,
        sum: &ValueState<u64>,
        out: &mut Collector<'_, (u64, u64)>,
    ) -> Result<(), UserError> {
        let sum = sum.value().copied().unwrap_or(0);
        out.extend(state.get().iter().map(|number| (*number, number + sum)));
        Ok(())
    }
}

#[test]
fn keys_see_the_broadcast_state() {
    for parallelism in PARALLELISMS {
        let env = env(parallelism);
        let (numbers, added) = (env.from_sequence(0..100), env.from_sequence(1..11));
        let sums = numbers.key_by(|n| n % 7).connect_broadcast(&added).process_with(AddAtEnd);
        let sums = sums.execute_and_collect().unwrap();
        assert_eq!(sorted(sums), (0..100).map(|n| (n, n + 55)).collect::<Vec<_>>());
    }
}

/// Counts, without anything to begin with.
#[derive(Clone, Default)]
struct Counted {
    initialized: bool,
    count: u64,
}

impl ProcessFunction<u64, u64> for Counted {
    fn initialize_state(&mut self, state: &FunctionInitializationContext) -> Result<(), UserError> {
        assert!(!state.is_restored() && state.list_state::<u64>("count")?.is_empty());
        self.initialized = true;
        Ok(())
    }

    fn process_element(&mut self, _: u64, out: &mut Collector<'_, u64>) -> Result<(), UserError> {
        assert!(self.initialized);
        self.count += 1;
        out.collect(self.count);
        Ok(())
    }
}

#[test]
fn a_function_with_operator_state_is_initialized_first() {
    let counted = env(1).from_sequence(0..10).process_with(Counted::default()).execute_and_collect().unwrap();
    assert_eq!(counted, (1..11).collect::<Vec<u64>>());
}
