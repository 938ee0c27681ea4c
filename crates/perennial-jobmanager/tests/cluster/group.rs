//! Three JobManagers: any of them takes any request, and losing the leader is not noticed by tasks.

use std::net::TcpListener;

use perennial_jobmanager::JobManagerHandle;
use perennial_rpc::artifact::ArtifactGateway;
use perennial_rpc::dispatcher::DispatcherGateway;
use perennial_types::{JobManagerId, JobStatus};
use tempfile::{TempDir, tempdir};
use tokio_stream::StreamExt;

use crate::fake_taskmanager::FakeTaskManager;
use crate::support::{artifact_bytes, job, reach, single, until, upload};

struct Group {
    members: Vec<(TempDir, JobManagerHandle)>,
}

impl Group {
    async fn start() -> Self {
        let holders: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<String> = holders.iter().map(|one| one.local_addr().unwrap().port().to_string()).collect();
        drop(holders);
        let peers: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let peers = peers.join(",");
        let mut members = Vec::new();
        for port in &ports {
            let dir = tempdir().unwrap();
            let options = [("jobmanager.rpc.port", port.as_str()), ("jobmanager.raft.peers", peers.as_str())];
            let member = single(&dir, &options).await;
            members.push((dir, member));
        }
        Self { members }
    }

    async fn leader(&self) -> JobManagerId {
        let mut found = None;
        until("all agree on a leader", async || {
            let mut leaders = Vec::new();
            for (_, member) in &self.members {
                leaders.push(member.dispatcher().cluster_status().await.unwrap().leader);
            }
            leaders.dedup();
            found = leaders.first().copied().flatten();
            leaders.len() == 1 && found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn standby(&self) -> &JobManagerHandle {
        let leader = self.leader().await;
        self.members.iter().map(|(_, member)| member).find(|member| member.id() != leader).unwrap()
    }

    fn attach(&self, taskmanager: &FakeTaskManager) -> Vec<crate::fake_taskmanager::Attached> {
        self.members.iter().map(|(_, member)| taskmanager.attach(member.advertised_address())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_artifacts_and_jobs_and_shows_them() {
    let group = Group::start().await;
    let standby = group.standby().await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = group.attach(&taskmanager);
    let dispatcher = standby.dispatcher();
    let artifact = upload(&standby.artifacts()).await;
    for (_, member) in &group.members {
        assert_eq!(member.artifacts().has(artifact).await, Ok(true), "{}", member.name());
        until("it serves the bytes", async || {
            let Ok(mut content) = member.artifacts().get(artifact).await else { return false };
            let mut bytes = Vec::new();
            while let Some(chunk) = content.bytes.next().await {
                bytes.extend_from_slice(&chunk.unwrap());
            }
            bytes == artifact_bytes()
        })
        .await;
    }
    let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    assert_eq!(dispatcher.list_jobs().await.unwrap().len(), 1);
    assert_eq!(dispatcher.taskmanagers().await.unwrap().len(), 1);
    assert_eq!(dispatcher.cluster_status().await.unwrap().members.len(), 3);
    for (_, member) in &group.members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_adopts_the_jobs_of_the_last() {
    let mut group = Group::start().await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = group.attach(&taskmanager);
    let leader = group.leader().await;
    let position = group.members.iter().position(|(_, member)| member.id() == leader).unwrap();
    let artifact = upload(&group.members[position].1.artifacts()).await;
    let id = group.members[position].1.dispatcher().submit_job(job(artifact, 1)).await.unwrap();
    reach(&group.members[position].1.dispatcher(), id, JobStatus::Running).await;
    let (_dir, old) = group.members.remove(position);
    old.shutdown().await;
    drop(old);

    let survivor = &group.members[0].1;
    reach(&survivor.dispatcher(), id, JobStatus::Running).await;
    assert_eq!(taskmanager.command_names(), ["start", "deploy"]);
    until("it is registered at the new leader", async || taskmanager.registrations() == 2).await;
    taskmanager.finish(id).await;
    reach(&survivor.dispatcher(), id, JobStatus::Finished).await;
    for (_, member) in &group.members {
        member.shutdown().await;
    }
}

/// FLINK-6174: a leader that loses its quorum answers no more, and tells no TaskManager anything.
#[tokio::test(flavor = "multi_thread")]
async fn losing_the_quorum_stops_no_task() {
    let mut group = Group::start().await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = group.attach(&taskmanager);
    let leader = group.leader().await;
    let position = group.members.iter().position(|(_, member)| member.id() == leader).unwrap();
    let (_dir, leader) = group.members.remove(position);
    let artifact = upload(&leader.artifacts()).await;
    let id = leader.dispatcher().submit_job(job(artifact, 1)).await.unwrap();
    reach(&leader.dispatcher(), id, JobStatus::Running).await;
    for (_, member) in &group.members {
        member.shutdown().await;
    }
    until("nobody answers for the group", async || leader.dispatcher().list_jobs().await.is_err()).await;
    assert_eq!(taskmanager.command_names(), ["start", "deploy"]);
    assert_eq!(taskmanager.running(id).len(), 2);
    leader.shutdown().await;
}
