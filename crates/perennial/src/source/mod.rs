//! The sources that need nothing but this process, and the way to sources of the user's own.

mod collection;
mod generator;
mod sequence;

use std::any::type_name;
use std::sync::Arc;

use perennial_runtime::{Counters, SourceHead, SourceReader, SourceStatus, TaskContext, TaskError, UserError};
use perennial_types::{DecodeError, Record};

use crate::graph::code::{NodeCode, Records};
use crate::graph::{NodeId, NodeKind};
use crate::stream::Port;
use crate::{DataStream, StreamExecutionEnvironment};

pub use generator::Generated;

impl StreamExecutionEnvironment {
    /// Reads from a source of the user's: `open` makes a reader for each subtask, where that subtask runs.
    ///
    /// An error of `open` fails the task with its text.
    pub fn from_source<T, R, E, F>(&self, name: &str, open: F) -> DataStream<T>
    where
        T: Record,
        R: SourceReader<T> + 'static,
        E: Into<UserError>,
        F: Fn(&TaskContext) -> Result<R, E> + Send + Sync + 'static,
    {
        let node = self.add_source(name, open);
        DataStream::new(self.clone(), vec![Port::main(node)])
    }

    /// As [`from_source`](Self::from_source), for what has to be read by one subtask, such as one connection.
    pub fn from_single_source<T, R, E, F>(&self, name: &str, open: F) -> DataStream<T>
    where
        T: Record,
        R: SourceReader<T> + 'static,
        E: Into<UserError>,
        F: Fn(&TaskContext) -> Result<R, E> + Send + Sync + 'static,
    {
        let node = self.add_source(name, open);
        self.update(node, |node| (node.parallel, node.parallelism) = (false, 1));
        DataStream::new(self.clone(), vec![Port::main(node)])
    }

    fn add_source<T, R, E, F>(&self, name: &str, open: F) -> NodeId
    where
        T: Record,
        R: SourceReader<T> + 'static,
        E: Into<UserError>,
        F: Fn(&TaskContext) -> Result<R, E> + Send + Sync + 'static,
    {
        let build = NodeCode::Head(Arc::new(move |context, outputs| {
            let reader = open(context.task).map_err(|error| TaskError::user(context.name, error))?;
            let reader = Counting { reader, counters: context.counters.clone() };
            Ok(Box::new(SourceHead::new(context.state()?, reader, outputs.main::<T>()?)?))
        }));
        let output = Some((type_name::<T>(), Records::<T>::code()));
        self.add_node(NodeKind::Source, name, build, type_name::<()>(), output)
    }
}

/// Counts what a source reads as what its task reads.
struct Counting<R> {
    reader: R,
    counters: Arc<Counters>,
}

impl<T, R: SourceReader<T>> SourceReader<T> for Counting<R> {
    fn poll(&mut self, out: &mut Vec<T>, max: usize) -> Result<SourceStatus, UserError> {
        let before = out.len();
        let status = self.reader.poll(out, max);
        Counters::add(&self.counters.records_in, (out.len() - before) as u64);
        status
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        self.reader.snapshot()
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        self.reader.restore(splits)
    }
}

/// A position as an element of a snapshot.
fn encoded<R: Record>(position: &R) -> Vec<u8> {
    let mut bytes = Vec::new();
    position.encode(&mut bytes);
    bytes
}

/// A position out of an element of a snapshot.
fn decoded<R: Record>(element: &[u8]) -> Result<R, UserError> {
    let mut rest = element;
    let position = R::decode(&mut rest)?;
    if rest.is_empty() { Ok(position) } else { Err(DecodeError::LeftOver(rest.len()).into()) }
}
