//! One module per command.

mod cancel;
mod config;
mod endpoint;
mod exceptions;
mod health;
mod history;
mod info;
mod jobmanager;
mod list;
mod listener;
mod member;
mod recover;
mod run;
mod savepoint;
mod service;
mod signals;
mod snapshot;
mod standalone_job;
mod status;
mod survey;
mod taskmanager;
mod version;

pub(crate) use signals::StopSignals;

use anyhow::Context;
use perennial_types::Configuration;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::args::{Command, ConfigCommand, EndpointCommand, Global, MemberCommand, RaftCommand};
use crate::failure::{Exit, Failure};
use crate::{demo, settings};

/// Threads that run the tasks of a JobManager or TaskManager. They wait for the network most of the time; what blocks
/// runs on threads of its own.
const SERVER_THREADS: usize = 2;

/// Variable that names the process a JobManager or TaskManager ends with. The demonstration sets it, so that nothing stays
/// behind when it is killed.
pub(crate) const PARENT_VARIABLE: &str = "PERENNIAL_PARENT_PID";

/// Carries out a command.
pub(crate) fn run(global: Global, command: Command) -> Result<Exit, Failure> {
    let config = settings::load(&global)?;
    match command {
        Command::JobManager => server(&config, jobmanager::run(&config, None)),
        Command::StandaloneJob(options) => server(&config, standalone_job::run(options, &config)),
        Command::TaskManager => server(&config, taskmanager::run(&config)),
        Command::Demo(options) => client(&config, demo::run(options, &config)),
        Command::Run(options) => asking(&global, &config, run::run(options, &global, &config)),
        Command::List(options) => asking(&global, &config, list::run(options, &global, &config)),
        Command::Cancel { job } => asking(&global, &config, cancel::run(job, &global, &config)),
        Command::Savepoint { command } => client(&config, savepoint::run(command, &global, &config)),
        Command::Exceptions { job, output } => {
            asking(&global, &config, exceptions::run(job, output.format, &global, &config))
        }
        Command::Info(options) => client(&config, info::run(options, &global, &config)),
        Command::Status(options) => asking(&global, &config, status::run(options, &global, &config)),
        Command::Health => client(&config, health::run(&config)),
        Command::Member { command: MemberCommand::List { output } }
        | Command::Raft { command: RaftCommand::ListPeers { output } } => {
            client(&config, endpoint::members(output.format, &global, &config))
        }
        Command::Member { command } => asking(&global, &config, member::run(command, &global, &config)),
        Command::Raft { command: RaftCommand::TransferLeader { to } } => {
            asking(&global, &config, member::transfer(to, &global, &config))
        }
        Command::Raft { command: RaftCommand::History { output } } => {
            asking(&global, &config, history::run(output.format, &global, &config))
        }
        Command::Endpoint { command: EndpointCommand::Status { cluster, output } } => {
            client(&config, endpoint::status(cluster, output.format, &global, &config))
        }
        Command::Snapshot { command } => client(&config, snapshot::run(command, &global, &config)),
        Command::Recover { command } => client(&config, recover::run(command)),
        Command::Config { command: ConfigCommand::Show { origin, output } } => {
            config::show(&config, origin, output.format).map(|()| Exit::Done)
        }
        Command::Version { output } => version::show(output.format).map(|()| Exit::Done),
    }
}

/// Runs a JobManager or TaskManager to its end.
fn server(config: &Configuration, run: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    settings::log(config)?;
    end_with_parent()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .thread_name("perennial")
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let ended = runtime.block_on(run);
    // Whatever still blocks on a disk or a name server does not keep the process from ending.
    runtime.shutdown_background();
    ended
}

/// Has this process stopped as by SIGTERM when the one that started it ends, if that is wanted.
fn end_with_parent() -> anyhow::Result<()> {
    let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw)
    else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the parent process")?;
    // It may have ended before it could be followed.
    anyhow::ensure!(
        getppid() == Some(parent),
        "the process {} that started this one has ended",
        parent.as_raw_nonzero()
    );
    Ok(())
}

/// Runs a command that asks a cluster. When it finds no leader, it says who is there and who is not.
fn asking(
    global: &Global,
    config: &Configuration,
    run: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    client(config, async {
        match run.await {
            Err(failure) if failure.is_unavailable() => {
                Err(survey::explain(failure, &settings::client(global, config)?).await)
            }
            ended => ended,
        }
    })
}

/// Runs a command that may ask a cluster.
fn client(config: &Configuration, run: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    settings::client_log(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let ended = runtime.block_on(run);
    runtime.shutdown_background();
    ended
}
