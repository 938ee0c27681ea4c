//! Options that Flink has and that mean nothing here, so that its configuration files can be used as they are.

/// Keys, and with a final dot all keys below them, of Flink 1.20 and 2.x that are not in the registry and not near it.
///
/// None of them may stand above an option of the registry; a test says so when one is added.
static MEANINGLESS_HERE: &str = "
    akka. application-result-store. blob. classloader. cleanup-strategy. client.heartbeat. client.retry-period
    cluster. compiler. completed-application-store. env. events. execution.attached execution.batch-shuffle-mode
    execution.batch. execution.buffer-timeout.enabled execution.checkpointing.aligned-checkpoint-timeout
    execution.checkpointing.cleaner.
    execution.checkpointing.create-subdir execution.checkpointing.data-inline-threshold
    execution.checkpointing.during-recovery. execution.checkpointing.externalized-checkpoint-retention
    execution.checkpointing.file-merging. execution.checkpointing.interval-during-backlog
    execution.checkpointing.local-backup.
    execution.checkpointing.savepoint-dir execution.checkpointing.snapshot-compression execution.checkpointing.storage
    execution.checkpointing.unaligned.
    execution.checkpointing.write-buffer-size execution.job-listeners execution.job-status-changed-listeners
    execution.program-config. execution.runtime-mode execution.shutdown-on-application-finish
    execution.shutdown-on-attached-exit execution.sort-keyed-partition. execution.sort-partition.
    execution.state-recovery. execution.submit-failed-job-on-application-error execution.target
    execution.terminate-application-on-any-job-terminated-exceptionally external-resource. fs.
    heartbeat.rpc-failure-threshold high-availability high-availability. historyserver. jmx. job-event.
    job-result-store. jobmanager.adaptive-scheduler. jobmanager.archive. jobmanager.execution.
    jobmanager.failure-enrichers jobmanager.future-pool. jobmanager.io-pool. jobmanager.memory. jobmanager.partition.
    jobmanager.retrieve-taskmanager-hostname jobmanager.rpc.bind-port jobmanager.scheduler jobstore.cache-size
    jobstore.type kubernetes. materialized-table. metrics. minicluster. pekko. pipeline.auto-generate-uids
    pipeline.cached-files pipeline.cep. pipeline.classpaths
    pipeline.closure-cleaner-level pipeline.force-avro pipeline.force-kryo pipeline.force-kryo-avro
    pipeline.generic-types pipeline.global-job-parameters pipeline.jars pipeline.jobvertex-parallelism-overrides
    pipeline.object-reuse pipeline.operator-chaining.chain-operators-with-different-max-parallelism
    pipeline.serialization-config pipeline.sources. pipeline.vertex-description-mode
    pipeline.vertex-name-include-index-prefix pipeline.watermark-alignment. process.jobmanager. process.taskmanager.
    python. queryable-state. resourcemanager. rest.async. rest.await-leader-timeout rest.bind-port rest.cache.
    rest.client. rest.connection-timeout rest.flamegraph. rest.idleness-timeout rest.path rest.profiling. rest.retry.
    rest.server.numThreads rest.server.thread-priority rest.url-prefix s3. scheduler-mode security.
    shuffle-service-factory. slot.idle. slot.request.max-interval slotmanager. slow-task-detector. sql-client. state.
    table. task.cancellation.interval task.cancellation.timers. taskmanager.collect-sink. taskmanager.data.bind-port
    taskmanager.data.ssl. taskmanager.debug. taskmanager.jvm-exit-on-oom taskmanager.load-balance. taskmanager.log.
    taskmanager.memory.flink. taskmanager.memory.framework. taskmanager.memory.jvm-metaspace.
    taskmanager.memory.jvm-overhead. taskmanager.memory.managed. taskmanager.memory.min-segment-size
    taskmanager.memory.network. taskmanager.memory.process. taskmanager.memory.starting-segment-size
    taskmanager.memory.task. taskmanager.network.adaptive-partitioner. taskmanager.network.bind-policy
    taskmanager.network.compression. taskmanager.network.detailed-metrics taskmanager.network.hybrid-shuffle.
    taskmanager.network.memory.buffer-debloat. taskmanager.network.memory.read-buffer. taskmanager.network.netty.
    taskmanager.network.partition-request-timeout taskmanager.network.request-backoff. taskmanager.network.retries
    taskmanager.network.sort-shuffle. taskmanager.network.tcp-connection. taskmanager.rpc. taskmanager.runtime.
    taskmanager.slot. taskmanager.system-out. traces. user.artifacts.
    web.access-control-allow-origin web.adaptive-scheduler. web.cancel. web.checkpoints. web.history web.log.path
    web.refresh-interval web.rescale. web.submit. web.timeout web.tmpdir web.upload. yarn. zookeeper.
";

/// Older names of options, which stand in many users' files.
static RENAMED: [(&str, &str); 5] = [
    ("execution.buffer-timeout", "execution.buffer-timeout.interval"),
    (
        "execution.checkpointing.checkpoints-after-tasks-finish.enabled",
        "execution.checkpointing.checkpoints-after-tasks-finish",
    ),
    ("restart-strategy", "restart-strategy.type"),
    ("state.checkpoints.dir", "execution.checkpointing.dir"),
    ("state.checkpoints.num-retained", "execution.checkpointing.num-retained"),
];

/// Today's name of an option.
pub(super) fn todays_name(key: &str) -> &str {
    RENAMED.iter().find(|(old, _)| *old == key).map_or(key, |(_, today)| today)
}

/// Whether Flink has an option of this name that means nothing here.
pub(super) fn is_meaningless_here(key: &str) -> bool {
    let mut known = MEANINGLESS_HERE.split_ascii_whitespace();
    known.any(|known| if known.ends_with('.') { key.starts_with(known) } else { key == known })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options;

    #[test]
    fn no_option_of_ours_is_taken_for_meaningless() {
        for option in options::all() {
            assert!(!is_meaningless_here(option.key), "{}", option.key);
        }
    }

    #[test]
    fn older_names_are_of_options_that_exist() {
        for (old, today) in RENAMED {
            assert!(options::find(old).is_none() && options::find(today).is_some(), "{old}: {today}");
        }
        assert_eq!(todays_name("restart-strategy"), "restart-strategy.type");
        assert_eq!(todays_name("rest.port"), "rest.port");
    }

    #[test]
    fn flinks_other_options_are_known() {
        for key in [
            "jobmanager.memory.process.size",
            "blob.server.port",
            "high-availability.zookeeper.quorum",
            "high-availability",
            "state.backend.type",
            "taskmanager.memory.managed.fraction",
            "env.java.opts.all",
        ] {
            assert!(is_meaningless_here(key), "{key}");
        }
        assert!(!is_meaningless_here("taskmanager.numberOfTaskSlot"));
        assert!(!is_meaningless_here("blobs.server.port"));
    }
}
