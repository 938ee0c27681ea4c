//! How a process that joins a group finds its place in it: it asks the JobManagers it knows until it was added.

use std::time::Duration;

use perennial_rpc::group::{GroupClient, GroupError, GroupGateway, Place};
use perennial_rpc::transport::channel;

use crate::config::{MetaConfig, peer_list};
use crate::error::OpenError;

/// Pause between two rounds of asking.
const PAUSE: Duration = Duration::from_secs(1);

/// What came of one round.
enum Round {
    Found(Place),
    NotAdded,
    Nobody(String),
}

/// Asks until the group has a place for this name. Waits for as long as it takes, and says in the log for what.
///
/// Fails when the group says that it will never have one.
pub(crate) async fn find_place(config: &MetaConfig) -> Result<Place, OpenError> {
    let (name, address) = (&config.name, &config.address);
    let mut told = String::new();
    loop {
        let waiting = match ask_all(config).await? {
            Round::Found(place) => {
                tracing::info!(name, id = %place.id, cluster = %place.cluster, "found the place in the group");
                return Ok(place);
            }
            Round::NotAdded => {
                format!("the group has no member {name} yet; add it: perennial member add {name}={address}")
            }
            Round::Nobody(reasons) => format!(
                "nobody of the group {} answers: {reasons}; trying again every second",
                peer_list(&config.peers)
            ),
        };
        if waiting != told {
            tracing::warn!("{waiting}");
            told = waiting;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_all(config: &MetaConfig) -> Result<Round, OpenError> {
    let mut reasons = Vec::new();
    let mut answered = false;
    for peer in config.peers.iter().filter(|peer| peer.name != config.name) {
        let channel = match channel(&peer.address) {
            Ok(channel) => channel,
            Err(error) => {
                reasons.push(error.to_string());
                continue;
            }
        };
        match GroupClient::new(channel, &peer.address).find_place(config.name.clone()).await {
            Ok(Some(place)) => return Ok(Round::Found(place)),
            Ok(None) => answered = true,
            Err(GroupError::Refused(reason)) => return Err(OpenError::Refused(reason)),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Ok(if answered { Round::NotAdded } else { Round::Nobody(reasons.join("; ")) })
}
