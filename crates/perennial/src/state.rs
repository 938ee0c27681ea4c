//! State of a key, by Flink's names.
//!
//! A process function has one state value per key. These are its usual parts; they compose as tuples, or as the fields
//! of a struct that derives `Record` and `Default`.

use std::collections::BTreeMap;

use perennial_runtime::windows::AggregateFunction;
use perennial_types::{DecodeError, Record};

/// One value, or none. Flink's `ValueState`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueState<T>(Option<T>);

impl<T> Default for ValueState<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> ValueState<T> {
    /// The value.
    pub fn value(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// The value, to be changed in place.
    pub fn value_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }

    /// Sets the value.
    pub fn update(&mut self, value: T) {
        self.0 = Some(value);
    }

    /// Removes the value.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// A list. Flink's `ListState`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListState<T>(Vec<T>);

impl<T> Default for ListState<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ListState<T> {
    /// Appends a value.
    pub fn add(&mut self, value: T) {
        self.0.push(value);
    }

    /// Appends values.
    pub fn add_all(&mut self, values: impl IntoIterator<Item = T>) {
        self.0.extend(values);
    }

    /// The values, in the order they were added.
    pub fn get(&self) -> &[T] {
        &self.0
    }

    /// The values, to be changed in place.
    pub fn get_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }

    /// Replaces all values.
    pub fn update(&mut self, values: Vec<T>) {
        self.0 = values;
    }

    /// Removes all values and gives them.
    pub fn take(&mut self) -> Vec<T> {
        std::mem::take(&mut self.0)
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

/// All values added, combined into one. Flink's `ReducingState`.
///
/// The function is code and not state: it is given with each value, and has to be the same one always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReducingState<T>(Option<T>);

impl<T> Default for ReducingState<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> ReducingState<T> {
    /// Combines a value with what there is; the first one is taken as it is.
    pub fn add(&mut self, value: T, reduce: impl FnOnce(T, T) -> T) {
        self.0 = Some(match self.0.take() {
            Some(so_far) => reduce(so_far, value),
            None => value,
        });
    }

    /// What the values came to.
    pub fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// Removes it.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// All values added, in the accumulator `A` of an [`AggregateFunction`]. Flink's `AggregatingState`.
///
/// The function is code and not state: it is given with each value, and has to be the same one always.
///
/// ```
/// # use perennial::prelude::*;
/// # use perennial::state::AggregatingState;
/// # fn add(mean: &impl AggregateFunction<f64, Accumulator = (f64, u64), Output = f64>) {
/// let mut temperatures = AggregatingState::default();
/// temperatures.add(mean, 20.5);
/// let so_far: Option<f64> = temperatures.get(mean);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregatingState<A>(Option<A>);

impl<A> Default for AggregatingState<A> {
    fn default() -> Self {
        Self(None)
    }
}

impl<A: Record> AggregatingState<A> {
    /// Takes a value in.
    pub fn add<T>(&mut self, function: &impl AggregateFunction<T, Accumulator = A>, value: T) {
        function.add(self.0.get_or_insert_with(|| function.create_accumulator()), value);
    }

    /// What the values came to; none when there are none.
    pub fn get<T, F: AggregateFunction<T, Accumulator = A>>(&self, function: &F) -> Option<F::Output> {
        self.0.as_ref().map(|accumulator| function.get_result(accumulator))
    }

    /// Removes it.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// A map, in the order of its keys. Flink's `MapState`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapState<K, V>(BTreeMap<K, V>);

impl<K, V> Default for MapState<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> MapState<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// The value of a key, to be changed in place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key)
    }

    /// Sets the value of a key and gives the one it had.
    pub fn put(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// The value of a key, made first when there is none.
    pub fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        self.0.entry(key).or_insert_with(value)
    }

    /// Removes a key and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key)
    }

    /// Whether the key has a value.
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Keys and values.
    pub fn entries(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter()
    }

    /// Keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// A state is stored as what it holds.
macro_rules! stored_as_content {
    ($($state:ident<$($parameter:ident: $bound:path),*>),*) => { $(
        impl<$($parameter: $bound + Record),*> Record for $state<$($parameter),*> {
            const FIXED_BYTES: Option<usize> = None;

            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Record::decode(input).map(Self)
            }
        }
    )* };
}
stored_as_content!(
    ValueState<T: Record>,
    ListState<T: Record>,
    ReducingState<T: Record>,
    AggregatingState<A: Record>,
    MapState<K: Ord, V: Record>
);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Mean;

    impl AggregateFunction<u64> for Mean {
        type Accumulator = (u64, u64);
        type Output = u64;

        fn create_accumulator(&self) -> (u64, u64) {
            (0, 0)
        }

        fn add(&self, (sum, count): &mut (u64, u64), value: u64) {
            *sum += value;
            *count += 1;
        }

        fn get_result(&self, (sum, count): &(u64, u64)) -> u64 {
            sum / count
        }

        fn merge(&self, accumulator: &mut (u64, u64), other: &(u64, u64)) {
            *accumulator = (accumulator.0 + other.0, accumulator.1 + other.1);
        }
    }

    #[test]
    fn values_are_combined_as_they_come_and_the_result_is_what_is_stored() {
        let (mut most, mut mean) = (ReducingState::default(), AggregatingState::default());
        assert_eq!((most.get(), mean.get(&Mean)), (None, None));
        for value in [3, 9, 6] {
            most.add(value, u64::max);
            mean.add(&Mean, value);
        }
        let mut bytes = Vec::new();
        (most.clone(), mean.clone()).encode(&mut bytes);
        let back: (ReducingState<u64>, AggregatingState<(u64, u64)>) = Record::decode(&mut bytes.as_slice()).unwrap();
        assert_eq!((back.0.get(), back.1.get(&Mean)), (Some(&9), Some(6)));
        most.clear();
        mean.clear();
        assert_eq!((most.get(), mean.get(&Mean)), (None, None));
    }

    #[test]
    fn states_round_trip_as_their_content() {
        let mut state = (ValueState::default(), ListState::default(), MapState::default());
        state.0.update(7u64);
        state.1.add_all(["a".to_owned(), "b".to_owned()]);
        state.2.put(3u32, true);
        *state.2.get_or_insert_with(4, || true) = false;
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        let mut input = bytes.as_slice();
        let back: (ValueState<u64>, ListState<String>, MapState<u32, bool>) = Record::decode(&mut input).unwrap();
        assert!(input.is_empty());
        assert_eq!(back, state);
        assert_eq!(back.2.entries().collect::<Vec<_>>(), [(&3, &true), (&4, &false)]);
    }
}
