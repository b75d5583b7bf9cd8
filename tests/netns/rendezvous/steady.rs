//! From public keys alone to sessions that carry traffic, across many slots and renewals of keys.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::status::{Network, RendezvousRole, SessionRole, SessionState};
use mtd_tests::topology::{Delivery, TopologyOptions};
use mtd_tests::wait_until;

use super::world::{Inner, REKEY, Who, World, quoted};
use crate::sessions::at_once;

/// Number of key renewals that the traffic must survive.
const RENEWALS: u64 = 4;

#[derive(Debug)]
struct Case {
    mode: &'static str,
    delivery: Delivery,
    prefix_len: u8,
    inner: Inner,
}

#[test]
fn who_knows_public_keys_alone_gets_a_session_that_loses_nothing() -> Result<()> {
    let case = |mode, delivery, prefix_len, inner| Case { mode, delivery, prefix_len, inner };
    at_once(
        &[
            case("encrypt", Delivery::Routed, 64, Inner::V6),
            case("encrypt", Delivery::Routed, 80, Inner::V4),
            case("authenticate", Delivery::Routed, 64, Inner::V4),
            case("encrypt", Delivery::OnLink, 96, Inner::V6),
        ],
        |case| carry_traffic(case).with_context(|| format!("{case:?}")),
    )
}

fn carry_traffic(case: &Case) -> Result<()> {
    let Case { mode, delivery, prefix_len, inner } = *case;
    let mut world = World::new(&TopologyOptions {
        delivery,
        client_prefix_len: prefix_len,
        server_prefix_len: prefix_len,
        ..TopologyOptions::default()
    })?;
    world.setup_mut(Who::Server).keys.insert("mode", quoted(mode));
    world.start(Who::Server)?;
    let took = world.start_timed(Who::Alice)?;
    // On an idle machine it takes well below a second.
    ensure!(took < Duration::from_secs(5), "the first inner packet came after {took:?}");
    world.wait_open(Who::Alice)?;

    let first = world.session(Who::Alice)?;
    let before = world.handshakes()?;
    let load = world.load(Who::Alice, inner)?;
    wait_until("the keys to be renewed", REKEY * (RENEWALS as u32 + 2) + Duration::from_secs(20), || {
        Ok(world.handshakes()?.answered >= before.answered + RENEWALS)
    })
    .with_context(|| world.explain())?;
    // Continue for a moment, so that traffic goes through the last session too.
    std::thread::sleep(Duration::from_secs(2));
    let report = load.stop()?;
    println!("{case:?}: first inner packet after {took:.2?}; {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&[Who::Alice, Who::Server])?;

    let handshakes = world.handshakes()?;
    ensure!(
        handshakes.received == handshakes.answered && handshakes.refused.is_empty(),
        "every request came once and was answered: {handshakes:?}"
    );
    require_open(&world, case)?;
    let last = world.session(Who::Alice)?;
    ensure!(last.local != first.local && last.remote != first.remote, "it did not move: {last:?}");
    ensure!(last.tunnel == first.tunnel, "tunnel addresses stay: {first:?}, {last:?}");
    Ok(())
}

/// Checks the output of `mtd sessions` and `mtd status` at both ends.
fn require_open(world: &World, case: &Case) -> Result<()> {
    let near = world.session(Who::Alice)?;
    let far = world.sessions_with(Who::Alice)?;
    let [far] = far.as_slice() else { anyhow::bail!("the server has {far:?}") };
    for (session, role) in [(&near, SessionRole::Client), (far, SessionRole::Server)] {
        ensure!(session.state == SessionState::Open && session.hint.is_none(), "{session:?}");
        ensure!(session.role == role && session.mode.as_deref() == Some(case.mode), "{session:?}");
        ensure!(session.period_seconds == Some(1.0), "{session:?}");
        ensure!(session.rekeyed_seconds.is_some_and(|age| age < 3.0 * REKEY.as_secs_f64()), "{session:?}");
        ensure!(session.received.packets > 0 && session.sent.packets > 0, "{session:?}");
    }
    ensure!(
        near.tunnel.local == far.tunnel.remote && near.tunnel.remote == far.tunnel.local,
        "{near:?} {far:?}"
    );
    ensure!(near.prefix == Some(world.host(Who::Server).prefix.into()), "{near:?}");
    ensure!(far.prefix == Some(world.host(Who::Alice).prefix.into()), "{far:?}");

    let (client, server) = (world.status(Who::Alice)?, world.status(Who::Server)?);
    ensure!(server.clients_registered == Some(1) && client.clients_registered.is_none());
    for (status, role) in [(&client, RendezvousRole::Client), (&server, RendezvousRole::Server)] {
        ensure!(status.sessions.len() == 1, "{status:?}");
        let rendezvous = status.rendezvous.as_ref().context("nothing about the rendezvous")?;
        ensure!(rendezvous.role == role && rendezvous.network == Network::Ok, "{rendezvous:?}");
        ensure!(rendezvous.failed == 0 && rendezvous.rejected.is_empty(), "{rendezvous:?}");
    }
    let (published, fetched) =
        (server.rendezvous.map(|it| it.published), client.rendezvous.map(|it| it.fetched));
    ensure!(published >= Some(1) && fetched >= Some(1), "{published:?} published, {fetched:?} fetched");
    Ok(())
}
