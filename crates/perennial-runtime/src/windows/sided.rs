//! Two streams as one: what joins read.
//!
//! The records of both sides travel as one type, with their time, which each side finds in its own way. So a join is an operator with one
//! input behind a union, and needs nothing of the runtime: a barrier or a watermark of a union is one of both sides.

use std::sync::Arc;

use perennial_types::{DecodeError, Record};

use super::AggregateFunction;
use crate::{ChainEvent, Output, TaskError, Timestamps};

/// A record of one of two streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side<A, B> {
    /// Of the first.
    Left(A),
    /// Of the second.
    Right(B),
}

/// A record of one of two streams, and its event time: zero when its stream does not know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sided<A, B> {
    /// In ms since 1970.
    pub time: i64,
    /// The record.
    pub side: Side<A, B>,
}

impl<A: Record, B: Record> Record for Sided<A, B> {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        self.time.encode(out);
        match &self.side {
            Side::Left(record) => {
                0u8.encode(out);
                record.encode(out);
            }
            Side::Right(record) => {
                1u8.encode(out);
                record.encode(out);
            }
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let time = Record::decode(input)?;
        let side = match u8::decode(input)? {
            0 => Side::Left(A::decode(input)?),
            1 => Side::Right(B::decode(input)?),
            _ => return Err(DecodeError::Invalid("side of a join")),
        };
        Ok(Self { time, side })
    }
}

/// Makes records of another type of records and their times.
pub struct WithTimes<T, U, F> {
    timestamps: Option<Arc<dyn Timestamps<T>>>,
    function: F,
    times: Vec<i64>,
    results: Vec<U>,
    next: Box<dyn Output<U>>,
}

impl<T, U, F: FnMut(T, i64) -> U> WithTimes<T, U, F> {
    /// The operator in front of `next`. Without timestamps all times are zero.
    pub fn new(timestamps: Option<Arc<dyn Timestamps<T>>>, function: F, next: Box<dyn Output<U>>) -> Self {
        Self { timestamps, function, times: Vec::new(), results: Vec::new(), next }
    }
}

impl<T: Send, U: Send, F: FnMut(T, i64) -> U + Send> Output<T> for WithTimes<T, U, F> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        self.times.clear();
        match &self.timestamps {
            Some(timestamps) => timestamps.timestamps(batch, &mut self.times),
            None => self.times.resize(batch.len(), 0),
        }
        let records = batch.drain(..).zip(&self.times);
        self.results.extend(records.map(|(record, time)| (self.function)(record, *time)));
        self.next.push(&mut self.results)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}

/// The records of both sides, each in the order they came in.
#[derive(Debug, Clone, Copy, Default)]
pub struct BothSides;

impl<A: Record, B: Record> AggregateFunction<Sided<A, B>> for BothSides {
    type Accumulator = (Vec<A>, Vec<B>);
    type Output = (Vec<A>, Vec<B>);

    fn create_accumulator(&self) -> (Vec<A>, Vec<B>) {
        (Vec::new(), Vec::new())
    }

    fn add(&self, (left, right): &mut (Vec<A>, Vec<B>), record: Sided<A, B>) {
        match record.side {
            Side::Left(record) => left.push(record),
            Side::Right(record) => right.push(record),
        }
    }

    fn get_result(&self, accumulator: &(Vec<A>, Vec<B>)) -> (Vec<A>, Vec<B>) {
        accumulator.clone()
    }

    fn merge(&self, (left, right): &mut (Vec<A>, Vec<B>), other: &(Vec<A>, Vec<B>)) {
        left.extend_from_slice(&other.0);
        right.extend_from_slice(&other.1);
    }
}
