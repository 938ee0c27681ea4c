//! SIGTERM and SIGINT: the first asks to stop, the second ends the process at once.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a process to stop. As long as it exists, they do nothing else.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to listen; from here on the signals no longer end the process by themselves.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Resolves at the next signal, with its name and the exit code of a process it ends. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
        }
    }

    /// Waits for `work` to end; another signal ends the process at once.
    pub(crate) async fn unless_again(&mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            (name, code) = self.next() => {
                eprintln!("{name} again: ending at once");
                std::process::exit(code);
            }
        }
    }
}
