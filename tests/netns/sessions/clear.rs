//! Inner packets in the clear: there are none while the programs are attached. After a clean stop there are some, unless a
//! route prevents that.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::capture::{Capture, CaptureOptions};
use mtd_tests::topology::TopologyOptions;
use mtd_tests::traffic::{Flows, contains_marker};

use super::world::{Role, World};

/// Longer than TCP takes for two retransmissions.
const AWAY: Duration = Duration::from_secs(2);

/// How a controller goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

/// The number of frames with inner contents in the clear on the server's cable while its controller is not running.
fn in_the_clear(world: &mut World, flows: &Flows, end: End) -> Result<usize> {
    let (router, tap) = (&world.topology().router, &world.host(Role::Server).tap_ifname);
    let capture = Capture::start(router, tap, &CaptureOptions::default())?;
    match end {
        End::Kill => world.kill(Role::Server)?,
        End::Stop => world.stop(Role::Server)?,
    }
    thread::sleep(AWAY);
    world.start(Role::Server)?;
    flows.wait_all().with_context(|| world.explain())?;
    let report = capture.stop()?;
    ensure!(report.kernel_drops == 0 && report.over_limit == 0, "the capture is not complete");
    ensure!(!report.frames.is_empty(), "nothing was captured");
    Ok(report.frames.iter().filter(|frame| contains_marker(&frame.data)).count())
}

#[test]
fn what_a_clean_stop_sends_in_the_clear_an_unreachable_route_keeps_in() -> Result<()> {
    let mut world = World::open("encrypt", &TopologyOptions::default())?;
    let flows = Flows::start(&world.ways(), Duration::from_secs(30))?;
    flows.wait_all()?;
    assert_eq!(in_the_clear(&mut world, &flows, End::Kill)?, 0, "the programs are there");
    // As with every tunnel whose device disappears, the host then uses its next best route, the default route.
    assert!(in_the_clear(&mut world, &flows, End::Stop)? > 0, "nothing to keep in");
    // The route that docs/operations.md recommends.
    let netns = world.netns(Role::Server);
    netns.run(&["-6", "route", "add", "unreachable", "fd00:6d74::/64", "metric", "4096"])?;
    assert_eq!(in_the_clear(&mut world, &flows, End::Stop)?, 0);
    flows.stop()?.require_unbroken()
}
