//! Waiting for conditions.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Polls until `condition` gives a value. When `limit` runs out, the error says what was waited for and what was seen last.
///
/// The condition's error is the reason why it does not hold yet.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() > limit => {
                bail!("waited {} ms for: {what}; last seen: {reason:#}", limit.as_millis())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
