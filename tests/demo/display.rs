//! The display on stderr while the demonstration runs: live lines on a terminal, otherwise a line every few seconds.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use crate::flows::Progress;
use crate::link::Endpoint;

/// Time between two lines if stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The state that is shown.
#[derive(Debug)]
pub(crate) struct Live {
    /// Number of slots that the traffic has survived, and number of slots planned.
    pub(crate) slots: (u32, u32),
    /// Clients with a session.
    pub(crate) clients: usize,
    /// The address and port from which the server sends.
    pub(crate) current: Option<Endpoint>,
    /// Number of different addresses from which it has sent so far.
    pub(crate) addresses: usize,
    /// The traffic.
    pub(crate) progress: Progress,
    /// Probes and replies; absent without a stranger.
    pub(crate) stranger: Option<(u64, u64)>,
}

/// The form of the display.
#[derive(Debug)]
pub(crate) enum Display {
    /// A terminal.
    Terminal(Box<Terminal>),
    /// A file or a pipe, and the time at which the next line is due.
    Lines(Instant),
}

/// A bar, and a line for each heading of [`Live::lines`].
#[derive(Debug)]
pub(crate) struct Terminal {
    all: MultiProgress,
    slots: ProgressBar,
    lines: Vec<ProgressBar>,
}

impl Display {
    /// The display that suits stderr. There are no colours if `NO_COLOR` is set.
    pub(crate) fn new(slots: u32) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Instant::now() + LINE_EVERY);
        }
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = if plain { "" } else { ".cyan" };
        let all = MultiProgress::new();
        let bar = style(&format!("  slots     {{bar:40{colour}}} {{pos}}/{{len}}"));
        let slots = all.add(ProgressBar::new(u64::from(slots)).with_style(bar));
        Self::Terminal(Box::new(Terminal { all, slots, lines: Vec::new() }))
    }

    /// Shows the present state. To be called a few times a second.
    pub(crate) fn show(&mut self, live: &Live) {
        match self {
            Self::Terminal(terminal) => terminal.show(live),
            Self::Lines(due) if Instant::now() >= *due => {
                *due += LINE_EVERY;
                let parts: Vec<String> =
                    live.lines().into_iter().map(|(head, body)| format!("{head}: {body}")).collect();
                eprintln!("slot {}/{}; {}", live.slots.0, live.slots.1, parts.join("; "));
            }
            Self::Lines(_) => {}
        }
    }

    /// Removes the live lines.
    pub(crate) fn clear(&self) {
        if let Self::Terminal(terminal) = self {
            terminal.slots.finish_and_clear();
            for line in &terminal.lines {
                line.finish_and_clear();
            }
        }
    }
}

impl Terminal {
    fn show(&mut self, live: &Live) {
        self.slots.set_position(u64::from(live.slots.0));
        for (nth, (head, body)) in live.lines().into_iter().enumerate() {
            if nth == self.lines.len() {
                let line = ProgressBar::no_length().with_style(style("  {prefix:9} {msg}")).with_prefix(head);
                self.lines.push(self.all.add(line));
            }
            self.lines[nth].set_message(body);
        }
    }
}

impl Live {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let server = self.current.map_or_else(
            || "has not sent anything yet".to_owned(),
            |(address, port)| format!("[{address}]:{port}, {} addresses so far", self.addresses),
        );
        let Progress { connections, broken, tcp_bytes, udp_sent, udp_received, .. } = self.progress;
        let clients = format!("{} connected", self.clients);
        let tcp = format!("{connections} connections, {broken} broken, {} arrived", HumanBytes(tcp_bytes));
        let udp = format!("{} sent, {} arrived", HumanCount(udp_sent), HumanCount(udp_received));
        let mut lines = vec![("clients", clients), ("server", server), ("TCP", tcp), ("UDP", udp)];
        if let Some((probes, replies)) = self.stranger {
            lines.push(("stranger", format!("{} probes, {replies} replies", HumanCount(probes))));
        }
        lines
    }
}

/// The style of a template. All templates in this module are valid; the default only avoids a panic.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
