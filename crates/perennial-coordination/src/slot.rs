//! Slots: how the tasks of a job share them, and how jobs share those of the TaskManagers.
//!
//! **Sharing.** One slot holds at most one subtask of each vertex of a slot-sharing group, so a group needs as many slots
//! as its widest vertex has subtasks; subtask *i* of every vertex of a group sits in slot *i* of the group.
//!
//! **Spreading.** Needed slots go one by one to the TaskManager with the smallest share of its slots in use, the first
//! by name among equals. Flink fills TaskManagers in no particular order by default and calls this
//! `taskmanager.load-balance.mode: SLOTS`; we make it the default because two TaskManagers with half of a job each use
//! both machines' memory bandwidth, and because a lost TaskManager then takes as few tasks as possible with it.
//!
//! **Who waits.** A job gets all the slots it needs or none. Jobs are served in the order they asked, but one that cannot
//! be served does not hold up a smaller one behind it: on a cluster that lacks slots for one job the others go on.

mod ledger;

use perennial_types::JobGraph;

pub use ledger::{Grant, Ledger, Shortage};

/// One slot a job needs, with the subtasks that share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSlot {
    /// Subtasks as (position of the vertex in the JobGraph, index of the subtask).
    pub subtasks: Vec<(usize, u32)>,
}

/// The slots a job needs: those of its first slot-sharing group in order, then those of the next.
///
/// Their number is [`JobGraph::slots_needed`].
pub fn sharing(graph: &JobGraph) -> Vec<SharedSlot> {
    let mut groups: Vec<(&str, Vec<SharedSlot>)> = Vec::new();
    for (position, vertex) in graph.vertices.iter().enumerate() {
        let group = match groups.iter().position(|(name, _)| *name == vertex.slot_sharing_group) {
            Some(known) => known,
            None => {
                groups.push((&vertex.slot_sharing_group, Vec::new()));
                groups.len() - 1
            }
        };
        let Some((_, slots)) = groups.get_mut(group) else { continue };
        for subtask in 0..vertex.parallelism {
            match slots.get_mut(subtask as usize) {
                Some(slot) => slot.subtasks.push((position, subtask)),
                None => slots.push(SharedSlot { subtasks: vec![(position, subtask)] }),
            }
        }
    }
    groups.into_iter().flat_map(|(_, slots)| slots).collect()
}

/// A TaskManager as the matching sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bin {
    /// Slots it has.
    pub total: u32,
    /// Slots in use, at most `total`.
    pub used: u32,
}

/// Gives each of `need` slots a bin, or `None` when there are fewer free ones.
///
/// Each goes to the bin with the smallest `used / total` so far, the first one among equals. The result never overfills
/// a bin and differs between equal bins by at most one.
pub fn spread(need: u32, bins: &[Bin]) -> Option<Vec<usize>> {
    let mut bins = bins.to_vec();
    (0..need)
        .map(|_| {
            let (position, bin) = bins
                .iter_mut()
                .enumerate()
                .filter(|(_, bin)| bin.used < bin.total)
                // a.used / a.total < b.used / b.total without leaving the integers
                .min_by(|(_, a), (_, b)| {
                    let left = u64::from(a.used) * u64::from(b.total);
                    left.cmp(&(u64::from(b.used) * u64::from(a.total)))
                })?;
            bin.used += 1;
            Some(position)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::testing::graph;

    #[test]
    fn subtask_i_of_every_vertex_of_a_group_shares_slot_i() {
        let graph = graph(&[("a", 2, "default"), ("b", 3, "default"), ("c", 2, "heavy")]);
        let subtasks: Vec<_> = sharing(&graph).into_iter().map(|slot| slot.subtasks).collect();
        assert_eq!(subtasks, [vec![(0, 0), (1, 0)], vec![(0, 1), (1, 1)], vec![(1, 2)], vec![(2, 0)], vec![(2, 1)]]);
        assert_eq!(subtasks.len() as u32, graph.slots_needed());
    }

    #[test]
    fn two_taskmanagers_share_the_work() {
        let bin = |total, used| Bin { total, used };
        assert_eq!(spread(4, &[bin(4, 0), bin(4, 0)]), Some(vec![0, 1, 0, 1]));
        assert_eq!(spread(3, &[bin(4, 3), bin(4, 0)]), Some(vec![1, 1, 1]));
        assert_eq!(spread(2, &[bin(1, 1), bin(1, 0)]), None);
        assert_eq!(spread(0, &[]), Some(vec![]));
    }

    proptest! {
        /// No bin is overfilled, everything needed is placed when it fits, and equal empty bins stay level.
        #[test]
        fn spreading_fills_no_bin_beyond_its_size(
            bins in proptest::collection::vec((0u32..9, 0u32..9), 0..7),
            need in 0u32..40,
        ) {
            let bins: Vec<Bin> = bins.into_iter().map(|(a, b)| Bin { total: a.max(b), used: a.min(b) }).collect();
            let free: u32 = bins.iter().map(|bin| bin.total - bin.used).sum();
            let placed = spread(need, &bins);
            prop_assert_eq!(placed.is_some(), need <= free);
            for (position, bin) in bins.iter().enumerate() {
                let given = placed.iter().flatten().filter(|at| **at == position).count() as u32;
                prop_assert!(bin.used + given <= bin.total);
            }
        }

        #[test]
        fn equal_taskmanagers_get_equal_shares(count in 1usize..6, size in 1u32..9, need in 0u32..40) {
            let placed = spread(need, &vec![Bin { total: size, used: 0 }; count]);
            if let Some(placed) = placed {
                let given = |position| placed.iter().filter(|at| **at == position).count();
                let shares: Vec<usize> = (0..count).map(given).collect();
                prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{:?}", shares);
            }
        }
    }
}
