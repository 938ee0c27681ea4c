//! Whether the kernel ended a process for want of memory. It sends SIGKILL without a word, but counts.
//!
//! Counted for the control group of this TaskManager, which its executors share, or for the whole machine where there is none.

use std::fs;
use std::path::{Path, PathBuf};

use perennial_types::ByteSize;

/// Where control groups (version 2) are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Watches one count of the OOM killer.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    /// The control group of this process; none when the machine has no memory control.
    group: Option<PathBuf>,
    kills: u64,
}

impl MemoryWatch {
    /// What is counted from now on is news.
    pub(super) fn start() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = group_path(&own).map(|path| Path::new(CGROUPS).join(path));
        Self::of(group.filter(|group| group.join("memory.events").is_file()))
    }

    fn of(group: Option<PathBuf>) -> Self {
        let mut this = Self { group, kills: 0 };
        this.kills = this.count();
        this
    }

    /// What was counted until now is no news any more: the executor lives.
    pub(super) fn look(&mut self) {
        self.kills = self.count();
    }

    /// What to say of a process that was killed by SIGKILL, or may have been.
    pub(super) fn explain(&self) -> String {
        if self.count() <= self.kills {
            return "the kernel's OOM killer has ended no process meanwhile".to_owned();
        }
        let limit = match self.limit() {
            Some((limit, file)) => format!("the limit is {}, {}", ByteSize(limit), file.display()),
            None => match machine_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
                Some(bytes) => format!("the machine has {}", ByteSize(bytes)),
                None => "the limit is not known".to_owned(),
            },
        };
        format!("out of memory: the kernel's OOM killer ended it; {limit}")
    }

    fn count(&self) -> u64 {
        let file =
            self.group.as_ref().map_or_else(|| PathBuf::from("/proc/vmstat"), |group| group.join("memory.events"));
        oom_kills(&fs::read_to_string(file).unwrap_or_default())
    }

    /// The lowest limit of the group and those around it, and its file.
    fn limit(&self) -> Option<(u64, PathBuf)> {
        let around = self.group.iter().flat_map(|group| group.ancestors());
        let limits = around.filter_map(|group| {
            let file = group.join("memory.max");
            Some((fs::read_to_string(&file).ok()?.trim().parse().ok()?, file))
        });
        limits.min_by_key(|(limit, _)| *limit)
    }
}

/// The path of the version 2 group in `/proc/self/cgroup`, below where groups are mounted.
fn group_path(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// The count in `memory.events` or `/proc/vmstat`; 0 when there is none.
fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn machine_memory(meminfo: &str) -> Option<u64> {
    let kilobytes = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(group_path("12:pids:/x\n0::/system.slice/tm.service\n"), Some("system.slice/tm.service"));
        assert_eq!(group_path("0::/\n"), Some(""));
        assert_eq!(group_path("4:memory:/docker/1\n"), None);
        assert_eq!(oom_kills("low 0\noom 7\noom_kill 3\noom_group_kill 1\n"), 3);
        assert_eq!(oom_kills("nr_free_pages 1\n"), 0);
        assert_eq!(machine_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
    }

    #[test]
    fn a_kill_since_the_last_look_is_told_with_the_limit() {
        let tmp = tempfile::tempdir().unwrap();
        let group = tmp.path().join("slice/service");
        fs::create_dir_all(&group).unwrap();
        let events = |kills: u64| fs::write(group.join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(tmp.path().join("slice/memory.max"), "2147483648\n").unwrap();
        events(1);
        let mut watch = MemoryWatch::of(Some(group.clone()));
        assert!(watch.explain().contains("has ended no process"));
        events(2);
        let said = watch.explain();
        assert!(
            said.starts_with("out of memory") && said.contains("limit is 2 gb, ") && said.ends_with("slice/memory.max")
        );
        watch.look();
        assert!(watch.explain().contains("has ended no process"));
    }
}
