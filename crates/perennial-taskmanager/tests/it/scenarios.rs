//! What a TaskManager does when things happen around it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perennial_rpc::taskmanager::{
    Action, CommandDone, CommandError, Deploy, ExecutorAddress, FromTaskManager, StartExecutor, TaskDeployment,
};
use perennial_taskmanager::{Fatal, TaskManager, TaskManagerHandle};
use perennial_types::config::Origin;
use perennial_types::{
    AllocationId, ArtifactDigest, ClusterId, Configuration, ExecutionAttemptId, ExecutionState, JobId, JobManagerId,
    LeaderEpoch, PlanRequest, SlotIndex, TaskManagerId, VertexId,
};

use crate::executor::{A_WHILE, artifact, is_alive};
use crate::jobmanager::{JobManager, PATIENCE, wait_for};

const JOB: JobId = JobId::from_bytes([1; 16]);
const OTHER: JobId = JobId::from_bytes([2; 16]);

struct Setup {
    tmp: tempfile::TempDir,
    options: Vec<(&'static str, String)>,
}

impl Setup {
    fn new(jobmanagers: &[&JobManager]) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let addresses: Vec<&str> = jobmanagers.iter().map(|jobmanager| jobmanager.address.as_str()).collect();
        let options = vec![
            ("taskmanager.jobmanagers", addresses.join(",")),
            ("taskmanager.resource-id", "tm-1".to_owned()),
            ("taskmanager.numberOfTaskSlots", "4".to_owned()),
            ("process.working-dir", tmp.path().display().to_string()),
            ("heartbeat.interval", "50 ms".to_owned()),
            ("executor.start-timeout", "10 s".to_owned()),
            ("task.cancellation.timeout", "10 s".to_owned()),
        ];
        Self { tmp, options }
    }

    fn with(mut self, key: &'static str, value: &str) -> Self {
        self.options.push((key, value.to_owned()));
        self
    }

    async fn start(&self) -> TaskManagerHandle {
        let mut config = Configuration::new();
        for (key, value) in &self.options {
            config.set(key, value, Origin::Flag(String::new())).unwrap();
        }
        TaskManager::start(&config).await.unwrap()
    }

    fn executor_dir(&self, job: JobId) -> PathBuf {
        self.tmp.path().join("executors").join(job.to_string())
    }

    fn executor_pid(&self, job: JobId) -> i32 {
        let record = std::fs::read_to_string(self.executor_dir(job).join("executor.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["pid"].as_i64().unwrap() as i32
    }
}

fn files_in(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn start(digest: ArtifactDigest, bytes: &[u8]) -> Action {
    Action::StartExecutor(StartExecutor {
        artifact: digest,
        artifact_size: bytes.len() as u64,
        artifact_name: "job".to_owned(),
        request: PlanRequest::default(),
        structural_hash: 5,
        config: std::collections::BTreeMap::new(),
    })
}

fn attempt(subtask: u32) -> ExecutionAttemptId {
    ExecutionAttemptId { vertex: VertexId::from_bytes([9; 16]), subtask, attempt: 0 }
}

fn deploy(slots: &[u32]) -> Action {
    let task = |slot: &u32| TaskDeployment {
        attempt: attempt(*slot),
        slot: SlotIndex(*slot),
        allocation: AllocationId::from_bytes([3; 16]),
        restore: None,
    };
    Action::Deploy(Deploy {
        tasks: slots.iter().map(task).collect(),
        placement: vec![],
        executors: vec![],
        vertices: vec![],
    })
}

/// Stores an artifact and starts its executor.
async fn start_executor(leader: &JobManager, epoch: u64, job: JobId, mode: &str) -> Result<CommandDone, CommandError> {
    let bytes = artifact(mode);
    let digest = leader.store(&bytes);
    leader.command(epoch, job, start(digest, &bytes)).await
}

async fn reported(jobmanager: &JobManager, job: JobId, subtask: u32, state: ExecutionState) {
    jobmanager
        .hears(&format!("{state} of subtask {subtask}"), |message| match message {
            FromTaskManager::Execution(report) => {
                (report.job == job && report.attempt == attempt(subtask) && report.state == state).then_some(())
            }
            _ => None,
        })
        .await;
}

async fn lost(jobmanager: &JobManager, job: JobId) -> String {
    jobmanager
        .hears("a lost executor", |message| match message {
            FromTaskManager::ExecutorLost { job: lost, cause, .. } if *lost == job => Some(cause.clone()),
            _ => None,
        })
        .await
}

fn ready() -> Result<CommandDone, CommandError> {
    Ok(CommandDone::ExecutorReady { data_address: "127.0.0.1:4242".to_owned() })
}

/// The first leader registers the TaskManager; it dies with a job running; the second hears of the job, and what
/// happened while nobody led, without anything having been stopped.
#[tokio::test]
async fn a_job_outlives_its_leader_and_the_next_one_hears_of_it() {
    let (first, second) = (JobManager::start(1).await, JobManager::start(2).await);
    let setup = Setup::new(&[&first, &second]);
    let taskmanager = setup.start().await;
    let begun = Instant::now();
    first.lead(5);
    second.says(5, Some(1), &first.address);
    let registration = first.registration().await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!((registration.id.0.as_str(), registration.slots), ("tm-1", 4));
    assert_eq!(registration.cluster, None);
    assert_eq!(start_executor(&first, 5, JOB, "good").await, ready());
    assert_eq!(start_executor(&first, 5, OTHER, "good").await, ready());
    assert_eq!(first.command(5, JOB, deploy(&[0, 1])).await, Ok(CommandDone::Done));
    assert_eq!(first.command(5, OTHER, deploy(&[2])).await, Ok(CommandDone::Done));
    reported(&first, JOB, 1, ExecutionState::Running).await;
    reported(&first, OTHER, 2, ExecutionState::Running).await;

    first.die();
    let mut status = taskmanager.status();
    status.wait_for(|status| status.leader.is_none()).await.unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(setup.executor_pid(OTHER)).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    status.wait_for(|status| status.executors == 1).await.unwrap();

    second.lead(6);
    let registration = second.registration().await;
    let [executor] = registration.executors.as_slice() else { panic!("{registration:?}") };
    assert_eq!((executor.job, executor.data_address.as_str()), (JOB, "127.0.0.1:4242"));
    assert_eq!(executor.executions.len(), 2);
    assert!(executor.executions.iter().all(|report| report.state == ExecutionState::Running));
    assert!(lost(&second, OTHER).await.starts_with("killed by signal 9"));
    status
        .wait_for(|status| status.leader == Some((JobManagerId(2), LeaderEpoch(6))) && status.free_slots == 2)
        .await
        .unwrap();

    // It commands from here on, and the job it took over is the same process as before.
    let pid = setup.executor_pid(JOB);
    assert_eq!(second.command(6, JOB, Action::Cancel { attempts: vec![attempt(0)] }).await, Ok(CommandDone::Done));
    reported(&second, JOB, 0, ExecutionState::Canceled).await;
    assert_eq!(setup.executor_pid(JOB), pid);

    // Ended in good order it says that the executor goes with it, not that somebody cancelled the rest of the job.
    taskmanager.shutdown().await;
    assert!(!is_alive(pid));
    assert_eq!(lost(&second, JOB).await, "its TaskManager tm-1 was shut down");
    let cancelled = |message: &FromTaskManager| {
        matches!(message, FromTaskManager::Execution(report)
            if report.attempt == attempt(1) && report.state == ExecutionState::Canceled)
    };
    assert_eq!(second.count(cancelled), 0);
}

/// A deposed leader that has not noticed goes on commanding: it is told who was seen, and nothing happens.
#[tokio::test]
async fn commands_of_a_deposed_leader_are_refused_and_counted() {
    let (old, new) = (JobManager::start(1).await, JobManager::start(2).await);
    let setup = Setup::new(&[&old, &new]);
    let taskmanager = setup.start().await;
    old.lead(5);
    old.registration().await;
    new.lead(6);
    new.registration().await;
    let error = start_executor(&old, 5, JOB, "good").await.unwrap_err();
    assert!(matches!(error, CommandError::Stale { seen } if seen.epoch == LeaderEpoch(6)), "{error}");
    taskmanager.status().wait_for(|status| status.stale_commands == 1 && status.executors == 0).await.unwrap();
    told_of_stale(&new, 1).await;
    assert!(old.count(|message| matches!(message, FromTaskManager::Register(_))) == 1);
    taskmanager.shutdown().await;
}

async fn told_of_stale(jobmanager: &JobManager, count: u64) {
    let what = format!("a heartbeat that counts {count} stale commands");
    jobmanager
        .hears(&what, |message| match message {
            FromTaskManager::Heartbeat { stale_commands, .. } => (*stale_commands == count).then_some(()),
            _ => None,
        })
        .await;
}

/// What executors refuse is counted too, and the next leader hears of it all.
#[tokio::test]
async fn commands_refused_by_an_executor_are_counted_and_told_to_every_leader() {
    let (first, second) = (JobManager::start(1).await, JobManager::start(2).await);
    let setup = Setup::new(&[&first, &second]);
    let taskmanager = setup.start().await;
    first.lead(5);
    first.registration().await;
    assert_eq!(start_executor(&first, 5, JOB, "ahead").await, ready());
    for _ in 0..2 {
        let error = first.command(5, JOB, deploy(&[0])).await.unwrap_err();
        assert!(matches!(error, CommandError::Stale { seen } if seen.epoch == LeaderEpoch(1000)), "{error}");
    }
    taskmanager.status().wait_for(|status| status.stale_commands == 2 && status.free_slots == 4).await.unwrap();
    second.lead(6);
    second.registration().await;
    told_of_stale(&second, 2).await;
    taskmanager.shutdown().await;
}

#[tokio::test]
async fn another_clusters_jobmanager_is_never_registered_at() {
    let home = JobManager::start(1).await;
    let foreign = JobManager::start_at(2, ClusterId::from_bytes([8; 16]), "127.0.0.1:0").await;
    let setup = Setup::new(&[&home, &foreign]);
    let taskmanager = setup.start().await;
    home.lead(5);
    home.registration().await;
    let mut status = taskmanager.status();
    status.wait_for(|status| status.cluster == Some(home.cluster) && status.attached == 2).await.unwrap();
    foreign.lead(50);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(foreign.count(|message| matches!(message, FromTaskManager::Register(_))), 0);
    assert_eq!(status.borrow().leader, Some((JobManagerId(1), LeaderEpoch(5))));
    taskmanager.shutdown().await;
}

/// A JobManager that is not in the list, because it joined the group later, is found through the others.
#[tokio::test]
async fn a_leader_that_is_not_configured_is_dialled() {
    let (known, unknown) = (JobManager::start(1).await, JobManager::start(9).await);
    let setup = Setup::new(&[&known]);
    let taskmanager = setup.start().await;
    unknown.lead(3);
    known.says(3, Some(9), &unknown.address);
    unknown.registration().await;
    taskmanager.shutdown().await;
}

#[tokio::test]
async fn a_jobmanager_that_comes_back_is_registered_at_again() {
    let jobmanager = JobManager::start(1).await;
    let setup = Setup::new(&[&jobmanager]);
    let taskmanager = setup.start().await;
    jobmanager.lead(5);
    jobmanager.registration().await;
    jobmanager.die();
    taskmanager.status().wait_for(|status| status.attached == 0).await.unwrap();
    let again = JobManager::start_at(1, jobmanager.cluster, &jobmanager.address).await;
    again.lead(6);
    assert_eq!(again.registration().await.cluster, Some(jobmanager.cluster));
    taskmanager.shutdown().await;
}

#[tokio::test]
async fn a_taskmanager_that_nobody_accepts_ends_and_says_where_it_tried() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut setup = Setup::new(&[]).with("taskmanager.registration.timeout", "200 ms");
    setup.options[0].1 = free.clone();
    let taskmanager = setup.start().await;
    let fatal = tokio::time::timeout(PATIENCE, taskmanager.failed()).await.unwrap();
    assert_eq!(fatal, Fatal::NotRegistered { waited: Duration::from_millis(200), tried: vec![free] });
    taskmanager.shutdown().await;
}

/// Without a configured name or place nobody comes back for the directory.
#[tokio::test]
async fn a_directory_that_nobody_named_is_removed_in_the_end() {
    let leader = JobManager::start(1).await;
    let mut setup = Setup::new(&[&leader]);
    setup.options.retain(|(key, _)| !["taskmanager.resource-id", "process.working-dir"].contains(key));
    let tmp = setup.tmp.path().display().to_string();
    let setup = setup.with("io.tmp.dirs", &tmp);
    let taskmanager = setup.start().await;
    let dirs = setup.tmp.path().join("perennial");
    assert_eq!(files_in(&dirs), [format!("tm_{}", taskmanager.id())]);
    taskmanager.shutdown().await;
    assert!(files_in(&dirs).is_empty());
}

#[tokio::test]
async fn an_executor_that_does_not_start_is_an_answer_with_its_last_words() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]).with("executor.start-timeout", "300 ms");
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    let reason = |result: Result<CommandDone, CommandError>| result.unwrap_err().to_string();

    let text = reason(start_executor(&leader, 5, JOB, "fails").await);
    assert!(text.contains("exited with code 3") && text.contains("no such job | known jobs: wordcount"), "{text}");
    let text = reason(start_executor(&leader, 5, JOB, "mute").await);
    assert!(text.contains("takes no commands after 300 ms"), "{text}");
    let text = reason(start_executor(&leader, 5, JOB, "impostor").await);
    assert!(text.contains("runs job ffff"), "{text}");
    let text = reason(start_executor(&leader, 5, JOB, "old").await);
    assert!(text.contains("build the job with a newer library"), "{text}");
    let junk = b"not an executable";
    let text = reason(leader.command(5, JOB, start(leader.store(junk), junk)).await);
    assert!(text.contains("executor of `job` not started"), "{text}");

    let mut status = taskmanager.status();
    status.wait_for(|status| status.executors == 0).await.unwrap();
    assert!(files_in(&setup.tmp.path().join("executors")).is_empty());
    assert!(leader.count(|message| matches!(message, FromTaskManager::ExecutorLost { .. })) == 0);
    taskmanager.shutdown().await;
}

/// The leader's copy of an artifact is damaged, a standby's is not, and a third knows nothing.
#[tokio::test]
async fn a_damaged_artifact_is_refused_and_fetched_elsewhere_once() {
    let (leader, standby) = (JobManager::start(1).await, JobManager::start(2).await);
    let setup = Setup::new(&[&leader, &standby]);
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    let bytes = artifact("good");
    let digest = standby.store(&bytes);
    let mut damaged = bytes.clone();
    damaged[30] ^= 1;
    leader.store_as(digest, &damaged);
    let (a, b) = (leader.send(5, JOB, start(digest, &bytes)), leader.send(5, OTHER, start(digest, &bytes)));
    assert_eq!((leader.answer(a).await, leader.answer(b).await), (ready(), ready()));
    assert_eq!((leader.fetches(), standby.fetches()), (1, 1));
    assert_eq!(files_in(&setup.tmp.path().join("artifacts")), [digest.to_string()]);

    let missing = ArtifactDigest::from_bytes([1; 32]);
    leader.store_as(missing, &bytes);
    let text = leader.command(5, JobId::from_bytes([3; 16]), start(missing, &bytes)).await.unwrap_err().to_string();
    assert!(text.contains(&format!("with digest {digest}")), "{text}");
    assert!(text.contains(&format!("{}: artifact", standby.address)), "{text}");
    taskmanager.shutdown().await;
}

#[tokio::test]
async fn slots_are_not_shared_between_jobs_and_free_when_a_deployment_is_refused() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]);
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    let text = leader.command(5, JOB, deploy(&[0])).await.unwrap_err().to_string();
    assert!(text.contains("has no executor here"), "{text}");
    assert_eq!(start_executor(&leader, 5, JOB, "good").await, ready());
    assert_eq!(start_executor(&leader, 5, OTHER, "refuses").await, ready());
    let text = leader.command(5, OTHER, deploy(&[0])).await.unwrap_err().to_string();
    assert_eq!(text, "1 tasks are too many");
    assert_eq!(leader.command(5, JOB, deploy(&[0])).await, Ok(CommandDone::Done));
    let text = leader.command(5, OTHER, deploy(&[0])).await.unwrap_err().to_string();
    assert!(text.contains(&format!("slot 0 is held by job {JOB}")), "{text}");
    let text = leader.command(5, OTHER, deploy(&[4])).await.unwrap_err().to_string();
    assert!(text.contains("slot 4 does not exist: this TaskManager has 4 slots"), "{text}");
    assert_eq!(leader.command(5, JOB, Action::StopExecutor).await, Ok(CommandDone::Done));
    assert_eq!(leader.command(5, JOB, Action::StopExecutor).await, Ok(CommandDone::Done));
    taskmanager.status().wait_for(|status| status.free_slots == 4).await.unwrap();
    taskmanager.shutdown().await;
}

/// The TaskManager's process is replaced while a job runs: the next one finds the same executor, tells the leader of it
/// once, and commands it.
#[tokio::test]
async fn a_restarted_taskmanager_adopts_its_executors() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]);
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    assert_eq!(start_executor(&leader, 5, JOB, "good").await, ready());
    assert_eq!(start_executor(&leader, 5, OTHER, "good").await, ready());
    assert_eq!(leader.command(5, JOB, deploy(&[1])).await, Ok(CommandDone::Done));
    reported(&leader, JOB, 1, ExecutionState::Running).await;
    let (pid, other) = (setup.executor_pid(JOB), setup.executor_pid(OTHER));
    taskmanager.detach().await;
    assert!(is_alive(pid) && is_alive(other));
    rustix::process::kill_process(rustix::process::Pid::from_raw(other).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    wait_for("the end of the other executor", || (!is_alive(other)).then_some(())).await;

    let taskmanager = setup.start().await;
    let registration = leader
        .hears("a registration with executors", |message| match message {
            FromTaskManager::Register(registration) if !registration.executors.is_empty() => Some(registration.clone()),
            _ => None,
        })
        .await;
    assert_eq!(registration.cluster, Some(leader.cluster), "it knows its cluster from the executor");
    let [executor] = registration.executors.as_slice() else { panic!("{registration:?}") };
    assert_eq!((executor.job, executor.executions.len()), (JOB, 1));
    assert!(lost(&leader, OTHER).await.starts_with("ended while no TaskManager watched it"));
    assert_eq!(leader.count(|message| matches!(message, FromTaskManager::Register(_))), 2);
    assert_eq!(setup.executor_pid(JOB), pid);
    assert_eq!(leader.command(5, JOB, Action::StopExecutor).await, Ok(CommandDone::Done));
    wait_for("the end of the adopted executor", || (!is_alive(pid)).then_some(())).await;
    assert!(files_in(&setup.tmp.path().join("executors")).is_empty());
    taskmanager.shutdown().await;
}

/// What happens while a leader takes a registration in is told to that leader: the registration did not say it, and nothing
/// else would.
#[tokio::test]
async fn what_happens_between_a_registration_and_its_acceptance_is_told() {
    let (first, second) = (JobManager::start(1).await, JobManager::start(2).await);
    let setup = Setup::new(&[&first, &second]);
    let taskmanager = setup.start().await;
    first.lead(5);
    first.registration().await;
    assert_eq!(start_executor(&first, 5, JOB, "good").await, ready());
    assert_eq!(first.command(5, JOB, deploy(&[0])).await, Ok(CommandDone::Done));
    reported(&first, JOB, 0, ExecutionState::Running).await;
    second.hesitate();
    second.lead(6);
    let registration = second.registration().await;
    let [executor] = registration.executors.as_slice() else { panic!("{registration:?}") };
    assert_eq!(executor.executions[0].state, ExecutionState::Running);
    assert_eq!(second.command(6, JOB, Action::Cancel { attempts: vec![attempt(0)] }).await, Ok(CommandDone::Done));
    second.accept();
    reported(&second, JOB, 0, ExecutionState::Canceled).await;
    taskmanager.shutdown().await;
}

/// A leader that has not heard of an executor's end may deploy to it: another one that is there by then takes no part of it.
#[tokio::test]
async fn a_deployment_meant_for_an_earlier_executor_is_refused() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]);
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    assert_eq!(start_executor(&leader, 5, JOB, "good").await, ready());
    let meant_for = |address: &str| {
        let Action::Deploy(mut deploy) = deploy(&[0]) else { unreachable!() };
        let (taskmanager, data_address) = (TaskManagerId("tm-1".to_owned()), address.to_owned());
        deploy.executors.push(ExecutorAddress { taskmanager, data_address });
        Action::Deploy(deploy)
    };
    match leader.command(5, JOB, meant_for("127.0.0.1:4241")).await {
        Err(CommandError::Failed(reason)) => {
            assert!(reason.contains("127.0.0.1:4241 is not here any more"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(taskmanager.status().borrow().free_slots, 4);
    assert_eq!(leader.command(5, JOB, meant_for("127.0.0.1:4242")).await, Ok(CommandDone::Done));
    reported(&leader, JOB, 0, ExecutionState::Running).await;
    taskmanager.shutdown().await;
}

#[tokio::test]
async fn an_adopted_executor_that_is_killed_is_lost() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]);
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    assert_eq!(start_executor(&leader, 5, JOB, "good").await, ready());
    let pid = setup.executor_pid(JOB);
    taskmanager.detach().await;
    let taskmanager = setup.start().await;
    let mut status = taskmanager.status();
    status.wait_for(|status| status.leader.is_some() && status.executors == 1).await.unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let cause = lost(&leader, JOB).await;
    assert!(cause.contains("hello from good"), "{cause}");
    taskmanager.shutdown().await;
}

/// An executor that ignores what it is told is killed, with all of its group, when its time is over.
#[tokio::test]
async fn an_executor_that_does_not_end_in_time_is_killed() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]).with("task.cancellation.timeout", "200 ms");
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    assert_eq!(start_executor(&leader, 5, JOB, "stubborn").await, ready());
    assert_eq!(start_executor(&leader, 5, OTHER, "stubborn").await, ready());
    let (pid, other) = (setup.executor_pid(JOB), setup.executor_pid(OTHER));
    assert_eq!(leader.command(5, JOB, deploy(&[0])).await, Ok(CommandDone::Done));
    assert_eq!(leader.command(5, JOB, Action::Cancel { attempts: vec![attempt(0)] }).await, Ok(CommandDone::Done));
    let cause = lost(&leader, JOB).await;
    assert!(cause.contains("had not ended") && cause.contains(&attempt(0).to_string()), "{cause}");
    assert_eq!(leader.command(5, OTHER, Action::StopExecutor).await, Ok(CommandDone::Done));
    assert!(!is_alive(pid) && !is_alive(other));
    taskmanager.shutdown().await;
}

/// With a timeout of zero a cancelled task may take any time; a job's own timeout goes before the TaskManager's, and asking
/// again does not begin it anew, also when a leader does so again and again.
#[tokio::test]
async fn a_job_says_itself_how_long_its_cancelled_tasks_may_take() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]).with("task.cancellation.timeout", "0");
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    let bytes = artifact("stubborn");
    let digest = leader.store(&bytes);
    let Action::StartExecutor(mut with_its_own) = start(digest, &bytes) else { unreachable!() };
    with_its_own.config.insert("task.cancellation.timeout".to_owned(), "300 ms".to_owned());
    assert_eq!(leader.command(5, JOB, Action::StartExecutor(with_its_own)).await, ready());
    assert_eq!(leader.command(5, OTHER, start(digest, &bytes)).await, ready());
    let cancel = |slot| Action::Cancel { attempts: vec![attempt(slot)] };
    for (job, slot) in [(JOB, 0), (OTHER, 1)] {
        assert_eq!(leader.command(5, job, deploy(&[slot])).await, Ok(CommandDone::Done));
        assert_eq!(leader.command(5, job, cancel(slot)).await, Ok(CommandDone::Done));
    }
    let asked_again = async {
        loop {
            _ = leader.command(5, JOB, cancel(0)).await;
            tokio::time::sleep(A_WHILE).await;
        }
    };
    let cause = tokio::select! {
        cause = lost(&leader, JOB) => cause,
        () = asked_again => unreachable!(),
    };
    assert!(cause.contains("had not ended 300 ms after it was cancelled"), "{cause}");
    assert_eq!(leader.command(5, OTHER, deploy(&[2])).await, Ok(CommandDone::Done), "it lives");
    taskmanager.shutdown().await;
}

/// Start, deploy, stop, fifty times: nothing is left but the cached artifact and some output of the last jobs.
#[tokio::test]
async fn fifty_jobs_leave_nothing_behind() {
    let leader = JobManager::start(1).await;
    let setup = Setup::new(&[&leader]);
    let taskmanager = setup.start().await;
    leader.lead(5);
    leader.registration().await;
    let bytes = artifact("good");
    let digest = leader.store(&bytes);
    let open_files = || files_in(Path::new("/proc/self/fd")).len();
    let mut before = 0;
    let mut fastest = Duration::MAX;
    for number in 0..50u8 {
        let job = JobId::from_bytes([100 + number; 16]);
        let begun = Instant::now();
        assert_eq!(leader.command(5, job, start(digest, &bytes)).await, ready());
        fastest = fastest.min(begun.elapsed());
        assert_eq!(leader.command(5, job, deploy(&[0, 1, 2, 3])).await, Ok(CommandDone::Done));
        let pid = setup.executor_pid(job);
        assert_eq!(leader.command(5, job, Action::StopExecutor).await, Ok(CommandDone::Done));
        assert!(!is_alive(pid));
        if number == 5 {
            before = open_files();
        }
    }
    println!("executor ready after {fastest:?} at best");
    let mut status = taskmanager.status();
    status.wait_for(|status| status.executors == 0 && status.free_slots == 4).await.unwrap();
    assert!(files_in(&setup.tmp.path().join("executors")).is_empty());
    assert_eq!(leader.fetches(), 1);
    // Other tests run in this process too; what leaks would be at least one file for each job.
    assert!(open_files() < before + 40, "{} open files, {before} before", open_files());
    let output = setup.tmp.path().join("output");
    let last = std::fs::read_to_string(output.join(JobId::from_bytes([149; 16]).to_string())).unwrap();
    assert!(last.contains("hello from good") && last.ends_with("last words"), "{last}");
    assert_eq!(files_in(&output).len(), 16);
    taskmanager.shutdown().await;
}
