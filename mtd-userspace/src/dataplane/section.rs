//! The data plane in the configuration: attachment, enforcement, capacity.

use std::cmp::Reverse;
use std::time::Duration;

use humantime::format_duration;
use mtd_common::allow::MAX_ALLOW;

use crate::model::{
    Allow, Fault, KeyStreamChoice, MAX_SESSIONS, MIN_SLOTS_AHEAD, Policy, Reject, SteeringChoice, XdpChoice,
};
use crate::schema::{Facts, Key, Kind, Located, Part, Problems, Section, each_once, unlocated};

/// Shortest and longest time for which slots may be loaded ahead. The longest is three of the longest slots.
pub const HORIZON_RANGE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(3));

/// Time for which slots are loaded ahead when the file says nothing and no peer has slots longer than a third of it.
pub const DEFAULT_HORIZON: Duration = Duration::from_mins(1);

/// The same for more than [`MANY_SESSIONS`] sessions: each slot ahead takes memory for each of them.
pub const DEFAULT_HORIZON_OF_MANY: Duration = Duration::from_secs(12);

/// Up to this many sessions, the default horizon is the long one.
pub const MANY_SESSIONS: u32 = 4096;

/// Number of sessions when the file says nothing.
const DEFAULT_MAX_SESSIONS: u32 = 1024;

/// Keys of the root about enforcement.
pub const GUARD_KEYS: &[Key] = &[
    Key::required(
        "policy",
        Kind::Choice(Policy::WORDS),
        r#""dark""#,
        "What is done to packets for the prefix that are not valid ones. \"dark\": they are dropped without an answer. \
         \"monitor\": they are counted by reason (`mtd drops`) and passed to the kernel as if mtd were not there. Valid \
         packets are opened either way.",
    )
    .otherwise("as `mtd attach --policy` or `mtd policy` have set it, and \"dark\" where nothing was attached yet"),
    Key::preset(
        "allow",
        Kind::List("a source, a protocol (tcp, udp, icmpv6) with or without a port of this host, or both; at most 16"),
        r#"["tcp/22"]"#,
        "Packets for the prefix that pass to the kernel although they are not valid ones, so that nobody locks themselves out. \
         With them pass the ICMPv6 errors about them, and with any rule the neighbour discovery of the link. Strangers can \
         see what a rule lets pass: name sources where you can, such as \"2001:db8:f::/48 tcp/22\".",
    )
    .or("[]"),
    Key::preset(
        "filter_reject",
        Kind::Choice(Reject::WORDS),
        r#""prohibited""#,
        "What a sender on this side is told of a packet that filter of a [[peer]], [[client]] or [[server]] does not let into the \
         tunnel. \"prohibited\": that communication is administratively prohibited (ICMP), so that it need not wait. \"drop\": \
         nothing. What comes out of the tunnel and may not pass is dropped without an answer either way.",
    )
    .reloading(),
];

/// Keys of the root about the programs.
pub const PROGRAM_KEYS: &[Key] = &[
    Key::preset(
        "xdp",
        Kind::Choice(XdpChoice::WORDS),
        r#""auto""#,
        "How the receive program is attached. \"auto\": in the driver if that can do it, otherwise generic. \"native\": in \
         the driver or not at all. \"generic\": in the network stack; works with any driver, and is slower.",
    ),
    Key::preset(
        "steering",
        Kind::Choice(SteeringChoice::WORDS),
        r#""auto""#,
        "On which CPUs received packets are opened. \"auto\": those of a busy session on another CPU than the one that \
         receives them, up to 16 of the CPUs that the controller may run on when it starts. \"off\": always where they \
         arrive.",
    ),
    Key::preset(
        "keystream",
        Kind::Choice(KeyStreamChoice::WORDS),
        r#""auto""#,
        "Who makes the key stream of busy sessions that encrypt. \"auto\": a thread of the controller, before their packets \
         come, for up to 8 directions of sessions at a time; it takes 6 MiB of memory in the kernel. \"off\": the programs \
         in the kernel, when a packet comes.",
    ),
];

/// Keys of the root about capacity.
pub const CAPACITY_KEYS: &[Key] = &[
    Key::required(
        "horizon",
        Kind::Duration(HORIZON_RANGE.0, HORIZON_RANGE.1),
        r#""60s""#,
        "For how long slots are loaded ahead, which is how long the tunnel lives without its controller. At least three slots \
         of every [[peer]] and of [listen]. Each slot ahead of each session takes memory.",
    )
    .otherwise("60s, or three of the longest slots if that is longer; 12s instead of 60s with max_sessions above 4096")
    .from_requirement("MT-05"),
    Key::preset(
        "max_sessions",
        Kind::Integer(1, MAX_SESSIONS),
        "1024",
        "Number of sessions that the maps have room for. A client or server needs two while keys are renewed.",
    ),
];

/// The settings of the data plane in the file.
#[derive(Debug)]
pub struct DataPlane {
    /// How refused packets are handled; `None`: as before.
    pub policy: Option<Policy>,
    allow: Vec<Located<Allow>>,
    /// What a sender on this side is told of a packet that a filter does not let out.
    pub reject: Reject,
    /// How the receive program is attached.
    pub xdp: XdpChoice,
    /// Whether packets of busy sessions are handed to other CPUs.
    pub steering: SteeringChoice,
    /// Whether key stream of busy sessions is made ahead.
    pub keystream: KeyStreamChoice,
    horizon: Option<Located<Duration>>,
    max_sessions: Option<Located<u32>>,
}

impl DataPlane {
    /// Reads the root.
    pub fn read(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self {
            policy: root.choice("policy", problems, Policy::CHOICES),
            allow: root.strings("allow", problems, str::parse),
            reject: root.choice("filter_reject", problems, Reject::CHOICES).unwrap_or_default(),
            xdp: root.choice("xdp", problems, XdpChoice::CHOICES).unwrap_or_default(),
            steering: root.choice("steering", problems, SteeringChoice::CHOICES).unwrap_or_default(),
            keystream: root.choice("keystream", problems, KeyStreamChoice::CHOICES).unwrap_or_default(),
            horizon: root.duration("horizon", problems),
            max_sessions: root.integer("max_sessions", problems),
        }
    }

    /// The allow rules.
    pub fn allow(&self) -> Vec<Allow> {
        self.allow.iter().cloned().map(unlocated).collect()
    }

    /// Number of sessions that the maps have room for.
    pub fn max_sessions(&self) -> u32 {
        self.max_sessions.as_ref().map_or(DEFAULT_MAX_SESSIONS, |most| most.value)
    }

    /// Time for which slots are loaded ahead.
    pub fn horizon(&self, facts: &Facts) -> Duration {
        let usual =
            if self.max_sessions() > MANY_SESSIONS { DEFAULT_HORIZON_OF_MANY } else { DEFAULT_HORIZON };
        let default = usual.max(facts.longest_period() * MIN_SLOTS_AHEAD);
        self.horizon.as_ref().map_or(default, |horizon| horizon.value)
    }

    /// Checks that there are at most as many rules as the programs have room for, and no duplicates.
    fn check_allow(&self, problems: &mut Problems<'_>) {
        if let Some(surplus) = self.allow.get(MAX_ALLOW) {
            let what = format!("more than {MAX_ALLOW} rules");
            problems.add(surplus.at, "allow", Fault::new(what, "name whole networks instead of hosts"));
        }
        each_once(self.allow.iter().map(|rule| ("allow", rule)), problems, |rule, line| {
            Fault::new(format!("{rule} is in line {line} already"), "keep one of them")
        });
    }

    /// Requirement MT-05 needs the previous, the current and the next slot.
    fn check_horizon(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(horizon) = &self.horizon else { return };
        // Of equally long ones, the first.
        let Some(longest) = facts.slots.iter().min_by_key(|slots| Reverse(slots.period)) else { return };
        let least = longest.period * MIN_SLOTS_AHEAD;
        if horizon.value < least {
            let what = format!(
                "{} is less than {MIN_SLOTS_AHEAD} slots of {} ({} in line {})",
                format_duration(horizon.value),
                format_duration(longest.period),
                longest.whose,
                problems.line(longest.at)
            );
            let remedy = format!("write at least \"{}\"", format_duration(least));
            problems.add(horizon.at, "horizon", Fault::new(what, remedy));
        }
    }

    fn check_max_sessions(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(most) = &self.max_sessions else { return };
        let named = facts.sessions;
        if (most.value as usize) < named {
            let what = format!(
                "{} sessions are fewer than the {named} peers, servers and clients of this file",
                most.value
            );
            problems.add(most.at, "max_sessions", Fault::new(what, format!("write at least {named}")));
        }
    }
}

impl Part for DataPlane {
    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        self.check_allow(problems);
        self.check_horizon(facts, problems);
        self.check_max_sessions(facts, problems);
    }
}
