//! What goes wrong.

use std::ops::Range;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::network::Node;

/// Milliseconds between the beginnings of faults, and how long one lasts: several overlap.
pub(super) const PAUSE_MS: Range<u64> = 100..900;
const LASTS_MS: Range<u64> = 60..2500;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Processes die at once, with what their disks had not synced.
    Crash(Vec<Node>),
    /// The next member that grants a vote dies when it has said so.
    CrashAfterVote,
    /// A leader, or whoever is asked, stops in an orderly way.
    Stop(Node),
    /// Nothing passes from the one to the other.
    Cut(Vec<(Node, Node)>),
    /// Everything takes longer by up to so many milliseconds.
    Slow(Vec<(Node, Node)>, u64),
    /// All connections between two processes break.
    Reset(Node, Node),
    /// A process stands still, and its clock jumps when it goes on.
    Freeze(Node),
    /// A disk takes long.
    StallDisk(Node),
    /// A sync fails: the process has to end.
    BreakDisk(Node),
}

/// Draws a fault and how long it lasts. `members` come first among the `nodes`; one of them may lead.
pub(super) fn draw(rng: &mut SmallRng, members: usize, nodes: usize, leader: Option<Node>) -> (Fault, u64) {
    let lasts = rng.random_range(LASTS_MS);
    // Leaders are where things go wrong.
    let member = leader.filter(|_| rng.random_ratio(1, 2)).unwrap_or_else(|| rng.random_range(0..members));
    let other = (member + rng.random_range(1..members)) % members;
    let taskmanager = rng.random_range(members..nodes);
    let all = |from: Node, to: Range<Node>| to.filter(move |to| *to != from).map(move |to| (from, to));
    let both = |pairs: Vec<(Node, Node)>| pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect::<Vec<_>>();
    let fault = match rng.random_range(0..22) {
        0..=2 => Fault::Crash(vec![member]),
        3 => Fault::Crash((0..members).filter(|_| rng.random_ratio(2, 3)).collect()),
        4 => Fault::Crash((0..members).collect()),
        5 | 6 => Fault::CrashAfterVote,
        7 => Fault::Stop(member),
        8 => Fault::Cut(vec![(member, other)]),
        9 => Fault::Cut(all(member, 0..members).collect()),
        10 => Fault::Cut(all(member, 0..members).map(|(a, b)| (b, a)).collect()),
        11 => Fault::Cut(both(all(member, 0..members).collect())),
        12 => Fault::Cut(both(all(member, 0..nodes).collect())),
        13 => Fault::Cut(vec![(member, taskmanager)]),
        14 => Fault::Cut(both(vec![(member, taskmanager)])),
        15 => {
            let extra = rng.random_range(20..400);
            Fault::Slow(both(all(member, 0..nodes).collect()), extra)
        }
        16 => Fault::Reset(member, if rng.random_ratio(1, 2) { other } else { taskmanager }),
        17..=19 => Fault::Freeze(member),
        20 => Fault::StallDisk(member),
        _ => Fault::BreakDisk(member),
    };
    (fault, lasts)
}
