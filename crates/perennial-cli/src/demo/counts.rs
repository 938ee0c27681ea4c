//! Counts of words: those the job wrote, and our own to compare them with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::failure::Failure;

/// The words of a line: runs of letters and digits, in lower case.
pub(crate) fn words(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Counts the words of a text that is read so often, in one plain loop over its characters.
pub(crate) fn count(text: &str, rounds: u64) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        if c.is_alphanumeric() {
            word.push(c);
        } else if !word.is_empty() {
            *counts.entry(word.to_lowercase()).or_insert(0) += rounds;
            word.clear();
        }
    }
    counts
}

/// What the job has written so far: `word count` lines in files `part-N`.
pub(crate) fn read(directory: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let mut counts = BTreeMap::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines() {
            let (word, count) = line.rsplit_once(' ').unwrap_or((line, ""));
            let count: u64 = count.parse().with_context(|| format!("`{line}` in {} is no count", path.display()))?;
            *counts.entry(word.to_owned()).or_insert(0) += count;
        }
    }
    Ok(counts)
}

/// A line for each word whose counts differ.
pub(crate) fn differences(expect: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> Vec<String> {
    let words: BTreeSet<&String> = expect.keys().chain(counted.keys()).collect();
    let pairs = words.into_iter().map(|word| {
        let of = |counts: &BTreeMap<String, u64>| counts.get(word).copied().unwrap_or_default();
        (word, of(expect), of(counted))
    });
    let wrong = pairs.filter(|(_, expect, counted)| expect != counted);
    wrong.map(|(word, expect, counted)| format!("{word}: expected {expect}, counted {counted}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_count_agree() {
        let text = "One two, two!\n\nthree-THREE three\u{a0}ÉTÉ été x1";
        let mut by_line = BTreeMap::new();
        text.lines().flat_map(words).for_each(|word| *by_line.entry(word).or_insert(0) += 1);
        assert_eq!(differences(&count(text, 1), &by_line), Vec::<String>::new());
        assert_eq!(by_line["three"], 3);
    }

    #[test]
    fn differences_name_word_and_counts() {
        let (expect, mut counted) = (count("a b b", 1), count("a b", 1));
        counted.insert("c".to_owned(), 1);
        assert_eq!(differences(&expect, &counted), ["b: expected 2, counted 1", "c: expected 0, counted 1"]);
    }
}
