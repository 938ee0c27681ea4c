//! Members that must not take part.

use std::time::Duration;

use bytes::Bytes;
use perennial_meta::OpenError;
use perennial_rpc::raft::{RaftCall, RaftClient, RaftClientConfig, RaftIdentity, RaftRpcError};
use perennial_types::{Incarnation, JobManagerId};

use crate::harness::{Group, copy_dir, eventually};

/// Waits for the reason why a member must end.
async fn fatal(group: &Group, n: usize) -> String {
    let fatal = group.store(n).fatal();
    tokio::time::timeout(Duration::from_secs(20), fatal).await.expect("the member finds out that it must not take part")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_directory_was_emptied_is_refused() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let victim = group.follower().await;
    group.await_artifact(victim, 1).await;
    group.stop(victim).await;
    std::fs::remove_dir_all(group.dir(victim)).unwrap();
    group.start(victim).await;
    let reason = fatal(&group, victim).await;
    assert!(reason.contains("known with another data directory"), "{reason}");
    assert!(reason.contains("new member with another name"), "{reason}");
    assert_eq!(group.store(victim).state().applied(), 0, "it took nothing in");
    group.write(2).await;
    let leader = group.leader().await;
    assert_ne!(leader, victim);
    // The same again after a restart: what was refused once is not forgotten.
    group.stop(victim).await;
    group.start(victim).await;
    assert!(fatal(&group, victim).await.contains("known with another data directory"));
    // And another leader knows it too.
    group.stop(leader).await;
    group.start(leader).await;
    group.leader().await;
    group.stop(victim).await;
    group.start(victim).await;
    assert!(fatal(&group, victim).await.contains("known with another data directory"));
    group.write(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_member_does_not_make_a_quorum_with_one_that_lags() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let (leader, victim) = (group.leader().await, group.follower().await);
    let lagging = 3 - leader - victim;
    group.await_artifact(lagging, 1).await;
    group.stop(lagging).await;
    group.write(2).await;
    group.await_artifact(victim, 2).await;
    group.stop_all().await;
    std::fs::remove_dir_all(group.dir(victim)).unwrap();
    group.start(lagging).await;
    group.start(victim).await;
    let reason = fatal(&group, victim).await;
    assert!(reason.contains("known with another data directory"), "{reason}");
    assert!(group.store(lagging).leadership().borrow().serving.is_none());
    group.start(leader).await;
    group.leader().await;
    group.await_artifact(lagging, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_an_older_copy_of_its_directory_is_refused() {
    let mut group = Group::started(3).await;
    group.write_many(0..50).await;
    let victim = group.follower().await;
    group.await_artifact(victim, 49).await;
    group.stop(victim).await;
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&group.dir(victim), copy.path());
    group.start(victim).await;
    group.write_many(50..150).await;
    let leader = group.leader().await;
    eventually("the leader has the acknowledgement", async || {
        (group.store(leader).members()[victim].lag == Some(0)).then_some(())
    })
    .await;
    group.stop(victim).await;
    std::fs::remove_dir_all(group.dir(victim)).unwrap();
    copy_dir(copy.path(), &group.dir(victim));
    group.start(victim).await;
    let reason = fatal(&group, victim).await;
    assert!(reason.contains("an older copy was restored"), "{reason}");
    group.write(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_cluster_is_refused() {
    let mut ours = Group::started(3).await;
    let mut theirs = Group::started(3).await;
    let victim = ours.follower().await;
    ours.write(1).await;
    theirs.write(1).await;
    theirs.await_artifact(victim, 1).await;
    ours.stop(victim).await;
    theirs.stop(victim).await;
    std::fs::remove_dir_all(ours.dir(victim)).unwrap();
    copy_dir(&theirs.dir(victim), &ours.dir(victim));
    ours.start(victim).await;
    let reason = fatal(&ours, victim).await;
    assert!(reason.contains("to cluster"), "{reason}");
    ours.write(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_member_or_group_is_not_opened() {
    // Its peer list is another one and its group was never founded: the list says who is in it.
    let mut group = Group::new(2).await;
    group.start(0).await;
    group.stop(0).await;
    let mut other = Group::new(3).await;
    copy_dir(&group.dir(0), &other.dir(0));
    let refused = other.try_start(0).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Foreign { .. }), "{refused}");
    let mut three = Group::started(3).await;
    three.stop(0).await;
    copy_dir(&three.dir(0), &other.dir(1));
    let refused = other.try_start(1).await.unwrap_err();
    assert!(refused.to_string().contains("belongs to jm-1, this JobManager is jm-2"), "{refused}");
}

/// Once a group is founded its log says who is in it. A member of a founded group that is given another list stays in its
/// group, and is no member of the one that the list would found.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_founded_group_stays_in_it_whatever_the_list_says() {
    let mut group = Group::started(1).await;
    group.write(1).await;
    let cluster = group.store(0).state().cluster_id().unwrap();
    group.stop(0).await;
    let mut other = Group::new(3).await;
    copy_dir(&group.dir(0), &other.dir(0));
    other.start(0).await;
    assert_eq!(other.leader().await, 0, "it is a group of one");
    assert_eq!(other.store(0).state().cluster_id().unwrap(), cluster);
    other.start(1).await;
    let reason = fatal(&other, 1).await;
    assert!(reason.contains("different lists of members"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_used_by_one_process() {
    let group = Group::started(1).await;
    let refused = perennial_meta::MetaStore::open(group.config(0)).await.err().unwrap();
    assert!(matches!(&refused, OpenError::InUse { .. }), "{refused}");
    group.write(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_by_name_of_what_differs() {
    let group = Group::started(3).await;
    let peer = &group.config(0).peers[0];
    let config = RaftClientConfig {
        peer: peer.id,
        address: peer.address.clone(),
        connect_timeout: Duration::from_secs(1),
        keep_alive: Duration::from_secs(1),
    };
    let client = RaftClient::new(&config).unwrap();
    let identity = RaftIdentity {
        cluster: None,
        group: 1,
        from: JobManagerId(2),
        to: JobManagerId(1),
        incarnation: Incarnation::random(),
        start: 0,
    };
    for call in [RaftCall::Handshake, RaftCall::Vote, RaftCall::PreVote, RaftCall::Append, RaftCall::TransferLeader] {
        let answer = client.call(call, identity, Bytes::from_static(b"\xff\x00garbage"), Duration::from_secs(5)).await;
        let Err(RaftRpcError::Refused(reason)) = answer else { panic!("{call:?}: {answer:?}") };
        assert!(reason.contains("have different lists of members"), "{reason}");
    }
    group.write(1).await;
}
