//! `perennial taskmanager`.

use perennial_taskmanager::TaskManager;
use perennial_types::Configuration;
use perennial_types::config::options;
use tracing::info;

use super::service::Service;
use super::signals::StopSignals;
use crate::failure::{Exit, Failure};
use crate::output;

pub(crate) async fn run(config: &Configuration) -> Result<Exit, Failure> {
    let mut signals = StopSignals::listen()?;
    let service = Service::of_this_process()?;
    let taskmanager = TaskManager::start(config).await.map_err(|error| {
        Failure::new(Exit::Failed, error)
            .hint("process.working-dir names the directory, taskmanager.resource-id what is below it")
    })?;
    // It waits for a JobManager from here on.
    service.ready();
    let mut status = taskmanager.status();
    let registered = async {
        // The sender lives as long as the TaskManager.
        match status.wait_for(|status| status.leader.is_some()).await {
            Ok(status) => status.leader,
            Err(_) => std::future::pending().await,
        }
    };
    let (name, fatal) = {
        let slots = config.get(&options::TASKMANAGER_SLOTS);
        let told = async {
            if let Some((leader, epoch)) = registered.await {
                output::line(format_args!(
                    "TaskManager {} ready: {slots} slots, registered at {leader} (epoch {epoch})",
                    taskmanager.id()
                ))?;
            }
            std::future::pending::<Result<(), Failure>>().await
        };
        tokio::select! {
            (name, _) = signals.next() => (name, None),
            fatal = taskmanager.failed() => ("a failure", Some(fatal)),
            failure = told => return failure.map(|()| Exit::Done),
        }
    };
    info!(cause = name, "stopping");
    service.stopping();
    signals.unless_again(taskmanager.shutdown()).await;
    match fatal {
        None => Ok(Exit::Done),
        Some(fatal) => Err(Failure::new(Exit::Unavailable, fatal)
            .hint("taskmanager.jobmanagers (or jobmanager.raft.peers) names the JobManagers to dial")),
    }
}
