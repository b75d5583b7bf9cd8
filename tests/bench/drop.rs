//! How fast packets from strangers are dropped: mtd's receive program with 1,000 sessions loaded, against a program
//! that drops everything.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::xdp::XdpMode;
use ipnet::Ipv6Net;
use mtd::config::{LinkMode, Mode, Peer};
use mtd::dataplane::{Capacity, Plane, Settings};
use mtd::keys::SecretKey;
use mtd::proto::session::{Session, nanoseconds};
use mtd::proto::slots::{Loader, Place, most_loaded};
use mtd_tests::inject::Interface;
use mtd_tests::link::Veth;
use mtd_tests::netns::Netns;
use mtd_tests::xdp::{ConstantXdp, Verdict};
use nix::time::{ClockId, clock_gettime};
use serde_json::Map;

use crate::generator::{Destinations, Generator};
use crate::measure::{Case, Section, in_turn};

const SESSIONS: u32 = 1_000;
const PERIOD: Duration = Duration::from_secs(3);
const HORIZON: Duration = Duration::from_mins(1);

/// How long one measurement takes at least.
const SAMPLE: Duration = Duration::from_secs(1);
/// Frames of one system call.
const CHUNK: u32 = 200_000;
/// Frames before each measurement, to fill caches.
const WARM_UP: u32 = 50_000;

/// The share of frames that may get lost between generator and receiver.
const LOST: f64 = 0.01;

/// Addresses of the protected prefix, and an address in it that no session has.
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0);
const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1);
const TARGET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0x1234, 0x5678, 0x9abc, 0xdef0);

/// The section `drop` of the results.
///
/// # Errors
/// When something cannot be set up, or frames get lost on the way so that the rate would be the generator's.
pub(crate) fn run(rounds: u32) -> Result<Section> {
    let bare = Cable::new("bare")?;
    let _drop = ConstantXdp::attach(&bare.receiver, &bare.veth.right, Verdict::Drop)?;
    let guarded = Cable::new("mtd")?;
    let mut plane = load(&guarded)?;
    let name = &guarded.veth.right;
    let attached = guarded.receiver.enter(|| -> Result<()> {
        plane.receive_program()?.attach(name, XdpMode::Driver)?;
        Ok(())
    })?;
    attached.context("cannot attach mtd_receive")?;

    let mut cases: Vec<Case<'_>> = Vec::new();
    for (name, cable, destinations) in [
        ("bare", &bare, Destinations::Fixed),
        ("unauthorised_1k_fixed", &guarded, Destinations::Fixed),
        ("bare_random", &bare, Destinations::Random),
        ("unauthorised_1k_random", &guarded, Destinations::Random),
    ] {
        let generator = Generator::new(&cable.sender, &cable.veth.left, &frame(cable)?, destinations)?;
        cases.push((name, Box::new(move || cable.rate(&generator))));
    }
    let all = in_turn(&mut cases, rounds, "Mpps")?;
    drop(cases);
    let strangers = plane.counts()?.drops.get(&mtd_common::DropReason::UnknownAddress).copied().unwrap_or(0);
    ensure!(
        strangers == guarded.dropped()?,
        "{strangers} frames counted as unknown_address are not all that came"
    );

    let median = |wanted: &str| all.iter().find(|(name, _)| *name == wanted).map(|(_, found)| found.median());
    let section = all.iter().map(|(name, samples)| {
        // The random destinations cost the generator time, so each is compared with its own kind.
        let base = median(if name.ends_with("random") { "bare_random" } else { "bare" });
        let ratio = base.map(|base| samples.median() / base);
        let mut values = Map::new();
        values.insert("mpps".to_owned(), samples.median().into());
        values.insert("ratio_to_bare".to_owned(), ratio.into());
        values.insert("spread".to_owned(), samples.spread().into());
        (*name, values)
    });
    Ok(section.collect())
}

/// A veth cable between two namespaces: frames go in at the left, and are dropped at the right.
struct Cable {
    sender: Netns,
    receiver: Netns,
    veth: Veth,
}

impl Cable {
    fn new(tag: &str) -> Result<Self> {
        let (sender, receiver) = (Netns::new(&format!("{tag}-from"))?, Netns::new(&format!("{tag}-to"))?);
        let veth = Veth::connect((&sender, "gen"), (&receiver, "recv"), 1500)?;
        for (netns, ifname) in [(&sender, &veth.left), (&receiver, &veth.right)] {
            // No traffic but the generator's.
            netns.set_sysctl(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "1")?;
            netns.set_up(ifname)?;
        }
        Ok(Self { sender, receiver, veth })
    }

    /// Frames that the XDP program at the right end has dropped, as the driver counted them.
    fn dropped(&self) -> Result<u64> {
        let mut ethtool = self.receiver.command("ethtool")?;
        let output = ethtool.args(["-S", &self.veth.right]).output().context("could not start `ethtool`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let counts = text.lines().filter_map(|line| line.trim().strip_prefix("rx_queue_"));
        let drops: Vec<u64> =
            counts.filter_map(|line| line.split_once("_xdp_drops: ")?.1.trim().parse().ok()).collect();
        ensure!(!drops.is_empty(), "ethtool -S shows no xdp_drops for {}: {text}", self.veth.right);
        Ok(drops.iter().sum())
    }

    /// Millions of frames that are dropped in a second.
    fn rate(&self, generator: &Generator<'_>) -> Result<f64> {
        generator.send(WARM_UP)?;
        let before = self.dropped()?;
        let (mut sent, start) = (0, Instant::now());
        while start.elapsed() < SAMPLE {
            generator.send(CHUNK)?;
            sent += u64::from(CHUNK);
        }
        let elapsed = start.elapsed();
        let dropped = self.dropped()? - before;
        ensure!(
            dropped as f64 >= sent as f64 * (1.0 - LOST),
            "only {dropped} of {sent} frames reached the program: this is not its rate; let the machine be idle"
        );
        Ok(dropped as f64 / elapsed.as_secs_f64() / 1e6)
    }
}

/// The shortest frame that looks like one of mtd's, from a stranger to a protected address.
fn frame(cable: &Cable) -> Result<Vec<u8>> {
    let to = Interface::resolve(&cable.receiver, &cable.veth.right)?;
    let from = Interface::resolve(&cable.sender, &cable.veth.left)?;
    let payload = vec![0x5a; 24 + 20];
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv6(STRANGER.octets(), TARGET.octets(), 64)
        .udp(40_000, 50_000)
        .write(&mut frame, &payload)
        .context("cannot build a frame")?;
    Ok(frame)
}

/// The data plane with all sessions, their slots loaded ahead as a controller does it.
fn load(cable: &Cable) -> Result<Plane> {
    let (period, horizon) = (nanoseconds(PERIOD), nanoseconds(HORIZON));
    let underlay = Interface::resolve(&cable.receiver, &cable.veth.right)?;
    let mut plane = Plane::load(Capacity { sessions: SESSIONS, slots: most_loaded(horizon, period) })?;
    let prefix = Ipv6Net::new(PREFIX, 64)?;
    plane.configure(&Settings {
        tunnel_ifindex: underlay.index,
        tunnel_mac: underlay.mac,
        underlay_ifindex: underlay.index,
        underlay_mac: underlay.mac,
        prefixes: vec![prefix],
        link: LinkMode::Routed,
        inner_mtu: 1428,
    })?;
    let now = nanoseconds(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?));
    for index in 0..SESSIONS {
        let session = Session::new(&peer(index, prefix)?);
        plane.set_session(index, session.element(1, 0, 0, [[0; 16]; 2]))?;
        let place = Place { index, generation: 1 };
        Loader::new(place, 0).advance(&session, now, horizon, plane.slots())?;
    }
    Ok(plane)
}

fn peer(index: u32, local_prefix: Ipv6Net) -> Result<Peer> {
    let mut seed = [1; 8];
    seed[..4].copy_from_slice(&index.to_be_bytes());
    Ok(Peer {
        name: format!("peer{index}"),
        prefix: Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, 0xb, index as u16, 0, 0, 0, 0), 64)?,
        local_prefix,
        key_file: PathBuf::new(),
        key: SecretKey::generate_psk()?,
        seed,
        peer_seed: [2; 8],
        period: PERIOD,
        mode: Mode::Encrypt,
        allowed_ips: Vec::new(),
    })
}
