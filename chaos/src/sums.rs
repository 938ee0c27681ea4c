//! Judges what the job `running_sums` has finished: whether every key stepped by exactly one, over every record.
//!
//! The lines of a key say `count,sum` after each so many records, and the sum after each count is known beforehand. So a line proves
//! all records up to it: one that was lost, repeated or of another key makes the sum wrong, and a part that is missing or there
//! twice makes the counts jump. Parts are read once, as they appear, and of each key only the last line is kept, so any length will do.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the job was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Number of keys, a multiple of the job's parallelism.
    pub(crate) keys: u64,
    /// Records of each key, a multiple of `every`.
    pub(crate) of_each: u64,
    /// Records of a key from one line to the next.
    pub(crate) every: u64,
}

/// What was found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Lines that were read.
    pub(crate) lines: u64,
    /// Steps that a later line has passed over, or that are not there at the end.
    pub(crate) missing: u64,
    /// Steps that are there again.
    pub(crate) doubled: u64,
    /// Lines that no record explains: no numbers, an unknown key, a count that is no step, a part that has changed.
    pub(crate) phantom: u64,
    /// Right steps with a wrong sum.
    pub(crate) wrong_sums: u64,
    /// The first thing that is wrong.
    pub(crate) first: Option<String>,
}

/// How far a key is.
#[derive(Debug, Clone, Copy, Default)]
struct Key {
    count: u64,
    sum: u64,
}

/// A finished part: of which subtask of the sink, and which checkpoint has finished it. That is also their order.
type Part = (u32, u64);

/// Reads the parts of one directory as they appear.
pub(crate) struct Judge {
    directory: PathBuf,
    asked: Asked,
    keys: Vec<Key>,
    /// Parts that were read, with their sizes then.
    read: BTreeMap<Part, u64>,
    found: Found,
}

impl Judge {
    /// A judge of what is in `directory`, where nothing needs to be yet.
    pub(crate) fn new(directory: &Path, asked: Asked) -> Result<Self> {
        let keys = vec![Key::default(); usize::try_from(asked.keys)?];
        Ok(Self { directory: directory.to_owned(), asked, keys, read: BTreeMap::new(), found: Found::default() })
    }

    /// Reads the parts that were finished since. Returns what was found so far.
    pub(crate) fn read_on(&mut self) -> Result<&Found> {
        for (part, path) in self.parts()? {
            if self.read.contains_key(&part) {
                continue;
            }
            if let Some((later, _)) = self.read.range((part.0, part.1)..=(part.0, u64::MAX)).next() {
                let text = format!("{} came after that of checkpoint {}", path.display(), later.1);
                self.note(|found| &mut found.phantom, 1, || text);
            }
            let size = self.read_part(&path)?;
            self.read.insert(part, size);
        }
        Ok(&self.found)
    }

    /// Judges the whole output of a job that has finished.
    pub(crate) fn finish(mut self) -> Result<Found> {
        self.read_on()?;
        let parts: BTreeMap<Part, PathBuf> = self.parts()?.into_iter().collect();
        let changed = self.read.iter().filter(|(part, size)| {
            let now = parts.get(part).and_then(|path| fs::metadata(path).ok());
            now.is_none_or(|now| now.len() != **size)
        });
        if let Some((part, _)) = changed.map(|(part, _)| *part).next() {
            self.note(|found| &mut found.phantom, 1, || format!("part {part:?} has changed after it was finished"));
        }
        let Asked { of_each, every, .. } = self.asked;
        let short: Vec<(usize, u64)> = self.keys.iter().map(|key| key.count).enumerate().collect();
        for (key, count) in short.into_iter().filter(|(_, count)| *count < of_each) {
            let text = || format!("key {key} ends at count {count}, not {of_each}");
            self.note(|found| &mut found.missing, (of_each - count) / every, text);
        }
        Ok(self.found)
    }

    /// Records of which the output has proof.
    pub(crate) fn proven(&self) -> u64 {
        self.keys.iter().map(|key| key.count).sum()
    }

    /// Keys that are at their end.
    pub(crate) fn complete_keys(&self) -> usize {
        self.keys.iter().filter(|key| key.count == self.asked.of_each).count()
    }

    fn parts(&mut self) -> Result<Vec<(Part, PathBuf)>> {
        if !self.directory.exists() {
            return Ok(Vec::new());
        }
        let mut parts = Vec::new();
        for entry in fs::read_dir(&self.directory).with_context(|| self.directory.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match part_of(&name) {
                Some(part) => parts.push((part, path)),
                // What begins with a dot is not finished.
                None if name.starts_with('.') => {}
                None => self.note(|found| &mut found.phantom, 1, || format!("{name} is no part")),
            }
        }
        parts.sort();
        Ok(parts)
    }

    /// Reads a part, and returns its size.
    fn read_part(&mut self, path: &Path) -> Result<u64> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let (mut line, mut size) = (Vec::new(), 0);
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).with_context(|| path.display().to_string())?;
            if bytes == 0 {
                return Ok(size);
            }
            size += bytes as u64;
            self.found.lines += 1;
            self.judge(&line, path);
        }
    }

    fn judge(&mut self, line: &[u8], path: &Path) {
        let Asked { keys, of_each, every } = self.asked;
        let say = |what: &str| format!("{}: `{}`: {what}", path.display(), String::from_utf8_lossy(line).trim_end());
        let Some((key, count, sum)) = numbers(line) else {
            return self.note(|found| &mut found.phantom, 1, || say("it is not `key,count,sum`"));
        };
        let at = usize::try_from(key).ok().and_then(|key| self.keys.get(key).copied());
        let Some(mut at) = at.filter(|_| count > 0 && count % every == 0 && count <= of_each) else {
            return self.note(|found| &mut found.phantom, 1, || say("there is no such step"));
        };
        if count <= at.count {
            let before = at.count;
            return self.note(|found| &mut found.doubled, 1, || say(&format!("count {before} was there before")));
        }
        if count > at.count + every {
            let (skipped, before) = ((count - at.count) / every - 1, at.count);
            self.note(|found| &mut found.missing, skipped, || say(&format!("the line before has count {before}")));
        }
        while at.count < count {
            at.sum = at.sum.wrapping_add(number_of(key + at.count * keys));
            at.count += 1;
        }
        if sum != at.sum {
            self.note(|found| &mut found.wrong_sums, 1, || say(&format!("the sum should be {}", at.sum)));
        }
        if let Some(entry) = usize::try_from(key).ok().and_then(|key| self.keys.get_mut(key)) {
            *entry = at;
        }
    }

    fn note(&mut self, what: impl FnOnce(&mut Found) -> &mut u64, count: u64, text: impl FnOnce() -> String) {
        *what(&mut self.found) += count;
        self.found.first.get_or_insert_with(text);
    }
}

impl Found {
    /// Whether nothing is wrong.
    pub(crate) fn is_exact(&self) -> bool {
        self.first.is_none()
    }
}

/// The number with an index, as the job has it.
fn number_of(index: u64) -> u64 {
    let mixed = (index ^ (index >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What the name of a finished part says. Checkpoint 0 stands for the end of the stream.
fn part_of(name: &str) -> Option<Part> {
    let (subtask, checkpoint) = name.strip_prefix("part-")?.split_once('-')?;
    let checkpoint = checkpoint.parse().ok()?;
    Some((subtask.parse().ok()?, if checkpoint == 0 { u64::MAX } else { checkpoint }))
}

/// The three numbers of a line that has its end.
fn numbers(line: &[u8]) -> Option<(u64, u64, u64)> {
    let mut numbers = [0_u64; 3];
    let mut fields = line.strip_suffix(b"\n")?.split(|byte| *byte == b',');
    for number in &mut numbers {
        let field = fields.next().filter(|field| !field.is_empty())?;
        for byte in field {
            let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
            *number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
        }
    }
    let [key, count, sum] = numbers;
    fields.next().is_none().then_some((key, count, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { keys: 4, of_each: 6, every: 2 };

    /// An exact output: keys 0 and 2 by subtask 0, keys 1 and 3 by subtask 1, a part for each step, the last at the end of the stream.
    fn exact() -> BTreeMap<String, Vec<String>> {
        let mut parts = BTreeMap::<String, Vec<String>>::new();
        for key in 0..4_u64 {
            let mut sum = 0_u64;
            for count in 1..=6_u64 {
                sum = sum.wrapping_add(number_of(key + (count - 1) * 4));
                if count % 2 == 0 {
                    let checkpoint = if count == 6 { 0 } else { count };
                    parts
                        .entry(format!("part-{}-{checkpoint:010}", key % 2))
                        .or_default()
                        .push(format!("{key},{count},{sum}"));
                }
            }
        }
        parts
    }

    fn judged(parts: &BTreeMap<String, Vec<String>>) -> Found {
        let directory = tempfile::tempdir().unwrap();
        for (name, lines) in parts {
            fs::write(directory.path().join(name), lines.iter().map(|line| format!("{line}\n")).collect::<String>())
                .unwrap();
        }
        Judge::new(directory.path(), ASKED).unwrap().finish().unwrap()
    }

    #[test]
    fn an_exact_output_is_exact() {
        assert_eq!(judged(&exact()), Found { lines: 12, ..Found::default() });
        let mut hidden = exact();
        hidden.insert(".part-0-7.inprogress".to_owned(), vec!["x".to_owned()]);
        assert!(judged(&hidden).is_exact());
    }

    /// Whatever is done to an output is found, and told from the rest.
    #[test]
    fn tampered_output_is_found() {
        type Parts = BTreeMap<String, Vec<String>>;
        type Tamper = fn(&mut Parts);
        /// Steps missing, doubled, phantom and with a wrong sum.
        type Counts = (u64, u64, u64, u64);
        let table: [(&str, Tamper, Counts); 12] = [
            ("a line is lost", |parts| _ = parts.get_mut("part-0-0000000004").unwrap().remove(0), (1, 0, 0, 0)),
            ("the last line is lost", |parts| _ = parts.get_mut("part-1-0000000000").unwrap().pop(), (1, 0, 0, 0)),
            ("a part is lost", |parts| _ = parts.remove("part-1-0000000004"), (2, 0, 0, 0)),
            ("all is lost", |parts| parts.clear(), (12, 0, 0, 0)),
            (
                "a line is doubled",
                |parts| {
                    let part = parts.get_mut("part-0-0000000002").unwrap();
                    part.push(part[0].clone());
                },
                (0, 1, 0, 0),
            ),
            (
                "a part is doubled",
                |parts| {
                    let part = parts["part-0-0000000002"].clone();
                    parts.insert("part-0-0000000003".to_owned(), part);
                },
                (0, 2, 0, 0),
            ),
            (
                "a record is replaced by another",
                |parts| {
                    let part = parts.get_mut("part-1-0000000004").unwrap();
                    part[0] = format!("1,4,{}", 1_u64);
                },
                (0, 0, 0, 1),
            ),
            (
                "an unknown key",
                |parts| parts.get_mut("part-0-0000000002").unwrap().push("4,2,0".to_owned()),
                (0, 0, 1, 0),
            ),
            (
                "too many records",
                |parts| parts.get_mut("part-0-0000000000").unwrap().push("0,8,0".to_owned()),
                (0, 0, 1, 0),
            ),
            ("no step", |parts| parts.get_mut("part-0-0000000002").unwrap().push("0,3,0".to_owned()), (0, 0, 1, 0)),
            ("no numbers", |parts| parts.get_mut("part-0-0000000002").unwrap().push("0,4".to_owned()), (0, 0, 1, 0)),
            ("no part", |parts| _ = parts.insert("parts".to_owned(), Vec::new()), (0, 0, 2, 0)),
        ];
        for (what, tamper, expected) in table {
            let mut parts = exact();
            tamper(&mut parts);
            let found = judged(&parts);
            let counts = (found.missing, found.doubled, found.phantom, found.wrong_sums);
            assert_eq!(counts, expected, "{what}: {found:?}");
            assert!(!found.is_exact(), "{what}");
        }
    }

    /// Each sum after a loss in the state is wrong, though the counts go on step by step.
    #[test]
    fn state_that_lost_one_record_and_repeated_another_is_found() {
        let mut parts = exact();
        for lines in parts.values_mut() {
            for line in lines.iter_mut().filter(|line| line.starts_with("2,")) {
                let (key, count, sum) = numbers(format!("{line}\n").as_bytes()).unwrap();
                *line = format!("{key},{count},{}", sum.wrapping_sub(number_of(2)).wrapping_add(number_of(6)));
            }
        }
        assert_eq!(judged(&parts).wrong_sums, 3);
    }

    #[test]
    fn a_part_that_changes_or_comes_late_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let mut judge = Judge::new(directory.path(), ASKED).unwrap();
        let parts = exact();
        let write = |name: &str| {
            let lines = parts[name].iter().map(|line| format!("{line}\n")).collect::<String>();
            fs::write(directory.path().join(name), lines).unwrap();
        };
        write("part-0-0000000002");
        assert!(judge.read_on().unwrap().is_exact());
        assert_eq!((judge.proven(), judge.complete_keys()), (4, 0));
        write("part-0-0000000004");
        write("part-0-0000000000");
        assert!(judge.read_on().unwrap().is_exact());
        assert_eq!((judge.proven(), judge.complete_keys()), (12, 2));
        fs::write(directory.path().join("part-0-0000000003"), "").unwrap();
        assert_eq!(judge.read_on().unwrap().phantom, 1);
        fs::write(directory.path().join("part-0-0000000002"), "").unwrap();
        assert_eq!(judge.finish().unwrap().phantom, 2);
    }
}
