//! Measurements, each beside what it is held against. Start with the programs: `data` (throughput of jobs, beside the same
//! work written by hand), `control` (start-up, idle memory, submission) and `failover` (kills, hand-overs and commits, beside
//! etcd). Nothing is shared but this page.
