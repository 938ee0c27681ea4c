//! The network is broken in parts, by a proxy between the processes.
//!
//! A broken way loses bytes silently, as a network does: they are held, and when the network is whole again the connections
//! are reset, or with `--heal arrives` what was held arrives.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use perennial_tests::{ClusterBuilder, Flow, Held, Report};

use crate::pauses::now_us;
use crate::scene::{ALL, LIMIT, Scene, ms};
use crate::stale;

/// Time after the network is whole again in which tasks are still looked at.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// Elections in a minute that a partition may cause which leaves a majority connected.
const ELECTIONS_PER_MINUTE: f64 = 2.0;

#[derive(Args)]
pub(crate) struct Options {
    /// Only these faults; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Fault>,
    /// How long the network is broken.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// What becomes of connections when it is whole again.
    #[arg(long, value_enum, default_value_t = Heal::Resets)]
    heal: Heal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Heal {
    /// Connections are reset.
    Resets,
    /// What was held arrives.
    Arrives,
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// The leader and the other JobManagers do not hear each other; TaskManagers hear all of them.
    LeaderAlone,
    /// The other JobManagers hear the leader, and it does not hear them.
    LeaderDeaf,
    /// The leader hears the other JobManagers, and they do not hear it.
    LeaderMute,
    /// The leader and one other JobManager do not hear each other; the third hears both.
    Bridge,
    /// The leader and the TaskManagers do not hear each other; all JobManagers do.
    NoTaskmanagers,
    /// The leader and one TaskManager do not hear each other.
    OneTaskmanager,
    /// A command of a deposed leader arrives late.
    StaleCommand,
}

/// What has to hold at the end of a fault, before the network is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// Another member than before.
    Another,
    /// Anyone, and few elections on the way.
    Anyone,
}

impl Fault {
    /// Pairs of sender and receiver between which nothing passes.
    fn ways(self, leader: usize) -> Vec<(String, String)> {
        let jm = |member: usize| format!("jm-{}", member + 1);
        let others: Vec<usize> = ALL.into_iter().filter(|member| *member != leader).collect();
        let taskmanagers = ["tm-1".to_owned(), "tm-2".to_owned()];
        let from = |to: &[String]| to.iter().map(|to| (jm(leader), to.clone())).collect::<Vec<_>>();
        let toward = |from: &[String]| from.iter().map(|from| (from.clone(), jm(leader))).collect::<Vec<_>>();
        let both = |peers: &[String]| [from(peers), toward(peers)].concat();
        let others: Vec<String> = others.into_iter().map(jm).collect();
        match self {
            Self::LeaderAlone | Self::StaleCommand => both(&others),
            Self::LeaderDeaf => toward(&others),
            Self::LeaderMute => from(&others),
            Self::Bridge => both(others.get(..1).unwrap_or_default()),
            Self::NoTaskmanagers => both(&taskmanagers),
            Self::OneTaskmanager => both(taskmanagers.get(..1).unwrap_or_default()),
        }
    }

    /// What is right, said before it is measured. In all of them the job's tasks are not touched.
    fn expected(self) -> &'static str {
        match self {
            Self::LeaderAlone => "the majority elects another; the old leader stops serving within its lease",
            Self::LeaderDeaf => "a leader that hears no majority serves nobody, and another is elected",
            Self::LeaderMute => "the others hear no leader and elect one, whom the old one hears of",
            Self::Bridge => {
                "at most one election, then calm: the member that hears nobody lead must not disturb the others"
            }
            Self::NoTaskmanagers => "a leader without TaskManagers hands over to one that hears them",
            Self::OneTaskmanager => "a leader that does not hear one TaskManager hands over to one that hears both",
            Self::StaleCommand => "the TaskManager refuses what a deposed leader has ordered, and counts it",
        }
    }

    fn leads(self) -> Leads {
        match self {
            Self::LeaderAlone | Self::LeaderDeaf | Self::LeaderMute | Self::StaleCommand => Leads::Another,
            // The leader has its majority, but is of no use to the TaskManagers it does not reach.
            Self::NoTaskmanagers | Self::OneTaskmanager => Leads::Another,
            Self::Bridge => Leads::Anyone,
        }
    }
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let all = Fault::value_variants();
    let faults = if options.only.is_empty() { all } else { &options.only };
    for fault in faults {
        let name = fault.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        eprintln!("{name}: expected is that {}", fault.expected());
        let done = match fault {
            Fault::StaleCommand => stale::run(binary, &mut report),
            _ => partition(binary, *fault, &name, options, &mut report),
        };
        // One fault that goes wrong altogether leaves the others to be seen.
        if let Err(error) = done {
            report.row(format!("{name}: carried out"), "yes", format!("{error:#}"), false);
        }
    }
    Ok(report)
}

fn partition(binary: &Path, fault: Fault, name: &str, options: &Options, report: &mut Report) -> Result<()> {
    let scene = Scene::start(ClusterBuilder::new(binary).proxied(), 2)?;
    let length = Duration::from_secs(options.seconds);
    let (leader, epoch) = scene.cluster.leader(LIMIT)?;
    let (start, start_us) = (Instant::now(), now_us());
    for (from, to) in fault.ways(leader) {
        scene.cluster.proxy()?.set(&from, &to, Flow::Hold);
    }
    std::thread::sleep(length);
    let leaders = scene.witness.leaders(start);
    let elections = leaders.len();
    let seen = match leaders.iter().next_back() {
        Some((epoch, (member, at))) => {
            format!("jm-{} in epoch {epoch}, elected after {}", member + 1, ms(*at - start))
        }
        None => format!("jm-{} in epoch {epoch} still", leader + 1),
    };
    let another = leaders.values().next_back().is_some_and(|(member, _)| *member != leader);
    match fault.leads() {
        Leads::Another => report.row(format!("{name}: who leads while it lasts"), "another", seen, another),
        Leads::Anyone => report.information(format!("{name}: who leads while it lasts"), seen),
    }
    let per_minute = elections.saturating_sub(1) as f64 * 60.0 / length.as_secs_f64();
    let seen = format!("{elections} in {} s", length.as_secs());
    // The first one may be the right answer to the fault.
    let bar = format!("≤ 1, and then ≤ {ELECTIONS_PER_MINUTE} a minute");
    report.row(format!("{name}: elections while it lasts"), bar, seen, per_minute <= ELECTIONS_PER_MINUTE);
    scene.check_gap(report, &format!("{name}: while it lasts"), start_us)?;

    let (healed, healed_us) = (Instant::now(), now_us());
    scene.cluster.proxy()?.heal(if options.heal == Heal::Resets { Held::IsReset } else { Held::Arrives });
    let whole = scene.wait_whole(&ALL);
    let seen = match &whole {
        Ok((leader, [led, attached, running])) => {
            format!("jm-{} after {}, TaskManagers {}, RUNNING {}", leader + 1, ms(*led), ms(*attached), ms(*running))
        }
        Err(error) => format!("{error:#}"),
    };
    let bar = "one leader, both TaskManagers, RUNNING within 30 s";
    report.row(format!("{name}: healed"), bar, seen, whole.is_ok());
    std::thread::sleep(AFTERWARDS);
    scene.check_gap(report, &format!("{name}: healed"), healed_us)?;
    let elections = scene.witness.leaders(healed).len();
    report.information(format!("{name}: elections when healed"), elections.to_string());
    scene.check_untouched(report, name, &ALL);
    scene.check_one_leader(report, name);
    check_not_bypassed(&scene, name, report)
}

/// Every process has gone through the proxy, or what was broken was not.
fn check_not_bypassed(scene: &Scene, name: &str, report: &mut Report) -> Result<()> {
    let proxy = scene.cluster.proxy()?;
    let pairs = ["jm-1", "jm-2", "jm-3", "tm-1", "tm-2"]
        .into_iter()
        .flat_map(|from| ["jm-1", "jm-2", "jm-3"].into_iter().filter(move |to| *to != from).map(move |to| (from, to)));
    let unused = pairs.filter(|(from, to)| proxy.carried(from, to) == 0).count();
    report.row(format!("{name}: pairs of processes that never used the proxy"), "0", unused.to_string(), unused == 0);
    Ok(())
}
