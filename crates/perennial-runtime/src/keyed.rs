//! Operators with a state per key.

use perennial_exchange::KeyHash;
use perennial_state::{KeySelector, KeyedTable};
use perennial_types::{Key, Record};

use crate::{ChainEvent, Output, StateContext, TaskError};

/// The key hashes of a selector, for [`Route::Hash`](crate::Route::Hash).
pub struct HashBy<S>(
    /// Finds the keys.
    pub S,
);

impl<T, S: KeySelector<T>> KeyHash<T> for HashBy<S> {
    fn hash_batch(&mut self, batch: &[T], hashes: &mut Vec<u32>) {
        use std::borrow::Borrow;
        hashes.extend(batch.iter().map(|record| self.0.key(record).borrow().key_hash()));
    }
}

/// Running aggregation: folds each record into the state of its key and emits what became of it, once per record.
///
/// `init` makes the state of a key from its first record, `fold` adds a later one, `emit` makes the output. Sum, min,
/// max, count and reduce are this with different functions.
pub struct KeyedFold<T, Sel: KeySelector<T>, S, I, F, E, O> {
    of: StateContext,
    selector: Sel,
    init: I,
    fold: F,
    emit: E,
    state: KeyedTable<Sel::Key, S>,
    out: Vec<O>,
    next: Box<dyn Output<O>>,
}

impl<T, Sel, S, I, F, E, O> KeyedFold<T, Sel, S, I, F, E, O>
where
    Sel: KeySelector<T>,
    S: Record,
    I: FnMut(&T) -> S + Send,
    F: FnMut(&mut S, T) + Send,
    E: FnMut(&Sel::Key, &S) -> O + Send,
{
    /// An operator that feeds `next`, with the state that `of` has of it.
    pub fn new(
        mut of: StateContext,
        selector: Sel,
        (init, fold, emit): (I, F, E),
        next: Box<dyn Output<O>>,
    ) -> Result<Self, TaskError> {
        let (state, out) = (of.take_table("state")?, Vec::new());
        Ok(Self { of, selector, init, fold, emit, state, out, next })
    }
}

impl<T, Sel, S, I, F, E, O> Output<T> for KeyedFold<T, Sel, S, I, F, E, O>
where
    T: Record,
    Sel: KeySelector<T>,
    S: Record,
    I: FnMut(&T) -> S + Send,
    F: FnMut(&mut S, T) + Send,
    E: FnMut(&Sel::Key, &S) -> O + Send,
    O: Send + 'static,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let Self { selector, init, fold, emit, state, out, next, .. } = self;
        out.reserve(batch.len());
        // An iterator of known length: the vector's length is written once.
        out.extend(batch.drain(..).map(|record| {
            let (key, value, fresh) = state.entry(&record, selector, &mut *init);
            if !fresh {
                fold(value, record);
            }
            emit(key, value)
        }));
        next.push(out)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        event.keyed(&self.of, "state", &mut self.state);
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}
