//! What a service manager such as systemd is told: that the process is ready, that it lives, that it stops.
//!
//! The protocol is `sd_notify`'s: datagrams of `KEY=value` to the socket that `NOTIFY_SOCKET` names. Without that variable nothing
//! is told to anybody.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

/// Tells the service manager. As long as it exists, it says at the interval it was given that the process lives.
pub(crate) struct Service {
    socket: Option<Arc<Socket>>,
    _watchdog: Option<AbortOnDropHandle<()>>,
}

struct Socket {
    own: UnixDatagram,
    manager: SocketAddr,
}

impl Service {
    /// The manager that has started this process, if one has. Must be called inside the runtime whose life is meant.
    pub(crate) fn of_this_process() -> anyhow::Result<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let variable = |name: &str| std::env::var(name).ok();
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let limit = variable("WATCHDOG_USEC").and_then(|us| us.parse().ok()).filter(|us| meant && *us > 0);
        Self::new(socket.as_deref(), limit.map(Duration::from_micros))
    }

    fn new(socket: Option<&OsStr>, watchdog: Option<Duration>) -> anyhow::Result<Self> {
        let Some(name) = socket else { return Ok(Self { socket: None, _watchdog: None }) };
        let manager = match name.as_bytes().strip_prefix(b"@") {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
            None => SocketAddr::from_pathname(name),
        };
        let manager = manager.with_context(|| format!("NOTIFY_SOCKET={} is no socket", name.display()))?;
        let own = UnixDatagram::unbound().context("cannot tell the service manager anything")?;
        own.set_nonblocking(true)?;
        let socket = Arc::new(Socket { own, manager });
        let watchdog =
            watchdog.map(|limit| AbortOnDropHandle::new(tokio::spawn(say_alive(Arc::clone(&socket), limit))));
        Ok(Self { socket: Some(socket), _watchdog: watchdog })
    }

    /// The process does its work.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The process was told to stop.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            socket.tell(state);
        }
    }
}

impl Socket {
    /// A manager that does not listen is no reason to stop.
    fn tell(&self, state: &str) {
        if let Err(error) = self.own.send_to_addr(state.as_bytes(), &self.manager) {
            warn!(%error, state, "the service manager was not told");
        }
    }
}

/// Twice within the limit, so that one that comes late is no death.
async fn say_alive(socket: Arc<Socket>, limit: Duration) {
    let mut ticks = tokio::time::interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        socket.tell("WATCHDOG=1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_manager_hears_that_the_process_is_ready_lives_and_stops() {
        let name = format!("perennial-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let manager = tokio::net::UnixDatagram::from_std(manager).unwrap();
        let named = format!("@{name}");
        let service = Service::new(Some(OsStr::new(&named)), Some(Duration::from_millis(20))).unwrap();
        service.ready();
        let hear = async || {
            let mut bytes = [0; 64];
            let length = manager.recv(&mut bytes).await.unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        assert_eq!(hear().await, "READY=1");
        for _ in 0..3 {
            assert_eq!(hear().await, "WATCHDOG=1");
        }
        service.stopping();
        while hear().await != "STOPPING=1" {}
    }

    #[tokio::test]
    async fn without_a_manager_nobody_is_told() {
        let service = Service::new(None, Some(Duration::from_millis(1))).unwrap();
        service.ready();
        assert!(service._watchdog.is_none());
    }
}
