//! Watermarks through whole jobs in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_runtime::local::{CancelHandle, LocalOptions, run};
use perennial_runtime::{
    AssignWatermarks, ChainEvent, ExecutableJob, Head, InputHead, Output, Route, SourceHead, SourceReader,
    SourceStatus, StateContext, TaskBuilder, TaskError, UserError, VertexFactory, WatermarkSettings,
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

/// Times `0..end`, then waits or ends. Those of a slow source come one by one.
struct Times {
    next: i64,
    end: i64,
    then: SourceStatus,
    slow: bool,
}

impl SourceReader<i64> for Times {
    fn poll(&mut self, out: &mut Vec<i64>, max: usize) -> Result<SourceStatus, UserError> {
        let until = self.end.min(self.next + if self.slow { 1 } else { max as i64 });
        out.extend(self.next..until);
        self.next = until;
        Ok(if self.next == self.end { self.then } else { SourceStatus::More })
    }
}

/// Checks that no record is behind the watermark, and notes the watermarks.
struct Probe<F> {
    watermark: i64,
    on_watermark: F,
}

impl<F: FnMut(i64) + Send> Output<i64> for Probe<F> {
    fn push(&mut self, batch: &mut Vec<i64>) -> Result<(), TaskError> {
        for time in batch.drain(..) {
            assert!(time > self.watermark, "{time} comes behind watermark {}", self.watermark);
        }
        Ok(())
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        if let ChainEvent::Watermark(time) = event {
            assert!(*time >= self.watermark);
            self.watermark = *time;
            (self.on_watermark)(*time);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        assert_eq!(self.watermark, i64::MAX, "the end of event time comes before the end of the input");
        Ok(())
    }
}

/// Two sources with watermarks every millisecond, spread over two consumers. The second source is slower.
fn job(
    end: i64,
    then: SourceStatus,
    idleness: Option<Duration>,
    on_watermark: impl Fn(u32, i64) + Clone + Send + Sync + 'static,
) -> ExecutableJob {
    let source = Factory(move |builder: &mut TaskBuilder| {
        let settings =
            WatermarkSettings { out_of_orderness: Some(Duration::ZERO), idleness, interval: Duration::from_millis(1) };
        let exchange = builder.exchange::<i64>(0, Route::RoundRobin)?;
        let assign = AssignWatermarks::new(Arc::new(|time: &i64| *time), settings, builder.clock(), exchange);
        let of = StateContext::fresh(OperatorId::of_uid("times"), "times");
        let slow = builder.context.attempt.subtask == 1;
        // The slow one has nothing at all where idleness is looked at.
        let end = if slow && idleness.is_some() { 0 } else { end };
        Ok(Box::new(SourceHead::new(of, Times { next: 0, end, then, slow }, Box::new(assign))?) as Box<dyn Head>)
    });
    let consumer = Factory(move |builder: &mut TaskBuilder| {
        let (subtask, on_watermark) = (builder.context.attempt.subtask, on_watermark.clone());
        let probe = Probe { watermark: i64::MIN, on_watermark: move |time| on_watermark(subtask, time) };
        Ok(Box::new(InputHead::new(Box::new(probe))) as Box<dyn Head>)
    });
    let vertex = |number: u8| JobVertex {
        id: VertexId::from_bytes([number; 16]),
        name: format!("vertex {number}"),
        parallelism: 2,
        max_parallelism: MaxParallelism::default_for(2),
        max_parallelism_is_set: false,
        slot_sharing_group: DEFAULT_SLOT_SHARING_GROUP.to_owned(),
        operators: Vec::new(),
    };
    let graph = JobGraph {
        name: "test".to_owned(),
        vertices: vec![vertex(1), vertex(2)],
        edges: vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Rebalance }],
        structural_hash: 0,
        config: BTreeMap::new(),
    };
    ExecutableJob { graph: Arc::new(graph), vertices: vec![Arc::new(source), Arc::new(consumer)] }
}

#[test]
fn no_record_comes_behind_a_watermark_of_the_slower_source() {
    let seen = Arc::new(Mutex::new([0; 2]));
    let noted = Arc::clone(&seen);
    let job = job(20_000, SourceStatus::Finished, None, move |subtask, _| noted.lock().unwrap()[subtask as usize] += 1);
    assert_eq!(run(&job, &LocalOptions::default()).unwrap().state, ExecutionState::Finished);
    assert!(seen.lock().unwrap().iter().all(|count| *count > 0));
}

/// Nothing happens any more but time: the watermark of the last records comes, with or without one that is waited for.
#[test]
fn watermarks_come_while_sources_wait() {
    for idleness in [None, Some(Duration::from_millis(3))] {
        let cancel = CancelHandle::default();
        let (canceller, arrived) = (cancel.clone(), Arc::new(Mutex::new([i64::MIN; 2])));
        let wait = SourceStatus::Wait(Duration::from_secs(3600));
        let job = job(100, wait, idleness, move |subtask, time| {
            let mut arrived = arrived.lock().unwrap();
            arrived[subtask as usize] = time;
            if arrived.iter().all(|time| *time == 98) {
                canceller.cancel();
            }
        });
        let outcome = run(&job, &LocalOptions { cancel, ..LocalOptions::default() }).unwrap();
        assert_eq!(outcome.state, ExecutionState::Canceled);
    }
}
