//! The environment a job is built in.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use perennial_runtime::ExecutableJob;
use perennial_types::config::{Origin, options};
use perennial_types::{Configuration, JobGraph, PlanRequest, Record, ShipStrategy};

use crate::JobError;
use crate::graph::code::{AnyRoute, NodeCode, OutputCode, RecordCode, Records};
use crate::graph::{self, Chaining, GraphCode, NodeId, NodeKind, OutputType, StreamEdge, StreamGraph, StreamNode};
use crate::stream::Port;

/// Where a job begins: makes sources, holds the job's settings. Flink's `StreamExecutionEnvironment`.
///
/// Cheap to clone; all clones are the same environment.
#[derive(Clone)]
pub struct StreamExecutionEnvironment {
    builder: Rc<RefCell<Builder>>,
}

/// What the calls on streams add to.
struct Builder {
    origin: EnvironmentOrigin,
    /// Options from outside, and those the job sets.
    options: Configuration,
    /// Options the job set itself.
    own_options: BTreeMap<String, String>,
    parallelism: u32,
    graph: StreamGraph,
    code: GraphCode,
    /// What was wrong, in order; the first is reported.
    errors: Vec<JobError>,
}

/// Who runs what is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EnvironmentOrigin {
    /// The registry: the job runs when its builder returned.
    Registry,
    /// `StreamExecutionEnvironment::local`: the caller runs it.
    Local,
}

impl Builder {
    /// After the job set an option: what is in force goes with the JobGraph, and holds for what is built from here on.
    fn take_over_options(&mut self, key: &str) {
        let in_force = self.options.overrides().remove(key);
        self.own_options.extend(in_force.map(|value| (key.to_owned(), value)));
        if key == options::PARALLELISM_DEFAULT.key {
            self.parallelism = self.options.get(&options::PARALLELISM_DEFAULT).get();
        }
        self.read_graph_options();
    }

    /// Options that are settings of the graph.
    fn read_graph_options(&mut self) {
        self.graph.chaining = self.options.get(&options::OPERATOR_CHAINING);
        self.graph.max_parallelism = u32::try_from(self.options.get(&options::PIPELINE_MAX_PARALLELISM)).ok();
        if let Some(name) = self.options.get(&options::PIPELINE_NAME) {
            self.graph.job_name = name;
        }
    }
}

impl StreamExecutionEnvironment {
    /// An environment whose job runs in this process when [`execute`](Self::execute) is called. For tests and tools;
    /// parallelism is the number of processors unless it is set.
    pub fn local() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Self::new(Configuration::new(), processors, EnvironmentOrigin::Local)
    }

    /// The environment of a job that a registry plans.
    pub(crate) fn for_request(job: &str, request: &PlanRequest) -> Result<Self, JobError> {
        let mut configuration = Configuration::new();
        for (key, value) in &request.config {
            configuration.set(key, value, Origin::Flag(format!("-D {key}={value}")))?;
        }
        let parallelism = configuration.get(&options::PARALLELISM_DEFAULT).get();
        let env = Self::new(configuration, parallelism, EnvironmentOrigin::Registry);
        env.set_job_name(job);
        Ok(env)
    }

    fn new(configuration: Configuration, parallelism: u32, origin: EnvironmentOrigin) -> Self {
        let mut builder = Builder {
            origin,
            options: configuration,
            own_options: BTreeMap::new(),
            parallelism,
            graph: StreamGraph { job_name: "job".to_owned(), ..StreamGraph::default() },
            code: GraphCode::default(),
            errors: Vec::new(),
        };
        builder.read_graph_options();
        Self { builder: Rc::new(RefCell::new(builder)) }
    }

    /// Sets the parallelism of operators made from here on that set none themselves.
    ///
    /// By default that is `parallelism.default`, the `-p` of `perennial run`.
    pub fn set_parallelism(&self, parallelism: u32) -> &Self {
        if parallelism == 0 {
            self.fail(JobError::job("parallelism 0", "`set_parallelism` takes 1 or more"));
        } else {
            self.builder().parallelism = parallelism;
        }
        self
    }

    /// The parallelism of operators that set none themselves.
    pub fn parallelism(&self) -> u32 {
        self.builder.borrow().parallelism
    }

    /// Sets the number of key groups, in `1..=32768`, of operators that set none themselves.
    ///
    /// By default it follows from the parallelism. It is fixed for a job's life: keyed state is stored under it.
    pub fn set_max_parallelism(&self, max_parallelism: u32) -> &Self {
        self.set_option(options::PIPELINE_MAX_PARALLELISM.key, &max_parallelism.to_string())
    }

    /// Runs every operator as a task of its own.
    pub fn disable_operator_chaining(&self) -> &Self {
        self.set_option(options::OPERATOR_CHAINING.key, "false")
    }

    /// Sets the longest time a record waits in a batch that is not full; zero sends every batch at once.
    pub fn set_buffer_timeout(&self, timeout: Duration) -> &Self {
        self.set_option(options::BUFFER_TIMEOUT.key, &format!("{} us", timeout.as_micros()))
    }

    /// Takes a checkpoint of the job every `interval`; a task that fails then goes on from the last complete one.
    pub fn enable_checkpointing(&self, interval: Duration) -> &Self {
        self.set_option(options::CHECKPOINTING_INTERVAL.key, &format!("{} us", interval.as_micros()))
    }

    /// How often a checkpoint is taken; `None` when none is. Sinks are chosen by it.
    pub fn checkpointing_interval(&self) -> Option<Duration> {
        self.builder.borrow().options.get(&options::CHECKPOINTING_INTERVAL)
    }

    /// How often watermarks are emitted; zero is never.
    pub(crate) fn auto_watermark_interval(&self) -> Duration {
        self.builder.borrow().options.get(&options::AUTO_WATERMARK_INTERVAL)
    }

    /// Sets how often watermarks are emitted, for streams that get event time from here on; zero emits none before the end of
    /// the input.
    pub fn set_auto_watermark_interval(&self, interval: Duration) -> &Self {
        self.set_option(options::AUTO_WATERMARK_INTERVAL.key, &format!("{} us", interval.as_micros()))
    }

    /// Sets an option of the job under its Flink key; options given at submission win.
    pub fn set_option(&self, key: &str, value: &str) -> &Self {
        let mut builder = self.builder();
        // Checked under a name that says where it is, then set as something weaker than what was given at submission.
        let origin = Origin::Flag(format!("set_option({key:?}, {value:?})"));
        let weaker = Origin::File { path: "the job".to_owned(), line: 0 };
        let checked = Configuration::new().set(key, value, origin);
        match checked.and_then(|()| builder.options.set(key, value, weaker)) {
            Ok(()) => builder.take_over_options(key),
            Err(error) => builder.errors.push(error.into()),
        }
        drop(builder);
        self
    }

    /// Names the job in listings; `pipeline.name` given at submission wins. By default it is the name it is registered under.
    pub fn set_job_name(&self, name: &str) -> &Self {
        let mut builder = self.builder();
        if builder.options.get(&options::PIPELINE_NAME).is_none() {
            builder.graph.job_name = name.to_owned();
        }
        drop(builder);
        self
    }

    /// Runs the job in this process and waits for its end.
    ///
    /// Only for an environment made by [`local`](Self::local): a registered job's builder returns, and its registry or the
    /// cluster runs what it built. What was built stays, and runs again with the next call.
    pub fn execute(&self, job_name: &str) -> Result<crate::JobResult, JobError> {
        if self.builder.borrow().origin == EnvironmentOrigin::Registry {
            return Err(JobError::job(
                "`execute` was called in a registered job",
                "return from the builder: the job is run by whoever asked for it",
            ));
        }
        self.set_job_name(job_name);
        crate::roles::local::run(&self.executable()?, self.effective_options())
    }

    /// Whether both are clones of one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.builder, &other.builder)
    }

    /// Whether the caller runs what is built.
    pub(crate) fn is_local(&self) -> bool {
        self.builder.borrow().origin == EnvironmentOrigin::Local
    }

    /// Options from outside and the job's own, under Flink's keys.
    pub(crate) fn effective_options(&self) -> BTreeMap<String, String> {
        self.builder.borrow().options.overrides()
    }

    /// What was built, planned.
    pub(crate) fn job_graph(&self) -> Result<JobGraph, JobError> {
        self.plan().map(|plan| plan.graph)
    }

    /// What was built, ready to run.
    pub(crate) fn executable(&self) -> Result<ExecutableJob, JobError> {
        let plan = self.plan()?;
        Ok(graph::executable(plan, self.builder.borrow().code.clone()))
    }

    fn plan(&self) -> Result<graph::Plan, JobError> {
        let mut builder = self.builder();
        if !builder.errors.is_empty() {
            return Err(builder.errors.remove(0));
        }
        let own_options = builder.own_options.clone();
        graph::plan(&builder.graph, own_options)
    }

    fn builder(&self) -> RefMut<'_, Builder> {
        self.builder.borrow_mut()
    }

    /// Remembers what is wrong; planning reports it.
    pub(crate) fn fail(&self, error: JobError) {
        self.builder().errors.push(error);
    }

    /// Adds a node with one main output, or none when `output` is `None`.
    pub(crate) fn add_node(
        &self,
        kind: NodeKind,
        name: &str,
        code: NodeCode,
        input_type: &'static str,
        output: Option<(&'static str, std::sync::Arc<dyn RecordCode>)>,
    ) -> NodeId {
        let mut builder = self.builder();
        let parallelism = builder.parallelism;
        let mut outputs = Vec::new();
        let mut output_codes = Vec::new();
        if let Some((record_type, records)) = output {
            outputs.push(OutputType { tag: None, record_type });
            output_codes.push(OutputCode { tag: String::new(), records });
        }
        builder.graph.nodes.push(StreamNode {
            kind,
            name: name.to_owned(),
            uid: None,
            state_version: 0,
            parallelism,
            parallel: true,
            max_parallelism: None,
            slot_sharing_group: None,
            chaining: Chaining::Always,
            input_type,
            outputs,
        });
        builder.code.nodes.push(code);
        builder.code.outputs.push(output_codes);
        builder.graph.nodes.len() - 1
    }

    /// Leads a stream into a node.
    pub(crate) fn connect(&self, ports: &[Port], target: NodeId) {
        let mut builder = self.builder();
        for port in ports {
            let (ship, route): (Option<ShipStrategy>, Option<AnyRoute>) = match &port.partition {
                None => (None, None),
                Some(partition) => (Some(partition.ship), partition.route.clone()),
            };
            builder.graph.edges.push(StreamEdge { source: port.node, output: port.output, target, ship });
            builder.code.routes.push(route);
        }
    }

    /// The side output of a node with this name, made when it is asked for first. `Err` when it is of another type.
    pub(crate) fn side_output<S: Record>(&self, node: NodeId, tag: &str) -> Option<usize> {
        let mut builder = self.builder();
        let record_type = std::any::type_name::<S>();
        let (mut index, mut name, mut other_type) = (0, String::new(), None);
        if let Some(node) = builder.graph.nodes.get_mut(node) {
            name.clone_from(&node.name);
            match node.outputs.iter().position(|output| output.tag.as_deref() == Some(tag)) {
                Some(at) => {
                    index = at;
                    other_type = node.outputs.get(at).map(|output| output.record_type).filter(|ty| *ty != record_type);
                }
                None => {
                    index = node.outputs.len();
                    node.outputs.push(OutputType { tag: Some(tag.to_owned()), record_type });
                }
            }
        }
        if let Some(other) = other_type {
            let problem = format!("side output `{tag}` is read as {record_type} and as {other}");
            builder.errors.push(JobError::operator(&name, problem, "use one `OutputTag` for it"));
            return None;
        }
        if let Some(outputs) = builder.code.outputs.get_mut(node)
            && outputs.len() == index
        {
            outputs.push(OutputCode { tag: tag.to_owned(), records: Records::<S>::code() });
        }
        Some(index)
    }

    /// Changes a node.
    pub(crate) fn update(&self, node: NodeId, change: impl FnOnce(&mut StreamNode)) {
        if let Some(node) = self.builder().graph.nodes.get_mut(node) {
            change(node);
        }
    }

    /// Name of a node.
    pub(crate) fn name_of(&self, node: NodeId) -> String {
        self.builder.borrow().graph.nodes.get(node).map(|node| node.name.clone()).unwrap_or_default()
    }
}
