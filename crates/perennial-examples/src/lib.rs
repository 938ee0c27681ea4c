//! Jobs as a user would write them, each in a file of its own. One artifact registers all of them.
//!
//! Start with [`wordcount`].

pub mod broadcast_rules;
pub mod event_timers;
pub mod exactly_once;
pub mod failing;
pub mod gap_probe;
pub mod idle;
pub mod join;
pub mod keyed_count;
pub mod passthrough;
pub mod running_sums;
pub mod slow_sink;
pub mod stubborn;
pub mod trivial;
pub mod window_count;
pub mod wordcount;

use perennial::JobRegistry;

/// All jobs of this crate.
pub fn registry() -> JobRegistry {
    JobRegistry::new()
        .job("wordcount", wordcount::build)
        .job("keyed_count", keyed_count::build)
        .job("exactly_once", exactly_once::build)
        .job("running_sums", running_sums::build)
        .job("event_timers", event_timers::build)
        .job("broadcast_rules", broadcast_rules::build)
        .job("window_count", window_count::build)
        .job("join", join::build)
        .job("passthrough", passthrough::build)
        .job("slow_sink", slow_sink::build)
        .job("stubborn", stubborn::build)
        .job("trivial", trivial::build)
        .job("idle", idle::build)
        .job("failing", failing::build)
        .job("gap_probe", gap_probe::build)
}
