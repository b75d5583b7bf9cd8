//! Configurations that do not match: nothing passes, and the operator is told why.

use anyhow::{Context as _, Result, ensure};
use mtd::status::PeerState;
use mtd_tests::capture::{Capture, CaptureOptions};
use mtd_tests::controller::Session;
use mtd_tests::topology::{Delivery, TopologyOptions};

use super::at_once;
use super::world::{Inner, Role, World};

const DEVICE: &str = "mtd0";

/// What both ends are told if each sends to addresses that the other never has.
const UNKNOWN: Told = Told {
    from_prefix: Some("unknown_address"),
    dropped: "unknown_address",
    hint: "compare key, seeds, period, mode and prefixes",
};

/// What an operator is told at one end.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// The drop reason counted for the peer, if packets come from its prefix as it is configured here.
    from_prefix: Option<&'static str>,
    /// The drop reason counted for the host; empty if no packet comes at all.
    dropped: &'static str,
    hint: &'static str,
}

struct Case {
    what: &'static str,
    delivery: Delivery,
    /// What is wrong in the client's configuration.
    spoil: fn(&mut World) -> Result<()>,
    client: Told,
    server: Told,
}

fn refuses(case: &Case) -> Result<()> {
    let options = TopologyOptions { delivery: case.delivery, ..TopologyOptions::default() };
    let mut world = World::new("encrypt", &options)?;
    (case.spoil)(&mut world)?;
    world.start_all()?;
    let capture = |role| Capture::start(world.netns(role), DEVICE, &CaptureOptions::default());
    let captures = [capture(Role::Client)?, capture(Role::Server)?];
    for inner in [Inner::V6, Inner::V4] {
        for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
            let report = world.netns(from).ping(world.address(to, inner), 5)?;
            ensure!(report.sent == 5 && report.received == 0, "{from:?} to {to:?}: {report:?}");
        }
    }
    for capture in captures {
        let delivered = capture.stop()?.frames.into_iter().filter(|frame| !frame.outgoing).count();
        ensure!(delivered == 0, "{delivered} inner packets were delivered");
    }
    for (role, told) in [(Role::Client, &case.client), (Role::Server, &case.server)] {
        require_told(&world, role, told).with_context(|| format!("{role:?} {}", world.explain()))?;
    }
    Ok(())
}

fn require_told(world: &World, role: Role, told: &Told) -> Result<()> {
    let status = world.status(role)?;
    let peer = &status.peers[0];
    ensure!(status.frames.accepted == 0 && peer.received.packets == 0, "something was accepted");
    ensure!(status.frames.sent > 0, "nothing was sent, so nothing was tried");
    ensure!(peer.state == PeerState::Waiting && peer.last_valid_seconds.is_none(), "it is not waiting");
    ensure!(told.dropped.is_empty() || status.drops.get(told.dropped).is_some_and(|&n| n > 0), "not counted");
    match told.from_prefix {
        Some(reason) => {
            let only = peer.dropped_from_prefix.keys().eq([reason]);
            ensure!(only && peer.dropped_from_prefix[reason] > 0, "not counted for the peer");
        }
        None => ensure!(peer.dropped_from_prefix.is_empty(), "counted for the peer"),
    }
    ensure!(peer.hint.as_ref().is_some_and(|hint| hint.contains(told.hint)), "the hint does not help");
    // The text for people says the same.
    let text = world.status_text(role)?.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in ["waiting", "never", told.dropped, told.hint] {
        ensure!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    Ok(())
}

/// The session as the client believes it to be.
fn session(world: &mut World) -> &mut Session {
    &mut world.setup_mut(Role::Client).peers[0].0
}

fn run(cases: &[Case]) -> Result<()> {
    at_once(cases, |case| refuses(case).context(case.what))
}

#[test]
fn with_another_key_period_or_mode_nothing_passes_and_status_says_why() -> Result<()> {
    run(&[
        Case {
            what: "another key",
            delivery: Delivery::Routed,
            spoil: |world| {
                *session(world) = Session::new("encrypt")?;
                Ok(())
            },
            client: UNKNOWN,
            server: UNKNOWN,
        },
        Case {
            what: "another period",
            delivery: Delivery::Routed,
            spoil: |world| {
                "2s".clone_into(&mut session(world).period);
                Ok(())
            },
            client: UNKNOWN,
            server: UNKNOWN,
        },
        Case {
            what: "another mode",
            delivery: Delivery::Routed,
            spoil: |world| {
                "authenticate".clone_into(&mut session(world).mode);
                Ok(())
            },
            client: UNKNOWN,
            server: UNKNOWN,
        },
    ])
}

#[test]
fn with_seeds_exchanged_or_other_prefixes_nothing_passes_and_status_says_why() -> Result<()> {
    // The peer's addresses are derived wrongly: packets from the peer have the right destination, but an unexpected source.
    let elsewhere = Told {
        from_prefix: None,
        dropped: "wrong_peer",
        hint: "is its prefix configured here as it is there",
    };
    run(&[
        Case {
            what: "seeds exchanged",
            delivery: Delivery::Routed,
            spoil: |world| {
                let setup = world.setup_mut(Role::Client);
                std::mem::swap(&mut setup.local.seed, &mut setup.peers[0].1.seed);
                Ok(())
            },
            client: UNKNOWN,
            server: UNKNOWN,
        },
        Case {
            what: "another prefix of the peer",
            delivery: Delivery::Routed,
            spoil: |world| {
                world.setup_mut(Role::Client).peers[0].1.prefix = "2001:db8:5:2::/64".parse()?;
                Ok(())
            },
            client: elsewhere,
            server: Told { from_prefix: None, dropped: "", hint: "nothing has come from" },
        },
        Case {
            what: "another prefix length of the peer",
            delivery: Delivery::Routed,
            spoil: |world| {
                let prefix = &mut world.setup_mut(Role::Client).peers[0].1.prefix;
                *prefix = ipnet::Ipv6Net::new(prefix.network(), 80)?;
                Ok(())
            },
            client: elsewhere,
            server: UNKNOWN,
        },
    ])
}

/// On-link, packets to an address that nobody has are not delivered: only the neighbour solicitations for it arrive.
#[test]
fn on_link_with_another_key_solicitations_stay_unanswered_and_status_says_so() -> Result<()> {
    let asked = Told { from_prefix: None, dropped: "neighbour_dead", hint: "nothing has come from" };
    run(&[Case {
        what: "another key, on-link",
        delivery: Delivery::OnLink,
        spoil: |world| {
            *session(world) = Session::new("encrypt")?;
            Ok(())
        },
        client: asked,
        server: asked,
    }])
}
