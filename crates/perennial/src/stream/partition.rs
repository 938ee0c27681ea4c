//! How a stream is spread over the subtasks of what comes next.

use std::sync::Arc;

use perennial_runtime::Route;
use perennial_types::ShipStrategy;

use crate::graph::NodeId;
use crate::graph::code::{AnyRoute, RouteFactory};

/// One output of one node, and how it leads on. A stream has several when it is a union.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) node: NodeId,
    pub(crate) output: usize,
    pub(crate) partition: Option<Partition>,
}

impl Port {
    /// The main output of a node.
    pub(crate) fn main(node: NodeId) -> Self {
        Self { node, output: 0, partition: None }
    }
}

/// A partitioner the user chose.
#[derive(Clone)]
pub(crate) struct Partition {
    pub(crate) ship: ShipStrategy,
    pub(crate) route: Option<AnyRoute>,
}

impl Partition {
    /// One that needs no code.
    pub(crate) fn plain(ship: ShipStrategy) -> Self {
        Self { ship, route: None }
    }

    /// One whose routes are made by `factory`.
    pub(crate) fn with_route<T: 'static>(
        ship: ShipStrategy,
        factory: impl Fn() -> Route<T> + Send + Sync + 'static,
    ) -> Self {
        Self { ship, route: Some(Arc::new(RouteFactory::<T>(Box::new(factory)))) }
    }
}
