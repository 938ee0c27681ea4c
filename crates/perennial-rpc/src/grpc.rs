//! What every gRPC conversation shares: how peers are dialled and how failures are told.

use std::error::Error;
use std::time::Duration;

use tonic::transport::Endpoint;

/// Time a peer has to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Silence of a connection after which a ping is sent, and time the answer has.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Largest message in bytes, both ways: a registration with 10,000 executions is below 4 MiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How a peer at `host:port` is dialled: without delay for small messages, and noticing when the peer vanishes.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// An error with all its causes, the outermost first: `transport error: tcp connect error: connection refused`.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
