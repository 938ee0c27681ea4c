//! `perennial snapshot save|inspect|restore`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use perennial_client::{GroupGateway, SnapshotContent};
use perennial_meta::{MetaConfig, OpenError, SnapshotSummary};
use perennial_types::Configuration;
use perennial_types::config::{Origin, options};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_stream::StreamExt;

use crate::args::{Format, Global, SnapshotCommand};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

/// What is said wherever somebody might count on more.
const NOT_INSIDE: &str = "bytes of artifacts are not in it: keep the directory artifacts of a data directory beside it";

pub(crate) async fn run(command: SnapshotCommand, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    match command {
        SnapshotCommand::Save { file } => save(&file, global, config).await?,
        SnapshotCommand::Inspect { file, output } => inspect(&file, output.format)?,
        SnapshotCommand::Restore { file, data_dir, name, peers } => {
            restore(&file, data_dir, name, peers, config).await?;
        }
    }
    Ok(Exit::Done)
}

async fn save(file: &Path, global: &Global, config: &Configuration) -> Result<(), Failure> {
    let SnapshotContent { size, mut bytes } = settings::client(global, config)?.save_snapshot().await?;
    let beside = file.with_extension("writing");
    let written = async {
        let mut out = std::fs::File::create(&beside)?;
        let mut received = 0;
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            received += chunk.len() as u64;
            out.write_all(&chunk)?;
        }
        if received != size {
            return Err(std::io::Error::other(format!("{received} of its {size} bytes came")));
        }
        out.sync_all()
    };
    let written = written.await.with_context(|| format!("could not save the snapshot to {}", beside.display()));
    // What came is checked before it takes the place of an older file.
    let checked =
        written.map_err(Failure::from).and_then(|()| perennial_meta::inspect_snapshot(&beside).map_err(offline));
    let summary = match checked {
        Ok(summary) => summary,
        Err(failure) => {
            _ = std::fs::remove_file(&beside);
            return Err(failure);
        }
    };
    std::fs::rename(&beside, file).with_context(|| format!("could not rename {}", beside.display()))?;
    output::line(format_args!(
        "saved {} bytes as of log index {} (term {}) to {}\nsha256 {}\n{NOT_INSIDE}",
        summary.bytes,
        summary.index,
        summary.term,
        file.display(),
        sha256(file)?
    ))
}

fn inspect(file: &Path, format: Format) -> Result<(), Failure> {
    let summary = perennial_meta::inspect_snapshot(file).map_err(offline)?;
    let sha256 = sha256(file)?;
    match format {
        Format::Json => {
            let members = summary.members.iter().map(|member| {
                json!({ "id": member.id, "name": member.name, "address": member.address, "voter": member.voter })
            });
            let jobs: std::collections::BTreeMap<_, _> =
                summary.jobs.iter().map(|(status, count)| (status.as_str(), count)).collect();
            output::json(&json!({
                "index": summary.index,
                "term": summary.term,
                "cluster": summary.cluster,
                "members": members.collect::<Vec<_>>(),
                "jobs": jobs,
                "artifacts": summary.artifacts,
                "artifact-bytes": summary.artifact_bytes,
                "bytes": summary.bytes,
                "sha256": sha256,
            }))
        }
        Format::Table => output::line(format_args!("{}\nsha256     {sha256}\n{NOT_INSIDE}", text(&summary))),
    }
}

fn text(summary: &SnapshotSummary) -> String {
    let members: Vec<String> = summary.members.iter().map(member).collect();
    let jobs: Vec<String> = summary.jobs.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let jobs = if jobs.is_empty() { "none".to_owned() } else { jobs.join(", ") };
    format!(
        "index      {}\nterm       {}\ncluster    {}\nmembers    {}\njobs       {jobs}\nartifacts  {} ({} bytes)\nsize       {} \
         bytes",
        summary.index,
        summary.term,
        summary.cluster.map_or_else(|| "none".to_owned(), |cluster| cluster.to_string()),
        members.join(", "),
        summary.artifacts,
        summary.artifact_bytes,
        summary.bytes
    )
}

/// A member in a line of text.
pub(crate) fn member(member: &perennial_meta::FiledMember) -> String {
    let vote = if member.voter { "" } else { ", learner" };
    format!("{} ({}) {}{vote}", member.name, member.id.0, member.address)
}

async fn restore(
    file: &Path,
    data_dir: PathBuf,
    name: String,
    peers: Option<String>,
    config: &Configuration,
) -> Result<(), Failure> {
    let mut config = config.clone();
    let usage = |error: perennial_types::config::SetError| Failure::new(Exit::Usage, error);
    let data_dir = std::path::absolute(data_dir).map_err(anyhow::Error::from)?;
    let peers = peers.unwrap_or_default();
    for (option, value) in [
        (options::JOBMANAGER_DATA_DIR.key, data_dir.display().to_string()),
        (options::JOBMANAGER_RESOURCE_ID.key, name),
        (options::JOBMANAGER_RAFT_PEERS.key, peers.clone()),
        (options::JOBMANAGER_RAFT_JOIN.key, "false".to_owned()),
    ] {
        config.set(option, &value, Origin::Flag(option.to_owned())).map_err(usage)?;
    }
    let port = config.get(&options::JOBMANAGER_RPC_PORT);
    let meta = MetaConfig::from_configuration(&config, port).map_err(|error| Failure::new(Exit::Usage, error))?;
    let restored = perennial_meta::restore_snapshot(file, &meta).await.map_err(offline)?;
    let members: Vec<String> = restored.members.iter().map(member).collect();
    let mut start = format!(
        "perennial jobmanager -D jobmanager.data-dir={} -D jobmanager.resource-id={}",
        data_dir.display(),
        meta.name
    );
    if !peers.is_empty() {
        start += &format!(" -D jobmanager.raft.peers={peers}");
    }
    output::line(format_args!(
        "restored log index {} of cluster {} to {}\nnew cluster {}, members {}\nbytes of artifacts are not restored: copy the \
         directory artifacts of an old data directory to {}\nstart it: {start}",
        restored.snapshot.index,
        restored.snapshot.cluster.map_or_else(|| "none".to_owned(), |cluster| cluster.to_string()),
        data_dir.display(),
        restored.cluster,
        members.join(", "),
        data_dir.join("artifacts").display()
    ))
}

fn sha256(file: &Path) -> Result<String, Failure> {
    let read = || -> std::io::Result<String> {
        let (mut input, mut hasher) = (std::fs::File::open(file)?, Sha256::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = input.read(&mut buffer)?;
            let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
            hasher.update(chunk);
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    Ok(read().with_context(|| format!("could not read {}", file.display()))?)
}

/// How an error about files ends a command.
pub(crate) fn offline(error: OpenError) -> Failure {
    let exit = match &error {
        OpenError::Refused(_) | OpenError::InUse { .. } => Exit::Refused,
        OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}
