//! Which job holds which slot. Pure.

use std::collections::BTreeSet;

use perennial_rpc::taskmanager::TaskDeployment;
use perennial_types::{AllocationId, ExecutionAttemptId, JobId, SlotIndex};

/// Why a deployment does not fit the slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SlotError {
    /// The slot does not exist.
    #[error("slot {slot} does not exist: this TaskManager has {count} slots, numbered from 0")]
    Unknown {
        /// The slot named.
        slot: SlotIndex,
        /// Slots there are.
        count: usize,
    },
    /// Another job's tasks run there.
    #[error("slot {slot} is held by job {holder} under allocation {allocation}, where {active} tasks still run")]
    Held {
        /// The slot named.
        slot: SlotIndex,
        /// Whose tasks run there.
        holder: JobId,
        /// The promise it has.
        allocation: AllocationId,
        /// Number of its tasks that have not ended.
        active: usize,
    },
}

#[derive(Debug, Clone)]
struct Holder {
    job: JobId,
    allocation: AllocationId,
    /// Executions that have not ended.
    active: BTreeSet<ExecutionAttemptId>,
}

/// The slots of a TaskManager.
///
/// A job holds a slot from its first deployment there until all its executions there have ended or its executor is
/// gone. The leader's ledger says who *should* hold a slot; this one keeps two jobs from sharing one by mistake.
#[derive(Debug)]
pub(crate) struct SlotTable {
    slots: Vec<Option<Holder>>,
}

impl SlotTable {
    /// All free.
    pub(crate) fn new(count: u32) -> Self {
        Self { slots: vec![None; count as usize] }
    }

    /// Gives the slots of a deployment to its job, all or none. Deploying the same executions again changes nothing.
    pub(crate) fn hold(&mut self, job: JobId, tasks: &[TaskDeployment]) -> Result<(), SlotError> {
        let count = self.slots.len();
        for task in tasks {
            match self.slots.get(task.slot.0 as usize) {
                None => return Err(SlotError::Unknown { slot: task.slot, count }),
                Some(Some(holder)) if holder.job != job && !holder.active.is_empty() => {
                    return Err(SlotError::Held {
                        slot: task.slot,
                        holder: holder.job,
                        allocation: holder.allocation,
                        active: holder.active.len(),
                    });
                }
                Some(_) => {}
            }
        }
        for task in tasks {
            let Some(slot) = self.slots.get_mut(task.slot.0 as usize) else { continue };
            let holder = slot.take().filter(|holder| holder.job == job);
            let mut active = holder.map_or_else(BTreeSet::new, |holder| holder.active);
            active.insert(task.attempt);
            *slot = Some(Holder { job, allocation: task.allocation, active });
        }
        Ok(())
    }

    /// An execution of a job has ended.
    pub(crate) fn ended(&mut self, job: JobId, attempt: ExecutionAttemptId) {
        for slot in &mut self.slots {
            if let Some(holder) = slot.as_mut().filter(|holder| holder.job == job) {
                holder.active.remove(&attempt);
                if holder.active.is_empty() {
                    *slot = None;
                }
            }
        }
    }

    /// A job has no executor here any more.
    pub(crate) fn release(&mut self, job: JobId) {
        for slot in &mut self.slots {
            slot.take_if(|holder| holder.job == job);
        }
    }

    /// Slots that no job holds.
    pub(crate) fn free(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::VertexId;

    use super::*;

    const A: JobId = JobId::from_bytes([1; 16]);
    const B: JobId = JobId::from_bytes([2; 16]);

    fn attempt(subtask: u32, attempt: u32) -> ExecutionAttemptId {
        ExecutionAttemptId { vertex: VertexId::from_bytes([9; 16]), subtask, attempt }
    }

    fn task(slot: u32, subtask: u32) -> TaskDeployment {
        let allocation = AllocationId::from_bytes([slot as u8; 16]);
        TaskDeployment { attempt: attempt(subtask, 0), slot: SlotIndex(slot), allocation, restore: None }
    }

    #[test]
    fn two_jobs_do_not_share_a_slot_while_tasks_run() {
        let mut slots = SlotTable::new(2);
        slots.hold(A, &[task(0, 0), task(0, 1)]).unwrap();
        let error = slots.hold(B, &[task(1, 0), task(0, 1)]).unwrap_err();
        assert!(matches!(error, SlotError::Held { holder: A, active: 2, .. }), "{error}");
        assert_eq!(slots.free(), 1, "a refused deployment takes nothing");
        slots.ended(A, attempt(0, 0));
        assert!(slots.hold(B, &[task(0, 0)]).is_err());
        slots.ended(A, attempt(1, 0));
        slots.hold(B, &[task(0, 0)]).unwrap();
    }

    #[test]
    fn deploying_again_changes_nothing_and_stopping_frees() {
        let mut slots = SlotTable::new(2);
        slots.hold(A, &[task(0, 0), task(1, 1)]).unwrap();
        slots.hold(A, &[task(0, 0), task(1, 1)]).unwrap();
        assert_eq!(slots.free(), 0);
        slots.ended(B, attempt(0, 0));
        assert_eq!(slots.free(), 0);
        slots.release(A);
        assert_eq!(slots.free(), 2);
    }

    #[test]
    fn a_slot_that_does_not_exist_is_named() {
        let error = SlotTable::new(2).hold(A, &[task(2, 0)]).unwrap_err();
        assert_eq!(error.to_string(), "slot 2 does not exist: this TaskManager has 2 slots, numbered from 0");
    }
}
