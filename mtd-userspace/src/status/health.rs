//! The part of the status that says how well everything does: programs, maps, slots, clock, warnings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How well the controller keeps slots loaded, over all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slots {
    /// Slots that are loaded.
    pub loaded: u64,
    /// Of those, slots whose own address could not be had; that is tried again.
    pub missing: u64,
    /// Seconds until the first session runs out of slots if the controller does nothing from now on; absent without
    /// sessions. Sessions whose keys end before that do not count.
    pub horizon_seconds: Option<f64>,
    /// How far, in seconds, loading lags behind what the configuration wants, in the session where it is worst; 0 or
    /// nearly so as long as the controller keeps up.
    pub lag_seconds: f64,
    /// When slots were last looked after, in unix seconds.
    pub refreshed: Option<f64>,
}

/// The wall clock, by what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WallClock {
    /// Something keeps it right.
    pub synchronised: bool,
    /// By how much it may be wrong, in seconds, as the kernel's time service has it; of no meaning without one.
    pub max_error_seconds: f64,
    /// Who says that it is right; absent if nobody does.
    #[serde(default)]
    pub source: Option<ClockSource>,
}

/// Who says that the wall clock is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockSource {
    /// The kernel, whom a time service has told.
    Kernel,
    /// systemd-timesyncd, which has asked a server not long ago.
    Timesyncd,
    /// The operator, by the configuration.
    Operator,
}

/// The files that must outlive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Where they are.
    pub folder: PathBuf,
    /// Those that could not be written the last time, each with the reason; empty: all is saved.
    pub failures: Vec<String>,
}

/// Sessions of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCount {
    /// `peer` for statically configured ones; otherwise what this host is in them, `client` or `server`.
    pub role: String,
    /// As in [`super::Peer::state`] and [`super::Session::state`].
    pub state: String,
    /// How many.
    pub count: u64,
}

/// Paths to peers that carry less than the interface, as routers have said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// How many.
    pub narrow: u64,
    /// Of those, paths that carry less than mtd needs.
    pub too_small: u64,
}

/// Something that the operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What it is about, for programs: [`WarningCode::as_str`].
    pub code: String,
    /// What is wrong, and the way out.
    pub text: String,
}

macro_rules! warning_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// See [`Warning::code`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum WarningCode { $($(#[doc = $doc])+ $variant,)+ }

        impl WarningCode {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word of the documents.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

warning_codes! {
    /// The programs are attached, and no controller runs.
    NoController = "no_controller",
    /// The controller waits for something before it starts.
    Waiting = "waiting",
    /// IPv6 is off on the underlay.
    Ipv6Disabled = "ipv6_disabled",
    /// No time service keeps the wall clock right.
    ClockNotSynchronised = "clock_not_synchronised",
    /// What must outlive a restart cannot be written.
    StateNotSaved = "state_not_saved",
    /// There is little room for it.
    StateRoomLow = "state_room_low",
    /// The underlay interface is gone.
    InterfaceMissing = "interface_missing",
    /// The underlay interface is down.
    InterfaceDown = "interface_down",
    /// The underlay's MTU has become too small for the tunnel's.
    MtuTooSmall = "mtu_too_small",
    /// A task of the controller has ended that should go on.
    TaskFailed = "task_failed",
    /// Rules or routes for what goes through the tunnel are missing.
    BypassIncomplete = "bypass_incomplete",
    /// The underlay drops what the DHT answers, since the way back leads into the tunnel.
    StrictFilter = "strict_filter",
    /// Names are not resolved through the tunnel, although that is configured.
    DnsNotUsed = "dns_not_used",
    /// Two hosts use the key of one client.
    KeyInUse = "key_in_use",
    /// A client speaks another version of the handshake.
    ClientVersion = "client_version",
    /// Another program keeps changing the tunnel device.
    TunnelContested = "tunnel_contested",
    /// The path to a peer carries less than mtd needs.
    PathTooSmall = "path_too_small",
    /// The underlay merges datagrams before mtd sees them.
    ReceiveOffload = "receive_offload",
    /// No node of the DHT answers.
    DhtUnreachable = "dht_unreachable",
    /// Nodes of the DHT answer, and have nothing from a server.
    NothingPublished = "nothing_published",
    /// A file with introductions is of no use.
    IntroductionFile = "introduction_file",
    /// An offload of the tunnel device that must be off is on.
    TunnelOffload = "tunnel_offload",
    /// The receive program is not the one that the interface runs.
    NotAttached = "not_attached",
    /// This host has an own address in a protected prefix.
    AddressInPrefix = "address_in_prefix",
    /// There are more own addresses than neighbours may be told of.
    AnnouncementsLimited = "announcements_limited",
    /// Not one packet for the protected prefixes has arrived.
    NothingArrives = "nothing_arrives",
    /// The controller does not keep up with loading slots.
    SlotsLate = "slots_late",
    /// A map is nearly full.
    MapFull = "map_full",
}
