//! Seeds.

use std::sync::{Arc, Mutex};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;

use super::disk::Disk;
use super::ground::Here;
use super::network::Net;
use super::world::World;
use super::{Bug, Coverage, Report, run};
use crate::log::LogStore;
use crate::machine::Machine;
use crate::marker::{Floor, Marker, MarkerFile};
use crate::raft::TypeConfig;
use crate::snapshot::SnapshotDir;
use crate::state::StateDb;

/// Seeds that every run of the tests goes through. `PERENNIAL_SIM_SEEDS=300` runs more, `PERENNIAL_SIM_FROM=1000` others.
const SEEDS: u64 = 30;

/// Seeds within which a planted bug has to be caught.
const BUG_SEEDS: u64 = 40;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn explain(seed: u64, report: &Report) -> String {
    let last = report.trace.len().saturating_sub(number("PERENNIAL_SIM_LINES", 60) as usize);
    let trace = report.trace[last..].join("\n");
    let violations = report.violations.join("\n");
    format!(
        "{trace}\n\nseed {seed}:\n{violations}\n\nonce more: PERENNIAL_SIM_SEED={seed} cargo test -p perennial-meta sim::tests::one_seed\n"
    )
}

/// Members crash and lose what was not synced, are cut off, slowed, stopped and frozen, and their disks fail; whatever happens, nothing
/// is lost or doubled, no two lead, and no TaskManager obeys a deposed leader. Then all is healed and the group serves.
#[test]
fn what_is_promised_holds_whatever_fails() {
    let from = number("PERENNIAL_SIM_FROM", 0);
    let seeds = from..from + number("PERENNIAL_SIM_SEEDS", SEEDS);
    let left = Mutex::new(seeds.clone());
    let next = || left.lock().unwrap().next();
    let work = || {
        let mut coverage = Coverage::default();
        while let Some(seed) = next() {
            let report = run(seed, None);
            assert!(report.violations.is_empty(), "{}", explain(seed, &report));
            coverage.add(&report.coverage);
        }
        coverage
    };
    let mut coverage = Coverage::default();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(covered) => coverage.add(&covered),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("seeds {seeds:?}: {coverage:?}");
    assert!(coverage.is_complete(), "something did not happen at all: {coverage:?}");
}

/// To paste a seed into, or to give one in the environment.
#[test]
fn one_seed() {
    let seed = number("PERENNIAL_SIM_SEED", 4);
    if std::env::var("RUST_LOG").is_ok() {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    }
    let report = run(seed, None);
    assert!(report.violations.is_empty(), "{}", explain(seed, &report));
    if std::env::var("PERENNIAL_SIM_TRACE").is_ok() {
        println!("{}\n{:?}", report.trace.join("\n"), report.coverage);
    }
}

/// Timers would have elected later: there are none that end here. It failed before, with the first election.
#[test]
fn elections_that_come_to_nothing_are_followed_by_others_without_timers() {
    for (seed, elections) in [(0, 2), (1, 3), (2, 4), (4, 2), (9, 4)] {
        let (report, before, after) = World::new(seed, None).fail_elections(elections);
        assert!(report.violations.is_empty(), "{}", explain(seed, &report));
        assert!(before > 0 && after >= before + elections, "led {before}, then {after}: {}", explain(seed, &report));
    }
}

/// What it says kept the others from electing for good before.
#[test]
fn a_leader_that_hears_nothing_is_replaced() {
    for seed in [0, 1, 2, 4, 9] {
        let (report, replaced) = World::new(seed, None).deafen_leader();
        assert!(replaced && report.violations.is_empty(), "{}", explain(seed, &report));
    }
}

/// The model let the newer command overtake the older one before, which no stream does.
#[test]
fn a_leader_that_stood_still_commands_in_order() {
    let mut froze = 0;
    for seed in 0..5 {
        let (report, frozen) = World::new(seed, None).freeze_with_orders();
        assert!(report.violations.is_empty(), "{}", explain(seed, &report));
        froze += u64::from(frozen && report.coverage.leaderships == 1);
    }
    assert!(froze > 0, "commands never waited for a leader that leads on");
}

/// Were it not so, a seed that fails could not be looked at.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 9] {
        let (first, second) = (run(seed, None), run(seed, None));
        for (number, (a, b)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(a, b, "seed {seed}, line {number}");
        }
        assert_eq!(first.trace.len(), second.trace.len());
        assert_eq!(first.coverage, second.coverage);
    }
}

/// openraft's own suite, over the model of the log and the model of the state.
#[test]
fn openraft_accepts_the_models() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Suite::test_all(Models)).unwrap();
}

struct Models;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Models {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let rng = || SmallRng::seed_from_u64(7);
        let (net, disk) = (Net::new(1, rng()), Disk::new(0, rng(), None, Arc::default()));
        let here = Here { node: 0, net, disk, rng: Arc::new(Mutex::new(rng())) };
        let path = |name: &str| dir.path().join(name);
        let marker = Marker {
            cluster: None,
            member: 1,
            name: "jm-0".to_owned(),
            group: 1,
            directory: [0; 16],
            admitted: true,
            floor: Floor::default(),
            members: Default::default(),
            start: 0,
        };
        let marker = Arc::new(MarkerFile::create(&path("marker"), marker).unwrap());
        let (log, state) = here.run(|| {
            let log = LogStore::open(&path("log"), marker.clone()).unwrap();
            (log, StateDb::open(&path("state")).unwrap())
        });
        let snapshots = SnapshotDir::open(&path("snapshot")).unwrap();
        let machine = Machine::new(state, snapshots, marker, watch::channel(Default::default()).0, watch::channel(0).0);
        Ok((dir, log, machine.unwrap()))
    }
}

fn catch(bug: Bug, complaint: &str) {
    catch_from(0, bug, complaint);
}

fn catch_from(first: u64, bug: Bug, complaint: &str) {
    let mut said = Vec::new();
    for seed in first..first + BUG_SEEDS {
        let report = run(seed, Some(bug));
        if let Some(violation) = report.violations.iter().find(|violation| violation.contains(complaint)) {
            println!("{bug:?}, seed {seed}: {violation}");
            return;
        }
        said.extend(report.violations);
    }
    panic!("{bug:?} was not caught within {BUG_SEEDS} seeds by `{complaint}`, but: {said:#?}");
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    catch(Bug::AckBeforeSync, "has lost data");
}

#[test]
fn a_vote_that_is_not_synced_is_caught() {
    catch(Bug::VoteNotSynced, "has lost data");
}

/// Its vote is what keeps a term from having two leaders: it dies right after it has voted, and is asked again. That takes
/// two candidates in one term, which most seeds do not have.
#[test]
fn a_vote_that_nothing_remembers_is_caught() {
    catch_from(16, Bug::VoteForgotten, "after it ");
}

#[test]
fn a_member_that_forgets_what_it_synced_is_caught() {
    catch(Bug::ForgetsSynced, "has lost data");
}

#[test]
fn a_state_that_loses_a_change_is_caught() {
    catch(Bug::LosesAChange, "another state");
}

#[test]
fn a_taskmanager_that_ignores_the_fence_is_caught() {
    catch(Bug::IgnoresTheFence, "of a deposed leader");
}

#[test]
fn commanding_before_the_commit_is_caught() {
    catch(Bug::CommandsBeforeCommit, "which no committed entry orders");
}

#[test]
fn a_read_without_barrier_is_caught() {
    catch(Bug::ReadsWithoutBarrier, "asked for the newest state");
}
