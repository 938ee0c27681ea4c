//! From wishes to places: which slots the regions need, which they hold, and the record of it.

use std::collections::BTreeSet;

use perennial_types::JobStatus;

use super::{Effect, Host, Intent, Job, Phase, Stage, Step, Timer};
use crate::execution_graph::{Assignment, Placement};

impl Job {
    /// What the log says the job holds. Tasks of several regions may share a slot; where they differ, one that is still
    /// expected to run knows better than one that has finished.
    pub(super) fn recover_slots(&mut self) {
        for (slot, held) in self.slots.iter().zip(&mut self.held) {
            let executions = || slot.subtasks.iter().filter_map(|task| Some(self.executions.at(*task)?.1));
            let expected = executions().find(|execution| !execution.state().is_terminal());
            *held = expected.or_else(|| executions().next()).and_then(|execution| execution.assignment().cloned());
        }
    }

    /// Places every region that has all its slots, and asks for those that others lack.
    pub(super) fn place(&mut self, out: &mut Vec<Effect>) {
        if self.regions.unplaced().is_empty() {
            self.want_slots(0, out);
            return;
        }
        let mut missing = 0;
        let mut short = BTreeSet::new();
        for (slot, held) in self.slots.iter().zip(&self.held) {
            let regions = slot.subtasks.iter().filter_map(|task| self.regions.of(*task));
            let needing: Vec<usize> = regions.filter(|region| self.regions.unplaced().contains(region)).collect();
            if held.is_none() && !needing.is_empty() {
                missing += 1;
                short.extend(needing);
            }
        }
        self.want_slots(missing, out);
        let ready: Vec<usize> = self.regions.unplaced().difference(&short).copied().collect();
        if ready.is_empty() {
            return;
        }
        let mut placements = Vec::new();
        for (slot, held) in self.slots.iter().zip(&self.held) {
            let Some(at) = held else { continue };
            for task in &slot.subtasks {
                let placed = self.regions.of(*task).is_some_and(|region| ready.binary_search(&region).is_ok());
                if let Some((attempt, _)) = self.executions.at(*task).filter(|_| placed) {
                    placements.push(Placement { attempt, assignment: at.clone() });
                }
            }
        }
        for Placement { attempt, assignment } in &placements {
            self.executions.assign(*attempt, assignment.clone());
        }
        let ready = ready.into_iter().map(|region| {
            self.regions.set(region, Step::Placing);
            (region, self.attempt_of(region))
        });
        let ready = ready.collect();
        self.placing.push_back(ready);
        out.push(Effect::Record(Intent::Placement(placements)));
    }

    /// A placement is committed: executors and tasks of its regions are started. Those that have failed meanwhile are
    /// placed again.
    pub(super) fn on_placed(&mut self, out: &mut Vec<Effect>) {
        let Some(placed) = self.placing.pop_front() else { return };
        if self.phase != Phase::Active {
            return;
        }
        for (region, attempt) in placed {
            if self.regions.step(region) == Step::Placing && self.attempt_of(region) == attempt {
                self.regions.set(region, Step::Deploying);
            }
        }
        self.record_deployment(out);
    }

    /// While executors start, which takes longer, it is recorded that tasks will be told to run.
    pub(super) fn record_deployment(&mut self, out: &mut Vec<Effect>) {
        if self.logged == JobStatus::Initializing {
            self.logged = JobStatus::Created;
            out.push(Effect::Record(Intent::Deployment));
        }
    }

    /// All executions of a region have the same attempt.
    fn attempt_of(&self, region: usize) -> u32 {
        let first = self.regions.tasks(region).first();
        first.and_then(|task| self.executions.at(*task)).map_or(0, |(attempt, _)| attempt.attempt)
    }

    /// Has so many slots asked for, unless that was done. A job waits for as long as it lacks any.
    fn want_slots(&mut self, missing: u32, out: &mut Vec<Effect>) {
        if missing == self.wanted {
            return;
        }
        self.wanted = missing;
        out.push(Effect::RequestSlots(missing));
        if missing == 0 {
            self.stop_waiting_for_slots();
        } else if !std::mem::replace(&mut self.waits_for_slots, true) {
            self.slot_wait += 1;
            out.push(Effect::SetTimer(Timer::Slots(self.slot_wait), self.patience.slots));
        }
    }

    fn stop_waiting_for_slots(&mut self) {
        if std::mem::replace(&mut self.waits_for_slots, false) {
            self.waiting_for.clear();
        }
    }

    /// Takes granted slots for those that are missing. What nobody needs any more goes back.
    pub(super) fn take_slots(&mut self, granted: Vec<Assignment>, out: &mut Vec<Effect>) {
        self.wanted = 0;
        let mut granted = granted.into_iter();
        if self.phase == Phase::Active {
            for (slot, held) in self.slots.iter().zip(&mut self.held).filter(|(_, held)| held.is_none()) {
                let mut regions = slot.subtasks.iter().filter_map(|task| self.regions.of(*task));
                if !regions.any(|region| self.regions.unplaced().contains(&region)) {
                    continue;
                }
                let Some(at) = granted.next() else { break };
                self.hosts.entry(at.taskmanager.clone()).or_insert_with(|| Host::new(Stage::Empty));
                *held = Some(at);
            }
            self.stop_waiting_if_complete();
        }
        out.extend(granted.map(Effect::ReleaseSlot));
    }

    fn stop_waiting_if_complete(&mut self) {
        let lacks = self.slots.iter().zip(&self.held).any(|(slot, held)| {
            let mut regions = slot.subtasks.iter().filter_map(|task| self.regions.of(*task));
            held.is_none() && regions.any(|region| self.regions.unplaced().contains(&region))
        });
        if !lacks {
            self.stop_waiting_for_slots();
        }
    }

    pub(super) fn note_shortage(&mut self, reason: String) {
        if self.waits_for_slots && self.phase == Phase::Active {
            self.waiting_for = reason;
        }
    }

    pub(super) fn on_slots_timeout(&mut self, wait: u32, now_ms: u64, out: &mut Vec<Effect>) {
        if self.waits_for_slots && self.slot_wait == wait {
            let waited = perennial_types::format_duration(self.patience.slots);
            let missing = match self.waiting_for.as_str() {
                "" => format!("needs {} slots", self.wanted),
                shortage => shortage.to_owned(),
            };
            self.fail(format!("{missing} (waited {waited}, slot.request.timeout)"), now_ms, out);
        }
    }
}
