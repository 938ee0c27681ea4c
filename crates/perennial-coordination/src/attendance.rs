//! Who should lead when the leader does not hear every TaskManager.
//!
//! A TaskManager that says nothing to the leader may be gone, or it may be the way between the two that is broken while
//! the other JobManagers hear it well. Giving it up restarts what runs; handing the leadership to a JobManager that hears
//! it costs its tasks nothing. So before a TaskManager is given up, the leader asks the others whom they hear.
//!
//! ```text
//! silence:  0 ────────────── timeout / 2 ────────────────── timeout
//!           heard            quiet: the others are asked     given up, if nobody hears more
//! ```
//! A TaskManager that is gone falls silent everywhere at once. One that another JobManager has heard clearly later than the
//! leader is alive.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_types::{JobManagerId, TaskManagerId};

/// Time between two hand-overs of one JobManager: a network that keeps changing must not keep the group electing.
pub const ROUND: Duration = Duration::from_secs(60);

/// How long TaskManagers have been silent towards one JobManager.
pub type Silences = BTreeMap<TaskManagerId, Duration>;

/// What a leader has to do about the TaskManagers it does not hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Ask the other JobManagers whom they hear.
    Ask,
    /// Hand the leadership to the one that hears more.
    HandOver(JobManagerId),
}

/// Watches over the TaskManagers of the leaderships of one JobManager. See the [module](self).
///
/// Times are since any fixed moment, and do not go back.
#[derive(Debug)]
pub struct Watch {
    timeout: Duration,
    handed_over: Option<Duration>,
}

impl Watch {
    /// A watch with the silence after which TaskManagers are given up.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, handed_over: None }
    }

    /// This JobManager leads and has heard its TaskManagers so long ago.
    pub fn looked(&self, now: Duration, own: &Silences) -> Option<Effect> {
        let may = self.handed_over.is_none_or(|at| now.saturating_sub(at) >= ROUND);
        (may && own.values().any(|silence| self.is_quiet(*silence))).then_some(Effect::Ask)
    }

    /// The others have answered, those that did: whom they hear. `own` is as of now.
    ///
    /// Hands over to the one that hears most of the leader's TaskManagers, if that is more than the leader hears.
    pub fn answered(
        &mut self,
        now: Duration,
        own: &Silences,
        others: &BTreeMap<JobManagerId, Silences>,
    ) -> Option<Effect> {
        self.looked(now, own)?;
        let here = own.values().filter(|silence| !self.is_quiet(**silence)).count();
        let heard_by = |theirs: &Silences| {
            let heard = own.iter().filter(|(id, silence)| theirs.get(*id).is_some_and(|at| self.hears(*at, **silence)));
            heard.count()
        };
        let counted = others.iter().map(|(id, theirs)| (heard_by(theirs), *id));
        // Of those that hear the same, the first.
        let (most, best) = counted.max_by_key(|(count, id)| (*count, std::cmp::Reverse(*id)))?;
        (most > here).then(|| {
            self.handed_over = Some(now);
            Effect::HandOver(best)
        })
    }

    fn is_quiet(&self, silence: Duration) -> bool {
        silence >= self.timeout / 2
    }

    /// Whether another JobManager hears a TaskManager that has been silent there and here for so long. Heartbeats go to all
    /// JobManagers at once, so of one that is gone both have heard the last.
    fn hears(&self, there: Duration, here: Duration) -> bool {
        !self.is_quiet(there) && (!self.is_quiet(here) || here - there >= self.timeout / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(8000);

    /// Milliseconds of silence by TaskManager.
    fn silences(of: &[(&str, u64)]) -> Silences {
        of.iter().map(|(id, ms)| (TaskManagerId((*id).to_owned()), Duration::from_millis(*ms))).collect()
    }

    fn answers(of: &[(u64, &[(&str, u64)])]) -> BTreeMap<JobManagerId, Silences> {
        of.iter().map(|(id, heard)| (JobManagerId(*id), silences(heard))).collect()
    }

    fn check(own: &[(&str, u64)], others: &[(u64, &[(&str, u64)])], expected: Option<u64>) {
        let decided = Watch::new(TIMEOUT).answered(Duration::ZERO, &silences(own), &answers(others));
        assert_eq!(decided, expected.map(|id| Effect::HandOver(JobManagerId(id))), "{own:?}; {others:?}");
    }

    #[test]
    fn the_leader_asks_when_a_taskmanager_was_silent_for_half_the_timeout() {
        let watch = Watch::new(TIMEOUT);
        for (own, expected) in [
            (&[][..], None),
            (&[("a", 0), ("b", 3999)], None),
            (&[("a", 0), ("b", 4000)], Some(Effect::Ask)),
            (&[("a", 9000)], Some(Effect::Ask)),
        ] {
            assert_eq!(watch.looked(Duration::ZERO, &silences(own)), expected, "{own:?}");
        }
    }

    #[test]
    fn who_hears_more_taskmanagers_than_the_leader_is_to_lead() {
        const BOTH: &[(&str, u64)] = &[("a", 500), ("b", 900)];
        const ONE: &[(&str, u64)] = &[("a", 500)];
        // The leader is cut from all of them, or from one.
        check(&[("a", 4100), ("b", 4000)], &[(2, BOTH), (3, BOTH)], Some(2));
        check(&[("a", 300), ("b", 4000)], &[(2, BOTH), (3, BOTH)], Some(2));
        check(&[("a", 300), ("b", 4000)], &[(2, ONE), (3, BOTH)], Some(3));
        check(&[("a", 4100), ("b", 4000)], &[(2, ONE)], Some(2));
        // Nobody hears more.
        check(&[("a", 300), ("b", 4000)], &[(2, ONE), (3, &[])], None);
        check(&[("a", 300), ("b", 4000)], &[(2, &[("b", 100)])], None);
        check(&[("a", 300), ("b", 4000)], &[], None);
        // They are gone: everybody has heard the last heartbeat.
        check(&[("a", 4010), ("b", 4000)], &[(2, &[("a", 3990), ("b", 3980)])], None);
        check(&[("a", 7900), ("b", 7900)], &[(2, &[("a", 7800), ("b", 7850)])], None);
        // One that came back while the others were asked.
        check(&[("a", 300), ("b", 100)], &[(2, BOTH)], None);
        // Those of whom the leader knows nothing do not count.
        check(&[("a", 4000)], &[(2, &[("x", 1), ("y", 1)])], None);
    }

    #[test]
    fn a_jobmanager_hands_over_once_in_a_round() {
        let mut watch = Watch::new(TIMEOUT);
        let (own, others) = (silences(&[("a", 4000)]), answers(&[(2, &[("a", 0)])]));
        let at = Duration::from_secs;
        assert_eq!(watch.answered(at(5), &own, &others), Some(Effect::HandOver(JobManagerId(2))));
        assert_eq!((watch.looked(at(64), &own), watch.answered(at(64), &own, &others)), (None, None));
        assert_eq!(watch.looked(at(65), &own), Some(Effect::Ask));
        assert_eq!(watch.answered(at(65), &own, &others), Some(Effect::HandOver(JobManagerId(2))));
    }
}
