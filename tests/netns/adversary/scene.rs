//! Two controllers with a session, a capture of the server's link, and a comparison of both at the end.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mtd::status::Status;
use mtd_tests::capture::{Capture, CaptureOptions, Frame};
use mtd_tests::controller::{Controller, End, Session, Setup};
use mtd_tests::inject::{Injector, Interface};
use mtd_tests::netns::Netns;
use mtd_tests::packet::{ETHERNET_LEN, IPV6_LEN, Outer};
use mtd_tests::topology::{Topology, TopologyOptions};
use mtd_tests::traffic::{TcpFlow, TcpOptions};
use mtd_tests::wait_until;

/// How long counters may take to show what was sent.
const SETTLE: Duration = Duration::from_secs(5);

/// Frames that a virtual cable queues (`VETH_RING_SIZE`).
const QUEUE: usize = 256;

const ICMPV6: u8 = 58;
pub(super) const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;

/// Dropped packets by reason.
pub(crate) type Drops = BTreeMap<String, u64>;

/// A session with traffic, and a capture of the server's link since before the session began.
pub(super) struct Scene {
    /// The client's controller.
    pub(super) client: Controller,
    /// When it was ready, Unix time in ns.
    client_ready_ns: u64,
    /// The server's controller.
    pub(super) server: Controller,
    flow: Option<TcpFlow>,
    capture: Option<Capture>,
    /// Number of injected packets that the server should accept.
    pub(super) meant_to_pass: u64,
    /// The drops of the server that tests have expected so far.
    dropped: Drops,
    /// The server's configuration.
    pub(super) server_setup: Setup,
    _client_setup: Setup,
    /// The client's end of the session.
    pub(super) client_end: End,
    /// The server's end of the session.
    pub(super) server_end: End,
    /// A stranger's raw socket on the server's link.
    pub(super) stranger: Injector,
    /// The server's Ethernet address.
    pub(super) server_mac: [u8; 6],
    /// The network.
    pub(super) topology: Topology,
}

/// Everything that was captured on the server's link.
pub(super) struct Record {
    /// All frames, in order.
    pub(super) frames: Vec<Frame>,
    /// The packets between the two protected prefixes, except those that the stranger sent.
    pub(super) genuine: Vec<Frame>,
}

impl Scene {
    /// Starts capture, controllers and a TCP connection of `rate` bytes a second each way through the tunnel.
    pub(super) fn start(
        mode: &str,
        period: &str,
        rate: u64,
        options: &TopologyOptions,
        server_line: &str,
    ) -> Result<Self> {
        mtd_tests::require_root();
        let topology = Topology::standard(options)?;
        make_plain_switch(&topology.router)?;
        let (near, far) = (End::new(1, &topology.client), End::new(2, &topology.server));
        // Each packet is counted at both ends: nothing is sent when the traffic has ended.
        let (period, middlebox) = (period.to_owned(), "off".to_owned());
        let session = Session { period, middlebox, ..Session::new(mode)? };
        let server_setup = Setup::new(&topology.server, &far, options.delivery)?
            .with_line(server_line)
            .with_peer(&session, &near);
        let client_setup = Setup::new(&topology.client, &near, options.delivery)?.with_peer(&session, &far);
        let capture =
            Capture::start(&topology.router, &topology.server.tap_ifname, &CaptureOptions::default())?;
        let server = server_setup.start(&topology.server.netns)?;
        let client = client_setup.start(&topology.client.netns)?;
        let client_ready_ns = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let to = TcpOptions { bytes_per_second: rate, ..TcpOptions::to(far.v6.into()) };
        let flow = TcpFlow::start(&topology.client.netns, &topology.server.netns, &to)?;
        Ok(Self {
            client,
            client_ready_ns,
            server,
            flow: Some(flow),
            capture: Some(capture),
            meant_to_pass: 0,
            dropped: Drops::new(),
            server_setup,
            _client_setup: client_setup,
            client_end: near,
            server_end: far,
            stranger: Injector::open(&topology.scanner.netns, &topology.scanner.ifname)?,
            server_mac: Interface::resolve(&topology.server.netns, &topology.server.ifname)?.mac,
            topology,
        })
    }

    /// The status of the server's controller.
    pub(super) fn status(&self) -> Result<Status> {
        self.server.status(&self.topology.server.netns)
    }

    /// Packets that the server dropped on receipt so far.
    pub(super) fn drops(&self) -> Result<Drops> {
        let drops = self.status()?.drops;
        Ok(drops.into_iter().filter(|(reason, _)| !reason.starts_with("send_")).collect())
    }

    /// What the server dropped on receipt during `work`, which must make it drop exactly `total` packets.
    pub(super) fn dropped_during(
        &mut self,
        total: u64,
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Drops> {
        let before = self.drops()?;
        work(self)?;
        let mut more = Drops::new();
        wait_until("the dropped packets to be counted", SETTLE, || {
            more = difference(&before, &self.drops()?);
            Ok(sum(&more) >= total)
        })
        .with_context(|| format!("{total} packets were to be dropped; dropped: {more:?}"))?;
        assert_eq!(sum(&more), total, "{more:?}");
        self.take_note(&more);
        Ok(more)
    }

    /// Sends frames as the stranger, of which the server must drop `total`. Returns what it dropped.
    pub(super) fn inject(&mut self, frames: &[Vec<u8>], total: u64) -> Result<Drops> {
        self.dropped_during(total, |scene| {
            // The queue of a virtual cable holds 256 frames, and the thread that empties it may have to wait for a CPU.
            frames.chunks(QUEUE / 4).try_for_each(|frames| scene.send_and_wait(frames))
        })
    }

    fn send_and_wait(&self, frames: &[Vec<u8>]) -> Result<()> {
        let seen = || -> Result<u64> {
            let status = self.status()?;
            Ok(status.frames.passed + status.drops.values().sum::<u64>())
        };
        let before = seen()?;
        frames.iter().try_for_each(|frame| self.stranger.send(frame))?;
        wait_until("the server to see what was sent", SETTLE, || Ok(seen()? >= before + frames.len() as u64))
    }

    /// Records drops that a test has expected. [`Scene::finish`] fails if there are others.
    pub(super) fn take_note(&mut self, drops: &Drops) {
        for (reason, count) in drops {
            *self.dropped.entry(reason.clone()).or_default() += count;
        }
    }

    /// Waits until a new slot of the session begins, so that all of it lies ahead.
    pub(super) fn wait_for_new_slot(&self) -> Result<()> {
        let old = self.status()?.peers[0].slot;
        let period = Duration::from_secs_f64(self.status()?.peers[0].period_seconds);
        wait_until("the next slot", 2 * period, || Ok(self.status()?.peers[0].slot != old))
    }

    /// The frame as the stranger sends it to the server.
    pub(super) fn forwarded(&self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&self.server_mac);
        frame[6..12].copy_from_slice(&self.stranger.interface().mac);
        frame
    }

    /// Copies of the frames captured on the server's link so far.
    pub(super) fn snapshot(&self) -> Result<Vec<Frame>> {
        Ok(self.capture.as_ref().context("the capture has ended")?.snapshot())
    }

    /// Whether both ends of a frame are protected addresses, and no stranger sent it.
    pub(super) fn is_genuine(&self, frame: &Frame) -> bool {
        let between = ends(&frame.data).is_some_and(|(source, destination)| {
            let (client, server) = (self.topology.client.prefix, self.topology.server.prefix);
            if frame.outgoing {
                client.contains(&source) && server.contains(&destination)
            } else {
                server.contains(&source) && client.contains(&destination)
            }
        });
        between && frame.data[6..12] != self.stranger.interface().mac
    }

    /// Packets from the client to the server, newest last.
    pub(super) fn captured_to_server(&self) -> Result<Vec<Frame>> {
        let mut frames = self.snapshot()?;
        frames.retain(|frame| frame.outgoing && self.is_genuine(frame));
        Ok(frames)
    }

    /// Whether a frame of the server's is an answer to anybody other than its peer. That is anything from a protected
    /// address that does not go to the peer, any ICMPv6 error, and anything to a stranger except neighbour discovery of the
    /// link's own addresses. Advertisements of protected addresses do not count: see [`advertised`].
    pub(super) fn is_reply(&self, frame: &Frame) -> bool {
        let Some((source, destination)) = ends(&frame.data).filter(|_| !frame.outgoing) else { return false };
        match icmp(&frame.data) {
            Some((ADVERTISEMENT, _)) => false,
            // The announcement of an own address to the router, and to nobody else.
            Some((SOLICITATION, Some(target)))
                if target == self.topology.server.gateway && target == destination =>
            {
                false
            }
            _ if self.topology.server.prefix.contains(&source) => {
                !self.is_genuine(frame) || Outer::parse(&frame.data).is_none()
            }
            Some((SOLICITATION, _)) => false,
            Some((kind, _)) if kind < 128 => true,
            _ => self.strangers().contains(&destination),
        }
    }

    /// The protected address that a frame of the server's advertises, if it does.
    pub(super) fn advertised(&self, frame: &Frame) -> Option<Ipv6Addr> {
        match icmp(&frame.data) {
            Some((ADVERTISEMENT, target)) if !frame.outgoing => {
                target.filter(|address| self.topology.server.prefix.contains(address))
            }
            _ => None,
        }
    }

    /// The protected address that a frame to the server solicits, if it does.
    pub(super) fn solicited(&self, frame: &Frame) -> Option<Ipv6Addr> {
        match icmp(&frame.data) {
            Some((SOLICITATION, target)) if frame.outgoing => {
                target.filter(|address| self.topology.server.prefix.contains(address))
            }
            _ => None,
        }
    }

    fn strangers(&self) -> Vec<Ipv6Addr> {
        let behind = self.topology.client2.as_ref().map(|host| host.address);
        [Some(self.topology.scanner.address), behind].into_iter().flatten().collect()
    }

    /// Ends the traffic and compares the capture with the statuses of server and client. Checks that the connection never
    /// broke, that the server accepted every genuine packet and nothing else, that all of its drops were expected, and that
    /// it sent only genuine packets and answered no stranger.
    pub(super) fn finish(mut self) -> Result<Record> {
        let flow = self.flow.take().context("the connection has ended")?.stop();
        ensure!(flow.broken.is_none() && flow.is_complete(), "the connection in the tunnel: {flow:?}");
        ensure!(flow.bytes() > 0, "no traffic in the tunnel: {flow:?}");
        // Wait until packets on their way have arrived, and delayed acknowledgements have been sent.
        std::thread::sleep(Duration::from_millis(300));
        let mut status = self.status()?;
        wait_until("the tunnel to be quiet", SETTLE, || {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.status()?;
            let quiet = (valid(&now), now.frames.sent) == (valid(&status), status.frames.sent);
            status = now;
            Ok(quiet)
        })?;
        assert_eq!(self.drops()?, self.dropped, "dropped, against what the test caused");
        let report = self.capture.take().context("the capture has ended")?.stop()?;
        ensure!(report.kernel_drops == 0 && report.over_limit == 0, "the capture is not complete");
        let replies: Vec<&Frame> =
            report.frames.iter().filter(|frame| self.is_reply(frame)).take(3).collect();
        assert!(replies.is_empty(), "answers to a stranger: {replies:02x?}");
        let genuine: Vec<Frame> =
            report.frames.iter().filter(|frame| self.is_genuine(frame)).cloned().collect();
        let received = genuine.iter().filter(|frame| frame.outgoing).count() as u64;
        assert_eq!(valid(&status), received + self.meant_to_pass, "accepted, against the capture");
        let sent = genuine.len() as u64 - received;
        assert_eq!(status.frames.sent, sent, "sent, against the capture");
        let advertised = report.frames.iter().filter(|frame| self.advertised(frame).is_some()).count() as u64;
        assert_eq!(status.frames.neighbour_answered, advertised, "advertised, against the capture");
        let client = self.client.status(&self.topology.client.netns)?;
        // The server says at once that it needs no answer where it was heard. Nobody is there yet; where the router looks for
        // the client's address for a while, the packet still arrives.
        let is_early = |frame: &&Frame| !frame.outgoing && frame.time_ns < self.client_ready_ns;
        let early = genuine.iter().filter(is_early).count() as u64;
        let accepted = valid(&client);
        assert!(
            (sent - early..=sent).contains(&accepted),
            "the client accepts {accepted} of {sent} that the server sends, {early} of them early"
        );
        Ok(Record { frames: report.frames, genuine })
    }
}

/// Switches bridge netfilter off, if the kernel has it: with it, bridges examine IP packets as routers do, and drop
/// malformed ones.
fn make_plain_switch(router: &Netns) -> Result<()> {
    for family in ["ip6tables", "iptables"] {
        let key = format!("net/bridge/bridge-nf-call-{family}");
        if router.sysctl(&key).is_ok() {
            router.set_sysctl(&key, "0")?;
        }
    }
    Ok(())
}

/// Valid packets of the peer: for the host, and for the controller.
const fn valid(status: &Status) -> u64 {
    status.frames.accepted + status.frames.control
}

fn sum(drops: &Drops) -> u64 {
    drops.values().sum()
}

/// The drops that were counted between the two.
pub(crate) fn difference(before: &Drops, after: &Drops) -> Drops {
    let more = |(reason, count): (&String, &u64)| {
        let more = count - before.get(reason).copied().unwrap_or(0);
        (more > 0).then(|| (reason.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

/// Makes a [`Drops`] of pairs.
pub(crate) fn drops<const N: usize>(counts: [(&str, u64); N]) -> Drops {
    counts.into_iter().filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect()
}

/// Source and destination of an untagged IPv6 frame.
pub(crate) fn ends(frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    if frame.get(12..14)? != [0x86, 0xdd] {
        return None;
    }
    let address = |at: usize| {
        let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes))
    };
    Some((address(ETHERNET_LEN + 8)?, address(ETHERNET_LEN + 24)?))
}

/// ICMPv6 type of an untagged frame, and the target if it is neighbour discovery.
pub(crate) fn icmp(frame: &[u8]) -> Option<(u8, Option<Ipv6Addr>)> {
    ends(frame)?;
    let segment = frame.get(ETHERNET_LEN + IPV6_LEN..)?;
    let kind = *segment.first().filter(|_| frame[ETHERNET_LEN + 6] == ICMPV6)?;
    let target = segment.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Ipv6Addr::from);
    Some((kind, target.filter(|_| matches!(kind, SOLICITATION | ADVERTISEMENT))))
}
