//! The web view, in a real browser and with clients that do not read.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd_tests::browser::Browser;
use mtd_tests::topology::TopologyOptions;
use mtd_tests::wait_until;

use super::PATIENCE;
use super::world::{Inner, Role, World};

/// Address of the server's web view.
pub(super) const PLACE: &str = "[::1]:8674";

/// The path of a screenshot.
fn artefact(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("web").join(name)
}

/// Two controllers with a session, the server with a web view.
fn open() -> Result<World> {
    let mut world = World::new("encrypt", &TopologyOptions::default())?;
    world.setup_mut(Role::Server).extra = format!("[web]\nlisten = \"{PLACE}\"\n");
    world.start_all()?;
    world.wait_open()?;
    Ok(world)
}

/// The link that `mtd web` prints.
pub(super) fn link(world: &World) -> Result<String> {
    let mut command = world.netns(Role::Server).command(mtd_tests::controller::mtd_program()?)?;
    let output = command.arg("web").output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

const OWN: &str = "document.querySelector('[data-label=\"This host is at\"] .now')?.textContent ?? ''";
const OTHER: &str = "document.querySelector('[data-label=\"The other end is at\"] .now')?.textContent ?? ''";

#[test]
fn the_page_shows_addresses_as_they_move() -> Result<()> {
    let mut world = open()?;
    let link = link(&world)?;
    let mut browser = Browser::start(world.netns(Role::Server))?;
    browser.look(1200, 1000, false)?;
    browser.visit(&link)?;
    browser.wait_for("document.getElementById('state').textContent === 'Live'")?;
    browser.wait_for(&format!("({OWN}).startsWith('[')"))?;

    // The page shows the session's present addresses, as the controller reports them, and then moves on at both ends.
    let mut own = Vec::new();
    for _ in 0..3 {
        let mut shown = None;
        wait_until("the page to show the present addresses", PATIENCE, || {
            let peer = world.peer(Role::Server)?;
            let place = |end: mtd::status::Endpoint| format!("[{}]:{}", end.address, end.port);
            let now = browser.evaluate(OWN)?;
            let right = now == place(peer.local) && browser.evaluate(OTHER)? == place(peer.remote);
            shown = right.then_some(now);
            Ok(right)
        })?;
        let shown = shown.context("nothing shown")?;
        browser.wait_for(&format!("({OWN}) !== {shown}"))?;
        own.push(shown);
    }
    let (last, distinct) = (own.last().context("none")?.clone(), own.windows(2).all(|two| two[0] != two[1]));
    assert!(distinct, "{own:?}");
    browser.wait_for(&format!("document.querySelector('.trail').textContent.includes({last})"))?;

    show_traffic(&world, &mut browser)?;

    // The page shows a warning of `mtd status` for as long as it applies.
    let warned = "document.getElementById('warnings').textContent.includes('lies in a protected prefix')";
    let server = world.host(Role::Server);
    let inside = format!("{}/128", Ipv6Addr::from(u128::from(server.prefix.network()) | 0xbad));
    server.netns.run(&["address", "add", &inside, "dev", &server.ifname, "nodad"])?;
    browser.wait_for(&format!("{warned} && !document.getElementById('warnings').hidden"))?;
    server.netns.run(&["address", "del", &inside, "dev", &server.ifname])?;
    browser.wait_for(&format!("!{warned}"))?;

    use_keyboard(&world, &mut browser)?;

    // Nothing was loaded from other sites, the content security policy blocked nothing, and the token is not in the address.
    assert_eq!(browser.complaints()?, Vec::<String>::new());
    let foreign = "performance.getEntriesByType('resource').filter((one) => !one.name.startsWith(location.origin)).length";
    assert_eq!(browser.evaluate(foreign)?, 0);
    assert_eq!(browser.evaluate("location.href")?, format!("http://{PLACE}/"));

    // The page shows a crash, and continues by itself with the next controller.
    world.kill(Role::Server)?;
    browser.wait_for("document.getElementById('state').dataset.state === 'lost'")?;
    world.start(Role::Server)?;
    browser.wait_for("document.getElementById('state').dataset.state === 'live'")?;
    // After a clean stop another token is needed, and the page says so.
    world.stop(Role::Server)?;
    world.start(Role::Server)?;
    browser.wait_for("document.getElementById('notice').textContent.includes('mtd web')")?;
    browser.visit(&self::link(&world)?)?;
    browser.wait_for("document.getElementById('state').dataset.state === 'live'")?;
    Ok(())
}

/// Checks that the page shows traffic, and drops with their meaning; in light and dark colours, and on a phone.
fn show_traffic(world: &World, browser: &mut Browser) -> Result<()> {
    let load = world.load(Role::Client, Inner::V6)?;
    let scanner = &world.topology().scanner.netns;
    let dark = u128::from(world.host(Role::Server).prefix.network()) | 0xdead;
    scanner.ping(Ipv6Addr::from(dark).into(), 10)?;
    browser
        .wait_for("/bit\\/s \\([0-9.]+\\s[MG]iB\\)/.test(document.getElementById('overview').innerText)")?;
    browser.wait_for(
        "[...document.querySelectorAll('#drop-rows tr')].some((row) => /^icmpv6\\s+\\S+\\s+10\\s+ICMPv6 .+/s.test(row.innerText))",
    )?;
    browser.wait_for("document.querySelectorAll('#chart rect').length > 0")?;
    drop(load);
    browser.screenshot(&artefact("light.png"))?;
    browser.look(1200, 1000, true)?;
    browser.wait_for("getComputedStyle(document.body).backgroundColor === 'rgb(14, 17, 22)'")?;
    browser.screenshot(&artefact("dark.png"))?;
    // On a phone the page is not wider than the screen.
    browser.look(390, 844, true)?;
    browser.wait_for("document.documentElement.scrollWidth <= 390")?;
    browser.screenshot(&artefact("phone.png"))?;
    Ok(())
}

/// Uses the keyboard: first the link that skips the header, then the button that pauses the page.
fn use_keyboard(world: &World, browser: &mut Browser) -> Result<()> {
    browser.evaluate("document.activeElement.blur()")?;
    browser.press("Tab")?;
    assert_eq!(browser.evaluate("document.activeElement.className")?, "skip");
    browser.press("Tab")?;
    browser.press("Enter")?;
    browser.wait_for("document.getElementById('pause').getAttribute('aria-pressed') === 'true'")?;
    let paused = browser.evaluate(OWN)?;
    let slot = world.peer(Role::Server)?.slot;
    world.wait_for_slot(Role::Server, slot + 3)?;
    assert_eq!(browser.evaluate(OWN)?, paused);
    browser.press("Enter")?;
    browser.wait_for(&format!("({OWN}) !== {paused}"))?;
    Ok(())
}

/// Sends a request and never reads the answer.
pub(super) fn absent_reader(token: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(PLACE)?;
    write!(stream, "GET /events HTTP/1.1\r\nHost: {PLACE}\r\nAuthorization: Bearer {token}\r\n\r\n")?;
    Ok(stream)
}

#[test]
fn readers_that_do_not_read_slow_nobody() -> Result<()> {
    let world = open()?;
    let link = link(&world)?;
    let token = link.split('#').nth(1).context("no token")?;
    let netns = world.netns(Role::Server);
    let readers =
        netns.enter(|| (0..64).map(|_| absent_reader(token)).collect::<std::io::Result<Vec<_>>>())??;
    // Tunnel and controller are not affected: slots continue to be loaded, and the control socket answers.
    let slot = world.peer(Role::Server)?.slot;
    let report = world.netns(Role::Client).ping(world.end(Role::Server).v6.into(), 10)?;
    assert_eq!(report.received, 10);
    world.wait_for_slot(Role::Server, slot + 3)?;
    let peer = world.peer(Role::Server)?;
    assert!(peer.slots_ahead >= 50, "{peer:?}");
    world.require_no_session_drops(&world.hosts())?;
    // Some readers follow, others were refused because there are too many. Once they are gone, there is room again.
    drop(readers);
    wait_until("room for another reader", PATIENCE, || {
        let answer = netns.enter(|| {
            let mut stream = absent_reader(token)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut start = [0; 15];
            stream.read_exact(&mut start).map(|()| start)
        })?;
        Ok(answer.is_ok_and(|start| &start == b"HTTP/1.1 200 OK"))
    })?;
    Ok(())
}
