//! Whether the output of the sample job `exactly_once` is exact.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What the finished parts of a directory hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Number of records of each key.
    pub keys: BTreeMap<u64, u64>,
    /// Indices of all records, in order. Each is there once.
    pub indices: Vec<u64>,
    /// Names of files that are not finished.
    pub hidden: Vec<String>,
}

/// Reads the lines `key,count,index` of all finished parts in `directory`.
///
/// Fails when a key's counts are not exactly `1..=n`, each once, or when an index is there twice: something was lost or repeated.
pub fn verify_exactly_once(directory: &Path) -> Result<Counted> {
    let mut counts = BTreeMap::<u64, Vec<u64>>::new();
    let mut counted = Counted::default();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            counted.hidden.push(name);
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let numbers: Vec<u64> = line
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .with_context(|| format!("{name}: `{line}`"))?;
            let [key, count, index] = numbers[..] else { bail!("{name}: `{line}` is not `key,count,index`") };
            counts.entry(key).or_default().push(count);
            counted.indices.push(index);
        }
    }
    for (key, mut counts) in counts {
        counts.sort_unstable();
        if let Some((expect, count)) = (1..).zip(&counts).find(|(expect, count)| expect != *count) {
            let what = if *count < expect { "repeated" } else { "missing before it" };
            bail!("key {key}: count {count} where {expect} should be ({what})");
        }
        counted.keys.insert(key, counts.len() as u64);
    }
    counted.indices.sort_unstable();
    if let Some(pair) = counted.indices.windows(2).find(|pair| pair.first() == pair.last()) {
        bail!("index {} is there twice", pair.first().copied().unwrap_or_default());
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(parts: &[(&str, &str)]) -> Result<Counted> {
        let directory =
            std::env::temp_dir().join(format!("exact-{}-{:?}", std::process::id(), std::thread::current().id()));
        fs::create_dir_all(&directory)?;
        for (name, lines) in parts {
            fs::write(directory.join(name), lines)?;
        }
        let verified = verify_exactly_once(&directory);
        fs::remove_dir_all(&directory)?;
        verified
    }

    #[test]
    fn lost_and_repeated_records_are_seen() {
        let exact =
            verify(&[("part-0-1", "1,1,1\n2,1,2\n"), ("part-1-2", "1,2,4\n"), (".part-0-0.inprogress", "1,2,4\n")]);
        let exact = exact.unwrap();
        assert_eq!(exact.keys, BTreeMap::from([(1, 2), (2, 1)]));
        assert_eq!((exact.indices, exact.hidden.len()), (vec![1, 2, 4], 1));
        for (lines, expect) in [
            ("1,1,1\n1,1,2\n", "key 1: count 1 where 2 should be (repeated)"),
            ("1,1,1\n1,3,2\n", "key 1: count 3 where 2 should be (missing before it)"),
            ("1,2,1\n", "key 1: count 2 where 1 should be (missing before it)"),
            ("1,1,7\n2,1,7\n", "index 7 is there twice"),
            ("1,1\n", "is not `key,count,index`"),
            ("1,1,x\n", "part-0-1: `1,1,x`"),
        ] {
            let error = verify(&[("part-0-1", lines)]).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
