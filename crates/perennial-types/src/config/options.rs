//! The registry: every option there is.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{AnyOption, CheckpointingMode, ConfigOption, RestartStrategyType};
use crate::ByteSize;

/// Declares the options and the list of all of them, in one place so that none is forgotten.
macro_rules! options {
    ($($name:ident: $type:ty = $key:literal, $default:literal, $doc:literal;)*) => {
        $(
            #[doc = concat!("`", $key, "`, default `", $default, "`. ", $doc)]
            pub const $name: ConfigOption<$type> = ConfigOption::new($key, $default, $doc);
        )*

        static ALL: &[AnyOption] = &[$($name.erased()),*];
    };
}

options! {
    // --- JobManager
    JOBMANAGER_RPC_ADDRESS: String = "jobmanager.rpc.address", "localhost",
        "Name or address under which other processes reach this JobManager.";
    JOBMANAGER_RPC_PORT: u16 = "jobmanager.rpc.port", "6123",
        "Port of the JobManager for other JobManagers and TaskManagers; 0 takes a free one.";
    JOBMANAGER_BIND_HOST: String = "jobmanager.bind-host", "0.0.0.0",
        "Address the JobManager's RPC port listens on.";
    JOBMANAGER_RESOURCE_ID: Option<String> = "jobmanager.resource-id", "",
        "Name of this JobManager in its group; by default that of the peer whose address is this process's.";
    JOBMANAGER_RAFT_PEERS: Vec<String> = "jobmanager.raft.peers", "",
        "JobManagers that found the group, or that one that joins asks, as name=host:port or host:port; empty for a group of one.";
    JOBMANAGER_RAFT_JOIN: bool = "jobmanager.raft.join", "false",
        "Whether this JobManager joins the group of `jobmanager.raft.peers`, to which it is added with `perennial member add`.";
    JOBMANAGER_DATA_DIR: Option<String> = "jobmanager.data-dir", "",
        "Directory of the metadata log, its state machine and the artifacts; by default below process.working-dir.";
    JOBMANAGER_DATA_DIR_MIN_FREE_SPACE: ByteSize = "jobmanager.data-dir.min-free-space", "64 mb",
        "Free space of the data directory's disk below which a JobManager takes no new jobs and artifacts and hands over its leadership; 0 takes them to the last byte.";
    JOBMANAGER_RAFT_HEARTBEAT_INTERVAL: Duration = "jobmanager.raft.heartbeat-interval", "50 ms",
        "How often a leader tells the other JobManagers that it leads.";
    JOBMANAGER_RAFT_ELECTION_TIMEOUT_MIN: Duration = "jobmanager.raft.election-timeout.min", "150 ms",
        "Shortest silence of the leader after which a JobManager stands for election.";
    JOBMANAGER_RAFT_ELECTION_TIMEOUT_MAX: Duration = "jobmanager.raft.election-timeout.max", "300 ms",
        "Longest silence of the leader after which a JobManager stands for election.";
    JOBMANAGER_RAFT_SNAPSHOT_ENTRIES: u64 = "jobmanager.raft.snapshot-entries", "10000",
        "Log entries after which the metadata store writes a snapshot.";
    JOBMANAGER_RAFT_LOG_ENTRIES_KEPT: u64 = "jobmanager.raft.log-entries-kept", "50000",
        "Log entries kept behind a snapshot so that a lagging member catches up by log.";
    JOBMANAGER_PLAN_TIMEOUT: Duration = "jobmanager.plan-timeout", "10 s",
        "How long a job's builder may take to make its JobGraph.";
    JOBSTORE_MAX_CAPACITY: u32 = "jobstore.max-capacity", "100",
        "Number of ended jobs that stay listed.";
    JOBSTORE_EXPIRATION_TIME: Duration = "jobstore.expiration-time", "3600 s",
        "How long an ended job stays listed.";
    PROCESS_WORKING_DIR: Option<String> = "process.working-dir", "",
        "Directory for what a process keeps; by default below io.tmp.dirs.";
    IO_TMP_DIRS: String = "io.tmp.dirs", "/tmp",
        "Directory for temporary files.";
    PARALLELISM_DEFAULT: NonZeroU32 = "parallelism.default", "1",
        "Parallelism of operators that name none.";

    // --- slots, heartbeats
    SLOT_REQUEST_TIMEOUT: Duration = "slot.request.timeout", "5 min",
        "How long a job waits for its slots before it fails.";
    HEARTBEAT_INTERVAL: Duration = "heartbeat.interval", "1 s",
        "How often TaskManagers and JobManagers tell each other that they live.";
    HEARTBEAT_TIMEOUT: Duration = "heartbeat.timeout", "5 s",
        "Silence after which the other side is taken for lost.";
    TASK_CANCELLATION_TIMEOUT: Duration = "task.cancellation.timeout", "3 min",
        "Time a cancelled task has before its executor is killed, with the job's other tasks there; 0 lets it take any. A job may set it for itself.";

    // --- TaskManager
    TASKMANAGER_SLOTS: NonZeroU32 = "taskmanager.numberOfTaskSlots", "1",
        "Number of slots this TaskManager offers.";
    TASKMANAGER_HOST: Option<String> = "taskmanager.host", "",
        "Name or address under which other TaskManagers reach this one's executors.";
    TASKMANAGER_BIND_HOST: String = "taskmanager.bind-host", "0.0.0.0",
        "Address the executors' data ports listen on.";
    TASKMANAGER_DATA_PORT: u16 = "taskmanager.data.port", "0",
        "First data port of the executors; 0 takes free ones.";
    TASKMANAGER_RESOURCE_ID: Option<String> = "taskmanager.resource-id", "",
        "Name of this TaskManager, stable across restarts; by default host and process.";
    TASKMANAGER_JOBMANAGERS: Vec<String> = "taskmanager.jobmanagers", "",
        "JobManagers to register at as host:port; by default jobmanager.raft.peers, else jobmanager.rpc.address.";
    TASKMANAGER_REGISTRATION_TIMEOUT: Duration = "taskmanager.registration.timeout", "5 min",
        "A TaskManager that no JobManager has accepted for so long ends.";
    TASKMANAGER_STDOUT_MAX_SIZE: ByteSize = "taskmanager.stdout.max-size", "16 mb",
        "Size at which the file with the output of a job's tasks is rolled; one older file is kept.";
    TASKMANAGER_ARTIFACT_CACHE_SIZE: ByteSize = "taskmanager.artifact-cache.max-size", "1 gb",
        "Size of unused job artifacts above which the oldest are removed.";
    EXECUTOR_ORPHAN_TIMEOUT: Duration = "executor.orphan-timeout", "10 min",
        "An executor that reached neither TaskManager nor JobManager for so long stops itself.";
    EXECUTOR_START_TIMEOUT: Duration = "executor.start-timeout", "30 s",
        "How long an executor may take until it takes commands.";

    // --- data plane
    BUFFER_TIMEOUT: Duration = "execution.buffer-timeout.interval", "5 ms",
        "Longest time a record waits in a batch that is not full.";
    NETWORK_SEGMENT_SIZE: ByteSize = "taskmanager.memory.segment-size", "64 kb",
        "Largest batch between tasks, in bytes.";
    NETWORK_BUFFERS_PER_CHANNEL: NonZeroU32 = "taskmanager.network.memory.buffers-per-channel", "8",
        "Batches in flight per channel: its credit.";
    OPERATOR_CHAINING: bool = "pipeline.operator-chaining.enabled", "true",
        "Whether operators are chained into one task where the rules allow.";
    PIPELINE_NAME: Option<String> = "pipeline.name", "",
        "Name of the job in listings.";
    PIPELINE_MAX_PARALLELISM: i32 = "pipeline.max-parallelism", "-1",
        "Number of key groups of operators that name none; -1 derives it from the parallelism.";
    AUTO_WATERMARK_INTERVAL: Duration = "pipeline.auto-watermark-interval", "200 ms",
        "How often watermarks are emitted; 0 emits none before the end of the input.";

    // --- checkpoints
    CHECKPOINTING_INTERVAL: Option<Duration> = "execution.checkpointing.interval", "",
        "Time from the beginning of a checkpoint of a job to the next; without it none is taken.";
    CHECKPOINTING_TIMEOUT: Duration = "execution.checkpointing.timeout", "10 min",
        "Time a checkpoint has before it is given up.";
    CHECKPOINTING_MIN_PAUSE: Duration = "execution.checkpointing.min-pause", "0 ms",
        "Time from the end of a checkpoint to the next at least.";
    CHECKPOINTING_MODE: CheckpointingMode = "execution.checkpointing.mode", "EXACTLY_ONCE",
        "Whether a task waits at a checkpoint for the barriers of all its inputs (`EXACTLY_ONCE`), or may work off records a second time after a restore (`AT_LEAST_ONCE`).";
    CHECKPOINTING_CONCURRENT_MAX: NonZeroU32 = "execution.checkpointing.max-concurrent-checkpoints", "1",
        "Checkpoints of a job that may be on their way at a time.";
    CHECKPOINTING_FAILURES_TOLERATED: u32 = "execution.checkpointing.tolerable-failed-checkpoints", "0",
        "Checkpoints that may fail in a row before the job does: those that a task cannot write, that take too long, or whose metadata is not written.";
    CHECKPOINTING_RETAINED: NonZeroU32 = "execution.checkpointing.num-retained", "1",
        "Completed checkpoints of a job that are kept.";
    CHECKPOINTING_INCREMENTAL: bool = "execution.checkpointing.incremental", "false",
        "Whether a checkpoint writes what has changed in the keyed state since the one before, rather than all of it.";
    CHECKPOINTS_AFTER_TASKS_FINISH: bool = "execution.checkpointing.checkpoints-after-tasks-finish", "true",
        "Whether a task whose input has ended stays until a checkpoint has all that it has done; else what sinks have written since the last checkpoint is committed at once, and may be written again if another task fails.";
    CHECKPOINTING_DIR: Option<String> = "execution.checkpointing.dir", "",
        "Directory or address below which the checkpoints of jobs are; all JobManagers and TaskManagers reach it.";

    // --- restarts
    RESTART_STRATEGY: Option<RestartStrategyType> = "restart-strategy.type", "",
        "Whether and when a job runs again after a failure; by default a failed task fails the job, and what was lost with a \
         process or machine runs again.";
    RESTART_FIXED_DELAY_ATTEMPTS: u32 = "restart-strategy.fixed-delay.attempts", "1",
        "Restarts of a job with `fixed-delay` before it fails.";
    RESTART_FIXED_DELAY_DELAY: Duration = "restart-strategy.fixed-delay.delay", "1 s",
        "Wait before each restart with `fixed-delay`.";
    RESTART_FAILURE_RATE_MAX: u32 = "restart-strategy.failure-rate.max-failures-per-interval", "1",
        "Failures within the interval after which a job with `failure-rate` is restarted still.";
    RESTART_FAILURE_RATE_INTERVAL: Duration = "restart-strategy.failure-rate.failure-rate-interval", "1 min",
        "Interval in which `failure-rate` counts failures.";
    RESTART_FAILURE_RATE_DELAY: Duration = "restart-strategy.failure-rate.delay", "1 s",
        "Wait before each restart with `failure-rate`.";
    RESTART_BACKOFF_INITIAL: Duration = "restart-strategy.exponential-delay.initial-backoff", "1 s",
        "First wait with `exponential-delay`.";
    RESTART_BACKOFF_MAX: Duration = "restart-strategy.exponential-delay.max-backoff", "1 min",
        "Longest wait with `exponential-delay`.";
    RESTART_BACKOFF_MULTIPLIER: f64 = "restart-strategy.exponential-delay.backoff-multiplier", "1.5",
        "How many times the last wait the next one is with `exponential-delay`.";
    RESTART_BACKOFF_RESET: Duration = "restart-strategy.exponential-delay.reset-backoff-threshold", "1 h",
        "Time without a failure after which `exponential-delay` begins with its first wait again.";
    RESTART_BACKOFF_JITTER: f64 = "restart-strategy.exponential-delay.jitter-factor", "0.1",
        "Share by which each wait of `exponential-delay` is longer or shorter, so that jobs do not restart together.";
    RESTART_BACKOFF_ATTEMPTS: u32 = "restart-strategy.exponential-delay.attempts-before-reset-backoff", "2147483647",
        "Failures in a row after which a job with `exponential-delay` fails.";

    // --- REST and client
    REST_ADDRESS: Option<String> = "rest.address", "",
        "Name or address clients are told to use.";
    REST_PORT: u16 = "rest.port", "8081",
        "Port of REST, UI and clients; 0 takes a free one.";
    REST_BIND_ADDRESS: String = "rest.bind-address", "0.0.0.0",
        "Address the REST port listens on.";
    WEB_EXCEPTION_HISTORY_SIZE: NonZeroU32 = "web.exception-history-size", "16",
        "Failures of a job that are remembered, the newest of them.";
    REST_MAX_CONTENT_LENGTH: ByteSize = "rest.server.max-content-length", "256 mb",
        "Largest artifact that can be uploaded.";
    CLIENT_TIMEOUT: Duration = "client.timeout", "60 s",
        "How long a client waits for an answer.";
    CLIENT_ENDPOINTS: Vec<String> = "client.endpoints", "",
        "JobManagers a client tries, as host:port of their REST ports; by default rest.address, else jobmanager.rpc.address, and rest.port.";

    // --- logs
    LOG_LEVEL: String = "log.level", "info",
        "What is logged: a level, or a filter such as `info,perennial_meta=debug`.";
    LOG_FORMAT: String = "log.format", "text",
        "Form of log lines: `text` or `json`.";
}

/// Every option, in order of key.
pub fn all() -> impl Iterator<Item = &'static AnyOption> {
    let mut sorted: Vec<&'static AnyOption> = ALL.iter().collect();
    sorted.sort_by_key(|option| option.key);
    sorted.into_iter()
}

/// The option with this key.
pub fn find(key: &str) -> Option<&'static AnyOption> {
    ALL.iter().find(|option| option.key == key)
}

/// The known key that looks most like `key`, when one looks like it at all.
pub fn nearest(key: &str) -> Option<&'static str> {
    ALL.iter()
        .map(|option| (strsim::jaro_winkler(option.key, key), option.key))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}
