//! The cost of sealing and opening alone: in the programs, with and without key stream made ahead, and in the thread that
//! makes the key stream.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, TestRunOptions};
use ipnet::Ipv6Net;
use mtd::dataplane::{Capacity, Maker, Plane, Settings};
use mtd::model::{Guard, LinkMode, SessionIndex, SessionNs};
use mtd::proto::session::{Session, nanoseconds};
use mtd::proto::slots::{Loader, Place};
use mtd_common::abi::{self, MODE_AUTHENTICATE, MODE_ENCRYPT};
use mtd_common::aead::MAX_TEXT;
use mtd_common::keystream::{AHEAD, Direction, LANES, Wanted};
use mtd_common::packet::MTD;
use mtd_common::{DropReason, slot};
use mtd_tests::packet::{Path, udp};
use serde_json::Map;

use crate::cable::PREFIX;
use crate::drop::{Known, LASTING};
use crate::fleet::{boot_time, session};
use crate::measure::{Case, Extent, Section, in_turn};

pub(crate) const ABOUT: &str = "\
One packet of 1,428 bytes passes through the receive program again and again (`BPF_PROG_TEST_RUN`), and is dropped for its
wrong tag after all of it was processed; `ns` is the time for one packet. `before` is a packet whose sequence number is
refused, which ends just before the cipher; `cipher_ns` is what the other cases take beyond that. `plain` is decrypted by the
cipher in BPF, `ahead` with key stream made ahead; `authenticate` belongs to a session that only authenticates. `made` is how
long the controller's thread takes to make the key stream of one packet.";

/// Runs of one sample.
const RUNS: u32 = 50_000;

const GENERATION: u32 = 1;

/// A data plane with one session, and a packet for it that passes through all stages and then turns out to be invalid.
struct Subject {
    plane: Plane,
    maker: Maker,
    known: Known,
    session: Session,
}

impl Subject {
    fn new(mode: u32) -> Result<Self> {
        let mut plane = Plane::load(Capacity { sessions: 1, slots: 8, lanes: LANES })?;
        plane.configure(&Settings {
            tunnel_ifindex: 1,
            tunnel_mac: [2, 0, 0, 0, 0, 1],
            underlay_ifindex: 1,
            underlay_mac: [2, 0, 0, 0, 0, 2],
            prefixes: vec![Ipv6Net::new(PREFIX, 64)?],
            link: LinkMode::Routed,
            inner_mtu: MAX_TEXT as u32,
            fwmark: 0,
            guard: Guard::default(),
        })?;
        let session = session(0, LASTING)?;
        let element = session.element(GENERATION, 0, 0, [[0; 16]; 2]);
        plane.set_session(0, abi::Session { mode, ..element })?;
        let mut loader = Loader::new(Place { index: SessionIndex(0), generation: GENERATION }, 0);
        loader.advance(&session, SessionNs(boot_time()?), nanoseconds(LASTING), plane.slots())?;
        let maker = plane.take_maker().context("no lanes")?;
        Ok(Self { known: Known::of(&session)?, plane, maker, session })
    }

    /// Makes the key stream of the packet, and of later ones.
    fn make_ahead(&mut self) {
        let time = self.known.time;
        self.maker.ask(Wanted {
            sequence: slot::sequence_seed(time) - 1,
            slot: slot::number(time, self.session.phase, self.session.period) as u32,
            session: 0,
            generation: GENERATION,
            direction: Direction::Receive as u32,
        });
    }

    /// The time for one packet that is refused for `reason`, in ns.
    fn measure(&mut self, mtd: [u8; MTD], reason: DropReason) -> Result<f64> {
        let ends = self.known.with(mtd);
        let path = Path::new([2; 6], [2, 0, 0, 0, 0, 2], ends.source.0, ends.destination.0);
        let frame = udp(&path, ends.source.1, ends.destination.1, &[&mtd[..], &[0; MAX_TEXT]].concat());
        let count =
            |plane: &Plane| -> Result<u64> { Ok(plane.counts()?.drops.get(&reason).copied().unwrap_or(0)) };
        let before = count(&self.plane)?;
        let options = TestRunOptions { data_in: Some(&frame), repeat: RUNS, ..TestRunOptions::new() };
        let result = self.plane.receive_program()?.test_run(options)?;
        let dropped = count(&self.plane)? - before;
        ensure!(dropped == u64::from(RUNS), "{dropped} of {RUNS} packets are counted as {}", reason.name());
        Ok(result.duration.as_nanos() as f64)
    }

    fn bad_tag(&mut self) -> Result<f64> {
        self.measure(self.known.with_possible_sequence().mtd, DropReason::BadTag)
    }
}

/// The section `cipher` of the results.
///
/// # Errors
/// When the kernel refuses, or a packet is dropped for another reason than the intended one.
pub(crate) fn run(extent: Extent) -> Result<Section> {
    let (mut before, mut plain, mut ahead) =
        (Subject::new(MODE_ENCRYPT)?, Subject::new(MODE_ENCRYPT)?, Subject::new(MODE_ENCRYPT)?);
    let (mut authenticate, mut made) = (Subject::new(MODE_AUTHENTICATE)?, Subject::new(MODE_ENCRYPT)?);
    ahead.make_ahead();
    let mut turn = 0;
    let mut cases: Vec<Case<'_>> = vec![
        ("before", Box::new(|| before.measure([0x5a; MTD], DropReason::InvalidSequence))),
        ("plain", Box::new(|| plain.bad_tag())),
        (
            "ahead",
            Box::new(|| {
                let used = ahead.plane.counts()?.frames.opened_ahead;
                let time = ahead.bad_tag()?;
                let used = ahead.plane.counts()?.frames.opened_ahead - used;
                ensure!(used == u64::from(RUNS), "{used} of {RUNS} packets found their key stream");
                Ok(time)
            }),
        ),
        ("authenticate", Box::new(|| authenticate.bad_tag())),
        (
            "made",
            Box::new(|| {
                // For another place each time, so that all key stream is computed again.
                turn += 1;
                made.known.time += turn << 20;
                let began = Instant::now();
                made.make_ahead();
                Ok(began.elapsed().as_nanos() as f64 / AHEAD as f64)
            }),
        ),
    ];
    let all = in_turn(&mut cases, extent.rounds, "ns")?;
    let base = all.first().map(|(_, samples)| samples.median());
    let section = all.iter().map(|(name, samples)| {
        let mut values = Map::new();
        let within = !matches!(*name, "before" | "made");
        values.insert("ns".to_owned(), samples.median().into());
        values.insert(
            "cipher_ns".to_owned(),
            base.filter(|_| within).map(|base| samples.median() - base).into(),
        );
        values.insert("spread".to_owned(), samples.spread().into());
        (*name, values)
    });
    Ok(section.collect())
}
