//! `perennial version`.

use perennial_types::ProtocolRange;
use serde_json::json;

use crate::args::Format;
use crate::failure::Failure;
use crate::output;

pub(crate) fn show(format: Format) -> Result<(), Failure> {
    let (version, target) = (env!("CARGO_PKG_VERSION"), format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
    let ProtocolRange { min, max } = ProtocolRange::OURS;
    match format {
        Format::Json => output::json(
            &json!({ "version": version, "target": target, "artifact-protocol": { "min": min, "max": max } }),
        ),
        Format::Table => {
            output::line(format_args!("Version: {version}, target {target}, artifact protocols {min} to {max}"))
        }
    }
}
