//! The ExecutionGraph: a JobGraph spread out into vertices, subtasks and attempts.
//!
//! ```text
//! JobGraph ─> ExecutionJobVertex ─> ExecutionVertex (one per subtask) ─> Execution (one per attempt)
//! ```
//! The newest attempt of a subtask is its *current* execution; older ones are history, kept for people. Attempt numbers
//! count up and are never reused, so a report about an older attempt can never be taken for the current one.

use std::collections::{BTreeMap, VecDeque};

use perennial_types::{AllocationId, ExecutionAttemptId, ExecutionState, JobGraph, SlotIndex, TaskManagerId, VertexId};

use crate::region::Task;

/// Ended attempts remembered per subtask, as many as Flink's `jobmanager.execution.attempts-history-size` keeps.
pub const HISTORY_MAX: usize = 16;

/// Where an execution runs, or is going to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The TaskManager.
    pub taskmanager: TaskManagerId,
    /// The slot on it.
    pub slot: SlotIndex,
    /// The promise under which the job holds the slot.
    pub allocation: AllocationId,
}

/// An execution and where it runs: what is recorded before anything is told to a TaskManager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Where it runs.
    pub assignment: Assignment,
}

/// What an execution has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records read.
    pub records_in: u64,
    /// Records written.
    pub records_out: u64,
    /// Bytes received from other processes.
    pub bytes_in: u64,
    /// Bytes sent to other processes.
    pub bytes_out: u64,
    /// Milliseconds spent processing.
    pub busy_ms: u64,
    /// Milliseconds spent waiting for room downstream.
    pub back_pressured_ms: u64,
}

/// One attempt to run one subtask.
#[derive(Debug, Clone)]
pub struct Execution {
    attempt: u32,
    state: ExecutionState,
    assignment: Option<Assignment>,
    failure: Option<String>,
    start_ms: Option<u64>,
    end_ms: Option<u64>,
    counters: Counters,
    input_ended: bool,
}

impl Execution {
    fn new(attempt: u32) -> Self {
        Self {
            attempt,
            state: ExecutionState::Created,
            assignment: None,
            failure: None,
            start_ms: None,
            end_ms: None,
            counters: Counters::default(),
            input_ended: false,
        }
    }

    /// Number of the attempt, from 0.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Where it stands.
    pub fn state(&self) -> ExecutionState {
        self.state
    }

    /// Where it runs, once it has a slot.
    pub fn assignment(&self) -> Option<&Assignment> {
        self.assignment.as_ref()
    }

    /// Why it failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// When it was deployed, in milliseconds of the Unix epoch.
    pub fn start_ms(&self) -> Option<u64> {
        self.start_ms
    }

    /// When it ended, in milliseconds of the Unix epoch.
    pub fn end_ms(&self) -> Option<u64> {
        self.end_ms
    }

    /// What it has done, as far as it was told.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether there may be something left for it to work on.
    fn has_input(&self) -> bool {
        !self.input_ended && self.state != ExecutionState::Finished
    }

    fn is_on(&self, taskmanager: &TaskManagerId) -> bool {
        self.assignment.as_ref().is_some_and(|at| at.taskmanager == *taskmanager)
    }
}

/// One subtask with its attempts.
#[derive(Debug, Clone)]
pub struct ExecutionVertex {
    current: Execution,
    history: VecDeque<Execution>,
}

impl ExecutionVertex {
    /// The newest attempt.
    pub fn current(&self) -> &Execution {
        &self.current
    }

    /// Earlier attempts, oldest first, at most [`HISTORY_MAX`].
    pub fn history(&self) -> impl Iterator<Item = &Execution> {
        self.history.iter()
    }
}

/// A vertex of the JobGraph with its subtasks.
#[derive(Debug, Clone)]
pub struct ExecutionJobVertex {
    id: VertexId,
    name: String,
    subtasks: Vec<ExecutionVertex>,
}

impl ExecutionJobVertex {
    /// The vertex's id.
    pub fn id(&self) -> VertexId {
        self.id
    }

    /// The vertex's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its subtasks in order.
    pub fn subtasks(&self) -> &[ExecutionVertex] {
        &self.subtasks
    }
}

/// What became of a report about an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It was in the first state and is now in the reported one.
    Changed {
        /// Where it stood before.
        from: ExecutionState,
    },
    /// The report was true already, or speaks of a state that is behind; nothing changed.
    Ignored,
    /// No current execution has this id: an older attempt, or none of this job.
    Unknown,
}

/// An execution as the metadata log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Where it runs.
    pub assignment: Assignment,
    /// Whether its end was recorded: then it is not expected to run anywhere.
    pub finished: bool,
}

/// Vertices × subtasks × attempts of one job.
#[derive(Debug, Clone)]
pub struct ExecutionGraph {
    vertices: Vec<ExecutionJobVertex>,
    positions: BTreeMap<VertexId, usize>,
    /// Current executions that may have something left to work on.
    with_input: usize,
}

impl ExecutionGraph {
    /// Every subtask of the job with its first attempt in CREATED.
    pub fn new(graph: &JobGraph) -> Self {
        let vertices: Vec<ExecutionJobVertex> = graph
            .vertices
            .iter()
            .map(|vertex| ExecutionJobVertex {
                id: vertex.id,
                name: vertex.name.clone(),
                subtasks: (0..vertex.parallelism)
                    .map(|_| ExecutionVertex { current: Execution::new(0), history: VecDeque::new() })
                    .collect(),
            })
            .collect();
        let positions = vertices.iter().enumerate().map(|(position, vertex)| (vertex.id, position)).collect();
        let with_input = vertices.iter().map(|vertex| vertex.subtasks.len()).sum();
        Self { vertices, positions, with_input }
    }

    /// The graph with the attempts that the metadata log knows; `start_ms` says when executions with this attempt number
    /// were deployed. Those not finished are in RECONCILING.
    pub fn recover(
        graph: &JobGraph,
        recovered: impl IntoIterator<Item = Recovered>,
        start_ms: impl Fn(u32) -> Option<u64>,
    ) -> Self {
        let mut this = Self::new(graph);
        for Recovered { attempt: id, assignment, finished } in recovered {
            if let Some(subtask) = this.subtask_mut(id.vertex, id.subtask) {
                subtask.current = Execution::new(id.attempt);
                subtask.current.assignment = Some(assignment);
                subtask.current.start_ms = start_ms(id.attempt);
                subtask.current.state = if finished { ExecutionState::Finished } else { ExecutionState::Reconciling };
            }
        }
        this.with_input = this.executions().filter(|(_, execution)| execution.has_input()).count();
        this
    }

    /// The vertices, in the order of the JobGraph.
    pub fn vertices(&self) -> &[ExecutionJobVertex] {
        &self.vertices
    }

    /// Every current execution with its id.
    pub fn executions(&self) -> impl Iterator<Item = (ExecutionAttemptId, &Execution)> {
        self.vertices.iter().flat_map(|vertex| {
            vertex.subtasks.iter().enumerate().map(|(subtask, at)| {
                let id = ExecutionAttemptId { vertex: vertex.id, subtask: subtask as u32, attempt: at.current.attempt };
                (id, &at.current)
            })
        })
    }

    /// Current executions assigned to a TaskManager.
    pub fn executions_on<'a>(
        &'a self,
        taskmanager: &'a TaskManagerId,
    ) -> impl Iterator<Item = (ExecutionAttemptId, &'a Execution)> {
        self.executions().filter(move |(_, execution)| execution.is_on(taskmanager))
    }

    /// The execution with this id, if it is the current one of its subtask.
    pub fn get(&self, id: ExecutionAttemptId) -> Option<&Execution> {
        let vertex = self.vertices.get(*self.positions.get(&id.vertex)?)?;
        Some(&vertex.subtasks.get(id.subtask as usize)?.current).filter(|current| current.attempt == id.attempt)
    }

    /// A name for people: `Source: lines (2/4) attempt 0`.
    pub fn describe(&self, id: ExecutionAttemptId) -> String {
        match self.positions.get(&id.vertex).and_then(|position| self.vertices.get(*position)) {
            Some(vertex) => {
                format!("`{}` ({}/{}) attempt {}", vertex.name, id.subtask + 1, vertex.subtasks.len(), id.attempt)
            }
            None => id.to_string(),
        }
    }

    /// The same in Flink's words: `Source: lines (2/4) - execution #0`.
    pub fn name_of(&self, id: ExecutionAttemptId) -> String {
        match self.positions.get(&id.vertex).and_then(|position| self.vertices.get(*position)) {
            Some(vertex) => {
                let (name, subtasks) = (&vertex.name, vertex.subtasks.len());
                format!("{name} ({}/{subtasks}) - execution #{}", id.subtask + 1, id.attempt)
            }
            None => id.to_string(),
        }
    }

    /// Whether every current execution satisfies `holds`.
    pub fn all(&self, mut holds: impl FnMut(ExecutionState) -> bool) -> bool {
        self.vertices.iter().flat_map(|vertex| &vertex.subtasks).all(|subtask| holds(subtask.current.state))
    }

    /// Number of current executions in each state.
    pub fn count_by_state(&self) -> BTreeMap<ExecutionState, u32> {
        let mut counts = BTreeMap::new();
        for subtask in self.vertices.iter().flat_map(|vertex| &vertex.subtasks) {
            *counts.entry(subtask.current.state).or_insert(0) += 1;
        }
        counts
    }

    /// The current execution of a subtask, with its id.
    pub fn at(&self, (vertex, subtask): Task) -> Option<(ExecutionAttemptId, &Execution)> {
        let vertex = self.vertices.get(vertex)?;
        let current = &vertex.subtasks.get(subtask as usize)?.current;
        Some((ExecutionAttemptId { vertex: vertex.id, subtask, attempt: current.attempt }, current))
    }

    /// The subtask an execution belongs to.
    pub fn task_of(&self, id: ExecutionAttemptId) -> Option<Task> {
        Some((*self.positions.get(&id.vertex)?, id.subtask))
    }

    /// Gives an execution its slot: CREATED becomes SCHEDULED.
    pub fn assign(&mut self, id: ExecutionAttemptId, assignment: Assignment) {
        if let Some(execution) = self.current_mut(id) {
            execution.assignment = Some(assignment);
            if execution.state == ExecutionState::Created {
                execution.state = ExecutionState::Scheduled;
            }
        }
    }

    /// Moves an execution to `next`, if its state may become that.
    ///
    /// `now_ms` becomes its start with the first state after SCHEDULED and its end with a terminal one.
    pub fn transition(
        &mut self,
        id: ExecutionAttemptId,
        next: ExecutionState,
        failure: Option<String>,
        now_ms: u64,
    ) -> Transition {
        let Some(execution) = self.current_mut(id) else { return Transition::Unknown };
        let from = execution.state;
        if from == next || !from.may_become(next) {
            return Transition::Ignored;
        }
        let had_input = execution.has_input();
        execution.state = next;
        let spent = had_input && !execution.has_input();
        if execution.start_ms.is_none() && !matches!(next, ExecutionState::Scheduled | ExecutionState::Canceled) {
            execution.start_ms = Some(now_ms);
        }
        if next.is_terminal() {
            execution.end_ms = Some(now_ms);
        }
        if next == ExecutionState::Failed {
            execution.failure = Some(failure.unwrap_or_else(|| "no cause was given".to_owned()));
        }
        self.with_input -= usize::from(spent);
        Transition::Changed { from }
    }

    /// The input of a current execution has ended, and it holds nothing back: it waits for its last checkpoint.
    pub fn end_input(&mut self, id: ExecutionAttemptId) {
        if let Some(execution) = self.current_mut(id) {
            let had_input = execution.has_input();
            execution.input_ended = true;
            self.with_input -= usize::from(had_input);
        }
    }

    /// Whether the input of every current execution has ended.
    pub fn all_inputs_ended(&self) -> bool {
        self.with_input == 0
    }

    /// Notes when a current execution was deployed, as its executor says: the same to every leader.
    pub fn started(&mut self, id: ExecutionAttemptId, start_ms: u64) {
        if let Some(execution) = self.current_mut(id) {
            execution.start_ms = Some(start_ms);
        }
    }

    /// Notes what a current execution has done. Counters never go back: an older report is ignored.
    pub fn count(&mut self, id: ExecutionAttemptId, counters: Counters) {
        if let Some(execution) = self.current_mut(id) {
            let (old, new) = (execution.counters, counters);
            execution.counters = Counters {
                records_in: old.records_in.max(new.records_in),
                records_out: old.records_out.max(new.records_out),
                bytes_in: old.bytes_in.max(new.bytes_in),
                bytes_out: old.bytes_out.max(new.bytes_out),
                busy_ms: old.busy_ms.max(new.busy_ms),
                back_pressured_ms: old.back_pressured_ms.max(new.back_pressured_ms),
            };
        }
    }

    /// Puts the current execution of a subtask into history and gives the subtask a new attempt in CREATED.
    pub fn renew(&mut self, task: Task) {
        if let Some(subtask) = self.vertices.get_mut(task.0).and_then(|vertex| vertex.subtasks.get_mut(task.1 as usize))
        {
            let next = Execution::new(subtask.current.attempt + 1);
            if subtask.history.len() == HISTORY_MAX {
                subtask.history.pop_front();
            }
            let had_input = subtask.current.has_input();
            subtask.history.push_back(std::mem::replace(&mut subtask.current, next));
            self.with_input += usize::from(!had_input);
        }
    }

    /// A deployment that was sent did not arrive: DEPLOYING becomes SCHEDULED.
    pub fn undeploy(&mut self, id: ExecutionAttemptId) {
        if let Some(execution) = self.current_mut(id)
            && execution.state == ExecutionState::Deploying
        {
            execution.state = ExecutionState::Scheduled;
        }
    }

    fn subtask_mut(&mut self, vertex: VertexId, subtask: u32) -> Option<&mut ExecutionVertex> {
        let position = *self.positions.get(&vertex)?;
        self.vertices.get_mut(position)?.subtasks.get_mut(subtask as usize)
    }

    fn current_mut(&mut self, id: ExecutionAttemptId) -> Option<&mut Execution> {
        let subtask = self.subtask_mut(id.vertex, id.subtask)?;
        Some(&mut subtask.current).filter(|current| current.attempt == id.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::testing::graph;

    fn first(graph: &ExecutionGraph) -> ExecutionAttemptId {
        graph.at((0, 0)).expect("the graph has a first subtask").0
    }

    #[test]
    fn attempts_count_up_and_history_is_bounded() {
        let mut executions = ExecutionGraph::new(&graph(&[("map", 2, "default")]));
        for _ in 0..HISTORY_MAX + 5 {
            executions.renew((0, 1));
        }
        assert_eq!(executions.vertices()[0].subtasks()[0].current().attempt(), 0, "the other one is another region's");
        let subtask = &executions.vertices()[0].subtasks()[1];
        assert_eq!(subtask.current().attempt(), 21);
        let kept: Vec<u32> = subtask.history().map(Execution::attempt).collect();
        assert_eq!(kept, (5..21).collect::<Vec<_>>());
    }

    #[test]
    fn the_inputs_of_all_have_ended_when_each_has_said_so_or_has_finished() {
        let mut executions = ExecutionGraph::new(&graph(&[("map", 2, "default")]));
        let ids: Vec<_> = executions.executions().map(|(id, _)| id).collect();
        for _ in 0..2 {
            executions.end_input(ids[0]);
            assert!(!executions.all_inputs_ended());
        }
        executions.transition(ids[1], ExecutionState::Finished, None, 1);
        assert!(!executions.all_inputs_ended(), "a task that was never deployed does not finish");
        executions.transition(ids[1], ExecutionState::Deploying, None, 1);
        executions.transition(ids[1], ExecutionState::Finished, None, 1);
        executions.transition(ids[0], ExecutionState::Deploying, None, 1);
        executions.transition(ids[0], ExecutionState::Finished, None, 1);
        assert!(executions.all_inputs_ended());
        executions.renew((0, 1));
        assert!(!executions.all_inputs_ended(), "it begins again");
        executions.end_input(ids[1]);
        assert!(!executions.all_inputs_ended(), "said by the attempt before");
        let mut renewed = ids[1];
        renewed.attempt += 1;
        executions.end_input(renewed);
        assert!(executions.all_inputs_ended());
    }

    #[test]
    fn a_report_about_an_older_attempt_changes_nothing() {
        let mut executions = ExecutionGraph::new(&graph(&[("map", 1, "default")]));
        let old = first(&executions);
        executions.renew((0, 0));
        assert_eq!(executions.transition(old, ExecutionState::Failed, None, 1), Transition::Unknown);
        assert!(executions.all(|state| state == ExecutionState::Created));
    }

    #[test]
    fn a_quick_task_may_finish_before_its_running_is_told_and_late_reports_are_ignored() {
        let mut executions = ExecutionGraph::new(&graph(&[("map", 1, "default")]));
        let id = first(&executions);
        executions.transition(id, ExecutionState::Deploying, None, 5);
        assert_eq!(
            executions.transition(id, ExecutionState::Finished, None, 9),
            Transition::Changed { from: ExecutionState::Deploying }
        );
        assert_eq!(executions.transition(id, ExecutionState::Running, None, 10), Transition::Ignored);
        let execution = executions.get(id).expect("it is current");
        assert_eq!((execution.start_ms(), execution.end_ms()), (Some(5), Some(9)));
    }

    #[test]
    fn counters_do_not_go_back() {
        let mut executions = ExecutionGraph::new(&graph(&[("map", 1, "default")]));
        let id = first(&executions);
        executions.count(id, Counters { records_in: 10, ..Counters::default() });
        executions.count(id, Counters { records_in: 7, records_out: 3, ..Counters::default() });
        let counters = executions.get(id).expect("it is current").counters();
        assert_eq!((counters.records_in, counters.records_out), (10, 3));
    }
}
