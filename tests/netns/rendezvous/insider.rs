//! A registered client that misuses its knowledge. The key of a window's introduction is the same for all clients, so that
//! each can open the packets that others send to it, and can send packets that pass the receive program.

use std::net::Ipv6Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use mtd::proto::packet::{self, Path};
use mtd::proto::rendezvous::{Introduction, Shared, window_start};
use mtd::proto::session::{Ends, Session};
use mtd::rendezvous::{DhtConfig, FetchOptions, Fetcher, MainlineStore};
use mtd_common::address::{End, Network};
use mtd_common::slot;
use mtd_tests::packet::{ETHERNET_LEN, Outer};

use super::world::{Who, World};

/// The introduction of one window, as a client knows it.
#[derive(Debug)]
pub(super) struct Insider {
    introduction: Introduction,
    window: u64,
    network: Network,
}

impl Insider {
    /// Fetches a registered client's introduction of the present window from the DHT.
    pub(super) fn learn(world: &mut World, who: Who) -> Result<Self> {
        let window_length = world.window()?.as_secs();
        let window = window_start(world.now()? / 1_000_000_000, window_length);
        let (server, bootstrap) = (world.public(Who::Server), world.extra.dht.bootstrap());
        let own = world.setup_mut(who).identity.clone();
        let shared = Shared::new(&own, &server).context("a weak key")?;
        let rendezvous = shared.rendezvous(&server, &own.public(), window);
        let fetch = || -> Result<Introduction> {
            let store = MainlineStore::new(DhtConfig { bootstrap, ..DhtConfig::default() });
            let fetcher = Fetcher::new(Arc::new(store), FetchOptions::default());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(fetcher.fetch(&[rendezvous]))?.introduction)
        };
        let introduction = world.netns(who).enter(fetch)?.context("the introduction")?;
        let prefix = world.host(who).prefix;
        let network = Network { prefix: prefix.network().octets(), length: prefix.prefix_len() };
        Ok(Self { introduction, window, network })
    }

    /// The introduction that the server has published.
    pub(super) const fn introduction(&self) -> &Introduction {
        &self.introduction
    }

    /// The introduction's slot at a time in ns.
    pub(super) fn slot(&self, time: u64) -> u64 {
        slot::number(time, 0, self.introduction.slot.as_nanos() as u64)
    }

    /// The server's address and port for introductions in a slot.
    pub(super) fn target(&self, slot: u64) -> (Ipv6Addr, u16) {
        let (_, server) = self.session([0; 8]).endpoints(slot);
        (server.address.into(), server.port)
    }

    /// The control message in a packet that another client has sent to the server in a slot.
    pub(super) fn open(&self, frame: &[u8], slot: u64) -> Result<Vec<u8>> {
        let length = Outer::parse(frame).context("no packet of mtd's")?.payload.len() + 48;
        let packet = &frame[ETHERNET_LEN..][..length];
        let session = Session::introduction(self.server(), self.key(), self.window, self.period());
        let (_, inner) = packet::open(&session, slot as u32, packet)
            .map_err(|reason| anyhow::anyhow!("the request does not open: {}", reason.name()))?;
        Ok(packet::control_message(&inner).context("no control message")?.to_vec())
    }

    /// A packet with any message, from an address of the client's own prefix, that passes the receive program.
    pub(super) fn seal(&self, slot: u64, message: &[u8]) -> Result<Vec<u8>> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
        let [seed, sequence] = [&random[..8], &random[8..]].map(|half| half.try_into().expect("8 bytes"));
        let session = self.session(seed);
        let (local, remote) = session.endpoints(slot);
        let inner = packet::control(local.address, remote.address, message);
        packet::seal(&session, &Path { slot, local, remote }, u64::from_ne_bytes(sequence), &inner)
            .context("too long a message")
    }

    fn session(&self, seed: [u8; 8]) -> Session {
        let local = End { network: self.network, seed };
        Session::to_introduction(
            Ends { local, remote: self.server() },
            self.key(),
            self.window,
            self.period(),
        )
    }

    fn server(&self) -> End {
        End { network: self.introduction.network, seed: self.introduction.seed }
    }

    fn key(&self) -> &[u8; 32] {
        self.introduction.key.as_bytes()
    }

    fn period(&self) -> u64 {
        self.introduction.slot.as_nanos() as u64
    }
}
