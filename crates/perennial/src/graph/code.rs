//! The code behind nodes and edges, its record types erased: the StreamGraph is planned without it.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use perennial_runtime::operators::{Discard, FanOut, SideOutputs};
use perennial_runtime::{Counters, Head, InputHead, Output, Route, StateContext, TaskBuilder, TaskContext, TaskError};
use perennial_types::{OperatorInfo, Record, ShipStrategy};

/// A `Box<dyn Output<T>>` of a `T` that only the two sides of an edge know.
pub(crate) type AnyOutput = Box<dyn Any + Send>;

/// An `Arc<RouteFactory<T>>`, likewise.
pub(crate) type AnyRoute = Arc<dyn Any + Send + Sync>;

/// Makes the route of one subtask.
pub(crate) struct RouteFactory<T>(pub(crate) Box<dyn Fn() -> Route<T> + Send + Sync>);

/// Who is being built: an operator of a subtask.
pub(crate) struct OperatorContext<'a> {
    /// Full name, for errors.
    pub(crate) name: &'a str,
    pub(crate) operator: &'a OperatorInfo,
    pub(crate) task: &'a TaskContext,
    pub(crate) builder: &'a TaskBuilder,
    /// Counters of the subtask.
    pub(crate) counters: Arc<Counters>,
}

impl OperatorContext<'_> {
    /// What an operator with state is built with.
    pub(crate) fn state(&self) -> Result<StateContext, TaskError> {
        self.builder.state_of(self.operator, self.name)
    }
}

/// Where the records of a node go: its main output, then its side outputs.
pub(crate) struct NodeOutputs {
    pub(crate) outputs: Vec<(OutputCode, AnyOutput)>,
}

impl NodeOutputs {
    /// Splits into the main output and the side outputs.
    pub(crate) fn split<T: 'static>(self) -> Result<(Box<dyn Output<T>>, SideOutputs), TaskError> {
        let mut outputs = self.outputs.into_iter();
        let Some((_, main)) = outputs.next() else {
            return Err(wrong_job("an operator without an output"));
        };
        let mut sides = SideOutputs::default();
        for (code, output) in outputs {
            code.records.add_side(&code.tag, output, &mut sides)?;
        }
        Ok((typed(main)?, sides))
    }

    /// The main output of a node that cannot have side outputs.
    pub(crate) fn main<T: 'static>(self) -> Result<Box<dyn Output<T>>, TaskError> {
        self.split().map(|(main, _)| main)
    }
}

/// Builds an operator in front of its outputs; the result takes the node's input.
pub(crate) type BuildOperator =
    Arc<dyn Fn(&OperatorContext<'_>, NodeOutputs) -> Result<AnyOutput, TaskError> + Send + Sync>;

/// Builds what can only begin a chain in front of its outputs.
pub(crate) type BuildHead =
    Arc<dyn Fn(&OperatorContext<'_>, NodeOutputs) -> Result<Box<dyn Head>, TaskError> + Send + Sync>;

/// How a node is built.
#[derive(Clone)]
pub(crate) enum NodeCode {
    /// A source, or an operator with two inputs.
    Head(BuildHead),
    Operator {
        build: BuildOperator,
        input: Arc<dyn RecordCode>,
    },
}

/// The code of one output of a node.
#[derive(Clone)]
pub(crate) struct OutputCode {
    /// Name of a side output, empty for the main one.
    pub(crate) tag: String,
    pub(crate) records: Arc<dyn RecordCode>,
}

/// What can be done with records of a type without naming it.
pub(crate) trait RecordCode: Send + Sync {
    /// The head of a chain that begins with this output behind an exchange.
    fn head(&self, first: AnyOutput) -> Result<Box<dyn Head>, TaskError>;

    /// The sending end of an exchange.
    fn exchange(
        &self,
        builder: &mut TaskBuilder,
        edge: usize,
        ship: ShipStrategy,
        route: Option<&AnyRoute>,
    ) -> Result<AnyOutput, TaskError>;

    /// One output to all consumers, of which there may be none.
    fn join(&self, consumers: Vec<AnyOutput>) -> Result<AnyOutput, TaskError>;

    /// Adds a side output of these records.
    fn add_side(&self, tag: &str, output: AnyOutput, sides: &mut SideOutputs) -> Result<(), TaskError>;
}

/// [`RecordCode`] of a type.
pub(crate) struct Records<T>(PhantomData<fn() -> T>);

impl<T: Record> Records<T> {
    pub(crate) fn code() -> Arc<dyn RecordCode> {
        Arc::new(Self(PhantomData))
    }
}

impl<T: Record> RecordCode for Records<T> {
    fn head(&self, first: AnyOutput) -> Result<Box<dyn Head>, TaskError> {
        Ok(Box::new(InputHead::new(typed::<T>(first)?)))
    }

    fn exchange(
        &self,
        builder: &mut TaskBuilder,
        edge: usize,
        ship: ShipStrategy,
        route: Option<&AnyRoute>,
    ) -> Result<AnyOutput, TaskError> {
        let route = match ship {
            ShipStrategy::Forward => Route::Forward,
            ShipStrategy::Rebalance | ShipStrategy::Rescale => Route::RoundRobin,
            ShipStrategy::Shuffle => Route::Shuffle,
            ShipStrategy::Broadcast => Route::Broadcast,
            ShipStrategy::Global => Route::Global,
            ShipStrategy::Hash | ShipStrategy::Custom => {
                let factory = route.and_then(|route| route.downcast_ref::<RouteFactory<T>>());
                (factory.ok_or_else(|| wrong_job("an exchange without its key selector or partitioner"))?.0)()
            }
        };
        Ok(Box::new(builder.exchange::<T>(edge, route)?))
    }

    fn join(&self, consumers: Vec<AnyOutput>) -> Result<AnyOutput, TaskError> {
        let mut others = consumers.into_iter().map(typed::<T>).collect::<Result<Vec<_>, _>>()?;
        let joined: Box<dyn Output<T>> = match others.pop() {
            None => Box::new(Discard::default()),
            Some(only) if others.is_empty() => only,
            Some(last) => Box::new(FanOut::new(others, last)),
        };
        Ok(Box::new(joined))
    }

    fn add_side(&self, tag: &str, output: AnyOutput, sides: &mut SideOutputs) -> Result<(), TaskError> {
        sides.add(tag, typed::<T>(output)?);
        Ok(())
    }
}

/// Erases an operator.
pub(crate) fn erased<T: 'static>(output: impl Output<T> + 'static) -> AnyOutput {
    let output: Box<dyn Output<T>> = Box::new(output);
    Box::new(output)
}

fn typed<T: 'static>(output: AnyOutput) -> Result<Box<dyn Output<T>>, TaskError> {
    match output.downcast() {
        Ok(output) => Ok(*output),
        Err(_) => Err(wrong_job(&format!("an output is not one of {}", std::any::type_name::<T>()))),
    }
}

/// What the types of `DataStream` rule out.
fn wrong_job(reason: &str) -> TaskError {
    TaskError::WrongJob { reason: reason.to_owned() }
}
