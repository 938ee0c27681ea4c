//! Keeps the records a predicate accepts, in their order.

use std::mem::needs_drop;

use crate::{ChainEvent, Output, TaskError, UserError};

/// Keeps what a predicate that cannot fail accepts.
pub struct Filter<T, F> {
    predicate: F,
    next: Box<dyn Output<T>>,
}

impl<T, F: FnMut(&T) -> bool> Filter<T, F> {
    /// The operator in front of `next`.
    pub fn new(predicate: F, next: Box<dyn Output<T>>) -> Self {
        Self { predicate, next }
    }
}

impl<T: Send, F: FnMut(&T) -> bool + Send> Output<T> for Filter<T, F> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        if needs_drop::<T>() {
            batch.retain(&mut self.predicate);
        } else {
            compact(batch, &mut self.predicate);
        }
        if batch.is_empty() { Ok(()) } else { self.next.push(batch) }
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}

/// Moves what is kept to the front without a branch that depends on the data: a predicate that is true half of the time
/// costs no mispredictions. Only for types that need no drop, whose swap is a few moves.
#[expect(
    clippy::indexing_slicing,
    reason = "measured loop; both indexes are below the length, `kept` never passes `at`"
)]
#[inline(always)]
fn compact<T>(batch: &mut Vec<T>, mut predicate: impl FnMut(&T) -> bool) {
    let records = batch.as_mut_slice();
    let mut kept = 0;
    for at in 0..records.len() {
        let keep = predicate(&records[at]);
        records.swap(kept, at);
        kept += usize::from(keep);
    }
    batch.truncate(kept);
}

/// Keeps what a predicate accepts; its first error ends the task.
pub struct TryFilter<T, F> {
    name: String,
    predicate: F,
    next: Box<dyn Output<T>>,
}

impl<T, F> TryFilter<T, F> {
    /// The operator `name` in front of `next`.
    pub fn new(name: &str, predicate: F, next: Box<dyn Output<T>>) -> Self {
        Self { name: name.to_owned(), predicate, next }
    }
}

impl<T, E, F> Output<T> for TryFilter<T, F>
where
    T: Send,
    E: Into<UserError>,
    F: FnMut(&T) -> Result<bool, E> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let mut failed = None;
        batch.retain(|record| {
            failed.is_none()
                && (self.predicate)(record).unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                })
        });
        if let Some(error) = failed {
            return Err(TaskError::user(&self.name, error));
        }
        if batch.is_empty() { Ok(()) } else { self.next.push(batch) }
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_keeps_what_retain_keeps() {
        for seed in 0..50u64 {
            let numbers: Vec<u64> = (0..seed * 7).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed) >> 7).collect();
            let (mut expect, mut got) = (numbers.clone(), numbers);
            expect.retain(|n| n % 3 != 0);
            compact(&mut got, |n| n % 3 != 0);
            assert_eq!(got, expect);
        }
    }
}
