//! Damage, snapshots, rebuilding.

use std::path::PathBuf;

use perennial_meta::OpenError;

use crate::harness::{Group, digest, eventually};

/// Asserts that a member's state has the artifacts of these numbers.
fn check_artifacts(group: &Group, n: usize, numbers: std::ops::Range<u64>) {
    let state = group.store(n).state();
    for number in numbers {
        assert!(state.artifact(digest(number)).unwrap().is_some(), "artifact {number}");
    }
}

fn snapshots(group: &Group, n: usize) -> Vec<PathBuf> {
    let files = std::fs::read_dir(group.dir(n).join("meta/snapshot")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "snapshot")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_gone_or_garbled_is_rebuilt_from_snapshot_and_log() {
    let mut group = Group::new(1).await;
    (group.snapshot_entries, group.log_entries_kept) = (100, 20);
    group.start(0).await;
    group.leader().await;
    for start in (0..450).step_by(50) {
        group.write_many(start..start + 50).await;
    }
    eventually("a snapshot is there", async || (!snapshots(&group, 0).is_empty()).then_some(())).await;
    group.stop(0).await;
    let state = group.dir(0).join("meta/state");
    std::fs::remove_dir_all(&state).unwrap();
    group.start(0).await;
    group.leader().await;
    check_artifacts(&group, 0, 0..450);
    group.stop(0).await;
    for garbled in ["db", "conf"] {
        let path = state.join(garbled);
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[length / 4..length / 2].fill(0x5a);
        std::fs::write(&path, &bytes).unwrap();
        group.start(0).await;
        group.leader().await;
        check_artifacts(&group, 0, 0..450);
        group.stop(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_catches_up_by_snapshot() {
    let mut group = Group::new(3).await;
    (group.snapshot_entries, group.log_entries_kept) = (100, 10);
    group.start_all().await;
    group.leader().await;
    group.write(0).await;
    let away = group.follower().await;
    group.await_artifact(away, 0).await;
    group.stop(away).await;
    for start in (1..601).step_by(50) {
        group.write_many(start..start + 50).await;
    }
    let leader = group.leader().await;
    eventually("the leader has a snapshot", async || (!snapshots(&group, leader).is_empty()).then_some(())).await;
    group.start(away).await;
    group.await_artifact(away, 600).await;
    check_artifacts(&group, away, 0..601);
    assert!(!snapshots(&group, away).is_empty(), "it came by snapshot: the log before it is gone");
    assert_eq!(group.store(away).state().cluster_id().unwrap(), group.store(leader).state().cluster_id().unwrap());
    group.stop(away).await;
    std::fs::remove_dir_all(group.dir(away).join("meta/state")).unwrap();
    group.write(601).await;
    group.start(away).await;
    group.await_artifact(away, 601).await;
    check_artifacts(&group, away, 0..602);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rebuilt_is_refused_with_the_name_of_the_file() {
    let mut group = Group::new(1).await;
    (group.snapshot_entries, group.log_entries_kept) = (100, 0);
    group.start(0).await;
    group.leader().await;
    for start in (0..400).step_by(50) {
        group.write_many(start..start + 50).await;
    }
    eventually("a snapshot is there", async || (!snapshots(&group, 0).is_empty()).then_some(())).await;
    group.stop(0).await;
    let meta = group.dir(0).join("meta");

    let snapshot = snapshots(&group, 0).remove(0);
    let good = std::fs::read(&snapshot).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&snapshot, &bad).unwrap();
    let refused = group.try_start(0).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Damaged { path, .. } if *path == snapshot), "{refused}");
    std::fs::write(&snapshot, &good).unwrap();

    let marker = std::fs::read(meta.join("marker")).unwrap();
    std::fs::remove_file(meta.join("marker")).unwrap();
    let refused = group.try_start(0).await.unwrap_err();
    assert!(refused.to_string().contains("marker is damaged: it is missing"), "{refused}");
    std::fs::write(meta.join("marker"), b"PMRK").unwrap();
    assert!(matches!(group.try_start(0).await, Err(OpenError::Damaged { .. })));
    std::fs::write(meta.join("marker"), &marker).unwrap();

    std::fs::rename(meta.join("log"), meta.join("log.away")).unwrap();
    let refused = group.try_start(0).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Behind { .. }), "{refused}");
    std::fs::remove_dir_all(meta.join("log")).unwrap();
    std::fs::rename(meta.join("log.away"), meta.join("log")).unwrap();

    group.start(0).await;
    group.leader().await;
    check_artifacts(&group, 0, 0..400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_made_is_an_error() {
    let mut group = Group::new(1).await;
    std::fs::write(group.dir(0), b"a file").unwrap();
    let refused = group.try_start(0).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Io { .. }), "{refused}");
}
