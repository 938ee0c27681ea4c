//! `describe`: what this artifact is.

use std::io::Write;

use perennial_types::{ArtifactManifest, MANIFEST_MAGIC, ProtocolRange};

use super::RoleError;
use crate::JobRegistry;

/// Length of [`MANIFEST_MAGIC`].
const MAGIC_BYTES: usize = MANIFEST_MAGIC.len();

/// The bytes every artifact contains, here by value so that they are in the data of the executable.
#[used]
static MAGIC: [u8; MAGIC_BYTES] = match MANIFEST_MAGIC.first_chunk() {
    Some(magic) => *magic,
    None => unreachable!(),
};

/// Prints the manifest.
pub(super) fn describe(registry: &JobRegistry) -> Result<(), RoleError> {
    // Read in a way the compiler cannot look through, so that the linker keeps them.
    let protocol =
        if std::hint::black_box(&MAGIC).is_empty() { ProtocolRange { min: 0, max: 0 } } else { ProtocolRange::OURS };
    let manifest = ArtifactManifest {
        protocol,
        library_version: env!("CARGO_PKG_VERSION").to_owned(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        jobs: registry.job_names().map(str::to_owned).collect(),
    };
    let output = |source| RoleError::File { path: "standard output".into(), done: "written", source };
    let mut line = serde_json::to_vec(&manifest).map_err(|source| RoleError::Malformed {
        path: "the manifest".into(),
        what: "JSON",
        source,
    })?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).map_err(output)
}
