//! Network managers and people that change the tunnel device while it is in use.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::netns::Netns;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use crate::sessions::at_once;
use crate::sessions::world::{Inner, Role, World};

const PATIENCE: Duration = Duration::from_secs(10);

/// What somebody does, as arguments of `ip`, one command after the other.
type Change = &'static [&'static str];

/// In two lots, since five repairs within a minute are a fight.
const CHANGES: [[Change; 4]; 2] = [
    [
        &["link set dev mtd0 down", "link set dev mtd0 up"],
        &["route flush dev mtd0", "-6 route flush dev mtd0"],
        &["link set dev mtd0 address 02:00:00:00:00:77"],
        &["link delete dev mtd0"],
    ],
    [
        &["address flush dev mtd0"],
        &["link set dev mtd0x down"],
        &["link set dev mtd0 mtu 1300", "link set dev mtd0x mtu 1300"],
        &["link set dev mtd0 netns ELSEWHERE"],
    ],
];

fn change(netns: &Netns, change: Change, elsewhere: &Netns) -> Result<()> {
    for command in change {
        let command = command.replace("ELSEWHERE", elsewhere.name());
        netns.run(&command.split(' ').collect::<Vec<_>>()).with_context(|| command.clone())?;
    }
    Ok(())
}

fn repairs(world: &World) -> Result<u64> {
    Ok(world.status(Role::Client)?.tunnel_repairs.count)
}

#[test]
fn whatever_happens_to_the_tunnel_device_is_repaired() -> Result<()> {
    at_once(&CHANGES, |changes| {
        let world = World::open("encrypt", &TopologyOptions::default())?;
        let elsewhere = Netns::new("elsewhere")?;
        let client = world.netns(Role::Client);
        for (before, what) in (0..).zip(changes) {
            ensure!(repairs(&world)? == before, "nobody has changed anything: {}", world.explain());
            change(client, what, &elsewhere)?;
            wait_until("the repair", PATIENCE, || Ok(repairs(&world)? > before))
                .with_context(|| format!("{what:?}: {}", world.explain()))?;
            for inner in [Inner::V4, Inner::V6] {
                client
                    .wait_reachable(world.address(Role::Server, inner), PATIENCE)
                    .with_context(|| format!("{what:?}, {inner:?}: {}", world.explain()))?;
            }
        }
        let status = world.status(Role::Client)?;
        ensure!(status.warnings.iter().all(|warning| warning.code != "tunnel_contested"), "{status:?}");
        let events = world.controller(Role::Client)?.command(client, &["events"])?;
        let told = String::from_utf8_lossy(&events.stdout).matches("repair ").count();
        ensure!(told >= changes.len(), "{events:?}");
        ensure!(
            world.status_text(Role::Client)?.contains("repaired"),
            "{}",
            world.status_text(Role::Client)?
        );
        // A clean stop removes what was made anew.
        let mut world = world;
        world.stop(Role::Client)?;
        let links = world.netns(Role::Client).run(&["link"])?;
        ensure!(!links.contains("mtd0"), "{links}");
        Ok(())
    })
}

#[test]
fn a_program_that_keeps_changing_the_tunnel_device_is_named_and_left_alone() -> Result<()> {
    let world = World::open("encrypt", &TopologyOptions::default())?;
    let client = world.netns(Role::Client);
    let contested = || Ok(world.status(Role::Client)?.tunnel_repairs.contested);
    wait_until("mtd to give way", PATIENCE, || {
        // No error: it may be gone already.
        let _ = client.run(&["address", "flush", "dev", "mtd0"]);
        contested()
    })
    .with_context(|| world.explain())?;
    let status = world.status(Role::Client)?;
    let warning = status.warnings.iter().find(|warning| warning.code == "tunnel_contested");
    let warning = warning.with_context(|| format!("no warning in {status:?}"))?;
    ensure!(warning.text.contains("mtd0") && warning.text.contains("ip -t monitor"), "{warning:?}");
    ensure!(world.log(Role::Client)?.contains("another program keeps changing mtd0"), "{}", world.explain());
    Ok(())
}
