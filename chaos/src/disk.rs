//! A file system in an image file, so that the power of a process can be cut.
//!
//! What a process has synced is in the image; what it has only written is in the page cache of the mounted file system.
//! A copy of the image is therefore what a disk has after a power cut, and a process started on the copy finds exactly
//! that. No device-mapper, no FUSE; root and loop devices are needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use perennial_tests::{Process, wait_for};
use rustix::process::Signal;

/// Time for the threads of a stopped process to stand still; one that is in a sync ends that first.
const STANDSTILL_LIMIT: Duration = Duration::from_secs(30);

/// A mounted image. Dropped, it is unmounted and its device given back.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    device: Option<String>,
    mounted: bool,
    cuts: u32,
}

impl Disk {
    /// Why disks cannot be made here.
    pub(crate) fn unavailable(root: &Path) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("loop devices need root; run this as root".to_owned());
        }
        let tried = Disk::create(root, "trial", 16).and_then(|disk| disk.remove());
        tried.err().map(|error| format!("no disk can be made from an image here: {error:#}"))
    }

    /// Makes an image of `megabytes` (sparse) with an empty ext4 and mounts it at `root/name`.
    pub(crate) fn create(root: &Path, name: &str, megabytes: u64) -> Result<Self> {
        let (image, mount) = (root.join(format!("{name}.image")), root.join(name));
        std::fs::create_dir_all(&mount).with_context(|| format!("cannot create {}", mount.display()))?;
        std::fs::File::create(&image)?.set_len(megabytes << 20)?;
        let mut disk = Self { image, mount, device: None, mounted: false, cuts: 0 };
        run("mkfs.ext4", &["-q", "-F"], &[&disk.image])?;
        disk.attach()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Copies what the device has now, while the file system goes on.
    pub(crate) fn copy(&mut self) -> Result<PathBuf> {
        self.cuts += 1;
        let copy = self.image.with_extension(format!("image-{}", self.cuts));
        run("cp", &["--sparse=always"], &[&self.image, &copy])?;
        Ok(copy)
    }

    /// Goes on with a copy instead. Nothing may use the file system.
    pub(crate) fn replace(&mut self, copy: PathBuf) -> Result<()> {
        self.detach()?;
        std::fs::remove_file(&self.image)?;
        self.image = copy;
        self.attach()
    }

    /// Unmounts and removes it.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.detach()?;
        Ok(std::fs::remove_file(&self.image)?)
    }

    fn attach(&mut self) -> Result<()> {
        let device = run("losetup", &["-f", "--show"], &[&self.image])?;
        let device = device.trim().to_owned();
        self.device = Some(device.clone());
        run("mount", &["-t", "ext4"], &[Path::new(&device), &self.mount])?;
        self.mounted = true;
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        if self.mounted {
            run("umount", &[], &[&self.mount])?;
            self.mounted = false;
        }
        if let Some(device) = &self.device {
            run("losetup", &["-d", device], &[])?;
            self.device = None;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Err(error) = self.detach() else { return };
        // A process that is just ending may still hold it; detached, it goes with its last user.
        eprintln!("{}: {error:#}; it goes when its last user does", self.mount.display());
        let lazily = run("umount", &["-l"], &[&self.mount]);
        let freed = self.device.take().map_or(Ok(String::new()), |device| run("losetup", &["-d", &device], &[]));
        for error in [lazily, freed].into_iter().filter_map(Result::err) {
            eprintln!("{}: {error:#}", self.mount.display());
        }
    }
}

/// Stops processes and waits until none of their threads is in the kernel any more: then the device gets nothing from
/// them while it is copied.
pub(crate) fn stand_still(processes: &[&Process]) -> Result<()> {
    processes.iter().try_for_each(|process| process.signal(Signal::STOP))?;
    wait_for("all threads to stand still", STANDSTILL_LIMIT, || {
        for process in processes {
            for task in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
                let stat = std::fs::read_to_string(task?.path().join("stat"))?;
                // The field after the name in parentheses, which may hold spaces.
                let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
                ensure!(matches!(state, Some('T' | 't')), "{} has a thread in state {state:?}", process.name());
            }
        }
        Ok(())
    })
}

/// Runs a tool and gives what it printed.
fn run(tool: &str, args: &[&str], paths: &[&Path]) -> Result<String> {
    let output = Command::new(tool).args(args).args(paths).output().with_context(|| format!("cannot run {tool}"))?;
    if !output.status.success() {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{tool} {} {}: {}", args.join(" "), paths.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
