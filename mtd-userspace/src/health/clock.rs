//! What can be known of the wall clock: whether something keeps it right, and who says so.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use crate::status::{ClockSource, PeerState, SessionRole, SessionState, Status, WallClock};

/// File that systemd-timesyncd touches each time that it has asked a server.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// It asks once in 34 minutes at least.
const TIMESYNCD_ASKS: Duration = Duration::from_hours(1);

/// Where chronyd listens for chronyc, as long as it runs.
const CHRONYD: &[&str] = &["/run/chrony/chronyd.sock", "/var/run/chrony/chronyd.sock"];

/// The kernel's first namespace of processes: that of the host.
const HOST: &str = "pid:[4026531836]";

/// A clock that differs by less from that of a peer, in seconds, agrees with it.
const AGREES: f64 = 1.0;

/// What is seen of time services beside the kernel's own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// systemd-timesyncd has asked a server not long ago.
    pub timesyncd: bool,
    /// chronyd runs.
    pub chronyd: bool,
    /// This is a container: what runs on the host cannot be seen.
    pub container: bool,
}

impl Signs {
    /// Those of this host, or container.
    pub fn here() -> Self {
        let asked = fs::metadata(TIMESYNCD).and_then(|file| file.modified()).ok();
        let recently = |at: SystemTime| at.elapsed().is_ok_and(|ago| ago < TIMESYNCD_ASKS);
        Self {
            timesyncd: asked.is_some_and(recently),
            chronyd: CHRONYD.iter().any(|socket| Path::new(socket).exists()),
            container: fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own != Path::new(HOST)),
        }
    }
}

/// The state of the wall clock. `trusted`: the operator says that it is right.
pub fn wall_clock(trusted: bool, signs: Signs) -> Option<WallClock> {
    // SAFETY: the structure consists of numbers, for which zero is a valid value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer leads to a live structure; with no mode set, the call changes nothing else.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    Errno::result(state).ok()?;
    let source = if timex.status & libc::STA_UNSYNC == 0 {
        Some(ClockSource::Kernel)
    } else if signs.timesyncd {
        Some(ClockSource::Timesyncd)
    } else {
        trusted.then_some(ClockSource::Operator)
    };
    Some(WallClock { synchronised: source.is_some(), max_error_seconds: timex.maxerror as f64 / 1e6, source })
}

/// What to say of a clock that nothing is known to keep right.
pub(super) fn doubt(status: &Status, signs: Signs) -> String {
    let (what, way) = if signs.chronyd {
        (
            "chronyd runs here, but has not told the kernel that the wall clock is right",
            "look whether it has found a server (`chronyc tracking`), and add rtcsync to its configuration",
        )
    } else if signs.container {
        (
            "the kernel knows of no time service that keeps the wall clock right, and from inside this container it cannot \
             be seen whether the host has another one",
            "run chrony or systemd-timesyncd on the host, or, if it is kept right there, set clock = \"trusted\"",
        )
    } else {
        (
            "the kernel knows of no time service that keeps the wall clock right",
            "run one such as chrony or systemd-timesyncd, or, if something else keeps it right, set clock = \"trusted\"",
        )
    };
    format!(
        "{what}: the clocks of both ends must agree to within a slot, or with [listen] and [[server]] to within a window; \
         {way}{}",
        witnesses(status)
    )
}

/// The peers whose clocks agree with this one, in words. A client goes by its server's clock, so a server learns nothing.
fn witnesses(status: &Status) -> String {
    let agrees = |offset: f64| offset.abs() < AGREES;
    let peers =
        status.peers.iter().filter(|peer| peer.state == PeerState::Open && agrees(peer.clock_offset_seconds));
    let servers = status.sessions.iter().filter(|session| {
        session.role == SessionRole::Client
            && session.state == SessionState::Open
            && session.clock_offset_seconds.is_some_and(agrees)
    });
    match peers.count() + servers.count() {
        0 => String::new(),
        1 => ". At present it agrees with the clock of the peer that is heard".to_owned(),
        several => format!(". At present it agrees with the clocks of {several} peers that are heard"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::sample;
    use crate::status::Session;

    #[test]
    fn what_is_said_of_a_doubtful_clock_is_what_is_known() {
        let mut status = sample();
        status.peers.clear();
        status.sessions.clear();
        let said = |status: &Status, signs| doubt(status, signs);
        let host = said(&status, Signs::default());
        assert!(host.contains("run one such as chrony") && !host.contains("container"), "{host}");
        let container = said(&status, Signs { container: true, ..Signs::default() });
        assert!(
            container.contains("cannot be seen") && container.contains("clock = \"trusted\""),
            "{container}"
        );
        let chrony = said(&status, Signs { chronyd: true, container: true, ..Signs::default() });
        assert!(chrony.contains("rtcsync") && !chrony.contains("container"), "{chrony}");
        assert!(!host.contains("At present"), "nobody is heard");
    }

    #[test]
    fn peers_that_are_heard_confirm_the_clock() {
        let with = |role, offset| Status {
            sessions: vec![Session {
                role,
                state: SessionState::Open,
                clock_offset_seconds: Some(offset),
                ..Session::unknown()
            }],
            ..sample()
        };
        let confirmed = |status: &Status| doubt(status, Signs::default()).contains("At present it agrees");
        assert!(confirmed(&with(SessionRole::Client, -0.01)));
        assert!(!confirmed(&with(SessionRole::Client, 7.0)));
        assert!(!confirmed(&with(SessionRole::Server, 0.0)), "clients go by this clock");
    }

    #[test]
    fn an_operator_may_vouch_for_the_clock() {
        assert!(wall_clock(true, Signs::default()).unwrap().synchronised);
        let clock = wall_clock(false, Signs { timesyncd: true, ..Signs::default() }).unwrap();
        assert!(clock.synchronised && clock.source != Some(ClockSource::Operator));
    }
}
