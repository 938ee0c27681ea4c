//! `perennial savepoint`: what is in a savepoint, and whether a job can start from it.

use std::collections::BTreeMap;

use perennial_client::Prepared;
use perennial_coordination::checkpoint::{OperatorFit, adapt, compare};
use perennial_state::{EncodedMetadata, METADATA_FILE, MetadataError, StateHeader, check_files, read_metadata};
use perennial_types::config::options;
use perennial_types::{CheckpointMetadata, Configuration, OperatorId, SnapshotKind};
use serde::Serialize;

use super::run::{location, request};
use crate::args::{Format, Global, JobChoice, SavepointCommand};
use crate::failure::{Exit, Failure};
use crate::output;

pub(crate) async fn run(command: SavepointCommand, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    match command {
        SavepointCommand::Inspect { path, output } => inspect(&path, output.format),
        SavepointCommand::Check { path, allow_non_restored, choice, output } => {
            check(&path, allow_non_restored, &choice, output.format, global, config).await
        }
    }
}

/// A state of an operator.
#[derive(Debug, Default, Serialize)]
struct Shown {
    uid: String,
    parallelism: u32,
    max_parallelism: u32,
    /// Its name; empty of list state.
    state: String,
    /// Version of the schema of keyed state.
    version: Option<u32>,
    /// Keys, or elements of a list: splits, transactions.
    entries: u64,
    bytes: u64,
    /// Type of keys and values, as their writer named them.
    types: String,
}

/// The metadata at a place, all of whose files are there.
fn read(path: &str) -> Result<(String, CheckpointMetadata, Vec<StateHeader>), Failure> {
    let place = location(path.strip_suffix(&format!("/{METADATA_FILE}")).unwrap_or(path))?;
    let read = read_metadata(&place).and_then(|EncodedMetadata { metadata, .. }| {
        let states = check_files(&place, &metadata)?;
        Ok((metadata, states))
    });
    match read {
        Ok((metadata, states)) => Ok((place, metadata, states)),
        Err(error @ MetadataError::Missing { .. }) => {
            Err(Failure::new(Exit::NotFound, error).hint("name the directory that holds the file _metadata"))
        }
        Err(error) => Err(Failure::new(Exit::Refused, error)),
    }
}

fn inspect(path: &str, format: Format) -> Result<Exit, Failure> {
    let (place, metadata, states) = read(path)?;
    let shown = shown(&metadata, &states);
    let kind = match metadata.kind {
        SnapshotKind::Checkpoint => "checkpoint",
        SnapshotKind::Savepoint => "savepoint",
        SnapshotKind::Suspend { .. } => "savepoint of a job that was stopped",
    };
    if format == Format::Json {
        output::json(&serde_json::json!({
            "location": place, "kind": kind, "job": metadata.job, "checkpoint": metadata.checkpoint.0,
            "at-ms": metadata.at_ms, "states": shown,
        }))?;
        return Ok(Exit::Done);
    }
    output::line(format_args!("Location:   {place}\nKind:       {kind}\nJob:        {}", metadata.job))?;
    output::line(format_args!(
        "Checkpoint: {}\nTaken:      {} UTC\n",
        metadata.checkpoint,
        output::date(metadata.at_ms)
    ))?;
    let rows = shown.iter().map(|state| {
        [
            state.uid.clone(),
            state.parallelism.to_string(),
            state.max_parallelism.to_string(),
            state.state.clone(),
            state.version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
            output::thousands(state.entries),
            output::thousands(state.bytes),
            state.types.clone(),
        ]
    });
    let header = ["UID", "PARALLELISM", "MAX", "STATE", "VERSION", "ENTRIES", "BYTES", "TYPES"];
    output::line(output::table(header, rows))?;
    Ok(Exit::Done)
}

/// Every state of every operator, in the order of the vertices; of one operator the lists come first.
fn shown(metadata: &CheckpointMetadata, states: &[StateHeader]) -> Vec<Shown> {
    let mut all = Vec::new();
    for vertex in &metadata.vertices {
        let mut of_vertex: BTreeMap<(OperatorId, String), Shown> = BTreeMap::new();
        for operator in vertex.subtasks.iter().flat_map(|subtask| &subtask.operators) {
            let keyed = states.iter().filter(|state| state.operator == operator.operator);
            for state in keyed {
                let of = of_vertex.entry((operator.operator, state.name.clone())).or_default();
                of.version = Some(state.version);
                of.types = format!("{} -> {}", state.key_type, state.value_type);
            }
            if !operator.list.is_empty() {
                let of = of_vertex.entry((operator.operator, String::new())).or_default();
                of.entries += operator.list.len() as u64;
                of.bytes += operator.list.iter().map(|element| element.len() as u64).sum::<u64>();
                "list".clone_into(&mut of.types);
            }
        }
        for ((operator, name), mut of) in of_vertex {
            for state in states.iter().filter(|state| state.operator == operator && state.name == name) {
                of.entries += state.entries;
                of.bytes += state.bytes;
            }
            let info = vertex.operators.iter().find(|info| info.id == operator);
            of.uid = info.map_or_else(|| operator.to_string(), |info| info.uid.clone());
            (of.parallelism, of.max_parallelism) = (vertex.subtasks.len() as u32, vertex.max_parallelism);
            of.state = name;
            all.push(of);
        }
    }
    all
}

async fn check(
    path: &str,
    allow_non_restored: bool,
    choice: &JobChoice,
    format: Format,
    global: &Global,
    config: &Configuration,
) -> Result<Exit, Failure> {
    let (_, metadata, _) = read(path)?;
    let limit = config.get(&options::JOBMANAGER_PLAN_TIMEOUT);
    let prepared = Prepared::new(&choice.artifact, request(choice, &global.options), limit).await?;
    let mut graph = prepared.plan.graph;
    let fits = compare(&metadata, &graph);
    let adapted = adapt(&metadata, &mut graph, allow_non_restored);
    let lines: Vec<[String; 4]> = fits.iter().map(fate).collect();
    match format {
        Format::Json => {
            let operators: Vec<_> = lines
                .iter()
                .map(|[uid, taken, wanted, fate]| {
                    serde_json::json!({ "uid": uid, "taken": taken, "now": wanted, "state": fate })
                })
                .collect();
            let refused = adapted.as_ref().err().map(ToString::to_string);
            output::json(&serde_json::json!({ "operators": operators, "refused": refused }))?;
        }
        Format::Table => output::line(output::table(["UID", "TAKEN AT", "NOW AT", "STATE"], lines))?,
    }
    match adapted {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(Exit::Refused, anyhow::anyhow!("the job cannot start from it: {error}"))),
    }
}

/// What becomes of the state of an operator, for people.
fn fate(fit: &OperatorFit) -> [String; 4] {
    let count = |count: Option<u32>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let fate = match (fit.taken, fit.wanted) {
        (Some(taken), Some(wanted)) if taken == wanted => "restored",
        (Some(_), Some(_)) => "restored and spread anew",
        (None, _) => "starts anew",
        (Some(_), None) => "the job has no such operator",
    };
    [fit.uid.clone(), count(fit.taken), count(fit.wanted), fate.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_has_its_fate() {
        let fate = |taken, wanted| {
            let uid = "x".to_owned();
            fate(&OperatorFit { operator: OperatorId::of_uid("x"), uid, taken, wanted }).join(" ")
        };
        assert_eq!(fate(Some(2), Some(2)), "x 2 2 restored");
        assert_eq!(fate(Some(2), Some(3)), "x 2 3 restored and spread anew");
        assert_eq!(fate(None, Some(3)), "x - 3 starts anew");
        assert_eq!(fate(Some(2), None), "x 2 - the job has no such operator");
    }
}
