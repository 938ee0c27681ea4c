//! Connections: how long anything may take, and how a failure reads.

use tonic::Status;
use tonic::transport::Channel;

use crate::WireError;
use crate::grpc::endpoint;

/// An address that is no `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is not an address: expected host:port, such as jm-1:8081")]
pub struct AddressError {
    /// What was given.
    pub address: String,
}

/// A channel to `host:port` or `http://host:port` that connects when first used and again after a loss.
///
/// Must be called inside a tokio runtime. A connection attempt has a deadline; a silent peer is found by pings.
pub fn channel(address: &str) -> Result<Channel, AddressError> {
    let error = || AddressError { address: address.to_owned() };
    let authority = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(error)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(error());
    }
    Ok(endpoint(authority).map_err(|_| error())?.connect_lazy())
}

/// Why a call failed, with the deepest cause and without what every such text begins with.
pub fn explain(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, status as &dyn std::error::Error) {
        return status.message().to_owned();
    }
    let text = cause.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

/// The answer to a request that cannot be read.
pub(crate) fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_host_and_port() {
        for address in ["jm-1:8081", "127.0.0.1:1", "http://jm-1:8081", "http://jm-1:8081/", "[::1]:8081"] {
            assert!(channel(address).is_ok(), "{address}");
        }
        for address in ["", "jm-1", ":8081", "jm-1:port", "jm-1:99999", "jm 1:80"] {
            assert!(channel(address).is_err(), "{address}");
        }
    }
}
