//! Operator state and broadcast state through a checkpoint.

use std::collections::BTreeMap;

use perennial_types::{CheckpointId, DecodeError, KeyGroupRange, OperatorId, OperatorRestore, Record, SnapshotKind};

use super::broadcast::{BroadcastProcess, BroadcastProcessFunction};
use super::function_state::{FunctionInitializationContext, FunctionSnapshotContext, ProcessFunction, StatefulProcess};
use super::{Collector, Discard, SideOutputs};
use crate::head::TwoInputs;
use crate::snapshot::{OperatorState, SnapshotPart};
use crate::{ChainEvent, Output, Restored, SnapshotWriter, StateContext, UserError};

fn fresh() -> StateContext {
    StateContext::fresh(OperatorId::of_uid("function"), "function")
}

fn part(snapshot: impl FnOnce(&mut ChainEvent<'_>)) -> SnapshotPart {
    let mut writer = SnapshotWriter::new(CheckpointId(1), SnapshotKind::Checkpoint);
    snapshot(&mut ChainEvent::Snapshot(&mut writer));
    writer.parts.into_values().next().unwrap()
}

fn restored(list: Vec<Vec<u8>>, union_list: Vec<Vec<u8>>, broadcast: Option<Vec<u8>>) -> StateContext {
    let restore = OperatorRestore { operator: fresh().operator, keyed: Vec::new(), list, union_list, broadcast };
    let state = OperatorState::open(&restore, CheckpointId(1), KeyGroupRange { first: 0, last: 127 }).unwrap();
    StateContext { restored: Restored::From(state), ..fresh() }
}

/// Keeps numbers: each for some subtask, the greatest for all.
#[derive(Default)]
struct Keep {
    numbers: Vec<u64>,
    greatest: Vec<u64>,
}

impl ProcessFunction<u64, u64> for Keep {
    fn initialize_state(&mut self, state: &FunctionInitializationContext) -> Result<(), UserError> {
        (self.numbers, self.greatest) = (state.list_state("numbers")?, state.union_list_state("greatest")?);
        assert_eq!(state.is_restored(), !self.greatest.is_empty());
        assert!(state.list_state::<u64>("another name")?.is_empty());
        Ok(())
    }

    fn process_element(&mut self, number: u64, _: &mut Collector<'_, u64>) -> Result<(), UserError> {
        self.numbers.push(number);
        Ok(())
    }

    fn snapshot_state(&mut self, state: &mut FunctionSnapshotContext) -> Result<(), UserError> {
        state.list_state("numbers", self.numbers.iter().copied());
        state.union_list_state("greatest", self.numbers.iter().copied().max());
        Ok(())
    }
}

#[test]
fn lists_go_back_to_functions_by_name() {
    let operator = |of| StatefulProcess::new(of, Keep::default(), SideOutputs::default(), Box::new(Discard::default()));
    let take = |numbers: &[u64]| {
        let mut operator = operator(fresh()).unwrap();
        operator.push(&mut numbers.to_vec()).unwrap();
        part(|event| operator.control(event).unwrap())
    };
    let (one, other) = (take(&[1, 5, 3]), take(&[2, 9]));
    assert_eq!((one.list.len(), one.union_list.len()), (3, 1));
    // Dealt out differently, as after a change of the parallelism.
    let list = vec![one.list[2].clone(), other.list[0].clone()];
    let union_list = [one.union_list, other.union_list].concat();
    let mut operator = operator(restored(list, union_list, None)).unwrap();
    assert_eq!(operator.function().greatest, [5, 9]);
    assert_eq!(operator.function().numbers, [3, 2]);
    operator.push(&mut vec![4]).unwrap();
    assert_eq!(part(|event| operator.control(event).unwrap()).list.len(), 3);
    // What is no list of that name, or of another type, is an error and not a panic.
    assert!(
        StatefulProcess::new(
            restored(vec![vec![1, 2, 3]], Vec::new(), None),
            Keep::default(),
            SideOutputs::default(),
            Box::new(Discard::default())
        )
        .is_err()
    );
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table(BTreeMap<u64, u64>);

impl Record for Table {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Record::decode(input).map(Self)
    }
}

/// Looks numbers up, and checks what comes of it.
struct LookUp;

impl BroadcastProcessFunction<(u64, Option<u64>), (u64, u64), Table, u64> for LookUp {
    fn process_element(
        &mut self,
        (number, expect): (u64, Option<u64>),
        table: &Table,
        _: &mut Collector<'_, u64>,
    ) -> Result<(), UserError> {
        assert_eq!(table.0.get(&number).copied(), expect);
        Ok(())
    }

    fn process_broadcast_element(
        &mut self,
        (number, value): (u64, u64),
        table: &mut Table,
        _: &mut Collector<'_, u64>,
    ) -> Result<(), UserError> {
        table.0.insert(number, value);
        Ok(())
    }
}

#[test]
fn broadcast_state_goes_on() {
    let operator = |of| BroadcastProcess::new(of, LookUp, SideOutputs::default(), Box::new(Discard::<u64>::default()));
    let mut before = operator(fresh()).unwrap();
    before.push1(&mut vec![(1, None)]).unwrap();
    before.push2(&mut vec![(1, 10), (2, 20)]).unwrap();
    before.push1(&mut vec![(1, Some(10)), (3, None)]).unwrap();
    let broadcast = part(|event| before.control(event).unwrap()).broadcast;
    let mut after = operator(restored(Vec::new(), Vec::new(), broadcast)).unwrap();
    after.push1(&mut vec![(1, Some(10)), (2, Some(20)), (3, None)]).unwrap();
    let mut unknown = operator(restored(Vec::new(), Vec::new(), None)).unwrap();
    unknown.push1(&mut vec![(1, None)]).unwrap();
    assert!(operator(restored(Vec::new(), Vec::new(), Some(vec![1]))).is_err());
}
