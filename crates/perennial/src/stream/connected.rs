//! Two streams of different types that one operator reads.

use std::any::type_name;
use std::marker::PhantomData;
use std::sync::Arc;

use perennial_runtime::operators::{
    CoProcess, CoProcessFunction, Collector, KeyedCoProcess, KeyedCoProcessFunction, KeyedInput,
};
use perennial_runtime::{KeySelector, TaskError, TwoInputHead, TwoInputs, UserError};
use perennial_types::Record;

use super::{DataStream, KeyedStream, Port};
use crate::JobError;
use crate::graph::NodeKind;
use crate::graph::code::{NodeCode, NodeOutputs, OperatorContext, Records};

/// Adds an operator that reads two streams.
pub(crate) fn two_inputs<A: Record, B: Record, U: Record, O: TwoInputs<A, B> + 'static>(
    (first, second): (&DataStream<A>, &DataStream<B>),
    name: &str,
    build: impl Fn(&OperatorContext<'_>, NodeOutputs) -> Result<O, TaskError> + Send + Sync + 'static,
) -> DataStream<U> {
    let env = first.environment();
    if !second.environment().is_same(env) {
        let problem = "two connected streams are of different environments";
        env.fail(JobError::job(problem, "make all streams of a job in one environment"));
    }
    let first_edges = first.ports().len();
    let code = NodeCode::Head(Arc::new(move |context, outputs| {
        Ok(Box::new(TwoInputHead::new(first_edges, build(context, outputs)?)))
    }));
    let output = Some((type_name::<U>(), Records::<U>::code()));
    let node = env.add_node(NodeKind::Operator, name, code, type_name::<(A, B)>(), output);
    // In this order: the operator tells its inputs apart by it.
    env.connect(first.ports(), node);
    env.connect(second.ports(), node);
    DataStream::new(env.clone(), vec![Port::main(node)])
}

/// Two streams of any types that one operator reads. Flink's `ConnectedStreams`.
///
/// Their records come in no order among each other; event time is how far both are.
pub struct ConnectedStreams<A, B> {
    first: DataStream<A>,
    second: DataStream<B>,
}

impl<A: Record> DataStream<A> {
    /// Puts this stream beside another one, for an operator that reads both.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// # fn both(names: &DataStream<String>, numbers: &DataStream<u64>) -> DataStream<String> {
    /// names.connect(numbers).map(|name| name, |number| format!("number {number}"))
    /// # }
    /// ```
    pub fn connect<B: Record>(&self, other: &DataStream<B>) -> ConnectedStreams<A, B> {
        ConnectedStreams { first: self.clone(), second: other.clone() }
    }
}

impl<A: Record, B: Record> ConnectedStreams<A, B> {
    /// Applies one function to the records of the first stream and another one to those of the second.
    pub fn map<U, F, G>(&self, first: F, second: G) -> DataStream<U>
    where
        U: Record,
        F: FnMut(A) -> U + Clone + Send + Sync + 'static,
        G: FnMut(B) -> U + Clone + Send + Sync + 'static,
    {
        let (mut first, mut second) = (first, second);
        let first = move |record: A, out: &mut Collector<'_, U>| out.collect(first(record));
        self.process_named(
            "Co-Map",
            Both(first, move |record: B, out: &mut Collector<'_, U>| out.collect(second(record))),
        )
    }

    /// Makes any number of records of each, with one function for either stream.
    pub fn flat_map<U, F, G>(&self, first: F, second: G) -> DataStream<U>
    where
        U: Record,
        F: FnMut(A, &mut Collector<'_, U>) + Clone + Send + Sync + 'static,
        G: FnMut(B, &mut Collector<'_, U>) + Clone + Send + Sync + 'static,
    {
        self.process_named("Co-Flat Map", Both(first, second))
    }

    /// Does anything with the records of both streams. The function is cloned for every subtask; what it holds is not in
    /// checkpoints.
    pub fn process_with<U, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        F: CoProcessFunction<A, B, U> + Clone + Sync + 'static,
    {
        self.process_named("Co-Process", function)
    }

    fn process_named<U, F>(&self, name: &str, function: F) -> DataStream<U>
    where
        U: Record,
        F: CoProcessFunction<A, B, U> + Clone + Sync + 'static,
    {
        two_inputs((&self.first, &self.second), name, move |context, outputs| {
            let (next, sides) = outputs.split()?;
            Ok(CoProcess::new(context.name, function.clone(), sides, next))
        })
    }
}

/// One function for either stream.
#[derive(Clone)]
struct Both<F, G>(F, G);

impl<A, B, U, F, G> CoProcessFunction<A, B, U> for Both<F, G>
where
    F: FnMut(A, &mut Collector<'_, U>) + Send,
    G: FnMut(B, &mut Collector<'_, U>) + Send,
{
    fn process_element1(&mut self, record: A, out: &mut Collector<'_, U>) -> Result<(), UserError> {
        self.0(record, out);
        Ok(())
    }

    fn process_element2(&mut self, record: B, out: &mut Collector<'_, U>) -> Result<(), UserError> {
        self.1(record, out);
        Ok(())
    }
}

/// Two streams whose records come to the subtask that owns their key, and share its state. Flink's `ConnectedStreams` of two
/// keyed streams.
pub struct KeyedConnectedStreams<A, SelA, B, SelB> {
    first: KeyedStream<A, SelA>,
    second: KeyedStream<B, SelB>,
    records: PhantomData<fn() -> (A, B)>,
}

impl<A: Record, SelA: KeySelector<A> + Clone + Sync> KeyedStream<A, SelA> {
    /// Puts this stream beside another one with keys of the same type, for an operator that reads both. How long state lives is
    /// what was said of this one.
    pub fn connect<B, SelB>(&self, other: &KeyedStream<B, SelB>) -> KeyedConnectedStreams<A, SelA, B, SelB>
    where
        B: Record,
        SelB: KeySelector<B, Key = SelA::Key> + Clone + Sync,
    {
        KeyedConnectedStreams { first: self.clone(), second: other.clone(), records: PhantomData }
    }
}

impl<A, SelA, B, SelB> KeyedConnectedStreams<A, SelA, B, SelB>
where
    A: Record,
    SelA: KeySelector<A> + Clone + Sync,
    B: Record,
    SelB: KeySelector<B, Key = SelA::Key> + Clone + Sync,
{
    /// Does anything with the records of both streams, the state of their key, which both share, and its timers.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// /// Names the clicks of users whose names have come before them.
    /// #[derive(Clone)]
    /// struct Named;
    ///
    /// impl KeyedCoProcessFunction<u32, (u32, String), (u32, String), ValueState<String>, (String, String)> for Named {
    ///     fn process_element1(
    ///         &mut self,
    ///         _: &mut KeyContext<'_, u32>,
    ///         (_, name): (u32, String),
    ///         state: &mut KeyState<'_, ValueState<String>>,
    ///         _: &mut Collector<'_, (String, String)>,
    ///     ) -> Result<(), UserError> {
    ///         state.update(name);
    ///         Ok(())
    ///     }
    ///
    ///     fn process_element2(
    ///         &mut self,
    ///         _: &mut KeyContext<'_, u32>,
    ///         (_, page): (u32, String),
    ///         state: &mut KeyState<'_, ValueState<String>>,
    ///         out: &mut Collector<'_, (String, String)>,
    ///     ) -> Result<(), UserError> {
    ///         out.extend(state.value().map(|name| (name.clone(), page)));
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn job(users: &DataStream<(u32, String)>, clicks: &DataStream<(u32, String)>) -> DataStream<(String, String)> {
    /// users.key_by(|user| user.0).connect(&clicks.key_by(|click| click.0)).process_with(Named)
    /// # }
    /// ```
    pub fn process_with<S, U, F>(&self, function: F) -> DataStream<U>
    where
        S: Record + Default,
        U: Record,
        F: KeyedCoProcessFunction<SelA::Key, A, B, S, U> + Clone + Sync + 'static,
    {
        let (first, second) = (self.first.clone_parts(), self.second.clone_parts());
        let (streams, ttl) = ((self.first.stream(), self.second.stream()), self.first.ttl());
        two_inputs(streams, "Keyed Co-Process", move |context, outputs| {
            let (of, clock, (next, sides)) = (context.state()?, context.builder.clock(), outputs.split()?);
            let inputs = (
                KeyedInput::new(first.0.clone(), first.1.clone()),
                KeyedInput::new(second.0.clone(), second.1.clone()),
            );
            KeyedCoProcess::new((of, clock, ttl), inputs, function.clone(), (next, sides))
        })
    }
}
