//! Traffic across many slot edges.

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::{Delivery, TopologyOptions};

use super::at_once;
use super::world::{Inner, Role, World};

/// Number of slot edges that the traffic must cross.
const EDGES: u64 = 20;

#[derive(Debug)]
struct Case {
    mode: &'static str,
    delivery: Delivery,
    client_prefix_len: u8,
    server_prefix_len: u8,
    inner: Inner,
    xdp: &'static str,
}

/// TCP both ways and 1,000 UDP packets per second each way, over more than [`EDGES`] slot edges.
fn cross_edges(case: &Case) -> Result<()> {
    let mut world = World::new(
        case.mode,
        &TopologyOptions {
            delivery: case.delivery,
            client_prefix_len: case.client_prefix_len,
            server_prefix_len: case.server_prefix_len,
            ..TopologyOptions::default()
        },
    )?;
    for role in [Role::Client, Role::Server] {
        let setup = world.setup_mut(role);
        setup.extra = format!("xdp = \"{}\"\n", case.xdp);
    }
    world.start_all()?;
    world.wait_open()?;

    let roles = [Role::Client, Role::Server];
    let first: Vec<_> = roles.iter().map(|role| world.peer(*role)).collect::<Result<_>>()?;
    let load = world.load(Role::Client, case.inner)?;
    for (role, first) in roles.iter().zip(&first) {
        // One slot more, since part of the first slot was over when the traffic began.
        world.wait_for_slot(*role, first.slot + EDGES + 1)?;
    }
    let report = load.stop()?;
    println!("{case:?}: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&world.hosts())?;
    for (role, first) in roles.into_iter().zip(&first) {
        let status = world.status(role)?;
        ensure!(
            status.xdp == if case.xdp == "auto" { "native" } else { case.xdp },
            "{role:?} runs {}",
            status.xdp
        );
        let last = &status.peers[0];
        ensure!(last.mode == case.mode);
        ensure!(last.local != first.local && last.remote != first.remote, "{role:?} did not move: {last:?}");
    }
    Ok(())
}

/// Delivery, prefix lengths of client and server, IP version of inner packets, XDP mode.
type Variant = (Delivery, u8, u8, Inner, &'static str);

fn cross_edges_in(mode: &'static str, variants: [Variant; 3]) -> Result<()> {
    let cases = variants.map(|(delivery, client_prefix_len, server_prefix_len, inner, xdp)| Case {
        mode,
        delivery,
        client_prefix_len,
        server_prefix_len,
        inner,
        xdp,
    });
    at_once(&cases, |case| cross_edges(case).with_context(|| format!("{case:?}")))
}

#[test]
fn in_encrypt_mode_traffic_crosses_slot_edges_unharmed() -> Result<()> {
    cross_edges_in(
        "encrypt",
        [
            (Delivery::Routed, 64, 64, Inner::V6, "auto"),
            (Delivery::OnLink, 80, 96, Inner::V4, "auto"),
            (Delivery::Routed, 96, 80, Inner::V6, "generic"),
        ],
    )
}

#[test]
fn in_authenticate_mode_traffic_crosses_slot_edges_unharmed() -> Result<()> {
    cross_edges_in(
        "authenticate",
        [
            (Delivery::Routed, 80, 96, Inner::V4, "auto"),
            (Delivery::OnLink, 64, 64, Inner::V6, "auto"),
            (Delivery::OnLink, 96, 80, Inner::V4, "native"),
        ],
    )
}
