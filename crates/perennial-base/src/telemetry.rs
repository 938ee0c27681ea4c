//! Log output of a process: to standard error, as text or JSON.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people. Coloured on a terminal unless `NO_COLOR` is set.
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = InitError;

    fn from_str(text: &str) -> Result<Self, InitError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InitError::Format { format: text.to_owned() }),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The level is neither a level nor a filter.
    #[error(
        "`{level}` is not a log level: expected `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,perennial_meta=debug` (log.level)"
    )]
    Level {
        /// What was given.
        level: String,
    },
    /// The format is not known.
    #[error("`{format}` is not a log format: expected `text` or `json` (log.format)")]
    Format {
        /// What was given.
        format: String,
    },
    /// It was set up before.
    #[error("logging is set up already")]
    Repeated,
}

/// What is not logged unless the filter names it: libraries that warn at every lost heartbeat, of which our own lines tell
/// once and in our words.
const QUIET: &str = "openraft=off";

/// Sets up logging for this process, once. `level` is a level or a filter such as `info,perennial_meta=debug`.
///
/// The consensus library stays silent unless the filter says otherwise, such as `info,openraft=info`.
pub fn init(level: &str, format: LogFormat) -> Result<(), InitError> {
    let refused = |_| InitError::Level { level: level.to_owned() };
    EnvFilter::builder().parse(level).map_err(refused)?;
    // A later directive for the same target replaces an earlier one.
    let filter = EnvFilter::builder().parse(format!("{QUIET},{level}")).map_err(refused)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
            builder.with_ansi(colour).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| InitError::Repeated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_levels_and_formats_are_named() {
        let error = init("perennial=loud", LogFormat::Text).unwrap_err().to_string();
        assert!(error.contains("`perennial=loud` is not a log level"), "{error}");
        let error = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert_eq!(error, "`xml` is not a log format: expected `text` or `json` (log.format)");
    }
}
