//! The rules and the table by which everything goes through the tunnel: repaired, protected, told of.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::controller::mtd_program;
use mtd_tests::wait_until;

use super::{Exit, FAR, PATIENCE, WHOLE, require_nothing_in_the_clear, routing, shell};
use crate::rendezvous::world::Who;

/// The number that is taken first.
const FIRST: u32 = 0x6d74;

impl Exit {
    fn repairs(&self) -> Result<u64> {
        Ok(self.world.status(Who::Alice)?.tunnel_repairs.count)
    }

    /// Sends a datagram to the far host in each IP version, whether a route lets it out or not.
    fn try_to_leak(&self) -> Result<()> {
        for to in FAR {
            let any: IpAddr = if to.is_ipv6() { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
            let socket = self.client().enter(|| UdpSocket::bind((any, 0)))??;
            // An error is what a kill switch gives.
            let _ = socket.send_to(b"leak", (to, 9));
        }
        Ok(())
    }
}

#[test]
fn rules_and_routes_that_somebody_removes_are_repaired() -> Result<()> {
    let mut exit = Exit::open(WHOLE)?;
    let good = routing(exit.client())?;
    ensure!(exit.repairs()? == 0, "{}", exit.world.explain());
    // Not more than mtd repairs within a minute: where there are two commands, the second may come after the first repair.
    for change in [
        "ip rule del pref 32700",
        "ip -6 rule del pref 32701",
        "ip route flush table 28020; ip -6 route flush table 28020",
    ] {
        let before = exit.repairs()?;
        shell(exit.client(), change)?;
        wait_until(
            "the repair",
            PATIENCE,
            || Ok(exit.repairs()? > before && routing(exit.client())? == good),
        )
        .with_context(|| format!("{change}: {}", routing(exit.client()).unwrap_or_default()))?;
    }
    exit.require_reached()?;
    exit.stop()
}

#[test]
fn numbers_of_others_are_left_alone() -> Result<()> {
    let mut exit = Exit::new(WHOLE)?;
    // One has the mark, one the table, one routes in a table without a rule.
    exit.ip(&format!("rule add fwmark {FIRST} lookup main pref 900"))?;
    exit.ip(&format!("-6 rule add from 2001:db8:77::/64 lookup {} pref 901", FIRST + 1))?;
    exit.ip(&format!("route add unreachable 198.18.77.0/24 table {}", FIRST + 2))?;
    exit.before = routing(exit.client())?;
    exit.world.start_all()?;
    exit.require_reached()?;
    let mark = exit.world.status(Who::Alice)?.bypass.context("no bypass")?.mark;
    ensure!(mark == FIRST + 3, "{mark:#x}");
    // What others have in a table that is named is not taken either.
    exit.stop()?;
    exit.world.setup_mut(Who::Alice).top.insert("fwmark", (FIRST + 2).to_string());
    let refused = exit.world.start(Who::Alice).unwrap_err();
    ensure!(format!("{refused:#}").contains("holds routes that are not mtd's"), "{refused:#}");
    exit.require_nothing_left()?;
    exit.world.setup_mut(Who::Alice).top.insert("fwmark", quoted_hex(0xca6c));
    exit.world.start(Who::Alice)?;
    exit.require_reached()?;
    ensure!(
        exit.ip("rule show")?.contains("not from all fwmark 0xca6c lookup 51820"),
        "{}",
        exit.ip("rule show")?
    );
    exit.stop()
}

fn quoted_hex(number: u32) -> String {
    format!("\"{number:#x}\"")
}

#[test]
fn with_a_kill_switch_nothing_leaves_in_the_clear_until_a_clean_stop() -> Result<()> {
    let mut exit = Exit::new(WHOLE)?;
    exit.world.setup_mut(Who::Alice).top.insert("kill_switch", "true".to_owned());
    // The server does not run yet: there is no tunnel.
    exit.world.start(Who::Alice)?;
    let capture = exit.watch()?;
    wait_until("the rules", PATIENCE, || Ok(exit.ip("-6 rule show")?.contains("fwmark")))?;
    exit.try_to_leak()?;
    exit.world.start(Who::Server)?;
    exit.require_reached()?;
    ensure!(exit.world.mtd(Who::Alice, &["status"])?.contains("kill switch"));
    // Dead, and somebody takes even the device away.
    exit.world.kill(Who::Alice)?;
    exit.ip("link delete dev mtd0")?;
    for _ in 0..5 {
        exit.try_to_leak()?;
        thread::sleep(Duration::from_millis(100));
    }
    let gateway = exit.world.host(Who::Alice).gateway;
    exit.client().wait_reachable(gateway.into(), PATIENCE)?;
    exit.world.start(Who::Alice)?;
    exit.require_reached()?;
    exit.try_to_leak()?;
    require_nothing_in_the_clear(capture)?;
    exit.stop()?;
    // From now on packets leave as before.
    let capture = exit.watch()?;
    exit.try_to_leak()?;
    let to_far =
        |frame: &mtd_tests::capture::Frame| super::ends(frame).is_some_and(|[_, to]| FAR.contains(&to));
    capture.wait_for(to_far, PATIENCE).map(drop)
}

#[test]
fn check_says_what_is_sent_where() -> Result<()> {
    let exit = Exit::new(WHOLE)?;
    let check = || -> Result<String> {
        let path = exit.world.setup(Who::Alice).write()?;
        let mut command = exit.client().command(mtd_program()?)?;
        let output = command.arg("check").arg("-c").arg(path).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = check()?;
    ensure!(text.contains("0.0.0.0/0") && text.contains("routing table of its own"), "{text}");
    Ok(())
}
