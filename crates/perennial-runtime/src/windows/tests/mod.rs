//! Window operators against models of a few lines, with records out of order, watermarks, and restores in between.

mod interval_join;
mod operator;
mod panes;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_types::{
    CheckpointId, ExecutionAttemptId, JobId, KeyGroupRange, MaxParallelism, OperatorId, OperatorRestore, SnapshotKind,
    VertexId,
};

use crate::snapshot::OperatorState;
use crate::upload::{SnapshotOf, Taken, upload};
use crate::windows::WindowSetup;
use crate::{ChainEvent, Output, Restored, SnapshotWriter, StateContext, Sweeping, TaskClock, TaskError, Timestamps};

/// A record: its key, its time, and a number of its own.
type Event = (u8, i64, u32);

/// Windows of event time, whose late records are dropped.
fn event_time(of: StateContext) -> WindowSetup<Event> {
    let timestamps: Arc<dyn Timestamps<Event>> = Arc::new(|event: &Event| event.1);
    WindowSetup { of, timestamps: Some(timestamps), clock: TaskClock::standing(0), allowed_lateness: 0, late: None }
}

/// Notes what reaches it.
struct Notes<U>(Arc<Mutex<Vec<U>>>);

impl<U> Clone for Notes<U> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<U> Default for Notes<U> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<U> Notes<U> {
    fn take(&self) -> Vec<U> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl<U: Send> Output<U> for Notes<U> {
    fn push(&mut self, batch: &mut Vec<U>) -> Result<(), TaskError> {
        self.0.lock().unwrap().append(batch);
        Ok(())
    }

    fn control(&mut self, _event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

fn context() -> StateContext {
    StateContext::fresh(OperatorId::of_uid("windows"), "windows")
}

/// Hands `next` what the operator would get back of its state now.
fn restored<T, R>(operator: &mut dyn Output<T>, next: impl FnOnce(StateContext) -> R) -> R {
    let directory = tempfile::tempdir().unwrap();
    let location = directory.path().to_str().unwrap();
    let mut writer = SnapshotWriter::new(CheckpointId(1), SnapshotKind::Checkpoint);
    operator.control(&mut ChainEvent::Snapshot(&mut writer)).unwrap();
    let mut sweeping = Sweeping::new(std::time::Instant::now() + Duration::from_secs(3600));
    operator.control(&mut ChainEvent::Sweep(&mut sweeping)).unwrap();
    let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([2; 16]), subtask: 0, attempt: 0 };
    let max_parallelism = MaxParallelism::default_for(1);
    let of = SnapshotOf { job: JobId::from_bytes([3; 16]), attempt, parallelism: 1, max_parallelism };
    let taken = Taken { of, writer, link: None, align: Duration::ZERO, sync: Duration::ZERO };
    let snapshot = upload(taken, location).unwrap();
    let [operator] = snapshot.operators.as_slice() else { panic!("{} operators", snapshot.operators.len()) };
    let keyed = operator.keyed.iter().map(|file| (file.location(location), file.clone())).collect();
    let restore = OperatorRestore {
        operator: operator.operator,
        keyed,
        list: operator.list.clone(),
        union_list: operator.union_list.clone(),
        broadcast: None,
    };
    let groups = KeyGroupRange { first: 0, last: 127 };
    let restored = Restored::From(OperatorState::open(&restore, CheckpointId(1), groups).unwrap());
    next(StateContext { restored, ..context() })
}
