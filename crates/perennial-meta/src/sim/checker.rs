//! What must hold, whatever happens. Nothing here is told what goes wrong or trusts a member's word for what is committed:
//! it sees what members write and what they say.

use std::collections::BTreeMap;

use openraft::EntryPayload;
use perennial_types::{ArtifactDigest, ExecutionAttemptId, Fence, JobId, LeaderEpoch};

use super::disk::{Map, put_applied};
use super::network::Node;
use crate::apply::{EntryId, apply};
use crate::command::{Command, Outcome};
use crate::kv::{self, Change, StateError, put};
use crate::log::StoredVote;
use crate::raft::{Entry, Payload, StoredMembership, Vote, term_of};
use crate::store::Written;

/// Violations noted; the first is what matters.
const VIOLATIONS_MAX: usize = 20;

/// Remembers everything that was committed, and applies it to a state of its own, entry by entry.
#[derive(Default)]
pub(crate) struct Checker {
    now: u64,
    violations: Vec<String>,
    /// Every committed entry, by index.
    entries: Vec<Committed>,
    state: Map,
    /// Who leads or led in a term.
    leaders: BTreeMap<u64, Node>,
    /// Whom a member has voted for in a term, as it told others.
    grants: BTreeMap<(Node, u64), u64>,
    /// The highest term in which a member has told others of its vote.
    spoken: BTreeMap<Node, u64>,
    /// What was acknowledged to clients.
    pub(super) artifacts: Vec<ArtifactDigest>,
    pub(super) jobs: Vec<JobId>,
    /// What each TaskManager accepted last, in all and for each job.
    accepted: BTreeMap<Node, (Fence, BTreeMap<JobId, Fence>)>,
    pub(super) acknowledged: u64,
    pub(super) commanded: u64,
    pub(super) snapshots: u64,
}

struct Committed {
    term: u64,
    payload: Payload,
    outcome: Outcome,
    /// Hash of the state after it.
    digest: u64,
}

impl Checker {
    pub(super) fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(super) fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("at {} ms: {what}", self.now));
        }
    }

    /// Entries known to be committed.
    pub(super) fn committed(&self) -> usize {
        self.entries.len()
    }

    /// Hash of the state after the last of them.
    pub(super) fn digest(&self) -> u64 {
        self.state.digest
    }

    /// Leaderships that were granted by a quorum.
    pub(super) fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    /// A member has applied entries, the last at `index`, after which its state has this hash. Without entries it has
    /// installed a snapshot.
    ///
    /// State machine safety: at each index every member has the same entry, and after it the same state, which is that
    /// of a machine that applies one entry at a time.
    pub(super) fn applied(&mut self, node: Node, index: u64, entries: Vec<Entry>, digest: u64) {
        self.snapshots += u64::from(entries.is_empty());
        for entry in entries {
            if let Err(error) = self.check_entry(node, entry) {
                self.violated(format!("member {node} applied an entry that cannot be applied: {error}"));
            }
        }
        match self.entries.get(index as usize) {
            None => self.violated(format!("member {node} is at entry {index}, which nobody has applied before it")),
            Some(committed) if committed.digest != digest => {
                self.violated(format!("member {node} has another state than others after entry {index}"));
            }
            Some(_) => {}
        }
    }

    fn check_entry(&mut self, node: Node, entry: Entry) -> Result<(), StateError> {
        let (term, index) = (term_of(&entry.log_id), entry.log_id.index);
        if let Some(committed) = self.entries.get(index as usize) {
            if committed.term != term || committed.payload != entry.payload {
                let (was, is) = (shown(&committed.payload), shown(&entry.payload));
                let was_term = committed.term;
                self.violated(format!(
                    "entry {index} was {was} of term {was_term}; member {node} applied {is} of term {term}"
                ));
            }
            return Ok(());
        }
        if index as usize != self.entries.len() {
            let next = self.entries.len();
            self.violated(format!("member {node} applied entry {index} where {next} is the next"));
            return Ok(());
        }
        let newest = self.entries.last().map_or(0, |last| last.term);
        if term < newest {
            self.violated(format!("entry {index} of term {term} follows one of term {newest}"));
        }
        let (outcome, changes) = self.apply(term, index, &entry.payload)?;
        changes.iter().for_each(|change| self.state.change(change));
        self.state.change(&put_applied(term, index));
        let digest = self.state.digest;
        self.entries.push(Committed { term, payload: entry.payload, outcome, digest });
        Ok(())
    }

    fn apply(&mut self, term: u64, index: u64, payload: &Payload) -> Result<(Outcome, Vec<Change>), StateError> {
        match payload {
            EntryPayload::Blank => Ok((Outcome::Ignored, Vec::new())),
            EntryPayload::Membership(members) => {
                let members = StoredMembership::new(Some(crate::raft::log_id(term, index)), members.clone());
                Ok((Outcome::Ignored, vec![put::<kv::membership::Membership>(&(), &members)]))
            }
            EntryPayload::Normal(proposal) => {
                let command = Command::decode(&proposal.0).map_err(|error| StateError(error.to_string()))?;
                if let Command::Lead { leader, .. } = &command {
                    self.leads((leader.0 as Node).wrapping_sub(1), term);
                }
                apply(&self.state, EntryId { epoch: LeaderEpoch(term), index }, command)
            }
        }
    }

    /// A member writes its vote: one that a quorum has granted makes a leader.
    pub(super) fn vote_saved(&mut self, _node: Node, vote: &StoredVote) {
        if vote.committed {
            self.leads((vote.member as Node).wrapping_sub(1), vote.term);
        }
    }

    /// Election safety: a term has at most one leader.
    pub(super) fn leads(&mut self, node: Node, term: u64) {
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            self.violated(format!("members {first} and {node} both lead in term {term}"));
        }
    }

    /// A member tells others of its vote: it votes once in a term, and its term never goes back, whatever crashes.
    pub(super) fn voted(&mut self, node: Node, vote: &Vote, granted: bool) {
        let (term, candidate) = (vote.leader_id.term, vote.leader_id.voted_for);
        let spoken = *self.spoken.entry(node).and_modify(|spoken| *spoken = term.max(*spoken)).or_insert(term);
        if term < spoken {
            self.violated(format!("member {node} speaks of term {term} after it spoke of term {spoken}"));
        }
        if granted {
            let first = *self.grants.entry((node, term)).or_insert(candidate);
            if first != candidate {
                self.violated(format!(
                    "member {node} votes for {candidate} in term {term}, after it voted for {first}"
                ));
            }
        }
    }

    /// A write was acknowledged: its entry is committed, where it was said to be, with the outcome that was said.
    pub(super) fn acknowledged(&mut self, node: Node, command: &Command, written: &Written) {
        self.acknowledged += 1;
        let Written { index, epoch, outcome } = written;
        let same = |committed: &Committed| {
            let bytes = command.encode();
            let same = matches!(&committed.payload, EntryPayload::Normal(proposal) if proposal.0 == bytes);
            same && committed.term == epoch.0 && committed.outcome == *outcome
        };
        if !self.entries.get(*index as usize).is_some_and(same) {
            let what = command.name();
            return self.violated(format!("member {node} acknowledged a {what} at entry {index} that is not there"));
        }
        match (command, outcome) {
            (Command::AddArtifact { digest, .. }, _) => self.artifacts.push(*digest),
            (Command::SubmitJob { job, .. }, Outcome::Accepted(accepted) | Outcome::SameRequest(accepted)) => {
                if job != accepted {
                    self.violated(format!("a submission of job {job} is answered with job {accepted}"));
                }
                if !self.jobs.contains(accepted) {
                    self.jobs.push(*accepted);
                }
            }
            _ => {}
        }
    }

    /// A TaskManager accepted a command: it comes of a committed entry of its leader's epoch that orders just this, and
    /// neither the epochs nor, for one job, the entries ever go back.
    pub(super) fn commanded(&mut self, node: Node, fence: Fence, job: JobId, attempts: &[ExecutionAttemptId]) {
        self.commanded += 1;
        let ordered = self.entries.get(fence.index as usize).is_some_and(|committed| {
            let EntryPayload::Normal(proposal) = &committed.payload else { return false };
            let Ok(Command::PlaceExecutions { job: placed, executions, .. }) = Command::decode(&proposal.0) else {
                return false;
            };
            let has = |attempt: &ExecutionAttemptId| executions.iter().any(|record| record.attempt == *attempt);
            committed.term == fence.epoch.0 && placed == job && attempts.iter().all(has)
        });
        if !ordered {
            self.violated(format!("TaskManager {node} accepted command {fence}, which no committed entry orders"));
        }
        let (newest, of_jobs) = self.accepted.entry(node).or_default();
        let of_job = of_jobs.entry(job).or_default();
        let (newest_before, of_job_before) = (*newest, *of_job);
        (*newest, *of_job) = (fence.max(*newest), fence.max(*of_job));
        if fence.epoch < newest_before.epoch {
            self.violated(format!(
                "TaskManager {node} accepted command {fence} of a deposed leader after {newest_before}"
            ));
        } else if fence < of_job_before {
            self.violated(format!("TaskManager {node} accepted command {fence} for a job after {of_job_before}"));
        }
    }
}

fn shown(payload: &Payload) -> String {
    match payload {
        EntryPayload::Normal(proposal) => match Command::decode(&proposal.0) {
            Ok(command) => format!("{command:?}").chars().take(120).collect(),
            Err(error) => error.to_string(),
        },
        other => other.to_string(),
    }
}
