//! Whether this member may take part.
//!
//! Raft counts on every member to remember what it voted and acknowledged. A member whose directory was emptied or
//! replaced by an older copy has forgotten, and would help to elect a leader that lacks committed entries. So a member
//! takes part only after it has asked its peers, each of which remembers durably which directory each other member uses and
//! how far it has seen that directory come ([`crate::marker`]).
//!
//! - A peer that remembers another directory refuses. One that remembers a later position says so, and a member that finds
//!   itself behind it refuses itself. Either is final: a person has to act.
//! - A *returning* directory is admitted when so many peers have agreed that they form a quorum with this member; with
//!   fewer it could not do anything anyway.
//! - A *new* directory might be an emptied one, and only a peer that has met the old one can tell. It is admitted when a
//!   majority of the **other** members have agreed: any two such majorities have a member in common, so the second
//!   directory of a member always meets somebody who remembers the first. Or, to found the group, when a quorum
//!   including this member holds no data at all: then nothing can have been committed that is still there to lose.
//!
//! The members are those of the newest membership that this member or anyone it has greeted knows of; majorities are of those
//! that vote. A peer tells its own directory in its answer, so that members that were added later remember it as well.
//!
//! The cost: the first start of a member has to wait for more peers than its later ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perennial_rpc::raft::{RaftCall, RaftRpcError};
use perennial_types::JobManagerId;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::ground;
use crate::identity::Identity;
use crate::marker::{Floor, KnownMember, MarkerFile};
use crate::members::Members;
use crate::network::Peers;
use crate::wire;

/// Time a peer has to answer a greeting; it writes its marker first.
const GREETING_DEADLINE: Duration = Duration::from_millis(800);

/// Pause between rounds of greetings: short at first, for members that start together.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// Its directory.
    pub(crate) directory: [u8; 16],
}

/// What a peer answers when it does not refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Whether the answering member holds no committed data.
    pub(crate) empty: bool,
    /// How far it has seen the greeting member come.
    pub(crate) seen: Seen,
    /// Its directory.
    pub(crate) directory: [u8; 16],
    /// The newest members it knows to be committed.
    pub(crate) members: Members,
}

/// How far a member has seen another one come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// What it remembers: a term, and an entry that is committed.
    pub(crate) floor: Floor,
    /// What the other one has acknowledged to it as leader, with its term. It need not be committed.
    pub(crate) acknowledged: Option<Floor>,
}

/// What became of greeting one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Greeted {
    /// It agrees.
    Welcome {
        /// It holds no committed data.
        empty: bool,
    },
    /// It does not, for good.
    Refused(String),
    /// It could not be asked.
    Unreached(String),
}

/// What this member's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directory {
    /// Made now, or never admitted.
    New,
    /// Admitted before.
    Returning,
}

/// What follows from the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Take part.
    Admit,
    /// Ask again; who is missing and why.
    Wait(String),
    /// End the process.
    Refuse(String),
}

/// Decides from the newest answers of all others.
pub(crate) fn decide(directory: Directory, answers: &[Greeted]) -> Decision {
    if let Some(reason) = answers.iter().find_map(|answer| match answer {
        Greeted::Refused(reason) => Some(reason),
        _ => None,
    }) {
        return Decision::Refuse(reason.clone());
    }
    let others = answers.len();
    let quorum = others.div_ceil(2) + 1;
    let welcomed = answers.iter().filter(|answer| matches!(answer, Greeted::Welcome { .. })).count();
    let empty = answers.iter().filter(|answer| matches!(answer, Greeted::Welcome { empty: true })).count();
    let admitted = match directory {
        Directory::Returning => welcomed + 1 >= quorum,
        Directory::New => others == 0 || welcomed > others / 2 || empty + 1 >= quorum,
    };
    if admitted {
        return Decision::Admit;
    }
    let missing: Vec<&str> = answers
        .iter()
        .filter_map(|answer| match answer {
            Greeted::Unreached(reason) => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    Decision::Wait(missing.join("; "))
}

/// Judges the directory a greeting names against what is remembered of its sender. Returns what to remember.
pub(crate) fn judge(known: Option<KnownMember>, greeting: &Greeting) -> Result<KnownMember, String> {
    match known {
        Some(known) if known.directory != greeting.directory => {
            Err("it is known with another data directory: that one was removed or replaced".to_owned())
        }
        Some(known) => Ok(known),
        None => Ok(KnownMember { directory: greeting.directory, floor: Floor::default() }),
    }
}

/// What this member has forgotten of what a peer has seen of it, if anything. `now` is where it stands after the answer: it may
/// have been admitted while the greeting was under way, and what it acknowledged since is no sign of a loss.
fn forgotten(seen: Seen, now: Floor) -> Option<String> {
    let lost = |floor: Floor| {
        format!(
            "its data directory stands at term {} and index {}, but has been at term {} and index {}: an older copy was \
             restored or files were lost",
            now.term, now.index, floor.term, floor.index
        )
    };
    // A leader of an older term may have been told of entries that a newer leader has since replaced.
    let acknowledged = seen.acknowledged.filter(|acknowledged| acknowledged.term >= now.term);
    acknowledged.into_iter().chain([seen.floor]).find(|floor| !floor.admits(now)).map(lost)
}

/// Greets all others until each has answered once, or somebody has refused, or nobody listens any more; tells `decided`
/// what follows after each round. Who the others are may change meanwhile.
pub(crate) async fn greet_all(
    identity: Arc<Identity>,
    peers: Arc<Peers>,
    marker: Arc<MarkerFile>,
    directory: Directory,
    now: impl Fn() -> Option<Floor>,
    decided: mpsc::Sender<Decision>,
) {
    let mut answers: BTreeMap<JobManagerId, Greeted> = BTreeMap::new();
    let mut pause = PAUSE_MIN;
    loop {
        let greeting = Greeting { directory: marker.get().directory };
        let members = identity.members();
        answers.retain(|id, _| members.nodes.contains_key(&id.0));
        for (id, _) in members.others(identity.this()) {
            answers.entry(id).or_insert_with(|| Greeted::Unreached(format!("{id} was not asked yet")));
        }
        let unheard = answers.iter_mut().filter(|(_, answer)| !matches!(answer, Greeted::Welcome { .. }));
        let asked = unheard.map(|(peer, answer)| {
            let greeted = greet(&identity, &peers, &marker, *peer, greeting, &now);
            async move { *answer = greeted.await }
        });
        futures_util::future::join_all(asked).await;
        let members = identity.members();
        let votes = |id: &JobManagerId| members.nodes.get(&id.0).is_some_and(|node| node.voter);
        // A refusal counts whoever it is from; only those that vote make a majority.
        let heard = answers.iter().filter(|(id, answer)| votes(id) || matches!(answer, Greeted::Refused(_)));
        let newest: Vec<Greeted> = heard.map(|(_, answer)| answer.clone()).collect();
        let decision = match members.nodes.is_empty() {
            true => Decision::Wait("no member of the group is known; set `jobmanager.raft.join`".to_owned()),
            false => decide(directory, &newest),
        };
        let refused = matches!(decision, Decision::Refuse(_));
        let listening = decided.send(decision).await.is_ok();
        let all_known = members.others(identity.this()).all(|(id, _)| answers.contains_key(&id));
        let all_agree = all_known && answers.values().all(|answer| matches!(answer, Greeted::Welcome { .. }));
        if !listening || refused || (all_agree && !members.nodes.is_empty()) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn greet(
    identity: &Identity,
    peers: &Peers,
    marker: &Arc<MarkerFile>,
    peer: JobManagerId,
    greeting: Greeting,
    now: impl Fn() -> Option<Floor>,
) -> Greeted {
    let payload = Bytes::from(wire::encode(&greeting));
    let answer = peers.call(peer, RaftCall::Handshake, payload, GREETING_DEADLINE).await;
    match answer.and_then(|bytes| wire::decode::<Welcome>(&bytes)) {
        Ok(Welcome { empty, seen, directory, members }) => {
            identity.hear_of(members);
            let Some(now) = now() else { return Greeted::Unreached("this member's log has failed".to_owned()) };
            if let Some(reason) = forgotten(seen, now) {
                return Greeted::Refused(format!("{peer} refuses this JobManager: {reason}"));
            }
            match remember(marker, peer, directory).await {
                Ok(()) => Greeted::Welcome { empty },
                Err(reason) => {
                    identity.complain(peer, &format!("{peer} does not count: {reason}"));
                    Greeted::Unreached(format!("{peer}: {reason}"))
                }
            }
        }
        Err(RaftRpcError::Refused(reason)) => Greeted::Refused(format!("{peer} refuses this JobManager: {reason}")),
        Err(error) => Greeted::Unreached(error.to_string()),
    }
}

/// Remembers the directory of a member that was greeted, which may never greet this one. Says why its answer does not
/// count when it is known with another.
async fn remember(marker: &Arc<MarkerFile>, peer: JobManagerId, directory: [u8; 16]) -> Result<(), String> {
    match marker.get().members.get(&peer.0) {
        Some(known) if known.directory == directory => Ok(()),
        Some(_) => Err("it is known with another data directory".to_owned()),
        None => {
            let marker = marker.clone();
            let written = ground::spawn_blocking(move || {
                marker.update(|marker| {
                    let known = KnownMember { directory, floor: Floor::default() };
                    marker.members.entry(peer.0).or_insert(known);
                })
            });
            let written = written.await.map_err(|error| error.to_string())?;
            written.map_err(|error| format!("it could not be remembered: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(empty: bool) -> Greeted {
        Greeted::Welcome { empty }
    }

    fn away() -> Greeted {
        Greeted::Unreached("away".to_owned())
    }

    #[test]
    fn a_single_member_needs_nobody() {
        assert_eq!(decide(Directory::New, &[]), Decision::Admit);
        assert_eq!(decide(Directory::Returning, &[]), Decision::Admit);
    }

    #[test]
    fn one_refusal_is_final() {
        let answers = [welcome(false), Greeted::Refused("no".to_owned()), welcome(false)];
        assert_eq!(decide(Directory::Returning, &answers), Decision::Refuse("no".to_owned()));
    }

    #[test]
    fn who_is_admitted_with_how_many_answers() {
        use Directory::{New, Returning};
        // (directory, other members, of which agree with data, of which agree and are empty, admitted)
        for (directory, others, full, empty, admitted) in [
            (Returning, 1, 0, 0, false),
            (Returning, 1, 1, 0, true),
            (Returning, 2, 0, 0, false),
            (Returning, 2, 1, 0, true),
            (Returning, 3, 1, 0, false),
            (Returning, 3, 2, 0, true),
            (Returning, 4, 1, 0, false),
            (Returning, 4, 2, 0, true),
            (New, 1, 1, 0, true),
            (New, 2, 1, 0, false),
            (New, 2, 0, 1, true),
            (New, 2, 2, 0, true),
            (New, 2, 1, 1, true),
            (New, 3, 1, 0, false),
            (New, 3, 2, 0, true),
            (New, 4, 2, 0, false),
            (New, 4, 1, 1, false),
            (New, 4, 0, 2, true),
            (New, 4, 3, 0, true),
        ] {
            let mut answers = vec![welcome(false); full];
            answers.extend(vec![welcome(true); empty]);
            answers.resize(others, away());
            let decision = decide(directory, &answers);
            assert_eq!(decision == Decision::Admit, admitted, "{directory:?} {others} {full} {empty}: {decision:?}");
        }
    }

    #[test]
    fn emptied_and_rolled_back_directories_are_refused() {
        let floor = |term, index| Floor { term, index };
        let known = KnownMember { directory: [1; 16], floor: floor(3, 100) };
        let greeting = |directory: u8| Greeting { directory: [directory; 16] };
        assert_eq!(judge(None, &greeting(1)).unwrap().directory, [1; 16]);
        assert_eq!(judge(Some(known), &greeting(1)), Ok(known));
        assert!(judge(Some(known), &greeting(2)).unwrap_err().contains("another data directory"));
        let seen = |acknowledged| Seen { floor: known.floor, acknowledged };
        assert_eq!(forgotten(seen(None), floor(3, 100)), None);
        assert!(forgotten(seen(None), floor(3, 99)).unwrap().contains("index 100"));
        assert!(forgotten(seen(None), floor(2, 100)).is_some());
        assert!(forgotten(seen(Some(floor(3, 150))), floor(3, 149)).unwrap().contains("index 150"));
        assert_eq!(forgotten(seen(Some(floor(3, 150))), floor(4, 149)), None, "a newer leader truncated");
        assert_eq!(forgotten(Seen::default(), floor(0, 0)), None);
    }
}
