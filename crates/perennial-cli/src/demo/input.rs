//! The text of the demonstration.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::failure::Failure;
use crate::output;

/// Text for a place without documents: our own.
const OWN_TEXT: &str = concat!(include_str!("../../../../README.md"), include_str!("../../../README.md"));

/// How deep below the current directory documents are looked for.
const DEPTH_MAX: usize = 4;

/// Bytes of documents after which no more are looked for.
const BYTES_MAX: usize = 4 << 20;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Input {
    /// A copy of the text, whose path the job is given.
    pub(crate) path: PathBuf,
    /// The text.
    pub(crate) text: String,
    /// Number of its lines.
    pub(crate) line_count: u64,
    /// Where it comes from, for people.
    pub(crate) what: String,
}

impl Input {
    /// Takes the text of a file, or of the documents found from here, or ours, and puts a copy into `dir`.
    pub(crate) fn prepare(file: Option<&Path>, dir: &Path) -> Result<Self, Failure> {
        let (text, source) = match file {
            Some(file) => {
                let bytes = fs::read(file)
                    .with_context(|| format!("cannot read {}", file.display()))
                    .map_err(|error| Failure::from(error).hint("name a text file with --input FILE"))?;
                (String::from_utf8_lossy(&bytes).into_owned(), file.display().to_string())
            }
            None => found_from(Path::new(".")),
        };
        if !text.contains(char::is_alphanumeric) {
            return Err(anyhow::anyhow!("{source} has no words to count").into());
        }
        let path = dir.join("text");
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        let line_count = text.lines().count() as u64;
        let what = format!("{source}: {} lines, again and again", output::thousands(line_count));
        Ok(Self { path, text, line_count, what })
    }
}

/// The documents below a directory, one after the other, or our own text if there are none.
fn found_from(root: &Path) -> (String, String) {
    let mut files = Vec::new();
    collect(root, DEPTH_MAX, &mut files);
    files.sort();
    let (mut text, mut count) = (String::new(), 0);
    for file in files {
        if text.len() > BYTES_MAX {
            break;
        }
        let Ok(document) = fs::read_to_string(&file) else { continue };
        text.push_str(&document);
        text.push('\n');
        count += 1;
    }
    match count {
        0 => (OWN_TEXT.to_owned(), "our own documents".to_owned()),
        count => (text, format!("{count} documents (*.md, *.txt) found from here")),
    }
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_str().is_none_or(|name| name.starts_with('.') || name == "target");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !hidden && depth > 1 => collect(&path, depth - 1, files),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|it| it == "md" || it == "txt") => {
                files.push(path);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_or_our_own_are_taken() {
        let crate_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let (text, source) = found_from(&crate_root);
        assert!(text.len() > 1000 && source.contains("documents (*.md"), "{source}");
        let (text, source) = found_from(Path::new("/no/such/directory"));
        assert_eq!((text.as_str(), source.as_str()), (OWN_TEXT, "our own documents"));
    }
}
