//! How much of a peer's traffic is left while strangers flood the server: TCP requests and responses through the tunnel of
//! two real controllers, by the rate of strangers' frames that arrive at the server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use mtd_tests::controller::{Controller, End, Session, Setup};
use mtd_tests::inject::Interface;
use mtd_tests::netns::Netns;
use mtd_tests::topology::{Delivery, Topology, TopologyOptions};
use mtd_tests::xdp::{ConstantXdp, Verdict};
use serde_json::{Value, json};

use crate::cable::{Cable, Headers, xdp_drops};
use crate::generator::{Generator, Random};
use crate::measure::{Extent, Samples, Section, pin, require_uninterrupted};

pub(crate) const ABOUT: &str = "\
One TCP connection through the tunnel (encrypted, slots of 3 s) exchanges requests and responses of 100 bytes, while
strangers' frames to random addresses of the server's prefix come in through the server's own interface. `curve` lists the
rate of frames that arrived at the receive program, in Mpps, and the transactions per second. Both ends of the connection run
on one CPU. The frames are made on another one (if there is one), which then also serves the ring of the server's virtual
cable, in which packets of the connection wait behind strangers' frames. `beside` shows the cost of the generator alone: the
same rates into another cable that is not connected with mtd, with a program of two instructions at its end. `half_at_mpps`
is the rate at which the transactions fall to half of those without a flood, interpolated linearly between the points; there
is no number if they never do.";

/// Frames a second that are sent: none, some, as many as possible.
const RATES: [Option<u32>; 8] = [
    Some(0),
    Some(100_000),
    Some(250_000),
    Some(500_000),
    Some(1_000_000),
    Some(2_000_000),
    Some(4_000_000),
    None,
];

/// Bytes of a request, and of its response.
const MESSAGE: usize = 100;

/// The strangers' frames are made on one CPU, and both ends of the connection run on the next one. Without this, the
/// scheduler places the two ends on one CPU or on two at random, which changes the rate by a factor of five.
const STRANGERS_CPU: usize = 0;
const PEERS_CPU: usize = 1;

const PATIENCE: Duration = Duration::from_secs(10);

/// How long a flood lasts before it is measured.
const SETTLING: Duration = Duration::from_millis(100);

/// The section `flood` of the results: one case.
///
/// # Errors
/// When something cannot be set up, or the connection breaks.
pub(crate) fn run(extent: Extent) -> Result<Section> {
    let scene = Scene::new()?;
    let mut exchange = Exchange::new(&scene)?;
    let beside = Cable::new("beside")?;
    let _drop = ConstantXdp::attach(&beside.receiver, &beside.veth.right, Verdict::Drop)?;
    let frame = beside.frame(&Headers::STRANGER)?;
    let harmless = Generator::new(&beside.sender, &beside.veth.left, &frame, Random::DESTINATION)?;
    let strangers = scene.strangers()?;
    let server = &scene.topology.server;
    let rates = if extent.quick { 2 } else { RATES.len() };
    let mut curves = [
        Curve::new("curve", rates, &strangers, (&server.netns, &server.ifname)),
        Curve::new("beside", rates, &harmless, (&beside.receiver, &beside.veth.right)),
    ];
    for round in 1..=extent.rounds {
        for rate in 0..rates {
            for curve in &mut curves {
                curve.measure(rate, &mut exchange, extent.sample())?;
                require_uninterrupted()?;
                eprintln!("round {round} of {}: {curve}", extent.rounds);
            }
        }
    }
    let [curve, beside] = curves.map(|curve| curve.medians());
    let values = json!({
        "curve": curve,
        "half_at_mpps": half_at(&curve),
        "beside": beside,
        "beside_half_at_mpps": half_at(&beside),
    });
    let Value::Object(values) = values else { unreachable!("an object") };
    Ok(vec![("flood", values)])
}

/// The transactions that remain while one generator sends, for each of its rates.
struct Curve<'a> {
    name: &'static str,
    generator: &'a Generator<'a>,
    /// Namespace and name of the interface where the frames are dropped.
    target: (&'a Netns, &'a str),
    /// Mpps and transactions per second at the rates that were measured.
    points: Vec<[Samples; 2]>,
    /// The newest sample, to be shown.
    newest: (f64, f64),
}

impl<'a> Curve<'a> {
    fn new(
        name: &'static str,
        rates: usize,
        generator: &'a Generator<'a>,
        target: (&'a Netns, &'a str),
    ) -> Self {
        Self { name, generator, target, points: vec![<[Samples; 2]>::default(); rates], newest: (0.0, 0.0) }
    }

    fn measure(&mut self, index: usize, exchange: &mut Exchange, sample: Duration) -> Result<()> {
        let (stop, rate) = (AtomicBool::new(false), RATES[index]);
        let (mpps, transactions) = thread::scope(|scope| {
            let flood =
                (rate != Some(0)).then(|| scope.spawn(|| self.generator.flood(rate, &stop, STRANGERS_CPU)));
            let measured = scope.spawn(|| self.measure_now(exchange, sample)).join();
            stop.store(true, Ordering::Relaxed);
            if let Some(flood) = flood {
                flood.join().map_err(|_| anyhow!("the generator's thread panicked"))??;
            }
            measured.map_err(|_| anyhow!("the client's thread panicked"))?
        })?;
        self.newest = (mpps, transactions);
        let [all_mpps, all_transactions] = &mut self.points[index];
        all_mpps.push(mpps);
        all_transactions.push(transactions);
        Ok(())
    }

    fn measure_now(&self, exchange: &mut Exchange, sample: Duration) -> Result<(f64, f64)> {
        pin(PEERS_CPU)?;
        exchange.run(SETTLING.min(sample))?;
        let dropped = || xdp_drops(self.target.0, self.target.1);
        let (before, start) = (dropped()?, Instant::now());
        let transactions = exchange.run(sample)?;
        let dropped = dropped()? - before;
        Ok((dropped as f64 / start.elapsed().as_secs_f64() / 1e6, transactions))
    }

    fn medians(&self) -> Vec<[f64; 2]> {
        self.points.iter().map(|point| point.each_ref().map(Samples::median)).collect()
    }
}

impl std::fmt::Display for Curve<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8} {:8.2} Mpps {:9.0} transactions/s", self.name, self.newest.0, self.newest.1)
    }
}

/// The rate at which a curve falls to half of its first value; `None` if it never does.
fn half_at(curve: &[[f64; 2]]) -> Option<f64> {
    let half = curve.first()?[1] / 2.0;
    let mut pairs = curve.iter().zip(curve.iter().skip(1));
    let (above, below) = pairs.find(|(above, below)| above[1] > half && below[1] <= half)?;
    let part = (above[1] - half) / (above[1] - below[1]);
    Some(above[0] + part * (below[0] - above[0]))
}

/// Client and server with a tunnel. Fields are dropped in order: processes first, the network last.
struct Scene {
    _controllers: [Controller; 2],
    server: IpAddr,
    topology: Topology,
}

impl Scene {
    fn new() -> Result<Self> {
        let topology = Topology::standard(&TopologyOptions::default())?;
        let session = Session { period: "3s".to_owned(), ..Session::new("encrypt")? };
        let (near, far) = (End::new(0, &topology.client), End::new(1, &topology.server));
        let start = |host, local: &End, remote: &End| -> Result<Controller> {
            let setup = Setup::new(host, local, Delivery::Routed)?.with_peer(&session, remote);
            setup.start(&host.netns)
        };
        let controllers = [start(&topology.client, &near, &far)?, start(&topology.server, &far, &near)?];
        topology.client.netns.wait_reachable(far.v6.into(), PATIENCE)?;
        Ok(Self { _controllers: controllers, server: far.v6.into(), topology })
    }

    /// A generator of frames to random addresses of the server's prefix, sent from the router's end of the server's cable.
    fn strangers(&self) -> Result<Generator<'_>> {
        let (router, server) = (&self.topology.router, &self.topology.server);
        let from = Interface::resolve(router, &server.tap_ifname)?;
        let to = Interface::resolve(&server.netns, &server.ifname)?;
        let destination = (server.prefix.network(), Headers::STRANGER.destination.1);
        let frame = Headers { destination, ..Headers::STRANGER }.frame(&from, &to)?;
        Generator::new(router, &server.tap_ifname, &frame, Random::DESTINATION)
    }
}

/// A connection on which one end sends requests and the other one responds.
struct Exchange {
    stream: TcpStream,
}

impl Exchange {
    fn new(scene: &Scene) -> Result<Self> {
        let (client, server) = (&scene.topology.client.netns, &scene.topology.server.netns);
        let listener = server.enter(|| TcpListener::bind(SocketAddr::new(scene.server, 0)))??;
        let address = listener.local_addr()?;
        // The thread ends with the connection.
        thread::spawn(move || answer(&listener));
        let stream = client.enter(|| TcpStream::connect_timeout(&address, PATIENCE))??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Transactions per second, over `time` at least.
    fn run(&mut self, time: Duration) -> Result<f64> {
        let (mut count, start) = (0_u32, Instant::now());
        let mut message = [0x5a; MESSAGE];
        while start.elapsed() < time {
            self.stream.write_all(&message)?;
            self.stream.read_exact(&mut message).context("no response through the tunnel")?;
            count += 1;
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    }
}

/// Answers the requests of one connection until it ends.
fn answer(listener: &TcpListener) -> Result<()> {
    pin(PEERS_CPU)?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        match stream.read_exact(&mut message) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        stream.write_all(&message)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_half_is_found_between_two_points() {
        let half = half_at(&[[0.0, 100.0], [1.0, 90.0], [2.0, 40.0], [3.0, 10.0]]).unwrap();
        assert!((half - 1.8).abs() < 1e-9, "{half}");
        assert_eq!(half_at(&[[0.0, 100.0], [1.0, 51.0]]), None);
        assert_eq!(half_at(&[]), None);
    }
}
