//! The web view of hosts that found each other through a DHT.

use anyhow::Result;
use mtd_tests::browser::Browser;
use mtd_tests::topology::TopologyOptions;

use super::world::{Who, World};

#[test]
fn pages_show_the_rendezvous_and_the_sessions_that_came_of_it() -> Result<()> {
    let mut world = World::new(&TopologyOptions::default())?;
    for who in [Who::Server, Who::Alice] {
        world.setup_mut(who).top.insert("web", "{}".to_owned());
    }
    world.open_all()?;
    for (who, row, rendezvous) in [
        (Who::Server, "alice\\s+client\\s+open", "Role\\s+server.*Published\\s+[1-9]"),
        (Who::Alice, "home\\s+server\\s+open", "Role\\s+client.*Fetched\\s+[1-9]"),
    ] {
        let mut browser = Browser::start(world.netns(who))?;
        browser.visit(world.mtd(who, &["web"])?.trim())?;
        browser.wait_for(&format!("/{row}/.test(document.getElementById('session-rows').innerText)"))?;
        let text = "document.getElementById('rendezvous').innerText";
        browser.wait_for(&format!("/{rendezvous}/s.test({text}) && /DHT\\s+answers/.test({text})"))?;
        assert_eq!(browser.complaints()?, Vec::<String>::new());
    }
    Ok(())
}
