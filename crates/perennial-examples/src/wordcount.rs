//! Counts the words of any text: `--input PATH [--output DIR] [--final]`.
//!
//! A word is what stands between white space, byte by byte, as `tr -s '[:space:]' '\n'` has it in the locale C; so any file
//! can be counted, UTF-8 or not. Every word read emits its count so far; with `--final` each word is emitted once,
//! when the input has ended. Lines are `word count`, printed, or written to `part-N` files in `DIR`.

use perennial::prelude::*;
use perennial_connectors::prelude::*;

/// Builds the job.
pub fn build(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
    let words =
        env.read_lines_as_bytes(args.require("input")?).flat_map(words_of).name("Words").key_by_ref(|word| word);
    let words = if args.has("final") { words.emit_at_end() } else { words };
    let lines = words.count().name("Count").map(line);
    match args.get("output") {
        Some(directory) => lines.write_as_text(directory),
        None => lines.map(|line| String::from_utf8_lossy(&line).into_owned()).print(),
    };
    Ok(())
}

fn words_of(line: Vec<u8>, words: &mut Vec<Vec<u8>>) {
    let parts = line.split(|byte| is_space(*byte)).filter(|word| !word.is_empty());
    words.extend(parts.map(<[u8]>::to_vec));
}

/// C's `isspace`: what Rust calls ASCII white space, and the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn line((word, count): (Vec<u8>, u64)) -> Vec<u8> {
    let mut line = word;
    line.push(b' ');
    line.extend_from_slice(count.to_string().as_bytes());
    line
}
