//! Names of bootstrap nodes that lead to a hotel's portal, and bootstrap nodes that are gone.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtd::status::Network;
use mtd_tests::dht::PrivateDht;
use mtd_tests::names::NameServer;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::{PATIENCE, rendezvous, wait_network};
use crate::rendezvous::world::{Who, World};
use crate::sessions::at_once;

/// Addresses of the name servers: the server's and the client's.
const NAMES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 201, 1), Ipv4Addr::new(198, 18, 201, 2)];

/// Address of a node of the DHT.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 1);

/// Addresses of the portals of the server's and of the client's hotel: other nodes, which know nobody, if they answer at all.
const PORTALS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 202, 1), Ipv4Addr::new(198, 18, 202, 2)];

/// A world whose hosts know the DHT by names, which lead the server and the client to these addresses.
fn by_names(lead_to: [Option<Ipv4Addr>; 2]) -> Result<(World, [NameServer; 2])> {
    let mut world = World::new(&TopologyOptions::default())?;
    let router = &world.topology().router;
    let [servers, clients] = [0, 1].map(|n| NameServer::start(router, NAMES[n], lead_to[n]));
    let names = [servers?, clients?];
    for (who, names) in [Who::Server, Who::Alice].into_iter().zip(&names) {
        let member = world.setup_mut(who);
        member.bootstrap = ["a.dht.example:6881", "b.dht.example:6881"].map(str::to_owned).into();
        member.resolver = Some(names.resolver());
    }
    Ok((world, names))
}

/// Lets all names lead there.
fn lead_to(names: &[NameServer], address: Ipv4Addr) {
    for names in names {
        names.lead_to(Some(address));
    }
}

/// What the names lead to at first.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// There are no names.
    Nothing,
    /// Nobody answers.
    Silence,
    /// A node answers, takes everything, and has nothing.
    Liar,
}

#[test]
fn names_that_lead_astray_for_a_while_delay_the_session_by_seconds() -> Result<()> {
    at_once(&[Wrong::Nothing, Wrong::Silence, Wrong::Liar], |&wrong| {
        let astray = PORTALS.map(|portal| Some(portal).filter(|_| !matches!(wrong, Wrong::Nothing)));
        let (mut world, names) = by_names(astray)?;
        let router = &world.topology().router;
        let lies = matches!(wrong, Wrong::Liar);
        let liars =
            PORTALS.iter().filter(|_| lies).map(|portal| PrivateDht::in_namespace(router, *portal, 1));
        let liars = liars.collect::<Result<Vec<_>>>()?;
        world.start_all()?;
        match wrong {
            Wrong::Nothing | Wrong::Silence => {
                for who in world.hosts() {
                    wait_network(&world, who, Network::Unreachable)?;
                }
                let said = rendezvous(&world, Who::Alice)?.trouble.context("no trouble")?;
                let expected =
                    if astray[1].is_some() { "no node answers" } else { "no IPv4 address for a.dht" };
                ensure!(said.contains(expected), "{wrong:?}: {said}");
            }
            Wrong::Liar => {
                // The portal takes what the server publishes.
                world.wait_published(1)?;
                wait_network(&world, Who::Alice, Network::Ok)?;
                wait_until("the client to find nothing", PATIENCE, || {
                    Ok(rendezvous(&world, Who::Alice)?.absent > 0)
                })
                .with_context(|| world.explain())?;
            }
        }
        // Long enough that tries have become rare.
        thread::sleep(Duration::from_secs(6));
        ensure!(!world.is_open(Who::Alice)?);
        lead_to(&names, NODE);
        let since = Instant::now();
        world.wait_open(Who::Alice).with_context(|| format!("{wrong:?}"))?;
        let took = since.elapsed();
        println!(
            "{wrong:?}: open {took:.1?} after the names are right, {} questions for names",
            names[1].asked()
        );
        ensure!(took < Duration::from_secs(15), "{wrong:?}: {took:?} {}", world.explain());
        for who in world.hosts() {
            wait_network(&world, who, Network::Ok)?;
        }
        drop(liars);
        Ok(())
    })
}

/// The file in which a host keeps nodes of the DHT.
fn nodes_file(world: &World, who: Who) -> Result<PathBuf> {
    let folder = world.setup(who).folder().join("state/nodes");
    let mut files = fs::read_dir(&folder)?;
    Ok(files.next().with_context(|| format!("{who:?} keeps no nodes"))??.path())
}

#[test]
fn nodes_that_answered_lead_to_the_network_when_no_bootstrap_node_does() -> Result<()> {
    let (mut world, names) = by_names([Some(NODE); 2])?;
    world.open_all()?;
    for who in world.hosts() {
        wait_until("nodes to be kept", PATIENCE, || {
            Ok(rendezvous(&world, who)?.known_nodes >= 3 && nodes_file(&world, who).is_ok())
        })
        .with_context(|| world.explain())?;
        world.stop(who)?;
        let text = fs::read_to_string(nodes_file(&world, who)?)?;
        ensure!(text.contains("198.18.200.") && text.len() < 16 << 10, "{text}");
    }
    // From now on, nobody answers at any bootstrap node.
    lead_to(&names, PORTALS[0]);
    world.start_all()?;
    world.wait_open(Who::Alice)?;

    // A file that is broken is said to be, and costs nothing where the bootstrap nodes answer.
    world.stop(Who::Alice)?;
    fs::write(nodes_file(&world, Who::Alice)?, b"{\"version\":1,\"nodes\":[7]}")?;
    lead_to(&names, NODE);
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    let log = world.controller(Who::Alice)?.process.log();
    ensure!(log.contains("are not used"), "{log}");
    wait_until("the file to be written anew", PATIENCE, || {
        Ok(fs::read_to_string(nodes_file(&world, Who::Alice)?)?.contains("198.18.200."))
    })
    .with_context(|| world.explain())
}
