//! What windows make of their records.

use std::marker::PhantomData;

use perennial_types::Record;

/// Aggregates the records of a window as they come, so that the window keeps one accumulator per key. Flink's
/// `AggregateFunction`.
///
/// `merge` is needed where windows are made of parts: sliding windows of panes, sessions of shorter sessions. Which records lie in
/// which part depends on the order they come in, so it has to give what adding all records to one accumulator gives.
pub trait AggregateFunction<T>: Clone + Send + Sync + 'static {
    /// What is kept per key and window.
    type Accumulator: Record;
    /// What is emitted.
    type Output: Record;

    /// The accumulator of no records.
    fn create_accumulator(&self) -> Self::Accumulator;

    /// Takes a record in.
    fn add(&self, accumulator: &mut Self::Accumulator, record: T);

    /// What the accumulator comes to.
    fn get_result(&self, accumulator: &Self::Accumulator) -> Self::Output;

    /// Takes in what another accumulator has taken in.
    fn merge(&self, accumulator: &mut Self::Accumulator, other: &Self::Accumulator);
}

/// The number of records.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountOf;

impl<T: Record> AggregateFunction<T> for CountOf {
    type Accumulator = u64;
    type Output = u64;

    #[inline(always)]
    fn create_accumulator(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn add(&self, accumulator: &mut u64, _record: T) {
        *accumulator += 1;
    }

    fn get_result(&self, accumulator: &u64) -> u64 {
        *accumulator
    }

    fn merge(&self, accumulator: &mut u64, other: &u64) {
        *accumulator += other;
    }
}

/// All records combined by a function of two, which has to be associative: `None` of no records.
#[derive(Clone)]
pub struct ReduceWith<F>(pub F);

impl<T: Record, F: Fn(T, T) -> T + Clone + Send + Sync + 'static> AggregateFunction<T> for ReduceWith<F> {
    type Accumulator = Option<T>;
    type Output = Option<T>;

    fn create_accumulator(&self) -> Option<T> {
        None
    }

    #[inline(always)]
    fn add(&self, accumulator: &mut Option<T>, record: T) {
        *accumulator = Some(match accumulator.take() {
            None => record,
            Some(so_far) => (self.0)(so_far, record),
        });
    }

    fn get_result(&self, accumulator: &Option<T>) -> Option<T> {
        accumulator.clone()
    }

    fn merge(&self, accumulator: &mut Option<T>, other: &Option<T>) {
        if let Some(other) = other {
            self.add(accumulator, other.clone());
        }
    }
}

/// The values of a field combined by a function, which has to be associative: `None` of no records.
#[derive(Clone)]
pub struct FieldOf<F, G> {
    /// Finds the value of a record.
    pub field: F,
    /// Takes a value into another.
    pub combine: G,
}

impl<T, V, F, G> AggregateFunction<T> for FieldOf<F, G>
where
    V: Record,
    F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    G: Fn(&mut V, V) + Clone + Send + Sync + 'static,
{
    type Accumulator = Option<V>;
    type Output = Option<V>;

    fn create_accumulator(&self) -> Option<V> {
        None
    }

    #[inline(always)]
    fn add(&self, accumulator: &mut Option<V>, record: T) {
        let value = (self.field)(&record);
        match accumulator {
            None => *accumulator = Some(value),
            Some(so_far) => (self.combine)(so_far, value),
        }
    }

    fn get_result(&self, accumulator: &Option<V>) -> Option<V> {
        accumulator.clone()
    }

    fn merge(&self, accumulator: &mut Option<V>, other: &Option<V>) {
        match (accumulator, other) {
            (Some(so_far), Some(other)) => (self.combine)(so_far, other.clone()),
            (so_far @ None, Some(other)) => *so_far = Some(other.clone()),
            (_, None) => {}
        }
    }
}

/// The records themselves, in the order they came in.
#[derive(Debug)]
pub struct AllOf<T>(PhantomData<fn(T)>);

impl<T> Default for AllOf<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for AllOf<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T: Record> AggregateFunction<T> for AllOf<T> {
    type Accumulator = Vec<T>;
    type Output = Vec<T>;

    fn create_accumulator(&self) -> Vec<T> {
        Vec::new()
    }

    fn add(&self, accumulator: &mut Vec<T>, record: T) {
        accumulator.push(record);
    }

    fn get_result(&self, accumulator: &Vec<T>) -> Vec<T> {
        accumulator.clone()
    }

    fn merge(&self, accumulator: &mut Vec<T>, other: &Vec<T>) {
        accumulator.extend_from_slice(other);
    }
}
