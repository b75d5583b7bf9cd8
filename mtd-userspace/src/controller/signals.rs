//! Signals: requests from outside to a running controller.

use std::io::IsTerminal as _;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the controller handles.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Whether the controller runs in a terminal.
    terminal: bool,
}

/// The request that a signal stands for.
pub(super) enum Request {
    /// Stop, for this reason.
    Stop(&'static str),
    /// Read the configuration again.
    Reload,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            terminal: std::io::stdin().is_terminal(),
        })
    }

    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop("interrupted"),
            _ = self.terminate.recv() => Request::Stop("terminated"),
            // From a terminal, SIGHUP means that it was closed: nothing should be left behind then either.
            _ = self.hangup.recv() => if self.terminal { Request::Stop("hung up") } else { Request::Reload },
        }
    }
}
