//! The one port for REST and clients: HTTP/1.1 for people and tools, HTTP/2 for gRPC, told apart by their first bytes.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use perennial_types::Configuration;
use perennial_types::config::options;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};

/// Time open requests have to end. Watches of jobs never do by themselves; their clients go on elsewhere.
const DRAIN: Duration = Duration::from_millis(200);

/// Takes the REST port.
pub(crate) async fn bind(config: &Configuration) -> Result<TcpListener, Failure> {
    let (host, port) = (config.get(&options::REST_BIND_ADDRESS), config.get(&options::REST_PORT));
    TcpListener::bind((host.as_str(), port)).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!(
                    "stop what listens there, or choose another port with -D rest.port={}; 0 takes a free one",
                    port.wrapping_add(1).max(1024)
                )
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege; choose one above with -D rest.port=8081".to_owned()
            }
            _ => "rest.bind-address has to be an address of this machine, such as 127.0.0.1 or 0.0.0.0".to_owned(),
        };
        let what = format!("cannot listen on {host}:{port} for REST (rest.bind-address, rest.port)");
        Failure::new(Exit::Failed, anyhow::Error::from(error).context(what)).hint(hint)
    })
}

/// Where clients reach a listener: `rest.address` when it is set, else what it listens on, a wildcard being this machine.
pub(crate) fn advertised(config: &Configuration, local: SocketAddr) -> String {
    match config.get(&options::REST_ADDRESS) {
        Some(host) => format!("{host}:{}", local.port()),
        None if local.ip().is_unspecified() => format!("127.0.0.1:{}", local.port()),
        None => local.to_string(),
    }
}

/// Serves until the token is cancelled and open requests have ended or had their time.
pub(crate) async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) -> std::io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Answers are small and somebody waits for them. A connection that is gone by now fails by itself.
        _ = connection.set_nodelay(true);
    });
    let asked = stop.clone();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move { asked.cancelled().await });
    tokio::select! {
        served = server.into_future() => served,
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}
