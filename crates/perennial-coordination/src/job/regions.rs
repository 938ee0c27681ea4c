//! The regions of one job and how far each is.

use std::collections::BTreeSet;
use std::sync::Arc;

use perennial_types::JobGraph;

use crate::checkpoint::StoredCheckpoint;
use crate::region::{Task, pipelined_regions};

/// How far a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It has new attempts and needs a place for them.
    Unplaced,
    /// Its placement is on its way into the log.
    Placing,
    /// Executors start and tasks are deployed; not all are RUNNING yet.
    Deploying,
    /// Every task has reached RUNNING.
    Running,
    /// A new leader waits for its TaskManagers.
    Reconciling,
    /// Its tasks are cancelled; when all have ended and it waits no more, it gets new attempts.
    Restarting {
        /// The wait it takes part in.
        wait: u32,
        /// Whether that goes on.
        waits: bool,
    },
}

#[derive(Debug)]
struct Region {
    tasks: Vec<Task>,
    step: Step,
    /// Whether it has failed since it ran, and people see RESTARTING.
    failed: bool,
    finished: bool,
    /// The checkpoint its current attempts start from, from the first deployment on: a task of it that is deployed again
    /// starts from the same one.
    restore: Option<Arc<StoredCheckpoint>>,
    /// The entry of the exception history that says why it restarts, or restarted last.
    exception: Option<u64>,
}

/// All regions. Keeps counts, so that the job's status costs the same for one region and for fifty thousand.
#[derive(Debug)]
pub(super) struct Regions {
    list: Vec<Region>,
    /// Region of each subtask, by vertex.
    of: Vec<Vec<usize>>,
    /// Regions that need a place, and those of which something is to be deployed.
    unplaced: BTreeSet<usize>,
    deploying: BTreeSet<usize>,
    running: usize,
    reconciling: usize,
    failed: usize,
    finished: usize,
}

impl Regions {
    pub(super) fn new(graph: &JobGraph) -> Self {
        let mut of: Vec<Vec<usize>> = graph.vertices.iter().map(|at| vec![0; at.parallelism as usize]).collect();
        let mut list = Vec::new();
        for (region, tasks) in pipelined_regions(graph).into_iter().enumerate() {
            for (vertex, subtask) in &tasks {
                if let Some(of) = of.get_mut(*vertex).and_then(|subtasks| subtasks.get_mut(*subtask as usize)) {
                    *of = region;
                }
            }
            list.push(Region {
                tasks,
                step: Step::Unplaced,
                failed: false,
                finished: false,
                restore: None,
                exception: None,
            });
        }
        let unplaced = (0..list.len()).collect();
        let deploying = BTreeSet::new();
        Self { list, of, unplaced, deploying, running: 0, reconciling: 0, failed: 0, finished: 0 }
    }

    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.list.len()
    }

    pub(super) fn of(&self, (vertex, subtask): Task) -> Option<usize> {
        self.of.get(vertex)?.get(subtask as usize).copied()
    }

    pub(super) fn tasks(&self, region: usize) -> &[Task] {
        self.list.get(region).map_or(&[], |region| &region.tasks)
    }

    pub(super) fn step(&self, region: usize) -> Step {
        self.list.get(region).map_or(Step::Running, |region| region.step)
    }

    pub(super) fn set(&mut self, region: usize, step: Step) {
        let Some(at) = self.list.get_mut(region) else { return };
        let old = std::mem::replace(&mut at.step, step);
        self.running -= usize::from(old == Step::Running);
        self.running += usize::from(step == Step::Running);
        self.reconciling -= usize::from(old == Step::Reconciling);
        self.reconciling += usize::from(step == Step::Reconciling);
        if step == Step::Unplaced {
            at.restore = None;
        }
        if step == Step::Running && std::mem::replace(&mut at.failed, false) {
            self.failed -= 1;
        }
        match step {
            Step::Unplaced => self.unplaced.insert(region),
            _ => self.unplaced.remove(&region),
        };
        match step {
            Step::Deploying => self.deploying.insert(region),
            _ => self.deploying.remove(&region),
        };
    }

    /// From now on until it runs again, people see that it restarts.
    pub(super) fn show_restart(&mut self, region: usize) {
        if let Some(at) = self.list.get_mut(region).filter(|at| !at.failed) {
            at.failed = true;
            self.failed += 1;
        }
    }

    /// It restarts because of this entry of the exception history.
    pub(super) fn set_exception(&mut self, region: usize, number: Option<u64>) {
        if let Some(at) = self.list.get_mut(region) {
            at.exception = number;
        }
    }

    pub(super) fn exception(&self, region: usize) -> Option<u64> {
        self.list.get(region)?.exception
    }

    /// Every task of it has finished.
    pub(super) fn finish(&mut self, region: usize) {
        if let Some(at) = self.list.get_mut(region).filter(|at| !at.finished) {
            at.finished = true;
            self.finished += 1;
        }
    }

    /// Everything of a region is deployed, from this checkpoint, or the one of the deployment before of the same attempts;
    /// which it is is returned.
    pub(super) fn deployed(
        &mut self,
        region: usize,
        newest: Option<&Arc<StoredCheckpoint>>,
    ) -> Option<Arc<StoredCheckpoint>> {
        self.deploying.remove(&region);
        let at = self.list.get_mut(region)?;
        at.restore = at.restore.take().or_else(|| newest.cloned());
        at.restore.clone()
    }

    /// Something of a region has to be deployed again.
    pub(super) fn deploy_again(&mut self, region: usize) {
        if self.step(region) == Step::Deploying {
            self.deploying.insert(region);
        }
    }

    pub(super) fn unplaced(&self) -> &BTreeSet<usize> {
        &self.unplaced
    }

    pub(super) fn deploying(&self) -> &BTreeSet<usize> {
        &self.deploying
    }

    pub(super) fn any_reconciling(&self) -> bool {
        self.reconciling > 0
    }

    pub(super) fn any_restarting(&self) -> bool {
        self.failed > 0
    }

    pub(super) fn all_running(&self) -> bool {
        self.running == self.list.len()
    }

    pub(super) fn all_finished(&self) -> bool {
        self.finished == self.list.len()
    }
}
