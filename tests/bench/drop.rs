//! How fast packets from strangers are dropped: by mtd's receive program with many sessions loaded, by nftables, and by a
//! program that drops everything.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtd::proto::session::Session;
use mtd_common::packet::MTD;
use mtd_common::{DropReason, siphash, slot};
use mtd_tests::netns::Netns;
use mtd_tests::xdp::{ConstantXdp, Verdict};
use serde_json::{Map, Value};

use crate::cable::{Cable, Headers, PREFIX, rate};
use crate::fleet::{Fleet, PERIOD, boot_time, session};
use crate::generator::{Generator, Random};
use crate::measure::{Case, Extent, Samples, Section, in_turn};

pub(crate) const ABOUT: &str = "\
Frames of 106 bytes go into one end of a veth cable as fast as the kernel makes them (`BPF_PROG_TEST_RUN` with live
frames), and are dropped at the other end, on the same CPU. The generator and the cable are part of every rate, so all
ratios are nearer to 1 than those of the programs alone would be; `added_ns` is the time per frame beyond that of `bare`,
which contains neither. `bare` is a program of two instructions that drops everything. `unauthorised_1k` and
`unauthorised_1m` are strangers' frames to random addresses of the protected prefix, with that many sessions loaded;
`_fixed` are frames to a single address, which stays in the caches. `bad_sequence` and `bad_tag` need the live addresses and
ports of a session, which only an observer has. `bad_tag` also needs the key of its sequence mask, which nobody else has: it
stands for the most expensive packet that is not accepted. `nft` is a rule in nftables' ingress hook that drops and counts
packets for the prefix, also to random addresses. Ratios are to `bare`, for random frames to `bare_random`, because random
bytes cost the generator time. This benchmark takes three times as many, shorter samples as the others, and spreads are
those of these samples. After each sample mtd's counters must show that every frame was dropped for the intended reason.";

/// The number of shorter samples that replace one sample of other benchmarks.
const PARTS: u32 = 3;

const THOUSAND: u32 = 1_000;
const MILLION: u32 = 1_000_000;

/// How far ahead slots are loaded: the default, and for very many sessions the least that can be configured.
const HORIZON: Duration = Duration::from_mins(1);
const SHORTEST_HORIZON: Duration = PERIOD.saturating_mul(3);

/// Slot length of the session whose live addresses the attacker knows. It is long, so that the addresses stay live.
pub(crate) const LASTING: Duration = Duration::from_hours(1);

/// The tolerated part of frames dropped for another reason. A random sequence number is possible once in 2^29 frames; the
/// frame is then dropped for its tag.
const POSSIBLE: f64 = 1e-6;

/// The section `drop` of the results.
///
/// # Errors
/// When something cannot be set up, too many frames get lost on the way, or frames are dropped for another reason than the
/// intended one.
pub(crate) fn run(extent: Extent) -> Result<Section> {
    let bare = Cable::new("bare")?;
    let _drop = ConstantXdp::attach(&bare.receiver, &bare.veth.right, Verdict::Drop)?;
    let filtered = Cable::new("nft")?;
    filter(&filtered)?;
    let (bare, filtered) = (&bare, &filtered);
    let thousand = Guarded::new("mtd-1k", extent.scaled(THOUSAND), HORIZON)?;
    let million = Guarded::new("mtd-1m", extent.scaled(MILLION), SHORTEST_HORIZON)?;

    let stranger = Headers::STRANGER;
    let known = Known::of(&thousand.known)?;
    let (bad_sequence, bad_tag) = (known.with([0x5a; MTD]), known.with_possible_sequence());
    // Many short samples rather than a few long ones, so that cases that are compared are nearer to each other in time.
    let (sample, rounds) = (extent.sample() / PARTS, extent.rounds * PARTS);
    let mut cases: Vec<Case<'_>> = Vec::new();
    for (name, random) in [("bare", Random::Nothing), ("bare_random", Random::DESTINATION)] {
        let generator = generator(bare, &stranger, random)?;
        cases.push((name, Box::new(move || rate(&generator, sample, || bare.dropped()))));
    }
    for (name, guarded, headers, random, reason) in [
        ("unauthorised_1k", &thousand, &stranger, Random::DESTINATION, DropReason::UnknownAddress),
        ("unauthorised_1k_fixed", &thousand, &stranger, Random::Nothing, DropReason::UnknownAddress),
        ("unauthorised_1m", &million, &stranger, Random::DESTINATION, DropReason::UnknownAddress),
        ("unauthorised_1m_fixed", &million, &stranger, Random::Nothing, DropReason::UnknownAddress),
        ("bad_sequence", &thousand, &bad_sequence, Random::SEQUENCE, DropReason::InvalidSequence),
        ("bad_tag", &thousand, &bad_tag, Random::Nothing, DropReason::BadTag),
    ] {
        let generator = generator(&guarded.cable, headers, random)?;
        cases.push((name, Box::new(move || guarded.rate(&generator, sample, reason))));
    }
    let nft = generator(filtered, &stranger, Random::DESTINATION)?;
    cases.push(("nft", Box::new(move || rate(&nft, sample, || filter_count(&filtered.receiver)))));
    let all = in_turn(&mut cases, rounds, "Mpps")?;

    let samples = |wanted: &str| all.iter().find(|(name, _)| *name == wanted).map(|(_, samples)| samples);
    let section = all.iter().map(|(name, rates)| {
        let base = match *name {
            "bare" | "unauthorised_1k_fixed" | "unauthorised_1m_fixed" | "bad_tag" => "bare",
            _ => "bare_random",
        };
        (*name, values(rates, samples(base)))
    });
    Ok(section.collect())
}

fn values(rates: &Samples, base: Option<&Samples>) -> Map<String, Value> {
    let ratios = base.map(|base| rates.over(base));
    let time = |rates: &Samples| 1e3 / rates.median();
    let mut values = Map::new();
    values.insert("added_ns".to_owned(), base.map(|base| time(rates) - time(base)).into());
    values.insert("mpps".to_owned(), rates.median().into());
    values.insert("spread".to_owned(), rates.spread().into());
    values.insert("ratio_to_bare".to_owned(), ratios.as_ref().map(Samples::median).into());
    values.insert("ratio_spread".to_owned(), ratios.as_ref().map(Samples::spread).into());
    values
}

fn generator<'a>(cable: &'a Cable, headers: &Headers, random: Random) -> Result<Generator<'a>> {
    Generator::new(&cable.sender, &cable.veth.left, &cable.frame(headers)?, random)
}

/// A cable with mtd's receive program at its end.
struct Guarded {
    fleet: RefCell<Fleet>,
    /// The session whose addresses the attacker knows. It is one of the loaded ones.
    known: Session,
    cable: Cable,
}

impl Guarded {
    fn new(tag: &str, sessions: u32, horizon: Duration) -> Result<Self> {
        let cable = Cable::new(tag)?;
        let known = session(0, LASTING)?;
        let others = (1..sessions).map(|index| session(index, PERIOD));
        let all = [Ok(known.clone())].into_iter().chain(others).collect::<Result<_>>()?;
        Ok(Self { fleet: RefCell::new(Fleet::new(&cable, all, horizon)?), known, cable })
    }

    /// Millions of frames a second that are dropped, all for `reason`, with the slots loaded that a controller would load.
    fn rate(&self, generator: &Generator<'_>, sample: Duration, reason: DropReason) -> Result<f64> {
        let mut fleet = self.fleet.borrow_mut();
        fleet.keep_up()?;
        let counts = || -> Result<(u64, u64)> { Ok((self.cable.dropped()?, fleet.dropped(reason)?)) };
        let before = counts()?;
        let rate = rate(generator, sample, || self.cable.dropped())?;
        let after = counts()?;
        let (all, intended) = (after.0 - before.0, after.1 - before.1);
        ensure!(
            intended <= all && intended as f64 >= all as f64 * (1.0 - POSSIBLE),
            "{intended} of {all} dropped frames are counted as {}",
            reason.name()
        );
        Ok(rate)
    }
}

/// The live addresses and ports of a session, and the key of its sequence mask.
pub(crate) struct Known {
    headers: Headers,
    mask: [u8; 16],
    /// Session time in ns.
    pub(crate) time: u64,
}

impl Known {
    /// What an observer of the session knows now.
    ///
    /// # Errors
    /// When the clock cannot be read.
    pub(crate) fn of(session: &Session) -> Result<Self> {
        let time = boot_time()?;
        let (local, remote) = session.endpoints(slot::number(time, session.phase, session.period));
        let end = |end: mtd_common::address::Endpoint| (Ipv6Addr::from(end.address), end.port);
        let headers = Headers { source: end(remote), destination: end(local), mtd: [0; MTD] };
        Ok(Self { headers, mask: session.rx.0.mask, time })
    }

    /// The headers of a packet to the session, with this masked sequence number and tag.
    pub(crate) fn with(&self, mtd: [u8; MTD]) -> Headers {
        Headers { mtd, ..self.headers }
    }

    /// The headers of a packet with a sequence number that an honest peer could send now, and a wrong tag. The sequence
    /// number is masked accordingly.
    pub(crate) fn with_possible_sequence(&self) -> Headers {
        let tag = [0x5a5a_5a5a_5a5a_5a5a; 2];
        let masked = slot::sequence_seed(self.time) ^ siphash::hash16(&self.mask, tag);
        let mut mtd = [0x5a; MTD];
        mtd[..8].copy_from_slice(&masked.to_le_bytes());
        self.with(mtd)
    }
}

/// Makes nftables drop and count packets for the prefix in its ingress hook.
fn filter(cable: &Cable) -> Result<()> {
    let ifname = &cable.veth.right;
    // Without a program at this end, the driver accepts redirected frames only if GRO is on.
    cable.receiver.set_offload(ifname, "gro", true)?;
    let rules = format!(
        "add table netdev bench\n\
         add chain netdev bench ingress {{ type filter hook ingress device \"{ifname}\" priority 0; }}\n\
         add rule netdev bench ingress ip6 daddr {PREFIX}/64 counter drop\n"
    );
    let mut nft = cable.receiver.command("nft")?;
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().context(NO_NFT)?;
    nft.stdin.take().context("no standard input")?.write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refuses: {rules}");
    Ok(())
}

/// How many packets nftables has dropped.
fn filter_count(netns: &Netns) -> Result<u64> {
    let output = netns.command("nft")?.args(["-j", "list", "table", "netdev", "bench"]).output();
    let list: Value =
        serde_json::from_slice(&output.context(NO_NFT)?.stdout).context("nft printed no JSON")?;
    let objects = list["nftables"].as_array().into_iter().flatten();
    let mut expressions = objects.filter_map(|object| object.pointer("/rule/expr")?.as_array()).flatten();
    let count = expressions.find_map(|expression| expression.pointer("/counter/packets")?.as_u64());
    count.with_context(|| format!("no counter in {list}"))
}

const NO_NFT: &str = "could not start nft: `cargo xtask setup` installs it";
