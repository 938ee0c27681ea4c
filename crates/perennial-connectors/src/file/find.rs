//! Which bytes of which files a subtask reads.

use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::FileError;

/// A part of a file. The lines that begin in it are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) path: PathBuf,
    pub(super) bytes: Range<u64>,
}

/// The share of one subtask of all files under a path.
pub(super) fn splits(path: &Path, subtask: u32, parallelism: u32) -> Result<Vec<Split>, FileError> {
    let mut files = Vec::new();
    for path in expand(path)? {
        collect(&path, &mut files)?;
    }
    Ok(divide(&files, subtask, parallelism))
}

/// Files in a row, cut into equal shares. Each subtask computes the same cuts.
fn divide(files: &[(PathBuf, u64)], subtask: u32, parallelism: u32) -> Vec<Split> {
    let total: u128 = files.iter().map(|(_, size)| u128::from(*size)).sum();
    let cut = |index: u32| total * u128::from(index) / u128::from(parallelism);
    let (from, to) = (cut(subtask), cut(subtask + 1));
    let mut splits = Vec::new();
    let mut offset = 0u128;
    for (path, size) in files {
        let end = offset + u128::from(*size);
        let (first, last) = (from.clamp(offset, end), to.clamp(offset, end));
        if first < last {
            splits.push(Split { path: path.clone(), bytes: (first - offset) as u64..(last - offset) as u64 });
        }
        offset = end;
    }
    splits
}

/// Regular files at and below a path in order of name, with their sizes.
fn collect(path: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(FileError::io("read", path))?;
    if !metadata.is_dir() {
        files.push((path.to_owned(), metadata.len()));
        return Ok(());
    }
    for entry in names(path)? {
        if !entry.starts_with(['.', '_']) {
            collect(&path.join(entry), files)?;
        }
    }
    Ok(())
}

/// Names in a directory, in order.
fn names(directory: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(FileError::io("list", directory))? {
        let entry = entry.map_err(FileError::io("list", directory))?;
        let name = entry.file_name().into_string().map_err(|name| FileError::Io {
            action: "read",
            path: directory.join(name),
            source: std::io::Error::other("its name is not UTF-8"),
        })?;
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// The paths a path with `*` and `?` stands for; one without stands for itself.
fn expand(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let is_pattern = |text: &str| text.contains(['*', '?']);
    if fs::symlink_metadata(path).is_ok() || !path.to_str().is_some_and(is_pattern) {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = vec![PathBuf::new()];
    for component in path.components() {
        let pattern = match component {
            Component::Normal(name) => name.to_str().filter(|name| is_pattern(name)),
            _ => None,
        };
        let mut next = Vec::new();
        for base in found {
            match pattern {
                None => next.push(base.join(component)),
                Some(pattern) => {
                    let directory = if base.as_os_str().is_empty() { Path::new(".") } else { &base };
                    if directory.is_dir() {
                        let matching = names(directory)?.into_iter().filter(|name| matches(pattern, name));
                        next.extend(matching.map(|name| base.join(name)));
                    }
                }
            }
        }
        found = next;
    }
    found.retain(|path| path.exists());
    if found.is_empty() { Err(FileError::NoMatch { path: path.to_owned() }) } else { Ok(found) }
}

/// Whether a name is one of a pattern: `*` is any text, `?` any character. Hidden names only match patterns that begin with a dot.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    // Positions in the pattern that the text so far leads to.
    let pattern: Vec<char> = pattern.chars().collect();
    let mut reached = vec![false; pattern.len() + 1];
    let skip_stars = |reached: &mut Vec<bool>| {
        for (at, wanted) in pattern.iter().enumerate() {
            if *wanted == '*' && reached.get(at) == Some(&true) {
                set(reached, at + 1);
            }
        }
    };
    set(&mut reached, 0);
    skip_stars(&mut reached);
    for character in name.chars() {
        let mut next = vec![false; pattern.len() + 1];
        for (at, wanted) in pattern.iter().enumerate().filter(|(at, _)| reached.get(*at) == Some(&true)) {
            match wanted {
                '*' => set(&mut next, at),
                '?' => set(&mut next, at + 1),
                wanted if *wanted == character => set(&mut next, at + 1),
                _ => {}
            }
        }
        skip_stars(&mut next);
        reached = next;
    }
    reached.last() == Some(&true)
}

fn set(flags: &mut [bool], at: usize) {
    if let Some(flag) = flags.get_mut(at) {
        *flag = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_byte_once() {
        let files: Vec<(PathBuf, u64)> = [10u64, 0, 3, 1, 1000]
            .iter()
            .enumerate()
            .map(|(index, size)| (PathBuf::from(index.to_string()), *size))
            .collect();
        for parallelism in [1, 2, 3, 7, 2000] {
            let mut seen: Vec<Vec<u32>> = files.iter().map(|(_, size)| vec![0; *size as usize]).collect();
            for subtask in 0..parallelism {
                for split in divide(&files, subtask, parallelism) {
                    let file: usize = split.path.to_str().unwrap().parse().unwrap();
                    split.bytes.for_each(|byte| seen[file][byte as usize] += 1);
                }
            }
            assert!(seen.iter().flatten().all(|count| *count == 1), "parallelism {parallelism}");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expect) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("*.txt", ".hidden.txt", false),
            (".*", ".hidden", true),
            ("part-?", "part-1", true),
            ("part-?", "part-10", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("*", "anything", true),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }
}
