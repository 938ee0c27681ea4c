//! Incremental checkpoints: what is restored from a base and what has changed since is what there was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_types::{
    CheckpointId, ExecutionAttemptId, JobId, KeyGroupRange, MaxParallelism, OperatorId, OperatorRestore, SnapshotKind,
    StateFile, VertexId,
};
use proptest::prelude::*;

use crate::lineage::Lineage;
use crate::snapshot::OperatorState;
use crate::upload::{SnapshotOf, Taken, upload};
use crate::{ChainEvent, Restored, SnapshotWriter, StateContext, Sweeping};

const MAX_PARALLELISM: u32 = 128;

fn context() -> StateContext {
    StateContext::fresh(OperatorId::of_uid("count"), "count")
}

/// A subtask of several that has a table, and takes incremental checkpoints of it.
struct Subtask {
    of: SnapshotOf,
    state: StateContext,
    table: perennial_state::KeyedTable<u64, u64>,
    model: BTreeMap<u64, u64>,
    lineage: Arc<Lineage>,
}

impl Subtask {
    fn new(subtask: u32, parallelism: u32) -> Self {
        let mut state = context();
        let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask, attempt: 0 };
        let max_parallelism = MaxParallelism::new(MAX_PARALLELISM).unwrap();
        let of = SnapshotOf { job: JobId::from_bytes([2; 16]), attempt, parallelism, max_parallelism };
        let table = state.take_table("state").unwrap();
        Self { of, state, table, model: BTreeMap::new(), lineage: Arc::default() }
    }

    fn take(&mut self, checkpoint: u64, kind: SnapshotKind) -> Taken {
        let (freeze, link) = self.lineage.link(kind);
        let mut writer = SnapshotWriter::frozen_for(CheckpointId(checkpoint), kind, freeze);
        ChainEvent::Snapshot(&mut writer).keyed(&self.state, "state", &mut self.table);
        Taken { of: self.of, writer, link, align: Duration::ZERO, sync: Duration::ZERO }
    }

    fn write(&mut self, key: u64, value: u64) {
        self.table.insert(key, value);
        self.model.insert(key, value);
    }

    fn remove(&mut self, key: u64) {
        self.table.remove(&key);
        self.model.remove(&key);
    }

    fn sweep(&mut self) {
        loop {
            let mut sweeping = Sweeping::new(Instant::now());
            ChainEvent::Sweep(&mut sweeping).keyed(&self.state, "state", &mut self.table);
            if !sweeping.more() {
                return;
            }
        }
    }
}

/// What subtasks of this parallelism find in the files, all together.
fn restored(files: &[StateFile], directory: &str, parallelism: u32) -> BTreeMap<u64, u64> {
    let keyed = files.iter().map(|file| (file.location(directory), file.clone())).collect();
    let restore = OperatorRestore {
        operator: context().operator,
        keyed,
        list: Vec::new(),
        union_list: Vec::new(),
        broadcast: None,
    };
    let mut all = BTreeMap::new();
    for subtask in 0..parallelism {
        let max_parallelism = MaxParallelism::new(MAX_PARALLELISM).unwrap();
        let groups = KeyGroupRange::of_subtask(subtask, max_parallelism, parallelism);
        let state = OperatorState::open(&restore, CheckpointId(1), groups).unwrap();
        let mut of = StateContext { restored: Restored::From(state), ..context() };
        for (key, value) in of.take_table::<u64, u64>("state").unwrap().into_entries() {
            assert!(all.insert(key, value).is_none());
        }
    }
    all
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, u64),
    Remove(u64),
    /// A checkpoint; whether it comes to be written.
    Checkpoint(bool),
    Savepoint,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Two subtasks take many checkpoints, some of which are lost and some are savepoints; each that was written gives back the
    /// state at its barrier, to subtasks of another number.
    #[test]
    fn each_checkpoint_gives_back_its_state_at_any_parallelism(
        ops in prop::collection::vec(prop_oneof![
            20 => (0u64..300, any::<u64>()).prop_map(|(key, value)| Op::Write(key, value)),
            10 => (0u64..300).prop_map(Op::Remove),
            4 => (0u8..5).prop_map(|n| Op::Checkpoint(n > 0)),
            1 => Just(Op::Savepoint),
        ], 1..120),
        parallelism in 1u32..5,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("job");
        let mut subtasks = [Subtask::new(0, 2), Subtask::new(1, 2)];
        let of_key = |key: u64| usize::from(perennial_types::key_group(key as u32, MaxParallelism::new(MAX_PARALLELISM).unwrap()).0 >= 64);
        for key in 0..300 {
            subtasks[of_key(key)].write(key, 0);
        }
        for (number, op) in (1..).zip(ops) {
            let (kind, is_written) = match op {
                Op::Write(key, value) => {
                    subtasks[of_key(key)].write(key, value);
                    continue;
                }
                Op::Remove(key) => {
                    subtasks[of_key(key)].remove(key);
                    continue;
                }
                Op::Checkpoint(is_written) => (SnapshotKind::Checkpoint, is_written),
                Op::Savepoint => (SnapshotKind::Savepoint, true),
            };
            let chk = directory.join(format!("chk-{number}"));
            let (mut files, mut expected, mut whole) = (Vec::new(), BTreeMap::new(), true);
            for subtask in &mut subtasks {
                let taken = subtask.take(number, kind);
                expected.append(&mut subtask.model.clone());
                subtask.write(subtask.model.keys().next().copied().unwrap_or(0), number);
                subtask.sweep();
                // The first of the two is lost.
                if is_written || subtask.of.attempt.subtask == 1 {
                    let snapshot = upload(taken, chk.to_str().unwrap()).unwrap();
                    let keyed = snapshot.operators[0].keyed.clone();
                    prop_assert!(keyed.len() == 1 || kind == SnapshotKind::Checkpoint);
                    files.extend(keyed);
                } else {
                    whole = false;
                }
            }
            if whole {
                prop_assert_eq!(restored(&files, chk.to_str().unwrap(), parallelism), expected);
            }
        }
    }
}

/// A checkpoint writes as much as has changed, and its files are few however many there were.
#[test]
fn bytes_follow_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let chk = directory.path().join("chk-1");
    let mut subtask = Subtask::new(0, 1);
    subtask.table.reserve(100_000);
    (0..50_000).for_each(|key| subtask.write(key, key));
    let mut bytes = Vec::new();
    for checkpoint in 1..=40u64 {
        let taken = subtask.take(checkpoint, SnapshotKind::Checkpoint);
        subtask.sweep();
        let snapshot = upload(taken, chk.to_str().unwrap()).unwrap();
        bytes.push(snapshot.bytes);
        let files = &snapshot.operators[0].keyed;
        assert!(files.len() <= 10 && files.iter().all(|file| file.shared));
        (0..500).for_each(|n| subtask.write((checkpoint * 500 + n) % 50_000, checkpoint));
    }
    assert!(bytes[0] > 50_000 * 16);
    let (whole, changes): (Vec<u64>, Vec<u64>) = bytes.iter().partition(|bytes| **bytes > 50_000 * 16);
    assert_eq!(whole.len(), 4, "{bytes:?}");
    assert!(changes.iter().all(|bytes| *bytes < 500 * 16 + 8_000), "{changes:?}");
}
