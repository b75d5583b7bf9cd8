//! The status as text for people, in the style of `wg show`.

use std::collections::BTreeMap;
use std::net::SocketAddrV6;

use ipnet::IpNet;
use mtd_common::abi::Counter;
use mtd_common::abi::counters::Row;

use super::guard::{self, would_be_dropped};
use crate::cli::output::{self, Section, Style};
use crate::model::{Frames, Traffic};
use crate::status::{
    ClockSource, Endpoint, Handshakes, Middlebox, Network, PathSource, Peer, PeerState, Rendezvous,
    RendezvousRole, Session, SessionRole, SessionState, Status, WallClock,
};

/// Maximum number of sessions that are shown; of the others, only the number is shown.
const MAX_SESSIONS_SHOWN: usize = 32;

/// The text. `now` is the Unix time in s, to say how long ago something happened.
pub(super) fn human(statuses: &[Status], style: Style, now: f64) -> String {
    let mut sections = Vec::new();
    for status in statuses {
        sections.push(interface_section(status, style, now).render());
        if status.waiting_for.is_some() {
            continue;
        }
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

fn controller(status: &Status) -> String {
    let Some(pid) = status.pid else { return "not running".to_owned() };
    let commit = if status.commit.is_empty() { String::new() } else { format!(" ({})", status.commit) };
    let uptime = output::span(status.uptime_seconds);
    format!("process {pid}, version {}{commit}, up {uptime}", status.version)
}

/// The wall clock, and who says that it is right.
fn clock_text(clock: &WallClock) -> String {
    match (clock.synchronised, clock.source) {
        (false, _) => "not known to be right".to_owned(),
        (true, Some(ClockSource::Timesyncd)) => "synchronised by systemd-timesyncd".to_owned(),
        (true, Some(ClockSource::Operator)) => "right, as the configuration says".to_owned(),
        (true, Some(ClockSource::Kernel) | None) => {
            format!("synchronised, to {:.0} ms at most", clock.max_error_seconds * 1e3)
        }
    }
}

fn interface_section(status: &Status, style: Style, now: f64) -> Section {
    let mut section = Section::new(style, format!("interface: {}", status.interface));
    for warning in &status.warnings {
        section.warning(&warning.text);
    }
    section.row("controller", controller(status));
    if status.waiting_for.is_some() {
        return section;
    }
    if let Some(key) = &status.public_key {
        section.row("public key", key);
    }
    section.row("prefixes", prefixes(&status.prefixes));
    guard::rows(&mut section, status);
    section.row("link", &status.link);
    announced_row(&mut section, status);
    section.row("XDP mode", &status.xdp);
    section.row("tunnel device", format!("{}, MTU {} B", status.device, status.mtu));
    bypass_rows(&mut section, status);
    if let Some(last) = &status.tunnel_repairs.last {
        let times = status.tunnel_repairs.count;
        section.row("repaired", format!("{times} times, the last time: {last}"));
    }
    section.row("pins", status.pins.display());
    if !status.kernel.is_empty() {
        section.row("kernel", &status.kernel);
    }
    for program in &status.programs {
        let loaded = program.loaded.map(|unix| format!(", loaded {} ago", output::span(now - unix)));
        let runs = (program.runs > 0).then(|| {
            let each = program.run_seconds / program.runs as f64 * 1e9;
            format!(", {} runs of {each:.0} ns", program.runs)
        });
        let (name, id, tag) = (&program.name, program.id, &program.tag);
        section.row(
            "program",
            format!(
                "{name}, number {id}, tag {tag}{}{}",
                loaded.unwrap_or_default(),
                runs.unwrap_or_default()
            ),
        );
    }
    if let Some(clock) = &status.clock {
        section.row("wall clock", clock_text(clock));
    }
    if let Some(slots) = &status.slots {
        let last = slots.horizon_seconds.map(|left| format!(", the first session has them for {left:.1} s"));
        section.row("slots", format!("{} loaded{}", slots.loaded, last.unwrap_or_default()));
    }
    if !status.maps.is_empty() {
        section.row(
            "maps",
            list(status.maps.iter().map(|map| format!("{} {} of {}", map.name, map.used, map.capacity))),
        );
    }
    section
}

/// What goes through the tunnel although mtd's own packets go past it.
fn bypass_rows(section: &mut Section, status: &Status) {
    if let Some(dns) = &status.dns {
        let used = if dns.used { "asked for all names" } else { "not asked now" };
        section.row("name servers", format!("{}, {used}", list(&dns.servers)));
    }
    let Some(bypass) = &status.bypass else { return };
    let (networks, peers, mark) = (list(&bypass.networks), list(&bypass.peers), bypass.mark);
    section.row(
        "through the tunnel",
        format!("{networks}, to {peers}, except packets with the mark {mark:#x} (routing table {mark})"),
    );
    if bypass.kill_switch {
        section.row("kill switch", "nothing leaves past the tunnel, except to networks of the main table");
    }
}

/// How the link learns of the own addresses.
fn announced_row(section: &mut Section, status: &Status) {
    let Some(neighbours) = &status.neighbours else { return };
    let to = if neighbours.routers.is_empty() { "no router".to_owned() } else { list(&neighbours.routers) };
    section.row(
        "announced",
        format!("own addresses to {to}: {}; groups joined: {}", neighbours.announced, neighbours.groups),
    );
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
    path_row(&mut section, peer.path_mtu, peer.path_source);
    middlebox_rows(&mut section, peer.middlebox, peer.answered_where_heard);
    section.row("received", traffic(peer.received));
    section.row("sent", traffic(peer.sent));
    if !peer.dropped_from_prefix.is_empty() {
        let sampled = reasons(&peer.dropped_from_prefix);
        section.row("dropped, sampled", format!("{sampled} (from the peer's prefix)"));
    }
    section
}

fn path_row(section: &mut Section, mtu: Option<u32>, source: PathSource) {
    let how = match source {
        PathSource::Configured => return,
        PathSource::Told => "says a router",
        PathSource::Probed => "found by probes",
    };
    let text = match mtu {
        Some(mtu) => format!("carries packets of up to {mtu} B, {how}"),
        None => format!("carries packets as long as the interface does, {how}"),
    };
    section.row("path", text);
}

fn rendezvous_section(rendezvous: &Rendezvous, style: Style, now: f64) -> Section {
    let mut section = Section::new(style, "rendezvous");
    let Rendezvous { role, network, pending, failed, .. } = rendezvous;
    let unknown = "no node of the DHT answers: is there a way to the Internet for UDP over IPv4, and is bootstrap right?";
    let trouble = rendezvous.trouble.as_deref().unwrap_or(unknown);
    section.hint((*network == Network::Unreachable).then_some(trouble));
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
    for file in &rendezvous.files {
        let whose = file.server.as_deref().map_or("for clients".to_owned(), |server| format!("of {server}"));
        let state = match (&file.problem, file.good_until) {
            (Some(_), _) => "of no use now".to_owned(),
            (None, Some(until)) => format!("good for {}", output::span((until - now).max(0.0))),
            (None, None) => "none yet".to_owned(),
        };
        section.row("introductions", format!("{whose}, in {}: {state}", file.path));
    }
    if rendezvous.absent > 0 {
        section
            .row("nothing found", format!("{} times, though nodes of the DHT answered", rendezvous.absent));
    }
    let next = rendezvous.next_seconds.map(|seconds| format!(", next in {}", output::span(seconds)));
    section.row("pending", format!("{pending}{}", next.unwrap_or_default()));
    section.row("failed", failed);
    if !rendezvous.rejected.is_empty() {
        section.row("rejected", reasons(&rendezvous.rejected));
    }
    section
}

/// The section of a server with registered clients.
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
    if let Some(Handshakes { received, answered, refused, half_open, .. }) = &status.handshakes {
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
    // Before the handshake there is nothing to show.
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
    if let Some(capabilities) = &session.capabilities {
        section.row("other end can", capabilities.join(", "));
    }
    if let Some(age) = session.rekeyed_seconds {
        section.row("keys", format!("{} old", output::span(age)));
    }
    if let Some(offset) = session.clock_offset_seconds {
        section.row("clock offset", format!("{offset:+.3} s"));
    }
    path_row(&mut section, session.path_mtu, session.path_source);
    if session.translated {
        section.row("translated", "by a router on the client's side");
    }
    middlebox_rows(&mut section, session.middlebox, session.answered_where_heard);
    section.row("received", traffic(session.received));
    section.row("sent", traffic(session.sent));
    section
}

/// Middleboxes on this side, and on the other one.
fn middlebox_rows(section: &mut Section, found: Option<Middlebox>, answered_where_heard: bool) {
    if let Some(found) = found {
        section.row(
            "middlebox here",
            match found {
                Middlebox::Assumed => "assumed: each slot is opened from here",
                Middlebox::Found => "found: each slot is opened from here",
                Middlebox::On => "configured: each slot is opened from here",
                Middlebox::None => "none",
                Middlebox::Off => "off: not looked for",
            },
        );
    }
    if answered_where_heard {
        section.row("middlebox there", "the other end is answered where it was heard");
    }
}

fn frames_section(frames: &Frames, style: Style) -> Section {
    let mut section = Section::new(style, "frames");
    let mut rows: BTreeMap<u8, (Row, Vec<u64>)> = BTreeMap::new();
    for &counter in Counter::ALL {
        if let Some(row) = counter.row() {
            rows.entry(row.place).or_insert((row, Vec::new())).1.push(frames.get(counter));
        }
    }
    for (row, counts) in rows.values() {
        if !row.unless_zero || counts.iter().any(|&count| count > 0) {
            section.row(row.text, list(counts));
        }
    }
    section
}

pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
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

pub(super) fn endpoint(Endpoint { address, port }: Endpoint) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

fn traffic(Traffic { packets, bytes }: Traffic) -> String {
    let noun = if packets == 1 { "packet" } else { "packets" };
    format!("{} in {packets} {noun}", output::bytes(bytes))
}

/// The protected prefixes; single addresses with what that means.
fn prefixes(prefixes: &[IpNet]) -> String {
    let single = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    if prefixes.first().is_some_and(single) {
        let addresses: Vec<_> = prefixes.iter().map(IpNet::addr).collect();
        format!("{} (a single address: ports alone move, and the host is not dark)", list(&addresses))
    } else {
        list(prefixes)
    }
}
