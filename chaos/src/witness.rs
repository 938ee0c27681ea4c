//! Watches from outside who says that it leads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perennial_tests::{Cluster, Endpoint, MemberView};

/// Time between two looks at a member.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Time a member has to answer. A paused one never does.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// Time between two reads of a member that says that it leads.
const READ_EVERY: Duration = Duration::from_millis(100);

/// What one member said, from when on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) at: Instant,
    pub(crate) member: usize,
    pub(crate) view: MemberView,
}

#[derive(Default)]
struct Notes {
    /// Every change of what a member says.
    said: Vec<Said>,
    /// Highest epoch in which a member has said that it leads.
    highest: u64,
    /// Reads that a member answered as leader of an epoch when a later leader was known already, as text.
    outdated: Vec<String>,
}

/// One thread for each member. Stops when dropped.
pub(crate) struct Witness {
    notes: Arc<Mutex<Notes>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Witness {
    /// Watches all members of a cluster from now on.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let (notes, stop) = (Arc::<Mutex<Notes>>::default(), Arc::<AtomicBool>::default());
        let members = (0..cluster.jobmanager_count()).map(|index| Ok((index, cluster.endpoint(index)?)));
        let members = members.collect::<Result<Vec<_>>>()?;
        let watch = |(member, endpoint): (usize, Endpoint)| {
            let (notes, stop) = (notes.clone(), stop.clone());
            std::thread::spawn(move || look(member, endpoint, &notes, &stop))
        };
        Ok(Self { threads: members.into_iter().map(watch).collect(), notes, stop })
    }

    /// Epochs in which a member said that it leads, each with the member and when that was first seen, after `since`.
    pub(crate) fn leaders(&self, since: Instant) -> BTreeMap<u64, (usize, Instant)> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = BTreeMap::new();
        for said in notes.said.iter().filter(|said| said.view.leader == Some(said.member)) {
            first.entry(said.view.epoch).or_insert((said.member, said.at));
        }
        first.retain(|_, (_, at)| *at >= since);
        first
    }

    /// When a member first said after `since` that another leads in a later epoch than `epoch`.
    pub(crate) fn deposed(&self, member: usize, epoch: u64, since: Instant) -> Result<Duration> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = notes.said.iter().filter(|said| said.member == member && said.at >= since);
        let said = said.find(|said| said.view.epoch > epoch && said.view.leader.is_some_and(|leader| leader != member));
        said.map(|said| said.at - since).context("it never said so")
    }

    /// Linearizable reads that a member answered as leader of an epoch after a later leader was seen. There must be none.
    pub(crate) fn outdated(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).outdated.clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Looks at one member until asked to stop.
fn look(member: usize, endpoint: Endpoint, notes: &Mutex<Notes>, stop: &AtomicBool) {
    let mut last = None;
    let mut read = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let view = endpoint.member_view(ANSWER_LIMIT).ok();
        if let Some(view) = view.filter(|view| last != Some(*view)) {
            let leads = view.leader == Some(member);
            let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.said.push(Said { at: Instant::now(), member, view });
            notes.highest = notes.highest.max(if leads { view.epoch } else { 0 });
            last = Some(view);
        }
        if let Some(view) = view.filter(|view| view.leader == Some(member) && read.elapsed() >= READ_EVERY) {
            read = Instant::now();
            read_as_leader(member, endpoint, view, notes);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Asks a member that says that it leads for something only a leader may answer, and notes an answer it must not give.
fn read_as_leader(member: usize, endpoint: Endpoint, before: MemberView, notes: &Mutex<Notes>) {
    let highest = notes.lock().unwrap_or_else(PoisonError::into_inner).highest;
    if highest <= before.epoch {
        return;
    }
    let answered = matches!(endpoint.request("GET", "/v1/jobs", ANSWER_LIMIT), Ok((200, _)));
    // Unless it took the next leader's word for it meanwhile, and forwarded the question.
    if answered && endpoint.member_view(ANSWER_LIMIT).is_ok_and(|after| after == before) {
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.outdated.push(format!("jm-{} in epoch {}, when epoch {highest} had a leader", member + 1, before.epoch));
    }
}
