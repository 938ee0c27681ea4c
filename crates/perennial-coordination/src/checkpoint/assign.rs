//! Which of a checkpoint's state goes to which subtask.
//!
//! State belongs to operators: it is found under their ids, whatever vertex they are chained into, then and now. Keyed state goes
//! where its key groups go now; the elements of lists are dealt out in turn, unless there are as many subtasks as before:
//! then each gets its own.

use std::collections::BTreeMap;

use perennial_types::{
    CheckpointId, CheckpointMetadata, ExecutionAttemptId, JobGraph, JobVertex, KeyGroupRange, MaxParallelism,
    OperatorId, OperatorRestore, OperatorSnapshot, StateFile, TaskRestore, VertexSnapshot,
};

use super::StoredCheckpoint;

/// Why a checkpoint cannot be restored into a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotRestore {
    /// The job has no such subtask.
    #[error("checkpoint {checkpoint} cannot be restored into {attempt}, which the job does not have")]
    UnknownTask {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Who asked.
        attempt: ExecutionAttemptId,
    },
    /// There is state for which the job has no operator.
    #[error(
        "it holds state of {}, which the job does not have; give the operators their uids back, or leave their state out with \
         --allowNonRestoredState",
        named(operators)
    )]
    NoSuchOperators {
        /// Uids of the operators.
        operators: Vec<String>,
    },
    /// The key groups are fewer than the subtasks.
    #[error(
        "`{vertex}` has parallelism {parallelism}, but its state was taken with max parallelism {max_parallelism}; lower the \
         parallelism to that"
    )]
    TooParallel {
        /// Name of the vertex.
        vertex: String,
        /// Subtasks now.
        parallelism: u32,
        /// Key groups then.
        max_parallelism: u32,
    },
    /// The user chose another number of key groups.
    #[error(
        "`{vertex}` is set to max parallelism {wanted}, but its state was taken with {taken}, which holds for good; set {taken}, or \
         none"
    )]
    OtherMaxParallelism {
        /// Name of the vertex.
        vertex: String,
        /// Key groups then.
        taken: u32,
        /// Key groups now.
        wanted: u32,
    },
    /// Operators of one vertex were taken with different numbers of key groups.
    #[error(
        "operators of `{vertex}` were taken with different max parallelism, {first} and {second}; do not chain them: \
         start_new_chain"
    )]
    MixedMaxParallelism {
        /// Name of the vertex.
        vertex: String,
        /// Of one operator.
        first: u32,
        /// Of another.
        second: u32,
    },
    /// The metadata makes no sense.
    #[error("its metadata says max parallelism {0}, which cannot be")]
    Nonsense(u32),
}

fn named(operators: &[String]) -> String {
    let operators: Vec<String> = operators.iter().map(|uid| format!("`{uid}`")).collect();
    operators.join(", ")
}

/// What becomes of the state of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorFit {
    /// Which.
    pub operator: OperatorId,
    /// Its uid.
    pub uid: String,
    /// Subtasks it was taken of; none of an operator that is new.
    pub taken: Option<u32>,
    /// Subtasks it goes to; none of an operator that the job does not have.
    pub wanted: Option<u32>,
}

/// Every operator of the job, in its order, then those that only the checkpoint has. Operators without state on either side count
/// as new, or are left out.
pub fn compare(metadata: &CheckpointMetadata, graph: &JobGraph) -> Vec<OperatorFit> {
    let mut taken: BTreeMap<OperatorId, (&VertexSnapshot, String)> = BTreeMap::new();
    for vertex in &metadata.vertices {
        for operator in vertex.subtasks.iter().flat_map(|subtask| &subtask.operators) {
            let uid = vertex.operators.iter().find(|info| info.id == operator.operator);
            let uid = uid.map_or_else(|| operator.operator.to_string(), |info| info.uid.clone());
            taken.insert(operator.operator, (vertex, uid));
        }
    }
    let mut fits = Vec::new();
    for vertex in &graph.vertices {
        for operator in &vertex.operators {
            let taken = taken.remove(&operator.id).map(|(vertex, _)| vertex.subtasks.len() as u32);
            let (uid, wanted) = (operator.uid.clone(), Some(vertex.parallelism));
            fits.push(OperatorFit { operator: operator.id, uid, taken, wanted });
        }
    }
    fits.extend(taken.into_iter().map(|(operator, (vertex, uid))| {
        let taken = Some(vertex.subtasks.len() as u32);
        OperatorFit { operator, uid, taken, wanted: None }
    }));
    fits
}

/// Makes sure that a job can be started from a checkpoint, and takes over the key groups it was taken with.
///
/// The number of key groups is part of the state: one that the user chose differently is refused, one that was derived gives
/// way.
pub fn adapt(
    metadata: &CheckpointMetadata,
    graph: &mut JobGraph,
    allow_non_restored: bool,
) -> Result<(), CannotRestore> {
    let fits = compare(metadata, graph);
    let left_out: Vec<String> = fits.into_iter().filter(|fit| fit.wanted.is_none()).map(|fit| fit.uid).collect();
    if !left_out.is_empty() && !allow_non_restored {
        return Err(CannotRestore::NoSuchOperators { operators: left_out });
    }
    for vertex in &mut graph.vertices {
        adapt_vertex(metadata, vertex)?;
    }
    Ok(())
}

fn adapt_vertex(metadata: &CheckpointMetadata, vertex: &mut JobVertex) -> Result<(), CannotRestore> {
    let name = || vertex.name.clone();
    let sources = vertex.operators.iter().filter_map(|operator| taken_with(metadata, operator.id));
    let mut counts = sources.map(|taken| taken.max_parallelism);
    let Some(taken) = counts.next() else { return Ok(()) };
    if let Some(second) = counts.find(|count| *count != taken) {
        return Err(CannotRestore::MixedMaxParallelism { vertex: name(), first: taken, second });
    }
    let count = MaxParallelism::new(taken).ok_or(CannotRestore::Nonsense(taken))?;
    if vertex.parallelism > taken {
        let parallelism = vertex.parallelism;
        return Err(CannotRestore::TooParallel { vertex: name(), parallelism, max_parallelism: taken });
    }
    if vertex.max_parallelism_is_set && vertex.max_parallelism != count {
        let wanted = vertex.max_parallelism.get();
        return Err(CannotRestore::OtherMaxParallelism { vertex: name(), taken, wanted });
    }
    vertex.max_parallelism = count;
    Ok(())
}

/// The vertex that an operator with state was part of.
fn taken_with(metadata: &CheckpointMetadata, operator: OperatorId) -> Option<&VertexSnapshot> {
    metadata.vertices.iter().find(|vertex| snapshots(vertex, operator).next().is_some())
}

/// What the subtasks of a vertex have written of an operator, each with the number of its subtask.
fn snapshots(vertex: &VertexSnapshot, operator: OperatorId) -> impl Iterator<Item = (usize, &OperatorSnapshot)> {
    let subtasks = vertex.subtasks.iter().enumerate();
    subtasks.filter_map(move |(subtask, of)| Some((subtask, of.operators.iter().find(|at| at.operator == operator)?)))
}

/// What an execution starts from, operator by operator.
///
/// Every operator that the checkpoint knows gets a state, be it an empty one, so that nothing ever starts anew in place of going
/// on. Fails when the checkpoint does not fit the graph.
pub fn assign(
    of: &StoredCheckpoint,
    graph: &JobGraph,
    attempt: ExecutionAttemptId,
) -> Result<TaskRestore, CannotRestore> {
    let StoredCheckpoint { metadata, location, .. } = of;
    let checkpoint = metadata.checkpoint;
    let vertex = graph.vertices.iter().find(|vertex| vertex.id == attempt.vertex);
    let vertex = vertex.filter(|vertex| attempt.subtask < vertex.parallelism);
    let vertex = vertex.ok_or(CannotRestore::UnknownTask { checkpoint, attempt })?;
    adapt_vertex(metadata, &mut JobVertex { max_parallelism_is_set: true, ..vertex.clone() })?;
    let operators = vertex.operators.iter().filter_map(|operator| {
        let taken = taken_with(metadata, operator.id)?;
        Some(OperatorRestore {
            operator: operator.id,
            keyed: keyed(taken, operator.id, vertex, attempt.subtask, location),
            list: list(taken, operator.id, vertex.parallelism, attempt.subtask),
            union_list: union_list(taken, operator.id),
            broadcast: broadcast(taken, operator.id, attempt.subtask),
        })
    });
    Ok(TaskRestore {
        checkpoint,
        operators: operators.collect(),
        finished: had_finished(metadata, vertex, attempt.subtask),
    })
}

/// The files with key groups of this subtask, each with its place.
fn keyed(
    taken: &VertexSnapshot,
    operator: OperatorId,
    vertex: &JobVertex,
    subtask: u32,
    location: &str,
) -> Vec<(String, StateFile)> {
    let mine = KeyGroupRange::of_subtask(subtask, vertex.max_parallelism, vertex.parallelism);
    let meets =
        |file: &&StateFile| file.key_groups.is_none_or(|groups| groups.first <= mine.last && mine.first <= groups.last);
    let files = snapshots(taken, operator).flat_map(|(_, snapshot)| &snapshot.keyed);
    files.filter(meets).map(|file| (file.location(location), file.clone())).collect()
}

/// The elements of this subtask: its own, or every so many-th of all when there were more or fewer subtasks.
fn list(taken: &VertexSnapshot, operator: OperatorId, parallelism: u32, subtask: u32) -> Vec<Vec<u8>> {
    if taken.subtasks.len() == parallelism as usize {
        let own = snapshots(taken, operator).find(|(at, _)| *at == subtask as usize);
        return own.map(|(_, snapshot)| snapshot.list.clone()).unwrap_or_default();
    }
    let all = snapshots(taken, operator).flat_map(|(_, snapshot)| &snapshot.list);
    all.skip(subtask as usize).step_by(parallelism as usize).cloned().collect()
}

/// The elements of all subtasks.
fn union_list(taken: &VertexSnapshot, operator: OperatorId) -> Vec<Vec<u8>> {
    snapshots(taken, operator).flat_map(|(_, snapshot)| &snapshot.union_list).cloned().collect()
}

/// What all subtasks had alike, from the subtask of the same number if it had it, else from any.
fn broadcast(taken: &VertexSnapshot, operator: OperatorId, subtask: u32) -> Option<Vec<u8>> {
    let having = || snapshots(taken, operator).filter_map(|(at, snapshot)| Some((at, snapshot.broadcast.as_ref()?)));
    let own = having().find(|(at, _)| *at == subtask as usize);
    own.or_else(|| having().next()).map(|(_, broadcast)| broadcast.clone())
}

/// Whether the input of a subtask had ended: its own, or that of all subtasks when there were more or fewer.
fn had_finished(metadata: &CheckpointMetadata, vertex: &JobVertex, subtask: u32) -> bool {
    let head = vertex.operators.first().map(|operator| operator.id);
    let holds_head = |taken: &&VertexSnapshot| taken.operators.iter().any(|operator| Some(operator.id) == head);
    let by_id = || metadata.vertices.iter().find(|taken| taken.vertex == vertex.id);
    let Some(taken) = metadata.vertices.iter().find(holds_head).or_else(by_id) else { return false };
    if taken.subtasks.len() == vertex.parallelism as usize {
        return taken.subtasks.get(subtask as usize).is_some_and(|own| own.finished);
    }
    !taken.subtasks.is_empty() && taken.subtasks.iter().all(|subtask| subtask.finished)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use perennial_types::{JobId, OperatorInfo, SnapshotKind, TaskSnapshot};

    use super::*;
    use crate::job::testing::graph;

    fn operator(uid: &str) -> OperatorInfo {
        OperatorInfo { id: OperatorId::of_uid(uid), uid: uid.to_owned(), name: uid.to_owned(), state_version: 0 }
    }

    /// A job of these vertices, each with its parallelism and the uids of its chain.
    fn job(vertices: &[(u32, &[&str])]) -> JobGraph {
        let named: Vec<_> = vertices.iter().map(|(parallelism, uids)| (uids[0], *parallelism, "default")).collect();
        let mut graph = graph(&named);
        for (vertex, (_, uids)) in graph.vertices.iter_mut().zip(vertices) {
            vertex.operators = uids.iter().map(|uid| operator(uid)).collect();
        }
        graph
    }

    /// A checkpoint of it: subtask `s` of each operator has a file `uid-s` and the elements `s0`, `s1`, but for those that
    /// have finished.
    fn taken(graph: &JobGraph, stateless: &[&str], finished: &[(usize, usize)]) -> StoredCheckpoint {
        let vertices = graph.vertices.iter().enumerate().map(|(at, vertex)| VertexSnapshot {
            vertex: vertex.id,
            name: vertex.name.clone(),
            operators: vertex.operators.clone(),
            max_parallelism: vertex.max_parallelism.get(),
            subtasks: (0..vertex.parallelism)
                .map(|subtask| {
                    if finished.contains(&(at, subtask as usize)) {
                        return TaskSnapshot { finished: true, ..TaskSnapshot::default() };
                    }
                    let groups = KeyGroupRange::of_subtask(subtask, vertex.max_parallelism, vertex.parallelism);
                    let with_state =
                        vertex.operators.iter().filter(|operator| !stateless.contains(&operator.uid.as_str()));
                    let operators = with_state.map(|operator| OperatorSnapshot {
                        operator: operator.id,
                        keyed: vec![StateFile {
                            name: format!("{}-{subtask}", operator.uid),
                            shared: false,
                            bytes: 10,
                            crc: 3,
                            key_groups: Some(groups),
                        }],
                        list: (0..2).map(|element| vec![subtask as u8, element]).collect(),
                        union_list: vec![vec![subtask as u8, 9]],
                        // The first subtask has ended, say.
                        broadcast: (subtask > 0).then(|| vec![subtask as u8]),
                    });
                    TaskSnapshot { operators: operators.collect(), bytes: 10, ..TaskSnapshot::default() }
                })
                .collect(),
        });
        let metadata = CheckpointMetadata {
            job: JobId::from_bytes([1; 16]),
            checkpoint: CheckpointId(3),
            kind: SnapshotKind::Savepoint,
            at_ms: 9,
            vertices: vertices.collect(),
        };
        let (encoded, location) = (Arc::from([]), "file:///c".to_owned());
        StoredCheckpoint { metadata, started_ms: 0, encoded, crc: 0, location }
    }

    /// What a subtask of the first vertex gets of its first operator: files, elements, and whether it has finished.
    fn share(of: &StoredCheckpoint, graph: &JobGraph, subtask: u32) -> (Vec<String>, Vec<Vec<u8>>, bool) {
        let attempt = ExecutionAttemptId { vertex: graph.vertices[0].id, subtask, attempt: 7 };
        let restore = assign(of, graph, attempt).unwrap();
        assert_eq!(restore.checkpoint, CheckpointId(3));
        let first = restore.operators.first();
        let files = first.into_iter().flat_map(|first| &first.keyed).map(|(at, file)| {
            assert_eq!(*at, format!("file:///c/{}", file.name));
            file.name.clone()
        });
        (files.collect(), first.map(|first| first.list.clone()).unwrap_or_default(), restore.finished)
    }

    #[test]
    fn as_many_subtasks_get_their_own_state_each() {
        let graph = job(&[(2, &["count"])]);
        let stored = taken(&graph, &[], &[(0, 1)]);
        assert_eq!(share(&stored, &graph, 0), (vec!["count-0".to_owned()], vec![vec![0, 0], vec![0, 1]], false));
        let attempt = ExecutionAttemptId { vertex: graph.vertices[0].id, subtask: 1, attempt: 0 };
        let finished = assign(&stored, &graph, attempt).unwrap();
        assert!(finished.finished);
        let [of_count] = finished.operators.as_slice() else { panic!("a known operator never starts anew") };
        assert!(of_count.operator == operator("count").id && of_count.keyed.is_empty() && of_count.list.is_empty());
    }

    #[test]
    fn every_subtask_gets_the_union_of_all_and_a_copy_of_what_all_have_alike() {
        let two = job(&[(2, &["count"])]);
        let stored = taken(&two, &[], &[]);
        for parallelism in 1..=3 {
            let graph = job(&[(parallelism, &["count"])]);
            for subtask in 0..parallelism {
                let attempt = ExecutionAttemptId { vertex: graph.vertices[0].id, subtask, attempt: 0 };
                let restore = assign(&stored, &graph, attempt).unwrap().operators.remove(0);
                assert_eq!(restore.union_list, [[0, 9], [1, 9]], "{subtask} of {parallelism}");
                assert_eq!(restore.broadcast, Some(vec![1]), "{subtask} of {parallelism}");
            }
        }
    }

    #[test]
    fn other_subtasks_get_the_files_of_their_key_groups_and_every_so_many_th_element() {
        let (two, three, one) = (job(&[(2, &["count"])]), job(&[(3, &["count"])]), job(&[(1, &["count"])]));
        let stored = taken(&two, &[], &[]);
        let (first, second) = ("count-0".to_owned(), "count-1".to_owned());
        assert_eq!(share(&stored, &three, 0), (vec![first.clone()], vec![vec![0, 0], vec![1, 1]], false));
        assert_eq!(share(&stored, &three, 1), (vec![first.clone(), second.clone()], vec![vec![0, 1]], false));
        assert_eq!(share(&stored, &three, 2), (vec![second.clone()], vec![vec![1, 0]], false));
        let all = vec![vec![0, 0], vec![0, 1], vec![1, 0], vec![1, 1]];
        assert_eq!(share(&stored, &one, 0), (vec![first, second], all, false));
    }

    #[test]
    fn what_had_finished_has_finished_when_all_of_it_had() {
        let (two, three) = (job(&[(2, &["count"])]), job(&[(3, &["count"])]));
        assert!(share(&taken(&two, &[], &[(0, 0), (0, 1)]), &three, 2).2);
        let partly = taken(&two, &[], &[(0, 0)]);
        assert_eq!(share(&partly, &three, 1), (vec!["count-1".to_owned()], vec![vec![1, 1]], false));
    }

    #[test]
    fn state_follows_its_operator_into_another_chain() {
        let before = job(&[(2, &["source", "count"]), (2, &["sink"])]);
        let after = job(&[(1, &["source"]), (2, &["count", "new", "sink"])]);
        let stored = taken(&before, &["source"], &[]);
        let attempt = ExecutionAttemptId { vertex: after.vertices[1].id, subtask: 1, attempt: 0 };
        let restored = assign(&stored, &after, attempt).unwrap().operators;
        let found: Vec<_> = restored.iter().map(|operator| (operator.operator, &operator.keyed[0].1.name)).collect();
        assert_eq!(
            found,
            [(operator("count").id, &"count-1".to_owned()), (operator("sink").id, &"sink-1".to_owned())],
            "the new one begins anew"
        );
    }

    fn adapted(before: &JobGraph, mut after: JobGraph, allow: bool) -> Result<u32, String> {
        let stored = taken(before, &["source"], &[]);
        adapt(&stored.metadata, &mut after, allow).map_err(|error| error.to_string())?;
        Ok(after.vertices.last().unwrap().max_parallelism.get())
    }

    #[test]
    fn the_number_of_key_groups_is_that_of_the_savepoint() {
        let with = |parallelism: u32, max: u32, is_set: bool| {
            let mut graph = job(&[(2, &["source"]), (parallelism, &["count"])]);
            let vertex = &mut graph.vertices[1];
            (vertex.max_parallelism, vertex.max_parallelism_is_set) = (MaxParallelism::new(max).unwrap(), is_set);
            graph
        };
        let before = with(2, 64, false);
        assert_eq!(adapted(&before, with(64, 128, false), false), Ok(64));
        assert_eq!(adapted(&before, with(3, 64, true), false), Ok(64));
        assert_eq!(
            adapted(&before, with(3, 128, true), false).unwrap_err(),
            "`count` is set to max parallelism 128, but its state was taken with 64, which holds for good; set 64, or none"
        );
        assert_eq!(
            adapted(&before, with(65, 128, false), false).unwrap_err(),
            "`count` has parallelism 65, but its state was taken with max parallelism 64; lower the parallelism to that"
        );
        let mut mixed = job(&[(2, &["source"]), (2, &["count"]), (2, &["sink"])]);
        mixed.vertices[2].max_parallelism = MaxParallelism::new(7).unwrap();
        assert_eq!(
            adapted(&mixed, job(&[(2, &["source"]), (2, &["count", "sink"])]), false).unwrap_err(),
            "operators of `count` were taken with different max parallelism, 128 and 7; do not chain them: start_new_chain"
        );
    }

    #[test]
    fn state_without_an_operator_is_named_and_left_out_only_when_told_so() {
        let (before, after) = (job(&[(2, &["source", "a"]), (1, &["b"])]), job(&[(2, &["source", "c"])]));
        let refused = adapted(&before, after.clone(), false).unwrap_err();
        let (a, b) = (refused.find("`a`"), refused.find("`b`"));
        assert!(a.is_some() && b.is_some() && refused.contains("--allowNonRestoredState"), "{refused}");
        assert!(!refused.contains("source"), "what has no state is not missed: {refused}");
        assert_eq!(adapted(&before, after.clone(), true), Ok(128));
        let stored = taken(&before, &["source"], &[]);
        let fits: BTreeMap<_, _> =
            compare(&stored.metadata, &after).into_iter().map(|fit| (fit.uid, (fit.taken, fit.wanted))).collect();
        let expect =
            [("a", (Some(2), None)), ("b", (Some(1), None)), ("c", (None, Some(2))), ("source", (None, Some(2)))];
        assert_eq!(fits, expect.into_iter().map(|(uid, fit)| (uid.to_owned(), fit)).collect());
    }
}
