//! Rows of comma-separated values, as RFC 4180 has them.
//!
//! Fields with a comma, a quote or a line break are quoted when written. A row is read from one line: quoted line breaks
//! are not, because a file is read in parts that begin at line breaks.

use std::fmt::Display;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

/// Why a line is not a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// The line ends where a field is expected.
    #[error("field {index} is missing")]
    Missing {
        /// Number of the field, from 1.
        index: usize,
    },
    /// The line goes on behind the last field.
    #[error("there are more than {count} fields")]
    TooMany {
        /// Number of fields expected.
        count: usize,
    },
    /// A field has a form its type does not have.
    #[error("field {index} `{text}`: {problem}")]
    Field {
        /// Number of the field, from 1.
        index: usize,
        /// Its text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A quoted field is not closed, or something follows its closing quote.
    #[error("field {index} is quoted badly")]
    Quote {
        /// Number of the field, from 1.
        index: usize,
    },
}

/// A value in one field: numbers, text, `bool`, and `Option` whose `None` is an empty field.
pub trait CsvField: Sized {
    /// Appends the value, not quoted.
    fn write_field(&self, out: &mut Vec<u8>);

    /// Reads the value, or says what is wrong.
    fn read_field(text: &str) -> Result<Self, String>;
}

/// A record that is a row of a CSV file. Tuples of fields are; implement it for structs.
pub trait CsvRow: Sized {
    /// Writes the fields in order.
    fn write_row(&self, row: &mut CsvWriter<'_>);

    /// Reads the fields in order. What is left over is an error of the reader.
    fn read_row(row: &mut CsvReader<'_>) -> Result<Self, CsvError>;
}

/// Writes the fields of a row.
pub struct CsvWriter<'a> {
    line: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> CsvWriter<'a> {
    /// Writes a row at the end of `line`.
    pub fn new(line: &'a mut Vec<u8>) -> Self {
        Self { line, first: true }
    }

    /// Writes the next field.
    pub fn field(&mut self, value: &impl CsvField) {
        if !std::mem::take(&mut self.first) {
            self.line.push(b',');
        }
        let start = self.line.len();
        value.write_field(self.line);
        let written = self.line.get(start..).unwrap_or_default();
        if written.iter().any(|byte| b",\"\r\n".contains(byte)) {
            let plain = self.line.split_off(start);
            self.line.push(b'"');
            for byte in plain {
                if byte == b'"' {
                    self.line.push(b'"');
                }
                self.line.push(byte);
            }
            self.line.push(b'"');
        }
    }
}

/// Reads the fields of a row.
pub struct CsvReader<'a> {
    /// What is left of the line; `None` behind the last field.
    rest: Option<&'a str>,
    /// Fields read.
    count: usize,
}

impl<'a> CsvReader<'a> {
    /// Reads the row in `line`, which has no line break at its end.
    pub fn new(line: &'a str) -> Self {
        Self { rest: Some(line), count: 0 }
    }

    /// Reads the next field.
    pub fn field<T: CsvField>(&mut self) -> Result<T, CsvError> {
        self.count += 1;
        let index = self.count;
        let rest = self.rest.ok_or(CsvError::Missing { index })?;
        let parse = |text: &str| {
            T::read_field(text).map_err(|problem| CsvError::Field { index, text: text.to_owned(), problem })
        };
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, rest) = rest.split_once(',').map_or((rest, None), |(field, rest)| (field, Some(rest)));
            self.rest = rest;
            return parse(field);
        };
        let mut text = String::new();
        loop {
            let (part, after) = quoted.split_once('"').ok_or(CsvError::Quote { index })?;
            text.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    text.push('"');
                    quoted = after;
                }
                None => {
                    self.rest = match after.strip_prefix(',') {
                        Some(rest) => Some(rest),
                        None if after.is_empty() => None,
                        None => return Err(CsvError::Quote { index }),
                    };
                    return parse(&text);
                }
            }
        }
    }

    /// Reads a whole row from `line`.
    pub(crate) fn row<T: CsvRow>(line: &'a str) -> Result<T, CsvError> {
        let mut reader = Self::new(line);
        let row = T::read_row(&mut reader)?;
        if reader.rest.is_some() { Err(CsvError::TooMany { count: reader.count }) } else { Ok(row) }
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

macro_rules! fields {
    ($($type:ty),*) => { $(
        impl CsvField for $type {
            fn write_field(&self, out: &mut Vec<u8>) {
                // A vector takes whatever is written.
                let _ = write!(out, "{self}");
            }

            fn read_field(text: &str) -> Result<Self, String> {
                parse(text)
            }
        }
    )* };
}
fields!(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, usize, isize, f32, f64, bool, char);

macro_rules! text_fields {
    ($($type:ty),*) => { $(
        impl CsvField for $type {
            fn write_field(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_bytes());
            }

            fn read_field(text: &str) -> Result<Self, String> {
                Ok(text.into())
            }
        }
    )* };
}
text_fields!(String, Arc<str>, Box<str>);

impl<T: CsvField> CsvField for Option<T> {
    fn write_field(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.write_field(out);
        }
    }

    fn read_field(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::read_field(text).map(Some) }
    }
}

macro_rules! rows {
    ($($field:ident),*) => {
        impl<$($field: CsvField),*> CsvRow for ($($field,)*) {
            fn write_row(&self, row: &mut CsvWriter<'_>) {
                #[allow(non_snake_case, reason = "fields are named after their types")]
                let ($($field,)*) = self;
                $(row.field($field);)*
            }

            fn read_row(row: &mut CsvReader<'_>) -> Result<Self, CsvError> {
                Ok(($(row.field::<$field>()?,)*))
            }
        }
    };
}
rows!(A);
rows!(A, B);
rows!(A, B, C);
rows!(A, B, C, D);
rows!(A, B, C, D, E);
rows!(A, B, C, D, E, F);
rows!(A, B, C, D, E, F, G);
rows!(A, B, C, D, E, F, G, H);

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (String, Option<i32>, f64, bool);

    #[test]
    fn rows_round_trip() {
        for row in [
            ("plain".to_owned(), Some(-3), 1.5, true),
            ("with, comma and \"quotes\"".to_owned(), None, 0.0, false),
            (String::new(), Some(0), -0.25, true),
        ] {
            let mut line = Vec::new();
            row.write_row(&mut CsvWriter::new(&mut line));
            let line = String::from_utf8(line).unwrap();
            assert_eq!(CsvReader::row::<Row>(&line), Ok(row), "{line}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let error = |line| CsvReader::row::<(u8, String)>(line).unwrap_err().to_string();
        assert_eq!(error("1"), "field 2 is missing");
        assert_eq!(error("1,a,b"), "there are more than 2 fields");
        assert_eq!(error("300,a"), "field 1 `300`: number too large to fit in target type");
        assert_eq!(error("1,\"a"), "field 2 is quoted badly");
        assert_eq!(error("1,\"a\"b"), "field 2 is quoted badly");
    }
}
