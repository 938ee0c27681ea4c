//! Checkpoints: each row of the diagram in `apply/checkpoint.rs`, and what comes twice or too late.

use perennial_types::{CheckpointId, SnapshotKind};

use super::*;
use crate::record::{CheckpointHead, CompletedCheckpoint, DiscardedCheckpoint, RestoredFrom};

fn ids(of: &[u64]) -> Vec<CheckpointId> {
    of.iter().copied().map(CheckpointId).collect()
}

fn reserve_kind(n: u64, kind: SnapshotKind, directory: &str, deleted: &[u64]) -> Command {
    Command::ReserveCheckpoint {
        job: job(1),
        checkpoint: CheckpointId(n),
        kind,
        directory: directory.to_owned(),
        request: None,
        deleted: ids(deleted),
        at_ms: n,
    }
}

fn reserve(n: u64) -> Command {
    reserve_kind(n, SnapshotKind::Checkpoint, "/c", &[])
}

fn reserve_savepoint(n: u64) -> Command {
    reserve_kind(n, SnapshotKind::Savepoint, &format!("/s-{n}"), &[])
}

fn complete_kind(n: u64, kind: SnapshotKind, location: String, retained: u32) -> Command {
    let completed = CompletedCheckpoint {
        id: CheckpointId(n),
        kind,
        started_ms: n,
        at_ms: n + 1,
        location,
        bytes: 7,
        metadata_crc: 8,
        inline: Some(vec![9]),
    };
    Command::CompleteCheckpoint { job: job(1), completed, retained }
}

fn complete(n: u64, retained: u32) -> Command {
    complete_kind(n, SnapshotKind::Checkpoint, format!("/c/chk-{n}"), retained)
}

fn complete_savepoint(n: u64) -> Command {
    complete_kind(n, SnapshotKind::Savepoint, format!("/s-{n}"), 1)
}

fn abort(of: &[u64]) -> Command {
    Command::AbortCheckpoint { job: job(1), checkpoints: ids(of), reason: "why".to_owned() }
}

fn unknown(n: u64) -> Outcome {
    Outcome::CheckpointUnknown(CheckpointId(n))
}

fn forget() -> Command {
    Command::ForgetJobs { jobs: vec![job(1)] }
}

fn running() -> Map {
    with_job(&[JobStatus::Created, JobStatus::Running])
}

impl Map {
    fn checkpoint_head(&self) -> CheckpointHead {
        read::<kv::checkpoint_head::CheckpointHeads>(self, &job(1)).unwrap().unwrap_or_default()
    }

    fn discarded(&self) -> Vec<DiscardedCheckpoint> {
        list::<kv::discarded::Discarded>(self, job(1).as_bytes()).unwrap()
    }

    /// Runs commands one after the other, each with the outcome it must have.
    fn run_all(&mut self, commands: impl IntoIterator<Item = (Command, Outcome)>) {
        for (command, expect) in commands {
            assert_eq!(self.run(command.clone()), expect, "{command:?}");
        }
    }

    /// Asserts the numbers of what is in flight, completed and discarded.
    fn check(&self, in_flight: &[u64], completed: &[u64], discarded: &[u64]) {
        let reserved = self.checkpoint_head().in_flight;
        let checkpoints = list::<kv::checkpoint::Checkpoints>(self, job(1).as_bytes()).unwrap();
        let found: [Vec<CheckpointId>; 3] = [
            reserved.iter().map(|reserved| reserved.id).collect(),
            checkpoints.iter().map(|completed| completed.id).collect(),
            self.discarded().iter().map(|discarded| discarded.id).collect(),
        ];
        assert_eq!(found, [ids(in_flight), ids(completed), ids(discarded)], "in flight, completed, discarded");
    }
}

#[test]
fn a_number_is_reserved_once_and_the_next_is_one_more() {
    let taken = |next| Outcome::CheckpointIdTaken { next: CheckpointId(next) };
    let mut map = running();
    map.run_all([
        (reserve(0), taken(1)),
        (reserve(2), taken(1)),
        (reserve(1), Outcome::Done),
        (reserve(1), Outcome::Ignored),
        (reserve(3), taken(2)),
        (reserve(2), Outcome::Done),
        (reserve(1), Outcome::Ignored),
        (abort(&[2]), Outcome::Done),
        (complete(1, 1), Outcome::Done),
        (reserve(1), taken(3)),
        (reserve(2), taken(3)),
        (reserve(3), Outcome::Done),
    ]);
    map.check(&[3], &[1], &[2]);
    assert_eq!(map.checkpoint_head().counter, CheckpointId(3));
}

#[test]
fn the_first_checkpoint_names_the_directory_of_all() {
    let mut map = running();
    map.run(reserve_savepoint(1));
    assert_eq!(map.checkpoint_head().directory, "");
    map.run(reserve(2));
    map.run(reserve_kind(3, SnapshotKind::Checkpoint, "/elsewhere", &[]));
    assert_eq!(map.checkpoint_head().directory, "/c");
    let places: Vec<_> = map.checkpoint_head().in_flight.iter().map(|reserved| reserved.location()).collect();
    assert_eq!(places, ["/s-1", "/c/chk-2", "/elsewhere/chk-3"]);
}

#[test]
fn a_checkpoint_completes_once() {
    let mut map = running();
    map.run_all([
        (complete(1, 1), unknown(1)),
        (reserve(1), Outcome::Done),
        (complete(2, 1), unknown(2)),
        (complete(1, 1), Outcome::Done),
        (complete(1, 1), Outcome::Ignored),
        (abort(&[1]), Outcome::Ignored),
    ]);
    map.check(&[], &[1], &[]);
}

/// A leader is deposed with a completion on its way; its successor aborts.
#[test]
fn what_was_aborted_never_completes() {
    let mut map = running();
    map.run_all([
        (abort(&[1]), Outcome::Ignored),
        (reserve(1), Outcome::Done),
        (reserve(2), Outcome::Done),
        (abort(&[1, 7]), Outcome::Done),
        (abort(&[1]), Outcome::Ignored),
        (complete(1, 1), unknown(1)),
    ]);
    map.check(&[2], &[], &[1]);
    assert_eq!(map.discarded(), [DiscardedCheckpoint { id: CheckpointId(1), location: "/c/chk-1".to_owned() }]);
    map.run_all([(reserve_kind(3, SnapshotKind::Checkpoint, "/c", &[1]), Outcome::Done), (complete(1, 1), unknown(1))]);
    map.check(&[2, 3], &[], &[]);
}

#[test]
fn a_completed_checkpoint_subsumes_older_ones_but_no_savepoint() {
    let mut map = running();
    for command in [reserve(1), reserve_savepoint(2), reserve_savepoint(3), reserve(4), reserve(5), reserve(6)] {
        assert_eq!(map.run(command), Outcome::Done);
    }
    map.run_all([(complete_savepoint(3), Outcome::Done)]);
    map.check(&[2, 4, 5, 6], &[3], &[1]);
    map.run_all([(complete(5, 1), Outcome::Done), (complete(4, 1), unknown(4))]);
    map.check(&[2, 6], &[3, 5], &[1, 4]);
    map.run_all([(complete(6, 1), Outcome::Done), (complete_savepoint(2), Outcome::Done)]);
    map.check(&[], &[2, 3, 6], &[1, 4, 5]);
}

#[test]
fn as_many_checkpoints_are_kept_as_are_wanted_and_the_newest_always() {
    let mut map = running();
    for n in 1..=4 {
        map.run_all([(reserve(n), Outcome::Done), (complete(n, 3), Outcome::Done)]);
    }
    map.check(&[], &[2, 3, 4], &[1]);
    map.run_all([(reserve(5), Outcome::Done), (complete(5, 2), Outcome::Done)]);
    map.check(&[], &[4, 5], &[1, 2, 3]);
    map.run_all([(reserve(6), Outcome::Done), (complete(6, 0), Outcome::Done)]);
    map.check(&[], &[6], &[1, 2, 3, 4, 5]);
    let places: Vec<_> = map.discarded().into_iter().map(|discarded| discarded.location).collect();
    assert_eq!(places, ["/c/chk-1", "/c/chk-2", "/c/chk-3", "/c/chk-4", "/c/chk-5"]);
}

#[test]
fn deleted_files_are_told_with_the_next_number_and_only_discarded_ones_count() {
    let mut map = running();
    map.run_all([
        (reserve(1), Outcome::Done),
        (abort(&[1]), Outcome::Done),
        (reserve(2), Outcome::Done),
        (complete(2, 1), Outcome::Done),
        (reserve(3), Outcome::Done),
        (abort(&[3]), Outcome::Done),
    ]);
    map.check(&[], &[2], &[1, 3]);
    let refused = Outcome::CheckpointIdTaken { next: CheckpointId(4) };
    map.run_all([(reserve_kind(3, SnapshotKind::Checkpoint, "/c", &[1]), refused)]);
    map.check(&[], &[2], &[1, 3]);
    map.run_all([(reserve_kind(4, SnapshotKind::Checkpoint, "/c", &[1, 2, 9]), Outcome::Done)]);
    map.check(&[4], &[2], &[3]);
}

#[test]
fn the_end_of_a_job_discards_its_checkpoints_and_leaves_its_savepoints() {
    use JobStatus::*;
    for status in [Finished, Canceled, Failed] {
        let mut map = running();
        map.run_all([
            (reserve_savepoint(1), Outcome::Done),
            (complete_savepoint(1), Outcome::Done),
            (reserve(2), Outcome::Done),
            (complete(2, 1), Outcome::Done),
            (reserve(3), Outcome::Done),
            (reserve_savepoint(4), Outcome::Done),
            (end_command(job(1), status), Outcome::Done),
        ]);
        map.check(&[], &[1], &[2, 3, 4]);
        let ended = || Outcome::AlreadyEnded(job(1), status);
        map.run_all([(complete(3, 1), ended()), (reserve(5), ended()), (abort(&[3]), ended())]);
        map.check(&[], &[1], &[2, 3, 4]);
        assert_eq!(map.checkpoint_head().counter, CheckpointId(4));
    }
}

#[test]
fn a_job_is_forgotten_with_its_checkpoints() {
    let mut map = running();
    map.run_all([
        (reserve_savepoint(1), Outcome::Done),
        (complete_savepoint(1), Outcome::Done),
        (reserve(2), Outcome::Done),
        (end_command(job(1), JobStatus::Finished), Outcome::Done),
    ]);
    map.check(&[], &[1], &[2]);
    map.run_all([(forget(), Outcome::Forgotten { jobs: vec![job(1)], artifacts: vec![DIGEST] })]);
    assert!(map.entries.is_empty(), "{:?}", map.entries.keys());
}

#[test]
fn checkpoints_of_one_job_are_none_of_another() {
    let mut map = running();
    map.run_all([(submit_command(job(2), request(2)), Outcome::Accepted(job(2))), (reserve(1), Outcome::Done)]);
    let other = Command::AbortCheckpoint { job: job(2), checkpoints: ids(&[1]), reason: String::new() };
    let nobodys = Command::AbortCheckpoint { job: job(7), checkpoints: ids(&[1]), reason: String::new() };
    map.run_all([
        (other, Outcome::Ignored),
        (nobodys, Outcome::UnknownJob(job(7))),
        (end_command(job(2), JobStatus::Failed), Outcome::Done),
        (complete(1, 1), Outcome::Done),
    ]);
    map.check(&[], &[1], &[]);
}

#[test]
fn commands_keep_their_bytes() {
    let hex = |command: Command| command.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let id = "01".repeat(16);
    let reserve = reserve_kind(300, SnapshotKind::Suspend { drain: true }, "/s", &[2, 3]);
    assert_eq!(hex(reserve), format!("010b{id}ac020201022f7300020203ac02"));
    assert_eq!(hex(complete(3, 2)), format!("010c{id}03000304082f632f63686b2d33070801010902"));
    assert_eq!(hex(abort(&[3, 4])), format!("010d{id}02030403776879"));
}

/// A job that starts from `restored`, running.
fn restored_from(kind: SnapshotKind) -> Map {
    let Command::CompleteCheckpoint { completed, .. } = complete_kind(41, kind, "/other/place".to_owned(), 1) else {
        unreachable!("that is what it makes");
    };
    let Command::SubmitJob { request, job, artifact, plan, graph, at_ms, .. } = submit_command(job(1), request(1))
    else {
        unreachable!("that is what it makes");
    };
    let mut map = Map::default();
    map.run(add_artifact_command(DIGEST, &[1]));
    map.run(Command::SubmitJob { request, job, artifact, plan, graph, restored: Some(Box::new(completed)), at_ms });
    map
}

#[test]
fn a_job_goes_on_with_the_numbers_of_what_it_is_started_from() {
    let mut map = restored_from(SnapshotKind::Savepoint);
    map.check(&[], &[41], &[]);
    let from = RestoredFrom { checkpoint: CheckpointId(41), location: "/other/place".to_owned() };
    assert_eq!(map.checkpoint_head().restored, Some(from));
    map.run_all([
        (reserve(1), Outcome::CheckpointIdTaken { next: CheckpointId(42) }),
        (reserve(42), Outcome::Done),
        (complete(42, 1), Outcome::Done),
    ]);
    map.check(&[], &[41, 42], &[]);
    map.run(end_command(job(1), JobStatus::Finished));
    map.check(&[], &[41], &[42]);
}

#[test]
fn a_job_that_claims_what_it_is_started_from_discards_it_like_its_own() {
    let mut map = restored_from(SnapshotKind::Checkpoint);
    map.run_all([(reserve(42), Outcome::Done), (complete(42, 1), Outcome::Done)]);
    map.check(&[], &[42], &[41]);
    assert_eq!(map.discarded()[0].location, "/other/place");
}
