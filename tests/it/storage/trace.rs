//! Reads what `strace -f -yy -x -o FILE` has written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One system call. `begun` and `ended` are line numbers: what begins after another has ended has a higher one.
#[derive(Debug)]
pub(crate) struct Call {
    /// Name of the system call.
    name: String,
    /// Its arguments, strings in hexadecimal if not of ASCII characters, and its result.
    pub(crate) text: String,
    /// Line in which it begins.
    pub(crate) begun: usize,
    /// Line in which it ends; beyond all lines if it never does.
    pub(crate) ended: usize,
}

impl Call {
    pub(crate) fn writes(&self) -> bool {
        ["write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg"].contains(&self.name.as_str())
    }

    pub(crate) fn syncs(&self) -> bool {
        ["fsync", "fdatasync"].contains(&self.name.as_str())
    }

    /// It came back without an error.
    pub(crate) fn succeeded(&self) -> bool {
        self.text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-') && !result.starts_with('?'))
    }

    /// What its first argument, a file descriptor, is open on.
    pub(crate) fn path(&self) -> Option<&str> {
        let (descriptor, rest) = self.text.split_once('<')?;
        let path = rest.split_once('>')?.0;
        (!descriptor.is_empty() && descriptor.bytes().all(|byte| byte.is_ascii_digit())).then_some(path)
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.path().is_some_and(|path| path.starts_with("TCP") || path.starts_with("socket"))
    }

    /// The file or directory whose name it makes.
    pub(crate) fn makes(&self) -> Option<PathBuf> {
        let name = match self.name.as_str() {
            "openat" if self.text.contains("O_CREAT") => self.strings().next(),
            "mkdir" | "mkdirat" => self.strings().next(),
            "rename" | "renameat" | "renameat2" => self.strings().nth(1),
            _ => None,
        };
        name.map(PathBuf::from)
    }

    /// Its string arguments.
    fn strings(&self) -> impl Iterator<Item = String> {
        self.text.split('"').skip(1).step_by(2).map(str::to_owned)
    }
}

/// All calls of a trace, in the order of their beginnings.
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
}

impl Trace {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("no trace in {}", file.display()))?;
        let mut calls: Vec<Call> = Vec::new();
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if rest.starts_with("<... ") {
                let Some(call) = open.remove(pid).and_then(|at| calls.get_mut(at)) else { continue };
                call.text.push_str(rest.split_once("resumed>").map_or("", |(_, rest)| rest));
                call.ended = number;
            } else if let Some((name, rest)) = rest.split_once('(') {
                let unfinished = rest.strip_suffix(" <unfinished ...>");
                if unfinished.is_some() {
                    open.insert(pid, calls.len());
                }
                let (text, ended) = unfinished.map_or((rest, number), |begun| (begun, usize::MAX));
                calls.push(Call { name: name.to_owned(), text: text.to_owned(), begun: number, ended });
            }
        }
        Ok(Self { calls })
    }
}

/// Hexadecimal digits as `strace -x` prints these bytes.
pub(crate) fn hex_of(digits: &str) -> Result<String> {
    let pairs: Option<Vec<&str>> = (0..digits.len() / 2).map(|n| digits.get(2 * n..2 * n + 2)).collect();
    Ok(pairs.context("not hexadecimal")?.iter().map(|pair| format!("\\x{pair}")).collect())
}

/// Whether strace works here. It must, unless `PERENNIAL_TESTS_SKIP_STRACE` is set.
pub(crate) fn can_trace() -> Result<bool> {
    let tried = Command::new("strace").args(["-f", "-yy", "-o", "/dev/null", "true"]).output();
    let why = match &tried {
        Ok(output) if output.status.success() => return Ok(true),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    if std::env::var_os("PERENNIAL_TESTS_SKIP_STRACE").is_some() {
        eprintln!("SKIPPED: system calls cannot be traced here: {why}");
        return Ok(false);
    }
    bail!(
        "system calls cannot be traced here: {why}; install strace and allow ptrace, or set PERENNIAL_TESTS_SKIP_STRACE=1"
    )
}
