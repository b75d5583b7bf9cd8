//! `--policy monitor`, `mtd policy`, and the list of what is allowed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use mtd_tests::inject::{Injector, Interface};
use mtd_tests::packet::{Path, tcp_syn};
use mtd_tests::runner::alone;

use super::operator::{SSH, Site};
use crate::lifecycle::bench::{PATIENCE, assert_success};

#[test]
fn monitoring_passes_and_counts_and_becomes_dark_without_a_gap() -> Result<()> {
    let site = Site::new()?;
    let (bench, ifname) = (&site.bench, site.bench.ifname());
    let mut login = site.login()?;
    assert_success(&bench.mtd_with_config(&["attach", ifname, "--policy", "monitor"])?);
    assert!(login.types(PATIENCE)? && site.is_open()?, "nothing is lost");
    let status = site.status()?;
    assert!(status.drops.is_empty(), "{:?}", status.drops);
    assert!(status.would_drop.get("tcp") >= Some(&3), "{:?}", status.would_drop);
    assert_eq!((status.guard.policy.as_str(), status.guard.enforced), ("monitor", false));
    assert!(site.says(&["status"])?.contains("NOT DARK: policy monitor"));
    let text = site.says(&["drops"])?;
    assert!(text.contains("would be dropped") && text.contains("  tcp"), "{text}");

    let objects = bench.objects()?;
    assert!(site.says(&["policy", ifname, "dark"])?.contains("policy dark"));
    assert!(login.is_stuck()? && !site.is_open()?, "dark");
    assert_eq!(bench.objects()?, objects, "the same programs and maps");
    let (monitored, status) = (status, site.status()?);
    assert!(status.guard.enforced && status.drops.contains_key("tcp"), "{status:?}");
    assert!(status.would_drop["tcp"] >= monitored.would_drop["tcp"], "what was counted stays");

    // Now with a controller, which keeps the policy that it finds.
    assert_success(&bench.mtd(&["policy", ifname, "monitor"])?);
    let mut controller = bench.start()?;
    assert!(controller.process.log().contains("NOT dark"), "{}", controller.process.log());
    assert!(login.types(PATIENCE)?, "the connection has outlived it");
    assert_success(&bench.mtd(&["policy", ifname, "dark"])?);
    assert!(!site.is_open()?, "dark, by the controller");
    assert_success(&bench.mtd(&["policy", ifname, "monitor"])?);
    assert!(site.is_open()?);
    let text = site.says(&["policy", ifname, "dark", "--confirm-within", "60s"])?;
    assert!(text.contains("60 s") && text.contains("mtd confirm"), "{text}");
    assert!(!site.is_open()?);
    assert_success(&bench.mtd(&["confirm"])?);
    controller.stop()?;
    assert!(!site.is_open()?, "attached to stay, dark to stay");
    assert_success(&bench.mtd(&["detach", ifname])?);
    Ok(())
}

#[test]
fn the_file_has_its_way_at_each_start() -> Result<()> {
    let mut site = Site::new()?;
    site.bench.setup.extra = "policy = \"monitor\"\n".to_owned();
    let mut controller = site.bench.start()?;
    assert!(site.is_open()? && !site.status()?.guard.enforced);
    assert_success(&site.bench.mtd(&["policy", site.bench.ifname(), "dark"])?);
    assert!(!site.is_open()?);
    controller.process.kill()?;
    let mut controller = site.bench.start()?;
    assert!(site.is_open()?, "as the file says");
    controller.stop().map(drop)
}

#[test]
fn exactly_what_is_allowed_gets_through_also_in_a_flood() -> Result<()> {
    alone("the flood takes a processor")?;
    let mut site = Site::new()?;
    site.bench.setup.extra = format!("allow = [\"{} tcp/{SSH}\"]\n", site.desk());
    let bench = &site.bench;
    let mut login = site.login()?;
    assert_success(&bench.mtd_with_config(&["attach", bench.ifname()])?);
    assert_eq!(site.status()?.guard.allow, [format!("{} tcp/{SSH}", site.desk())]);

    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| flood(&site, &over));
        let tried = (|| -> Result<()> {
            for _ in 0..5 {
                assert!(login.types(PATIENCE)? && site.is_open()?, "what is allowed");
                assert!(site.connect(site.operator(), SSH + 1)?.is_none(), "another port");
                assert!(site.connect(&bench.topology.client.netns, SSH)?.is_none(), "another source");
                assert_eq!(site.operator().ping(site.host.into(), 1)?.received, 0, "another protocol");
            }
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        let sent = flood.join().expect("the flood")?;
        tried?;
        let status = site.status()?;
        assert!(sent > 1_000 && status.drops["tcp"] >= sent, "{sent} sent, {:?}", status.drops);
        assert!(status.frames.allowed > 10 && status.would_drop.is_empty(), "{status:?}");
        Ok(())
    })?;
    assert_success(&bench.mtd(&["detach", bench.ifname()])?);
    Ok(())
}

/// Sends SYNs of strangers from the operator's segment until it is over. Returns how many.
fn flood(site: &Site, over: &AtomicBool) -> Result<u64> {
    let scanner = &site.bench.topology.scanner;
    let injector = Injector::open(&scanner.netns, &scanner.ifname)?;
    let server = Interface::resolve(site.bench.netns(), site.bench.ifname())?.mac;
    let path = Path::new(injector.interface().mac, server, "2001:db8:bad::1".parse()?, site.host);
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        for nth in 0..50 {
            injector.send(&tcp_syn(&path, 40_000 + nth, SSH, 1))?;
            sent += 1;
        }
        // The pause limits the flood to some ten thousand packets a second, since other tests may be running.
        thread::sleep(Duration::from_millis(2));
    }
    Ok(sent)
}
