//! Whether bytes are a job artifact for this cluster, told from the bytes alone: nothing is run.

use perennial_rpc::artifact::PutArtifactError;
use perennial_types::MANIFEST_MAGIC;

/// Bytes of an ELF header up to the field that names the machine.
const ELF_HEADER_BYTES: usize = 20;

/// Looks at an artifact as it arrives, in chunks of any size.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    header: Vec<u8>,
    /// End of what came before, in which the magic bytes may begin.
    tail: Vec<u8>,
    has_magic: bool,
}

impl Inspection {
    /// Looks at the next bytes.
    pub(crate) fn add(&mut self, chunk: &[u8]) {
        let missing = ELF_HEADER_BYTES.saturating_sub(self.header.len());
        self.header.extend(chunk.iter().take(missing));
        if self.has_magic {
            return;
        }
        let overlap = MANIFEST_MAGIC.len() - 1;
        self.tail.extend(chunk.iter().take(overlap));
        self.has_magic = contains(&self.tail, MANIFEST_MAGIC) || contains(chunk, MANIFEST_MAGIC);
        if chunk.len() >= overlap {
            self.tail.clear();
            self.tail.extend(chunk.iter().skip(chunk.len() - overlap));
        } else {
            let surplus = self.tail.len().saturating_sub(overlap);
            self.tail.drain(..surplus);
        }
    }

    /// What the bytes were, all of them seen.
    pub(crate) fn judge(&self) -> Result<(), PutArtifactError> {
        let not_an_artifact = |reason: &str| PutArtifactError::NotAnArtifact { reason: reason.to_owned() };
        let Some(target) = target(&self.header) else {
            return Err(not_an_artifact("it is not an executable for Linux"));
        };
        if !self.has_magic {
            return Err(not_an_artifact(
                "it is an executable, but does not register a job with the library `perennial`",
            ));
        }
        let cluster = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        if target == cluster { Ok(()) } else { Err(PutArtifactError::WrongTarget { artifact: target, cluster }) }
    }
}

/// What an ELF executable was built for; `None` when it is none.
fn target(header: &[u8]) -> Option<String> {
    let [0x7f, b'E', b'L', b'F', class, order, ..] = *header else { return None };
    let machine: [u8; 2] = header.get(18..20)?.try_into().ok()?;
    let machine = if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let arch = match (machine, class) {
        (62, 2) => "x86_64".to_owned(),
        (183, 2) => "aarch64".to_owned(),
        (243, 2) => "riscv64".to_owned(),
        (3, _) => "x86".to_owned(),
        (40, _) => "arm".to_owned(),
        (other, _) => format!("machine {other}"),
    };
    Some(format!("{arch}-linux"))
}

/// Whether `haystack` contains `needle`, by Horspool's rule: an artifact has tens of megabytes.
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let mut shift = [needle.len(); 256];
    for (position, byte) in needle.iter().enumerate().take(needle.len().saturating_sub(1)) {
        if let Some(shift) = shift.get_mut(usize::from(*byte)) {
            *shift = needle.len() - 1 - position;
        }
    }
    let mut at = 0;
    while let Some(window) = haystack.get(at..at + needle.len()) {
        if window == needle {
            return true;
        }
        let last = window.last().map_or(0, |byte| usize::from(*byte));
        at += shift.get(last).copied().unwrap_or(1);
    }
    false
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Something that passes for an artifact of this machine, of at least `size` bytes.
    pub(crate) fn artifact_bytes(size: usize) -> Vec<u8> {
        let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes.extend(MANIFEST_MAGIC);
        bytes.resize(size.max(bytes.len()), 7);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::artifact_bytes;
    use super::*;

    fn judge(bytes: &[u8], chunk: usize) -> Result<(), PutArtifactError> {
        let mut inspection = Inspection::default();
        bytes.chunks(chunk).for_each(|chunk| inspection.add(chunk));
        inspection.judge()
    }

    #[test]
    fn other_files_are_refused_with_what_they_are() {
        let text = |bytes: &[u8]| judge(bytes, 64).unwrap_err().to_string();
        assert_eq!(text(b""), "not a job artifact: it is not an executable for Linux");
        assert_eq!(text(b"#!/bin/sh\n"), "not a job artifact: it is not an executable for Linux");
        let mut no_job = artifact_bytes(200);
        no_job[20] = b'x';
        assert_eq!(
            text(&no_job),
            "not a job artifact: it is an executable, but does not register a job with the library `perennial`"
        );
        let mut elsewhere = artifact_bytes(200);
        elsewhere[18..20].copy_from_slice(&243u16.to_le_bytes());
        assert!(
            text(&elsewhere).starts_with("built for riscv64-linux, but the cluster runs on "),
            "{}",
            text(&elsewhere)
        );
    }

    proptest! {
        /// The magic bytes are found wherever they are and however the bytes were cut.
        #[test]
        fn magic_bytes_are_found_across_chunks(before in 0usize..300, after in 0usize..100, chunk in 1usize..64) {
            let mut bytes = artifact_bytes(0);
            let magic = bytes.split_off(ELF_HEADER_BYTES);
            bytes.extend(std::iter::repeat_n(b'/', before));
            bytes.extend(&magic);
            bytes.extend(std::iter::repeat_n(0, after));
            prop_assert!(judge(&bytes, chunk).is_ok());
            bytes[ELF_HEADER_BYTES + before + 3] ^= 1;
            prop_assert!(judge(&bytes, chunk).is_err());
        }
    }
}
