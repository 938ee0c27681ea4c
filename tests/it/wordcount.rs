//! The sample job against coreutils.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{LIMIT, cluster};

/// Text with what trips counters up: runs of blanks, no newline at the end, CRLF, tabs, bytes that are not UTF-8, long lines.
fn awkward_text() -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0..20_000u32 {
        text.extend_from_slice(format!("word{} the  quick\tbrown fox  {}\r\n", number % 977, number % 13).as_bytes());
        if number % 1000 == 0 {
            text.extend_from_slice(b"na\xefve caf\xc3\xa9 \xff\xfe\n\n\n");
            text.extend("long ".repeat(5000).bytes());
        }
    }
    text.extend_from_slice(b"last line without a newline");
    text
}

/// `word count` lines in order, as coreutils count them.
fn coreutils(file: &Path) -> Result<String> {
    let script = r#"tr -s '[:space:]' '\n' < "$0" | sed '/^$/d' | sort | uniq -c | awk '{ n = $1; sub(/^ *[0-9]+ /, ""); print $0, n }' | sort"#;
    let output = Command::new("sh").arg("-c").arg(script).arg(file).env("LC_ALL", "C").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(latin1(&output.stdout))
}

/// Each byte as a character, so that any bytes can be compared and printed.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// All lines of all files in a directory, in order.
fn sorted_lines(dir: &Path) -> Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir)? {
        let bytes = fs::read(entry?.path())?;
        lines.extend(latin1(&bytes).lines().map(str::to_owned));
    }
    lines.sort();
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// WordCount of awkward text at parallelism 1, 2 and 4 on two TaskManagers gives exactly what coreutils count.
#[test]
fn counts_equal_coreutils_at_any_parallelism() -> Result<()> {
    let mut cluster = cluster().taskmanagers(2, 2).start()?;
    let input = cluster.dir().join("input.txt");
    fs::write(&input, awkward_text())?;
    let expect = coreutils(&input)?;
    for parallelism in [1, 2, 4] {
        let output = cluster.dir().join(format!("output-{parallelism}"));
        let args = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap(), "--final"];
        let job = cluster.submit("wordcount", parallelism, &args)?;
        cluster.wait_state(&job, "FINISHED", LIMIT)?;
        let counted = sorted_lines(&output)?;
        let expect: String = {
            let mut lines: Vec<&str> = expect.lines().collect();
            lines.sort_unstable();
            lines.into_iter().map(|line| format!("{line}\n")).collect()
        };
        assert!(
            counted == expect,
            "parallelism {parallelism}: {} bytes counted, {} expected",
            counted.len(),
            expect.len()
        );
    }
    Ok(())
}
