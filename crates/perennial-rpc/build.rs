//! Compiles `proto/` without an installed protoc.

use std::path::{Path, PathBuf};

/// What is left without the feature `grpc`: the executor's socket, and the messages that travel over it.
const LINKED_BY_JOBS: [&str; 3] = ["common", "taskmanager", "executor"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs: a build directory that was copied from another checkout must not read that one's files.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let root = Path::new(&package).join("../../proto");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("perennial"))?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    files.retain(|path| {
        grpc || path.file_stem().is_some_and(|name| LINKED_BY_JOBS.iter().any(|linked| name == *linked))
    });
    files.sort();
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
