//! Names while everything goes through the tunnel: those that mtd itself needs, and the host's.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use mtd_tests::wait_until;

use super::{Exit, HALVES, PATIENCE, WHOLE, shell};
use crate::rendezvous::world::Who;

/// A name server on the router, which has one address for every name.
struct NameServer {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Beyond the client's link.
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 201, 53);

    fn start(exit: &Exit, answer: Ipv4Addr) -> Result<Self> {
        exit.world.router().add_address("lo", IpNet::new_assert(Self::ADDRESS.into(), 32))?;
        let socket = exit.world.router().enter(|| UdpSocket::bind((Self::ADDRESS, 53)))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                counter.fetch_add(1, Ordering::Relaxed);
                let mut message = buffer[..length].to_vec();
                message[2..4].copy_from_slice(&[0x81, 0x80]);
                // One answer for A; none for AAAA. Additional records of the question are left out.
                let is_a = message.windows(5).any(|part| part == [0, 0, 1, 0, 1]);
                message[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
                let end = 12 + message[12..].iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
                message.truncate(end);
                if is_a {
                    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
                    message.extend(answer.octets());
                }
                let _ = socket.send_to(&message, from);
            }
        });
        Ok(Self { stop, asked, thread: Some(thread) })
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn names_of_dht_nodes_are_asked_for_past_the_tunnel() -> Result<()> {
    let mut exit = Exit::new(HALVES)?;
    let node: SocketAddrV4 = exit.world.setup(Who::Alice).bootstrap.first().context("no node")?.parse()?;
    let server = NameServer::start(&exit, *node.ip())?;
    let member = exit.world.setup_mut(Who::Alice);
    member.bootstrap = vec![format!("dht.example.test:{}", node.port())];
    let resolv = member.folder().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\noptions attempts:1 timeout:1\n", NameServer::ADDRESS))?;
    // Its own /etc/resolv.conf, as in a container.
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    member.through = words.iter().map(OsString::from).chain([resolv.into_os_string()]).collect();
    exit.world.start_all()?;
    exit.require_reached()?;
    // Once more with the rules in place, and nothing that is remembered.
    exit.world.kill(Who::Alice)?;
    exit.world.stop(Who::Server)?;
    let before = server.asked();
    exit.world.start(Who::Server)?;
    exit.world.start(Who::Alice)?;
    exit.require_reached()?;
    ensure!(server.asked() > before, "nobody was asked for the node's name");
    exit.stop()
}

#[test]
fn a_strict_reverse_path_filter_is_warned_of_with_the_remedy() -> Result<()> {
    let mut exit = Exit::open(WHOLE)?;
    let ifname = exit.world.host(Who::Alice).ifname.clone();
    exit.client().set_sysctl(&format!("net/ipv4/conf/{ifname}/rp_filter"), "1")?;
    let status = exit.world.status(Who::Alice)?;
    let warning = status.warnings.iter().find(|warning| warning.code == "strict_filter");
    let text = &warning.with_context(|| format!("{status:?}"))?.text;
    let remedy = format!("sysctl -w net.ipv4.conf.{ifname}.rp_filter=2");
    ensure!(text.contains(&remedy), "{text}");
    shell(exit.client(), &remedy)?;
    exit.world.kill(Who::Alice)?;
    exit.world.stop(Who::Server)?;
    exit.world.start(Who::Server)?;
    exit.world.start(Who::Alice)?;
    exit.require_reached()?;
    ensure!(exit.world.status(Who::Alice)?.warnings.iter().all(|warning| warning.code != "strict_filter"));
    exit.stop()
}

/// A stand-in for `resolvectl`, which notes what it is told.
struct StandIn {
    log: PathBuf,
}

impl StandIn {
    /// Puts it into the client's path, in front of everything else.
    fn install(exit: &mut Exit) -> Result<Self> {
        let member = exit.world.setup_mut(Who::Alice);
        let (folder, log) = (member.folder().join("bin"), member.folder().join("told"));
        fs::create_dir(&folder)?;
        let program = folder.join("resolvectl");
        fs::write(&program, format!("#!/bin/sh\necho \"$*\" >> {}\n", log.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        member.through = vec!["env".into(), format!("PATH={}:/usr/bin:/bin", folder.display()).into()];
        Ok(Self { log })
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

const USED: &str = "dns mtd0 fd00:6d74::1 10.66.0.1\ndomain mtd0 ~.\ndefault-route mtd0 yes\n";
const REVERTED: &str = "revert mtd0\n";

#[test]
fn names_are_resolved_through_the_tunnel_while_it_stands() -> Result<()> {
    let mut exit = Exit::new(WHOLE)?;
    let stand_in = StandIn::install(&mut exit)?;
    exit.world.setup_mut(Who::Alice).top.insert("dns", r#"["fd00:6d74::1", "10.66.0.1"]"#.to_owned());
    exit.world.start(Who::Alice)?;
    // What an earlier controller may have left is taken back; nothing is told before a session stands.
    wait_until("a clean start", PATIENCE, || Ok(stand_in.told() == REVERTED))
        .with_context(|| format!("{}{}", stand_in.told(), exit.world.explain()))?;
    ensure!(exit.world.mtd(Who::Alice, &["status"])?.contains("fd00:6d74::1, 10.66.0.1, not asked now"));
    exit.world.start(Who::Server)?;
    exit.require_reached()?;
    let expected = format!("{REVERTED}{USED}");
    wait_until("the servers to be told", PATIENCE, || Ok(stand_in.told() == expected))
        .with_context(|| stand_in.told())?;
    ensure!(exit.world.mtd(Who::Alice, &["status"])?.contains("asked for all names"));
    // The server ends the session.
    exit.world.stop(Who::Server)?;
    let expected = expected + REVERTED;
    wait_until("the servers to be taken back", PATIENCE, || Ok(stand_in.told() == expected))
        .with_context(|| stand_in.told())?;
    exit.world.start(Who::Server)?;
    exit.require_reached()?;
    let expected = expected + USED;
    wait_until("the servers to be told again", PATIENCE, || Ok(stand_in.told() == expected))
        .with_context(|| stand_in.told())?;
    exit.stop()?;
    ensure!(stand_in.told() == expected + REVERTED, "{}", stand_in.told());
    Ok(())
}

#[test]
fn a_host_without_resolved_is_warned_with_the_way_out() -> Result<()> {
    let mut exit = Exit::new(WHOLE)?;
    let member = exit.world.setup_mut(Who::Alice);
    member.top.insert("dns", r#"["fd00:6d74::1"]"#.to_owned());
    let empty = member.folder().join("empty");
    fs::create_dir(&empty)?;
    // `env` is found before the path is another one.
    member.through = vec!["env".into(), format!("PATH={}", empty.display()).into()];
    exit.world.start_all()?;
    exit.require_reached()?;
    let warned = || {
        let warnings = exit.world.status(Who::Alice)?.warnings;
        Ok(warnings.iter().any(|warning| {
            warning.code == "dns_not_used"
                && warning.text.contains("resolvectl")
                && warning.text.contains("[hooks]")
        }))
    };
    wait_until("the warning", PATIENCE, warned).with_context(|| exit.world.explain())?;
    exit.stop()
}
