//! openraft's own suite for storage, and damage to the log's files.

use std::path::PathBuf;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use rand::{RngExt, SeedableRng};
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
        start: 0,
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
    entry_of(index, 100)
}

fn entry_of(index: u64, bytes: usize) -> Entry {
    Entry { log_id: log_id(1, index), payload: Payload::Normal(Proposal(vec![7; bytes].into())) }
}

/// Appends entries and waits until they are durable.
async fn append(log: &mut LogStore, entries: std::ops::Range<u64>) {
    append_all(log, entries.map(entry).collect()).await;
}

async fn append_all(log: &mut LogStore, entries: Vec<Entry>) {
    let (done, durable) = <TypeConfig as TypeConfigExt>::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    durable.await.unwrap().unwrap();
}

/// The files that have records, in order.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
    let is_written = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "wal") && std::fs::read(path).unwrap().iter().any(|byte| *byte != 0)
    };
    let mut files: Vec<_> = files.filter(is_written).collect();
    files.sort();
    files
}

/// Bytes of a file up to the end of its last record.
fn records_of(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.truncate(end.next_multiple_of(8));
    bytes
}

/// A closed log of entries 0 to 999 with a vote, and its files in order.
async fn closed_log() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    append(&mut log, 0..1000).await;
    log.close().unwrap();
    let files = files_of(dir.path());
    (dir, files)
}

fn reopen(dir: &tempfile::TempDir) -> Result<LogStore, OpenError> {
    LogStore::open(&dir.path().join("log"), marker(dir.path()))
}

/// The same when the last handle was dropped a moment ago: the files are closed by a thread of their own.
async fn reopen_when_closed_or_refused(dir: &tempfile::TempDir) -> Result<LogStore, OpenError> {
    loop {
        match reopen(dir) {
            Err(OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
            opened => return opened,
        }
    }
}

async fn reopen_when_closed(dir: &tempfile::TempDir) -> LogStore {
    reopen_when_closed_or_refused(dir).await.unwrap()
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
    log.save_committed(Some(log_id(1, 900))).await.unwrap();
    assert!(!log.is_unnoted());
    log.save_committed(Some(log_id(1, 1500))).await.unwrap();
    assert!(log.is_unnoted());
    log.note().unwrap();
    assert!(!log.is_unnoted());
    assert_eq!(marker(dir.path()).get().floor.index, 1500);
}

/// The mark of an orderly end, the last entry, or parts of them are cut off with the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_dropped() {
    for (cut, last) in [(1, 999), (24, 999), (25, 998), (60, 998), (168, 998), (169, 997)] {
        let (dir, files) = closed_log().await;
        let mut bytes = records_of(files.last().unwrap());
        bytes.truncate(bytes.len() - cut);
        std::fs::write(files.last().unwrap(), &bytes).unwrap();
        let mut log = reopen(&dir).unwrap();
        assert_eq!(log.last().unwrap(), Some(log_id(1, last)), "cut {cut}");
        append(&mut log, last + 1..last + 3).await;
        drop(log);
        let log = reopen_when_closed(&dir).await;
        assert_eq!(log.last().unwrap(), Some(log_id(1, last + 2)), "cut {cut}");
    }
}

/// The power goes while entries of several sectors are written: of each sector there is what was or what was to be.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_sectors_a_power_cut_leaves_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    append(&mut log, 0..20).await;
    let path = files_of(dir.path()).pop().unwrap();
    let before = std::fs::read(&path).unwrap();
    let sizes = [3000, 100, 100, 700, 10, 2000, 100];
    append_all(&mut log, (20..).zip(sizes).map(|(index, bytes)| entry_of(index, bytes)).collect()).await;
    let after = std::fs::read(&path).unwrap();
    log.close().unwrap();
    let sectors = before.len() / 512;
    let changed: Vec<usize> =
        (0..sectors).filter(|n| before[n * 512..(n + 1) * 512] != after[n * 512..(n + 1) * 512]).collect();
    assert!(changed.len() > 10, "{changed:?}");
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    let mut ends = std::collections::BTreeSet::new();
    for round in 0..300 {
        let mut mix = before.clone();
        // All but one in the first rounds, then any.
        let keep = |n: usize, at: usize, rng: &mut rand::rngs::SmallRng| match round < changed.len() {
            true => n != round,
            false => at == usize::MAX || rng.random_bool(0.8),
        };
        for (n, at) in changed.iter().enumerate() {
            if keep(n, *at, &mut rng) {
                mix[at * 512..(at + 1) * 512].copy_from_slice(&after[at * 512..(at + 1) * 512]);
            }
        }
        std::fs::write(&path, &mix).unwrap();
        let mut log = reopen_when_closed(&dir).await;
        let last = log.last().unwrap().unwrap().index;
        assert!(last >= 19, "round {round}");
        assert_eq!(log.read(0, u64::MAX, usize::MAX).unwrap().len() as u64, last + 1, "round {round}");
        // What was left of the torn ones is never taken for part of what is written now.
        append_all(&mut log, vec![entry_of(last + 1, sizes[(last - 19) as usize % sizes.len()])]).await;
        log.close().unwrap();
        let log = reopen_when_closed(&dir).await;
        assert_eq!(log.last().unwrap(), Some(log_id(1, last + 1)), "round {round}");
        log.close().unwrap();
        ends.insert(last);
    }
    assert!(ends.len() > 4, "the cuts were of one kind: {ends:?}");
}

/// Nothing was written after it that would say it had been durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_last_record_is_refused_without_an_orderly_end() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    append(&mut log, 0..20).await;
    let path = files_of(dir.path()).pop().unwrap();
    let good = std::fs::read(&path).unwrap();
    let end = records_of(&path).len();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    let path = copy.path().join("log").join(path.file_name().unwrap());
    for position in end - 144..end - 3 {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(reopen(&copy), Err(OpenError::Damaged { .. })), "flip at {position} of {end}");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(reopen(&copy).unwrap().last().unwrap(), Some(log_id(1, 19)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_from_file_to_file_and_drops_those_that_are_purged() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(&dir.path().join("log"), marker(dir.path())).unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    let sizes = [100_usize, 70_000, 20, 9000, 300_000, 1_500_000, 40];
    let bytes = |index: u64| sizes[index as usize % sizes.len()];
    for start in (0..70).step_by(5) {
        append_all(&mut log, (start..start + 5).map(|index| entry_of(index, bytes(index))).collect()).await;
    }
    let check = |log: &LogStore, from: u64| {
        let entries = log.read(0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(entries, (from..70).map(|index| entry_of(index, bytes(index))).collect::<Vec<_>>());
    };
    check(&log, 0);
    let count = files_of(dir.path()).len();
    assert!(count > 15, "{count} files");
    log.close().unwrap();
    drop(log);
    let mut log = reopen_when_closed(&dir).await;
    check(&log, 0);
    log.save_committed(Some(log_id(1, 60))).await.unwrap();
    log.purge(log_id(1, 49)).await.unwrap();
    log.close().unwrap();
    assert!(files_of(dir.path()).len() < count / 2);
    // One of those that went is there again, as after a crash.
    std::fs::write(dir.path().join("log/0000000001.wal"), b"left over").unwrap();
    let mut log = reopen_when_closed(&dir).await;
    check(&log, 50);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 60)));
    log.close().unwrap();
    let files = files_of(dir.path());
    std::fs::remove_file(&files[files.len() / 2]).unwrap();
    let error = reopen_when_closed_or_refused(&dir).await.map(|log| log.last().unwrap()).unwrap_err().to_string();
    assert!(error.contains("log is damaged: the entries from 50 to before"), "{error}");
    assert_eq!(files_of(dir.path()).len(), files.len() - 1, "what is refused is left as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_refused_wherever_it_is() {
    let (dir, files) = closed_log().await;
    let path = files.last().unwrap();
    let good = std::fs::read(path).unwrap();
    // Every byte of a record (144 bytes), so that each field is hit, the length among them.
    let middle = records_of(path).len() / 2;
    for position in middle..middle + 150 {
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
    flush.done(Err(io::Error::from_raw_os_error(5)));
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
