//! Who holds which slot.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use perennial_types::{AllocationId, JobId, SlotIndex, TaskManagerId};

use super::{Bin, spread};
use crate::execution_graph::Assignment;

/// Slots promised to a job: as many as it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The job.
    pub job: JobId,
    /// The slots, as many as it asked for.
    pub slots: Vec<Assignment>,
}

/// Why a job has to wait, in a sentence for people: what it needs, what there is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Slots needed.
    pub needed: u32,
    /// TaskManagers with their free and all their slots, by name.
    pub taskmanagers: Vec<(TaskManagerId, u32, u32)>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free: u32 = self.taskmanagers.iter().map(|(_, free, _)| free).sum();
        let plural = if self.needed == 1 { "" } else { "s" };
        write!(f, "needs {} slot{plural}, {free} {} free", self.needed, if free == 1 { "is" } else { "are" })?;
        if self.taskmanagers.is_empty() {
            return f.write_str(": no TaskManager is registered");
        }
        for (position, (id, free, total)) in self.taskmanagers.iter().enumerate() {
            // A cluster of hundreds of TaskManagers does not make the text unreadable.
            if position == SHORTAGE_NAMES_MAX {
                return write!(f, ", and {} more", self.taskmanagers.len() - SHORTAGE_NAMES_MAX);
            }
            write!(f, "{} {id} {free} of {total}", if position == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// TaskManagers named in the text of a [`Shortage`].
const SHORTAGE_NAMES_MAX: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Holding {
    job: JobId,
    allocation: AllocationId,
}

/// The slots of all registered TaskManagers, who holds them and who waits for some.
///
/// A holding may name a TaskManager that is not registered: a new leader knows from the log which job holds what before
/// the TaskManagers have come to it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Slot count of each registered TaskManager.
    registered: BTreeMap<TaskManagerId, u32>,
    holdings: BTreeMap<TaskManagerId, BTreeMap<SlotIndex, Holding>>,
    /// Jobs without their slots, in the order they asked.
    waiting: VecDeque<(JobId, u32)>,
}

impl Ledger {
    /// A TaskManager offers its slots. Registering again, with the same or another number, changes no holding.
    pub fn register(&mut self, taskmanager: TaskManagerId, slots: u32) {
        self.registered.insert(taskmanager, slots);
    }

    /// A TaskManager is gone. What was held on it stays held until its jobs release it, but nothing is free there.
    pub fn lose(&mut self, taskmanager: &TaskManagerId) {
        self.registered.remove(taskmanager);
    }

    /// A job holds a slot since before this leader.
    ///
    /// Returns false, and changes nothing, when another job holds it.
    pub fn hold(&mut self, job: JobId, at: &Assignment) -> bool {
        let slots = self.holdings.entry(at.taskmanager.clone()).or_default();
        match slots.get(&at.slot) {
            Some(holding) => holding.job == job,
            None => slots.insert(at.slot, Holding { job, allocation: at.allocation }).is_none(),
        }
    }

    /// A job asks for slots. They come, together, from [`grant`](Self::grant). A second request replaces the first; one for
    /// none takes it back.
    pub fn request(&mut self, job: JobId, count: u32) {
        if count == 0 {
            return self.waiting.retain(|(waiting, _)| *waiting != job);
        }
        match self.waiting.iter_mut().find(|(waiting, _)| *waiting == job) {
            Some((_, wanted)) => *wanted = count,
            None => self.waiting.push_back((job, count)),
        }
    }

    /// A job gives back one slot. One that it holds under another allocation stays.
    pub fn release_slot(&mut self, job: JobId, at: &Assignment) {
        if let Some(slots) = self.holdings.get_mut(&at.taskmanager) {
            slots.retain(|slot, held| (*slot, held.job, held.allocation) != (at.slot, job, at.allocation));
            if slots.is_empty() {
                self.holdings.remove(&at.taskmanager);
            }
        }
    }

    /// A job gives back what it holds on one TaskManager.
    pub fn release_on(&mut self, job: JobId, taskmanager: &TaskManagerId) {
        if let Some(slots) = self.holdings.get_mut(taskmanager) {
            slots.retain(|_, holding| holding.job != job);
            if slots.is_empty() {
                self.holdings.remove(taskmanager);
            }
        }
    }

    /// A job gives back all it holds and wants nothing more.
    pub fn release(&mut self, job: JobId) {
        self.waiting.retain(|(waiting, _)| *waiting != job);
        self.holdings.retain(|_, slots| {
            slots.retain(|_, holding| holding.job != job);
            !slots.is_empty()
        });
    }

    /// Serves every waiting job that can be served now. `allocation` makes a fresh id for each slot.
    pub fn grant(&mut self, mut allocation: impl FnMut() -> AllocationId) -> Vec<Grant> {
        let mut grants = Vec::new();
        for (job, need) in std::mem::take(&mut self.waiting) {
            match self.take(job, need, &mut allocation) {
                Some(slots) => grants.push(Grant { job, slots }),
                None => self.waiting.push_back((job, need)),
            }
        }
        grants
    }

    fn take(&mut self, job: JobId, need: u32, mut allocation: impl FnMut() -> AllocationId) -> Option<Vec<Assignment>> {
        let names: Vec<TaskManagerId> = self.registered.keys().cloned().collect();
        let bins: Vec<Bin> =
            self.registered.iter().map(|(id, total)| Bin { total: *total, used: total - self.free_on(id) }).collect();
        let mut slots = Vec::with_capacity(need as usize);
        for taskmanager in spread(need, &bins)?.into_iter().filter_map(|position| names.get(position)) {
            let held = self.holdings.entry(taskmanager.clone()).or_default();
            let total = self.registered.get(taskmanager).copied().unwrap_or(0);
            let slot = (0..total).map(SlotIndex).find(|slot| !held.contains_key(slot))?;
            let allocation = allocation();
            held.insert(slot, Holding { job, allocation });
            slots.push(Assignment { taskmanager: taskmanager.clone(), slot, allocation });
        }
        Some(slots)
    }

    /// Jobs that wait, with the reason.
    pub fn waiting(&self) -> impl Iterator<Item = (JobId, Shortage)> {
        let taskmanagers: Vec<_> =
            self.registered.iter().map(|(id, total)| (id.clone(), self.free_on(id), *total)).collect();
        self.waiting
            .iter()
            .map(move |(job, needed)| (*job, Shortage { needed: *needed, taskmanagers: taskmanagers.clone() }))
    }

    /// Slots of a registered TaskManager that no job holds.
    pub fn free_on(&self, taskmanager: &TaskManagerId) -> u32 {
        let total = self.registered.get(taskmanager).copied().unwrap_or(0);
        let held = self.holdings.get(taskmanager).map_or(0, |slots| slots.range(..SlotIndex(total)).count());
        total - held as u32
    }

    /// Every slot held, with its holder.
    pub fn holdings(&self) -> impl Iterator<Item = (JobId, Assignment)> {
        self.holdings.iter().flat_map(|(taskmanager, slots)| {
            slots.iter().map(|(slot, holding)| {
                let at = Assignment { taskmanager: taskmanager.clone(), slot: *slot, allocation: holding.allocation };
                (holding.job, at)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn tm(name: &str) -> TaskManagerId {
        TaskManagerId(name.to_owned())
    }

    fn job(number: u8) -> JobId {
        JobId::from_bytes([number; 16])
    }

    fn allocations() -> impl FnMut() -> AllocationId {
        let mut next = 0u128;
        move || {
            next += 1;
            AllocationId::from_bytes(next.to_be_bytes())
        }
    }

    #[test]
    fn a_shortage_says_what_is_needed_and_where_slots_are() {
        let mut ledger = Ledger::default();
        ledger.request(job(1), 8);
        let text = |ledger: &Ledger| ledger.waiting().next().map(|(_, shortage)| shortage.to_string());
        assert_eq!(text(&ledger).as_deref(), Some("needs 8 slots, 0 are free: no TaskManager is registered"));
        ledger.register(tm("tm-b"), 2);
        ledger.register(tm("tm-a"), 2);
        assert!(ledger.grant(allocations()).is_empty());
        assert_eq!(text(&ledger).as_deref(), Some("needs 8 slots, 4 are free: tm-a 2 of 2, tm-b 2 of 2"));
    }

    #[test]
    fn a_job_that_cannot_be_served_does_not_hold_up_a_smaller_one() {
        let mut ledger = Ledger::default();
        ledger.register(tm("tm-a"), 2);
        ledger.request(job(1), 3);
        ledger.request(job(2), 2);
        let grants = ledger.grant(allocations());
        assert_eq!(grants.iter().map(|grant| grant.job).collect::<Vec<_>>(), [job(2)]);
        ledger.release(job(2));
        ledger.register(tm("tm-b"), 1);
        assert_eq!(ledger.grant(allocations()).len(), 1);
    }

    #[test]
    fn what_the_log_says_is_held_is_not_given_away_when_its_taskmanager_comes() {
        let mut ledger = Ledger::default();
        let at = |slot| Assignment {
            taskmanager: tm("tm-a"),
            slot: SlotIndex(slot),
            allocation: AllocationId::from_bytes([9; 16]),
        };
        assert!(ledger.hold(job(1), &at(0)));
        assert!(!ledger.hold(job(2), &at(0)), "two jobs cannot hold one slot");
        ledger.register(tm("tm-a"), 2);
        ledger.request(job(2), 1);
        let grants = ledger.grant(allocations());
        assert_eq!(grants[0].slots[0].slot, SlotIndex(1));
        assert_eq!(ledger.free_on(&tm("tm-a")), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Register(u8, u32),
        Lose(u8),
        Request(u8, u32),
        Release(u8),
        ReleaseOn(u8, u8),
        ReleaseFirst(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..3, 0u32..5).prop_map(|(id, slots)| Step::Register(id, slots)),
            (0u8..3).prop_map(Step::Lose),
            (0u8..5, 0u32..6).prop_map(|(id, count)| Step::Request(id, count)),
            (0u8..5).prop_map(Step::Release),
            (0u8..5, 0u8..3).prop_map(|(id, at)| Step::ReleaseOn(id, at)),
            (0u8..5).prop_map(Step::ReleaseFirst),
        ]
    }

    proptest! {
        /// Whatever happens, no slot is promised twice and every grant is whole.
        #[test]
        fn slots_are_never_held_twice(steps in proptest::collection::vec(step(), 0..40)) {
            let mut ledger = Ledger::default();
            let mut allocation = allocations();
            for step in steps {
                match step {
                    Step::Register(id, slots) => ledger.register(tm(&id.to_string()), slots),
                    Step::Lose(id) => ledger.lose(&tm(&id.to_string())),
                    Step::Request(id, count) => ledger.request(job(id), count),
                    Step::Release(id) => ledger.release(job(id)),
                    Step::ReleaseOn(id, at) => ledger.release_on(job(id), &tm(&at.to_string())),
                    Step::ReleaseFirst(id) => {
                        let held = ledger.holdings().find(|(holder, _)| *holder == job(id));
                        if let Some((holder, at)) = held {
                            ledger.release_slot(holder, &at);
                            prop_assert!(ledger.holdings().all(|(_, other)| other.allocation != at.allocation));
                        }
                    }
                }
                let before: Vec<_> = ledger.holdings().collect();
                let wanted: BTreeMap<_, _> = ledger.waiting().map(|(job, short)| (job, short.needed)).collect();
                for grant in ledger.grant(&mut allocation) {
                    prop_assert_eq!(Some(&(grant.slots.len() as u32)), wanted.get(&grant.job));
                    for slot in &grant.slots {
                        let taken = before.iter().any(|(_, at)| (&at.taskmanager, at.slot) == (&slot.taskmanager, slot.slot));
                        prop_assert!(!taken, "{:?} was held", slot);
                    }
                }
                let all: Vec<_> = ledger.holdings().map(|(_, at)| at.allocation).collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            }
        }
    }
}
