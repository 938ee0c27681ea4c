//! One operator by itself: its timers, its state, and both through a checkpoint.

use std::sync::Mutex;
use std::time::Duration;

use perennial_state::ByOwned;
use perennial_types::{
    CheckpointId, ExecutionAttemptId, JobId, KeyGroupRange, MaxParallelism, OperatorId, OperatorRestore, SnapshotKind,
    VertexId,
};

use super::*;
use crate::operators::UpdateType;
use crate::snapshot::OperatorState;
use crate::timers::TimeDomain;
use crate::upload::{SnapshotOf, Taken, upload};
use crate::{Restored, SnapshotWriter, Sweeping};

const MAX_PARALLELISM: u32 = 128;

/// Keeps what reaches it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl Kept {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Output<String> for Kept {
    fn push(&mut self, batch: &mut Vec<String>) -> Result<(), TaskError> {
        self.0.lock().unwrap().append(batch);
        Ok(())
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        if let ChainEvent::Watermark(time) = event {
            self.0.lock().unwrap().push(format!("watermark {time}"));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

/// A record: a key, and what to do at which time.
type Order = (u64, u8, i64);

const EVENT: u8 = 0;
const PROCESSING: u8 = 1;
const DELETE: u8 = 2;
const WRITE: u8 = 3;
const LOOK: u8 = 4;

/// Does as it is told, counts the timers of a key, and registers one more at 100 when one fires at 10. The third timer clears.
#[derive(Clone)]
struct Obedient;

impl KeyedProcessFunction<u64, Order, u64, String> for Obedient {
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, u64>,
        (_, what, time): Order,
        state: &mut KeyState<'_, u64>,
        out: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        match what {
            EVENT => ctx.register_event_time_timer(time),
            PROCESSING => ctx.register_processing_time_timer(time),
            DELETE => ctx.delete_event_time_timer(time),
            WRITE => **state = time as u64,
            _ => out.collect(format!("{} has fired {} at {:?}", ctx.key(), **state, ctx.timestamp())),
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, u64>,
        state: &mut KeyState<'_, u64>,
        out: &mut Collector<'_, String>,
    ) -> Result<(), UserError> {
        **state += 1;
        let kind = if timer.domain == TimeDomain::EventTime { "event" } else { "processing" };
        out.collect(format!("{} {kind} {}", ctx.key(), timer.timestamp));
        if timer.timestamp == 10 {
            ctx.register_event_time_timer(100);
        }
        if **state == 3 {
            state.clear();
        }
        Ok(())
    }
}

type Operator = KeyedProcess<Order, ByOwned<fn(&Order) -> u64, u64>, u64, Obedient, String>;

fn operator(of: StateContext, clock: &TaskClock) -> (Operator, Kept) {
    with_ttl(of, clock, None)
}

fn with_ttl(of: StateContext, clock: &TaskClock, ttl: Option<StateTtlConfig>) -> (Operator, Kept) {
    let kept = Kept::default();
    let selector = ByOwned::new((|order: &Order| order.0) as fn(&Order) -> u64);
    let input = KeyedInput::new(selector, Some(Arc::new(|order: &Order| order.2)));
    let outputs = (Box::new(kept.clone()) as Box<dyn Output<String>>, SideOutputs::default());
    (KeyedProcess::new((of, clock.clone(), ttl), input, Obedient, outputs).unwrap(), kept)
}

fn fresh() -> StateContext {
    StateContext::fresh(OperatorId::of_uid("timed"), "timed")
}

/// A snapshot of the operator in a file, as the leader gives it back.
fn checkpoint(operator: &mut Operator, directory: &str) -> OperatorRestore {
    let mut writer = SnapshotWriter::new(CheckpointId(1), SnapshotKind::Checkpoint);
    operator.control(&mut ChainEvent::Snapshot(&mut writer)).unwrap();
    let mut sweeping = Sweeping::new(std::time::Instant::now() + Duration::from_secs(3600));
    operator.control(&mut ChainEvent::Sweep(&mut sweeping)).unwrap();
    let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([2; 16]), subtask: 0, attempt: 0 };
    let max_parallelism = MaxParallelism::new(MAX_PARALLELISM).unwrap();
    let of = SnapshotOf { job: JobId::from_bytes([3; 16]), attempt, parallelism: 1, max_parallelism };
    let taken = Taken { of, writer, link: None, align: Duration::ZERO, sync: Duration::ZERO };
    let mut snapshot = upload(taken, directory).unwrap();
    let operator = snapshot.operators.remove(0);
    OperatorRestore {
        operator: operator.operator,
        keyed: operator.keyed.into_iter().map(|file| (format!("{directory}/{}", file.name), file)).collect(),
        list: operator.list,
        union_list: operator.union_list,
        broadcast: operator.broadcast,
    }
}

fn restored(restore: &OperatorRestore, groups: KeyGroupRange) -> StateContext {
    StateContext { restored: Restored::From(OperatorState::open(restore, CheckpointId(1), groups).unwrap()), ..fresh() }
}

#[test]
fn timers_fire_before_the_watermark_goes_on_and_may_register_others() {
    let (mut operator, kept) = operator(fresh(), &TaskClock::standing(0));
    let orders = [(1, EVENT, 10), (1, EVENT, 30), (1, EVENT, 30), (2, EVENT, 20), (2, EVENT, 40), (2, DELETE, 40)];
    operator.push(&mut orders.to_vec()).unwrap();
    assert!(kept.take().is_empty());
    operator.control(&mut ChainEvent::Watermark(29)).unwrap();
    assert_eq!(kept.take(), ["1 event 10", "2 event 20", "watermark 29"]);
    operator.push(&mut vec![(1, LOOK, 7), (3, LOOK, 8)]).unwrap();
    assert_eq!(kept.take(), ["1 has fired 1 at Some(7)", "3 has fired 0 at Some(8)"]);
    operator.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
    let end = format!("watermark {}", i64::MAX);
    assert_eq!(kept.take(), ["1 event 30".to_owned(), "1 event 100".to_owned(), end]);
    operator.push(&mut vec![(1, LOOK, 7)]).unwrap();
    assert_eq!(kept.take(), ["1 has fired 0 at Some(7)"], "the third timer has cleared the state");
}

#[test]
fn a_processing_time_timer_asks_the_clock() {
    let clock = TaskClock::standing(1000);
    let (mut operator, kept) = operator(fresh(), &clock);
    operator.push(&mut vec![(1, PROCESSING, 1200), (2, PROCESSING, 1100), (2, PROCESSING, 1300)]).unwrap();
    assert_eq!(clock.due(), Some(1100));
    clock.set(1250);
    let now = clock.take_due().unwrap();
    operator.control(&mut ChainEvent::Time(now)).unwrap();
    assert_eq!(kept.take(), ["2 processing 1100", "1 processing 1200"]);
    assert_eq!(clock.due(), Some(1300), "it asks again");
}

#[test]
fn timers_and_state_go_on_at_another_parallelism() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    let (mut before, kept) = operator(fresh(), &TaskClock::standing(0));
    let orders = (0..500).flat_map(|key| [(key, EVENT, 10), (key, EVENT, 50), (key, PROCESSING, 1000), (key, LOOK, 0)]);
    before.push(&mut orders.collect()).unwrap();
    before.control(&mut ChainEvent::Watermark(20)).unwrap();
    // Those that are cleared, and those that were only looked at, are in no checkpoint.
    before.push(&mut (500..600).map(|key| (key, LOOK, 0)).collect()).unwrap();
    kept.take();
    let restore = checkpoint(&mut before, directory);
    let mut everything = Vec::new();
    for subtask in 0..3 {
        let max_parallelism = MaxParallelism::new(MAX_PARALLELISM).unwrap();
        let groups = KeyGroupRange::of_subtask(subtask, max_parallelism, 3);
        let mut of = restored(&restore, groups);
        let mut entries = Vec::new();
        of.take_entries("state", |key: u64, fired: u64| entries.push((key, fired))).unwrap();
        assert!(entries.iter().all(|(key, fired)| *key < 500 && *fired == 1));
        assert!(entries.len() > 50, "each has some");
        let clock = TaskClock::standing(5000);
        let (mut after, kept) = operator(restored(&restore, groups), &clock);
        // The job stood still while its time came.
        let now = clock.take_due().unwrap();
        after.control(&mut ChainEvent::Time(now)).unwrap();
        assert_eq!(kept.take().len(), entries.len());
        after.control(&mut ChainEvent::Watermark(60)).unwrap();
        let fired = kept.take();
        assert_eq!(fired.len(), entries.len() + 1);
        everything.extend(fired.into_iter().filter(|line| !line.starts_with("watermark")));
        after.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
        assert_eq!(kept.take().len(), entries.len() + 1, "the timer that a timer registered was in it, too");
    }
    everything.sort();
    let mut expect: Vec<String> = (0..500).map(|key| format!("{key} event 50")).collect();
    expect.sort();
    assert_eq!(everything, expect);
}

fn looks(operator: &mut Operator, kept: &Kept, key: u64) -> u64 {
    operator.push(&mut vec![(key, LOOK, 0)]).unwrap();
    let said = kept.take().remove(0);
    said.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn state_that_is_not_used_expires_and_is_in_no_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_str().unwrap();
    let config = StateTtlConfig::new(Duration::from_millis(100));
    for (update, seen_at_150, end) in [(UpdateType::OnCreateAndWrite, 0, 1190), (UpdateType::OnReadAndWrite, 7, 1250)] {
        let clock = TaskClock::standing(1000);
        let (mut operator, kept) = with_ttl(fresh(), &clock, Some(config.update_type(update)));
        operator.push(&mut (0..300).map(|key| (key, WRITE, 7)).collect()).unwrap();
        clock.set(1090);
        assert_eq!(looks(&mut operator, &kept, 1), 7);
        operator.push(&mut vec![(2, WRITE, 8)]).unwrap();
        clock.set(1150);
        assert_eq!((looks(&mut operator, &kept, 1), looks(&mut operator, &kept, 2)), (seen_at_150, 8));
        let (restore, mut entries) = (checkpoint(&mut operator, directory), Vec::new());
        let groups = KeyGroupRange { first: 0, last: 127 };
        restored(&restore, groups).take_entries("state", |key: u64, value: u64| entries.push((key, value))).unwrap();
        entries.sort_unstable();
        let expect: &[_] = if seen_at_150 == 7 { &[(1, 7), (2, 8)] } else { &[(2, 8)] };
        assert_eq!(entries, expect, "{update:?}");
        // The age of state is not forgotten by a restore.
        clock.set(end - 1);
        let (mut after, kept) = with_ttl(restored(&restore, groups), &clock, Some(config));
        assert_eq!(looks(&mut after, &kept, 2), 8);
        clock.set(end);
        assert_eq!(looks(&mut after, &kept, 2), 0);
    }
}

#[test]
fn expired_state_goes_while_no_records_come() {
    let clock = TaskClock::standing(0);
    let config = StateTtlConfig::new(Duration::from_millis(100));
    let (mut operator, _) = with_ttl(fresh(), &clock, Some(config));
    operator.push(&mut (0..10_000).map(|key| (key, WRITE, 7)).collect()).unwrap();
    let mut looked = 0;
    while let Some(due) = clock.due() {
        clock.set(due);
        let now = clock.take_due().unwrap();
        operator.control(&mut ChainEvent::Time(now)).unwrap();
        looked += 1;
    }
    assert_eq!(looked, 3, "not all at once");
}
