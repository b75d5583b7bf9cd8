//! The checks that warnings come from, one for each concern.

use ipnet::IpNet;
use mtd_common::packet::OVERHEAD;

use super::clock::doubt;
use super::{Look, Room, program_label};
use crate::device::{Lack, Underlay};
use crate::model::{LinkMode, MapFill};
use crate::proto::client::Trouble;
use crate::proto::path_probe::LEAST;
use crate::status::{Network, RendezvousRole, Session, Status, Warning, WarningCode};

/// How far the loading of slots may lag behind, in seconds. Slots are loaded ten times a second.
const LATE: f64 = 1.0;

/// How long the controller must have run, in seconds, before it is suspicious that no packet has come.
const QUIET: f64 = 60.0;

/// With less room than this, in bytes, writing will soon fail.
const LITTLE: u64 = 1 << 20;

/// The name of the receive program, which is short enough that the kernel does not cut it off.
pub(super) const RECEIVE: &str = "mtd_receive";

/// Looks at one concern, and adds a warning if something is wrong with it.
type Check = fn(&Status, &Look, &mut Vec<Warning>);

/// All checks. Their order is that of the warnings: the most serious first.
pub(super) const CHECKS: &[Check] = &[
    controller_runs,
    controller_waits_for_nothing,
    interface_is_there,
    interface_is_up,
    ipv6_is_on,
    program_is_attached,
    underlay_mtu_is_enough,
    prefixes_are_unused,
    tasks_go_on,
    bypass_is_complete,
    answers_are_let_in,
    names_are_asked_inside,
    dht_answers,
    servers_have_published,
    introductions_can_be_used,
    tunnel_is_left_alone,
    clients_are_well,
    paths_are_wide_enough,
    tunnel_offloads_are_right,
    datagrams_are_not_merged,
    state_is_saved,
    clock_is_synchronised,
    slots_are_loaded,
    maps_have_room,
    neighbours_are_told,
    something_arrives,
];

fn warn(found: &mut Vec<Warning>, code: WarningCode, text: impl Into<String>) {
    found.push(Warning { code: code.as_str().to_owned(), text: text.into() });
}

fn controller_runs(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    if status.pid.is_none() {
        warn(
            found,
            WarningCode::NoController,
            "the programs are attached, but no controller is running: nothing passes once the loaded slots are over; start \
             a controller with `mtd run -c FILE`, or remove the programs with `mtd detach`",
        );
    }
}

fn bypass_is_complete(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let Some(bypass) = &status.bypass else { return };
    if let Some(problem) = &bypass.problem {
        let networks: Vec<_> = bypass.networks.iter().map(ToString::to_string).collect();
        let text = format!(
            "what is sent to {} does not all go through the tunnel: {problem}; see `ip rule`, and `ip route show table {}`",
            networks.join(", "),
            bypass.mark
        );
        warn(found, WarningCode::BypassIncomplete, text);
    }
}

fn answers_are_let_in(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    let catches = |bypass: &crate::status::Bypass| bypass.networks.iter().any(|net| net.addr().is_ipv4());
    if look.strict_filter && status.rendezvous.is_some() && status.bypass.as_ref().is_some_and(catches) {
        let text = format!(
            "{0} drops what the DHT answers, because the way back leads into the tunnel (strict rp_filter): `sysctl -w \
             net.ipv4.conf.{0}.rp_filter=2`",
            status.interface
        );
        warn(found, WarningCode::StrictFilter, text);
    }
}

fn names_are_asked_inside(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let Some(problem) = status.dns.as_ref().and_then(|dns| dns.problem.as_ref()) else { return };
    let text = format!(
        "names are not resolved through the tunnel: {problem}. Install and start systemd-resolved, or leave dns out and change \
         the host's name servers by [hooks]"
    );
    warn(found, WarningCode::DnsNotUsed, text);
}

fn controller_waits_for_nothing(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    if let Some(text) = &status.waiting_for {
        warn(
            found,
            WarningCode::Waiting,
            format!("{text}. The controller starts by itself as soon as that is there"),
        );
    }
}

fn interface_is_there(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    if look.underlay.is_none() && status.waiting_for.is_none() {
        let text = format!("there is no interface {} any more: nothing comes in", status.interface);
        warn(found, WarningCode::InterfaceMissing, text);
    }
}

fn interface_is_up(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    let interface = &status.interface;
    if look.underlay.as_ref().is_some_and(|underlay| !underlay.up) {
        warn(
            found,
            WarningCode::InterfaceDown,
            format!("{interface} is down, or has no carrier: nothing comes in; `ip link set {interface} up`"),
        );
    }
}

fn ipv6_is_on(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    // A client that has no prefix for this reason says so itself, and this is the same sentence.
    if look.ipv6_off && status.waiting_for.is_none() {
        warn(found, WarningCode::Ipv6Disabled, Lack::Disabled.of(&status.interface).to_string());
    }
}

fn program_is_attached(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    let interface = &status.interface;
    let receive = status.programs.iter().find(|program| program.name == RECEIVE);
    if let (Some(underlay), Some(receive)) = (&look.underlay, receive)
        && underlay.xdp_program != Some(receive.id)
    {
        let there = match underlay.xdp_program {
            Some(id) => format!("{interface} runs {}", program_label(id)),
            None => format!("{interface} runs no XDP program"),
        };
        warn(
            found,
            WarningCode::NotAttached,
            format!(
                "{there} instead of mtd's, which has the number {}: the prefixes are not dark; stop and start the \
                 controller",
                receive.id
            ),
        );
    }
}

fn underlay_mtu_is_enough(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    let interface = &status.interface;
    let needed = status.mtu.saturating_add(OVERHEAD as u32);
    if let Some(Underlay { mtu, .. }) = look.underlay
        && mtu < needed
    {
        warn(
            found,
            WarningCode::MtuTooSmall,
            format!(
                "the MTU of {interface} is {mtu}, but packets of the tunnel have up to {needed} bytes: long ones are lost; \
                 `ip link set {interface} mtu {needed}`, or set mtu in the configuration"
            ),
        );
    }
}

fn prefixes_are_unused(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    if status.link == LinkMode::Shared.as_str() {
        return;
    }
    let inside = |address: &&IpNet| status.prefixes.iter().any(|prefix| prefix.contains(&address.addr()));
    let addresses = look.underlay.iter().flat_map(|underlay| &underlay.addresses);
    if let Some(address) = addresses.into_iter().find(inside) {
        warn(
            found,
            WarningCode::AddressInPrefix,
            format!(
                "{} of {} lies in a protected prefix: nobody can reach it; remove it, or set link = \"shared\"",
                address.addr(),
                status.interface
            ),
        );
    }
}

fn tasks_go_on(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    for task in status.tasks.iter().filter(|task| task.failures > 0) {
        let state = if task.running { "it runs again" } else { "it does not run now" };
        let times = if task.failures == 1 { "once".to_owned() } else { format!("{} times", task.failures) };
        warn(
            found,
            WarningCode::TaskFailed,
            format!(
                "the task {} of the controller has failed {times}, the last time with: {}; {state}. The log of the \
                 controller says more; if this goes on, stop and start the controller",
                task.name,
                task.last_failure.as_deref().unwrap_or("for an unknown reason")
            ),
        );
    }
}

fn dht_answers(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let Some(rendezvous) = &status.rendezvous else { return };
    if rendezvous.network != Network::Unreachable {
        return;
    }
    let why = rendezvous.trouble.as_deref().unwrap_or("the DHT is out of reach: no node answers");
    let publishes = "no client can find this server there. Until that works, give clients an introduction by other ways: `mtd \
                     introduction NAME`, or introductions_dir in [listen]";
    let fetches = "sessions that are open go on, and known introductions serve until their windows are over; new sessions need \
                   the DHT, or an introduction from the server's administrator (introduction_file in [[server]])";
    let (publishes, fetches) = match rendezvous.role {
        RendezvousRole::Server => (Some(publishes), None),
        RendezvousRole::Client => (None, Some(fetches)),
        RendezvousRole::Both => (Some(publishes), Some(fetches)),
    };
    let effects: Vec<_> = publishes.into_iter().chain(fetches).collect();
    warn(found, WarningCode::DhtUnreachable, format!("{why}. Meanwhile, {}", effects.join("; ")));
}

fn servers_have_published(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let nothing = Trouble::NothingPublished.name();
    for session in status.sessions.iter().filter(|session| session.trouble.as_deref() == Some(nothing)) {
        warn(
            found,
            WarningCode::NothingPublished,
            format!(
                "nodes of the DHT answer, but have nothing from the server {} for this client: its administrator should see \
                 that it runs and reaches the DHT (`mtd status` there), and that it has this client's public key (`mtd peers \
                 list` there); see here that its public key, the window and the clock are right",
                session.name
            ),
        );
    }
}

fn introductions_can_be_used(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let no_answer = Trouble::NoAnswer.name();
    let unheard = |server: &str| {
        let of = |session: &&Session| session.name == server && session.trouble.as_deref() == Some(no_answer);
        status.sessions.iter().any(|session| of(&session))
    };
    for file in status.rendezvous.iter().flat_map(|rendezvous| &rendezvous.files) {
        let path = &file.path;
        let text = match (&file.server, &file.problem) {
            (Some(server), Some(problem)) => {
                format!("introduction_file of {server}, {path}, is not used: {problem}")
            }
            (None, Some(problem)) => format!("introductions_dir, {path}: {problem}"),
            (Some(server), None) if unheard(server) => format!(
                "nobody answers at the introductions of {server} in {path}: they end when the server restarts, moves, or \
                 removes a client, so that the file may be older than that; get a new one"
            ),
            _ => continue,
        };
        warn(found, WarningCode::IntroductionFile, text);
    }
}

fn tunnel_is_left_alone(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let repairs = &status.tunnel_repairs;
    if repairs.contested {
        warn(
            found,
            WarningCode::TunnelContested,
            format!(
                "another program keeps changing {0} (the last repair: {1}), and traffic is lost meanwhile: find it with \
                 `ip -t monitor`, and tell it to leave {0} alone (docs/operations.md has settings for network managers)",
                status.device,
                repairs.last.as_deref().unwrap_or("unknown")
            ),
        );
    }
}

fn clients_are_well(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    for remark in status.handshakes.iter().flat_map(|handshakes| &handshakes.remarks) {
        found.push(Warning { code: remark.code.clone(), text: remark.text.clone() });
    }
}

fn paths_are_wide_enough(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    if status.paths.too_small > 0 {
        warn(
            found,
            WarningCode::PathTooSmall,
            format!(
                "the way to {} peers does not carry packets of {LEAST} bytes, as every path of IPv6 has to, and long packets \
                 are lost: a tunnel or link on the way needs a larger MTU (`tracepath -6` to the peer's network shows where)",
                status.paths.too_small
            ),
        );
    }
}

fn tunnel_offloads_are_right(_: &Status, look: &Look, found: &mut Vec<Warning>) {
    for (device, feature, on) in &look.misfits {
        let (state, wanted) = if *on { ("on", "off") } else { ("off", "on") };
        warn(
            found,
            WarningCode::TunnelOffload,
            format!(
                "{feature} is {state} at {device}: packets get lost; `ethtool -K {device} {feature} {wanted}`"
            ),
        );
    }
}

fn datagrams_are_not_merged(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    let interface = &status.interface;
    for feature in &look.merging {
        // An XDP program in the driver sees frames before the other two offloads merge them.
        if *feature == "rx-lro" || status.xdp == "generic" {
            warn(
                found,
                WarningCode::ReceiveOffload,
                format!(
                    "{feature} is on at {interface}: datagrams that are merged are dropped; `ethtool -K {interface} \
                     {feature} off`"
                ),
            );
        }
    }
}

fn state_is_saved(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    let Some(saved) = &status.saved else { return };
    let folder = saved.folder.display();
    for failure in &saved.failures {
        let text = format!(
            "{failure}. What runs goes on; what is not saved is forgotten at the next start, and new static sessions stay dark \
             until it can be written"
        );
        warn(found, WarningCode::StateNotSaved, text);
    }
    if !saved.failures.is_empty() {
        return;
    }
    match look.room {
        Some(Room { read_only: true, .. }) => {
            let text =
                format!("{folder} (state_dir) is on a file system that is read-only now: make it writable");
            warn(found, WarningCode::StateNotSaved, text);
        }
        Some(Room { free, .. }) if free < LITTLE => {
            let text = format!(
                "there are {} KiB left for {folder} (state_dir): make room on that file system, before new files cannot be \
                 written",
                free / 1024
            );
            warn(found, WarningCode::StateRoomLow, text);
        }
        _ => {}
    }
}

fn clock_is_synchronised(status: &Status, look: &Look, found: &mut Vec<Warning>) {
    if status.clock.is_some_and(|clock| !clock.synchronised) {
        warn(found, WarningCode::ClockNotSynchronised, doubt(status, look.clock));
    }
}

fn slots_are_loaded(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let Some(slots) = status.slots else { return };
    let text = if slots.missing > 0 {
        format!("{} of {} loaded slots have no address: raise max_sessions", slots.missing, slots.loaded)
    } else if slots.lag_seconds > LATE {
        format!(
            "loading slots is {:.1} s behind: the controller gets too little CPU time for its sessions",
            slots.lag_seconds
        )
    } else {
        return;
    };
    warn(found, WarningCode::SlotsLate, text);
}

fn maps_have_room(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let full = |map: &&MapFill| map.used.saturating_mul(10) >= map.capacity.saturating_mul(9);
    for map in status.maps.iter().filter(full) {
        let text = format!("{} of {} {} are taken: raise max_sessions", map.used, map.capacity, map.name);
        warn(found, WarningCode::MapFull, text);
    }
}

fn neighbours_are_told(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    let Some(neighbours) = &status.neighbours else { return };
    if neighbours.waiting > 0 {
        let text = format!(
            "{} own addresses are not announced to the router yet, since mtd announces no more than 100 a second: behind a \
             switch that snoops MLD, packets for them are lost; make slots longer (`period`), or have the prefix routed to this \
             host (link = \"routed\")",
            neighbours.waiting
        );
        warn(found, WarningCode::AnnouncementsLimited, text);
    }
}

fn something_arrives(status: &Status, _: &Look, found: &mut Vec<Warning>) {
    if nothing_arrives(status) {
        let prefixes: Vec<_> = status.prefixes.iter().map(ToString::to_string).collect();
        warn(
            found,
            WarningCode::NothingArrives,
            format!(
                "not one packet for {} has arrived at {}, neither from a peer nor from a stranger: does the network route \
                 it to this host? Look with `tcpdump -ni {} net {}`",
                prefixes.join(", "),
                status.interface,
                status.interface,
                prefixes.first().map_or("", String::as_str)
            ),
        );
    }
}

/// Whether a packet should have come by now, and none for the prefixes was seen. Nothing else shows whether a prefix is
/// routed to this host.
fn nothing_arrives(status: &Status) -> bool {
    let received = |reason: &str| !reason.starts_with("send_");
    let somebody = status.clients_registered.is_some_and(|clients| clients > 0)
        || status.session_counts.iter().any(|sessions| sessions.role == "peer");
    somebody
        && status.link == LinkMode::Routed.as_str()
        && status.pid.is_some()
        && status.uptime_seconds > QUIET
        && status.frames.accepted == 0
        && status.frames.control == 0
        && !status.drops.keys().any(|reason| received(reason))
}
