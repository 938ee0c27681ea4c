//! Damage, snapshots, rebuilding.

use std::path::PathBuf;

use perennial_meta::OpenError;

use crate::harness::{Group, copy_dir, digest, eventually};

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

/// The files of the log that have records, oldest first.
fn log_files(group: &Group, n: usize) -> Vec<PathBuf> {
    let files = std::fs::read_dir(group.dir(n).join("meta/log")).unwrap().map(|file| file.unwrap().path());
    let is_written = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "wal") && std::fs::read(path).unwrap().iter().any(|byte| *byte != 0)
    };
    let mut files: Vec<PathBuf> = files.filter(is_written).collect();
    files.sort();
    files
}

/// Where the last record of a file ends.
fn records_end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Cuts off the last record and the first bytes of the one before it.
fn tear(bytes: &mut Vec<u8>) {
    bytes.truncate(records_end(bytes) - 300);
}

/// What happens to the directory of a member that is alone, and what comes of it: it is refused with the instruction what
/// to do, or everything is there.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_refused_or_mended_without_loss() {
    let mut group = Group::started(1).await;
    group.write_many(0..200).await;
    group.stop(0).await;
    let intact = tempfile::tempdir().unwrap();
    copy_dir(&group.dir(0), intact.path());

    let last_file = |group: &Group| log_files(group, 0).pop().unwrap();
    let edit = |path: PathBuf, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    };
    type Damage<'a> = &'a dyn Fn(&Group);
    let state = |group: &Group| group.dir(0).join("meta/state");
    let table: [(&str, Damage<'_>, Option<&str>); 9] = [
        ("the log is cut below what was committed", &|group| edit(last_file(group), &tear), Some("its marker says")),
        (
            "the same without a state",
            &|group| {
                edit(last_file(group), &tear);
                std::fs::remove_dir_all(state(group)).unwrap();
            },
            Some("has lost data"),
        ),
        (
            "a bit of the log is flipped in the middle",
            &|group| {
                edit(last_file(group), &|bytes| {
                    let middle = records_end(bytes) / 2;
                    bytes[middle] ^= 4;
                })
            },
            Some("log is damaged"),
        ),
        (
            "a bit of the log's last record is flipped",
            &|group| {
                edit(last_file(group), &|bytes| {
                    let end = records_end(bytes);
                    bytes[end - 1] ^= 4;
                })
            },
            Some("log is damaged"),
        ),
        (
            "the last sectors of the log are zeros",
            &|group| {
                edit(last_file(group), &|bytes| {
                    let end = records_end(bytes);
                    bytes[(end - 3000) / 512 * 512..end].fill(0);
                })
            },
            Some("its marker says"),
        ),
        ("the log is empty", &|group| edit(last_file(group), &|bytes| bytes.clear()), Some("has lost data")),
        (
            "the file ends with its last record",
            &|group| edit(last_file(group), &|bytes| bytes.truncate(records_end(bytes).next_multiple_of(8))),
            None,
        ),
        ("the state is gone", &|group| std::fs::remove_dir_all(state(group)).unwrap(), None),
        (
            "the state is garbled",
            &|group| {
                edit(state(group).join("db"), &|bytes| {
                    bytes.iter_mut().skip(64).step_by(7).for_each(|byte| *byte ^= 0x2a)
                })
            },
            None,
        ),
    ];
    for (what, damage, refused) in table {
        std::fs::remove_dir_all(group.dir(0)).unwrap();
        copy_dir(intact.path(), &group.dir(0));
        damage(&group);
        match (group.try_start(0).await, refused) {
            (Ok(()), None) => {
                group.leader().await;
                check_artifacts(&group, 0, 0..200);
                group.write(200).await;
                group.stop(0).await;
            }
            (Err(error), Some(text)) => {
                let error = error.to_string();
                assert!(error.contains(text), "{what}: {error}");
                assert!(error.contains("as a new member with another name"), "{what}: {error}");
                let again = eventually("the files are closed", async || match group.try_start(0).await {
                    Err(OpenError::InUse { .. }) => None,
                    again => Some(again.unwrap_err().to_string()),
                })
                .await;
                assert!(
                    again.contains("as a new member with another name"),
                    "{what}: not at the second start: {again}"
                );
            }
            (Ok(()), Some(_)) => panic!("{what}: accepted"),
            (Err(error), None) => panic!("{what}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_not_missed_while_the_log_reaches_back() {
    let mut group = Group::new(1).await;
    group.snapshot_entries = 100;
    group.start(0).await;
    group.leader().await;
    for start in (0..250).step_by(50) {
        group.write_many(start..start + 50).await;
    }
    eventually("a snapshot is there", async || (!snapshots(&group, 0).is_empty()).then_some(())).await;
    group.stop(0).await;
    let snapshot = snapshots(&group, 0).remove(0);
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, &bytes).unwrap();
    std::fs::remove_dir_all(group.dir(0).join("meta/state")).unwrap();
    group.start(0).await;
    group.leader().await;
    check_artifacts(&group, 0, 0..250);
}

/// One member of three finds its log damaged: it does not take part, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_without_a_member_whose_log_is_damaged() {
    let mut group = Group::started(3).await;
    group.write_many(0..100).await;
    let victim = group.follower().await;
    group.await_artifact(victim, 99).await;
    group.stop(victim).await;
    let path = log_files(&group, victim).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = records_end(&bytes) / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&path, &bytes).unwrap();
    let refused = group.try_start(victim).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Damaged { .. }), "{refused}");
    group.write(100).await;
}

/// What a member has made durable is noted within about a second, not only after many entries or at an orderly end.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_entries_are_noted_without_an_orderly_end() {
    let group = Group::started(1).await;
    group.write_many(0..5).await;
    let (applied, marker) = (group.store(0).state().applied(), group.dir(0).join("meta/marker"));
    let copy = tempfile::tempdir().unwrap();
    let refused = eventually("the marker has noted the entries", async || {
        // A copy of the directory as a crash would leave it now, with the log cut to its first record.
        std::fs::remove_dir_all(copy.path()).unwrap();
        copy_dir(&group.dir(0), copy.path());
        assert!(marker.exists());
        let log = copy.path().join("meta/log");
        for file in std::fs::read_dir(&log).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.truncate(records_end(&bytes).saturating_sub(600));
            std::fs::write(&path, bytes).unwrap();
        }
        std::fs::remove_dir_all(copy.path().join("meta/state")).unwrap();
        let config = perennial_meta::MetaConfig { data_dir: copy.path().to_owned(), ..group.config(0) };
        perennial_meta::MetaStore::open(config).await.err()
    })
    .await;
    let expected = format!("and index {applied}");
    assert!(refused.to_string().contains(&expected), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_made_is_an_error() {
    let mut group = Group::new(1).await;
    std::fs::write(group.dir(0), b"a file").unwrap();
    let refused = group.try_start(0).await.unwrap_err();
    assert!(matches!(&refused, OpenError::Io { .. }), "{refused}");
}
