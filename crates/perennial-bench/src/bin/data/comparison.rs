//! The workloads, each as the product runs it and as a limit, and what is asked of the product.

use clap::ValueEnum;

use crate::limit::Limit;

/// Keys of the small state: it fits the innermost cache.
const FEW_KEYS: u64 = 1_000;
/// Keys of the large state: it fits no cache.
const MANY_KEYS: u64 = 1_000_000;

/// Name of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// Generator, map, filter, map, discard.
    PassThrough,
    /// Running count over a thousand keys in one process.
    #[value(name = "count-1k")]
    Count1k,
    /// Running count over a million keys in one process.
    #[value(name = "count-1m")]
    Count1m,
    /// Count over a thousand keys in windows of one second of event time.
    #[value(name = "window-count-1k")]
    WindowCount1k,
    /// Count over a million keys in windows of one second of event time.
    #[value(name = "window-count-1m")]
    WindowCount1m,
    /// Running count over a thousand keys in two executors; half of the records cross.
    #[value(name = "count-1k-two-executors")]
    Count1kTwoExecutors,
    /// Running count over a million keys in two executors; half of the records cross.
    #[value(name = "count-1m-two-executors")]
    Count1mTwoExecutors,
}

/// Where the product runs a workload, always with two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deployment {
    /// In the local mini-cluster: one process.
    Local,
    /// On a cluster with two TaskManagers of one slot each: two executors.
    TwoExecutors,
}

/// One workload and its limit.
pub(crate) struct Comparison {
    /// Its name.
    pub(crate) name: Name,
    /// What it is, for the table.
    pub(crate) title: &'static str,
    /// The job that does it.
    pub(crate) job: &'static str,
    /// Number of different keys.
    pub(crate) keys: u64,
    /// Where the job runs.
    pub(crate) deployment: Deployment,
    /// The program that does it by hand.
    pub(crate) limit: Limit,
    /// Smallest share of the limit the product has to reach; without one the row is for information.
    pub(crate) bar: Option<f64>,
    /// What Flink 2.2.1 does of it on a machine like the one the bars are for.
    pub(crate) flink: Option<Flink>,
}

/// Flink's figure for a workload.
#[derive(Clone, Copy)]
pub(crate) struct Flink {
    /// Million records per second, measured with one TaskManager of two slots on two cores, checkpoints off.
    pub(crate) million_per_second: f64,
    /// How many times that the product has to reach.
    pub(crate) times: f64,
}

/// Every workload, in the order they are measured.
pub(crate) const COMPARISONS: [Comparison; 7] = [
    Comparison {
        name: Name::PassThrough,
        title: "pass-through: map, filter, map",
        job: "pass_through",
        keys: FEW_KEYS,
        deployment: Deployment::Local,
        limit: Limit::PassThrough,
        bar: Some(0.70),
        flink: Some(Flink { million_per_second: 30.0, times: 12.0 }),
    },
    Comparison {
        name: Name::Count1k,
        title: "keyed count, 1 k keys, one process",
        job: "keyed_count",
        keys: FEW_KEYS,
        deployment: Deployment::Local,
        limit: Limit::Threads,
        bar: Some(0.70),
        flink: Some(Flink { million_per_second: 10.2, times: 20.0 }),
    },
    Comparison {
        name: Name::Count1m,
        title: "keyed count, 1 M keys, one process",
        job: "keyed_count",
        keys: MANY_KEYS,
        deployment: Deployment::Local,
        limit: Limit::Threads,
        bar: Some(0.70),
        flink: Some(Flink { million_per_second: 3.7, times: 16.0 }),
    },
    Comparison {
        name: Name::WindowCount1k,
        title: "1 s event-time tumbling window count, 1 k keys",
        job: "window_count",
        keys: FEW_KEYS,
        deployment: Deployment::Local,
        limit: Limit::Windows,
        bar: None,
        flink: Some(Flink { million_per_second: 7.9, times: 20.0 }),
    },
    Comparison {
        name: Name::WindowCount1m,
        title: "1 s event-time tumbling window count, 1 M keys",
        job: "window_count",
        keys: MANY_KEYS,
        deployment: Deployment::Local,
        limit: Limit::Windows,
        bar: None,
        flink: Some(Flink { million_per_second: 1.25, times: 20.0 }),
    },
    Comparison {
        name: Name::Count1kTwoExecutors,
        title: "keyed count, 1 k keys, two executors, half remote",
        job: "keyed_count",
        keys: FEW_KEYS,
        deployment: Deployment::TwoExecutors,
        limit: Limit::Processes,
        bar: Some(0.60),
        flink: None,
    },
    Comparison {
        name: Name::Count1mTwoExecutors,
        title: "keyed count, 1 M keys, two executors, half remote",
        job: "keyed_count",
        keys: MANY_KEYS,
        deployment: Deployment::TwoExecutors,
        limit: Limit::Processes,
        bar: None,
        flink: None,
    },
];

/// Limits nothing is compared with, for the reader: other ways to do the keyed count in one process.
pub(crate) const INFORMATION: [(Limit, &str); 3] = [
    (Limit::Workers, "two threads that produce and count"),
    (Limit::ThreadsFlat, "four threads, flat table with prefetch"),
    (Limit::WorkersFlat, "two threads, flat table with prefetch"),
];

/// Key numbers the information is measured with.
pub(crate) const INFORMATION_KEYS: [u64; 2] = [FEW_KEYS, MANY_KEYS];
