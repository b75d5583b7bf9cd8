//! `mtd status`: what runs on this host, after the model of `wg show`.

mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

pub(super) use self::guard::would_be_dropped;
use super::output::{self, Section, Style};
use crate::control::{self, ControlError, ControlSocket};
use crate::device::bpffs;
use crate::instance::{Instance, RUN_DIR};
use crate::status::{
    Endpoint, Frames, Handshakes, Network, Peer, PeerState, Rendezvous, RendezvousRole, SCHEMA, Session,
    SessionRole, SessionState, Status, Traffic,
};

/// So many sessions are shown; of more, only the number.
const MAX_SESSIONS_SHOWN: usize = 32;

/// Show interfaces, peers, slots, traffic and drops
///
/// Without --interface or --socket: everything in this network namespace. A data plane whose controller is gone is
/// shown too. Exit status: 0 if all is well, 1 if a controller is missing or does not answer, 2 for a wrong command
/// line.
///
/// With --json: one object, {"schema": 1, "instances": [...]}, with one element an interface that answered, whether
/// there are none, one or several. Fields may be added to a schema, never changed or removed.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo mtd status\n  \
    sudo mtd status --interface eth0\n  \
    sudo mtd status --json | jq '.instances[].peers[] | {name, state}'")]
pub(super) struct StatusArgs {
    /// Which controllers.
    #[command(flatten)]
    pub select: Select,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which controllers a command asks.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Select {
    /// Underlay interface [default: all in this network namespace]
    #[arg(short, long, value_name = "IFACE", value_parser = interface_name)]
    pub interface: Option<String>,

    /// Control socket, if the configuration moved it
    #[arg(long, value_name = "PATH", conflicts_with = "interface")]
    pub socket: Option<PathBuf>,
}

impl Select {
    /// The sockets to ask in `run_dir`, existing or not.
    ///
    /// # Errors
    /// None is there, or it cannot be told.
    pub(super) fn sockets(&self, run_dir: &Path) -> Result<Vec<ControlSocket>, ControlError> {
        if let Some(path) = &self.socket {
            return Ok(vec![ControlSocket { interface: path.display().to_string(), path: path.clone() }]);
        }
        let sockets = control::find_sockets(run_dir, self.interface.as_deref())?;
        if sockets.is_empty() { Err(nothing_runs()) } else { Ok(sockets) }
    }
}

fn nothing_runs() -> ControlError {
    ControlError::NotRunning { owner: "any interface of this network namespace".to_owned() }
}

/// An interface name as the kernel allows it.
fn interface_name(name: &str) -> Result<String, &'static str> {
    let allowed = (1..=15).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
        && name != "."
        && name != "..";
    if allowed { Ok(name.to_owned()) } else { Err("not the name of an interface; see `ip link`") }
}

/// Shows the status of the selected controllers. `offline` tells what can be told about an instance whose data plane
/// is attached and whose controller does not run.
///
/// # Errors
/// A controller is missing or does not answer (what the others say is printed all the same), or standard output
/// cannot be written.
pub(super) async fn run(
    args: &StatusArgs,
    offline: impl Fn(&Instance) -> Option<Status>,
) -> anyhow::Result<()> {
    let Answers { statuses, failures } = Answers::collect(&args.select, &Places::default(), offline).await;
    if args.json {
        output::print(&json(statuses)?)?;
    } else if !statuses.is_empty() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        output::print(&human(&statuses, Style::of_stdout(), now.as_secs_f64()))?;
    }
    joined(failures.into_iter().map(Into::into).collect())
}

/// Where instances leave their traces.
pub(super) struct Places {
    /// The folder of the control sockets.
    pub(super) run: PathBuf,
    /// The folder of the folders of pins.
    pub(super) pins: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { run: RUN_DIR.into(), pins: Path::new(bpffs::DEFAULT_PATH).join("mtd") }
    }
}

/// What the selected controllers say.
#[derive(Debug)]
pub(super) struct Answers {
    /// In the order of the interfaces.
    pub(super) statuses: Vec<Status>,
    /// Of the others, why they say nothing.
    pub(super) failures: Vec<ControlError>,
}

impl Answers {
    /// Asks the selected controllers, and `offline` about those that do not run. Nobody to ask is a failure, too.
    pub(super) async fn collect(
        select: &Select,
        places: &Places,
        offline: impl Fn(&Instance) -> Option<Status>,
    ) -> Self {
        Self::try_collect(select, places, offline)
            .await
            .unwrap_or_else(|failure| Self { statuses: Vec::new(), failures: vec![failure] })
    }

    async fn try_collect(
        select: &Select,
        places: &Places,
        offline: impl Fn(&Instance) -> Option<Status>,
    ) -> Result<Self, ControlError> {
        let mut answers = Self { statuses: Vec::new(), failures: Vec::new() };
        if let Some(socket) = &select.socket {
            answers.add(control::client::status(socket).await);
            return Ok(answers);
        }
        let interfaces = match &select.interface {
            Some(interface) => BTreeSet::from([interface.clone()]),
            None => control::find_sockets(&places.run, None)?
                .into_iter()
                .map(|socket| socket.interface)
                .chain(control::own_interfaces(&places.pins, "")?)
                .collect(),
        };
        for interface in &interfaces {
            let socket = ControlSocket::of(&places.run, interface)?;
            let answer = match control::client::status(&socket.path).await {
                Err(ControlError::NotRunning { .. }) => {
                    let instance = Instance::of(interface).map_err(ControlError::Namespace)?;
                    offline(&instance).ok_or(ControlError::NotRunning { owner: interface.clone() })
                }
                answer => answer,
            };
            answers.add(answer);
        }
        if interfaces.is_empty() { Err(nothing_runs()) } else { Ok(answers) }
    }

    fn add(&mut self, answer: Result<Status, ControlError>) {
        match answer {
            Ok(status) => self.statuses.push(status),
            Err(error) => self.failures.push(error),
        }
    }
}

/// Success if there are no failures, otherwise all of them as one error.
///
/// # Errors
/// There are failures.
pub(super) fn joined(mut failures: Vec<anyhow::Error>) -> anyhow::Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => {
            let texts: Vec<_> = failures.iter().map(|failure| format!("{failure:#}")).collect();
            Err(anyhow::Error::msg(texts.join("\n")))
        }
    }
}

/// The document that `--json` prints: the same shape for any number of instances.
///
/// # Errors
/// None that is known of; JSON can hold all documents.
pub(super) fn json<T: Serialize>(instances: Vec<T>) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Document<T> {
        schema: u32,
        instances: Vec<T>,
    }
    Ok(serde_json::to_string_pretty(&Document { schema: SCHEMA, instances })? + "\n")
}

/// `now`: unix seconds, to tell how long ago something was.
fn human(statuses: &[Status], style: Style, now: f64) -> String {
    let mut sections = Vec::new();
    for status in statuses {
        sections.push(interface_section(status, style).render());
        let rendezvous = status.rendezvous.as_ref();
        sections.extend(rendezvous.map(|rendezvous| rendezvous_section(rendezvous, style, now).render()));
        sections.extend(clients_section(status, style).map(|section| section.render()));
        let sessions = status.sessions.iter().take(MAX_SESSIONS_SHOWN);
        sections.extend(sessions.map(|session| session_section(session, style).render()));
        if let Some(more @ 1..) = status.sessions.len().checked_sub(MAX_SESSIONS_SHOWN) {
            sections.push(format!("and {more} more sessions: `mtd sessions` shows all\n"));
        }
        sections.extend(status.peers.iter().map(|peer| peer_section(peer, style).render()));
        sections.push(frames_section(&status.frames, style).render());
        sections.push(output::drop_table(style, "dropped packets", &status.drops));
        sections.extend(would_be_dropped(status, style));
    }
    sections.join("\n")
}

fn interface_section(status: &Status, style: Style) -> Section {
    let mut section = Section::new(style, format!("interface: {}", status.interface));
    let version = &status.version;
    if let Some(pid) = status.pid {
        let uptime = output::span(status.uptime_seconds);
        section.row("controller", format!("process {pid}, version {version}, up {uptime}"));
    } else {
        section.hint(Some(
            "the programs are attached, but no controller is running: once the loaded slots are over, nothing \
             passes; start one with `mtd run -c FILE`, or remove them with `mtd detach`",
        ));
        section.row("controller", "not running");
    }
    if let Some(key) = &status.public_key {
        section.row("public key", key);
    }
    section.row("prefixes", list(&status.prefixes));
    guard::rows(&mut section, status);
    section.row("link", &status.link);
    section.row("XDP mode", &status.xdp);
    section.row("tunnel device", format!("{}, MTU {} B", status.device, status.mtu));
    section.row("pins", status.pins.display());
    section
}

fn peer_section(peer: &Peer, style: Style) -> Section {
    let mut section = Section::new(style, format!("peer: {}", peer.name));
    section.hint(peer.hint.as_deref());
    section.row(
        "state",
        match peer.state {
            PeerState::Waiting => "waiting: no valid packet yet",
            PeerState::Open => "open",
            PeerState::Silent => "silent: no valid packet lately",
        },
    );
    section.row("last valid packet", ago(peer.last_valid_seconds));
    section.row("mode", &peer.mode);
    section.row(
        "slot",
        format!("{} of {} s, {} loaded ahead", peer.slot, peer.period_seconds, peer.slots_ahead),
    );
    section.row("local", endpoint(peer.local));
    section.row("remote", endpoint(peer.remote));
    section.row("clock offset", format!("{:+.3} s", peer.clock_offset_seconds));
    section.row("received", traffic(peer.received));
    section.row("sent", traffic(peer.sent));
    if !peer.dropped_from_prefix.is_empty() {
        let sampled = reasons(&peer.dropped_from_prefix);
        section.row("dropped, sampled", format!("{sampled} (from the peer's prefix)"));
    }
    section
}

fn rendezvous_section(rendezvous: &Rendezvous, style: Style, now: f64) -> Section {
    let mut section = Section::new(style, "rendezvous");
    let Rendezvous { role, network, pending, failed, .. } = rendezvous;
    section.hint((*network == Network::Unreachable).then_some(
        "no node of the DHT answers: is there a way to the Internet for UDP over IPv4, and is bootstrap right?",
    ));
    section.row(
        "network",
        match network {
            Network::Ok => "ok",
            Network::Unreachable => "unreachable",
            Network::Unknown => "not asked yet",
        },
    );
    let since = |unix: f64| format!("{} ago", output::span(now - unix));
    let length = output::span(rendezvous.window_seconds as f64);
    section.row("window", format!("{length}, began {}", since(rendezvous.window_start as f64)));
    let last = |unix: Option<f64>| unix.map_or("never".to_owned(), since);
    if matches!(role, RendezvousRole::Server | RendezvousRole::Both) {
        let at = last(rendezvous.last_publication);
        section.row("published", format!("{}, last {at}", rendezvous.published));
    }
    if matches!(role, RendezvousRole::Client | RendezvousRole::Both) {
        let median = rendezvous.median_fetch_ms.map_or(String::new(), |ms| format!(", median {ms:.0} ms"));
        section
            .row("fetched", format!("{}, last {}{median}", rendezvous.fetched, last(rendezvous.last_fetch)));
    }
    let next = rendezvous.next_seconds.map(|seconds| format!(", next in {}", output::span(seconds)));
    section.row("pending", format!("{pending}{}", next.unwrap_or_default()));
    section.row("failed", failed);
    if !rendezvous.rejected.is_empty() {
        section.row("rejected", reasons(&rendezvous.rejected));
    }
    section
}

/// What a server with registered clients has to say.
fn clients_section(status: &Status, style: Style) -> Option<Section> {
    if status.clients_registered.is_none() && status.handshakes.is_none() {
        return None;
    }
    let mut section = Section::new(style, "clients");
    if let Some(registered) = status.clients_registered {
        section.row("registered", registered);
    }
    let open =
        |session: &&Session| session.role == SessionRole::Server && session.state == SessionState::Open;
    section.row("sessions open", status.sessions.iter().filter(open).count());
    if let Some(Handshakes { received, answered, refused, half_open }) = &status.handshakes {
        section.row("handshakes", format!("{received} received, {answered} answered, {half_open} half open"));
        if !refused.is_empty() {
            section.row("refused", reasons(refused));
        }
    }
    Some(section)
}

fn session_section(session: &Session, style: Style) -> Section {
    let title = match session.role {
        SessionRole::Client => format!("session with server: {}", session.name),
        SessionRole::Server => format!("session with client: {}", session.name),
    };
    let mut section = Section::new(style, title);
    section.hint(session.hint.as_deref());
    section.row(
        "state",
        match session.state {
            SessionState::Finding => "finding: looking for the server's introduction",
            SessionState::Connecting => "connecting: the handshake is under way",
            SessionState::HalfOpen => "half-open: no data packet from the client yet",
            SessionState::Open => "open",
            SessionState::Silent => "silent: no valid packet lately",
            SessionState::Closing => "closing",
        },
    );
    section.row("public key", &session.public_key);
    section.row("last valid packet", ago(session.last_valid_seconds));
    section.row("tunnel", format!("{} to {}", list(&session.tunnel.local), list(&session.tunnel.remote)));
    // Before the handshake there is nothing to tell.
    if let Some(mode) = &session.mode {
        section.row("mode", mode);
    }
    if let (Some(slot), Some(period)) = (session.slot, session.period_seconds) {
        section.row("slot", format!("{slot} of {period} s"));
    }
    if let Some(local) = session.local {
        section.row("local", endpoint(local));
    }
    if let Some(remote) = session.remote {
        section.row("remote", endpoint(remote));
    }
    if let Some(prefix) = session.prefix {
        section.row("prefix", prefix);
    }
    if let Some(age) = session.age_seconds {
        let keys = session.rekeyed_seconds.map(|age| format!(", keys {} old", output::span(age)));
        section.row("age", format!("{}{}", output::span(age), keys.unwrap_or_default()));
    }
    if let Some(offset) = session.clock_offset_seconds {
        section.row("clock offset", format!("{offset:+.3} s"));
    }
    section.row("received", traffic(session.received));
    section.row("sent", traffic(session.sent));
    section
}

fn frames_section(frames: &Frames, style: Style) -> Section {
    let mut section = Section::new(style, "frames");
    section.row("passed untouched", frames.passed);
    section.row("accepted", frames.accepted);
    section.row("opened on other CPUs", frames.steered);
    if frames.steering_lost > 0 {
        section.row("lost on the way there", frames.steering_lost);
    }
    section.row("sent", frames.sent);
    section.row("control messages", frames.control);
    section.row("solicitations answered", frames.neighbour_answered);
    section.row("drops not reported", frames.events_suppressed);
    if frames.allowed > 0 {
        section.row("allowed", frames.allowed);
    }
    section
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn ago(seconds: Option<f64>) -> String {
    seconds.map_or("never".to_owned(), |seconds| format!("{} ago", output::span(seconds)))
}

/// Counts by reason, the most frequent one first.
fn reasons(counts: &BTreeMap<String, u64>) -> String {
    list(output::by_count(counts).iter().map(|(reason, count)| format!("{count} {reason}")))
}

fn endpoint(Endpoint { address, port }: Endpoint) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

fn traffic(Traffic { packets, bytes }: Traffic) -> String {
    let noun = if packets == 1 { "packet" } else { "packets" };
    format!("{} in {packets} {noun}", output::bytes(bytes))
}

#[cfg(test)]
pub(super) mod tests;
