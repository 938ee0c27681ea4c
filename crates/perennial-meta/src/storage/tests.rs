//! Whatever happens to the files, a directory is refused or has everything its marker vouches for.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use openraft::RaftLogReader;
use openraft::impls::BasicNode;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use perennial_types::JobManagerId;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::config::Peer;
use crate::kv::{self, put};
use crate::raft::{Entry, Payload, Proposal, StoredMembership, TypeConfig, Vote, log_id};

/// Entries in the log; large, so that they fill several files.
const ENTRIES: u64 = 700;

/// The last one that is committed. What follows it may be lost.
const COMMITTED: u64 = 690;

fn config(dir: &Path, members: u64) -> MetaConfig {
    let peer = |id| Peer { id: JobManagerId(id), name: format!("jm-{id}"), address: format!("127.0.0.1:{id}") };
    MetaConfig {
        data_dir: dir.to_owned(),
        name: "jm-1".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        peers: (1..=members).map(peer).collect(),
        join: false,
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        snapshot_entries: 1000,
        log_entries_kept: 1000,
    }
}

fn entry(index: u64) -> Entry {
    let body = index.to_be_bytes().repeat(500);
    Entry { log_id: log_id(1, index), payload: Payload::Normal(Proposal(body.into())) }
}

async fn append(log: &mut LogStore, entries: std::ops::Range<u64>) {
    let (done, durable) = <TypeConfig as TypeConfigExt>::oneshot();
    log.append(entries.map(entry).collect::<Vec<_>>(), IOFlushed::signal(done)).await.unwrap();
    durable.await.unwrap().unwrap();
}

/// Fills a directory and closes it in an orderly way.
fn fill(runtime: &Runtime, config: &MetaConfig) {
    let mut storage = Storage::open(config, None).unwrap();
    runtime.block_on(async {
        storage.log.save_vote(&Vote::new(4, 1)).await.unwrap();
        append(&mut storage.log, 0..ENTRIES).await;
        storage.log.save_committed(Some(log_id(1, COMMITTED))).await.unwrap();
    });
    storage.log.close().unwrap();
    assert_eq!(storage.marker.get().floor, Floor { term: 4, index: COMMITTED });
}

/// Every file of a filled directory but the state, by its path below `meta/`.
fn good_files() -> BTreeMap<PathBuf, Vec<u8>> {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    fill(&runtime, &config(dir.path(), 1));
    let meta = dir.path().join("meta");
    let logs = std::fs::read_dir(meta.join("log")).unwrap().map(|file| file.unwrap().path());
    let files = logs.filter(|path| path.extension().is_some_and(|end| end == "wal")).chain([meta.join("marker")]);
    files.map(|path| (path.strip_prefix(&meta).unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

/// What can happen to a file. Positions are in thousandths of its length.
#[derive(Debug, Clone)]
enum Damage {
    Flip { at: usize, bit: u8 },
    Cut { at: usize, by: usize },
    Zero { at: usize, to: usize },
    Remove,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (0..1000_usize, 0..8_u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        // The last bytes, where a crash tears.
        2 => (985..1000_usize, 0..8_u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        4 => (0..1001_usize, 0..200_usize).prop_map(|(at, by)| Damage::Cut { at, by }),
        2 => (0..1000_usize, 1..1001_usize).prop_map(|(at, to)| Damage::Zero { at, to }),
        1 => Just(Damage::Remove),
    ]
}

fn apply(damage: &Damage, bytes: &mut Vec<u8>) -> bool {
    let place = |thousandth: usize| bytes.len() * thousandth / 1000;
    match *damage {
        Damage::Flip { at, bit } => {
            let at = place(at);
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut { at, by } => bytes.truncate(place(at).saturating_sub(by)),
        Damage::Zero { at, to } => {
            let (from, to) = (place(at), place(to));
            bytes.get_mut(from..to).unwrap_or_default().fill(0);
        }
        Damage::Remove => return false,
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_committed_entries_disappear_in_silence(which in 0..100_usize, damage in damage()) {
        static GOOD: LazyLock<BTreeMap<PathBuf, Vec<u8>>> = LazyLock::new(good_files);
        static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("meta/log")).unwrap();
        for (number, (path, bytes)) in GOOD.iter().enumerate() {
            let mut bytes = bytes.clone();
            if number != which % GOOD.len() || apply(&damage, &mut bytes) {
                std::fs::write(dir.path().join("meta").join(path), bytes).unwrap();
            }
        }
        match Storage::open(&config(dir.path(), 1), None) {
            Err(OpenError::Damaged { .. } | OpenError::Behind { .. }) => {}
            Err(other) => panic!("refused without the instruction what to do: {other}"),
            Ok(mut storage) => {
                let entries = RUNTIME.block_on(storage.log.try_get_log_entries(0..ENTRIES)).unwrap();
                prop_assert!(entries.len() as u64 > COMMITTED, "{} entries are left", entries.len());
                for (index, found) in (0..).zip(&entries) {
                    prop_assert_eq!(found, &entry(index));
                }
                prop_assert_eq!(storage.log.term().unwrap(), 4);
            }
        }
    }
}

/// What a killed process has left is made durable before it is built upon: names that were never synced are.
#[test]
fn missing_directories_are_made_with_durable_names() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    files::create_dir_all(&deep).unwrap();
    files::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), b"x").unwrap();
    files::settle(dir.path()).unwrap();
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    assert!(files::create_dir_all(&dir.path().join("file/below")).is_err());
}

/// A state that has applied more than the log holds: alone, the log has lost committed entries; in a group the others may
/// have committed what was not yet durable here.
#[test]
fn a_state_ahead_of_the_log_is_a_loss_only_where_nobody_else_could_have_committed() {
    for (members, refused) in [(1, true), (3, false)] {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let config = config(dir.path(), members);
        fill(&runtime, &config);
        let state = StateDb::open(&dir.path().join("meta/state")).unwrap();
        let mut pending = state.pending();
        let nodes = (1..=members).map(|id| (id, BasicNode::new(""))).collect::<BTreeMap<_, _>>();
        let voters = openraft::Membership::new(vec![(1..=members).collect()], nodes).unwrap();
        let membership = StoredMembership::new(Some(log_id(1, 0)), voters);
        pending.add(vec![put::<kv::membership::Membership>(&(), &membership)]);
        pending.write(&log_id(1, ENTRIES)).unwrap();
        state.flush().unwrap();
        drop(state);
        match Storage::open(&config, None) {
            Err(OpenError::Behind { path, what }) => {
                assert!(refused);
                assert_eq!(path, dir.path().join("meta/log"));
                assert_eq!(what, "the log ends at index 699, but entry 700 was committed and applied");
            }
            Err(other) => panic!("{other}"),
            Ok(storage) => {
                assert!(!refused);
                assert_eq!(storage.state.applied().unwrap(), None, "it is rebuilt");
            }
        }
    }
}
