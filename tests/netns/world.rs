//! A network with a controller on each host: the operations that all scenarios need. Whatever differs between kinds of
//! worlds is a parameter: the names of the hosts, their configurations, and further parts.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use mtd::status::Status;
use mtd_tests::controller::{Controller, Setup};
use mtd_tests::netns::Netns;
use mtd_tests::rendezvous::Member;
use mtd_tests::topology::{Host, Topology};
use mtd_tests::traffic::Load;

use crate::sessions::SESSION_REASONS;

/// The name of a host. Controllers start in the order of these names.
pub(crate) trait Name: Copy + Debug + Ord {
    /// The host with which every other one has a session.
    const SERVER: Self;

    /// The host of this name.
    fn host(self, topology: &Topology) -> &Host;
}

/// The configuration of a host.
pub(crate) trait Configuration {
    /// Starts a controller with this configuration, and waits until it is ready.
    fn start(&self, netns: &Netns) -> Result<Controller>;
}

impl Configuration for Setup {
    fn start(&self, netns: &Netns) -> Result<Controller> {
        self.start(netns)
    }
}

impl Configuration for Member {
    fn start(&self, netns: &Netns) -> Result<Controller> {
        self.start(netns)
    }
}

/// The IP version of inner packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    V4,
    V6,
}

impl Inner {
    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

#[derive(Debug)]
struct Side<C> {
    setup: C,
    controller: Option<Controller>,
}

/// Network, configurations, controllers. Dropping this stops the controllers. Whatever a killed controller left behind is
/// removed together with the namespaces.
#[derive(Debug)]
pub(crate) struct World<N, C, E = ()> {
    sides: BTreeMap<N, Side<C>>,
    /// The further parts of this kind of world.
    pub(crate) extra: E,
    // Dropped after the controllers.
    topology: Topology,
}

impl<N: Name, C: Configuration, E> World<N, C, E> {
    /// A world in which no controller is running yet.
    pub(crate) fn with_hosts(topology: Topology, hosts: impl IntoIterator<Item = (N, C)>, extra: E) -> Self {
        let side = |(name, setup)| (name, Side { setup, controller: None });
        Self { sides: hosts.into_iter().map(side).collect(), extra, topology }
    }

    /// The hosts, in the order in which their controllers start.
    pub(crate) fn hosts(&self) -> Vec<N> {
        self.sides.keys().copied().collect()
    }

    /// All hosts except the server.
    pub(crate) fn clients(&self) -> Vec<N> {
        self.hosts().into_iter().filter(|name| *name != N::SERVER).collect()
    }

    /// The network.
    pub(crate) const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A host.
    pub(crate) fn host(&self, name: N) -> &Host {
        name.host(&self.topology)
    }

    /// The namespace of a host.
    pub(crate) fn netns(&self, name: N) -> &Netns {
        &self.host(name).netns
    }

    /// The configuration of a host.
    pub(crate) fn setup(&self, name: N) -> &C {
        &self.sides[&name].setup
    }

    /// The configuration of a host, to be changed before its controller starts.
    pub(crate) fn setup_mut(&mut self, name: N) -> &mut C {
        &mut self.side(name).setup
    }

    /// Starts a controller, for the first time or again, and waits until it is ready.
    pub(crate) fn start(&mut self, name: N) -> Result<()> {
        let controller = self.setup(name).start(self.netns(name)).with_context(|| format!("{name:?}"))?;
        self.side(name).controller = Some(controller);
        Ok(())
    }

    /// Starts all controllers.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        self.hosts().into_iter().try_for_each(|name| self.start(name))
    }

    /// Kills a controller with SIGKILL.
    pub(crate) fn kill(&mut self, name: N) -> Result<()> {
        self.controller_mut(name)?.process.kill().map(drop)
    }

    /// Stops a controller as an operator would.
    pub(crate) fn stop(&mut self, name: N) -> Result<()> {
        self.controller_mut(name)?.stop().map(drop)
    }

    /// The controller of a host, which was started.
    pub(crate) fn controller(&self, name: N) -> Result<&Controller> {
        self.sides[&name].controller.as_ref().with_context(|| format!("{name:?} was not started"))
    }

    /// The document that `mtd status --json` prints on a host.
    pub(crate) fn status(&self, name: N) -> Result<Status> {
        self.controller(name)?.status(self.netns(name)).with_context(|| format!("status of {name:?}"))
    }

    /// The status and log of every controller, for messages.
    pub(crate) fn explain(&self) -> String {
        let one = |(name, side): (&N, &Side<C>)| {
            let log = side.controller.as_ref().map_or_else(String::new, |it| it.process.log());
            format!("--- {name:?}: {:#?}\n{log}", self.status(*name))
        };
        self.sides.iter().map(one).collect()
    }

    /// What a controller has dropped for reasons that do not occur between two correct ends.
    pub(crate) fn session_drops(&self, name: N) -> Result<BTreeMap<String, u64>> {
        let drops = self.status(name)?.drops;
        Ok(drops.into_iter().filter(|(reason, _)| SESSION_REASONS.contains(&reason.as_str())).collect())
    }

    /// Fails if one of these controllers has counted a drop for a reason that does not occur between two correct ends.
    pub(crate) fn require_no_session_drops(&self, hosts: &[N]) -> Result<()> {
        for name in hosts {
            let drops = self.session_drops(*name)?;
            if !drops.is_empty() {
                let events = self.controller(*name)?.command(self.netns(*name), &["events"])?;
                bail!("{name:?} dropped: {drops:?}\n{}", String::from_utf8_lossy(&events.stdout));
            }
        }
        Ok(())
    }

    /// Starts traffic between a client and the server, whose tunnel addresses `address` returns. TCP and the stream to the
    /// server use one IP version, the stream back uses the other.
    pub(crate) fn load_between(
        &self,
        client: N,
        inner: Inner,
        address: impl Fn(N, Inner) -> Result<IpAddr>,
    ) -> Result<Load> {
        let (to_server, to_client) = (address(N::SERVER, inner)?, address(client, inner.other())?);
        Load::start((self.netns(client), to_client), (self.netns(N::SERVER), to_server))
    }

    fn side(&mut self, name: N) -> &mut Side<C> {
        self.sides.get_mut(&name).expect("a host of this network")
    }

    fn controller_mut(&mut self, name: N) -> Result<&mut Controller> {
        self.side(name).controller.as_mut().with_context(|| format!("{name:?} was not started"))
    }
}
