//! Electing, writing, reading, handing over.

use std::time::Duration;

use perennial_meta::{Command, Outcome, WriteError};

use crate::harness::{Group, digest, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_one_serves_and_keeps_its_state() {
    let mut group = Group::started(1).await;
    let cluster = group.store(0).state().cluster_id().unwrap();
    assert!(cluster.is_some());
    group.write(1).await;
    let epoch = group.store(0).leadership().borrow().epoch;
    group.stop(0).await;
    group.start(0).await;
    group.leader().await;
    assert!(group.store(0).leadership().borrow().epoch > epoch, "each leadership has its own epoch");
    assert_eq!(group.store(0).state().cluster_id().unwrap(), cluster);
    assert_eq!(group.store(0).state().artifact(digest(1)).unwrap().unwrap().size, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_leader_writes_is_read_everywhere_and_nobody_else_writes() {
    let group = Group::started(3).await;
    let leader = group.leader().await;
    let written = group.write(7).await;
    assert_eq!(written.outcome, Outcome::Done);
    assert_eq!(written.epoch, group.store(leader).leadership().borrow().epoch);
    assert_eq!(group.store(leader).state().applied(), written.index, "applied here when it resolves");
    group.store(leader).read_barrier().await.unwrap();
    for n in group.running() {
        group.await_artifact(n, 7).await;
        let view = group.store(n).leadership().borrow().clone();
        assert_eq!(view.serving.is_some(), n == leader);
        if n != leader {
            let refused = group.store(n).write(Command::ForgetJobs { jobs: vec![] }).await.unwrap_err();
            let WriteError::NotLeader { leader: Some((id, address)) } = refused else { panic!("{refused}") };
            assert_eq!((id.0, address), (leader as u64 + 1, group.config(0).peers[leader].address.clone()));
            assert!(matches!(group.store(n).read_barrier().await, Err(WriteError::NotLeader { .. })));
        }
    }
    let cluster = group.store(leader).state().cluster_id().unwrap();
    for n in group.running() {
        eventually("all know the cluster", async || {
            (group.store(n).state().cluster_id().unwrap() == cluster).then_some(())
        })
        .await;
        assert_eq!(group.store(n).members().len(), 3);
    }
    eventually("the leader knows that nobody lags", async || {
        let members = group.store(leader).members();
        members.iter().all(|member| member.voter && member.lag == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_takes_over_in_milliseconds_when_the_leader_stops() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let (first, epoch) = {
        let leader = group.leader().await;
        (leader, group.store(leader).leadership().borrow().epoch)
    };
    let stopping = std::time::Instant::now();
    group.stop(first).await;
    let second = group.leader().await;
    println!("handed over after {:?}", stopping.elapsed());
    assert_ne!(first, second);
    let view = group.store(second).leadership().borrow().clone();
    assert!(view.epoch > epoch);
    assert_eq!(group.store(second).state().artifact(digest(1)).unwrap().unwrap().size, 1);
    group.write(2).await;
    group.start(first).await;
    group.await_artifact(first, 2).await;
    let led = group.store(second).state().leaderships().unwrap();
    assert!(led.windows(2).all(|pair| pair[0].epoch < pair[1].epoch));
    assert_eq!(led.last().map(|record| record.epoch), Some(view.epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_found_a_group_and_the_third_joins_later() {
    let mut group = Group::new(3).await;
    group.start(2).await;
    group.start(1).await;
    group.leader().await;
    group.write(1).await;
    group.start(0).await;
    group.await_artifact(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_written_and_nobody_serves() {
    let mut group = Group::started(3).await;
    let leader = group.leader().await;
    for n in 0..3 {
        if n != leader {
            group.stop(n).await;
        }
    }
    let store = group.store(leader);
    eventually("the leader notices", async || store.leadership().borrow().serving.is_none().then_some(())).await;
    let write = tokio::time::timeout(Duration::from_secs(10), store.write(Command::ForgetJobs { jobs: vec![] }));
    let refused = write.await.expect("a write has a deadline of its own").unwrap_err();
    assert!(matches!(refused, WriteError::Unavailable(_) | WriteError::NotLeader { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_kept_when_all_members_restart() {
    let mut group = Group::started(3).await;
    group.write_many(0..200).await;
    let cluster = {
        let leader = group.leader().await;
        group.store(leader).state().cluster_id().unwrap()
    };
    group.stop_all().await;
    group.start_all().await;
    let leader = group.leader().await;
    let state = group.store(leader).state();
    assert_eq!(state.cluster_id().unwrap(), cluster);
    for number in 0..200 {
        assert!(state.artifact(digest(number)).unwrap().is_some(), "artifact {number}");
    }
}
