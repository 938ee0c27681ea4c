//! Flink's rules, one by one (FACTS §1.4, §1.5, §3.3).

use std::collections::BTreeMap;

use perennial_types::{JobGraph, OperatorId, ShipStrategy, VertexId};

use super::*;

/// A graph in the making.
struct Sketch(StreamGraph);

impl Sketch {
    fn new() -> Self {
        Self(StreamGraph { job_name: "job".to_owned(), chaining: true, ..StreamGraph::default() })
    }

    fn node(&mut self, kind: NodeKind, name: &str, inputs: &[(NodeId, Option<ShipStrategy>)]) -> NodeId {
        let target = self.0.nodes.len();
        self.0.nodes.push(StreamNode {
            kind,
            name: name.to_owned(),
            uid: None,
            state_version: 0,
            parallelism: 2,
            parallel: true,
            max_parallelism: None,
            slot_sharing_group: None,
            chaining: Chaining::Always,
            input_type: "u64",
            outputs: vec![OutputType { tag: None, record_type: "u64" }],
        });
        for (source, ship) in inputs {
            self.0.edges.push(StreamEdge { source: *source, output: 0, target, ship: *ship });
        }
        target
    }

    fn source(&mut self, name: &str) -> NodeId {
        self.node(NodeKind::Source, name, &[])
    }

    fn op(&mut self, name: &str, input: NodeId) -> NodeId {
        self.node(NodeKind::Operator, name, &[(input, None)])
    }

    fn sink(&mut self, name: &str, input: NodeId) -> NodeId {
        self.node(NodeKind::Sink, name, &[(input, None)])
    }

    fn with(&mut self, node: NodeId, change: impl FnOnce(&mut StreamNode)) {
        change(&mut self.0.nodes[node]);
    }

    fn plan(&self) -> JobGraph {
        super::plan(&self.0, BTreeMap::new()).unwrap().graph
    }

    fn error(&self) -> String {
        super::plan(&self.0, BTreeMap::new()).unwrap_err().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.plan().vertices.into_iter().map(|vertex| vertex.name).collect()
    }
}

/// `A -> B -> C`, changed in one way; the vertices that come out.
fn check_chain(change: impl FnOnce(&mut Sketch, [NodeId; 3]), expect: &[&str]) {
    let mut sketch = Sketch::new();
    let a = sketch.source("A");
    let b = sketch.op("B", a);
    let c = sketch.sink("C", b);
    change(&mut sketch, [a, b, c]);
    assert_eq!(sketch.names(), expect);
}

#[test]
fn operators_are_chained_when_every_rule_holds() {
    check_chain(|_, _| {}, &["Source: A -> B -> Sink: C"]);
    // 2. chaining is enabled
    check_chain(|sketch, _| sketch.0.chaining = false, &["Source: A", "B", "Sink: C"]);
    // 3. one slot-sharing group; what follows inherits it
    check_chain(
        |sketch, [_, b, _]| sketch.with(b, |node| node.slot_sharing_group = Some("heavy".to_owned())),
        &["Source: A", "B -> Sink: C"],
    );
    check_chain(
        |sketch, [a, ..]| sketch.with(a, |node| node.slot_sharing_group = Some("heavy".to_owned())),
        &["Source: A -> B -> Sink: C"],
    );
    // 5. chaining strategies
    check_chain(
        |sketch, [_, b, _]| sketch.with(b, |node| node.chaining = Chaining::Head),
        &["Source: A", "B -> Sink: C"],
    );
    check_chain(
        |sketch, [_, b, _]| sketch.with(b, |node| node.chaining = Chaining::Never),
        &["Source: A", "B", "Sink: C"],
    );
    check_chain(
        |sketch, [a, ..]| sketch.with(a, |node| node.chaining = Chaining::Head),
        &["Source: A -> B -> Sink: C"],
    );
    check_chain(
        |sketch, [a, ..]| sketch.with(a, |node| node.chaining = Chaining::Never),
        &["Source: A", "B -> Sink: C"],
    );
    // 6. equal parallelism
    check_chain(|sketch, [_, b, _]| sketch.with(b, |node| node.parallelism = 3), &["Source: A", "B", "Sink: C"]);
    // 7. a different max parallelism does not matter
    check_chain(
        |sketch, [_, b, _]| sketch.with(b, |node| node.max_parallelism = Some(7)),
        &["Source: A -> B -> Sink: C"],
    );
}

/// 8. The partitioner is forward.
#[test]
fn only_forward_edges_are_chained() {
    for ship in [
        ShipStrategy::Rebalance,
        ShipStrategy::Rescale,
        ShipStrategy::Shuffle,
        ShipStrategy::Broadcast,
        ShipStrategy::Global,
        ShipStrategy::Hash,
        ShipStrategy::Custom,
    ] {
        check_chain(|sketch, _| sketch.0.edges[0].ship = Some(ship), &["Source: A", "B -> Sink: C"]);
    }
    check_chain(|sketch, _| sketch.0.edges[0].ship = Some(ShipStrategy::Forward), &["Source: A -> B -> Sink: C"]);
}

/// 1 and 9. The lower operator has one input edge: no union.
#[test]
fn a_union_begins_a_chain() {
    let mut sketch = Sketch::new();
    let (a, b) = (sketch.source("A"), sketch.source("B"));
    let c = sketch.node(NodeKind::Operator, "C", &[(a, None), (b, None)]);
    sketch.sink("D", c);
    assert_eq!(sketch.names(), ["Source: A", "Source: B", "C -> Sink: D"]);
    let edges: Vec<_> = sketch.plan().edges.iter().map(|edge| (edge.source, edge.target, edge.ship)).collect();
    assert_eq!(edges, [(0, 2, ShipStrategy::Forward), (1, 2, ShipStrategy::Forward)]);

    let mut with_itself = Sketch::new();
    let a = with_itself.source("A");
    with_itself.node(NodeKind::Sink, "B", &[(a, None), (a, None)]);
    assert_eq!(with_itself.names(), ["Source: A", "Sink: B"]);
    assert_eq!(with_itself.plan().edges.len(), 2);
}

#[test]
fn several_chained_outputs_are_named_in_parentheses() {
    let mut sketch = Sketch::new();
    let a = sketch.source("A");
    let b = sketch.op("B", a);
    let c = sketch.op("C", a);
    sketch.sink("D", b);
    sketch.sink("E", c);
    let far = sketch.op("F", c);
    sketch.with(far, |node| node.chaining = Chaining::Head);
    assert_eq!(sketch.names(), ["Source: A -> (B -> Sink: D, C -> Sink: E)", "F"]);
    let graph = sketch.plan();
    let operators: Vec<&str> = graph.vertices[0].operators.iter().map(|operator| operator.uid.as_str()).collect();
    assert_eq!(operators, ["A", "B", "D", "C", "E"]);
}

#[test]
fn a_vertex_is_named_after_the_head_of_its_chain() {
    let mut sketch = Sketch::new();
    let a = sketch.source("A");
    let b = sketch.op("B", a);
    sketch.with(b, |node| (node.uid, node.parallelism) = (Some("my uid".to_owned()), 4));
    sketch.sink("C", b);
    let graph = sketch.plan();
    assert_eq!(graph.vertices[1].id, VertexId::from(OperatorId::of_uid("my uid")));
    assert_eq!(graph.vertices[1].operators[0].uid, "my uid");
    assert_eq!(graph.vertices[0].operators[0].id, OperatorId::of_uid("A"));
}

#[test]
fn the_default_partitioner_is_forward_at_equal_parallelism_else_rebalance() {
    let mut sketch = Sketch::new();
    let a = sketch.source("A");
    let b = sketch.op("B", a);
    sketch.with(b, |node| node.chaining = Chaining::Head);
    let c = sketch.sink("C", b);
    sketch.with(c, |node| node.parallelism = 3);
    let ships: Vec<_> = sketch.plan().edges.iter().map(|edge| edge.ship).collect();
    assert_eq!(ships, [ShipStrategy::Forward, ShipStrategy::Rebalance]);
}

#[test]
fn slot_sharing_groups_are_inherited_when_all_inputs_agree() {
    let groups = |a: &str, b: &str, c: Option<&str>| {
        let mut sketch = Sketch::new();
        let (first, second) = (sketch.source("A"), sketch.source("B"));
        sketch.with(first, |node| node.slot_sharing_group = Some(a.to_owned()));
        sketch.with(second, |node| node.slot_sharing_group = Some(b.to_owned()));
        let third = sketch.node(NodeKind::Operator, "C", &[(first, None), (second, None)]);
        sketch.with(third, |node| node.slot_sharing_group = c.map(str::to_owned));
        sketch.sink("D", third);
        let graph = sketch.plan();
        (graph.vertices[2].slot_sharing_group.clone(), graph.slots_needed())
    };
    assert_eq!(groups("x", "x", None), ("x".to_owned(), 2));
    assert_eq!(groups("x", "y", None), ("default".to_owned(), 6));
    assert_eq!(groups("x", "y", Some("y")), ("y".to_owned(), 4));
}

#[test]
fn max_parallelism_is_given_inherited_or_derived() {
    let of = |parallelism, own, of_job| {
        let mut sketch = Sketch::new();
        sketch.0.max_parallelism = of_job;
        let a = sketch.source("A");
        sketch.with(a, |node| (node.parallelism, node.max_parallelism) = (parallelism, own));
        let b = sketch.sink("B", a);
        sketch.with(b, |node| (node.parallelism, node.max_parallelism) = (parallelism, own));
        sketch.plan().vertices[0].max_parallelism.get()
    };
    // min(max(roundUpPow2(p + p/2), 128), 32768)
    for (parallelism, expect) in
        [(1, 128), (85, 128), (86, 256), (171, 256), (172, 512), (20_000, 32_768), (32_768, 32_768)]
    {
        assert_eq!(of(parallelism, None, None), expect, "parallelism {parallelism}");
    }
    assert_eq!(of(4, None, Some(200)), 200);
    assert_eq!(of(4, Some(4), Some(200)), 4);
}

#[test]
fn uids_are_names_with_numbers_and_never_clash() {
    let mut sketch = Sketch::new();
    let a = sketch.source("Map");
    let b = sketch.op("Map", a);
    let c = sketch.op("Map", b);
    let d = sketch.sink("Map", c);
    sketch.with(c, |node| node.uid = Some("Map-2".to_owned()));
    let uids =
        |sketch: &Sketch| sketch.plan().vertices[0].operators.iter().map(|op| op.uid.clone()).collect::<Vec<_>>();
    assert_eq!(uids(&sketch), ["Map", "Map-3", "Map-2", "Map-4"]);
    sketch.with(a, |node| node.uid = Some("Map-2".to_owned()));
    sketch.with(b, |node| node.uid = Some("x".to_owned()));
    sketch.with(d, |node| node.uid = Some("x".to_owned()));
    assert_eq!(sketch.error(), "uids given to more than one operator: Map-2, x; give each operator a uid of its own");
}

#[test]
fn mistakes_name_the_operator_and_the_remedy() {
    let error = |change: &dyn Fn(&mut Sketch)| {
        let mut sketch = Sketch::new();
        let a = sketch.source("A");
        let b = sketch.op("B", a);
        sketch.sink("C", b);
        change(&mut sketch);
        sketch.error()
    };
    assert_eq!(
        error(&|sketch| sketch.with(1, |node| node.parallelism = 0)),
        "operator `B`: parallelism 0; `set_parallelism` takes 1 or more"
    );
    assert_eq!(
        error(&|sketch| sketch.with(1, |node| node.max_parallelism = Some(1))),
        "operator `B`: parallelism 2 is above its max parallelism 1; lower the one or raise the other"
    );
    assert_eq!(
        error(&|sketch| sketch.with(1, |node| node.max_parallelism = Some(40_000))),
        "operator `B`: max parallelism 40000 is outside 1..=32768; choose another with `set_max_parallelism`"
    );
    assert_eq!(
        error(&|sketch| sketch.with(1, |node| node.parallelism = 40_000)),
        "operator `B`: parallelism 40000 is above 32768; lower it with `set_parallelism`"
    );
    assert_eq!(
        error(&|sketch| sketch.with(0, |node| node.parallel = false)),
        "operator `A`: parallelism 2 for what only one subtask can read; spread its records with `rebalance` behind it"
    );
    let forward = |sketch: &mut Sketch| {
        sketch.with(1, |node| node.parallelism = 3);
        sketch.0.edges[0].ship = Some(ShipStrategy::Forward);
    };
    assert_eq!(
        error(&forward),
        "operator `B`: `forward` from `A` with parallelism 2 to parallelism 3; use `rebalance` or `rescale`, or give both the same parallelism"
    );
    assert_eq!(error(&|sketch| *sketch = Sketch::new()), crate::JobError::NoOperators.to_string());
    assert_eq!(
        error(&|sketch| sketch.with(2, |node| node.kind = NodeKind::Operator)),
        crate::JobError::NoSink.to_string()
    );
}

#[test]
fn the_structural_hash_sees_what_decides_where_code_runs() {
    let build = |change: &dyn Fn(&mut Sketch)| {
        let mut sketch = Sketch::new();
        let a = sketch.source("A");
        let b = sketch.op("B", a);
        sketch.sink("C", b);
        change(&mut sketch);
        sketch.plan().structural_hash
    };
    let plain = build(&|_| {});
    assert_eq!(build(&|_| {}), plain, "equal builders have equal hashes");
    let changes: [&dyn Fn(&mut Sketch); 9] = [
        &|sketch| sketch.with(1, |node| node.uid = Some("other".to_owned())),
        &|sketch| sketch.with(1, |node| node.state_version = 1),
        &|sketch| sketch.with(1, |node| node.input_type = "u32"),
        &|sketch| sketch.with(0, |node| node.outputs[0].record_type = "u32"),
        &|sketch| sketch.with(1, |node| node.parallelism = 3),
        &|sketch| sketch.with(1, |node| node.max_parallelism = Some(64)),
        &|sketch| sketch.0.edges[0].ship = Some(ShipStrategy::Shuffle),
        &|sketch| sketch.0.edges[1].source = 0,
        &|sketch| sketch.0.chaining = false,
    ];
    let mut seen = vec![plain];
    for (index, change) in changes.into_iter().enumerate() {
        let hash = build(change);
        assert!(!seen.contains(&hash), "change {index} is not seen");
        seen.push(hash);
    }
    assert_eq!(build(&|sketch| sketch.0.job_name = "other".to_owned()), plain, "the job's name is for people");
}
