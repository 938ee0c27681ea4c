//! What an artifact says of itself, and what it is asked to plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the contract between an artifact and a cluster: manifest, plan, JobGraph, executor control.
pub const ARTIFACT_PROTOCOL: u32 = 1;

/// Bytes that every artifact contains, so that a file can be refused without being run.
pub const MANIFEST_MAGIC: &[u8] = b"\x00perennial-artifact/1\x00";

/// Protocol versions something speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// Oldest.
    pub min: u32,
    /// Newest.
    pub max: u32,
}

impl ProtocolRange {
    /// What this build speaks.
    pub const OURS: ProtocolRange = ProtocolRange { min: ARTIFACT_PROTOCOL, max: ARTIFACT_PROTOCOL };

    /// Whether two ranges have a version in common.
    pub fn overlaps(self, other: ProtocolRange) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// Answer of an artifact in its role `describe`: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactManifest {
    /// Versions of the artifact protocol it speaks.
    pub protocol: ProtocolRange,
    /// Version of the library `perennial` it was built with.
    pub library_version: String,
    /// Architecture and operating system, such as `x86_64-linux`.
    pub target: String,
    /// Names of the jobs it registers, in order of registration.
    pub jobs: Vec<String>,
}

/// What a JobGraph is made from besides the artifact's code. The same request gives the same graph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Which job of the artifact (`--job-classname`); `None` is the only one registered.
    pub job: Option<String>,
    /// The program's own arguments, after `--`.
    #[serde(default)]
    pub args: Vec<String>,
    /// Options given at submission, under Flink's keys; `parallelism.default` is the `-p` of the command line.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}
