//! The job of `demo --input FILE`: a streaming WordCount, as a user would write it.
//!
//! Reads the lines of a text at a rate, over and over, and keeps the latest count of every word in a file per subtask
//! that is replaced twice a second: live counts whose size does not grow.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use perennial::prelude::*;

use super::counts;

/// What `--job-classname` calls it.
pub(crate) const NAME: &str = "demo";

/// How often the files are replaced.
const WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// The job's arguments for a text, a directory for its counts, the number of lines to read, and how fast.
pub(crate) fn arguments(text: &Path, counts: &Path, lines: u64, lines_per_second: u64) -> Vec<String> {
    let text = text.display().to_string();
    let counts = counts.display().to_string();
    ["--text", &text, "--counts", &counts, "--lines", &lines.to_string(), "--rate", &lines_per_second.to_string()]
        .map(str::to_owned)
        .to_vec()
}

/// Builds the job.
pub(crate) fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let text = Text::at(args.require("text")?);
    let directory = PathBuf::from(args.require("counts")?);
    env.generate(|index| index)
        .count(args.parse_or("lines", u64::MAX)?)
        .rate(args.parse_or("rate", 1000.0)?)
        .name("Lines")
        .try_flat_map(move |index: u64, words: &mut Vec<String>| text.words_of_line(index, words))
        .name("Words")
        .key_by_ref(|word| word)
        .count()
        .name("Count")
        .sink_to(move |context| LatestCounts::new(&directory, context.attempt.subtask))
        .name("Latest counts");
    Ok(())
}

/// The lines of a file, read when the first is wanted.
#[derive(Clone)]
struct Text {
    path: Arc<PathBuf>,
    lines: Arc<OnceLock<Vec<String>>>,
}

impl Text {
    fn at(path: &str) -> Self {
        Self { path: Arc::new(path.into()), lines: Arc::default() }
    }

    fn lines(&self) -> io::Result<&[String]> {
        if let Some(lines) = self.lines.get() {
            return Ok(lines);
        }
        let bytes = fs::read(&*self.path)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", self.path.display())))?;
        let lines = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
        Ok(self.lines.get_or_init(|| lines))
    }

    /// Appends the words of line `index`; after the last line comes the first.
    fn words_of_line(&self, index: u64, words: &mut Vec<String>) -> Result<(), UserError> {
        let lines = self.lines()?;
        let at = index.checked_rem(lines.len() as u64).unwrap_or_default();
        if let Some(line) = lines.get(at as usize) {
            words.extend(counts::words(line));
        }
        Ok(())
    }
}

/// Keeps the latest count of each word in a file.
struct LatestCounts {
    path: PathBuf,
    counts: BTreeMap<String, u64>,
    written: Option<Instant>,
}

impl LatestCounts {
    fn new(directory: &Path, subtask: u32) -> Self {
        Self { path: directory.join(format!("part-{subtask}")), counts: BTreeMap::new(), written: None }
    }

    fn replace_file(&mut self) -> io::Result<()> {
        let lines: String = self.counts.iter().map(|(word, count)| format!("{word} {count}\n")).collect();
        let unfinished = self.path.with_extension("unfinished");
        fs::write(&unfinished, lines)?;
        fs::rename(&unfinished, &self.path)?;
        self.written = Some(Instant::now());
        Ok(())
    }
}

impl Sink<(String, u64)> for LatestCounts {
    fn write(&mut self, batch: &mut Vec<(String, u64)>) -> Result<(), UserError> {
        for (word, count) in batch.drain(..) {
            self.counts.insert(word, count);
        }
        if self.written.is_none_or(|written| written.elapsed() >= WRITE_INTERVAL) {
            self.replace_file()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), UserError> {
        Ok(self.replace_file()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The job in this process, without a cluster: what it writes is what a plain loop counts.
    #[test]
    fn the_jobs_counts_are_right() {
        let dir = std::env::temp_dir().join(format!("perennial-demo-job-{}", std::process::id()));
        fs::create_dir_all(dir.join("counts")).unwrap();
        let text = "To be, or not to be:\nthat is the question.\n\nÜber-all — to be!\n";
        fs::write(dir.join("text"), text).unwrap();
        let args = Args::new(arguments(&dir.join("text"), &dir.join("counts"), 50 * 4, 1_000_000));
        let env = StreamExecutionEnvironment::local();
        env.set_parallelism(2);
        build(&env, &args).unwrap();
        env.execute("demo").unwrap();
        let counted = counts::read(&dir.join("counts")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(counts::differences(&counts::count(text, 50), &counted), Vec::<String>::new());
        assert_eq!((counted["be"], counted["über"]), (150, 50));
    }

    #[test]
    fn a_text_that_is_not_there_is_named() {
        let error = Text::at("/no/such/text").words_of_line(0, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("cannot read /no/such/text"), "{error}");
    }
}
