//! What asks a running controller for something from outside: signals.

use std::io::IsTerminal as _;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What asks the controller for something.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Whether somebody sits in front of it.
    terminal: bool,
}

/// What a signal asks for.
pub(super) enum Request {
    /// To stop, and why.
    Stop(&'static str),
    /// To read the configuration again.
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
            // A terminal that is closed; nothing should be left behind then either.
            _ = self.hangup.recv() => if self.terminal { Request::Stop("hung up") } else { Request::Reload },
        }
    }
}
