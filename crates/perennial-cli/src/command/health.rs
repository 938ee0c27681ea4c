//! `perennial health`: does the JobManager of this machine serve?

use anyhow::Context;
use perennial_client::{Client, ClusterStatus, Unavailable};
use perennial_types::Configuration;
use perennial_types::config::options;

use crate::failure::{Exit, Failure};
use crate::output;

pub(crate) async fn run(config: &Configuration) -> Result<Exit, Failure> {
    let client = Client::new(&[local_rest(config)], config.get(&options::CLIENT_TIMEOUT))?;
    let (_, answer) = client.survey().await.pop().context("one endpoint has one answer")?;
    let (exit, text) = verdict(answer)?;
    output::line(text)?;
    Ok(exit)
}

fn verdict(answer: Result<ClusterStatus, Unavailable>) -> Result<(Exit, String), Unavailable> {
    let status = answer?;
    Ok(match status.leader {
        Some(leader) => (Exit::Done, format!("healthy: {} serves, {leader} leads", status.from)),
        None => (Exit::Degraded, format!("degraded: {} knows no leader", status.from)),
    })
}

/// The REST port as it is reached from here, whatever clients elsewhere are told.
fn local_rest(config: &Configuration) -> String {
    let host = match config.get(&options::REST_BIND_ADDRESS).as_str() {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" | "[::]" => "[::1]".to_owned(),
        host => host.to_owned(),
    };
    format!("{host}:{}", config.get(&options::REST_PORT))
}

#[cfg(test)]
mod tests {
    use perennial_types::config::Origin;

    use super::*;

    #[test]
    fn this_machine_is_asked_and_not_the_advertised_address() {
        let mut config = Configuration::new();
        config.set("rest.address", "elsewhere", Origin::Flag(String::new())).unwrap();
        assert_eq!(local_rest(&config), "127.0.0.1:8081");
        config.set("rest.bind-address", "10.0.0.7", Origin::Flag(String::new())).unwrap();
        config.set("rest.port", "9", Origin::Flag(String::new())).unwrap();
        assert_eq!(local_rest(&config), "10.0.0.7:9");
    }
}
