//! A stream without keys.

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

use perennial_runtime::operators::{Collector, Filter, FlatMap, Map, OutputTag, Process, TryFilter, TryMap};
use perennial_runtime::{ByOwned, ByRef, Route, Timestamps, UserError};
use perennial_types::{Key, Record, ShipStrategy};

use super::settings::operator_settings;
use super::{KeyedStream, Partition, Port};
use crate::graph::code::{AnyOutput, NodeCode, NodeOutputs, OperatorContext, Records, erased};
use crate::graph::{NodeKind, StreamNode};
use crate::{JobError, StreamExecutionEnvironment};

/// A stream of records of one type. Flink's `DataStream`.
///
/// A call adds an operator to the job and gives its output; nothing runs while the job is built. A stream can be used
/// more than once: each consumer gets all records. Closures are cloned for every subtask.
pub struct DataStream<T> {
    env: StreamExecutionEnvironment,
    ports: Vec<Port>,
    /// Where the event time of a record lies.
    timestamps: Option<Arc<dyn Timestamps<T>>>,
    records: PhantomData<fn() -> T>,
}

impl<T> Clone for DataStream<T> {
    fn clone(&self) -> Self {
        let timestamps = self.timestamps.clone();
        Self { env: self.env.clone(), ports: self.ports.clone(), timestamps, records: PhantomData }
    }
}

impl<T: Record> DataStream<T> {
    pub(crate) fn new(env: StreamExecutionEnvironment, ports: Vec<Port>) -> Self {
        Self { env, ports, timestamps: None, records: PhantomData }
    }

    /// The environment the stream belongs to.
    pub fn environment(&self) -> &StreamExecutionEnvironment {
        &self.env
    }

    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Where the event time of the records lies, if the stream knows.
    pub(crate) fn timestamps(&self) -> Option<&Arc<dyn Timestamps<T>>> {
        self.timestamps.as_ref()
    }

    /// The stream with other timestamps, or none.
    pub(super) fn timed(self, timestamps: Option<Arc<dyn Timestamps<T>>>) -> Self {
        Self { timestamps, ..self }
    }

    /// Adds an operator that reads this stream.
    pub(crate) fn transform<U: Record>(
        &self,
        name: &str,
        build: impl Fn(&OperatorContext<'_>, NodeOutputs) -> Result<AnyOutput, perennial_runtime::TaskError>
        + Send
        + Sync
        + 'static,
    ) -> DataStream<U> {
        let code = NodeCode::Operator { build: Arc::new(build), input: Records::<T>::code() };
        let output = Some((type_name::<U>(), Records::<U>::code()));
        let node = self.env.add_node(NodeKind::Operator, name, code, type_name::<T>(), output);
        self.env.connect(&self.ports, node);
        DataStream::new(self.env.clone(), vec![Port::main(node)])
    }

    // --- transformations

    /// Applies a function to each record.
    pub fn map<U, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        F: FnMut(T) -> U + Clone + Send + Sync + 'static,
    {
        self.transform("Map", move |_, outputs| Ok(erased::<T>(Map::new(function.clone(), outputs.main()?))))
    }

    /// Applies a function that can fail to each record; an error fails the task with its text.
    pub fn try_map<U, E, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(T) -> Result<U, E> + Clone + Send + Sync + 'static,
    {
        self.transform("Map", move |context, outputs| {
            Ok(erased::<T>(TryMap::new(context.name, function.clone(), outputs.main()?)))
        })
    }

    /// Makes any number of records of each: the function appends them to `out`, and leaves alone what is there.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// # fn words(lines: &DataStream<String>) -> DataStream<String> {
    /// lines.flat_map(|line: String, out| out.extend(line.split_whitespace().map(str::to_owned)))
    /// # }
    /// ```
    pub fn flat_map<U, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        F: FnMut(T, &mut Vec<U>) + Clone + Send + Sync + 'static,
    {
        self.transform("Flat Map", move |context, outputs| {
            let mut function = function.clone();
            let infallible = move |record: T, out: &mut Vec<U>| {
                function(record, out);
                Ok::<(), UserError>(())
            };
            Ok(erased::<T>(FlatMap::new(context.name, infallible, outputs.main()?)))
        })
    }

    /// Makes any number of records of each with a function that can fail; an error fails the task with its text.
    pub fn try_flat_map<U, E, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(T, &mut Vec<U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        self.transform("Flat Map", move |context, outputs| {
            Ok(erased::<T>(FlatMap::new(context.name, function.clone(), outputs.main()?)))
        })
    }

    /// Keeps the records for which the predicate holds.
    pub fn filter<F>(&self, predicate: F) -> DataStream<T>
    where
        F: FnMut(&T) -> bool + Clone + Send + Sync + 'static,
    {
        self.transform("Filter", move |_, outputs| Ok(erased::<T>(Filter::new(predicate.clone(), outputs.main()?))))
            .timed(self.timestamps.clone())
    }

    /// Keeps the records for which the predicate holds; an error fails the task with its text.
    pub fn try_filter<E, F>(&self, predicate: F) -> DataStream<T>
    where
        E: Into<UserError> + 'static,
        F: FnMut(&T) -> Result<bool, E> + Clone + Send + Sync + 'static,
    {
        self.transform("Filter", move |context, outputs| {
            Ok(erased::<T>(TryFilter::new(context.name, predicate.clone(), outputs.main()?)))
        })
        .timed(self.timestamps.clone())
    }

    /// Does anything with each record: emits to the main output and to side outputs, or fails.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// # fn split(numbers: &DataStream<i64>) {
    /// let negative = OutputTag::<String>::new("negative");
    /// let tag = negative.clone();
    /// let positive = numbers.process(move |n: i64, out| {
    ///     if n < 0 { out.output(&tag, format!("{n} is negative")) } else { out.collect(n as u64) }
    ///     Ok::<_, UserError>(())
    /// });
    /// positive.get_side_output(&negative).print();
    /// # }
    /// ```
    pub fn process<U, E, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(T, &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        self.transform("Process", move |context, outputs| {
            let (next, sides) = outputs.split()?;
            Ok(erased::<T>(Process::new(context.name, function.clone(), sides, next)))
        })
    }

    /// What this operator's function wrote to a side output.
    pub fn get_side_output<S: Record>(&self, tag: &OutputTag<S>) -> DataStream<S> {
        let mut ports = Vec::new();
        match self.ports.as_slice() {
            [Port { node, output: 0, partition: None }] => {
                if let Some(output) = self.env.side_output::<S>(*node, tag.name()) {
                    ports.push(Port { node: *node, output, partition: None });
                }
            }
            _ => self.misplaced("get_side_output"),
        }
        DataStream::new(self.env.clone(), ports)
    }

    /// The records of this stream and of others of the same type, in no order among them.
    ///
    /// Each stream keeps its own partitioner. A stream may be united with itself: its records then come twice. The union knows the
    /// timestamps of its records if all its streams have them from the same strategy, cloned.
    pub fn union<'a>(&self, others: impl IntoIterator<Item = &'a DataStream<T>>) -> DataStream<T> {
        let (mut ports, mut timestamps) = (self.ports.clone(), self.timestamps.clone());
        for other in others {
            if !matches!((&timestamps, &other.timestamps), (Some(one), Some(other)) if Arc::ptr_eq(one, other)) {
                timestamps = None;
            }
            if other.env.is_same(&self.env) {
                ports.extend_from_slice(&other.ports);
            } else {
                let problem = "a union of streams of different environments";
                self.env.fail(JobError::job(problem, "make all streams of a job in one environment"));
            }
        }
        DataStream::new(self.env.clone(), ports).timed(timestamps)
    }

    // --- keys

    /// Groups the records by a key: all of one key come to one subtask, which holds the state of the key.
    pub fn key_by<K, F>(&self, key: F) -> KeyedStream<T, ByOwned<F, K>>
    where
        K: Key,
        F: Fn(&T) -> K + Clone + Send + Sync + 'static,
    {
        KeyedStream::new(self, ByOwned::new(key))
    }

    /// Groups the records by a key they hold, which is copied only when a key is met for the first time.
    pub fn key_by_ref<K, F>(&self, key: F) -> KeyedStream<T, ByRef<F, K>>
    where
        K: Key,
        F: for<'a> Fn(&'a T) -> &'a K + Clone + Send + Sync + 'static,
    {
        KeyedStream::new(self, ByRef::new(key))
    }

    // --- partitioners

    /// To the subtask of the same index; what comes next has the same parallelism.
    pub fn forward(&self) -> DataStream<T> {
        self.partitioned(Partition::plain(ShipStrategy::Forward))
    }

    /// Round robin over all subtasks.
    pub fn rebalance(&self) -> DataStream<T> {
        self.partitioned(Partition::plain(ShipStrategy::Rebalance))
    }

    /// Round robin over a part of the subtasks: fewer connections than `rebalance`.
    pub fn rescale(&self) -> DataStream<T> {
        self.partitioned(Partition::plain(ShipStrategy::Rescale))
    }

    /// To random subtasks.
    pub fn shuffle(&self) -> DataStream<T> {
        self.partitioned(Partition::plain(ShipStrategy::Shuffle))
    }

    /// Every record to every subtask.
    pub fn broadcast(&self) -> DataStream<T> {
        self.partitioned(Partition::plain(ShipStrategy::Broadcast))
    }

    /// All records to the first subtask.
    pub fn global(&self) -> DataStream<T> {
        self.partitioned(Partition::plain(ShipStrategy::Global))
    }

    /// To the subtask a function names: it gets the record and the number of subtasks, and answers in `0..subtasks`.
    ///
    /// Another number fails the task.
    pub fn partition_custom<F>(&self, partitioner: F) -> DataStream<T>
    where
        F: FnMut(&T, u32) -> u32 + Clone + Send + Sync + 'static,
    {
        let route = move || Route::<T>::Custom(Box::new(partitioner.clone()));
        self.partitioned(Partition::with_route(ShipStrategy::Custom, route))
    }

    /// The last partitioner holds.
    fn partitioned(&self, partition: Partition) -> DataStream<T> {
        let led = |port: &Port| Port { partition: Some(partition.clone()), ..port.clone() };
        DataStream::new(self.env.clone(), self.ports.iter().map(led).collect()).timed(self.timestamps.clone())
    }

    // --- settings of the operator

    operator_settings!();

    fn set(&self, setting: &str, change: impl FnOnce(&mut StreamNode)) -> Self {
        match self.ports.as_slice() {
            [Port { node, output: 0, partition: None }] => self.env.update(*node, change),
            _ => self.misplaced(setting),
        }
        self.clone()
    }

    /// A call that is about one operator, on a stream that is not directly the output of one.
    fn misplaced(&self, call: &str) {
        let name = self.ports.first().map(|port| self.env.name_of(port.node)).unwrap_or_default();
        let problem = format!("`{call}` was called on a union, a side output or behind a partitioner");
        self.env.fail(JobError::operator(
            &name,
            problem,
            format!("call `{call}` right after the operator it is about"),
        ));
    }
}
