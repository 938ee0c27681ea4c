//! The plan with its code: builds the chains of the subtasks.

use std::sync::Arc;

use perennial_runtime::{ExecutableJob, Head, TaskBuilder, TaskError, VertexFactory};
use perennial_types::OperatorInfo;

use super::code::{AnyOutput, AnyRoute, NodeCode, NodeOutputs, OperatorContext, OutputCode};
use super::plan::LinkTarget;
use super::{Link, NodeId, Plan};

/// The code of a whole StreamGraph, under the same indexes.
#[derive(Clone, Default)]
pub(crate) struct GraphCode {
    pub(crate) nodes: Vec<NodeCode>,
    /// Outputs of each node.
    pub(crate) outputs: Vec<Vec<OutputCode>>,
    /// Key selector or partitioner of each edge that needs one.
    pub(crate) routes: Vec<Option<AnyRoute>>,
}

/// A job that can run.
pub(crate) fn executable(plan: Plan, code: GraphCode) -> ExecutableJob {
    let shared = Arc::new(Shared { links: plan.links, operators: plan.operators, code });
    let factory =
        |head: &NodeId| -> Arc<dyn VertexFactory> { Arc::new(ChainFactory { shared: shared.clone(), head: *head }) };
    ExecutableJob { vertices: plan.heads.iter().map(factory).collect(), graph: Arc::new(plan.graph) }
}

/// What all vertices of a job need.
struct Shared {
    links: Vec<Vec<Link>>,
    /// Every operator, under the index of its node.
    operators: Vec<OperatorInfo>,
    code: GraphCode,
}

/// Builds the chain of one vertex, tail to head: an operator owns what comes after it.
struct ChainFactory {
    shared: Arc<Shared>,
    head: NodeId,
}

impl VertexFactory for ChainFactory {
    fn build(&self, builder: &mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> {
        let outputs = self.shared.outputs(self.head, builder)?;
        let context = self.shared.context(self.head, builder)?;
        match self.shared.code(self.head)? {
            NodeCode::Head(build) => build(&context, outputs),
            NodeCode::Operator { build, input } => input.head(build(&context, outputs)?),
        }
    }
}

impl Shared {
    fn context<'a>(&'a self, node: NodeId, task: &'a TaskBuilder) -> Result<OperatorContext<'a>, TaskError> {
        let operator = self.operators.get(node);
        let operator = operator.ok_or_else(|| TaskError::WrongJob { reason: format!("no operator {node}") })?;
        Ok(OperatorContext {
            name: &operator.name,
            operator,
            task: &task.context,
            builder: task,
            counters: task.counters(),
        })
    }

    fn code(&self, node: NodeId) -> Result<&NodeCode, TaskError> {
        self.code.nodes.get(node).ok_or_else(|| TaskError::WrongJob { reason: format!("no code for operator {node}") })
    }

    /// Builds everything after a node.
    fn outputs(&self, node: NodeId, builder: &mut TaskBuilder) -> Result<NodeOutputs, TaskError> {
        let links = self.links.get(node).map_or(&[][..], Vec::as_slice);
        let mut outputs = Vec::new();
        for (index, code) in self.code.outputs.get(node).into_iter().flatten().enumerate() {
            let mut consumers = Vec::new();
            for link in links.iter().filter(|link| link.output == index) {
                consumers.push(self.consumer(&link.to, code, builder)?);
            }
            outputs.push((code.clone(), code.records.join(consumers)?));
        }
        Ok(NodeOutputs { outputs })
    }

    fn consumer(&self, to: &LinkTarget, code: &OutputCode, builder: &mut TaskBuilder) -> Result<AnyOutput, TaskError> {
        match to {
            LinkTarget::Exchange { edge, stream_edge, ship } => {
                let route = self.code.routes.get(*stream_edge).and_then(Option::as_ref);
                code.records.exchange(builder, *edge, *ship, route)
            }
            LinkTarget::Chained(node) => {
                let outputs = self.outputs(*node, builder)?;
                let context = self.context(*node, builder)?;
                match self.code(*node)? {
                    NodeCode::Operator { build, .. } => build(&context, outputs),
                    NodeCode::Head(_) => {
                        Err(TaskError::WrongJob { reason: format!("`{}` is in the middle of a chain", context.name) })
                    }
                }
            }
        }
    }
}
