//! Sessions across the end of a window.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::topology::TopologyOptions;

use super::world::{Inner, Who, World, quoted};

const WINDOW: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_secs(5);

#[test]
fn sessions_outlive_their_window_and_the_next_one_has_its_own_introduction() -> Result<()> {
    let mut world = World::new(&TopologyOptions { second_client: true, ..TopologyOptions::default() })?;
    world.setup_mut(Who::Server).keys.insert("introduction_grace", quoted(&format!("{}s", GRACE.as_secs())));
    world.begin_in_window(WINDOW, Duration::from_secs(45))?;
    world.start(Who::Server)?;
    world.start(Who::Alice)?;
    world.wait_open(Who::Alice)?;
    let load = world.load(Who::Alice, Inner::V6)?;
    let begun = world.status(Who::Server)?.rendezvous.context("no rendezvous")?.window_start;

    // Directly after the edge, and when the introduction of the previous window is closed.
    for into in [Duration::from_millis(200), GRACE + Duration::from_secs(1)] {
        world.sleep_into(WINDOW, into)?;
        let took = world.start_timed(Who::Bob)?;
        println!("{into:.1?} into a window: first inner packet after {took:.2?}");
        ensure!(took < Duration::from_secs(5), "{took:?}: {}", world.explain());
        world.wait_open(Who::Bob)?;
        world.stop(Who::Bob)?;
    }
    let rendezvous = world.status(Who::Server)?.rendezvous.context("no rendezvous")?;
    ensure!(rendezvous.window_start == begun + WINDOW.as_secs(), "{rendezvous:?}");
    // Two clients, two windows.
    ensure!(rendezvous.published >= 4 && rendezvous.failed == 0, "{rendezvous:?}");
    thread::sleep(Duration::from_secs(2));
    let report = load.stop()?;
    println!("over the edge of a window: {report}");
    report.require_lossless().with_context(|| world.explain())?;
    world.require_no_session_drops(&[Who::Alice, Who::Server])
}
