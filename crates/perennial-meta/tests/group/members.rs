//! Members that come and go: add, promote, remove, and what must not be.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use perennial_meta::OpenError;
use perennial_rpc::group::GroupError;
use perennial_types::JobManagerId;

use crate::harness::{Group, artifact, digest, eventually};

async fn fatal(group: &Group, n: usize) -> String {
    let fatal = group.store(n).fatal();
    tokio::time::timeout(Duration::from_secs(20), fatal).await.expect("the member finds out that it was removed")
}

/// Numbers of the voters as a member sees them.
fn voters(group: &Group, n: usize) -> BTreeSet<u64> {
    group.store(n).members().into_iter().filter(|member| member.voter).map(|member| member.id.0).collect()
}

fn refused<T: std::fmt::Debug>(answer: Result<T, GroupError>) -> String {
    match answer {
        Err(GroupError::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_learns_first_and_then_votes() {
    let mut group = Group::started(3).await;
    group.write_many(0..50).await;
    let newcomer = group.newcomer().await;
    let added = group.add(newcomer).await;
    assert_eq!((added.member.id, added.member.voter, added.was_so), (JobManagerId(4), false, false));
    assert!(group.add(newcomer).await.was_so, "said again");
    let early = group.ask_leader(async |store| store.promote_member("jm-4").await).await;
    assert!(refused(early).contains("jm-4 was not heard of"), "it does not run");
    group.start(newcomer).await;
    group.await_artifact(newcomer, 49).await;
    let leader = group.leader().await;
    assert_eq!(voters(&group, leader), [1, 2, 3].into());
    group.promote(newcomer).await;
    assert!(group.ask_leader(async |store| store.promote_member("4").await).await.unwrap().was_so);
    group.write(100).await;
    for n in group.running() {
        eventually("everybody knows the four", async || (voters(&group, n) == [1, 2, 3, 4].into()).then_some(())).await;
        group.await_artifact(n, 100).await;
    }
    // It counts: with one of the first three away, a quorum of four needs it.
    let follower = (0..3).find(|n| *n != leader).unwrap();
    group.stop(follower).await;
    group.write(101).await;
    group.await_artifact(newcomer, 101).await;
    // And it finds its group again by its directory alone.
    group.stop(newcomer).await;
    group.start(follower).await;
    group.write(102).await;
    group.start(newcomer).await;
    group.await_artifact(newcomer, 102).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_told_so_and_may_not_come_back() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let victim = group.follower().await;
    let removed = group.remove(victim).await.unwrap();
    assert_eq!((removed.member.id.0, removed.was_so), (victim as u64 + 1, false));
    assert!(group.remove(victim).await.unwrap().was_so, "said again");
    let reason = fatal(&group, victim).await;
    assert!(reason.contains("was removed from the group"), "{reason}");
    assert!(reason.contains("perennial member add NEWNAME=HOST:PORT"), "{reason}");
    group.stop(victim).await;
    group.write(2).await;
    group.start(victim).await;
    assert!(fatal(&group, victim).await.contains("was removed from the group"));
    group.stop(victim).await;
    // Nor under its old name with an empty directory, whether it says that it joins or not.
    std::fs::remove_dir_all(group.dir(victim)).unwrap();
    group.start(victim).await;
    assert!(fatal(&group, victim).await.contains("was removed from the group"));
    let name = group.name(victim);
    let again = group.ask_leader(async |store| store.add_member(&name, "127.0.0.1:9").await).await;
    assert!(refused(again).contains("was removed before"));
    group.write(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_first() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let leader = group.leader().await;
    group.remove(leader).await.unwrap();
    assert!(fatal(&group, leader).await.contains("was removed from the group"));
    group.stop(leader).await;
    let next = group.leader().await;
    assert_ne!(next, leader);
    assert_eq!(voters(&group, next).len(), 2);
    group.write(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_never_used_again() {
    let mut group = Group::started(1).await;
    for expected in 2..5 {
        let newcomer = group.newcomer().await;
        assert_eq!(group.add(newcomer).await.member.id, JobManagerId(expected));
        group.remove(newcomer).await.unwrap();
    }
    // Also by one that was made from a snapshot only, and after a restart.
    group.stop(0).await;
    group.start(0).await;
    let newcomer = group.newcomer().await;
    assert_eq!(group.add(newcomer).await.member.id, JobManagerId(5));
}

/// Three, one, three: with new names each time, and all that was written is there at the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_shrinks_to_one_and_grows_again() {
    let mut group = Group::started(3).await;
    group.snapshot_entries = 20;
    group.log_entries_kept = 10;
    group.write_many(0..30).await;
    for _ in 0..2 {
        let gone = group.follower().await;
        group.remove(gone).await.unwrap();
        group.stop(gone).await;
    }
    let last = group.leader().await;
    assert_eq!(voters(&group, last).len(), 1);
    let only = group.name(last);
    let reason = refused(group.ask_leader(async |store| store.remove_member(&only).await).await);
    assert!(reason.contains("the only member that votes"), "{reason}");
    group.write(30).await;
    let (a, b) = (group.take_in().await, group.take_in().await);
    group.write(31).await;
    group.remove(last).await.unwrap();
    group.stop(last).await;
    let c = group.take_in().await;
    group.write(32).await;
    for n in [a, b, c] {
        for number in 0..33 {
            group.await_artifact(n, number).await;
        }
        eventually("the new three vote", async || (voters(&group, n) == [4, 5, 6].into()).then_some(())).await;
    }
    // All at once, and nobody of the founders is left.
    group.stop_all().await;
    for n in [c, a, b] {
        group.start(n).await;
    }
    group.write(33).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_members_are_added_and_removed() {
    let mut group = Group::started(3).await;
    let newcomer = group.newcomer().await;
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let writing = async |group: &Group| {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            group.write(number).await;
            acknowledged.store(number + 1, Ordering::Relaxed);
        }
    };
    let progress = async || {
        let before = acknowledged.load(Ordering::Relaxed);
        eventually("writes go on", async || (acknowledged.load(Ordering::Relaxed) > before + 5).then_some(())).await;
    };
    tokio::join!(writing(&group), async {
        progress().await;
        group.add(newcomer).await;
        progress().await;
        stop.store(true, Ordering::Relaxed);
    });
    group.start(newcomer).await;
    stop.store(false, Ordering::Relaxed);
    let more = async |group: &Group| {
        while !stop.load(Ordering::Relaxed) {
            let number = acknowledged.load(Ordering::Relaxed);
            group.write(number).await;
            acknowledged.store(number + 1, Ordering::Relaxed);
        }
    };
    let leader = group.leader().await;
    tokio::join!(more(&group), async {
        group.promote(newcomer).await;
        progress().await;
        group.remove(leader).await.unwrap();
        progress().await;
        stop.store(true, Ordering::Relaxed);
    });
    group.stop(leader).await;
    let all = acknowledged.load(Ordering::Relaxed);
    for n in group.running() {
        group.await_artifact(n, all - 1).await;
        for number in 0..all {
            assert!(group.store(n).state().artifact(digest(number)).unwrap().is_some(), "{number} is lost on {n}");
        }
    }
    assert!(artifact(0).encode().len() > 100);
}

/// Two of three are away: removing the one that is there would leave nobody to decide.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_lose_the_quorum_is_refused_and_the_dead_are_removed() {
    let mut group = Group::started(3).await;
    let dead = group.follower().await;
    let leader = group.leader().await;
    let alive = 3 - dead - leader;
    group.stop(dead).await;
    let reason = eventually("the silence is noticed", async || {
        match group.ask_leader(async |store| store.remove_member(&group.name(alive)).await).await {
            Err(GroupError::Refused(reason)) => Some(reason),
            other => panic!("{other:?}"),
        }
    });
    // The leader counts a member as reached for two seconds.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let reason = reason.await;
    assert!(reason.contains("would have no quorum") && reason.contains(&group.name(dead)), "{reason}");
    group.remove(dead).await.unwrap();
    group.remove(alive).await.unwrap();
    group.write(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let (leader, to) = (group.leader().await, group.follower().await);
    let name = group.name(to);
    let handed = group.store(leader).transfer_leader(Some(&name)).await.unwrap();
    assert_eq!((handed.from.id.0, handed.to.id.0), (leader as u64 + 1, to as u64 + 1));
    assert!(handed.new_epoch > handed.old_epoch);
    // The old leader learns of it a moment before it says so.
    eventually("it serves, alone", async || (group.leader().await == to).then_some(())).await;
    group.write(2).await;
    let reason = refused(group.store(to).transfer_leader(Some(&name)).await);
    assert!(reason.contains("leads already"), "{reason}");
    let unknown = group.store(to).transfer_leader(Some("nobody")).await;
    assert!(matches!(unknown, Err(GroupError::UnknownMember(_))), "{unknown:?}");
    let newcomer = group.newcomer().await;
    let learner = group.add(newcomer).await.member.name;
    let reason = refused(group.ask_leader(async |store| store.transfer_leader(Some(&learner)).await).await);
    assert!(reason.contains("is a learner"), "{reason}");
    let before = group.leader().await;
    group.store(before).transfer_leader(None).await.unwrap();
    eventually("another serves", async || (group.leader().await != before).then_some(())).await;
    group.write(3).await;
    group.stop_all().await;
}

/// The name of a member's directory, from its marker: behind magic, version, cluster, member and the hash of the founders.
fn directory_of(group: &Group, n: usize) -> Vec<u8> {
    let marker = std::fs::read(group.dir(n).join("meta/marker")).unwrap();
    let hash = &marker[4 + 1 + 17 + 1..];
    let behind = hash.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    hash[behind..behind + 16].to_vec()
}

/// A member that was away while the members changed hears from those it still knows who they are now.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_finds_the_members_of_now() {
    let mut group = Group::started(3).await;
    group.write(1).await;
    let away = group.follower().await;
    group.await_artifact(away, 1).await;
    group.stop(away).await;
    let newcomer = group.take_in().await;
    group.write(2).await;
    group.start(away).await;
    group.await_artifact(away, 2).await;
    eventually("it knows the four", async || (voters(&group, away) == [1, 2, 3, 4].into()).then_some(())).await;
    // The newcomer remembers its directory though it was away when that one greeted.
    let directory = directory_of(&group, away);
    eventually("the two have met", async || {
        let marker = std::fs::read(group.dir(newcomer).join("meta/marker")).unwrap();
        marker.windows(16).any(|bytes| bytes == directory).then_some(())
    })
    .await;
    group.stop(away).await;
    std::fs::remove_dir_all(group.dir(away)).unwrap();
    for n in 0..3 {
        if n != away {
            group.stop(n).await;
        }
    }
    let asks_the_newcomer = perennial_meta::MetaConfig { join: true, ..group.config(newcomer) };
    let away_config = group.config(away);
    let (data_dir, name, address) = (away_config.data_dir, away_config.name, away_config.address);
    let config = perennial_meta::MetaConfig { data_dir, name, address, ..asks_the_newcomer };
    group.try_start_with(away, config).await.unwrap();
    let reason = fatal(&group, away).await;
    assert!(reason.contains("known with another data directory"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_neither_founds_nor_joins_says_what_to_do() {
    let mut group = Group::started(1).await;
    let stranger = group.newcomer().await;
    let peers = group.config(0).peers;
    let config = perennial_meta::MetaConfig { join: false, peers, ..group.config(stranger) };
    let refused = perennial_meta::MetaStore::open(config).await.err().unwrap();
    assert!(matches!(&refused, OpenError::NotAMember { .. }), "{refused}");
    assert!(refused.to_string().contains("perennial member add jm-2=HOST:PORT"), "{refused}");
}
