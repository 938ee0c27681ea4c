//! The log: what is written into it of a job on its way, and what follows when it is there.

use perennial_types::JobStatus;

use crate::checkpoint;

use super::{Effect, Intent, IntentKind, Job, Phase};

impl Job {
    /// Every task runs: what was waited for is over.
    pub(super) fn note_running(&mut self, out: &mut Vec<Effect>) {
        if self.regions.all_running() && self.logged != JobStatus::Running {
            self.logged = JobStatus::Running;
            self.has_run = true;
            self.waiting_for.clear();
            out.push(Effect::Record(Intent::Running));
        }
    }

    /// Records finished executions, one batch at a time: a new leader must not look for them.
    pub(super) fn record_finished(&mut self, out: &mut Vec<Effect>) {
        if !self.recording_finished && !self.unrecorded.is_empty() {
            self.recording_finished = true;
            out.push(Effect::Record(Intent::FinishExecutions { attempts: std::mem::take(&mut self.unrecorded) }));
        }
    }

    pub(super) fn on_recorded(&mut self, kind: IntentKind, index: u64, out: &mut Vec<Effect>) {
        self.index = self.index.max(index);
        match (kind, &self.phase) {
            (IntentKind::Placement, _) => self.on_placed(out),
            (IntentKind::Deployment, _) => self.is_told = true,
            (IntentKind::FinishExecutions, _) => self.recording_finished = false,
            (IntentKind::ReserveCheckpoint(checkpoint), _) => self.on_reserved(checkpoint, out),
            (IntentKind::CompleteCheckpoint(checkpoint), _) => {
                self.coordinate(checkpoint::Event::Completed(checkpoint), out);
                self.strategy.calm_down();
            }
            (IntentKind::AbortCheckpoint(checkpoint), _) => {
                self.coordinate(checkpoint::Event::Aborted(checkpoint), out);
            }
            (IntentKind::End, Phase::Recording { outcome }) => {
                let outcome = outcome.clone();
                self.stop_executors(outcome, out);
            }
            _ => {}
        }
    }

    pub(super) fn on_not_recorded(&mut self, kind: IntentKind, reason: String, now_ms: u64, out: &mut Vec<Effect>) {
        match (kind, &self.phase) {
            (IntentKind::Placement, _) => {
                self.placing.pop_front();
                self.fail(format!("its placement was refused by the metadata store: {reason}"), now_ms, out);
            }
            // A wish to cancel was committed first, and is on its way here.
            (IntentKind::Deployment, _) => {}
            (IntentKind::FinishExecutions, _) => self.recording_finished = false,
            (IntentKind::ReserveCheckpoint(checkpoint), _) => {
                self.coordinate(checkpoint::Event::NotReserved(checkpoint), out);
            }
            // Not in flight, so it was aborted, or is about to end with the job.
            (IntentKind::CompleteCheckpoint(checkpoint) | IntentKind::AbortCheckpoint(checkpoint), _) => {
                self.coordinate(checkpoint::Event::Aborted(checkpoint), out);
            }
            // The log has another end of this job, or has forgotten it: either way it is over.
            (IntentKind::End, Phase::Recording { outcome }) => {
                let outcome = outcome.clone();
                self.stop_executors(outcome, out);
            }
            _ => {}
        }
    }
}
