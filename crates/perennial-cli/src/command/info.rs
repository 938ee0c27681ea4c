//! `perennial info`: what an artifact is, and the plan of one of its jobs.

use perennial_client::{Prepared, describe};
use perennial_types::config::options;
use perennial_types::{ArtifactManifest, Configuration, JobGraph};
use serde_json::json;

use super::run::request;
use crate::args::{Format, Global, Info};
use crate::failure::{Exit, Failure};
use crate::output;

pub(crate) async fn run(info: Info, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let limit = config.get(&options::JOBMANAGER_PLAN_TIMEOUT);
    let manifest = describe(&info.choice.artifact, limit).await?;
    // Without a choice there is no plan to show, which is no reason to hide the rest.
    let planned = info.choice.job.is_some() || manifest.jobs.len() == 1;
    let prepared = match planned {
        true => Some(Prepared::new(&info.choice.artifact, request(&info.choice, &global.options), limit).await?),
        false => None,
    };
    let graph = prepared.as_ref().map(|prepared| &prepared.plan.graph);
    match info.output.format {
        Format::Json => output::json(&json!({ "manifest": manifest, "plan": graph }))?,
        Format::Table => {
            output::line(about(&manifest))?;
            match graph {
                Some(graph) => {
                    output::line("----------------------- Execution Plan -----------------------")?;
                    output::line(tree(graph))?;
                    output::line("--------------------------------------------------------------")?;
                }
                None => eprintln!("hint: add --job-classname NAME to see a job's execution plan"),
            }
        }
    }
    Ok(Exit::Done)
}

fn about(manifest: &ArtifactManifest) -> String {
    format!(
        "Library:   perennial {}\nTarget:    {}\nProtocols: {} to {}\nJobs:      {}",
        manifest.library_version,
        manifest.target,
        manifest.protocol.min,
        manifest.protocol.max,
        manifest.jobs.join(", ")
    )
}

/// The graph as text: each vertex with its operators and where its input comes from.
fn tree(graph: &JobGraph) -> String {
    let mut text = format!(
        "{}: {} tasks in {} vertices, {} slots, hash {:016x}",
        graph.name,
        graph.task_count(),
        graph.vertices.len(),
        graph.slots_needed(),
        graph.structural_hash
    );
    for (index, vertex) in graph.vertices.iter().enumerate() {
        text += &format!("\n[{index}] {} (parallelism {})", vertex.name, vertex.parallelism);
        if vertex.slot_sharing_group != perennial_types::DEFAULT_SLOT_SHARING_GROUP {
            text += &format!(", slot sharing group {}", vertex.slot_sharing_group);
        }
        for edge in graph.edges.iter().filter(|edge| edge.target == index) {
            text += &format!("\n    <- {} from [{}]", json!(edge.ship).as_str().unwrap_or_default(), edge.source);
        }
        if vertex.operators.len() > 1 {
            for operator in &vertex.operators {
                text += &format!("\n    - {} (uid {})", operator.name, operator.uid);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use perennial_types::{JobEdge, JobVertex, MaxParallelism, OperatorId, OperatorInfo, ShipStrategy};

    use super::*;

    #[test]
    fn the_plan_shows_vertices_operators_and_exchanges() {
        let vertex = |name: &str, operators: &[&str]| JobVertex {
            id: OperatorId::of_uid(name).into(),
            name: name.to_owned(),
            parallelism: 2,
            max_parallelism: MaxParallelism::default_for(2),
            max_parallelism_is_set: false,
            slot_sharing_group: "default".to_owned(),
            operators: operators
                .iter()
                .map(|uid| OperatorInfo {
                    id: OperatorId::of_uid(uid),
                    uid: (*uid).to_owned(),
                    name: (*uid).to_owned(),
                    state_version: 0,
                })
                .collect(),
        };
        let graph = JobGraph {
            name: "words".to_owned(),
            vertices: vec![vertex("Source: text", &["text"]), vertex("count -> Sink: print", &["count", "print"])],
            edges: vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Hash }],
            structural_hash: 0xab,
            config: BTreeMap::new(),
        };
        assert_eq!(
            tree(&graph),
            "words: 4 tasks in 2 vertices, 2 slots, hash 00000000000000ab\n\
             [0] Source: text (parallelism 2)\n\
             [1] count -> Sink: print (parallelism 2)\n\
            \x20   <- HASH from [0]\n\
            \x20   - count (uid count)\n\
            \x20   - print (uid print)"
        );
    }
}
