//! A group of three of which one leads, ours or etcd's: the same test for both.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use perennial_tests::{Process, wait_for};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::member::{Member, View};

/// Members of every group.
pub(crate) const MEMBERS: usize = 3;

/// Longest wait for a group to agree, to elect or to catch up, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for one member's view.
const VIEW_LIMIT: Duration = Duration::from_secs(1);

/// `f_type` of a file system in memory, on which syncs cost nothing.
const TMPFS: i64 = 0x0102_1994;

/// Three real processes.
pub(crate) trait Group {
    /// A connection to each, in order.
    fn members(&self) -> &[Member];

    /// Another connection to one of them. Call inside the clients' runtime.
    fn connect(&self, member: usize) -> Result<Member>;

    /// Its process; an error when it was not started.
    fn process(&mut self, member: usize) -> Result<&mut Process>;

    /// Starts it, again on its data.
    fn start(&mut self, member: usize) -> Result<()>;
}

/// A leader that was killed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Victim {
    /// Which member it was.
    pub(crate) member: usize,
    /// The term it led.
    pub(crate) term: u64,
    /// When `kill` had returned.
    pub(crate) at: Instant,
    /// The same in microseconds of the Unix epoch.
    pub(crate) unix_us: u64,
}

impl Victim {
    /// The other members, with their numbers.
    pub(crate) fn survivors(&self, group: &dyn Group) -> Vec<(usize, Member)> {
        let all = group.members().iter().cloned().enumerate();
        all.filter(|(member, _)| *member != self.member).collect()
    }
}

/// Waits until all members know one leader of one term. A member that has ended by itself is named, with the end of its log.
pub(crate) fn agreed_leader(runtime: &Runtime, group: &mut dyn Group) -> Result<(usize, View)> {
    wait_for("all members to agree on a leader", LIMIT, || {
        (0..MEMBERS).try_for_each(|member| group.process(member)?.check_alive())?;
        let views: Vec<View> = group.members().iter().map(|member| view(runtime, member)).collect::<Result<_>>()?;
        let leader = views.iter().position(|view| view.leads).context("nobody leads")?;
        let view = *views.get(leader).context("nobody leads")?;
        ensure!(views.iter().all(|other| other.led && other.term == view.term), "they do not agree: {views:?}");
        Ok((leader, view))
    })
}

/// Kills the leader with `SIGKILL`.
pub(crate) fn kill_leader(runtime: &Runtime, group: &mut dyn Group) -> Result<Victim> {
    let (member, view) = agreed_leader(runtime, group)?;
    group.process(member)?.signal(Signal::KILL)?;
    Ok(Victim { member, term: view.term, at: Instant::now(), unix_us: unix_us() })
}

/// Starts a member whose process has ended, and waits until it has applied all that the leader had. Returns how long that took.
pub(crate) fn restore(runtime: &Runtime, group: &mut dyn Group, member: usize) -> Result<Duration> {
    let started = Instant::now();
    group.start(member)?;
    let (_, leader) = wait_for("a leader", LIMIT, || {
        let others = group.members().iter().enumerate().filter(|(other, _)| *other != member);
        let views = others.map(|(other, client)| Ok((other, view(runtime, client)?)));
        let views: Vec<(usize, View)> = views.collect::<Result<_>>()?;
        views.into_iter().find(|(_, view)| view.leads).context("nobody leads")
    })?;
    wait_for("the member to catch up", LIMIT, || {
        group.process(member)?.check_alive()?;
        let client = group.members().get(member).context("there is no such member")?;
        let seen = view(runtime, client)?;
        let caught_up = seen.led && seen.term >= leader.term && seen.applied >= leader.applied;
        ensure!(caught_up, "it is at {seen:?}, the leader was at {leader:?}");
        Ok(())
    })?;
    Ok(started.elapsed())
}

fn view(runtime: &Runtime, member: &Member) -> Result<View> {
    runtime.block_on(async { tokio::time::timeout(VIEW_LIMIT, member.view()).await }).context("no answer")?
}

/// Refuses to compare commits where a sync costs nothing.
pub(crate) fn ensure_on_disk(directory: &Path) -> Result<()> {
    let kind = rustix::fs::statfs(directory)?.f_type;
    let hint = "set TMPDIR to a directory on a disk";
    ensure!(kind != TMPFS, "{} is in memory, so nothing would be durable; hint: {hint}", directory.display());
    Ok(())
}

/// Now, in microseconds of the Unix epoch.
pub(crate) fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
