//! The text whose words are counted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::failure::Failure;
use crate::output;

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
    /// Takes the text of a file and puts a copy into `dir`.
    pub(crate) fn prepare(file: &Path, dir: &Path) -> Result<Self, Failure> {
        let source = file.display();
        let bytes = fs::read(file)
            .with_context(|| format!("cannot read {source}"))
            .map_err(|error| Failure::from(error).hint("name a text file with --input FILE"))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
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
