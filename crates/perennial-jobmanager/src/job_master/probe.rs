//! Whether an executor is there, asked of its machine.
//!
//! An executor listens at its data port from its first moment to its last. Its kernel refuses connections from the moment its
//! process is gone, within a round trip, and accepts them on its behalf while it is alive, even stopped or swamped. So a
//! connection attempt tells in a millisecond what a heartbeat tells in seconds. That whoever accepts is that very executor
//! is not checked: another one that has got the port since only means waiting for the TaskManager as long as for a living
//! one. A machine that is gone or cut off does not answer, and then nothing is known.

use std::time::Duration;

use perennial_coordination::job::Liveness;
use tokio::net::TcpStream;

/// Longest wait for one answer: many round trips of a network that is well.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);

/// Pauses before the attempts. A process that dies with its TaskManager may do so a moment later, so one answer that it
/// lives is not enough.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(80), Duration::from_millis(200)];

/// Asks several times, until one answer says that the process is gone; else what the last one said.
pub(super) async fn liveness(address: &str) -> Liveness {
    let mut last = Liveness::Unknown;
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        last = match tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Liveness::Alive,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Liveness::Gone,
            Ok(Err(_)) | Err(_) => Liveness::Unknown,
        };
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_is_alive_who_refuses_is_gone_and_who_has_no_address_is_unknown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(liveness(&address).await, Liveness::Alive);
        drop(listener);
        assert_eq!(liveness(&address).await, Liveness::Gone);
        assert_eq!(liveness("no address").await, Liveness::Unknown);
    }
}
