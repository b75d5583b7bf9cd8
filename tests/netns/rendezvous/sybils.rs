//! Nodes of the DHT that lie to a client about its server's introduction.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mainline::{MutableItem, SigningKey};
use mtd::keys::SecretKey;
use mtd::proto::rendezvous::{Introduction, NONCE_BYTES, Rendezvous, Shared, window_start};
use mtd_tests::dht::Sybil;
use mtd_tests::topology::TopologyOptions;

use super::insider::Insider;
use super::watch::received_drops;
use super::world::{Who, World};

/// How often the client looks for its server.
const TIMES: u64 = 4;

#[test]
fn a_client_among_sybils_takes_none_of_their_items_and_connects() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    world.begin_in_window(Duration::from_hours(1), Duration::from_mins(5))?;
    world.start(Who::Server)?;
    world.wait_published(1)?;
    let (rendezvous, window) = common(&mut world)?;
    // Items that the client would accept if they were signed by the server, or sealed for this client.
    let honest = Insider::learn(&mut world, Who::Alice)?.introduction().clone();
    let newer = other(&honest, honest.published_ms + 3_600_000)?;
    let seal = |introduction: &Introduction, rendezvous: &Rendezvous| -> Result<Vec<u8>> {
        Ok(introduction.seal(rendezvous, [7; NONCE_BYTES])?.to_vec())
    };
    let seq = |introduction: &Introduction| i64::try_from(introduction.published_ms);
    let signing = SigningKey::from_bytes(rendezvous.item_seed());
    let value = seal(&newer, &rendezvous)?;
    let real = MutableItem::new(signing.clone(), &value, seq(&newer)?, None);
    let forged = MutableItem::new_signed_unchecked(*real.key(), [3; 64], &value, seq(&newer)?, None);
    let stranger = Shared::new(&SecretKey::generate()?, &world.public(Who::Server)).context("a weak key")?;
    let elsewhere = stranger.rendezvous(&world.public(Who::Server), &world.public(Who::Alice), window);
    let foreign = MutableItem::new(signing.clone(), &seal(&newer, &elsewhere)?, seq(&newer)?, None);
    let oversized = MutableItem::new(signing.clone(), &[1; 990], seq(&newer)?, None);
    let old = other(&honest, honest.published_ms - 60_000)?;
    let stale = MutableItem::new(signing, &seal(&old, &rendezvous)?, seq(&old)?, None);

    let start = |item| world.netns(Who::Alice).enter(|| Sybil::start(item))?;
    let sybils = [start(forged)?, start(foreign)?, start(oversized)?, start(stale)?];
    let mut bootstrap: Vec<_> = sybils.iter().map(Sybil::address).collect();
    bootstrap.extend(world.extra.dht.bootstrap());
    world.setup_mut(Who::Alice).bootstrap = bootstrap;
    let mut refused = BTreeMap::new();
    for _ in 0..TIMES {
        world.start(Who::Alice)?;
        world.wait_open(Who::Alice)?;
        let found = world.status(Who::Alice)?.rendezvous.context("no rendezvous")?;
        for (reason, count) in found.rejected {
            *refused.entry(reason).or_insert(0) += count;
        }
        world.stop(Who::Alice)?;
    }
    println!("lies told: {:?}; refused: {refused:?}", sybils.each_ref().map(Sybil::told));
    ensure!(sybils.iter().all(|sybil| sybil.told() > 0), "{sybils:?}");
    for reason in ["invalid", "foreign", "wrong_length"] {
        ensure!(refused.contains_key(reason), "{reason}: {refused:?}");
    }
    // A client that believed a lie would send its requests to addresses that are not the server's.
    let (handshakes, drops) = (world.handshakes()?, received_drops(&world)?);
    ensure!(handshakes.refused.is_empty() && handshakes.answered >= TIMES, "{handshakes:?}");
    ensure!(!drops.contains_key("unknown_address"), "{drops:?}");
    Ok(())
}

/// The secrets that server and client share in the present window, and the window's start.
fn common(world: &mut World) -> Result<(Rendezvous, u64)> {
    let window = window_start(world.now()? / 1_000_000_000, world.window()?.as_secs());
    let (server, client) = (world.public(Who::Server), world.public(Who::Alice));
    let shared = Shared::new(&world.setup_mut(Who::Server).identity, &client).context("a weak key")?;
    Ok((shared.rendezvous(&server, &client, window), window))
}

/// An introduction of the same server with another key and seed, published at another time.
fn other(introduction: &Introduction, published_ms: u64) -> Result<Introduction> {
    Ok(Introduction { key: SecretKey::generate()?, seed: [1; 8], published_ms, ..introduction.clone() })
}
