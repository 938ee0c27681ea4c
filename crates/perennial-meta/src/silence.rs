//! When a leader that nobody answers stops talking, without clocks or messages.
//!
//! A leader may be heard and hear nothing: a link that passes one way, a firewall. It has stopped serving, and its heartbeats still
//! keep the others from electing. So it says nothing more once no quorum has acknowledged anything for a while. The others elect;
//! whoever they elect is heard of when this one hears again.
//!
//! They may need it, though: nobody else may have all entries, or too few are left. So silence ends when a quorum acknowledges something
//! after all, and after the time they need to elect, and begins anew if that changed nothing.

use std::time::Duration;

use tokio::time::Instant;

/// How long a leader goes on without an answer, and for how long it is silent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Time without an acknowledgement.
    pub(crate) speaks: Duration,
    /// Time of silence: the others have elected by then, if they can.
    pub(crate) silent: Duration,
    /// What counts at most between two looks: a process that stood still itself has heard nobody, and that says nothing.
    pub(crate) look: Duration,
}

/// One member's leaderships, one after the other. `T` tells a newer acknowledgement from an older one.
#[derive(Debug)]
pub(crate) struct Silence<T> {
    patience: Patience,
    leads: Option<Leads<T>>,
}

#[derive(Debug)]
struct Leads<T> {
    term: u64,
    /// When it was looked at last.
    looked: Instant,
    /// The newest sign of a quorum.
    acknowledged: Option<T>,
    /// Time since that, or since it began to speak, or to be silent.
    since: Duration,
    silent: bool,
}

impl<T: Copy + PartialOrd> Silence<T> {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, leads: None }
    }

    /// This member leads in a term; `acknowledged` is the newest of what it sent that a quorum has acknowledged. Returns whether it is silent.
    pub(crate) fn leads(&mut self, term: u64, acknowledged: Option<T>, now: Instant) -> bool {
        let new = Leads { term, looked: now, acknowledged, since: Duration::ZERO, silent: false };
        let leads = match &mut self.leads {
            Some(leads) if leads.term == term => leads,
            leads => leads.insert(new),
        };
        leads.since += (now - leads.looked).min(self.patience.look);
        leads.looked = now;
        if acknowledged > leads.acknowledged {
            (leads.acknowledged, leads.since, leads.silent) = (acknowledged, Duration::ZERO, false);
        }
        let limit = if leads.silent { self.patience.silent } else { self.patience.speaks };
        if leads.since >= limit {
            (leads.since, leads.silent) = (Duration::ZERO, !leads.silent);
        }
        leads.silent
    }

    /// It does not lead, or needs nobody: it is not silent.
    pub(crate) fn rests(&mut self) {
        self.leads = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        speaks: Duration::from_millis(900),
        silent: Duration::from_millis(600),
        look: Duration::from_millis(100),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Looks every 50 ms from `from` to `to` at a leader in term 1. Returns when it turned silent or spoke again.
    fn look(
        silence: &mut Silence<u64>,
        start: Instant,
        from: u64,
        to: u64,
        acknowledged: impl Fn(u64) -> Option<u64>,
    ) -> Vec<(u64, bool)> {
        let mut turns = Vec::new();
        let mut silent = silence.leads.as_ref().is_some_and(|leads| leads.silent);
        for now in (from..=to).step_by(50) {
            let is = silence.leads(1, acknowledged(now), start + ms(now));
            if is != silent {
                turns.push((now, is));
                silent = is;
            }
        }
        turns
    }

    #[tokio::test]
    async fn a_leader_is_silent_when_no_quorum_answers_and_speaks_when_one_does() {
        let (mut silence, start) = (Silence::new(PATIENCE), Instant::now());
        assert_eq!(look(&mut silence, start, 0, 1000, |now| now.checked_sub(20)), []);
        assert_eq!(look(&mut silence, start, 1050, 2000, |_| Some(980)), [(1900, true)]);
        assert_eq!(look(&mut silence, start, 2050, 3000, |_| Some(1020)), [(2050, false), (2950, true)]);
    }

    /// The others could not elect: it has what they lack.
    #[tokio::test]
    async fn silence_ends_and_begins_anew() {
        let (mut silence, start) = (Silence::new(PATIENCE), Instant::now());
        let turns = look(&mut silence, start, 0, 3100, |_| None);
        assert_eq!(turns, [(900, true), (1500, false), (2400, true), (3000, false)]);
    }

    #[tokio::test]
    async fn a_leader_that_stood_still_itself_speaks() {
        let (mut silence, start) = (Silence::new(PATIENCE), Instant::now());
        assert_eq!(look(&mut silence, start, 0, 500, |_| Some(0)), []);
        assert!(!silence.leads(1, Some(0), start + ms(5000)));
        assert_eq!(look(&mut silence, start, 5050, 5500, Some), []);
    }

    #[tokio::test]
    async fn a_new_leadership_speaks() {
        let (mut silence, start) = (Silence::new(PATIENCE), Instant::now());
        assert_eq!(look(&mut silence, start, 0, 1000, |_| None), [(900, true)]);
        assert!(!silence.leads(2, None, start + ms(1050)));
        assert_eq!(look(&mut silence, start, 1100, 1150, |_| None), []);
        silence.rests();
        assert!(!silence.leads(2, None, start + ms(5000)));
    }
}
