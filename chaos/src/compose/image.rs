//! The image under test, made from a binary and from Debian's packages: no registry is asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::engine::{docker, output_of};

/// An image with a base of its own. Dropped, it removes both.
pub(crate) struct Image {
    name: String,
    base: String,
}

impl Image {
    /// Builds it as `deploy/README.md` says. The binary goes in without its symbols.
    pub(crate) fn build(binary: &Path, scratch: &Path) -> Result<Self> {
        let tag = std::process::id();
        let image = Self { name: format!("perennial-chaos:{tag}"), base: format!("perennial-chaos-base:{tag}") };
        let context = scratch.join("image");
        output_of(Command::new("cp").arg("-r").arg(deploy().join("docker")).arg(&context))?;
        output_of(Command::new("strip").arg("-o").arg(context.join("perennial")).arg(binary))?;
        output_of(Command::new(context.join("base.sh")).arg(&image.base))?;
        let base = format!("BASE={}", image.base);
        let context = context.display().to_string();
        docker(["build", "--force-rm", "--build-arg", &base, "--tag", &image.name, &context])?;
        Ok(image)
    }

    /// As compose files name it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Size of all its layers in bytes.
    pub(crate) fn bytes(&self) -> Result<u64> {
        let bytes = docker(["image", "inspect", "--format", "{{.Size}}", &self.name])?;
        bytes.parse().with_context(|| bytes.clone())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let stage = "label=perennial.stage=rootfs";
        let removals = [
            docker(["image", "rm", "--force", &self.name, &self.base]),
            docker(["image", "prune", "--force", "--filter", stage]),
        ];
        for error in removals.into_iter().filter_map(Result::err) {
            eprintln!("cannot remove {}: {error:#}", self.name);
        }
    }
}

/// The directory `deploy` of this clone.
pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}
