//! A state file gives back what was written, and refuses everything else.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::sync::Mutex;

use perennial_types::{JobId, Key, KeyGroupRange, MaxParallelism, OperatorId, Record, VertexId, key_group};
use proptest::prelude::*;

use super::*;
use crate::{EntryBuffer, Frozen, Storage};
use std::sync::Arc;

/// Files in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Storage for Memory {
    fn put(&self, path: &str, pieces: &mut dyn Iterator<Item = Vec<u8>>) -> io::Result<()> {
        self.0.lock().unwrap().insert(path.to_owned(), pieces.flatten().collect());
        Ok(())
    }

    fn get(&self, path: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        let files = self.0.lock().unwrap();
        let bytes = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let range = range.unwrap_or(0..bytes.len() as u64);
        let range = range.start as usize..range.end as usize;
        Ok(bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    fn list(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    fn delete_all(&self, path: &str) -> io::Result<()> {
        self.0.lock().unwrap().retain(|name, _| !name.starts_with(path));
        Ok(())
    }
}

const COUNTS: OperatorId = OperatorId::from_bytes([1; 16]);
const WORDS: OperatorId = OperatorId::from_bytes([2; 16]);
const COUNTS_STATE: (OperatorId, &str) = (COUNTS, "counts");
const WORDS_STATE: (OperatorId, &str) = (WORDS, "words");
const PANES_STATE: (OperatorId, &str) = (WORDS, "panes");
const ALL: KeyGroupRange = KeyGroupRange { first: 0, last: 127 };

fn header() -> StateFileHeader {
    StateFileHeader {
        job: JobId::from_bytes([0xa0; 16]),
        checkpoint: CheckpointId(7),
        vertex: VertexId::from_bytes([0xb0; 16]),
        subtask: 1,
        max_parallelism: MaxParallelism::new(128).unwrap(),
        key_groups: ALL,
        states: Vec::new(),
    }
}

fn part<K: Key, V: Record>(operator: OperatorId, name: &str, entries: &[(K, V)]) -> KeyedState {
    let mut buffer = EntryBuffer::new::<K, V>();
    entries.iter().for_each(|(key, value)| buffer.push(key, value));
    assert_eq!((buffer.len(), buffer.is_empty()), (entries.len(), entries.is_empty()));
    let uid = format!("uid of {name}");
    KeyedState { operator, uid, name: name.to_owned(), version: 3, frozen: Frozen::whole(buffer) }
}

fn write(parts: impl Into<Vec<KeyedState>>) -> Vec<u8> {
    let storage = Memory::default();
    let written = write_state_file(&storage, "f", header(), parts.into()).unwrap();
    let bytes = storage.get("f", None).unwrap();
    assert_eq!(written, WrittenFile { bytes: bytes.len() as u64, crc: crc32fast::hash(&bytes) });
    bytes
}

fn open(bytes: &[u8]) -> Result<StateFileReader, StateFileError> {
    let storage = Memory::default();
    storage.put("f", &mut [bytes.to_vec()].into_iter()).unwrap();
    StateFileReader::open(Arc::new(storage), "f", bytes.len() as u64)
}

fn read<K: Key + Ord, V: Record>(
    file: &StateFileReader,
    (operator, name): (OperatorId, &str),
    groups: KeyGroupRange,
) -> Result<BTreeMap<K, V>, StateFileError> {
    let state = file.header().state(operator, name).expect("the state is there");
    let mut entries = BTreeMap::new();
    let mut count = 0;
    let mut last = KeyGroup(0);
    for block in file.blocks(state, groups) {
        let block = block?;
        assert!(last <= block.group() && groups.contains(block.group()) && !block.is_empty());
        last = block.group();
        count += block.len() as u64;
        block.read(|key: K, value: V| {
            assert_eq!(key_group(key.key_hash(), file.header().max_parallelism), block.group());
            entries.insert(key, value);
        })?;
    }
    assert_eq!(count, file.entries(state, groups));
    Ok(entries)
}

type Words = BTreeMap<String, (u64, Vec<u8>)>;

/// Opens a file and reads all of it, as a restore does.
fn read_all(bytes: &[u8]) -> Result<(BTreeMap<u64, u64>, Words), StateFileError> {
    let file = open(bytes)?;
    if file.header().state(WORDS, "panes").is_some() {
        read::<u8, bool>(&file, PANES_STATE, ALL)?;
        let state = file.header().state(WORDS, "panes").unwrap();
        file.removed(state, ALL).try_for_each(|block| block?.read(|_: u8, (): ()| ()))?;
    }
    Ok((read(&file, COUNTS_STATE, ALL)?, read(&file, WORDS_STATE, ALL)?))
}

/// What has changed of a state: these are set, those are gone.
fn delta<K: Key, V: Record>(operator: OperatorId, name: &str, entries: &[(K, V)], gone: &[K]) -> KeyedState {
    let mut state = part(operator, name, entries);
    let mut removed = EntryBuffer::new::<K, ()>();
    gone.iter().for_each(|key| removed.push(key, &()));
    (state.frozen.base, state.frozen.removed) = (false, Some(removed.into()));
    state
}

fn removed(file: &StateFileReader, (operator, name): (OperatorId, &str), groups: KeyGroupRange) -> Vec<u8> {
    let state = file.header().state(operator, name).unwrap();
    let mut keys = Vec::new();
    for block in file.removed(state, groups) {
        block.unwrap().read(|key: u8, (): ()| keys.push(key)).unwrap();
    }
    keys.sort_unstable();
    keys
}

fn sample() -> [KeyedState; 3] {
    let counts: Vec<(u64, u64)> = (0..20).map(|key| (key, key * key)).collect();
    let words: Vec<(String, (u64, Vec<u8>))> = ["to", "be", "or", "not"]
        .iter()
        .zip(1..)
        .map(|(word, n)| (word.to_string(), (n, vec![0xff; n as usize])))
        .collect();
    [part(COUNTS, "counts", &counts), delta(WORDS, "panes", &[(7u8, false)], &[8, 9]), part(WORDS, "words", &words)]
}

/// The bytes of version 1 are written and read for ever.
#[test]
fn version_1_is_the_fixture() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/state-v1.bin");
    let fixture = fs::read(path).unwrap();
    let (counts, words) = read_all(&fixture).unwrap();
    assert_eq!(counts, (0..20).map(|key| (key, key * key)).collect());
    assert_eq!(words.len(), 4);
    assert_eq!(words["not"], (4, vec![0xff; 4]));
    let file = open(&fixture).unwrap();
    assert_eq!(read(&file, PANES_STATE, ALL).unwrap(), BTreeMap::from([(7u8, false)]));
    assert_eq!(removed(&file, PANES_STATE, ALL), [8, 9]);
    let panes = file.header().state(WORDS, "panes").unwrap();
    assert_eq!((panes.base, panes.entries, panes.removed, panes.bytes), (false, 1, 2, 4));
    let words = file.header().state(WORDS, "words").unwrap();
    assert_eq!((words.base, words.removed), (true, 0));
    assert_eq!((words.uid.as_str(), words.version, words.entries, words.bytes), ("uid of words", 3, 4, 83));
    assert_eq!(
        (words.key_type.as_str(), words.value_type.as_str()),
        ("alloc::string::String", "(u64, alloc::vec::Vec<u8>)")
    );
    assert_eq!((file.header().state(COUNTS, "words"), file.header().state(WORDS, "word")), (None, None));
    assert_eq!(write(sample()), fixture);
}

/// Every single bit of a file is looked at.
#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    let bytes = write(sample());
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let error = read_all(&flipped).err().unwrap_or_else(|| panic!("bit {} of byte {} is free", at % 8, at / 8));
        assert!(error.to_string().contains('f'), "{error}");
    }
    assert_eq!(read_all(&bytes).unwrap().0.len(), 20);
}

#[test]
fn a_file_that_is_cut_off_is_refused_wherever_it_ends() {
    let bytes = write(sample());
    for length in 0..bytes.len() {
        assert!(read_all(&bytes[..length]).is_err(), "{length} bytes");
        // The size is that of the whole file, as the checkpoint has it.
        let storage = Memory::default();
        storage.put("f", &mut [bytes[..length].to_vec()].into_iter()).unwrap();
        assert!(StateFileReader::open(Arc::new(storage), "f", bytes.len() as u64).is_err(), "{length} bytes");
    }
}

#[test]
fn errors_say_what_to_think_of_the_file() {
    let bytes = write(sample());
    let mut newer = bytes.clone();
    newer[4] = 9;
    assert!(matches!(open(&newer), Err(StateFileError::Version { version: 9, .. })));
    let file = open(&bytes).unwrap();
    let first = |name| file.blocks(file.header().states.iter().find(|state| state.name == name).unwrap(), ALL).next();
    let wrong = first("words").unwrap().unwrap().read(|_: u64, _: u64| ());
    assert!(matches!(wrong, Err(StateFileError::Entry { .. })));
    let wrong = first("counts").unwrap().unwrap().read(|_: u64, _: u32| ());
    assert!(matches!(wrong, Err(StateFileError::Entry { .. })));
}

/// State that would be read by nobody is a defect that must not become a checkpoint.
#[test]
fn entries_of_other_subtasks_are_not_written() {
    let mut header = header();
    header.key_groups = KeyGroupRange { first: 0, last: 0 };
    let error = write_state_file(&Memory::default(), "f", header, sample().into()).unwrap_err();
    assert!(error.to_string().contains("another subtask's"), "{error}");
}

#[test]
fn a_large_key_group_has_several_blocks() {
    let entries: Vec<(u8, Vec<u8>)> = (0..40).map(|key| (key, vec![key; 300_000])).collect();
    let mut header = header();
    header.max_parallelism = MaxParallelism::new(1).unwrap();
    let storage = Arc::new(Memory::default());
    let written = write_state_file(&*storage, "f", header, vec![part(COUNTS, "large", &entries)]).unwrap();
    let file = StateFileReader::open(storage, "f", written.bytes).unwrap();
    assert_eq!(file.blocks(&file.header().states[0], ALL).count(), 14);
    assert_eq!(read::<u8, Vec<u8>>(&file, (COUNTS, "large"), ALL).unwrap(), entries.into_iter().collect());
}

proptest! {
    /// What is written is read, whole or by key groups; the parts of a rescaled job together are the whole.
    #[test]
    fn key_groups_are_read_one_by_one(
        counts in prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..300),
        words in prop::collection::btree_map(".{0,8}", (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)), 0..100),
        parallelism in 1u32..=5,
    ) {
        let parts = [
            part(COUNTS, "counts", &counts.clone().into_iter().collect::<Vec<_>>()),
            part(WORDS, "words", &words.clone().into_iter().collect::<Vec<_>>()),
        ];
        let bytes = write(parts);
        prop_assert_eq!(read_all(&bytes).unwrap(), (counts.clone(), words.clone()));
        let file = open(&bytes).unwrap();
        let (mut some_counts, mut some_words) = (BTreeMap::new(), BTreeMap::new());
        for subtask in 0..parallelism {
            let groups = KeyGroupRange::of_subtask(subtask, file.header().max_parallelism, parallelism);
            some_counts.extend(read::<u64, u64>(&file, COUNTS_STATE, groups).unwrap());
            some_words.extend(read::<String, (u64, Vec<u8>)>(&file, WORDS_STATE, groups).unwrap());
        }
        prop_assert_eq!((some_counts, some_words), (counts, words));
    }

    /// Garbage is an error, also behind a right beginning and a right end.
    #[test]
    fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..400), framed: bool) {
        let mut bytes = garbage;
        if framed {
            bytes = [&MAGIC[..], &1u32.to_le_bytes(), &bytes, &1u32.to_le_bytes(), &END_MAGIC].concat();
        }
        prop_assert!(read_all(&bytes).is_err());
    }

    /// Nor do headers of others with a right checksum.
    #[test]
    fn strange_headers_never_panic(first: u16, last: u16, rows_at: u32, rows: u32, at: u64, entries: u32) {
        let mut strange = header();
        strange.key_groups = KeyGroupRange { first, last };
        strange.states = vec![StateHeader {
            operator: COUNTS,
            uid: String::new(),
            name: "counts".to_owned(),
            version: 0,
            key_type: String::new(),
            value_type: String::new(),
            base: true,
            entries: 0,
            removed: 0,
            bytes: 0,
            rows_at,
            rows,
            removed_rows: 0,
        }];
        let json = serde_json::to_vec(&strange).unwrap();
        let mut bytes = [&MAGIC[..], &1u32.to_le_bytes(), &(json.len() as u32).to_le_bytes(), &json].concat();
        bytes.extend(crc32fast::hash(&bytes[8..]).to_le_bytes());
        let index_at = bytes.len() as u64;
        let mut index = Vec::new();
        Row { group: KeyGroup(first), offset: at, entries }.encode(&mut index);
        bytes.extend(&index);
        bytes.extend(index_at.to_le_bytes());
        bytes.extend(crc32fast::hash(&index).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(END_MAGIC);
        prop_assert!(read_all(&bytes).is_err());
    }
}
