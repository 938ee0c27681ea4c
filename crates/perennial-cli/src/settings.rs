//! The configuration of this process, and the client it makes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use perennial_base::telemetry;
use perennial_client::Client;
use perennial_types::Configuration;
use perennial_types::config::Origin;
use perennial_types::config::load::Loader;
use perennial_types::config::options;

use crate::args::Global;
use crate::failure::{Exit, Failure};

/// Where the configuration file is when nobody says.
const DEFAULT_FILE: &str = "conf/config.yaml";

/// What clients log: only what a user has to know.
const CLIENT_LOG_LEVEL: &str = "warn";

/// Reads file, environment and flags. Warnings go to standard error.
pub(crate) fn load(global: &Global) -> Result<Configuration, Failure> {
    let mut loader = Loader::new();
    if let Some(path) = file(global) {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read configuration file {}", path.display()))
            .map_err(|error| Failure::from(error).hint("name another with --config FILE"))?;
        loader.file(&path.display().to_string(), &text);
    }
    // Options are text; a variable that is none cannot be one of ours.
    loader.environment(
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    );
    global.options.iter().for_each(|option| loader.flag(option));
    let loaded = loader.finish().map_err(|errors| {
        Failure::new(Exit::Usage, errors).hint("perennial config show --origin lists every option and its value")
    })?;
    loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    Ok(loaded.config)
}

fn file(global: &Global) -> Option<PathBuf> {
    match (&global.config, &global.config_dir) {
        (Some(file), _) => Some(file.clone()),
        (None, Some(dir)) => Some(dir.join("config.yaml")),
        (None, None) => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| Path::exists(path)),
    }
}

/// Sets up the log of a JobManager or TaskManager.
pub(crate) fn log(config: &Configuration) -> Result<(), Failure> {
    let format = config.get(&options::LOG_FORMAT).parse();
    let done = format.and_then(|format| telemetry::init(&config.get(&options::LOG_LEVEL), format));
    done.map_err(|error| Failure::new(Exit::Usage, error))
}

/// Sets up the log of a command that asks a cluster.
pub(crate) fn client_log(config: &Configuration) -> Result<(), Failure> {
    let level = if is_set(config, options::LOG_LEVEL.key) {
        config.get(&options::LOG_LEVEL)
    } else {
        CLIENT_LOG_LEVEL.to_owned()
    };
    telemetry::init(&level, telemetry::LogFormat::Text).map_err(|error| Failure::new(Exit::Usage, error))
}

/// Whether somebody has set this option.
fn is_set(config: &Configuration, key: &str) -> bool {
    config.effective().any(|(option, _, origin)| option.key == key && *origin != Origin::Default)
}

/// A client of the cluster that flags or configuration name. Must be called inside a tokio runtime.
pub(crate) fn client(global: &Global, config: &Configuration) -> Result<Client, Failure> {
    Ok(Client::new(&endpoints(global, config), config.get(&options::CLIENT_TIMEOUT))?)
}

/// `--endpoints`, else `client.endpoints`, else the JobManager that `rest.address` or `jobmanager.rpc.address` names, else this machine's.
fn endpoints(global: &Global, config: &Configuration) -> Vec<String> {
    let given: Vec<String> =
        global.endpoints.iter().map(|endpoint| endpoint.trim().to_owned()).filter(|it| !it.is_empty()).collect();
    if !given.is_empty() {
        return given;
    }
    let configured = config.get(&options::CLIENT_ENDPOINTS);
    if !configured.is_empty() {
        return configured;
    }
    let host = config.get(&options::REST_ADDRESS);
    // As in Flink, whose configuration names one JobManager once.
    let host = host.or_else(|| {
        is_set(config, options::JOBMANAGER_RPC_ADDRESS.key).then(|| config.get(&options::JOBMANAGER_RPC_ADDRESS))
    });
    let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
    vec![format!("{host}:{}", config.get(&options::REST_PORT))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_from_the_flag_then_the_configuration() {
        let mut global = Global { endpoints: Vec::new(), config: None, config_dir: None, options: Vec::new() };
        let mut config = Configuration::new();
        assert_eq!(endpoints(&global, &config), ["127.0.0.1:8081"]);
        let flag = |key: &str| Origin::Flag(key.to_owned());
        config.set("rest.port", "9", flag("rest.port")).unwrap();
        config.set("jobmanager.rpc.address", "jobmanager", flag("jobmanager.rpc.address")).unwrap();
        assert_eq!(endpoints(&global, &config), ["jobmanager:9"]);
        config.set("rest.address", "jm", flag("rest.address")).unwrap();
        assert_eq!(endpoints(&global, &config), ["jm:9"]);
        config.set("client.endpoints", "a:1,b:2", flag("client.endpoints")).unwrap();
        assert_eq!(endpoints(&global, &config), ["a:1", "b:2"]);
        global.endpoints = vec![" c:3".to_owned(), String::new()];
        assert_eq!(endpoints(&global, &config), ["c:3"]);
    }

    #[test]
    fn a_file_that_was_named_has_to_be_there() {
        let global = Global {
            endpoints: Vec::new(),
            config: Some("/no/such/file".into()),
            config_dir: None,
            options: Vec::new(),
        };
        let failure = load(&global).unwrap_err().to_string();
        assert!(failure.contains("cannot read configuration file /no/such/file: No such file"), "{failure}");
    }
}
