//! Looking at the host around the data plane, and what there is to warn of.

use mtd_common::abi;
use mtd_common::packet::OVERHEAD;
use nix::errno::Errno;
use nix::sys::utsname::uname;

use crate::dataplane::{program_name, programs};
use crate::device::{self, Underlay};
use crate::model::MIN_INNER_MTU;
use crate::model::{LinkMode, MapFill};
use crate::status::{Status, WallClock, Warning, WarningCode};

/// How far loading may lag behind, in seconds: it is looked after ten times a second.
const LATE: f64 = 1.0;

/// From when on it is strange that no packet has come, in seconds since the controller started.
const QUIET: f64 = 60.0;

/// The kernel cuts names of programs at so many characters, and the longest of mtd's is shorter.
const RECEIVE: &str = "mtd_receive";

/// The host, as it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The underlay interface; `None`: it is gone.
    pub underlay: Option<Underlay>,
    /// Receive offloads of the underlay that may merge datagrams, as [`device::merging`] finds them.
    pub merging: Vec<&'static str>,
    /// Offloads of the tunnel device that are not as they must be: interface, offload, whether it is on.
    pub misfits: Vec<(String, String, bool)>,
}

impl Look {
    /// Looks at these interfaces. What cannot be read is taken to be right.
    pub async fn at(underlay: &str, device: &str) -> Self {
        Self {
            underlay: Underlay::inspect(underlay).await.ok(),
            merging: device::merging(underlay).unwrap_or_default(),
            misfits: device::misfits(device).unwrap_or_default(),
        }
    }
}

/// Adds to a status what is known outside of the controller's own state: host, kernel, programs, warnings.
pub async fn examine(mut status: Status) -> Status {
    let look = Look::at(&status.interface, &status.device).await;
    env!("MTD_COMMIT").clone_into(&mut status.commit);
    status.abi = abi::VERSION;
    status.kernel = kernel();
    // A controller has told its own; it may not ask for others' any more.
    if status.programs.is_empty() {
        status.programs = programs(&status.pins);
    }
    status.clock = wall_clock();
    status.warnings = warnings(&status, &look);
    status
}

/// Release of the running kernel.
pub fn kernel() -> String {
    uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// The wall clock, by what the kernel knows of it.
pub fn wall_clock() -> Option<WallClock> {
    // SAFETY: numbers only, for all of which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a live structure; with no mode set, nothing but it is changed.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    Errno::result(state).ok()?;
    Some(WallClock {
        synchronised: timex.status & libc::STA_UNSYNC == 0,
        max_error_seconds: timex.maxerror as f64 / 1e6,
    })
}

/// What there is to warn of, the most serious first.
pub fn warnings(status: &Status, look: &Look) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |code: WarningCode, text: String| {
        found.push(Warning { code: code.as_str().to_owned(), text });
    };
    let interface = &status.interface;
    if status.pid.is_none() {
        warn(
            WarningCode::NoController,
            "the programs are attached, but no controller is running: once the loaded slots are over, nothing passes; \
             start one with `mtd run -c FILE`, or remove them with `mtd detach`"
                .to_owned(),
        );
    }
    match &look.underlay {
        None => warn(
            WarningCode::InterfaceMissing,
            format!("there is no interface {interface} any more: nothing comes in"),
        ),
        Some(underlay) => underlay_warnings(status, underlay, &mut warn),
    }
    if status.paths.too_small > 0 {
        let needed = MIN_INNER_MTU as usize + OVERHEAD;
        warn(
            WarningCode::PathTooSmall,
            format!(
                "routers on the way to {} peers carry packets of less than {needed} bytes, and mtd needs that: long packets \
                 are lost",
                status.paths.too_small
            ),
        );
    }
    for (device, feature, on) in &look.misfits {
        let (state, wanted) = if *on { ("on", "off") } else { ("off", "on") };
        warn(
            WarningCode::TunnelOffload,
            format!(
                "{feature} is {state} at {device}: packets get lost; `ethtool -K {device} {feature} {wanted}`"
            ),
        );
    }
    for feature in &look.merging {
        // A program in the driver sees frames before the first two act.
        if *feature == "rx-lro" || status.xdp == "generic" {
            warn(
                WarningCode::ReceiveOffload,
                format!(
                    "{feature} is on at {interface}: datagrams that are merged are dropped; `ethtool -K {interface} \
                     {feature} off`"
                ),
            );
        }
    }
    if let Some(clock) = status.clock
        && !clock.synchronised
    {
        warn(
            WarningCode::ClockNotSynchronised,
            "the wall clock is not synchronised: both ends must agree on it to a slot, or to a window when they meet; \
             run a time service such as chrony or systemd-timesyncd"
                .to_owned(),
        );
    }
    if let Some(slots) = status.slots
        && (slots.lag_seconds > LATE || slots.missing > 0)
    {
        let text = if slots.missing > 0 {
            format!("{} of {} loaded slots have no address: raise max_sessions", slots.missing, slots.loaded)
        } else {
            format!(
                "loading slots is {:.1} s behind: the controller gets too little CPU time for its sessions",
                slots.lag_seconds
            )
        };
        warn(WarningCode::SlotsLate, text);
    }
    let full = |map: &&MapFill| map.used.saturating_mul(10) >= map.capacity.saturating_mul(9);
    for map in status.maps.iter().filter(full) {
        warn(
            WarningCode::MapFull,
            format!("{} of {} {} are taken: raise max_sessions", map.used, map.capacity, map.name),
        );
    }
    if nothing_arrives(status) {
        let prefixes: Vec<_> = status.prefixes.iter().map(ToString::to_string).collect();
        warn(
            WarningCode::NothingArrives,
            format!(
                "not one packet for {} has arrived at {interface}, neither a peer's nor a stranger's: does the network \
                 route it to this host? Look with `tcpdump -ni {interface} net {}`",
                prefixes.join(", "),
                prefixes.first().map_or("", String::as_str)
            ),
        );
    }
    found
}

fn underlay_warnings(status: &Status, underlay: &Underlay, warn: &mut impl FnMut(WarningCode, String)) {
    let interface = &status.interface;
    if !underlay.up {
        warn(
            WarningCode::InterfaceDown,
            format!("{interface} is down, or has no carrier: nothing comes in; `ip link set {interface} up`"),
        );
    }
    let receive = status.programs.iter().find(|program| program.name == RECEIVE);
    if let Some(receive) = receive
        && underlay.xdp_program != Some(receive.id)
    {
        let there = match underlay.xdp_program {
            Some(id) => format!("{interface} runs {}", program_label(id)),
            None => format!("{interface} runs no XDP program"),
        };
        warn(
            WarningCode::NotAttached,
            format!(
                "{there} in the place of mtd's, which is number {}: the prefixes are not dark; stop and start the \
                 controller",
                receive.id
            ),
        );
    }
    let needed = status.mtu.saturating_add(OVERHEAD as u32);
    if underlay.mtu < needed {
        warn(
            WarningCode::MtuTooSmall,
            format!(
                "the MTU of {interface} is {}, and packets of the tunnel have up to {needed} bytes: long ones are lost; \
                 `ip link set {interface} mtu {needed}`, or set mtu in the configuration",
                underlay.mtu
            ),
        );
    }
    if status.link != LinkMode::Shared.as_str() {
        let inside =
            |address: &&ipnet::IpNet| status.prefixes.iter().any(|prefix| prefix.contains(&address.addr()));
        if let Some(address) = underlay.addresses.iter().find(inside) {
            warn(
                WarningCode::AddressInPrefix,
                format!(
                    "{} of {interface} lies in a protected prefix: nobody can reach it; remove it, or set link = \
                     \"shared\"",
                    address.addr()
                ),
            );
        }
    }
}

/// Whether somebody should have come by now, and not one packet for the prefixes was seen. That a prefix is routed here
/// shows in nothing else.
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

/// A program in words: name and number. Without privileges nobody learns the name.
pub fn program_label(id: u32) -> String {
    match program_name(id) {
        Some(name) => format!("the XDP program {name} (number {id})"),
        None => format!("the XDP program with the number {id}"),
    }
}

#[cfg(test)]
mod tests;
