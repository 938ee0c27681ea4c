//! Jobs in this process, built by hand: results, back-pressure, failures and cancelling.
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_runtime::local::{CancelHandle, LocalError, LocalOptions, run};
use perennial_runtime::{
    ByOwned, ChainEvent, ExecutableJob, HashBy, Head, InputHead, KeyedFold, Output, Route, SourceHead, SourceReader,
    SourceStatus, StateContext, TaskBuilder, TaskError, UserError, VertexFactory,
};
use perennial_types::{
    DEFAULT_SLOT_SHARING_GROUP, ExecutionState, JobEdge, JobGraph, JobVertex, MaxParallelism, OperatorId, ShipStrategy,
    VertexId,
};

struct Factory<F>(F);

impl<F> VertexFactory for Factory<F>
where
    F: Fn(&mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> + Send + Sync,
{
    fn build(&self, builder: &mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> {
        (self.0)(builder)
    }
}

/// Numbers `0..end`, then waits or ends.
struct Numbers {
    next: u64,
    end: u64,
    then: SourceStatus,
}

impl SourceReader<u64> for Numbers {
    fn poll(&mut self, out: &mut Vec<u64>, max: usize) -> Result<SourceStatus, UserError> {
        let until = self.end.min(self.next + max as u64);
        out.extend(self.next..until);
        self.next = until;
        Ok(if self.next == self.end { self.then } else { SourceStatus::More })
    }
}

/// Calls a function with each batch.
struct Each<F>(F);

impl<T: Send, F: FnMut(&mut Vec<T>) -> Result<(), TaskError> + Send> Output<T> for Each<F> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        (self.0)(batch)?;
        batch.clear();
        Ok(())
    }

    fn control(&mut self, _event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

fn state(name: &str) -> StateContext {
    StateContext::fresh(OperatorId::of_uid(name), name)
}

fn vertex(number: u8, name: &str, parallelism: u32) -> JobVertex {
    JobVertex {
        id: VertexId::from_bytes([number; 16]),
        name: name.to_owned(),
        parallelism,
        max_parallelism: MaxParallelism::default_for(parallelism),
        max_parallelism_is_set: false,
        slot_sharing_group: DEFAULT_SLOT_SHARING_GROUP.to_owned(),
        operators: Vec::new(),
    }
}

/// Sources of `end` numbers, hashed by `number % 1000` to a second vertex that `consumer` builds.
fn job<F>(parallelism: u32, end: u64, then: SourceStatus, consumer: F) -> ExecutableJob
where
    F: Fn(&mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> + Send + Sync + 'static,
{
    let source = Factory(move |builder: &mut TaskBuilder| {
        let out = builder.exchange::<u64>(0, Route::Hash(Box::new(HashBy(ByOwned::new(|n: &u64| n % 1000)))))?;
        Ok(Box::new(SourceHead::new(state("numbers"), Numbers { next: 0, end, then }, out)?) as Box<dyn Head>)
    });
    let graph = JobGraph {
        name: "test".to_owned(),
        vertices: vec![vertex(1, "source", parallelism), vertex(2, "consumer", parallelism)],
        edges: vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Hash }],
        structural_hash: 0,
        config: BTreeMap::new(),
    };
    ExecutableJob { graph: Arc::new(graph), vertices: vec![Arc::new(source), Arc::new(Factory(consumer))] }
}

#[test]
fn running_counts_are_right_at_every_parallelism() {
    for parallelism in [1, 2, 3] {
        const END: u64 = 50_000;
        let last = Arc::new(Mutex::new(HashMap::<u64, u64>::new()));
        let results = Arc::clone(&last);
        let job = job(parallelism, END, SourceStatus::Finished, move |_| {
            let results = Arc::clone(&results);
            let end = Each(move |batch: &mut Vec<(u64, u64)>| {
                let mut results = results.lock().unwrap();
                for (key, count) in batch.drain(..) {
                    let before = results.insert(key, count).unwrap_or(0);
                    assert_eq!(count, before + 1, "counts of key {key} come one by one");
                }
                Ok(())
            });
            let functions = (|_: &u64| 1u64, |count: &mut u64, _| *count += 1, |key: &u64, count: &u64| (*key, *count));
            let count = KeyedFold::new(state("count"), ByOwned::new(|n: &u64| n % 1000), functions, Box::new(end))?;
            Ok(Box::new(InputHead::new(Box::new(count))) as Box<dyn Head>)
        });
        let outcome = run(&job, &LocalOptions::default()).unwrap();
        assert_eq!(outcome.state, ExecutionState::Finished);
        let expect = u64::from(parallelism) * END / 1000;
        let last = last.lock().unwrap();
        assert_eq!(last.len(), 1000);
        assert!(last.values().all(|count| *count == expect), "parallelism {parallelism}");
        let read: u64 = outcome.tasks.iter().map(|task| task.counters.records_in.load(Ordering::Relaxed)).sum();
        let written: u64 = outcome.tasks.iter().map(|task| task.counters.records_out.load(Ordering::Relaxed)).sum();
        assert_eq!((read, written), (u64::from(parallelism) * END, u64::from(parallelism) * END));
    }
}

#[test]
fn a_panic_fails_the_task_with_message_and_place_and_ends_the_job() {
    let job = job(2, u64::MAX, SourceStatus::More, |builder| {
        let subtask = builder.context.attempt.subtask;
        let end = Each(move |batch: &mut Vec<u64>| {
            assert!(subtask != 1 || batch.is_empty(), "seven is right out");
            Ok(())
        });
        Ok(Box::new(InputHead::new(Box::new(end))) as Box<dyn Head>)
    });
    let Err(LocalError::Task { vertex_name, subtask, source: TaskError::Panic { message } }) =
        run(&job, &LocalOptions::default())
    else {
        panic!("the panic is the failure");
    };
    assert_eq!((vertex_name.as_str(), subtask), ("consumer", 1));
    assert!(message.contains("seven is right out") && message.contains("local.rs:"), "{message}");
}

#[test]
fn an_endless_job_is_cancelled_and_a_waiting_source_has_sent_what_it_had() {
    let seen = Arc::new(AtomicU64::new(0));
    let cancel = CancelHandle::default();
    let (counted, canceller) = (Arc::clone(&seen), cancel.clone());
    // Nothing fills a batch here: the records come because the source has nothing more to do.
    let job = job(1, 10, SourceStatus::Wait(Duration::from_secs(3600)), move |_| {
        let (counted, canceller) = (Arc::clone(&counted), canceller.clone());
        let end = Each(move |batch: &mut Vec<u64>| {
            if counted.fetch_add(batch.len() as u64, Ordering::SeqCst) + batch.len() as u64 == 10 {
                canceller.cancel();
            }
            Ok(())
        });
        Ok(Box::new(InputHead::new(Box::new(end))) as Box<dyn Head>)
    });
    let outcome = run(&job, &LocalOptions { cancel, ..LocalOptions::default() }).unwrap();
    assert_eq!(outcome.state, ExecutionState::Canceled);
    assert_eq!(seen.load(Ordering::SeqCst), 10);
}

#[test]
fn a_factory_that_forgets_an_edge_is_told_so() {
    let mut wrong = job(1, 1, SourceStatus::Finished, |_| Err(TaskError::WrongJob { reason: String::new() }));
    wrong.vertices[0] = Arc::new(Factory(|_: &mut TaskBuilder| {
        let numbers = Numbers { next: 0, end: 1, then: SourceStatus::Finished };
        Ok(Box::new(SourceHead::new(state("numbers"), numbers, Box::new(Each(|_: &mut Vec<u64>| Ok(()))))?)
            as Box<dyn Head>)
    }));
    let Err(LocalError::Task { source: TaskError::WrongJob { .. }, .. }) = run(&wrong, &LocalOptions::default()) else {
        panic!("the job is refused");
    };
}
