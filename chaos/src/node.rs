//! One member of a metadata group as a process of its own.
//!
//! It answers lines on a TCP port, one at a time for each connection:
//!
//! | Line | Answer |
//! | --- | --- |
//! | `write N` | `ok` when the store has acknowledged record N, `no REASON` when it was not written, `unknown REASON` |
//! | `read N` | linearizable: `yes`, `absent`, or `no REASON` when it cannot be told here |
//! | `dump` | `have` and what this member has applied, as ranges such as `1-7 9-9` |
//! | `state` | epoch, and whether this member serves: `3 serving` or `3 following` |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use perennial_meta::{Command, MetaConfig, MetaStore, Peer, ReadError, WriteError};
use perennial_types::{ArtifactDigest, JobManagerId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Entries between snapshots, and entries kept behind one: small, so that a run has many of both.
const SNAPSHOT_ENTRIES: u64 = 2000;
const LOG_ENTRIES_KEPT: u64 = 10_000;

#[derive(Args)]
pub(crate) struct Options {
    /// Directory of the member.
    #[arg(long)]
    dir: PathBuf,
    /// Which of the peers it is, from 1.
    #[arg(long)]
    id: u64,
    /// RPC addresses of all members, in order.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<SocketAddr>,
    /// Where it takes lines.
    #[arg(long)]
    listen: SocketAddr,
}

pub(crate) fn run(options: Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<ExitCode> {
    let peer = |(id, address): (u64, &SocketAddr)| Peer {
        id: JobManagerId(id),
        name: format!("member-{id}"),
        address: address.to_string(),
    };
    let peers: Vec<Peer> = (1..).zip(&options.peers).map(peer).collect();
    let this = peers.iter().find(|peer| peer.id.0 == options.id).context("--id is none of --peers")?;
    let (name, address) = (this.name.clone(), this.address.clone());
    let config = MetaConfig {
        data_dir: options.dir,
        name,
        address: address.clone(),
        peers,
        join: false,
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        snapshot_entries: SNAPSHOT_ENTRIES,
        log_entries_kept: LOG_ENTRIES_KEPT,
    };
    let rpc = TcpListener::bind(&address).await.with_context(|| format!("cannot listen on {address}"))?;
    let lines =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    let store = MetaStore::open(config).await?;
    let incoming = TcpIncoming::from(rpc).with_nodelay(Some(true));
    let peers = Server::builder().add_service(store.raft_service()).serve_with_incoming(incoming);
    tokio::select! {
        reason = store.fatal() => bail!("{reason}"),
        ended = peers => bail!("the RPC server ended: {ended:?}"),
        failed = accept(&lines, &store) => bail!("the listener failed: {failed}"),
    }
}

async fn accept(lines: &TcpListener, store: &MetaStore) -> std::io::Error {
    loop {
        match lines.accept().await {
            Ok((stream, _)) => {
                let store = store.clone();
                // A connection that breaks is the client's matter.
                tokio::spawn(async move { _ = answer(stream, &store).await });
            }
            Err(error) => return error,
        }
    }
}

async fn answer(mut stream: TcpStream, store: &MetaStore) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let mut answer = match line.split_once(' ').map(|(verb, number)| (verb, number.parse())) {
            Some(("write", Ok(number))) => write(store, number).await,
            Some(("read", Ok(number))) => read(store, number).await,
            _ if line == "dump" => dump(store).unwrap_or_else(|error| format!("no {error}")),
            _ if line == "state" => {
                let view = store.leadership().borrow().clone();
                format!("{} {}", view.epoch.0, if view.serving.is_some() { "serving" } else { "following" })
            }
            _ => "no such command".to_owned(),
        };
        answer.push('\n');
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn write(store: &MetaStore, number: u64) -> String {
    let command =
        Command::AddArtifact { digest: digest(number), name: String::new(), size: number, holders: Vec::new() };
    match store.write(command).await {
        Ok(_) => "ok".to_owned(),
        Err(error @ (WriteError::NotLeader { .. } | WriteError::TooLarge { .. })) => format!("no {error}"),
        Err(error) => format!("unknown {error}"),
    }
}

async fn read(store: &MetaStore, number: u64) -> String {
    match store.read_barrier().await {
        Ok(()) => match store.state().artifact(digest(number)) {
            Ok(found) => found.map_or("absent", |_| "yes").to_owned(),
            Err(error) => format!("no {error}"),
        },
        Err(error) => format!("no {error}"),
    }
}

fn dump(store: &MetaStore) -> Result<String, ReadError> {
    let mut text = "have".to_owned();
    let mut open: Option<(u64, u64)> = None;
    let mut close = |range: Option<(u64, u64)>| {
        if let Some((from, to)) = range {
            text.push_str(&format!(" {from}-{to}"));
        }
    };
    // Ascending by digest, which begins with the number.
    for record in store.state().artifacts()? {
        open = match open {
            Some((from, to)) if to + 1 == record.size => Some((from, record.size)),
            before => {
                close(before);
                Some((record.size, record.size))
            }
        };
    }
    close(open);
    Ok(text)
}

/// The key of a record: its number, then zeros.
fn digest(number: u64) -> ArtifactDigest {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(number.to_be_bytes()) {
        *to = from;
    }
    ArtifactDigest::from_bytes(bytes)
}
