//! Records as lines of text.

use std::io::Write;
use std::sync::Arc;

/// A record that has a form as one line of text: what `toString` is in Flink.
///
/// Numbers, text and bytes are themselves, tuples are `(a,b)`. For other types implement it, or map to a `String` first.
pub trait TextRecord {
    /// Appends the text, without a newline at its end.
    fn write_text(&self, line: &mut Vec<u8>);
}

macro_rules! bytes {
    ($($type:ty, $bytes:ident;)*) => { $(
        impl TextRecord for $type {
            fn write_text(&self, line: &mut Vec<u8>) {
                line.extend_from_slice(self.$bytes());
            }
        }
    )* };
}
bytes! {
    String, as_bytes;
    Arc<str>, as_bytes;
    Box<str>, as_bytes;
    Vec<u8>, as_slice;
}

macro_rules! displayed {
    ($($type:ty),*) => { $(
        impl TextRecord for $type {
            fn write_text(&self, line: &mut Vec<u8>) {
                // A vector takes whatever is written.
                let _ = write!(line, "{self}");
            }
        }
    )* };
}
displayed!(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, usize, isize, f32, f64, bool, char);

macro_rules! tuples {
    ($first:ident $(, $other:ident)*) => {
        impl<$first: TextRecord $(, $other: TextRecord)*> TextRecord for ($first, $($other,)*) {
            fn write_text(&self, line: &mut Vec<u8>) {
                #[allow(non_snake_case, reason = "fields are named after their types")]
                let ($first, $($other,)*) = self;
                line.push(b'(');
                $first.write_text(line);
                $(
                    line.push(b',');
                    $other.write_text(line);
                )*
                line.push(b')');
            }
        }
    };
}
tuples!(A);
tuples!(A, B);
tuples!(A, B, C);
tuples!(A, B, C, D);
tuples!(A, B, C, D, E);
tuples!(A, B, C, D, E, F);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_text_flink_gives_them() {
        let mut line = Vec::new();
        ("word".to_owned(), 7u64, -1.5f64, (true, b"raw\xff".to_vec())).write_text(&mut line);
        assert_eq!(line, b"(word,7,-1.5,(true,raw\xff))");
    }
}
