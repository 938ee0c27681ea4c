//! Tables of commands and their outcomes, over a state that is a `BTreeMap`.

use std::collections::BTreeMap;

use perennial_types::{
    AllocationId, ArtifactDigest, ClusterId, ElectionCause, ExceptionEntry, ExceptionKind, Incarnation, JobException,
    JobGraph, JobManagerId, PlanRequest, RestartMemory, SlotIndex, TakeOver, TaskManagerId, VertexId,
};

mod checkpoint;

use super::*;
use crate::ExecutionRecord;
use crate::kv::Pair;
use crate::kv::cancel::CANCELS_MAX;

#[derive(Default)]
struct Map {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
}

impl View for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        let from = self.entries.range(prefix.to_vec()..);
        let within = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(within.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Map {
    /// Applies a command as the next entry of epoch 1, after a round through its stored form.
    fn run(&mut self, command: Command) -> Outcome {
        self.run_in(1, command)
    }

    fn run_in(&mut self, epoch: u64, command: Command) -> Outcome {
        self.index += 1;
        let command = Command::decode(&command.encode()).unwrap();
        let entry = EntryId { epoch: LeaderEpoch(epoch), index: self.index };
        let (outcome, changes) = apply(self, entry, command).unwrap();
        for change in changes {
            match change {
                Change::Put(key, value) => self.entries.insert(key, value),
                Change::Delete(key) => self.entries.remove(&key),
            };
        }
        outcome
    }

    fn head(&self, job: JobId) -> JobHead {
        read::<kv::job::Job>(self, &job).unwrap().unwrap()
    }

    fn executions(&self, job: JobId) -> Vec<PlacedExecution> {
        list::<kv::execution::Execution>(self, job.as_bytes()).unwrap()
    }
}

const DIGEST: ArtifactDigest = ArtifactDigest::from_bytes([9; 32]);

fn job(n: u8) -> JobId {
    JobId::from_bytes([n; 16])
}

fn request(n: u8) -> RequestId {
    RequestId::from_bytes([n; 16])
}

fn add_artifact_command(digest: ArtifactDigest, holders: &[u64]) -> Command {
    let holders = holders.iter().map(|id| JobManagerId(*id)).collect();
    Command::AddArtifact { digest, name: "count".to_owned(), size: 3, holders }
}

fn submit_command(job: JobId, request: RequestId) -> Command {
    let graph = JobGraph {
        name: "count".to_owned(),
        vertices: Vec::new(),
        edges: Vec::new(),
        structural_hash: 1,
        config: BTreeMap::new(),
    };
    Command::SubmitJob {
        request,
        job,
        artifact: DIGEST,
        plan: PlanRequest::default(),
        graph,
        restored: None,
        at_ms: 10,
    }
}

fn set(job: JobId, status: JobStatus) -> Command {
    Command::SetStatus { job, status, at_ms: 20, failure: None }
}

fn end_command(job: JobId, status: JobStatus) -> Command {
    Command::EndJob { job, status, at_ms: 30, failure: None }
}

fn attempt(subtask: u32, attempt: u32) -> ExecutionAttemptId {
    ExecutionAttemptId { vertex: VertexId::from_bytes([5; 16]), subtask, attempt }
}

fn place(job: JobId, attempts: &[ExecutionAttemptId]) -> Command {
    let record = |attempt: &ExecutionAttemptId| ExecutionRecord {
        attempt: *attempt,
        taskmanager: TaskManagerId("tm".to_owned()),
        incarnation: Incarnation::from_bytes([1; 16]),
        slot: SlotIndex(0),
        allocation: AllocationId::from_bytes([2; 16]),
    };
    Command::PlaceExecutions { job, executions: attempts.iter().map(record).collect(), at_ms: 15 }
}

/// A state with an artifact and job 1 in the given states, one after the other.
fn with_job(statuses: &[JobStatus]) -> Map {
    let mut map = Map::default();
    assert_eq!(map.run(add_artifact_command(DIGEST, &[1])), Outcome::Done);
    assert_eq!(map.run(submit_command(job(1), request(1))), Outcome::Accepted(job(1)));
    for status in statuses {
        assert_eq!(map.run(set(job(1), *status)), Outcome::Done, "{status}");
    }
    map
}

#[test]
fn a_cluster_is_named_once() {
    let mut map = Map::default();
    let (first, second) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
    assert_eq!(map.run(Command::Bootstrap { cluster: first }), Outcome::Done);
    assert_eq!(map.run(Command::Bootstrap { cluster: second }), Outcome::Ignored);
    assert_eq!(read::<kv::cluster::Cluster>(&map, &()).unwrap(), Some(first));
}

#[test]
fn leaderships_are_kept_up_to_a_bound_newest_last() {
    let mut map = Map::default();
    let epochs = LEADERSHIPS_KEPT as u64 + 10;
    for epoch in 1..=epochs {
        map.run_in(epoch, Command::Lead { leader: JobManagerId(epoch % 3), at_ms: epoch });
    }
    let kept = list::<kv::leadership::Leadership>(&map, &[]).unwrap();
    assert_eq!(kept.len(), LEADERSHIPS_KEPT);
    let last =
        LeadershipRecord { epoch: LeaderEpoch(epochs), leader: JobManagerId(epochs % 3), at_ms: epochs, index: epochs };
    assert_eq!(kept.last(), Some(&last));
}

fn take_over(elected_us: u64) -> TakeOver {
    TakeOver {
        cause: ElectionCause::Silence,
        lost_ms: 1,
        elected_us,
        first_commit_us: 30,
        attached_us: None,
        adopted_us: Some(40),
        first_checkpoint_us: None,
        taskmanagers: 2,
        jobs_adopted: 1,
        jobs_restarted: 0,
    }
}

#[test]
fn a_leader_records_its_own_take_over_and_it_is_dropped_with_its_leadership() {
    let mut map = Map::default();
    let record =
        |epoch, elected_us| Command::RecordTakeOver { epoch: LeaderEpoch(epoch), take_over: take_over(elected_us) };
    let read_of = |map: &Map, epoch| read::<kv::take_over::TakeOvers>(map, &LeaderEpoch(epoch)).unwrap();
    map.run_in(1, Command::Lead { leader: JobManagerId(1), at_ms: 1 });
    assert_eq!(map.run_in(1, record(1, 20)), Outcome::Done);
    assert_eq!(map.run_in(2, record(1, 99)), Outcome::Ignored, "of another leader");
    assert_eq!(read_of(&map, 1), Some(take_over(20)));
    assert_eq!(read_of(&map, 2), None);
    for epoch in 2..=LEADERSHIPS_KEPT as u64 + 1 {
        map.run_in(epoch, Command::Lead { leader: JobManagerId(1), at_ms: epoch });
    }
    assert_eq!(read_of(&map, 1), None);
}

#[test]
fn holders_of_an_artifact_add_up() {
    let mut map = Map::default();
    map.run(add_artifact_command(DIGEST, &[3]));
    map.run(add_artifact_command(DIGEST, &[1, 3]));
    let record = read::<kv::artifact::Artifact>(&map, &DIGEST).unwrap().unwrap();
    assert_eq!(record.holders, [JobManagerId(1), JobManagerId(3)]);
}

#[test]
fn a_submission_is_accepted_once_and_found_again_by_its_request() {
    let mut map = Map::default();
    assert_eq!(map.run(submit_command(job(1), request(1))), Outcome::UnknownArtifact(DIGEST));
    map.run(add_artifact_command(DIGEST, &[1]));
    for (job_id, request_id, expect) in [
        (1, 1, Outcome::Accepted(job(1))),
        (1, 1, Outcome::SameRequest(job(1))),
        (2, 1, Outcome::SameRequest(job(1))),
        (1, 2, Outcome::DuplicateJob(job(1))),
        (2, 2, Outcome::Accepted(job(2))),
    ] {
        assert_eq!(map.run(submit_command(job(job_id), request(request_id))), expect, "{job_id} {request_id}");
    }
    assert_eq!(map.head(job(1)).status, JobStatus::Initializing);
}

#[test]
fn statuses_follow_the_diagram_and_note_their_times() {
    use JobStatus::*;
    let mut map = with_job(&[Created, Running, Restarting, Running]);
    assert_eq!(map.head(job(1)).restarts, 1);
    assert_eq!(map.head(job(1)).status_times, [(Initializing, 10), (Created, 20), (Running, 20), (Restarting, 20)]);
    assert_eq!(map.run(set(job(1), Running)), Outcome::Ignored);
    for to in [Initializing, Finished, Failed, Canceled] {
        assert_eq!(map.run(set(job(1), to)), Outcome::IllegalStatus { job: job(1), from: Running, to });
    }
    assert_eq!(map.run(set(job(7), Running)), Outcome::UnknownJob(job(7)));
    map.run(Command::SetStatus { job: job(1), status: Failing, at_ms: 40, failure: Some("why".to_owned()) });
    map.run(end_command(job(1), Failed));
    assert_eq!(map.head(job(1)).failure.as_deref(), Some("why"));
}

#[test]
fn a_job_ends_once_and_drops_its_executions() {
    use JobStatus::*;
    let mut map = with_job(&[Created, Running]);
    assert_eq!(map.run(place(job(1), &[attempt(0, 0), attempt(1, 0)])), Outcome::Done);
    assert_eq!(
        map.run(end_command(job(1), Running)),
        Outcome::IllegalStatus { job: job(1), from: Running, to: Running }
    );
    assert_eq!(map.run(end_command(job(1), Finished)), Outcome::Done);
    assert_eq!(map.head(job(1)).ended_ms, Some(30));
    assert!(map.executions(job(1)).is_empty());
    let ended = Outcome::AlreadyEnded(job(1), Finished);
    assert_eq!(map.run(end_command(job(1), Failed)), ended);
    assert_eq!(map.run(set(job(1), Running)), ended);
    assert_eq!(map.run(place(job(1), &[attempt(0, 1)])), ended);
    assert_eq!(map.run(Command::FinishExecutions { job: job(1), attempts: vec![attempt(0, 0)] }), ended);
    assert_eq!(map.head(job(1)).status, Finished);
}

#[test]
fn placements_replace_older_attempts_and_finished_ones_are_remembered() {
    let mut map = with_job(&[JobStatus::Created]);
    map.run(place(job(1), &[attempt(0, 0), attempt(1, 0)]));
    map.run(place(job(1), &[attempt(1, 1)]));
    map.run(Command::FinishExecutions { job: job(1), attempts: vec![attempt(0, 0), attempt(1, 0), attempt(9, 0)] });
    let state: Vec<_> =
        map.executions(job(1)).into_iter().map(|placed| (placed.record.attempt, placed.finished)).collect();
    assert_eq!(state, [(attempt(0, 0), true), (attempt(1, 1), false)]);
    assert_eq!(map.run(place(job(2), &[attempt(0, 0)])), Outcome::UnknownJob(job(2)));
}

#[test]
fn a_cancel_is_answered_alike_when_it_is_said_again() {
    use JobStatus::*;
    let cancel = |n| Command::CancelJob { job: job(1), request: request(n), at_ms: 25 };
    let mut map = Map::default();
    assert_eq!(map.run(cancel(5)), Outcome::UnknownJob(job(1)));
    let mut map = with_job(&[Created, Running]);
    assert_eq!(map.run(cancel(5)), Outcome::Done);
    assert_eq!((map.head(job(1)).status, map.head(job(1)).desired), (Cancelling, DesiredState::Canceled));
    assert_eq!(map.run(cancel(6)), Outcome::Done);
    assert_eq!(map.run(end_command(job(1), Canceled)), Outcome::Done);
    assert_eq!((map.run(cancel(5)), map.run(cancel(6))), (Outcome::Done, Outcome::Done));
    assert_eq!(map.run(cancel(7)), Outcome::AlreadyEnded(job(1), Canceled), "it came too late");
    let forgotten = Outcome::Forgotten { jobs: vec![job(1)], artifacts: vec![DIGEST] };
    assert_eq!(map.run(Command::ForgetJobs { jobs: vec![job(1)] }), forgotten);
    assert!(map.entries.is_empty(), "{:?}", map.entries.keys());
}

#[test]
fn the_first_and_the_newest_cancels_of_a_job_are_remembered() {
    use JobStatus::*;
    let cancel = |n| Command::CancelJob { job: job(1), request: request(n), at_ms: 25 };
    let mut map = with_job(&[Created, Running]);
    let newest = 10 + CANCELS_MAX as u8;
    for n in 9..=newest {
        assert_eq!(map.run(cancel(n)), Outcome::Done);
        assert_eq!(map.run(cancel(n)), Outcome::Done, "once is enough");
    }
    map.run(end_command(job(1), Canceled));
    let late = Outcome::AlreadyEnded(job(1), Canceled);
    for (n, expected) in [(9, Outcome::Done), (10, late), (11, Outcome::Done), (newest, Outcome::Done)] {
        assert_eq!(map.run(cancel(n)), expected, "{n}");
    }
}

#[test]
fn forgetting_drops_ended_jobs_and_artifacts_nobody_uses() {
    use JobStatus::*;
    let mut map = with_job(&[Created, Running]);
    map.run(submit_command(job(2), request(2)));
    let forget = |jobs: &[u8]| Command::ForgetJobs { jobs: jobs.iter().map(|n| job(*n)).collect() };
    assert_eq!(map.run(forget(&[1, 2, 3])), Outcome::Forgotten { jobs: vec![], artifacts: vec![] });
    map.run(end_command(job(1), Finished));
    assert_eq!(map.run(forget(&[1, 1])), Outcome::Forgotten { jobs: vec![job(1)], artifacts: vec![] });
    assert_eq!(map.run(submit_command(job(1), request(1))), Outcome::Accepted(job(1)));
    map.run(end_command(job(1), Canceled));
    map.run(end_command(job(2), Failed));
    let both = Outcome::Forgotten { jobs: vec![job(1), job(2)], artifacts: vec![DIGEST] };
    assert_eq!(map.run(forget(&[2, 1])), both);
    assert!(map.entries.is_empty(), "{:?}", map.entries.keys());
}

#[test]
fn malformed_commands_are_refused() {
    let good = submit_command(job(1), request(1)).encode();
    assert!(Command::decode(&[]).is_err());
    assert!(Command::decode(&[7, 1]).unwrap_err().to_string().contains("version 7"));
    for cut in 0..good.len() {
        assert!(Command::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let mut long = good.clone();
    long.push(0);
    assert!(Command::decode(&long).is_err());
}

#[test]
fn commands_keep_their_bytes() {
    let hex = |command: Command| command.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let cluster = ClusterId::from_bytes([1; 16]);
    assert_eq!(hex(Command::Bootstrap { cluster }), format!("0100{}", "01".repeat(16)));
    assert_eq!(hex(Command::Lead { leader: JobManagerId(2), at_ms: 300 }), "010102ac02");
    assert_eq!(
        hex(Command::RecordTakeOver { epoch: LeaderEpoch(2), take_over: take_over(20) }),
        "010a020201141e00012800020100"
    );
    assert_eq!(
        hex(Command::ForgetJobs { jobs: vec![job(3)] }),
        format!("010901{}", "03".repeat(16)),
        "variants keep their numbers"
    );
}

fn failures(job: JobId, numbers: &[u64], then: Option<Command>) -> Command {
    let root = |number: &u64| JobException {
        at_ms: *number,
        kind: ExceptionKind::TaskFailed,
        text: format!("failure {number}"),
        task: None,
    };
    let entries = numbers.iter().map(|number| ExceptionEntry::new(*number, root(number))).collect();
    let memory = RestartMemory { restarts: numbers.len() as u32, ..RestartMemory::default() };
    Command::RecordExceptions { job, news: JobExceptions { entries, memory }, kept: 2, then: then.map(Box::new) }
}

fn remembered(map: &Map, job: JobId) -> Option<Vec<u64>> {
    let exceptions = read::<kv::exceptions::Exceptions>(map, &job).unwrap();
    exceptions.map(|exceptions| exceptions.entries.iter().map(|entry| entry.number).collect())
}

/// One entry holds a restart and its cause: a new leader finds both or neither.
#[test]
fn failures_are_remembered_with_what_follows_from_them() {
    let mut map = with_job(&[JobStatus::Created, JobStatus::Running]);
    let restarting = set(job(1), JobStatus::Restarting);
    assert_eq!(map.run(failures(job(1), &[0], Some(restarting.clone()))), Outcome::Done);
    assert_eq!((map.head(job(1)).status, map.head(job(1)).restarts), (JobStatus::Restarting, 1));
    assert_eq!(map.run(failures(job(1), &[1], Some(restarting))), Outcome::Ignored, "of the status it is no news");
    assert_eq!(remembered(&map, job(1)), Some(vec![0, 1]));
    assert_eq!(map.run(failures(job(1), &[2], None)), Outcome::Done);
    assert_eq!(remembered(&map, job(1)), Some(vec![1, 2]), "the oldest goes");
    let ended = end_command(job(1), JobStatus::Failed);
    assert_eq!(map.run(failures(job(1), &[3], Some(ended))), Outcome::Done);
    assert_eq!(map.head(job(1)).status, JobStatus::Failed);
    assert_eq!(remembered(&map, job(1)), Some(vec![2, 3]));
}

#[test]
fn of_a_job_that_has_ended_or_is_unknown_no_failure_is_added_and_forgetting_it_forgets_them() {
    let mut map = with_job(&[JobStatus::Created]);
    map.run(failures(job(1), &[0], Some(end_command(job(1), JobStatus::Failed))));
    let again = failures(job(1), &[1], Some(end_command(job(1), JobStatus::Canceled)));
    assert_eq!(map.run(again), Outcome::AlreadyEnded(job(1), JobStatus::Failed));
    assert_eq!(map.run(failures(job(1), &[1], None)), Outcome::AlreadyEnded(job(1), JobStatus::Failed));
    assert_eq!(remembered(&map, job(1)), Some(vec![0]));
    assert_eq!(map.run(failures(job(2), &[0], None)), Outcome::UnknownJob(job(2)));
    assert_eq!(remembered(&map, job(2)), None);
    map.run(Command::ForgetJobs { jobs: vec![job(1)] });
    assert_eq!(remembered(&map, job(1)), None);
}
