//! What the derives write: the layout of `perennial_types::record`, for every shape of type.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it stands")]

use std::collections::BTreeMap;
use std::fmt::Debug;

use perennial::{DecodeError, Key, Record};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Record, Key)]
struct Named {
    id: u64,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Record, Key)]
struct Fixed(u32, i16, bool, [u8; 3]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Record, Key)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Record, Key)]
struct Generic<T, const N: usize>
where
    T: Debug,
{
    one: T,
    many: [T; N],
    rest: Vec<Option<T>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Record, Key)]
enum Plain {
    First,
    Second,
    Third {},
}

#[derive(Debug, Clone, PartialEq, Record)]
enum Shape<T> {
    Nothing,
    Circle(f64),
    Named { name: String, value: T },
    Nested(Box<Option<Shape<T>>>),
    Map(BTreeMap<u8, T>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Record, Key)]
enum Id {
    Number(u64),
    Text { text: String, version: u32 },
}

/// A type made of derived types and of names that clash with those in generated code.
#[derive(Debug, Clone, PartialEq, Record)]
struct Outer {
    out: Named,
    input: Fixed,
    size: Plain,
    hash: Shape<u8>,
    r#type: Unit,
}

fn round_trip<T: Record + PartialEq + Debug>(batch: Vec<T>) {
    let mut bytes = Vec::new();
    T::encode_batch(&batch, &mut bytes);
    let mut single = Vec::new();
    batch.iter().for_each(|record| record.encode(&mut single));
    assert_eq!(single, bytes, "one by one and as a batch are the same bytes");
    if let Some(size) = T::FIXED_BYTES {
        assert_eq!(bytes.len(), size * batch.len());
    }
    let mut back = Vec::new();
    T::decode_batch(&bytes, batch.len(), &mut back).unwrap();
    assert_eq!(back, batch);
    if !bytes.is_empty() {
        assert!(T::decode_batch(&bytes[..bytes.len() - 1], batch.len(), &mut Vec::new()).is_err());
    }
}

fn named() -> Named {
    Named { id: 7, text: "seven".to_owned() }
}

#[test]
fn every_shape_round_trips() {
    round_trip(vec![named(), Named { id: u64::MAX, text: String::new() }]);
    round_trip(vec![Fixed(1, -2, true, [3, 4, 5]), Fixed(u32::MAX, i16::MIN, false, [0; 3])]);
    round_trip(vec![Generic { one: 1u16, many: [2, 3], rest: vec![None, Some(4)] }]);
    round_trip(vec![Plain::First, Plain::Third {}, Plain::Second]);
    round_trip(vec![
        Shape::Nothing,
        Shape::Circle(1.5),
        Shape::Named { name: "x".to_owned(), value: 9u8 },
        Shape::Nested(Box::new(Some(Shape::Nested(Box::new(None))))),
        Shape::Map(BTreeMap::from([(1, 2)])),
    ]);
    round_trip(vec![Id::Number(1), Id::Text { text: "a".to_owned(), version: 2 }]);
    round_trip(vec![Outer {
        out: named(),
        input: Fixed(0, 0, false, [0; 3]),
        size: Plain::Second,
        hash: Shape::Circle(0.0),
        r#type: Unit,
    }]);
    let mut none = Vec::new();
    Unit.encode(&mut none);
    assert!(none.is_empty());
}

#[test]
fn sizes_are_fixed_when_all_parts_are() {
    assert_eq!(Fixed::FIXED_BYTES, Some(4 + 2 + 1 + 3));
    assert_eq!(Unit::FIXED_BYTES, Some(0));
    assert_eq!(Plain::FIXED_BYTES, Some(4));
    assert_eq!(Named::FIXED_BYTES, None);
    assert_eq!(Shape::<u8>::FIXED_BYTES, None);
}

#[test]
fn the_layout_is_that_of_a_tuple_and_an_index() {
    let bytes = |record: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        record(&mut out);
        out
    };
    let tuple = (7u64, "seven".to_owned());
    assert_eq!(bytes(&|out| named().encode(out)), bytes(&|out| tuple.encode(out)));
    let variant = (1u32, "a".to_owned(), 2u32);
    assert_eq!(
        bytes(&|out| Id::Text { text: "a".to_owned(), version: 2 }.encode(out)),
        bytes(&|out| variant.encode(out))
    );
    assert_eq!(Plain::decode(&mut &[3, 0, 0, 0][..]), Err(DecodeError::Invalid("Plain")));
}

/// State is stored under these hashes: they never change.
#[test]
fn keys_hash_as_tuples_and_enums_with_their_index_first() {
    assert_eq!(named().key_hash(), (7u64, "seven".to_owned()).key_hash());
    assert_eq!(Unit.key_hash(), 1);
    assert_eq!(Plain::Second.key_hash(), 31 + 1);
    assert_eq!(Id::Number(5).key_hash(), 31 * 31 + 5);
    assert_eq!(Id::Text { text: "a".to_owned(), version: 2 }.key_hash(), (1u32, "a".to_owned(), 2u32).key_hash());
    assert_ne!(Id::Number(0).key_hash(), Id::Number(1).key_hash());
}
