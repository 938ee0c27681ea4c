//! openraft's own suite for storage, and damage to the log's files.

use std::path::PathBuf;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tokio::sync::watch;

use super::*;
use crate::machine::Machine;
use crate::marker::{Floor, Marker};
use crate::raft::{Payload, Proposal};
use crate::snapshot::SnapshotDir;
use crate::state::StateDb;

fn marker(dir: &Path) -> Arc<MarkerFile> {
    let path = dir.join("marker");
    let marker = Marker {
        cluster: None,
        member: 1,
        group: 1,
        directory: [0; 16],
        admitted: true,
        floor: Floor::default(),
        members: Default::default(),
        name: String::new(),
    };
    let opened = MarkerFile::open(&path).unwrap();
    Arc::new(opened.unwrap_or_else(|| MarkerFile::create(&path, marker).unwrap()))
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let marker = marker(dir.path());
        let log = LogStore::open(&dir.path().join("log"), marker.clone()).unwrap();
        let state = StateDb::open(&dir.path().join("state")).unwrap();
        let snapshots = SnapshotDir::open(&dir.path().join("snapshot")).unwrap();
        let machine = Machine::new(state, snapshots, marker, watch::channel(Default::default()).0, watch::channel(0).0);
        Ok((dir, log, machine.unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_accepts_the_storage() {
    Suite::test_all(Builder).await.unwrap();
}

fn entry(index: u64) -> Entry {
    Entry { log_id: log_id(1, index), payload: Payload::Normal(Proposal(vec![7; 100].into())) }
}

/// Appends entries and waits until they are durable.
async fn append(log: &mut LogStore, entries: std::ops::Range<u64>) {
    let (done, durable) = <TypeConfig as TypeConfigExt>::oneshot();
    let callback = IOFlushed::signal(done);
    log.append(entries.map(entry).collect::<Vec<_>>(), callback).await.unwrap();
    durable.await.unwrap().unwrap();
}

/// A closed log of entries 0 to 999 with a vote, and its files in order.
async fn closed_log() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    append(&mut log, 0..1000).await;
    log.close().unwrap();
    let files = std::fs::read_dir(dir.path().join("log")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    files.sort();
    (dir, files)
}

fn reopen(dir: &tempfile::TempDir) -> Result<LogStore, OpenError> {
    LogStore::open(&dir.path().join("log"), marker(dir.path()))
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_votes_and_commits_are_there_again() {
    let (dir, _) = closed_log().await;
    let mut log = reopen(&dir).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    assert_eq!(marker(dir.path()).get().floor.term, 3, "a vote raises the floor");
    assert_eq!(log.read(0, 2000, usize::MAX).unwrap().len(), 1000);
    let limited = log.limited_get_log_entries(0, 1000).await.unwrap();
    assert!(!limited.is_empty());
    log.save_committed(Some(log_id(1, 500))).await.unwrap();
    append(&mut log, 1000..1001).await;
    log.close().unwrap();
    let mut log = reopen(&dir).unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 500)));
    assert_eq!(log.last().unwrap(), Some(log_id(1, 1000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_raise_the_floor_now_and_then() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    append(&mut log, 0..2000).await;
    log.save_committed(Some(log_id(1, 1500))).await.unwrap();
    append(&mut log, 2000..2001).await;
    // Written by the log's thread after it has told us.
    append(&mut log, 2001..2002).await;
    assert_eq!(marker(dir.path()).get().floor.index, 1500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_dropped() {
    for cut in [1, 60, 110] {
        let (dir, files) = closed_log().await;
        let file = std::fs::OpenOptions::new().write(true).open(files.last().unwrap()).unwrap();
        file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        let log = reopen(&dir).unwrap();
        assert_eq!(log.last().unwrap(), Some(log_id(1, 998)), "cut {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_refused_wherever_it_is() {
    let (dir, files) = closed_log().await;
    let path = files.last().unwrap();
    let good = std::fs::read(path).unwrap();
    // Every byte of a record (133 bytes), so that each field is hit, the length among them.
    let middle = good.len() / 2;
    for position in middle..middle + 140 {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        std::fs::write(path, &bad).unwrap();
        let error = match reopen(&dir) {
            Err(error @ OpenError::Damaged { .. }) => error.to_string(),
            Err(error) => panic!("flip at {position}: {error}"),
            Ok(log) => panic!("flip at {position} was accepted: the log ends at {:?}", log.last()),
        };
        assert!(error.contains("log is damaged"), "{error}");
    }
    std::fs::write(path, &good).unwrap();
    reopen(&dir).unwrap();
}

/// A truncation or purge waits for nobody: its failed sync must end the log all the same, and must be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_log_though_nobody_waits_for_it() {
    let (dir, _) = closed_log().await;
    let mut log = reopen(&dir).unwrap();
    let flush = Flush { log: Arc::downgrade(&log.inner), waiters: vec![Waiter::Nobody], last: None };
    flush.send(Err(io::Error::from_raw_os_error(5)));
    let reason = tokio::time::timeout(Duration::from_secs(20), log.failed()).await.unwrap();
    let path = dir.path().join("log");
    assert_eq!(reason, format!("cannot write the log in {}: Input/output error (os error 5)", path.display()));
    let (done, _durable) = <TypeConfig as TypeConfigExt>::oneshot();
    let refused = log.append([entry(1000)], IOFlushed::signal(done)).await.unwrap_err();
    assert_eq!(refused.to_string(), reason, "nothing is taken any more");
    assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_notes_how_far_the_log_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    append(&mut log, 0..20).await;
    log.save_committed(Some(log_id(1, 15))).await.unwrap();
    assert_eq!(log.floor(), 15, "committed and durable, though no flush has followed");
    assert_eq!(marker(dir.path()).get().floor.index, 0);
    log.close().unwrap();
    assert_eq!(marker(dir.path()).get().floor.index, 15);
}

/// Two members stand in one term: the one that lost takes the vote of the one that won, whichever has the lower number.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_lost_takes_the_winners_vote() {
    let granted = |term, member| Vote { committed: true, ..Vote::new(term, member) };
    for (loser, winner) in [(2, 1), (1, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
        log.save_vote(&Vote::new(3, loser)).await.unwrap();
        assert!(log.save_vote(&Vote::new(3, winner)).await.is_err(), "no second vote in a term");
        log.save_vote(&granted(3, winner)).await.unwrap();
        assert!(log.save_vote(&Vote::new(3, loser)).await.is_err(), "no vote after the term is decided");
        assert!(log.save_vote(&granted(3, loser)).await.is_err(), "no second winner");
        log.save_vote(&Vote::new(4, loser)).await.unwrap();
        log.close().unwrap();
        assert_eq!(reopen(&dir).unwrap().read_vote().await.unwrap(), Some(Vote::new(4, loser)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_opened_once() {
    let (dir, _) = closed_log().await;
    let _open = reopen(&dir).unwrap();
    assert!(matches!(reopen(&dir), Err(OpenError::InUse { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_appends_share_syncs_and_stay_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    let mut durable = Vec::new();
    for index in 0..2000 {
        let (done, receiver) = <TypeConfig as TypeConfigExt>::oneshot();
        log.append([entry(index)], IOFlushed::signal(done)).await.unwrap();
        durable.push(receiver);
    }
    for receiver in durable {
        receiver.await.unwrap().unwrap();
    }
    let flushes = log.inner.lock().wal().unwrap().syncs();
    assert!(flushes < 1500, "{flushes} syncs for 2000 entries");
    log.purge(log_id(1, 1500)).await.unwrap();
    log.truncate_after(Some(log_id(1, 1800))).await.unwrap();
    append(&mut log, 1801..1802).await;
    log.close().unwrap();
    let log = reopen(&dir).unwrap();
    let entries = log.read(0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), (1501..1802).collect::<Vec<_>>());
    assert!(log.is_purged());
}
