//! Throughput of the data plane without the library: `throughput pass|count KEYS SECONDS`.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perennial_runtime::local::{CancelHandle, LocalOptions, run};
use perennial_runtime::operators::{Filter, Map};
use perennial_runtime::*;
use perennial_types::{DEFAULT_SLOT_SHARING_GROUP, JobEdge, JobGraph, JobVertex, MaxParallelism, ShipStrategy, VertexId};

type Rec = (u64, u64);

fn splitmix(s: &mut u64) -> u64 {
    *s = s.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *s;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

struct Generator {
    state: u64,
    keys: u64,
}

impl SourceReader<Rec> for Generator {
    fn poll(&mut self, out: &mut Vec<Rec>, max: usize) -> Result<SourceStatus, UserError> {
        let mut state = self.state;
        let keys = black_box(self.keys);
        out.extend((0..max).map(|_| (splitmix(&mut state) % keys, 1)));
        self.state = state;
        Ok(SourceStatus::More)
    }
}

/// Adds up what it reads.
struct Drop {
    sum: u64,
    count: Arc<AtomicU64>,
}

impl Output<Rec> for Drop {
    fn push(&mut self, batch: &mut Vec<Rec>) -> Result<(), TaskError> {
        self.count.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for r in batch.drain(..) {
            self.sum = self.sum.wrapping_add(r.0 ^ r.1);
        }
        black_box(self.sum);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

struct Factory<F>(F);

impl<F: Fn(&mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> + Send + Sync> VertexFactory for Factory<F> {
    fn build(&self, builder: &mut TaskBuilder) -> Result<Box<dyn Head>, TaskError> {
        (self.0)(builder)
    }
}

fn vertex(id: u8, name: &str) -> JobVertex {
    JobVertex {
        id: VertexId::from_bytes([id; 16]),
        name: name.to_owned(),
        parallelism: 2,
        max_parallelism: MaxParallelism::default_for(2),
        slot_sharing_group: DEFAULT_SLOT_SHARING_GROUP.to_owned(),
        operators: Vec::new(),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let keys: u64 = args[2].parse().unwrap();
    let seconds: f64 = args[3].parse().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let produced = Arc::new(AtomicU64::new(0));
    let (c, p) = (Arc::clone(&count), Arc::clone(&produced));
    let pass = args[1] == "pass";
    let source = Factory(move |builder: &mut TaskBuilder| {
        let reader =
            Generator { state: 42 + u64::from(builder.context.attempt.subtask) * 7919, keys };
        if pass {
            let end = Box::new(Drop { sum: 0, count: Arc::clone(&c) });
            let map = Box::new(Map::new(|r: Rec| (r.0 ^ 0x55, r.1 + 1), end));
            let filter = Box::new(Filter::new(|r: &Rec| r.0 & 3 != 0, map));
            let map = Box::new(Map::new(|r: Rec| (r.0, r.1.wrapping_mul(2).wrapping_add(r.0 & 1)), filter));
            struct Counting(Generator, Arc<AtomicU64>);
            impl SourceReader<Rec> for Counting {
                fn poll(&mut self, out: &mut Vec<Rec>, max: usize) -> Result<SourceStatus, UserError> {
                    self.1.fetch_add(max as u64, Ordering::Relaxed);
                    self.0.poll(out, max)
                }
            }
            Ok(Box::new(SourceHead::new("gen", Counting(reader, Arc::clone(&p)), map)) as Box<dyn Head>)
        } else {
            let route = Route::Hash(Box::new(HashBy(ByOwned::new(|r: &Rec| r.0))));
            let out = builder.exchange::<Rec>(0, route)?;
            Ok(Box::new(SourceHead::new("gen", reader, out)) as Box<dyn Head>)
        }
    });
    let c = Arc::clone(&count);
    let counting = Factory(move |_: &mut TaskBuilder| {
        let end = Box::new(Drop { sum: 0, count: Arc::clone(&c) });
        let fold = KeyedFold::new(
            ByOwned::new(|r: &Rec| r.0),
            |r: &Rec| r.1,
            |s: &mut u64, r: Rec| *s += r.1,
            |k: &u64, s: &u64| (*k, *s),
            end,
        );
        Ok(Box::new(InputHead::new(Box::new(fold))) as Box<dyn Head>)
    });
    let mut graph = JobGraph {
        name: "throughput".to_owned(),
        vertices: vec![vertex(1, "source")],
        edges: vec![],
        structural_hash: 0,
        config: BTreeMap::new(),
    };
    let mut vertices: Vec<Arc<dyn VertexFactory>> = vec![Arc::new(source)];
    if !pass {
        graph.vertices.push(vertex(2, "count"));
        graph.edges.push(JobEdge { source: 0, target: 1, ship: ShipStrategy::Hash });
        vertices.push(Arc::new(counting));
    }
    let job = ExecutableJob { graph: Arc::new(graph), vertices };
    let cancel = CancelHandle::default();
    let options = LocalOptions { cancel: cancel.clone(), ..Default::default() };
    let counter = if pass { produced } else { count };
    let running = std::thread::spawn(move || run(&job, &options).unwrap());
    std::thread::sleep(Duration::from_secs_f64(1.0));
    for _ in 0..3 {
        let (n, t) = (counter.load(Ordering::Relaxed), std::time::Instant::now());
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let n = counter.load(Ordering::Relaxed) - n;
        println!("{:.1} M/s", n as f64 / t.elapsed().as_secs_f64() / 1e6);
    }
    cancel.cancel();
    let outcome = running.join().unwrap();
    for task in outcome.tasks {
        println!("{} {} {:?}", task.vertex_name, task.subtask, task.counters);
    }
}
