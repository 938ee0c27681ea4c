//! Members of a metadata group are killed again and again while it is written to.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_tests::Report;

use crate::group::{Group, LIMIT, Ranges};
use crate::interrupt::{self, wait_for};
use crate::load::Load;
use crate::random::{Random, fresh_seed};

/// Members of the group.
const MEMBERS: usize = 3;

/// Acknowledged records read back linearizably after each kill.
const SAMPLE: usize = 8;

#[derive(Args)]
pub(crate) struct Options {
    /// How many processes are killed.
    #[arg(long, default_value_t = 1000)]
    kills: u64,
    /// Writers.
    #[arg(long, default_value_t = 4)]
    writers: u64,
    /// Choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Directory for everything the members write; kept afterwards. By default a temporary one.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Runs and reports.
pub(crate) fn run(options: &Options) -> Result<Report> {
    interrupt::listen()?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let temporary = std::env::temp_dir().join(format!("perennial-kills-{}", std::process::id()));
    let root = options.keep.clone().unwrap_or_else(|| temporary.clone());
    std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let dirs = (1..=MEMBERS).map(|n| root.join(format!("member-{n}"))).collect();
    let mut group = Group::new(dirs, &root)?;
    let outcome = kill_on(&mut group, options, &mut Random::new(seed));
    drop(group);
    match &outcome {
        // The logs are needed.
        Err(_) => eprintln!("the members' directory is kept: {}", root.display()),
        Ok(_) if options.keep.is_none() => _ = std::fs::remove_dir_all(&temporary),
        Ok(_) => {}
    }
    outcome
}

fn kill_on(group: &mut Group, options: &Options, random: &mut Random) -> Result<Report> {
    for n in group.all() {
        group.start(n)?;
    }
    let (_, first_epoch) = group.wait_leader()?;
    let mut load = Load::start(options.writers, &group.addresses())?;
    let (begun, mut killed, mut read, mut missing) = (Instant::now(), 0, 0, Vec::new());
    let mut kinds = [0_u64; 3];
    while killed < options.kills {
        std::thread::sleep(Duration::from_millis(random.within(50..300)));
        interrupt::check()?;
        group.check_alive()?;
        let leader = group.leader().map(|(n, _)| n);
        let (kind, victims): (usize, Vec<usize>) = match (random.within(0..5), leader) {
            (0, _) => (2, group.all().collect()),
            (1..3, Some(leader)) => (0, vec![leader]),
            (_, leader) => {
                let others: Vec<usize> = group.all().filter(|n| Some(*n) != leader).collect();
                let chosen = random.within(0..others.len() as u64) as usize;
                (1, others.get(chosen).copied().into_iter().collect())
            }
        };
        for n in &victims {
            group.process(*n)?.kill()?;
            killed += 1;
        }
        for n in &victims {
            group.start(*n)?;
        }
        if let Some(count) = kinds.get_mut(kind) {
            *count += 1;
        }
        // Now and then the next kill comes during the election.
        let sample = load.newest(SAMPLE);
        if random.within(0..4) > 0 {
            let before = load.count();
            wait_for("the group to take writes again", LIMIT, || {
                group.check_alive()?;
                ensure!(load.count() > before, "none was acknowledged since {before}");
                Ok(())
            })?;
            for number in sample {
                read += 1;
                if !group.read(number)? {
                    missing.push(number);
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    load.stop()?;
    let (_, last_epoch) = group.wait_leader()?;
    let dumps = converged(group)?;
    let acknowledged = load.acknowledged();

    let mut report = Report::default();
    let [leaders, followers, all] = kinds;
    let seen =
        format!("{killed} in {seconds:.0} s: {leaders} leaders, {followers} followers, {all} times all {MEMBERS}");
    report.row("processes killed with SIGKILL", options.kills.to_string(), seen, killed >= options.kills);
    let (count, unknown) = (acknowledged.len(), load.unknown());
    let enough = count as u64 >= killed;
    report.row("writes", "more than kills", format!("{count} acknowledged, {unknown} with unknown outcome"), enough);
    report.row("elections", "-", (last_epoch - first_epoch).to_string(), true);
    report.row(
        "acknowledged writes missing in a linearizable read after a restart",
        "0",
        format!("{} of {read} reads", missing.len()),
        missing.is_empty(),
    );
    for (n, dump) in (1..).zip(&dumps) {
        let lost = acknowledged.iter().filter(|number| !dump.contain(**number)).count();
        let seen = format!("{lost}; it has {} records", dump.count());
        report.row(format!("acknowledged writes lost on member {n}"), "0", seen, lost == 0);
    }
    let equal = dumps.iter().zip(dumps.iter().skip(1)).all(|(one, next)| one == next);
    report.row("members with the same records", MEMBERS.to_string(), if equal { "all" } else { "they differ" }, equal);
    Ok(report)
}

/// What every member has, once the last of them has caught up with the others.
pub(crate) fn converged(group: &mut Group) -> Result<Vec<Ranges>> {
    wait_for("all members to have the same records", LIMIT, || {
        group.check_alive()?;
        let dumps = group.all().map(|n| group.dump(n)).collect::<Result<Vec<Ranges>>>()?;
        let counts: Vec<u64> = dumps.iter().map(Ranges::count).collect();
        ensure!(counts.iter().zip(counts.iter().skip(1)).all(|(one, next)| one == next), "they have {counts:?}");
        Ok(dumps)
    })
}
