//! How keys come out of records, whether they are computed or lie in them.

use std::borrow::Borrow;
use std::marker::PhantomData;

use perennial_types::Key;

/// Finds the key of a record.
///
/// A pure function: it is called several times per record and the same record has the same key always.
pub trait KeySelector<T>: Send + 'static {
    /// The key.
    type Key: Key;
    /// The key as it comes out of a record: the key itself, or a reference into the record.
    type Ref<'a>: Borrow<Self::Key>
    where
        T: 'a;

    /// Key of a record.
    fn key<'a>(&self, record: &'a T) -> Self::Ref<'a>;

    /// The key for keeping.
    fn into_key(key: Self::Ref<'_>) -> Self::Key;
}

/// A selector that computes the key: `|record| record.id % 10`.
pub struct ByOwned<F, K> {
    select: F,
    key: PhantomData<fn() -> K>,
}

impl<F, K> ByOwned<F, K> {
    /// The selector that calls `select`.
    pub fn new(select: F) -> Self {
        Self { select, key: PhantomData }
    }
}

impl<F: Clone, K> Clone for ByOwned<F, K> {
    fn clone(&self) -> Self {
        Self::new(self.select.clone())
    }
}

impl<T: 'static, K: Key, F: Fn(&T) -> K + Send + 'static> KeySelector<T> for ByOwned<F, K> {
    type Key = K;
    type Ref<'a> = K;

    #[inline(always)]
    fn key(&self, record: &T) -> K {
        (self.select)(record)
    }

    #[inline(always)]
    fn into_key(key: K) -> K {
        key
    }
}

/// A selector that points at the key in the record: `|record| &record.word`. The key is cloned only when it is new to
/// the state.
pub struct ByRef<F, K> {
    select: F,
    key: PhantomData<fn() -> K>,
}

impl<F, K> ByRef<F, K> {
    /// The selector that calls `select`.
    pub fn new<T>(select: F) -> Self
    where
        F: for<'a> Fn(&'a T) -> &'a K,
    {
        Self { select, key: PhantomData }
    }
}

impl<F: Clone, K> Clone for ByRef<F, K> {
    fn clone(&self) -> Self {
        Self { select: self.select.clone(), key: PhantomData }
    }
}

impl<T: 'static, K: Key, F: for<'a> Fn(&'a T) -> &'a K + Send + 'static> KeySelector<T> for ByRef<F, K> {
    type Key = K;
    type Ref<'a> = &'a K;

    #[inline(always)]
    fn key<'a>(&self, record: &'a T) -> &'a K {
        (self.select)(record)
    }

    #[inline(always)]
    fn into_key(key: &K) -> K {
        key.clone()
    }
}
