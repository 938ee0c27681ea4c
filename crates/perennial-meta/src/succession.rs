//! Who stands for election when the leader's process is gone: the decision, without clocks or messages.
//!
//! A member that sees the death tells the others, with the end of its log, and asks each to let it stand. A member lets
//! another stand when it sees the death too, when so many are known to see it that they form a quorum, and when nobody of
//! them has a longer log; of equal logs the lowest number counts as longer. It lets **one** member stand per leader and round. Who is
//! let by a quorum, itself included, stands at once. Two quorums have a member in common, so nobody else does at the same
//! time: the vote that follows is not split.
//!
//! ```text
//! Seen ──> Ask all ──> Answer: sees it, lets me stand ── a quorum does ──> Stand
//!                  └─> nobody leads: Turn(0), Turn(1), … ── my place among those that see it ──> Stand
//!
//! Round(n): an election began ──> Pause ── nobody leads ──> Waited ──> Ask all, as above
//! ```
//!
//! Messages get lost and members die, so there is a second way: after a while those that see the death take turns, the
//! longest log first. Without a quorum that sees it nobody stands here, however long it lasts: one member's broken link is
//! no death. openraft's timers go on meanwhile and decide everything this does not.
//!
//! An election may come to nothing: its candidate dies, or a log was longer. The leader is no less gone then. The newest term that is
//! known is the **round**: the leader's own at first, and each election begins another one. In it nobody says anything for as long as
//! that election may take; then those that still see the death agree anew. A member that is told of a later round follows it.
//!
//! Nothing here is needed for safety. Raft's votes see to that; this decides only who asks for them, and when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::raft::{LogId, term_of};

/// Where a log ends. Greater is longer in Raft's sense.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogEnd {
    /// Term of the last entry.
    pub(crate) term: u64,
    /// Its index.
    pub(crate) index: u64,
}

impl From<Option<LogId>> for LogEnd {
    fn from(last: Option<LogId>) -> Self {
        last.map_or_else(Self::default, |id| Self { term: term_of(&id), index: id.index })
    }
}

/// What a member answers one that tells it of the death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoneAnswer {
    /// Its round.
    pub(crate) round: u64,
    /// The end of its log, if it sees the same.
    pub(crate) seen: Option<LogEnd>,
    /// Whether it lets the asking member stand.
    pub(crate) yields: bool,
}

impl GoneAnswer {
    /// It knows nothing of it.
    pub(crate) const UNAWARE: Self = Self { round: 0, seen: None, yields: false };
}

/// What happened. `own` is where this member's log ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// This member sees that the leader's process is gone.
    Seen {
        /// This member's log.
        own: LogEnd,
    },
    /// It was wrong: the leader was heard since.
    Retracted,
    /// An election has begun: the newest term this member knows of.
    Round(u64),
    /// It has had the time it needs, and nobody leads.
    Waited {
        /// This member's log.
        own: LogEnd,
    },
    /// Another member says that it sees it, and wants to stand.
    Told {
        /// Who.
        from: u64,
        /// Its round.
        round: u64,
        /// Its log.
        end: LogEnd,
        /// This member's log.
        own: LogEnd,
    },
    /// Another member answered this one.
    Answered {
        /// Who.
        from: u64,
        /// What.
        answer: GoneAnswer,
        /// This member's log.
        own: LogEnd,
    },
    /// Nobody leads yet, and the member at this place among those that see the death may stand. Places count from 0.
    Turn(usize),
    /// This member was to stand, and could not.
    NotStood,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Tell these members, and ask them to let this one stand.
    Ask(Vec<u64>),
    /// Answer the member that has just told.
    Answer(GoneAnswer),
    /// Stand for election, in a term after this round.
    Stand,
    /// Let an election that may be under way come to its end.
    Pause,
}

/// The end of one leadership, as this member knows it.
#[derive(Debug, Clone)]
pub(crate) struct Succession {
    this: u64,
    voters: BTreeSet<u64>,
    leader: u64,
    /// The newest term known.
    round: u64,
    /// Whether its election may still be under way.
    paused: bool,
    /// Voters known to see the death, with the ends of their logs.
    seen: BTreeMap<u64, LogEnd>,
    /// Whom this member lets stand; never another in this round.
    yielded_to: Option<u64>,
    /// Who lets this member stand, itself included.
    yielding: BTreeSet<u64>,
    stood: bool,
}

impl Succession {
    /// Nobody has seen anything yet of a leader in a term.
    pub(crate) fn new(this: u64, leader: u64, term: u64, voters: impl IntoIterator<Item = u64>) -> Self {
        Self {
            this,
            voters: voters.into_iter().collect(),
            leader,
            round: term,
            paused: false,
            seen: BTreeMap::new(),
            yielded_to: None,
            yielding: BTreeSet::new(),
            stood: false,
        }
    }

    /// Decides among these voters from now on.
    pub(crate) fn set_voters(&mut self, voters: BTreeSet<u64>) {
        self.voters = voters;
    }

    /// The newest term known.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Whether an election may be under way.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether this member sees the death.
    pub(crate) fn is_seen(&self) -> bool {
        self.seen.contains_key(&self.this)
    }

    /// Turns there are until everybody had one.
    pub(crate) fn turns(&self) -> usize {
        self.voters.len().saturating_sub(1)
    }

    /// Applies one event and returns what has to be done, in order.
    pub(crate) fn apply(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Seen { own } => {
                if !self.voters.contains(&self.this) {
                    return Vec::new();
                }
                self.seen.insert(self.this, own);
                // While it is paused others may be voting: what was seen is said afterwards.
                if self.paused { Vec::new() } else { vec![self.ask_all()] }
            }
            Event::Retracted => {
                self.seen.remove(&self.this);
                self.yielding.clear();
                Vec::new()
            }
            Event::Round(round) => self.follow(round).into_iter().collect(),
            Event::Waited { own } => {
                self.paused = false;
                match self.seen.get_mut(&self.this) {
                    Some(seen) => {
                        *seen = own;
                        vec![self.ask_all()]
                    }
                    None => Vec::new(),
                }
            }
            Event::Told { from, round, end, own } => {
                let mut effects: Vec<Effect> = self.follow(round).into_iter().collect();
                let same = round == self.round;
                // Who speaks in this round has waited.
                let resumes = same && std::mem::take(&mut self.paused);
                let news = same && self.note(from, end, own);
                effects.push(Effect::Answer(self.answer(from, round)));
                effects.extend((news || resumes).then(|| self.ask_again()).flatten());
                effects
            }
            Event::Answered { from, answer, own } => {
                if let Some(pause) = self.follow(answer.round) {
                    return vec![pause];
                }
                if answer.round != self.round {
                    return Vec::new();
                }
                let news = answer.seen.is_some_and(|end| self.note(from, end, own));
                if answer.yields {
                    self.yielding.insert(from);
                }
                match self.stand_if_let() {
                    Some(stand) => vec![stand],
                    None => news.then(|| self.ask_again()).flatten().into_iter().collect(),
                }
            }
            Event::Turn(place) => self.turn(place),
            Event::NotStood => {
                self.stood = false;
                Vec::new()
            }
        }
    }

    /// Begins a round if it is a later one: who was let stand in an earlier one has had its election.
    fn follow(&mut self, round: u64) -> Option<Effect> {
        if round <= self.round {
            return None;
        }
        (self.round, self.paused, self.stood) = (round, true, false);
        self.seen.retain(|id, _| *id == self.this);
        self.yielded_to = None;
        self.yielding.clear();
        Some(Effect::Pause)
    }

    fn ask_all(&self) -> Effect {
        let others = self.voters.iter().copied().filter(|id| *id != self.this && *id != self.leader);
        Effect::Ask(others.collect())
    }

    /// Notes that a member sees the death. Returns whether that is new.
    fn note(&mut self, from: u64, end: LogEnd, own: LogEnd) -> bool {
        if let Some(seen) = self.seen.get_mut(&self.this) {
            *seen = own;
        }
        let counts = self.voters.contains(&from) && from != self.this && from != self.leader;
        counts && self.seen.insert(from, end) != Some(end)
    }

    /// What a member is answered; it is bound by what it was told.
    fn answer(&mut self, from: u64, round: u64) -> GoneAnswer {
        let yields = round == self.round && self.is_next(from) && self.yielded_to.is_none_or(|to| to == from);
        if yields {
            self.yielded_to = Some(from);
        }
        GoneAnswer { round: self.round, seen: self.seen.get(&self.this).copied(), yields }
    }

    /// Asks once more those that see the death and have not said that this member may stand.
    fn ask_again(&self) -> Option<Effect> {
        if self.stood || self.paused || !self.is_next(self.this) {
            return None;
        }
        let unsure = self.seen.keys().copied().filter(|id| *id != self.this && !self.yielding.contains(id));
        let unsure: Vec<u64> = unsure.collect();
        (!unsure.is_empty()).then_some(Effect::Ask(unsure))
    }

    fn stand_if_let(&mut self) -> Option<Effect> {
        let may = self.is_next(self.this) && self.yielded_to.is_none_or(|to| to == self.this);
        if self.stood || !may {
            return None;
        }
        self.yielding.insert(self.this);
        // From here on nobody else is let by this member.
        self.yielded_to = Some(self.this);
        (self.yielding.len() >= self.quorum()).then(|| self.stand())
    }

    fn turn(&mut self, place: usize) -> Vec<Effect> {
        if !self.is_seen() || self.stood || self.paused {
            return Vec::new();
        }
        if self.is_agreed() && self.order().nth(place) == Some(self.this) {
            return vec![self.stand()];
        }
        let unheard = self.voters.iter().copied().filter(|id| *id != self.leader && !self.seen.contains_key(id));
        let unheard: Vec<u64> = unheard.collect();
        if unheard.is_empty() { Vec::new() } else { vec![Effect::Ask(unheard)] }
    }

    fn stand(&mut self) -> Effect {
        self.stood = true;
        Effect::Stand
    }

    fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether those that see the death form a quorum, this member among them.
    fn is_agreed(&self) -> bool {
        self.is_seen() && self.seen.len() >= self.quorum()
    }

    /// Whether a member has the longest log of a quorum that sees the death.
    fn is_next(&self, member: u64) -> bool {
        self.is_agreed() && self.order().next() == Some(member)
    }

    /// Those that see the death, the longest log first.
    fn order(&self) -> impl Iterator<Item = u64> {
        let mut order: Vec<(Reverse<LogEnd>, u64)> = self.seen.iter().map(|(id, end)| (Reverse(*end), *id)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests;
