//! What can travel between tasks and live in state: a frozen, documented byte layout chosen by the type.
//!
//! Integers and floats are little endian, `bool` is one byte, text and sequences are a `u32` count and their
//! elements, `Option` is one byte and the value, an enum is a `u32` index and the variant's fields, and a tuple or struct is its fields
//! in order, without padding. A type whose every part has a fixed size is [fixed](Record::FIXED_BYTES): its batches are
//! moved by straight stores, as fast as copying memory, and in safe code. The same layout serves the wire and savepoints.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

/// Bytes that are not an encoding of the type asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the value needs.
    #[error("ends early: {needed} more bytes are needed, {left} are left")]
    EndsEarly {
        /// Bytes the next field takes.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// More bytes than the values take.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// A field holds what its type cannot.
    #[error("not a {0}")]
    Invalid(&'static str),
}

/// A value that can travel between tasks and be kept in state.
///
/// Implemented for numbers, text, options, sequences, tuples and arrays; `#[derive(Record)]` implements it for
/// structs and enums made of those.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Record`: it cannot travel between tasks or be kept in state",
    note = "for a type of your own, add `#[derive(Clone, Record)]`; its fields are then records too"
)]
pub trait Record: Clone + Send + Sync + 'static {
    /// Encoded size in bytes when it is the same for every value.
    const FIXED_BYTES: Option<usize>;

    /// Appends the encoding.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value and moves `input` past it.
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError>;

    /// Writes the encoding of a fixed type over `out`, which is [`Record::FIXED_BYTES`] long.
    ///
    /// Other types leave this as it is and are never asked.
    fn encode_fixed(&self, out: &mut [u8]) {
        let mut bytes = Vec::with_capacity(out.len());
        self.encode(&mut bytes);
        out.copy_from_slice(&bytes);
    }

    /// Appends the encodings of a batch.
    fn encode_batch(batch: &[Self], out: &mut Vec<u8>) {
        match Self::FIXED_BYTES {
            Some(size) if size > 0 => {
                let start = out.len();
                out.resize(start + batch.len() * size, 0);
                if let Some(space) = out.get_mut(start..) {
                    for (record, bytes) in batch.iter().zip(space.chunks_exact_mut(size)) {
                        record.encode_fixed(bytes);
                    }
                }
            }
            _ => batch.iter().for_each(|record| record.encode(out)),
        }
    }

    /// Reads `count` values that fill `input` exactly, and appends them.
    ///
    /// A hostile `count` allocates no more than `input` could hold.
    fn decode_batch(mut input: &[u8], count: usize, out: &mut Vec<Self>) -> Result<(), DecodeError> {
        match Self::FIXED_BYTES {
            Some(size) if size > 0 => {
                let needed = count.saturating_mul(size);
                if needed != input.len() {
                    return Err(match input.len().checked_sub(needed) {
                        Some(left) => DecodeError::LeftOver(left),
                        None => DecodeError::EndsEarly { needed, left: input.len() },
                    });
                }
                out.reserve(count);
                for mut bytes in input.chunks_exact(size) {
                    out.push(Self::decode(&mut bytes)?);
                }
                Ok(())
            }
            _ => {
                out.reserve(count.min(input.len()));
                for _ in 0..count {
                    out.push(Self::decode(&mut input)?);
                }
                if input.is_empty() { Ok(()) } else { Err(DecodeError::LeftOver(input.len())) }
            }
        }
    }
}

/// A record that streams can be keyed by.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Key`: streams cannot be keyed by it",
    note = "for a type of your own, add `#[derive(Clone, PartialEq, Eq, Hash, Record, Key)]`; floats and maps have no stable equality"
)]
pub trait Key: Record + Eq + Hash {
    /// The 32-bit hash from which the key group follows. Frozen: state is stored under it.
    ///
    /// Integers of up to 32 bits are their own hash, 64-bit ones fold like Java's `Long.hashCode`, text is the low half
    /// of XXH3-64, sequences and tuples combine like Java's `Arrays.hashCode`.
    fn key_hash(&self) -> u32;
}

/// Takes `count` bytes off the front of `input`.
#[inline(always)]
pub(crate) fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], DecodeError> {
    match input.split_at_checked(count) {
        Some((taken, rest)) => {
            *input = rest;
            Ok(taken)
        }
        None => Err(DecodeError::EndsEarly { needed: count, left: input.len() }),
    }
}

macro_rules! number {
    ($($type:ty, $hash:expr;)*) => { $(
        impl Record for $type {
            const FIXED_BYTES: Option<usize> = Some(size_of::<$type>());

            #[inline(always)]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            fn encode_fixed(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                match input.split_first_chunk() {
                    Some((bytes, rest)) => {
                        *input = rest;
                        Ok(<$type>::from_le_bytes(*bytes))
                    }
                    None => Err(DecodeError::EndsEarly { needed: size_of::<$type>(), left: input.len() }),
                }
            }
        }
        number!(@key $type, $hash);
    )* };
    (@key $type:ty, none) => {};
    (@key $type:ty, $hash:expr) => {
        impl Key for $type {
            #[inline(always)]
            fn key_hash(&self) -> u32 {
                let hash: fn($type) -> u32 = $hash;
                hash(*self)
            }
        }
    };
}

#[inline(always)]
fn fold(wide: u64) -> u32 {
    (wide ^ (wide >> 32)) as u32
}

number! {
    u8, |x| u32::from(x);
    i8, |x| x as u32;
    u16, |x| u32::from(x);
    i16, |x| x as u32;
    u32, |x| x;
    i32, |x| x as u32;
    u64, |x| fold(x);
    i64, |x| fold(x as u64);
    u128, |x| fold(x as u64 ^ (x >> 64) as u64);
    i128, |x| fold(x as u64 ^ (x >> 64) as u64);
}
macro_rules! float {
    ($($type:ty),*) => { $(
        impl Record for $type {
            const FIXED_BYTES: Option<usize> = Some(size_of::<$type>());

            #[inline(always)]
            fn encode(&self, out: &mut Vec<u8>) {
                self.to_bits().encode(out);
            }

            #[inline(always)]
            fn encode_fixed(&self, out: &mut [u8]) {
                self.to_bits().encode_fixed(out);
            }

            #[inline(always)]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Record::decode(input).map(<$type>::from_bits)
            }
        }
    )* };
}
float!(f32, f64);

/// A type that travels as another one.
macro_rules! travels_as {
    ($($type:ty as $wire:ty, $what:literal, $to:expr, $from:expr;)*) => { $(
        impl Record for $type {
            const FIXED_BYTES: Option<usize> = <$wire>::FIXED_BYTES;

            #[inline(always)]
            fn encode(&self, out: &mut Vec<u8>) {
                let to: fn(&$type) -> $wire = $to;
                to(self).encode(out);
            }

            #[inline(always)]
            fn encode_fixed(&self, out: &mut [u8]) {
                let to: fn(&$type) -> $wire = $to;
                to(self).encode_fixed(out);
            }

            #[inline(always)]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let from: fn($wire) -> Option<$type> = $from;
                from(Record::decode(input)?).ok_or(DecodeError::Invalid($what))
            }
        }
    )* };
}
travels_as! {
    usize as u64, "usize", |x| *x as u64, |x| usize::try_from(x).ok();
    isize as i64, "isize", |x| *x as i64, |x| isize::try_from(x).ok();
    bool as u8, "bool", |x| u8::from(*x), |x| match x { 0 => Some(false), 1 => Some(true), _ => None };
    char as u32, "char", |x| u32::from(*x), char::from_u32;
    std::time::Duration as u64, "duration in nanoseconds", |x| u64::try_from(x.as_nanos()).unwrap_or(u64::MAX), |x| Some(std::time::Duration::from_nanos(x));
}

macro_rules! key_as {
    ($($type:ty, $to:expr;)*) => { $(
        impl Key for $type {
            #[inline(always)]
            fn key_hash(&self) -> u32 {
                let to: fn(&$type) -> u32 = $to;
                to(self)
            }
        }
    )* };
}
key_as! {
    usize, |x| (*x as u64).key_hash();
    isize, |x| (*x as i64).key_hash();
    bool, |x| if *x { 1231 } else { 1237 };
    char, |x| u32::from(*x);
    std::time::Duration, |x| fold(x.as_nanos() as u64);
    String, |x| xxh3_64(x.as_bytes()) as u32;
    Arc<str>, |x| xxh3_64(x.as_bytes()) as u32;
    Box<str>, |x| xxh3_64(x.as_bytes()) as u32;
}

/// Writes the `u32` count in front of text or a sequence. Longer ones than 4 GiB do not occur: a frame is far smaller.
fn encode_count(count: usize, out: &mut Vec<u8>) {
    u32::try_from(count).unwrap_or(u32::MAX).encode(out);
}

macro_rules! text {
    ($($type:ty),*) => { $(
        impl Record for $type {
            const FIXED_BYTES: Option<usize> = None;

            fn encode(&self, out: &mut Vec<u8>) {
                encode_count(self.len(), out);
                out.extend_from_slice(self.as_bytes());
            }

            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let count = u32::decode(input)? as usize;
                let bytes = take(input, count)?;
                std::str::from_utf8(bytes).map(Into::into).map_err(|_| DecodeError::Invalid("UTF-8 text"))
            }
        }
    )* };
}
text!(String, Arc<str>, Box<str>);

impl<T: Record> Record for Vec<T> {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_count(self.len(), out);
        T::encode_batch(self, out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = u32::decode(input)? as usize;
        let mut values = Vec::new();
        match T::FIXED_BYTES {
            Some(size) if size > 0 => T::decode_batch(take(input, count.saturating_mul(size))?, count, &mut values)?,
            _ => {
                for _ in 0..count {
                    values.push(T::decode(input)?);
                }
            }
        }
        Ok(values)
    }
}

impl<T: Key> Key for Vec<T> {
    fn key_hash(&self) -> u32 {
        self.iter().fold(1, |hash, item| combine(hash, item.key_hash()))
    }
}

impl<T: Record> Record for Option<T> {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? { Some(T::decode(input)?) } else { None })
    }
}

impl<T: Key> Key for Option<T> {
    fn key_hash(&self) -> u32 {
        self.as_ref().map_or(0, Key::key_hash)
    }
}

impl<T: Record> Record for Box<T> {
    const FIXED_BYTES: Option<usize> = T::FIXED_BYTES;

    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        T::decode(input).map(Box::new)
    }
}

impl<K: Record + Ord, V: Record> Record for BTreeMap<K, V> {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_count(self.len(), out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = u32::decode(input)?;
        (0..count).map(|_| Ok((K::decode(input)?, V::decode(input)?))).collect()
    }
}

impl<T: Record, const N: usize> Record for [T; N] {
    const FIXED_BYTES: Option<usize> = match T::FIXED_BYTES {
        Some(size) => Some(size * N),
        None => None,
    };

    fn encode(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|item| item.encode(out));
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let items = (0..N).map(|_| T::decode(input)).collect::<Result<Vec<T>, _>>()?;
        items.try_into().map_err(|_| DecodeError::Invalid("array"))
    }
}

impl<T: Key, const N: usize> Key for [T; N] {
    fn key_hash(&self) -> u32 {
        self.iter().fold(1, |hash, item| combine(hash, item.key_hash()))
    }
}

/// Java's `31 * hash + next`, the way hashes of fields become the hash of the whole. For `#[derive(Key)]`.
#[doc(hidden)]
#[inline(always)]
pub const fn combine(hash: u32, next: u32) -> u32 {
    hash.wrapping_mul(31).wrapping_add(next)
}

/// Sum of two fixed sizes. For `#[derive(Record)]`.
#[doc(hidden)]
pub const fn add_fixed(left: Option<usize>, right: Option<usize>) -> Option<usize> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left + right),
        _ => None,
    }
}

/// Size of a field in a fixed record. For `#[derive(Record)]`.
#[doc(hidden)]
pub const fn fixed_or_zero(size: Option<usize>) -> usize {
    match size {
        Some(size) => size,
        None => 0,
    }
}

macro_rules! tuple {
    ($($name:ident $field:tt),*) => {
        impl<$($name: Record),*> Record for ($($name,)*) {
            const FIXED_BYTES: Option<usize> = {
                let size = Some(0);
                $(let size = add_fixed(size, $name::FIXED_BYTES);)*
                size
            };

            #[inline(always)]
            fn encode(&self, out: &mut Vec<u8>) {
                let _ = &out;
                $(self.$field.encode(out);)*
            }

            #[inline(always)]
            fn encode_fixed(&self, out: &mut [u8]) {
                let rest = out;
                $(
                    let Some((head, rest)) = rest.split_at_mut_checked(fixed_or_zero($name::FIXED_BYTES)) else { return };
                    self.$field.encode_fixed(head);
                )*
                let _ = rest;
            }

            #[inline(always)]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let _ = &input;
                Ok(($($name::decode(input)?,)*))
            }
        }

        impl<$($name: Key),*> Key for ($($name,)*) {
            #[inline(always)]
            fn key_hash(&self) -> u32 {
                let hash = 1;
                $(let hash = combine(hash, self.$field.key_hash());)*
                hash
            }
        }
    };
}
tuple!();
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MaxParallelism, key_group};

    fn round_trip<T: Record + PartialEq + std::fmt::Debug>(batch: Vec<T>) {
        let mut bytes = Vec::new();
        T::encode_batch(&batch, &mut bytes);
        if let Some(size) = T::FIXED_BYTES {
            assert_eq!(bytes.len(), size * batch.len());
        }
        let mut single = Vec::new();
        batch.iter().for_each(|record| record.encode(&mut single));
        assert_eq!(single, bytes, "one by one and as a batch are the same bytes");
        let mut back = Vec::new();
        T::decode_batch(&bytes, batch.len(), &mut back).unwrap();
        assert_eq!(back, batch);
        if !bytes.is_empty() {
            assert!(T::decode_batch(&bytes[..bytes.len() - 1], batch.len(), &mut Vec::new()).is_err());
            bytes.push(0);
            assert!(T::decode_batch(&bytes, batch.len(), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn every_kind_round_trips() {
        round_trip(vec![(1u64, 2u64), (u64::MAX, 0)]);
        round_trip(vec![(1u8, -2i16, 3.5f64, true, 'ß')]);
        round_trip(vec![String::new(), "wörld".to_owned()]);
        round_trip(vec![Some(vec![(1u32, "x".to_owned())]), None]);
        round_trip(vec![[1u16, 2, 3]]);
        round_trip(vec![((), 7usize)]);
        round_trip(vec![BTreeMap::from([(1u8, "a".to_owned())])]);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(bool::decode(&mut &[2u8][..]), Err(DecodeError::Invalid("bool")));
        assert!(String::decode(&mut &[1, 0, 0, 0, 0xff][..]).is_err());
        assert!(Vec::<u64>::decode(&mut &[0xff; 8][..]).is_err());
        assert!(<(u64, u64)>::decode_batch(&[0; 8], usize::MAX, &mut Vec::new()).is_err());
    }

    /// State is stored under these numbers: they never change.
    #[test]
    fn key_hashes_are_frozen() {
        assert_eq!(7u32.key_hash(), 7);
        assert_eq!(0x1_0000_0002u64.key_hash(), 3);
        assert_eq!((-1i64).key_hash(), 0);
        assert_eq!((1u32, 2u32).key_hash(), 31 * (31 + 1) + 2);
        assert_eq!("".to_owned().key_hash(), 0x2d06_8005_38d3_94c2u64 as u32);
        assert_eq!("perennial".to_owned().key_hash(), xxh3_64(b"perennial") as u32);
    }

    /// So are the key groups of keys, of 128, 720 and 32768. The numbers were computed beside this code, from the descriptions of
    /// [`Key::key_hash`] and of Flink's `MathUtils.murmurHash`.
    #[test]
    fn key_groups_are_frozen() {
        fn check(key: impl Key + std::fmt::Debug, groups: [u16; 3]) {
            let of = |count| key_group(key.key_hash(), MaxParallelism::new(count).unwrap()).0;
            assert_eq!([of(128), of(720), of(32_768)], groups, "{key:?}");
        }
        check(200u8, [46, 222, 5294]);
        check(-5i8, [80, 400, 12_112]);
        check(40_000u16, [69, 437, 29_381]);
        check(-5i16, [80, 400, 12_112]);
        check(4_000_000_000u32, [27, 235, 19_099]);
        check(-7i32, [33, 689, 15_777]);
        check(12_345_678_901_234u64, [68, 20, 5188]);
        check(-12_345_678_901_234i64, [30, 606, 32_542]);
        check((1u128 << 100) + 99, [66, 530, 3778]);
        check((1i128 << 100) + 99, [66, 530, 3778]);
        check(12_345_678_901_234usize, [68, 20, 5188]);
        check(-12_345_678_901_234isize, [30, 606, 32_542]);
        check(std::time::Duration::from_nanos(12_345_678_901_234), [68, 20, 5188]);
        check(true, [77, 45, 11_725]);
        check(false, [3, 371, 32_003]);
        check('ß', [113, 417, 30_449]);
        check((1u32, 2u32), [47, 431, 28_335]);
        check(vec![1u64, 2, 3], [97, 193, 22_113]);
        check([1u64, 2, 3], [97, 193, 22_113]);
        check("perennial".to_owned(), [113, 145, 17_393]);
        check(std::sync::Arc::<str>::from("perennial"), [113, 145, 17_393]);
        check(Box::<str>::from("perennial"), [113, 145, 17_393]);
        check(("word".to_owned(), 9u32), [73, 697, 21_577]);
    }
}
